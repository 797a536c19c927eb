# %% [markdown]
# # Fewer layers, fewer neurons
#
# **How much of a trained network can be taken away before it gets worse, and does the clock notice?**
#
# Two of six residual blocks and four of ten channels can go: the network then does
# {glue:text}`ln_factor` times fewer multiplications, and after eight more passes over the training
# images its accuracy has moved by {glue:text}`ln_change` points (mean of five networks; the loss, with
# 95 % confidence, at most {glue:text}`ln_lost_high`). Without those passes it loses
# {glue:text}`ln_control` points. What is saved by removing layers, the clock sees almost in full. Of what is
# saved by removing channels it sees about a third, when images come one at a time.
#
# :::{admonition} What you will learn
# - to measure a model in quantities that multiply: parameters, bytes, multiply-accumulates,
#   latency;
# - to remove channels and whole blocks so that what remains is a smaller ordinary network;
# - why setting weights to zero saves nothing on ordinary hardware;
# - what the choice of channels is worth, before and after fine-tuning;
# - to ask the question that decides: does pruning beat a small network trained from scratch?
#
# **Works out:** document 000 §3.2.1 and the formulas of its §4 (see
# [the five documents](../../book/five_documents.md)).
#
# **Before this:** [First networks](../foundations/first_networks.ipynb).
#
# **Costs:** about three minutes and less than 2 GiB on two CPU cores. The full profile (70,000
# digits, twice the width) wants one GPU.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 文档 000 把模型简化写成“基础模型 × 层数缩减 × 神经元缩减”。本章把它变成真正可以相乘的量：参数量、字节数、乘加次数和实测延迟。
# 先用不同深度和宽度的小型残差网络验证这个乘积，再把训练好的网络变小：权重置零、按通道剪枝、整块删除。
# 通道是真正删掉的，得到的是普通的小网络。删掉两个残差块和四成通道，再微调六轮，五个随机种子的平均准确率几乎不变。
# 对照实验说明：不微调则完全失败；从头训练同样大小的网络，训练总轮数相同时，结果并不更差。
# 删层省下的计算几乎全部变成时间，删通道在单张图像上只有约三分之一。压缩过度时，损失集中在少数几个数字上。
#
# </div>
# :::

# %% tags=["setup"]
# Colab: this line is replaced by an install command when the book is published
import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import copy
import itertools
import math
import zlib
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from scipy import sparse, stats
from torch import nn

device = ku.start(seed=0)

# %% [markdown]
# ## The data
#
# The same handwritten digits as in the chapters before: MNIST {cite}`lecun1998gradient`, gray images
# of 28 × 28 pixels, CC BY-SA 3.0. Networks learn from the training part. Nothing in this chapter is
# chosen by looking at other images: which blocks and channels go is decided on training images. So
# validation and test part together serve as **held-out** images, {glue:text}`ln_held` of them, and
# every accuracy below is measured there. Shapes are written `# (B, C, H, W)`: batch, channels,
# height, width.

# %% mystnb={"image": {"alt": "Two rows of ten handwritten digits, 0 to 9. The lower row shows the same digits slightly turned, scaled and shifted."}, "figure": {"caption": "Ten training images (top) and what the network sees of them in one epoch (bottom).", "name": "fig-layers-digits"}}
digits = ku.data.mnist()
X, y = (part.to(device) for part in digits.train)  # (N, 1, 28, 28), (N,)
held = tuple(torch.cat(p).to(device) for p in zip(digits.valid, digits.test, strict=True))
order = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
sample = X[order[:1000]], y[order[:1000]]  # training images on which channels and blocks are judged
ku.glue(ln_train=f"{len(X):,}", ln_held=f"{len(held[0]):,}")
means = torch.stack([X[y == digit].mean(0) for digit in range(10)])  # (10, 1, 28, 28)
nearest = torch.cdist(held[0].flatten(1), means.flatten(1)).argmin(1)  # (N,) the baseline below
ku.glue(ln_nearest=f"{100 * (nearest == held[1]).float().mean():.1f}")
firsts = torch.stack([X[y == digit][0] for digit in range(10)])  # (10, 1, 28, 28)
fig, axes = plt.subplots(2, 10, figsize=(7, 1.7))
ku.plots.image_row(axes[0], list(firsts.cpu()), digits.classes)
ku.plots.image_row(axes[1], list(ku.data.warp(firsts).cpu()), [""] * 10)
plt.show()

# %% [markdown]
# There are {glue:text}`ln_train` training images. Each epoch turns, scales and shifts them anew
# (`ku.data.warp`, built in the chapter on first networks).
#
# **What these data cannot support.** Ten clean digits are an easy task, and easy tasks forgive
# pruning. How far a network can be cut here says nothing about how far one can be cut that
# recognizes a thousand kinds of animals. The mechanisms carry over, the factors do not. The
# embedded images also share their writers across the parts.
#
# ## The dumbest small model
#
# The smallest model that deserves the name keeps one mean image for each digit and answers the
# nearest. It holds 7,840 numbers and needs as many multiplications an image.
#
# It reads {glue:text}`ln_nearest` % of the held-out images. A small network has to beat that.
#
# ## Units
#
# "Simpler" needs a unit, and there are four:
#
# - **parameters**, the numbers that training sets;
# - **bytes** of the saved file, with the running statistics of batch norms;
# - **multiply-accumulates** (MACs) of one forward pass on one image;
# - **latency**, the time of that pass on this machine.
#
# They do not agree with one another. A convolution has few parameters and uses each of them often;
# an affine layer has many and uses each once. The first three can be counted by hand. A convolution with $C_\text{in}$ input channels,
# $C_\text{out}$ filters of $k \times k$ weights and an output of $H \times W$ pixels has
# $C_\text{out} C_\text{in} k^2$ weights, and uses each of them once for every output pixel:
#
# $$\text{MACs} = H\,W\,C_\text{out}\,C_\text{in}\,k^2.$$
#
# Our network is a small residual one {cite}`he2016resnet`: a strided convolution, two stages of
# `depth` blocks each, at 14 × 14 pixels with `width` channels and at 7 × 7 with twice as many, and
# an affine layer on the mean of each channel. A block computes $x + f(x)$ with two convolutions in
# $f$. We count its operations by hand and let `ku.simplify.cost` count them with PyTorch's flop
# counter.


# %%
def count_macs(depth: int, width: int) -> int:
    """Return the MACs of ku.models.small_resnet(depth, width) on one image, by the formula."""
    first = 14 * 14 * width * 1 * 9  # the stem: one input channel
    stage_1 = 2 * depth * 14 * 14 * width * width * 9
    step = 7 * 7 * 2 * width * width * (9 + 1)  # into the second stage: 3 × 3, and 1 × 1 beside it
    stage_2 = (2 * depth - 1) * 7 * 7 * (2 * width) ** 2 * 9
    return first + stage_1 + step + stage_2 + 2 * width * 10


def cost(model: nn.Module) -> dict:
    return ku.simplify.cost(model, X[:1], repeats=0)


DEPTHS, WIDTHS = (1, 3), ku.pick(laptop=(4, 8, 16), full=(8, 16, 32))
DEPTH, WIDTH = DEPTHS[-1], WIDTHS[-1]
grid = list(itertools.product(DEPTHS, WIDTHS))
counted = {pair: cost(ku.models.small_resnet(*pair).to(device))["macs"] for pair in grid}
errors = [abs(count_macs(*pair) - macs) for pair, macs in counted.items()]
full_cost = counted[DEPTH, WIDTH]

# %% [markdown]
# ## Quantities that multiply
#
# Essay 000 (§4.2) writes: simplified model = base model × layer reduction × neuron reduction. A
# model cannot be multiplied by a word. But MACs can be multiplied by shares, and then the formula
# needs one correction. Most of the work is in convolutions between two wide layers, where both
# $C_\text{in}$ and $C_\text{out}$ shrink. So the neurons' share counts twice:
#
# $$\text{MACs} \approx \text{base} \times \text{share of layers} \times
# (\text{share of neurons})^2.$$

# %%
product = {(d, w): full_cost * d / DEPTH * (w / WIDTH) ** 2 for d, w in grid}
table = {"depth": [d for d, _ in grid], "width": [w for _, w in grid]}
table["MACs, counted"] = [f"{counted[pair]:,}" for pair in grid]
table["base × layers × neurons²"] = [f"{product[pair]:,.0f}" for pair in grid]
ku.table(table, caption="The product against the count")

half = cost(ku.models.small_resnet(1, WIDTH // 2).to(device))["macs"]
whole = cost(ku.models.small_resnet(2, WIDTH).to(device))["macs"]
printed = r"$\text{Base} \times \text{Layer Reduction} \times \text{Neuron Reduction}$"
erratum, mended = ku.errata("000 §4.2", printed, r"$\text{Base} \times d \times w^2$")
text = "half of the layers and half of the neurons: the product of both shares is 0.25, yet the"
erratum(f"{text} network keeps this share of its multiply-accumulates", half / whole, at_most=0.15)
worst = max(abs(product[pair] / counted[pair] - 1) for pair in grid)
text = "with the neurons' share squared, the product misses the count by at most this share"
mended(f"{text} (all networks of the table)", worst, at_most=0.2)

# %% [markdown]
# Half the layers and half the neurons leave an eighth of the work, not a quarter. What the product
# misses sits at the edges: the one input channel and the step between the stages. So narrowing saves
# operations twice as fast as shortening, if operations are what one wants to save. Whether time
# follows is another question, and its answer further down is not the same.
#
# ## A base, and small networks beside it
#
# What does each reduction cost in accuracy? Every network gets the same recipe: AdamW, a learning
# rate that rises and falls once, labels smoothed by 0.1, batches of 128, images warped anew in every
# epoch. The **base**, the largest network, gets eight epochs and five seeds, because all that follows
# starts from these five. The five smaller networks of the table get five epochs and three seeds. A
# seed sets the first weights and the order of the images, so networks with the same seed make a fair
# pair.


# %%
EPOCHS, BATCH = 5, ku.pick(laptop=128, full=512)


def new(depth: int, width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return ku.models.small_resnet(depth, width).to(device)


def train(model: nn.Module, seed: int, epochs: int = EPOCHS) -> nn.Module:
    """Train in place by the one recipe of this chapter; return the model."""
    adamw = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01, fused=True)
    steps = epochs * math.ceil(len(X) / BATCH)
    rise_and_fall = torch.optim.lr_scheduler.OneCycleLR(adamw, 0.01, steps, pct_start=0.2)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    tools = {"optimizer": adamw, "schedule": rise_and_fall, "loss": loss, "augment": ku.data.warp}
    ku.fit(model, (X, y), num_epochs=epochs, batch_size=BATCH, seed=seed, **tools)
    return model.eval()


def accuracy(model: nn.Module, data=held) -> float:
    return 100 * ku.evaluate(model, data)["score"]


# %%
MORE_SEEDS, SEEDS, BASE_EPOCHS = (0, 1, 2, 3, 4), (0, 1, 2), 8
bases = [train(new(DEPTH, WIDTH, seed), seed, BASE_EPOCHS) for seed in MORE_SEEDS]
base = torch.tensor([accuracy(model) for model in bases])  # (5,)
base_cost = cost(bases[0])
scratch = {}  # (depth, width) -> held-out accuracy (3,) after five epochs
for pair in grid[:-1]:
    scratch[pair] = torch.tensor([accuracy(train(new(*pair, seed), seed)) for seed in SEEDS])


def log_error(ax) -> None:
    """Label the axes of an error against operations, both logarithmic."""
    ax.set(xscale="log", yscale="log", xlabel="multiply-accumulates an image (millions)")
    ax.set_ylabel("held-out images misread (%)")
    ax.set_yticks([2, 3, 5, 10, 20], [2, 3, 5, 10, 20])
    ax.minorticks_off()
    ax.margins(x=0.25, y=0.15)


named = {"narrow": (DEPTH, WIDTHS[1]), "flat": (1, WIDTH), "smallest": grid[0]}

# %% tolerance={"ln_base": 0.4, "ln_narrow": 0.7, "ln_flat": 0.6, "ln_smallest": 8} mystnb={"image": {"alt": "Misread images in percent against multiply-accumulates, both axes logarithmic. The error falls from about 25 percent for depth 1, width 4 to about 3 percent near a million operations, and to 2 percent for the base at five million."}, "figure": {"caption": "Held-out images misread against operations: small networks after five epochs, one dot per seed, lines through the means; the base after eight epochs (diamond, mean of five).", "name": "fig-layers-grid"}}
fig, ax = plt.subplots()
for depth, side in zip(DEPTHS, (1, -1), strict=True):
    shown = [width for width in WIDTHS if (depth, width) in scratch]
    macs = [counted[depth, width] / 1e6 for width in shown]
    wrong = 100 - torch.stack([scratch[depth, width] for width in shown])  # (widths, seeds)
    (line,) = ax.plot(macs, wrong.mean(1))
    ax.plot(macs, wrong, "o", color=line.get_color(), alpha=0.6, markersize=5)
    for at, error, width in zip(macs, wrong.mean(1), shown, strict=True):
        text, place = f"depth {depth}, width {width}", (side * 9, side * 9 - 4)
        ax.annotate(text, (at, error), xytext=place, textcoords="offset points", fontsize=9,
                    color=line.get_color(), ha="left" if side > 0 else "right")  # fmt: skip
ax.plot(full_cost / 1e6, 100 - base.mean(), "D", color=ku.plots.PALETTE["indigo"])
ax.annotate("base", (full_cost / 1e6, 100 - base.mean()), xytext=(0, 9), ha="center",
            textcoords="offset points", color=ku.plots.PALETTE["indigo"])  # fmt: skip
log_error(ax)
plt.show()
ku.glue(ln_base=f"{base.mean():.1f}", ln_base_macs=f"{base_cost['macs'] / 1e6:.1f}")
ku.glue(ln_base_size=f"{base_cost['parameters']:,}")
ku.glue(**{f"ln_{name}": f"{scratch[pair].mean():.1f}" for name, pair in named.items()})

# %% [markdown]
# The base reads {glue:text}`ln_base` %, with {glue:text}`ln_base_size` parameters and
# {glue:text}`ln_base_macs` million MACs an image. A third of its layers reads
# {glue:text}`ln_flat` %, half of its neurons {glue:text}`ln_narrow` %, and the smallest network
# {glue:text}`ln_smallest` %. At the right a factor of three or four in operations costs one or two
# points; further left the next factor costs much more. So there is room. Who finds it more cheaply, a
# small network that starts from nothing, or a large one that is made smaller?
#
# ## Zeros save nothing
#
# The oldest way to prune is to set the smallest weights to zero {cite}`lecun1990obd,han2015learning`:
# choose a threshold, keep what is larger. We do it to all convolutions and the affine layer at
# once, without any training afterwards.


# %% tolerance={"ln_zeros_half": 0.6, "ln_zeros_most": 12, "ln_zipped": 2} mystnb={"image": {"alt": "Held-out accuracy against the share of weights set to zero, one line per seed. It stays flat up to about half of the weights and falls steeply between 60 and 90 percent."}, "figure": {"caption": "The smallest weights set to zero, no training afterwards; one line per base network.", "name": "fig-layers-zeros"}}
def with_zeros(model: nn.Module, share: float) -> nn.Module:
    """Return a copy whose smallest weights, a share of all in convolutions and affine layers, are 0."""
    model = copy.deepcopy(model)
    weights = [p for p in model.parameters() if p.ndim > 1]
    sizes = torch.cat([w.detach().abs().flatten() for w in weights])
    threshold = sizes.kthvalue(max(1, round(share * len(sizes)))).values
    with torch.no_grad():
        for w in weights:
            w[w.abs() <= threshold] = 0
    return model


shares = torch.tensor([0.2, 0.4, 0.5, 0.6, 0.7, 0.9])
zeroed = torch.tensor([[accuracy(with_zeros(m, s.item())) for s in shares] for m in bases[:3]])
sparse_model = with_zeros(bases[0], 0.9)
files = [save(model.state_dict()) for model in (bases[0], sparse_model)]
zipped = len(zlib.compress(files[1])) / len(files[0])
ku.glue(ln_zeros_half=f"{(base[:3] - zeroed[:, 2]).mean():.1f}", ln_zipped=f"{100 * zipped:.0f}")
ku.glue(ln_zeros_most=f"{zeroed[:, -1].mean():.0f}")
fig, ax = plt.subplots(figsize=(7, 2.8))
ax.plot(100 * shares, zeroed.T, "o-", color=ku.plots.PALETTE["teal"], alpha=0.7)
ax.set(xlabel="weights set to zero (%)", ylabel="held-out (%)", ylim=(0, 102))
plt.show()

# %% [markdown]
# Half of the weights can become zero for {glue:text}`ln_zeros_half` points. At nine tenths
# {glue:text}`ln_zeros_most` % of the digits are read, about a guess; with training in between it
# would be far more, as the tickets below show. But what is saved? A dense convolution multiplies by zero as
# patiently as by anything else, and a file of zeros is as long as any other. Compressed, it takes
# {glue:text}`ln_zipped` % of the space, so zeros help a download. For speed one needs a format that
# stores only the others, and code that skips the rest. We time both: the network with nine tenths
# of zeros against the one without, and one affine layer as a dense and as a sparse matrix
# (`scipy.sparse`).

# %% tags=["nbval-ignore-output"]
pair = {"dense": (bases[0], held[0][:64]), "zeros": (sparse_model, held[0][:64])}
times = ku.simplify.latency(pair, repeats=20)
zeros_gain = times["dense"][1] / times["zeros"][1]
W, x = torch.randn(300, 784).numpy(), torch.randn(784, 64).numpy()


def best_ms(call, repeats=15):
    """Return the shortest of several times of a call, in milliseconds."""
    taken = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        taken.append(1000 * (perf_counter() - start))
    return min(taken)


densities = (0.5, 0.2, 0.1, 0.05, 0.02)
kept = [sparse.csr_matrix(W * (np.random.default_rng(0).random(W.shape) < d)) for d in densities]
table = {"weights kept (%)": [f"{100 * d:.0f}" for d in densities]}
table["sparse (ms)"] = [f"{best_ms(lambda m=m: m @ x):.2f}" for m in kept]
table["dense (ms)"] = [f"{best_ms(lambda: W @ x):.2f}"] * len(densities)
ku.table(table, caption=f"Network with 90 % zeros: {zeros_gain:.2f} times as fast as without")

# %% [markdown]
# The network with zeros is as slow as the one without. The sparse layer wins only when few weights
# in a hundred are left: jumping from one weight to the next costs more than a multiplication, and
# dense code does eight of those at a time. What pays on this hardware is to remove whole rows, so
# that what remains is dense again.
#
# ## Removing channels
#
# A channel is computed by one filter, normalized by one entry of the batch norm, and read by one
# slice of the next layer's weights. To remove it means to cut all of these. In a chain of layers
# that is a matter of indexing.


# %%
def cut_by_hand(net: nn.Sequential, keep: torch.Tensor) -> nn.Sequential:
    """Return conv → batch norm → ReLU → conv with only the middle channels `keep`."""
    conv1, norm, act, conv2 = copy.deepcopy(net)
    conv1.weight = nn.Parameter(conv1.weight[keep])  # (kept, C, k, k)
    for name in ("weight", "bias"):
        setattr(norm, name, nn.Parameter(getattr(norm, name)[keep]))  # (kept,)
    norm.running_mean, norm.running_var = norm.running_mean[keep], norm.running_var[keep]
    conv2.weight = nn.Parameter(conv2.weight[:, keep])  # (C', kept, k, k)
    return nn.Sequential(conv1, norm, act, conv2)


torch.manual_seed(0)
chain = nn.Sequential(
    nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
)
chain(torch.randn(50, 3, 12, 12))  # gives the batch norm statistics of its own
x = torch.randn(5, 3, 12, 12)  # (B, C, H, W)
keep = chain[0].weight.detach().flatten(1).norm(dim=1).topk(5).indices.sort().values  # (5,)
small = ku.simplify.prune_channels(chain, x, ratio=3 / 8, importance="magnitude")
with torch.no_grad():
    by_hand = (cut_by_hand(chain.eval(), keep)(x) - small.eval()(x)).abs().max()
    masked = copy.deepcopy(chain).eval()
    masked[3].weight[:, [c for c in range(8) if c not in keep]] = 0  # nobody reads these channels
    from_mask = (masked(x) - small(x)).abs().max()

# %% [markdown]
# `ku.simplify.prune_channels` gives the same, and both give what the whole chain gives when nobody
# reads the removed channels. The result is an ordinary module: no masks, no special layers, fewer
# numbers.
#
# With residual connections the indexing gets harder. The sum $x + f(x)$ adds channel 5 of one layer
# to channel 5 of another. If one of them loses channel 5, all must: every layer that writes into
# the sum and every layer that reads from it. Such a **group** can only be cut as a whole
# {cite}`fang2023depgraph`. `ku.simplify` finds the groups by tracing the network once with an
# example.

# %%
groups = ku.simplify.channel_groups(bases[0], X[:1])
kinds = {False: "inside one block", True: "stream of a stage"}
rows = [(kinds[len(group.outputs) > 2], group) for group in groups]
shown = {}
for kind, group in rows:
    writers = sum(isinstance(bases[0].get_submodule(p.layer), nn.Conv2d) for p in group.outputs)
    readers = sum(part.dim == 1 for part in group.parts)
    key = (kind, group.channels, writers, readers)
    shown[key] = shown.get(key, 0) + 1
names = ("group", "channels", "convolutions that write", "layers that read")
table = dict(zip(names, zip(*shown, strict=True), strict=True)) | {"how many": shown.values()}
ku.table(table, caption="Groups of channels that can only be removed together")

# %% [markdown]
# Inside each block there is a group of its own: one convolution writes it, the next reads it. The
# two streams that run along the stages are written and read by many layers at once. A stream is
# the bus of its stage: whoever takes a channel from it takes it from every block. That is why
# libraries that cut only inside the blocks are simpler, and why they stop early: the streams keep
# their full width, and with them every layer that reads or writes one.
#
# **Which channels?** Three answers, from careful to careless:
#
# - **Taylor** {cite}`molchanov2019importance`: what would the loss lose if the channel were zero? To
#   first order the change is the gradient times the weights (the first term of the loss's Taylor series at
#   the present weights, for a step that takes these weights to zero), summed over the channel and
#   squared:
#   $I_c = \big(\sum_{w \in c} \tfrac{\partial L}{\partial w}\, w\big)^2$, summed over batches of
#   training images.
# - **Magnitude** {cite}`li2017pruning`: the length of the filter's weights, $\lVert w_c \rVert$.
#   Needs no data.
# - **Random**: the control.
#
# First without any training afterwards: how fast does the accuracy fall? Every third held-out image
# is enough to see it.


# %%
def prune(model: nn.Module, ratio: float, kind: str, seed: int = 0) -> nn.Module:
    """Return a copy without the share `ratio` of the channels of every group."""
    options = {"taylor": {"data": sample}, "random": {"seed": seed}}.get(kind, {})
    return ku.simplify.prune_channels(model, X[:1], ratio, importance=kind, **options)


KINDS = ("taylor", "magnitude", "random")
ratios = (0.0625, 0.125, 0.25, 0.5)  # of 16 channels: 1, 2, 4, 8
third = tuple(part[::3] for part in held)
damage = torch.tensor(
    [
        [
            [accuracy(prune(bases[seed], ratio, kind, seed), third) for ratio in ratios]
            for kind in KINDS
        ]
        for seed in MORE_SEEDS
    ]
)  # (seeds, kinds, ratios)

# %% mystnb={"image": {"alt": "Held-out accuracy against the share of channels removed, without training. All fall steeply; the mean for Taylor stays above magnitude and random, with wide scatter between seeds; at half of the channels all three lie at 10 percent, the level of guessing."}, "figure": {"caption": "Channels removed, no training afterwards: means of the five base networks, one dot for each.", "name": "fig-layers-damage"}}
fig, ax = plt.subplots(figsize=(7, 3.0))
percent = 100 * torch.tensor(ratios)
for kind, scores in zip(KINDS, damage.transpose(0, 1), strict=True):  # (seeds, ratios)
    (line,) = ax.plot(percent, scores.mean(0), label=kind)
    ax.plot(percent, scores.T, "o", color=line.get_color(), alpha=0.5, markersize=4)
ax.legend()
ax.axhline(10, color="black", linewidth=1, linestyle="--")
ax.text(6, 12, "guessing", fontsize=9)
ax.set(xlabel="channels removed (%)", ylabel="held-out (%)", ylim=(0, 102))
plt.show()

# %% [markdown]
# The choice matters at first. For small cuts Taylor's networks keep more than random ones, in the
# mean of five; by how much, a claim below says. Magnitude lies little above chance. But the five
# scatter widely, so a single network would have shown whatever one hoped for. And look at the
# right end: half of the channels, which is what a fourfold saving takes, destroys the network
# whoever chooses. In a residual network this is harsher than in a chain, because each cut in the
# stream hits every block.
#
# ## Training again
#
# What is left is a starting point. We train it for five epochs by the same recipe. Against it stand
# four others of exactly the same size:
#
# - half of the channels cut in three rounds with a little training between them, five epochs in all
#   (**iterative** instead of one-shot);
# - **from scratch**, five epochs: fresh weights instead of inherited ones;
# - from scratch, thirteen epochs: as many as base and fine-tuning together had. This is the honest
#   control of all pruning {cite}`liu2019rethinking`. Whoever can train the large network can train
#   the small one as long.

# %% tolerance={"points": 0.6}
after = {}  # name -> points gained over the seed's base network, (3,)
for kind in KINDS:
    tuned = [train(prune(bases[s], 0.5, kind, s), s) for s in SEEDS]
    after[f"one-shot, {kind}"] = torch.tensor([accuracy(m) for m in tuned]) - base[:3]
half_cost = cost(tuned[0])
scores = []
for seed in SEEDS:
    model = bases[seed]
    for share, epochs in ((0.2, 1), (0.2, 1), (0.22, 3)):  # 16 → 13 → 10 → 8 channels
        model = train(prune(model, share, "magnitude"), seed, epochs)
    scores.append(accuracy(model))
after["iterative, magnitude"] = torch.tensor(scores) - base[:3]
same_size = cost(model)["macs"] == half_cost["macs"]
after["from scratch, 5 epochs"] = scratch[DEPTH, WIDTHS[1]] - base[:3]
longer = [accuracy(train(new(DEPTH, WIDTHS[1], s), s, BASE_EPOCHS + EPOCHS)) for s in SEEDS]
after["from scratch, 13 epochs"] = torch.tensor(longer) - base[:3]
ku.table({"half of the channels": after, "points": [f"{v.mean():+.1f}" for v in after.values()]})


# %% mystnb={"image": {"alt": "Six rows of three dots: points above or below the base network. The one-shot rows and the row from scratch with 13 epochs lie around zero; from scratch with 5 epochs lies clearly below."}, "figure": {"caption": "Half of the channels, a quarter of the operations: held-out accuracy minus that of the base network with the same seed. One dot per seed, the bar marks the mean.", "name": "fig-layers-after"}}
def dots(ax, groups: dict) -> None:
    """Draw one row of dots per group, with a bar at its mean and its name on the axis."""
    for row, values in enumerate(groups.values()):
        ax.plot(values, [row] * len(values), "o", alpha=0.7, markersize=7)
        ax.plot(values.mean(), row, "|", color="black", markersize=20, markeredgewidth=2)
    ax.set_yticks(range(len(groups)), list(groups))
    ax.set_ylim(len(groups) - 0.5, -0.5)


fig, ax = plt.subplots(figsize=(7, 2.8))
dots(ax, after)
ax.axvline(0, color="black", linewidth=1)
ax.set_xlabel("points above the base network")
plt.show()

# %% [markdown]
# Three surprises. The ways to choose, apart before training, end close together: a network with any
# half of its channels relearns what it needs, as others have found {cite}`mittal2018recovering`.
# Cutting in rounds gains nothing here: what it spends on the rounds is missing at the end. And the small network from scratch, given the same number of epochs
# in all, does as well. What pruning gives is a head start: five epochs suffice where a fresh network
# of the same size lags behind. That is worth having if the large network exists already. It is no
# reason to train a large one first.
#
# ## Removing layers
#
# A residual block whose input and output have the same shape can be taken out: the stream passes
# by. Which block is least missed? One cheap hint compares the stream before and after the block
# {cite}`men2024shortgpt`: a block that hardly turns it does little. Its **influence** is one minus
# the cosine between the two, averaged over images. Beside it stands the expensive truth: the
# accuracy without the block.


# %%
def without(model: nn.Sequential, blocks: list[int]) -> nn.Sequential:
    """Return a copy without these blocks. A copy: else training it would change the base too."""
    return nn.Sequential(*[copy.deepcopy(m) for i, m in enumerate(model) if i not in blocks])


@torch.no_grad()
def influence(model: nn.Sequential, x: torch.Tensor) -> dict[int, float]:
    """Return 1 - cosine of each removable block's input and output. x: (B, 1, 28, 28)."""
    found = {}
    for number, layer in enumerate(model):
        before, x = x, layer(x)  # (B, C, H, W)
        if isinstance(layer, ku.models.ResidualBlock) and x.shape == before.shape:
            cosine = F.cosine_similarity(before.flatten(1), x.flatten(1))  # (B,)
            found[number] = 1 - cosine.mean().item()
    return found


influences = [influence(model, sample[0]) for model in bases]
missed = [
    {number: base[s].item() - accuracy(without(bases[s], [number])) for number in influences[s]}
    for s in range(len(bases))
]

# %% mystnb={"image": {"alt": "Two panels over the five removable blocks, five dots each. Influence falls from the first to the last block of each stage. Points lost without the block scatter between 5 and 80 for four of the blocks and lie near zero for the last block of the second stage."}, "figure": {"caption": "Each removable block of the five base networks: its influence (left), and the points lost when it is taken out without training (right). Stage 1 works at 14 × 14 pixels, stage 2 at 7 × 7.", "name": "fig-layers-blocks"}}
places = [divmod(number - 3, DEPTH) for number in influences[0]]
names = [f"stage {stage + 1}, block {place + 1}" for stage, place in places]
fig, axes = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True)
for ax, found, label in zip(axes, (influences, missed), ("influence", "points lost"), strict=True):
    values = torch.tensor([list(each.values()) for each in found])  # (5 networks, 5 blocks)
    dots(ax, dict(zip(names, values.T, strict=True)))
    ax.set(xlabel=label, xlim=(0, None))
plt.show()

# %% [markdown]
# Blocks late in a stage turn the stream least. The very last one can go almost for nothing, even
# without training; the hint finds it in every network. For the others it is a hint only: blocks
# of equal influence cost very different amounts, and one network may lose five points where another
# loses sixty. What a block does is not only how far it turns the stream, but what the next one makes
# of the difference. Measuring the truth costs one pass over some images for each block, so for six
# blocks there is no reason to trust the hint; for the hundred layers of a large model there is.
#
# ## Layers times neurons
#
# Now the product that the essay asks for. From each of the five base networks we take the two
# blocks of least influence, then four tenths of the channels by magnitude, then train for eight
# epochs, as many as the base had. Beside it: four of the five removable blocks and no channels. And
# the negative control, the same cut without the training.

# %% tolerance={"ln_change": 0.2, "ln_lost_high": 0.3, "ln_control": 2, "ln_four": 0.3}
cut = []
for model, found in zip(bases, influences, strict=True):
    least = sorted(found, key=found.get)[:2]
    cut.append(prune(without(model, least), 0.4, "magnitude"))
factors = [base_cost["macs"] / cost(model)["macs"] for model in cut]
control = base - torch.tensor([accuracy(model) for model in cut])  # (5,) no training yet
for seed, model in enumerate(cut):
    train(model, seed, BASE_EPOCHS)
lost = base - torch.tensor([accuracy(model) for model in cut])  # (5,)
interval = stats.t.interval(0.95, len(lost) - 1, lost.mean().item(), stats.sem(lost.numpy()))
four = [without(m, sorted(f, key=f.get)[:4]) for m, f in zip(bases[:3], influences, strict=False)]
four_lost = base[:3] - torch.tensor([accuracy(train(m, s)) for s, m in enumerate(four)])
ku.glue(
    ln_change=f"{-lost.mean():+.1f}",
    ln_lost_high=f"{interval[1]:.1f}",
    ln_factor=f"{min(factors):.2f}",
)
ku.glue(ln_control=f"{control.mean():.0f}", ln_four=f"{four_lost.mean():.1f}")
ku.glue(ln_four_factor=f"{base_cost['macs'] / cost(four[0])['macs']:.1f}")

# %% [markdown]
# Two blocks and four tenths of the channels: {glue:text}`ln_factor` times fewer operations for
# {glue:text}`ln_change` points of accuracy. The interval comes from five paired
# differences, each between a base network and what was cut from it, on the same images. Pairing
# takes out what both share: the luck of the first weights and of these images. What remains is the
# effect of the cut and of a second training, and they cannot be told apart: eight more epochs would
# do the base some good too. The comparison that a user faces is the right one nevertheless, because
# the user has the base as it is. Without
# the training {glue:text}`ln_control` points are lost, which leaves a guess. Four blocks alone:
# {glue:text}`ln_four_factor` times fewer operations, {glue:text}`ln_four` points lost.

# %% tolerance={"points lost": 0.4, "±": 0.5}
halved, rust = prune(bases[0], 0.5, "magnitude"), ku.plots.PALETTE["rust"]
models = {  # name -> an example, points lost by each seed, place of the label in the figure
    "base": (bases[0], base - base, "center"),
    "half of the channels": (halved, -after["one-shot, magnitude"], "right"),
    "2 blocks, 0.4 of the channels": (cut[0], lost, "right"),
    "4 blocks": (four[0], four_lost, "left"),
}
costs = {name: cost(model) for name, (model, *_) in models.items()}
means = {name: values.mean().item() for name, (_, values, _) in models.items()}
table = {"model": models, "points lost": [f"{round(mean, 1) + 0:.1f}" for mean in means.values()]}
table["±"] = [f"{values.std():.1f}" for _, values, _ in models.values()]
for unit in ("parameters", "bytes", "macs"):
    table[unit.replace("macs", "MACs")] = [f"{c[unit]:,}" for c in costs.values()]
ku.table(table, caption="Accuracy (mean and spread over the seeds) and cost")

# %% mystnb={"image": {"alt": "Misread images against operations, both axes logarithmic. Networks from scratch fall from about 30 percent at a tenth of a million operations to 4 percent at 1.5 million. The pruned networks lie below that line, near the level of the base, at a third and a quarter of its operations."}, "figure": {"caption": "Held-out images misread against operations: networks from scratch after five epochs (gray), the base, and what was cut from it (diamonds); means over the seeds.", "name": "fig-layers-pareto"}}
fig, ax = plt.subplots()
points = sorted((counted[pair] / 1e6, 100 - scores.mean()) for pair, scores in scratch.items())
ax.plot(*zip(*points, strict=True), "o-", color=ku.plots.PALETTE["gray"])
ax.annotate("from scratch", points[0], xytext=(10, 0), textcoords="offset points", color="gray")
for name, (_, _, side) in models.items():
    at = costs[name]["macs"] / 1e6, (100 - base.mean() + means[name]).item()
    ax.plot(*at, "D", color=rust)
    ax.annotate(
        f"  {name}  ", at, ha=side, va="bottom" if side == "center" else "center", color=rust
    )
log_error(ax)
plt.show()

# %% [markdown]
# ## What the clock says
#
# Operations are a promise, time is what arrives. The next cell times the same four models, taking
# turns so that a busy moment of the machine falls on all of them: with one image at a time, as a
# device that waits for a person would work, and with 256, as a server would. The last column
# divides the gain in time by the gain in operations; 1 would mean that every operation saved was
# time saved. Each time is the median of forty, with its quartiles. For channel pruning of a ResNet-50 the library Torch-Pruning {cite}`fang2023depgraph`
# reports 3.85 times fewer operations and 2.19 times less time: a share of 0.57.

# %% tags=["nbval-ignore-output"]
rows = {}
for batch in (1, 256):
    timed = {name: (model, held[0][:batch]) for name, (model, *_) in models.items()}
    times = ku.simplify.latency(timed, repeats=40)
    for name in models:
        gain, saved = times["base"][1] / times[name][1], full_cost / costs[name]["macs"]
        low, middle, high = times[name]
        spread = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        rows[name, batch] = (batch, name, spread, f"{gain:.2f}", f"{gain / saved:.2f}")
names = ("batch", "model", "ms, median (quartiles)", "gain in time", "share of the saving")
ku.table(dict(zip(names, zip(*rows.values(), strict=True), strict=True)))

# %% [markdown]
# Blocks that are gone take their time with them, at any batch size. Channels do not: with one image
# the clock sees about a third of the saving, with 256 images more of it, unless the number of
# channels is awkward: the network with ten channels is slower than the one with eight, at the same
# operations. A vector register holds eight numbers, so ten channels cost what sixteen would.
# `prune_channels(…, round_to=8)` keeps to multiples.
#
# Where does the rest go? A profile by hand answers: hooks around every layer add up the time spent
# in each kind of layer, for the base and for its half.


# %% tags=["nbval-ignore-output"]
@torch.inference_mode()
def layer_times(model: nn.Module, x: torch.Tensor, repeats: int = 30) -> dict[str, float]:
    """Return kind of layer -> milliseconds a pass, measured by hooks around every layer."""
    spent, started, handles = {}, {}, []

    def before(layer, _):
        started[layer] = perf_counter()

    def after(layer, _, output):
        kind = type(layer).__name__
        spent[kind] = spent.get(kind, 0) + 1000 * (perf_counter() - started[layer]) / repeats

    for layer in model.eval().modules():
        if not list(layer.children()):
            handles += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    for _ in range(repeats):
        model(x)
    for handle in handles:
        handle.remove()
    return spent


spent = [layer_times(m, held[0][:batch]) for batch in (1, 256) for m in (bases[0], halved)]
table = {"layers": spent[0]}
heads = ("base, 1 image", "half, 1 image", "base, 256", "half, 256")
for head, found in zip(heads, spent, strict=True):
    table[f"{head} (ms)"] = [f"{found[kind]:.3f}" for kind in table["layers"]]
ku.table(table)

# %% [markdown]
# Convolutions are where the operations are, and with one image even they take more than half of
# their former time for a quarter of the work: each call has a fixed price (rearranging the image,
# starting the threads), and eight channels fill a vector register hardly better than none.
# Normalization and activation do not multiply channels with channels; at best they halve, and with
# one image they are all fixed price. So the share of a saving that arrives should grow with the
# work in each call, that is with width and batch. Latency does not depend on what a network has
# learned, so untrained networks can show it.

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Share of the saved operations that becomes time, against batch size, for networks of width 16, 32 and 64 with half of their channels. All lines rise with the batch and wider networks lie higher. A dashed line for removed blocks stays near 0.9."}, "figure": {"caption": "Gain in time divided by gain in operations: half of the channels at three widths (solid), and two blocks removed at width 16 (dashed). Untrained networks, measured in one interleaved run.", "name": "fig-layers-efficiency"}}
efficiency, batches = {}, (1, 4, 16, 64)
for width, batch in itertools.product((16, 32, 64), batches):
    big, small = (ku.models.small_resnet(2, w).to(device) for w in (width, width // 2))
    timed = {"big": big, "half": small, "fewer blocks": without(big, [4, 6])}
    gains = {name: cost(big)["macs"] / cost(model)["macs"] for name, model in timed.items()}
    timed = {name: (model, held[0][:batch]) for name, model in timed.items()}
    times = ku.simplify.latency(timed, repeats=30 if batch < 64 else 12)
    for name in ("half", "fewer blocks"):
        efficiency[name, width, batch] = times["big"][1] / times[name][1] / gains[name]
fig, ax = plt.subplots(figsize=(7, 3.0))
for width in (16, 32, 64):
    shown = [efficiency["half", width, batch] for batch in batches]
    ax.plot(batches, shown, "o-", label=f"half, width {width}")
shown = [efficiency["fewer blocks", 16, batch] for batch in batches]
ax.plot(batches, shown, "o--", color="black", label="fewer blocks")
ax.set(xscale="log", xlabel="images a batch", ylabel="share of the saving", ylim=(0, None))
ax.set_xticks(batches, batches)
ku.plots.label_lines(ax)
plt.show()

# %% [markdown]
# It does. The same cut that disappoints at width 16 and one image pays most of its due at width 64
# with a batch. The practical rule: for one image at a time on a small network remove layers; for
# wide networks and full batches remove channels too. MACs alone would not have told the two apart.
#
# ## Winning tickets
#
# Pruned networks can be fine-tuned. Can they also be trained from the beginning, if one knows which
# weights to keep? The lottery ticket hypothesis {cite}`frankle2019lottery` says: a large network
# contains a small one that, with its original first weights, trains as well as the whole. To find
# it: train, remove the smallest weights, put the others back to their early values, repeat. If that
# holds, most of a network's weights are needed only to find the few that work. Going back to the values after a short training instead of the very first ones is called **rewinding**
# and works for more networks {cite}`frankle2020linear`.
#
# This is about single weights again, so we use an MLP (784-300-100-10), whose layers a mask fits
# easily. Each round keeps three weights in ten. Two controls have exactly as many weights in each
# layer: the same early weights under a **random mask**, and the found mask with **fresh weights**. All
# three get the same images in the same order for as many epochs, so only the mask or only the weights
# differ. A mask is kept by starting the removed weights at zero and multiplying their gradients by
# zero.


# %%
def fit_masked(model: nn.Module, masks: list, seed: int, epochs: int) -> nn.Module:
    """Train only the weights under the masks: the others start at 0 and get no gradient."""
    with torch.no_grad():
        for p, mask in zip(model.parameters(), masks, strict=True):
            p.mul_(mask)
    pairs = zip(model.parameters(), masks, strict=True)
    hooks = [p.register_hook(lambda g, mask=mask: g * mask) for p, mask in pairs]
    adam = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
    ku.fit(model, (X, y), optimizer=adam, num_epochs=epochs, batch_size=64, seed=seed)
    for hook in hooks:
        hook.remove()
    return model


def smaller(model: nn.Module, masks: list, share: float = 0.3) -> list:
    """Return masks that keep the largest `share` of the weights kept so far, layer by layer."""
    found = []
    for p, mask in zip(model.parameters(), masks, strict=True):
        if p.ndim == 1:  # biases stay
            found.append(mask)
            continue
        size = p.detach().abs() * mask
        smallest = size.flatten().topk(round(share * mask.sum().item())).values[-1]
        found.append((size >= smallest).float())
    return found


def shuffled(masks: list, seed: int) -> list:
    generator = torch.Generator().manual_seed(seed)
    places = [torch.randperm(m.numel(), generator=generator).to(device) for m in masks]
    return [m.flatten()[at].view_as(m) for m, at in zip(masks, places, strict=True)]


# %%
TICKET_EPOCHS = ku.pick(laptop=10, full=4)
ways = ("ticket", "fresh weights", "random mask")
tickets = {way: torch.empty(3, 3) for way in ways}  # (seed, round), held-out accuracy
dense = torch.empty(3)
for seed in SEEDS:
    torch.manual_seed(seed)
    model = ku.models.mlp(784, 300, 100, 10).to(device)
    masks = [torch.ones_like(p) for p in model.parameters()]
    early = copy.deepcopy(fit_masked(model, masks, seed, 1))  # where rewinding goes back to
    dense[seed] = accuracy(fit_masked(model, masks, seed + 100, TICKET_EPOCHS))
    for turn in range(3):
        masks = smaller(model, masks)
        model = fit_masked(copy.deepcopy(early), masks, seed + 100, TICKET_EPOCHS)
        tickets["ticket"][seed, turn] = accuracy(model)
        mixed = fit_masked(copy.deepcopy(early), shuffled(masks, seed), seed + 100, TICKET_EPOCHS)
        tickets["random mask"][seed, turn] = accuracy(mixed)
        torch.manual_seed(seed + 50)
        fresh = ku.models.mlp(784, 300, 100, 10).to(device)
        fresh = fit_masked(fresh, masks, seed + 100, TICKET_EPOCHS + 1)
        tickets["fresh weights"][seed, turn] = accuracy(fresh)
density = sum(m.sum() for m in masks if m.ndim == 2) / sum(m.numel() for m in masks if m.ndim == 2)

# %% tolerance={"ln_dense": 0.6, "ln_ticket": 1.5} mystnb={"image": {"alt": "Held-out accuracy against weights kept: 30, 9 and 2.7 percent. The ticket stays near the dense network's dashed line down to 9 percent and falls a little after. Fresh weights under the same mask lie a few points lower, a random mask falls far below at 2.7 percent."}, "figure": {"caption": "An MLP with few weights: the ticket and its two controls, means of three seeds with one dot per seed. Dashed: the dense network.", "name": "fig-layers-tickets"}}
kept = [30, 9, 2.7]  # % of the weights
fig, ax = plt.subplots(figsize=(7, 3.0))
for way, scores in tickets.items():
    (line,) = ax.plot(kept, scores.mean(0), label=way)
    ax.plot(kept, scores.T, "o", color=line.get_color(), alpha=0.6, markersize=5)
ax.axhline(dense.mean(), color="black", linestyle="--", linewidth=1)
ax.set(xscale="log", xlabel="weights kept (%)", ylabel="held-out (%)")
ax.set_xticks(kept, kept)
ax.minorticks_off()
ax.invert_xaxis()
ku.plots.label_lines(ax)
plt.show()
ku.glue(ln_dense=f"{dense.mean():.1f}", ln_density=f"{100 * density:.1f}")
ku.glue(ln_ticket=f"{tickets['ticket'][:, -1].mean():.1f}")
dark = (X.flatten(1).amax(0) == 0).float()  # (784,) pixels that no training image inks
on_dark = (masks[0] * dark).sum() / masks[0].sum()  # the last seed's ticket, first layer
ku.glue(ln_dark=f"{100 * dark.mean():.0f}", ln_on_dark=f"{100 * on_dark:.0f}")

# %% [markdown]
# The dense MLP reads {glue:text}`ln_dense` %. At {glue:text}`ln_density` % of its weights the ticket
# reads {glue:text}`ln_ticket` %. The found mask with fresh weights stays some points behind, the
# random mask many. So both matter, the weights and, more, the mask. Part of
# what the mask knows is simple: {glue:text}`ln_dark` % of the pixels are black in all training images,
# and a random mask spends as large a share of its first weights on them. The ticket spends
# {glue:text}`ln_on_dark` %. The price is on the other side of the ledger. Finding the last ticket
# took four trainings, and its zeros save no time on this machine.
#
# ## Where it fails
#
# Cut too far, and the average hides who pays. We remove 85 % of the channels, which leaves two of
# sixteen, train as before, and look at each digit alone.

# %% tolerance={"ln_far_factor": 0.1, "ln_far": 8, "ln_worst": 20} mystnb={"image": {"alt": "Points lost per digit after removing 85 percent of the channels, three dots per digit and a bar at their mean. One loses next to nothing, eight and five lose most, in one network more than seventy points."}, "figure": {"caption": "Points lost by each digit, 85 % of the channels removed and five epochs of training; one dot per seed, the bar marks the mean.", "name": "fig-layers-digits-lost"}}
by_digit = [tuple(part[held[1] == digit] for part in held) for digit in range(10)]


def per_digit(model: nn.Module) -> torch.Tensor:
    return torch.tensor([100 * ku.evaluate(model, part)["score"] for part in by_digit])  # (10,)


far = [train(prune(bases[seed], 0.85, "magnitude"), seed) for seed in SEEDS]
pairs = zip(bases[:3], far, strict=True)
fall = torch.stack([per_digit(before) - per_digit(after) for before, after in pairs])  # (3, 10)
worst = fall.amax(1)  # (3,)
fig, ax = plt.subplots(figsize=(7, 2.8))
ax.plot(range(10), fall.T, "o", color=ku.plots.PALETTE["rust"], alpha=0.6)
ax.plot(range(10), fall.mean(0), "_", color="black", markersize=22, markeredgewidth=2)
ax.set(xlabel="digit", ylabel="points lost", xticks=range(10))
plt.show()
ku.glue(ln_far=f"{fall.mean():.0f}", ln_worst=f"{worst.mean():.0f}")
ku.glue(ln_far_factor=f"{base_cost['macs'] / cost(far[0])['macs']:.0f}")

# %% [markdown]
# With {glue:text}`ln_far_factor` times fewer operations the networks lose {glue:text}`ln_far` points
# on average, but {glue:text}`ln_worst` on the digit that suffers most. Some digits hardly notice. A
# small network spends its few channels where they help the total, and nothing in its loss asks who
# pays. If the groups were people instead of digits, this would be a question of fairness, and it has been
# found there {cite}`hooker2020characterising`: report each group, not the mean.
#
# **Strengths.** Cut channels and blocks give ordinary smaller networks that every library runs;
# a few epochs bring the accuracy back. **Limits.** Easy images, small networks, one kind of
# processor; the factors will differ elsewhere, and comparisons between papers are known to be shaky
# {cite}`blalock2020pruning`. Fine-tuning needs the training data. **When not to use it.** When no
# large network exists yet: train a small one as long. When a model is used for groups of people
# and there is no test set for each. **Software.** Torch-Pruning {cite}`fang2023depgraph` cuts many
# more architectures than `ku.simplify`; `torch.nn.utils.prune` sets masks, which remove nothing.
#
# ## Claims
#
# Fourfold, half a point and the one point for the interval's upper end were the goal before
# anything was trained. The control is the same cut without the training.

# %%
text = "times fewer multiply-accumulates, smallest of five networks with fewer layers and neurons"
ku.claim(text, min(factors), at_least=4)
text = "points of accuracy these five networks lose after eight epochs of training, mean"
ku.claim(text, lost.mean(), at_most=0.5, role="headline", rests_on=("ln_change",))
text = "points they lose, upper end of the 95 % interval of the paired differences"
ku.claim(text, interval[1], at_most=1.0)
text = "points lost by the same cut without the training, mean of five"
ku.claim(text, control.mean(), at_least=50, role="control", rests_on=("ln_control",))
gain = (damage[:, 0, :3] - damage[:, 2, :3]).mean()  # 1, 2 and 4 channels of 16
text = "points by which Taylor beats random channels before any training, mean of three small cuts"
ku.claim(text, gain, at_least=3)
worse = -after["one-shot, random"].mean()
ku.claim("points lost with a random half of the channels, after training", worse, at_most=1.5)
head_start = (after["one-shot, magnitude"] - after["from scratch, 5 epochs"]).mean()
text = "points by which five epochs of fine-tuning beat five epochs from scratch, same size"
ku.claim(text, head_start, at_least=0.2)
honest = (after["one-shot, magnitude"] - after["from scratch, 13 epochs"]).mean()
text = "points by which base and fine-tuning beat the same small network trained as long, at most"
ku.claim(text, honest, at_most=1.0)
text = "one-shot and iterative pruning end in networks of the same number of operations"
ku.claim(text, same_size)

# %%
text = "removing channels by hand, by ku.simplify and by a mask: largest difference of an output"
ku.claim(text, max(by_hand, from_mask), at_most=1e-5)
text = "the MACs of each network of the grid, counted by hand and by PyTorch: largest difference"
ku.claim(text, max(errors), at_most=0)
text = "nine tenths of the weights set to zero: length of the file divided by what it was"
ku.claim(text, len(files[1]) / len(files[0]), between=(1, 1))
ku.claim("and the time of the dense network divided by its own", zeros_gain, between=(0.6, 1.6))
text = "fewer blocks, width 16, one image: gain in time divided by gain in operations"
ku.claim(text, efficiency["fewer blocks", 16, 1], at_least=0.6)
contrast = efficiency["fewer blocks", 16, 1] / efficiency["half", 16, 1]
text = "there a saved operation buys this many times as much time by layers as by channels"
ku.claim(text, contrast, at_least=1.4)
arrives = efficiency["half", 64, 64] / efficiency["half", 16, 1]
text = "half of the channels: share of the saving that becomes time, width 64 and 64 images against"
ku.claim(f"{text} width 16 and one image (ratio)", arrives, at_least=1.5)
ahead = (tickets["ticket"] - tickets["random mask"])[:, -1].mean()
text = "points by which the ticket with 2.7 % of the weights beats a random mask, mean of three"
ku.claim(text, ahead, at_least=3)
luck = (tickets["ticket"] - tickets["fresh weights"])[:, -1].mean()
ku.claim("points by which it beats its own mask with fresh weights", luck, at_least=1)
text = "85 % of the channels gone: points the worst digit loses, as multiple of the mean loss"
ku.claim(text, (worst / fall.mean(1)).mean(), at_least=2)

# %% [markdown]
# ## Exercises
#
# **1. Ask for a saving.** A device allows a quarter of the operations. Write the function that turns
# the wanted saving (2, 4 or 8 times fewer MACs) into the share of channels to remove. The stub
# believes the essay's formula.


# %% tags=["exercise"]
def check_ratio(ratio_for) -> dict:
    """ratio_for(saving) -> share of channels to remove; compare with what pruning really saves."""
    misses = []
    for saving in (2, 4, 8):
        small = prune(bases[0], ratio_for(saving), "magnitude")
        misses.append(abs(base_cost["macs"] / cost(small)["macs"] / saving - 1))
    sentence = "the network saves what was asked for: largest miss as a share of it"
    return {"sentence": sentence, "value": max(misses), "at_most": 0.15}


def my_ratio(saving):
    return 1 - 1 / saving


ku.attempt(**check_ratio(my_ratio))


# %% tags=["solution", "hide-cell"]
def ratio_for(saving):
    return 1 - saving**-0.5  # neurons count twice


ku.claim(**check_ratio(ratio_for), role="solution")

# %% [markdown]
# **2. Fold the batch norm.** In evaluation mode a batch norm multiplies each channel by a number and
# adds another, so it can disappear into the convolution before it: a layer less without losing
# anything. Write `fold(conv, norm)`, which returns one convolution with a bias.


# %% tags=["exercise"]
def check_fold(fold) -> dict:
    """Compare the folded convolution with the two layers of a trained network."""
    conv, norm = copy.deepcopy(bases[0][0]), copy.deepcopy(bases[0][1]).eval()
    x = held[0][:100]  # (100, 1, 28, 28)
    with torch.no_grad():
        gap = (fold(conv, norm)(x) - norm(conv(x))).abs().max()
    sentence = (
        "one convolution computes what convolution and batch norm compute: largest difference"
    )
    return {"sentence": sentence, "value": gap, "at_most": 1e-4}


def my_fold(conv, norm):
    return conv  # forgets the norm


ku.attempt(**check_fold(my_fold))


# %% tags=["solution", "hide-cell"]
def fold(conv, norm):
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()  # (C,)
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, 3, conv.stride, conv.padding).to(device)
    folded.weight.data = conv.weight * factor[:, None, None, None]  # (C, C', k, k)
    folded.bias.data = norm.bias - norm.running_mean * factor  # (C,)
    return folded


ku.claim(**check_fold(fold), role="solution")

# %% [markdown]
# **3. Two thin layers for a thick one.** A third way to remove neurons: replace an affine layer by
# two, with `rank` numbers between them. The best choice comes from the singular value
# decomposition, and its error is known beforehand: the root of the sum of the squared singular
# values that were dropped. Write `factor(layer, rank)`.


# %% tags=["exercise"]
def check_factor(factor, rank: int = 20) -> dict:
    """Compare with the smallest error that any two layers of this rank can have."""
    layer = model[1]  # the first affine layer of the last ticket, 784 -> 300
    with torch.no_grad():
        thin = factor(layer, rank)
        rows = torch.eye(784).to(device)
        error = (thin(rows) - layer(rows)).norm()  # the same bias in every row drops out
        best = torch.linalg.svdvals(layer.weight)[rank:].norm()
    count = sum(p.numel() for p in thin.parameters())
    excess = error / best - 1 if count < 0.2 * layer.weight.numel() else math.inf
    sentence = "the two thin layers reach the smallest possible error: excess as a share of it"
    return {"sentence": sentence, "value": excess, "at_most": 1e-3}


def my_factor(layer, rank):
    first, second = nn.Linear(784, rank, bias=False), nn.Linear(rank, 300)  # random weights
    return nn.Sequential(first, second).to(device)


ku.attempt(**check_factor(my_factor))


# %% tags=["solution", "hide-cell"]
def factor(layer, rank):
    U, S, Vh = torch.linalg.svd(layer.weight.detach(), full_matrices=False)  # (300, 300), …
    first, second = nn.Linear(784, rank, bias=False), nn.Linear(rank, 300)
    first.weight.data = S[:rank, None] * Vh[:rank]  # (rank, 784)
    second.weight.data, second.bias.data = U[:, :rank].contiguous(), layer.bias.detach()
    return nn.Sequential(first, second).to(device)


ku.claim(**check_factor(factor), role="solution")

# %% [markdown]
# ## References
#
# The entries cited on this page are in the book's [references](../../book/references.md).
