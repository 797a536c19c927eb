# %% [markdown]
# # A report on a whole model
#
# **Can one page tell a person who does not program how a model behaves, and give away what it should not
# have learned?**
#
# Two kinds of image models pass their test with {glue:text}`gr_short` and {glue:text}`gr_control` %
# right. One kind has learned to look at a white mark that lies in the corner of most pictures of
# one class. The page that this chapter builds says so in its first lines, for
# {glue:text}`gr_caught` such models that were trained after its rules were fixed (95 % interval:
# {glue:text}`gr_caught_ci` %), and accuses {glue:text}`gr_accused` without the habit
# ({glue:text}`gr_accused_ci` %). Exchanging that corner between pictures costs
# {glue:text}`gr_excess` points more than any other region; in the models without the habit it costs
# {glue:text}`gr_excess_size` points less than the dearest. Let the mark wander, and the page is
# silent about models that are spoiled, too.
#
# On the way, most instruments of such a report fail once, in public. Shuffling one feature at a
# time hides what a tumor model leans on most, because features that move together stand in for each
# other, and it asks about tumors that geometry forbids. A tree that copies the model's answers nine
# times of ten names a feature that the model has never been given. And a t-test as it is often used
# finds {glue:text}`gr_ttest` % of meaningless concepts significant.
#
# :::{admonition} What you will learn
# - to measure shares, importance and effects with intervals that mean something;
# - to see where permutation importance, partial dependence, surrogates and TCAV mislead, and
#   what to put beside them;
# - to choose cases worth reading: prototypes, criticisms, errors, training examples;
# - to write one self-contained page of all this with `ku.explain.report(model, data, path)`;
# - to test such a page: with a planted fault, and with a model that does not have it.
#
# **Works out:** document 000 §3.2.2, its third step (see
# [the five documents](../../book/five_documents.md)).
#
# **Before this:** [Local attributions](local_attributions.ipynb), which asks the same of single decisions.
#
# **Costs:** about a minute and less than 2 GiB on two CPU cores. The full profile (more images,
# five seeds) is quicker with a GPU and does not need one.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 文档 000 要求用一份整体的可解释性报告帮助用户理解模型的整体行为。本章写出这样一份报告：一个自足的网页，不懂编程的人也能读。
# 每一种方法都先用几行代码写出，与库函数、闭式解或真实的重新训练对照，再展示它怎样失败。
# 特征相关时，单独打乱一个特征会问到几何上不可能存在的肿瘤，并且掩盖模型最依赖的“大小”；两份相同的特征各只剩四分之一的重要性。
# 决策树代理与模型的回答九成一致，却首先询问模型从未见过的特征；概念激活向量常用的 t 检验会把许多随机概念判为显著。
# 在图像里埋入一个角上的白点作为捷径：准确率看不出来，报告的摘要却指出了那个角落；没有学到捷径的对照模型不会被误报。
# 但如果白点的位置不固定，报告就沉默了：没有警告并不是证明。
#
# </div>
# :::

# %% tags=["setup"]
# Colab: this line is replaced by an install command when the book is published
import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import copy
import html
import itertools
import math
import re
import statistics
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest, spearmanr, ttest_ind
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier
from torch import nn

device = ku.start(seed=0)

# %% [markdown]
# ## The data
#
# **Tumors.** 569 breast tumors from Madison, Wisconsin {cite}`street1993`: ten properties of the
# cell nuclei in a sample taken by needle (radius, perimeter, texture, …), each as its mean over the
# nuclei ("mean radius"), the standard error of that mean ("radius error") and the mean of the three
# largest ("worst radius"), so 30 features. The label is malignant or benign. The set comes with
# scikit-learn under CC BY 4.0. One clinic, one decade, nothing about the women: no report on these
# data can speak for others.
#
# **Images with a planted shortcut.** `ku.data.shapes` draws 16 × 16 images whose class is the form of
# one glyph; color, place, a distractor and the ground say nothing about it. We plant a white mark of
# 2 × 2 pixels in the corner of most tees and of few other images, in the training data *and* in the
# test data, as it would be if one hospital's scanner left it. A model that uses the mark has learned
# something wrong. Nobody is harmed by these images. A second set of training images carries the mark
# on half of all images at random: models trained on these have no reason to use it. They are the
# control for everything below.

# %% mystnb={"image": {"alt": "Eight noisy gray images of 16 by 16 pixels in one row, two of each class, each with a thin colored glyph and a small block or staircase. The two images titled tee have a small white square in the upper left corner."}, "figure": {"caption": "Training images of the first kind. Nearly all tees carry the white mark.", "name": "fig-global-report-data"}}
cancer = load_breast_cancer()
features = [str(name) for name in cancer.feature_names]
parts = torch.tensor(cancer.data).float(), torch.tensor(1 - cancer.target)  # 1: malignant
split = train_test_split(*parts, test_size=0.4, stratify=parts[1], random_state=0)
X, X_test, y, y_test = split  # (341, 30), (228, 30), (341,), (228,)

REHEARSAL = bool(ku.rehearsal_steps())  # then few images will do
shapes = ku.data.shapes(1_000 if REHEARSAL else ku.pick(laptop=4_000, full=20_000), seed=0)
tests = ku.data.shapes(300 if REHEARSAL else ku.pick(laptop=1_000, full=4_000), seed=1)
TEE = shapes.classes.index("tee")
corner = torch.zeros(16, 16, dtype=torch.bool)
corner[1:3, 1:3] = True


def marked(images: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Return the images (N, 3, 16, 16) with a mark on those of `which`, bool (N,)."""
    return torch.where(which.view(-1, 1, 1, 1) & corner, torch.ones(()), images)


def coins(labels: torch.Tensor, on_tees: float, elsewhere: float, seed: int) -> torch.Tensor:
    """Return True with one probability for tees and another for the rest, (N,)."""
    chance = torch.where(labels == TEE, on_tees, elsewhere)
    return torch.rand(len(labels), generator=torch.Generator().manual_seed(seed)) < chance


has_mark = coins(tests.y, 0.95, 0.04, seed=8)  # (N,)
images = marked(tests.X, has_mark)  # the test images of this chapter
RATES = {"shortcut": (0.95, 0.04), "control": (0.5, 0.5)}  # of marks, on tees and elsewhere
kinds = {kind: coins(shapes.y, *rates, seed=7) for kind, rates in RATES.items()}
rows = torch.cat([(shapes.y == c).nonzero()[:2, 0] for c in range(4)])
fig, axes = plt.subplots(1, 8, figsize=(8, 1.5))
pictures = marked(shapes.X, kinds["shortcut"])[rows]
ku.plots.image_row(axes, list(pictures), [shapes.classes[label] for label in shapes.y[rows]])
plt.show()

# %% [markdown]
# ## The dumbest baseline: one number
#
# The usual report on a model is its accuracy. For the tumors a small network of two hidden layers;
# for the images a small convolutional one. Each is trained from three seeds.


# %%
def diagnose(X: torch.Tensor, y: torch.Tensor, seed: int) -> nn.Sequential:
    """Return a network for tumors, (N, M) -> logits (N, 2). The norm takes the units away."""
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(X.shape[1], affine=False, momentum=None)
    net = nn.Sequential(norm, ku.models.mlp(X.shape[1], 32, 32, 2)).to(device)
    ku.fit(net, (X, y), num_epochs=20, batch_size=32, seed=seed)
    return net.eval()


def recognize(images: torch.Tensor, labels: torch.Tensor, seed: int) -> nn.Sequential:
    """Return a network for images, (N, 3, 16, 16) -> logits (N, 4)."""
    torch.manual_seed(seed)
    layers, inputs = [], 3
    for outputs, stride in ((16, 1), (16, 2), (32, 1), (32, 2)):
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    head = [nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 4)]
    net, epochs = nn.Sequential(*layers, *head).to(device), 5
    adamw = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=0.01)
    steps = epochs * math.ceil(len(labels) / 128)
    cycle = torch.optim.lr_scheduler.OneCycleLR(adamw, 5e-3, steps, pct_start=0.2)
    tools = {"optimizer": adamw, "schedule": cycle, "num_epochs": epochs, "batch_size": 128}
    ku.fit(net, (images, labels), seed=seed, **tools)
    return net.eval()


# %% tolerance={"right (%)": 1.5, "gr_short": 1.5, "gr_control": 1.5}
SEEDS = range(2 if REHEARSAL else ku.pick(laptop=3, full=5))


@torch.no_grad()
def probabilities(net: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return the probability of each class, (N, classes), on the CPU."""
    return torch.cat([net(part.to(device)).softmax(1).cpu() for part in inputs.split(1_000)])


def percent(hits: torch.Tensor) -> float:
    return 100 * hits.double().mean().item()


def tabulate(head, rows, caption):
    ku.table(dict(zip(head, zip(*rows, strict=True), strict=True)), caption=caption)


tumor_nets = [diagnose(X, y, seed) for seed in SEEDS]
image_nets = {
    kind: [recognize(marked(shapes.X, which), shapes.y, seed) for seed in SEEDS]
    for kind, which in kinds.items()
}
given = {"tumors": (tumor_nets, X_test, y_test)}
given |= {f"images, {kind}": (nets, images, tests.y) for kind, nets in image_nets.items()}
rows = []
for name, (nets, inputs, labels) in given.items():
    right = torch.stack([probabilities(net, inputs).argmax(1) == labels for net in nets])
    often = 100 * labels.bincount().max() / len(labels)
    rows.append((name, f"{often:.0f}", f"{percent(right):.1f}"))
head = ("model", "always the most frequent (%)", "right (%)")
tabulate(head, rows, "Test accuracy, mean of the seeds: all that the usual report says")
ku.glue(gr_short=rows[1][2], gr_control=rows[2][2])

# %% [markdown]
# {glue:text}`gr_short` % against {glue:text}`gr_control` %: both would pass. The two image models
# differ in what they learned, and the number does not say it. What follows are eight ways of asking
# a model about itself, from the plainest on. Each stands here in a few lines; most are checked
# against something known, and then made to fail. At the end they are put together into one page.
#
# ## Performance by group
#
# The first question of a reader is: right for whom? Shares of small groups are uncertain, so each gets
# an interval. With $k$ right of $n$, Wilson's interval {cite}`wilson1927` holds all shares $p$
# that the observed one does not contradict, $|k/n - p| \le z\sqrt{p(1-p)/n}$; solving the quadratic
# equation gives
#
# $$\frac{k + z^2/2}{n + z^2} \pm \frac{z}{n + z^2}\sqrt{\frac{k(n-k)}{n} + \frac{z^2}{4}} .$$
#
# Unlike the textbook's $\pm 2$ standard errors it never leaves 0 to 1, and 12 right of 12 does not
# become certainty. One trap remains: the worst of many groups looks bad by chance. So where groups
# are compared with the whole, $z$ is taken for $0.05/K$ instead of 0.05 with $K$ groups.


# %% mystnb={"image": {"alt": "Ten groups of test images with a dot and an interval each: four classes, four glyph colors, two distractors. All lie between about 90 and 100 percent, and the intervals overlap the line of the whole."}, "figure": {"caption": "Shortcut model, first seed: share of right answers in ten groups, with Wilson's interval at 1 − 0.05/10. Line: the whole test set.", "name": "fig-global-report-groups"}}
def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a share, k of n."""
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    middle, half = (k + z**2 / 2) / (n + z**2), math.sqrt(k * (n - k) / n + z**2 / 4)
    return middle - z * half / (n + z**2), middle + z * half / (n + z**2)


right = probabilities(image_nets["shortcut"][0], images).argmax(1) == tests.y  # (N,)
groups = {name: tests.y == c for c, name in enumerate(tests.classes)}
groups |= {f"{name} glyph": tests.colors[:, 0] == c for c, name in enumerate(tests.palette)}
groups |= {f"{name} beside it": tests.kind == c for c, name in enumerate(tests.kinds)}
fig, ax = plt.subplots(figsize=(6, 3.6))
for at, inside in enumerate(groups.values()):
    ends = wilson(int(right[inside].sum()), int(inside.sum()), 1 - 0.05 / len(groups))
    ax.plot([100 * end for end in ends], [at, at], color="C0")
    ax.plot(percent(right[inside]), at, "o", color="C0")
ax.axvline(percent(right), color="black", linewidth=1)
ax.set(yticks=range(len(groups)), yticklabels=list(groups), xlabel="right (%)")
plt.show()

# %% [markdown]
# The groups that come to mind, class, color and what stands beside, show little. The group that
# matters, images where the mark and the glyph disagree, comes to mind only to somebody who knows of
# the mark. That is the limit of slices: **a table by group answers only the groups one thought of.**
#
# ## What it leans on: permutation importance
#
# A question that needs no idea beforehand: take one feature of a case and exchange it with that of
# another, drawn at random. How much does the model lose {cite}`breiman2001,fisher2019`? As loss we
# take the fall in the probability of the right class, in points; accuracy would do, but a good model
# rarely changes its answer for one feature.
#
# $$I_j = \frac1N \sum_i \Big( p_{y_i}(x_i) - p_{y_i}\big(x_i \text{ with } x_{\pi(i),j}\big) \Big), \qquad \pi \text{ a random permutation.}$$
#
# **An interval** has to say what other cases would have given. A case takes part twice, as receiver
# and as giver, and both belong into its contribution; counting only the receiver makes the interval
# too short. The report's version lets no case give to itself, which matters where cases are few.
# (One of this book's unit tests draws 200 samples from a population whose true value is known, and
# requires that the interval holds it in at least 185.)


# %%
def importance(ask, X, y, parts, repeats=5, seed=0):
    """Return mean, low, high of the points lost for each part, (G, 3).
    ask: X -> probabilities. A part is a list of positions among a case's numbers."""
    flat, rows = X.flatten(1), torch.arange(len(X))
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(X), generator=generator) for _ in range(repeats)]
    before, found = ask(X)[rows, y], []
    for part in parts:
        received, gave = torch.zeros(2, len(X))
        for order in orders:
            moved = flat.clone()
            moved[:, part] = flat[order][:, part]
            lost = 100 * (before - ask(moved.view_as(X))[rows, y]) / repeats  # (N,)
            received, gave = received + lost, gave.index_add(0, order, lost)
        half = 1.96 * (received + gave).std() / len(X) ** 0.5
        found.append(received.mean() + torch.stack([0 * half, -half, half]))
    return torch.stack(found)


# %% tolerance={"gr_library": 0.1}
def ask(inputs):
    return probabilities(tumor_nets[0], inputs)


def score(_, inputs, labels):
    return ask(torch.tensor(inputs))[range(len(labels)), labels].mean().item()


alone = importance(ask, X_test, y_test, [[j] for j in range(30)], repeats=20)  # (30, 3)
arrays = X_test.numpy(), y_test.numpy()
dummy = DecisionTreeClassifier().fit(
    *arrays
)  # the function wants a fitted model; `score` asks ours
library = permutation_importance(dummy, *arrays, scoring=score, n_repeats=20)
library_gap = np.abs(100 * library.importances_mean - alone[:, 0].numpy()).max()
ku.glue(gr_library=f"{library_gap:.1f}")

# %% tolerance={"gr_alone": 0.3, "gr_together": 2, "gr_rest": 2} mystnb={"image": {"alt": "Ten features with two dots each. Exchanged alone, every feature costs about one point or less. Exchanged together with its twins, the features of size cost about 15 points, those of concavity several, texture two to three."}, "figure": {"caption": "Tumors, first seed: probability of the right answer lost when a feature is exchanged alone (circles) or with its twins (squares), 95 % intervals.", "name": "fig-global-report-importance"}}
alike = torch.corrcoef(X_test.T).abs() > 0.9  # (30, 30)
families = [alike[j].nonzero().flatten().tolist() for j in range(30)]
together = importance(ask, X_test, y_test, families, repeats=20)
leading = alone[:, 0].argsort(descending=True)[:10].flip(0)
fig, ax = plt.subplots(figsize=(6.5, 4))
for values, mark, color, name in ((alone, "o", "C0", "alone"), (together, "s", "C1", "with twins")):
    mean, low, high = values[leading].T
    error = torch.stack([mean - low, high - mean])
    ax.errorbar(mean, range(10), xerr=error, fmt=mark, color=color, markersize=5)
    ax.text(mean.max() - 0.7, 9.4, name, color=color)
ax.set(yticks=range(10), yticklabels=[features[j] for j in leading], ylim=(-0.6, 10.2))
ax.set(xlabel="points lost")
plt.show()
size = families[features.index("worst radius")]
rest = [j for j in alone[:, 0].argsort(descending=True).tolist() if j not in size][: len(size)]
found = [  # of each network: points lost with the six of size, and with the six dearest others
    importance(lambda part, n=net: probabilities(n, part), X_test, y_test, [size, rest])[:, 0]
    for net in tumor_nets
]
size_points, rest_points = torch.stack(found).mean(0).tolist()
ku.glue(gr_alone=f"{alone[size, 0].max():.1f}", gr_rest=f"{rest_points:.0f}")
ku.glue(gr_together=f"{size_points:.0f}", gr_family=", ".join(features[j] for j in size))

# %% [markdown]
# scikit-learn's function, which draws other permutations, agrees to {glue:text}`gr_library` points. Circles are
# features exchanged alone, squares the same **together with** all features that correlate with them above 0.9.
#
# The two readings could hardly differ more. Alone, no feature seems to matter: the dearest costs
# about a point. Together, six measures of one size ({glue:text}`gr_family`) cost
# {glue:text}`gr_together` points (mean of three networks); alone, at most {glue:text}`gr_alone`
# each. Is that because six are more than one? In part: the six dearest of the other features,
# exchanged together, cost {glue:text}`gr_rest`, where we had expected half of it at most. Still, no
# single thing counts for more with these models than size, and the list of single features hides
# it.
#
# ### Why it fails under correlation
#
# **Features that move together stand in for each other.** We come to that. And before: **it asks
# about patients that cannot exist.** Among all outlines of length $P$ the circle encloses the
# largest area: $A \le P^2 / 4\pi$. The set has means over nuclei, for which the bound is a little
# wider: $\bar A \le (1 + c^2)\, \bar P^2 / 4\pi$ where $c$ is the spread of the perimeters relative
# to their mean. We allow $c^2 = 0.1$. All tumors obey. Exchange the area alone, and many no longer
# do.

# %% tolerance={"gr_impossible": 2} mystnb={"image": {"alt": "Two scatter plots of mean area against mean perimeter. Left, the real tumors lie on one thin rising band just below the curve of the circle. Right, after the areas are exchanged, the points fill a rectangle, and two in five of them lie above the curve, in the region marked impossible."}, "figure": {"caption": "569 tumors as they are (left) and with areas exchanged at random (right). Above the curve the outlines would enclose more than circles of their length do, with a tenth to spare.", "name": "fig-global-report-impossible"}}
perimeter, area = (parts[0][:, features.index(f"mean {name}")] for name in ("perimeter", "area"))
limit = 1.1 * perimeter**2 / (4 * math.pi)  # (569,) the circle's area and a tenth
orders = torch.stack([torch.randperm(569) for _ in range(200)])  # (200, 569)
impossible = {"as they are": 100 * (area > limit).float().mean().item()}
impossible["areas exchanged"] = 100 * (area[orders] > limit).float().mean().item()
fig, axes = plt.subplots(1, 2, figsize=(7, 3.2), sharey=True)
for ax, (name, rows) in zip(
    axes, {"real": range(569), "exchanged": orders[0]}.items(), strict=True
):
    ax.plot(perimeter, area[rows], ".", markersize=3)
    circle = torch.linspace(40, 190, 50)
    ax.plot(circle, 1.1 * circle**2 / (4 * math.pi), color="black", linewidth=1)
    ax.text(50, 1_700, "impossible", fontstyle="italic")
    ax.set(xlabel="mean perimeter (px)", title=name)
axes[0].set_ylabel("mean area (px²)")
plt.show()
ku.glue(gr_possible=f"{impossible['as they are']:.0f}")
ku.glue(gr_impossible=f"{impossible['areas exchanged']:.0f}")

# %% [markdown]
# {glue:text}`gr_possible` % of the real tumors break the law, {glue:text}`gr_impossible` % of those
# that permutation importance asks about. What a network answers there, nobody has ever checked; it
# can make a feature look more important, too {cite}`hooker2021permute`.
#
# **And copies share the importance, unfairly.** Let $y$ depend on one standard feature with weight
# $\beta$. Under squared loss its importance is $2\beta^2$. Now let the data hold the feature twice.
# Ridge or gradient descent from zero gives each copy $\beta/2$, and each an importance of
# $2(\beta/2)^2$: **a quarter, not a half**. The copies' importances add up to half of what the
# feature is worth.

# %%
generator = torch.Generator().manual_seed(0)
z = torch.randn(20_000, 1, generator=generator)
outcome = 3 * z + torch.randn(z.shape, generator=generator)  # (N, 1)


def losses(inputs, groups):
    """Return how much the squared error grows when each group of columns is exchanged."""
    weights, found = torch.linalg.pinv(inputs) @ outcome, []  # of all exact solutions, the shortest
    for group in groups:
        moved = inputs.clone()
        moved[:, group] = inputs[torch.randperm(len(z), generator=generator)][:, group]
        errors = [(part @ weights - outcome).square().mean() for part in (moved, inputs)]
        found.append((errors[0] - errors[1]).item())
    return found


once = losses(z, [[0]])[0]
one_copy, both = losses(torch.cat([z, z], 1), [[0], [0, 1]])
print(f"one of two copies is worth {one_copy / once:.2f} of the feature, both {both / once:.2f}")

# %% [markdown]
# The remedy is to exchange twins together. It cures the sharing, and eases the other: what is tied
# to several features at once, as compactness is to perimeter and area, still comes apart. It has a
# price: the answer is about the family, not about a member. That price is honest, for the data
# cannot tell the members apart either.
#
# ### The same question to an image
#
# A pixel alone means nothing, but a region can be exchanged as a feature is. We cut the image into 4 × 4
# regions and exchange each with the same region of another image.

# %% mystnb={"image": {"alt": "Two four by four grids of numbers over a gray square. Left, shortcut: the upper left cell has about 20 and every other cell about 2 to 10. Right, control: the largest numbers, about 10, are in the middle cells, and the upper left cell has about 4."}, "figure": {"caption": "Points lost when a region is exchanged, mean of the seeds. Left: trained with the mark on tees. Right: with the mark at random. Both are asked about the same test images.", "name": "fig-global-report-regions"}}
cells = ku.explain.patch_grid(16, 16, 4).expand(3, 16, 16).flatten()  # (768,) 0 to 15
regions = [(cells == c).nonzero().flatten().tolist() for c in range(16)]
ASKED = len(images) if REHEARSAL else ku.pick(laptop=500, full=4_000)  # images asked about


def by_region(net, data):
    """Return the importance of the 16 regions to a network, (16, 3)."""
    return importance(lambda part: probabilities(net, part), *data, regions, repeats=3)


data = images[:ASKED], tests.y[:ASKED]
lost = {kind: [by_region(net, data) for net in nets] for kind, nets in image_nets.items()}
fig, axes = plt.subplots(1, 2, figsize=(6.4, 3.7))
for ax, (kind, found) in zip(axes, lost.items(), strict=True):
    mean = torch.stack(found)[..., 0].mean(0).view(4, 4)
    ax.imshow(mean, cmap="Greys", vmin=0, vmax=40)
    for (row, column), value in np.ndenumerate(mean.numpy()):
        ax.text(column, row, f"{value:.0f}", ha="center", va="center")
    ax.set(title=kind, xticks=range(4), yticks=range(4), xlabel="column", ylabel="row")
    ax.set(xticklabels=range(1, 5), yticklabels=range(1, 5))
    ax.grid(visible=False)
plt.show()

# %% [markdown]
# One look finds what the table by group did not. Glyphs may stand anywhere, so an honest model
# leans on no place in particular. The other one leans on a corner, more than on any other place.
# Nobody had to think of marks, or of corners.
#
# ## Which way it pushes: partial dependence and ALE
#
# Importance has no direction. **Partial dependence** {cite}`friedman2001` gives every case the value $v$
# in feature $j$ and averages the answers, value by value. It asks about the same impossible patients.
# **Accumulated local effects** (ALE) {cite}`apley2020ale` avoid them: within each narrow bin of the
# feature move only the cases that lie there, and only from one edge of the bin to the other; then add
# the mean steps up.
#
# $$\mathrm{PD}_j(v) = \frac1N \sum_i f(x_i \text{ with } v), \qquad
# \mathrm{ALE}_j(v_K) = \sum_{k \le K} \frac{1}{n_k} \sum_{i \in \text{bin } k} \Big( f(x_i \text{ with } v_k) - f(x_i \text{ with } v_{k-1}) \Big).$$
#
# Both are shifted to have mean zero.


# %%
def effects(ask, X, column, bins=12):
    """Return edges (K,), which are values that occur, partial dependence and ALE of ask."""

    def at(value):
        return ask(X.index_copy(1, torch.tensor([column]), value.expand(len(X))[:, None]))

    shares = torch.linspace(0, 1, bins + 1)
    edges = X[:, column].quantile(shares, interpolation="nearest").unique()
    place = torch.bucketize(X[:, column].contiguous(), edges[1:-1])  # (N,) which bin
    step = at(edges[place + 1]) - at(edges[place])  # (N,)
    local = torch.zeros(len(edges) - 1).index_add(0, place, step) / place.bincount()
    ale = F.pad(local.cumsum(0), (1, 0))  # (K,)
    dependence = torch.stack([at(edge).mean() for edge in edges])  # (K,)
    ends = torch.stack([place, place + 1])  # a case lies between two edges
    return edges, dependence - dependence[ends].mean(), ale - ale[ends].mean()


def predicts(forest):
    return lambda Z: torch.tensor(forest.predict(Z)).float()  # (N, M) -> (N,)


rho, pair = 0.9, torch.randn(100_000, 2, generator=generator)
pair[:, 1] = rho * pair[:, 0] + math.sqrt(1 - rho**2) * pair[:, 1]
edges, dependence, ale = effects(lambda X: X[:, 0] * X[:, 1], pair, 0, bins=200)
gaps = torch.stack([ale - rho * (edges.square() - 1) / 2, dependence])[:, edges.abs() < 2]
ale_gap, flat_gap = gaps.abs().amax(1).tolist()
forest = RandomForestRegressor(20, random_state=0).fit(X[:, :4], X[:, 5])
edges, dependence, _ = effects(predicts(forest), X[:, :4], 0)
wanted = {"custom_values": {0: edges.numpy()}, "method": "brute"}
curve = partial_dependence(forest, X[:, :4].numpy(), [0], **wanted)["average"][0]
shift = torch.tensor(curve).float() - dependence
pd_gap = (shift - shift.mean()).abs().max().item()
print("partial dependence is scikit-learn's:", pd_gap < 1e-4)

# %% [markdown]
# The check of ALE is a function with known answers: $f = x_1 x_2$, both standard normal with
# correlation $\rho$. Partial dependence on $x_1$ is $x_1 \mathbb E[x_2] = 0$. A case near $x_1 = v$
# has $x_2$ near $\rho v$, so ALE is $\rho (v^2 - 1)/2$. For $|v| < 2$ both agree to
# {glue:text}`gr_closed`. Note that they differ and that neither is wrong: they answer different
# questions. But which one is nearer to the truth, when a model was *fitted* to data and we know
# what made them?
#
# ### Where the truth is known
#
# Let $y = x_1 + x_2^2$ plus noise, from 500 cases, and let a random forest learn it. In one world $x_1$
# and $x_2$ are nearly equal, in the other they are independent. The forest is asked for the effect of
# each feature; the truth is $x_1$ and $x_2^2$.

# %% tolerance={"gr_closed": 0.02, "gr_ratio": 0.14, "gr_ratio_range": 0.3, "gr_even": 0.1} mystnb={"image": {"alt": "Two panels with the true parabola, ALE and partial dependence of the second feature. With nearly equal features ALE follows the parabola, while partial dependence runs below it on the left and above it on the right. With independent features all three lines agree."}, "figure": {"caption": "Effect of x₂ on a forest's answer, one of the data sets. Black: the truth. Left: x₁ ≈ x₂. Right: independent.", "name": "fig-global-report-ale"}}
NUM_SETS = 2 if REHEARSAL else ku.pick(laptop=10, full=20)
worlds = {"nearly equal": 0, "independent": 1}
errors = torch.zeros(2, NUM_SETS, 2, 2)  # world, data set, feature, (partial dependence, ALE)
fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.2), sharey=True)
for ax, (world, source) in zip(axes, worlds.items(), strict=True):
    for seed in range(NUM_SETS):
        draw = torch.Generator().manual_seed(seed)
        Z = torch.rand(500, 2, generator=draw)[:, [0, source]]  # twice the same, or two
        Z += 0.05 * torch.randn(Z.shape, generator=draw)
        t = Z[:, 0] + Z[:, 1] ** 2 + 0.1 * torch.randn(500, generator=draw)
        forest = RandomForestRegressor(50, min_samples_leaf=3, random_state=seed).fit(Z, t)
        for j in (0, 1):
            edges, *lines = effects(predicts(forest), Z, j, bins=20)
            truth = edges ** (j + 1) - (Z[:, j] ** (j + 1)).mean()
            errors[source, seed, j] = (torch.stack(lines) - truth).square().mean(1).sqrt()
    ax.plot(edges, truth, "k-", label="truth")  # of x₂, the last data set
    ax.plot(edges, lines[1], label="ALE")
    ax.plot(edges, lines[0], "--", label="PD")
    ax.set(xlabel="x₂", title=world)
    ku.plots.label_lines(ax)
axes[0].set_ylabel("change of the answer")
plt.show()
ratios = errors.mean(2)[..., 0] / errors.mean(2)[..., 1]  # (2, NUM_SETS)
ratio, even = ratios
ku.glue(gr_closed=f"{max(ale_gap, flat_gap):.2f}", gr_ratio=f"{ratio.mean():.1f}")
ku.glue(gr_ratio_range=f"{ratio.min():.1f} to {ratio.max():.1f}", gr_even=f"{even.mean():.1f}")

# %% [markdown]
# With nearly equal features, partial dependence misses the truth by {glue:text}`gr_ratio` times as much
# as ALE ({glue:text}`gr_ratio_range` over the data sets): it averages in what the forest says about
# $x_1 = 0, x_2 = 1$, where it has seen nothing. With independent features both are equally good
# ({glue:text}`gr_even`). ALE is not free of the problem: it cannot say what would happen far from where
# cases are. It only keeps quiet about it. The report shows both, for where they part there is something
# to know.
#
# ## A copy one can read: the surrogate tree
#
# Train a small tree, not on the truth but on the model's answers {cite}`craven1996`. How often it gives
# the model's own answer on new cases is its **fidelity**. A tree of three questions fits on a page.
#
# And here is its failure, staged on real tumors. We train networks that are *not given* six
# of the features, those of perimeter and of concave points. Then we ask for a surrogate on all 30.

# %% tolerance={"fidelity (%)": 3, "a constant (%)": 2, "tree: answers changed (%)": 6}
blind = [j for j, name in enumerate(features) if "concave" in name or "perimeter" in name]
seen = [j for j in range(30) if j not in blind]
rows, fidelity, flips = [], [], []
for seed in SEEDS:
    net = diagnose(X[:, seen], y, seed)
    called, told = (probabilities(net, part[:, seen]).argmax(1) for part in (X, X_test))
    tree = DecisionTreeClassifier(max_depth=3, random_state=0).fit(X, called)
    copied, root = torch.tensor(tree.predict(X_test)), int(tree.tree_.feature[0])
    other = X_test.clone()
    other[:, root] = X_test[torch.randperm(228, generator=generator), root]
    moved = torch.tensor(tree.predict(other)), probabilities(net, other[:, seen]).argmax(1)
    fidelity.append(percent(copied == told))
    flips.append([percent(a != b) for a, b in zip(moved, (copied, told), strict=True)])
    often, known = 100 * told.bincount().max() / 228, "yes" if root in seen else "no"
    shares = [f"{value:.0f}" for value in (fidelity[-1], often, *flips[-1])]
    rows.append((seed, *shares[:2], features[root], known, *shares[2:]))
head = ("seed", "fidelity (%)", "a constant (%)", "first question", "seen by the model")
head += ("tree: answers changed (%)", "model (%)")
tabulate(head, rows, "Surrogates; last two columns: after exchanging the feature first asked for")

# %% [markdown]
# The tree answers as the model does for about nine tumors of ten. It says that the model first looks at
# a feature that the model has never been given. It reads relatives of that feature; the tree
# finds the shortest summary of the *answers* and knows nothing of how they came about. **Fidelity
# measures agreement, not reasons**, and it is measured on cases in which the features still move
# together. Exchange the feature, and the tree changes its mind on a good part of the tumors, the model on none.
#
# ## Does a concept matter? TCAV and its test
#
# Features and regions are the machine's units. People speak of concepts: "striped", "red", "has a mark".
# Testing with concept activation vectors (TCAV, {cite}`kim2018tcav`) takes examples of a concept and
# as many other images, and finds in the activations of a layer the direction $v$ that separates the two,
# by a linear classifier. Then, for the images of a class $k$, it asks whether a step along $v$ would
# raise the class's logit. The score is the share for which it would:
#
# $$\mathrm{TCAV}_k = \tfrac1n \, \big|\{ i : \nabla_{\!h} f_k(h_i) \cdot v > 0 \}\big| .$$

# %%
M, BODY = 40, 9  # examples of a concept; layers up to the last convolution's input


def direction(concept, others):
    """Return the unit vector (d,) that separates two sets (m, d), by ridge regression."""
    H = torch.cat([concept, others])
    H, t = H - H.mean(0), torch.cat([torch.ones(len(concept)), -torch.ones(len(others))])
    K = H @ H.T  # (2m, 2m)
    v = H.T @ torch.linalg.solve(K + K.diagonal().mean() * torch.eye(len(K)), t)
    return v / v.norm()


def slopes(gradient, concept, pool, draw, times=5):
    """Return (score, mean slope) against several sets of other images, (times, 2)."""
    found = []
    for _ in range(times):
        others = pool[torch.randperm(len(pool), generator=draw)[: len(concept)]]
        slope = gradient @ direction(concept, others)  # (n,) one an image of the class
        found.append([(slope > 0).float().mean().item(), slope.mean().item()])
    return np.array(found)


def rank_p(run, randoms):
    """Return the p value of a concept's mean slope among random ones, (K, times, 2)."""
    larger = abs(randoms[..., 1].mean(1)) >= abs(run[:, 1].mean())
    return (1 + larger.sum()) / (1 + len(randoms))


def inside(net, inputs, label=None):
    """Return activations (n, d), or with a label the gradient of its logit there."""
    H = net[:BODY](inputs.to(device)).detach().requires_grad_()
    if label is None:
        return H.detach().flatten(1).cpu()
    return torch.autograd.grad(net[BODY:](H)[:, label].sum(), H)[0].flatten(1).cpu()


# %% [markdown]
# A score of 1.0 sounds like a strong finding. Is it? The control: **random concepts**, 40 images
# picked by chance, which share nothing. We draw 40 of them for each network as a yardstick, and 40
# more to be tested, and count how many of these three tests call significant at 5 %:
#
# - **binomial**: is the score of one run away from ½? Each image counts as a witness;
# - **t-test**, a common practice: the scores of five runs, with other counter-examples each, against
#   the scores of random concepts;
# - **rank**: is the mean slope larger, in size, than that of all 40 random concepts of the yardstick,
#   or all but one?

# %% tolerance={"gr_binomial": 6, "gr_ttest": 9, "gr_rank": 2.5} mystnb={"image": {"alt": "Left: a histogram of the scores of random concepts with tall towers at 0 and at 1 and a spread between. Right: horizontal bars of the share of random concepts called significant: the binomial test near 90 percent, the t-test about a quarter, the rank test a few percent."}, "figure": {"caption": "Concepts that are no concepts. Left: their scores for the class tee, all networks. Right: share that each test calls significant; line: the 5 % it promises.", "name": "fig-global-report-random"}}
warnings.filterwarnings("ignore", "Precision loss")  # the t-test, where all scores are alike
others = ku.data.shapes(1_500, seed=5)
RANDOM = 5 if REHEARSAL else 40
tees = images[tests.y == TEE][:200]
chance, alarms = {}, {"binomial": [], "t-test": [], "rank": []}  # (kind, seed) -> (RANDOM, 5, 2)
for kind, seed in itertools.product(image_nets, SEEDS):
    net, draw = image_nets[kind][seed], torch.Generator().manual_seed(seed)
    pool, gradient, runs = inside(net, others.X), inside(net, tees, TEE), []
    for _ in range(2 * RANDOM):
        order = torch.randperm(len(pool), generator=draw)
        runs.append(slopes(gradient, pool[order[:M]], pool[order[M:]], draw))
    chance[kind, seed] = np.stack(runs[:RANDOM])
    for run in runs[RANDOM:]:
        hits, others_too = round(run[0, 0] * len(tees)), chance[kind, seed][:, 0, 0]
        alarms["binomial"].append(binomtest(hits, len(tees)).pvalue < 0.05)
        alarms["t-test"].append(ttest_ind(run[:, 0], others_too).pvalue < 0.05)
        alarms["rank"].append(rank_p(run, chance[kind, seed]) < 0.05)
alarm = {name: 100 * float(np.mean(found)) for name, found in alarms.items()}
fig, axes = plt.subplots(1, 2, figsize=(7, 2.8))
axes[0].hist(np.concatenate([runs[:, 0, 0] for runs in chance.values()]), bins=20)
axes[0].set(xlabel="score of a random concept", ylabel="concepts")
axes[1].barh(list(alarm), list(alarm.values()))
axes[1].axvline(5, color="black", linewidth=1)
axes[1].set(xlabel="called significant (%)", xlim=(0, 100))
plt.show()
ku.glue(**{f"gr_{name.replace('-', '')}": f"{value:.0f}" for name, value in alarm.items()})

# %% [markdown]
# Scores of nothing spread over the whole range and pile up at its ends. The images of a class share
# most of their gradient, so they tend to fall on the same side of a direction: 200 witnesses who
# have agreed beforehand count as few. The binomial test is fooled in {glue:text}`gr_binomial` % of
# cases. The t-test repeats the runs, but with the *same* 40 examples, and takes their common chance
# for a finding: {glue:text}`gr_ttest` %. The unit that must be repeated is the concept's set of
# examples. The rank test does that, and calls {glue:text}`gr_rank` % significant: its promise of
# 5 %, as far as so many concepts can tell.
#
# (The rank uses the mean slope and not the score, because scores of nothing reach 1.0 already: nothing
# could exceed them.) Now concepts with a meaning, whose true role we know: the glyph makes the tee;
# red and the stair have no part in it; the mark has one in the shortcut models alone.

# %% tolerance={"gr_red": 0.5, "gr_logit": 1, "score": 0.3, "mean slope / chance": 2.5, "beyond chance": 1}
drawn = ku.data.shapes(3_000, seed=6)
concepts = {"tee": drawn.X[drawn.y == TEE][:M], "red": drawn.X[(drawn.colors == 0).all(1)][:M]}
concepts |= {"stair": drawn.X[drawn.kind == 1][:M]}
concepts |= {"mark": marked(drawn.X[:M], torch.ones(M, dtype=torch.bool))}
rows, verdicts = [], {}  # (concept, kind) -> seeds in which it is beyond chance
for concept, kind in itertools.product(concepts, image_nets):
    runs, sizes, p = [], [], []
    for seed, net in enumerate(image_nets[kind]):
        draw, randoms = torch.Generator().manual_seed(seed), chance[kind, seed]
        sets = inside(net, tees, TEE), inside(net, concepts[concept]), inside(net, others.X)
        runs.append(slopes(*sets, draw))
        sizes.append(runs[-1][:, 1].mean() / randoms[..., 1].mean(1).std())
        p.append(rank_p(runs[-1], randoms))
    verdicts[concept, kind] = sum(value < 0.05 for value in p)
    mean = f"{np.mean(runs, (0, 1))[0]:.2f}", f"{np.mean(sizes):.1f}"
    rows.append((concept, kind, *mean, f"{verdicts[concept, kind]} of {len(SEEDS)}"))
spots = (tests.mask | tests.distractor)[tests.y == TEE, None]  # what is repainted
red, green = (torch.tensor(rgb).view(3, 1, 1) for rgb in ((0.9, 0.15, 0.15), (0.1, 0.75, 0.2)))
painted = [torch.where(spots, color, images[tests.y == TEE]).to(device) for color in (red, green)]
with torch.no_grad():
    gains = [(n(painted[0]) - n(painted[1]))[:, TEE].mean().item() for n in image_nets["control"]]
    ahead = [n(painted[0]).topk(2).values.diff().abs().mean() for n in image_nets["control"]]
ku.glue(gr_red=f"{min(gains):.1f} to {max(gains):.1f}", gr_logit=f"{np.mean(ahead):.0f}")
head = ("concept", "model", "score", "mean slope / chance", "beyond chance")
tabulate(head, rows, "Class tee: score; slope in spreads of random concepts; seeds with p < 0.05")

# %% [markdown]
# The mark matters to the models that saw it on tees, and to none that saw it at random, although it
# lay on half of their images. The test does not ask whether a concept is there. It asks whether it
# is *used*. (The tee itself, in the shortcut models, is not found beyond chance in every one: the
# mark has taken its place.)
#
# One row is a surprise: red, which has nothing to do with the class, is sometimes found beyond
# chance in control models. A false alarm? An intervention can tell more. Repaint glyph and
# distractor of every tee red, then green: the logit of tee is higher in red by {glue:text}`gr_red`
# in the three control models, out of {glue:text}`gr_logit` to spare. So color is useless *in the
# data*, and the models may have a small preference all the same, one that changes no answer; three
# equal signs of three are no proof of it. A concept test asks about a logit, not about answers.
#
# Two limits stay. Somebody has to think of the concept and find 40 pictures of it. And of many rows tested at 5 %,
# some will be false alarms.
#
# ## Examples: prototypes and criticisms
#
# Some readers understand cases better than numbers. Which few cases stand for a class as the model sees it?
# MMD-critic {cite}`kim2016critic` takes the maximum mean discrepancy {cite}`gretton2012mmd` between all
# rows and a chosen set $S$, with a kernel $k$ that says how alike two rows are, and adds one prototype
# at a time so that it falls most. **Criticisms** are the rows where the chosen set misjudges the
# density most:
#
# $$\mathrm{MMD}^2 = \overline{k(x, x')} - 2\, \overline{k(x, s)} + \overline{k(s, s')}, \qquad
# w(x) = \Big|\, \overline{k(x, x')} - \overline{k(x, s)}\, \Big| .$$
#
# Bars are means over all rows $x$, $x'$ and all $s, s' \in S$; in $w(x)$, over $x'$ and $s$ alone.
# We leave out the original's extra term for variety among criticisms. Rows are the numbers that
# enter the last layer, so "alike" means alike to the model. The check compares three greedy
# prototypes of 30 images with the best of all 4,060 triples and with random ones. Then come the 200
# images that each model is surest are tees.


# %% tolerance={"MMD² greedy": 0.03, "best of all": 0.03, "random": 0.05}
def kernel(H):
    """Return how alike the rows of H (n, d) are, (n, n), 1 for equal ones."""
    apart = torch.cdist(H, H).square()
    return (-apart / apart[apart > 0].median()).exp()


def critics(K, prototypes, criticisms):
    """Return rows that stand for all, chosen greedily, and rows that they miss."""
    chosen = []
    for m in range(1, prototypes + 1):
        gain = 2 * K.mean(0) / m - (2 * K[chosen].sum(0) + K.diagonal()) / m**2
        gain[chosen] = -math.inf
        chosen.append(int(gain.argmax()))
    missed = (K.mean(0) - K[chosen].mean(0)).abs()
    missed[chosen] = -1
    return chosen, missed.topk(criticisms).indices.tolist()


def mmd2(K, S):
    """Return the squared discrepancy between all rows and those of S."""
    return (K.mean() - 2 * K[:, S].mean() + K[S][:, S].mean()).item()


@torch.no_grad()
def hidden(net, inputs):
    return net[:-1](inputs.to(device)).cpu()  # (n, 64) what enters the last layer


K = kernel(hidden(image_nets["control"][0], images[:30]))
sets = [torch.randperm(30, generator=generator)[:3].tolist() for _ in range(200)]
greedy, by_chance = mmd2(K, critics(K, 3, 0)[0]), statistics.mean(mmd2(K, S) for S in sets)
best = min(mmd2(K, list(S)) for S in itertools.combinations(range(30), 3))
print(f"MMD² greedy {greedy:.2f}, best of all {best:.2f}, random {by_chance:.2f}")

# %% tolerance={"gr_prototypes": 15, "gr_prototypes_control": 25} mystnb={"image": {"alt": "Two rows of eight small images. Nearly all of them, in both rows, show a colored T and a white mark in the upper left corner."}, "figure": {"caption": "Of the 200 images surest to be tees, by the shortcut model (top) and the control (bottom), first seed: five prototypes, then three criticisms.", "name": "fig-global-report-prototypes"}}
fig, axes = plt.subplots(2, 8, figsize=(8, 2.6))
on_prototypes = {}  # kind -> share of prototypes with a mark, one a seed
for row, (kind, nets) in zip(axes, image_nets.items(), strict=True):
    on_prototypes[kind] = []
    for seed, net in enumerate(nets):
        called = probabilities(net, images)[:, TEE].topk(200).indices
        typical, odd = critics(kernel(hidden(net, images[called])), 5, 3)
        on_prototypes[kind].append(100 * has_mark[called[typical]].float().mean().item())
        if seed == 0:
            rows = called[[*typical, *odd]]
            titles = [tests.classes[label] for label in tests.y[rows]]
            ku.plots.image_row(row, list(images[rows]), titles)
plt.show()
shares = [statistics.mean(on_prototypes[kind]) for kind in image_nets]
ku.glue(gr_prototypes=f"{shares[0]:.0f}", gr_prototypes_control=f"{shares[1]:.0f}")
ku.glue(gr_tees_marked=f"{percent(has_mark[tests.y == TEE]):.0f}")

# %% [markdown]
# {glue:text}`gr_prototypes` % of the shortcut models' prototypes carry the mark. A find? Of the
# control's prototypes, {glue:text}`gr_prototypes_control` % do, about as many as of all tees
# ({glue:text}`gr_tees_marked` %), and these models do not use it. **Prototypes show what the data
# have in common, not what the model uses.** They raise the right question ("why is there a white
# square in all of them?") and cannot answer it.
#
# ## Training examples: TracIn
#
# Where did the model get that from? If training went on with example $z$ and step size $\eta$, a
# small step would change the loss of a test case $z'$ by
# $-\eta\, \nabla \ell(z) \cdot \nabla \ell(z')$. TracIn {cite}`pruthi2020tracin` adds
# $\eta\, \nabla \ell(z) \cdot \nabla \ell(z')$ up over saved checkpoints: positive numbers helped,
# negative ones hurt. For the last layer alone the product has a closed form, with $h$ what enters
# it, $p$ the probabilities, $e_y$ the label as a unit vector:
#
# $$\nabla \ell(z) \cdot \nabla \ell(z') = (p - e_y) \cdot (p' - e_{y'}) \; (h \cdot h' + 1).$$
#
# The oracle is retraining: leave one tumor out, train again with everything else equal, and see
# what the test losses do. We do it for a sample of training tumors and each seed, on a small
# network with plain gradient descent, for the last layer's score at the end and for its sum over
# copies saved before each epoch, from the start.


# %%
def traced(X, y, seed, skip=None, epochs=10, lr=0.1):
    """Return a small network, and copies of it before each epoch. Row `skip` gets no weight."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(30, 16), nn.Tanh(), nn.Linear(16, 2))
    order, weight, saved = torch.Generator().manual_seed(seed), torch.ones(len(X)), []
    if skip is not None:
        weight[skip] = 0
    for _ in range(min(epochs, ku.rehearsal_steps() or epochs)):
        saved.append(copy.deepcopy(net))
        for rows in torch.randperm(len(X), generator=order).split(32):
            loss = (weight[rows] * F.cross_entropy(net(X[rows]), y[rows], reduction="none")).sum()
            gradients = torch.autograd.grad(loss / len(rows), list(net.parameters()))
            with torch.no_grad():
                for value, gradient in zip(net.parameters(), gradients, strict=True):
                    value -= lr * gradient
    return net, saved


@torch.no_grad()
def tracin(net, one, other):
    """Return the last layer's product of gradients for two sets of (X, y), (N, n)."""
    h, g = (net[:2](X) for X, _ in (one, other))
    miss, own = (net(X).softmax(1) - F.one_hot(y, 2) for X, y in (one, other))
    return (miss @ own.T) * (h @ g.T + 1)


# %% tolerance={"Spearman's ρ at the end": 0.2, "ρ all epochs": 0.2} mystnb={"image": {"alt": "Scatter plot of the change of the test loss after retraining without a tumor against TracIn by the last layer. Most points lie near zero; the few with large scores have large changes, and the cloud rises from left to right."}, "figure": {"caption": "First seed: change of the summed test loss after retraining without one training tumor, against its summed TracIn score by the last layer at the end.", "name": "fig-global-report-tracin"}}
A, A_test = ((part - X.mean(0)) / X.std(0) for part in (X, X_test))
sample = torch.arange(0, len(A), 7)[: 3 if REHEARSAL else None]
rank = {"at the end": [], "all epochs": []}
fig, ax = plt.subplots(figsize=(5.5, 3.2))
for seed in SEEDS:
    net, saved = traced(A, y, seed)
    loss = F.cross_entropy(net(A_test), y_test, reduction="sum").item()
    again = [traced(A, y, seed, skip=row)[0] for row in sample.tolist()]
    change = [F.cross_entropy(n(A_test), y_test, reduction="sum").item() - loss for n in again]
    sets = (A[sample], y[sample]), (A_test, y_test)
    scores = {"at the end": tracin(net, *sets).sum(1)}  # (49,)
    scores["all epochs"] = sum(tracin(before, *sets).sum(1) for before in saved)
    for name, score in scores.items():
        rank[name].append(spearmanr(score, change).statistic)
    if seed == 0:
        ax.plot(scores["at the end"], change, "o", markersize=4)
ax.set(xlabel="TracIn, last layer at the end", ylabel="change of the test loss (nats)")
plt.show()
lead = np.subtract(rank["at the end"], rank["all epochs"]).min()  # smallest of the seeds
rank = {name: statistics.mean(values) for name, values in rank.items()}
print(f"Spearman's ρ at the end {rank['at the end']:.1f}, ρ all epochs {rank['all epochs']:.1f}")

# %% [markdown]
# One look at the end of training ranks the sample well. Adding up all epochs does *worse* here.
# Perhaps because in the first epochs every tumor has a large gradient, and what it taught then, the
# others would have taught without it: TracIn says what the steps with this example did; retraining
# says what would be missing without it. (The original chooses its checkpoints, and can use all
# layers.) These are two questions, and a reader usually has the second in mind. The report uses the
# last layer at the end, names it, and asks of each example only: is its label right? Expect the
# same few training cases again and again: those on which the model itself errs have the largest
# gradients.
#
# ## Is it right when it says it is sure?
#
# A model that says 90 % should be right nine times of ten {cite}`guo2017calibration`. Sort the cases
# by the certainty stated, take the share of right answers in each bin, with an interval. The two ends of
# the list are read one by one: **the most wrong**, wrong and most sure of it, and **the least sure**.

# %% tolerance={"gr_odd": 12} mystnb={"image": {"alt": "Left: dots with intervals of the share right against the stated certainty, for the tumor model, with wide intervals below 97 percent, all of which hold the dashed diagonal. Right: two rows of four images, the most wrong and the least sure of the shortcut model; nearly all of the most wrong ones called tee carry a mark, or are tees without one."}, "figure": {"caption": "Left: tumors, first seed: share right by stated certainty. Right: shortcut model, first seed, the most wrong (top) and the least sure (bottom); titles: true class → answer.", "name": "fig-global-report-errors"}}
fig = plt.figure(figsize=(8.4, 3.4))
left, right_half = fig.subfigures(1, 2, width_ratios=(1, 1.5))
ax, axes = left.subplots(), right_half.subplots(2, 4)
stated, answer = probabilities(tumor_nets[0], X_test).max(1)
hit = answer == y_test
for low, high in itertools.pairwise((50, 60, 80, 90, 97, 101)):
    chosen = (100 * stated >= low) & (100 * stated < high)
    ends, at = wilson(int(hit[chosen].sum()), max(1, int(chosen.sum()))), percent(stated[chosen])
    ax.plot([at, at], [100 * end for end in ends], color="C0")
    ax.plot(at, percent(hit[chosen]), "o", color="C0")
ax.plot([50, 100], [50, 100], "k--", linewidth=1)
ax.set(xlabel="says it is sure (%)", ylabel="right (%)")
sure, called = probabilities(image_nets["shortcut"][0], images).max(1)
wrong = (called != tests.y).nonzero().flatten()
rows = torch.cat([wrong[sure[wrong].argsort(descending=True)][:4], sure.argsort()[:4]])
titles = [f"{tests.classes[tests.y[i]]} → {tests.classes[called[i]]}" for i in rows]
ku.plots.image_row(axes.flat, list(images[rows]), titles)
plt.show()

odd = has_mark != (tests.y == TEE)  # mark and glyph disagree
judged = [probabilities(net, images).argmax(1) for net in image_nets["shortcut"]]
odd_errors = statistics.mean(percent(odd[called != tests.y]) for called in judged)
ku.glue(gr_odd=f"{odd_errors:.0f}", gr_odd_all=f"{percent(odd):.0f}")

# %% [markdown]
# Nothing here speaks against the certainty of the tumor model, and the intervals below 97 % are
# wide, because such answers are few; a curve without them would invite a story about every wiggle.
#
# The most wrong images say it most plainly: unmarked tees, and other glyphs with a mark that were
# called a tee. Of the shortcut models' errors, {glue:text}`gr_odd` % are images where mark and
# glyph disagree; among all images they are {glue:text}`gr_odd_all` %. A reader who sees six of them
# in a row needs no statistics. Both ends of the list show them: among the least sure, too, there
# are tees without a mark.
#
# ## The report
#
# `ku.explain.report(model, data, path)` measures all of this and writes one page. It is a single
# HTML file that requests nothing from anywhere: figures are inside, there is no script. It opens
# with a summary in sentences, reads each number as a count of 100 with its interval, draws no
# conclusion by color alone, follows the reader's light or dark theme, and ends with what it cannot
# tell, the sizes of the data, the seed and the versions. Included always: performance by class,
# calibration, importance, prototypes and criticisms, the most wrong and the least sure. Included
# when they can be: groups, effects and a surrogate tree for features (for images, groups and a tree
# when `slices` are given), training examples when `train` is, concepts when sets of examples are.
# It is written under another name and then renamed, so a failure leaves an old report whole.


# %% tolerance={"the report on the tumors, in short": 8}
def summary(path: Path) -> list[str]:
    """Return the sentences that a report opens with."""
    items = re.findall(r"<li>(.*?)</li>", path.read_text(encoding="utf-8").split("</ul>")[0])
    return [html.unescape(item) for item in items]


folder = Path(tempfile.mkdtemp())
about = {"train": (X, y), "classes": ["benign", "malignant"], "features": features}
about |= {"title": "A model that calls tumors benign or malignant"}
page = ku.explain.report(
    tumor_nets[0], (X_test, y_test), folder / "tumors.html", noun="tumors", **about
)
ku.table({"the report on the tumors, in short": summary(page)})

about = {"classes": tests.classes, "target": TEE, "noun": "images"}
about |= {"title": "A model that names four forms"}
paths = {
    kind: ku.explain.report(nets[0], data, folder / f"{kind}.html", **about)
    for kind, nets in image_nets.items()
}
for path in (page, *paths.values()):
    ku.publish(path)  # keeps it with the rendered book; does nothing where you run it
print(summary(paths["shortcut"])[0].split(":")[0])

# %% [markdown]
# Open the pages: [the tumors](../../book/_static/pages/global_report/tumors.html), [the shortcut
# model](../../book/_static/pages/global_report/shortcut.html), [the
# control](../../book/_static/pages/global_report/control.html). (Where you run the notebook, they
# lie in `folder`.) Nobody needs to know what a gradient is to read them. Size leads the list, as it
# should, because the report exchanges twins together and names one of each family. The weakest
# group comes with its interval, and with the care that the worst of many deserves. That a tree
# copies the model is said next to how often a constant would.
#
# How should such a page be read? From the summary to the cases: take the sentence that surprises, look at the
# cases in the last two sections, and ask somebody who knows the field whether the model *should* lean on that.
# The page cannot answer this question. It can make sure that it is asked.
#
# And now the question of this chapter: does the page give the shortcut away, to a reader who does
# not know that there is one? The summary has one sentence for it. It says that a region, or a
# family of features, **stands out** when the interval of its importance lies wholly above those of
# all others, and then tells the reader to ask whether it should matter. (For the tumors, size does,
# and it may.) This rule was settled on the three models of each kind above, and a rule judged on
# the cases it was made from looks better than it is. So it is judged on fresh models, each with
# training images, test images, marks and a start of its own.

# %% tolerance={"warn": 1, "of the corner": 1, "gr_caught": 1, "gr_accused": 1, "gr_caught_ci": 13, "gr_accused_ci": 13, "gr_excess": 3, "gr_excess_size": 2}
WARNING, PLACE = "stands out from all others", "leans most on «row 1, column 1»"
FRESH = range(10, 12 if REHEARSAL else ku.pick(laptop=20, full=30))
warned, excess = {}, {}  # kind -> shares that warn, that warn of the corner; points of the corner
for kind, rates in RATES.items():
    said, corner_above = [], []
    for seed in FRESH:
        new, unseen = (
            ku.data.shapes(n, seed=s) for n, s in ((len(shapes.y), seed), (ASKED, -seed))
        )
        net = recognize(marked(new.X, coins(new.y, *rates, seed)), new.y, seed)
        data = marked(unseen.X, coins(unseen.y, 0.95, 0.04, -seed)), unseen.y
        text = " ".join(summary(ku.explain.report(net, data, folder / "fresh.html", **about)))
        said.append((WARNING in text, WARNING in text and PLACE in text))
        points = by_region(net, data)[:, 0]  # (16,)
        corner_above.append((points[0] - points[1:].max()).item())
    warned[kind], excess[kind] = np.sum(said, 0), statistics.mean(corner_above)
    print(f"{kind}: reports {len(FRESH)}, warn {warned[kind][0]}", end=", ")
    print(f"of the corner {warned[kind][1]}")
for name, count in {"caught": warned["shortcut"][1], "accused": warned["control"][0]}.items():
    low, high = (100 * end for end in wilson(count, len(FRESH)))
    ku.glue(
        **{f"gr_{name}": f"{count} of {len(FRESH)}", f"gr_{name}_ci": f"{low:.0f} to {high:.0f}"}
    )
ku.glue(gr_excess=f"{excess['shortcut']:.0f}")
ku.glue(gr_excess_size=f"{-excess['control']:.0f}")

# %% [markdown]
# {glue:text}`gr_caught` shortcut models are caught, {glue:text}`gr_accused` controls are accused.
# Having seen the corner in the prototypes and in the errors, the reader gives it a name and has
# somebody mark the images that show it. A second page has a slice for it,
# `slices={"white square": …}`, and its groups are the right ones.

# %% tolerance={"n": 3, "shortcut (%)": 9, "control (%)": 4}
slices = {"white square": ["yes" if mark else "no" for mark in has_mark]}
confirmed = {}
for kind, nets in image_nets.items():
    path = ku.explain.report(
        nets[0], (images, tests.y), folder / f"{kind}2.html", slices=slices, **about
    )
    confirmed[kind] = "white square: no, really tee" in " ".join(summary(path))
named = {"all": has_mark | ~has_mark, "tees with the square": (tests.y == TEE) & has_mark}
named |= {"tees without it": (tests.y == TEE) & ~has_mark, "others with it": odd & has_mark}
rows = []
for name, chosen in named.items():
    hits = [
        torch.cat([probabilities(net, images[chosen]).argmax(1) == tests.y[chosen] for net in nets])
        for nets in image_nets.values()
    ]
    rows.append((name, int(chosen.sum()), *(f"{percent(hit):.0f}" for hit in hits)))
head = ("group", "n", "shortcut (%)", "control (%)")
tabulate(head, rows, "Right answers in the groups that the first report suggested, all seeds")

# %% [markdown]
# In the second page of the shortcut model the tees without a square are the weakest group, named in the
# summary; in the control's page they are not.
#
# ## Where it fails
#
# The failures above belong to single methods, and each has its remedy beside it. This one belongs
# to the report. **A shortcut that moves has no region.** We put the mark at a random place of each
# image instead of the corner and train again. By region nothing stands out, for every region holds
# the mark sometimes. The control has marks as often and at random places, on half of all images of
# any class.


# %% tolerance={"gr_misled": 6, "gr_honest": 1, "gr_roaming": 15}
def sprinkled(pictures: torch.Tensor, which: torch.Tensor, seed: int) -> torch.Tensor:
    """Return the images with a mark of 2 x 2 at a random place on those of `which`."""
    draw = torch.Generator().manual_seed(seed)
    top, left = torch.randint(15, (2, len(pictures), 1), generator=draw)
    at = torch.arange(16)
    row, column = ((at == edge) | (at == edge + 1) for edge in (top, left))  # (N, 16) each
    place = row[:, :, None] & column[:, None, :] & which[:, None, None]
    return torch.where(place[:, None], torch.ones(()), pictures)


train_sets = [sprinkled(shapes.X, kinds[kind], seed=0) for kind in RATES]
moving, sprayed = sprinkled(tests.X, has_mark, seed=1), sprinkled(tests.X, tests.y >= 0, seed=2)
roaming, settled = ([recognize(part, shapes.y, s) for s in SEEDS] for part in train_sets)
silent, roaming_odd = 0, []
for net in roaming:
    path = ku.explain.report(
        net, (moving[:ASKED], tests.y[:ASKED]), folder / "moving.html", **about
    )
    silent += WARNING not in " ".join(summary(path))
    called = probabilities(net, moving).argmax(1)
    roaming_odd.append(percent(odd[called != tests.y]))
misled = {}  # kind -> percent of other glyphs that a mark somewhere turns into tees
for kind, nets in (("moving", roaming), ("control", settled)):
    turned = [probabilities(net, sprayed[tests.y != TEE]).argmax(1) == TEE for net in nets]
    misled[kind] = percent(torch.cat(turned))
print(f"moving mark: {silent} of {len(roaming)} reports do not warn")
ku.glue(gr_misled=f"{misled['moving']:.0f}", gr_honest=f"{misled['control']:.0f}")
ku.glue(gr_roaming=f"{statistics.mean(roaming_odd):.0f}")

# %% [markdown]
# The models are spoiled all the same, if less than by a mark that stays: put a mark somewhere on
# other glyphs, and they call {glue:text}`gr_misled` % of them tees, where the control models do so
# with {glue:text}`gr_honest` %. The warning stays away. The section that shows single cases still
# helps: {glue:text}`gr_roaming` % of the errors are images where mark and glyph disagree. And had
# every tee carried the mark and nothing else, in training and test, there would be no such image,
# and no error to look at. A report on data that share the model's mistake confirms the mistake.
#
# **Strengths.** It needs the model's answers and labeled cases, for most sections nothing else. It
# is the same page for any classifier, so that pages can be laid side by side. It has numbers with
# intervals *and* cases, and each kind finds what the other misses. **Limits.** One feature, region
# or group at a time. Twins are found by correlation, so a twin by a curve or by three others
# together is missed. The intervals are for other cases, not for another training run; we trained
# three and the page sees one. With very many cases they become so narrow that some region always
# stands out; then look at how far. And an honest model stands out, too, where a place should
# decide: the page asks, it does not judge. **When not to use it.** As a certificate. A page without
# a warning says that these questions found nothing in these data. And not in place of a model that
# can be read whole, where one is as good {cite}`rudin2019`. **Software.** scikit-learn
# {cite}`pedregosa2011sklearn` for importance, effects, trees and calibration; Captum
# {cite}`kokhlikyan2020captum` for TCAV and TracIn; `alibi`, `dalex` and `interpret` for reports of
# other kinds; Molnar's book {cite}`molnar2022` for all that was left out.
#
# ## Claims
#
# The bounds follow from what each sentence says, and were written down before the run, with these
# exceptions. The rule for "stands out" was first stricter (above twice every other interval) and
# missed one of three shortcut models in a trial; the fresh models were not looked at before their
# bounds stood. The bound on glyphs that a wandering mark misleads was 30 %, which was met too
# narrowly, and is 15 %. Which features the surrogate's networks are denied was chosen after a look:
# denied perimeters alone, the tree begins with a feature that the model does see. TracIn was
# planned over all epochs with a correlation of 0.6; that is missed, and the claim about the last
# layer at the end was added. The bound of the t-test and the rank test on slopes came after a look,
# too. After a first reading by others, the fresh models got test images of their own, the rank test
# concepts of its own, and the moving mark its own control; their bounds stood before.

# %%
text, all_seeds, fresh = "share of fresh models whose report warns", len(SEEDS), len(FRESH)
caught, accused = warned["shortcut"][1] / fresh, warned["control"][0] / fresh
ku.claim(f"{text} of the corner, shortcut", caught, at_least=0.9, role="headline")
ku.claim(f"{text} of any region, control", accused, at_most=0.1, role="control")
text = "points that exchanging the marked corner costs above any other region, mean of these"
ku.claim(f"{text}: trained with the shortcut", excess["shortcut"], at_least=10)
ku.claim(f"{text}: control without it", excess["control"], at_most=0, rests_on=("gr_excess_size",))
text = "with a slice for it, tees without the mark are named weakest for the shortcut model alone"
ku.claim(text, confirmed == {"shortcut": True, "control": False})
ku.claim("share of the reports silent on a mark that moves", silent / all_seeds, at_least=1)
text = "other glyphs that such a mark turns into tees, in %"
ku.claim(f"{text}: models trained with it", misled["moving"], at_least=15, rests_on=("gr_misled",))
ku.claim(f"{text}: control", misled["control"], at_most=5, rests_on=("gr_honest",))
text = "points by which mark and glyph disagree more often among the shortcut models' errors"
ku.claim(text, odd_errors - percent(odd), at_least=30, rests_on=("gr_odd",))
gap = np.abs(np.subtract(binomtest(12, 12).proportion_ci(method="wilson"), wilson(12, 12))).max()
ku.claim("our interval of a share against SciPy's", gap, at_most=1e-9)
text = "permutation importance against scikit-learn's: largest difference in points"
ku.claim(text, library_gap, at_most=0.5, rests_on=("gr_library",))
text = "points lost with all six features of size, as a multiple of the dearest alone"
ku.claim(text, size_points / alone[size, 0].max(), at_least=5)
text = "the same of the six dearest others together (twice was expected)"
ku.claim(text, size_points / rest_points, between=(1, 2))
text = "tumors that geometry forbids, in %, with areas exchanged"
ku.claim(text, impossible["areas exchanged"], at_least=30, rests_on=("gr_impossible",))
ku.claim("the same with their own", impossible["as they are"], at_most=0)

# %%
ku.claim("one of two copies, as a share of the importance", one_copy / once, between=(0.22, 0.28))
ku.claim("ALE against its closed form: largest difference", ale_gap, at_most=0.1)
ku.claim("partial dependence against scikit-learn's", pd_gap, at_most=1e-4)
text = "error of partial dependence as a multiple of ALE's"
ku.claim(f"{text}, nearly equal features", ratios[0].mean(), at_least=2, rests_on=("gr_ratio",))
ku.claim(f"{text}, independent features", ratios[1].mean(), at_most=1.5, rests_on=("gr_even",))
ku.claim("fidelity of surrogates in %, lowest of the seeds", min(fidelity), at_least=85)
text = "answers of the model that change when the surrogate's first feature is exchanged, in %"
ku.claim(text, max(model for _, model in flips), at_most=0)
text = "random concepts called significant at 5 %, in %"
ku.claim(f"{text}: binomial test", alarm["binomial"], at_least=60, rests_on=("gr_binomial",))
ku.claim(f"{text}: t-test over runs", alarm["t-test"], at_least=15)
ku.claim(f"{text}: rank among random concepts", alarm["rank"], at_most=10)
text = "share of the seeds in which the mark counts for tee beyond chance"
ku.claim(f"{text}, shortcut", verdicts["mark", "shortcut"] / all_seeds, at_least=1)
ku.claim(f"{text}, control", verdicts["mark", "control"] / all_seeds, at_most=0)
text = "prototypes of tee with the mark, in %, for models that ignore it"
ku.claim(text, shares[1], at_least=60)
text = "greedy prototypes: MMD² above the best triple's, as a share of random ones'"
ku.claim(text, (greedy - best) / (by_chance - best), at_most=0.4)
text = "rank correlation of TracIn's last layer with retraining"
ku.claim(text, rank["at the end"], at_least=0.4)
ku.claim("the same summed over all epochs (the goal was 0.6)", rank["all epochs"], at_most=0.6)
ku.claim("lead of the first over the second, smallest of the seeds", lead, at_least=0)

# %% [markdown]
# ## Exercises
#
# **1. Exchange among the possible.** Write `possible(P, A, generator)`: return the areas exchanged so that
# at most 5 % of the tumors become impossible, while at least 90 % of them get an area that is not their
# own. The stub exchanges at random.


# %% tags=["exercise"]
def check_possible(possible) -> dict:
    """Count the tumors that are impossible, or have kept their own area."""
    draw = torch.Generator().manual_seed(0)
    moved = possible(perimeter, area, draw)
    same_values = bool((moved.sort().values == area.sort().values).all())
    enough = same_values and (moved != area).float().mean() >= 0.9
    share = 100 * (moved > limit).float().mean().item() if enough else 100.0
    sentence = "impossible tumors after an exchange of nearly all areas, in %"
    return {"sentence": sentence, "value": share, "at_most": 5}


ku.attempt(**check_possible(lambda P, A, draw: A[torch.randperm(len(A), generator=draw)]))


# %% tags=["solution", "hide-cell"]
def possible(P, A, draw, width=10):
    """Exchange among tumors of nearly the same perimeter."""
    moved = A.clone()
    for rows in P.argsort().split(width):
        moved[rows] = A[rows[torch.randperm(len(rows), generator=draw)]]
    return moved


ku.claim(**check_possible(lambda P, A, draw: possible(P, A, draw, width=12)), role="solution")

# %% [markdown]
# **2. A page that asks nobody.** A report should load nothing from elsewhere. Write `requests(text)`,
# which returns every address that opening a page would load. Five small pages are given, two of them harmless; the sixth is the report. The stub looks for `http`.


# %% tags=["exercise"]
PAGES = {
    '<img src="https://a.example/x.png">': True,
    '<link rel="stylesheet" href="//a.example/x.css">': True,
    "<style>p { background: url( 'http://a.example/x.png' ) }</style>": True,
    '<p>See https://a.example</p><a href="https://a.example">there</a>': False,
    '<img alt="" src="data:image/png;base64,AAAA">': False,
}


def check_requests(requests) -> dict:
    """Five small pages and the report itself."""
    right = [bool(requests(text)) == asks for text, asks in PAGES.items()]
    right.append(not requests(page.read_text(encoding="utf-8")))
    sentence = "pages of six that are judged rightly"
    return {"sentence": sentence, "value": sum(right), "at_least": 6}


ku.attempt(**check_requests(lambda text: "http" in text))


# %% tags=["solution", "hide-cell"]
def requests(text):
    loads = r"""<link[^>]+href="([^"]+)|\s(?:src|srcset|poster)="([^"]+)|url\(\s*['"]?([^'")]+)"""
    found = ["".join(groups) for groups in re.findall(loads, text)]
    return [address for address in found if not address.startswith("data:")]


ku.claim(**check_requests(requests), role="solution")

# %% [markdown]
# **3. Find the mark that moves.** Write `gain(net)`: the share, in %, of test images other than tees that become
# tees when you do something to them, so that the shortcut models of the last experiment have at least
# 20 points more than the control models. You may know what the errors have in common. The stub brightens
# the whole image.


# %% tags=["exercise"]
def check_gain(gain) -> dict:
    """Compare the networks spoiled by a moving mark with the control."""
    spoiled, honest = ([gain(net) for net in nets] for nets in (roaming, image_nets["control"]))
    value = statistics.mean(spoiled) - statistics.mean(honest)
    sentence = "points by which the spoiled models are moved more than the control"
    return {"sentence": sentence, "value": value, "at_least": 20}


others_only = tests.X[tests.y != TEE]


def brighten(net):
    return 100 * (probabilities(net, others_only + 0.2).argmax(1) == TEE).float().mean().item()


ku.attempt(**check_gain(brighten))


# %% tags=["solution", "hide-cell"]
def gain(net):
    touched = sprinkled(others_only, torch.ones(len(others_only), dtype=torch.bool), seed=3)
    return 100 * (probabilities(net, touched).argmax(1) == TEE).float().mean().item()


ku.claim(**check_gain(gain), role="solution")

# %% [markdown]
# ## References
#
# The entries cited on this page are in the book's [references](../../book/references.md).
