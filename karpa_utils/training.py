"""The training loop, evaluation, early stopping and exact resume.

`fit` is the loop that `notebooks/foundations/training_loop` writes by hand, with the things
around it that a real run needs. On the same batches its losses equal the bare loop's to the bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from karpa_utils import checkpoints
from karpa_utils.errors import BadInput
from karpa_utils.runtime import device as this_device
from karpa_utils.runtime import rehearsal_steps

Pair = tuple[Tensor, Tensor]
Data = Pair | Iterable[Pair]
CHECK_EVERY = 200  # steps between two looks at the losses: one synchronization with the device


@dataclass
class History:
    """What a training run measured."""

    losses: Tensor = field(default_factory=lambda: torch.empty(0))  # (steps,) one a step
    valid: list[dict[str, float]] = field(default_factory=list)  # one a epoch: loss, score
    best_epoch: int | None = None  # counted from 0; None without a validation set
    seconds: float = 0.0


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the share of rows whose largest logit is the label's. logits: (B, C), y: (B,)."""
    return (logits.argmax(1) == y).float().mean()


def batches(
    data: Data, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield (x, y, rows) batches; the last one may be smaller.

    data: a pair of tensors (X, y) that already live on the device, or a loader of (x, y).
    generator: shuffles the pair with one `torch.randperm` an epoch; None keeps the order.
        A loader brings its own order.
    rows: which rows of the pair the batch holds, None for a loader.
    """
    if not isinstance(data, tuple):
        for x, y in data:
            yield x, y, None
        return
    X, y = data
    if not len(X):
        return
    order = torch.randperm(len(X), generator=generator) if generator else torch.arange(len(X))
    for rows in order.to(X.device).split(batch_size):
        yield X[rows], y[rows], rows


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Data,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    score: Callable[[Tensor, Tensor], Tensor] = accuracy,
    batch_size: int = 500,
) -> dict[str, float]:
    """Return {"loss": …, "score": …}, means over all rows, in evaluation mode.

    loss, score: functions (logits, y) -> mean over the batch. The model's mode is put back.
    """
    was_training, device = model.training, _device_of(model)
    model.eval()
    total, rows = torch.zeros(2, dtype=torch.float64), 0
    for x, y, _ in islice(batches(data, batch_size), rehearsal_steps()):
        x, y = x.to(device), y.to(device)
        logits = model(x)
        total += len(y) * torch.stack([loss(logits, y), score(logits, y)]).double().cpu()
        rows += len(y)
    model.train(was_training)
    if rows == 0:
        raise BadInput("The evaluation data are empty: there is nothing to average.")
    return {"loss": total[0].item() / rows, "score": total[1].item() / rows}


def fit(
    model: nn.Module,
    train: Data,
    valid: Data | None = None,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    # default: Adam with learning rate 1e-3
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    # stepped after every optimizer step
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    score: Callable[[Tensor, Tensor], Tensor] = accuracy,
    num_epochs: int = 10,
    batch_size: int = 64,
    augment: Callable[[Tensor], Tensor] | None = None,
    # applied to each training batch
    patience: int | None = None,
    # stop after this many epochs without a lower validation loss
    keep_best: bool = False,
    # put the weights of the best epoch back at the end (implied by patience)
    accumulate: int = 1,
    # split each batch into this many parts to save memory
    precision: str = "no",
    # "bf16" or "fp16": mixed precision through accelerate
    checkpoint: str | Path | None = None,
    # a file, written after every epoch; if it exists, training goes on from there
    seed: int = 0,
    # of the order of the training rows
) -> History:
    """Train `model` in place and return its `History`. The test set is never seen here.

    train, valid: pairs (X, y) of tensors, or loaders of (x, y) batches; pairs are moved to the
        model's device once and stay there, so no worker process is needed.
    Under `accelerate launch` each process takes its share of every batch.

    Raises `BadInput` for empty data, labels out of range, a model spread over devices, a
    checkpoint of another run or a folder that cannot be written; `FloatingPointError`, naming
    step, learning rate and rows, when a loss is not finite. The last checkpoint stays whole.
    """
    device = _check_model(model, optimizer)
    train, valid = _resident(train, device), _resident(valid, device)
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(seed)
    keep_best = keep_best or patience is not None
    if keep_best and valid is None:
        raise BadInput("Early stopping needs a validation set: give `valid` or drop `patience`.")
    net, stepper, backward, share = _parallel(model, optimizer, precision, device)
    run = checkpoints.Run(model, optimizer, schedule, order, (batch_size, seed, accumulate))
    history, best, first = History(), None, 0
    if checkpoint is not None and Path(checkpoint).exists():
        history, best, first = checkpoints.load(checkpoint, run)
    limit, start = rehearsal_steps(), perf_counter() - history.seconds

    for epoch in range(first, num_epochs):
        if patience is not None and history.valid and epoch - history.best_epoch > patience:
            break
        model.train()
        losses, seen = [], []
        for x, y, rows in batches(train, batch_size, order):
            x, y = share(x.to(device)), share(y.to(device))
            if augment is not None:
                x = augment(x)
            optimizer.zero_grad()
            losses.append(_gradients(net, x, y, loss, backward, accumulate))
            seen.append((rows, optimizer.param_groups[0]["lr"]))
            stepper.step()
            if schedule is not None:
                schedule.step()
            if len(losses) % CHECK_EVERY == 0:
                _check_finite(losses, seen, len(history.losses))
            if len(losses) == limit:
                break
        if not losses:
            raise BadInput("The training data are empty: there is nothing to learn from.")
        _check_finite(losses, seen, len(history.losses))
        history.losses = torch.cat([history.losses, torch.stack(losses).cpu()])
        if valid is not None:
            history.valid.append(evaluate(model, valid, loss=loss, score=score))
            if history.valid[-1]["loss"] <= min(v["loss"] for v in history.valid):
                history.best_epoch = epoch
                if keep_best:
                    best = {k: v.detach().clone() for k, v in model.state_dict().items()}
        history.seconds = perf_counter() - start
        if checkpoint is not None and _rank() == 0:
            checkpoints.save(checkpoint, run, history, best, epoch + 1)
        if limit is not None:
            break

    if best is not None:
        model.load_state_dict(best)
    return history


def _gradients(net, x, y, loss, backward, parts: int) -> Tensor:
    """Return the batch's loss after its gradients were added up, in `parts` pieces."""
    if parts == 1:
        value = _loss(net(x), y, loss)
        backward(value)
        return value.detach()
    total = torch.zeros((), device=x.device)
    for x_part, y_part in zip(x.chunk(parts), y.chunk(parts), strict=True):
        value = _loss(net(x_part), y_part, loss) * (len(y_part) / len(y))
        backward(value)
        total += value.detach()
    return total


def _loss(logits: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the loss; say in one sentence when labels do not fit the model's outputs."""
    try:
        return loss(logits, y)
    except IndexError:
        raise BadInput(
            f"Labels run from {y.min()} to {y.max()}, but the model has {logits.shape[1]} "
            f"outputs: labels must lie between 0 and {logits.shape[1] - 1}."
        ) from None


def _parallel(model, optimizer, precision: str, device: torch.device):
    """Return (net, stepper, backward, share): plain torch in one process at full precision.

    share(t) is this process's part of a batch. `accelerate` is loaded only where it is needed.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 and precision == "no":
        return model, optimizer, Tensor.backward, lambda t: t
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
    net, stepper = accelerator.prepare(model, optimizer)
    rank = _rank()
    return net, stepper, accelerator.backward, lambda t: t[: len(t) // world * world][rank::world]


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _device_of(model: nn.Module) -> torch.device:
    """Return the one device that holds the model; raise `BadInput` if there are several."""
    devices = {str(t.device) for t in (*model.parameters(), *model.buffers())}
    if len(devices) > 1:
        raise BadInput(f"The model is spread over {', '.join(sorted(devices))}: put it on one.")
    return torch.device(devices.pop()) if devices else torch.device("cpu")


def _check_model(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> torch.device:
    """Return the model's device; raise `BadInput` if it or the optimizer cannot be trained."""
    found, wanted = _device_of(model), this_device()
    if found != wanted:
        raise BadInput(
            f"The model is on {found}, but this run's device is {wanted}: "
            "call model.to(ku.device()) before fit."
        )
    mine = {id(p) for p in model.parameters()}
    if optimizer and not all(id(p) in mine for g in optimizer.param_groups for p in g["params"]):
        raise BadInput(
            "The optimizer holds parameters that are not this model's: "
            "build it from model.parameters()."
        )
    return found


def _check_finite(losses: list[Tensor], seen: list, steps_before: int) -> None:
    """Raise `FloatingPointError` that names the first step with a loss that is nan or infinite."""
    bad = (~torch.stack(losses).isfinite()).nonzero()
    if len(bad):
        step = int(bad[0])
        rows, lr = seen[step]
        where = "unknown" if rows is None else ", ".join(map(str, rows[:8].tolist())) + ", …"
        raise FloatingPointError(
            f"The loss is {losses[step].item()} at step {steps_before + step + 1} with learning "
            f"rate {lr:g} (rows {where}): lower the learning rate or look at those rows. "
            "The last checkpoint, if any, is from before."
        )


def _resident(data: Data | None, device: torch.device) -> Data | None:
    """Return a pair of tensors moved to `device`; leave loaders and None as they are."""
    if not isinstance(data, tuple):
        return data
    X, y = data
    if len(X) != len(y):
        raise BadInput(f"There are {len(X)} rows but {len(y)} labels: each row needs one.")
    return X.to(device), y.to(device)
