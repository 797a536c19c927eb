"""The data behind the book's generated tables: bounds, margins, numbers and their order."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("karpa_record", ROOT / "book/_ext/karpa_record.py")
record = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(record)


def test_docstring_examples() -> None:
    done = doctest.testmod(record)
    assert done.attempted >= 4
    assert not done.failed


@pytest.mark.parametrize(
    ("claim", "margin"),
    [
        ({"value": 0.75, "at_least": 0.5}, 0.25),
        ({"value": 0.75, "at_most": 1.0}, 0.25),
        ({"value": 0.75, "at_least": 0.25, "at_most": 1.0}, 0.25),
        ({"value": 0.75}, None),
        ({"value": True, "at_least": 1}, None),
        ({"value": None, "at_least": 1}, None),
    ],
)
def test_margin_is_the_distance_to_the_nearer_bound(claim: dict, margin: float | None) -> None:
    assert record.margin(claim) == margin


def test_runs_come_in_the_order_of_the_parts(tmp_path: Path) -> None:
    for name in ("vision/a", "foundations/b", "unheard_of/c", "simplification/d"):
        file = tmp_path / f"book/results/laptop/{name}.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"notebook": name, "date": "2026-01-01"}), "utf-8")
    order = list(record.load_results(tmp_path, "laptop"))
    assert order == ["foundations/b", "simplification/d", "vision/a", "unheard_of/c"]
    assert record.load_results(tmp_path, "full") == {}


def test_a_badge_leaves_out_what_was_not_measured(tmp_path: Path) -> None:
    file = tmp_path / "book/results/laptop/foundations/b.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"notebook": "foundations/b", "date": "2026-01-01"}), "utf-8")
    [badge] = record.badges(tmp_path, "foundations/b")
    assert badge["facts"] == {"Profile": "laptop", "Date": "2026-01-01", "Claims that hold": "0"}


def test_a_glued_number_with_a_comma_stays_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """`{glue:text}` evaluates what was stored: 3,500 would show as the pair (3, 500)."""
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    from karpa_book import keep_glued_text

    kind = "application/papermill.record/text/plain"
    notebook = {"cells": [{"outputs": [{"data": {kind: "3,500"}}]}, {"source": "text"}]}
    source = [json.dumps(notebook)]
    keep_glued_text(None, "notebooks/a/b", source)
    stored = json.loads(source[0])["cells"][0]["outputs"][0]["data"][kind]
    assert ast.literal_eval(stored) == "3,500"


PAGES = sorted((ROOT / "book/_static/pages").rglob("*.html"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_kept_page_is_linked_by_the_notebook_that_wrote_it(page: Path) -> None:
    (script,) = (ROOT / "notebooks").glob(f"*/{page.parent.name}.py")
    assert f"book/_static/pages/{page.parent.name}/{page.name})" in script.read_text("utf-8")


def test_a_kept_report_is_of_the_stored_run() -> None:
    """The sentences that the notebook printed stand in the page that was kept beside it."""
    notebook = json.loads((ROOT / "notebooks/interpretability/global_report.ipynb").read_text())
    outputs = [out for cell in notebook["cells"] for out in cell.get("outputs", [])]
    tables = ["".join(out.get("data", {}).get("text/html", "")) for out in outputs]
    (table,) = (text for text in tables if "the report on the tumors, in short" in text)
    printed = re.findall(r'<th scope="row">(.*?)</th>', table)
    kept = next(page for page in PAGES if page.name == "tumors.html").read_text("utf-8")
    assert printed == re.findall(r"<li>(.*?)</li>", kept.split("</ul>")[0])
