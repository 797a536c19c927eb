# %% [markdown]
# # Distill, prune, quantize: a model for a small device
#
# **How small and how fast can a digit reader become before it reads worse, and which step of the
# way buys what?**
#
# A network of {glue:text}`dq_teacher_size` parameters, {glue:text}`dq_teacher_kb` kB on disk, is
# pruned, taught by its former self and two siblings, and stored in 8-bit integers. The file has
# {glue:text}`dq_student_kb` kB, less than a twentieth. On {glue:text}`dq_moved_images` moved images
# of {glue:text}`dq_test` test digits it reads {glue:text}`dq_lost` points fewer than the network it
# came from (95 % interval over digits {glue:text}`dq_lost_low` to {glue:text}`dq_lost_high`, three
# seeds). That is a little flattering: test scores were in view while the recipe was made.
#
# Training after the cut was needed: without it the file reads {glue:text}`dq_cut_file` %. The
# teaching was not: with plain labels the same cut network ends at a loss of
# {glue:text}`dq_labels_lost` points. The same small architecture from random weights, trained for
# as many passes in all, loses {glue:text}`dq_scratch_lost`. The file answers in less than a fifth
# of the eager teacher's time, but much of that is the runtime: in the same runtime it takes
# {glue:text}`dq_same` of the teacher's time.
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
# **Costs:** about three minutes and 2 GiB on two CPU cores. The full profile (70,000 digits)
# wants one GPU; the deployed files run on the CPU in both.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 文档 002、003 第 8 节提出要压缩模型、走向边缘计算，但没有给出方法。
# 本章走完一条链：先按通道剪枝，再让原来的大网络教小网络（蒸馏），最后存成 8 位整数，并在没有 torch 的新进程里运行。
# 最终文件不到教师的二十分之一，准确率损失不超过 0.5 个百分点（三个种子，成对比较；调配方时看过测试分数，略偏乐观）。
# 剪枝后不再训练就什么都认不出；但起作用的是训练，不是老师：同样的网络直接用标签训练反而略好；同样大小的网络从随机权重开始，训练同样多遍，也相差无几。只有标签很少时老师才有用。
# 延迟不到即时模式（eager）教师的五分之一，但其中很大一部分来自换了运行时；同在 ONNX Runtime 里，大约是教师的三分之一。
# 本章也展示失败：网络很窄时、或激活函数没有整数核时，int8 反而更慢；校准数据选错会毁掉结果；2 位权重要靠量化感知训练才能恢复。
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
from typing import NamedTuple

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
# digit. They do not replace new writers, and an interval has to count digits, not versions. But two
# networks are to be compared to a fraction of a point here, and one version of each is too coarse.


# %% mystnb={"image": {"alt": "Two rows of ten gray images, one column for each digit from 0 to 9: above the test image as it is, below the same digit turned, scaled or shifted a little."}, "figure": {"caption": "One test image of each digit (above) and one of its ten moved versions (below).", "name": "fig-distill-digits"}}
def moved(x, y, copies: int, seed: int):
    """Return `copies` moved versions of every image, and their labels. x: (N, 1, 28, 28)."""
    torch.manual_seed(seed)
    return torch.cat([ku.data.warp(x) for _ in range(copies)]), y.repeat(copies)


digits = ku.data.mnist()
few = 3 if ku.rehearsal_steps() else 1  # a rehearsal looks at every third image
(X, y), valid, test = [(x[::few], y[::few]) for x, y in (digits.train, digits.valid, digits.test)]
moved_valid, moved_test = moved(*valid, 5, seed=1), moved(*test, 10, seed=2)
sizes = {"dq_train": y, "dq_valid": valid[1], "dq_test": test[1], "dq_moved_images": moved_test[1]}
ku.glue(**{name: f"{len(labels):,}" for name, labels in sizes.items()})
first = [(test[1] == digit).nonzero()[0].item() for digit in range(10)]
fig, axes = plt.subplots(2, 10, figsize=(5.2, 1.5))
ku.plots.image_row(axes[0], test[0][first], digits.classes)
ku.plots.image_row(axes[1], moved_test[0][first], [""] * 10)
plt.show()

# %% [markdown]
# There are {glue:text}`dq_train` training, {glue:text}`dq_valid` validation and
# {glue:text}`dq_test` test images. Settings are compared on moved validation images.
#
# ## The dumbest small model
#
# A linear classifier has 7,850 parameters. In int8 it is the file to beat: whoever delivers one of
# its size that reads fewer digits has wasted the effort. One function trains everything on this
# page, with AdamW {cite}`loshchilov2019adamw` and a learning rate that rises and falls once. It
# takes a pool of images and a loss that looks up the targets by row number, because a target will
# not always be a label. Where it is one, it is smoothed, for every network on this page: a tenth of
# it is spread over the ten classes.


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


smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
copies = ku.pick(laptop=8, full=4)  # the full training set has 16 times as many images
pool, labels = moved(X, y, copies, seed=100)  # (8 N, 1, 28, 28), (8 N,)
labels = labels.to(device)
linear = train(ku.models.mlp(784, 10), pool, lambda u, rows: smooth(u, labels[rows]), lr=2e-3)
cost = {"linear": ku.simplify.cost(linear, X[:1], repeats=0)}
ku.glue(dq_linear=f"{correct([linear]).mean():.0f}")
ku.glue(dq_linear_kb=f"{cost['linear']['bytes'] / 1000:.0f}")

# %% [markdown]
# It reads {glue:text}`dq_linear` % of the moved digits, and fills {glue:text}`dq_linear_kb` kB
# before it is quantized.
#
# ## The teacher
#
# Five convolutions of 3 × 3 pixels, each with batch normalization {cite}`ioffe2015batchnorm` and
# ReLU, and one affine layer. The first convolution halves the image, two poolings follow. `width`
# is the number of channels in the beginning, and the one number that will change.


# %% tolerance={"dq_teacher": 0.3, "dq_teacher_low": 0.4, "dq_teacher_high": 0.4}
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


seeds, teachers = (0, 1) if ku.rehearsal_steps() else (0, 1, 2), []
for seed in seeds:
    torch.manual_seed(seed)
    net = digit_net(32)
    teachers.append(train(net, pool, lambda u, rows: smooth(u, labels[rows]), seed=seed))
right = {"teacher": correct(teachers)}  # (3, N)
scores = right["teacher"].mean(1)  # (3,)
ku.glue(dq_teacher=f"{scores.mean():.1f}")
ku.glue(dq_teacher_low=f"{scores.min():.1f}", dq_teacher_high=f"{scores.max():.1f}")
cost["teacher"] = ku.simplify.cost(teachers[0], X[:1], repeats=0)
ku.glue(dq_teacher_size=f"{cost['teacher']['parameters']:,}")
ku.glue(dq_teacher_kb=f"{cost['teacher']['bytes'] / 1000:.0f}")
ku.glue(dq_teacher_macs=f"{cost['teacher']['macs'] / 1e6:.0f}")

# %% [markdown]
# Three teachers, from three seeds, read {glue:text}`dq_teacher_low` to {glue:text}`dq_teacher_high`
# percent of the moved digits. Each has {glue:text}`dq_teacher_size` parameters, fills
# {glue:text}`dq_teacher_kb` kB and multiplies {glue:text}`dq_teacher_macs` million times for one
# image. Everything that follows is done once for each of the three, and differences are taken
# between networks of the same seed.
#
# ## Learning from a teacher
#
# A label says "this is a 7". A teacher says "a 7, perhaps a 1, surely no 6", and says it about any
# image, labeled or not. Hinton, Vinyals and Dean {cite}`hinton2015distilling` train the student on
# both. With the student's logits $u$, the teacher's $v$, the label $y$, and
# $p_T(u) = \mathrm{softmax}(u / T)$,
#
# $$\begin{aligned}
# L = {}& w\, T^2\, \mathrm{KL}\bigl(p_T(v) \,\|\, p_T(u)\bigr) \\
# & {} + (1 - w)\, \mathrm{CE}(u, y).
# \end{aligned}$$
#
# Cross-entropy CE is the student's $-\log p_1(u)$ at the label, and the divergence
# $\mathrm{KL}(p \,\|\, q) = \sum_c p_c \log (p_c / q_c)$ is 0 where student and teacher agree. A
# temperature $T$ above 1 flattens both distributions, so that the small numbers on the wrong digits
# count. The gradient of the divergence shrinks like $1/T^2$; the factor $T^2$ undoes that.
# `ku.simplify.distillation_loss` is the same loss; the last line checks that it is.


# %%
def distillation(u, v, y, T=4.0, weight=1.0, smoothing=0.1):  # (B, 10), (B, 10), (B,)
    soft = (v / T).softmax(1)  # (B, 10)
    divergence = (soft * (soft.log() - (u / T).log_softmax(1))).sum(1).mean()
    hard = F.cross_entropy(u, y, label_smoothing=smoothing)
    return weight * T**2 * divergence + (1 - weight) * hard


u, v, classes = torch.randn(64, 10), torch.randn(64, 10), torch.arange(64) % 10
theirs = ku.simplify.distillation_loss(u, v, classes, temperature=4.0, weight=0.9)
print("the same loss:", torch.allclose(distillation(u, v, classes, 4.0, 0.9, 0.0), theirs))

# %% [markdown]
# What does the teacher add? First where labels are few. The student, eight channels wide and
# started at random, gets 200 training images. It sees 30 moved versions of each, with the labels,
# the teacher's logits, or both. Same images, same first weights, same order, same number of steps:
# only the loss differs. The teacher had seen all {glue:text}`dq_train`, as a teacher on a server
# would.


# %% tolerance={"dq_alone": 1.2, "dq_taught": 1.0, "dq_gain": 0.5, "dq_gain_spread": 0.6}
def small_student(material, seed, T, weight):
    """Train a student on (images, labels, logits of the teacher); weight 0 ignores the teacher."""
    x, target, told = material
    torch.manual_seed(seed)

    def loss(u, rows):  # logits (B, 10), row numbers (B,)
        return distillation(u, told[rows], target[rows], T, weight)

    return train(digit_net(8), x, loss, seed=seed)


alone, temperatures = (1.0, 0.0), (1.0, 4.0, 10.0)
swept = {s: [] for s in [alone, *[(T, weight) for weight in (0.5, 1.0) for T in temperatures]]}
for seed, teacher in zip(seeds, teachers, strict=True):
    chosen = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))[:200]
    x, target = moved(X[chosen], y[chosen], 30, seed=200 + seed)  # (6000, 1, 28, 28), (6000,)
    material = x, target.to(device), outputs(teacher, x).to(device)
    for setting, students in swept.items():
        students.append(small_student(material, seed, *setting))
at_valid = {s: correct(students, moved_valid).mean(1) for s, students in swept.items()}  # (3,)
without, with_it = (correct(swept[s]).mean(1) for s in (alone, (4.0, 1.0)))  # (3,), moved test
gain = with_it - without  # (3,) paired: the same seed, images and steps
ku.glue(dq_alone=f"{without.mean():.1f}", dq_taught=f"{with_it.mean():.1f}")
ku.glue(dq_gain=f"{gain.mean():+.1f}", dq_gain_spread=f"{gain.std():.1f}")


# %% mystnb={"image": {"alt": "Gain in accuracy against temperature 1, 4 and 10, three dots per setting, for the teacher alone and for teacher and labels. The dots lie between a quarter of a point and two and a half. The line of the teacher alone is at or above the other at each temperature and highest at 4."}, "figure": {"caption": "What the teacher adds on 200 images: points on moved validation images above the same student without it. One dot per seed, lines join the means.", "name": "fig-distill-sweep"}}
def dotted(ax, rows, label, color, shift=0.0):
    """Draw one dot a seed at each place, and a line through the means."""
    ax.plot(
        [place + shift for place in range(len(rows))], [r.mean() for r in rows], color, label=label
    )
    for place, row in enumerate(rows):
        ax.plot([place + shift] * len(row), row, "o", color=color, alpha=0.5, markersize=5)


fig, ax = plt.subplots(figsize=(5.2, 3))
for weight, label, color in ((1.0, "teacher\n(w = 1)", "C0"), (0.5, "both\n(w = 0.5)", "C1")):
    dotted(
        ax,
        [at_valid[T, weight] - at_valid[alone] for T in temperatures],
        label,
        color,
        (weight - 0.75) / 5,
    )
ax.axhline(0, color="black", linewidth=1)
ax.set_xticks(range(3), ["1", "4", "10"])
ax.set(xlabel="temperature T", ylabel="gain (points)", ylim=(-0.2, None))
ku.plots.label_lines(ax, pad=14)
plt.show()

# %% [markdown]
# In every setting the teacher helps. Its word alone is at or above the mixture at each temperature;
# in the mixture it also counts half, so this is no verdict on labels. The highest mean is the
# teacher alone at $T = 4$. We keep it, though $T = 10$ is within its scatter:
# {glue:text}`dq_taught` % of the moved test digits instead of {glue:text}`dq_alone` %, a gain of
# {glue:text}`dq_gain` points with a standard deviation of {glue:text}`dq_gain_spread` over the
# three seeds. How much of it is knowledge about wrong digits, and how much is that the teacher read
# 17 times as many labels, this experiment cannot tell.
#
# A teacher trained on smoothed labels is said to teach worse, because smoothing wipes out what
# wrong digits have in common {cite}`muller2019smoothing`. In trials on the validation images (not
# part of this run) teachers without smoothing read no more digits and taught no better, here or in
# the chain below.
#
# ## Prune, then distill
#
# The chain starts from the trained teacher. `ku.simplify.prune_channels` removes two thirds of the
# channels of every layer, those of smallest importance {cite}`molchanov2019importance`: an
# estimate, from gradients on labeled images, of what the loss would gain without them. What remains
# is an ordinary network, with multiples of four channels, which processors like. Then it is taught,
# by logits alone, on new moved versions of the training images. The three teachers exist anyway, so
# all three teach every student, with the mean of their logits, in two passes. Patience and many
# views of each image make a good teacher {cite}`beyer2022knowledge`.
#
# Is it the teaching that repairs the cut? Two rivals learn from the same images, but from plain
# labels: the same cut network, and the same small architecture from random weights. This one owes
# the teacher nothing and gets a third pass, since the cut weights had one as part of the teacher.


# %%
def fresh(net, seed):
    """Return the same architecture with new random weights."""
    net = copy.deepcopy(net)
    torch.manual_seed(seed)
    for layer in net:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return net


views, view_labels = moved(X, y, copies, seed=200)  # (8 N, 1, 28, 28): new to all networks
told = torch.stack([outputs(teacher, views) for teacher in teachers]).mean(0)  # (8 N, 10)
told, view_labels = told.to(device), view_labels.to(device)


def from_teachers(u, rows):  # logits (B, 10), row numbers (B,)
    return distillation(u, told[rows], view_labels[rows])


def from_labels(u, rows):
    return smooth(u, view_labels[rows])


options = {"importance": "taylor", "data": (X, y), "round_to": 4}
pruned = [ku.simplify.prune_channels(teacher, X[:2], 0.67, **options) for teacher in teachers]
taught, labeled, scratch = [], [], []
for seed, net in zip(seeds, pruned, strict=True):
    for students, start, loss, passes in (
        (taught, copy.deepcopy(net), from_teachers, 2),
        (labeled, copy.deepcopy(net), from_labels, 2),
        (scratch, fresh(net, seed), from_labels, 3),  # the others had one in the teacher
    ):
        students.append(train(start, views, loss, passes, lr=2e-2, seed=seed))


# %% tolerance={"dq_pruned": 12, "dq_student": 0.3, "dq_student_low": 0.4, "dq_student_high": 0.4, "dq_gap": 0.3, "dq_gap_low": 0.4, "dq_gap_high": 0.4, "dq_start": 0.3, "dq_start_low": 0.4, "dq_start_high": 0.4}
def glue_spread(name, values, form):
    """Store the mean of the seeds under `name`, and the lowest and the highest beside it."""
    ku.glue(**{name: format(values.mean().item(), form)})
    ku.glue(**{f"{name}_low": format(values.min().item(), form)})
    ku.glue(**{f"{name}_high": format(values.max().item(), form)})


scores = {"taught": correct(taught), "labels": correct(labeled), "scratch": correct(scratch)}
scores = {name: hits.mean(1) for name, hits in scores.items()}  # (3,) each
ku.glue(dq_pruned=f"{correct(pruned).mean():.0f}")
glue_spread("dq_student", scores["taught"], ".1f")
glue_spread("dq_gap", scores["taught"] - scores["labels"], "+.2f")  # paired
glue_spread("dq_start", scores["labels"] - scores["scratch"], "+.2f")
cost["student"] = ku.simplify.cost(taught[0], X[:1], repeats=0)
ku.glue(dq_student_size=f"{cost['student']['parameters']:,}")

# %% [markdown]
# Pruning alone destroys the network: it reads {glue:text}`dq_pruned` %, which is guessing. Taught
# again, the students read {glue:text}`dq_student_low` to {glue:text}`dq_student_high` percent, with
# {glue:text}`dq_student_size` parameters. The teachers' mean was {glue:text}`dq_teacher` %.
#
# But it was not the teaching. Teachers minus labels, on the same cut networks:
# {glue:text}`dq_gap` points on average, {glue:text}`dq_gap_low` to {glue:text}`dq_gap_high` for the
# three seeds. The recipe (two passes, this learning rate) was even made for the taught students. In
# trials on the validation images, other temperatures, a single teacher, and labels mixed in brought
# them up to the labels at best. And the inherited weights bought little. Cut minus random start,
# both on labels: {glue:text}`dq_start`, {glue:text}`dq_start_low` to {glue:text}`dq_start_high`.
# That small networks do about as well from scratch is known {cite}`liu2019rethinking`.
#
# So **training was needed, teaching was not**, where {glue:text}`dq_train` labels are at hand. A
# teacher earns its place where labels are missing, as above. We follow the taught student to the
# end of the chain all the same, because its last link, the integers, does not care how the weights
# were found, and take both rivals along.
#
# ## Eight bits by hand
#
# A real number $x$ between $a \le 0$ and $b \ge 0$ is stored as an integer $q$ from $q_{\min}$ to
# $q_{\max}$, together with a scale $s$ and a zero point $z$ that all numbers of the tensor share
# {cite}`jacob2018quantization`:
#
# $$\begin{aligned}
# s &= \frac{b - a}{q_{\max} - q_{\min}}, \\
# z &= \mathrm{round}\Bigl(q_{\min} - \frac{a}{s}\Bigr), \\
# q &= \mathrm{clip}\Bigl(\mathrm{round}\bigl(\tfrac{x}{s}\bigr) + z\Bigr), \\
# \hat x &= s\,(q - z).
# \end{aligned}$$
#
# The zero point is the integer that stands for 0.0, so that zero padding stays exact. Where nothing
# is clipped, $|x - \hat x| \le s/2$. Rounding $z$ shifts the grid by up to half a step, so at one
# end of the range, up to $s$ is possible. Weights spread around 0: their range is symmetric and
# their zero point is 0. Activations after ReLU start at 0 and use unsigned bytes.


# %%
def quantize(x, scale, zero=0, low=-64, high=64):
    return (torch.round(x / scale) + zero).clamp(low, high)


def dequantize(q, scale, zero=0):
    return scale * (q - zero)


def weight_scale(w, per_channel=True, high=64):
    """Return the scale (out, 1, …) at which the largest weight becomes `high`."""
    size = w.abs().flatten(1).amax(1) if per_channel else w.abs().max().expand(len(w))  # (out,)
    return (size / high).view(-1, *[1] * (w.ndim - 1))


w = torch.tensor([[0.62, -0.31, 0.08]])
whole = quantize(w, weight_scale(w))
print("integers", whole.int().tolist(), "· scale", f"{weight_scale(w).item():.4f}")
print("read as ", [f"{v:.4f}" for v in dequantize(whole, weight_scale(w))[0].tolist()])

# %% [markdown]
# Why −64 to 64, about 7 bits, where a byte holds −128 to 127? Because of processors without the
# VNNI instructions, which add four byte products in 32 bits. The others add two products of an
# unsigned and a signed byte in 16 bits, and clip. With weights up to 127 the sum can reach
# $2 \cdot 255 \cdot 127 = 64{,}770$, beyond the largest 16-bit integer, 32,767, and the answer
# silently depends on the machine. Up to 64 it stays at or below
# $2 \cdot 255 \cdot 64 = 32{,}640$. ONNX Runtime calls this `reduce_range`. Exercise 2 shows what
# it prevents.
#
# Before any rounding, batch normalization disappears. In evaluation mode it is an affine map of
# each channel, so it folds into the convolution before it: $w' = w\,\gamma/\sqrt{v + \epsilon}$ and
# $b' = \beta - \mu\,\gamma/\sqrt{v + \epsilon}$, with its scale $\gamma$, shift $\beta$, mean $\mu$
# and variance $v$.


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


folded = [fold(student) for student in taught]
change = (outputs(folded[0], test[0]) - outputs(taught[0], test[0])).abs().max()
print("folded, the network computes the same:", bool(change < 1e-4))
weights = [p.detach() for p in folded[0].parameters() if p.ndim > 1]  # five conv, one affine
scales = [weight_scale(w) for w in weights]
ours = [quantize(w, s) for w, s in zip(weights, scales, strict=True)]
errors = [w - dequantize(q, s) for w, q, s in zip(weights, ours, scales, strict=True)]
worst = max((error.abs() / (s / 2)).max() for error, s in zip(errors, scales, strict=True))

# %% mystnb={"image": {"alt": "Rounding error of each of 40 output channels, sorted by the channel's largest weight. With one scale for the tensor all dots lie on one level; with a scale for each channel they fall with the channel's largest weight, along a dashed line."}, "figure": {"caption": "The fifth convolution in int8: root mean square rounding error of each output channel's weights, in thousandths of a unit of weight. Dashed: the scale divided by the root of 12, which is the error of evenly spread remainders.", "name": "fig-distill-channels"}}
layer, rounding = weights[4], {}  # (40, 20, 3, 3)
order = layer.abs().flatten(1).amax(1).argsort(descending=True)
fig, ax = plt.subplots(figsize=(5.2, 3))
for label, per_channel in {"one scale": False, "one a\nchannel": True}.items():
    scale = weight_scale(layer, per_channel)
    error = (layer - dequantize(quantize(layer, scale), scale)).flatten(1)  # (40, 180)
    rounding[label] = error.square().mean(1).sqrt()[order]  # (40,)
    ax.plot(1000 * rounding[label], "o", markersize=5, label=label)
    ax.plot(1000 * scale.flatten()[order] / 12**0.5, "--", color="black", linewidth=1, label="_")
ax.set(xlabel="output channel, largest weight first", ylim=(0, None))
ax.set_ylabel("error of a weight (10⁻³)")
ku.plots.label_lines(ax)
plt.show()
coarse, fine = (error.square().mean() for error in rounding.values())

# %% [markdown]
# No weight is off by more than half a scale. With one scale for the tensor, the largest weight
# anywhere decides how coarsely every channel is rounded. With one scale a channel, a quiet channel
# is rounded finely, for four more bytes a channel.
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
chosen = torch.randperm(len(views), generator=torch.Generator().manual_seed(0))[:500]
calibration = views[chosen]  # (500, 1, 28, 28) moved training images


class Calibration(CalibrationDataReader):
    def __init__(self):
        self.batches = iter(calibration.split(100))

    def get_next(self):
        return next(({"x": batch.numpy()} for batch in self.batches), None)


plain = ku.simplify.export_onnx(taught[0], calibration, folder / "plain.onnx")  # float32
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


def exported(models, name, images=calibration, export=ku.simplify.export_int8):
    """Return the files of the networks of all seeds."""
    paths = [folder / f"{name}{number}.onnx" for number in range(len(models))]
    return [export(model, images, path) for model, path in zip(models, paths, strict=True)]


taught8 = exported(taught, "taught8")
student_kb = taught8[0].stat().st_size / 1000
smaller = cost["teacher"]["bytes"] / 1000 / student_kb
ku.glue(dq_student_kb=f"{student_kb:.0f}", dq_smaller=f"{math.floor(smaller)}")
answers, eager = deployed(taught8[0])(test[0]), outputs(taught[0], test[0])  # (N, 10)
exact = (deployed(plain)(test[0]) - eager).abs().max()
print("the two calls and export_int8:", torch.equal(deployed(by_calls)(test[0]), answers))

# %% [markdown]
# The file takes {glue:text}`dq_student_kb` kB; the teacher's weights take
# {glue:text}`dq_smaller` times that. Now open it and look for our own arithmetic. In the graph, each
# multiplying node has two `DequantizeLinear` nodes before it, one for what comes in and one for its
# weights.


# %% tolerance={"other integers in the file": 5}
class Stored(NamedTuple):
    scale: torch.Tensor  # of the numbers that come in
    zero: torch.Tensor
    q: torch.Tensor  # the weights as integers
    w_scale: torch.Tensor  # (out,)


def read(path):
    """Return what the file stores for each multiplying layer, and (scale, zero) of its output."""
    graph = onnx.load(path).graph
    arrays = {part.name: onnx.numpy_helper.to_array(part) for part in graph.initializer}
    before = {node.output[0]: node for node in graph.node}  # what computes a tensor

    def numbers(tensor):  # all that a DequantizeLinear node reads from the file
        names = [name for name in before[tensor].input if name in arrays]
        return [torch.from_numpy(arrays[name].astype(np.float32)) for name in names]

    multiply = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    layers = [Stored(*numbers(n.input[0]), *numbers(n.input[1])[:2]) for n in multiply]
    return layers, numbers(graph.output[0].name)


pairs = zip(ours, read(taught8[0])[0], strict=True)
differ = sum((q != layer.q).sum() for q, layer in pairs).item()
print("other integers in the file:", differ)

# %% [markdown]
# The file holds the integers that we computed.
#
# ## How far can the answers move?
#
# A layer computes $y = \sum_k w_k x_k + b$. Deployed, it has $\hat w_k$ and $\hat x_k$ instead. A
# weight is off by at most half its scale, $s_w/2$; call $e_k$ the most by which its input $\hat x_k$
# can be off, with scale $s_x$. Then
#
# $$\begin{aligned}
# |\hat y - y| \le {}& \sum_k |w_k|\, e_k + \frac{s_w}{2} \sum_k \bigl(|x_k| + e_k\bigr) \\
# & {} + \frac{s_w s_x}{2} ,
# \end{aligned}$$
#
# where the last term is the rounding of the bias, which has the scale $s_w s_x$. ReLU and max
# pooling never enlarge an error. Storing $\hat y$ with the scale $s_y$ adds $s_y/2$, and more where
# $y$ lies outside the calibrated range and is clipped. The sums are themselves convolutions, with
# $|w|$ in place of $w$, so the bound for a whole network is one more pass through it. It needs the
# float numbers $x_k$ and $y$ of the very image, so it says nothing about images that are not there.
#
# A bound takes every error at its largest, with the worst sign. If roundings are independent and
# evenly spread instead, variances add up: $s^2/12$ for each, weighted by $w^2$. `follow` sends four
# things through the network side by side: float numbers, the integer arithmetic emulated in eager
# torch, the bound, the variance.


# %%
def multiply(layer, state, stored):
    """Send (x, x_hat, bound, variance) through a convolution or an affine layer."""
    (x, x_hat, bound, variance), w = state, layer.weight

    def sums(x, w):  # the layer with other weights and no bias
        conv = w.ndim == 4
        return F.conv2d(x, w, None, layer.stride, layer.padding) if conv else F.linear(x, w)

    # scale of the bias and of the sums
    b_scale = stored.scale * stored.w_scale.view(1, -1, *[1] * (x.ndim - 2))
    w_scale = stored.w_scale.view(-1, *[1] * (w.ndim - 1)).expand_as(w)
    bias = (layer.bias.view_as(b_scale) / b_scale).round() * b_scale
    bound = sums(bound, w.abs()) + sums(x.abs() + bound, w_scale / 2) + b_scale / 2
    variance = sums(variance, w**2) + sums(x**2 + variance, w_scale**2 / 12)
    return layer(x), sums(x_hat, dequantize(stored.q, w_scale)) + bias, bound, variance


# %%
def store(state, scale, zero):
    """Round x_hat to unsigned bytes; bound and variance grow by what that may do."""
    x, x_hat, bound, variance = state
    clipped = (x - x.clamp(-zero * scale, (255 - zero) * scale)).abs()
    x_hat = dequantize(quantize(x_hat, scale, zero, 0, 255), scale, zero)
    return x, x_hat, bound + scale / 2 + clipped, variance + scale**2 / 12 + clipped**2


@torch.no_grad()
def follow(net, path, x):
    """Return emulated logits, their bound, [(largest error, its rms, bound, predicted rms)]."""
    stored, output = read(path)
    places = iter([(layer.scale, layer.zero) for layer in stored] + [output])
    stored, rows = iter(stored), []
    state = x, x, torch.zeros_like(x), torch.zeros_like(x)
    for layer in [nn.Identity(), *net]:  # the image itself is rounded first
        if isinstance(layer, nn.Conv2d | nn.Linear):
            state = multiply(layer, state, next(stored))
        else:
            state = [layer(part) for part in state]
        if isinstance(layer, nn.Identity | nn.ReLU | nn.Linear):  # here numbers are stored
            x, x_hat, bound, variance = state = store(state, *next(places))
            error = (x_hat - x).abs()
            row = error.max(), error.square().mean().sqrt(), bound.max(), variance.mean().sqrt()
            rows.append(row)
    return x_hat, bound, torch.tensor(rows)


# %% tolerance={"dq_rms": 0.012, "dq_predicted": 0.01, "dq_ratio": 1, "dq_bound": 8000, "dq_logit": 3, "dq_first": 0.9, "dq_clipped": 0.9, "dq_head": 6}
emulated, bound, rows = follow(folded[0], taught8[0], test[0])
stored, (step, _) = read(taught8[0])  # step: of a stored logit
error, apart = (answers - eager).abs(), (answers - emulated).abs() / step  # (N, 10)
outside = (error > bound).sum().item()
rms, predicted = error.square().mean().sqrt().item(), rows[-1, 3].item()
after_first = outputs(folded[0][:2], test[0])  # what the second layer's scale has to hold
clipped = (after_first - (255 - stored[1].zero) * stored[1].scale).max()
head, features = folded[0][-1:], outputs(folded[0][:-1], torch.cat([test[0], calibration]))
path, inputs = ku.simplify.export_int8(head, features, folder / "head.onnx"), features[: len(error)]
_, head_bound, _ = follow(head, path, inputs)
head_error = (deployed(path)(inputs) - outputs(head, inputs)).abs()  # (N, 10)
used = (head_error.max() / head_bound.max()).item()
ku.glue(dq_rms=f"{rms:.3f}", dq_predicted=f"{predicted:.3f}", dq_head=f"{1 / used:.0f}")
ku.glue(dq_ratio=f"{(rows[1:, 3] / rows[1:, 1]).max():.1f}", dq_logit=math.ceil(eager.abs().max()))
ku.glue(dq_bound=f"{rows[-1, 2].item():,.0f}")
ku.glue(dq_first=f"{rows[1, 0]:.2f}", dq_clipped=f"{clipped:.2f}")

# %% mystnb={"image": {"alt": "Four lines over seven places in the network on a logarithmic axis. The derived bound grows from a thousandth to more than ten thousand. The largest and the root mean square error begin below the axis and stay below one; the prediction from variances runs a little above the root mean square error."}, "figure": {"caption": "Error of the int8 student after each stored tensor, over all test images: the derived bound, the emulated file's largest and root mean square error, and the latter's prediction from variances. At the image both errors are 0.", "name": "fig-distill-bound"}}
fig, ax = plt.subplots(figsize=(5.2, 3.6))
columns = {"largest": "o-", "rms": "o-", "bound": "o--", "predicted": "o--"}
for values, (label, style) in zip(rows.T, columns.items(), strict=True):
    ax.plot(values, style, markersize=4, label=label)
ax.set_xticks(range(7), ["image", *[f"conv {number}" for number in range(1, 6)], "logits"])
ax.tick_params(axis="x", rotation=40)
ax.set(yscale="log", ylabel="error", ylim=(3e-4, 1e5))  # the image's own is 0
ax.set_yticks([1e-3, 1e-1, 1e1, 1e3, 1e5], ["0.001", "0.1", "10", "1,000", "100,000"])
ku.plots.label_lines(ax)
plt.show()

# %% [markdown]
# The emulation agrees with the deployed file: logits are equal, or rarely a step apart, where two
# ways of adding floats fall on two sides of a rounding edge. So we know what the file computes.
#
# Read the curve of the largest error from the left. The image itself costs nothing: its pixels were
# bytes before they were floats. The largest error after the first convolution,
# {glue:text}`dq_first`, is clipping: there a number lies {glue:text}`dq_clipped` beyond what
# calibration had seen.
#
# The bound holds for every logit of every test image, and in the end says nothing: it grows to
# {glue:text}`dq_bound`, while no logit exceeds {glue:text}`dq_logit`. It would need every rounding
# to fall on the bad side at once. The variances predict a root mean square of
# {glue:text}`dq_predicted` at the logits; measured is {glue:text}`dq_rms`. Inside, the prediction
# is up to {glue:text}`dq_ratio` times the measured. One reason: where ReLU gives 0, deployed as in
# float, nothing is lost, and the variance does not know. A bound is a promise, a variance is an estimate, and
# across a whole network only the estimate is of use.
#
# Across one layer the promise is worth something, since nothing has multiplied yet. For the affine
# head, deployed alone, the largest bound is {glue:text}`dq_head` times the largest error.
#
# ## Without torch
#
# A device would have no torch. We have no device: the same server processor plays one. A fresh
# Python process, in which importing torch is forbidden, opens the int8 file and the test images,
# and prints their logits. It still needs the runtime, a library of about
# {glue:text}`dq_runtime_mb` MB beside our {glue:text}`dq_student_kb` kB; microcontrollers have
# smaller ones.

# %% tolerance={"dq_runtime_mb": 20, "steps between the two processes, at most": 1}
program = """
import sys
sys.modules["torch"] = None  # any import of torch now fails
import json, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
logits = session.run(None, {"x": numpy.load("images.npy")})[0]
print(json.dumps(logits.tolist()))
"""
np.save(folder / "images.npy", test[0].numpy())
command = [sys.executable, "-c", program, taught8[0].name]
done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
apart_fresh = ((torch.tensor(json.loads(done.stdout)) - answers).abs().max() / step).item()
print("steps between the two processes, at most:", round(apart_fresh))
libraries = [path.stat().st_size for path in Path(ort.__file__).parent.rglob("*pybind11_state*")]
ku.glue(dq_runtime_mb=f"{sum(libraries) / 1e6:.0f}")

# %% [markdown]
# ## Fewer bits
#
# Below 8 bits rounding begins to hurt, and training can help. **Quantization-aware training** (QAT)
# rounds the weights in every forward pass. Rounding has slope 0 almost everywhere, so nothing would
# learn; the straight-through estimator {cite}`bengio2013estimating` pretends that it has slope 1.
# In torch that is one line: add the rounding error as a constant. Here 8 bits are −127 to 127, not
# the ±64 of the files.
#
# QAT trains for a while longer. So its rival gets the same: the same images, teachers, steps and
# learning rate, without rounding, and is rounded afterwards.


# %%
class Rounded(nn.Module):
    """Weights as they will be stored; gradients pass as if nothing had happened."""

    def __init__(self, bits):
        super().__init__()
        self.high = 2 ** (bits - 1) - 1  # symmetric: 127, 7, 3, 1

    def forward(self, w):
        scale = weight_scale(w.detach(), high=self.high)
        return w + (scale * (w / scale).round() - w).detach()  # straight through


def rounded(net, bits):
    """Return a copy of a folded network whose weights have so many bits."""
    net = copy.deepcopy(net)
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.utils.parametrize.register_parametrization(layer, "weight", Rounded(bits))
    return net


def longer(nets):
    """Return the networks of all seeds after more teaching, one pass over a quarter of the views."""
    quarter = views[: len(views) // 4]
    pairs = zip(seeds, nets, strict=True)
    return [train(copy.deepcopy(n), quarter, from_teachers, lr=1e-3, seed=s) for s, n in pairs]


# %% tolerance={"dq_after_2": 20, "dq_aware_2": 2.5, "dq_longer_2": 15, "dq_after_3": 3, "dq_after_3_low": 4, "dq_after_3_high": 3, "dq_aware_3": 0.6, "dq_aware_3_low": 0.8, "dq_aware_3_high": 0.8, "dq_longer_3": 3, "dq_longer_3_low": 4, "dq_longer_3_high": 3} mystnb={"image": {"alt": "Share of misread digits against bits per weight, 8 to 2, on a logarithmic axis, three dots per setting. All three lines start below 2 percent at 8 bits. The two that are rounded after training rise a little at 3 bits and to between 50 and 90 percent at 2; training through the rounding stays level down to 3 bits and ends near 5 percent at 2."}, "figure": {"caption": "Misread moved test images (three versions of each) with weights of 8 to 2 bits and activations in float32: rounded at once, trained for longer and rounded later, and trained for as long through the rounding (QAT). One dot per seed.", "name": "fig-distill-bits"}}
trained, bits = longer(folded), (8, 4, 3, 2)
some = [part[: 3 * len(test[0])] for part in moved_test]  # three of the ten versions
ways = {
    "after": ("at once", [[rounded(n, b) for n in folded] for b in bits]),
    "longer": ("later", [[rounded(n, b) for n in trained] for b in bits]),
    "aware": ("QAT", [longer([rounded(n, b) for n in folded]) for b in bits]),
}
by_bits = {w: [correct(nets, some).mean(1) for nets in at] for w, (_, at) in ways.items()}  # (3,)
fig, ax = plt.subplots(figsize=(5.2, 3.6))
styles = zip(("C1", "C2", "C0"), (-0.06, 0.06, 0), ways.items(), strict=True)
for color, shift, (way, (label, _)) in styles:
    dotted(ax, [100 - row for row in by_bits[way]], label, color, shift)
    glue_spread(f"dq_{way}_3", by_bits[way][2], ".1f")
    ku.glue(**{f"dq_{way}_2": f"{by_bits[way][3].mean():.0f}"})
ax.set_xticks(range(4), ["8", "4", "3", "2"])
ax.set(xlabel="bits per weight", ylabel="misread digits (%)", yscale="log")
ax.set_yticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
ku.plots.label_lines(ax, pad=14)
plt.show()
pairs = zip(by_bits["aware"], by_bits["longer"], strict=True)
rescued = [(aware - late).mean().item() for aware, late in pairs]  # at 8, 4, 3, 2 bits

# %% [markdown]
# At 8 bits there is nothing to rescue and at 4 next to nothing: post-training quantization is
# enough, and QAT is wasted effort. At 3 bits rounding costs something: {glue:text}`dq_after_3` % at
# once, {glue:text}`dq_longer_3` % after training for longer, {glue:text}`dq_aware_3` % through the
# rounding. At 2 bits a weight has three values left, −1, 0 and 1 times its scale. Rounded at once,
# the networks read {glue:text}`dq_after_2` % on average; trained for longer first,
# {glue:text}`dq_longer_2` % (in both cases single seeds lie tens of points apart); trained through
# the rounding, {glue:text}`dq_aware_2` %. No file of ours uses this.
# ONNX Runtime computes with 4-bit weights in matrix products (`MatMulNBits`, made for language
# models); for convolutions we know of no such operator in it.
#
# ## The chain in one table
#
# *Taught*, *labels* and *random start* are the three students from above. Every row is scored as
# files in ONNX Runtime, on moved test images: mean over three seeds (one for the linear model), with
# the standard deviation over seeds. MACs are multiply-accumulate operations.


# %% tolerance={"accuracy (%)": 0.4, "± (points)": 0.3, "kB": 1}
class Link(NamedTuple):
    model: str
    cost: dict
    files: list  # one a seed


def link(model, kind, nets, export=ku.simplify.export_int8):
    return Link(model, cost[kind], exported(nets, model.replace(" ", "_"), export=export))


float32 = ku.simplify.export_onnx
links = [
    link("linear int8", "linear", [linear]),
    link("teacher float32", "teacher", teachers, float32),
    link("teacher int8", "teacher", teachers),
    link("taught float32", "student", taught, float32),
    Link("taught int8", cost["student"], taught8),
    link("labels int8", "student", labeled),
    link("random start int8", "student", scratch),
    link("not retrained int8", "student", pruned),
]
right |= {row.model: correct([deployed(path) for path in row.files]) for row in links}
marks = [right[row.model].mean(1) for row in links]  # (seeds,) each
table = {"file": [row.model for row in links], "accuracy (%)": [f"{m.mean():.1f}" for m in marks]}
known = [len(m) > 1 and m.mean() > 50 for m in marks]  # what guesses has no spread of interest
table["± (points)"] = [f"{m.std():.1f}" if k else "" for m, k in zip(marks, known, strict=True)]
table["parameters"] = [f"{row.cost['parameters']:,}" for row in links]
table["kB"] = [f"{row.files[0].stat().st_size / 1000:.0f}" for row in links]
table["million MACs"] = [f"{row.cost['macs'] / 1e6:.2f}" for row in links]
ku.table(table, caption="The chain, three seeds")

# %% tolerance={"dq_lost": 0.1, "dq_lost_low": 0.2, "dq_lost_high": 0.2, "dq_lost_seeds_low": 0.3, "dq_lost_seeds_high": 0.3, "dq_cut_file": 12, "dq_labels_lost": 0.18, "dq_scratch_lost": 0.3} mystnb={"image": {"alt": "Six rows, one for each kind of file, three dots each for the seeds and a bar at their mean: share of misread digits, between 1 and 2 percent. The teacher in float32 and in int8 and the 28-kilobyte file trained on labels lie to the left; the taught student, in both formats, and the network from random weights follow a tenth of a point to the right. The whole figure spans a third of a point."}, "figure": {"caption": "Misread moved test digits of the files, one dot per seed, bar at the mean. The linear model and the network that was not retrained lie far outside.", "name": "fig-distill-chain"}}
fig, ax = plt.subplots(figsize=(5.2, 3.4))
shown = links[1:-1]
for place, row in enumerate(shown):
    misread = 100 - right[row.model].mean(1)  # (3,)
    color = "C1" if row.cost is cost["student"] else "C0"
    ax.plot(misread, [place] * len(misread), "o", color=color, alpha=0.6, markersize=7)
    ax.plot(misread.mean(), place, "|", color=color, markersize=22, markeredgewidth=2.5)
names = [f"{row.model}, {row.files[0].stat().st_size / 1000:.0f} kB" for row in shown]
ax.set_yticks(range(len(names)), names)
ax.set(xlabel="misread digits (%)", xlim=(1.2, 1.9), ylim=(len(names) - 0.5, -0.5))
plt.show()
lost = {row.model: right["teacher"] - right[row.model] for row in links}  # paired by seed
by_digit = lost["taught int8"].view(len(seeds), 10, -1).mean(1)  # (3, N): the ten versions together
draw = torch.Generator().manual_seed(0)
drawn = torch.randint(by_digit.shape[1], (2000, by_digit.shape[1]), generator=draw)
low, high = by_digit.mean(0)[drawn].mean(1).quantile(torch.tensor([0.025, 0.975]))
by_seed = by_digit.mean(1)
ku.glue(dq_lost=f"{by_digit.mean():.2f}", dq_lost_low=f"{low:.2f}", dq_lost_high=f"{high:.2f}")
ku.glue(dq_lost_seeds_low=f"{by_seed.min():.2f}", dq_lost_seeds_high=f"{by_seed.max():.2f}")
ku.glue(dq_labels_lost=f"{lost['labels int8'].mean():.2f}")
ku.glue(dq_scratch_lost=f"{lost['random start int8'].mean():.2f}")
ku.glue(dq_cut_file=f"{right['not retrained int8'].mean():.0f}")

# %% [markdown]
# In int8 the teacher itself loses next to nothing, and its file shrinks to a bit more than a
# quarter: whoever needs only that can stop after one call. Pruning makes the file eight times
# smaller, int8 after it less than three times: of a file this small a third is graph, names and
# scales.
#
# What was lost on the way? Teacher minus taught int8 student, same images and same seed: the chain
# loses {glue:text}`dq_lost` points. The interval, {glue:text}`dq_lost_low` to
# {glue:text}`dq_lost_high`, draws the test digits anew, 2,000 times, the ten versions of a digit
# together. It holds for these three networks; what other seeds would do, three cannot tell. Theirs
# are {glue:text}`dq_lost_seeds_low` to {glue:text}`dq_lost_seeds_high`. With labels in place of
# teachers the chain loses {glue:text}`dq_labels_lost`, the network from random weights
# {glue:text}`dq_scratch_lost`. Pruned and quantized but never retrained, the network reads
# {glue:text}`dq_cut_file` %.
#
# Now the time: medians for one image on two threads, with quartiles. All are measured in one run,
# in turn: every round calls each network once, so that a busy moment of the machine falls on all.

# %% tags=["nbval-ignore-output"]
one, calls = test[0][:1].contiguous(), {}  # (model, how it runs) -> (function, image)
models = {"teacher": ("teacher", teachers[0]), "student": ("taught", taught[0])}
files = {row.model: row.files[0] for row in links}
for model, (name, net) in models.items():
    net = copy.deepcopy(net).to(memory_format=torch.contiguous_format)  # faster for one image
    calls[model, "eager"] = net, one
    calls[model, "float32"] = deployed(files[f"{name} float32"]), one
    calls[model, "int8"] = deployed(files[f"{name} int8"]), one
clock = ku.simplify.latency(calls, 400, 40)
time = {key: middle for key, (_, middle, _) in clock.items()}  # ms
shown = {key: " – ".join(f"{1000 * t:.0f}" for t in quartiles) for key, quartiles in clock.items()}
table = {"one image (µs)": list(models)}
for how, header in {"eager": "eager", "float32": "ONNX float32", "int8": "ONNX int8"}.items():
    table[header] = [shown[model, how] for model in models]
ku.table(table, caption="Lower quartile – median – upper quartile")
whole, base = time["student", "int8"] / time["teacher", "eager"], time["teacher", "float32"]
same = time["student", "int8"] / base
ku.glue(dq_whole=f"{whole:.2f}", dq_same=f"{same:.2f}")
ku.glue(dq_by_runtime=f"{time['teacher', 'eager'] / base:.1f}")
ku.glue(dq_by_cut=f"{base / time['student', 'float32']:.1f}")
ku.glue(dq_by_int8=f"{time['student', 'float32'] / time['student', 'int8']:.1f}")
ku.glue(dq_teacher_int8=f"{base / time['teacher', 'int8']:.1f}")
ku.glue(dq_eager_cut=f"{time['teacher', 'eager'] / time['student', 'eager']:.1f}")

# %% [markdown]
# The int8 student takes {glue:text}`dq_whole` of the eager teacher's time. In factors: the runtime
# {glue:text}`dq_by_runtime`, then pruning {glue:text}`dq_by_cut`, then the integers
# {glue:text}`dq_by_int8`. The order matters: on the unpruned teacher, where there is more to
# multiply, the integers bring {glue:text}`dq_teacher_int8`. Against the teacher in the same runtime,
# pruning and integers together leave {glue:text}`dq_same` of the time.
#
# The eager student, with about a tenth of the multiplications, is only {glue:text}`dq_eager_cut`
# times as fast as the eager teacher: at this size PyTorch's time goes into calling operators. If you
# repeat the timings: PyTorch is held to AVX2 here, so that numbers repeat; ONNX Runtime is not. And
# in our repetitions, on a shared machine, eager times came in two kinds, the slow one half as long
# again as the fast one, while those of ONNX Runtime stayed. The factor of the runtime moves with it.
#
# **Which step first?** Export: it costs one call, changes no answer and buys the largest part of the speed.
# Then int8, if the accuracy of the file, tested as a file, is still there. Then ask whether a
# smaller network, trained from scratch, would do. Pruning needs a trained network and a second
# training run, and bought {glue:text}`dq_start` points here; teaching bought nothing.
#
# ## Where it fails
#
# **Too little to multiply, or no integer kernel.** Below, the same architecture with more and fewer
# channels, with ReLU and with hard-swish: an activation made for phones
# {cite}`howard2019mobilenetv3`, for which ONNX Runtime has no integer kernel here. The weights are
# random, since time does not depend on them.


# %% tolerance={"dq_nodes_float": 8, "dq_nodes_int8": 8, "dq_nodes_relu": 4}
def operators(path) -> int:
    """Return how many operators run after ONNX Runtime has fused what it can."""
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "fused.onnx"), 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return len(onnx.load(folder / "fused.onnx").graph.node)


widths = (4, 16, 32)[: ku.rehearsal_steps()]
activations = {"ReLU": nn.ReLU, "hard-swish": nn.Hardswish}
exports = {"float32": ku.simplify.export_onnx, "int8": ku.simplify.export_int8}
calls, count = {}, {}
for width in widths:
    for name, activation in activations.items():
        net = digit_net(width, activation).eval()
        for kind, export in exports.items():
            path = export(net, calibration[:100], folder / "timed.onnx")
            calls[name, kind, width] = deployed(path), one
            count[name, kind, width] = operators(path)
clock = ku.simplify.latency(calls, 400, 40)
ku.glue(dq_nodes_float=count["hard-swish", "float32", 4])
ku.glue(dq_nodes_int8=count["hard-swish", "int8", 4], dq_nodes_relu=count["ReLU", "int8", 4])

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Two panels, ReLU above hard-swish: time for one image against the network's width, 4, 16 and 32 channels, logarithmic axes, float32 and int8. At 4 channels int8 is slower in both panels, at 32 faster in both; at 16 it is faster with ReLU and slower with hard-swish."}, "figure": {"caption": "Median time for one image through ONNX Runtime on two threads, bars from the lower to the upper quartile, networks with random weights.", "name": "fig-distill-widths"}}
fig, axes = plt.subplots(2, 1, figsize=(5.2, 4.6), sharex=True, sharey=True)
for ax, name in zip(axes, activations, strict=True):
    for kind in exports:
        quartiles = 1000 * torch.tensor([clock[name, kind, width] for width in widths])  # (3, 3)
        low, middle, high = quartiles.T
        ax.plot(widths, middle, "o-", label=kind)
        ax.vlines(widths, low, high, color=ax.get_lines()[-1].get_color(), linewidth=3, alpha=0.4)
    ax.set(xscale="log", yscale="log", title=name, ylabel="one image (µs)", ylim=(15, 180))
    ax.set_xticks(widths, [str(width) for width in widths])
    ax.minorticks_off()
    ax.set_yticks([20, 50, 100], ["20", "50", "100"])
    ku.plots.label_lines(ax)
axes[1].set_xlabel("width (channels)")
plt.show()

# %% [markdown]
# At four channels int8 is slower with either activation: there is little to multiply, and numbers
# still have to be turned into integers and back. With hard-swish it stays slower for longer, and
# the operators show why. After all fusing, {glue:text}`dq_nodes_float` run in float32, but
# {glue:text}`dq_nodes_int8` in int8, against {glue:text}`dq_nodes_relu` with ReLU: around each
# hard-swish the runtime leaves the integers and comes back. On the processor that made this page
# both are outweighed at 32 channels. (No claim checks the times: some ten microseconds differ
# between machines. The claims check the operator counts.) Measure before you quantize for speed.
#
# **The wrong calibration.** Ranges come from the calibration images. Suppose somebody calibrates
# with images from a dark room, the same digits at a fifth of their brightness. Nothing complains.

# %% tolerance={"dq_dim": 20}
dim = exported(taught, "dim", calibration / 5)
right["dim"] = correct([deployed(path) for path in dim])
ku.glue(dq_dim=f"{right['dim'].mean():.0f}")

# %% [markdown]
# The files read {glue:text}`dq_dim` % of the moved test digits at full brightness: whatever exceeds
# the calibrated range is clipped. The float networks they came from are unharmed. So test the
# *file*, on images from where it will work.
#
# **Strengths.** Small files, one format for many runtimes, no torch on the device, and each step
# can be checked by itself. **Limits.** Everything here was measured on clean, centered digits and
# on one processor at a time. What compression does to inputs that are rare in the data is
# another question, and the answer can be bad {cite}`hooker2020characterising`. **When not to use
# it.** Where the float model is small and fast enough; where activations have no integer kernel;
# where nobody can bring calibration images from the place of use. **Software.** ONNX Runtime for
# what runs here, `torch.onnx` to get there. torchao is PyTorch's own route to few bits, aimed at
# large models; `torch.ao.quantization`, which many tutorials still use, is deprecated. A survey of
# quantization {cite}`nagel2021white` and a pipeline that prunes, quantizes and codes
# {cite}`han2016compression` go further.
#
# ## Claims
#
# The requirement fixed the bounds on file, accuracy and time against the eager teacher before
# anything was run. The chain meets it without teachers, too: the third claim. The other bounds come
# from theory, or from trial runs with room to spare.

# %%
text = "points that an int8 file of a twentieth of the teacher's bytes loses, mean of three seeds"
ku.claim(text, lost["taught int8"].mean(), at_most=0.5, role="headline", rests_on=("dq_lost",))
text = "points that the same pruning and the same int8 lose without any retraining"
uncured = lost["not retrained int8"].mean()
ku.claim(text, uncured, at_least=40, role="control", rests_on=("dq_cut_file",))
text = "points that the same chain loses with plain labels in place of the teachers"
ku.claim(text, lost["labels int8"].mean(), at_most=0.5, rests_on=("dq_labels_lost",))
text = "bytes of the teacher's weights / bytes of the int8 file"
ku.claim(text, smaller, at_least=20)
text = "time of the int8 student / time of the eager float32 teacher, one image, two threads"
ku.claim(text, whole, at_most=0.2)
text = "time of the int8 student / time of the float32 teacher in the same runtime"
ku.claim(text, same, at_most=0.67)
text = "points that the teacher adds to a student of 200 images, mean of three seeds"
ku.claim(text, gain.mean(), at_least=0.3, rests_on=("dq_gain",))
text = "points that rounding in training rescues at 2 bits, against training as long without"
ku.claim(text, rescued[3], at_least=10, rests_on=("dq_aware_2", "dq_longer_2"))
ku.claim("points that it adds at 8 bits, where nothing was lost", rescued[0], at_most=0.5)
text = "operators that run in the int8 network, with hard-swish / with ReLU"
ratio = count["hard-swish", "int8", 4] / count["ReLU", "int8", 4]
ku.claim(text, ratio, at_least=1.5)
dark = (right["taught int8"] - right["dim"]).mean()
ku.claim("points lost by calibrating at a fifth of the brightness", dark, at_least=3)

# %%
ku.claim("largest rounding error of a weight / half its scale", worst, at_most=1.0001)
text = "squared rounding error with one scale for the tensor / with one a channel"
ku.claim(text, coarse / fine, at_least=1.2)
share = differ / sum(w.numel() for w in weights)
ku.claim("share of the file's integers that are not ours", share, at_most=0.001)
ku.claim("float32 file against eager network: largest difference", exact, at_most=1e-4)
ku.claim("logits of the int8 file outside their bound", outside, between=(0, 0))
head_outside = (head_error > head_bound + 1e-4).sum().item()
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
