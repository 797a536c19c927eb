"""What every notebook of the book must have, checked on its committed pair.

`problems(notebook, results)` returns one sentence for each fault. The tests run it on every
notebook, and on small broken ones that it must reject.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from nbformat import NotebookNode

from tools import compare

CELLS = (40, 60)  # cells a notebook
CODE_LINES = 27  # "at most about 25" in a code cell
WORDS_PER_LINE = (6.0, 14.0)  # words of prose to a line of code
SECTIONS = ["The data", "Where it fails", "Claims", "Exercises", "References"]
FORBIDDEN_TAGS = {"nbval-skip", "nbval-raises-exception", "raises-exception", "nbval-check-output"}
IGNORED = "nbval-ignore-output"
MACHINE_BOUND = {
    "a path": r"(?<![\w.])/(?:home|root|tmp|usr|work|opt|var|Users)/|[A-Z]:\\",
    "an address in memory": r"\b0x[0-9a-f]{6,}",
    "a date": r"\b20\d\d-\d\d-\d\d\b",
    "a duration": r"\d\s?(?:ms|µs|us|s|sec|secs|seconds|min|minutes|h|hours)\b",
}
CLAIM_LINE = re.compile(r"^(✓|✗ not yet:) (.*) \((.*)\)$", re.MULTILINE)


def problems(notebook: NotebookNode, results: Mapping | None) -> list[str]:
    """Return every fault of a committed notebook; results: its results file, None if missing."""
    checks = (_execution, _outputs, _sections, _figures, _size, _exercises, _tolerances)
    found = [fault for check in checks for fault in check(notebook)]
    return found + _record(notebook, results)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the code cells in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook: NotebookNode) -> str:
    """Return all text cells as one string."""
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def tags(cell: NotebookNode) -> set[str]:
    """Return a cell's tags."""
    return set(cell.metadata.get("tags", []))


def printed(cell: NotebookNode) -> str:
    """Return everything a cell shows as text."""
    return "\n".join(text.body for text in compare.texts(cell.get("outputs", [])))


def _execution(notebook: NotebookNode) -> list[str]:
    found = []
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        found.append("not every code cell was executed in order from a fresh kernel")
    for number, cell in enumerate(code_cells(notebook)):
        if wrong := tags(cell) & FORBIDDEN_TAGS:
            found.append(f"code cell {number} has the tag {', '.join(wrong)}")
        if re.search(r"^\s*#\s*(NBVAL|PYTEST_VALIDATE)", cell.source, re.MULTILINE):
            found.append(f"code cell {number} steers nbval by a comment")
    return found


def _outputs(notebook: NotebookNode) -> list[str]:
    found = []
    for number, cell in enumerate(code_cells(notebook)):
        for out in cell.outputs:
            if out.output_type == "error":
                found.append(f"code cell {number} ends in an error: catch and print it")
            if out.get("name") == "stderr":
                found.append(f"code cell {number} writes to stderr")
        for what, pattern in MACHINE_BOUND.items():
            if what == "a duration" and IGNORED in tags(cell):
                continue
            if match := re.search(pattern, printed(cell)):
                found.append(f"code cell {number} shows {what}: {match[0]!r}")
        if IGNORED in tags(cell) and CLAIM_LINE.search(printed(cell)):
            found.append(f"code cell {number} states a claim but its output is not compared")
    return found


def _sections(notebook: NotebookNode) -> list[str]:
    text = prose(notebook)
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    found = [f"there is no section «{name}»" for name in SECTIONS if name not in headings]
    if not found and sorted(SECTIONS, key=headings.index) != SECTIONS:
        found.append(f"the sections do not come in the order {', '.join(SECTIONS)}")
    if not text.startswith("# "):
        found.append("the first cell does not begin with the title")
    if "{admonition} What you will learn" not in text:
        found.append("there is no box «What you will learn»")
    if not re.search(r"中文提要.*?<div lang=\"zh\">", text, re.DOTALL):
        found.append("there is no Chinese summary")
    if sum("setup" in tags(cell) for cell in code_cells(notebook)) != 1:
        found.append("there must be exactly one set-up cell")
    if "{cite}" not in text:
        found.append("nothing is cited")
    if swallowed := re.findall(r"^%.*$", text, re.MULTILINE):
        found.append(f"a line of prose begins with %, which MyST leaves out: {swallowed[0][:40]!r}")
    stored = {t.glued for c in code_cells(notebook) for t in compare.texts(c.outputs)}
    for name in re.findall(r"\{glue:text\}`([^`:]+)", text):
        if name not in stored:
            found.append(f"the prose shows {name}, which no cell glued")
    return found


def _figures(notebook: NotebookNode) -> list[str]:
    found, names = [], set()
    for number, cell in enumerate(code_cells(notebook)):
        if not any("image/png" in out.get("data", {}) for out in cell.outputs):
            continue
        style = cell.metadata.get("mystnb", {})
        if len(style.get("image", {}).get("alt", "")) < 30:
            found.append(f"the figure of code cell {number} has no alt text that says what is seen")
        if not style.get("figure", {}).get("caption"):
            found.append(f"the figure of code cell {number} has no caption")
        name = style.get("figure", {}).get("name", "")
        if not name or name in names:
            found.append(f"the figure of code cell {number} needs a name of its own")
        names.add(name)
        if any("text/html" in out.get("data", {}) for out in cell.outputs):
            found.append(f"code cell {number} shows a figure and a table: both would get its name")
    return found


def _size(notebook: NotebookNode) -> list[str]:
    found = []
    lines = [sum(1 for line in c.source.splitlines() if line.strip()) for c in code_cells(notebook)]
    words = len(prose(notebook).split())
    if not CELLS[0] <= len(notebook.cells) <= CELLS[1]:
        found.append(f"{len(notebook.cells)} cells: there should be {CELLS[0]} to {CELLS[1]}")
    for number, count in enumerate(lines):
        if count > CODE_LINES:
            found.append(f"code cell {number} has {count} lines: split it")
    ratio = words / max(1, sum(lines))
    if not WORDS_PER_LINE[0] <= ratio <= WORDS_PER_LINE[1]:
        found.append(f"{ratio:.1f} words of prose to a line of code: aim at 8 to 12")
    return found


def _exercises(notebook: NotebookNode) -> list[str]:
    cells = code_cells(notebook)
    stubs = [cell for cell in cells if "exercise" in tags(cell)]
    solutions = [cell for cell in cells if "solution" in tags(cell)]
    found = []
    if len(stubs) < 3:
        found.append(f"{len(stubs)} exercises: there should be at least 3")
    if len(stubs) != len(solutions):
        return [*found, "every exercise needs one solution"]
    for number, (stub, solution) in enumerate(zip(stubs, solutions, strict=True), start=1):
        asked, answered = CLAIM_LINE.findall(printed(stub)), CLAIM_LINE.findall(printed(solution))
        if not asked or any(mark == "✓" for mark, *_ in asked):
            found.append(f"the stub of exercise {number} does not fail its claim as given")
        if [a[1:] for a in asked] != [a[1:] for a in answered]:
            found.append(f"the solution of exercise {number} claims something else than the stub")
        if any(mark != "✓" for mark, *_ in answered):
            found.append(f"the solution of exercise {number} does not pass")
        if "hide-cell" not in tags(solution):
            found.append(f"the solution of exercise {number} is not folded away")
    return found


def _tolerances(notebook: NotebookNode) -> list[str]:
    return [
        f"code cell {number} declares a tolerance for {label!r}, which it does not show"
        for number, cell in enumerate(code_cells(notebook))
        for label in sorted(compare.unused(cell.outputs, cell.metadata.get("tolerance", {})))
    ]


def _record(notebook: NotebookNode, results: Mapping | None) -> list[str]:
    """Check the results file against the notebook and the tolerances against the claims."""
    if results is None:
        return ["there is no results file: run make execute"]
    found = []
    claims = results["claims"]
    shown = [
        (sentence, mark)
        for cell in code_cells(notebook)
        if "exercise" not in tags(cell)
        for mark, sentence, _ in CLAIM_LINE.findall(printed(cell))
    ]
    if shown != [(claim["sentence"], "✓") for claim in claims]:
        found.append("the recorded claims are not those the notebook shows: run make execute")
    roles = [claim["role"] for claim in claims]
    if len([role for role in roles if role != "solution"]) < 5:
        found.append("there are fewer than 5 claims")
    found += [f"no claim has the role {r!r}" for r in ("headline", "control") if r not in roles]
    if not (results.get("seconds", 0) > 0 and results.get("peak_mib", 0) > 0):
        found.append("seconds and peak memory are not recorded")
    tolerance: dict[str, float] = {}
    for cell in code_cells(notebook):
        for label, value in cell.metadata.get("tolerance", {}).items():
            tolerance[label] = max(value, tolerance.get(label, 0.0))
    for claim in claims:
        for label in claim["rests_on"]:
            allowed = tolerance.get(label, 0.0)
            if allowed > margin(claim) / 3:
                found.append(
                    f"«{claim['sentence']}» has the margin {margin(claim):.3g}, less than three "
                    f"times the tolerance {allowed:g} of {label!r}"
                )
    return found


def margin(claim: Mapping) -> float:
    """Return how far a claim's value lies from its nearest bound."""
    sides = []
    if claim["at_least"] is not None:
        sides.append(claim["value"] - claim["at_least"])
    if claim["at_most"] is not None:
        sides.append(claim["at_most"] - claim["value"])
    return min(sides)
