"""Seeds, device, threads and profile: the first call of every notebook."""

from __future__ import annotations

import os
import random
from typing import TypeVar

import numpy as np
import torch

from karpa_utils.errors import BadInput

T = TypeVar("T")
PROFILES = ("laptop", "full")


def profile() -> str:
    """Return the profile of this run, "laptop" (default) or "full", from `KARPA_PROFILE`."""
    name = os.environ.get("KARPA_PROFILE", "laptop")
    if name not in PROFILES:
        raise BadInput(f"Unknown profile {name!r}: choose one of {', '.join(PROFILES)}.")
    return name


def pick(**choices: T) -> T:
    """Return the value given for this run's profile: `pick(laptop=4, full=60)`."""
    if set(choices) != set(PROFILES):
        raise BadInput(f"ku.pick needs one value per profile: {', '.join(PROFILES)}.")
    return choices[profile()]


def rehearsal_steps() -> int | None:
    """Return how many steps each training may take in a rehearsal, or None in a real run.

    `KARPA_STEPS=3` rehearses a notebook: every `ku.fit` stops after 3 steps, every
    `ku.evaluate` looks at 3 batches, a set of images keeps 2,500 of them, and claims are
    printed unchecked. It proves that the `full` profile runs, never what it reaches.
    """
    text = os.environ.get("KARPA_STEPS", "")
    if not text:
        return None
    if not text.isdigit() or int(text) == 0:
        raise BadInput(f"KARPA_STEPS must be a positive whole number, not {text!r}.")
    return int(text)


def device() -> torch.device:
    """Return where models and data belong: the CPU for "laptop", else the best accelerator.

    `KARPA_DEVICE` (cpu, cuda, cuda:1, mps) overrides it. Raises `BadInput` for a device that
    torch does not know or this machine does not have.
    """
    wanted = os.environ.get("KARPA_DEVICE")
    if wanted is None:
        if profile() == "laptop" or not torch.accelerator.is_available():
            return torch.device("cpu")
        wanted = str(torch.accelerator.current_accelerator())
        if wanted == "cuda":  # under `accelerate launch` each process has its own
            wanted = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        found = torch.device(wanted)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(
            f"Device {wanted!r} cannot be used on this machine "
            f"({str(error).splitlines()[0]}): set KARPA_DEVICE=cpu or leave it unset."
        ) from None
    return found


def start(seed: int = 0) -> torch.device:
    """Seed Python, NumPy and torch, fix threads and plots; return the device of this run.

    In the laptop profile torch is also asked for deterministic algorithms, so that the same
    machine gives the same bits. The numeric pins were set when `karpa_utils` was imported.
    """
    from karpa_utils import plots
    from karpa_utils.data.sources import mirrors

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if profile() == "laptop":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # it costs time, not bits
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    rehearsal_steps()  # a wrong value, or a folder that is not there, is refused here,
    mirrors()  # not after an hour
    plots.use_style()
    return device()
