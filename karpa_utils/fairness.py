"""Fairness measured: rates per group with intervals, and what chance alone would show.

The functions take NumPy arrays, tensors on the CPU or pandas columns. A decision of 1 is the one
that people want: the loan, the release, the job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from karpa_utils.errors import BadInput

# metric -> whom it is a share of, as the sentences say it
METRICS = {
    "base_rate": "members",
    "selection_rate": "members",
    "accuracy": "members",
    "true_positive_rate": "positives",
    "false_positive_rate": "negatives",
    "positive_predictive_value": "selected",
    "calibration_gap": "members",
}
SCORE_BINS = 20  # cells for the resampling of scores
LEVEL = 0.95


@dataclass(frozen=True)
class Audit:
    """Rates of G groups in M metrics; every triple is (value, low, high) with a 95 % interval.

    difference and ratio compare with the reference group; gap is the largest difference between
    two groups, and chance what that gap stays below in 95 of 100 audits of this size if all groups
    were alike. What is not defined is NaN and has its sentence in `notes`.
    """

    groups: tuple[str, ...]  # (G,)
    members: NDArray  # (G,)
    metrics: tuple[str, ...]  # (M,)
    rate: NDArray  # (G, M, 3)
    denominator: NDArray  # (G, M) how many people the rate is a share of
    reference: str
    difference: NDArray  # (G, M, 3) group minus reference
    ratio: NDArray  # (G, M, 3) group over reference
    gap: NDArray  # (M,)
    chance: NDArray  # (M,)
    notes: tuple[str, ...]

    def at(self, group: str, metric: str) -> tuple[int, int]:
        """Return the index of one group and metric, as in `audit.rate[audit.at(g, m)]`."""
        return self.groups.index(group), self.metrics.index(metric)

    @property
    def equalized_odds_difference(self) -> float:
        """The larger of the gaps in true and in false positive rate (Hardt et al. 2016)."""
        columns = map(self.metrics.index, ("true_positive_rate", "false_positive_rate"))
        return float(max(self.gap[column] for column in columns))

    def table(self, *metrics: str, digits: int = 1) -> dict[str, list[str]]:
        """Return columns for `ku.table`: group, members, then each metric in %, with interval."""
        columns = {"group": list(self.groups), "members": [f"{n:,}" for n in self.members]}
        for metric in metrics:
            cells = 100 * self.rate[:, self.metrics.index(metric)]  # (G, 3)
            columns[f"{metric.replace('_', ' ')} (%)"] = [
                "not defined"
                if np.isnan(value)
                else f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
                for value, low, high in cells
            ]
        return columns


def intersect(attributes: Mapping[str, ArrayLike]) -> NDArray:
    """Return each person's labels in several attributes as one: "black, female". (N,) strings."""
    parts = [_labels(labels, name)[0] for name, labels in attributes.items()]
    if len({len(part) for part in parts}) > 1:
        raise BadInput(
            "Attributes must have one label a person; these have "
            + ", ".join(f"{len(p)} ({name})" for name, p in zip(attributes, parts, strict=True))
            + "."
        )
    return np.array([", ".join(row) for row in zip(*parts, strict=True)])


def rates(counts: NDArray) -> tuple[NDArray, NDArray]:
    """Return (numerator, denominator), each (..., 6), of the first six METRICS.

    counts: (..., 2, 2), people by true label and decision. Taught in fairness/detecting_bias.
    """
    (tn, fp), (fn, tp) = np.moveaxis(np.asarray(counts, float), (-2, -1), (0, 1))
    n = tn + fp + fn + tp
    above = np.stack([tp + fn, tp + fp, tp + tn, tp, fp, tp], -1)
    return above, np.stack([n, n, n, tp + fn, fp + tn, tp + fp], -1)


def wilson(share: ArrayLike, n: ArrayLike, level: float = LEVEL) -> tuple[NDArray, NDArray]:
    """Return the score interval (low, high) of a share of n people (Wilson 1927).

    Unlike the textbook interval it is never empty at a share of 0 or 1. NaN where n is 0.
    """
    from scipy.stats import norm

    z = norm.ppf((1 + level) / 2)
    share, n = np.asarray(share, float), np.asarray(n, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return np.clip(center - half, 0, 1), np.clip(center + half, 0, 1)


def bootstrap(counts: ArrayLike, draws: int = 1000, seed: int = 0) -> NDArray:
    """Return resampled counts (draws, G, K) of G groups of people in K kinds. counts: (G, K).

    Drawing n people with replacement from a group and counting the kinds is one multinomial draw,
    so no person has to be touched: the cost does not depend on how many there are. The size of
    each group stays fixed. Source: Efron 1979.
    """
    counts = np.asarray(counts)
    n = counts.sum(1, keepdims=True)  # (G, 1)
    share = counts / np.maximum(n, 1)
    share[n[:, 0] == 0, 0] = 1.0  # a group without members draws nothing
    return np.random.default_rng(seed).multinomial(n[:, 0], share, size=(draws, len(counts)))


def audit(
    y: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    *,
    threshold: float = 0.5,
    # a score of at least this is a decision of 1
    reference: str | None = None,
    # the group that others are compared with; default: the largest
    draws: int = 1000,
    seed: int = 0,
) -> Audit:
    """Return how decisions treat groups: an `Audit` of the METRICS with 95 % intervals.

    y: (N,) true labels, 0 or 1; scores: (N,) probabilities of a 1, or decisions 0 and 1;
    groups: (N,) labels, none missing. A pandas categorical may name groups that nobody is in.
    Rates have Wilson intervals; differences and ratios bootstrap intervals (percentiles).

    Raises BadInput for lengths that differ, labels other than 0 and 1 or all alike, scores outside
    [0, 1], missing group labels, fewer than two groups. Taught in fairness/detecting_bias.
    """
    y, scores, labels, names = _checked(y, scores, groups, threshold)
    edges = np.union1d(np.linspace(0, 1, SCORE_BINS + 1), [threshold])[1:-1]
    bins = np.searchsorted(edges, scores, side="right")  # a bin never straddles the threshold
    G, B = len(names), len(edges) + 1
    cell = (labels * B + bins) * 2 + y
    counts = np.bincount(cell, minlength=G * B * 2)  # (G * B * 2,)
    sums = np.bincount(cell, weights=scores, minlength=G * B * 2)
    mean_score = (sums / np.maximum(counts, 1)).reshape(G, B, 2)
    chosen = np.arange(B) >= np.searchsorted(edges, threshold, side="right")  # (B,)

    def all_rates(cells: NDArray) -> tuple[NDArray, NDArray]:
        """Return numerator and denominator (..., G, M) from cells (..., G, B, 2)."""
        table = np.stack([cells[..., ~chosen, :].sum(-2), cells[..., chosen, :].sum(-2)], -1)
        above, below = rates(table)  # (..., G, 6)
        off = (cells * (mean_score - np.arange(2))).sum((-2, -1))  # (..., G)
        below = np.concatenate([below, below[..., :1]], -1)
        return np.concatenate([above, off[..., None]], -1), below

    counts = counts.reshape(G, B, 2)
    above, below = all_rates(counts)  # (G, M)
    resampled = bootstrap(counts.reshape(G, -1), draws, seed).reshape(draws, G, B, 2)
    drawn_above, drawn_below = all_rates(resampled)
    with np.errstate(divide="ignore", invalid="ignore"):
        value, drawn = above / below, drawn_above / drawn_below  # (G, M), (draws, G, M)
        low, high = wilson(value, below)
        low[:, -1], high[:, -1] = _percentiles(drawn[..., -1])  # a mean, not a share
        home = _reference(names, counts.sum((1, 2)), reference)
        difference = _with_interval(value - value[home], drawn - drawn[:, [home]])
        ratio = _with_interval(value / value[home], drawn / drawn[:, [home]])
    ratio[:, -1] = np.nan  # of two deviations around zero, a ratio says nothing
    return Audit(
        groups=tuple(names),
        members=counts.sum((1, 2)),
        metrics=tuple(METRICS),
        rate=np.stack([value, low, high], -1),
        denominator=below.astype(int),
        reference=names[home],
        difference=difference,
        ratio=ratio,
        gap=_spread(value),
        chance=_chance(above, below, scores - y, draws, seed + 1),
        notes=_notes(names, counts.sum((1, 2)), below),
    )


def pareto(benefit: ArrayLike, cost: ArrayLike) -> NDArray:
    """Return which points no other point beats: (N,) True where none has more for less.

    A point is beaten by one that is at least as good in both and better in one.
    """
    benefit, cost = np.asarray(benefit, float), np.asarray(cost, float)
    as_good = (benefit[:, None] >= benefit) & (cost[:, None] <= cost)  # (N, N) row beats column?
    better = (benefit[:, None] > benefit) | (cost[:, None] < cost)
    return ~(as_good & better).any(0)


def pareto_area(benefit: ArrayLike, cost: ArrayLike, worst: tuple[float, float]) -> float:
    """Return the area that the points dominate, down to worst = (benefit, cost).

    The hypervolume of two objectives: a point adds every pair between itself and `worst` that it
    beats and that no other point beat before. Points beyond `worst` add nothing.
    """
    benefit, cost = np.asarray(benefit, float), np.asarray(cost, float)
    area, best = 0.0, worst[0]
    for at in np.argsort(cost, kind="stable"):  # the cheapest first: width is set by the cost
        if cost[at] < worst[1] and benefit[at] > best:
            area += (worst[1] - cost[at]) * (benefit[at] - best)
            best = benefit[at]
    return float(area)


CRITERIA = ("equalized_odds", "equal_opportunity", "demographic_parity")


@dataclass(frozen=True)
class Thresholds:
    """A decision rule: every group has its thresholds, and the share of its people each rules."""

    groups: tuple[str, ...]  # (G,)
    values: NDArray  # (K,) thresholds, rising
    share: NDArray  # (G, K) each row sums to 1; mostly one or two entries

    def probability(self, scores: ArrayLike, groups: ArrayLike) -> NDArray:
        """Return each person's chance of a decision of 1, (N,)."""
        scores, number = np.asarray(scores, float), self._number(groups)
        passed = np.searchsorted(self.values, scores, side="right")  # (N,) thresholds reached
        summed = np.concatenate([np.zeros((len(self.share), 1)), self.share.cumsum(1)], 1)
        return np.clip(summed[number, passed], 0, 1)

    def decide(self, scores: ArrayLike, groups: ArrayLike, seed: int = 0) -> NDArray:
        """Return decisions 0 and 1, (N,); where two thresholds share a group, by lot."""
        chance = self.probability(scores, groups)
        return (np.random.default_rng(seed).random(len(chance)) < chance).astype(int)

    def _number(self, groups: ArrayLike) -> NDArray:
        labels, names = _labels(groups, "the group")
        if unknown := sorted(set(names) - set(self.groups)):
            raise BadInput(f"There is no threshold for the group {unknown[0]!r}.")
        index = {name: i for i, name in enumerate(self.groups)}
        return np.array([index[label] for label in labels])


def threshold_search(
    y: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    *,
    criterion: str = "equalized_odds",
    # or "equal_opportunity" (true positive rates), "demographic_parity" (selection rates)
    relaxation: float = 0.0,
    # the gap between two groups that is allowed
    grid: int = 400,
    # thresholds tried: quantiles of the scores
) -> Thresholds:
    """Return the most accurate `Thresholds` whose gap is at most `relaxation` on these people.

    A group ruled by several thresholds has the mean of their rates, so accuracy and gaps are linear
    in the shares, and the best shares are a linear program (Hardt et al. 2016; with relaxation,
    Cruz and Hardt 2024). Raises BadInput as `audit` does, for an unknown criterion, a relaxation
    outside [0, 1], or a group without one of the two labels. Taught in fairness/repairing_bias.
    """
    from scipy.optimize import linprog

    y, scores, labels, names = _checked(y, scores, groups, 0.5)
    if criterion not in CRITERIA:
        raise BadInput(f"Unknown criterion {criterion!r}: choose one of {', '.join(CRITERIA)}.")
    if not 0 <= relaxation <= 1:
        raise BadInput(f"The relaxation is a gap between 0 and 1, not {relaxation:g}.")
    values = np.unique(np.quantile(scores, np.linspace(0, 1, grid + 1)))
    values = np.append(values, np.inf)  # nobody passes the last one
    people = np.zeros((len(names), 2))  # (G, 2) with label 0 and 1
    passing = np.zeros((len(names), 2, len(values)))  # (G, 2, K) share that a threshold lets pass
    for group, label in np.ndindex(people.shape):
        mine = np.sort(scores[(labels == group) & (y == label)])
        if not len(mine):
            raise BadInput(f"Group {names[group]} has nobody with label {label}: no rate to equal.")
        people[group, label] = len(mine)
        passing[group, label] = 1 - np.searchsorted(mine, values, side="left") / len(mine)
    selected = (passing * (people / people.sum(1, keepdims=True))[..., None]).sum(1)  # (G, K)
    bound = {
        "equalized_odds": [passing[:, 1], passing[:, 0]],
        "equal_opportunity": [passing[:, 1]],
        "demographic_parity": [selected],
    }[criterion]
    G, K, M = len(names), len(values), len(bound)
    errors = (people[:, :1] * passing[:, 0] - people[:, 1:] * passing[:, 1]).ravel() / len(y)
    rows = np.zeros(
        (2, M, G, G * K + M)
    )  # floor[m] <= rate of every group <= floor[m] + relaxation
    for m, g in np.ndindex(M, G):
        rows[0, m, g, g * K : (g + 1) * K], rows[0, m, g, G * K + m] = -bound[m][g], 1
        rows[1, m, g] = -rows[0, m, g]
    limits = np.repeat([0.0, relaxation], M * G)
    whole = np.kron(np.eye(G), np.ones(K))  # the shares of a group sum to 1
    solved = linprog(
        np.concatenate([errors, np.zeros(M)]),
        A_ub=rows.reshape(-1, G * K + M),
        b_ub=limits,
        A_eq=np.concatenate([whole, np.zeros((G, M))], 1),
        b_eq=np.ones(G),
        bounds=(0, 1),
    )
    return Thresholds(tuple(names), values, solved.x[: G * K].reshape(G, K))


def _checked(y: ArrayLike, scores: ArrayLike, groups: ArrayLike, threshold: float):
    """Return (y, scores, group number of each person, names); raise BadInput in one sentence."""
    y, scores = np.asarray(y, float), np.asarray(scores, float)
    labels, names = _labels(groups, "the group")
    if not len(y) == len(scores) == len(labels):
        raise BadInput(
            f"There are {len(y)} true labels, {len(scores)} scores and {len(labels)} group "
            "labels: each person needs one of each."
        )
    if not len(y):
        raise BadInput("There is nobody to audit: the arrays are empty.")
    if wrong := sorted(set(y[(y != 0) & (y != 1)].tolist()), key=str)[:3]:
        raise BadInput(f"True labels must be 0 or 1; found {', '.join(f'{w:g}' for w in wrong)}.")
    if len(set(y.tolist())) == 1:
        raise BadInput(f"All {len(y)} true labels are {y[0]:g}: error rates need both classes.")
    outside = ~((scores >= 0) & (scores <= 1))  # also NaN
    if outside.any():
        raise BadInput(
            f"Scores must lie between 0 and 1; {outside.sum()} of {len(scores)} do not, "
            f"for example {scores[outside][0]:g} (row {outside.argmax()})."
        )
    if not 0 < threshold <= 1:
        raise BadInput(f"The threshold must lie above 0 and not above 1, not at {threshold:g}.")
    if len(names) < 2:
        raise BadInput(f"Everybody is in the group {names[0]!r}: there is nothing to compare.")
    index = {name: i for i, name in enumerate(names)}
    return y.astype(int), scores, np.array([index[label] for label in labels]), names


def _labels(groups: ArrayLike, what: str) -> tuple[list[str], list[str]]:
    """Return each person's label as text, and the names, sorted; raise BadInput for a gap."""
    import pandas as pd

    categories = getattr(getattr(groups, "cat", groups), "categories", None)
    labels = pd.Series(np.asarray(groups))
    missing = labels.isna() | (labels.astype(str).str.strip() == "")
    if missing.any():
        raise BadInput(
            f"{missing.sum()} of {len(labels)} people have no label for {what} (first: row "
            f"{missing.argmax()}): leave them out, or give them a group of their own."
        )
    texts = labels.astype(str).tolist()
    return texts, sorted({*texts, *map(str, () if categories is None else categories)})


def _reference(names: Sequence[str], members: NDArray, wanted: str | None) -> int:
    if wanted is None:
        return int(members.argmax())
    if wanted not in names:
        raise BadInput(f"There is no group {wanted!r} to compare with: {', '.join(names)}.")
    return list(names).index(wanted)


def _percentiles(drawn: NDArray) -> NDArray:
    """Return (2, ...) the ends of the interval; NaN where one draw in twenty is not defined."""
    with np.errstate(invalid="ignore"):
        ends = np.full((2, *drawn.shape[1:]), np.nan)
        usable = np.isfinite(drawn).mean(0) > LEVEL
        for spot in zip(*usable.nonzero(), strict=True):
            column = drawn[(slice(None), *spot)]
            tail = (1 - LEVEL) / 2
            ends[(slice(None), *spot)] = np.quantile(column[np.isfinite(column)], (tail, 1 - tail))
    return ends


def _with_interval(value: NDArray, drawn: NDArray) -> NDArray:
    """Return (G, M, 3): value, low, high."""
    low, high = _percentiles(drawn)
    return np.stack([value, low, high], -1)


def _spread(value: NDArray) -> NDArray:
    """Return the largest minus the smallest rate over groups, (..., M), of value (..., G, M)."""
    known = np.isfinite(value)
    top = np.where(known, value, -np.inf).max(-2)
    return np.where(known.sum(-2) > 1, top - np.where(known, value, np.inf).min(-2), np.nan)


def _chance(above: NDArray, below: NDArray, off: NDArray, draws: int, seed: int) -> NDArray:
    """Return the 95th percentile of the gaps when every group has the pooled rate, (M,)."""
    rng = np.random.default_rng(seed)
    pooled = above.sum(0) / np.maximum(below.sum(0), 1)  # (M,)
    size = below.astype(int)  # (G, M)
    hits = rng.binomial(size[:, :-1], np.clip(pooled[:-1], 0, 1), (draws, *size[:, :-1].shape))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = hits / size[:, :-1]  # (draws, G, M - 1)
        noise = rng.standard_normal((draws, len(size), 1)) * off.std() / np.sqrt(size[:, -1:])
    gaps = _spread(np.concatenate([shares, noise], -1))  # (draws, M)
    return np.where(np.isnan(gaps).any(0), np.nan, np.quantile(np.nan_to_num(gaps), LEVEL, axis=0))


def _notes(names: Sequence[str], members: NDArray, below: NDArray) -> tuple[str, ...]:
    """Return one sentence for every rate that is not defined or rests on one person."""
    found = []
    for name, n, sizes in zip(names, members, below, strict=True):
        if n == 0:
            found.append(f"Nothing is defined for group {name}: it has no members.")
            continue
        if n == 1:
            found.append(f"Group {name} has one member: its rates are that person's decision.")
        for metric, size in zip(METRICS, sizes, strict=True):
            if size == 0:
                who = "its only member" if n == 1 else f"its {n:,} members"
                found.append(
                    f"{metric.replace('_', ' ').capitalize()} is not defined for group {name}: "
                    f"no {METRICS[metric]} among {who}."
                )
    return tuple(found)
