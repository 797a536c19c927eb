"""What a training loop costs beyond its steps: bare loop, ku.fit, Lightning, Hugging Face.

`python benchmarks/fit_overhead.py`. Same model, data, seed and order for all four; no logging, no
checkpoints, no validation. The four run in turns within one process, several rounds, and each is
compared with the bare loop of its own round, so that a busy machine harms all alike. All run on one
thread and are measured in its processor time: what a loop costs is Python, and other programs on
the machine would only add noise. Medians over the rounds are shown, in brackets the quartiles.

Two models: a tiny one, whose step is dominated by overhead (microseconds a step are read here),
and one whose step takes about a millisecond (the ratio is read here).
"""

import logging
import statistics
import tempfile
import warnings
from pathlib import Path
from time import process_time

from common import about, save

import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

BATCH, ROUNDS = 64, 40
OUT = Path(__file__).parent / "results" / "fit_overhead.json"


def make(width: int) -> nn.Module:
    torch.manual_seed(0)
    return ku.models.mlp(64, width, width, 10)


def bare(model, X, y) -> torch.Tensor:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    order = torch.Generator().manual_seed(0)
    losses = []
    for rows in torch.randperm(len(X), generator=order).split(BATCH):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def fit(model, X, y) -> torch.Tensor:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return ku.fit(model, (X, y), optimizer=optimizer, num_epochs=1, batch_size=BATCH).losses


def batches_in_order(X, y) -> list:
    """Return the batches that the bare loop draws, for the peers that bring their own loader."""
    order = torch.Generator().manual_seed(0)
    return [(X[r], y[r]) for r in torch.randperm(len(X), generator=order).split(BATCH)]


def lightning(model, X, y) -> tuple[torch.Tensor, float]:
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.losses = model, []

        def training_step(self, batch, _):
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.losses.append(loss.detach())
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=0.01)

    module = Module()
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(batches_in_order(X, y), batch_size=None)
    start = process_time()
    trainer.fit(module, loader)
    return torch.stack(module.losses), process_time() - start


def hugging_face(model, X, y) -> tuple[torch.Tensor, float]:
    from transformers import PrinterCallback, Trainer, TrainingArguments

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.losses = model, []

        def forward(self, x, labels):
            loss = F.cross_entropy(self.net(x), labels)
            self.losses.append(loss.detach())
            return {"loss": loss}

    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
    rows = [{"x": X[i], "labels": y[i]} for i in order]

    class InOrder(Trainer):
        def get_train_dataloader(self):  # the same ready batches as for the others
            ready = [{"x": a, "labels": b} for a, b in batches_in_order(X, y)]
            return DataLoader(ready, batch_size=None)

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            max_grad_norm=0,
            lr_scheduler_type="constant",
        )
        wrapped = Wrapped()
        sgd = torch.optim.SGD(wrapped.parameters(), lr=0.01)
        trainer = InOrder(wrapped, settings, train_dataset=rows, optimizers=(sgd, None))
        trainer.remove_callback(PrinterCallback)
        start = process_time()
        trainer.train()
        return torch.stack(wrapped.losses), process_time() - start


def measure(width: int, steps: int) -> dict:
    """Return microseconds a step of each contender, one value a round, interleaved."""
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(steps * BATCH, 64, generator=generator)
    y = torch.randint(0, 10, (len(X),), generator=generator)
    contenders = {"bare": bare, "ku.fit": fit, "lightning": lightning, "hugging face": hugging_face}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    reference = None
    for turn in range(ROUNDS + 1):
        for name, contender in contenders.items():
            model = make(width)
            start = process_time()
            got = contender(model, X, y)
            seconds = process_time() - start
            losses, seconds = got if isinstance(got, tuple) else (got, seconds)
            reference = losses if reference is None else reference
            assert torch.allclose(losses, reference, atol=1e-5), f"{name} trains something else"
            if turn:  # the first round warms up
                times[name].append(1e6 * seconds / steps)
    return times


def quartiles(values: list[float], digits: int) -> list[float]:
    low, _, high = statistics.quantiles(values, n=4)
    return [round(low, digits), round(high, digits)]


def summary(times: dict) -> dict:
    """Return medians over rounds: microseconds a step, overhead and ratio to the bare loop."""
    rows = {}
    for name, values in times.items():
        extra = [a - b for a, b in zip(values, times["bare"], strict=True)]
        ratio = [a / b for a, b in zip(values, times["bare"], strict=True)]
        rows[name] = {
            "us_per_step": round(statistics.median(values), 1),
            "overhead_us": round(statistics.median(extra), 1),
            "overhead_us_quartiles": quartiles(extra, 1),
            "ratio": round(statistics.median(ratio), 4),
            "ratio_quartiles": quartiles(ratio, 4),
        }
    return rows


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    ku.start()
    torch.set_num_threads(1)
    result = about("torch", "lightning", "transformers")
    for name, width, steps in (("tiny step", 16, 400), ("step of a millisecond", 384, 200)):
        result[name] = summary(measure(width, steps))
        print(name)
        for contender, row in result[name].items():
            microseconds = f"{row['us_per_step']:8.1f} µs a step, {row['overhead_us']:+.1f} µs"
            print(f"  {contender:13s} {microseconds} {row['overhead_us_quartiles']}, ", end="")
            print(f"× {row['ratio']:.3f} {row['ratio_quartiles']}")
    tiny, usual = result["tiny step"], result["step of a millisecond"]
    ours, theirs = tiny["ku.fit"]["overhead_us"], tiny["lightning"]["overhead_us"]
    text = "time of ku.fit divided by the bare loop's, at one millisecond a step"
    goals = [{"sentence": text, "value": usual["ku.fit"]["ratio"], "at_most": 1.02}]
    text = "microseconds that ku.fit adds to a step"
    goals += [{"sentence": text, "value": ours, "at_most": 20}]
    text = "what Lightning's Trainer adds to a step, divided by what ku.fit adds"
    goals += [{"sentence": text, "value": round(theirs / ours, 1), "at_least": 10}]
    save(OUT, result, goals)


if __name__ == "__main__":
    main()
