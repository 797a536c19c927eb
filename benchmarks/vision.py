"""The vision chapters' trainings beside the same models under Lightning.

`python benchmarks/vision.py`. One thread, measured in its processor time, so that other programs on
the machine add little; contenders in turns, three seeds each. The models, losses and attacks are
the chapters' own: their scripts are run as far as they define them.

Detector (vision/driving_perception): 800 generated scenes, eight epochs, once through `ku.fit` and
once as a LightningModule with the usual DataLoader; the mAP@0.5 on 200 other scenes says whether
both trained the same thing. Robustness (vision/adversarial_robustness): ten epochs on 3,500 digits
with FGSM, N-FGSM and PGD-7 in the chapter's loop, and N-FGSM and PGD-7 under Lightning; the share
of 500 test digits that survive PGD at 0.2. Evaluation is never in the times.

On a GPU, with CIFAR-10 at hand (`KARPA_PROFILE=full`), `--cifar10` trains a small residual network
through `ku.fit` to 94 % instead, and reports seconds. airbench, the fastest recipe that we know,
needs 2.6 s on an A100 for that (arXiv 2404.00498); it is not run here.
"""

import argparse
import contextlib
import io
import logging

import statistics
import warnings
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import matplotlib as mpl
from common import about, save

import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

OUT = Path(__file__).parent / "results" / "vision.json"
SCRIPTS = Path(__file__).parents[1] / "notebooks"
SEEDS, EPS = range(3), 0.2


def chapter(name: str, last: str) -> dict:
    """Return what a chapter's script defines, run as far as the cell that holds the text `last`."""
    file = SCRIPTS / f"{name}.py"
    cells = file.read_text(encoding="utf-8").split("\n# %%")
    stop = next(k for k, cell in enumerate(cells) if last in cell) + 1
    names = {"__name__": "chapter"}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile("\n# %%".join(cells[:stop]), str(file), "exec"), names)
    return names


def timed(train) -> float:
    start = process_time()
    train()
    return process_time() - start


def lightning(step, optimizer, schedule, model, X, y, num_epochs: int, batch_size: int) -> None:
    """Train under Lightning as its documentation shows; step: (module, batch) -> loss."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = model

        def training_step(self, batch, _):
            return step(self, *batch)

        def configure_optimizers(self):
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    trainer = L.Trainer(
        max_epochs=num_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), DataLoader(TensorDataset(X, y), batch_size=batch_size, shuffle=True))


def one_cycle(model, lr: float, steps: int, **options):
    adamw = torch.optim.AdamW(model.parameters(), lr, **options)
    return adamw, torch.optim.lr_scheduler.OneCycleLR(adamw, lr, total_steps=steps, pct_start=0.1)


def detectors(num_scenes=800, num_epochs=8, batch_size=8) -> dict:
    """Return seconds and mAP@0.5 of the same detector in both loops, one value a seed."""
    page = chapter("vision/driving_perception", "\ndef learn(")
    scenes, tests = (ku.data.road_scenes(n, seed=s) for n, s in ((num_scenes, 50), (200, 51)))
    X, y, loss = scenes.X, page["targets"](scenes), page["perception_loss"]
    steps = num_epochs * -(-num_scenes // batch_size)
    rows = {name: {"seconds": [], "mAP@0.5": []} for name in ("ku.fit", "lightning")}

    def ours(net, seed):
        adamw, cycle = one_cycle(net, 4e-3, steps, weight_decay=1e-4)
        tools = {"optimizer": adamw, "schedule": cycle, "loss": loss, "seed": seed}
        ku.fit(net, (X, y), num_epochs=num_epochs, batch_size=batch_size, **tools)

    def theirs(net, _):
        tools = one_cycle(net, 4e-3, steps, weight_decay=1e-4)
        lightning(lambda m, x, t: loss(m.net(x), t), *tools, net, X, y, num_epochs, batch_size)

    for seed in SEEDS:
        for name, train in (("ku.fit", ours), ("lightning", theirs)):
            net = page["new_network"](seed)
            rows[name]["seconds"].append(timed(partial(train, net, seed)))
            found = page["detect"](page["look"](net, tests.X))
            rows[name]["mAP@0.5"].append(float(page["precisions"](found, tests)[:, 0].mean()))
            print(f"detector, {name}, seed {seed}: {rows[name]['seconds'][-1]:.0f} s")
    return rows


def robustness(num_epochs=10, batch_size=64) -> dict:
    """Return seconds and robust accuracy (%) of each training, one value a seed."""
    page = chapter("vision/adversarial_robustness", "\ndef survives(")
    (X, y), test = (page["X"], page["y"]), (page["X_test"][:500], page["y_test"][:500])
    steps, disturb = num_epochs * -(-len(X) // batch_size), page["disturb"]

    def under_lightning(kind, seed):
        net = page["network"](seed)
        adamw = torch.optim.AdamW(net.parameters(), 0.015, weight_decay=0.0)
        cycle = torch.optim.lr_scheduler.OneCycleLR(adamw, 0.015, total_steps=steps)

        def step(module, x, labels):
            grown = min(1, module.global_step / (0.2 * steps))
            return F.cross_entropy(
                module.net(disturb(kind, module.net, x, labels, EPS * grown)), labels
            )

        lightning(step, adamw, cycle, net, X, y, num_epochs, batch_size)
        return net

    def by_hand(kind, seed):
        return page["train"](kind, seed, num_epochs, batch_size)[0]

    loops = {"the chapter's loop": by_hand, "lightning": under_lightning}
    kinds = ("FGSM", "N-FGSM", "PGD-7"), ("N-FGSM", "PGD-7")
    both = [(kind, loop) for loop, some in zip(loops, kinds, strict=True) for kind in some]
    rows = {f"{kind}, {loop}": {"seconds": [], "robust": []} for kind, loop in both}
    for seed in SEEDS:
        for kind, loop in both:
            row, start = rows[f"{kind}, {loop}"], process_time()
            net = loops[loop](kind, seed)
            row["seconds"].append(process_time() - start)
            net.eval()
            alive = page["survives"](net, *test, EPS)
            row["robust"].append(100 * alive.float().mean().item())
            print(f"{kind}, {loop}, seed {seed}: {row['seconds'][-1]:.1f} s")
    return rows


def block(inputs: int, outputs: int, pool: bool = False) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    tail = [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(), *tail)


class Residual(nn.Module):
    """Two blocks and a way around them: (B, width, H, W) -> the same."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(block(width, width), block(width, width))

    def forward(self, x):
        """Return x plus what the blocks add."""
        return x + self.body(x)


def shifted(x: torch.Tensor) -> torch.Tensor:
    """Return the batch, each image mirrored or not and moved by up to four pixels."""
    B, _, H, W = x.shape
    x = torch.where(torch.rand(B, 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)
    x = F.pad(x, (4, 4, 4, 4), mode="reflect")
    v, u = torch.randint(0, 9, (2, B, 1), device=x.device)
    v, u = v + torch.arange(H, device=x.device), u + torch.arange(W, device=x.device)  # (B, H)
    n = torch.arange(B, device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[n, v[:, :, None], u[:, None]].permute(0, 3, 1, 2)


def cifar10(num_epochs: int = 24, batch_size: int = 512) -> dict:
    """Train a residual network of nine layers on CIFAR-10; return seconds and accuracies (%)."""
    device, data = ku.device(), ku.data.cifar10()
    mean, std = data.train[0].mean((0, 2, 3), True), data.train[0].std((0, 2, 3), keepdim=True)
    parts = [((X - mean) / std, y) for X, y in data[:3]]
    train = [torch.cat([a, b]).to(device) for a, b in zip(*parts[:2], strict=True)]  # all 50,000
    rows = {"seconds": [], "accuracy": []}
    for seed in SEEDS:
        torch.manual_seed(seed)
        net = nn.Sequential(block(3, 64), block(64, 128, pool=True), Residual(128))
        net += nn.Sequential(block(128, 256, pool=True), block(256, 512, pool=True), Residual(512))
        net += nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(512, 10))
        net = net.to(device, memory_format=torch.channels_last)
        steps = num_epochs * -(-len(train[0]) // batch_size)
        sgd = torch.optim.SGD(net.parameters(), 0.4, momentum=0.9, nesterov=True, weight_decay=5e-4)
        cycle = torch.optim.lr_scheduler.OneCycleLR(sgd, 0.4, total_steps=steps, pct_start=0.2)
        tools = {"optimizer": sgd, "schedule": cycle, "augment": shifted, "seed": seed}
        tools |= {"loss": nn.CrossEntropyLoss(label_smoothing=0.2), "batch_size": batch_size}
        tools |= {"precision": "bf16" if device.type == "cuda" else "no"}
        start = perf_counter()
        ku.fit(net, tuple(train), num_epochs=num_epochs, **tools)
        rows["seconds"].append(perf_counter() - start)
        rows["accuracy"].append(100 * ku.evaluate(net, parts[2])["score"])
    return rows


def ratio(a: dict, b: dict) -> float:
    """Return the median over the seeds of a's seconds divided by b's."""
    return statistics.median(x / y for x, y in zip(a["seconds"], b["seconds"], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cifar10", action="store_true", help="on a GPU: CIFAR-10 to 94 %% instead"
    )
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    mpl.use("Agg")
    ku.start()
    if options.cifar10:
        result = about("torch") | {"cifar10": cifar10()}
        text = "mean accuracy on CIFAR-10 (%), three seeds"
        value = round(statistics.mean(result["cifar10"]["accuracy"]), 2)
        goals = [{"sentence": text, "value": value, "at_least": 94}]
        save(OUT.with_stem("vision_cifar10"), result, goals)
        return
    torch.set_num_threads(1)
    robust = robustness()
    found = detectors()
    result = about("torch", "lightning") | {"detector": found, "robustness": robust}
    ours, theirs = (robust[f"N-FGSM, {name}"] for name in ("the chapter's loop", "lightning"))
    seven = robust["PGD-7, the chapter's loop"]
    sentences = {
        "seconds of ku.fit divided by Lightning's, detector": (
            ratio(found["ku.fit"], found["lightning"]),
            {"at_most": 1.0},
        ),
        "mAP@0.5 of the detector through ku.fit minus Lightning's, mean of three seeds": (
            statistics.mean(found["ku.fit"]["mAP@0.5"])
            - statistics.mean(found["lightning"]["mAP@0.5"]),
            {"at_least": -0.03},
        ),
        "seconds of the chapter's loop divided by Lightning's, N-FGSM": (
            ratio(ours, theirs),
            {"at_most": 1.0},
        ),
        "% robust at 0.2 after N-FGSM, lowest of three seeds": (
            min(ours["robust"]),
            {"at_least": 80},
        ),
        "seconds of PGD-7 divided by those of N-FGSM, both in the chapter's loop": (
            ratio(seven, ours),
            {"at_least": 3.5},
        ),
        "points by which N-FGSM trails PGD-7, mean of three seeds": (
            statistics.mean(seven["robust"]) - statistics.mean(ours["robust"]),
            {"at_most": 3},
        ),
    }
    goals = [{"sentence": s, "value": round(v, 3)} | b for s, (v, b) in sentences.items()]
    save(OUT, result, goals)


if __name__ == "__main__":
    main()
