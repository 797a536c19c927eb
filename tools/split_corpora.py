"""Split the book's corpora, look for near-duplicates, and measure how easy they are.

    python tools/split_corpora.py            # report; complain when a split is out of date
    python tools/split_corpora.py --write    # assign every row's split anew

The split stands in the first column of karpa_utils/corpora/*.tsv. It follows from the texts alone:
near-duplicates form groups, groups are ordered by a hash, and each goes to test, valid or train
while its strata (class, answer, entity types) have room there. No random number generator is used,
so the result does not depend on a library's version. --write sets the split of a new row too.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from karpa_utils.data import text  # noqa: E402

CORPORA = ROOT / "karpa_utils" / "corpora"
COSINE, JACCARD = 0.6, 0.5  # at or above: near-duplicates, kept on one side of the split
SEED = "karpa corpora, first edition"
SHARES = {  # of the rows, per corpus: the test part must hold 300 and more
    "headlines": {"test": 0.29, "valid": 0.10},
    "questions": {"test": 0.29, "valid": 0.10},
    "entities": {"test": 0.42, "valid": 0.10},
}
Row = dict[str, str]
Pair = tuple[float, float, int, int]  # cosine, Jaccard, row, row


def read(name: str) -> list[Row]:
    """Return the rows of one corpus as they stand in its file."""
    with (CORPORA / f"{name}.tsv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def write(name: str, rows: list[Row]) -> None:
    """Write the rows of one corpus back, with their splits."""
    with (CORPORA / f"{name}.tsv").open("w", encoding="utf-8", newline="") as stream:
        lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
        stream.write("\n".join(lines) + "\n")


def plain(name: str, row: Row) -> str:
    """Return the text of a row, entities without their mark-up."""
    if name == "entities":
        return text._MARKED.sub(r"\1", row["sentence"])
    return row["headline" if name == "headlines" else "question"]


def stratum(name: str, row: Row) -> str:
    """Return what each part gets its share of: classes or answers, with styles, or entity types."""
    if name == "entities":
        return "+".join(sorted({kind for _, kind in text._MARKED.findall(row["sentence"])}))
    if name == "headlines":
        return f"{row['label']} {row['style']}"
    return f"{row['intent']} {row['answer_id']} {row['style']}"


def similarities(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (cosine, jaccard), each (N, N) with a zero diagonal.

    cosine: TF-IDF vectors of character 3- to 5-grams; jaccard: sets of lower-case words.
    """
    grams = TfidfVectorizer(analyzer="char", ngram_range=(3, 5)).fit_transform(texts)
    cosine = (grams @ grams.T).toarray()  # (N, N)
    words = CountVectorizer(binary=True, token_pattern=r"\w+").fit_transform(texts)
    shared = (words @ words.T).toarray().astype(float)  # (N, N)
    sizes = shared.diagonal()
    jaccard = shared / np.maximum(sizes[:, None] + sizes[None, :] - shared, 1)
    np.fill_diagonal(cosine, 0)
    np.fill_diagonal(jaccard, 0)
    return cosine, jaccard


def near_pairs(texts: list[str]) -> list[Pair]:
    """Return the pairs of near-duplicates, the closest first."""
    cosine, jaccard = similarities(texts)
    rows, others = np.nonzero(np.triu((cosine >= COSINE) | (jaccard >= JACCARD)))
    pairs = [
        (cosine[i, j], jaccard[i, j], int(i), int(j)) for i, j in zip(rows, others, strict=True)
    ]
    return sorted(pairs, reverse=True)


def groups(size: int, pairs: list[Pair]) -> list[list[int]]:
    """Return the connected components of the near-duplicate pairs, single rows included."""
    leader = list(range(size))

    def find(i: int) -> int:
        while leader[i] != i:
            leader[i] = i = leader[leader[i]]
        return i

    for _, _, i, j in pairs:
        leader[find(i)] = find(j)
    members: dict[int, list[int]] = {}
    for i in range(size):
        members.setdefault(find(i), []).append(i)
    return list(members.values())


def assign(texts: list[str], strata: list[str], shares: dict[str, float]) -> list[str]:
    """Return the split of each row: "test", "valid" or "train".

    shares: of all rows, for test and valid; each stratum gets its part of them, rounded so that
    the totals are exact. A group goes where all its rows have room, else to train.
    """
    room: dict[tuple[str, str], int] = {}
    for split, share in shares.items():
        passed = 0  # rows in the strata before this one
        for name, size in sorted(Counter(strata).items()):
            room[split, name] = round((passed + size) * share) - round(passed * share)
            passed += size

    def order(group: list[int]) -> str:
        return min(hashlib.sha256(f"{SEED}\t{texts[i]}".encode()).hexdigest() for i in group)

    splits = ["train"] * len(texts)
    for group in sorted(groups(len(texts), near_pairs(texts)), key=order):
        need = Counter(strata[i] for i in group)
        for split in shares:
            if all(room[split, name] >= count for name, count in need.items()):
                for name, count in need.items():
                    room[split, name] -= count
                for i in group:
                    splits[i] = split
                break
    return splits


def spans(tags: list[str]) -> set[tuple[int, int, str]]:
    """Return the entities (first token, past the last, type) of valid BIO tags."""
    found = set()
    for start, tag in enumerate(tags):
        if tag[0] == "B":
            stop = start + 1
            while stop < len(tags) and tags[stop] == f"I-{tag[2:]}":
                stop += 1
            found.add((start, stop, tag[2:]))
    return found


def entity_f1(gold: list[list[str]], predicted: list[list[str]]) -> float:
    """Return the micro F1 over entities: boundaries and type must both be right.

    A predicted I- without a B- before it starts no entity.
    """
    pairs = [(spans(one), spans(other)) for one, other in zip(gold, predicted, strict=True)]
    right = sum(len(one & other) for one, other in pairs)
    return 2 * right / max(1, sum(len(one) + len(other) for one, other in pairs))


def text_baselines(train: tuple, test: tuple) -> dict[str, float]:
    """Return test accuracies: the most frequent class, and logistic regression on words.

    Each part is (texts, labels, ...). Words: TF-IDF of word 1- and 2-grams.
    """
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", sublinear_tf=True),
        LogisticRegression(C=10, max_iter=2000),
    ).fit(train[0], train[1])
    majority = Counter(train[1]).most_common(1)[0][0]
    return {
        "majority": float(np.mean(np.array(test[1]) == majority)),
        "words": float(model.score(test[0], test[1])),
    }


def shape(token: str) -> str:
    """Return the shape of a token: Xx for Lima, XX for BBC, dd for 12, ' for '."""
    drawn = re.sub(r"[^\W\d_]", lambda m: "X" if m[0].isupper() else "x", token)
    return re.sub(r"(.)\1{2,}", r"\1\1", re.sub(r"\d", "d", drawn))


def features(tokens: list[str], i: int) -> dict[str, object]:
    """Return what a tagger without memory sees: the word, its shape and ends, its neighbors."""
    seen: dict[str, object] = {}
    for offset in (-2, -1, 0, 1, 2):
        word = tokens[i + offset] if 0 <= i + offset < len(tokens) else "<edge>"
        seen[f"word {offset}"] = word.lower()
        if abs(offset) < 2:
            seen[f"shape {offset}"] = shape(word)
    seen["prefix"], seen["suffix"] = tokens[i][:3].lower(), tokens[i][-3:].lower()
    return seen


def tag_baselines(train: tuple, test: tuple) -> dict[str, float]:
    """Return test entity-F1: each token's most frequent tag, and logistic regression on features.

    Each part is (sentences, tags). The most frequent tag of an unseen token is O; all-O scores 0.
    """
    counts: dict[str, Counter] = {}
    for tokens, tags in zip(*train, strict=True):
        for token, tag in zip(tokens, tags, strict=True):
            counts.setdefault(token, Counter())[tag] += 1
    memory = {token: seen.most_common(1)[0][0] for token, seen in counts.items()}
    X = [features(tokens, i) for tokens in train[0] for i in range(len(tokens))]
    y = [tag for tags in train[1] for tag in tags]
    model = make_pipeline(DictVectorizer(), LogisticRegression(C=10, max_iter=2000)).fit(X, y)
    predicted = [
        list(model.predict([features(tokens, i) for i in range(len(tokens))])) for tokens in test[0]
    ]
    return {
        "majority": entity_f1(test[1], [["O"] * len(tags) for tags in test[1]]),
        "memory": entity_f1(test[1], [[memory.get(t, "O") for t in tokens] for tokens in test[0]]),
        "words": entity_f1(test[1], predicted),
    }


def unseen_surfaces(train: tuple, test: tuple) -> dict[str, tuple[int, int]]:
    """Return per entity type, and for "all", (test mentions not named in train, test mentions).

    A mention counts as seen when train has the same tokens with the same type, whatever the case.
    """

    def mentions(part: tuple) -> list[tuple[str, str]]:
        return [
            (kind, " ".join(tokens[start:stop]).lower())
            for tokens, tags in zip(*part, strict=True)
            for start, stop, kind in sorted(spans(tags))
        ]

    seen = set(mentions(train))
    found: dict[str, tuple[int, int]] = {}
    for kind, surface in mentions(test):
        for key in (kind, "all"):
            new, total = found.get(key, (0, 0))
            found[key] = new + ((kind, surface) not in seen), total + 1
    return found


def count_table(name: str, rows: list[Row]) -> str:
    """Return the markdown table of counts per class (entities: mentions per type) and split."""
    splits = ("train", "valid", "test")
    counts: Counter = Counter()
    for row in rows:
        if name == "entities":
            for _, kind in text._MARKED.findall(row["sentence"]):
                counts[kind, row["split"]] += 1
        else:
            counts[row["label" if name == "headlines" else "intent"], row["split"]] += 1
        counts["all rows", row["split"]] += 1
    names = [*sorted({key for key, _ in counts} - {"all rows"}), "all rows"]
    lines = ["| | train | valid | test | all |", "|---|---:|---:|---:|---:|"]
    for key in names:
        cells = [counts[key, split] for split in splits]
        lines.append(f"| {key} | " + " | ".join(map(str, [*cells, sum(cells)])) + " |")
    return "\n".join(lines)


def duplicate_report(name: str, rows: list[Row]) -> str:
    """Return the near-duplicate report: pairs in all, closest pairs across the split."""
    texts = [plain(name, row) for row in rows]
    pairs = near_pairs(texts)
    cosine, jaccard = similarities(texts)
    split = np.array([row["split"] for row in rows])
    across = np.triu(split[:, None] != split[None, :])
    crossing = sum(1 for _, _, i, j in pairs if split[i] != split[j])
    sizes = sorted((len(group) for group in groups(len(rows), pairs)), reverse=True)
    lines = [
        f"near-duplicate pairs (cosine >= {COSINE} or Jaccard >= {JACCARD}): {len(pairs)}, "
        f"of them across the split: {crossing}",
        f"groups of two and more: {sum(size > 1 for size in sizes)}, the largest: {sizes[0]} rows",
        f"highest similarity across the split: cosine {np.max(cosine * across):.3f}, "
        f"Jaccard {np.max(jaccard * across):.3f}",
        "the five closest pairs across the split:",
    ]
    best = np.argsort(cosine * across, axis=None, kind="stable")[::-1][:5]
    for i, j in zip(*np.unravel_index(best, cosine.shape), strict=True):
        lines.append(f"  {cosine[i, j]:.3f}  {split[i]}: {texts[i]}  |  {split[j]}: {texts[j]}")
    return "\n".join(lines)


def main() -> None:
    """Report on every corpus; with --write, set the splits first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="assign every row's split anew")
    arguments = parser.parse_args()
    stale = []
    for name, shares in SHARES.items():
        rows = read(name)
        texts = [plain(name, row) for row in rows]
        splits = assign(texts, [stratum(name, row) for row in rows], shares)
        if arguments.write:
            for row, split in zip(rows, splits, strict=True):
                row["split"] = split
            write(name, rows)
        elif splits != [row["split"] for row in rows]:
            stale.append(name)
        print(f"## {name}\n\n{count_table(name, rows)}\n\n{duplicate_report(name, rows)}")
        if name == "entities":
            loaded = text.entities()
            print("baselines (entity F1):", tag_baselines(loaded.train, loaded.test))
            print("unseen mentions in test:", unseen_surfaces(loaded.train, loaded.test))
        else:
            loaded = getattr(text, name)()
            print("baselines (accuracy):", text_baselines(loaded.train, loaded.test))
        print()
    if stale:
        raise SystemExit(f"The split of {', '.join(stale)} is out of date: run with --write.")


if __name__ == "__main__":
    main()
