"""Check that every notebook is its script's pair, by cell sources: `python -m tools.pairs`."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat

from tools.execute import NOTEBOOKS, notebook_of, scripts


def unpaired(script: Path) -> str | None:
    """Return what is wrong between a percent script and its notebook, None if they agree."""
    pair = script.with_suffix(".ipynb")
    if not pair.exists():
        return f"{script.name} has no notebook: run make execute"
    source, notebook = notebook_of(script), nbformat.read(pair, as_version=4)
    ours = [(c.cell_type, c.source, dict(c.metadata)) for c in source.cells]
    theirs = [(c.cell_type, c.source, dict(c.metadata)) for c in notebook.cells]
    if ours == theirs:
        return None
    first = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
        min(len(ours), len(theirs)),
    )
    return f"{pair.name} is not its script's pair from cell {first} on: run make execute"


def main() -> None:
    """Print every disagreement and exit with 1 if there is one."""
    problems = [p for script in scripts().values() if (p := unpaired(script))]
    lonely = [p for p in NOTEBOOKS.rglob("*.ipynb") if not p.with_suffix(".py").exists()]
    problems += [f"{p.name} has no script: the percent script is the source" for p in lonely]
    for problem in problems:
        print(problem, file=sys.stderr)
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
