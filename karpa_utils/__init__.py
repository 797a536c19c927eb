"""Helpers of the book: what would distract a reader, or what two notebooks share.

Import it first (`import karpa_utils as ku`): the numeric pins must be set before torch loads.
"""

from karpa_utils import _numerics

_numerics.pin()
_numerics.keep_memory()

try:
    import torch  # noqa: F401
except ModuleNotFoundError:
    import sys

    print(
        "karpa_utils needs torch, which is not installed: run `make book` in the repository, "
        "or `pip install torch`.",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

from karpa_utils import (
    _torchvision,
    cards,
    data,
    errors,
    explain,
    fairness,
    models,
    plots,
    simplify,
    vision,
)
from karpa_utils.claims import ClaimError, attempt, claim, errata, glue, publish
from karpa_utils.errors import BadInput
from karpa_utils.plots import table
from karpa_utils.runtime import device, pick, profile, rehearsal_steps, start
from karpa_utils.training import (
    History,
    accuracy,
    batches,
    evaluate,
    fit,
)

errors.install_hook()
_torchvision.mend()

__all__ = [
    "BadInput",
    "ClaimError",
    "History",
    "accuracy",
    "attempt",
    "batches",
    "cards",
    "claim",
    "data",
    "device",
    "errata",
    "evaluate",
    "explain",
    "fairness",
    "fit",
    "glue",
    "models",
    "pick",
    "plots",
    "profile",
    "publish",
    "rehearsal_steps",
    "simplify",
    "start",
    "table",
    "vision",
]
