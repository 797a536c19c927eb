"""What the benchmarks share: what they ran on, and the file that the book shows."""

import json
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

from tools.execute import hardware


def about(*packages: str) -> dict:
    """Return date, hardware and versions of this run."""
    versions = {"python": platform.python_version(), **{p: version(p) for p in packages}}
    return {"date": date.today().isoformat(), "hardware": hardware(), "versions": versions}


def save(file: Path, result: dict, goals: list[dict]) -> None:
    """Print which goals were reached and write the results file.

    goals: tables with sentence, value and at_least or at_most, as `ku.claim` records them.
    """
    for goal in goals:
        low, high = goal.get("at_least", float("-inf")), goal.get("at_most", float("inf"))
        goal["reached"] = low <= goal["value"] <= high
        print(f"{'reached' if goal['reached'] else 'MISSED'}  {goal['sentence']}: {goal['value']}")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(result | {"goals": goals}, indent=1) + "\n")
