"""Tables that are generated at build time from committed data: one directive for each."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from docutils import nodes
from karpa_record import (
    DOCUMENTS,
    PARTS,
    Record,
    bound,
    duration,
    load_results,
    load_toml,
    margin,
    memory,
    notebook_cells,
    number,
    reading_order,
    short,
)
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

Cell = str | nodes.Node | Sequence[nodes.Node]
CLAIM_HEADERS = ("Claim", "Bound", "Measured", "Margin")
ROLES = {
    "headline": "headline",
    "control": "negative control",
    "solution": "exercise",
    "erratum": "erratum",
    "correction": "correction",
}
SHEET = {
    "modality": "Modality",
    "license": "License",
    "citation": "Cite as",
    "rows": "Rows",
    "harms": "Known harms",
    "notes": "Notes",
}


# --------------------------------------------------------------------------------------------------
# Nodes


def span(text: str, *classes: str) -> nodes.inline:
    """Return inline text with classes."""
    return nodes.inline("", text, classes=list(classes))


def paragraph(*content: str | nodes.Node, kind: str = "") -> nodes.paragraph:
    """Return a paragraph of text and inline nodes."""
    inside = [nodes.Text(c) if isinstance(c, str) else c for c in content]
    return nodes.paragraph("", "", *inside, classes=[kind] if kind else [])


def section(title: str, key: str, *content: nodes.Node) -> nodes.section:
    """Return a section whose anchor is made of `key`."""
    return nodes.section(
        "", nodes.title("", title), *content, ids=[nodes.make_id(key)], names=[key]
    )


def table(headers: Sequence[str], rows: Iterable[Sequence[Cell]], kind: str) -> nodes.table:
    """Return a table. On a phone each row becomes a card: `karpa.css` knows the table by `kind`."""

    def entry(cell: Cell) -> nodes.entry:
        parts = [cell] if isinstance(cell, (str, nodes.Node)) else cell
        return nodes.entry(
            "", *[p if isinstance(p, nodes.paragraph) else paragraph(p) for p in parts]
        )

    def row(cells: Sequence[Cell]) -> nodes.row:
        return nodes.row("", *[entry(cell) for cell in cells])

    group = nodes.tgroup("", *[nodes.colspec(colwidth=1) for _ in headers], cols=len(headers))
    group += [nodes.thead("", row(headers)), nodes.tbody("", *[row(cells) for cells in rows])]
    return nodes.table("", group, classes=["record-table", kind])


def linked(text: str) -> nodes.paragraph:
    """Return text in which addresses are links, `code` stands as code and $formulas$ as such."""
    parts: list[nodes.Node] = []
    for piece in re.split(r"(https?://[^\s)>;,]+|`[^`]+`|\$[^$]+\$)", text):
        if piece.startswith("http"):
            parts.append(nodes.reference("", piece, refuri=piece))
        elif len(piece) > 2 and piece[0] == piece[-1] == "$":
            parts.append(nodes.math("", piece[1:-1]))
        elif piece:
            code = len(piece) > 2 and piece[0] == piece[-1] == "`"
            parts.append(nodes.literal("", piece[1:-1]) if code else nodes.Text(piece))
    return paragraph(*parts)


def claim_cells(claim: Record) -> list[Cell]:
    """Return sentence, bound, measured value and margin of one claim."""
    sentence = [span("✓ ", "tick"), nodes.Text(claim["sentence"])]
    if role := ROLES.get(claim.get("role") or ""):
        sentence += [nodes.Text(" "), span(role, "role", claim["role"])]
    return [paragraph(*sentence), bound(claim), number(claim.get("value")), short(margin(claim))]


def checked_sentence(claim: Record) -> nodes.paragraph:
    """Return a claim's sentence and, where there is one, the number behind it with its bound."""
    parts: list[str | nodes.Node] = [span("✓ ", "tick"), claim["sentence"]]
    if not isinstance(claim.get("value"), bool):
        found = number(claim["value"])
        text = found if bound(claim) == f"= {found}" else f"{found} ({bound(claim)})"
        parts += [nodes.Text(": "), span(text, "measured")]
    return paragraph(*parts, kind="checked")


def document_note(document: str) -> list[nodes.Node]:
    """Return the line under a document's heading: its title in Chinese and what it is about."""
    title, about = DOCUMENTS.get(document, ("", ""))
    text = f"«{title}»: {about}." if title else f"{about[:1].upper()}{about[1:]}."
    return [paragraph(text, kind="document-note")] if about else []


def natural(text: str) -> list[Any]:
    """Return a sort key that puts §3.10 after §3.9."""
    return [(int(p), "") if p.isdigit() else (0, p) for p in re.split(r"(\d+)", text)]


class Generated(SphinxDirective):
    """A directive without arguments whose content comes from data; subclasses write `build`."""

    nothing_yet = "Nothing is recorded yet."

    def run(self) -> list[nodes.Node]:
        """Return the content, or one sentence where there is no data yet."""
        return self.build(Path(self.env.srcdir)) or [
            paragraph(self.nothing_yet, kind="nothing-yet")
        ]

    def build(self, root: Path) -> list[nodes.Node]:
        """Return the content made from the data below the book's root."""
        raise NotImplementedError

    def title(self, notebook: str) -> str:
        """Return the title of a notebook: its first heading, else its name."""
        for cell in notebook_cells(Path(self.env.srcdir), notebook)[:1]:
            if found := re.search(r"^# (.+)$", "".join(cell["source"]), re.M):
                return found[1].strip()
        return notebook.split("/")[-1].replace("_", " ").capitalize()

    def page_link(self, notebook: str, text: str = "") -> nodes.Node:
        """Return a link to a notebook's page; its title alone where the book has no such page."""
        shown, docname = span(text or self.title(notebook)), f"notebooks/{notebook}"
        if docname not in self.env.found_docs:
            return shown
        about = {"refdomain": "std", "reftype": "doc", "reftarget": f"/{docname}"}
        about |= {"refdoc": self.env.docname, "refexplicit": True, "refwarn": True}
        return addnodes.pending_xref("", shown, **about)

    def by_part(self, key: str, chapters: dict[str, list[nodes.Node]]) -> list[nodes.Node]:
        """Return a section for each part, in it one for each notebook that has content."""
        parts: dict[str, list[nodes.Node]] = defaultdict(list)
        for name, content in chapters.items():
            link = paragraph(self.page_link(name, "Open the chapter"), kind="chapter-link")
            if content:
                parts[name.split("/")[0]].append(
                    section(self.title(name), f"{key} {name}", link, *content)
                )
        return [section(PARTS.get(p, p), f"{key} of {p}", *found) for p, found in parts.items()]


# --------------------------------------------------------------------------------------------------
# The directives


class ClaimsTable(Generated):
    """Every claim of the laptop run, by part and notebook."""

    nothing_yet = "No claims are recorded yet."

    def build(self, root: Path) -> list[nodes.Node]:
        """Return one section for each part."""
        return self.by_part(
            "claims",
            {
                name: [table(CLAIM_HEADERS, map(claim_cells, run["claims"]), "claims")]
                for name, run in load_results(root, "laptop").items()
                if run.get("claims")
            },
        )


class ErrataTable(Generated):
    """The claims that show and correct a fault of the documents, by document and section."""

    nothing_yet = "No erratum has been worked out yet."

    def build(self, root: Path) -> list[nodes.Node]:
        """Return one section for each document."""
        faults: dict[str, dict[str, list[tuple[str, Record]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for name, run in load_results(root, "laptop").items():
            for claim in run.get("claims", []):
                if where := claim.get("erratum"):
                    document, _, place = where.partition(" ")
                    faults[document][place].append((name, claim))
        out: list[nodes.Node] = []
        for document in sorted(faults):
            places = []
            for place in sorted(faults[document], key=natural):
                found = faults[document][place]
                where: list[nodes.Node | str] = ["Worked out in "]
                for name in dict.fromkeys(name for name, _ in found):
                    where += [self.page_link(name), ", "]
                rows: list[tuple[list[nodes.Node], list[nodes.Node]]] = []
                seen: set[str] = set()
                for _, claim in found:
                    mended, text = claim["role"] == "correction", claim.get("formula") or ""
                    if not mended and text not in seen:
                        rows.append(([], []))
                    if text not in seen:  # a formula stands above its first sentence
                        rows[-1][mended].append(linked(text))
                        seen.add(text)
                    rows[-1][mended].append(checked_sentence(claim))
                shown = table(("As printed", "Corrected"), rows, "errata")
                body = [paragraph(*where[:-1], "."), shown]
                places.append(section(place or "Throughout", f"erratum {document} {place}", *body))
            note = document_note(document)
            out.append(section(f"Essay {document}", f"errata {document}", *note, *places))
        return out


class ResultsTable(Generated):
    """The headline numbers: the laptop's beside those recorded on a larger machine."""

    nothing_yet = "No results are recorded yet."

    def build(self, root: Path) -> list[nodes.Node]:
        """Return one section for each part."""
        laptop, full = load_results(root, "laptop"), load_results(root, "full")
        return self.by_part(
            "results",
            {
                name: self.chapter(laptop.get(name, {}), full.get(name, {}))
                for name in laptop | full
            },
        )

    def chapter(self, laptop: Record, full: Record) -> list[nodes.Node]:
        """Return the table of one notebook, and what its recorded run ran on."""
        runs = [{c["sentence"]: c for c in run.get("claims", [])} for run in (laptop, full)]
        rows: list[list[Cell]] = []
        for sentence, claim in (runs[1] | runs[0]).items():
            if claim.get("role") in ("headline", "control"):
                values = [number(run.get(sentence, {}).get("value")) for run in runs]
                rows.append([*claim_cells(claim)[:2], *values])
        if not rows:
            return []
        out: list[nodes.Node] = [table(("Claim", "Bound", "Laptop", "Recorded"), rows, "results")]
        if full:
            facts = [full.get("hardware"), full["date"], duration(full.get("seconds"))]
            facts += [f"{k} {v}" for k, v in full.get("versions", {}).items()]
            text = "Recorded: " + ", ".join(fact for fact in facts if fact) + "."
            out.append(paragraph(text, kind="fine-print"))
        return out


class Headlines(Generated):
    """A picture for the first page: up to three headline claims, each above its control."""

    nothing_yet = "The first results are being recorded."

    def build(self, root: Path) -> list[nodes.Node]:
        """Return the first headline claim of each of three chapters, as bars."""
        rows: list[nodes.Node] = []
        for name, run in load_results(root, "laptop").items():
            claims = [c for c in run["claims"] if margin(c) is not None and c["value"] >= 0]
            for method, control in pairwise(claims):
                roles = (method.get("role"), control.get("role"))
                if roles == ("headline", "control") and len(rows) < 3:
                    rows.append(self.pair(name, method, control))
                    break
        legend = (
            "Bars: measured in the committed run. Line: the bound that the tests hold it to, "
            "from below for the method and from above for its control."
        )
        whole = nodes.container("", *rows, paragraph(legend), classes=["k-headlines"])
        return [whole] if rows else []

    def pair(self, notebook: str, method: Record, control: Record) -> nodes.container:
        """Return the bars of one headline claim and its control on a common scale."""
        edges = [
            c["at_most"] if c.get("at_least") is None else c["at_least"] for c in (method, control)
        ]
        whole = 100 if "%" in method["sentence"] else 0  # percentages share one scale
        full = max(whole, 1.02 * max(method["value"], control["value"], *edges)) or 1.0
        sentence = method["sentence"][0].upper() + method["sentence"][1:]
        bars = "".join(
            f'<div class="k-bar {kind}"><span>{label}</span>'
            '<span class="k-track" aria-hidden="true">'
            f'<span class="k-fill" style="width: {100 * value / full:.1f}%"></span>'
            f'<span class="k-bound" style="left: {100 * edge / full:.1f}%"></span></span>'
            f'<span class="k-value">{number(value)}</span></div>'
            for kind, label, value, edge in (
                ("method", "Measured", method["value"], edges[0]),
                ("control", "Negative control", control["value"], edges[1]),
            )
        )
        head = [paragraph(self.page_link(notebook), kind="k-chapter"), paragraph(sentence)]
        return nodes.container(
            "", *head, nodes.raw("", bars, format="html"), classes=["k-headline"]
        )


class ExecutionTable(Generated):
    """Seconds and memory of each notebook, by profile."""

    nothing_yet = "No run is recorded yet."

    def build(self, root: Path) -> list[nodes.Node]:
        """Return one section for each profile."""
        out: list[nodes.Node] = []
        for profile in ("laptop", "full"):
            runs = load_results(root, profile)
            rows: list[list[Cell]] = [
                [
                    self.page_link(name),
                    duration(run.get("seconds")),
                    memory(run.get("peak_mib")),
                    run["date"],
                    run.get("hardware") or "–",
                ]
                for name, run in runs.items()
            ]
            if rows:
                total = duration(sum(run.get("seconds") or 0 for run in runs.values()))
                peak = memory(max(run.get("peak_mib") or 0 for run in runs.values()))
                count = f"{len(rows)} notebook{'s' * (len(rows) > 1)}"
                headers = ("Notebook", "Time", "Peak memory", "Date", "Hardware")
                body = [paragraph(f"{count}, {total} in all, {peak} at most.")]
                body.append(table(headers, rows, "execution"))
                out.append(section(f"The {profile} profile", f"execution {profile}", *body))
        return out


class BenchmarksTable(Generated):
    """Every benchmark's goals, what was measured, and on what."""

    nothing_yet = "No benchmark has been run yet."

    def build(self, root: Path) -> list[nodes.Node]:
        """Return one table, and the machine and versions of each benchmark."""
        rows: list[list[Cell]] = []
        notes: list[nodes.Node] = []
        for path in sorted((root / "benchmarks/results").glob("*.json")):
            run = json.loads(path.read_text("utf-8"))
            for goal in run["goals"]:
                mark = span("✓ ", "tick") if goal["reached"] else nodes.strong("", "missed: ")
                rows.append([paragraph(mark, goal["sentence"]), bound(goal), number(goal["value"])])
            versions = ", ".join(f"{k} {v}" for k, v in run["versions"].items())
            script = nodes.literal("", f"benchmarks/{path.stem}.py")
            facts = f": {run['date']}, {run['hardware']}, {versions}."
            notes.append(paragraph(script, facts, kind="fine-print"))
        if not rows:
            return []
        return [table(("Goal", "Bound", "Measured"), rows, "claims"), *notes]


class TolerancesTable(Generated):
    """The tolerance that each notebook declares for numbers that differ between processors."""

    nothing_yet = "No notebook declares a tolerance: every number is compared exactly."

    def build(self, root: Path) -> list[nodes.Node]:
        """Return one table with the least margin of the claims that rest on each number."""
        results, rows = load_results(root, "laptop"), []
        for docname in sorted(d for d in self.env.found_docs if d.startswith("notebooks/")):
            name = docname.removeprefix("notebooks/")
            claims = results.get(name, {}).get("claims", [])
            for cell in notebook_cells(root, name):
                for label, tolerance in cell["metadata"].get("tolerance", {}).items():
                    resting = [margin(c) for c in claims if label in (c.get("rests_on") or [])]
                    least = min((m for m in resting if m is not None), default=None)
                    number_name = nodes.literal("", label)
                    row = [
                        number_name,
                        self.page_link(name),
                        f"± {number(tolerance)}",
                        short(least),
                    ]
                    rows.append(row)
        headers = ("Number", "Notebook", "Tolerance", "Least margin")
        return [table(headers, rows, "tolerances")] if rows else []


class DataSheets(Generated):
    """One sheet for each data set of the registry."""

    nothing_yet = "The registry of data sets is empty."

    def build(self, root: Path) -> list[nodes.Node]:
        """Return one section for each data set, in the registry's order."""
        out: list[nodes.Node] = []
        for name, sheet in load_toml(root / "karpa_utils/data/sources.toml").items():
            rows: list[list[Cell]] = [["Name in code", nodes.literal("", name)]]
            rows += [
                [label, linked(str(sheet[key]))] for key, label in SHEET.items() if sheet.get(key)
            ]
            origin = []
            if sheet.get("embedded"):
                origin.append("installed with the book's packages or generated: no network needed")
            if sheet.get("files"):
                origin.append("the full set is downloaded when the full profile asks for it")
            rows.append(["Where from", "; ".join(origin) or "see the notes"])
            found = [n.removeprefix("notebooks/") for n in self.env.found_docs]
            users = [n for n in found if self.uses(root, n, name)]
            links = [paragraph(self.page_link(n)) for n in sorted(users, key=reading_order(root))]
            rows.append(["Used in", links or "no chapter yet"])
            if files := sheet.get("files"):
                rows.append(["Files", [self.file_line(*item) for item in files.items()]])
            shown = table(("Field", "Value"), rows, "data-sheet")
            out.append(section(sheet.get("title") or name, f"data {name}", shown))
        return out

    def uses(self, root: Path, notebook: str, data: str) -> bool:
        """Return whether there is a notebook of this name that loads the data set."""
        script = root / f"notebooks/{notebook}.py"
        return script.exists() and f"ku.data.{data}(" in script.read_text(encoding="utf-8")

    def file_line(self, name: str, facts: Record) -> nodes.paragraph:
        """Return one file: its name, which leads to its address, size and start of its checksum."""
        shown: nodes.Node = nodes.literal("", name)
        if facts.get("url"):
            shown = nodes.reference("", "", shown, refuri=facts["url"])
        size, checksum = facts.get("bytes"), facts.get("sha256", "")
        text = f", {size:,} bytes" if size else ""
        return paragraph(shown, text + (f", sha256 {checksum[:12]}…" if checksum else ""))


class FiveDocuments(Generated):
    """What each section of each document asks for, and the notebook that works it out."""

    nothing_yet = "The list of what the documents ask for is not written yet."

    def build(self, root: Path) -> list[nodes.Node]:
        """Return one section for each document."""
        asked: dict[str, list[tuple[str, Record]]] = defaultdict(list)
        for row in load_toml(root / "book/systems.toml").get("row", []):
            for where in row["where"]:
                document, _, place = where.partition(" ")
                asked[document].append((place, row))
        out: list[nodes.Node] = []
        for document in sorted(asked):
            rows = []
            for place, row in sorted(asked[document], key=lambda pair: natural(pair[0])):
                title = [nodes.strong("", f"{row['id']} {row['title']}. ")]
                asks = paragraph(*title, *linked(row["asks"]).children)
                rows.append([place or "–", asks, self.answers(row["notebook"])])
            shown = table(("Section", "What it asks", "Worked out in"), rows, "five-documents")
            note = document_note(document)
            out.append(section(f"Essay {document}", f"document {document}", *note, shown))
        return out

    def answers(self, notebooks: str) -> list[nodes.Node]:
        """Return links to the notebooks that exist, and «planned» where one does not."""
        names = [name.strip() for name in notebooks.split(",")]
        found = [n for n in names if f"notebooks/{n}" in self.env.found_docs]
        planned = [paragraph(span("planned", "planned"))] if len(found) < len(names) else []
        return [paragraph(self.page_link(name)) for name in found] + planned


def add_directives(app: Sphinx) -> None:
    """Register every directive of this module."""
    for name, directive in {
        "claims-table": ClaimsTable,
        "errata-table": ErrataTable,
        "results-table": ResultsTable,
        "headlines": Headlines,
        "execution-table": ExecutionTable,
        "benchmarks-table": BenchmarksTable,
        "tolerances-table": TolerancesTable,
        "data-sheets": DataSheets,
        "five-documents": FiveDocuments,
    }.items():
        app.add_directive(name, directive)
