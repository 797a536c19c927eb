"""The global report: its measures against closed forms and brute force, its page as a reader's."""

import copy
import itertools
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from browser import FLAGS, find_browser, sideways_scroll
from sklearn.inspection import partial_dependence
from sklearn.linear_model import LogisticRegression
from torch import nn

from karpa_utils import BadInput
from karpa_utils.explain.global_report import concept_test, critics, effects, importance, report


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tabular(n: int = 120) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """Return a model of five features, of which the first two count and are nearly one."""
    torch.manual_seed(0)
    X = draw(n, 5)
    X[:, 1] = X[:, 0] + 0.1 * X[:, 1]
    y = (X[:, 0] + X[:, 1] + 0.5 * draw(n, seed=1) > 0).long()
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[0, :2] = 1.0
        model[2].weight.zero_()
        model[2].weight[1, 0] = 3.0
    return model, (X, y)


class Corner(nn.Module):
    """Two classes, decided by the brightness of the upper left corner of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 4, stride=4)
        self.head = nn.Linear(32, 2)
        with torch.no_grad():
            for weight in (self.conv.weight, self.conv.bias, self.head.weight, self.head.bias):
                weight.zero_()
            self.conv.weight[0] = 1 / 16
            self.head.weight[1, 0] = 20.0
            self.head.bias[1] = -10.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).tanh().flatten(1))


def pictures(n: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    X = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    y = torch.arange(n) % 2
    X[:, :, :4, :4] = y.view(-1, 1, 1, 1) * 0.8 + 0.1
    return X, y


class Page(HTMLParser):
    """What the tests want to know of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, *names: str) -> list[dict]:
        return [attrs for tag, attrs in self.tags if tag in names]


# --- the measures --------------------------------------------------------------------------------


def test_importance_is_the_mean_over_all_pairs_of_cases():
    model, (X, y) = tabular(30)
    ask = lambda Z: model(Z).detach().softmax(1)  # noqa: E731
    before, rows = ask(X)[range(30), y], torch.arange(30)
    lost = []
    for giver in rows:
        moved = X.clone()
        moved[:, 0] = X[giver, 0]
        lost.append((100 * (before - ask(moved)[rows, y]))[rows != giver])
    found = importance(ask, X, y, [[0], [4]], repeats=800, seed=1)
    assert found[0, 0].item() == pytest.approx(torch.stack(lost).mean().item(), abs=0.6)
    assert found[1].tolist() == [0, 0, 0]


def test_importance_holds_its_interval():
    """In 200 samples from a population whose true value is taken from a large one."""
    ask = lambda Z: torch.stack([-Z.sum(1), Z.sum(1)], 1).softmax(1)  # noqa: E731

    def population(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        X = draw(n, 2, seed=seed)
        return X, (
            torch.rand(n, generator=torch.Generator().manual_seed(seed)) < ask(X)[:, 1]
        ).long()

    truth = importance(ask, *population(200_000, 1), [[0]])[0, 0]
    found = torch.stack([importance(ask, *population(80, 10 + s), [[0]])[0] for s in range(200)])
    mean, low, high = found.T
    assert ((low <= truth) & (truth <= high)).sum() >= 185  # of 200 at 95 %
    assert (high - low).mean() <= 2 * 1.96 * 1.5 * mean.std()  # and it is no wider than it needs


def test_effects_of_a_line_are_the_line():
    X = draw(300, 3)
    edges, dependence, ale = effects(lambda Z: 2 * Z[:, 1] - Z[:, 2], X, 1)
    assert torch.allclose(dependence, ale, atol=1e-4)
    slope = (ale[1:] - ale[:-1]) / (edges[1:] - edges[:-1])
    assert torch.allclose(slope, torch.tensor(2.0), atol=1e-3)


def test_ale_of_a_product_of_correlated_features_has_its_closed_form():
    X = draw(50_000, 2)
    X[:, 1] = 0.8 * X[:, 0] + 0.6 * X[:, 1]
    edges, dependence, ale = effects(lambda Z: Z[:, 0] * Z[:, 1], X, 0, bins=40)
    inner = edges.abs() < 2
    assert (ale - 0.4 * (edges**2 - 1))[inner].abs().max() < 0.1
    assert dependence[inner].abs().max() < 0.1


def test_partial_dependence_is_scikit_learns():
    X, y = draw(200, 3).numpy(), (draw(200, seed=1) > 0).numpy()
    fitted = LogisticRegression().fit(X, y)
    answer = lambda Z: torch.tensor(fitted.predict_proba(Z.numpy())[:, 1])  # noqa: E731
    edges, dependence, _ = effects(answer, torch.tensor(X), 0)
    asked = {"custom_values": {0: edges.numpy()}, "method": "brute"}
    theirs = partial_dependence(fitted, X, [0], response_method="predict_proba", **asked)
    gap = torch.tensor(theirs["average"][0]) - dependence
    assert (gap - gap.mean()).abs().max() < 1e-5


@pytest.mark.parametrize("n", [2, 5, 13, 60])
def test_effects_of_few_or_whole_numbers_are_finite(n):
    X = torch.randint(5, (n, 2), generator=torch.Generator().manual_seed(n)).float()
    edges, dependence, ale = effects(lambda Z: Z[:, 0], X, 0)
    assert torch.allclose(ale[1:] - ale[:-1], edges[1:] - edges[:-1], atol=1e-5)
    assert dependence.isfinite().all()


def test_effects_of_a_constant_feature_are_zero():
    X = torch.ones(20, 2)
    _, dependence, ale = effects(lambda Z: Z.sum(1), X, 0)
    assert not dependence.any() and not ale.any()


def test_prototypes_come_close_to_the_best_of_all():
    H = draw(16, 3)
    apart = torch.cdist(H, H) ** 2
    K = (-apart / apart[apart > 0].median()).exp()
    worth = lambda S: float(2 * K[:, S].mean() - K[S][:, S].mean())  # noqa: E731
    first = critics(H, 1, 0)[0]
    assert worth(first) == pytest.approx(max(worth([i]) for i in range(16)))
    best = max(worth(list(S)) for S in itertools.combinations(range(16), 3))
    assert worth(critics(H, 3, 0)[0]) >= (1 - 1 / math.e) * best


def test_criticisms_are_where_the_prototypes_misjudge_most():
    H = draw(12, 2)
    apart = [[float((a - b).square().sum()) for b in H] for a in H]
    scale = float(torch.tensor(apart)[torch.tensor(apart) > 0].median())
    k = lambda i, j: math.exp(-apart[i][j] / scale)  # noqa: E731
    typical, odd = critics(H, 2, 3)
    witness = {
        i: abs(sum(k(i, j) for j in range(12)) / 12 - sum(k(i, j) for j in typical) / 2)
        for i in range(12)
        if i not in typical
    }
    assert odd == sorted(witness, key=witness.get, reverse=True)[:3]


def test_few_cases_are_enough_for_prototypes():
    assert critics(torch.zeros(2, 3), 4, 3) == ([0, 1], [])
    assert critics(draw(1, 3), 4, 3) == ([0], [])


def test_a_planted_concept_counts_and_random_ones_rarely_do():
    pool, axis = draw(400, 30), F.normalize(draw(30, seed=1), dim=0)
    gradient = axis + 0.3 * draw(50, 30, seed=2)
    score, p = concept_test(gradient, draw(40, 30, seed=3) + 2 * axis, pool)
    assert score > 0.9 and p == pytest.approx(1 / 41)
    alarms = [concept_test(gradient, draw(40, 30, seed=s), pool)[1] < 0.05 for s in range(10, 30)]
    assert sum(alarms) <= 4  # of 20 at 5 %: more has a chance of 1 in 400


# --- the page ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    model, data = tabular()
    X, y = pictures()
    mark = {"corner": ["bright" if label else "dark" for label in y]}
    concepts = {"bright corner": X[y == 1][:20], "noise": X[20:40]}
    return {
        "tabular": report(
            model, data, folder / "tabular.html", train=data, classes=["no", "<b>yes</b>"]
        ),
        "images": report(
            Corner(), (X, y), folder / "images.html", train=(X, y), slices=mark, concepts=concepts
        ),
    }


@pytest.mark.parametrize("kind", ["tabular", "images"])
def test_page_is_one_file_that_loads_nothing(pages, kind):
    text = pages[kind].read_text(encoding="utf-8")
    page = Page(text)
    for attrs in page.of("img", "source", "iframe", "embed", "object", "video", "audio"):
        assert attrs["src"].startswith("data:image/png;base64,")
    assert not page.of("script", "link", "base", "object", "iframe")
    assert not re.search(r"url\(|@import|https?://", text)


@pytest.mark.parametrize("kind", ["tabular", "images"])
def test_page_is_readable_by_everybody(pages, kind):
    text = pages[kind].read_text(encoding="utf-8")
    page = Page(text)
    assert page.of("html") == [{"lang": "en"}] and page.of("title")
    assert all(attrs.get("alt") for attrs in page.of("img")) and page.of("img")
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.of("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert "color-scheme:light" in text and "<b>yes" not in text


def test_sections_are_there_when_they_can_be(pages):
    text = {kind: path.read_text(encoding="utf-8") for kind, path in pages.items()}
    for title in ("How often", "Can its certainty", "What does it lean", "What do its classes"):
        assert all(title in page for page in text.values())
    assert "Which way do features push" in text["tabular"]
    assert "Which way do features push" not in text["images"]
    assert "Do the concepts matter" in text["images"] and "corner: bright" in text["images"]
    assert "Do the concepts matter" not in text["tabular"]


def test_numbers_are_those_of_the_data(pages):
    model, (X, y) = tabular()
    called = model(X).argmax(1)
    text = pages["tabular"].read_text(encoding="utf-8")
    said = re.search(r"Of 100 cases, (\d+) \(", text)[1]
    assert int(said) == round(100 * (called == y).double().mean().item())
    calls = re.search(r"model calls &lt;b&gt;yes&lt;/b&gt;, so many are: (\d+) \(", text)[1]
    assert int(calls) == round(100 * (y[called == 1] == 1).double().mean().item())


def test_twins_are_exchanged_together(pages):
    text = pages["tabular"].read_text(encoding="utf-8")
    assert "leans most on «feature 0» together with its twins (feature 1)" in text


def test_the_deciding_region_is_named_and_nothing_else_is(pages, tmp_path):
    text = pages["images"].read_text(encoding="utf-8")
    assert "leans most on «row 1, column 1»" in text and "stands out" in text
    even = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    nn.init.constant_(even[1].weight[1], 0.05)
    noise = torch.rand(100, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    data = noise, pictures()[1]
    other = report(even, data, tmp_path / "even.html").read_text(encoding="utf-8")
    assert "stands out" not in other


def test_the_planted_concept_is_named(pages):
    text = pages["images"].read_text(encoding="utf-8")
    found = re.search(r"Concepts that count for more than random ones: ([^<]*)\.", text)[1]
    assert "«bright corner» for class 1" in found and "noise" not in found


def test_influence_is_the_last_layers_gradient(pages):
    model, (X, y) = tabular()
    logits = model(X)
    wrong = logits.argmax(1) != y
    case = int(torch.where(wrong, logits.softmax(1).max(1)[0], -1).argmax())

    def slope(i: int) -> torch.Tensor:
        loss = F.cross_entropy(model(X[i : i + 1]), y[i : i + 1])
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, model[2].parameters())])

    pull = torch.stack([slope(i) @ slope(case) for i in range(len(X))])
    text = pages["tabular"].read_text(encoding="utf-8")
    named = re.findall(rf"training case (\d+) for case {case}:", text)
    assert torch.allclose(pull[[int(i) for i in named]], pull.sort().values[:3], atol=1e-5)


def test_same_seed_same_file_and_the_model_is_left_alone(tmp_path):
    model, data = tabular(60)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = (report(model, data, tmp_path / f"{i}.html").read_bytes() for i in range(2))
    assert first == second
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_a_perfect_model_has_no_errors_to_show(tmp_path):
    model, (X, _) = tabular(40)
    data = X, model(X).argmax(1)
    text = report(model, data, tmp_path / "x.html", train=data).read_text(encoding="utf-8")
    assert "None." in text


class Scores(nn.Module):
    """Logits that are the columns of X: what it answers is what the test puts there."""

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return X[:, :2]


def marked(right: torch.Tensor, y: torch.Tensor, sure: float = 2.0) -> torch.Tensor:
    """Return inputs for which Scores answers y where `right`, and the other class elsewhere."""
    answer = torch.where(right, y, 1 - y)
    return sure * F.one_hot(answer, 2).float()


def rows_of(path: Path, caption: str) -> list[list[str]]:
    """Return the cells of a table of the page."""
    table = path.read_text(encoding="utf-8").split(f"<caption>{caption}")[1].split("</table>")[0]
    body = table.split("<tbody>")[1]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.split("</tr>")[:-1]]


def test_tables_by_class_and_of_certainty_hold_the_counts(tmp_path):
    y = torch.arange(100) % 2
    right = torch.ones(100, dtype=torch.bool)
    right[0:20:2] = False  # ten of the fifty of class 0 are called class 1
    path = report(Scores(), (marked(right, y), y), tmp_path / "x.html", target=0)
    zero, one = rows_of(path, "By class")
    assert zero[1] == "50" and zero[2].startswith("80 (67 to 89)") and zero[3] == "40"
    assert zero[4].startswith("100 (") and one[4].startswith("83 (")
    sure = 100 * torch.tensor(2.0).sigmoid().item()
    row = next(r for r in rows_of(path, "Said and real") if r[1] == "100")
    assert row[0] == "80 to 90 %" and row[2] == f"{sure:.0f}" and row[3].startswith("90 (")
    text = path.read_text(encoding="utf-8")
    assert "most frequent class would be right for 50" in text
    assert "calls class 0, so many are: 100" in text and "are class 0, it finds: 80" in text


def test_a_weak_group_is_named_and_a_weak_class_is_none(tmp_path):
    draw_, y = torch.Generator().manual_seed(0), torch.arange(600) % 2
    sex = ["m" if coin else "f" for coin in torch.rand(600, generator=draw_) < 0.5]
    hard = torch.rand(600, generator=draw_) < torch.where(y == 0, 0.4, 0.05)
    text = report(Scores(), (marked(~hard, y), y), tmp_path / "a.html", slices={"sex": sex})
    assert "weakest for" not in text.read_text(encoding="utf-8")
    male = torch.tensor([s == "m" for s in sex])
    hard = torch.rand(600, generator=draw_) < torch.where(male, 0.4, 0.05)
    text = report(Scores(), (marked(~hard, y), y), tmp_path / "b.html", slices={"sex": sex})
    assert "weakest for «sex: m" in text.read_text(encoding="utf-8")


def test_the_tree_finds_the_one_question_that_decides(tmp_path):
    X = draw(200, 3)
    answer = torch.stack([torch.zeros(200), torch.where(X[:, 1] > 0.5, 9.0, -9.0)], 1)
    data = torch.cat([answer, X], 1), (X[:, 1] > 0.5).long()
    text = report(Scores(), data, tmp_path / "x.html", features=list("abcde"))
    text = text.read_text(encoding="utf-8")
    assert "gives the model's own answer for 100 " in text.replace("&#x27;", "'")
    assert re.search(r"\|--- [bd] &lt;=", text)  # b is the answer, d what it was made from


@pytest.mark.parametrize("size", [(28, 20), (20, 28), (6, 6), (9, 9), (3, 3)])
def test_regions_of_any_shape_have_their_right_names(size, tmp_path):
    side = -(-max(size) // 4)
    X = torch.rand(60, 3, *size, generator=torch.Generator().manual_seed(0)) / 2
    y = torch.arange(60) % 2
    X[:, :, side : 2 * side, :side] = 0.8 * y.view(-1, 1, 1, 1).float()  # row 2, column 1

    class Place(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bright = x[:, :, side : 2 * side, :side].mean((1, 2, 3)) - 0.4
            return 20 * torch.stack([-bright, bright], 1)

    text = report(Place(), (X, y), tmp_path / "x.html").read_text(encoding="utf-8")
    assert "leans most on «row 2, column 1»" in text
    assert text.index("stands out") < text.index("answered rightly")  # a warning comes first


def test_sorted_data_invent_no_concept(tmp_path):
    X, y = pictures(1200)
    order = y.argsort(stable=True)
    X, y = X[order], y[order]
    some = X[torch.randperm(1200, generator=torch.Generator().manual_seed(1))[:40]]
    text = report(Corner(), (X, y), tmp_path / "x.html", concepts={"any": some})
    assert "than random ones: none" in text.read_text(encoding="utf-8")


class Reversed(nn.Module):
    """Its last layer is registered first, and another is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body, self.unused = nn.Linear(4, 2), nn.Linear(5, 4), nn.Linear(5, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).tanh())


def test_inputs_that_people_have_are_taken(tmp_path):
    model, (X, y) = tabular(40)
    drop = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.9), model)
    cases = {
        "double": (copy.deepcopy(model).double(), X, y, {}),
        "float64 data": (model, X.double(), y, {"train": (X.double(), y)}),
        "labels of few bits": (model, X, y.bool(), {"train": (X, y.int())}),
        "gradients": (model, X.clone().requires_grad_(), y, {}),
        "names": (model, X, y, {"features": [1, 2, r"$\foo$", "<i>", "e"], "classes": [0, 1]}),
        "slices": (model, X, y, {"slices": {"age": [None, 1, math.nan, "old"] * 10}}),
        "a constant": (model, torch.cat([X[:, :4], 0 * X[:, :1]], 1), y, {}),
        "few": (model, X[:5], y[:5], {}),
        "one feature": (nn.Linear(1, 2), X[:, :1], y, {}),
        "ten classes": (nn.Linear(5, 10), X, y, {}),
        "layers in any order": (Reversed(), X, y, {"train": (X, y)}),
        "dropout": (drop, X, y, {}),
        "gray": (Corner(), *pictures(20), {}),
    }
    for name, (net, X_, y_, more) in cases.items():
        text = report(net.train(), (X_, y_), tmp_path / "x.html", **more).read_text("utf-8")
        assert not re.search(r"\bnan\b", re.sub(r"age: nan", "", text)), name
        assert net.training
    assert drop[0].num_batches_tracked == 0  # statistics of training are left alone


def test_a_failure_on_the_way_leaves_the_old_page(tmp_path, monkeypatch):
    def fails(f):
        raise RuntimeError("on the way")

    monkeypatch.setitem(report.__globals__, "SECTIONS", (fails,))
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        report(MODEL, (X, Y), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


# --- bad input -----------------------------------------------------------------------------------

MODEL, (X, Y) = tabular(40)
NAN = torch.where(torch.arange(5) == 2, torch.nan, X)
BAD = {
    "no logits": (nn.Flatten(0), (X, Y), {}, "logits"),
    "one class": (nn.Linear(5, 1), (X, 0 * Y), {}, "single class"),
    "lengths": (MODEL, (X, Y[:-1]), {}, "N labels"),
    "empty": (MODEL, (X[:0], Y[:0]), {}, "data must"),
    "labels in a column": (MODEL, (X, Y[:, None]), {}, "data must"),
    "other training data": (MODEL, (X, Y), {"train": (X[:, :3], Y)}, "train must have the shape"),
    "pixels": (Corner(), (255 * pictures(9)[0], pictures(9)[1]), {}, "must lie in [0, 1]"),
    "target": (MODEL, (X, Y), {"target": 5}, "target must be a class from 0 to 1, not 5"),
    "no concept": (MODEL, (X, Y), {"concepts": {"a": X[:0]}}, "The concept 'a'"),
    "two inputs": (nn.Bilinear(5, 5, 2), (X, Y), {}, "cannot answer"),
    "label out of range": (MODEL, (X, Y + 1), {}, "out of range"),
    "NaN": (MODEL, (NAN, Y), {}, "data has numbers"),
    "NaN in training": (MODEL, (X, Y), {"train": (NAN, Y)}, "train has numbers"),
    "model gives NaN": (nn.Sequential(MODEL, nn.Threshold(9, math.nan)), (X, Y), {}, "not finite"),
    "features": (MODEL, (X, Y), {"features": ["a", "b"]}, "features must have 5 entries, not 2"),
    "classes": (MODEL, (X, Y), {"classes": ["a"]}, "classes must have 2 entries, not 1"),
    "slice": (MODEL, (X, Y), {"slices": {"age": [1, 2]}}, "'age' must have 40 entries, not 2"),
    "no layer": (MODEL, (X, Y), {"concepts": {"high": X[:9]}}, "layer"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence_and_leaves_the_old_page(name, tmp_path):
    model, data, more, words = BAD[name]
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(BadInput, match=re.escape(words)) as error:
        report(model, data, path, **more)
    assert "\n" not in str(error.value)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setitem(report.__globals__, "_measure", None)  # not reached
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "no folder" / "x.html", tmp_path / "file" / "x.html"):
        with pytest.raises(BadInput, match="cannot be written"):
            report(MODEL, (X, Y), path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# --- in a browser --------------------------------------------------------------------------------


@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")
def test_page_in_a_browser(pages, tmp_path):
    """No request, no sideways scrolling on a telephone, no accessibility fault in both themes."""
    import axe_playwright_python
    from playwright.sync_api import sync_playwright

    axe = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path), executable_path=find_browser(), args=FLAGS
        )
        page, asked, errors = context.pages[0], [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        for path in pages.values():
            page.goto(path.as_uri())
            for width in (375, 1440):
                assert sideways_scroll(page, width) <= 0
            page.evaluate(axe)
            for theme in ("light", "dark"):
                page.emulate_media(color_scheme=theme)
                faults = page.evaluate("axe.run(document).then(r => r.violations.map(v => v.id))")
                assert faults == []
        context.close()
    assert [url for url in asked if not url.startswith("data:")] == [
        path.as_uri() for path in pages.values()
    ]
    assert errors == []
