"""Every committed notebook keeps the book's promises; broken ones are rejected."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import anatomy, compare, pairs
from tools.execute import RESULTS, scripts

ROOT = Path(__file__).parent.parent
FRESH = ROOT / "_build" / "fresh"
NAMES = list(scripts())


def committed(name):
    return nbformat.read(scripts()[name].with_suffix(".ipynb"), as_version=4)


def recorded(name):
    file = RESULTS / "laptop" / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_whole(name):
    assert pairs.unpaired(scripts()[name]) is None
    assert anatomy.problems(committed(name), recorded(name)) == []


def test_every_notebook_is_in_the_table_of_contents():
    text = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = set(re.findall(r"notebooks/([\w/]+)", json.dumps(text)))
    assert listed == set(NAMES)
    assert {p.with_suffix("") for p in (ROOT / "notebooks").rglob("*.ipynb")} == {
        p.with_suffix("") for p in scripts().values()
    }


# --- the comparator has teeth -------------------------------------------------------------


def kept(name):
    file = FRESH / f"{name}.json"
    if not file.exists():
        pytest.skip("needs the fresh outputs: run `pytest --nbval notebooks` first")
    fresh = json.loads(file.read_text())
    cells = anatomy.code_cells(committed(name))
    assert len(fresh) == len(cells), "the fresh outputs are of another version of the notebook"
    return [
        (cell, fresh[str(i)])
        for i, cell in enumerate(cells)
        if anatomy.IGNORED not in anatomy.tags(cell)
    ]


def with_number(texts, at, spot, value):
    """Return the texts with one number replaced."""
    body = texts[at].body
    changed = texts[at]._replace(body=f"{body[: spot.start]}{value:.12g}{body[spot.end :]}")
    return [*texts[:at], changed, *texts[at + 1 :]]


@pytest.mark.after_nbval
@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_the_fresh_run_is_compared(name):
    """Each printed, glued and HTML number, changed beyond its tolerance, is caught."""
    kinds = set()
    for cell, outputs in kept(name):
        tolerance = cell.metadata.get("tolerance", {})
        old, new = compare.texts(cell.outputs), compare.texts(outputs)
        assert compare.text_differences(old, new, tolerance) == []
        for at, text in enumerate(new):
            if text.kind in compare.SKIPPED:
                continue
            for spot, before in zip(compare.numbers(text), compare.numbers(old[at]), strict=True):
                allowed = tolerance.get(spot.label, 0.0)
                reference = before.value if allowed else spot.value
                step = 2 * allowed or max(1.0, abs(spot.value)) * 1e-6
                for sign in (1, -1):
                    changed = with_number(new, at, spot, spot.value + sign * step)
                    if allowed and abs(spot.value + sign * step - reference) <= allowed:
                        continue
                    assert compare.text_differences(old, changed, tolerance), (text, spot)
                kinds.add("glued" if text.glued else text.kind)
    assert {"stdout", "glued"} <= kinds


@pytest.mark.after_nbval
@pytest.mark.parametrize("name", NAMES)
def test_a_change_within_tolerance_passes(name):
    for cell, outputs in kept(name):
        tolerance = cell.metadata.get("tolerance", {})
        old = compare.texts(cell.outputs)
        assert len(old) == len(compare.texts(outputs))
        for at, text in enumerate(old):
            for spot in compare.numbers(text):
                if spot.label in tolerance:
                    changed = with_number(old, at, spot, spot.value + 0.9 * tolerance[spot.label])
                    assert compare.text_differences(old, changed, tolerance) == []


def test_a_number_ends_before_the_comma_that_separates_it_from_the_next():
    seeds = compare.Text(kind="stdout", glued="", body="seeds: 7, 1,234, 8.5")
    assert [(s.value, s.end - s.start) for s in compare.numbers(seeds)] == [
        (7, 1),
        (1234, 5),
        (8.5, 3),
    ]


@pytest.mark.after_nbval
def test_at_least_one_html_number_is_compared_in_the_book():
    bodies = [t for n in NAMES for _, out in kept(n) for t in compare.texts(out)]
    assert any(text.kind == "text/html" and compare.numbers(text) for text in bodies)


# --- broken notebooks are rejected --------------------------------------------------------

CLAIM = "import karpa_utils as ku\nku.claim('one is more than {0}', 1, at_least={0})"


def stream(text):
    return [new_output("stream", name="stdout", text=text)]


def small(cells):
    notebook = new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    return notebook


def code(source, output="", count=1, **metadata):
    outputs = stream(output) if output else []
    return new_code_cell(source, outputs=outputs, execution_count=count, metadata=metadata)


BROKEN = {
    "raises": code("1 / 0"),
    "never_executed": code("print(2)", "1\n", count=None),
    "skipped": code("print(1)", "1\n", tags=["nbval-skip"]),
    "false_claim": code(CLAIM.format(2), "✓ one is more than 2 (at least 2)\n"),
    "other_number": code("print('loss', 0.31)", "loss 0.32\n"),
    "beyond_tolerance": code("print('loss', 0.31)", "loss 0.35\n", tolerance={"loss": 0.03}),
    "needs_network": code("import socket\nsocket.create_connection(('192.0.2.1', 80), 1)"),
}
SOUND = {
    "true_claim": code(CLAIM.format(0), "✓ one is more than 0 (at least 0)\n"),
    "within_tolerance": code("print('loss', 0.31)", "loss 0.33\n", tolerance={"loss": 0.03}),
}


def test_nbval_rejects_each_broken_notebook_and_no_sound_one():
    folder = ROOT / "_build" / "fixtures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, cell in (BROKEN | SOUND).items():
        nbformat.write(small([cell]), folder / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-rA", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    for name in BROKEN:
        assert f"FAILED _build/fixtures/{name}.ipynb" in done.stdout, name + done.stdout
    for name in SOUND:
        assert f"PASSED _build/fixtures/{name}.ipynb" in done.stdout, name + done.stdout


def a_good_notebook():
    cells = [
        new_markdown_cell(
            "# Title\n\n:::{admonition} What you will learn\n:::\n"
            '{admonition} 中文提要 <div lang="zh">好</div> {cite}`key`\n' + "word " * 400
        ),
        code("import karpa_utils as ku", tags=["setup"]),
    ]
    count = 1
    for section in anatomy.SECTIONS:
        cells.append(new_markdown_cell(f"## {section}"))
        for i in range(6):
            count += 1
            cells.append(code("ku.claim(...)", f"✓ {section} {i} (at least 1)\n", count))
    for i in range(3):
        cells.append(
            code("stub", f"✗ not yet: task {i} (at most 0)\n", count + 1, tags=["exercise"])
        )
        solved = {"tags": ["solution", "hide-cell"]}
        cells.append(code("solution", f"✓ task {i} (at most 0)\n", count + 2, **solved))
        count += 2
    notebook = small(cells)
    shown = [
        s
        for c in anatomy.code_cells(notebook)
        if "exercise" not in anatomy.tags(c)
        for _, s, _ in anatomy.CLAIM_LINE.findall(anatomy.printed(c))
    ]
    claims = [
        {"sentence": s, "value": 2, "at_least": 1, "at_most": None, "role": "", "rests_on": []}
        for s in shown
    ]
    claims[0]["role"], claims[1]["role"] = "headline", "control"
    return notebook, {"claims": claims, "seconds": 3.0, "peak_mib": 100}


def replace(notebook, old, new):
    for cell in anatomy.code_cells(notebook):
        for out in cell.outputs:
            out["text"] = out["text"].replace(old, new)


def figure_and_table():
    shown = {"image/png": ""}, {"text/html": "<table></table>"}
    return [new_output("display_data", data=data) for data in shown]


def test_anatomy_accepts_a_good_notebook():
    assert anatomy.problems(*a_good_notebook()) == []


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda n, r: replace(n, "✗ not yet: task 1", "✓ task 1"), "stub of exercise 2"),
        (lambda n, r: replace(n, "✓ task 1 (at most 0)", "✓ task 1 (at most 9)"), "something else"),
        (lambda n, r: n.cells[1].update(execution_count=None), "executed in order"),
        (lambda n, r: n.cells[3].update(outputs=figure_and_table()), "a figure and a table"),
        (lambda n, r: n.cells[3].metadata.update(tags=["nbval-skip"]), "nbval-skip"),
        (lambda n, r: n.cells[3].update(source="# NBVAL_SKIP"), "by a comment"),
        (lambda n, r: n.cells[3].outputs[0].update(name="stderr"), "stderr"),
        (lambda n, r: n.cells[3].outputs[0].update(text="saved /tmp/x"), "a path"),
        (lambda n, r: n.cells[3].outputs[0].update(text="<f at 0x7f12ab34cd>"), "an address"),
        (lambda n, r: n.cells[3].outputs[0].update(text="2026-01-02"), "a date"),
        (lambda n, r: n.cells[3].outputs[0].update(text="took 3.1 s"), "a duration"),
        (lambda n, r: n.cells[0].update(source=n.cells[0].source + "\n% gone"), "begins with %"),
        (lambda n, r: n.cells[3].metadata.update(tags=[anatomy.IGNORED]), "not compared"),
        (lambda n, r: n.cells[2].update(source="## Data"), "no section «The data»"),
        (lambda n, r: n.cells[0].update(source="Title"), "title"),
        (lambda n, r: n.cells[2].update(source="## The data\n{glue:text}`acc`"), "no cell glued"),
        (lambda n, r: n.cells.pop(3), "recorded claims"),
        (lambda n, r: n.cells[3].update(source="a\n" * 40), "40 lines"),
        (lambda n, r: n.cells[3].metadata.update(tolerance={"nothing": 1}), "does not show"),
        (lambda n, r: r["claims"][0].update(role=""), "headline"),
        (lambda n, r: r.update(peak_mib=0), "peak memory"),
    ],
)
def test_anatomy_rejects(damage, complaint):
    notebook, results = a_good_notebook()
    damage(notebook, results)
    assert any(complaint in fault for fault in anatomy.problems(notebook, results))


def test_anatomy_wants_alt_text_and_a_margin_of_three_tolerances():
    notebook, results = a_good_notebook()
    picture = new_output("display_data", data={"image/png": "", "text/plain": "<Figure>"})
    notebook.cells[3].outputs.append(picture)
    assert any("alt text" in fault for fault in anatomy.problems(notebook, results))
    notebook, results = a_good_notebook()
    notebook.cells[3].metadata["tolerance"] = {"The data": 0.4}
    notebook.cells[3].outputs = stream("The data 5\n✓ The data 0 (at least 1)\n")
    results["claims"][0]["rests_on"] = ["The data"]
    assert any("three times" in fault for fault in anatomy.problems(notebook, results))
    results["claims"][0]["value"] = 2.3
    assert anatomy.problems(notebook, results) == []


# --- the comparator's labels --------------------------------------------------------------


def labels(kind, body, glued=""):
    return [(s.label, s.value) for s in compare.numbers(compare.Text(kind, glued, body))]


def test_labels_in_text():
    line = "test accuracy: 98.1 %, loss 0.31 ± 0.02, 1,200 rows, -3e-05\n"
    assert labels("stdout", line) == [
        ("test accuracy", 98.1),
        ("loss", 0.31),
        ("loss[2]", 0.02),
        ("loss[3]", 1200.0),
        ("rows", -3e-05),
    ]
    assert labels("x", "98.1", "acc") == [("acc", 98.1)]
    assert labels("stdout", "conv2 v1.2.3 x86") == []


def test_labels_in_tables():
    body = (
        "<table><caption>Over 3 seeds</caption><thead><tr><th>model</th><th>score (%)</th></tr>"
        "</thead><tbody><tr><th>CNN 5</th><td>98.1</td></tr>\n<tr><th>MLP</th><td>95.0 ± 0.4</td>"
        "</tr></tbody></table>"
    )
    found = labels("text/html", body)
    assert ("score (%)", 98.1) in found
    assert ("score (%)", 0.4) in found
    assert ("model", 5.0) in found
    assert ("", 3.0) in found
