"""The notebooks for Colab: plain markdown, numbers filled in, a set-up cell that installs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools import colab

ROOT = Path(__file__).parent.parent
BOOK = colab.Book("owner/name", "v1.0", root=Path("/nonexistent"))


@pytest.fixture
def page() -> colab.Page:
    glued = {"acc": "0.97933", "n": "1000", "best": "'ReLU'"}
    figures, equations = {"fig-loss": 2}, {"loss": 1}
    return colab.Page("notebooks/foundations/training_loop", BOOK, glued, figures, equations)


@pytest.mark.parametrize(
    ("myst", "plain"),
    [
        ("{glue:text}`acc:.1%` of {glue:text}`n`", "97.9% of 1000"),
        ("{glue:text}`best`", "ReLU"),
        ("{cite}`adam2015` and {cite:t}`a,b`", "[adam2015] and [a; b]"),
        (
            "{doc}`the next <first_networks>`",
            "[the next](https://colab.research.google.com/github/"
            "owner/name/blob/colab/notebooks/foundations/first_networks.ipynb)",
        ),
        (
            "{doc}`/book/how_to_use`",
            "[how to use](https://github.com/owner/name/blob/v1.0/book/how_to_use.md)",
        ),
        (
            "[claims](../../book/claims.md#a)",
            "[claims](https://github.com/owner/name/blob/v1.0/book/claims.md#a)",
        ),
        ("[site](https://example.org/x.md)", "[site](https://example.org/x.md)"),
        ("{numref}`fig-loss`, {eq}`loss`, {ref}`here <x>`", "Figure 2, (1), here"),
        ("{ref}`a-label` and {term}`logit`", "a label and logit"),
        ("{math}`x^2`", "$x^2$"),
        ("a `{glue:text}` in code", "a `{glue:text}` in code"),
        ("(label)=\n## Title", "\n## Title"),
        ("$$\nx\n$$ (loss)", "$$\nx\n\\tag{1} $$"),
        (":::{note}\nA *note*.\n:::", "> **Note**\n>\n> A *note*."),
        (
            ":::{admonition} The {glue:text}`n`\n:class: dropdown\nText.\n:::",
            "> **The 1000**\n>\n> Text.",
        ),
        ("::::{tip}\n:::{warning}\nW\n:::\n::::", "> **Tip**\n>\n> > **Warning**\n> >\n> > W"),
        (":::{tip}\n:::{warning}\nW\n:::\n:::", "> **Tip**\n>\n> > **Warning**\n> >\n> > W"),
        ("```{math}\n:label: loss\nx\n```", "$$\nx\n\\tag{1}\n$$"),
        ("```python\n:::{note}\n```", "```python\n:::{note}\n```"),
        ("```{bibliography}\n:filter: x\n```", ""),
        (
            "```{figure} /book/a.png\n:alt: A\n:name: f\nCaption\n```",
            "![A](https://raw.githubusercontent.com/owner/name/v1.0/book/a.png)\n\n*Caption*",
        ),
        (":::{div} lead\nText\n:::", "Text"),
    ],
)
def test_myst_becomes_markdown(page: colab.Page, myst: str, plain: str) -> None:
    assert colab.markdown(page, myst) == plain
    assert colab.leftovers(plain) == []


@pytest.mark.parametrize(
    "myst", ["{cite}`x`", ":::{note}\nx\n:::", "```{math}\nx\n```", "(label)=\n"]
)
def test_leftovers_are_seen(myst: str) -> None:
    assert colab.leftovers(myst)


def test_a_value_without_output_is_refused(page: colab.Page) -> None:
    with pytest.raises(KeyError, match="run the notebook"):
        colab.markdown(page, "{glue:text}`missing`")


def cell(kind: str, source: str, **more: Any) -> dict[str, Any]:
    about = {"outputs": [], "execution_count": 1} if kind == "code" else {}
    return (
        {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True)}
        | about
        | more
    )


SETUP = "# Colab: this line is replaced by an install command when the book is published\nx = 1"


def test_a_notebook_is_converted() -> None:
    record = {
        "output_type": "display_data",
        "data": {"application/papermill.record/text/plain": "0.5"},
        "metadata": {"scrapbook": {"name": "half", "mime_prefix": "application/papermill.record/"}},
    }
    drawn = {
        "mystnb": {"image": {"alt": "A line."}, "figure": {"caption": "It falls.", "name": "fig-a"}}
    }
    cells = [
        cell("markdown", "{numref}`fig-a` shows {glue:text}`half:.2f`."),
        cell("code", SETUP, metadata={"tags": ["setup"]}),
        cell("code", "plot()", metadata=drawn, outputs=[record]),
    ]
    made = colab.convert({"cells": cells, "metadata": {}}, "notebooks/a/b", BOOK)["cells"]
    text = ["".join(each["source"]) for each in made]
    assert text[0] == "Figure 1 shows 0.50."
    package = "karpa-utils[notebooks] @ git+https://github.com/owner/name@v1.0"
    assert text[1] == f'%pip install --quiet "{package}"\nx = 1'
    assert text[3] == "**Figure 1.** It falls."
    assert made[2]["outputs"] == [record]


def test_a_notebook_without_setup_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="set-up cell"):
        colab.convert({"cells": [cell("code", SETUP)], "metadata": {}}, "notebooks/a/b", BOOK)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*/*.ipynb")), ids=lambda p: p.stem
)
def test_every_notebook_of_the_book_converts(path: Path) -> None:
    place = path.relative_to(ROOT).with_suffix("").as_posix()
    colab.convert(json.loads(path.read_text("utf-8")), place, colab.Book("owner/name", "v1.0"))


def test_the_command_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="GITHUB_REPOSITORY"):
        colab.main([str(tmp_path)], environment=lambda name: None)
