"""The one exception that speaks to a person instead of a programmer."""

from __future__ import annotations

import sys
from types import TracebackType


class BadInput(Exception):
    """Something the user gave cannot be used; the message is one clear sentence.

    A script that lets it reach the top prints that sentence alone and exits with code 2.
    """


def _print_bad_input(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, BadInput):
        print(error, file=sys.stderr)
        raise SystemExit(2)
    sys.__excepthook__(kind, error, trace)


def install_hook() -> None:
    """Make scripts end on `BadInput` with its sentence and exit code 2; IPython is unaffected."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _print_bad_input
