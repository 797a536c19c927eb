"""The book's local Sphinx extension: page furniture, accessibility, and a site that works offline.

The tables generated from committed data (claims, errata, results, ...) are in `karpa_tables`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import karpa_record
import karpa_tables
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util.fileutil import copy_asset
from sphinx.writers.html5 import HTML5Translator

CHINESE = re.compile("[\u3000-\u303f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef]+")
ROOT_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<meta http-equiv="refresh" content="0; url={page}">
<link rel="canonical" href="{page}">
</head>
<body><main><h1>{title}</h1><p><a href="{page}">Open the book</a></p></main></body>
</html>
"""


# --------------------------------------------------------------------------------------------------
# Repairs of the document tree


def keep_glued_text(app: Sphinx, docname: str, source: list[str]) -> None:
    """Quote glued texts, which `{glue:text}` would read as Python: 3,500 as the pair (3, 500)."""
    if not docname.startswith("notebooks/"):
        return
    notebook, kind = json.loads(source[0]), "application/papermill.record/text/plain"
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if kind in output.get("data", {}):
                output["data"][kind] = repr("".join(output["data"][kind]))
    source[0] = json.dumps(notebook)


class zh(nodes.inline):
    """Inline text written as `<span lang="zh">`."""


class MarkChinese(SphinxTransform):
    """Give Chinese in a page's text the language attribute that fonts and screen readers need."""

    default_priority = 860  # titles are collected at 880, so tables of contents carry it too
    leave = (zh, nodes.literal_block, nodes.raw, nodes.math, nodes.math_block, nodes.comment)

    def apply(self, **kwargs: Any) -> None:
        """Wrap every run of Chinese characters."""
        for node in list(self.document.findall(nodes.Text)):
            text, parent, pieces, at = node.astext(), node.parent, [], 0
            if isinstance(parent, self.leave):
                continue
            for run in CHINESE.finditer(text):
                pieces += [nodes.Text(text[at : run.start()]), zh("", run.group())]
                at = run.end()
            if pieces:
                pieces.append(nodes.Text(text[at:]))
                parent.replace(node, [piece for piece in pieces if piece.astext()])


class collapsed(nodes.General, nodes.Element):
    """A box that the reader opens: `<details>` with its title, the first child, as summary."""


class CollapseAdmonitions(SphinxTransform):
    """Turn `:class: dropdown` admonitions into `<details>`, which work without a script."""

    default_priority = 850

    def apply(self, **kwargs: Any) -> None:
        """Replace the admonitions; one without a title of its own is named after its kind."""
        for box in list(self.document.findall(nodes.Admonition)):
            if "dropdown" not in box["classes"]:
                continue
            titled = isinstance(box[0], nodes.title)
            title = box[0].children if titled else [nodes.Text(box.tagname.capitalize())]
            summary = nodes.inline("", "", *title, classes=["admonition-title"])
            classes = [c for c in box["classes"] if not c.startswith(("admonition-", "dropdown"))]
            classes += [] if titled else [box.tagname]
            body = box.children[titled:]
            box.replace_self(collapsed("", summary, *body, ids=box["ids"], classes=classes))


class LinkStaticPages(SphinxTransform):
    """Open a link to a page of `_static` in the browser; Sphinx makes a download of it."""

    default_priority = 850

    def apply(self, **kwargs: Any) -> None:
        """Replace the download by a plain link."""
        up = "../" * self.env.docname.count("/")
        for node in list(self.document.findall(addnodes.download_reference)):
            _, static, path = node["reftarget"].partition("_static/")
            if static:
                address = up + static + path
                node.replace_self(nodes.reference("", "", *node.children, refuri=address))


class MendDataFrames(SphinxTransform):
    """Turn the empty header cells that pandas writes above the index into plain cells."""

    default_priority = 850

    def apply(self, **kwargs: Any) -> None:
        """Rewrite the HTML of the outputs that hold a data frame."""
        for raw in self.document.findall(nodes.raw):
            if 'class="dataframe' in raw.astext():
                raw.children[:] = [nodes.Text(raw.astext().replace("<th></th>", "<td></td>"))]


def visit_zh(self: Any, node: zh) -> None:
    """Open the element."""
    self.body.append('<span lang="zh">')


def depart_zh(self: Any, node: zh) -> None:
    """Close the element."""
    self.body.append("</span>")


def visit_collapsed(self: Any, node: collapsed) -> None:
    """Write the whole element: its first child is the summary."""
    self.body.append(self.starttag(node, "details", CLASS="admonition dropdown") + "<summary>")
    node[0].walkabout(self)
    self.body.append('</summary>\n<div class="dropdown-body">\n')
    for child in node.children[1:]:
        child.walkabout(self)
    self.body.append("</div>\n</details>\n")
    raise nodes.SkipNode


def visit_citation(self: Any, node: nodes.citation) -> None:
    """Open one entry of the bibliography, a list whose entries docutils does not call items."""
    HTML5Translator.visit_citation(self, node)
    self.body[-1] = self.body[-1].replace("doc-biblioentry", "listitem")


# --------------------------------------------------------------------------------------------------
# What stands around a page


def add_page_context(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Hand the templates a notebook's badges and download, and the links that need an address."""
    repository = os.environ.get("GITHUB_REPOSITORY", "")
    source = app.env.doc2path(pagename, False) if pagename in app.env.found_docs else ""
    pathto, is_notebook = context["pathto"], source.endswith(".ipynb")
    page: dict[str, Any] = {"report": pathto("book/how_to_use").rstrip("#") + "#report"}
    if is_notebook:
        page["download"] = pathto("_sources/" + source, 1)
        name = pagename.removeprefix("notebooks/")
        page["badges"] = karpa_record.badges(Path(app.srcdir), name)
    if repository and source:
        base = f"https://github.com/{repository}"
        page["report"] = f"{base}/issues/new?title={quote(f'Error on the page {pagename}', '')}"
        page["source"] = f"{base}/blob/main/{re.sub('ipynb$', 'py', source)}"
        if is_notebook:
            colab = "https://colab.research.google.com/github"
            page["colab"] = f"{colab}/{repository}/blob/colab/{source}"
    context["karpa"] = page


def outdated_pages(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> set[str]:
    """Return every page where the data behind the tables or this extension has changed."""
    digest = hashlib.sha256(os.environ.get("GITHUB_REPOSITORY", "").encode())
    for file in [*karpa_record.data_files(Path(app.srcdir)), *Path(__file__).parent.glob("*.py")]:
        digest.update(file.read_bytes())
    before = getattr(env, "karpa_digest", None)
    env.karpa_digest = digest.hexdigest()  # type: ignore[attr-defined]
    return set() if before == digest.hexdigest() else set(env.found_docs)


# --------------------------------------------------------------------------------------------------
# Offline


def use_local_mathjax(app: Sphinx, config: Any) -> None:
    """Point the pages at the copy of MathJax that `copy_mathjax` makes."""
    config.mathjax_path = "mathjax/tex-chtml.js"


def copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Copy what `tex-chtml.js` may ask for out of `sphinx-mathjax-offline`: 4 of its 24 MB."""
    if exception or app.builder.format != "html":
        return
    spec = find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise RuntimeError("MathJax is not installed: run `pip install sphinx-mathjax-offline`.")
    source = Path(spec.origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    copy_asset(str(source / "tex-chtml.js"), str(target))
    for folder in ("output/chtml", "input/tex"):
        copy_asset(str(source / folder), str(target / folder))


def write_root_page(app: Sphinx, exception: Exception | None) -> None:
    """Write `index.html`, which leads to the book's first page."""
    if exception is None and app.builder.format == "html":
        page = app.builder.get_target_uri(app.config.root_doc)  # type: ignore[union-attr]
        text = ROOT_PAGE.format(title=app.config.html_title, page=page)
        (Path(app.outdir) / "index.html").write_text(text, "utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register nodes, repairs, directives and events."""
    # jupyter-book sets this value for an extension that `_config.yml` leaves out
    app.add_config_value("comments_config", {}, "env")
    app.add_node(zh, html=(visit_zh, depart_zh))
    app.add_node(collapsed, html=(visit_collapsed, None))
    entry = (visit_citation, HTML5Translator.depart_citation)
    app.add_node(nodes.citation, override=True, html=entry)
    for repair in (CollapseAdmonitions, LinkStaticPages, MarkChinese, MendDataFrames):
        app.add_transform(repair)
    karpa_tables.add_directives(app)
    app.connect("config-inited", use_local_mathjax)
    app.connect("source-read", keep_glued_text)
    app.connect("env-get-outdated", outdated_pages)
    # early: the theme renders the templates at priority 500 to see which of them are empty
    app.connect("html-page-context", add_page_context, priority=100)
    app.connect("build-finished", copy_mathjax)
    # early: sphinx_external_toc writes a bare redirect where it finds no index.html
    app.connect("build-finished", write_root_page, priority=400)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
