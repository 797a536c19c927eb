"""Checkpoints of a training run: one safetensors file, written whole or not at all.

The file holds weights, best weights, optimizer, schedule, history and every random state that
the next step depends on. Tensors are safetensors; everything else is JSON in its header. It is
written to a temporary name, flushed to disk and renamed, so that a reader never sees half of it.
"""

from __future__ import annotations

import json
import os
import random
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as _serialize
from torch import Tensor, nn

from karpa_utils.errors import BadInput

if TYPE_CHECKING:
    from karpa_utils.training import History


@dataclass
class Run:
    """What a checkpoint saves and puts back, and the settings that must be the same."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler | None
    order: torch.Generator  # of the training rows
    settings: tuple


def write_whole(path: Path, content: bytes, what: str = "checkpoint") -> None:
    """Write `content` to `path` atomically; raise `BadInput` and leave the old file if it fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):  # if the folder itself is missing there is nothing to tidy
            temporary.unlink(missing_ok=True)
        raise BadInput(
            f"The {what} {path} cannot be written ({error.strerror or error}): "
            f"free space or choose another folder; an earlier {what} there is still whole."
        ) from None


def save(path: str | Path, run: Run, history: History, best: dict | None, epoch: int) -> None:
    """Write the state after `epoch` epochs to `path`."""
    tensors: dict[str, Tensor] = {}
    state = {
        "model": run.model.state_dict(),
        "best": best,
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict() if run.schedule else None,
        "history": vars(history),
        "random": _random_state(run.order),
        "settings": run.settings,
        "epoch": epoch,
    }
    header = json.dumps(_split(state, "", tensors))
    write_whole(Path(path), _serialize(tensors, {"state": header}))


def load(path: str | Path, run: Run) -> tuple[History, dict | None, int]:
    """Put the saved state back into `run`; return (history, best weights, epochs done).

    Raises `BadInput` for a file that is damaged or belongs to a run with other settings.
    """
    from karpa_utils.training import History

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            state = _join(json.loads((file.metadata() or {})["state"]), tensors)
    except (SafetensorError, KeyError, ValueError) as error:
        raise BadInput(f"{path} is not a checkpoint of ku.fit ({error}): move it away.") from None
    same_shapes = {k: tuple(v.shape) for k, v in run.model.state_dict().items()} == {
        k: tuple(v.shape) for k, v in state["model"].items()
    }
    if not same_shapes or tuple(state["settings"]) != run.settings:
        raise BadInput(
            f"{path} belongs to another run (other model, batch size, seed or accumulation): "
            "give this run its own file."
        )
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(_integer_keys(state["optimizer"]))
    if run.schedule:
        run.schedule.load_state_dict(state["schedule"])
    _set_random_state(state["random"], run.order)
    return History(**state["history"]), state["best"], state["epoch"]


def _random_state(order: torch.Generator) -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "order": order.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
    }


def _set_random_state(state: dict[str, Any], order: torch.Generator) -> None:
    order.set_state(state["order"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))


def _split(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` with each tensor moved into `tensors` and replaced by {"tensor": its key}."""
    if isinstance(value, Tensor):
        tensors[key] = value.detach().cpu().contiguous().clone()  # no two may share memory
        return {"tensor": key}
    if isinstance(value, dict):
        return {str(k): _split(v, f"{key}/{k}", tensors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_split(v, f"{key}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _join(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo `_split`."""
    if isinstance(value, dict):
        if value.keys() == {"tensor"}:
            return tensors[value["tensor"]]
        return {k: _join(v, tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [_join(v, tensors) for v in value]
    return value


def _integer_keys(state: dict) -> dict:
    """Return an optimizer's state with parameter numbers as integers again (JSON has no such)."""
    return {**state, "state": {int(k): v for k, v in state["state"].items()}}
