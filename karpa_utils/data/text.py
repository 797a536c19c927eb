"""The three corpora written for this book: headlines, customer questions, sentences with entities.

Each is one readable file in karpa_utils/corpora with its split in the first column, and a data
sheet beside it.
"""

from __future__ import annotations

import csv
import re
from importlib.resources import files
from typing import NamedTuple

from karpa_utils.errors import BadInput

ENTITY_TYPES = ("PER", "ORG", "LOC", "DATE")
TAGS = ("O", *(f"{position}-{kind}" for kind in ENTITY_TYPES for position in "BI"))

_TOKEN = re.compile(r"\w+|[^\w\s]")
_MARKED = re.compile(rf"\[([^\[\]|]+)\|({'|'.join(ENTITY_TYPES)})\]")


class Texts(NamedTuple):
    """A data set of labeled texts; each part is a pair (texts, labels) of equally long lists.

    Two parallel lists, not a list of pairs, because vectorizers and tokenizers take a list of
    strings and losses and metrics a list of class indices. labels index into classes.
    """

    train: tuple[list[str], list[int]]
    valid: tuple[list[str], list[int]]
    test: tuple[list[str], list[int]]
    classes: tuple[str, ...]
    name: str


class Questions(NamedTuple):
    """Customer questions; each part is (texts, labels, answer_ids), three equally long lists.

    labels index into classes (the intents, out_of_scope last); answers maps an answer_id to the
    text the shop would send, and every answer_id is in it.
    """

    train: tuple[list[str], list[int], list[str]]
    valid: tuple[list[str], list[int], list[str]]
    test: tuple[list[str], list[int], list[str]]
    classes: tuple[str, ...]
    answers: dict[str, str]
    name: str


class Sentences(NamedTuple):
    """Sentences with entities; each part is (sentences, tags), two equally long lists.

    sentences[i] is a list of tokens and tags[i] its BIO tags, as strings because that is what
    people and entity metrics read; classes lists the tags, so classes.index(tag) is its number.
    """

    train: tuple[list[list[str]], list[list[str]]]
    valid: tuple[list[list[str]], list[list[str]]]
    test: tuple[list[list[str]], list[list[str]]]
    classes: tuple[str, ...]
    name: str


def headlines() -> Texts:
    """Return the financial headlines in three classes: negative, neutral, positive.

    Written for this book; the label is what the news means for the company or market that the
    headline is about. Its data sheet is karpa_utils/corpora/headlines.md.
    """
    rows = _rows("headlines.tsv", ("split", "label", "style", "headline"))
    classes = ("negative", "neutral", "positive")
    parts = []
    for split in ("train", "valid", "test"):
        part = [row for row in rows if row["split"] == split]
        labels = [classes.index(row["label"]) for row in part]
        parts.append(([row["headline"] for row in part], labels))
    return Texts(*parts, classes=classes, name="headlines")


def questions() -> Questions:
    """Return the customer questions: 12 intents and out_of_scope, with an answer to each question.

    Written for this book, to a shop that does not exist. Its data sheet is
    karpa_utils/corpora/questions.md.
    """
    answers = {
        row["answer_id"]: row["answer"]
        for row in _rows("answers.tsv", ("answer_id", "intent", "answer"))
    }
    rows = _rows("questions.tsv", ("split", "intent", "answer_id", "style", "question"))
    intents = sorted({row["intent"] for row in rows} - {"out_of_scope"})
    classes = (*intents, "out_of_scope")
    parts = []
    for split in ("train", "valid", "test"):
        part = [row for row in rows if row["split"] == split]
        texts = [row["question"] for row in part]
        labels = [classes.index(row["intent"]) for row in part]
        parts.append((texts, labels, [row["answer_id"] for row in part]))
    return Questions(*parts, classes=classes, answers=answers, name="questions")


def entities() -> Sentences:
    """Return the sentences with persons, organizations, places and dates as tokens and BIO tags.

    Written for this book. Its data sheet is karpa_utils/corpora/entities.md.
    """
    rows = _rows("entities.tsv", ("split", "sentence"))
    parts = []
    for split in ("train", "valid", "test"):
        tagged = [bio(row["sentence"]) for row in rows if row["split"] == split]
        parts.append(([tokens for tokens, _ in tagged], [tags for _, tags in tagged]))
    return Sentences(*parts, classes=TAGS, name="entities")


def tokenize(sentence: str) -> list[str]:
    """Return the words and single punctuation marks of a sentence, as BERT's first step splits it.

    >>> tokenize("Lima's 2.5 m")
    ['Lima', "'", 's', '2', '.', '5', 'm']
    """
    return _TOKEN.findall(sentence)


def bio(marked: str) -> tuple[list[str], list[str]]:
    """Return the tokens and BIO tags of a sentence marked up as [surface|TYPE].

    Raises BadInput when a bracket or bar remains after the mark-up is read.

    >>> bio("[Ada Lovelace|PER] slept.")
    (['Ada', 'Lovelace', 'slept', '.'], ['B-PER', 'I-PER', 'O', 'O'])
    """
    tokens: list[str] = []
    tags: list[str] = []
    # split() with two groups gives: text, surface, type, text, surface, type, ..., text
    pieces = [*_MARKED.split(marked), None, None]
    for text, surface, kind in zip(*[iter(pieces)] * 3, strict=True):
        if set(text) & set("[]|"):
            raise BadInput(f"The mark-up of {marked!r} cannot be read: expected [surface|TYPE].")
        outside = tokenize(text)
        inside = tokenize(surface) if surface else []
        tokens += outside + inside
        tags += ["O"] * len(outside)
        tags += [f"{'I' if i else 'B'}-{kind}" for i in range(len(inside))]
    return tokens, tags


def _rows(file: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the rows of a tab-separated file of karpa_utils/corpora; it has no quoting.

    In a rehearsal only every third training row stays.
    """
    from karpa_utils import runtime  # here, not above: it loads torch

    path = files("karpa_utils").joinpath("corpora", file)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    for number, row in enumerate(rows, start=2):
        if tuple(row) != columns or None in row.values():
            raise BadInput(f"{path} line {number} does not have the columns {', '.join(columns)}.")
    if runtime.rehearsal_steps() is not None:
        training = [row for row in rows if row.get("split") == "train"]
        rows = training[::3] + [row for row in rows if row.get("split") != "train"]
    return rows
