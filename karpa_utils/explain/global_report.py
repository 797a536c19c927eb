"""One HTML page about a whole classifier, for a reader who does not program.

`report` writes it. Its measures are built by hand, and shown to fail, in
interpretability/global_report.
"""

from __future__ import annotations

import copy
import io
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise, product, zip_longest
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from karpa_utils import plots
from karpa_utils.errors import BadInput
from karpa_utils.explain.attribution import ROWS, _check_classifier, _last_convolution, patch_grid

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>:root{{color-scheme:light
dark}}body{{font:1rem/1.5 system-ui,sans-serif;max-width:52rem;margin:auto;padding:0 1rem}}th,td{{
padding:.2rem .9rem .2rem 0;text-align:left;vertical-align:top}}caption{{
text-align:left;font-weight:bold;padding-top:1em}}.wide{{overflow-x:auto}}
.row{{display:flex;flex-wrap:wrap;gap:1rem}}figure{{margin:1em 0}}.row figure{{margin:0;width:8em}}
.row img{{width:100%;image-rendering:pixelated}}img{{max-width:100%}}</style></head><body><main>
<h1>{title}</h1><h2>In short</h2><ul>{summary}</ul>{body}<h2>What this report cannot tell</h2><ul>
<li>It describes answers, not causes: changing in the world what the model leans on need not change
anything.</li><li>It knows only the cases it was given. A habit that all of them share, such as a
mark on every picture of one class, can go unseen.</li><li>Its intervals are for other cases of the
same kind, not for other places or times, nor for the model trained again.</li><li>It looks at one
feature, region or group at a time.</li><li>It does not know what a wrong answer costs, or
whom.</li></ul><h2>How it was made</h2><p>{made}</p></main></body></html>"""


def report(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    path: str | Path,
    *,
    train: tuple[Tensor, Tensor] | None = None,
    # the training data: adds influential examples
    classes: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    slices: Mapping[str, Sequence] | None = None,
    # name -> one value a case; default: thirds of the three leading features
    concepts: Mapping[str, Tensor] | None = None,
    # name -> inputs (n, ...) that share it: adds the test of concepts
    layer: nn.Module | None = None,
    # where concepts are looked for; default: the last convolution
    target: int = -1,
    # the class whose probability is followed
    noun: str = "cases",
    title: str = "What this model does",
    seed: int = 0,
) -> Path:
    """Write one self-contained HTML page on how a classifier behaves; return its path.

    model: X (N, M) or (N, C, H, W) -> logits (N, classes); it stays as it is. data: (X, y) that it
    was not trained on; images in [0, 1]. Always there: performance by class and group, calibration,
    permutation importance (of features, or of up to 16 regions), prototypes, criticisms, the most
    wrong, the least sure. Features add partial dependence with ALE, and a surrogate tree (images:
    of the slices, if given); `concepts` their test; `train`, for logits that leave an nn.Linear,
    influence: TracIn by that layer at the end of training alone. The same seed gives the same
    file. It is written under another name first, so that a failure leaves an old one whole.
    Raises BadInput for input it cannot use and a path it cannot write. Sources: the chapter.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        part.touch()  # a path that cannot be written is refused before the work
    except OSError as error:
        raise BadInput(f"The report cannot be written to {path}: {error.strerror}.") from None
    f = SimpleNamespace(noun=noun, seed=seed, concepts=concepts or {}, slices=slices, train=train)
    try:
        f.model, f.layer = copy.deepcopy((model, layer))
        _measure(f, data, classes, features, target)
        with mpl.rc_context({"text.parse_math": False}):
            plots.use_style()
            found = [section for make in SECTIONS if (section := make(f))]
        part.write_text(_page(f, title, found), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _measure(f: SimpleNamespace, data, classes, features, target: int) -> None:
    """Check what was given, and put it into f with the model's answers."""
    for name, pair in [*([("train", f.train)] if f.train else []), ("data", data)]:
        X, y = (torch.as_tensor(part) for part in pair)
        if X.ndim not in (2, 4) or y.ndim != 1 or len(X) != len(y) or len(X) < 2:
            shapes = f"{tuple(X.shape)} and {tuple(y.shape)}"
            raise BadInput(f"{name} must be X (N, M) or (N, C, H, W) with N labels, not {shapes}.")
        if X.shape[1:] != data[0].shape[1:]:
            shapes = f"{tuple(X.shape[1:])}, not {tuple(data[0].shape[1:])}"
            raise BadInput(f"The cases of train must have the shape of those of data: {shapes}.")
        if not X.isfinite().all():
            raise BadInput(f"{name} has numbers that are not finite: drop those rows.")
        if X.ndim == 4 and (X.min() < 0 or X.max() > 1):
            raise BadInput(
                f"The images of {name} must lie in [0, 1]: put the scaling in the model."
            )
    for name, Z in f.concepts.items():
        if Z.shape[1:] != X.shape[1:] or not len(Z) or not Z.isfinite().all():
            raise BadInput(
                f"The concept {name!r} must be finite inputs of the shape of data's cases."
            )
    f.model.eval()
    f.X, f.images = X.detach().cpu().float(), X.ndim == 4
    try:
        logits, f.hidden = answers(f.model, f.X, y)
    except (RuntimeError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"The model cannot answer cases of data: {reason}") from error
    f.y, count = y.cpu().long(), logits.shape[1]
    f.ask, f.p = (lambda X: answers(f.model, X)[0].softmax(1)), logits.softmax(1)
    given = {f"The slice {name!r}": (v, len(X)) for name, v in (f.slices or {}).items()}
    given |= {"classes": (classes, count)}
    given |= {"features": (None if f.images else features, X.shape[1])}
    for name, (values, wanted) in given.items():
        if values is not None and len(values) != wanted:
            raise BadInput(f"{name} must have {wanted} entries, not {len(values)}.")
    if not -count <= target < count:
        raise BadInput(f"target must be a class from 0 to {count - 1}, not {target}.")
    named = (f"class {c}" for c in range(count)) if classes is None else map(str, classes)
    f.classes, f.target = list(named), range(count)[target]
    f.sure, f.called = f.p.max(1)
    f.right = f.called == f.y
    if f.images:
        side = -(-max(X.shape[2:]) // 4)
        patch = patch_grid(*X.shape[2:], side).expand(X.shape[1:])
        f.columns = -(-X.shape[3] // side)
        parts = [(patch.flatten() == c).nonzero().flatten().tolist() for c in patch.unique()]
        places = (divmod(i, f.columns) for i in range(len(parts)))
        f.features = [f"row {row + 1}, column {column + 1}" for row, column in places]
        f.twins = [[i] for i in range(len(parts))]
    else:
        parts = [[i] for i in range(X.shape[1])]
        named = (f"feature {i}" for i in range(len(parts))) if features is None else features
        f.features = [str(name) for name in named]
        alike = torch.corrcoef(f.X.T).view(len(parts), -1).nan_to_num().abs() > 0.9
        f.twins = [row.nonzero().flatten().tolist() for row in alike | torch.eye(len(parts)).bool()]
    f.alone = importance(f.ask, f.X, f.y, parts, seed=f.seed)  # (G, 3)
    single = all(len(twins) == 1 for twins in f.twins)
    f.joint = f.alone if single else importance(f.ask, f.X, f.y, f.twins, seed=f.seed)
    f.leading = []  # one of each family, the family that costs most first
    for i in f.joint[:, 0].argsort(descending=True, stable=True).tolist():
        f.leading += [i] if not any(i in f.twins[j] for j in f.leading) else []
    if f.slices is None:
        f.slices = {} if f.images else {f.features[i]: _thirds(f.X[:, i]) for i in f.leading[:3]}
    f.slices = {name: np.array([str(v) for v in values]) for name, values in f.slices.items()}


def _thirds(x: Tensor) -> list[str]:
    """Return the third of its values that each of x (N,) lies in, by the numbers that bound it."""
    low, high = (f"{cut:.3g}" for cut in x.quantile(torch.tensor([1 / 3, 2 / 3])).tolist())
    names = np.array([f"up to {low}", f"{low} to {high}", f"above {high}"])
    return names[(x[:, None] > torch.tensor([float(low), float(high)])).sum(1)].tolist()


def answers(model: nn.Module, X: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Return logits (N, classes), and what enters the nn.Linear that they leave, (N, d), or None.

    Where that layer has a bias, a 1 is appended: its gradient is an outer product with this.
    """
    y = torch.zeros(len(X), dtype=torch.long) if y is None else y
    place = next(model.parameters(), X)  # its device and its precision
    seen, logits, hidden = [], [], []
    hooks = [
        layer.register_forward_hook(lambda layer, x, out: seen.append((layer, x, out)))
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
    ]
    for some, labels in zip(X.split(ROWS), y.split(ROWS), strict=True):
        seen.clear()
        logits.append(_check_classifier(model, some.to(place), labels.to(place.device)))
        for layer, x, out in seen:
            if out is logits[-1] and x:
                hidden.append(F.pad(x[0], (0, int(layer.bias is not None)), value=1.0))
    for hook in hooks:
        hook.remove()
    found = torch.cat(logits).detach().float().cpu()
    if not found.isfinite().all():
        raise BadInput("The model returned numbers that are not finite.")
    return found, torch.cat(hidden).detach().float().cpu() if hidden else None


def importance(ask, X: Tensor, y: Tensor, parts: Sequence, repeats: int = 3, seed: int = 0):
    """Return mean, low and high of what the right class's probability loses, in points, (G, 3).

    Each part, a list of indices into a case's numbers, is exchanged with another case's. ask:
    X -> probabilities (N, classes). The interval of 95 % counts a case as receiver and as giver.
    """
    flat, rows = X.flatten(1), torch.arange(len(X))
    generator = torch.Generator().manual_seed(seed)
    rings = [torch.randperm(len(X), generator=generator) for _ in range(repeats)]
    orders = [ring.roll(1)[ring.argsort()] for ring in rings]  # no case gives to itself
    before, found = ask(X)[rows, y], []
    for part in parts:
        received, gave = torch.zeros(2, len(X))
        for order in orders:
            moved = flat.clone()
            moved[:, part] = flat[:, part][order]
            lost = 100 * (before - ask(moved.view_as(X))[rows, y]) / repeats
            received, gave = received + lost, gave.index_add(0, order, lost)
        half = 1.96 * (received + gave).std() / len(X) ** 0.5
        found.append(received.mean() + torch.stack([0 * half, -half, half]))
    return torch.stack(found)


def effects(ask, X: Tensor, column: int, bins: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Return edges (K,), partial dependence and ALE of ask: X (N, M) -> (N,), both of mean 0."""

    def at(value: Tensor) -> Tensor:
        return ask(X.index_copy(1, torch.tensor([column]), value.expand(len(X))[:, None]))

    shares = torch.linspace(0, 1, bins + 1, dtype=X.dtype)
    edges = X[:, column].quantile(shares, interpolation="nearest").unique()  # no bin is empty
    edges = torch.cat([edges, edges[:1]]) if len(edges) == 1 else edges  # a constant feature
    place = torch.bucketize(X[:, column].contiguous(), edges[1:-1])  # (N,) 0 to K - 2
    step, count = at(edges[place + 1]) - at(edges[place]), place.bincount()  # (N,), (K - 1,)
    local = torch.zeros(len(count), dtype=step.dtype).index_add(0, place, step) / count
    ale, ends = F.pad(local.cumsum(0), (1, 0)), torch.stack([place, place + 1])
    dependence = torch.stack([at(edge).mean() for edge in edges])
    return edges, dependence - dependence[ends].mean(), ale - ale[ends].mean()


def critics(H: Tensor, prototypes: int, criticisms: int) -> tuple[list[int], list[int]]:
    """Return the rows of H (N, d) that stand for all, greedily by MMD, and those they miss."""
    apart = torch.cdist(H, H).square()
    K = (-apart / apart[apart > 0].median().nan_to_num(1.0)).exp()
    chosen: list[int] = []
    for m in range(1, min(prototypes, len(H)) + 1):
        gain = 2 * K.mean(0) / m - (2 * K[chosen].sum(0) + K.diagonal()) / m**2
        gain[chosen] = -torch.inf
        chosen.append(int(gain.argmax()))
    missed = (K.mean(0) - K[chosen].mean(0)).abs()
    missed[chosen] = -1
    order = missed.argsort(descending=True, stable=True).tolist()
    return chosen, order[: len(H) - len(chosen)][:criticisms]


def concept_test(gradient, concept, pool, draws: int = 40, seed: int = 0) -> tuple[float, float]:
    """Return the TCAV score of a concept, and the rank of its mean slope among random ones as p.

    gradient (n, d): of a class's logit at a layer, for images of the class; concept (m, d), pool
    (P, d): the layer's activations of images with the concept, and of any images.
    """
    draw, m = torch.Generator().manual_seed(seed), min(len(concept), len(pool) // 2)

    def slope(examples: Tensor, others: Tensor) -> Tensor:
        found = torch.zeros(len(gradient))
        for _ in range(5):
            H = torch.cat([examples, others[torch.randperm(len(others), generator=draw)[:m]]])
            H, t = H - H.mean(0), torch.ones(len(H)).index_fill(0, torch.arange(m, len(H)), -1)
            K = H @ H.T
            v = H.T @ torch.linalg.solve(
                K + K.diagonal().mean().clamp_min(1e-12) * torch.eye(len(K)), t
            )
            found += gradient @ F.normalize(v, dim=0) / 5
        return found

    asked, random = slope(concept[:m], pool), []
    for _ in range(draws):
        order = torch.randperm(len(pool), generator=draw)
        random.append(slope(pool[order[:m]], pool[order[m:]]).mean().abs())
    larger = sum(value >= asked.mean().abs() for value in random)
    return (asked > 0).float().mean().item(), (1 + int(larger)) / (1 + draws)


# --- the page: a section is (heading, sentences for the summary, HTML), or None ------------------


def _share(hits: Tensor, level: float = 0.95) -> tuple[str, float]:
    """Return how many of 100 are True, with Wilson's interval, and the interval's upper end."""
    from scipy.stats import binomtest  # here: it takes half a second

    if not len(hits):
        return "no such case", 1.0
    test = binomtest(int(hits.sum()), len(hits))
    low, high = test.proportion_ci(level, method="wilson")
    return f"{_count(hits.float().mean())} ({100 * low:.0f} to {100 * high:.0f})", high


def _count(share: Tensor) -> str:
    """Return a share as a number of 100; nearly none and nearly all are not none and all."""
    near = 0 < share < 0.005 or 0.995 <= share < 1
    return f"{100 * share:.1f}" if near else f"{100 * share:.0f}"


def _points(row: Tensor) -> str:
    return "{:.1f} ({:.1f} to {:.1f})".format(*row.tolist())


def _performance(f):
    kinds = [(name, f.right[f.y == c], f.right[f.called == c]) for c, name in enumerate(f.classes)]
    rows = [(n, len(real), _share(real)[0], len(so), _share(so)[0]) for n, real, so in kinds]
    name, _, found, _, meant = rows[f.target]
    text = f"""Of 100 {f.noun}, {_share(f.right)[0]} are answered rightly; always naming the most
    frequent class would be right for {100 * f.y.bincount().max() / len(f.y):.0f}. Of 100 that the
    model calls {name}, so many are: {meant}. Of 100 that are {name}, it finds: {found}. In
    brackets, here and below: the interval of 95 %."""
    groups, usual = {}, {}  # what is usual: in all cases, or in all of the class
    for slice_, values in f.slices.items():
        for v, c in product(sorted(set(values)), (None, *range(len(f.classes)))):
            among = f.y >= 0 if c is None else f.y == c
            hits = f.right[among & torch.tensor(values == v)]
            if len(hits) > 9:
                name = f"{slice_}: {v}" + ("" if c is None else f", really {f.classes[c]}")
                groups[name], usual[name] = hits, f.right[among].float().mean()
    level = 1 - 0.05 / max(1, len(groups))  # the worst of many looks bad by chance
    below = {g: float(usual[g] - _share(hits, level)[1]) for g, hits in groups.items()}
    worst = sorted(groups, key=below.get, reverse=True)[:8]
    signs = ["yes" if below[g] > 0 else "no" for g in worst]
    shares = [_share(groups[g], level)[0] for g in worst]
    weak = [(g, len(groups[g]), *row) for g, *row in zip(worst, shares, signs, strict=True)]
    if "yes" in signs:
        text += f" It is weakest for «{worst[0]}»: of 100, {shares[0]} are answered rightly."
    html = _table("By class", "class|number|of 100, found|called so|of 100 called so, are", rows)
    if weak:
        caption = f"""Weakest of {len(groups)} groups, compared with all cases, or with all of their
        class. The intervals are wider here: among so many groups, one would look bad by chance"""
        html += _table(caption, "group|number|of 100, right|weaker beyond chance", weak)
    return "How often is it right?", text, html


def _calibration(f):
    rows = []
    for low, high in pairwise((0, 60, 80, 90, 97, 101)):
        inside = (100 * f.sure >= low) & (100 * f.sure < high)
        said = f"{100 * f.sure[inside].mean():.0f}" if inside.any() else "none"
        label = f"{low} to {min(high, 100)} %"
        rows.append((label, int(inside.sum()), said, _share(f.right[inside])[0]))
    text = f"""On average it says that it is {100 * f.sure.mean():.0f} % sure, and it is right for
    {_share(f.right)[0]} of 100."""
    head = "it says it is sure|number|of 100, should be right|of 100, are right"
    return "Can its certainty be trusted?", text, _table("Said and real", head, rows)


def _leaning(f):
    one, two = (f.leading * 2)[:2]
    rows = []
    for i in f.leading[:10]:
        others = ", ".join(f.features[j] for j in f.twins[i] if j != i) or "none"
        rows.append((f.features[i], _points(f.joint[i]), _points(f.alone[i]), others))
    twins = f" together with its twins ({rows[0][3]})" if rows[0][3] != "none" else ""
    twins = " of the picture" if f.images else twins
    text = f"""It leans most on «{f.features[one]}»{twins}: exchanging that with another case's
    takes {rows[0][1]} points from the probability of the right answer."""
    if one != two:
        text += f" «{f.features[two]}» is next with {_points(f.joint[two])}."
    if not (f.joint[:, 1] > 0).any():
        text = "Exchanging any one thing changes its answers no more than chance would."
    elif one != two and all(f.joint[one, 1] > f.joint[i, 2] for i in f.leading[1:]):
        text += " This stands out from all others: ask whether it should decide so much."
    fig, top = Figure(figsize=(6.5, 3.8)), f.leading[9::-1]
    left, ax = fig.subplots(1, 2) if f.images else (None, fig.subplots())
    mean, low, high = f.joint[top].T
    ax.errorbar(mean, range(len(top)), xerr=torch.stack([mean - low, high - mean]), fmt="o")
    ax.set_yticks(range(len(top)), [f.features[i] for i in top])
    ax.set(xlabel="points lost (95 % interval)")
    if f.images:
        grid = f.joint[:, 0].view(-1, f.columns).numpy()
        left.imshow(grid, cmap="Greys", vmin=0, vmax=max(1, 2 * grid.max()))
        for (row, column), value in np.ndenumerate(grid):
            left.text(column, row, f"{value:.0f}", ha="center", va="center")
        for axis, count in zip((left.yaxis, left.xaxis), grid.shape, strict=True):
            axis.set_ticks(range(count), range(1, count + 1))
        left.set(title="points lost by region", xlabel="column", ylabel="row")
        left.grid(visible=False)
    html = _figure(fig, "Points lost. " + "; ".join(f"{row[0]}: {row[1]}" for row in rows))
    if f.images:
        html = f"<p>Each picture is cut into {len(f.twins)} regions; row 1 is on top.</p>{html}"
    else:
        html += """<p>Features that move together (twins) stand in for each other. Exchanged alone,
        each looks less important than it is, and the model is asked about impossible cases.</p>"""
        html += _table("Points lost", "feature|with its twins|alone|its twins", rows)
    return "What does it lean on?", text, html


def _curves(f):
    if f.images:
        return None
    fig, alt, name = Figure(figsize=(6.5, 5.5)), [], escape(f.classes[f.target])
    for ax, i in zip_longest(fig.subplots(2, 2).flat, f.leading[:4]):
        if i is None:
            ax.remove()
            continue
        edges, average, local = effects(lambda X: 100 * f.ask(X)[:, f.target], f.X, i)
        ax.plot(edges, local)
        ax.plot(edges, average, "--")
        ax.set(xlabel=f.features[i], ylabel=f"points for {f.classes[f.target]}")
        alt.append(f"{f.features[i]}: from {local[0]:.0f} to {local[-1]:.0f} points")
    html = f"""<p>How the probability of {name} changes along leading features. Solid (ALE): by
    small steps among cases that exist. Dashed (partial dependence): when every case is given
    every value, so that where the lines part it speaks of cases that do not exist. Both move one
    feature alone, without its twins: what the family does is in the section before.</p>"""
    return "Which way do features push?", "", html + _figure(fig, "; ".join(alt))


def _tree(f):
    from sklearn.tree import DecisionTreeClassifier, export_text

    names, Z = f.features, f.X
    if f.images:
        named = {f"{k}: {v}": s == v for k, s in f.slices.items() for v in sorted(set(s))}
        if not named:
            return None
        names, Z = list(named), torch.tensor(np.array(list(named.values()))).T
    fit = torch.randperm(len(f.y), generator=torch.Generator().manual_seed(f.seed)) < len(f.y) / 2
    tree = DecisionTreeClassifier(max_depth=3, random_state=0).fit(Z[fit], f.called[fit])
    same = torch.tensor(tree.predict(Z[~fit])) == f.called[~fit]
    called = [f.classes[c] for c in tree.classes_]
    rules = f"It always answers {called[0]}."
    if len(called) > 1:  # of one class, export_text does not know the name
        rules = export_text(tree, feature_names=names, class_names=called, decimals=4)
    text = f"""A tree of at most three questions gives the model's own answer for {_share(same)[0]}
    of 100 {f.noun}; its most frequent answer would for
    {100 * f.called[~fit].bincount().max() / len(same):.0f}."""
    html = f"""<p>It was fitted to the answers for one half of the cases and compared on the other.
    It copies answers; it need not use what the model uses.</p>
    <pre class="wide" tabindex="0">{escape(rules)}</pre>"""
    return "Can three questions copy it?", text, html


def _concepts(f):
    if not f.concepts:
        return None
    kept: list[Tensor] = []
    layer = f.layer or _last_convolution(f.model)
    hook = layer.register_forward_hook(lambda _, x, out: kept.append(out))
    order = torch.randperm(len(f.X), generator=torch.Generator().manual_seed(f.seed))

    def inside(X: Tensor, c: int | None = None) -> Tensor:
        kept.clear()
        logits = f.model(X[:ROWS].to(next(f.model.parameters(), X)).requires_grad_())
        if not kept or not isinstance(kept[0], Tensor):
            raise BadInput("layer must be a module that the model calls and that returns a tensor.")
        found = kept[0] if c is None else torch.autograd.grad(logits[:, c].sum(), kept[0])[0]
        return found.detach().flatten(1).float().cpu()

    rows, pool, y = [], inside(f.X[order]), f.y[order]
    for name, examples in f.concepts.items():
        for c in f.y.unique().tolist():
            gradient = inside(f.X[order][y == c], c)
            score, p = concept_test(gradient, inside(examples), pool, seed=f.seed)
            sign = "no" if p >= 0.05 else "for it" if score > 0.5 else "against it"
            rows.append((name, f.classes[c], f"{100 * score:.0f}", sign))
    hook.remove()
    matter = ", ".join(f"«{n}» {sign[:-3]} {c}" for n, c, _, sign in rows if sign != "no") or "none"
    text = f"""Concepts that count for more than random ones: {matter}. Chance alone would name
    about one in twenty of the {len(rows)} rows asked about."""
    head = "concept|class|of 100, pushed towards it|counts more than 40 random concepts"
    return "Do the concepts matter?", text, _table("Concepts", head, rows)


def _examples(f):
    html, H = "", f.p if f.hidden is None else f.hidden
    for c, name in enumerate(f.classes):
        rows = (f.called == c).nonzero().flatten()[:1000]
        if len(rows):
            typical, odd = (rows[part].tolist() for part in critics(H[rows], 4, 3))
            html += f"<h3>Called {escape(name)}: typical</h3>{_cases(f, typical)}"
            html += (
                f"<h3>Called {escape(name)}: what those four stand for least</h3>{_cases(f, odd)}"
            )
    return "What do its classes look like?", "", html


def _errors(f):
    wrong = (~f.right).nonzero().flatten()
    wrong = wrong[f.sure[wrong].argsort(descending=True, stable=True)][:6].tolist()
    html = f"<h3>Most wrong: wrong, and most sure of it</h3>{_cases(f, wrong)}"
    html += f"<h3>Least sure</h3>{_cases(f, f.sure.argsort(stable=True)[:6].tolist())}"
    if f.train and f.hidden is not None and wrong:
        X, y = (torch.as_tensor(part).detach().cpu() for part in f.train)
        logits, hidden = answers(f.model, X, y)
        miss = logits.softmax(1) - F.one_hot(y.long(), len(f.classes))  # (N, classes)
        html += """<h3>Training cases that pulled towards the first three</h3><p>By the last layer
        at the end of training alone: those on which the model errs pull most, often on all cases.
        Is their label right?</p>"""
        for i in wrong[:3]:
            own = f.p[i] - F.one_hot(f.y[i], len(f.classes))
            pull = (miss @ own) * (hidden @ f.hidden[i])  # (N,) TracIn; below 0: it hurt
            pulled = [row for row in pull.argsort(stable=True)[:3].tolist() if pull[row] < 0]
            html += _cases(f, pulled, (X, y), f" for case {i}")
    return "Where is it wrong, and where unsure?", "", html


SECTIONS = (_performance, _calibration, _leaning, _curves, _tree, _concepts, _examples, _errors)


def _table(caption: str, head: str, rows: Sequence[Sequence]) -> str:
    """Return a table that scrolls by itself. head: the columns' names, with | between."""
    cells = [[escape(str(cell)) for cell in row] for row in rows]
    body = "".join(
        f'<tr><th scope="row">{a}</th><td>{"</td><td>".join(b)}</td></tr>' for a, *b in cells
    )
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head.split("|"))
    return f"""<div class="wide" tabindex="0"><table><caption>{escape(caption)}</caption>
    <thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"""


def _figure(fig: Figure, alt: str) -> str:
    fig.savefig(file := io.BytesIO(), format="png", metadata={"Software": None})
    return f"<figure>{_img(file, alt)}</figure>"


def _img(file: io.BytesIO, alt: str) -> str:
    data = b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _cases(f, rows: list[int], train: tuple[Tensor, Tensor] | None = None, why: str = "") -> str:
    """Return cases as pictures, or as a table of their leading features."""
    html, cells, (X, y) = "", [], train or (f.X, f.y)
    for i in rows:
        text = f"{'training ' if train else ''}case {i}{why}: {f.classes[y[i]]}"
        if not train:
            text += f", called {f.classes[f.called[i]]}, {100 * f.sure[i]:.0f} % sure"
        if not f.images:
            cells.append((text, *(f"{x:.4g}" for x in X[i, f.leading[:4]])))
        else:
            shown, file = X[i].float(), io.BytesIO()
            shown = (shown.permute(1, 2, 0) if len(shown) == 3 else shown.mean(0)).numpy()
            mpl.image.imsave(file, shown, vmin=0, vmax=1, cmap="gray", metadata={"Software": None})
            html += f"<figure>{_img(file, text)}<figcaption>{escape(text)}</figcaption></figure>"
    head = "|".join(["case", *(f.features[j] for j in f.leading[:4])])
    tell = _table("Cases and leading features", head, cells) if rows else "<p>None.</p>"
    return f'<div class="row">{html}</div>' if html else tell


def _page(f, title: str, found: list[tuple[str, str, str]]) -> str:
    lines = [(head, escape(" ".join(text.split())), html) for head, text, html in found]
    body = "".join(f"<h2>{a}</h2>{f'<p>{b}</p>' if b else ''}{c}" for a, b, c in lines)
    first = sorted(lines, key=lambda line: "stands out" not in line[1])  # a warning comes first
    summary = "".join(f"<li>{text}</li>" for _, text, _ in first if text)
    made = f"""{len(f.X)} {f.noun} of {f.X[0].numel()} numbers, {len(f.train[0]) if f.train else 0}
    training cases, seed {f.seed}; torch {torch.__version__}, NumPy {np.__version__}."""
    return PAGE.format(title=escape(title), summary=summary, body=body, made=escape(made))
