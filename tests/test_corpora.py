"""The book's own corpora: whole, split without leaks, neither trivial nor hopeless."""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from karpa_utils import data
from karpa_utils.data import text
from karpa_utils.errors import BadInput

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("split_corpora", ROOT / "tools/split_corpora.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

NAMES = ("headlines", "questions", "entities")


@pytest.fixture(scope="module", params=NAMES)
def corpus(request):
    """(name, rows, plain texts) of each corpus in turn."""
    rows = tool.read(request.param)
    return request.param, rows, [tool.plain(request.param, row) for row in rows]


def normalized(sentence):
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", sentence).casefold()))


def test_sizes():
    rows = {name: Counter(row["split"] for row in tool.read(name)) for name in NAMES}
    for name, counts in rows.items():
        assert set(counts) == {"train", "valid", "test"}, name
        assert counts["test"] >= 300, name
        assert 0.08 <= counts["valid"] / counts.total() <= 0.12, name
    assert rows["headlines"].total() >= 1000
    assert rows["entities"].total() >= 400
    intents = Counter(row["intent"] for row in tool.read("questions"))
    assert intents.pop("out_of_scope") >= 200
    assert len(intents) == 12
    assert min(intents.values()) >= 100


def test_rows_are_clean(corpus):
    _, rows, _ = corpus
    for row in rows:
        for cell in row.values():
            assert cell
            assert cell == cell.strip()
            assert "  " not in cell
            assert cell == unicodedata.normalize("NFC", cell)
            assert not {unicodedata.category(c) for c in cell} & {"Cc", "Cf", "Co", "Cn"}, cell


def test_no_text_stands_twice(corpus):
    _, _, texts = corpus
    counts = Counter(map(normalized, texts))
    assert [one for one, count in counts.items() if count > 1] == []


def test_no_near_duplicates_across_the_split(corpus):
    _, rows, texts = corpus
    crossing = [
        (cosine, jaccard, texts[i], texts[j])
        for cosine, jaccard, i, j in tool.near_pairs(texts)
        if rows[i]["split"] != rows[j]["split"]
    ]
    assert crossing == []


def test_similarities_against_the_definition():
    texts = ["the bank cut rates", "the bank raised rates", "rain", "Rain rain"]
    cosine, jaccard = tool.similarities(texts)
    words = [set(one.lower().split()) for one in texts]
    for i in range(4):
        for j in range(4):
            expected = 0 if i == j else len(words[i] & words[j]) / len(words[i] | words[j])
            assert jaccard[i, j] == pytest.approx(expected)
            assert cosine[i, j] == pytest.approx(cosine[j, i])
    assert cosine[0, 1] > cosine[0, 2]
    assert cosine[2, 3] > 0.5


def test_the_split_follows_from_the_texts(corpus):
    """Re-computed it is the same, in whatever order the rows stand."""
    name, rows, texts = corpus
    strata = [tool.stratum(name, row) for row in rows]
    splits = tool.assign(texts, strata, tool.SHARES[name])
    assert splits == [row["split"] for row in rows]
    assert tool.assign(texts[::-1], strata[::-1], tool.SHARES[name])[::-1] == splits


def test_a_group_is_never_torn():
    texts = [f"the {word} bank cut its rates on Monday" for word in ("old", "new", "big", "sad")]
    texts += ["rain", "snow", "hail", "fog", "sun", "wind"]
    splits = tool.assign(texts, ["all"] * 10, {"test": 0.5, "valid": 0.1})
    assert len(set(splits[:4])) == 1
    assert splits.count("test") <= 5


def test_strata_have_their_share(corpus):
    name, rows, _ = corpus
    sizes = Counter(tool.stratum(name, row) for row in rows)
    tests = Counter(tool.stratum(name, row) for row in rows if row["split"] == "test")
    share = tool.SHARES[name]["test"]
    for stratum, size in sizes.items():
        assert abs(tests[stratum] - share * size) < 2, stratum


def test_every_question_has_its_answer():
    loaded = data.questions()
    intents = {
        row["answer_id"]: row["intent"]
        for row in text._rows("answers.tsv", ("answer_id", "intent", "answer"))
    }
    assert set(intents) == set(loaded.answers)
    used = set()
    for _, labels, answer_ids in loaded[:3]:
        for label, answer_id in zip(labels, answer_ids, strict=True):
            assert intents[answer_id] == loaded.classes[label]
            used.add(answer_id)
    assert used == set(loaded.answers)
    assert set(loaded.train[2]) == used  # each answer can be learned
    assert all(len(answer.split()) > 10 for answer in loaded.answers.values())


def test_plain_questions_are_balanced_and_vary():
    """45 an intent and 40 out of scope; among them no opening returns more than five times."""
    rows = tool.read("questions")
    assert {row["style"] for row in rows} == {"plain", "idiomatic"}
    plain = [row for row in rows if row["style"] == "plain"]
    counts = Counter(row["intent"] for row in plain)
    assert counts.pop("out_of_scope") == 40
    assert set(counts.values()) == {45}
    openings = Counter((row["intent"], row["question"].lower().split()[0]) for row in plain)
    assert max(openings.values()) <= 5, openings.most_common(3)


def test_loaders_give_every_row():
    for name in NAMES:
        loaded, rows = getattr(data, name)(), tool.read(name)
        assert loaded.name == name
        for part, split in zip(loaded[:3], ("train", "valid", "test"), strict=True):
            mine = [row for row in rows if row["split"] == split]
            assert {len(column) for column in part} == {len(mine)}
            if name != "entities":
                assert part[0] == [tool.plain(name, row) for row in mine]
                labels = [row["label" if name == "headlines" else "intent"] for row in mine]
                assert [loaded.classes[label] for label in part[1]] == labels
    assert data.headlines().classes == ("negative", "neutral", "positive")
    assert data.questions().classes[-1] == "out_of_scope"


def test_a_rehearsal_keeps_every_third_training_row(monkeypatch):
    whole = {name: getattr(data, name)() for name in NAMES}
    monkeypatch.setenv("KARPA_STEPS", "2")
    for name in NAMES:
        few = getattr(data, name)()
        assert few.train[0] == whole[name].train[0][::3]
        assert few.train[1] == whole[name].train[1][::3]
        assert few[1:] == whole[name][1:]


def test_tags_are_valid_bio():
    loaded = data.entities()
    for sentences, tags in loaded[:3]:
        for tokens, marks in zip(sentences, tags, strict=True):
            assert len(tokens) == len(marks) > 0
            assert set(marks) <= set(loaded.classes)
            for before, mark in zip(["O", *marks], marks, strict=False):
                if mark[0] == "I":
                    assert before in (f"B-{mark[2:]}", mark), (tokens, marks)


def test_markup_and_tags_say_the_same():
    """Entities read back from the tags are those of the mark-up, and no mark cuts a word in two."""
    for row in tool.read("entities"):
        tokens, tags = text.bio(row["sentence"])
        assert tokens == text.tokenize(tool.plain("entities", row))
        found = [(kind, tokens[start:stop]) for start, stop, kind in sorted(tool.spans(tags))]
        marked = text._MARKED.findall(row["sentence"])
        assert found == [(kind, text.tokenize(surface)) for surface, kind in marked]


@pytest.mark.parametrize("broken", ["[Ada|PRE] slept.", "[Ada PER] slept.", "Ada] slept.", "a | b"])
def test_broken_markup_is_refused(broken):
    with pytest.raises(BadInput, match="surface"):
        text.bio(broken)


def test_a_file_with_other_columns_is_refused():
    with pytest.raises(BadInput, match=r"headlines\.tsv line 2"):
        text._rows("headlines.tsv", ("split", "headline"))


def test_entity_f1_against_counting_by_hand():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "O"]]
    assert tool.entity_f1(gold, gold) == 1
    assert tool.entity_f1(gold, [["B-PER", "O", "O", "B-LOC"], ["O", "O"]]) == 0.5
    # 1 of 2 found, 1 of 3 claimed right: F1 = 2 * 1 / (2 + 3)
    assert tool.entity_f1(gold, [["B-PER", "I-PER", "O", "O"], ["B-ORG", "B-ORG"]]) == 0.4
    assert tool.entity_f1(gold, [["I-PER", "I-PER", "O", "O"], ["O", "O"]]) == 0


@pytest.mark.parametrize("name", ["headlines", "questions"])
def test_words_alone_are_not_enough_and_not_nothing(name):
    loaded = getattr(data, name)()
    scores = tool.text_baselines(loaded.train, loaded.test)
    assert scores["majority"] + 0.1 < scores["words"] <= 0.95
    assert stated(name) == pytest.approx([scores["majority"], scores["words"]], abs=0.01)


def test_tagging_without_context_is_not_enough_and_not_nothing():
    loaded = data.entities()
    scores = tool.tag_baselines(loaded.train, loaded.test)
    assert scores["majority"] == 0
    assert 0.1 < scores["memory"] < scores["words"] <= 0.95
    new, total = tool.unseen_surfaces(loaded.train, loaded.test)["all"]
    assert f"{new} of {total}" in sheet("entities")
    assert stated("entities") == pytest.approx(list(scores.values()), abs=0.01)


def sheet(name):
    return files("karpa_utils").joinpath("corpora", f"{name}.md").read_text(encoding="utf-8")


def stated(name):
    """The scores that a data sheet gives for the baselines which the tests repeat."""
    lines = re.findall(r"^- (?:majority|everything|memory|words).*?: ([\d.]+) %", sheet(name), re.M)
    return [float(line) / 100 for line in lines]


def test_data_sheets_hold_the_measured_numbers(corpus):
    name, rows, _ = corpus
    assert tool.count_table(name, rows) in sheet(name)
    for line in tool.duplicate_report(name, rows).splitlines()[:3]:
        assert line in " ".join(sheet(name).split())
    assert "CC BY 4.0" in sheet(name)


def test_registry_rows_are_the_measured_ones():
    for name in NAMES:
        counts = Counter(row["split"] for row in tool.read(name))
        said = "{train:,} train, {valid} valid, {test} test".format(**counts)
        assert data.source(name)["rows"].startswith(said)
        assert data.source(name)["embedded"]
