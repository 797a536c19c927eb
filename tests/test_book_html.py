"""The rendered book, opened page by page in a browser: offline, accessible, and whole.

`_build/html` is built first where it is missing or older than its sources.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest
from browser import FLAGS, find_browser, serve, visit

ROOT = Path(__file__).parent.parent
HTML = ROOT / "_build" / "html"
WIDTHS = (320, 768, 1440, 3840)

# Accessibility faults that this repository cannot mend: a pattern, and where the fault comes from.
KNOWN_FAULTS: dict[str, str] = {}

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")


def sources() -> Iterator[Path]:
    yield from (ROOT / "_config.yml", ROOT / "_toc.yml")
    yield from (
        p for p in (ROOT / "book").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    )
    yield from (ROOT / "notebooks").glob("*/*.ipynb")
    yield from (ROOT / "karpa_utils" / "data").glob("*.toml")


@pytest.fixture(scope="module")
def html() -> Path:
    """The folder of the built book, built now if it is not fresh."""
    index = HTML / "index.html"
    if not index.exists() or index.stat().st_mtime < max(p.stat().st_mtime for p in sources()):
        command = [
            str(Path(sys.executable).with_name("jupyter-book")),
            "build",
            str(ROOT),
            "-W",
            "-n",
            "--keep-going",
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"}
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return HTML


@pytest.fixture(scope="module")
def site(html: Path) -> Iterator[str]:
    with serve(html) as address:
        yield address


@contextmanager
def browser_page(profile: Path) -> Iterator[Any]:
    """A page of a browser of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=find_browser(), args=FLAGS
        )
        yield context.pages[0] if context.pages else context.new_page()
        context.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser_page(tmp_path_factory.mktemp("browser")) as page:
        yield page


def axe_script() -> str:
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8")


@pytest.fixture(scope="module")
def visits(
    html: Path, site: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What one visit to each page has shown, by path.

    Two browsers share the pages: axe keeps a core busy, and only one, for seconds at a time.
    """
    paths = sorted(
        p.relative_to(html).as_posix()
        for p in html.rglob("*.html")
        if "_static" not in p.parts and p != html / "index.html"
    )
    assert len(paths) > 10

    def tour(half: list[str], profile: Path) -> dict[str, dict[str, Any]]:
        with browser_page(profile) as page:
            return {path: visit(page, site + path, axe_script(), WIDTHS) for path in half}

    profiles = [tmp_path_factory.mktemp("tour") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(tour, (paths[::2], paths[1::2]), profiles)
    return dict(sorted((first | second).items()))


def check(
    visits: dict[str, dict[str, Any]], found: Callable[[str, dict[str, Any]], list[Any]]
) -> None:
    """Fail with one line per page for which `found` gives something; each fault is shown once."""
    lines = {
        path: list(dict.fromkeys(map(str, found(path, seen)))) for path, seen in visits.items()
    }
    text = "\n".join(f"{path}: {'; '.join(each[:5])}" for path, each in lines.items() if each)
    if text:
        pytest.fail(text, pytrace=False)


def test_no_page_asks_another_host(visits: dict[str, Any], site: str) -> None:
    check(
        visits,
        lambda path, seen: [
            u for u in seen["requests"] if not u.startswith((site, "data:", "blob:"))
        ],
    )


def test_no_page_reports_an_error(visits: dict[str, Any]) -> None:
    check(visits, lambda path, seen: seen["console"])


def test_no_page_scrolls_sideways(visits: dict[str, Any]) -> None:
    check(visits, lambda path, seen: [f"{d} px at {w}" for w, d in seen["wider"].items() if d > 0])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_fault(visits: dict[str, Any], theme: str) -> None:
    check(
        visits,
        lambda path, seen: [
            f for f in seen["axe"][theme] if not any(re.search(k, f) for k in KNOWN_FAULTS)
        ],
    )


def test_axe_would_see_a_pale_kind_of_token(page: Any, site: str) -> None:
    """The pages that axe sees are thinned (`browser.THIN`): a kind of token must survive that."""
    path = "notebooks/foundations/training_loop.html"
    pale = "<style>.highlight .nn { color: #e8e8e8 !important }</style></head>"
    page.route("**/" + path, lambda route: paler(route, pale))
    seen = visit(page, site + path, axe_script(), (1440,))
    page.unroute("**/" + path)
    assert any("color-contrast" in fault and ".nn" in fault for fault in seen["axe"]["light"])


def paler(route: Any, style: str) -> None:
    """Answer a request with the page and one more style."""
    answer = route.fetch()
    route.fulfill(response=answer, body=answer.text().replace("</head>", style, 1))


def test_known_faults_still_exist(visits: dict[str, Any]) -> None:
    every = [fault for seen in visits.values() for theme in seen["axe"].values() for fault in theme]
    assert [k for k in KNOWN_FAULTS if not any(re.search(k, fault) for fault in every)] == []


def test_chinese_text_is_marked(visits: dict[str, Any]) -> None:
    check(visits, lambda path, seen: seen["unmarked"])


def test_every_image_is_described(visits: dict[str, Any]) -> None:
    check(visits, lambda path, seen: seen["noAlt"])


def test_internal_links_resolve(visits: dict[str, Any], site: str, html: Path) -> None:
    def broken(path: str, seen: dict[str, Any]) -> list[str]:
        bad = []
        for link in seen["links"]:
            address, anchor = urldefrag(link)
            if address.startswith(site):
                target = unquote(address.removeprefix(site)) or "index.html"
                known = (
                    target not in visits or not anchor or unquote(anchor) in visits[target]["ids"]
                )
                bad += [link] * (not (html / target.split("?")[0]).exists() or not known)
        return bad

    check(visits, broken)


def test_every_page_lets_report_an_error(visits: dict[str, Any]) -> None:
    check(
        visits,
        lambda path, seen: (
            [] if any("#report" in u or "/issues/new" in u for u in seen["links"]) else ["no link"]
        ),
    )


def test_first_page_is_reached(page: Any, site: str) -> None:
    page.goto(site)
    page.wait_for_url("**/book/index.html")
    assert page.title()


def test_search_finds_a_word(page: Any, site: str) -> None:
    page.goto(site + "search.html?q=claims")
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results li a[href*='claims.html']").count()


def test_keyboard_changes_the_theme(page: Any, site: str) -> None:
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(site + "book/claims.html")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('theme-switch-button')"):
            break
    else:
        pytest.fail("the theme button cannot be reached with the tab key")
    seen = set()
    for _ in range(3):
        page.keyboard.press("Enter")
        seen.add(page.evaluate("document.documentElement.dataset.mode"))
    assert seen == {"light", "dark", "auto"}


def test_collapsed_boxes_open_from_the_keyboard(
    page: Any, site: str, visits: dict[str, Any]
) -> None:
    for path in visits:
        page.goto(site + path)
        if page.locator("details.dropdown").count():
            page.locator("details.dropdown > summary").first.focus()
            page.keyboard.press("Enter")
            assert page.locator("details.dropdown").first.get_attribute("open") is not None
            return
    pytest.skip("no page has a collapsed box yet")
