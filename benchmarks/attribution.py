"""Attribution maps and their measures, beside Captum's defaults and Quantus.

`python benchmarks/attribution.py`, after `pip install -r requirements-bench.txt`. Two CPU cores,
generated images (`ku.data.shapes`), every comparison interleaved in one run.

Maps: occlusion and Shapley sampling of one image with the perturbations batched as `ku.explain`
does it, and one at a time, which is Captum's default; the same values are asked for. And the whole
table of interpretability/local_attributions: fifteen methods, nine measures, maps of networks with
random weights.

Measures: the same maps judged by `ku.explain` and by Quantus. The images are gray here, because
Quantus switches single numbers and `ku.explain` whole pixels, which for one channel is the same.
Quantus keeps the curve of a deletion without its first point, so the curves are compared, and both
libraries are given the same noise for the sensitivity. Infidelity is defined differently and not
compared by value: Quantus never resets the image between the blocks that it switches off, weighs a
map by the change of each pixel, and returns the squared difference in the map's own unit.
Completeness is an equality of floating-point numbers there and a gap here; insertion it has not.
Its warnings about parameters are off. Since its version 0.6 it evaluates batches itself: both are
bound by the network, and the one is faster that asks it less.
"""

import statistics
import warnings
from functools import partial
from pathlib import Path
from time import perf_counter

from common import about, save

import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import numpy as np
import quantus
import torch
from captum import attr
from torch import nn

OUT = Path(__file__).parent / "results" / "attribution.json"
ROUNDS = 7
E = ku.explain


def network(channels: int, seed: int, width: int = 32) -> nn.Sequential:
    """Return a trained network of interpretability/local_attributions, (B, C, 16, 16) -> (B, 4)."""
    torch.manual_seed(seed)
    layers, inputs = [], channels
    for outputs, stride in ((width, 1), (width, 2), (2 * width, 1), (2 * width, 2)):
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    head = [nn.Flatten(), nn.Linear(2 * width * 16, 64), nn.ReLU(), nn.Linear(64, 4)]
    model = nn.Sequential(*layers, *head)
    data = ku.data.shapes(4_000, seed=0)
    X = data.X if channels == 3 else data.X.mean(1, keepdim=True)
    ku.fit(model, (X, data.y), num_epochs=3, batch_size=64, seed=seed)
    return model.eval()


def race(calls: dict) -> tuple[dict[str, float], dict]:
    """Return name -> median seconds over interleaved rounds, and name -> result."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    results = {}
    for turn in range(ROUNDS + 1):
        for name, call in calls.items():
            start = perf_counter()
            results[name] = call()
            if turn:  # the first round warms up
                times[name].append(perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}, results


def batching(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> dict:
    """Return method -> seconds of both ways and the largest difference of their maps."""
    window, baseline = (x.shape[1], 3, 3), torch.full_like(x, 0.5)
    grid = E.patch_grid(16, 16, 4).expand_as(x).contiguous()  # (1, C, 16, 16), 16 patches

    def occlusion():
        found = attr.Occlusion(model).attribute(x, window, 1, baseline, target)
        return found.detach() / (9 * x.shape[1])

    def shapley():
        torch.manual_seed(0)
        explainer = attr.ShapleyValueSampling(model)
        found = explainer.attribute(x, baseline, target, feature_mask=grid, n_samples=32)
        return found.detach() / (16 * x.shape[1])

    found = {}
    for method, default in {"occlusion": occlusion, "shapley_sampling": shapley}.items():
        ours = partial(E.attribute, model, x, target, method, baseline=0.5)
        times, maps = race({"batched": ours, "one at a time": default})
        apart = (maps["batched"] - maps["one at a time"]).abs().max().item()
        found[method] = {"seconds": times, "largest_difference": apart}
    return found


def table_seconds(models: list[nn.Module], data, each: int = 32) -> float:
    """Return the seconds of the chapter's table: all methods and measures on all networks."""
    start = perf_counter()
    for i, model in enumerate(models):
        rows = slice(i * each, (i + 1) * each)
        x, y, mask = data.X[rows], data.y[rows], data.mask[rows]
        blank = E.randomized(model, seed=i)
        for map_ in E.controls(x).values():
            E.faithfulness(model, x, y, map_, baseline=0.5), E.localization(map_, mask)
        for method in E.METHODS:
            map_ = E.attribute(model, x, y, method, baseline=0.5)
            E.faithfulness(model, x, y, map_, baseline=0.5), E.localization(map_, mask)
            E.sparsity(map_)
            E.localization(E.attribute(blank, x, y, method, baseline=0.5), mask)
            if method in E.GRADIENT_METHODS:
                explain = partial(E.attribute, model, target=y, method=method, baseline=0.5)
                E.sensitivity(explain, x, map_)
            if method in ("smoothgrad", "gradient_shap", "lime", "kernel_shap", "shapley_sampling"):
                E.attribute(model, x, y, method, baseline=0.5, seed=1)  # for stability
    return perf_counter() - start


def evaluated(model: nn.Module, call) -> int:
    """Return how many images pass through the model during a call."""
    seen = []
    hook = model[0].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    call()
    hook.remove()
    return sum(seen)


def against_quantus(model: nn.Module, data, count: int) -> dict:
    """Return measure -> seconds, images evaluated by each library, largest difference of values."""
    x, y = data.X[:count].mean(1, keepdim=True), data.y[:count]  # (B, 1, 16, 16)
    mask = data.mask[:count]
    map_ = E.attribute(model, x, y, "integrated_gradients", baseline=0.5)
    arrays = {"x_batch": x.numpy(), "y_batch": y.numpy(), "s_batch": mask[:, None].numpy()}
    tools = {"normalise": False, "disable_warnings": True, "return_aggregate": False}

    def theirs(metric, **options):
        return np.array(metric(model=model, a_batch=map_.numpy().copy(), **arrays, **options))

    explain = partial(E.attribute, model, target=y, method="saliency")
    saliency = explain(x)
    generator = torch.Generator().manual_seed(0)
    noise = [(2 * torch.rand(x.shape, generator=generator) - 1) * 0.02 for _ in range(4)]

    def sensitivity_theirs():
        turns = iter(noise)  # the same numbers that ku.explain.sensitivity draws
        metric = quantus.MaxSensitivity(
            nr_samples=4,
            perturb_func=lambda arr, **_: arr + next(turns).flatten(1).numpy(),
            **tools,
        )
        return np.array(
            metric(
                model=model,
                a_batch=saliency.numpy().copy(),
                explain_func=lambda model, inputs, targets, **_: explain(
                    torch.as_tensor(inputs, dtype=torch.float32)
                ).numpy(),
                **arrays,
            )
        )

    flipping = quantus.PixelFlipping(features_in_step=8, perturb_baseline=0.5, **tools)
    with torch.no_grad():
        whole = model(x).softmax(1).gather(1, y[:, None]).numpy()  # (B, 1)

    def deletion_theirs():
        curve = np.concatenate([whole, theirs(flipping)], 1)  # (B, K)
        return np.trapezoid(curve, dx=1 / (curve.shape[1] - 1), axis=1)

    pairs = {
        "relevance mass": (
            lambda: E.localization(map_, mask)["mass"].numpy(),
            lambda: theirs(quantus.RelevanceMassAccuracy(abs=True, **tools)),
        ),
        "relevance rank": (
            lambda: E.localization(map_, mask)["rank"].numpy(),
            lambda: theirs(quantus.RelevanceRankAccuracy(abs=True, **tools)),
        ),
        "sparsity (Gini)": (
            lambda: E.sparsity(map_).numpy(),
            lambda: theirs(quantus.Sparseness(abs=True, **tools)),
        ),
        "deletion, and with ours also insertion, infidelity, completeness": (
            lambda: E.faithfulness(model, x, y, map_, baseline=0.5)["deletion"].numpy(),
            deletion_theirs,
        ),
        "maximum sensitivity of saliency": (
            lambda: E.sensitivity(explain, x, saliency).numpy(),
            sensitivity_theirs,
        ),
    }
    found = {}
    for name, (ours, quantus_way) in pairs.items():
        times, values = race({"ours": ours, "Quantus": quantus_way})
        apart = float(np.abs(values["ours"] - values["Quantus"]).max())
        passes = {"ours": evaluated(model, ours), "Quantus": evaluated(model, quantus_way)}
        found[name] = {"seconds": times, "images_evaluated": passes, "largest_difference": apart}
    return found


def main() -> None:
    """Run all comparisons and write the results file."""
    ku.start()
    warnings.filterwarnings("ignore", module="quantus")
    data = ku.data.shapes(500, seed=1)
    colored = [network(3, seed) for seed in range(3)]
    batched = batching(colored[0], data.X[:1], data.y[:1])
    print(batched)
    seconds = table_seconds(colored, data)
    print(f"table: {seconds:.1f} s")
    gray = network(1, 0)
    peers = {count: against_quantus(gray, data, count) for count in (1, 64)}
    print(peers)
    total = {
        (count, who): sum(measure["seconds"][who] for measure in found.values())
        for count, found in peers.items()
        for who in ("ours", "Quantus")
    }
    whole = "deletion, and with ours also insertion, infidelity, completeness"
    pace = {
        who: peers[64][whole]["seconds"][who] / peers[64][whole]["images_evaluated"][who]
        for who in ("ours", "Quantus")
    }
    goals = [
        *(
            {
                "sentence": f"{method.replace('_', ' ')} of one image: seconds one perturbation at "
                "a time over seconds batched",
                "value": round(found["seconds"]["one at a time"] / found["seconds"]["batched"], 1),
                "at_least": 3,
            }
            for method, found in batched.items()
        ),
        {
            "sentence": "largest difference of those maps, batched and one at a time",
            "value": max(found["largest_difference"] for found in batched.values()),
            "at_most": 1e-5,
        },
        {
            "sentence": "seconds of the chapter's whole table (15 methods, 9 measures, 96 images)",
            "value": round(seconds, 1),
            "at_most": 60,
        },
        {
            "sentence": "largest difference from Quantus of five measures on the same 64 maps",
            "value": round(max(found["largest_difference"] for found in peers[64].values()), 7),
            "at_most": 1e-4,
        },
        *(
            {
                "sentence": f"seconds of Quantus over ours, five measures and three more of ours, "
                f"{count} map{'s' if count > 1 else ''}",
                "value": round(total[count, "Quantus"] / total[count, "ours"], 1),
                "at_least": 10,
            }
            for count in peers
        ),
        {
            "sentence": "the same for each image that passes the network, deletion, 64 maps",
            "value": round(pace["Quantus"] / pace["ours"], 1),
            "at_least": 1,
        },
    ]
    result = {"batching": batched, "table_seconds": seconds, "quantus": peers}
    save(OUT, about("torch", "captum", "quantus") | result, goals)


if __name__ == "__main__":
    main()
