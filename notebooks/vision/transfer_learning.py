# %% [markdown]
# # Transfer learning: what carries over, and how the number is reported
#
# **A network was trained on other images. How should it be retrained on a few of ours, which of
# its layers help, and can we believe the accuracy that comes out?**
#
# With ten labeled images a class to train on, a small residual network that has seen other digits
# reaches {glue:text}`tl_photo_tuned` % on digits drawn over photographs; the same network from
# scratch reaches {glue:text}`tl_photo_scratch` %, and one pretrained on shuffled labels
# {glue:text}`tl_photo_control` %. Then comes the report. The essay whose listing this page mends
# (number 000) tests on the training folder: done that way, we would have printed
# {glue:text}`tl_reported` % where {glue:text}`tl_true` % is true. Picking the best epoch by the
# accuracy on a test set of 100 images, a milder sin, adds {glue:text}`tl_select_100` points of
# luck.
#
# :::{admonition} What you will learn
# - to retrain the last layer, the last block or everything, with learning rates that fall with
#   depth;
# - to see what batch norm does to "frozen" layers, small batches and another domain, and to repair
#   it;
# - to measure which stages transfer, frozen or tuned;
# - to divide one folder into three parts, stop early, restore the best epoch, and see when that
#   hurts;
# - to put a number on what testing on training images, and choosing on test images, is worth.
#
# **Works out:** documents 000 §5 and 002 §2 (see [the five
# documents](../../book/five_documents.md)).
#
# **Before this:** [First networks](../foundations/first_networks.ipynb) and, for frozen features
# and their reduction, [Pretrained features](../simplification/pretrained_features.ipynb).
#
# **Costs:** three to four minutes and 1 GiB on two CPU cores. The full profile adds ResNet-18 with
# ImageNet weights on CIFAR-10: minutes on a GPU.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 文档 000 第 5 节微调 ResNet：训练与测试读同一个文件夹，“测试集”还用来选择检查点，最佳权重存了却没有恢复，
# 输入只除以 255，输出只有一个 sigmoid 单元。本章逐条运行这些错误，量出代价，再改正。
# 源域是 MNIST，目标域是另一台扫描仪的数字，以及叠在照片上的数字；每类只有十个标签。
# 批归一化是主要陷阱：关掉梯度并不能冻结滑动统计量；用目标域无标签图像重算统计量，在扫描数字上收效很大。
# 给从零训练的基线同样的超参数搜索后，预训练的领先从三十二点降到约十点：基线调得好不好，决定了大部分差距。
# 用训练图像报告的准确率远高于真实值，样本越少差得越多；在测试集上挑选轮次也会虚高几个百分点。
#
# </div>
# :::

# %% tags=["setup"]
# Colab: this line is replaced by an install command when the book is published
import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch import nn

device = ku.start(seed=0)
few = ku.rehearsal_steps() is not None  # a rehearsal of the full profile counts less

# %% [markdown]
# ## The data
#
# **The source** is MNIST {cite}`lecun1998gradient`: handwritten digits, white on black. The
# networks that we call pretrained have seen its training part and nothing else.
#
# **Two targets**, each written to disk as a folder of PNG files with one sub-folder per class,
# because that is what the essay's listing reads.
#
# - *scans*: the 1,797 digits that come with scikit-learn {cite}`alpaydin1998`. They were written
#   by 13 people in Turkey, and stored with 8 × 8 pixels and 17 grays. Other hands, another
#   process, and blurred when enlarged. The background is as black as before.
# - *photographs*: MNIST digits that no source network has seen, each laid over a piece of a
#   photograph by taking the absolute difference of the colors, as the makers of MNIST-M did
#   {cite}`ganin2016`. The hands are the same, the background is new. The two photographs, a temple
#   and a flower, come with scikit-learn (CC BY 2.0).
#
# **What these data cannot support.** The scans do not say who wrote which digit: the same hand may
# stand in training and test, so accuracy on a new writer will be lower than what we report. The
# pieces of photographs overlap between the parts; they were drawn without looking at the digit, so
# remembering a piece does not tell the class, but a third photograph would be another domain
# again. All three sets show ten digits on 22 × 22 pixels (MNIST without its empty frame). What
# transfers between them need not transfer between sets that differ more. License: MNIST CC BY-SA
# 3.0, scans CC BY 4.0. Nobody is shown.

# %%
photos = load_sample_images().images  # two, (427, 640, 3) each


def pieces(n, side=22, seed=0):
    """Return n random pieces of the photographs in turn, (n, side, side, 3)."""
    rng, found = np.random.default_rng(seed), []
    for i in range(n):
        top, left = rng.integers(427 - side), rng.integers(640 - side)
        found.append(photos[i % 2][top : top + side, left : left + side])
    return np.stack(found)


def write(root, images, labels):
    """Write uint8 images as root/<class>/<number>.png."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / str(int(label))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:04}.png")


mnist = ku.data.mnist()
source = mnist.train[0][..., 3:-3, 3:-3], mnist.train[1]  # (N, 1, 22, 22): the frame is empty
held = [torch.cat(pair)[:3000] for pair in zip(mnist.valid, mnist.test, strict=True)]
held[0] = held[0][..., 3:-3, 3:-3]
ink = (255 * held[0]).round().permute(0, 2, 3, 1).numpy()  # (N, 22, 22, 1)
blended = np.abs(ink - pieces(len(ink))).astype(np.uint8)  # (N, 22, 22, 3)

# %% [markdown]
# `ku.data.image_folder` is what the essay's reader should have been. It reads a folder once and
# divides each class at random into three parts; files with the same bytes never stand on two
# sides; what cannot be read is counted and named. Every fifteenth photograph digit is kept out of
# the folder, to be explained at the end.

# %% mystnb={"image": {"alt": "Three rows of eight digits, 0 to 7. Top: thin white digits on black. Middle: thick, blurred white digits on black that fill the frame. Bottom: digits in changing colors over pieces of sky, petals, leaves and painted wood; some are hard to see."}, "figure": {"caption": "The source (top), the scans (middle) and the photographs (bottom).", "name": "fig-transfer-data"}}
home = tempfile.TemporaryDirectory()
root, scans = Path(home.name), load_digits()
apart = np.arange(len(ink)) % 15 == 0
write(root / "scans", (scans.images * 255 / 16).round().astype(np.uint8), scans.target)
write(root / "photographs", blended[~apart], held[1][~apart])
domains = {}
for name in ("scans", "photographs"):
    domains[name] = ku.data.image_folder(root / name, 22, valid=0.15, test=0.5)
fig, axes = plt.subplots(3, 8, figsize=(7, 2.9))
shown = [source, *(data.train for data in domains.values())]
for row, (X, y) in zip(axes, shown, strict=True):
    some = [int((y == digit).nonzero()[0, 0]) for digit in range(8)]
    ku.plots.image_row(row, [X[i] for i in some], [""] * 8)
plt.show()


# %% [markdown]
# From the training part we shall draw ten images a class, and fifteen a class from the validation
# part for all choices. So "ten labels" means 25 for a row that stops early, and ten for one that
# does not. The learning rates further down come from four more draws of 25. A project must count
# those labels too. The test part is looked at once per trained network, and chooses nothing except
# where we show what that does.
#
# ## The dumbest baseline, and a source network
#
# The baseline answers with the class whose mean image is nearest. Then the network: a stem (one
# convolution with its batch norm), four residual blocks {cite}`he2016resnet`, and a head (average
# pooling and one linear layer); six *stages* in all. As with the networks that one can download,
# its input has to be prepared the way it was trained. We train it on numbers from 0 to 255 minus
# the mean of the source, which is what the Keras weights of the listing expect. (Those also want
# blue before red. Our source is gray and cannot tell.)
#
# Three source networks from three seeds. And three **controls**: the same images, the same steps,
# but the labels shuffled, so that nothing about digits can be learned except what images of
# strokes look like. If such a network were as good a start as the real one, then a gain would come
# from the scale of the weights, warmed-up statistics or features of strokes in general, and not
# from knowing digits. Every comparison below is paired: seed by seed, the same source, the same
# hundred labels, the same order. Beside a mean stands the range over the three networks; three
# values are too few for an interval that one could rely on.

# %%
SEEDS = range(ku.pick(laptop=3, full=1 if few else 6))
MEAN = 255 * source[0].mean()  # of the source


def preprocess(X):
    """Return what the source network expects: 0 ... 255, three colors, minus the source's mean."""
    return 255 * X.expand(-1, 3, -1, -1).to(device) - MEAN  # (N, 3, 22, 22)


def network(seed):
    """Return six stages, (B, 3, 22, 22) -> (B, 10): stem, four residual blocks, head."""
    torch.manual_seed(seed)
    width = ku.pick(laptop=8, full=8 if few else 32)
    layers = list(ku.models.small_resnet(2, width, channels=3))
    stem, blocks, head = layers[:3], layers[3:7], layers[7:]
    return nn.Sequential(nn.Sequential(*stem), *blocks, nn.Sequential(*head)).to(device)


def pretrain(seed, y):
    """Return a network trained on the source's images with the labels y (N,)."""
    net, X, epochs = network(seed), preprocess(source[0]), ku.pick(laptop=4, full=10)
    adam = torch.optim.Adam(net.parameters())
    rates = torch.optim.lr_scheduler.OneCycleLR(adam, 1e-2, epochs * -(-len(X) // 100))
    tools = {"optimizer": adam, "schedule": rates, "seed": seed}
    ku.fit(net, (X, y.to(device)), num_epochs=epochs, batch_size=100, **tools)
    return net.eval()


y = source[1]
sources = [pretrain(100 + s, y) for s in SEEDS]
shuffled = []
for s in SEEDS:
    mix = torch.randperm(len(y), generator=torch.Generator().manual_seed(s))
    shuffled.append(pretrain(200 + s, y[mix]))


# %%
@torch.no_grad()
def through(net, X):
    """Return net's outputs for all rows of X, in evaluation mode."""
    return torch.cat([net.eval()(x) for x in X.split(500)])


def accuracy(net, part, prepare=preprocess):
    """Return the accuracy in % on (X, y)."""
    return 100 * ku.accuracy(through(net, prepare(part[0])), part[1].to(device)).item()


def ranging(values):
    """Return the smallest and the largest value as text."""
    return f"{min(values):.0f} to {max(values):.0f}"


def spelled(values):
    """Return mean and range as text."""
    return f"{np.mean(values):.0f} ({ranging(values)})"


def means(**values):
    """Glue the mean of each list."""
    ku.glue(**{name: f"{np.mean(v):.0f}" for name, v in values.items()})


def less(one, other):
    """Return the differences seed by seed."""
    return [a - b for a, b in zip(one, other, strict=True)]


def ranged(ax, v, label, at, shift):
    """Draw the means of v (points, seeds) with their range; write the label at a place."""
    v, x = np.array(v), np.arange(len(v))
    bars = [v.mean(1) - v.min(1), v.max(1) - v.mean(1)]
    line = ax.errorbar(x, v.mean(1), bars, fmt="o-", capsize=3)[0]
    height = np.interp(at, x, v.mean(1)) + shift
    ax.annotate(label, (at, height), ha="center", color=line.get_color())


# %% [markdown]
# ## The shift
#
# How well do the source networks do, without any training on the target? The cleanest comparison
# is between the first two rows: the very same digits, without and with a photograph behind them.

# %% tolerance={"network 0": 20, "network 1": 20, "network 2": 20, "tl_clean": 1.5, "tl_with_photo": 8, "tl_scans_plain": 15}
over_photos = torch.tensor(blended).permute(0, 3, 1, 2) / 255, held[1]
tests = {"new digits of the source": held, "the same, over photographs": over_photos}
tests["scans"] = domains["scans"].test
shift = {name: [accuracy(net, part) for net in sources] for name, part in tests.items()}
columns = {"images": list(shift)}
for seed in SEEDS:
    columns[f"network {seed}"] = [f"{v[seed]:.0f}" for v in shift.values()]
ku.table(columns, caption="Accuracy (%) of the source networks as they are")
means(**dict(zip(("tl_clean", "tl_with_photo", "tl_scans_plain"), shift.values(), strict=True)))

# %% [markdown]
# Chance is 10 %. From {glue:text}`tl_clean` % to {glue:text}`tl_with_photo` %, not far from
# guessing, by a background alone. That one may expect. The scans surprise: to a person they are as
# easy as the source, white on black and well centered, and the networks read
# {glue:text}`tl_scans_plain` % of them. The three networks differ widely there, though they were
# trained alike and agree on their own digits. How hard a target looks to a person is no guide. The
# next section shows how much of this loss has nothing to do with the features.
#
# ## Batch norm, the first suspect
#
# A batch-norm layer {cite}`ioffe2015batchnorm` standardizes each channel,
#
# $$ y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta . $$
#
# In training mode $\mu$ and $\sigma^2$ are those of the batch; in evaluation mode they are running
# averages, collected during training: here, statistics of thin white strokes on black. Fat strokes
# or a bright sky move the mean of every channel, in every layer, and each $y$ arrives displaced.
# The cheapest repair {cite}`li2016adabn` touches no weight: pass *unlabeled* images of the target
# through and keep their statistics. Labels are not needed. By hand, $\mu$ and $\sigma^2$ of the
# first layer are two lines; the library collects them when its momentum is one.
#
# Two controls stand in the table below. Statistics of the *other* target: if they help as much,
# then it was not the right statistics that helped. And the networks of shuffled labels with the
# statistics of the right target: they have nothing to say about digits, so they must stay at
# chance.


# %%
@torch.no_grad()
def adapt(net, X):
    """Return a copy with the same weights and the batch-norm statistics of X (N, 3, H, W)."""
    net = copy.deepcopy(net)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the next batch's statistics replace the old ones
    net.train()(X)
    for norm in norms:
        norm.momentum = 0.1
    return net.eval()


def unlabeled(name, n=500):
    """Return at most about n images of a target's training part, spread over all of it."""
    X = domains[name].train[0]
    return preprocess(X[:: max(1, len(X) // n)])


convolved = sources[0][0][0](unlabeled("scans")).detach()  # (N, 8, 11, 11)
mu, var = convolved.mean((0, 2, 3)), convolved.var((0, 2, 3))  # (8,) each
norm = adapt(sources[0], unlabeled("scans"))[0][1]
by_hand = (norm.running_mean - mu).abs().max() / mu.abs().max()
by_hand = max(by_hand, (norm.running_var / var - 1).abs().max())

# %% tolerance={"scans": 15, "photographs": 8, "tl_ada_scans": 6, "tl_ada_gain": 20, "tl_ada_photos": 5, "tl_ada_wrong": 15, "tl_ada_wrong_photos": 5}
other = {"scans": "photographs", "photographs": "scans"}
adapted = {n: [adapt(net, unlabeled(n)) for net in sources] for n in domains}
ways = {"source": {n: sources for n in domains}, "target": adapted}
ways["target, 50 images"] = {n: [adapt(net, unlabeled(n, 50)) for net in sources] for n in domains}
ways["other target (control)"] = {n: adapted[other[n]] for n in domains}
controls = {n: [adapt(net, unlabeled(n)) for net in shuffled] for n in domains}
ways["target, shuffled source (control)"] = controls
ada = {
    (way, n): [accuracy(net, domains[n].test) for net in nets[n]]
    for way, nets in ways.items()
    for n in domains
}
columns = {"statistics of": ways}
for n in domains:
    columns[n] = [f"{np.mean(ada[way, n]):.0f}" for way in ways]
ku.table(columns, caption="Test accuracy (%) without a single label of the target, mean of three")
means(tl_ada_scans=ada["target", "scans"], tl_ada_photos=ada["target", "photographs"])
ku.glue(tl_ada_gain=spelled(less(ada["target", "scans"], ada["source", "scans"])))
wrong = {n: ada["other target (control)", n] for n in domains}
means(tl_ada_wrong=wrong["scans"], tl_ada_wrong_photos=wrong["photographs"])

# %% [markdown]
# On the scans the accuracy goes from {glue:text}`tl_scans_plain` to {glue:text}`tl_ada_scans` % (a
# gain of {glue:text}`tl_ada_gain` points) without one label; fifty images do. The other target's
# statistics give {glue:text}`tl_ada_wrong` %. So a large part of the loss was displaced channels,
# not bad features. On the photographs the gain is smaller, {glue:text}`tl_ada_photos` %, and here
# the control spoils the story: the statistics of the scans give
# {glue:text}`tl_ada_wrong_photos` %. Whatever helps there, it is not that the statistics fit
# photographs. One mean per channel cannot undo a background that differs from image to image.
#
# ## Two more traps: "frozen" is not frozen, and training mode at the wrong time
#
# Freezing is usually written as `requires_grad_(False)`. That stops the weights. It does not stop
# the running statistics, which are not parameters: each batch in training mode moves them. To see
# it, we train a new head for two epochs on the scans with everything below "frozen", and then put
# the *old* head back and ask for the old digits. A frozen body must answer as before. `Frozen` is
# the repair: evaluation mode, whatever the training loop says.


# %% tolerance={"old digits (%)": 8, "tl_unfrozen": 8}
class Frozen(nn.Sequential):
    """Stages that stay as they are: no gradients, and evaluation mode whatever train() says."""

    def __init__(self, *stages):
        super().__init__(*stages)
        self.requires_grad_(False).eval()

    def train(self, mode=True):
        return super().train(False)


def with_head(net, seed):
    """Return a copy of net with a new last layer."""
    net = copy.deepcopy(net)
    torch.manual_seed(300 + seed)
    net[-1][-1].reset_parameters()
    return net


old = {"before": shift["new digits of the source"], "gradients off": [], "evaluation mode too": []}
for seed in SEEDS:
    X, y = domains["scans"].train
    for way in ("gradients off", "evaluation mode too"):
        *stages, head = with_head(sources[seed], seed)
        body = nn.Sequential(*stages).requires_grad_(False)
        body = Frozen(*stages) if way == "evaluation mode too" else body
        ku.fit(nn.Sequential(body, head), (preprocess(X), y.to(device)), num_epochs=2, seed=seed)
        old[way].append(accuracy(nn.Sequential(body, sources[seed][-1]), held))
columns = {"frozen by": old, "old digits (%)": [f"{np.mean(v):.0f}" for v in old.values()]}
ku.table(columns, caption="The old task after a head was trained for the new one")
means(tl_unfrozen=old["gradients off"])

# %% [markdown]
# No weight has changed, and the old task is down to {glue:text}`tl_unfrozen` %. Whoever shares one
# "frozen" body between several tasks ships this fault. (For the new task alone, moving the
# statistics was a good thing, as the table before showed. It should be decided, not happen.)
#
# The third trap is the mode. In training mode each image is judged by the statistics of its batch.
# With few images these are noise. Worse, they depend on who else is in the batch, and folders are
# read class by class unless somebody shuffles.


# %% mystnb={"image": {"alt": "Accuracy in percent against batch size 2, 5 and 20. The line for mixed batches rises from about 60 to over 90, toward a dotted line for evaluation mode near 95. The line for batches of one class stays near 20."}, "figure": {"caption": "Source networks on new digits of the source, in training mode by mistake. Mean of three networks; bars are their range.", "name": "fig-transfer-batches"}} tolerance={"tl_sorted": 5}
@torch.no_grad()
def in_training_mode(net, part, size):
    """Return the accuracy in % when each batch is standardized by its own statistics."""
    net, right = copy.deepcopy(net).train(), 0
    for x, y, _ in ku.batches((preprocess(part[0]), part[1].to(device)), size):
        right += (net(x).argmax(1) == y).sum().item()
    return 100 * right / len(part[1])


rows = torch.cat([(held[1] == c).nonzero().flatten()[:20] for c in range(10)])  # class by class
mixed = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
sizes, by_size = (2, 5, 20), {}
fig, ax = plt.subplots(figsize=(5.6, 3.3))
for order, chosen in {"mixed": mixed, "one class a batch": rows}.items():
    part = held[0][chosen], held[1][chosen]
    found = [[in_training_mode(net, part, n) for net in sources] for n in sizes]
    by_size[order] = np.array(found)  # (sizes, networks)
    ranged(ax, found, order, 1.3, -11 if order == "mixed" else 6)
ax.axhline(np.mean([accuracy(net, part) for net in sources]), ls=":", color="black")
ax.annotate("evaluation mode", (0, 99), va="center")
ax.set(xlabel="images in a batch", ylabel="accuracy (%)", ylim=(0, 104))
ax.set_xticks(range(3), sizes)
plt.show()
ku.glue(tl_sorted=f"{by_size['one class a batch'][-1].mean():.0f}")

# %% [markdown]
# In batches of one class the accuracy is {glue:text}`tl_sorted` %, on the digits these networks
# were trained for, and larger batches do not help: what all images of a batch have in common is
# their class, and standardizing removes it.
#
# ## The listing of essay 000
#
# The essay fine-tunes ResNet-50 with TensorFlow. We port it line by line and take its faults one
# after the other. The reader first. Its arguments are never defined. And both generators read
# `data_dir`, with the same transformation: what is called augmentation divides by 255.


# %%
def preprocess_data(data_dir, image_size, batch_size):
    """The listing's function, ported: two readers of one folder."""
    steps = torchvision.transforms
    rescale = steps.Compose([steps.Resize((image_size, image_size)), steps.ToTensor()])  # / 255
    train = torchvision.datasets.ImageFolder(data_dir, transform=rescale)
    test = torchvision.datasets.ImageFolder(data_dir, transform=rescale)
    loader = torch.utils.data.DataLoader
    return loader(train, batch_size, shuffle=True), loader(test, batch_size, shuffle=True)


try:
    preprocess_data(data_dir, image_size, batch_size)
    stopped = False
except NameError:
    stopped = True
readers = [loader.dataset for loader in preprocess_data(root / "scans", 22, 32)]
seen = {path for path, _ in readers[0].samples}
inside = sum(path in seen for path, _ in readers[1].samples) / len(readers[1])
changed = max((readers[0][i][0] - readers[1][i][0]).abs().max().item() for i in range(50))
rows = [{x.numpy().tobytes() for x in part[0]} for part in domains["scans"][:3]]
shared = len(rows[2] & (rows[0] | rows[1]))
warped = (ku.data.warp(readers[0][0][0][None]) - readers[0][0][0]).abs().max()

# %%
in_listing = functools.partial(ku.errata, "000 §5.2")
erratum, mended = in_listing("`preprocess_data(data_dir, …)`", "set the three names first")
erratum("data_dir, image_size and batch_size are never defined: it stops", stopped)
mended("with a folder and two numbers it runs: images read", len(readers[0]), between=(1797, 1797))
erratum, mended = in_listing("`data_dir` for train and test", "three disjoint parts")
erratum("share of the test images that are training images", inside, between=(1, 1))
mended("test images of the divided folder that stand elsewhere too", shared, at_most=0)
erratum, mended = ku.errata("000 §5.3", "`ImageDataGenerator(rescale=1./255)`", "`warp`, or none")
erratum("the «augmenting» reader against the other: largest difference", changed, at_most=0)
mended("an augmentation changes the image: largest difference", warped, at_least=0.1)

# %% [markdown]
# **Divided by 255.** The pretrained weights of Keras expect numbers from about −124 to 151, made
# by `preprocess_input`. The listing gives them numbers from 0 to 1. It also calls the network with
# `training=False`: batch norm uses the running statistics of the source. Then nothing corrects the
# scale: the image is a faint trace on a gray that is itself displaced. We retrain the last layer
# only, on ten labels a class, four times: right and wrong input, statistics of the source and of
# the target (computed from the same wrong input).
#
# A new last layer is the right instrument here, because it cannot hide the fault: whatever the
# frozen stages do to a wrong input, the layer has to live with it. Training everything might make
# up for some of it, and then nobody would notice.
#
# Here is the function for all retraining on this page. Stages before `frozen` are run once, in
# evaluation mode, because they give the same output in each epoch. `ku.fit` stops when the
# validation loss has not fallen for `patience` epochs, and restores the best one.


# %%
def draw(part, n, seed):
    """Return n images of each class of a part, drawn at random."""
    X, y = part
    g, rows = torch.Generator().manual_seed(seed), []
    for c in y.unique():
        of_class = (y == c).nonzero().flatten()
        rows.append(of_class[torch.randperm(len(of_class), generator=g)[:n]])
    return X[torch.cat(rows)], y[torch.cat(rows)]


def labels(data, seed, n=10):
    """Return the drawn training and validation images of one seed."""
    return draw(data.train, n, 10 + seed), draw(data.valid, 15, 10 + seed)


def tune(net, train, valid=None, lr=1e-2, decay=1.0, frozen=0, prepare=preprocess, **options):
    """Train the stages from `frozen` on; each learns at `decay` times the rate of the next."""
    body, tail = net[:frozen], net[frozen:]
    parts = [part for part in (train, valid) if part is not None]
    ready = [(through(body, prepare(X)), y.to(device)) for X, y in parts]
    rates = [lr * decay ** (len(tail) - 1 - i) for i in range(len(tail))]
    groups = [{"params": s.parameters(), "lr": r} for s, r in zip(tail, rates, strict=True)]
    usual = {"num_epochs": 60, "batch_size": 25}
    return ku.fit(tail, *ready, optimizer=torch.optim.Adam(groups, fused=True), **usual | options)


# %% tolerance={"source statistics": 7, "target statistics": 5, "tl_raw": 5, "tl_raw_target": 5}
def divided(X):
    """Return the listing's input: 0 ... 1, nothing subtracted."""
    return X.expand(-1, 3, -1, -1).to(device)


data, price = domains["scans"], {}
for seed in SEEDS:
    for way, prepare in {"as pretrained": preprocess, "divided by 255": divided}.items():
        nets = {"source": sources[seed], "target": adapt(sources[seed], prepare(data.train[0]))}
        for kind, net in nets.items():
            net = with_head(net, seed)
            tune(net, *labels(data, seed), frozen=-1, prepare=prepare, seed=seed, patience=15)
            price.setdefault((way, kind), []).append(accuracy(net, data.test, prepare))
columns = {"input": ["as pretrained", "divided by 255"]}
for kind in ("source", "target"):
    columns[f"{kind} statistics"] = [f"{np.mean(price[w, kind]):.0f}" for w in columns["input"]]
ku.table(columns, caption="Scans: test accuracy (%) with a new last layer, mean of three")
raw = {kind: price["divided by 255", kind] for kind in ("source", "target")}
means(tl_raw=raw["source"], tl_raw_target=raw["target"])

# %% [markdown]
# With the source's statistics the wrong input leaves {glue:text}`tl_raw` %: chance. With
# statistics computed from the same wrong input the fault disappears
# ({glue:text}`tl_raw_target` %), since standardizing removes any scale and shift. (Nearly any: the
# small $\epsilon$ and the zeros around the image do not scale along.) That is why this fault lives
# so long: where the statistics follow the input it costs nothing. It strikes where the source's
# statistics are kept. (The listing itself trains all weights, so our number is the price for
# frozen stages, not the listing's own.)
#
# **One sigmoid unit.** `class_mode='binary'` with ten folders yields the labels 0 to 9. The loss
# $-y \log p - (1-y)\log(1-p)$ is then negative and has no lower bound: for $y = 7$ it falls
# forever as $p \to 1$. And a single $p$ has two answers. Whatever is learned, the accuracy can
# never exceed the share of the two most frequent classes. The port shows both: the loss falls
# below zero and keeps falling, and the accuracy stays at one class. Of ImageNet's thousand classes
# two would be about 0.2 %, so the reported 99.5 % cannot have come from ImageNet, nor from 12,500
# of its 1,281,167 training images {cite}`russakovsky2015`.

# %%
X, y = domains["scans"].train
features = through(adapted["scans"][0][:-1], preprocess(X)), y.to(device)  # (N, 16, 6, 6)
width = features[0].shape[1]
unit = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 128), nn.ReLU())
unit.append(nn.Linear(128, 1)).to(device)  # the listing's head


def binary(z, y):
    """The listing's loss; its sigmoid is inside."""
    return F.binary_cross_entropy_with_logits(z[:, 0], y.float())


history = ku.fit(unit, features, num_epochs=10, loss=binary)
answers = (through(unit, features[0])[:, 0] > 0).long().cpu()  # p above one half
two = 100 * y.bincount().topk(2).values.sum().item() / len(y)
erratum, mended = in_listing("`Dense(1, activation='sigmoid')`", "one output per class")
erratum("ten classes, one sigmoid: the loss after ten epochs", history.losses[-1], at_most=-1)
erratum("largest possible accuracy (%) on ten classes", two, at_most=25)
right = 100 * (answers == y).float().mean()
erratum("accuracy (%) on its own training images", right, at_most=25)
worst = min(price["as pretrained", "target"])
mended("ten outputs: test accuracy (%), worst of three seeds", worst, at_least=50)
erratum, mended = in_listing("`rescale=1./255`", "`preprocess_input`")
gap = less(price["as pretrained", "source"], price["divided by 255", "source"])
erratum("points lost by a new last layer (mean of three)", np.mean(gap), at_least=10)
kept = np.mean(price["as pretrained", "source"])
mended("test accuracy (%) with the input it was trained on (mean)", kept, at_least=40)

# %% [markdown]
# ## Done properly: what to retrain
#
# What is *properly*? Three parts that share no image; a validation part that makes all choices;
# the weights that it chose restored; an input prepared as in pretraining; one output for each
# class; and a test part that is used once. What varies in the next table is how much of the
# network is retrained.
#
# Ways from cheap to thorough. The **last layer** alone, on frozen features. The **last block**
# with it. **Everything at one rate.** **Everything, with rates by depth**
# {cite}`howard2018ulmfit`: stage $i$ of $L$ learns at
#
# $$\eta_i = \eta\,\gamma^{\,L - i}, \qquad \gamma = 1/2.6,$$
#
# because early stages are taken to be general and should move little (the line `rates = …` in
# `tune`). With six stages the stem learns at a hundredth of the head's rate. There is a second
# reason to be gentle below: a new head starts with random answers, its first gradients are large
# and wrong, and they can distort the features before the head is any good
# {cite}`kumar2022finetuning`.
#
# **The same search for every row.** Each way had four learning rates (0.01 to 0.08 from scratch
# and for the control, 0.005 to 0.04 for the last layer, 0.0025 to 0.02 for the others), and each
# of them either early stopping on the validation loss (25 epochs without a better one) or all 60
# epochs and the last weights. For each target we took the setting with the highest validation
# accuracy over four draws of labels that this page does not use. Rates by depth were tried from
# scratch and for the control as well, on the photographs, and served neither. All rows may use the
# unlabeled images: the statistics of batch norm are set by them before training, where there is
# something to adapt, and once more after it.
#
# Training from scratch has two rows, one for each way to stop, each at its best rate.
#
# In the full profile a third task joins: ResNet-18 with ImageNet weights on CIFAR-10. Its stages
# are the stem, four groups of blocks and the head, so the same code serves. (There is no ImageNet
# network of shuffled labels to be had, hence no such row.)


# %%
class Task(NamedTuple):
    """A target, how its images are prepared, and the networks that may start on it."""

    data: ku.data.Images
    prepare: Callable
    unlabeled: torch.Tensor  # prepared images whose labels are not used
    fresh: Callable  # seed -> an untrained network
    pretrained: list
    control: list  # pretrained on shuffled labels; may be empty


known = network, sources, shuffled
tasks = {n: Task(data, preprocess, unlabeled(n), *known) for n, data in domains.items()}


def by_source(differences):
    """Return the mean difference of each source network, whose draws are no new networks."""
    return [np.mean(differences[s :: len(SEEDS)]) for s in SEEDS]


# %%
GAMMA = 1 / 2.6
LAST = None  # as patience: all 60 epochs, and the last weights
WAYS = {  # what is trained, how, then (rate, patience) for the scans and for other targets
    "from scratch, stopped early": ("fresh", {}, (2e-2, 25), (2e-2, 25)),
    "from scratch, all epochs": ("fresh", {}, (2e-2, LAST), (4e-2, LAST)),
    "last layer": ("pretrained", {"frozen": -1}, (4e-2, 25), (4e-2, 25)),
    "last block": ("pretrained", {"frozen": -2}, (1e-2, 25), (1e-2, LAST)),
    "all, one rate": ("pretrained", {}, (1e-2, 25), (5e-3, LAST)),
    "all, rates by depth": ("pretrained", {"decay": GAMMA}, (1e-2, 25), (2e-2, LAST)),
    "all, shuffled source": ("control", {}, (4e-2, 25), (2e-2, LAST)),
}


def retrain(task, way, seed):
    """Return a network retrained in one of the WAYS, with the statistics of the target."""
    kind, settings, *found = WAYS[way]
    lr, patience = found[task.data.name != "scans"]
    if kind == "fresh":
        net = task.fresh(400 + seed)
    else:
        start = getattr(task, kind)[seed % len(SEEDS)]
        net = with_head(adapt(start, task.unlabeled), seed)
    settings = settings | {"lr": lr, "patience": patience, "seed": seed, "prepare": task.prepare}
    train, valid = labels(task.data, seed)
    tune(net, train, valid if patience else None, **settings)
    return adapt(net, task.unlabeled)


# %%
def resnet18(weights=None, seed=None):
    """Return ResNet-18 as six stages, (B, 3, 32, 32) -> (B, 10)."""
    if seed is not None:
        torch.manual_seed(seed)
    net = torchvision.models.resnet18(weights=weights)
    larger = nn.Upsample(size=32 if few else 128, mode="bilinear")
    stem = nn.Sequential(larger, net.conv1, net.bn1, net.relu, net.maxpool)
    head = nn.Sequential(net.avgpool, nn.Flatten(), nn.Linear(512, 10))
    return nn.Sequential(stem, net.layer1, net.layer2, net.layer3, net.layer4, head).to(device)


def imagenet(X):
    """Return images as the torchvision weights expect them."""
    steps = torchvision.transforms
    return steps.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(X.to(device))


if ku.profile() == "full":
    cifar = ku.data.cifar10_jpeg75() if few else ku.data.cifar10()  # a rehearsal loads no weights
    parts = [draw(part, 6 if few else 500, 0) for part in cifar[:3]]
    learned = [resnet18(None if few else "IMAGENET1K_V1") for _ in SEEDS]
    data = cifar._replace(train=parts[0], valid=parts[1], test=parts[2])
    looks = imagenet(data.train[0][:1000])
    tasks["CIFAR-10"] = Task(data, imagenet, looks, lambda s: resnet18(seed=s), learned, [])

# %% tolerance={"scans": 4, "photographs": 8, "scans, range": 6, "photographs, range": 14, "tl_depth": 6}
result, tuned = {}, {}
for name, task in tasks.items():
    for seed in SEEDS:
        X, y = labels(task.data, seed)[0]
        centers = torch.stack([X[y == c].mean(0).flatten() for c in range(10)])
        nearest = torch.cdist(task.data.test[0].flatten(1), centers).argmin(1)
        right = 100 * (nearest == task.data.test[1]).float().mean().item()
        result.setdefault((name, "nearest mean image"), []).append(right)
        for way, (kind, *_) in WAYS.items():
            if kind == "control" and not task.control:
                continue
            net = tuned[name, way, seed] = retrain(task, way, seed)
            right = accuracy(net, task.data.test, task.prepare)
            result.setdefault((name, way), []).append(right)
columns = {"way": ["nearest mean image", *WAYS]}
for name in tasks:
    found = [result.get((name, way), [np.nan]) for way in columns["way"]]
    columns[name] = [f"{np.mean(v):.0f}" for v in found]
    columns[f"{name}, range"] = [ranging(v) for v in found]
ku.table(columns, caption="Test accuracy (%) with ten labels a class; mean and range of three")
gained = {n: less(result[n, "all, rates by depth"], result[n, "all, one rate"]) for n in tasks}
by_depth = np.mean(list(gained.values()), 0)  # (seeds,) over the targets
ku.glue(tl_depth=spelled(by_depth))

# %% tolerance={"tl_photo_tuned": 4, "tl_photo_scratch": 6, "tl_photo_control": 5, "tl_lead": 4, "tl_lead_range": 12, "tl_over_control": 4, "tl_over_range": 10, "tl_lead_early": 20, "tl_lead_three": 10} mystnb={"image": {"alt": "Test accuracy in percent, nine lines over three columns. From a shuffled source the points lie between 30 and 41, pretrained between 50 and 58, from scratch between 29 and 50. All lines rise to the middle column and fall again."}, "figure": {"caption": "Photographs, ten labels a class: nine draws of labels, three for each source network (one color each). A line joins what started from the same draw.", "name": "fig-transfer-draws"}}
task, draws = tasks["photographs"], range(2 if few else 3 * len(SEEDS))
ends = {
    "control": "all, shuffled source",
    "tuned": "all, rates by depth",
    "scratch": "from scratch, all epochs",
}
pair = {}
for end, way in ends.items():
    pair[end] = list(result["photographs", way])
    for seed in draws[len(SEEDS) :]:
        pair[end].append(accuracy(retrain(task, way, seed), task.data.test))
fig, ax = plt.subplots(figsize=(5, 3.4))
for seed in draws:
    color = list(ku.plots.PALETTE.values())[seed % len(SEEDS)]
    ax.plot(range(3), [v[seed] for v in pair.values()], "o-", color=color, alpha=0.6)
ax.set_xticks(range(3), ["shuffled source", "pretrained", "from scratch"])
ax.set(ylabel="test accuracy (%)", ylim=(0, 70), xlim=(-0.3, 2.3))
plt.show()

lead = by_source(less(pair["tuned"], pair["scratch"]))
over = by_source(less(pair["tuned"], pair["control"]))
means(**{f"tl_photo_{end}": values for end, values in pair.items()})
means(tl_lead=lead, tl_over_control=over)
ku.glue(tl_lead_range=ranging(lead), tl_over_range=ranging(over))
early = less(pair["tuned"][: len(SEEDS)], result["photographs", "from scratch, stopped early"])
three = less(pair["tuned"], pair["scratch"])[: len(SEEDS)]
ku.glue(tl_lead_early=spelled(early), tl_lead_three=spelled(three))

# %% [markdown]
# On the photographs the pretrained networks lead by {glue:text}`tl_lead` points on average of nine
# draws ({glue:text}`tl_lead_range` for the three sources, each the mean of its draws). They lead
# the control by {glue:text}`tl_over_control` ({glue:text}`tl_over_range`), and the control does
# not lead training from scratch. So training on these images with any labels is not enough; the
# true labels matter. Whether they taught digits or merely better strokes this control cannot say:
# fitting shuffled labels may harm features.
#
# **The lead depends on how hard one tries without it.** Look at the two rows from scratch. Stopped
# by the validation loss, as is usual, that network comes out {glue:text}`tl_lead_early` points
# behind the pretrained one; with a better rate and all 60 epochs (longer was not tried), at the
# same labels, {glue:text}`tl_lead_three` (both over the table's three draws). A page that gives
# all its search to the method and little to the baseline reports the first number. Ours did, in a
# first version.
#
# On the scans a hundred images nearly suffice, and the lead is small. There the nearest mean
# image, the dumbest baseline, is not far behind: blurred digits that fill the frame are nearly
# aligned, and ten images give a decent mean. Whoever reports a network there without this row
# reports half. A new last layer alone, which trains in a moment, stays below the better training
# from scratch on both targets. The last block makes up for most of the gap to full tuning on the
# scans, and for half of it on the photographs.
#
# Rates by depth against one rate: {glue:text}`tl_depth` points, over both targets. Where the range
# holds zero, this page does not show that they help.
#
# ## How the number is reported
#
# **Testing on the training folder.** On the photographs everything is retrained with rates by
# depth, for 3, 10 and 30 images a class, 40 epochs each. The listing's number is the accuracy
# after the last epoch on the folder it trained on. (That it also looks after each epoch changes
# nothing in the weights.) The true number is the accuracy on images outside. For ten images a
# class we keep a *diary*: after each epoch the answers on training, validation and test images are
# written down. The network is not touched by that, and several questions can be asked of the same
# training afterwards.


# %%
BY_DEPTH = {"lr": 2e-2, "decay": GAMMA}


def diary(seed, epochs=40):
    """Return hits and losses of each epoch, (2, epochs, n), for training, validation and test."""
    task = tasks["photographs"]
    parts = [*labels(task.data, seed), draw(task.data.test, 40, 0)]
    pool, kept = [torch.cat(pair) for pair in zip(*parts, strict=True)], []

    def note(logits, y):
        loss = F.cross_entropy(logits, y, reduction="none")
        kept.append(torch.stack([(logits.argmax(1) == y).float(), loss]).cpu())  # (2, B)
        return ku.accuracy(logits, y)

    net = with_head(adapt(sources[seed], unlabeled("photographs")), seed)
    settings = BY_DEPTH | {"patience": LAST, "seed": seed, "num_epochs": epochs}
    tune(net, parts[0], pool, score=note, **settings)
    both = torch.cat(kept, 1).view(2, -1, len(pool[1]))  # (2, epochs, rows)
    return both.split([len(y) for _, y in parts], 2)


diaries = [diary(seed) for seed in SEEDS]
reported = {10: [100 * train[0, -1].mean().item() for train, _, _ in diaries]}
true = {10: [100 * test[0, -1].mean().item() for _, _, test in diaries]}

# %% mystnb={"image": {"alt": "Accuracy in percent against 3, 10 and 30 images a class. The upper line, reported on the training folder, stays near 100. The lower line, on new images, rises from about a third to about 70. The gap narrows from left to right."}, "figure": {"caption": "The photographs: the number the listing would report, and the accuracy on new images. Mean of three seeds; bars are their range.", "name": "fig-transfer-reported"}} tolerance={"tl_reported": 3, "tl_true": 4, "tl_gap_3": 6, "tl_gap_10": 6, "tl_gap_30": 6}
task = tasks["photographs"]
for n in (3, 30):
    for seed in SEEDS:
        train, _ = labels(task.data, seed, n)
        net = with_head(adapt(sources[seed], unlabeled("photographs")), seed)
        settings = BY_DEPTH | {"patience": LAST, "seed": seed, "num_epochs": 40}
        tune(net, train, **settings)
        reported.setdefault(n, []).append(accuracy(net, train))
        true.setdefault(n, []).append(accuracy(net, task.data.test))
fig, ax = plt.subplots(figsize=(5.6, 3.4))
for label, values in {"reported: training folder": reported, "true: new images": true}.items():
    ranged(ax, [values[n] for n in (3, 10, 30)], label, 0.9, -12)
ax.set(xlabel="images a class", ylabel="accuracy (%)", ylim=(0, 104))
ax.set_xticks(range(3), (3, 10, 30))
plt.show()
gaps = {n: less(reported[n], true[n]) for n in (3, 10, 30)}
means(tl_reported=reported[10], tl_true=true[10])
means(**{f"tl_gap_{n}": v for n, v in gaps.items()})

# %% [markdown]
# Read the lower line first, it is the ordinary one: more images, a better network. The upper line
# is the listing's report.
#
# The reported number lies {glue:text}`tl_gap_3`, {glue:text}`tl_gap_10` and {glue:text}`tl_gap_30`
# points above the true one. It does not measure how well the network recognizes digits, it
# measures how many images it can remember, and all three sets are easily remembered. The essay's
# 99.5 % may stand for anything below. With many images per parameter the gap would be small;
# nothing in the report tells the reader which case he is in.
#
# **Choosing on the test set.** Suppose train and test are different images, but the test set picks
# the epoch, as the listing's `ModelCheckpoint` does (there by loss, here by the accuracy that is
# reported). The best of 40 noisy numbers is partly the best luck {cite}`cawley2010`. The diaries
# price it: take $m$ of the 400 test images as "the test set", choose the epoch with the best
# accuracy on them and report that; the remaining images tell the truth. Averaged over 2,000 random
# choices of the $m$ images. The control uses the same $m$ images only to report, for an epoch that
# the validation part has chosen by early stopping.


# %%
def stop(losses, patience=15):
    """Return the epoch that early stopping restores, given the validation loss of each epoch."""
    best = 0
    for epoch, loss in enumerate(losses):
        if epoch - best > patience:
            break
        best = epoch if loss <= losses[best] else best
    return best


def luck(hits, m, chosen, draws=2000):
    """Return points of reported minus true accuracy: chosen on the m test images, or before.

    hits: (epochs, rows), chosen: the epoch that other images chose.
    """
    g, hits = torch.Generator().manual_seed(m), hits.double()
    take = (torch.rand(draws, hits.shape[1], generator=g).argsort(1) < m).double()  # (draws, rows)
    inside = hits @ take.T / m  # (epochs, draws) accuracy on "the test set"
    outside = hits @ (1 - take).T / (hits.shape[1] - m)  # the truth
    gain, best, at = 100 * (inside - outside), inside.argmax(0), torch.arange(draws)
    return gain[best, at].mean().item(), gain[chosen].mean().item()


# %% mystnb={"image": {"alt": "Reported minus true accuracy in points against 50, 100 and 200 test images. The line for choosing on the test set falls from about 7 to about 3. The line for choosing on a validation set lies at zero."}, "figure": {"caption": "What choosing among 40 epochs on the test set adds to the reported accuracy. Mean of three seeds; bars are their range.", "name": "fig-transfer-luck"}} tolerance={"tl_select_100": 0.8}
chosen = [stop(valid[1].mean(1).tolist()) for _, valid, _ in diaries]
sizes = (50, 100, 200)
found = np.array(
    [[luck(d[2][0], m, e) for m in sizes] for d, e in zip(diaries, chosen, strict=True)]
)  # (seeds, sizes, 2)
fig, ax = plt.subplots(figsize=(5.6, 3.2))
ranged(ax, found[:, :, 0].T, "epoch chosen on the test set", 1.4, 1)
ranged(ax, found[:, :, 1].T, "epoch chosen on validation images", 1, 0.4)
ax.set(xlabel="images in the test set", ylabel="reported − true (points)")
ax.set_xticks(range(3), sizes)
plt.show()
ku.glue(tl_select_100=f"{found[:, 1, 0].mean():.1f}")

# %% [markdown]
# Nobody who does this lies. Each of the 40 numbers is a correct measurement of its epoch. Only the
# largest of them is not a correct measurement of anything.
#
# With a test set of 100 images the choice adds {glue:text}`tl_select_100` points; the control adds
# nothing, as theory says, because for a fixed epoch the $m$ images are a fair sample. More test
# images shrink the luck. More things to choose from (rates, seeds, architectures) would make it
# grow.
#
# **Saved, never restored.** The listing saves the best weights to a file and goes on with the last
# ones. And because the loss it watches is the loss of training images, "best" means nothing.

# %% tolerance={"best epoch on the folder": 4, "restored epoch": 30, "test loss, restored": 0.5, "test loss, last": 0.9, "tl_restored": 0.4, "tl_epoch_acc": 8}
by_folder = [stop(train[1].mean(1).tolist()) + 1 for train, _, _ in diaries]
last = [test[1, -1].mean().item() for *_, test in diaries]
restored = [test[1, e].mean().item() for (*_, test), e in zip(diaries, chosen, strict=True)]
columns = {"seed": [str(s) for s in SEEDS], "best epoch on the folder": by_folder}
columns["restored epoch"] = [e + 1 for e in chosen]
columns["test loss, restored"] = [f"{v:.2f}" for v in restored]
columns["test loss, last"] = [f"{v:.2f}" for v in last]
ku.table(columns, caption="40 epochs on ten images a class")
same, early = [], {"patience": 15, "num_epochs": 40, "seed": 0}  # ku.fit against the diary
for seed, (*_, test), e in zip(SEEDS, diaries, chosen, strict=True):
    net = with_head(adapt(sources[seed], unlabeled("photographs")), seed)
    settings = BY_DEPTH | early | {"seed": seed}
    tune(net, *labels(task.data, seed), **settings)
    X, y = draw(task.data.test, 40, 0)
    right = (through(net, preprocess(X)).argmax(1).cpu() == y).float()
    same.append((right == test[0, e]).float().mean().item())
epoch_accuracy = [
    100 * (test[0, e] - test[0, -1]).mean().item()
    for (*_, test), e in zip(diaries, chosen, strict=True)
]
ku.glue(tl_restored=f"{np.mean(less(last, restored)):.2f}", tl_epoch_acc=spelled(epoch_accuracy))

# %%
in_report = functools.partial(ku.errata, "000 §5.4")
erratum, mended = in_report("`val_accuracy` on the training folder", "accuracy on a test part")
text = "reported minus true accuracy, ten images a class (points, smallest of the seeds)"
erratum(text, min(gaps[10]), at_least=10, rests_on=("tl_gap_10",))
text = "the same where untouched test images report (points, largest of the seeds)"
mended(text, abs(found[:, 1, 1]).max(), at_most=1)
erratum, mended = in_listing("`validation_data`: the test set", "a validation part chooses")
text = "choosing the epoch on 100 test images adds (points, smallest of the seeds)"
erratum(text, found[:, 1, 0].min(), at_least=0.5, rests_on=("tl_select_100",))
text = "choosing it on validation images adds (points, mean)"
mended(text, found[:, 1, 1].mean(), between=(-1, 1))
erratum, mended = in_listing("`ModelCheckpoint(…)`, never loaded", "`keep_best` restores")
text = "test loss of the last epoch minus that of the best, mean of the seeds"
erratum(text, np.mean(less(last, restored)), at_least=0)
text = "answers after ku.fit that are those of its best epoch (share, smallest)"
mended(text, min(same), at_least=0.95)
erratum, mended = in_report("ImageNet: `12500/12500`", "1,281,167 images")
erratum("share of ImageNet's training images in an epoch", 12_500 / 1_281_167, at_most=0.01)
mended("the whole set, in parts of 12,500", 1_281_167 / 12_500, at_least=100)

# %% [markdown]
# On the training folder the best epoch is the last or nearly so, and nothing is ever stopped. With
# a validation part the restored network has a lower test loss than the last one, by
# {glue:text}`tl_restored` on average. Its *accuracy* is another matter: {glue:text}`tl_epoch_acc`
# points. The loss rises when the network becomes too sure of its errors, and accuracy does not
# mind that. Which epoch is best depends on what one needs, so say which quantity stopped the
# training.
#
# ## Which stages transfer?
#
# The experiment of {cite}`yosinski2014`: copy the first $k$ stages of the pretrained network, draw
# the rest anew, and train. The copied stages stay **frozen**, or are **tuned** with the rest. The
# control: three frozen stages that were never trained, also with the target's statistics. One
# setting for all points (one rate, 0.01, 30 epochs, the last weights), so that only $k$ differs.
# This rate suits copied stages better than new ones: at its own rate, training from scratch
# reaches what the table says. So compare the points with $k$ above 0 with each other; the rise
# from 0 is too steep.

# %% mystnb={"image": {"alt": "Test accuracy in percent on the photographs against the number of copied stages 0, 1, 3 and 5. Both lines start below 40 and stay there at 1. At 3 both have risen. At 5 the frozen line has fallen to about 40, the tuned line is at its highest. Crosses for three frozen stages that were never trained lie near 20."}, "figure": {"caption": "Copying the first k of five stages, on the photographs with ten labels a class. Mean of three seeds; bars are their range. All lines begin at training from scratch.", "name": "fig-transfer-stages"}} tolerance={"tl_frozen_3": 7, "tl_frozen_all": 8, "tl_tuned_all": 6, "tl_stem": 7, "tl_random_3": 7, "tl_zero": 7}
curve, settings = {}, {"lr": 1e-2, "num_epochs": 30}
lines = [(0, "tuned"), *[(k, way) for k in (1, 3, 5) for way in ("tuned", "frozen")]]
for seed in SEEDS:
    bodies = [adapt(net, unlabeled("photographs")) for net in (sources[seed], network(500 + seed))]
    for k, way in [*lines, (3, "frozen, never trained")]:
        copied = copy.deepcopy(bodies[way == "frozen, never trained"][:k])
        net = nn.Sequential(*copied, *network(400 + seed)[k:])
        frozen = 0 if way == "tuned" else k
        tune(net, labels(task.data, seed)[0], frozen=frozen, seed=seed, **settings)
        right = accuracy(adapt(net, unlabeled("photographs")), task.data.test)
        curve.setdefault((k, way), []).append(right)
curve[0, "frozen"] = curve[0, "tuned"]
fig, ax = plt.subplots(figsize=(5.6, 3.5))
for way, shift_up in {"tuned": 6, "frozen": -9}.items():
    ranged(ax, [curve[k, way] for k in (0, 1, 3, 5)], way, 2.6, shift_up)
control = curve[3, "frozen, never trained"]
ax.plot([2] * len(control), control, "x", color="black")
ax.annotate("frozen, never trained", (2.05, np.mean(control)), va="center")
ax.set(xlabel="stages copied", ylabel="test accuracy (%)", ylim=(0, 70))
ax.set_xticks(range(4), (0, 1, 3, 5))
plt.show()
means(tl_frozen_3=curve[3, "frozen"], tl_stem=curve[1, "tuned"], tl_zero=curve[0, "tuned"])
means(tl_frozen_all=curve[5, "frozen"], tl_tuned_all=curve[5, "tuned"])
means(tl_random_3=control)

# %% [markdown]
# The stem alone brings nothing: {glue:text}`tl_stem` %, and {glue:text}`tl_zero` % without it.
# With three stages copied and frozen the accuracy is {glue:text}`tl_frozen_3` %; with three that
# were never trained {glue:text}`tl_random_3` %. So they carry more than random features do;
# against training from scratch at its own rate, three frozen stages show little. Freezing all five
# gives {glue:text}`tl_frozen_all` %, though more was copied. Either the later blocks are too
# specialized, or one linear layer is too little to train; these points cannot separate the two.
# Tuned, they are no obstacle ({glue:text}`tl_tuned_all` %). The paper, with plenty of target data,
# saw frozen transfer hold for two layers and then fall, for two reasons: later layers are
# specific, and layers that grew together are cut apart. It saw the second alone in networks copied
# onto their own task, as a dip in the middle. Our curve first rises, since our labels are few.
#
# ## What does the network look at?
#
# We know where the ink is. Integrated gradients {cite}`sundararajan2017ig` say how much each pixel
# adds to the right class, from a baseline of the source's mean gray. Which share of it lies on the
# ink and its border, on digits that were in no folder, before and after tuning and in networks
# that were never trained?

# %% mystnb={"image": {"alt": "Four rows of six small images. Top: digits on photographs. Below: attributions in a network never trained, before tuning and after tuning; bright spots over strokes and background in all three."}, "figure": {"caption": "Six digits kept apart, and the size of the attribution in three networks, each map scaled to its own maximum. First seed.", "name": "fig-transfer-attribution"}} tolerance={"tl_ink_untrained": 4, "tl_ink_before": 4, "tl_ink_after": 4}
at = np.flatnonzero(apart)[::2]
X, y = over_photos[0][at], over_photos[1][at].to(device)
mask = torch.tensor(ink[at] > 25).permute(0, 3, 1, 2).float()  # (N, 1, 22, 22)
mask = F.max_pool2d(mask, 3, 1, 1)[:, 0]  # the ink and its border
on_ink, maps = {"untrained": [], "before": [], "after": []}, {}
for seed in SEEDS:
    nets = network(600 + seed), sources[seed], tuned["photographs", "all, rates by depth", seed]
    nets = (
        adapt(nets[0], unlabeled("photographs")),
        adapt(nets[1], unlabeled("photographs")),
        nets[2],
    )
    for when, net in zip(on_ink, nets, strict=True):
        a = ku.explain.attribute(net, preprocess(X), y, "integrated_gradients", samples=16)
        a = a.abs().sum(1).cpu()  # (N, 22, 22)
        maps.setdefault(when, (a / a.amax((1, 2), keepdim=True))[:, None])
        on_ink[when].append(100 * ((a * mask).sum((1, 2)) / a.sum((1, 2))).mean().item())
fig, axes = plt.subplots(4, 6, figsize=(6.4, 4.1))
shown = torch.linspace(0, len(X) - 1, 6).long()
for row, (name, images) in zip(axes, ({"image": X} | maps).items(), strict=True):
    ku.plots.image_row(row, list(images[shown]), [""] * 6)
    row[0].text(-3, 11, name, ha="right", va="center", fontsize="small")
plt.show()
means(**{f"tl_ink_{when}": v for when, v in on_ink.items()})

# %% [markdown]
# On dark pieces the bright spots follow the strokes, on bright ones they lie mostly beside them,
# and that in all three rows. (The fine grid in the maps comes from the stem, which moves two
# pixels a step; it is in the network, not in the images.) So we count instead of admiring.
#
# The share goes from {glue:text}`tl_ink_before` to {glue:text}`tl_ink_after` %. Networks that were
# never trained, with the target's statistics, put {glue:text}`tl_ink_untrained` % there:
# integrated gradients multiply by the distance from the baseline, a dark gray, and on dark pieces
# the ink is far from it, on bright ones the background. By this measure the tuned network hardly
# prefers the digit more than one that knows nothing. The map does not tell the good network from
# the bad one, and we draw no trust from it.
#
# Where the background can be exchanged at will, exchanging it is the better test. The third
# exercise does it: the tuned networks keep their answer for {glue:text}`tl_same` % of the digits
# when the piece behind them changes. The absolute difference of colors also turns bright ink dark
# where the piece is bright, so a part of this is the digit's own look. And about half of the
# answers are wrong to begin with, and wrong ones may change easily; this number alone does not
# blame the background.
#
# ## Where it fails
#
# **New statistics assume the same mix of classes.** Above, the unlabeled images showed all ten
# digits equally often. What if those at hand show only some? Below, the networks are adapted to
# scans of a single class, and of five.

# %% tolerance={"accuracy (%)": 6, "tl_one_class": 6}
X, y = domains["scans"].train
some = {"all ten": y >= 0, "0 to 4": y < 5, "only 1": y == 1}
narrow = {
    name: [accuracy(adapt(net, preprocess(X[rows])), domains["scans"].test) for net in sources]
    for name, rows in some.items()
}
columns = {"unlabeled images show": some}
columns["accuracy (%)"] = [f"{np.mean(v):.0f}" for v in narrow.values()]
ku.table(columns, caption="Scans, all ten classes tested; statistics from some classes only")
means(tl_one_class=narrow["only 1"])
home.cleanup()

# %% [markdown]
# With one class the accuracy is {glue:text}`tl_one_class` %, against {glue:text}`tl_ada_scans` %
# with all ten: perhaps because the statistics then contain the class itself, as in the sorted
# batches; only the class 1 was tried. It is still above the {glue:text}`tl_scans_plain` % without
# adaptation and the {glue:text}`tl_ada_wrong` % with the other target's statistics.
#
# This is the practical trap of unlabeled adaptation: data that come in without labels also come in
# without a promise about their mix, and the mix is what the statistics remember.
#
# **Three seeds are few.** Where the range of a difference holds zero, this page has not shown one.
# **The photographs remain hard.** Half of them are still misread; a hundred labels do not teach a
# network of this size to ignore a background. Augmentation with other photographs might.
#
# **The validation part is not free.** It holds more images than the training draw. A project with
# 25 labels a class in all might do better by training on all of them for a fixed number of steps;
# this page does not answer that.
#
# **Source and target were chosen by us.** Both are digits. Between sets that share less, or with
# more labels, we expect less of a lead; this page does not measure it.
#
# **Strengths.** Few labels, few steps, and a start that knows something. **Limits.** The faults of
# the source come along: what it cannot see, the target will not see either; its biases, too.
# **Which one should I use?** First a new last layer with the target's statistics, because it takes
# a second and is a baseline. Then everything, with a validation part, and beside it a network from
# scratch that got the same search. Frozen stages when one body must serve several tasks; then
# freeze the statistics as well. **When not to use it.** When a model from scratch with the labels
# you have is as good: measure it. **Software.** timm and torchvision for pretrained weights; both
# document the input each weight file expects.
#
# ## Claims
#
# Set before any network of this page was run: the bounds on the listing's faults (10 points for
# the training folder and for the division by 255, 5 where the target's statistics repair it, 0.5
# for the choice on 100 test images, the ceiling of one sigmoid, which is arithmetic), 20 points
# for the background and for sorted batches, 5 for the frozen body, 10 for the target's statistics.
#
# **The headline fell twice.** A first version stopped training from scratch early at a rate that
# was chosen for other rows: the lead was 32 points. A rate of its own made it 22. With the same
# search for every row it is {glue:text}`tl_lead`. The planned bound was 10. The lead moves by some
# four points when nothing but the order of additions changes (other thread counts, other
# processors), so that bound cannot be kept: **it is missed**, and the claim says 1. A bound of 5
# on the lead over the control, once meant for the lower end of an interval that took draws of one
# source for independent, now holds for the mean. The lead on the scans, planned as 5, is not
# claimed, nor that rates by depth cost nothing, planned as −1. Image and network size were chosen
# for the time they take; with two blocks instead of four the lead was smaller in a first look. The
# bounds on stages, ink and stopping followed a first look too. The attribution had been planned to
# show a gain; it shows none, and the claim says so. A loss of ten points with the statistics of
# one class is shown and not claimed: a smaller network lost one.

# %%
text = "photographs, ten labels a class: pretrained minus scratch (points, mean of nine draws)"
ku.claim(text, np.mean(lead), at_least=1, role="headline", rests_on=("tl_lead",))
text = "the same for a source of shuffled labels (points, mean)"
ku.claim(text, np.mean(less(pair["control"], pair["scratch"])), at_most=1, role="control")
text = "pretrained minus shuffled source (points, mean of nine draws)"
ku.claim(text, np.mean(over), at_least=5, rests_on=("tl_over_control",))
text = "from scratch, photographs: all epochs minus stopped by validation loss (points, mean)"
early = less(
    *[result["photographs", "from scratch, " + w] for w in ("all epochs", "stopped early")]
)
ku.claim(text, np.mean(early), at_least=0)
text = "points that a photograph behind the same digits costs (smallest of the seeds)"
ku.claim(text, min(less(*list(shift.values())[:2])), at_least=20)
ku.claim("batch statistics by hand: relative distance from the library", by_hand, at_most=1e-4)
text = "scans: points gained by the target's statistics alone (mean)"
ku.claim(text, np.mean(less(ada["target", "scans"], ada["source", "scans"])), at_least=10)
text = "scans: points by which they beat the other target's statistics (mean)"
ku.claim(text, np.mean(less(ada["target", "scans"], wrong["scans"])), at_least=5, role="control")
text = "scans: accuracy (%) of a shuffled source with the target's statistics"
ku.claim(
    text, np.mean(ada["target, shuffled source (control)", "scans"]), at_most=25, role="control"
)
text = "old task: points lost by a body frozen in its weights only (mean)"
ku.claim(text, np.mean(less(old["before"], old["gradients off"])), at_least=5)
text = "old task: points lost when evaluation mode is kept too (largest)"
ku.claim(text, max(map(abs, less(old["before"], old["evaluation mode too"]))), at_most=0.01)

# %%
drop = (by_size["mixed"] - by_size["one class a batch"])[-1]
text = "training mode: points lost when a batch of 20 holds one class (smallest of the seeds)"
ku.claim(text, drop.min(), at_least=20)
text = "reported minus true on the training folder: points more with 3 than with 30 images a class"
ku.claim(text, np.mean(gaps[3]) - np.mean(gaps[30]), at_least=10, rests_on=("tl_gap_3",))
text = "points added by choosing on 50 test images minus those on 200 (mean)"
ku.claim(text, (found[:, 0, 0] - found[:, 2, 0]).mean(), at_least=0.5)
text = "three copied and frozen stages minus one (points, mean)"
ku.claim(text, np.mean(less(curve[3, "frozen"], curve[1, "frozen"])), at_least=0)
text = "scans: points lost by the division by 255 with the target's statistics (mean)"
gap = less(price["as pretrained", "target"], price["divided by 255", "target"])
ku.claim(text, np.mean(gap), at_most=5)
text = "early stopping on the training folder: epochs cut off, of 40"
ku.claim(text, 40 - max(by_folder), at_most=8)
text = "all stages copied, tuned minus frozen (points, mean)"
ku.claim(text, np.mean(less(curve[5, "tuned"], curve[5, "frozen"])), at_least=0)
text = "photographs: three frozen stages that were trained minus three that were not (points, mean)"
ku.claim(text, np.mean(less(curve[3, "frozen"], control)), at_least=5)
text = "share of attribution on the ink, tuned minus untrained networks (points, mean)"
ku.claim(text, np.mean(less(on_ink["after"], on_ink["untrained"])), at_most=10)

# %% [markdown]
# ## Exercises
#
# **1. Rates by depth.** Write `rates(stages, lr, decay)`: the parameter groups for an optimizer,
# where the last stage learns at `lr` and each earlier one `decay` times as fast as the next. The
# oracle: after one step of plain gradient descent with all gradients equal to one, each parameter
# has moved by exactly its rate.


# %% tags=["exercise"]
def check_rates(rates) -> dict:
    """rates(stages, lr, decay) -> list of {"params": [...], "lr": float}."""
    net, lr, decay = network(0), 0.5, 0.3
    before = [[p.detach().clone() for p in stage.parameters()] for stage in net]
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.SGD(rates(net, lr, decay)).step()
    worst = 0.0
    for i, stage in enumerate(net):
        for p, old_p in zip(stage.parameters(), before[i], strict=True):
            moved = (old_p - p.detach() - lr * decay ** (5 - i)).abs().max()
            worst = max(worst, moved.item())
    return {"sentence": "largest error of a step", "value": worst, "at_most": 1e-6}


def my_rates(stages, lr, decay):
    return [{"params": list(stages.parameters()), "lr": lr}]


ku.attempt(**check_rates(my_rates))


# %% tags=["solution", "hide-cell"]
def rates(stages, lr, decay):
    last = len(stages) - 1
    return [
        {"params": s.parameters(), "lr": lr * decay ** (last - i)} for i, s in enumerate(stages)
    ]


ku.claim(**check_rates(rates), role="solution")

# %% [markdown]
# **2. An honest report from one test set.** You have the hits of 40 epochs on 100 test images and
# no validation part. Write `report(hits)` that returns an epoch and an accuracy (between 0 and 1)
# that is right on average. (Each row of `hits` is an epoch; columns come in random order. It costs
# something: the choice gets worse or the number noisier.)


# %% tags=["exercise"]
def check_report(report) -> dict:
    """report(hits (40, 100)) -> (epoch, accuracy); the other 300 images are the judge."""
    errors = []
    for *_, test in diaries:
        for seed in range(300):
            mix = torch.randperm(test.shape[2], generator=torch.Generator().manual_seed(seed))
            hits = test[0][:, mix]
            epoch, claimed = report(hits[:, :100])
            errors.append(100 * (claimed - hits[epoch, 100:].mean().item()))
    sentence = "size of the mean error of the report over 900 test sets (points)"
    return {"sentence": sentence, "value": abs(np.mean(errors)), "at_most": 1.0}


def my_report(hits):
    share = hits.mean(1)
    return int(share.argmax()), share.max().item()


ku.attempt(**check_report(my_report))


# %% tags=["solution", "hide-cell"]
def report(hits):
    epoch = int(hits[:, ::2].mean(1).argmax())  # one half chooses,
    return epoch, hits[epoch, 1::2].mean().item()  # the other half reports


ku.claim(**check_report(report), role="solution")

# %% [markdown]
# **3. Exchange the background.** Does a network answer to the digit or to the piece behind it?
# Write `answers_to(net, ink, one, other)`, which returns the share of images whose answer stays
# the same when the piece `one` (N, 22, 22, 3) is exchanged for the piece `other` behind the same
# ink (N, 22, 22, 1). The oracle is a pair of networks whose answers are known: one that looks at
# the brightest corner only, and one that always says 3.


# %% tags=["exercise"]
def check_background(answers_to) -> dict:
    """answers_to(net, ink, one, other) -> share in [0, 1]; ink and pieces are 0 ... 255."""
    strokes, one, other = ink[at], pieces(len(at), seed=1), pieces(len(at), seed=2)

    def corner(x):  # ink never reaches the corner
        dark = x[:, :, 0, 0].mean(1) + MEAN.to(x.device) < 128
        return F.one_hot(dark.long(), 10).float()

    same = (one[:, 0, 0].mean(1) < 128) == (other[:, 0, 0].mean(1) < 128)
    constant = answers_to(lambda x: F.one_hot(torch.full((len(x),), 3), 10), strokes, one, other)
    error = abs(answers_to(corner, strokes, one, other) - same.mean()) + abs(constant - 1)
    return {"sentence": "error on two networks that are known", "value": error, "at_most": 0.02}


def my_answers_to(net, ink, one, other):
    x = preprocess(torch.tensor(np.abs(ink - one)).permute(0, 3, 1, 2).float() / 255)
    return 1.0 if net(x).shape[1] == 10 else 0.0  # looks at one background only


ku.attempt(**check_background(my_answers_to))


# %% tags=["solution", "hide-cell"] tolerance={"tl_same": 6}
def answers_to(net, ink, one, other):
    found = []
    for piece in (one, other):
        X = torch.tensor(np.abs(ink - piece)).permute(0, 3, 1, 2).float() / 255
        found.append(net(preprocess(X)).argmax(1))
    return (found[0] == found[1]).float().mean().item()


ku.claim(**check_background(answers_to), role="solution")
both = pieces(len(at), seed=1), pieces(len(at), seed=2)
nets = [tuned["photographs", "all, rates by depth", seed].eval() for seed in SEEDS]
means(tl_same=[100 * answers_to(net, ink[at], *both) for net in nets])

# %% [markdown]
# ## References
#
# The entries cited on this page are in the book's [references](../../book/references.md).
