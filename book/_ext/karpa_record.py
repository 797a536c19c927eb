"""The committed data behind the generated tables, and its numbers as a reader wants them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARTS = {
    "foundations": "Foundations",
    "simplification": "Simplification",
    "interpretability": "Interpretability",
    "fairness": "Fairness",
    "vision": "Vision",
    "language": "Language",
    "reinforcement": "Reinforcement learning",
    "speech": "Speech",
    "reasoning": "Reasoning",
    "applications": "Applications",
    "open_science": "Open science",
}
DOCUMENTS = {  # number: (title in Chinese, what it is about)
    "000": ("Andrej Karpathy：人工智能的未来发展规划", "a plan for the future of AI"),
    "001": ("", "an essay without a title, on deep learning, OpenAI and the years to come"),
    "002": ("Andrej Karpathy：人工智能的未来发展机遇", "opportunities in the future of AI"),
    "003": (
        "Andrej Karpathy：人工智能的未来发展规划",
        "a plan, with general intelligence as its aim",
    ),
    "004": ("Andrej Karpathy：科技的未来", "the future of technology"),
}
Record = dict[str, Any]


def data_files(root: Path) -> list[Path]:
    """Return every file that a generated table is made from."""
    folders = ("book/results/**/*.json", "book/*.toml", "karpa_utils/data/*.toml")
    return sorted(path for pattern in folders for path in root.glob(pattern))


def load_toml(path: Path) -> Record:
    """Return a TOML file's content, empty where there is no file."""
    return tomllib.loads(path.read_text("utf-8")) if path.exists() else {}


def load_results(root: Path, profile: str) -> dict[str, Record]:
    """Return the recorded runs of one profile, by notebook, in the book's reading order."""
    paths = sorted((root / "book/results" / profile).glob("*/*.json"))
    runs = {run["notebook"]: run for run in (json.loads(p.read_text("utf-8")) for p in paths)}
    return {name: runs[name] for name in sorted(runs, key=reading_order(root))}


def reading_order(root: Path) -> Callable[[str], tuple[int, int]]:
    """Return the sort key of a notebook's name: its part, then its place in _toc.yml."""
    parts = list(PARTS)
    toc = root / "_toc.yml"
    listed = re.findall(r"file: notebooks/(\S+)", toc.read_text("utf-8")) if toc.exists() else []

    def key(name: str) -> tuple[int, int]:
        part = name.split("/")[0]
        return (
            parts.index(part) if part in parts else len(parts),
            listed.index(name) if name in listed else len(listed),
        )

    return key


def notebook_cells(root: Path, notebook: str) -> list[Record]:
    """Return the cells of a notebook, none where it does not exist."""
    path = root / f"notebooks/{notebook}.ipynb"
    return json.loads(path.read_text("utf-8"))["cells"] if path.exists() else []


def number(value: Any) -> str:
    """Return a number with four digits, thousands apart and a true minus sign.

    >>> number(0.98765432), number(61706), number(-3.0), number(True), number(None)
    ('0.9877', '61,706', '−3', 'yes', '–')
    """
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    if not isinstance(value, (int, float)):
        return str(value)
    whole = abs(value) >= 1000 or float(value).is_integer()
    return (f"{round(value):,}" if whole else f"{value:.4g}").replace("-", "−")


def exact(value: float) -> str:
    """Return a number with every digit that it was written with."""
    return f"{value:,}".removesuffix(".0").replace("-", "−")


def short(value: float | None) -> str:
    """Return a margin or a tolerance: two digits are enough."""
    if value is None or abs(value) >= 100:
        return number(value if value is None else round(value))
    return f"{value:.2g}".replace("-", "−")


def bound(claim: Record) -> str:
    """Return the bound of a claim.

    >>> bound({"at_least": 0.98}), bound({"at_least": 1, "at_most": 3}), bound({})
    ('≥ 0.98', '1 to 3', 'holds')
    >>> bound({"at_least": 1.461, "at_most": 1.4613}), bound({"at_least": 2, "at_most": 2})
    ('1.461 to 1.4613', '= 2')
    """
    low, high = claim.get("at_least"), claim.get("at_most")
    if low is not None and low == high:
        return f"= {exact(low)}"
    if low is not None and high is not None:
        return f"{exact(low)} to {exact(high)}"
    if low is None and high is None:
        return "holds"
    return f"≥ {exact(low)}" if high is None else f"≤ {exact(high)}"


def margin(claim: Record) -> float | None:
    """Return how far the value lies inside the nearer bound, None where it is no number."""
    low, high, value = claim.get("at_least"), claim.get("at_most"), claim.get("value")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    inside = ([] if low is None else [value - low]) + ([] if high is None else [high - value])
    return min(inside, default=None)


def duration(seconds: float | None) -> str:
    """Return a duration.

    >>> duration(41.2), duration(600), duration(None)
    ('41 s', '10 min', '–')
    """
    if seconds is None:
        return "–"
    return f"{seconds:.0f} s" if seconds < 180 else f"{seconds / 60:.0f} min"


def memory(mib: float | None) -> str:
    """Return an amount of memory.

    >>> memory(812), memory(3072), memory(None)
    ('812 MiB', '3.0 GiB', '–')
    """
    if mib is None:
        return "–"
    return f"{mib:,.0f} MiB" if mib < 2048 else f"{mib / 1024:.1f} GiB"


def badges(root: Path, notebook: str) -> list[Record]:
    """Return what the end of a notebook's page says about its recorded runs."""
    shown = []
    for profile, title in (("laptop", "Last verified"), ("full", "Recorded on a larger machine")):
        if run := load_results(root, profile).get(notebook):
            facts = {
                "Profile": profile,
                "Date": run["date"],
                "Time": duration(run.get("seconds")),
                "Peak memory": memory(run.get("peak_mib")),
                "Hardware": run.get("hardware") or "–",
                "Claims that hold": str(len(run.get("claims", []))),
            }
            facts = {name: value for name, value in facts.items() if value != "–"}
            versions = " · ".join(f"{k} {v}" for k, v in run.get("versions", {}).items())
            shown.append({"title": title, "facts": facts, "versions": versions})
    return shown
