"""Repairs and audits beside fairlearn's.

`python benchmarks/fairness.py`. Two CPU cores, the generated lending population with true records
(`ku.data.lending`), 50,000 people to train on and 500,000 fresh ones to measure on, three
populations.

Fronts: from the same base network, accuracy against the odds gap that remains, and the seconds to
get there. Thresholds: `ku.fairness.threshold_search` at six relaxations, beside fairlearn's
`ThresholdOptimizer`, which has no relaxation and gives one point. Training: the constraint in the
loss of fairness/repairing_bias at five strengths, beside `ExponentiatedGradient` at four bounds
with its default of 50 rounds, each of which goes on from the base network for two epochs. A point
dominates another if it is more accurate by 0.1 points and fairer by 0.2, more than the spread
between two runs. Areas are of mean fronts, down to the accuracy of approving everybody and a gap of
25 points.

Audit: 50,000 people in 12 groups, seven metrics with 1,000 bootstrap draws, beside fairlearn's
`MetricFrame` with its own bootstrap of three metrics, timed with 20 draws and scaled to 1,000.
"""

import copy
import itertools
import statistics
import warnings
from functools import partial
from pathlib import Path
from time import perf_counter

from common import about, save

import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import numpy as np
import torch
import torch.nn.functional as F
from fairlearn import metrics as fl
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.reductions import EqualizedOdds, ExponentiatedGradient
from sklearn.base import BaseEstimator, ClassifierMixin

OUT = Path(__file__).parent / "results" / "fairness.json"
WORLD = {"disadvantage": 0.5, "proxy": 0.8}
SEEDS, ROUNDS = range(3), 5
MORE_ACCURATE, FAIRER = 0.1, 0.2  # points; less is noise


def weighted(logits, target):
    """Weighted cross-entropy. logits: (B, 1); target: (B, 2), outcome and weight."""
    losses = F.binary_cross_entropy_with_logits(logits[:, 0], target[:, 0], reduction="none")
    return (target[:, 1] * losses).mean()


def constrained(logits, target, strength):
    """The loss of fairness/repairing_bias. logits: (B, 1); target: (B, 2), outcome and group."""
    (y, group), p = target.T, logits[:, 0].sigmoid()
    loss = F.binary_cross_entropy_with_logits(logits[:, 0], y)
    for mine in (y, 1 - y):
        means = [(p * mine * g).sum() / (mine * g).sum().clamp(min=1) for g in (group, 1 - group)]
        loss = loss + strength * (means[0] - means[1]) ** 2
    return loss


def train(net, X, y, beside, loss=weighted, num_epochs=4, seed=0):
    """Train net in place and return it."""
    target = torch.stack([y, beside], 1).float()
    adam = torch.optim.Adam(net.parameters(), lr=0.02)
    tools = {"optimizer": adam, "batch_size": 2000, "seed": seed, "num_epochs": num_epochs}
    ku.fit(net, (X, target), loss=loss, **tools)
    return net.eval()


@torch.no_grad()
def score(net, X):
    """Return probabilities, (N,) NumPy."""
    return net(torch.as_tensor(np.asarray(X)))[:, 0].sigmoid().double().numpy()


class Wrapped(ClassifierMixin, BaseEstimator):
    """A network as fairlearn wants it; a fit with weights goes on from the network given."""

    def __init__(self, net=None):
        self.net = net

    def fit(self, X, y, sample_weight):
        """Go on from the network with these weights."""
        X, y, w = (torch.tensor(np.asarray(a)) for a in (X, y, sample_weight))
        self.net = train(copy.deepcopy(self.net), X, y, w, num_epochs=2)
        return self

    def predict(self, X):
        """Return decisions 0 and 1."""
        return (score(self.net, X) > 0.5).astype(int)


class Scores(Wrapped):
    """The base network's probabilities, for ThresholdOptimizer."""

    def predict(self, X):
        """Return probabilities."""
        return score(self.net, X)

    def __sklearn_is_fitted__(self):
        return True


def measure(decision, pop) -> tuple[float, float]:
    """Return (odds gap, accuracy) in points."""
    group, merit = pop.group.numpy() == 1, pop.merit.numpy() == 1
    gaps = [abs(decision[r & group].mean() - decision[r & ~group].mean()) for r in (merit, ~merit)]
    return 100 * max(gaps), 100 * (decision == merit).mean()


def repairs(pop, net, seed) -> dict:
    """Return family -> list of calls; each makes a rule: pop -> decisions."""
    X, y, group = pop.X.numpy(), pop.y.numpy(), pop.group.numpy()

    def ours(relaxation):
        found = ku.fairness.threshold_search(y, score(net, X), group, relaxation=relaxation)
        return lambda other: found.decide(score(net, other.X), other.group) == 1

    def theirs():
        tools = {"prefit": True, "predict_method": "predict"}
        rule = ThresholdOptimizer(estimator=Scores(net), constraints="equalized_odds", **tools)
        rule.fit(X, y, sensitive_features=group)
        tools = {"random_state": 0}
        return lambda other: (
            rule.predict(other.X.numpy(), sensitive_features=other.group.numpy(), **tools) == 1
        )

    def constraint(strength):
        loss = partial(constrained, strength=strength)
        tuned = train(copy.deepcopy(net), pop.X, pop.y, pop.group, loss, seed=seed)
        return lambda other: score(tuned, other.X) > 0.5

    def game(bound):
        rule = ExponentiatedGradient(Wrapped(net), EqualizedOdds(difference_bound=bound))
        rule.fit(X, y, sensitive_features=group)
        return lambda other: rule.predict(other.X.numpy(), random_state=0) == 1

    return {
        "thresholds, ours": [partial(ours, r) for r in (0.1, 0.05, 0.03, 0.02, 0.01, 0.0)],
        "thresholds, fairlearn": [theirs],
        "training, ours": [partial(constraint, s) for s in (0.3, 1.0, 3.0, 10.0, 30.0)],
        "training, fairlearn": [partial(game, b) for b in (0.1, 0.05, 0.02, 0.01)],
    }


def fronts() -> dict:
    """Return family -> points (seed, gap, accuracy) and seconds of one model."""
    other = ku.data.lending(500_000, **WORLD, seed=1000)
    points: dict[str, list] = {}
    seconds: dict[str, list] = {}
    for seed in SEEDS:
        pop = ku.data.lending(50_000, **WORLD, seed=seed)
        torch.manual_seed(seed)
        net = ku.models.mlp(6, 16, 1)
        train(net, pop.X, pop.y, torch.ones(len(pop.y)), seed=seed)
        families = repairs(pop, net, seed)
        for turn in itertools.zip_longest(*families.values()):  # interleaved
            for family, call in zip(families, turn, strict=True):
                if call is None:
                    continue
                start = perf_counter()
                rule = call()
                seconds.setdefault(family, []).append(perf_counter() - start)
                points.setdefault(family, []).append((seed, *measure(rule(other), other)))
    return {f: {"seconds": statistics.median(seconds[f]), "points": points[f]} for f in points}


def dominated(found: dict, mine: str, theirs: str) -> int:
    """Return how many of our points one of theirs, of the same population, beats clearly."""
    return sum(
        any(
            s == seed and g <= gap - FAIRER and a >= accuracy + MORE_ACCURATE
            for s, g, a in found[theirs]["points"]
        )
        for seed, gap, accuracy in found[mine]["points"]
    )


def beaten_fronts(found: dict, mine: list[str], theirs: list[str]) -> int:
    """Return how many of their points lie clearly beyond our front of the same population."""
    own = [p for family in mine for p in found[family]["points"]]
    return sum(
        not any(
            s == seed and g <= gap + FAIRER and a >= accuracy - MORE_ACCURATE for s, g, a in own
        )
        for family in theirs
        for seed, gap, accuracy in found[family]["points"]
    )


def area(found: dict, family: str, floor: float) -> float:
    """Return the mean over populations of the area under a family's front, points squared."""
    areas = []
    for seed in SEEDS:
        mine = [(a, g) for s, g, a in found[family]["points"] if s == seed]
        areas.append(ku.fairness.pareto_area(*zip(*mine, strict=True), (floor, 25.0)))
    return statistics.mean(areas)


def audits() -> dict:
    """Return seconds of our audit and of MetricFrame's bootstrap, scaled to 1,000 draws."""
    rng = np.random.default_rng(0)
    n = 50_000
    groups, scores = rng.integers(0, 12, n), rng.random(n)
    y = (rng.random(n) < scores).astype(int)
    names = ("selection_rate", "true_positive_rate", "false_positive_rate")
    library = {name: getattr(fl, name) for name in names}
    tools = {"sensitive_features": groups, "ci_quantiles": [0.025, 0.975], "random_state": 0}
    ours, theirs, draws = [], [], 20
    for turn in range(ROUNDS + 1):
        start = perf_counter()
        ku.fairness.audit(y, scores, groups, draws=1000)
        middle = perf_counter()
        fl.MetricFrame(metrics=library, y_true=y, y_pred=scores > 0.5, n_boot=draws, **tools)
        if turn:  # the first round warms up
            ours.append(middle - start)
            theirs.append((perf_counter() - middle) * 1000 / draws)
    return {"ours": statistics.median(ours), "MetricFrame, scaled": statistics.median(theirs)}


def main() -> None:
    """Run both comparisons and write the results file."""
    ku.start()
    warnings.filterwarnings("ignore", module="fairlearn")
    seconds, found = audits(), fronts()
    floor = 100 * ku.data.lending(500_000, **WORLD, seed=1000).merit.double().mean().item()
    areas = {family: area(found, family, floor) for family in found}
    pairs = [(f"{kind}, ours", f"{kind}, fairlearn") for kind in ("thresholds", "training")]
    goals = [
        {
            "sentence": "fairlearn's points clearly beyond our front (thresholds and training)",
            "value": beaten_fronts(found, [m for m, _ in pairs], [t for _, t in pairs]),
            "at_most": 0,
        },
        *(
            {
                "sentence": f"our points that fairlearn's of the same kind dominate, {mine}",
                "value": dominated(found, mine, theirs),
                "at_most": 0,
            }
            for mine, theirs in pairs
        ),
        *(
            {
                "sentence": f"times faster than fairlearn, one model, {mine}",
                "value": found[theirs]["seconds"] / found[mine]["seconds"],
                "at_least": 5,
            }
            for mine, theirs in pairs
        ),
        {
            "sentence": "seconds of an audit: 50,000 people, 12 groups, 1,000 draws",
            "value": seconds["ours"],
            "at_most": 2,
        },
        {
            "sentence": "times faster than looping over MetricFrame",
            "value": seconds["MetricFrame, scaled"] / seconds["ours"],
            "at_least": 20,
        },
    ]
    result = about("torch", "numpy", "fairlearn") | {
        "audit_seconds": seconds,
        "fronts": found,
        "areas": areas,
    }
    save(OUT, result, goals)


if __name__ == "__main__":
    main()
