"""How `pytest --nbval` runs the book: offline, with tolerances, keeping what it saw.

nbval executes and compares; three things are changed here. Kernels run with the network cut
off (`tests/offline`). Outputs are compared by `tools/compare.py`, which knows tolerances. The
fresh outputs are kept in `_build/fresh`, so that a test can later prove that the comparison
has teeth without running the book again.

With `-n 2 --dist loadfile` (pytest-xdist) two notebooks run at a time, each with one thread: two
kernels with two threads each would wait for one another. Then results are equal within the
tolerances, as in the regime "1 thread" of `make regimes`, and not to the bit.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tools import compare

ROOT = Path(__file__).parent
FRESH = ROOT / "_build" / "fresh"


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("nbval", False):
        return
    if config.getoption("numprocesses", None) or "PYTEST_XDIST_WORKER" in os.environ:
        from tools.regimes import REGIMES

        os.environ |= REGIMES["1 thread"]
    paths = [str(ROOT / "tests" / "offline"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ["KARPA_PROGRESS"] = "off"
    os.environ.pop("KARPA_RECORD", None)  # a test run records nothing

    from nbval.plugin import IPyNbCell

    execute = IPyNbCell.runtest

    def runtest(self: IPyNbCell) -> None:
        if self.cell.execution_count is None:
            self.raise_cell_error("The committed cell was never executed: run `make execute`.")
        if self.options["skip"]:
            self.raise_cell_error("No cell may be skipped.")
        try:
            execute(self)
        finally:
            _keep(self)

    def compare_outputs(self: IPyNbCell, test: list, ref: list, skip_compare=None) -> bool:
        tolerance = self.cell.metadata.get("tolerance", {})
        self.comparison_traceback = compare.differences(ref, test, tolerance)
        return not self.comparison_traceback

    IPyNbCell.runtest = runtest
    IPyNbCell.compare_outputs = compare_outputs


def _keep(cell) -> None:
    """Write the notebook's outputs so far: one list of outputs for each code cell."""
    notebook = Path(cell.parent.path)
    if not notebook.is_relative_to(ROOT / "notebooks"):
        return
    kept = cell.parent.__dict__.setdefault("kept_outputs", {})
    kept[cell.cell_num] = cell.test_outputs or []
    file = FRESH / notebook.relative_to(ROOT / "notebooks").with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(kept))
