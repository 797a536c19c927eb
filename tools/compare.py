"""Compare a notebook cell's outputs: text exactly, numbers within the cell's declared tolerance.

A cell declares tolerances in its metadata, per number: `"tolerance": {"accuracy (%)": 0.3}`.
A number's label is, in an HTML table, the header of its column; for a glued number its name;
in other text the words before it on its line ("loss" in "loss 0.31"). A number without words
before it is labeled by the last words on the line and its place: in "CNN  98.1  51,000" the
labels are "CNN" and "CNN[2]".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from typing import NamedTuple

# nbval does not compare these either: pictures, and what changes with the kernel's state
SKIPPED = {"image/png", "image/jpeg", "application/vnd.jupyter.widget-view+json"}
NUMBER = re.compile(r"(?<![\w.])[-−+]?\d(?:[\d,]*\d)?(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.]*\d)")
NOT_LABEL = " \t:=,;()|±%–-·✓≥≤<>~≈"


class Text(NamedTuple):
    """One comparable piece of output."""

    kind: str  # "stdout", "text/plain", "text/html", …
    glued: str  # name of a glued number, or ""
    body: str


class Spot(NamedTuple):
    """A number in a text: where it stands, its label, its value."""

    start: int
    end: int
    label: str
    value: float


def texts(outputs: Iterable[Mapping]) -> list[Text]:
    """Return the comparable texts of a cell, streams joined, in a fixed order."""
    streams: dict[str, str] = {}
    found = []
    for out in outputs:
        if out["output_type"] == "stream":
            streams[out["name"]] = streams.get(out["name"], "") + _joined(out["text"])
        elif out["output_type"] == "error":
            found.append(Text("error", "", f"{out['ename']}: {out['evalue']}"))
        else:
            name = out.get("metadata", {}).get("scrapbook", {}).get("name", "")
            for kind, body in sorted(out["data"].items()):
                found.append(Text(kind, name, "" if kind in SKIPPED else _joined(body)))
    return [Text(name, "", body) for name, body in sorted(streams.items())] + found


def _joined(body: object) -> str:
    return "".join(body) if isinstance(body, list) else str(body)


def numbers(text: Text) -> list[Spot]:
    """Return every number of a text with its label."""
    if text.kind == "text/html":
        return _html_numbers(text.body)
    found, line_start = [], 0
    for line in text.body.splitlines(keepends=True):
        label, place, previous = "", 1, 0
        for match in NUMBER.finditer(line):
            words = line[previous : match.start()].strip(NOT_LABEL)
            label, place = (words, 1) if words else (label, place + 1)
            name = text.glued or (label if place == 1 else f"{label}[{place}]")
            found.append(_spot(match, line_start, name))
            previous = match.end()
        line_start += len(line)
    return found


def _spot(match: re.Match, offset: int, label: str) -> Spot:
    value = float(match[0].replace(",", "").replace("−", "-"))
    return Spot(offset + match.start(), offset + match.end(), label, value)


class _Cells(HTMLParser):
    """Collects (offset, text, column) of each piece of text in a table."""

    def __init__(self, body: str) -> None:
        super().__init__(convert_charrefs=False)
        self.line_starts = [0]
        for line in body.splitlines(keepends=True):
            self.line_starts.append(self.line_starts[-1] + len(line))
        self.column, self.in_head = -1, False
        self.headers: list[str] = []
        self.pieces: list[tuple[int, str, int]] = []
        self.feed(body)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "thead":
            self.in_head, self.headers = True, []
        elif tag == "tr":
            self.column = -1
        elif tag in ("td", "th"):
            self.column += 1
            if self.in_head:
                self.headers.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "thead":
            self.in_head = False

    def handle_data(self, data: str) -> None:
        if self.in_head and self.headers:
            self.headers[-1] += data.strip()
        line, column = self.getpos()
        place = -1 if self.in_head else self.column  # a header's own number is exact
        self.pieces.append((self.line_starts[line - 1] + column, data, place))


def _html_numbers(body: str) -> list[Spot]:
    cells = _Cells(body)
    found = []
    for offset, data, column in cells.pieces:
        header = cells.headers[column] if 0 <= column < len(cells.headers) else ""
        found += [_spot(match, offset, header) for match in NUMBER.finditer(data)]
    return found


def differences(
    reference: Iterable[Mapping], fresh: Iterable[Mapping], tolerance: Mapping[str, float]
) -> list[str]:
    """Return one sentence for each difference that `tolerance` does not cover; [] if equal."""
    return text_differences(texts(reference), texts(fresh), tolerance)


def text_differences(old: list[Text], new: list[Text], tolerance: Mapping[str, float]) -> list[str]:
    """Return the same for outputs that were already taken apart by `texts`."""
    if [(t.kind, t.glued) for t in old] != [(t.kind, t.glued) for t in new]:
        return [f"the outputs are of other kinds: {_kinds(old)} before, {_kinds(new)} now"]
    found = []
    for before, after in zip(old, new, strict=True):
        spots_before = [s for s in numbers(before) if s.label in tolerance]
        spots_after = [s for s in numbers(after) if s.label in tolerance]
        if _blank(before.body, spots_before) != _blank(after.body, spots_after):
            found.append(f"{before.kind} differs:\n{_diff(before.body, after.body)}")
            continue
        for a, b in zip(spots_before, spots_after, strict=True):
            if not abs(a.value - b.value) <= tolerance[a.label] * (1 + 1e-9):
                found.append(
                    f"{a.label!r} was {a.value:g} and is {b.value:g}: "
                    f"further apart than its tolerance {tolerance[a.label]:g}"
                )
    return found


def unused(outputs: Iterable[Mapping], tolerance: Mapping[str, float]) -> set[str]:
    """Return the labels in `tolerance` that name no number of the outputs."""
    return set(tolerance) - {spot.label for text in texts(outputs) for spot in numbers(text)}


def _kinds(found: list[Text]) -> str:
    return ", ".join(t.glued or t.kind for t in found) or "nothing"


def _blank(body: str, spots: list[Spot]) -> str:
    """Return the text with the tolerated numbers taken out; then alignment does not count."""
    for spot in reversed(spots):
        body = f"{body[: spot.start]}#{body[spot.end :]}"
    return re.sub(r"[ ─]+", " ", body) if spots else body


def _diff(before: str, after: str) -> str:
    from difflib import ndiff

    lines = ndiff(before.splitlines(), after.splitlines())
    return "\n".join(line for line in lines if line[:1] in "+-")
