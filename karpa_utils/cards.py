"""A release policy checked against measured values, and the documents that go with a model.

A policy is a TOML file that people agree on before anything is measured: who is affected, who
decides, and limits, each with whom it protects. `gate` compares it with measurements and blocks a
release with reasons. `model_card` and `data_sheet` write what was measured, and name what was not.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from karpa_utils.errors import BadInput

# metric -> what it is, as cards and reasons say it
METRICS = {
    "accuracy": "share of decisions that agree with the label",
    "auc": "chance that a random positive scores above a random negative",
    "selection_rate_gap": "largest difference between two groups in the share selected",
    "true_positive_rate_gap": "largest difference between two groups in the true positive rate",
    "false_positive_rate_gap": "largest difference between two groups in the false positive rate",
    "equalized_odds_difference": "the larger of the gaps in true and in false positive rate",
    "calibration_gap": "mean score minus share of positives, in the worst band of a group",
    "smallest_group": "people in the smallest group that was audited",
    "membership_auc": "AUC of an attack that guesses who was in the training data",
    "epsilon": "differential privacy of the training",
    "decisions_flipped_by_noise": "share of decisions that measurement noise in the inputs turns",
    "explanation_agreement": "rank correlation of attributions between two trainings",
    "explanation_drop": "how much more the reason given counts than a random feature",
    "referred": "share of cases that go to a person",
    "referred_within_capacity": "share of uncertain cases that a person has time for",
    "appeal_possible": "share of refused people whom a feasible change would have approved",
}


class Measured(NamedTuple):
    """A measured value with its interval (both ends equal to it where there is none)."""

    value: float
    low: float
    high: float
    how: str = ""  # one sentence: on whom, with how many, how often


class Check(NamedTuple):
    """One limit of the policy and what became of it."""

    metric: str
    limit: str  # "at most 0.05"
    measured: Measured | None
    kept: bool
    reason: str  # why it blocks; "" if it is kept


@dataclass(frozen=True)
class Verdict:
    """What the gate says: released or not, and each limit's check."""

    released: bool
    checks: tuple[Check, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence for each limit that blocks the release."""
        return tuple(check.reason for check in self.checks if not check.kept)


REQUIRED = {"name": str, "purpose": str, "affected": list, "decides": str, "limit": list}


def read_policy(source: str | Path) -> dict[str, Any]:
    """Return a policy read from a TOML file, or from its text; raise BadInput if it is not whole.

    It needs name, purpose, affected (a list of who is), decides (the person or office that answers
    for the release), and at least one [[limit]] with metric, at_most or at_least, and protects (who
    is hurt if it is exceeded). Taught in fairness/ethics_gate.
    """
    text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"The policy is not valid TOML: {error}.") from None
    for key, kind in REQUIRED.items():
        if not isinstance(found.get(key), kind) or not found[key]:
            raise BadInput(f"The policy needs {key!r}, {'a list' if kind is list else 'a text'}.")
    for number, limit in enumerate(found["limit"], start=1):
        _check_limit(limit, number)
    return found


def _check_limit(limit: Mapping[str, Any], number: int) -> None:
    """Raise BadInput for a limit that could not be checked, or that protects nobody."""
    metric = limit.get("metric", "")
    if metric not in METRICS:
        near = difflib.get_close_matches(metric, METRICS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known ones are {', '.join(METRICS)}."
        raise BadInput(f"Limit {number} of the policy names an unknown metric {metric!r}: {hint}")
    bounds = [limit.get(side) for side in ("at_most", "at_least") if side in limit]
    if len(bounds) != 1 or isinstance(bounds[0], bool) or not isinstance(bounds[0], int | float):
        raise BadInput(f"The limit on {metric} needs one number, at_most or at_least.")
    if not limit.get("protects"):
        raise BadInput(f"The limit on {metric} must say whom it protects ('protects').")


def gate(policy: Mapping[str, Any], measurements: Mapping[str, Measured | float]) -> Verdict:
    """Return whether the measurements keep every limit of the policy, and if not, why.

    A limit is kept if the worse end of the measurement's interval keeps it: what is not known well
    enough is not released. A limit that was not measured, or is not a number, blocks.
    Raises BadInput for a policy that names an unknown metric, or measurements of one.
    Taught in fairness/ethics_gate.
    """
    for number, limit in enumerate(policy["limit"], start=1):
        _check_limit(limit, number)
    if unknown := sorted(set(measurements) - set(METRICS)):
        raise BadInput(f"There is no metric {unknown[0]!r}; known ones are {', '.join(METRICS)}.")
    checks = tuple(_checked(limit, measurements.get(limit["metric"])) for limit in policy["limit"])
    return Verdict(all(check.kept for check in checks), checks)


def _checked(limit: Mapping[str, Any], found: Measured | float | None) -> Check:
    """Return one limit's check, with its reason if it blocks."""
    metric, protects = limit["metric"], limit["protects"]
    upper = "at_most" in limit
    bound = limit["at_most"] if upper else limit["at_least"]
    text = f"{'at most' if upper else 'at least'} {bound:g}"
    name = metric.replace("_", " ").capitalize().replace("auc", "AUC")
    if found is None:
        return Check(metric, text, None, False, f"{name} was not measured; it protects {protects}.")
    if not isinstance(found, Measured):
        found = Measured(float(found), float(found), float(found))
    if not all(map(math.isfinite, found[:3])):
        return Check(metric, text, found, False, f"{name} is not defined; it protects {protects}.")
    worst = found.high if upper else found.low
    if worst <= bound if upper else worst >= bound:
        return Check(metric, text, found, True, "")
    value_keeps = found.value <= bound if upper else found.value >= bound
    but = ", and the interval reaches" if value_keeps else ", up to" if upper else ", down to"
    ends = "" if worst == found.value else f"{but} {worst:.3g}"
    reason = f"{name} is {found.value:.3g}{ends}; the policy allows {text}. It protects {protects}."
    return Check(metric, text, found, False, reason)


def model_card(
    policy: Mapping[str, Any],
    verdict: Verdict,
    facts: Mapping[str, str],
    tables: Mapping[str, Mapping[str, Sequence[str]]],
) -> str:
    """Return a model card as a self-contained HTML page, from measured values alone.

    facts: what the run knows of itself, such as versions, seeds, rows; tables: caption -> columns,
    such as `Audit.table`. What the policy limits and nobody measured is listed as such.
    Source: Mitchell et al. 2019. Taught in fairness/ethics_gate.
    """
    checks = {
        "limit on": [METRICS[check.metric] for check in verdict.checks],
        "bound": [check.limit for check in verdict.checks],
        "measured (95 % interval)": [_measured(check.measured) for check in verdict.checks],
        "on whom": [check.measured.how if check.measured else "" for check in verdict.checks],
        "kept": ["yes" if check.kept else "NO" for check in verdict.checks],
    }
    head = "May be released" if verdict.released else "Must not be released"
    parts = [
        ("h1", policy["name"]),
        ("p", f"{head}. Who answers for it: {policy['decides']}."),
        ("ul", verdict.reasons),
        ("h2", "Purpose"),
        ("p", policy["purpose"]),
        ("h2", "Who is affected"),
        ("ul", policy["affected"]),
    ]
    return _page(policy["name"], parts, {"Limits and measurements": checks, **tables}, facts)


def data_sheet(
    title: str,
    entry: Mapping[str, Any],
    counted: Mapping[str, str],
    tables: Mapping[str, Mapping[str, Sequence[str]]],
) -> str:
    """Return a data sheet as a self-contained HTML page.

    entry: the registry's table of the set (`ku.data.source`): citation, license, harms; counted:
    what was counted in this copy. Source: Gebru et al. 2021. Taught in fairness/ethics_gate.
    """
    parts = [("h1", title)]
    for heading in ("citation", "license", "harms", "notes"):
        if entry.get(heading):
            parts += [("h2", heading.capitalize()), ("p", entry[heading])]
    return _page(title, parts, tables, counted)


def _measured(found: Measured | None) -> str:
    if found is None:
        return "not measured"
    if not all(map(math.isfinite, found[:3])):
        return "not defined"
    if found.low == found.high:
        return f"{found.value:.3g}"
    return f"{found.value:.3g} ({found.low:.3g} to {found.high:.3g})"


STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;
color:#1d2327;background:#fff}[role=region]{overflow-x:auto}
table{border-collapse:collapse;margin:1rem 0}caption{text-align:left;
font-weight:600;padding:.3rem 0}th,td{padding:.25rem .7rem;border-bottom:1px solid #d5dade;
text-align:left}dt{font-weight:600}@media(prefers-color-scheme:dark){body{color:#e6e8ea;
background:#14181b}th,td{border-color:#3a4248}}"""


def _page(
    title: str,
    parts: Sequence[tuple[str, str | Sequence[str]]],
    tables: Mapping[str, Mapping[str, Sequence[str]]],
    facts: Mapping[str, str],
) -> str:
    """Return a page of paragraphs, tables and facts."""

    def element(tag: str, content: str | Sequence[str]) -> str:
        if isinstance(content, str):
            return f"<{tag}>{escape(content)}</{tag}>"
        return f"<{tag}>{''.join(element('li', text) for text in content)}</{tag}>"

    body = "\n".join(element(tag, content) for tag, content in parts if content)
    for caption, columns in tables.items():
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
        rows = "\n".join(
            "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>"
            for row in zip(*columns.values(), strict=True)
        )
        table = f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>\n{rows}</table>"
        body += f'\n<div role="region" tabindex="0" aria-label="{escape(caption)}">{table}</div>'
    facts_list = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<body>{body}<dl>{facts_list}</dl></body></html>\n"
    )
