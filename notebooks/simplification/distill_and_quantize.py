# %% [markdown]
# # Distill, prune, quantize: a model for a small device
#
# **How small and how fast can a digit reader become before it reads worse, and which step of the
# way buys what?**
#
# A network of {glue:text}`dq_teacher_size` parameters, {glue:text}`dq_teacher_kb` kB on disk, is
# pruned, taught by its former self and two siblings, and stored in 8-bit integers. The file that
# goes to the device has {glue:text}`dq_student_kb` kB, less than a twentieth. On
# {glue:text}`dq_moved_images` moved test digits it reads {glue:text}`dq_lost` points fewer than the
# network it came from (95 % interval {glue:text}`dq_lost_low` to {glue:text}`dq_lost_high`, three
# seeds). The same pruning and the same integers without the teaching read {glue:text}`dq_untaught`
# %. The file also answers in less than a fifth of the time. But the integers are not the reason,
# and in a narrower network they make it slower.
#
# :::{admonition} What you will learn
# - to train a small network with a large one, and to measure what the teacher adds;
# - to quantize by hand: scale, zero point, rounding error, one scale or one for each channel;
# - to derive what int8 may do to the answers, and to see when a bound is useless;
# - to export to ONNX, quantize with calibration, and run the file in a process without torch;
# - to train through rounding, where 2 bits must do;
# - to find the case in which int8 is slower.
#
# **Works out:** documents 002 §8 and 003 §8, which ask for compression and for computing at the
# edge without saying how (see [the five documents](../../book/five_documents.md)).
#
# **Before this:** [First networks](../foundations/first_networks.ipynb), for the digits and their
# augmentation, and [Fewer layers, fewer neurons](layers_and_neurons.ipynb), for pruning.
#
# **Costs:** about two and a half minutes and 2 GiB on two CPU cores. The full profile (70,000 digits)
# wants one GPU; the deployed files run on the CPU in both.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 文档 002、003 第 8 节提出要压缩模型、走向边缘计算，但没有给出方法。
# 本章走完一条链：先按通道剪枝，再让原来的大网络教小网络（蒸馏），最后存成 8 位整数。
# 量化的算术先手工写出：缩放、零点、舍入误差及其上界，逐张量与逐通道的比较；再用 ONNX Runtime 导出，并在没有 torch 的新进程里运行。
# 最终文件不到教师的二十分之一，单张图像的延迟不到五分之一，准确率损失不超过 0.5 个百分点（三个种子，成对比较）。
# 同样的剪枝和量化若不经过蒸馏训练，几乎什么都认不出；2 位权重要靠量化感知训练才能恢复。
# 本章也展示失败：窄网络用 int8 反而更慢，校准数据选错会毁掉结果。
#
# </div>
# :::

# %% tags=["setup"]
# Colab: this line is replaced by an install command when the book is published
import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import copy
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from torch import nn

device = ku.start(seed=0)

# %% [markdown]
# ## The data
#
# Handwritten digits again, MNIST {cite}`lecun1998gradient`: gray images of 28 × 28 pixels from 0 to
# 1, license CC BY-SA 3.0. Their writers are US Census employees and high-school students of around
# 1990, and nobody else: what is measured here says nothing about other hands. Shapes are written
# `# (B, C, H, W)`.
#
# Networks learn from moved images: turned by up to 12 degrees, scaled by up to 10 %, shifted by up
# to two pixels, as in First networks. We also *test* on moved images, ten versions of each test
# digit. They do not replace new writers. But two networks are to be compared to a fraction of a
# point here, and 1,000 images alone cannot resolve that.


# %% mystnb={"image": {"alt": "Two rows of ten gray images, one column for each digit from 0 to 9: above the test image as it is, below the same digit turned, scaled or shifted a little."}, "figure": {"caption": "One test image of each digit (above) and one of its ten moved versions (below).", "name": "fig-distill-digits"}}
def moved(x, y, copies: int, seed: int):
    """Return `copies` moved versions of every image, and their labels. x: (N, 1, 28, 28)."""
    torch.manual_seed(seed)
    return torch.cat([ku.data.warp(x) for _ in range(copies)]), y.repeat(copies)


digits = ku.data.mnist()
few = 50 if ku.rehearsal_steps() else 1  # a rehearsal looks at every 50th image
(X, y), valid, test = [(x[::few], y[::few]) for x, y in (digits.train, digits.valid, digits.test)]
moved_valid, moved_test = moved(*valid, 5, seed=1), moved(*test, 10, seed=2)
sizes = {"dq_train": y, "dq_valid": valid[1], "dq_test": test[1], "dq_moved_images": moved_test[1]}
ku.glue(**{name: f"{len(labels):,}" for name, labels in sizes.items()})
first = [(test[1] == digit).nonzero()[0].item() for digit in range(10)]
fig, axes = plt.subplots(2, 10, figsize=(7, 1.7))
ku.plots.image_row(axes[0], test[0][first], digits.classes)
ku.plots.image_row(axes[1], moved_test[0][first], [""] * 10)
plt.show()

# %% [markdown]
# There are {glue:text}`dq_train` training, {glue:text}`dq_valid` validation and
# {glue:text}`dq_test` test images. Temperature and weight are compared on moved validation images.
#
# ## The dumbest small model
#
# A linear classifier has 7,850 parameters and needs no compression. It is the number to beat:
# whoever delivers a file of that size that reads fewer digits has wasted the effort. One function
# trains everything on this page, with AdamW {cite}`loshchilov2019adamw` and a learning rate that
# rises and falls once. It takes a pool of images and a loss that looks up the targets by row
# number, because a target will not always be a label.


# %% tolerance={"dq_linear": 1.5}
def train(model, x, loss, passes=1, lr=5e-3, seed=0):
    """Train on images x (N, 1, 28, 28); loss(logits, rows) knows the targets of those rows."""
    model = model.to(device, memory_format=torch.channels_last)
    adamw = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, fused=True)
    steps = passes * math.ceil(len(x) / 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adamw, lr, steps, pct_start=0.2)
    options = {"optimizer": adamw, "schedule": schedule, "loss": loss, "seed": seed}
    ku.fit(model, (x, torch.arange(len(x))), num_epochs=passes, batch_size=64, **options)
    return model.cpu().eval()


@torch.no_grad()
def outputs(network, x):
    """Return the logits (N, 10) of anything that can be called with images."""
    return torch.cat([network(part) for part in x.split(100)])


def correct(networks, data=moved_test):
    """Return 100 for each image that is read right, else 0: (networks, N)."""
    return torch.stack([100.0 * (outputs(n, data[0]).argmax(1) == data[1]) for n in networks])


copies = ku.pick(laptop=8, full=4)  # the full training set has 16 times as many images
pool, labels = moved(X, y, copies, seed=100)  # (8 N, 1, 28, 28), (8 N,)
labels = labels.to(device)
linear = train(ku.models.mlp(784, 10), pool, lambda z, i: F.cross_entropy(z, labels[i]), lr=2e-3)
right = {"linear": correct([linear])}
ku.glue(dq_linear=f"{right['linear'].mean():.0f}")

# %% [markdown]
# It reads {glue:text}`dq_linear` % of the moved digits, and fills 31 kB.
#
# ## The teacher
#
# Five convolutions of 3 × 3 pixels, each with batch normalization {cite}`ioffe2015batchnorm` and
# ReLU, and one affine layer. The first convolution halves the image, two poolings follow. `width`
# is the number of channels in the beginning, and the one number that will change.


# %%
def digit_net(width: int, activation=nn.ReLU) -> nn.Sequential:
    """Return a network for (B, 1, 28, 28) -> logits (B, 10)."""

    def block(inputs, outputs, stride=1):
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), activation()]

    layers = [*block(1, width, stride=2), *block(width, width)]  # (B, width, 14, 14)
    layers += [*block(width, 2 * width), nn.MaxPool2d(2)]  # (B, 2 * width, 7, 7)
    layers += [*block(2 * width, 2 * width)]
    layers += [*block(2 * width, 4 * width), nn.MaxPool2d(2)]  # (B, 4 * width, 3, 3)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(36 * width, 10))


# %% tolerance={"dq_teacher": 0.3, "dq_teacher_low": 0.4, "dq_teacher_high": 0.4}
seeds, teachers = (0, 1, 2), []
smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
for seed in seeds:
    torch.manual_seed(seed)
    teachers.append(train(digit_net(32), pool, lambda z, i: smooth(z, labels[i]), seed=seed))
right["teacher"] = correct(teachers)  # (3, N)
scores = right["teacher"].mean(1)  # (3,)
ku.glue(dq_teacher=f"{scores.mean():.1f}")
ku.glue(dq_teacher_low=f"{scores.min():.1f}", dq_teacher_high=f"{scores.max():.1f}")
cost = {"teacher": ku.simplify.cost(teachers[0], X[:1], repeats=0)}
cost["linear"] = ku.simplify.cost(linear, X[:1], repeats=0)
ku.glue(dq_teacher_size=f"{cost['teacher']['parameters']:,}")
ku.glue(dq_teacher_kb=f"{cost['teacher']['bytes'] / 1000:.0f}")
ku.glue(dq_teacher_macs=f"{cost['teacher']['macs'] / 1e6:.0f}")

# %% [markdown]
# Three teachers, from three seeds, read {glue:text}`dq_teacher_low` to {glue:text}`dq_teacher_high`
# % of the moved digits. Each has {glue:text}`dq_teacher_size` parameters, fills
# {glue:text}`dq_teacher_kb` kB and multiplies {glue:text}`dq_teacher_macs` million times for one
# image. Everything that follows is done once for each of the three, and differences are taken
# between networks of the same seed.
#
# ## Learning from a teacher
#
# A label says "this is a 7". A teacher says "a 7, perhaps a 1, surely no 6", and says it about any
# image, labeled or not. Hinton, Vinyals and Dean {cite}`hinton2015distilling` train the student on
# both. With the teacher's logits $t$, the student's $s$, and $p_T(z) = \mathrm{softmax}(z / T)$,
#
# $$L = w\, T^2\, \mathrm{KL}\bigl(p_T(t) \,\|\, p_T(s)\bigr) + (1 - w)\, \mathrm{CE}(s, y).$$
#
# A temperature $T$ above 1 flattens both distributions, so that the small numbers on the wrong
# digits count. The gradient of the first term shrinks like $1/T^2$; the factor $T^2$ undoes that.
# `ku.simplify.distillation_loss` is the same loss; the last line checks that it is.


# %%
def distillation(s, t, y, T=4.0, weight=1.0):  # logits (B, 10), (B, 10), labels (B,)
    soft = (t / T).softmax(1)  # (B, 10)
    gap = soft * (soft.log() - (s / T).log_softmax(1))
    return weight * T**2 * gap.sum(1).mean() + (1 - weight) * F.cross_entropy(s, y)


s, t, some = torch.randn(64, 10), torch.randn(64, 10), torch.arange(64) % 10
theirs = ku.simplify.distillation_loss(s, t, some, temperature=4.0, weight=0.9)
print("the same loss:", torch.allclose(distillation(s, t, some, 4.0, 0.9), theirs))

# %% [markdown]
# What does the teacher add? A teacher matters where labels are few; what it adds where they are
# plenty we shall see below. So the student, eight channels wide and started at random, gets 200
# training images. It sees 30 moved versions of each, with the labels, the teacher's logits, or
# both. Same images, same first weights, same order, same number of steps: only the loss differs.
# The teacher had seen all {glue:text}`dq_train`, as a teacher on a server would.


# %% tolerance={"dq_alone": 1.2, "dq_taught": 1.0, "dq_gain": 0.5, "dq_gain_spread": 0.6}
def small_student(material, seed, T, weight):
    """Train a student on (images, labels, logits of the teacher); weight 0 ignores the teacher."""
    x, target, told = material
    torch.manual_seed(seed)

    def loss(z, i):  # logits (B, 10), row numbers (B,)
        return distillation(z, told[i], target[i], T, weight)

    return train(digit_net(8), x, loss, seed=seed)


alone, temperatures = (1.0, 0.0), (1.0, 4.0, 10.0)
swept = {s: [] for s in [alone, *[(T, weight) for weight in (0.5, 1.0) for T in temperatures]]}
for seed in seeds:
    rows = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))[:200]
    x, target = moved(X[rows], y[rows], 30, seed=200 + seed)  # (6000, 1, 28, 28), (6000,)
    material = x, target.to(device), outputs(teachers[seed], x).to(device)
    for setting, nets in swept.items():
        nets.append(small_student(material, seed, *setting))
at_valid = {s: correct(nets, moved_valid).mean(1) for s, nets in swept.items()}  # (3,) each
without, with_it = (correct(swept[s]).mean(1) for s in (alone, (4.0, 1.0)))  # (3,), moved test
gain = with_it - without  # (3,) paired: the same seed, images and steps
ku.glue(dq_alone=f"{without.mean():.1f}", dq_taught=f"{with_it.mean():.1f}")
ku.glue(dq_gain=f"{gain.mean():+.1f}", dq_gain_spread=f"{gain.std():.1f}")


# %% mystnb={"image": {"alt": "Gain in accuracy against temperature 1, 4 and 10, three dots per setting, for weight 0.5 and weight 1. Nearly all dots lie above zero, between half a point and two and a half; temperature 4 and 10 lie at or above temperature 1."}, "figure": {"caption": "What the teacher adds on 200 images: points on moved validation images above the same student without it. One dot per seed, lines join the means.", "name": "fig-distill-sweep"}}
def dotted(ax, rows, label, color):
    """Draw one dot a seed at each place, and a line through the means."""
    ax.plot([row.mean() for row in rows], label=label, color=color)
    for place, row in enumerate(rows):
        ax.plot([place] * len(row), row, "o", color=color, alpha=0.5, markersize=5)


fig, ax = plt.subplots(figsize=(7, 2.8))
for weight, name, color in (
    (1.0, "teacher only (w = 1)", "C0"),
    (0.5, "and labels (w = 0.5)", "C1"),
):
    dotted(ax, [at_valid[T, weight] - at_valid[alone] for T in temperatures], name, color)
ax.axhline(0, color="black", linewidth=1)
ax.set_xticks(range(3), ["1", "4", "10"])
ax.set(xlabel="temperature T", ylabel="gain (points)")
ku.plots.label_lines(ax)
plt.show()

# %% [markdown]
# Whatever the temperature and the weight, the teacher helps, and next to it the labels add nothing
# that these dots could show. The finer choice among the settings lies within their scatter, so we
# do not pick the highest dot. We keep the teacher alone at $T = 4$: {glue:text}`dq_taught` % of the
# moved test digits instead of {glue:text}`dq_alone` %, a gain of {glue:text}`dq_gain` points with a
# standard deviation of {glue:text}`dq_gain_spread` over the three seeds. With $w = 1$ the student
# never sees a label. How much of the gain is knowledge about wrong digits, and how much is that the
# teacher read 17 times as many labels, this experiment cannot tell. A deployment need not ask.
#
# ## Prune, then distill
#
# The chain starts from the trained teacher. `ku.simplify.prune_channels` removes two thirds of the
# channels of every layer, those of smallest importance {cite}`molchanov2019importance`: an
# estimate, from gradients, of what the loss would gain without them. What remains is an ordinary
# network, with multiples of four channels, which processors like. Then it is taught: on moved
# training images that no network has seen, by logits alone. The three teachers exist anyway, so all
# three teach every student, with the mean of their logits. It is computed once and used in two
# passes. Patience and many views of each image make a good teacher {cite}`beyer2022knowledge`.

# %%
views, view_labels = moved(X, y, copies, seed=200)  # (8 N, 1, 28, 28): new to all networks
told = torch.stack([outputs(teacher, views) for teacher in teachers]).mean(0)  # (8 N, 10)
told, view_labels = told.to(device), view_labels.to(device)


def from_teachers(z, i):  # logits (B, 10), row numbers (B,)
    return distillation(z, told[i], view_labels[i])


def from_labels(z, i):
    return smooth(z, view_labels[i])


pruned, students, by_labels = [], [], []
for seed, teacher in zip(seeds, teachers, strict=True):
    options = {"importance": "taylor", "data": (X, y), "round_to": 4}
    pruned.append(ku.simplify.prune_channels(teacher, X[:2], 0.67, **options))
    for loss, nets in ((from_teachers, students), (from_labels, by_labels)):
        net = copy.deepcopy(pruned[seed])
        nets.append(train(net, views, loss, passes=2, lr=2e-2, seed=seed))

# %% tolerance={"dq_pruned": 12, "dq_student": 0.3, "dq_student_low": 0.4, "dq_student_high": 0.4, "dq_gap": 0.3, "dq_gap_low": 0.4, "dq_gap_high": 0.4}
right |= {"pruned": correct(pruned), "student": correct(students)}  # (3, N) each
scores = right["student"].mean(1)
ku.glue(dq_pruned=f"{right['pruned'].mean():.0f}", dq_student=f"{scores.mean():.1f}")
ku.glue(dq_student_low=f"{scores.min():.1f}", dq_student_high=f"{scores.max():.1f}")
cost["student"] = ku.simplify.cost(students[0], X[:1], repeats=0)
ku.glue(dq_student_size=f"{cost['student']['parameters']:,}")
gap = (right["student"] - correct(by_labels)).mean(1)  # (3,) paired
ku.glue(
    dq_gap=f"{gap.mean():+.1f}", dq_gap_low=f"{gap.min():+.1f}", dq_gap_high=f"{gap.max():+.1f}"
)

# %% [markdown]
# Pruning alone destroys the network: {glue:text}`dq_pruned` % are read right, hardly better than
# guessing. Taught again, the students read {glue:text}`dq_student_low` to
# {glue:text}`dq_student_high` %, with {glue:text}`dq_student_size` parameters. The teachers' mean
# was {glue:text}`dq_teacher` %.
#
# Is it the teaching, or would any training do? The same pruned networks, trained on the same images
# with their labels instead, come close: the difference, teachers minus labels, is
# {glue:text}`dq_gap` points on average, {glue:text}`dq_gap_low` to {glue:text}`dq_gap_high` for the
# three seeds. With all {glue:text}`dq_train` labels at hand, most of what repairs a pruned network is
# the training itself. Teachers earn their place where labels are missing, as above: these students
# saw none.
#
# ## Eight bits by hand
#
# A real number $x$ between $a$ and $b$ is stored as an integer $q$ from $q_{\min}$ to $q_{\max}$,
# together with a scale $s$ and a zero point $z$ that all numbers of the tensor share
# {cite}`jacob2018quantization`:
#
# $$s = \frac{b - a}{q_{\max} - q_{\min}}, \qquad
# q = \mathrm{clip}\Bigl(\mathrm{round}\bigl(\tfrac{x}{s}\bigr) + z\Bigr), \qquad
# \hat x = s\,(q - z), \qquad |x - \hat x| \le \frac{s}{2} .$$
#
# The zero point is the integer that stands for 0.0, so that zero padding stays exact. Weights
# spread around 0: their zero point is 0. Activations after ReLU start at 0 and use unsigned bytes.


# %%
def quantize(x, scale, zero=0, low=-64, high=64):
    return (torch.round(x / scale) + zero).clamp(low, high)


def dequantize(q, scale, zero=0):
    return scale * (q - zero)


def weight_scale(w, per_channel=True):
    """Return the scale (out, 1, …) at which the largest weight becomes 64: 7 bits and a sign."""
    size = w.abs().flatten(1).amax(1) if per_channel else w.abs().max().expand(len(w))  # (out,)
    return (size / 64).view(-1, *[1] * (w.ndim - 1))


w = torch.tensor([[0.62, -0.31, 0.08]])
whole = quantize(w, weight_scale(w))
print("integers", whole.int().tolist(), "· scale", f"{weight_scale(w).item():.4f}")
print("read as ", [f"{v:.4f}" for v in dequantize(whole, weight_scale(w))[0].tolist()])

# %% [markdown]
# Why −64 to 64, where a byte holds −128 to 127? Because of how processors without the VNNI
# instructions multiply. They add two products of an unsigned and a signed byte in 16 bits, and
# clip. With weights up to 127 the sum can reach $2 \cdot 255 \cdot 127 = 64{,}770$, beyond the
# largest 16-bit integer, 32,767, and the answer silently depends on the machine. Up to 64 it stays
# at or below $2 \cdot 255 \cdot 64 = 32{,}640$. ONNX Runtime calls this `reduce_range`. Exercise 2
# shows what it prevents.
#
# Before any rounding, batch normalization disappears. In evaluation mode it is an affine map of
# each channel, so it folds into the convolution before it: $w' = w\,\gamma/\sqrt{v + \epsilon}$ and
# $b' = \beta - \mu\,\gamma/\sqrt{v + \epsilon}$.


# %%
@torch.no_grad()
def fold(model) -> nn.Sequential:
    """Return the same function without batch norms: each goes into the convolution before it."""
    layers = []
    for layer in copy.deepcopy(model):
        if isinstance(layer, nn.BatchNorm2d):
            factor = layer.weight / (layer.running_var + layer.eps).sqrt()  # (C,)
            layers[-1].weight *= factor.view(-1, 1, 1, 1)
            layers[-1].bias = nn.Parameter(layer.bias - layer.running_mean * factor)
        else:
            layers.append(layer)
    return nn.Sequential(*layers).eval()


folded = [fold(student) for student in students]
change = (outputs(folded[0], test[0]) - outputs(students[0], test[0])).abs().max()
print("folded, the network computes the same:", bool(change < 1e-4))
weights = [p.detach() for p in folded[0].parameters() if p.ndim > 1]  # five conv, one affine
scales = [weight_scale(w) for w in weights]
rounding = [w - dequantize(quantize(w, s), s) for w, s in zip(weights, scales, strict=True)]
worst = max((gap.abs() / (s / 2)).max() for gap, s in zip(rounding, scales, strict=True))

# %% mystnb={"image": {"alt": "Rounding error of each of 40 output channels, sorted by the channel's largest weight. With one scale for the tensor all dots lie on one level; with a scale for each channel they fall with the channel's largest weight, along a dashed line."}, "figure": {"caption": "The fifth convolution in int8: root mean square rounding error of each output channel's weights. Dashed: the scale divided by the root of 12, which is the error of evenly spread remainders.", "name": "fig-distill-channels"}}
layer, errors = weights[4], {}  # (40, 20, 3, 3)
order = layer.abs().flatten(1).amax(1).argsort(descending=True)
fig, ax = plt.subplots(figsize=(7, 2.8))
for name, per_channel in {"one scale": False, "one a channel": True}.items():
    scale = weight_scale(layer, per_channel)
    gap = (layer - dequantize(quantize(layer, scale), scale)).flatten(1)
    errors[name] = gap.square().mean(1).sqrt()[order]  # (40,)
    ax.plot(1000 * errors[name], "o", markersize=5, label=name)
    ax.plot(1000 * scale.flatten()[order] / 12**0.5, "--", color="black", linewidth=1, label="_")
ax.set(xlabel="output channel, largest weight first", ylabel="error (thousandths)", ylim=(0, None))
ku.plots.label_lines(ax)
plt.show()
coarse, fine = (gap.square().mean() for gap in errors.values())

# %% [markdown]
# No weight is off by more than half a scale. With one scale for the tensor, the largest weight
# anywhere decides how coarsely every channel is rounded. With one scale a channel, a quiet channel
# is rounded finely. That costs four bytes a channel and no time.
#
# ## Export, calibrate, quantize
#
# Weights are known; the range of an activation depends on the images. **Calibration** runs some of
# them through the network and notes the smallest and the largest number at each place.
# Post-training static quantization needs nothing else: no labels, no gradients. ONNX Runtime does
# it in two calls. Its format, QDQ, puts a pair of nodes, `QuantizeLinear` and `DequantizeLinear`,
# wherever numbers are rounded; the runtime fuses what lies between into integer operators.

# %%
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

workshop = tempfile.TemporaryDirectory()
folder = Path(workshop.name)
rows = torch.randperm(len(views), generator=torch.Generator().manual_seed(0))[:500]
calibration = views[rows]  # (500, 1, 28, 28) moved training images


class Calibration(CalibrationDataReader):
    batches = iter(calibration.split(100))

    def get_next(self):
        return next(({"x": batch.numpy()} for batch in self.batches), None)


plain = ku.simplify.export_onnx(students[0], calibration, folder / "plain.onnx")  # float32
quant_pre_process(plain, folder / "ready.onnx", skip_symbolic_shape=True)
types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
ready, by_calls = folder / "ready.onnx", folder / "by_calls.onnx"
quantize_static(ready, by_calls, Calibration(), per_channel=True, reduce_range=True, **types)

# %% [markdown]
# `ku.simplify.export_onnx` calls `torch.onnx.export`, compares the file's answers with the model's,
# and writes it whole or not at all. `ku.simplify.export_int8` adds the two calls above. From here
# on we use it. `deployed` opens a file with two threads and returns a function from images to
# logits.


# %%
def deployed(path):
    """Return a function: images (B, 1, 28, 28) -> logits (B, 10), run by ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 2, 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def exported(models, name, images=calibration):
    """Return the int8 files of the networks of three seeds."""
    paths = [folder / f"{name}{seed}.onnx" for seed in seeds]
    pairs = zip(models, paths, strict=True)
    return [ku.simplify.export_int8(model, images, path) for model, path in pairs]


float32 = {"student": plain}
float32["teacher"] = ku.simplify.export_onnx(teachers[0], calibration, folder / "float32.onnx")
int8 = {"student": exported(students, "student"), "teacher": exported(teachers, "teacher")}
kb = {name: paths[0].stat().st_size / 1000 for name, paths in int8.items()}
times = cost["teacher"]["bytes"] / 1000 / kb["student"]
ku.glue(dq_student_kb=f"{kb['student']:.0f}", dq_times=f"{math.floor(times)}")
answers, eager = deployed(int8["student"][0])(test[0]), outputs(students[0], test[0])  # (N, 10)
exact = (deployed(plain)(test[0]) - eager).abs().max()
print("the two calls and export_int8:", torch.equal(deployed(by_calls)(test[0]), answers))

# %% [markdown]
# The file has {glue:text}`dq_student_kb` kB; the teacher's weights have {glue:text}`dq_times` times
# as many. Now open it and look for our own arithmetic. `read` collects the integers and the scales
# of each layer in order.


# %%
def read(path):
    """Return [(scale, zero) of each activation], [(integers, scales) of each weight]."""
    graph = onnx.load(path).graph
    arrays = {part.name: onnx.numpy_helper.to_array(part) for part in graph.initializer}
    names = [name for name in arrays if name.endswith("weight_quantized")]
    assert all(arrays[name].dtype == np.int8 for name in names)
    stored = {name: torch.from_numpy(np.array(a, dtype=np.float32)) for name, a in arrays.items()}
    places = dict.fromkeys(n.input[1] for n in graph.node if n.op_type == "QuantizeLinear")
    activations = [(stored[p], stored[p.replace("_scale", "_zero_point")]) for p in places]
    return activations, [(stored[n], stored[n.replace("_quantized", "_scale")]) for n in names]


activations, integers = read(int8["student"][0])
ours = [quantize(w, s) for w, s in zip(weights, scales, strict=True)]
differ = sum((q != a).sum() for q, (a, _) in zip(ours, integers, strict=True)).item()
differ /= sum(w.numel() for w in weights)
print("fewer than one in a thousand of the file's integers differ from ours:", differ < 0.001)

# %% [markdown]
# The file holds, as signed bytes, the integers that we computed.
#
# ## How far can the answers move?
#
# A layer computes $y = \sum_k w_k x_k + b$. Deployed, it has $\hat w_k$ and $\hat x_k$ instead,
# with errors of at most $s_w/2$ and $e_k$. Then
#
# $$|\hat y - y| \le \sum_k |w_k|\, e_k + \frac{s_w}{2} \sum_k \bigl(|x_k| + e_k\bigr) +
# \frac{s_w s_x}{2} ,$$
#
# where the last term is the rounding of the bias. ReLU and max pooling never enlarge an error.
# Storing $\hat y$ adds $s_y/2$, and more where $y$ lies outside the calibrated range and is
# clipped. The sums are themselves convolutions, with $|w|$ in place of $w$, so the bound for a
# whole network is one more pass through it.
#
# A bound takes every error at its largest, with the worst sign. If roundings are independent and
# evenly spread instead, variances add up: $s^2/12$ for each, weighted by $w^2$. `follow` sends four
# things through the network side by side: float numbers, the integer arithmetic emulated in eager
# torch, the bound, the variance.


# %%
def multiply(layer, state, q, s_w, s_x):
    """Send (x, x_hat, bound, variance) through a convolution or an affine layer."""
    (x, x_hat, bound, variance), w = state, layer.weight

    def sums(x, w):  # the layer with other weights and no bias
        conv = w.ndim == 4
        return F.conv2d(x, w, None, layer.stride, layer.padding) if conv else F.linear(x, w)

    s_b = s_x * s_w.view(1, -1, *[1] * (x.ndim - 2))  # scale of the bias and of the sums
    s_w = s_w.view(-1, *[1] * (w.ndim - 1)).expand_as(w)
    bias = (layer.bias.view_as(s_b) / s_b).round() * s_b
    bound = sums(bound, w.abs()) + sums(x.abs() + bound, s_w / 2) + s_b / 2
    variance = sums(variance, w**2) + sums(x**2 + variance, s_w**2 / 12)
    return layer(x), sums(x_hat, dequantize(q, s_w)) + bias, bound, variance


# %%
def store(state, s, z):
    """Round x_hat to unsigned bytes; bound and variance grow by what that may do."""
    x, x_hat, bound, variance = state
    clipped = (x - x.clamp(-z * s, (255 - z) * s)).abs()
    x_hat = dequantize(quantize(x_hat, s, z, 0, 255), s, z)
    return x, x_hat, bound + s / 2 + clipped, variance + s**2 / 12 + clipped**2


@torch.no_grad()
def follow(net, path, x):
    """Return emulated logits, their bound, [(largest error, its rms, bound, predicted rms)]."""
    (activations, integers), rows = read(path), []
    state = x, x, torch.zeros_like(x), torch.zeros_like(x)
    for layer in [nn.Identity(), *net]:  # the image itself is rounded first
        if isinstance(layer, nn.Conv2d | nn.Linear):
            state = multiply(layer, state, *integers.pop(0), activations[len(rows) - 1][0])
        else:
            state = [layer(part) for part in state]
        if isinstance(layer, nn.Identity | nn.ReLU | nn.Linear):  # here numbers are stored
            x, x_hat, bound, variance = state = store(state, *activations[len(rows)])
            gap = (x_hat - x).abs()
            rows.append(
                [gap.max(), gap.square().mean().sqrt(), bound.max(), variance.mean().sqrt()]
            )
    return x_hat, bound, torch.tensor(rows)


# %% tolerance={"dq_rms": 0.03, "dq_predicted": 0.03} mystnb={"image": {"alt": "Four lines over seven places in the network on a logarithmic axis. The derived bound grows from a thousandth to several thousands. The largest and the root mean square error stay below one, and the prediction from variances runs along the root mean square error."}, "figure": {"caption": "Error of the int8 student after each stored tensor, over all test images: the derived bound, what is measured, and the prediction from variances.", "name": "fig-distill-bound"}}
emulated, bound, rows = follow(folded[0], int8["student"][0], test[0])
gap, step = (answers - eager).abs(), activations[-1][0]  # (N, 10), one step of a stored logit
outside, apart = (gap > bound).sum().item(), (answers - emulated).abs() / step
rms, predicted = gap.square().mean().sqrt().item(), rows[-1, 3].item()
ku.glue(dq_rms=f"{rms:.2f}", dq_predicted=f"{predicted:.2f}")
head, features = folded[0][-1:], outputs(folded[0][:-1], torch.cat([test[0], calibration]))
path, inputs = ku.simplify.export_int8(head, features, folder / "head.onnx"), features[: len(gap)]
_, head_bound, _ = follow(head, path, inputs)
head_gap = (deployed(path)(inputs) - outputs(head, inputs)).abs()  # (N, 10)
used = (head_gap.max() / head_bound.max()).item()
fig, ax = plt.subplots(figsize=(7, 3.2))
for column, name in enumerate(["largest", "rms", "bound", "predicted rms"]):
    style = "o--" if column > 1 else "o-"
    ax.plot(rows[:, column], style, markersize=4, label=name)
ax.set_xticks(range(7), ["image", *[f"conv {number}" for number in range(1, 6)], "logits"])
ax.set(yscale="log", ylabel="error", xlabel="place in the network")
ku.plots.label_lines(ax)
plt.show()

# %% [markdown]
# The emulation agrees with the deployed file: logits are equal, or rarely a step apart, where two
# ways of adding floats fall on two sides of a rounding edge. So we know what the file computes.
#
# Read the curve of the largest error from the left. The image itself costs nothing, a surprise at
# first: its pixels were bytes before they were floats. The largest error after the first
# convolution is no rounding but clipping, a number beyond what calibration had seen, and it comes
# close to the bound.
#
# The bound holds for every logit of every test image, and in the end says nothing: it grows with
# each layer to thousands, while the logits themselves stay below ten. It would need every rounding
# to fall on the bad side at once. The variances, which assume that roundings know nothing of each
# other, predict a root mean square of {glue:text}`dq_predicted`; measured is {glue:text}`dq_rms`. A
# bound is a promise, a variance is an estimate, and across a whole network only the estimate is of
# use.
#
# Across one layer the promise is worth something, since nothing has multiplied yet. The last lines
# deploy the affine head alone. Its largest error comes within a factor of thirty of its bound, and
# the claims below check both.
#
# ## On the device
#
# The device has no torch. A fresh Python process, in which importing torch is forbidden, opens the
# int8 file and the test images, and prints what it thinks of them.

# %%
program = """
import sys
sys.modules["torch"] = None  # any import of torch now fails
import json, numpy, onnxruntime
session = onnxruntime.InferenceSession("student0.onnx", providers=["CPUExecutionProvider"])
logits = session.run(None, {"x": numpy.load("images.npy")})[0]
print(json.dumps(logits.tolist()))
"""
np.save(folder / "images.npy", test[0].numpy())
command = [sys.executable, "-c", program]
done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
apart_fresh = (torch.tensor(json.loads(done.stdout)) - answers).abs().max() / step
print("the same answers as in this process:", bool(apart_fresh <= 1.01))

# %% [markdown]
# ## Fewer bits
#
# Below 8 bits rounding begins to hurt, and training can help. **Quantization-aware training** (QAT)
# rounds the weights in every forward pass. Rounding has slope 0 almost everywhere, so nothing would
# learn; the straight-through estimator {cite}`bengio2013estimating` pretends that it has slope 1.
# In torch that is one line: add the rounding error as a constant.


# %%
class Rounded(nn.Module):
    """Weights as they will be stored; gradients pass as if nothing had happened."""

    def __init__(self, bits):
        super().__init__()
        self.high = 2 ** (bits - 1) - 1  # symmetric: 127, 7, 3, 1

    def forward(self, w):
        scale = 64 * weight_scale(w.detach()) / self.high
        return w + (scale * (w / scale).round() - w).detach()  # straight through


def rounded(net, bits):
    """Return a copy of a folded network whose weights have so many bits."""
    net = copy.deepcopy(net)
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.utils.parametrize.register_parametrization(layer, "weight", Rounded(bits))
    return net


# %% tolerance={"dq_after_2": 15, "dq_aware_2": 2.5, "dq_after_3": 3, "dq_aware_3": 0.6} mystnb={"image": {"alt": "Share of misread digits against bits per weight, 8 to 2, on a logarithmic axis, three dots per setting. Both lines start near 2 percent at 8 and 4 bits. Rounding after training rises a little at 3 bits and to well over half at 2; training through the rounding stays level down to 3 bits and ends near 5 percent at 2."}, "figure": {"caption": "Misread moved test images with weights of 8 to 2 bits (activations in float32): rounded after training, and trained through the rounding. One dot per seed.", "name": "fig-distill-bits"}}
some, after, aware = views[: len(views) // 4], [], []  # a quarter of the images must do
for bits in (8, 4, 3, 2):
    nets = [rounded(net, bits) for net in folded]
    after.append(correct(nets).mean(1))  # (3,) %
    for seed, net in enumerate(nets):
        nets[seed] = train(net, some, from_teachers, lr=1e-3, seed=seed)
    aware.append(correct(nets).mean(1))
fig, ax = plt.subplots(figsize=(7, 2.8))
for color, name, rows in (("C0", "trained rounded", aware), ("C1", "rounded after", after)):
    dotted(ax, [100 - row for row in rows], name, color)
    key = "dq_aware" if rows is aware else "dq_after"
    ku.glue(**{f"{key}_3": f"{rows[2].mean():.1f}", f"{key}_2": f"{rows[3].mean():.0f}"})
ax.set_xticks(range(4), ["8", "4", "3", "2"])
ax.set(xlabel="bits per weight", ylabel="misread digits (%)", yscale="log")
ax.set_yticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
ku.plots.label_lines(ax)
plt.show()
rescued = [(a - b).mean().item() for a, b in zip(aware, after, strict=True)]  # at 8, 4, 3, 2 bits

# %% [markdown]
# At 8 bits there is nothing to rescue and at 4 next to nothing: post-training quantization is
# enough, and QAT is wasted effort. At 3 bits rounding costs something ({glue:text}`dq_after_3` %),
# and training through it brings most of that back ({glue:text}`dq_aware_3` %). At 2 bits a weight
# has three values left, −1, 0 and 1 times its scale: {glue:text}`dq_after_2` % without training,
# {glue:text}`dq_aware_2` % with. No file of ours uses this. ONNX Runtime computes in 8 bits; fewer
# would save disk space only, until somebody writes a kernel that unpacks them.
#
# ## The chain in one table
#
# Accuracy is the mean over three seeds on moved test images (one for the linear model), with the
# standard deviation over seeds. The times in the figure are medians for one image on two threads. All
# are measured in one run, in turn: every round calls each network once, so that a busy moment of the
# machine falls on all.

# %% tolerance={"accuracy (%)": 0.4, "± (points)": 0.3}
right |= {f"{name} int8": correct([deployed(p) for p in paths]) for name, paths in int8.items()}
torch.set_num_threads(2)  # eager networks, too, whatever the environment says
one, rivals = test[0][:1].contiguous(), {"linear, eager": (linear, cost["linear"]["bytes"])}
for name, net in {"teacher": teachers[0], "student": students[0]}.items():
    net = copy.deepcopy(net).to(memory_format=torch.contiguous_format)  # faster for one image
    rivals[f"{name}, eager"] = net, cost[name]["bytes"]
    rivals[f"{name}, ONNX"] = deployed(float32[name]), float32[name].stat().st_size
    rivals[f"{name} int8, ONNX"] = deployed(int8[name][0]), 1000 * kb[name]
clock = ku.simplify.latency({name: (net, one) for name, (net, _) in rivals.items()}, 400, 40)
ratio = {name: times[1] / clock["teacher, eager"][1] for name, times in clock.items()}
marks = {name: right[name.split(",")[0]].mean(1) for name in rivals}  # (seeds,)
costs = [cost[name.split(",")[0].removesuffix(" int8")] for name in rivals]
table = {"network": rivals, "accuracy (%)": [f"{m.mean():.1f}" for m in marks.values()]}
table["± (points)"] = [f"{m.std():.1f}" if len(m) > 1 else "" for m in marks.values()]
table["parameters"] = [f"{c['parameters']:,}" for c in costs]
table["kB"] = [f"{size / 1000:.0f}" for _, size in rivals.values()]
table["million MACs"] = [f"{c['macs'] / 1e6:.2f}" for c in costs]
ku.table(table, caption="The chain, three seeds")

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Two panels, share of misread digits against file size and against time for one image, all axes logarithmic. The linear model lies far above the others. The points of teacher and student lie on two nearly level lines, the student's slightly higher and further to the left; in each, int8 is leftmost and eager rightmost."}, "figure": {"caption": "Misread digits against bytes on disk (left) and time for one image (right). Circles: eager PyTorch, squares: ONNX Runtime in float32, diamonds: in int8. Down and to the left is better.", "name": "fig-distill-pareto"}}
fig, axes = plt.subplots(1, 2, figsize=(7, 3.4), sharey=True)
for model, color in {"linear": "C5", "teacher": "C0", "student": "C1"}.items():
    names = [name for name in rivals if name.startswith(model)]
    misread = [100 - marks[name].mean() for name in names]
    files, speeds = [rivals[n][1] / 1000 for n in names], [1000 * clock[n][1] for n in names]
    for ax, values in zip(axes, (files, speeds), strict=True):
        ax.plot(values, misread, color=color, linewidth=1, alpha=0.6)
        for value, share, look in zip(values, misread, "osD", strict=False):
            ax.plot(value, share, look, color=color, markersize=8, alpha=0.8)
        shift = {"linear": 10, "student": 10, "teacher": -18}[model]  # points
        place, style = (values[-1], misread[-1]), {"textcoords": "offset points", "ha": "center"}
        ax.annotate(model, place, (0, shift), color=color, **style)
        ax.set(xscale="log", yscale="log", ylim=(0.8, 60))
axes[0].set(xlabel="file (kB)", ylabel="misread digits (%)", xlim=(15, 3000))
axes[0].set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
axes[1].set(xlabel="one image (µs)", xlim=(5, 1500))
plt.show()
names = ("teacher, ONNX", "teacher int8, ONNX", "student, eager", "student, ONNX")
for key, name in zip(("t", "t8", "s", "so", "s8"), (*names, "student int8, ONNX"), strict=True):
    ku.glue(**{f"dq_time_{key}": f"{ratio[name]:.2f}"})

# %% [markdown]
# Times, with the eager teacher's as 1: the teacher takes {glue:text}`dq_time_t` in ONNX Runtime and
# {glue:text}`dq_time_t8` in int8; the student {glue:text}`dq_time_s` eager, {glue:text}`dq_time_so` in
# ONNX Runtime, {glue:text}`dq_time_s8` in int8.
#
# Four observations. In int8 the teacher itself loses next to nothing, and its file shrinks to a bit
# more than a quarter: whoever needs only that can stop after one call. Pruning makes the file eight
# times smaller, int8 after it less than three times: of a file this small a third is graph, names
# and scales. Most of the speed comes from leaving eager PyTorch and from pruning; int8 adds the
# least. And the eager student, with about a tenth of the multiplications, is nowhere near ten times
# as fast as the eager teacher: at this size PyTorch's time goes into calling operators, not into
# arithmetic.
#
# For those who measure along: this book holds PyTorch to AVX2 instructions so that its numbers
# repeat, and ONNX Runtime knows no such pin. The claims below are also checked without it.
#
# What was lost on the way? The table's means hide that each student has its own teacher. So:
# teacher minus int8 student, on the same images and of the same seed. The interval draws seeds and
# test digits anew, 2,000 times; the ten versions of a digit stay together.

# %% tolerance={"dq_lost": 0.1, "dq_lost_low": 0.2, "dq_lost_high": 0.2, "dq_untaught": 12}
right["untaught"] = correct([deployed(path) for path in exported(pruned, "untaught")])
lost = (right["teacher"] - right["student int8"]).view(3, 10, -1).mean(1)  # (3, N) by test digit
draw = torch.Generator().manual_seed(0)
drawn_seeds = torch.randint(3, (2000, 3, 1), generator=draw)
drawn_digits = torch.randint(lost.shape[1], (2000, 1, lost.shape[1]), generator=draw)
again = torch.stack([lost[s, d].mean() for s, d in zip(drawn_seeds, drawn_digits, strict=True)])
low, high = again.quantile(torch.tensor([0.025, 0.975]))
ku.glue(dq_lost=f"{lost.mean():.1f}", dq_lost_low=f"{low:.1f}", dq_lost_high=f"{high:.1f}")
ku.glue(dq_untaught=f"{right['untaught'].mean():.0f}")

# %% [markdown]
# The chain loses {glue:text}`dq_lost` points (95 % interval {glue:text}`dq_lost_low` to
# {glue:text}`dq_lost_high`). Pruned and quantized in the same way but never taught again, the
# network reads {glue:text}`dq_untaught` %.
#
# **Which step first?** Export, always: it costs one call, changes no answer and is most of the
# speed. Then int8, if size matters and the accuracy of the file, tested as a file, is still there.
# Pruning and teaching come last, because they need training images, a training run, and somebody
# who looks at the result; they are the only way beyond a factor of four.
#
# ## Where it fails
#
# **Narrow networks.** Integers pay where there is much to multiply. Below, the same architecture
# with more and fewer channels, and with hard-swish in place of ReLU: an activation made for phones
# {cite}`howard2019mobilenetv3`, for which ONNX Runtime has no integer kernel here. The weights are
# random, since time does not depend on them.


# %% tolerance={"dq_nodes_float": 8, "dq_nodes_int8": 8}
def operators(path) -> int:
    """Return how many operators run after ONNX Runtime has fused what it can."""
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "fused.onnx"), 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return len(onnx.load(folder / "fused.onnx").graph.node)


widths, speed, count = (4, 12, 32), {"float32": [], "int8": []}, {}
for width in widths:
    net = digit_net(width, nn.Hardswish).eval()
    path32 = ku.simplify.export_onnx(net, calibration, folder / "net32.onnx")
    path8 = ku.simplify.export_int8(net, calibration, folder / "net8.onnx")
    both = {"float32": (deployed(path32), one), "int8": (deployed(path8), one)}
    for name, times in ku.simplify.latency(both, 400, 40).items():
        speed[name].append(1000 * times[1])  # µs
    count[width] = operators(path32), operators(path8)
ku.glue(dq_nodes_float=count[4][0], dq_nodes_int8=count[4][1])

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Time for one image against the network's width, 4 to 32 channels, both axes logarithmic. The int8 line starts above the float32 line at 4 channels, crosses it, and ends below it at 32."}, "figure": {"caption": "Median time for one image through ONNX Runtime on two threads, float32 and int8, for networks with hard-swish.", "name": "fig-distill-widths"}}
fig, ax = plt.subplots(figsize=(7, 2.6))
for name, medians in speed.items():
    ax.plot(widths, medians, "o-", label=name)
ax.set(xscale="log", yscale="log", xlabel="width (channels)", ylabel="one image (µs)")
ax.set_xticks(widths, [str(width) for width in widths])
ax.minorticks_off()
ax.set_yticks([20, 50, 100, 200, 400], ["20", "50", "100", "200", "400"])
ku.plots.label_lines(ax)
plt.show()

# %% [markdown]
# At four channels int8 is slower. (The figure says so and no claim does: these are a few millionths
# of a second, too little to be checked on every machine. The count that explains them is.) After all fusing, {glue:text}`dq_nodes_float` operators run in
# float32 and {glue:text}`dq_nodes_int8` in int8: around each hard-swish the runtime leaves the
# integers and comes back. Each operator costs a microsecond or so whatever it computes, and the
# added ones compute nothing that the float network needed. On the processor that made this page the
# multiplications outweigh that at 32 channels. Measure before you quantize for speed. For size int8
# pays, unless the network is smaller than the graph around it.
#
# **The wrong calibration.** Ranges come from the calibration images. Suppose somebody calibrates
# with images from a dark room, the same digits at a fifth of their brightness. Nothing complains.

# %% tolerance={"dq_dim": 20}
dim = exported(students, "dim", calibration / 5)
right["dim"] = correct([deployed(path) for path in dim])
ku.glue(dq_dim=f"{right['dim'].mean():.0f}")

# %% [markdown]
# The files read {glue:text}`dq_dim` % of the moved test digits at full brightness: whatever exceeds
# the calibrated range is clipped. The float networks they came from are unharmed. So test the
# *file*, on images from where it will work.
#
# **Strengths.** Small files, one format for many runtimes, no torch on the device, and each step
# can be checked by itself. **Limits.** Everything here was measured on clean, centered digits and
# on one processor at a time. What compression does to inputs that are rare in the test set is
# another question, and the answer can be bad {cite}`hooker2020characterising`. **When not to use
# it.** Where the float model is small and fast enough; where activations have no integer kernel;
# where nobody can bring calibration images from the place of use. **Software.** ONNX Runtime for
# what runs here, `torch.onnx` to get there. torchao is PyTorch's own route to few bits, aimed at
# large models; `torch.ao.quantization`, which many tutorials still use, is deprecated. Surveys of
# quantization {cite}`nagel2021white` and of pruning, quantizing and coding together
# {cite}`han2016compression` go further.
#
# ## Claims
#
# The requirement fixed the bounds on file, time and accuracy before anything was run. The others come
# from theory, or from trial runs with room to spare. One reservation: while the recipe of the
# students was worked out (learning rate, passes, three teachers instead of one), test scores were in
# view, so the points lost are somewhat optimistic. Earlier recipes lost more, within the bound too.

# %%
text = "points that an int8 file of a twentieth of the teacher's bytes loses, mean of three seeds"
ku.claim(text, lost.mean(), at_most=0.5, role="headline", rests_on=("dq_lost",))
text = "points that the same pruning and the same int8 lose without the teaching"
untaught = (right["teacher"] - right["untaught"]).mean()
ku.claim(text, untaught, at_least=40, role="control", rests_on=("dq_untaught",))
text = "bytes of the teacher's weights / bytes of the int8 file"
ku.claim(text, cost["teacher"]["bytes"] / (1000 * kb["student"]), at_least=20)
text = "time of the int8 student / time of the eager float32 teacher, one image, two threads"
ku.claim(text, ratio["student int8, ONNX"], at_most=0.2)
text = "points that the teacher adds to a student of 200 images, mean of three seeds"
ku.claim(text, gain.mean(), at_least=0.3, rests_on=("dq_gain",))
text = "points that training through the rounding rescues at 2 bits, mean of three seeds"
ku.claim(text, rescued[3], at_least=10, rests_on=("dq_aware_2", "dq_after_2"))
ku.claim("points that it adds at 8 bits, where nothing was lost", rescued[0], at_most=0.5)
text = "operators that run for it, int8 / float32"
ku.claim(text, count[4][1] / count[4][0], at_least=1.3)
dark = (right["student int8"] - right["dim"]).mean()
ku.claim("points lost by calibrating at a fifth of the brightness", dark, at_least=3)

# %%
ku.claim("largest rounding error of a weight / half its scale", worst, at_most=1.0001)
text = "squared rounding error with one scale for the tensor / with one a channel"
ku.claim(text, coarse / fine, at_least=1.2)
ku.claim("share of the file's integers that are not ours", differ, at_most=0.001)
ku.claim("float32 file against eager network: largest difference", exact, at_most=1e-4)
ku.claim("logits of the int8 file outside their bound", outside, between=(0, 0))
head_outside = (head_gap > head_bound + 1e-4).sum().item()
ku.claim("logits of the int8 head alone outside their bound", head_outside, between=(0, 0))
ku.claim("the head's largest error / its largest bound", used, at_least=0.03)
text = "share of logits that differ by more than one step between file and emulation"
ku.claim(text, (apart > 1.01).float().mean(), at_most=0.02)
ku.claim("error predicted from variances / measured error", predicted / rms, between=(0.5, 2))
ku.claim("largest difference in the process without torch, in steps", apart_fresh, at_most=1.01)

# %% [markdown]
# ## Exercises
#
# **1. A place for zero.** Activations need not start at 0. Write the function that turns a
# calibrated range $[a, b]$ into a scale and a zero point for unsigned bytes, such that 0.0 is
# stored exactly and every number of the range is off by at most half a scale (up to a whole one at
# its ends). Mind ranges on one side of 0: padding puts zeros there all the same.


# %% tags=["exercise"]
def check_range(scale_and_zero) -> dict:
    """Try scale_and_zero(a, b) on six ranges; count those in which a promise is broken."""
    broken = 0
    for a, b in [(0.0, 1.0), (-1.0, 3.0), (2.0, 5.0), (-7.0, -6.5), (-0.1, 0.1), (-3.0, 0.001)]:
        scale, zero = scale_and_zero(a, b)
        x = torch.cat([torch.linspace(a, b, 1001), torch.zeros(1)])
        gap = (x - dequantize(quantize(x, scale, zero, 0, 255), scale, zero)).abs()
        kept = zero == round(zero) and 0 <= zero <= 255 and gap[-1] == 0
        wide = scale > 1.02 * (max(b, 0) - min(a, 0)) / 255  # steps larger than needed
        broken += bool(wide or not kept or gap.max() > 1.001 * scale)
    sentence = "scale and zero point keep their promises; ranges in which they do not"
    return {"sentence": sentence, "value": broken, "at_most": 0}


def my_scale_and_zero(a, b):
    return (b - a) / 255, round(-255 * a / (b - a))


ku.attempt(**check_range(my_scale_and_zero))


# %% tags=["solution", "hide-cell"]
def scale_and_zero(a, b):
    a, b = min(a, 0.0), max(b, 0.0)  # the range has to hold 0.0
    scale = (b - a) / 255
    return scale, round(-a / scale)  # a whole number, so that 0.0 is a stored number


ku.claim(**check_range(scale_and_zero), role="solution")

# %% [markdown]
# **2. A processor without VNNI.** Write the dot product as such a processor computes it: products
# of neighbors are added in pairs, each pair is clipped to 16 bits (−32,768 to 32,767), and the
# pairs are added without a limit. With weights up to 64 the result must be the true one for any
# activation; with weights up to 127 you will see it break.


# %% tags=["exercise"]
def check_dot(dot) -> dict:
    """Compare dot(x, w) with the true product for small weights, and with two counted cases."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (200, 64), generator=draw)
    w = torch.randint(-64, 65, (200, 64), generator=draw)
    misses = sum(int(dot(a, b)) != int((a * b).sum()) for a, b in zip(x, w, strict=True))
    high, large = torch.tensor([255, 255, 1, 0]), torch.tensor([127, 127, 5, 9])
    misses += int(dot(high, large)) != 32_767 + 5
    misses += int(dot(high, -large)) != -32_768 - 5
    sentence = "pairs are clipped to 16 bits, and weights up to 64 never notice; misses"
    return {"sentence": sentence, "value": misses, "at_most": 0}


def my_dot(x, w):
    return (x * w).sum()


ku.attempt(**check_dot(my_dot))


# %% tags=["solution", "hide-cell"]
def dot(x, w):
    return (x * w).view(-1, 2).sum(1).clamp(-32_768, 32_767).sum()


ku.claim(**check_dot(dot), role="solution")

# %% [markdown]
# **3. Equalize before you round.** With one scale for a whole tensor, a channel with large weights
# spoils the small ones. But ReLU does not mind a positive factor: multiply a channel's weights by
# $f$, divide what the next layer reads from it by $f$, and the network computes what it did. Find
# the factors that make both layers easy to round {cite}`nagel2021white`. The two layers below were
# made hard: their channels differ by factors of up to a hundred.


# %% tags=["exercise"]
def check_equalize(equalize) -> dict:
    """Round both layers with one scale each, before and after; compare the output's errors."""
    draw = torch.Generator().manual_seed(0)
    spread = 10 ** (2 * torch.rand(32, 1, generator=draw) - 1)  # (32, 1) from 0.1 to 10
    first = torch.randn(32, 20, generator=draw) * spread  # (out, in)
    second = torch.randn(10, 32, generator=draw) / spread.T
    x = torch.randn(500, 20, generator=draw)

    def run(a, b):
        return (x @ a.T).relu() @ b.T  # (500, 10)

    def coarse(w):
        scale = weight_scale(w, per_channel=False)
        return dequantize(quantize(w, scale), scale)

    true, (a, b) = run(first, second), equalize(first, second)
    before, after = run(coarse(first), coarse(second)), run(coarse(a), coarse(b))
    error = (after - true).norm() / (before - true).norm()
    same = (run(a, b) - true).abs().max() < 1e-2
    sentence = "the same function, rounded with less error: error after / before"
    return {"sentence": sentence, "value": error if same else math.inf, "at_most": 0.5}


def my_equalize(first, second):
    return first, second


ku.attempt(**check_equalize(my_equalize))


# %% tags=["solution", "hide-cell"]
def equalize(first, second):
    rows, columns = first.abs().amax(1), second.abs().amax(0)  # (32,) each
    factor = (columns / rows).sqrt()  # afterwards both are sqrt(rows * columns)
    return first * factor[:, None], second / factor


ku.claim(**check_equalize(equalize), role="solution")

# %% [markdown]
# ## References
#
# The entries cited on this page are in the book's [references](../../book/references.md).
