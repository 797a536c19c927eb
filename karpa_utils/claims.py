"""Conclusions as checked statements: `ku.claim` prints them, checks them, records them."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from karpa_utils.errors import BadInput
from karpa_utils.plots import in_notebook
from karpa_utils.runtime import rehearsal_steps

Role = Literal["", "headline", "control", "solution", "erratum", "correction"]


class ClaimError(AssertionError):
    """A claim does not hold; the message has the sentence, the value and the bound."""


def _number(value: float) -> str:
    """Return a bound as a reader would write it: 0.98, 60, 1e-06."""
    return f"{value:g}" if abs(value) < 1e6 else f"{value:,.0f}"


def _bound(
    value: object, at_least: float | None, at_most: float | None, between: tuple | None
) -> tuple[float, float, str]:
    """Return (low, high, text) of the one bound given; a truth value needs none."""
    given = [b for b in (at_least, at_most, between) if b is not None]
    if isinstance(value, bool) and not given:
        return True, True, "true"
    if isinstance(value, bool) or len(given) != 1:
        raise BadInput(
            "A claim needs exactly one of at_least=, at_most= or between=, "
            "or none if its value is True or False."
        )
    if at_least is not None:
        return at_least, math.inf, f"at least {_number(at_least)}"
    if at_most is not None:
        return -math.inf, at_most, f"at most {_number(at_most)}"
    low, high = between
    if low == high:
        return low, high, f"exactly {_number(low)}"
    return low, high, f"between {_number(low)} and {_number(high)}"


def claim(
    sentence: str,
    value: float,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    between: tuple[float, float] | None = None,
    role: Role = "",
    erratum: str | None = None,
    formula: str | None = None,
    rests_on: tuple[str, ...] = (),
) -> None:
    """Print `sentence` with a tick and its bound; raise `ClaimError` if it does not hold.

    value: the measured number (anything `float()` takes); NaN never holds. It is not printed,
        so that the output is the same on every machine. True or False: what the sentence says
        happened, or did not.
    at_least, at_most, between: exactly one bound, inclusive; none for True or False.
    role: "headline" for the chapter's main result, "control" for the negative control that
        must fall short of the headline's bound, "solution" for an exercise.
    erratum: where in the documents the fault stands ("001 §4.2"); makes it an entry of the
        errata page. With role="correction" it stands there beside the fault claimed before it.
    formula: what the documents print there, or should; as short as can be: `code` or $math$.
    rests_on: labels of printed numbers with a declared tolerance on which this claim rests;
        a test checks that the tolerance is at most a third of the claim's margin.
    """
    if not isinstance(value, bool):
        value = float(value.detach() if isinstance(value, torch.Tensor) else value)
    low, high, text = _bound(value, at_least, at_most, between)
    if rehearsal_steps() is not None:
        print(f"· {sentence} ({text}; not checked in a rehearsal)")
        return
    if not low <= value <= high:
        raise ClaimError(f"{sentence}: measured {value:.6g}, claimed {text}")
    print(f"✓ {sentence} ({text})")
    _record(
        sentence=sentence,
        value=value,
        at_least=None if value is True or low == -math.inf else low,
        at_most=None if value is True or high == math.inf else high,
        role=role or ("erratum" if erratum else ""),
        erratum=erratum,
        formula=formula,
        rests_on=list(rests_on),
    )


def errata(
    where: str, printed: str, corrected: str
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return two kinds of `claim` for a fault of the documents: (erratum, mended).

    where: the place in the documents ("001 §4.2"); printed: what stands there; corrected: what
    should, both as `code` or $math$. `erratum` says what the one does, `mended` what the other;
    the errata page shows them side by side.
    """
    erratum = functools.partial(claim, erratum=where, formula=printed)
    return erratum, functools.partial(claim, erratum=where, formula=corrected, role="correction")


def attempt(
    sentence: str,
    value: float,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    between: tuple[float, float] | None = None,
) -> None:
    """Print an exercise's claim with ✓ or ✗ and never raise: the stub is meant to fail.

    The solution's cell checks the same sentence and bound with `claim(..., role="solution")`.
    """
    low, high, text = _bound(value, at_least, at_most, between)
    print(f"{'✓' if low <= float(value) <= high else '✗ not yet:'} {sentence} ({text})")


def _record(**entry: object) -> None:
    """Append one claim to the file named in KARPA_RECORD, which only `make execute` sets."""
    if path := os.environ.get("KARPA_RECORD"):
        file = Path(path)
        entries = json.loads(file.read_text()) if file.exists() else []
        file.write_text(json.dumps([*entries, entry]))


def publish(page: Path) -> None:
    """Keep a page that the notebook wrote, a self-contained HTML file, with the rendered book.

    Only `make execute` does so, at book/_static/pages/<notebook>/<name of the file>.
    """
    if path := os.environ.get("KARPA_RECORD"):
        shutil.copy(page, Path(path).parent)


def glue(**texts: object) -> None:
    """Store numbers for the prose: `glue(acc="98.1 %")`, then {glue:text}`acc` in a text cell.

    The text is stored as given, so round it to what is stable. Outside a notebook it is printed.
    """
    if not in_notebook():
        for name, text in texts.items():
            print(f"{name} = {text}")
        return
    from IPython.display import display

    prefix = "application/papermill.record/"  # myst-nb's mark for "stored, not shown"
    for name, text in texts.items():
        display(
            {f"{prefix}text/plain": str(text)},
            raw=True,
            metadata={"scrapbook": {"name": name, "mime_prefix": prefix}},
        )
