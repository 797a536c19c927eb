# %% [markdown]
# # Fewer layers, fewer neurons
#
# **How much of a trained network can be taken away before it gets worse, and does the clock notice?**
#
# Two of six residual blocks and four tenths of the channels can go. The network then does
# {glue:text}`ln_factor` times fewer multiplications, and after five more passes over the training
# images its accuracy has moved by {glue:text}`ln_change` points (mean of five networks; 95 % interval
# {glue:text}`ln_change_low` to {glue:text}`ln_change_high`). Without those passes it loses
# {glue:text}`ln_control` points. But the same small network with fresh weights, trained for as many
# passes in all, does no worse: {glue:text}`ln_fresh` points against the base
# ({glue:text}`ln_fresh_low` to {glue:text}`ln_fresh_high`), {glue:text}`ln_ahead_both` against the
# pruned one. Pruning is a use for a large network that
# one has, and no reason to train one. And the clock: with one image at a time, removing four blocks saves
# {glue:text}`ln_time_four_1` % of the time that the removed operations stand for, halving the
# channels {glue:text}`ln_time_half_1` %.
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
# **Costs:** about four minutes and less than 2 GiB on two CPU cores. The full profile (70,000
# digits, twice the width) wants one GPU.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 文档 000 把模型简化写成“基础模型 × 层数缩减 × 神经元缩减”。本章把它变成真正可以相乘的量：参数量、字节数、乘加次数和实测延迟。
# 先用不同深度和宽度的小型残差网络验证这个乘积，再把训练好的网络变小：权重置零、按通道剪枝、整块删除。
# 通道是真正删掉的，得到的是普通的小网络。删掉两个残差块和四成通道，再微调五轮，五个随机种子的平均准确率几乎不变；不微调则完全失败。
# 但是，结构相同、从头训练、总轮数相同的小网络并不差，三组对照中平均都略好：剪枝只对已有的大网络有用，并不是先训练大网络的理由。
# 单张图像时，删块能省下被删运算所占时间的大部分，通道减半只省下不到一半；若按“时间倍数除以运算倍数”计，主要网络没有达到本章预定的 0.7。压缩过度时，损失集中在少数几个数字上，从头训练的小网络也是如此。
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
# of 28 × 28 pixels, CC BY-SA 3.0. Networks learn from the training part, and which blocks and
# channels go is decided on training images too. Validation and test part together serve as
# **held-out** images, {glue:text}`ln_held` of them, and every accuracy below is measured there. The
# sizes of the cuts and the number of epochs were settled while the chapter was written, with
# held-out numbers in view: read differences of a few tenths of a point with that in mind. Shapes
# are written `# (B, C, H, W)`: batch, channels, height, width.

# %% mystnb={"image": {"alt": "Two rows of ten handwritten digits, 0 to 9. The lower row shows the same digits slightly turned, scaled and shifted."}, "figure": {"caption": "Ten training images (top) and what the network sees of them in one epoch (bottom).", "name": "fig-layers-digits"}}
digits = ku.data.mnist()
X, y = (part.to(device) for part in digits.train)  # (N, 1, 28, 28), (N,)
held = tuple(torch.cat(p).to(device) for p in zip(digits.valid, digits.test, strict=True))
order = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
judges = order[: 100 if ku.rehearsal_steps() else 1000]
sample = X[judges], y[judges]  # training images on which channels and blocks are judged
ku.glue(ln_train=f"{len(X):,}", ln_held=f"{len(held[0]):,}", ln_image=f"{100 / len(held[0]):.2f}")
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
# recognizes a thousand kinds of animals. The mechanisms carry over, the factors do not. In the
# 5,000 images that come with the book the same writers occur in all parts. And a single image is
# {glue:text}`ln_image` points, so a tenth of a point is one or two images.
#
# ## The dumbest small model
#
# The smallest model that deserves the name keeps one mean image for each digit and answers the
# nearest. It holds 7,840 numbers and needs as many multiplications an image.
#
# It reads {glue:text}`ln_nearest` % of the held-out images. A network that multiplies more should
# beat that.
#
# ## Units
#
# "Simpler" needs a unit, and there are four:
#
# - **parameters**, the numbers that training sets;
# - **bytes** of the saved file, with the running statistics of batch norms;
# - **multiply-accumulates** (MACs) of one forward pass on one image: a product and the addition
#   that takes it into a sum count as one; convolutions and affine layers are counted, batch norms,
#   activations and residual sums are not;
# - **latency**, the time of that pass on this machine.
#
# They do not agree with one another. A convolution has few parameters and uses each of them often;
# an affine layer has many and uses each once. The first three can be counted by hand. A
# convolution with $C_\text{in}$ input channels,
# $C_\text{out}$ filters of $k \times k$ weights and an output of $H \times W$ pixels has
# $C_\text{out} C_\text{in} k^2$ weights, and uses each of them once for every output pixel:
#
# $$\text{MACs} = H\,W\,C_\text{out}\,C_\text{in}\,k^2.$$
#
# Our network is a small residual one {cite}`he2016resnet`: a strided convolution, two stages of
# `depth` blocks each, at 14 × 14 pixels with `width` channels and at 7 × 7 with twice as many, and
# an affine layer on the mean of each channel. A block computes $\text{ReLU}(x + f(x))$ with two
# convolutions in $f$. The tensor $x$ that runs along a stage, from block to block, is the stage's
# **stream**. We count operations by hand and let `ku.simplify.cost` count them with PyTorch's flop
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
columns = {"depth": [d for d, _ in grid], "width": [w for _, w in grid]}
columns["MACs, counted"] = [f"{counted[pair]:,}" for pair in grid]
columns["base × layers × neurons²"] = [f"{product[pair]:,.0f}" for pair in grid]
ku.table(columns, caption="The product against the count")

half = cost(ku.models.small_resnet(1, WIDTH // 2).to(device))["macs"]
whole = cost(ku.models.small_resnet(2, WIDTH).to(device))["macs"]
printed = r"$\text{Base} \times \text{Layer Reduction} \times \text{Neuron Reduction}$"
erratum, mended = ku.errata("000 §4.2", printed, r"$\text{Base} \times d \times w^2$")
says = "half of the layers and half of the neurons: the product of both shares is 0.25, yet the"
says += " network keeps this share of its multiply-accumulates"
erratum(says, half / whole, at_most=0.15)
largest_miss = max(abs(product[pair] / counted[pair] - 1) for pair in grid)
says = "with the neurons' share squared, the product misses the count by at most this share"
mended(f"{says} (all networks of the table)", largest_miss, at_most=0.2)

# %% [markdown]
# Half the layers and half the neurons leave an eighth of the work, not a quarter. What the product
# misses sits at the edges: the one input channel and the step between the stages. A small cut saves
# nearly twice as many operations in the neurons as in the layers: a tenth of the neurons saves 19 %
# of the MACs, a tenth of the layers 10 %. Whether time follows is another question, and its
# answer further down is not the same.
#
# ## A base, and small networks beside it
#
# What does each reduction cost in accuracy? Every network here gets the same recipe: AdamW, a
# learning rate that rises and falls once, labels smoothed by 0.1, batches of 128, images warped anew
# in every epoch, five epochs. The **base**, the largest network, gets five seeds, because all that follows
# starts from these five; the smaller networks of the table get three. A seed sets the first weights
# and the order of the images. Between two architectures only the order is shared.


# %%
EPOCHS, BATCH = 5, 64 if ku.rehearsal_steps() else ku.pick(laptop=128, full=512)


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


@torch.inference_mode()
def reads(*models: nn.Module, data=held) -> torch.Tensor:
    """Return 100 for each image that a model reads right, 0 for the others: (models, images)."""
    answers = [torch.cat([model(x).argmax(1) for x in data[0].split(500)]) for model in models]
    return 100.0 * (torch.stack(answers) == data[1]).float().cpu()


MORE_SEEDS, SEEDS = ((0, 1), (0, 1)) if ku.rehearsal_steps() else ((0, 1, 2, 3, 4), (0, 1, 2))
bases = [train(new(DEPTH, WIDTH, seed), seed) for seed in MORE_SEEDS]
base = reads(*bases)  # (5, N)
base_cost = cost(bases[0])
scratch = {}  # (depth, width) -> what three networks from scratch read, (3, N)
for pair in grid[:-1]:
    scratch[pair] = reads(*(train(new(*pair, seed), seed) for seed in SEEDS))


# %% tolerance={"ln_base": 0.4, "ln_narrow": 0.7, "ln_flat": 0.6, "ln_smallest": 8} mystnb={"image": {"alt": "Misread images in percent against multiply-accumulates, both axes logarithmic: one line for depth 1, one for depth 3, three dots per network, and a diamond for the base at the lower right. The error falls as operations grow, steeply at first."}, "figure": {"caption": "Held-out images misread against operations, all networks after five epochs: one dot per seed, lines through the means; the base (diamond) is the mean of five.", "name": "fig-layers-grid"}}
fig, ax = plt.subplots(figsize=(5.6, 3.8))
for depth, side in zip(DEPTHS, (1, -1), strict=True):
    widths = [width for width in WIDTHS if (depth, width) in scratch]
    macs = [counted[depth, width] / 1e6 for width in widths]
    misread = 100 - torch.stack([scratch[depth, width].mean(1) for width in widths])  # (widths, 3)
    (line,) = ax.plot(macs, misread.mean(1))
    ax.plot(macs, misread, "o", color=line.get_color(), alpha=0.6, markersize=5)
    for at, error, width in zip(macs, misread.mean(1), widths, strict=True):
        label = f"depth {depth}, width {width}"
        ax.annotate(label, (at, error), xytext=(side * 9, side * 9 - 4), textcoords="offset points",
                    color=line.get_color(), ha="left" if side > 0 else "right")  # fmt: skip
ax.plot(full_cost / 1e6, 100 - base.mean(), "D", color=ku.plots.PALETTE["indigo"])
ax.annotate("base", (full_cost / 1e6, 100 - base.mean()), xytext=(0, 9), ha="center",
            textcoords="offset points", color=ku.plots.PALETTE["indigo"])  # fmt: skip
ax.set(xscale="log", yscale="log", xlabel="multiply-accumulates an image (millions)")
ax.set(ylabel="held-out images misread (%)")
ax.set_xticks([0.1, 0.3, 1, 3], [0.1, 0.3, 1, 3])
ax.set_yticks([2, 3, 5, 10, 20, 40], [2, 3, 5, 10, 20, 40])
ax.minorticks_off()
ax.margins(x=0.3, y=0.15)
plt.show()
named = {"narrow": (DEPTH, WIDTHS[1]), "flat": (1, WIDTH), "smallest": grid[0]}
ku.glue(**{f"ln_{name}": f"{scratch[pair].mean():.1f}" for name, pair in named.items()})
ku.glue(ln_base=f"{base.mean():.1f}", ln_base_macs=f"{base_cost['macs'] / 1e6:.1f}")
ku.glue(ln_base_size=f"{base_cost['parameters']:,}", ln_times=f"{counted[grid[0]] / 7840:.0f}")

# %% [markdown]
# The base reads {glue:text}`ln_base` %, with {glue:text}`ln_base_size` parameters and
# {glue:text}`ln_base_macs` million MACs an image. A third of its layers reads
# {glue:text}`ln_flat` %, half of its neurons {glue:text}`ln_narrow` %, all after the same five epochs:
# at the right a factor of three or four in operations costs about a point; further left the next
# factor costs much more. The smallest network reads {glue:text}`ln_smallest` % with
# {glue:text}`ln_times` times the multiplications of the mean images, whose
# {glue:text}`ln_nearest` % it does not reach. Who finds a good small network more cheaply, one that
# starts from nothing, or a large one that is made smaller?
#
# ## Zeros save nothing
#
# The plainest way to prune is to set the smallest weights to zero {cite}`han2015learning`: choose a
# threshold, keep what is larger. (Pruning began with a better score, from second derivatives
# {cite}`lecun1990obd`.) We do it to all convolutions and the affine layer at
# once, without any training afterwards.


# %% tolerance={"ln_zeros_best": 1.2, "ln_zeros_worst": 8, "ln_zeros_most": 12, "ln_zipped": 2} mystnb={"image": {"alt": "Held-out accuracy against the share of weights set to zero, one line per base network. The lines stay high up to about half of the weights, one falling earlier than the others, and end near the level of guessing at 90 percent."}, "figure": {"caption": "The smallest weights set to zero, no training afterwards; one line per base network. Dashed: guessing.", "name": "fig-layers-zeros"}}
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
zeroed = torch.stack([reads(*(with_zeros(m, s.item()) for m in bases)).mean(1) for s in shares])
sparse_model = with_zeros(bases[0], 0.9)
files = [save(model.state_dict()) for model in (bases[0], sparse_model)]
zipped = len(zlib.compress(files[1])) / len(files[0])
price = base.mean(1) - zeroed[2]  # (5,) half of the weights
ku.glue(ln_zeros_best=f"{price.min():.1f}", ln_zeros_worst=f"{price.max():.1f}")
ku.glue(ln_zeros_most=f"{zeroed[-1].mean():.0f}", ln_zipped=f"{100 * zipped:.0f}")
fig, ax = plt.subplots(figsize=(5.6, 3.2))
ax.plot(100 * shares, zeroed, "o-", color=ku.plots.PALETTE["teal"], alpha=0.7)
ax.axhline(10, color="black", linewidth=1, linestyle="--")
ax.set(xlabel="weights set to zero (%)", ylabel="held-out accuracy (%)", ylim=(0, 102))
plt.show()

# %% [markdown]
# Setting half of the weights to zero costs {glue:text}`ln_zeros_best` points in the network that
# bears it best and {glue:text}`ln_zeros_worst` in the one that bears it worst. With nine tenths set to
# zero the accuracy is {glue:text}`ln_zeros_most` %, about as good as guessing; with training in
# between it would be far more, as the tickets below show. But what is saved? A dense convolution
# multiplies by zero as patiently as by anything else, and a file of zeros is as long as any other.
# Compressed, it takes {glue:text}`ln_zipped` % of the space, so zeros help a download. For speed one
# needs a format that stores only the nonzero weights, and code that skips the rest. We time both:
# the network with nine tenths of zeros beside the one without, and a random 300 × 784 matrix, the
# size of an affine layer, as a dense and as a sparse one (`scipy.sparse`).

# %% tags=["nbval-ignore-output"]
inputs = held[0][:64]
times = ku.simplify.latency({"dense": (bases[0], inputs), "zeros": (sparse_model, inputs)}, 20)
zeros_gain = times["dense"][1] / times["zeros"][1]
ku.glue(ln_zeros_gain=f"{zeros_gain:.2f}")
matrix, vectors = torch.randn(300, 784).numpy(), torch.randn(784, 64).numpy()
densities = (0.5, 0.2, 0.1, 0.05, 0.02)
rng = np.random.default_rng(0)
thin = [sparse.csr_matrix(matrix * (rng.random(matrix.shape) < density)) for density in densities]
calls = {"dense": (lambda _: matrix @ vectors, inputs)}
for density, m in zip(densities, thin, strict=True):
    calls[density] = (lambda _, m=m: m @ vectors, inputs)
times = ku.simplify.latency(calls, repeats=15)
columns = {"weights kept (%)": [f"{100 * density:.0f}" for density in densities]}
columns["sparse (ms)"] = [f"{times[density][1]:.2f}" for density in densities]
columns["dense (ms)"] = [f"{times['dense'][1]:.2f}"] * len(densities)
ku.table(columns, caption="A random 300 × 784 matrix times 64 vectors, medians on two threads")

# %% [markdown]
# The network with zeros is {glue:text}`ln_zeros_gain` times as fast as the one without, which is no
# gain. The sparse matrix wins only when few weights in a hundred are left: jumping from one weight
# to the next costs more than a multiplication, and dense code does eight of those at a time. What
# pays on this hardware is to remove whole rows, so that what remains is dense again.
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
example = torch.randn(5, 3, 12, 12)  # (B, C, H, W)
keep = chain[0].weight.detach().flatten(1).norm(dim=1).topk(5).indices.sort().values  # (5,)
short = ku.simplify.prune_channels(chain, example, ratio=3 / 8, importance="magnitude").eval()
with torch.no_grad():
    by_hand = (cut_by_hand(chain.eval(), keep)(example) - short(example)).abs().max()
    masked = copy.deepcopy(chain).eval()
    masked[3].weight[:, [c for c in range(8) if c not in keep]] = 0  # nobody reads these channels
    from_mask = (masked(example) - short(example)).abs().max()

# %% [markdown]
# `ku.simplify.prune_channels` gives the same, and both give what the whole chain gives when nobody
# reads the removed channels. The result is an ordinary module.
#
# With residual connections the indexing gets harder. The sum $x + f(x)$ adds channel 5 of one layer
# to channel 5 of another. If one of them loses channel 5, all must: every layer that writes into
# the sum and every layer that reads from it. Such a **group** can only be cut as a whole
# {cite}`fang2023depgraph`. `ku.simplify` finds the groups by tracing the network once with an
# example.

# %%
kinds = {False: "inside one block", True: "stream of a stage"}
how_many = {}  # what a group looks like -> number of such groups
for group in ku.simplify.channel_groups(bases[0], X[:1]):
    layers = [bases[0].get_submodule(part.layer) for part in group.outputs]
    writers = sum(isinstance(layer, nn.Conv2d) for layer in layers)
    readers = sum(part.dim == 1 for part in group.parts)
    key = (kinds[writers > 1], group.channels, writers, readers)
    how_many[key] = how_many.get(key, 0) + 1
heads = ("group", "channels", "convolutions that write", "layers that read")
columns = dict(zip(heads, zip(*how_many, strict=True), strict=True))
columns["how many"] = how_many.values()
ku.table(columns, caption="Groups of channels that can only be removed together")

# %% [markdown]
# Inside each block there is a group of its own: one convolution writes it, the next reads it. The
# two streams are written and read by many layers at once: whoever takes a channel from a stream
# takes it from every block of the stage.
#
# **Which channels?** Three answers, from careful to careless:
#
# - **Taylor** {cite}`molchanov2019importance`: what would the loss lose if the channel were zero? To
#   first order the change is the gradient times the weights (the first term of the loss's Taylor series at
#   the present weights, for a step that takes these weights to zero), summed over the channel and
#   squared:
#   $I_c = \big(\sum_{w \in c} \tfrac{\partial L}{\partial w}\, w\big)^2$, summed over batches of
#   training images.
# - **Magnitude**: the length of the filter's weights, $\lVert w_c \rVert$ ({cite}`li2017pruning` add
#   up their absolute values instead). Needs no data.
# - **Random**: the control.
#
# A channel of a stream has several writers. Then $w_c$ joins the filters of all of them, and the
# Taylor sum runs over all of them.
#
# First without any training afterwards: how fast does the accuracy fall? Every third held-out image
# is enough to see it.


# %% tolerance={"ln_taylor": 20, "ln_magnitude": 20}
def prune(model: nn.Module, ratio: float, kind: str, seed: int = 0) -> nn.Module:
    """Return a copy without the share `ratio` of the channels of every group."""
    options = {"taylor": {"data": sample}, "random": {"seed": seed}}.get(kind, {})
    return ku.simplify.prune_channels(model, X[:1], ratio, importance=kind, **options)


KINDS = ("taylor", "magnitude", "random")
ratios = (0.0625, 0.125, 0.25, 0.5)  # of 16 channels: 1, 2, 4, 8
third = tuple(part[::3] for part in held)
draws = {"taylor": 1, "magnitude": 1, "random": 5}  # chance is tried five times on each network
damage = torch.empty(len(KINDS), len(MORE_SEEDS), len(ratios))  # accuracy after the cut
for (k, kind), seed in itertools.product(enumerate(KINDS), MORE_SEEDS):
    tries = itertools.product(range(draws[kind]), ratios)
    cuts = [prune(bases[seed], ratio, kind, draw) for draw, ratio in tries]
    damage[k, seed] = reads(*cuts, data=third).mean(1).view(-1, len(ratios)).mean(0)
small_cuts = damage[:, :, :3].mean(2)  # (kinds, seeds): 1, 2 and 4 channels of 16
ahead = small_cuts - small_cuts[2]  # of random
half_width = stats.t.ppf(0.975, len(MORE_SEEDS) - 1) * stats.sem(ahead[:2], axis=1)  # (2,)
for k, kind in enumerate(KINDS[:2]):
    ku.glue(**{f"ln_{kind}": f"{ahead[k].mean():.0f} ± {half_width[k]:.0f}"})

# %% mystnb={"image": {"alt": "Held-out accuracy against the share of channels removed, without training: three lines for Taylor, magnitude and random channels, five dots each. All fall steeply, the dots scatter widely, and at half of the channels all lie near the dashed line of guessing."}, "figure": {"caption": "Channels removed, no training afterwards: means of the five base networks, one dot for each (random: the mean of five draws).", "name": "fig-layers-damage"}}
fig, ax = plt.subplots(figsize=(5.6, 3.6))
percent = 100 * torch.tensor(ratios)
for kind, scores in zip(KINDS, damage, strict=True):  # (seeds, ratios)
    (line,) = ax.plot(percent, scores.mean(0), label=kind)
    ax.plot(percent, scores.T, "o", color=line.get_color(), alpha=0.5, markersize=4)
ax.legend()
ax.axhline(10, color="black", linewidth=1, linestyle="--")
ax.text(6, 12, "guessing")
ax.set(xlabel="channels removed (%)", ylabel="held-out accuracy (%)", ylim=(0, 102))
plt.show()

# %% [markdown]
# The choice matters at first, though less surely than one would like. Over the three small cuts
# Taylor's networks keep {glue:text}`ln_taylor` points more than random ones, magnitude's
# {glue:text}`ln_magnitude` (mean of five networks, ± half a 95 % interval over them); at a quarter of
# the channels Taylor is no longer ahead of magnitude. The networks scatter so widely that a single one would
# have shown whatever one hoped for. And look at the right end: half of the channels, which is what a
# fourfold saving takes, destroys the network whoever chooses.
#
# ## Training again
#
# What is left is a starting point. We train it for five epochs by the same recipe. (A smaller peak of
# the learning rate is usual for fine-tuning. On 700 training images set aside, a third of this peak
# did no better and a tenth worse.) Three ways to choose the channels, and beside them networks of
# exactly the same size:
#
# - the same half cut in three rounds with an epoch between them (**iterative** instead of one-shot);
# - **from scratch**, five epochs: fresh weights instead of inherited ones;
# - two epochs instead of five, for inherited and for fresh weights;
# - from scratch, ten epochs: as many as base and fine-tuning together had. This is the honest
#   control of all pruning {cite}`liu2019rethinking`. Whoever can train the large network can train
#   the small one as long.
#
# Everything is compared with the base of the same seed, image by image: the **gain** is the mean
# difference $d$ in points, negative for a loss. What makes it uncertain is few networks, $S$, and few
# images, $N$. Both variances add:
#
# $$s^2 = \tfrac{1}{S}\operatorname{var}_\text{networks}(\bar d) +
# \tfrac{1}{N}\operatorname{var}_\text{images}(\bar d).$$
#
# Here and below ± is half a 95 % interval: $s$ times the quantile of Student's $t$, with
# Satterthwaite's degrees of freedom.


# %%
def gain(after: torch.Tensor, before: torch.Tensor) -> tuple[torch.Tensor, float, float]:
    """Return the points gained by each network, their mean, half of its 95 % interval."""
    d = after - before  # (S, N): networks, images
    S, N = d.shape
    parts = d.mean(1).var() / S, d.mean(0).var() / N
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (S - 1) + parts[1] ** 2 / (N - 1))
    return d.mean(1), d.mean().item(), (stats.t.ppf(0.975, freedom) * sum(parts).sqrt()).item()


def in_rounds(model: nn.Module, seed: int) -> nn.Module:
    """Return the model with half of its channels cut in three rounds, five epochs in all."""
    for share, epochs in ((0.2, 1), (0.2, 1), (0.22, EPOCHS - 2)):  # 16 → 13 → 10 → 8 channels
        model = train(prune(model, share, "magnitude"), seed, epochs)
    return model


tuned = {  # name -> what three networks read, (3, N)
    f"cut, {kind}": reads(*(train(prune(bases[s], 0.5, kind, s), s) for s in SEEDS))
    for kind in KINDS
}
tuned["in rounds, magnitude"] = reads(*(in_rounds(bases[seed], seed) for seed in SEEDS))
halved = prune(bases[0], 0.5, "magnitude")
half_size = (DEPTH, WIDTHS[1])
same_size = cost(halved)["macs"] == counted[half_size]
tuned["from scratch, 5 epochs"] = scratch[half_size]
as_long = (train(new(*half_size, seed), seed, 2 * EPOCHS) for seed in SEEDS)
tuned["from scratch, 10 epochs"] = reads(*as_long)
short = [train(prune(bases[s], 0.5, "magnitude"), s, 2) for s in SEEDS]
tuned["cut, magnitude, 2 epochs"] = reads(*short)
tuned["from scratch, 2 epochs"] = reads(*(train(new(*half_size, s), s, 2) for s in SEEDS))


# %% tolerance={"gain": 1.2, "±": 1.2, "ln_start": 5, "ln_five": 1.3, "ln_rounds": 1.2}
def signed(points: float) -> str:
    return f"{round(points, 1) + 0:+.1f}"  # + 0: no negative zero


gains = {name: gain(found, base[:3]) for name, found in tuned.items()}
columns = {"half of the channels": list(gains)[:6]}  # the two short trainings stand in the figure
columns["gain"] = [signed(gains[name][1]) for name in list(gains)[:6]]
columns["±"] = [f"{gains[name][2]:.1f}" for name in list(gains)[:6]]
ku.table(columns, caption="Points gained over the base with the same seed, three seeds")
_, start, start_half = gain(tuned["cut, magnitude, 2 epochs"], tuned["from scratch, 2 epochs"])
_, five, five_half = gain(tuned["cut, magnitude"], tuned["from scratch, 5 epochs"])
ku.glue(ln_start=f"{start:.1f} ± {start_half:.1f}", ln_five=f"{five:.1f} ± {five_half:.1f}")
_, rounds, rounds_half = gain(tuned["in rounds, magnitude"], tuned["cut, magnitude"])
ku.glue(ln_rounds=f"{signed(rounds)} ± {rounds_half:.1f}")


# %% mystnb={"image": {"alt": "Eight rows of three dots with intervals: points gained over the base network. The four rows of cut networks with five epochs lie close together near zero, the row from scratch with ten epochs lies furthest to the right, the row from scratch with two epochs far to the left of all."}, "figure": {"caption": "Half of the channels, a quarter of the operations: points gained over the base network. One dot per seed; the bar marks the mean, the line its 95 % interval.", "name": "fig-layers-after"}}
def dots(ax, groups: dict) -> None:
    """Draw for each name -> (values, mean, half an interval) a row of dots, the mean as a bar."""
    for row, (values, mean, half) in enumerate(groups.values()):
        ax.plot(values, [row] * len(values), "o", alpha=0.7, markersize=7)
        ax.errorbar(mean, row, xerr=half, fmt="|", color="black", markersize=18)
    ax.set_yticks(range(len(groups)), list(groups))
    ax.set_ylim(len(groups) - 0.5, -0.5)


fig, ax = plt.subplots(figsize=(5.6, 4.2))
dots(ax, gains)
ax.axvline(0, color="black", linewidth=1)
ax.set_xlabel("points gained over the base")
plt.show()

# %% [markdown]
# Three surprises. The ways to choose, apart before training, end close together: a network with any
# half of its channels relearns what it needs, as others have found {cite}`mittal2018recovering`.
# Cutting in rounds changes the result by {glue:text}`ln_rounds` points against one cut, which decides
# nothing; two of its five epochs went to networks that were cut again. And the small network from
# scratch, given the same number of epochs in all, does as well. What pruning gives is a head start:
# inherited weights are ahead of fresh ones by {glue:text}`ln_start` points after two epochs, and by {glue:text}`ln_five` after five.
# That is worth having if the large network exists already. It is no reason to train a large one
# first.
#
# ## Removing layers
#
# A residual block whose input and output have the same shape can be taken out: what is left in its
# place is the identity, and the stream passes by. Which block is least missed? One cheap hint
# compares the stream before and after the block
# {cite}`men2024shortgpt`: a block that hardly turns it does little. Its **influence** is one minus
# the cosine between the two, averaged over images. Beside it stands the expensive truth: the
# accuracy without the block.


# %% tolerance={"ln_hint_first": 2, "ln_hint_two": 1, "ln_same_blocks": 2}
FIRST = 3  # a network's blocks come after convolution, batch norm and ReLU


def without(model: nn.Sequential, blocks: list[int]) -> nn.Sequential:
    """Return a copy without these blocks. A copy: else training it would change the base too."""
    return nn.Sequential(*[copy.deepcopy(m) for i, m in enumerate(model) if i not in blocks])


@torch.no_grad()
def influence(model: nn.Sequential, x: torch.Tensor) -> dict[int, float]:
    """Return 1 - cosine of each removable block's input and output. x: (B, 1, 28, 28)."""
    influences = {}
    for number, layer in enumerate(model):
        before, x = x, layer(x)  # (B, C, H, W)
        if isinstance(layer, ku.models.ResidualBlock) and x.shape == before.shape:
            cosine = F.cosine_similarity(before.flatten(1), x.flatten(1))  # (B,)
            influences[number] = 1 - cosine.mean().item()
    return influences


turns = [influence(model, sample[0]) for model in bases]
ranked = [sorted(each, key=each.get) for each in turns]  # least influence first
blocks = list(turns[0])
lasts = {FIRST + DEPTH - 1, FIRST + 2 * DEPTH - 1}  # the last block of each stage
missed = [
    (base[seed].mean() - reads(*(without(model, [b]) for b in blocks)).mean(1)).tolist()
    for seed, model in enumerate(bases)
]
ku.glue(ln_hint_first=sum(ranking[0] == max(lasts) for ranking in ranked))
ku.glue(ln_hint_two=sum(max(lasts) in ranking[:2] for ranking in ranked))
ku.glue(ln_same_blocks=sum(set(ranking[:2]) == lasts for ranking in ranked))

# %% mystnb={"image": {"alt": "Two panels, one above the other, over the five removable blocks with five dots each. Above, the influence: it falls toward the last block of each stage. Below, points lost without the block: a wide scatter for most blocks, values near zero for the last block of the second stage."}, "figure": {"caption": "Each removable block of the five base networks: its influence (top), and the points lost when it is taken out without training (bottom); bars mark the means. Stage 1 works at 14 × 14 pixels, stage 2 at 7 × 7.", "name": "fig-layers-blocks"}}
places = {b: divmod(b - FIRST, DEPTH) for b in blocks}
labels = [f"stage {stage + 1}, block {place + 1}" for stage, place in places.values()]
fig, axes = plt.subplots(2, 1, figsize=(5.6, 5.2))
panels = {"influence": [list(each.values()) for each in turns], "points lost": missed}
for ax, (label, rows) in zip(axes, panels.items(), strict=True):
    values = torch.tensor(rows).T  # (5 blocks, 5 networks)
    dots(ax, {name: (v, v.mean(), 0) for name, v in zip(labels, values, strict=True)})
    ax.set(xlabel=label, xlim=(0, None))
plt.show()

# %% [markdown]
# Blocks late in a stage turn the stream least. The very last one can go almost for nothing, even
# without training. The hint puts it first in {glue:text}`ln_hint_first` of the five networks, and
# among the lowest two in {glue:text}`ln_hint_two`. For the others it is a hint only: blocks
# of equal influence cost very different amounts, and the same block costs one network several times
# as many points as another. What a block does is not only how far it turns the stream, but what the next
# one makes of the difference. Measuring the truth costs one pass over some images for each block,
# which is nothing for five blocks and much for the hundred layers of a large model. We go on with the
# hint all the same: it looks at training images only, whereas the truth above was measured on the
# held-out ones and must not choose anything.
#
# ## Layers times neurons
#
# Now the product that the essay asks for. From each of the five base networks we take the two
# blocks of least influence, then four tenths of the channels by magnitude (six of 16, thirteen of
# 32), then train for five epochs, as many as the base had. Beside it: four of the five removable
# blocks and no channels. The negative control is the same cut without the training. And each has its
# honest control: the same layers with fresh weights, trained for ten epochs.


# %% tolerance={"ln_change": 0.6, "ln_change_low": 0.6, "ln_change_high": 0.9, "ln_control": 6}
def fresh(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of the same shape with new weights."""
    torch.manual_seed(seed)
    model = copy.deepcopy(model)
    for layer in model.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return model


cut = [
    prune(without(model, ranking[:2]), 0.4, "magnitude")
    for model, ranking in zip(bases, ranked, strict=True)
]
factors = [base_cost["macs"] / cost(model)["macs"] for model in cut]
_, change, _ = gain(reads(*cut), base)  # no training yet
ku.glue(ln_control=f"{-change:.0f}", ln_factor=f"{min(factors):.2f}")
cut_fresh = reads(*(train(fresh(m, seed), seed, 2 * EPOCHS) for seed, m in enumerate(cut)))
cut_reads = reads(*(train(model, seed) for seed, model in enumerate(cut)))
_, mean, half = gain(cut_reads, base)
ku.glue(ln_change=signed(mean), ln_change_low=signed(mean - half))
ku.glue(ln_change_high=signed(mean + half))
headline, control = (-mean, -(mean - half)), -change  # points lost: mean, upper end; untrained

# %% tolerance={"gain": 0.9, "±": 1.2, "ln_fresh": 0.9, "ln_fresh_low": 0.9, "ln_fresh_high": 1.2, "ln_ahead_half": 1, "ln_ahead_both": 1, "ln_ahead_four": 1.2}
four = [without(model, ranking[:4]) for model, ranking in zip(bases[:3], ranked, strict=False)]
four_fresh = reads(*(train(fresh(m, seed), seed, 2 * EPOCHS) for seed, m in enumerate(four)))
four_reads = reads(*(train(model, seed) for seed, model in enumerate(four)))
models = {"base": bases[0], "half of the channels": halved}
models |= {"2 blocks, 0.4 of the channels": cut[0], "4 blocks": four[0]}
contest = {  # name -> (cut and trained on, fresh weights and trained as long)
    "half of the channels": (tuned["cut, magnitude"], tuned["from scratch, 10 epochs"]),
    "2 blocks, 0.4 of the channels": (cut_reads, cut_fresh),
    "4 blocks": (four_reads, four_fresh),
}
fair, origins = {}, ("base, cut", "fresh weights")
for name, pair in contest.items():
    for origin, found in zip(origins, pair, strict=True):
        fair[f"{name}:\n{origin}"] = gain(found, base[: len(found)])
costs = {name: cost(model) for name, model in models.items()}
columns = {"model": [f"{name}: {origin}" for name in contest for origin in origins]}
columns["gain"] = [signed(mean) for _, mean, _ in fair.values()]
columns["±"] = [f"{half:.1f}" for *_, half in fair.values()]
for unit, head in {"parameters": "parameters", "bytes": "bytes", "macs": "MACs"}.items():
    columns[head] = [f"{costs[name][unit]:,}" for name in contest for _ in origins]
ku.table(columns, caption="Points gained over the base, ten epochs in all, and cost (seed 0)")
_, mean, half = fair[f"2 blocks, 0.4 of the channels:\n{origins[1]}"]
ku.glue(ln_fresh=signed(mean), ln_fresh_low=signed(mean - half))
ku.glue(ln_fresh_high=signed(mean + half))
for key, pair in zip(("half", "both", "four"), contest.values(), strict=True):
    _, mean, half = gain(pair[1], pair[0])
    ku.glue(**{f"ln_ahead_{key}": f"{signed(mean)} ± {half:.1f}"})

# %% [markdown]
# Two blocks and four tenths of the channels: {glue:text}`ln_factor` times fewer operations, and
# {glue:text}`ln_change` points against the base ({glue:text}`ln_change_low` to
# {glue:text}`ln_change_high`). In {glue:text}`ln_same_blocks` of the five networks the two blocks are
# the last of each stage. What the gain shows is the effect of the cut and of a second training, and
# they cannot be told apart: five more epochs might do the base some good too. Nor is the mean known
# to a tenth: run on one thread instead of two, which only changes the order of additions, the same
# seeds give another mean within the same interval. Without the training {glue:text}`ln_control`
# points are lost, which leaves a guess.

# %% mystnb={"image": {"alt": "Three pairs of rows with dots and intervals: points gained over the base by half of the channels, two blocks and 0.4 of the channels, and four blocks, each once cut from the base and once with fresh weights. In every pair the fresh weights do as well or better."}, "figure": {"caption": "The fair comparison: networks cut from the base and trained on, and the same networks from fresh weights, ten epochs in all for each. One dot per seed; the bar marks the mean, the line its 95 % interval.", "name": "fig-layers-fair"}}
fig, ax = plt.subplots(figsize=(5.6, 4.6))
dots(ax, fair)
ax.axvline(0, color="black", linewidth=1)
ax.set_xlabel("points gained over the base")
plt.show()

# %% [markdown]
# In none of the three pairs does the large network's past help. Fresh weights are ahead of inherited
# ones by {glue:text}`ln_ahead_half` points for half of the channels, {glue:text}`ln_ahead_both` for
# both cuts and {glue:text}`ln_ahead_four` for four blocks.
#
# ## What the clock says
#
# Operations are a promise, time is what arrives. With $t$ and $m$ for the time and the MACs of the
# smaller network, $t_0$ and $m_0$ for those of the base, the operations removed stand for the share
# $1 - m/m_0$ of the base's time, and $1 - t/t_0$ is what really went. Their ratio is the **share of the
# time saved**:
#
# $$\text{share} = \frac{1 - t/t_0}{1 - m/m_0},$$
#
# 0 if the clock notices nothing, 1 if every removed operation took its time along. The next cell
# times the models in turns, so that a busy moment of the machine falls on all of them: with one
# image at a time, as a device that waits for a person would work, and with 256, as a server would;
# two threads, medians of forty with their quartiles.


# %% tags=["nbval-ignore-output"]
def time_saved(t: float, t0: float, m: float, m0: float) -> float:
    return (1 - t / t0) / (1 - m / m0)


both, two = "2 blocks, 0.4 of the channels", without(bases[0], ranked[0][:2])
rounded = ku.simplify.prune_channels(two, X[:1], 0.4, importance="magnitude", round_to=8)
clock = models | {"2 blocks": two, "2 blocks, 8 of 16": rounded}
macs = {name: cost(model)["macs"] for name, model in clock.items()}
columns, median, share = {"model": clock}, {}, {}
for batch in (1, 256):
    times = ku.simplify.latency({k: (m, held[0][:batch]) for k, m in clock.items()}, repeats=40)
    columns[f"ms, {batch}"] = [f"{m:.2f} ({a:.2f} to {b:.2f})" for a, m, b in times.values()]
    ms = median[batch] = {name: middle for name, (_, middle, _) in times.items()}
    for name in list(clock)[1:]:
        share[name, batch] = time_saved(ms[name], ms["base"], macs[name], full_cost)
    columns[f"share, {batch}"] = ["", *(f"{share[name, batch]:.2f}" for name in list(clock)[1:])]
ku.table(columns, caption="Time (ms) and share of the time saved, batches of 1 and of 256")
goal = (median[1]["base"] / median[1][both]) / (full_cost / macs[both])
for key, name in {"half": "half of the channels", "four": "4 blocks", "both": both}.items():
    ku.glue(**{f"ln_time_{key}_{batch}": f"{100 * share[name, batch]:.0f}" for batch in (1, 256)})
ku.glue(ln_time_8=f"{100 * share['2 blocks, 8 of 16', 256]:.0f}")
ku.glue(ln_ten=f"{median[256][both] / median[256]['2 blocks']:.2f}")
ku.glue(ln_ten_macs=f"{macs[both] / macs['2 blocks']:.2f}")
ku.glue(ln_goal=f"{goal:.2f}", ln_floor=f"{1 / factors[0]:.2f}")

# %% [markdown]
# Blocks that are gone take their time with them: {glue:text}`ln_time_four_1` % of it with one image,
# {glue:text}`ln_time_four_256` % with 256. Half of the channels saves {glue:text}`ln_time_half_1` % of
# its due with one image and {glue:text}`ln_time_half_256` % with 256. Both cuts together save
# {glue:text}`ln_time_both_1` % and {glue:text}`ln_time_both_256` %, less with the large batch than
# the plain half. Ten and 19 channels are awkward numbers: in a batch they take
# {glue:text}`ln_ten` times the time of the same four blocks with 16 and 32, at
# {glue:text}`ln_ten_macs` times the operations. The book pins the
# arithmetic to AVX2 (`karpa_utils/_numerics.py`), whose registers hold eight numbers, and the fast
# kernels want full ones. The same cut with `round_to=8` keeps 8 and 16 channels and saves
# {glue:text}`ln_time_8` %; its accuracy is not measured here.
#
# The goal of this page was set in another measure: gain in time divided by gain in operations, at
# least 0.7. With both cuts and one image it is {glue:text}`ln_goal`: missed. Mind that measure's
# floor, too. A network that saved no time at all would still reach $m/m_0$ =
# {glue:text}`ln_floor`. For channels of a ResNet-50 the library Torch-Pruning {cite}`fang2023depgraph`
# reports 3.85 times fewer operations and 2.19 times less time. That is 0.57 by the old measure and 73 %
# of the time saved.
#
# Where does the rest go? A profile by hand answers: hooks around every layer add up the time spent
# in each kind of layer, for the base and for its half.


# %% tags=["nbval-ignore-output"]
@torch.inference_mode()
def layer_times(model: nn.Module, x: torch.Tensor, repeats: int = 30) -> dict[str, float]:
    """Return kind of layer -> milliseconds a pass, measured by hooks around every layer."""
    spent, started, handles = {}, {}, []

    def clock_now() -> float:
        if x.is_cuda:
            torch.cuda.synchronize()  # else the clock would stop before the work is done
        return 1000 * perf_counter()

    def before(layer, _):
        started[layer] = clock_now()

    def after(layer, _, output):
        kind = type(layer).__name__
        spent[kind] = spent.get(kind, 0) + (clock_now() - started[layer]) / repeats

    for layer in model.eval().modules():
        if not list(layer.children()):
            handles += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    for turn in range(5 + repeats):
        if turn == 5:
            spent.clear()  # the first passes warm up
        model(x)
    for handle in handles:
        handle.remove()
    return spent


# %% tags=["nbval-ignore-output"]
heads = ("base, 1 image", "half, 1 image", "base, 256", "half, 256")
spent = [layer_times(m, held[0][:batch]) for batch in (1, 256) for m in (bases[0], halved)]
columns = {"layers": spent[0]}
for head, kinds_of in zip(heads, spent, strict=True):
    columns[f"{head} (ms)"] = [f"{kinds_of[kind]:.3f}" for kind in columns["layers"]]
ku.table(columns)

# %% [markdown]
# Convolutions are where the operations are, and with one image even they take more than half of
# their former time for a quarter of the work: each call has a price of its own, whatever its size.
# Normalization and activation do not multiply channels with channels; at best they halve, and with
# one image they hardly change. The affine layer is so small that its time wavers from run to run.
# (`Identity` is the empty shortcut $x$ of a block: what it costs is the hook.) So the share of the
# time saved should grow with the work in each call, that is with width and batch. Latency does not
# depend on what a network has learned, so untrained networks can show it.

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Share of the time saved against batch size, for half of the channels (solid lines) and two of four blocks (dashed lines) at widths 16, 32 and 64. The solid lines rise with the batch, the wider the higher; the dashed lines lie high throughout."}, "figure": {"caption": "Share of the time saved at three widths: half of the channels (solid) and two of four blocks (dashed). Untrained networks, timed in turns on two threads; 1 would be all, 0 nothing.", "name": "fig-layers-efficiency"}}
saved, sizes = {}, (1, 4, 16, 64)
for width, batch in itertools.product((16, 32, 64), sizes):
    large, thin = (ku.models.small_resnet(2, w).to(device) for w in (width, width // 2))
    lasts = [FIRST + 1, FIRST + 3]  # the second block of each stage
    timed = {"large": large, "half": thin, "blocks": without(large, lasts)}
    macs = {name: cost(model)["macs"] for name, model in timed.items()}
    timed = {name: (model, held[0][:batch]) for name, model in timed.items()}
    times = ku.simplify.latency(timed, repeats=30 if batch < 64 else 12)
    for name in ("half", "blocks"):
        values = times[name][1], times["large"][1], macs[name], macs["large"]
        saved[name, width, batch] = time_saved(*values)
fig, ax = plt.subplots(figsize=(5.6, 3.8))
for width, color in zip((16, 32, 64), ku.plots.PALETTE.values(), strict=False):
    for name, style in {"half": "o-", "blocks": "s--"}.items():
        line = [saved[name, width, batch] for batch in sizes]
        ax.plot(sizes, line, style, color=color, label=f"{name}, {width}")
ax.set(xscale="log", xlabel="images a batch", ylabel="share of the time saved", ylim=(0, 1.1))
ax.set_xticks(sizes, sizes)
ax.minorticks_off()
ku.plots.label_lines(ax)
plt.show()

# %% [markdown]
# It does, though not at every step. The same cut that disappoints at width 16 and one image saves
# most of its due at width 64 with a batch. The practical rule: for one image at a time on a small
# network remove layers; for wide networks and full batches remove channels too.
#
# ## Winning tickets
#
# Pruned networks can be fine-tuned. Can they also be trained from the beginning, if one knows which
# weights to keep? The lottery ticket hypothesis {cite}`frankle2019lottery` says: a large network
# contains a small one that, with its original first weights, trains as well as the whole. To find
# it: train, remove the smallest weights, put the others back to their early values, repeat. Going
# back to the values after a short training instead of the very first ones is called **rewinding** and
# works for more networks {cite}`frankle2020linear`.
#
# This is about single weights again, so we use an MLP (784-300-100-10), whose layers a mask fits
# easily. Each round keeps three weights in ten. Two controls have exactly as many weights in each
# layer: the same early weights under a **random mask**, and the found mask with **fresh weights**.
# The early weights have had one epoch, without a mask, before the rest of the training; the fresh
# ones get that epoch too, under the mask, so all see the same images in the same order. A mask is kept by starting the removed weights at
# zero and multiplying their gradients by zero.


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
tickets = {way: torch.empty(len(SEEDS), 3) for way in ("ticket", "fresh weights", "random mask")}
dense, tickets_found = [], []  # networks and first-layer masks of the three seeds


def from_early(early: nn.Module, masks: list, seed: int) -> nn.Module:
    return fit_masked(copy.deepcopy(early), masks, seed + 100, TICKET_EPOCHS)


for seed in SEEDS:
    torch.manual_seed(seed)
    mlp = ku.models.mlp(784, 300, 100, 10).to(device)
    masks = [torch.ones_like(p) for p in mlp.parameters()]
    early = fit_masked(mlp, masks, seed, 1)  # where rewinding goes back to
    ticket = from_early(early, masks, seed)
    dense.append(ticket)
    for turn in range(3):
        masks = smaller(ticket, masks)
        ticket = from_early(early, masks, seed)
        mixed = from_early(early, shuffled(masks, seed), seed)
        torch.manual_seed(seed + 50)
        new_weights = fit_masked(ku.models.mlp(784, 300, 100, 10).to(device), masks, seed, 1)
        new_weights = from_early(new_weights, masks, seed)
        trained = (ticket, new_weights, mixed)
        for scores, accuracy in zip(tickets.values(), reads(*trained).mean(1), strict=True):
            scores[seed, turn] = accuracy
    tickets_found.append(masks[0])
weights = [(mask.sum(), mask.numel()) for mask in masks if mask.ndim == 2]
density = sum(ones for ones, _ in weights) / sum(size for _, size in weights)

# %% tolerance={"ln_dense": 0.6, "ln_ticket_9": 1, "ln_ticket": 1.5} mystnb={"image": {"alt": "Held-out accuracy against weights kept: 30, 9 and 2.7 percent, three dots per network. The ticket stays near the dashed line of the dense network at first and falls below it at the right; fresh weights under the same mask and the random mask fall further."}, "figure": {"caption": "An MLP with few weights: the ticket and its two controls, means of three seeds with one dot per seed. Dashed: the dense network.", "name": "fig-layers-tickets"}}
percent = [30, 9, 2.7]  # of the weights kept
dense_score = reads(*dense).mean()
fig, ax = plt.subplots(figsize=(5.6, 3.6))
for way, scores in tickets.items():
    (line,) = ax.plot(percent, scores.mean(0), label=way)
    ax.plot(percent, scores.T, "o", color=line.get_color(), alpha=0.6, markersize=5)
ax.axhline(dense_score, color="black", linestyle="--", linewidth=1)
ax.set(xscale="log", xlabel="weights kept (%)", ylabel="held-out accuracy (%)")
ax.set_xticks(percent, percent)
ax.minorticks_off()
ax.invert_xaxis()
ku.plots.label_lines(ax)
plt.show()
ku.glue(ln_dense=f"{dense_score:.1f}", ln_density=f"{100 * density:.1f}")
ticket_scores = tickets["ticket"].mean(0)
ku.glue(ln_ticket_9=f"{ticket_scores[1]:.1f}", ln_ticket=f"{ticket_scores[2]:.1f}")
dark = (X.flatten(1).amax(0) == 0).float()  # (784,) pixels that no training image inks
on_dark = sum(mask @ dark for mask in tickets_found).sum() / sum(m.sum() for m in tickets_found)
ku.glue(ln_dark=f"{100 * dark.mean():.0f}", ln_on_dark=f"{100 * on_dark:.0f}")

# %% [markdown]
# The dense MLP reads {glue:text}`ln_dense` %. With 9 % of its weights the ticket reads
# {glue:text}`ln_ticket_9` %: there the hypothesis holds. With {glue:text}`ln_density` % it reads
# {glue:text}`ln_ticket` %, which is no longer "as well as the whole": there it fails. The found mask
# with fresh weights stays some points behind the ticket, the random mask many. So both matter, the
# weights and, more, the mask. Part of what the mask knows is simple: {glue:text}`ln_dark` % of the
# pixels are black in all training images, and a random mask spends as large a share of its first
# weights on them. The tickets spend {glue:text}`ln_on_dark` %. And the price: the mask of the last
# ticket took one early epoch and three whole trainings to find, the ticket's own training is the
# fourth, and its zeros save no time on this machine.
#
# ## Where it fails
#
# Cut too far, and the average hides who pays. We remove 85 % of the channels, which leaves two of
# sixteen, train as before, and look at each digit alone. As a control serves the smallest network of
# the first table, which has as many operations and was never pruned.

# %% tolerance={"ln_far_factor": 0.1, "ln_far": 8, "ln_far_worst": 20, "ln_tiny": 10, "ln_tiny_worst": 20, "ln_far_digits": 9, "ln_tiny_digits": 9} mystnb={"image": {"alt": "Two panels over the ten digits, three dots and a bar at their mean for each: points lost by the pruned networks above, by the smallest networks from scratch below. In both some digits lose little and others very much, and the dots of a digit lie far apart."}, "figure": {"caption": "Points lost by each digit against the base: 85 % of the channels removed and five epochs of training (top), the smallest network from scratch (bottom). One dot per seed, the bar marks the mean.", "name": "fig-layers-digits-lost"}}
far = [train(prune(bases[seed], 0.85, "magnitude"), seed) for seed in SEEDS]
lost = {"85 % of the channels cut": base[:3] - reads(*far)}  # (seeds, images)
lost["smallest network, from scratch"] = base[:3] - scratch[grid[0]]
label = held[1].cpu()
fig, axes = plt.subplots(2, 1, figsize=(5.6, 5), sharex=True, sharey=True)
for ax, (name, points) in zip(axes, lost.items(), strict=True):
    fall = torch.stack([points[:, label == digit].mean(1) for digit in range(10)], 1)  # (3, 10)
    lost[name] = fall
    ax.plot(range(10), fall.T, "o", color=ku.plots.PALETTE["rust"], alpha=0.6)
    ax.plot(range(10), fall.mean(0), "_", color="black", markersize=18, markeredgewidth=2)
    ax.set(title=name, ylabel="points lost", xticks=range(10))
axes[1].set_xlabel("digit")
plt.show()
for key, fall in zip(("far", "tiny"), lost.values(), strict=True):
    worst = fall.amax(1).mean()  # of each network's own worst digit
    ku.glue(**{f"ln_{key}": f"{fall.mean():.0f}", f"ln_{key}_worst": f"{worst:.0f}"})
    ku.glue(**{f"ln_{key}_digits": " / ".join(str(digit) for digit in fall.argmax(1).tolist())})
ku.glue(ln_far_factor=f"{base_cost['macs'] / cost(far[0])['macs']:.0f}")

# %% [markdown]
# With {glue:text}`ln_far_factor` times fewer operations the networks lose {glue:text}`ln_far` points
# on average over the digits, but {glue:text}`ln_far_worst` on the digit that suffers most in each (in
# the three networks: {glue:text}`ln_far_digits`). The smallest network from scratch does the same:
# {glue:text}`ln_tiny` on average, {glue:text}`ln_tiny_worst` on its worst digit
# ({glue:text}`ln_tiny_digits`), after five epochs, where base and fine-tuning had ten. So being small
# is enough to do it, without any pruning: few channels go where they help the total, and nothing in
# the loss asks who pays. If the groups were people instead of digits, this would be a question of
# fairness, and it has been found there for pruned networks {cite}`hooker2020characterising`: report
# each group, not the mean.
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
# Fourfold, half a point, one point for the interval's upper end, and 0.7 for gain in time over gain
# in operations were the goals before anything was trained. The last is missed, and the claim says
# so. The control is the same cut without the training. Two claims were first set otherwise: Taylor
# ahead by fifteen points, which did not survive more seeds, and shares of time by the old measure.
# Now one half parts a saving that mostly arrives from one that mostly does not.

# %%
says = "times fewer multiply-accumulates, smallest of five networks with fewer layers and neurons"
ku.claim(says, min(factors), at_least=4)
says = "points of accuracy these five networks lose after five epochs of training, mean"
ku.claim(says, headline[0], at_most=0.5, role="headline")
says = "points they lose, upper end of the 95 % interval over networks and images"
ku.claim(says, headline[1], at_most=1.0)
says = "points lost by the same cut without the training, mean of five"
ku.claim(says, control, at_least=50, role="control", rests_on=("ln_control",))
says = "points by which Taylor beats random channels before any training, mean of three small cuts"
ku.claim(says, ahead[0].mean(), at_least=3)
says = "points lost with a random half of the channels, after training"
ku.claim(says, -gains["cut, random"][1], at_most=1.5)
says = "points by which two epochs of fine-tuning beat two epochs from scratch, same size, mean"
ku.claim(says, start, at_least=1)
for name in contest:
    behind = fair[f"{name}:\n{origins[0]}"][1] - fair[f"{name}:\n{origins[1]}"][1]
    says = f"{name}: points by which fresh weights, trained as long in all, lie behind pruning"
    ku.claim(f"{says} (negative: ahead), mean", behind, at_most=0.5)
says = "half of the channels, cut or from scratch: networks of the same number of operations"
ku.claim(says, same_size)

# %%
says = "removing channels by hand, by ku.simplify and by a mask: largest difference of an output"
ku.claim(says, max(by_hand, from_mask), at_most=1e-5)
says = "the MACs of each network of the grid, counted by hand and by PyTorch: largest difference"
ku.claim(says, max(errors), at_most=0)
says = "nine tenths of the weights set to zero: length of the file divided by what it was"
ku.claim(says, len(files[1]) / len(files[0]), between=(1, 1))
ku.claim("and the time of the dense network divided by its own", zeros_gain, between=(0.6, 1.6))
says = "fewer layers and neurons, one image: gain in time divided by gain in operations (the goal"
ku.claim(f"{says} was 0.7; without any gain it would be a quarter)", goal, at_most=0.7)
says = (
    "share of the removed operations' time that is saved (0: nothing, 1: all), width 16, one image:"
)
ku.claim(f"{says} two of four blocks", saved["blocks", 16, 1], at_least=0.5)
ku.claim(f"{says} half of the channels", saved["half", 16, 1], at_most=0.5)
says = "the same share for half of the channels, width 64 and batches of 64"
ku.claim(says, saved["half", 64, 64], at_least=0.5)
says = "points by which the ticket with 2.7 % of the weights beats a random mask, mean of three"
ahead_of_mask = (tickets["ticket"] - tickets["random mask"])[:, -1].mean()
ku.claim(says, ahead_of_mask, at_least=3)
luck = (tickets["ticket"] - tickets["fresh weights"])[:, -1].mean()
ku.claim("points by which it beats its own mask with fresh weights", luck, at_least=1)
says = "85 % of the channels gone: points each network's worst digit loses, as multiple of its mean"
fall = lost["85 % of the channels cut"]
ku.claim(says, (fall.amax(1) / fall.mean(1)).mean(), at_least=2)

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
    conv, norm = copy.deepcopy(bases[0][:2])
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
    layer = dense[0][1]  # the first affine layer of a trained MLP, 784 -> 300
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
