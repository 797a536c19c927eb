"""Seconds until 99.0 % test accuracy on full MNIST: ours against the plain recipe.

`KARPA_DATA_MIRROR=… python benchmarks/mnist.py [--seeds 5]`. Two CPU cores, all 60,000 images.
The peer is the recipe of pytorch/examples (mnist/main.py), written anew from its description: two
3×3 convolutions of 32 and 64 channels, max-pooling, dropout 0.25 and 0.5, one hidden layer of 128,
Adadelta with learning rate 1.0 falling by 0.7 an epoch, batches of 64, pixels standardized. Ours
keeps the images in memory, pools early, doubles its batch and uses one learning-rate cycle.

The clock runs while training and stands still while testing; both are tested after every epoch and
stop at the target. A time to a test accuracy uses the test set to decide when to stop: it compares
speeds, it does not estimate how good the model is. Seeds alternate between the two.
"""

import argparse
import statistics
from pathlib import Path
from time import perf_counter

from common import about, save

import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import torch
import torch.nn.functional as F
from torch import nn

TARGET, PEER_EPOCHS, OUR_EPOCHS = 0.990, 14, 3
OUT = Path(__file__).parent / "results" / "mnist.json"
MEAN, STD = 0.1307, 0.3081


def peer_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )


def peer_epochs(model: nn.Module, X: torch.Tensor, y: torch.Tensor):
    """Train as the plain recipe does; yield after every epoch."""
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    for _ in range(PEER_EPOCHS):
        model.train()
        for rows in torch.randperm(len(X)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(X[rows]), y[rows]).backward()
            optimizer.step()
        schedule.step()
        yield


def our_model() -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [conv, nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(  # pooling before the rest of the block: a quarter of the work
        *block(1, 16),
        *block(16, 32),
        *block(32, 64),
        nn.Flatten(),
        nn.Linear(64 * 9, 10),
    ).to(memory_format=torch.channels_last)  # the layout in which a CPU pools fastest


def our_epochs(model: nn.Module, X: torch.Tensor, y: torch.Tensor):
    """Train with large batches and one cycle of the learning rate; yield after every epoch."""
    batch, steps = 128, -(-len(X) // 128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=OUR_EPOCHS * steps)
    for epoch in range(OUR_EPOCHS):
        ku.fit(
            model,
            (X, y),
            optimizer=optimizer,
            schedule=schedule,
            num_epochs=1,
            batch_size=batch,
            seed=epoch,
        )
        yield


def seconds_to_target(make, epochs, seed: int, train, test) -> tuple[float, float]:
    """Return (training seconds, accuracy) when the target is first reached, inf if never."""
    torch.manual_seed(seed)
    model, total, score = make(), 0.0, 0.0
    start = perf_counter()
    for _ in epochs(model, *train):
        total += perf_counter() - start
        score = ku.evaluate(model, test)["score"]
        if score >= TARGET:
            return total, score
        start = perf_counter()
    return float("inf"), score


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=["ours", "peer"])
    options = parser.parse_args()
    ku.start()
    digits = ku.data.mnist(profile="full")
    standard = [((X - MEAN) / STD, y) for X, y in digits[:3]]
    train = tuple(torch.cat(parts) for parts in zip(*standard[:2], strict=True))  # all 60,000
    runs = {"ours": (our_model, our_epochs), "peer": (peer_model, peer_epochs)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for seed in range(options.seeds):
        for name, (make, epochs) in runs.items():
            if options.only in (None, name):
                seconds, score = seconds_to_target(make, epochs, seed, train, standard[2])
                times[name].append(seconds)
                print(f"seed {seed} {name:5s} {seconds:7.1f} s  {100 * score:.2f} %", flush=True)
    if options.only:
        return
    means = {name: statistics.mean(values) for name, values in times.items()}
    ratio = means["peer"] / means["ours"]
    print(f"ours {means['ours']:.1f} s, peer {means['peer']:.1f} s")
    text = f"seconds to 99 % on MNIST: the plain recipe's over ours, means of {options.seeds} seeds"
    goals = [{"sentence": text, "value": round(ratio, 1), "at_least": 10}]
    save(OUT, about("torch") | {"target": TARGET, "seconds": times, "mean": means}, goals)


if __name__ == "__main__":
    main()
