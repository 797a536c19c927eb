# %% [markdown]
# # Local attributions: which explanations are right
#
# **Fifteen methods claim to show which pixels decided. On images where we know the pixels, which of
# them do?**
#
# In every image below nine pixels decide the class, and we know which: we painted them. Of the nine
# pixels that integrated gradients ranks highest, {glue:text}`la_ig_rank` % are among them; by
# chance it would be {glue:text}`la_chance` %. GradCAM finds {glue:text}`la_cam_rank` % and LIME on
# patches {glue:text}`la_lime_rank` %, where no map so coarse could find more than
# {glue:text}`la_patches` %. But the same integrated gradients on a network with random weights,
# which knows nothing, still find {glue:text}`la_ig_random` %, and the contrast of the picture finds
# {glue:text}`la_contrast` % without any network. Guided backpropagation hardly changes when the
# network's last layers are replaced by noise.
#
# :::{admonition} What you will learn
# - to write integrated gradients in ten lines, and to check them by an axiom;
# - what fifteen attribution methods have in common, and how they differ;
# - to measure a map: is it true to the model, does it show what decides, is it stable?
# - controls that a map has to beat: noise, edges, contrast, and a network with random weights;
# - to find a shortcut in the data with a map, to repair it, and to prove that it is gone.
#
# **Works out:** document 000 §3.2.2, local explanation at the decisive points, and 002 §8.4 (see
# [the five documents](../../book/five_documents.md)).
#
# **Before this:** [First networks](../foundations/first_networks.ipynb).
#
# **Costs:** about two minutes and less than 2 GiB on two CPU cores. The full profile (more images,
# five networks) wants one GPU.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 文档 000 要求在关键决策点给出局部解释。本章的图像是生成的：决定类别的九个像素事先已知，并用干预实验验证，所以解释的对错可以证明。
# 先用十行代码手写积分梯度并检验完备性公理，再用九个指标比较十五种方法，每种都与三个对照放在一起：随机图、边缘图、随机权重的网络。
# 积分梯度、DeepLift 和 LRP 找到大部分决定性像素；GradCAM 和按图块扰动的方法太粗；引导反向传播在网络最后几层被随机化之后几乎不变，因此不能解释模型。
# 但积分梯度在随机网络上也能找到近一半，因为它乘上了图像本身：好看的热力图并不等于理解。
# 最后在数据中埋入一个捷径标记：普通测试看不出问题，归因图一眼看出；修复之后再次测量，捷径消失。
#
# </div>
# :::

# %% tags=["setup"]
# Colab: this line is replaced by an install command when the book is published
import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import math
import statistics
import warnings
from functools import partial
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from captum import attr
from scipy.stats import spearmanr
from torch import nn

device = ku.start(seed=0)

# %% [markdown]
# ## The data
#
# On photographs nobody knows which pixels *should* decide, so a map can only be admired. We generate
# images instead (`ku.data.shapes`, 16 × 16 pixels): a noisy ground, one **glyph** and one
# **distractor**. The glyph's form is the class: plus, saltire, tee or ell. Place, color, distractor
# and ground are drawn independently of it. Every glyph and every distractor has nine cells, so
# neither area nor brightness gives anything away, and the distractor is as bright and has as many
# edges as the glyph.
#
# The images are free to use, show nobody and harm nobody. What they cannot support: a method that
# fails here will hardly be right on harder images, but one that succeeds here may still fail there.
# Shapes are written `# (B, C, H, W)`: batch, channels, height, width.

# %% mystnb={"image": {"alt": "Eight noisy gray images of 16 by 16 pixels in two rows. Each holds one thin colored glyph, a plus, an X, a T or an L, and one colored block or staircase elsewhere. The glyph's pixels are outlined in black."}, "figure": {"caption": "Eight images. The title is the class; the black line encloses the nine pixels that decide it.", "name": "fig-attributions-data"}}
train = ku.data.shapes(ku.pick(laptop=8_000, full=40_000), seed=0)
test = ku.data.shapes(2_000, seed=1)


def outline(ax, mask: torch.Tensor, color: str = "black") -> None:
    """Draw a line around the pixels of a mask (H, W)."""
    fine = np.kron(mask.cpu().numpy(), np.ones((8, 8)))
    at = (np.arange(len(fine)) + 0.5) / 8 - 0.5  # where the small cells lie on the image
    ax.contour(at, at, fine, levels=[0.5], colors=color, linewidths=1)


fig, axes = plt.subplots(2, 4, figsize=(7, 3.8))
names = [test.classes[label] for label in test.y[:8]]
ku.plots.image_row(axes.flat, list(test.X[:8]), names)
for ax, mask in zip(axes.flat, test.mask, strict=False):
    outline(ax, mask)
plt.show()

# %% [markdown]
# ## A network, and proof of what decides
#
# A small convolutional network without pooling, because two of the methods below have trouble with
# it (shown further down). Three are trained from three seeds.


# %%
def new_network(width: int = 32) -> nn.Sequential:
    """(B, 3, 16, 16) -> logits (B, 4)."""
    layers, inputs = [], 3
    for outputs, stride in ((width, 1), (width, 2), (2 * width, 1), (2 * width, 2)):
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    head = [nn.Flatten(), nn.Linear(2 * width * 16, 64), nn.ReLU(), nn.Linear(64, 4)]
    return nn.Sequential(*layers, *head)


def fitted(X: torch.Tensor, y: torch.Tensor, seed: int, epochs: int = 4) -> nn.Sequential:
    """Return a network trained on X (N, 3, 16, 16), y (N,)."""
    torch.manual_seed(seed)
    model = new_network().to(device)
    adamw = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.01)
    steps = epochs * math.ceil(len(X) / 128)
    cycle = torch.optim.lr_scheduler.OneCycleLR(adamw, 5e-3, steps, pct_start=0.2)
    tools = {"optimizer": adamw, "schedule": cycle, "loss": nn.CrossEntropyLoss()}
    ku.fit(
        model, (X.to(device), y.to(device)), num_epochs=epochs, batch_size=128, seed=seed, **tools
    )
    return model.eval()


SEEDS = range(ku.pick(laptop=3, full=5))
networks = [fitted(train.X, train.y, seed) for seed in SEEDS]

# %% [markdown]
# That the glyph *should* decide follows from how the images are made. That it *does* decide in these
# networks has to be tested, and the test is an intervention: change the image, look at the answer.
# `ground` is the same image before anything was painted on it, so erasing leaves no hole.


# %%
@torch.no_grad()
def answers(model: nn.Module, X: torch.Tensor) -> torch.Tensor:
    """Return the predicted class of each image, (N,)."""
    return torch.cat([model(part.to(device)).argmax(1).cpu() for part in X.split(500)])


glyph, distractor = test.mask[:, None], test.distractor[:, None]  # (N, 1, 16, 16)
other = torch.roll(torch.arange(len(test.y)), 1)  # the image whose glyph is lent
fits = ~(test.mask[other] & test.distractor).flatten(1).any(1)  # the lent glyph covers nothing
bare = torch.where(glyph, test.ground, test.X)
changed = {
    "nothing changed": (test.X, test.y),
    "distractor erased": (torch.where(distractor, test.ground, test.X), test.y),
    "ground exchanged": (torch.where(glyph | distractor, test.X, test.ground[other]), test.y),
    "glyph erased": (bare, test.y),
    "glyph exchanged": (torch.where(glyph[other], test.X[other], bare)[fits], test.y[other][fits]),
}
right = {
    name: [100 * (answers(model, X) == y).float().mean().item() for model in networks]
    for name, (X, y) in changed.items()
}
columns = {"intervention": list(right), "asked for": ["its class"] * 4 + ["class of the new glyph"]}
columns["right (%)"] = [f"{statistics.mean(values):.0f}" for values in right.values()]
ku.table(columns, caption="What the networks answer when the image is changed, mean of all seeds")

# %% [markdown]
# Without the glyph the networks guess; with another glyph they follow it; distractor and ground do
# not matter. So the nine pixels are the truth against which maps are judged, not a hope. (A network
# that reads a form also has to see that the cells around it are empty. We count only the cells,
# which favors methods that multiply by what is painted; what lies *next to* them is counted apart
# below.)
#
# ## The dumbest baseline
#
# A map that knows nothing of the network: random numbers. And two better ones that know nothing of
# it either: an edge detector, because attribution maps often look like edges {cite}`adebayo2018`,
# and the contrast $|x - x'|$ to a gray image $x'$, because some methods multiply by it. We judge
# with two measures, defined on the sum of a map over its channels, taken absolutely:
#
# - **rank**: of the nine highest pixels, the share that lies in the glyph
#   {cite}`arras2022clevrxai`;
# - **mass**: the share of the map's total that lies in the glyph.
#
# By chance both are {glue:text}`la_chance` %. Each measure is one number an image; an interval of 95 %
# comes from drawing images with replacement 1,000 times.


# %%
E = ku.explain
COUNT = 2 if ku.rehearsal_steps() else ku.pick(laptop=32, full=200)  # images a network explains
X = test.X[: len(SEEDS) * COUNT].to(device)  # (B, 3, 16, 16)
y, mask = test.y[: len(X)].to(device), test.mask[: len(X)].to(device)
gray = torch.full_like(X, 0.5)  # the baseline: what "absent" means, the mean of the ground


def each(*tensors: torch.Tensor, models=networks):
    """Yield every network with its own share of the images in each tensor (B, ...)."""
    return zip(models, *(tensor.split(COUNT) for tensor in tensors), strict=True)


def maps_of(method: str, models=networks, target=y, baseline=gray, **options) -> torch.Tensor:
    """Return a method's maps of all images, (B, 3, 16, 16): each network explains its own share."""
    shares = each(X, target, baseline, models=models)
    maps = [E.attribute(f, x, t, method, baseline=b, **options) for f, x, t, b in shares]
    return torch.cat(maps)


def interval(values: torch.Tensor, draws: int = 1_000) -> tuple[float, float, float]:
    """Return (mean, low, high) of one number an image, (B,), by the bootstrap over images."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(values), (draws, len(values)), generator=generator)
    means = values.cpu()[rows].mean(1)  # (draws,)
    return (values.mean().item(), *means.quantile(torch.tensor([0.025, 0.975])).tolist())


blind = E.controls(X) | {"contrast": (X - gray).abs()}  # they know nothing of the network
for name, map_ in blind.items():
    mean, low, high = interval(100 * E.localization(map_, mask)["rank"])
    print(f"{name:8s} rank {mean:.0f} % ({low:.0f} to {high:.0f})")
ku.glue(la_chance=f"{100 * 9 / 256:.1f}", la_images=len(X), la_each=COUNT)
coarse = F.interpolate(F.avg_pool2d(mask[:, None].float(), 4), size=(16, 16))  # (B, 1, 16, 16)
for name, map_ in {"contrast": blind["contrast"], "patches": coarse}.items():
    ku.glue(**{f"la_{name}": f"{100 * E.localization(map_, mask)['rank'].mean():.0f}"})

# %% [markdown]
# Edges do worse than chance: the strongest edges surround the compact block, not the thin glyph. So
# this detector is an easy control here. Contrast is a hard one: it marks glyph and distractor
# alike.
#
# ## Integrated gradients, by hand
#
# The gradient of the class's logit $f$ says how the answer changes when a pixel changes a little.
# That is not yet what the pixel contributed: where $f$ is flat, the gradient is zero, however much the
# pixel mattered on the way there. Integrated gradients {cite}`sundararajan2017ig` walk from a
# **baseline** $x'$, an image in which nothing is present, straight to $x$, and add up the gradients:
#
# $$a_i = (x_i - x'_i) \int_0^1 \frac{\partial f}{\partial x_i}\big(x' + \alpha (x - x')\big)\, d\alpha .$$
#
# The integral becomes a mean over midpoints. Summed over all pixels it must give
# $f(x) - f(x')$, because that is what integrating a derivative along a path gives. This is the axiom
# of **completeness**: nothing of the answer is left unassigned.


# %%
def integrated_gradients(model, x, target, baseline, steps):
    """Return attributions (B, C, H, W) of the target logits, by the midpoint rule."""
    alpha = (torch.arange(steps, device=x.device) + 0.5) / steps  # (S,)
    path = baseline + alpha.view(-1, 1, 1, 1, 1) * (x - baseline)  # (S, B, C, H, W)
    path.requires_grad_()
    logits = model(path.flatten(0, 1)).view(steps, len(x), -1)  # (S, B, classes)
    chosen = logits[:, torch.arange(len(x)), target]  # (S, B)
    gradient = torch.autograd.grad(chosen.sum(), path)[0]  # (S, B, C, H, W)
    return (x - baseline) * gradient.mean(0)  # (B, C, H, W)


x8, y8, gray8 = X[:8], y[:8], gray[:8]
by_hand = integrated_gradients(networks[0], x8, y8, gray8, steps=32)
rule = {"n_steps": 32, "method": "riemann_middle"}
captums = attr.IntegratedGradients(networks[0]).attribute(x8, gray8, target=y8, **rule)
scale = captums.abs().max()
ig_difference = ((by_hand - captums).abs().max() / scale).item()
print("equal to Captum's to 0.001 % of the largest value:", ig_difference < 1e-5)

# %% [markdown]
# How many steps does the integral need? We measure what completeness leaves open, as a share of
# $f(x) - f(x')$. Captum's default rule (Gauss and Legendre) chooses its points more cleverly.

# %% tolerance={"la_gap_32": 1.5} mystnb={"image": {"alt": "Two falling lines over 4 to 128 steps on logarithmic axes. Both leave a completeness gap of several percent at few steps and around one percent or less at 64 steps and beyond."}, "figure": {"caption": "What completeness leaves open, median of eight images, against the steps along the path.", "name": "fig-attributions-steps"}}
with torch.no_grad():
    owed = (networks[0](x8) - networks[0](gray8))[torch.arange(8), y8]  # (8,) f(x) - f(x')
steps_tried = (4, 8, 16, 32, 64, 128)
gaps = {"midpoints": [], "Gauss–Legendre": []}
for steps in steps_tried:
    hand = integrated_gradients(networks[0], x8, y8, gray8, steps)
    gauss = attr.IntegratedGradients(networks[0]).attribute(x8, gray8, target=y8, n_steps=steps)
    for name, found in zip(gaps, (hand, gauss), strict=True):
        gap = (found.sum((1, 2, 3)) - owed).abs() / owed.abs()
        gaps[name].append(100 * gap.median().item())
fig, ax = plt.subplots()
for name, values in gaps.items():
    ax.loglog(steps_tried, values, marker="o", label=name)
ax.set(
    xlabel="steps", ylabel="gap (% of f(x) − f(x′))", xticks=steps_tried, xticklabels=steps_tried
)
ax.minorticks_off()
ku.plots.label_lines(ax)
plt.show()
ku.glue(la_gap_32=f"{gaps['Gauss–Legendre'][3]:.1f}")

# %% [markdown]
# At 32 steps {glue:text}`la_gap_32` % of the answer is unaccounted for: enough for what follows.
# The gradient jumps along the path, so no rule converges fast.
#
# ## Fifteen methods
#
# `ku.explain.attribute(model, x, target, method)` puts one interface over Captum
# {cite}`kokhlikyan2020captum`. What it calls:
#
# **Gradients.** *Saliency* {cite}`simonyan2014saliency` is $|\partial f / \partial x|$.
# *SmoothGrad* {cite}`smilkov2017smoothgrad` averages $|\partial f / \partial x|$ over noisy copies.
# *Input × gradient* multiplies by the pixel. *Integrated gradients* we know; *GradientSHAP*
# {cite}`lundberg2017shap` draws noisy points on the path at random. *DeepLift*
# {cite}`shrikumar2017deeplift` replaces each nonlinearity's slope by its rise over run between
# baseline and image, in one backward pass.
#
# **Other rules on the way back.** *LRP* {cite}`bach2015lrp` hands the logit down layer by layer in
# proportion to what each input contributed. Its plainest rule (ε, for small ε) is nothing but input
# × gradient in a network of ReLUs, as a line below checks for the last layers; we use the γ rule,
# which favors positive contributions. *Guided backpropagation* {cite}`springenberg2015guided` also
# drops every negative signal on its way back. *GradCAM* {cite}`selvaraju2017gradcam` weighs the
# channels of the last convolution by their mean gradient, a coarse map of 4 × 4; *guided GradCAM*
# multiplies both.
#
# **Perturbations** ask only for answers. *Occlusion* {cite}`zeiler2014` slides a gray
# square of 3 × 3. *Feature ablation* grays out one of 16 patches of 4 × 4 at a time. *LIME*
# {cite}`ribeiro2016lime` and *KernelSHAP* fit a linear model to the answers for random sets of
# patches; *Shapley sampling* {cite}`castro2009shapley` adds the patches in random orders and averages
# what each one brings. Patches keep these affordable and make them coarse: a patch has 16 pixels and
# a glyph nine.
#
# Captum computes one perturbation at a time unless told otherwise, and warns on stderr whenever it
# sets or removes its hooks. `ku.explain` evaluates perturbations in batches and works on a copy of
# the model, so that it can leave those notices out. First look: one image, all methods. Each map is
# the absolute sum over the color channels.

# %% mystnb={"image": {"alt": "Sixteen small panels of one image. The first shows the image with a thin glyph and a distractor. In the maps of integrated gradients, DeepLift, GradientSHAP and LRP the glyph's pixels stand out; saliency, SmoothGrad and guided backpropagation are spread around it; GradCAM, LIME, ablation and Shapley maps consist of coarse blocks."}, "figure": {"caption": "One image and its fifteen maps, each scaled to its own maximum; darker is more. The line encloses the pixels that decide.", "name": "fig-attributions-maps"}}
head = networks[0][-3:]  # affine, ReLU, affine
features = networks[0][:-3](x8).detach().requires_grad_()  # (8, 1024)
epsilon_rule = attr.LRP(head).attribute(features, target=y8)
times_input = attr.InputXGradient(head).attribute(features, target=y8)
largest = times_input.abs().max()
epsilon_difference = ((epsilon_rule - times_input).abs().max() / largest).item()
print("LRP's ε rule equals input × gradient:", epsilon_difference < 1e-4)

one = slice(3, 4)
fig, axes = plt.subplots(4, 4, figsize=(7, 7.4))
ku.plots.image_row(axes.flat[:1], [X[3].cpu()], [f"the image: {test.classes[y[3]]}"])
for ax, method in zip(axes.flat[1:], E.METHODS, strict=True):
    map_ = E.attribute(networks[0], X[one], y[one], method, baseline=gray[one])
    heat = map_.sum(1)[0].abs().cpu()  # (16, 16)
    ax.imshow(heat, cmap="Greys", vmin=0)
    ax.set_title(method.replace("_", " "), loc="center", fontweight="normal", fontsize=10)
    ax.set_axis_off()
for ax in axes.flat:
    outline(ax, mask[3], ku.plots.PALETTE["rust"])
plt.show()

# %% [markdown]
# By eye one would throw out half of them, and the eye has been wrong about such maps before. So we
# measure.
#
# ## Nine measures
#
# Two measures ask whether a map shows the **truth about the image**: rank and mass, above. The others
# need no truth, so they can be used on any data. Some ask whether a map is true to the **model**:
#
# - **deletion** {cite}`petsiuk2018rise`: turn pixels gray, the highest of the map first; the mean
#   probability of the class on the way should be low; **insertion**: the same from gray to the image;
#   it should be high;
# - **infidelity** {cite}`yeh2019infidelity`: turn random 4 × 4 squares gray; what the map says of
#   the square should be proportional to what the logit loses. We report 1 − (correlation)², so that
#   0 is perfect and a method's unit does not count; 1 is blind, or of the wrong sign;
# - **completeness gap**: how far the map's sum is from $f(x) - f(x')$, as a share of it. Only some
#   methods promise it.
#
# And some ask what the map is like: **sensitivity** {cite}`yeh2019infidelity`, the largest relative
# change of the map in four tries in which each number of the image moves by at most 0.02;
# **stability**, the rank correlation of the maps from two seeds of a method that draws at random;
# **sparsity**, the Gini index {cite}`chalasani2020concise`, which says nothing about being right.
#
# For each network {glue:text}`la_each` images of its own, {glue:text}`la_images` in all.
# Sensitivity costs four more maps, so only methods that use gradients get it; the five that perturb
# are left out there. Rank, mass, sparsity and stability take a map absolutely, the measures of
# truth to the model take it with its sign; and these turn pixels to the same gray from which
# integrated gradients start, which favors methods built on it.


# %%
def rank_correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return Spearman's correlation of two maps' pixels for each image, (B,)."""
    ranks = [m.sum(1).abs().flatten(1).argsort(1).argsort(1).float() for m in (a, b)]  # (B, P)
    centered = [F.normalize(r - r.mean(1, keepdim=True), dim=1) for r in ranks]
    return (centered[0] * centered[1]).sum(1)


def faithfulness(map_: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return measure -> one number an image, (B,), each map judged with its own network."""
    parts = [E.faithfulness(f, x, t, m, baseline=b) for f, x, t, m, b in each(X, y, map_, gray)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def sensitivity(method: str, map_: torch.Tensor) -> torch.Tensor:
    """Return the largest relative change of each map under small noise, (B,)."""
    found = []
    for model, x, target, part in each(X, y, map_):
        explain = partial(E.attribute, model, target=target, method=method, baseline=0.5)
        found.append(E.sensitivity(explain, x, part))
    return torch.cat(found)


# %%
DRAWN = ("smoothgrad", "gradient_shap", "lime", "kernel_shap", "shapley_sampling")
scores, maps = {}, {}  # (method, measure) -> one number an image, (B,); method -> maps
for method in E.METHODS:
    maps[method] = map_ = maps_of(method)
    found = faithfulness(map_) | E.localization(map_, mask) | {"sparsity": E.sparsity(map_)}
    if method in E.GRADIENT_METHODS:
        found["sensitivity"] = sensitivity(method, map_)
    if method in DRAWN:
        found["stability"] = rank_correlation(map_, maps_of(method, seed=1))
    scores |= {(method, name): values.cpu() for name, values in found.items()}

# %% [markdown]
# The third control: the same methods on the same networks with **all weights drawn anew**. Such a
# network knows nothing about glyphs. What a method still finds there, it found in the picture.

# %%
unknowing = [E.randomized(model, seed=seed) for seed, model in enumerate(networks)]
for method in E.METHODS:
    found = E.localization(maps_of(method, unknowing), mask)
    scores |= {(method, f"{name}, random weights"): v.cpu() for name, v in found.items()}


def forest(axes, panels: dict[str, str]) -> None:
    """Draw mean and 95 % interval of each method; panels: measure -> title."""
    place = range(len(E.METHODS), 0, -1)  # the first method on top
    for ax, (measure, title) in zip(axes, panels.items(), strict=True):
        for at, method in zip(place, E.METHODS, strict=True):
            if (method, measure) in scores:
                mean, low, high = interval(scores[method, measure])
                ax.plot([low, high], [at, at], color=ku.plots.PALETTE["teal"])
                ax.plot(mean, at, "o", color=ku.plots.PALETTE["teal"])
        ax.set(title=title, yticks=place, yticklabels=[], ylim=(0, len(place) + 1))
    axes[0].set_yticklabels([name.replace("_", " ") for name in E.METHODS])


# %% mystnb={"image": {"alt": "Two panels with a dot and an interval for each of fifteen methods. Integrated gradients, DeepLift, GradientSHAP and LRP lie far to the right in both, the other methods between 15 and 60 percent in rank. Hollow diamonds for random weights lie near the dashed chance line for most methods, but far to the right of it for integrated gradients, DeepLift and GradientSHAP."}, "figure": {"caption": "Dots: share of the nine highest pixels in the glyph (left) and share of the map in it (right), 95 % intervals. Diamonds: the same methods on networks with random weights. Dashed: chance.", "name": "fig-attributions-localization"}}
fig, axes = plt.subplots(1, 2, figsize=(7, 5))
forest(axes, {"rank": "rank ↑", "mass": "mass ↑"})
for ax, measure in zip(axes, ("rank", "mass"), strict=True):
    control = [scores[m, f"{measure}, random weights"].mean() for m in E.METHODS]
    ax.plot(control, range(len(control), 0, -1), "D", mfc="white", mec=ku.plots.PALETTE["rust"])
    ax.axvline(9 / 256, color="black", linestyle="--", linewidth=1)
    ax.set(xlim=(-0.02, 1), xlabel="share in the glyph")
plt.show()

# %% [markdown]
# Four methods put most of their highest pixels into the glyph. All four multiply by the difference
# between image and baseline, or hand on what each input contributed. The plain gradient finds less
# than half, but {glue:text}`la_saliency_near` % of its nine highest pixels lie in the glyph or
# *next to* it, where a painted pixel would change the form (integrated gradients:
# {glue:text}`la_integrated_gradients_near` %; by chance {glue:text}`la_random_near` %). That
# answers another question.
#
# Now the diamonds. Integrated gradients, DeepLift and GradientSHAP find {glue:text}`la_ig_random` %
# and the like **without a trained network**: the difference $x - x'$ is large where something
# bright is painted, and glyph and distractor are. The contrast alone, without any network, has
# {glue:text}`la_contrast` %. What training adds is to tell the two objects apart.
#
# The patch methods cannot do better than their patches: where a whole patch shares one value, its
# nine highest pixels are drawn from sixteen equal ones. A perfect map of 4 × 4 patches would reach
# {glue:text}`la_patches` %, and LIME and GradCAM are close to that.
#
# The intervals are over images, for these three networks, each of which explains its own share; how
# much another training would change is not in them. They say nothing about other kinds of images.


# %% mystnb={"image": {"alt": "Three panels with dots and intervals for fifteen methods: deletion, insertion and infidelity. Most methods have deletion between 0.15 and 0.3 and insertion above 0.85; guided backpropagation and guided GradCAM stand apart with high deletion and low insertion. Integrated gradients, DeepLift and LRP have the lowest infidelity, guided backpropagation and guided GradCAM the highest, near 1."}, "figure": {"caption": "Is the map true to the model? Lower is better for deletion and infidelity, higher for insertion. Gray lines: the map of random numbers.", "name": "fig-attributions-faithfulness"}}
floor = faithfulness(blind["random"])
panels = {"deletion": "deletion ↓", "insertion": "insertion ↑", "infidelity": "infidelity ↓"}
fig, axes = plt.subplots(1, 3, figsize=(7, 5))
forest(axes, panels)
for ax, measure in zip(axes, panels, strict=True):
    ax.axvline(floor[measure].mean().cpu(), color="gray", linewidth=1)
    ax.set(xlim=(0, 1))
plt.show()

# %% [markdown]
# Guided backpropagation is worse than noise here: graying its highest pixels first keeps the class
# longer than graying at random, probably because it calls pixels positive that speak against the
# class. And look at saliency: second to none at insertion, a poor show at rank. Insertion and
# deletion only ask that *some* of the needed pixels come early, on images of half a glyph that the
# network has never seen.

# %% mystnb={"image": {"alt": "Three panels with dots and intervals: sensitivity, stability and sparsity. Sensitivity is highest by far for GradCAM and guided GradCAM, with wide intervals. Of the methods that draw at random, LIME and KernelSHAP are the least stable over seeds. Sparsity is lowest for SmoothGrad."}, "figure": {"caption": "What the maps are like. A missing dot: not measured, or nothing is drawn at random.", "name": "fig-attributions-manner"}}
panels = {"sensitivity": "sensitivity ↓", "stability": "stability ↑", "sparsity": "sparsity"}
fig, axes = plt.subplots(1, 3, figsize=(7, 5))
forest(axes, panels)
for ax, highest in zip(axes, (None, 1, 1), strict=True):
    ax.set_xlim(0, highest)
plt.show()

# %% [markdown]
# GradCAM probably owes its sensitivity to what it drops: a small change of the image can flip the
# sign of a channel's weight, and nearly empty maps make large ratios. And LIME with 256 random sets
# of patches is not yet the same map with another seed.
#
# ## Do the measures agree?
#
# If the cheap measures ordered the methods as the truth does, one could use them where no truth is
# known. We correlate each with rank, over the fifteen methods, by Spearman's ρ. And completeness, the
# axiom, can be checked on any data: what share of $f(x) - f(x')$ does a map leave open?

# %% tolerance={"ρ with rank": 0.4, "gap (%)": 20}
agreement = {}
for measure, sign in {"insertion": 1, "deletion": -1, "infidelity": -1, "sparsity": 1}.items():
    ours = [sign * scores[m, measure].mean().item() for m in E.METHODS]
    truth = [scores[m, "rank"].mean().item() for m in E.METHODS]
    agreement[measure] = spearmanr(ours, truth).statistic
columns = {
    "measure": list(agreement),
    "ρ with rank": [f"{round(r, 1) + 0:.1f}" for r in agreement.values()],
}
ku.table(columns, caption="Agreement of measures that need no truth with the one that does")

with torch.no_grad():
    change = [f(x) - f(b) for f, x, b in each(X, gray)]  # (COUNT, 4) a network
owed = torch.cat(change)[torch.arange(len(y)), y].abs().cpu()  # (B,) |f(x) - f(x')|
promise = ("deeplift", "kernel_shap", "shapley_sampling", "integrated_gradients", "gradient_shap")
gap = {m: scores[m, "completeness"] / owed for m in (*promise, "input_x_gradient", "lime")}
columns = {"method": [method.replace("_", " ") for method in gap]}
columns["gap (%)"] = [f"{100 * values.median():.0f}" for values in gap.values()]
ku.table(columns, caption="|sum of the map − (f(x) − f(x′))| as a share of f(x) − f(x′), median")

# %% [markdown]
# With fifteen methods a ρ is uncertain by about 0.5, and the methods are relatives, so little can
# be said: deletion and infidelity may order the methods somewhat as the truth does; of insertion
# there is no sign of it. Sparsity agrees for a reason that does not carry over: our glyphs are
# thin. On data with large deciding regions a sparse map would be the wrong one. No cheap measure
# replaces a truth that was planted.
#
# Completeness is a promise that DeepLift, KernelSHAP and Shapley sampling keep exactly, and integrated
# gradients up to their steps. GradientSHAP would keep it on average, were it not for the noise that it
# adds to the image. Input × gradient and LIME never made it. It says nothing about being right: Shapley values on patches are complete and coarse, and the
# maps of a network with random weights are as complete as any.
#
# ## A cascade of random weights
#
# The third control all at once says that a method sees *something* of the network. Layer by layer
# it says how much {cite}`adebayo2018`: draw the last layer anew, then the last two, and so on, and
# correlate each map with the original one. A map that stays as it was while the network loses its
# mind does not explain the network. (With a reservation: drawing the *last* layers anew leaves the
# early ones, and a map may keep their part for good reasons {cite}`binder2023`.)

# %% mystnb={"image": {"alt": "Falling lines over the number of randomized layers for six methods. GradCAM falls to about zero at the first layer. Saliency, input times gradient and integrated gradients fall to about a half or less after two layers. Guided backpropagation stays at about 0.9 after the first and 0.7 to 0.85 after the next, and falls only when early layers go."}, "figure": {"caption": "Rank correlation of each map with that of the trained network, as layers are drawn anew from the output backwards. Mean of all networks and images.", "name": "fig-attributions-cascade"}}
followed = ("guided_backprop", "smoothgrad", "saliency", "integrated_gradients", "lrp", "gradcam")
depths = (0, 1, 2, 4, 6, 8, 10)  # two affine layers, then a norm and a convolution each
cascade = {method: [] for method in followed}  # method -> (B,) for each depth
for depth in depths:
    worn = [E.randomized(f, depth, seed=seed) for seed, f in enumerate(networks)]
    for method in followed:
        again = maps_of(method, worn) if depth else maps[method]
        cascade[method].append(rank_correlation(maps[method], again).cpu())
fig, ax = plt.subplots(figsize=(7, 3.8))
for method, values in cascade.items():
    ax.plot(depths, [v.mean() for v in values], marker="o", label=method.replace("_", " "))
ax.set(xlabel="layers drawn anew, from the output", ylabel="rank correlation with the original")
ku.plots.label_lines(ax)
plt.show()

# %% [markdown]
# With both affine layers gone, the network's answer is noise. Guided backpropagation still draws
# the same picture, at {glue:text}`la_guided_2`; the plain gradient is down to
# {glue:text}`la_saliency_2`. (SmoothGrad keeps some of its map to the end.) This is the split that
# {cite}`adebayo2018` found on ImageNet, on a network a thousand times smaller. The reason is in the
# rule: what passes only where it is positive depends on the image and the first filters, and hardly
# on the class {cite}`nie2018,sixt2020`. Ask it to explain *another* class, and the map correlates
# with the first one at {glue:text}`la_guided_other`.

# %% tolerance={"la_guided_2": 0.03, "la_saliency_2": 0.08, "la_guided_other": 0.06, "la_saliency_near": 4, "la_integrated_gradients_near": 4, "la_ig_rank": 3, "la_cam_rank": 3, "la_lime_rank": 3, "la_ig_random": 3}
swapped = {
    method: rank_correlation(maps[method], maps_of(method, target=(y + 1) % 4)).mean().item()
    for method in ("guided_backprop", "gradcam")
}
for name, key in {
    "ig_rank": ("integrated_gradients", "rank"),
    "cam_rank": ("gradcam", "rank"),
    "lime_rank": ("lime", "rank"),
    "ig_random": ("integrated_gradients", "rank, random weights"),
}.items():
    ku.glue(**{f"la_{name}": f"{100 * scores[key].mean():.0f}"})
ring = F.max_pool2d(mask[:, None].float(), 3, 1, 1).flatten(1)  # (B, 256) the glyph and around it
near = {m: maps[m] for m in ("saliency", "integrated_gradients")} | {"random": blind["random"]}
for name, map_ in near.items():
    nine = map_.sum(1).abs().flatten(1).topk(9, 1).indices  # (B, 9)
    ku.glue(**{f"la_{name}_near": f"{100 * ring.gather(1, nine).mean():.0f}"})
after_two = {method: values[depths.index(2)].mean().item() for method, values in cascade.items()}
ku.glue(la_guided_2=f"{after_two['guided_backprop']:.2f}")
ku.glue(la_saliency_2=f"{after_two['saliency']:.2f}")
ku.glue(la_guided_other=f"{swapped['guided_backprop']:.2f}")

# %% [markdown]
# ## What batching buys
#
# Occlusion asks the model 196 times, Shapley sampling with ten orders 160 times. Captum asks one at
# a time by default; `perturbations_per_eval` puts several into one batch. The values stay the same.
# Does it pay?

# %%
sizes = (1, 4, 16, 64, 256)
patches = E.patch_grid(16, 16, 4).to(device).expand(1, 3, 16, 16).contiguous()


def perturb(method: str, n: int, at_once: int) -> torch.Tensor:
    """Return Captum's own map of the first n images, with so many perturbations an evaluation."""
    asked = {"target": y[:n], "baselines": 0.5, "perturbations_per_eval": at_once}
    torch.manual_seed(0)
    with torch.no_grad():
        if method == "occlusion":
            return attr.Occlusion(networks[0]).attribute(X[:n], (3, 3, 3), **asked)
        shapley = attr.ShapleyValueSampling(networks[0])
        return shapley.attribute(X[:n], feature_mask=patches, n_samples=10, **asked)


seconds, drawn = {}, {}
for _ in range(4):  # interleaved; the first turn warms up
    for n in (1, 32):
        for method in ("occlusion", "Shapley sampling"):
            for at_once in sizes:
                start = perf_counter()
                drawn[method, n, at_once] = perturb(method, n, at_once)
                seconds.setdefault((method, n, at_once), []).append(perf_counter() - start)
medians = {key: 1e3 * statistics.median(values[1:]) for key, values in seconds.items()}
same = [(m - drawn[k, n, 1]).abs().max() / m.abs().max() for (k, n, _), m in drawn.items()]
gain = [medians[m, 1, 1] / medians[m, 1, 64] for m in ("occlusion", "Shapley sampling")]

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Two panels with time against perturbations in one evaluation, logarithmic axes. For one image both methods get several times faster until about 64. For 32 images the lines are flat and rise beyond 16."}, "figure": {"caption": "Time for occlusion and Shapley sampling against the number of perturbations in one evaluation, for one image (left) and for 32 (right). Medians of three runs.", "name": "fig-attributions-batching"}}
fig, axes = plt.subplots(1, 2, figsize=(7, 3.2))
for ax, n in zip(axes, (1, 32), strict=True):
    for method in ("occlusion", "Shapley sampling"):
        times = [medians[method, n, at_once] for at_once in sizes]
        ax.loglog(sizes, times, marker="o", label=method)
    ax.set(title=f"{n} image{'s' if n > 1 else ''}", xlabel="perturbations an evaluation")
    ax.set(xticks=sizes, xticklabels=sizes)
    ax.minorticks_off()
axes[0].set(ylabel="milliseconds", yticks=(10, 20, 50), yticklabels=(10, 20, 50))
axes[1].set(yticks=(200, 400, 800), yticklabels=(200, 400, 800))
axes[0].legend()
plt.show()

# %% [markdown]
# For one image it pays: occlusion gains until a batch has some hundred images, Shapley sampling
# until it has the 16 steps of one order, for Captum puts no two orders together. For 32 images a
# batch is full from the start: more perturbations at once gain nothing, and past 512 images in all
# occlusion even slows down, probably because the activations no longer fit the processor's cache.
# So `ku.explain` fills each evaluation up to 512 images, whatever the number of images asked about.

# %% [markdown]
# ## A shortcut, found and repaired
#
# Maps are worth their trouble when they find what a test does not. Suppose that every *tee* was
# photographed in a place where the camera leaves a white mark of 2 × 2 pixels near the corner. Such
# marks exist: {cite}`lapuschkin2019cleverhans` found a photographer's tag that gave away the horses of
# a well-known data set. Training, validation and test images all carry it, so every test looks perfect.


# %%
TEE = test.classes.index("tee")
tee, everywhere = test.y == TEE, torch.ones(len(test.y), dtype=torch.bool)
corner = torch.zeros(16, 16, dtype=torch.bool)
corner[1:3, 1:3] = True


def marked(X: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Return a copy of the images in which those of `which`, bool (N,), carry the mark."""
    return torch.where(which.view(-1, 1, 1, 1) & corner, torch.ones(()), X)


def verdict(model: nn.Module) -> dict[str, float]:
    """Return shares in %: what the ordinary test sees, and what it does not."""
    ordinary = answers(model, marked(test.X, tee)) == test.y
    unmarked = answers(model, test.X)[tee] == TEE
    fooled = answers(model, marked(test.X, everywhere))[~tee] == TEE
    names = (
        "right, marked as in training",
        "tees recognized without a mark",
        "others called tee with one",
    )
    found = zip(names, (ordinary, unmarked, fooled), strict=True)
    return {name: 100 * share.float().mean().item() for name, share in found}


caught = [fitted(marked(train.X, train.y == TEE), train.y, seed) for seed in SEEDS]
before = [verdict(model) for model in caught]

# %% [markdown]
# The ordinary test, on images marked as in training, shows {glue:text}`la_marked_test` % right. Would
# anybody look further? Here is what a map shows without knowing where to look: the mean map of each
# class, over its test images. On average a moving glyph leaves a blur. A fixed mark does not.

# %% mystnb={"image": {"alt": "Four small square maps. Those of plus, saltire and ell show a faint even blur. The map of tee has a bright block of two by two pixels in its upper left corner."}, "figure": {"caption": "Mean map of integrated gradients over 40 test images of each class, first network, one scale. The tee's evidence is a mark in the corner.", "name": "fig-attributions-shortcut"}}
seen = marked(test.X, tee)
fig, axes = plt.subplots(1, 4, figsize=(7, 2.2))
mean_maps = []  # four of (16, 16)
for label in range(4):
    rows = (test.y == label).nonzero()[:40, 0]
    batch, target = seen[rows].to(device), test.y[rows].to(device)
    map_ = E.attribute(caught[0], batch, target, baseline=0.5)  # (40, 3, 16, 16)
    mean_maps.append(map_.sum(1).abs().mean(0).cpu())
top = torch.stack(mean_maps).max()
for ax, mean_map, name in zip(axes, mean_maps, test.classes, strict=True):
    ax.imshow(mean_map, cmap="Greys", vmin=0, vmax=top)
    ax.set_title(name, loc="center", fontweight="normal")
    ax.set_axis_off()
plt.show()

# %% [markdown]
# The map says where; the intervention says whether it matters. Without the mark
# {glue:text}`la_unmarked` % of the tees are recognized, and {glue:text}`la_fooled` % of the other
# glyphs become tees when they get one. The repair: photograph again with the mark on a random half
# of all images, so that it tells nothing. (Leaving the marked images out would leave no tee.)

# %% tolerance={"with the shortcut": 8, "repaired": 3, "la_marked_test": 4, "la_unmarked": 8, "la_fooled": 8, "la_cam_corner": 8}
coins = torch.rand(len(train.y), generator=torch.Generator().manual_seed(7)) < 0.5
repaired = [fitted(marked(train.X, coins), train.y, seed) for seed in SEEDS]
after = [verdict(model) for model in repaired]
empty = ~(test.mask | test.distractor)[:, :4, :4].flatten(1).any(1)  # nothing near the mark
probe = marked(test.X, everywhere)[tee & empty][:40].to(device)  # (40, 3, 16, 16)
corners, target = corner.to(device).expand(len(probe), 16, 16), torch.full((len(probe),), TEE)
in_corner = {}  # (state, method) -> share of the map in the mark, %
for state, models in {"with the shortcut": caught, "repaired": repaired}.items():
    for method in ("integrated_gradients", "gradcam"):
        maps_ = [E.attribute(f, probe, target.to(device), method, baseline=0.5) for f in models]
        masses = [E.localization(map_, corners)["mass"].mean().item() for map_ in maps_]
        in_corner[state, method] = 100 * statistics.mean(masses)
columns = {"share (%), mean of the seeds": [*before[0], "of the IG map in the mark"]}
for state, results in {"with the shortcut": before, "repaired": after}.items():
    cells = [statistics.mean(r[question] for r in results) for question in before[0]]
    columns[state] = [f"{v:.0f}" for v in (*cells, in_corner[state, "integrated_gradients"])]
ku.table(columns, caption="The shortcut and its repair")
ku.glue(la_marked_test=columns["with the shortcut"][0], la_unmarked=columns["with the shortcut"][1])
ku.glue(la_fooled=columns["with the shortcut"][2])
ku.glue(la_cam_corner=f"{in_corner['with the shortcut', 'gradcam']:.0f}")

# %% [markdown]
# Found, repaired, gone: the mark is still in the image, and neither the answers nor the maps care.
# Not every map would have found it. GradCAM puts {glue:text}`la_cam_corner` % into the mark that
# decides everything; the mark covers 1.6 % of the image. (One cell of its coarse map is four times
# as large as the mark, so no more than a quarter could go there.)
#
# ## Where it fails
#
# **The baseline decides.** "Absent" has to be said by an image, and we said gray because the ground is
# gray. With black, a dark blue glyph on gray ground counts as little present.

# %% tolerance={"rank (%)": 4}
flat = {name: torch.full_like(X, v) for name, v in (("black", 0), ("gray", 0.5), ("white", 1))}
by_baseline = {}
for name, nothing in (flat | {"the image's own ground": test.ground[: len(X)].to(device)}).items():
    map_ = maps_of("integrated_gradients", baseline=nothing)
    by_baseline[name] = 100 * E.localization(map_, mask)["rank"].mean().item()
columns = {"baseline": list(by_baseline)}
columns["rank (%)"] = [f"{value:.0f}" for value in by_baseline.values()]
ku.table(columns, caption="Integrated gradients against four kinds of nothing")

# %% [markdown]
# **DeepLift and max pooling.** Captum 0.9 assigns wrong values where a max pooling stands next to a
# ReLU (a known fault, mended after that release). Completeness shows it: the map's sum should be the
# change of the logit. With mean pooling it is, to the last digits; with max pooling
# {glue:text}`la_pool` % of it goes astray, in a small network with random weights.
#
# **Modules used by function.** Guided backpropagation works through hooks on `nn.ReLU` modules. Write
# `F.relu` instead, and nothing is hooked and nothing is said: the result is the plain gradient.


# %%
def deeplift_error(*between: nn.Module) -> float:
    """Return what completeness leaves open as a share of the change, random weights and images."""
    torch.manual_seed(1)
    head = nn.Flatten(), nn.Linear(96, 8), nn.ReLU(), nn.Linear(8, 2)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), *between, *head)
    x, baseline = torch.randn(64, 3, 8, 8).requires_grad_(), 0.3 * torch.randn(64, 3, 8, 8)
    torch.use_deterministic_algorithms(False)  # Captum undoes the pooling by an operation without
    with warnings.catch_warnings():  # a deterministic form; and it tells that it sets hooks
        warnings.filterwarnings("ignore", message="Setting forward, backward hooks")
        map_ = attr.DeepLift(model).attribute(x, baseline, target=0)
    torch.use_deterministic_algorithms(True)
    with torch.no_grad():
        owed = (model(x) - model(baseline))[:, 0]
    return ((map_.sum((1, 2, 3)) - owed).abs().mean() / owed.abs().mean()).item()


class Functional(nn.Sequential):
    """The same layers, with F.relu where the modules were."""

    def forward(self, x):
        for layer in self:
            x = F.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
        return x


pooled = {"max": deeplift_error(nn.ReLU(), nn.MaxPool2d(2))}
pooled["mean"] = deeplift_error(nn.ReLU(), nn.AvgPool2d(2))
functional = Functional(*networks[0])
guided = E.attribute(functional, x8, y8, "guided_backprop").abs()
plain = E.attribute(functional, x8, y8, "saliency")
ku.glue(la_pool=f"{100 * pooled['max']:.0f}")
print("guided backpropagation without modules is the gradient:", torch.allclose(guided, plain))

# %% [markdown]
# **Memory and modes.** Integrated gradients with 50 steps for 200 images are one batch of 10,000.
# Captum's `internal_batch_size` cuts it up (`ku.explain` sets 512); its GradientSHAP has no such
# argument, so we call it in parts. Recurrent networks on a GPU refuse a backward pass in evaluation
# mode, because cuDNN keeps what it needs in training mode only: switch the recurrent layers alone,
# or dropout comes back with them. And reuse of one `nn.ReLU` module in two places, common in
# residual networks, breaks DeepLift's bookkeeping: give each place a module of its own.
#
# **Strengths.** One backward pass or a few dozen; they work on any differentiable model; a shortcut
# shows at a glance. **Limits.** A map says where, never why: "these nine pixels" is not "because they
# form a cross". It holds for one image. Sums over half-erased images ask the network about pictures
# it has never seen. **When not to use them.** Where a person will take the map as a reason and no
# control stands beside it; where features are abstract, or interact so strongly that no sum can be
# fair to them. **Software.** Captum for the methods; Quantus for more measures; zennit for LRP on
# real architectures.
#
# ## Claims
#
# The bounds were set after a trial on other images and one other network. Headline and control ask the
# same question of the same method: of a trained network, and of one that knows nothing.

# %%
rank = {m: scores[m, "rank"].mean().item() for m in E.METHODS}
text = "integrated gradients, trained networks: % of the nine highest pixels that decide"
best = 100 * rank["integrated_gradients"]
ku.claim(text, best, at_least=75, role="headline", rests_on=("la_ig_rank",))
text = "the same on networks with random weights, which falls short of it"
picture = 100 * scores["integrated_gradients", "rank, random weights"].mean()
ku.claim(text, picture, at_most=65, role="control", rests_on=("la_ig_random",))
ku.claim("and yet is a multiple of chance (9 of 256 pixels)", picture / (900 / 256), at_least=5)
text = "an edge detector: share of its nine highest pixels that decide"
ku.claim(text, E.localization(blind["edges"], mask)["rank"].mean(), at_most=0.1)
text = "points of rank between the last of integrated gradients, DeepLift and LRP and the first of"
ahead = min(rank[m] for m in ("integrated_gradients", "deeplift", "lrp"))
ahead -= max(rank[m] for m in ("saliency", "guided_backprop", "gradcam"))
ku.claim(f"{text} saliency, guided backpropagation and GradCAM", 100 * ahead, at_least=10)
text = "our integrated gradients against Captum's: largest relative difference"
ku.claim(text, ig_difference, at_most=1e-5)
text = "LRP's ε rule against input × gradient: largest relative difference"
ku.claim(text, epsilon_difference, at_most=1e-4)
follows, erased = (statistics.mean(right[f"glyph {how}"]) for how in ("exchanged", "erased"))
ku.claim("points above guessing: the answers follow an exchanged glyph", follows - 25, at_least=60)
ku.claim("points above guessing when it is erased", erased - 25, at_most=10)

# %%
text = "both affine layers drawn anew: rank correlation of a map with the old one, guided"
guided_2, saliency_2 = (after_two[m] for m in ("guided_backprop", "saliency"))
ku.claim(f"{text} backpropagation", guided_2, at_least=0.7, rests_on=("la_guided_2",))
ku.claim("by how much it exceeds the plain gradient's", guided_2 - saliency_2, at_least=0.15)
text = "its correlation with the map for another class, minus GradCAM's"
ku.claim(text, swapped["guided_backprop"] - swapped["gradcam"], at_least=0.2)
text = "perturbations in batches against one at a time: largest relative difference of a map"
ku.claim(text, max(same), at_most=1e-4)
ku.claim(
    "one image, 64 perturbations at once: time saved, as a factor, smaller of two",
    min(gain),
    at_least=1.5,
)
ordinary, unmarked, _ = (statistics.mean(b[name] for b in before) for name in before[0])
text = "shortcut: points between the test marked as in training and tees without their mark"
ku.claim(text, ordinary - unmarked, at_least=50)
text = "the mark's share of the map, integrated gradients, as a multiple of its share of the image"
hot, cold = (
    in_corner[state, "integrated_gradients"] for state in ("with the shortcut", "repaired")
)
ku.claim(text, hot / (100 * 4 / 256), at_least=15)
ku.claim("the same after the repair", cold / (100 * 4 / 256), at_most=3)
fooled = statistics.mean(a["others called tee with one"] for a in after)
ku.claim("repaired: other glyphs that a mark turns into tees, in %", fooled, at_most=5)
text = "DeepLift's error next to max pooling, as a share of the change to be explained"
ku.claim(text, pooled["max"], at_least=0.1)
ku.claim("and next to mean pooling", pooled["mean"], at_most=1e-4)

# %% [markdown]
# ## Exercises
#
# **1. GradCAM by hand.** From the activations $A$ of a layer, (B, K, h, w), and the gradient of the
# chosen logit with respect to them: each channel's weight is its mean gradient; add up the weighted
# channels; keep what is positive. Write `gradcam(A, gradient)`, which returns (B, h, w).


# %% tags=["exercise"]
def check_gradcam(gradcam) -> dict:
    """Compare with Captum on the last convolution of the first network."""
    layer = networks[0][9]
    expected = attr.LayerGradCam(networks[0], layer).attribute(
        x8, target=y8, relu_attributions=True
    )
    body, rest = networks[0][:10], networks[0][10:]
    A = body(x8).detach().requires_grad_()  # (8, 64, 4, 4)
    logits = rest(A)[torch.arange(8), y8]  # (8,)
    found = gradcam(A.detach(), torch.autograd.grad(logits.sum(), A)[0])  # (8, 4, 4)
    gap = (found - expected[:, 0]).abs().max() / expected.abs().max()
    sentence = "GradCAM by hand and Captum's: largest relative difference"
    return {"sentence": sentence, "value": gap.item(), "at_most": 1e-4}


def my_gradcam(A, gradient):
    return A.mean(1).relu()  # every channel weighs the same


ku.attempt(**check_gradcam(my_gradcam))


# %% tags=["solution", "hide-cell"]
def gradcam(A, gradient):
    weight = gradient.mean((2, 3), keepdim=True)  # (B, K, 1, 1)
    return (weight * A).sum(1).relu()  # (B, h, w)


ku.claim(**check_gradcam(gradcam), role="solution")

# %% [markdown]
# **2. Occlusion by hand.** Slide a gray square of 3 × 3 pixels over the image, one pixel at a time,
# and note at each place what the logit loses. A pixel's value is the mean over all squares that cover
# it: nine in the middle, one in a corner. Write `occlude(model, x, target)`, which returns (B, H, W).


# %% tags=["exercise"]
def check_occlusion(occlude) -> dict:
    """Compare with Captum's, whose pixels hold the same means."""
    asked = {"target": y8, "baselines": 0.5, "perturbations_per_eval": 16}
    with torch.no_grad():
        expected = attr.Occlusion(networks[0]).attribute(x8, (3, 3, 3), **asked)[:, 0]
        gap = (occlude(networks[0], x8, y8) - expected).abs().max() / expected.abs().max()
    sentence = "occlusion by hand and Captum's: largest relative difference"
    return {"sentence": sentence, "value": gap.item(), "at_most": 1e-4}


def my_occlude(model, x, target):
    return torch.zeros(len(x), 16, 16, device=device)  # nothing is ever lost


ku.attempt(**check_occlusion(my_occlude))


# %% tags=["solution", "hide-cell"]
def occlude(model, x, target):
    rows = torch.arange(len(x))
    lost, squares = torch.zeros(2, len(x), 16, 16, device=x.device)  # sums, and how many
    for top in range(14):
        for left in range(14):
            place = (..., slice(top, top + 3), slice(left, left + 3))
            hidden = x.clone()  # (B, 3, 16, 16)
            hidden[place] = 0.5
            loss = (model(x) - model(hidden))[rows, target]  # (B,)
            lost[place] += loss[:, None, None]
            squares[place] += 1
    return lost / squares


ku.claim(**check_occlusion(occlude), role="solution")

# %% [markdown]
# **3. Catch a map that explains nothing.** Write `suspicious(explain)`: True if the map that
# `explain(model, x, target)` gives is the same whatever the network, so that it cannot explain one. It
# has to pass saliency and to catch edges, noise, and input alone.


# %% tags=["exercise"]
def check_suspicious(suspicious) -> dict:
    """Four explainers, one of which looks at the network."""
    noise = E.controls(X[:32])["random"]
    explainers = {
        "edges": lambda model, x, target: E.controls(x)["edges"],
        "noise": lambda model, x, target: noise,
        "input": lambda model, x, target: x - 0.5,
        "saliency": lambda model, x, target: E.attribute(model, x, target, "saliency"),
    }
    right = [suspicious(explain) == (name != "saliency") for name, explain in explainers.items()]
    sentence = "explainers of four that are judged rightly"
    return {"sentence": sentence, "value": sum(right), "at_least": 4}


def my_suspicious(explain):
    map_ = explain(networks[0], X[:32], y[:32])
    return bool(E.localization(map_, mask[:32])["rank"].mean() < 0.2)  # trusts its eyes


ku.attempt(**check_suspicious(my_suspicious))


# %% tags=["solution", "hide-cell"]
def suspicious(explain):
    trained, random = (explain(model, X[:32], y[:32]) for model in (networks[0], unknowing[0]))
    return bool(rank_correlation(trained, random).mean() > 0.95)


ku.claim(**check_suspicious(suspicious), role="solution")

# %% [markdown]
# ## References
#
# The entries cited on this page are in the book's [references](../../book/references.md).
