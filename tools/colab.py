"""Write the notebooks as Colab can show them: `python tools/colab.py OUTDIR`.

Colab and plain Jupyter show MyST roles and directives as raw text, so they become plain markdown
here, with the numbers of the stored outputs filled in. The set-up cell gets an install line that
names the published commit. `GITHUB_REPOSITORY` (owner/name) and `REF` (a tag or commit) say which.
"""

from __future__ import annotations

import json
import os
import re
import sys
from ast import literal_eval
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLACEHOLDER = re.compile(r"^[ \t]*# Colab: this line is replaced by an install command.*$", re.M)
FENCE = re.compile(r"^(?P<mark>:{3,}|`{3,}|~{3,})(?:\{(?P<name>[\w:.-]+)\})?(?P<title>.*)$")
ROLE = re.compile(
    r"(?<!`)\{(?P<name>[a-z][\w:.-]*)\}(?P<ticks>`+)(?P<text>.+?)(?P=ticks)(?!`)", re.S
)
OPTION = re.compile(r"^:(?P<name>[\w-]+):(?:\s+(?P<value>.*))?$")
CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", re.S)
LABEL = re.compile(r"^\([\w:.-]+\)=\s*$", re.M)
EQUATION = re.compile(r"\$\$[ \t]*\((?P<label>[\w:.-]+)\)")
BODY_ONLY = {"div", "container", "glossary", "grid", "grid-item", "margin", "sidebar", "tab-set"}
LEFT_OUT = {"bibliography", "contents", "tableofcontents", "toctree", "index"}


@dataclass
class Book:
    """Where links lead: the repository, the published commit, and the sources for titles."""

    repository: str
    ref: str
    root: Path = ROOT

    def title(self, path: str) -> str:
        """Return the title of a page, else a readable form of its name."""
        for suffix in (".py", ".md"):
            source = self.root / (path + suffix)
            if source.exists():
                found = re.search(r"^(?:# )?# (.+)$", source.read_text("utf-8"), re.M)
                if found and "%%" not in found[1]:
                    return found[1].strip()
        return Path(path).name.replace("_", " ")

    def address(self, path: str) -> str:
        """Return where a page of the book can be read without the built site."""
        if path.startswith("notebooks/"):
            base = "https://colab.research.google.com/github"
            return f"{base}/{self.repository}/blob/colab/{path}.ipynb"
        return f"https://github.com/{self.repository}/blob/{self.ref}/{path}.md"

    def raw(self, path: str) -> str:
        """Return the address of a file such as a picture."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.ref}/{path}"

    def install_line(self) -> str:
        """Return the line that installs the helper package at the published commit."""
        where = f"git+https://github.com/{self.repository}@{self.ref}"
        return f'%pip install --quiet "karpa-utils[notebooks] @ {where}"'


@dataclass
class Page:
    """What one notebook's text refers to: its place, glued values, figures and equations."""

    path: str
    book: Book
    glued: dict[str, str] = field(default_factory=dict)
    figures: dict[str, int] = field(default_factory=dict)
    equations: dict[str, int] = field(default_factory=dict)

    def resolve(self, target: str) -> str:
        """Return a link's target, written relative to this page, as a path in the repository."""
        target = re.sub(r"\.(md|ipynb|py)$", "", target)
        if target.startswith("/"):
            return target.removeprefix("/")
        return os.path.normpath(Path(self.path).parent / target)


def glued_values(notebook: dict[str, Any]) -> dict[str, str]:
    """Return the text of every value that a stored output of the notebook has glued."""
    values = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            scrap = output.get("metadata", {}).get("scrapbook")
            text = output.get("data", {}).get(f"{(scrap or {}).get('mime_prefix', '')}text/plain")
            if scrap and text is not None:
                values[scrap["name"]] = "".join(text)
    return values


def format_glued(text: str, spec: str) -> str:
    """Return a glued value as the built book shows it (myst-nb's rule).

    >>> format_glued("0.9793", ".1%"), format_glued("'ReLU'", "")
    ('97.9%', 'ReLU')
    """
    try:
        value = literal_eval(text)
    except (SyntaxError, ValueError):
        value = text
    if not spec or spec.endswith("s"):
        return format(str(value), spec)
    return format(int(value) if spec[-1] in "bcdoxX" else float(value), spec)


def split_target(text: str) -> tuple[str, str]:
    """Return (shown text, target) of a role's content: `text <target>` or `target`."""
    found = re.fullmatch(r"(?s)(.*?)\s*<(.+)>", text)
    return (found[1], found[2]) if found else ("", text)


def role_text(page: Page, name: str, text: str) -> str:
    """Return plain markdown for one MyST role."""
    shown, target = split_target(text)
    if name == "glue:text" or name == "glue":
        key, _, spec = target.partition(":")
        if key not in page.glued:
            raise KeyError(f"{page.path}: no stored output glues {key!r}; run the notebook.")
        return format_glued(page.glued[key], spec)
    if name.startswith("cite"):
        return f"[{'; '.join(key.strip() for key in target.split(','))}]"
    if name == "doc":
        path = page.resolve(target)
        return f"[{shown or page.book.title(path)}]({page.book.address(path)})"
    if name in ("numref", "ref") and target in page.figures:
        number = page.figures[target]
        return (
            shown.replace("%s", str(number)).replace("{number}", str(number)) or f"Figure {number}"
        )
    if name == "eq" or (name in ("ref", "numref") and target in page.equations):
        return f"({page.equations.get(target, '?')})"
    if name == "math":
        return f"${text}$"
    if name in ("code", "file", "kbd", "command", "py:func", "py:class", "py:mod"):
        return f"`{shown or target}`"
    return shown or target.replace("-", " ").replace("_", " ")


def plain_text(page: Page, text: str) -> str:
    """Return running text without roles, labels and relative links; code spans stay as they are."""
    text = LABEL.sub("", text)
    text = EQUATION.sub(lambda m: f"\\tag{{{page.equations[m['label']]}}} $$", text)
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        kept.append(found[0])
        return f"\0{len(kept) - 1}\0"

    text = ROLE.sub(lambda m: role_text(page, m["name"], m["text"]), text)
    text = CODE_SPAN.sub(keep, text)

    def link(found: re.Match[str]) -> str:
        target, _, anchor = found[2].partition("#")
        if "/_static/" in target:  # a page that running the notebook writes anew
            return found[1]
        if re.match(r"[a-z]+:", target) or not re.search(r"\.(md|ipynb|py)$", target):
            return found[0]
        path = page.resolve(target)
        shown = found[1] or page.book.title(path)
        return f"[{shown}]({page.book.address(path)}{'#' + anchor if anchor else ''})"

    text = re.sub(r"(?<!!)\[([^\]\n]*)\]\(([^()\s]+)\)", link, text)
    return re.sub(r"\0(\d+)\0", lambda m: kept[int(m[1])], text)


def quoted(text: str) -> str:
    """Return text as a blockquote."""
    return "\n".join(f"> {line}".rstrip() for line in text.strip().splitlines())


def directive_text(page: Page, name: str, title: str, body: list[str]) -> str:
    """Return plain markdown for one MyST directive."""
    options: dict[str, str] = {}
    while body and (found := OPTION.match(body[0])):
        options[found["name"]] = found["value"] or ""
        body = body[1:]
    inner = "\n".join(body).strip("\n")
    if name in LEFT_OUT:
        return ""
    if name == "math":
        number = page.equations.get(options.get("label", ""))
        return f"$$\n{inner}\n" + (f"\\tag{{{number}}}\n" if number else "") + "$$"
    if name in ("code", "code-block", "code-cell", "literalinclude"):
        return f"```{title}\n{inner}\n```"
    if name in ("figure", "image"):
        picture = f"![{options.get('alt', '')}]({page.book.raw(page.resolve(title))})"
        return picture + (f"\n\n*{markdown(page, inner)}*" if inner else "")
    content = markdown(page, inner)
    if name in BODY_ONLY:
        return content
    if name in ("table", "list-table"):
        return f"**{plain_text(page, title)}**\n\n{content}" if title else content
    head = plain_text(page, title) or name.split(":")[-1].replace("-", " ").capitalize()
    return quoted(f"**{head}**\n\n{content}")


def markdown(page: Page, text: str) -> str:
    """Return a markdown text without MyST syntax."""
    done: list[str] = []
    running: list[str] = []
    lines = text.split("\n")

    def flush() -> None:
        if running:
            done.append(plain_text(page, "\n".join(running)))
            running.clear()

    while lines:
        line = lines.pop(0)
        found = FENCE.match(line)
        if not found or (found["mark"][0] == ":" and not found["name"]):
            running.append(line)
            continue
        flush()
        mark, body = found["mark"], []
        closing = re.compile(rf"^{re.escape(mark[0])}{{{len(mark)},}}\s*$")
        depth = 1
        while lines:
            inside = lines.pop(0)
            nested = FENCE.match(inside)
            if closing.match(inside):
                depth -= 1
                if not depth:
                    break
            elif found["name"] and nested and nested["name"] and nested["mark"] == mark:
                depth += 1
            body.append(inside)
        if found["name"]:
            done.append(directive_text(page, found["name"], found["title"].strip(), body))
        else:
            done.append("\n".join([line, *body, mark]))
    flush()
    return "\n".join(done)


def leftovers(text: str) -> list[str]:
    """Return MyST syntax that is left in a markdown text, outside its code."""
    text = re.sub(r"(?ms)^(`{3,}|~{3,})(?!\{).*?^\1\s*$", "", text)
    roles = [found[0] for found in ROLE.finditer(text)]
    return roles + re.findall(r"(?m)^(?:> ?)*(?::{3,}|`{3,}\{).*$|^\([\w:.-]+\)=", text)


def number_references(notebook: dict[str, Any], page: Page) -> None:
    """Number the notebook's figures and equations in reading order."""
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        name = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name")
        names = [name] if name else []
        if cell["cell_type"] == "markdown":
            names += re.findall(r"\{figure\}.*\n(?::.*\n)*?:name:\s+(\S+)", text)
            for label in re.findall(rf"{EQUATION.pattern}|^:label:\s+(\S+)", text, re.M):
                page.equations[label[0] or label[1]] = len(page.equations) + 1
        for each in names:
            page.figures[each] = len(page.figures) + 1


def convert(notebook: dict[str, Any], path: str, book: Book) -> dict[str, Any]:
    """Return a notebook for Colab. `path` is its place in the repository, without suffix.

    Raises ValueError where the set-up cell is missing or MyST syntax is left.
    """
    page = Page(path, book, glued_values(notebook))
    number_references(notebook, page)
    cells, installs = [], 0
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            source = markdown(page, source)
            if left := leftovers(source):
                raise ValueError(f"{path}: cannot turn {left[0]!r} into plain markdown.")
        elif "setup" in cell["metadata"].get("tags", []):
            source, found = PLACEHOLDER.subn(lambda _: book.install_line(), source)
            installs += found
        cells.append(cell | {"source": source.splitlines(keepends=True)})
        figure = cell["metadata"].get("mystnb", {}).get("figure", {})
        if figure.get("caption"):
            number = page.figures.get(figure.get("name", ""))
            head = f"**Figure {number}.** " if number else ""
            caption = head + plain_text(page, figure["caption"])
            about = {"cell_type": "markdown", "metadata": {}, "source": [caption]}
            if "id" in cell:
                about["id"] = f"{cell['id'][:50]}-caption"
            cells.append(about)
    if installs != 1:
        raise ValueError(
            f"{path}: the set-up cell must hold the Colab line once, not {installs} times."
        )
    return notebook | {"cells": cells}


def main(arguments: list[str], environment: Callable[[str], str | None] = os.environ.get) -> None:
    """Convert every notebook of the book into the folder named on the command line."""
    repository, ref = environment("GITHUB_REPOSITORY"), environment("REF")
    if len(arguments) != 1 or not repository or not ref:
        sys.exit("Use: GITHUB_REPOSITORY=owner/name REF=tag python tools/colab.py OUTDIR")
    book, out = Book(repository, ref), Path(arguments[0])
    for source in sorted((ROOT / "notebooks").glob("*/*.ipynb")):
        path = source.relative_to(ROOT)
        notebook = json.loads(source.read_text("utf-8"))
        made = convert(notebook, path.with_suffix("").as_posix(), book)
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", "utf-8")
        print(target)


if __name__ == "__main__":
    main(sys.argv[1:])
