"""Release policies: what the gate lets pass, what blocks, and what the cards say."""

import html.parser

import pytest

import karpa_utils as ku
from karpa_utils.cards import METRICS, Measured, data_sheet, gate, model_card, read_policy

TEXT = """
name = "A test"
purpose = "Nothing."
affected = ["nobody"]
decides = "the board"
limit = [
  { metric = "accuracy", at_least = 0.8, protects = "the lender" },
  { metric = "equalized_odds_difference", at_most = 0.1, protects = "both groups" },
]
"""
GOOD = {"accuracy": Measured(0.9, 0.85, 0.95), "equalized_odds_difference": Measured(0.02, 0, 0.1)}


@pytest.fixture
def policy():
    return read_policy(TEXT)


def test_a_release_needs_every_limit_kept(policy):
    verdict = gate(policy, GOOD)
    assert verdict.released
    assert verdict.reasons == ()
    assert [check.limit for check in verdict.checks] == ["at least 0.8", "at most 0.1"]


@pytest.mark.parametrize("metric", GOOD)
def test_the_worse_end_decides(policy, metric):
    low, value, high = (0.79, 0.9, 0.95) if metric == "accuracy" else (0, 0.02, 0.101)
    verdict = gate(policy, GOOD | {metric: Measured(value, low, high)})
    assert not verdict.released
    assert [check.metric for check in verdict.checks if not check.kept] == [metric]
    assert "the interval reaches" in verdict.reasons[0]


@pytest.mark.parametrize("shift", [-0.2, 0.0, 0.2])
def test_a_wider_interval_never_opens_the_gate(policy, shift):
    kept = []
    for half in (0, 0.05, 0.1, 0.3, 1):
        accuracy = Measured(0.85 + shift, 0.85 + shift - half, 0.85 + shift + half)
        kept.append(gate(policy, GOOD | {"accuracy": accuracy}).released)
    assert kept == sorted(kept, reverse=True)


def test_plain_numbers_count_as_exact(policy):
    assert gate(policy, {"accuracy": 0.8, "equalized_odds_difference": 0.1}).released
    assert not gate(policy, {"accuracy": 0.79, "equalized_odds_difference": 0.1}).released


def test_what_was_not_measured_or_is_not_defined_blocks(policy):
    assert gate(policy, {}).reasons == (
        "Accuracy was not measured; it protects the lender.",
        "Equalized odds difference was not measured; it protects both groups.",
    )
    for value in (float("nan"), float("inf")):
        reasons = gate(policy, GOOD | {"accuracy": value}).reasons
        assert reasons == ("Accuracy is not defined; it protects the lender.",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("accuracy", "acuracy"), "Limit 1 of the policy names an unknown metric 'acuracy'"),
        (("at_least = 0.8,", ""), "needs one number, at_most or at_least"),
        (("at_least = 0.8", 'at_least = "high"'), "needs one number"),
        (("at_least = 0.8", "at_least = 0.8, at_most = 0.9"), "needs one number"),
        (('protects = "the lender"', 'protects = ""'), "must say whom it protects"),
        (('decides = "the board"', ""), "needs 'decides', a text"),
        (('affected = ["nobody"]', "affected = []"), "needs 'affected', a list"),
        (("name =", "name"), "not valid TOML"),
    ],
)
def test_a_policy_that_is_not_whole_is_refused_in_one_sentence(change, words):
    text = TEXT.replace(*change)
    assert text != TEXT
    with pytest.raises(ku.BadInput, match=words) as refused:
        read_policy(text)
    assert "\n" not in str(refused.value)


def test_a_misspelled_metric_is_guessed():
    with pytest.raises(ku.BadInput, match="did you mean 'accuracy'"):
        read_policy(TEXT.replace('"accuracy"', '"acuracy"'))
    with pytest.raises(ku.BadInput, match="known ones are accuracy, "):
        read_policy(TEXT.replace('"accuracy"', '"zzz"'))


def test_a_measurement_of_an_unknown_metric_is_refused(policy):
    with pytest.raises(ku.BadInput, match="There is no metric 'acc'; known ones are"):
        gate(policy, {"acc": 0.9})


def test_a_policy_can_be_a_file(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(TEXT, encoding="utf-8")
    assert read_policy(path) == read_policy(TEXT)


class Page(html.parser.HTMLParser):
    """Collects the texts of a page and checks that its elements nest."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.open, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_a_card_shows_every_limit_and_hides_no_gap(policy):
    verdict = gate(policy, {"accuracy": Measured(0.7, 0.6, 0.8, "9 people")})
    card = Page(model_card(policy, verdict, {"seed": "1 < 2"}, {"A table": {"a": ["<b>"]}}))
    assert "Must not be released. Who answers for it: the board." in card.texts
    assert card.tags.count("ul") == 2
    for wanted in (*verdict.reasons, METRICS["accuracy"], "0.7 (0.6 to 0.8)", "9 people"):
        assert wanted in card.texts, wanted
    assert card.texts.count("not measured") == 1
    assert "1 < 2" in card.texts
    assert "<b>" in card.texts
    assert "b" not in card.tags


def test_a_card_says_where_a_value_is_not_defined(policy):
    nan = float("nan")
    verdict = gate(policy, GOOD | {"accuracy": Measured(nan, nan, nan)})
    card = Page(model_card(policy, verdict, {}, {}))
    assert card.texts.count("not defined") == 1
    assert not any("nan" in text for text in card.texts)


def test_a_data_sheet_shows_the_registry_and_the_counts():
    entry = ku.data.source("loanapp")
    sheet = Page(data_sheet(entry["title"], entry, {"rows": "1,958"}, {"By race": {"race": ["x"]}}))
    for wanted in (entry["title"], entry["citation"], entry["license"], "rows", "1,958"):
        assert wanted in sheet.texts
    assert any(entry["harms"][:40] in text for text in sheet.texts)
