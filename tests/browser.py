"""A headless browser on the built book: used by `test_book_html.py`."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]

# Facts about a page that its tests need, gathered in one call.
FACTS = """() => {
  const text = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const unmarked = [];
  while (text.nextNode()) {
    const node = text.currentNode, parent = node.parentElement;
    if (!/[\\u3400-\\u9fff]/.test(node.data)) continue;
    if (!parent.closest('[lang="zh"], script, style')) unmarked.push(node.data.trim());
  }
  return {
    unmarked,
    noAlt: [...document.images].filter(i => !i.alt.trim()).map(i => i.src),
    links: [...document.querySelectorAll('a[href]')].map(a => a.href),
    ids: [...document.querySelectorAll('[id]')].map(e => e.id),
  };
}"""

# axe takes most of the time of these tests, and most of it for thousands of elements that look
# alike. Of each kind of code token, of formula and of table row a page keeps the first few; further
# tokens and formulas become plain text where they stand, further rows go.
THIN = """() => {
  const seen = new Map();
  const again = (key, keep) => {
    seen.set(key, (seen.get(key) ?? 0) + 1);
    return seen.get(key) > keep;
  };
  for (const token of document.querySelectorAll('.highlight pre span[class]'))
    if (again(token.className, 2)) token.replaceWith(token.textContent);
  for (const formula of document.querySelectorAll('mjx-container'))
    if (again(formula.getAttribute('display') ?? 'inline', 3)) formula.replaceWith('x');
  for (const row of document.querySelectorAll('tbody tr')) {
    const shape = [...row.querySelectorAll('*')].map(e => e.tagName + '.' + e.className);
    if (again(shape.join(' '), 3)) row.remove();
  }
  document.body.normalize();
}"""


def find_browser() -> str | None:
    """Return the path of an installed Chromium or Chrome, or None."""
    return next(
        (
            path
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (path := shutil.which(name))
        ),
        None,
    )


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on a free local port and give its address."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def sideways_scroll(page: Any, width: int) -> int:
    """Return by how many pixels a page is wider than the window."""
    page.set_viewport_size({"width": width, "height": 900})
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


def axe(page: Any, theme: str) -> list[str]:
    """Return the accessibility faults that axe finds, as «rule (impact): where».

    In the dark theme only the rules about color are asked again. `preload: false` keeps axe from
    fetching the style sheets once more.
    """
    page.emulate_media(color_scheme=theme)
    page.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
    options: dict[str, Any] = {"resultTypes": ["violations"], "preload": False}
    if theme == "dark":
        options["runOnly"] = ["color-contrast", "link-in-text-block"]
    found = page.evaluate("options => axe.run(document, options).then(r => r.violations)", options)
    return [
        f"{v['id']} ({v['impact']}): {' '.join(map(str, node['target']))}"
        for v in found
        for node in v["nodes"]
    ]


def visit(page: Any, url: str, axe_script: str, widths: tuple[int, ...]) -> dict[str, Any]:
    """Open a page once and return all that the tests want to know about it."""
    seen: dict[str, Any] = {"requests": [], "console": [], "axe": {}, "wider": {}}
    listeners = {
        "request": lambda request: seen["requests"].append(request.url),
        "console": lambda message: (
            seen["console"].append(message.text) if message.type == "error" else None
        ),
        "pageerror": lambda error: seen["console"].append(str(error)),
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    page.set_viewport_size({"width": 1440, "height": 900})
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.goto(url, wait_until="load")
    page.evaluate("window.MathJax?.startup?.promise")
    page.evaluate(axe_script)
    seen |= page.evaluate(FACTS)
    seen["wider"] = {width: sideways_scroll(page, width) for width in widths}
    page.set_viewport_size({"width": 1440, "height": 900})
    page.evaluate(THIN)
    seen["axe"] = {theme: axe(page, theme) for theme in ("light", "dark")}
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    return seen
