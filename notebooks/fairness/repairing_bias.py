# %% [markdown]
# # Repairing bias
#
# **Six ways to repair a biased model, measured in a population where we know who would repay. Which
# repair works, what does it cost, and when does it make things worse?**
#
# If the records are true and the groups differ, a repair is nearly free: thresholds per group take
# the gap in error rates from {glue:text}`rb_gap_before` to {glue:text}`rb_gap_after` points, for
# {glue:text}`rb_cost` points of accuracy ({glue:text}`rb_cost_seeing` from a network that sees the
# group). If the *records* are biased, the same method, told the same
# thing, makes the true gap larger: from {glue:text}`rb_direct_before` to
# {glue:text}`rb_direct_after` points. It equalizes errors against records that are wrong. Equal
# approval rates repair that case ({glue:text}`rb_direct_parity` points left), and accuracy tells the story
# backward: against the truth it rises by {glue:text}`rb_merit_gain` points, against the records it
# falls by {glue:text}`rb_record_loss`. The recorded rates do not tell the two cases apart.
#
# :::{admonition} What you will learn
# - to plant bias in a population, each kind with a dial, and to measure against the truth;
# - to write reweighing, resampling, a constraint in the loss, an adversary behind a reversed
#   gradient, and a search for thresholds, and to know fairlearn's reductions;
# - to compare repairs fairly: from the same network, at the same allowed gap, with spread;
# - to say which repair fails under which bias, and why;
# - to ask what a rule does to people over twenty years instead of one.
#
# **Works out:** document 000 §3.2.4 (see [the five documents](../../book/five_documents.md)).
#
# **Before this:** [Detecting bias](detecting_bias.ipynb).
#
# **Costs:** two minutes and 2 GiB on two CPU cores. The full profile (ten
# populations instead of three) is quicker with a GPU.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 文档 000 第 3.2.4 节要求“检测和修复模型中的偏见”。本章在一个人造的借贷人群中检验六种修复方法：谁会还款是已知的，偏见由我们用四个旋钮植入。
# 方法有重加权、重抽样、损失中的约束、梯度反转的对抗训练、fairlearn 的指数梯度和分组阈值，全部从同一个基础网络出发，并在相同的允许差距下比较。
# 记录真实时，分组阈值几乎不损失准确率就能消除错误率差距；记录本身有偏时，同一方法反而扩大真实差距，而批准率相等才有效。
# 这时对真实情况的准确率上升，对记录的准确率下降；只看记录的人无法区分这两种情形。
# 最后用真实的房贷和假释数据说明小样本的区间有多宽，并用一个反馈模型说明同一规则何时有益、何时有害。
#
# </div>
# :::

# %% tags=["setup"]
# Colab: this line is replaced by an install command when the book is published
import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import copy
import itertools
from functools import partial
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.reductions import EqualizedOdds, ExponentiatedGradient
from scipy.optimize import linprog
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import StratifiedKFold
from torch import nn

device = ku.start(seed=0)

# %% [markdown]
# ## The data
#
# Real records never show who would have repaid after a refusal. So we build a population. Each person
# has an ability $z$, with deviation 1, that nobody sees. Somebody with luck $\varepsilon$ repays if
#
# $$m = \bigl[\,z + 0.4\,\varepsilon > -0.7\,\bigr],$$
#
# which we call *merit*; about three in four do. Five features measure $z$ with noise: income,
# savings, debts, late payments, years in the job. A sixth, the district, has nothing to do with $z$;
# it depends on the group alone. Three in ten people belong to group 1, and four dials put it at a
# disadvantage:
#
# | dial | what it does to group 1 | what it is |
# |---|---|---|
# | `disadvantage` | lowers ability itself | a fact about the world; the records are true |
# | `proxy` | lowers income, savings and years in the job at equal ability | a fault of the features |
# | `direct` | moves the line of the recorded outcome | a fault of the records: the same merit is judged harder |
# | `label` | records a share of those who would repay as if they would not | a fault of the records, at random |
#
# The first two dials leave the records true. The last two do not, and differ in one thing: under
# `direct` the wrongly refused are those near the line, so the features tell who they are; under
# `label` they are anybody.
#
# **What these data cannot support.** They are six Gaussian columns. They can prove that a method
# fails, or works, on a bias of a given kind; they say nothing about which kinds exist in the world,
# or how large they are. For that there are studies of real decisions, and the real tables further
# down are too small to replace them.
#
# A network learns from 50,000 people and is measured on 500,000 fresh ones. So many are needed: on
# 25,000, a perfectly fair rule shows a gap of about one point by chance.

# %%
WORLDS = {
    "disadvantage": {"disadvantage": 0.5},
    "proxy": {"proxy": 0.8},
    "direct": {"direct": 0.8},
    "label": {"label": 0.3},
}
HONEST = {"disadvantage": 0.5, "proxy": 0.8}  # true records, two reasons for a gap
few = ku.rehearsal_steps() is not None
num_train, num_test = (2000, 2000) if few else (50_000, 500_000)
seeds = range(1 if few else ku.pick(laptop=3, full=10))
people = {(world, seed): ku.data.lending(num_train, **dials, seed=seed)
          for world, dials in (WORLDS | {"honest": HONEST}).items() for seed in seeds}  # fmt: skip
fresh = {world: ku.data.lending(num_test, **dials, seed=1000)
         for world, dials in (WORLDS | {"honest": HONEST}).items()}  # fmt: skip
columns = {"world": list(WORLDS)}
for title, column in (("would repay", "merit"), ("recorded as creditworthy", "y")):
    for group in (0, 1):
        values = [
            getattr(fresh[w], column)[fresh[w].group == group].double().mean() for w in WORLDS
        ]
        columns[f"{title}, group {group} (%)"] = [f"{100 * v:.0f}" for v in values]
ku.table(columns, caption="One dial turned in each world")

# %% mystnb={"image": {"alt": "Four panels, share recorded as creditworthy against ability, an S-shaped curve for each group. In the worlds disadvantage and proxy the two curves coincide. In direct, the curve of group 1 is shifted to the right by 0.8. In label, the curve of group 1 rises with the other but levels off at 70 percent."}, "figure": {"caption": "What the records say at equal ability. In two worlds they are true and the groups differ in other ways; in two they are not.", "name": "fig-repairing-bias-worlds"}}
fig, axes = plt.subplots(1, 4, figsize=(9.5, 2.8), sharey=True)
edges = torch.linspace(-2.5, 2, 19)
for ax, world in zip(axes, WORLDS, strict=True):
    pop = fresh[world]
    for group, style in ((0, "-"), (1, "--")):
        mine = pop.group == group
        bins = torch.bucketize(pop.ability[mine].contiguous(), edges)  # (n,)
        count = torch.bincount(bins, minlength=20)[1:-1].double()
        share = torch.bincount(bins, pop.y[mine].double(), minlength=20)[1:-1] / count
        ax.plot((edges[1:] + edges[:-1]) / 2, 100 * share, style, label=f"group {group}")
    ax.set(title=world, xlabel="ability")
axes[0].set_ylabel("recorded as creditworthy (%)")
axes[0].text(-0.4, 45, "both groups")
axes[2].text(-2.4, 62, "group 0")
axes[2].text(0.3, 30, "group 1")
plt.show()

# %% [markdown]
# ## The dumbest baseline: train, or drop a column
#
# The base network sees the six features, not the group, and learns the *recorded* outcome. The
# dumbest repair drops one more column, the district, since it gives the group away. Its opposite
# adds the group.
#
# What do we measure? Decisions against merit. The *odds gap* is the larger of the differences in
# true and in false positive rate between the groups (equalized odds {cite}`hardt2016`), the *parity
# gap* the difference in approval rates. And accuracy twice: against merit, which only we know, and
# against the records, which is what a bank would see.


# %%
def recorded_loss(logits, target):
    """Weighted cross-entropy. logits: (B, 1); target: (B, 2), recorded outcome and weight."""
    losses = F.binary_cross_entropy_with_logits(logits[:, 0], target[:, 0], reduction="none")
    return (target[:, 1] * losses).mean()


def train(net, X, y, beside=None, seed=0, loss=recorded_loss, num_epochs=4):
    """Train net in place on X (N, F) and y (N,); return it.

    beside: (N,) what the loss needs beside the outcome: weights (default: all 1), or the group.
    """
    target = torch.stack([y, torch.ones_like(y) if beside is None else beside], 1).float()  # (N, 2)
    adam = torch.optim.Adam(net.parameters(), lr=0.02)
    tools = {"loss": loss, "optimizer": adam, "batch_size": 2000, "seed": seed}
    ku.fit(net, (X.to(device), target.to(device)), num_epochs=num_epochs, **tools)
    return net.eval()


def fresh_net(inputs, seed):
    """Return an untrained network with the given number of inputs."""
    torch.manual_seed(seed)
    return ku.models.mlp(inputs, 16, 1).to(device)


@torch.no_grad()
def score(net, X):
    """Return the network's probabilities of a recorded 1, (N,) NumPy."""
    return net(X.to(device))[:, 0].sigmoid().double().cpu().numpy()


VIEWS = {  # what a network may look at
    "base": lambda pop: pop.X,
    "without the district": lambda pop: pop.X[:, :5],
    "with the group": lambda pop: torch.cat([pop.X, pop.group[:, None].float()], 1),
}


# %%
def measure(decision, pop):
    """Return odds gap, parity gap, accuracy against merit and records, odds gap by records, (5,)."""
    group, merit, y = (np.asarray(t) == 1 for t in (pop.group, pop.merit, pop.y))
    difference = lambda rows: abs(decision[rows & ~group].mean() - decision[rows & group].mean())  # noqa: E731
    odds = [max(difference(truth), difference(~truth)) for truth in (merit, y)]
    right = [(decision == truth).mean() for truth in (merit, y)]
    return 100 * np.array([odds[0], difference(merit | ~merit), *right, odds[1]])


base, views = {}, {}
for (world, seed), pop in people.items():
    for view, see in VIEWS.items():
        X = see(pop)  # (N, 5 to 7)
        net = base[world, view, seed] = train(fresh_net(X.shape[1], seed), X, pop.y, seed=seed)
        views[world, view, seed] = measure(score(net, see(fresh[world])) > 0.5, fresh[world])


def over_seeds(results, *key):
    """Return (mean, lowest, highest) over the seeds, each (5,), of results[(*key, seed)]."""
    runs = np.stack([results[(*key, seed)] for seed in seeds])
    return runs.mean(0), runs.min(0), runs.max(0)


# %% tolerance={"base: odds gap": 1.5, "no district: odds gap": 1.5, "group: odds gap": 1.5, "base: accuracy (%)": 0.4, "no district: accuracy (%)": 0.4, "group: accuracy (%)": 0.4}
columns = {"world": list(WORLDS)}
for short, view in zip(("base", "no district", "group"), VIEWS, strict=True):
    means = [over_seeds(views, world, view)[0] for world in WORLDS]  # (5,) each
    columns[f"{short}: odds gap"] = [f"{m[0]:.0f}" for m in means]
    columns[f"{short}: accuracy (%)"] = [f"{m[2]:.1f}" for m in means]
ku.table(columns, caption="Against merit; the gap in points; mean of the training populations")
world, by_package = fresh["direct"], base["direct", "base", 0]
by_package = ku.fairness.audit(world.merit, score(by_package, world.X) > 0.5, world.group)
apart_audit = abs(100 * by_package.equalized_odds_difference - views["direct", "base", 0][0])

# %% [markdown]
# Dropping a column helps where the *records* are biased (direct, label): nothing but the district
# connects the features with the group, and a network that cannot see it judges both groups alike.
# The gap is gone, and merit is predicted *better*. It harms where the *features* are biased (proxy):
# the district was the only hint that the same income stands for more ability in group 1, and without
# it the gap grows. There the network that sees the group uses it to *correct*, and is the fairest and
# most accurate of the three. Under direct bias the same network is the worst. Whether to look at the
# group depends on where the bias is.
#
# This was the easy version, with one innocent column to drop. In real tables every column is a
# little like the district. So the repairs below start from the base network, district and all.
#
# ## Six repairs
#
# There are three places to intervene: the table before training, the loss during training, the
# decision after it. All of our repairs are told the group of everybody in the *training* table.
# Nobody can repair, or measure, what was not recorded.
#
# ### Before training: weights
#
# If the table says that fewer of group 1 deserve a loan, make it say otherwise: let those count more
# who are rarer in the table than they would be if group and outcome had nothing to do with each
# other. Reweighing {cite}`kamiran2012` gives each person the weight
#
# $$w(g, y) = \frac{P(g)\,P(y)}{P(g, y)},$$
#
# so that group and recorded outcome are independent in the weighted table. A strength
# $\alpha$ turns $w$ into $w^\alpha$. Resampling draws people with probabilities in proportion to the
# weights instead, and then trains as usual. Every repair below has the same form: people, base
# network, strength, seed; it returns a *rule*, a function from people to decisions.


# %%
def rule_of(net, view="base"):
    """Return the rule: approve whom the network gives more than one half."""
    return lambda pop: score(net, VIEWS[view](pop)) > 0.5


def weights(pop, strength):
    """Return reweighing's weights, (N,)."""
    joint = torch.zeros(2, 2).double().index_put_((pop.group, pop.y), torch.ones(1).double(), True)
    joint = joint / joint.sum()  # (2, 2) P(group, y)
    expected = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return (expected / joint)[pop.group, pop.y] ** strength


def reweigh(pop, net, strength, seed):
    w = weights(pop, strength)
    return rule_of(train(copy.deepcopy(net), pop.X, pop.y, w, seed))


def resample(pop, net, strength, seed):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.multinomial(weights(pop, strength), len(pop.y), replacement=True, generator=draw)
    return rule_of(train(copy.deepcopy(net), pop.X[rows], pop.y[rows], seed=seed))


pop = people["direct", 0]
w, first = weights(pop, 1.0), pop.group == 1
shares = [(w * pop.y)[rows].sum() / w[rows].sum() for rows in (first, ~first)]
print("weighted share of recorded 1 equal:", bool((shares[0] - shares[1]).abs() < 1e-9))

# %% [markdown]
# ### During training: a constraint, or an adversary
#
# Here the table stays as it is, and the loss gets a second wish. A decision has no gradient, a
# probability has one. The constraint adds the squared gap between the
# groups' mean probabilities to the loss, within each recorded outcome $c$ (odds) or over all
# (parity):
#
# $$L = \text{cross-entropy} + \lambda \sum_{c} \bigl(\bar p_{0,c} - \bar p_{1,c}\bigr)^2 .$$


# %%
def constrained(logits, target, strength, parity):
    """Cross-entropy plus the squared gaps. logits: (B, 1); target: (B, 2), outcome and group."""
    (y, group), p = target.T, logits[:, 0].sigmoid()  # (B,) each
    loss = F.binary_cross_entropy_with_logits(logits[:, 0], y)
    for mine in (torch.ones_like(y),) if parity else (y, 1 - y):
        means = [(p * mine * g).sum() / (mine * g).sum().clamp(min=1) for g in (group, 1 - group)]
        loss = loss + strength * (means[0] - means[1]) ** 2
    return loss


def constrain(pop, net, strength, seed, parity=False, view="base"):
    loss = partial(constrained, strength=strength, parity=parity)
    X, net = VIEWS[view](pop), copy.deepcopy(net)
    return rule_of(train(net, X, pop.y, pop.group, seed, loss), view)


# %% [markdown]
# The adversary {cite}`zhang2018,ganin2016` is a second network that guesses the group from the first
# one's output and the recorded outcome. Between the two sits a layer that does nothing forward and
# multiplies the gradient by $-k$ backward. So one backward pass trains both: the adversary learns to
# guess, and the first network learns to leave it nothing to guess from. The game has no loss that
# falls: when the adversary is weak, the first network has nothing to flee from, and when $k$ is large,
# it flees from the task as well. Of the six repairs this one needs the most patience.


# %%
class Reverse(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -k."""

    @staticmethod
    def forward(ctx, x, k):
        ctx.k = k
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.k * gradient, None


def oppose(pop, net, strength, seed):
    torch.manual_seed(1000 + seed)
    net, adversary = copy.deepcopy(net), ku.models.mlp(3, 16, 1).to(device)
    both = nn.ModuleList([net, adversary])  # fit trains the parameters of both,
    both.forward = net.forward  # and the logits are the first one's

    def loss(logits, target):
        y, group = target[:, :1], target[:, 1:]  # (B, 1) each
        seen = Reverse.apply(logits, strength)
        guess = adversary(torch.cat([seen, seen * y, y], 1))  # (B, 1)
        bce = F.binary_cross_entropy_with_logits
        return bce(logits, y) + bce(guess, group)

    train(both, pop.X, pop.y, pop.group, seed, loss)
    return rule_of(net)


x = torch.tensor([0.3, -2.0], requires_grad=True)
Reverse.apply(x, 3.0).pow(2).sum().backward()
reversed_right = (x.grad + 3 * 2 * x.detach()).abs().max()

# %% [markdown]
# ### After training: thresholds
#
# The last kind leaves the network alone and chooses thresholds for each group. One threshold gives
# one point (false positive rate, true positive rate); all of them give the group's ROC curve. If a
# share of the group is decided by one threshold and the rest by another, the group's point lies on
# the line between: everything between the diagonal and the curve's convex hull can be reached. Equalized odds asks both
# groups for the *same* point. With shares $s_{gk}$ of threshold $k$ in group $g$, accuracy and rates
# are linear in $s$, so the best shares solve a linear program: maximize accuracy subject to
#
# $$a \le \sum_k s_{gk}\,\text{TPR}_{gk} \le a + r, \qquad b \le \sum_k s_{gk}\,\text{FPR}_{gk} \le b + r,
# \qquad \sum_k s_{gk} = 1, \quad s \ge 0,$$
#
# where $r$ is the gap we allow. At $r = 0$ this is the method of {cite:t}`hardt2016`. The constraints
# are few, so the solution is simple: at most four of all the shares are not zero.


# %%
def roc(p, y, group, cuts):
    """Return TPR and FPR of each group at each cut, (2, G, K)."""
    passed = p[:, None] >= cuts  # (N, K)
    return np.array([[passed[(group == g) & (y == c)].mean(0) for g in (0, 1)] for c in (1, 0)])


def best_shares(p, y, group, relaxation, cuts):
    """Return the shares (2, K) of the cuts that solve the linear program."""
    (tpr, fpr), K = roc(p, y, group, cuts), len(cuts)
    n = np.array([[((group == g) & (y == c)).sum() for c in (0, 1)] for g in (0, 1)])
    cost = np.concatenate([(n[:, :1] * fpr - n[:, 1:] * tpr).ravel() / len(y), [0, 0]])  # errors
    rows = []
    for floor, rate in enumerate((tpr, fpr)):
        for g in (0, 1):
            row = np.zeros(2 * K + 2)  # the shares of both groups, then a and b
            row[g * K : (g + 1) * K], row[2 * K + floor] = rate[g], -1
            rows += [-row, row]  # a <= rate and rate <= a + r
    one = np.concatenate([np.kron(np.eye(2), np.ones(K)), np.zeros((2, 2))], 1)
    solved = linprog(cost, np.array(rows), [0, relaxation] * 4, one, [1, 1], bounds=(0, 1))
    return solved.x[: 2 * K].reshape(2, K)


# %% mystnb={"image": {"alt": "ROC curves of the two groups in the honest world, close together and crossing near 30 percent false positives. Two open circles mark where one threshold puts the groups: group 0 at 40 and 94 percent, group 1 at 15 and 79 percent. A cross between them, where the curves meet, is the common point after the search."}, "figure": {"caption": "The honest world (true records, two reasons for a gap): each group's ROC curve, where one threshold puts the groups (circles), and the point that both share after the search (cross).", "name": "fig-repairing-bias-roc"}}
pop, net = people["honest", 0], base["honest", "base", 0]
p, y, group = score(net, pop.X), pop.y.numpy(), pop.group.numpy()
cuts = np.append(np.quantile(p, np.linspace(0, 1, 101)), 2.0)
shares, curves = best_shares(p, y, group, 0.0, cuts), roc(p, y, group, cuts)
at_half = 100 * roc(p, y, group, np.array([0.5]))[::-1, :, 0]  # (2, G) FPR, TPR
reached = (shares * curves).sum(2)  # (2, G) TPR and FPR after the search
fig, ax = plt.subplots(figsize=(6, 3.8))
for g, color in ((0, "teal"), (1, "rust")):
    color = ku.plots.PALETTE[color]
    ax.plot(*100 * curves[::-1, g], color=color)
    ax.plot(*at_half[:, g], "o", color=color, fillstyle="none", markersize=9)
    ax.annotate(f"group {g}", at_half[:, g], xytext=(8, -14), textcoords="offset points")
ax.plot(*100 * reached[::-1, 0], "x", color="black", markersize=10)
ax.set(xlabel="false positive rate (%)", ylabel="true positive rate (%)")
ax.set(xlim=(0, 60), ylim=(70, 100))
plt.show()
hand_gap = np.abs(reached[:, 0] - reached[:, 1]).max()

# %% [markdown]
# One threshold for all, at one half, sends the groups far apart along almost the same curve: group 1
# has lower scores, for a good reason (lower ability) and a bad one (features that understate it). The
# common point costs little because the two curves are so close. Where one group's curve lies well
# below the other's, because its features say less, everybody is pulled down to it, and part of the
# better-known group is decided worse than it could be. The package has the same search for more
# groups and criteria, and fairlearn has it as `ThresholdOptimizer`. The sixth repair is fairlearn's exponentiated gradient {cite}`agarwal2018reductions`: it
# turns the constraint into a game, trains a network with new weights in each round, and returns a
# lottery over all of them. It accepts any learner that takes weights. Ours goes on from the base
# network.


# %%
def threshold(pop, net, relaxation, seed, criterion="equalized_odds", view="base"):
    p, tools = score(net, VIEWS[view](pop)), {"criterion": criterion, "relaxation": relaxation}
    found = ku.fairness.threshold_search(pop.y, p, pop.group, **tools)
    return lambda other: found.decide(score(net, VIEWS[view](other)), other.group, seed) == 1


class Wrapped(ClassifierMixin, BaseEstimator):
    """A network as fairlearn wants it; a fit with weights goes on from the network given."""

    def __init__(self, net=None):
        self.net = net

    def fit(self, X, y, sample_weight):
        X, y, w = (torch.tensor(np.asarray(a)) for a in (X, y, sample_weight))
        self.net = train(copy.deepcopy(self.net), X, y, w, num_epochs=2)
        return self

    def predict(self, X):
        return (score(self.net, torch.tensor(np.asarray(X))) > 0.5).astype(int)


def play(pop, net, bound, seed):
    rounds = {"max_iter": 2 if few else 15}
    game = ExponentiatedGradient(Wrapped(net), EqualizedOdds(difference_bound=bound), **rounds)
    game.fit(pop.X.numpy(), pop.y.numpy(), sensitive_features=pop.group.numpy())
    return lambda other: game.predict(other.X.numpy(), random_state=seed) == 1


# %% [markdown]
# ## Compared on equal terms
#
# Papers on repair often compare one method's strict setting with another one's lax setting, or start
# from different models. A large study held both equal, and thresholds on the most accurate model were
# not beaten by any other method {cite}`cruz2024`. We repeat the idea in small: the same base network
# for all, every method at several strengths, three populations to train on. The world is the honest
# one: records are true, so that accuracy means the same to everybody.
#
# One inequality remains. Thresholds see each applicant's group at the moment of decision, the other
# methods use it in training only. So two methods run twice: the second time from the base network
# that sees the group.

# %%
sees = {"view": "with the group"}
strong, tight = (0.3, 1.0, 3.0, 10.0, 30.0), (0.1, 0.05, 0.03, 0.02, 0.01, 0.0)
SWEEPS = {
    "reweighing": (reweigh, (0.5, 1.0, 1.5, 2.0)),
    "resampling": (resample, (0.5, 1.0, 1.5, 2.0)),
    "constraint": (constrain, strong),
    "constraint, sees group": (partial(constrain, **sees), strong),
    "adversary": (oppose, (0.5, 1.0, 2.0, 4.0, 8.0)),
    "exponentiated gradient": (play, (0.1, 0.02)),
    "thresholds": (threshold, tight),
    "thresholds, sees group": (partial(threshold, **sees), tight),
}
seconds, front = {name: [] for name in SWEEPS}, {}  # front: method, strength, seed -> (5,)
for seed in seeds:
    pop, other = people["honest", seed], fresh["honest"]
    for method, (repair, strengths) in SWEEPS.items():
        net = base["honest", "with the group" if "sees" in method else "base", seed]
        for strength in strengths[-1:] if few else strengths:
            start = perf_counter()
            rule = repair(pop, net, strength, seed)
            seconds[method].append(perf_counter() - start)
            front[method, strength, seed] = measure(rule(other), other)

# %% mystnb={"image": {"alt": "Accuracy against odds gap in points for eight methods and two base networks. The blind base lies at 25 points gap and 84 percent, the one that sees the group at 13 and 84.5. Thresholds form the upper left edge, nearly flat: from 84.2 percent at 10 points to 83.9 near zero, and 0.3 higher with sight of the group, where the constraint lies too. The blind methods run together from the base down to the left, to about 82 percent at gaps of 2 points; reweighing and resampling stop at about 5 points."}, "figure": {"caption": "The honest world: accuracy against the gap that remains, on 500,000 fresh people. A dot for each training population and strength; lines join the means.", "name": "fig-repairing-bias-front"}}
colors = ("ochre", "gray", "indigo", "indigo", "raspberry", "rust", "teal", "teal")
fig, ax = plt.subplots(figsize=(8, 4.2))
for (method, (_, strengths)), color in zip(SWEEPS.items(), colors, strict=True):
    strengths = strengths[-1:] if few else strengths
    means = np.array([over_seeds(front, method, s)[0] for s in strengths])  # (strengths, 5)
    order, style = means[:, 0].argsort(), "--" if "sees" in method else "-"
    ax.plot(*means[order][:, [0, 2]].T, style, color=ku.plots.PALETTE[color], label=method)
    dots = np.array([front[method, s, seed] for s in strengths for seed in seeds])
    ax.plot(*dots[:, [0, 2]].T, ".", color=ku.plots.PALETTE[color], markersize=4)
before = over_seeds(views, "honest", "base")[0]
ax.plot(before[0], before[2], "k*", markersize=11)
ax.annotate("base", (before[0], before[2]), xytext=(-4, 8), textcoords="offset points")
aware = over_seeds(views, "honest", "with the group")[0]
ax.plot(aware[0], aware[2], "k*", markersize=11, fillstyle="none")
ax.annotate("base, sees group", (aware[0], aware[2]), xytext=(8, -3), textcoords="offset points")
ax.legend(loc="lower right", fontsize=9)
ax.set(xlabel="odds gap (points)", ylabel="accuracy (%)", xlim=(0, before[0] + 1))
plt.show()

# %% tolerance={"5 points": 0.4, "3 points": 0.4, "2 points": 0.4, "rb_gap_before": 1.5, "rb_gap_after": 0.4, "rb_cost": 0.2, "rb_cost_seeing": 0.2, "rb_seeing": 0.4, "rb_blind": 0.4, "rb_thresholds": 0.4, "rb_both": 0.4}
ALLOWED = (5, 3, 2)
best = {}  # method, allowed gap -> best accuracy of each population, nan where no strength gets there
for method, allowed in itertools.product(SWEEPS, ALLOWED):
    there = {s: [r[2] for (m, _, seed), r in front.items() if (m, seed) == (method, s) and r[0] <= allowed]
             for s in seeds}  # fmt: skip
    best[method, allowed] = np.array([max(found, default=np.nan) for found in there.values()])
columns = {"method": list(SWEEPS)}
for allowed in ALLOWED:
    runs = [best[method, allowed] for method in SWEEPS]  # (S,) each
    columns[f"{allowed} points"] = [
        "none" if np.isnan(r).any() else f"{r.mean():.1f}" for r in runs
    ]
ku.table(columns, caption="Best accuracy (%) at an odds gap of at most ...")
after = over_seeds(front, "thresholds", 0.0)[0]
keys = {"rb_blind": "constraint", "rb_seeing": "constraint, sees group"}
keys |= {"rb_thresholds": "thresholds", "rb_both": "thresholds, sees group"}
ku.glue(**{key: f"{best[method, 3].mean():.1f}" for key, method in keys.items()})
ku.glue(rb_gap_before=f"{before[0]:.0f}", rb_gap_after=f"{after[0]:.1f}")
seeing = (
    over_seeds(views, "honest", "with the group")[0],
    over_seeds(front, "thresholds, sees group", 0.0)[0],
)
ku.glue(rb_cost=f"{before[2] - after[2]:.1f}", rb_cost_seeing=f"{seeing[0][2] - seeing[1][2]:.1f}")

# %% [markdown]
# Read the figure from the left, because a gap near zero is what was asked for. Thresholds get there
# and lose almost nothing. The constraint and the adversary get close and pay about two points.
# Reweighing and resampling stop early: they make group and *record* independent in the table, which
# is parity, and were never asked for odds. ("None" in the table: in at least one population no
# strength that we tried got there.) Two caveats. Thresholds had six strengths and the exponentiated
# gradient two, because it trains up to 15 networks for each; more rounds might bring it closer. And everybody is compared at the gap *reached* on fresh people, while in
# practice a strength is chosen on the training table.
#
# How much of the lead is the method, and how much the group at decision time? At a gap of at most
# three points the blind constraint is {glue:text}`rb_blind` % accurate and the blind network's
# thresholds {glue:text}`rb_thresholds` %. Let both networks see the group, and it is
# {glue:text}`rb_seeing` against {glue:text}`rb_both`. Most of what looked like a better method was a
# better-informed one. And even a better-informed method has a price that is not on the axis: in many countries a lender may not use the
# group at all. And thresholds shared by lot mean that two people with the same file can be treated
# differently by a coin. Time is on its side, too:

# %% tags=["nbval-ignore-output"]
columns = {
    "method": list(SWEEPS),
    "seconds a model": [f"{np.mean(t):.1f}" for t in seconds.values()],
}
ku.table(columns, caption="On the machine that made this page; the base network is already trained")


# %%
class Scores(Wrapped):
    """The base network's probabilities, for fairlearn's ThresholdOptimizer."""

    def predict(self, X):
        return score(self.net, torch.tensor(np.asarray(X)))

    def __sklearn_is_fitted__(self):
        return True


pop, other, net = people["honest", 0], fresh["honest"], base["honest", "base", 0]
tools = {"constraints": "equalized_odds", "prefit": True, "predict_method": "predict"}
library = ThresholdOptimizer(estimator=Scores(net), **tools)
library.fit(pop.X.numpy(), pop.y.numpy(), sensitive_features=pop.group.numpy())
tools = {"sensitive_features": other.group.numpy(), "random_state": 0}
theirs = measure(library.predict(other.X.numpy(), **tools) == 1, other)
apart_library = abs(theirs - front["thresholds", 0.0, 0])[[0, 2]].max()  # gap and accuracy

# %% [markdown]
# ## Which repair fails under which bias
#
# Now all four worlds. The repairs learn from the records, as they must, and are measured against
# merit. Two criteria are asked for: equal odds, where errors are counted against the *records*, and
# parity, equal approval rates. "None" is the base network trained on for as long as the others.

# %%
REPAIRS = {
    "none": partial(reweigh, strength=0.0),  # trained on for as long as the others, all weights 1
    "reweighing": partial(reweigh, strength=1.0),
    "constraint, odds": partial(constrain, strength=10.0),
    "adversary, odds": partial(oppose, strength=4.0),
    "thresholds, odds": partial(threshold, relaxation=0.0),
    "constraint, parity": partial(constrain, strength=10.0, parity=True),
    "thresholds, parity": partial(threshold, relaxation=0.0, criterion="demographic_parity"),
}
result = {}  # world, repair, seed -> (5,)
for world, seed in itertools.product(WORLDS, seeds):
    for name, repair in REPAIRS.items():
        rule = repair(people[world, seed], base[world, "base", seed], seed=seed)
        result[world, name, seed] = measure(rule(fresh[world]), fresh[world])

# %% mystnb={"image": {"alt": "A grid of seven rows, no repair and six repairs, by four worlds; each cell shows the true odds gap in points on a color scale. Without repair about 10, 15, 13 and 5. Repairs for odds: small under disadvantage and proxy, 14 to 28 under direct and label. Repairs for parity: small under proxy, direct and label, 13 to 16 under disadvantage."}, "figure": {"caption": "The odds gap against merit that remains, in points, mean of the training populations. Light is fair.", "name": "fig-repairing-bias-matrix"}}
matrix = np.array([[over_seeds(result, w, row)[0][0] for w in WORLDS] for row in REPAIRS])
fig, ax = plt.subplots(figsize=(7.4, 4))
ax.imshow(matrix, cmap="OrRd", vmin=0, vmax=30, aspect="auto")
for (i, j), value in np.ndenumerate(matrix):
    ax.text(
        j, i, f"{value:.0f}", ha="center", va="center", color="white" if value > 18 else "black"
    )
truth = {"disadvantage": "true", "proxy": "true", "direct": "biased", "label": "biased"}
ax.set_xticks(range(4), [f"{world}\n(records {kind})" for world, kind in truth.items()])
ax.set_yticks(range(len(REPAIRS)), REPAIRS)
ax.grid(False)
ax.xaxis.tick_top()
plt.show()

# %% [markdown]
# *Odds against the records* repairs the worlds whose records are true, and makes the others worse.
# Under direct bias the records say that fewer of group 1 would repay, and errors equal by that
# measure mean fewer approvals for them. Under label it is worse still, for another reason: the people
# of group 1 who were wrongly recorded have high scores. To approve them counts as a false positive, so
# the group seems to have far too many, and the search denies its best applicants until the count
# fits. *Parity* repairs the worlds in which the groups would repay alike, whatever the records say;
# thresholds do it in all three, the constraint leaves more. It harms where the groups differ: under
# disadvantage it approves people of group 1 who will not repay, and denies people of group 0 who
# would. Reweighing goes part of the way to parity, and about halves the gaps, except under `proxy`:
# there the recorded rates are equal already and all its weights are near one.
#
# None of this shows in the records. Counted as a bank would have to count, thresholds for odds leave
# a gap of at most {glue:text}`rb_seen` points in all four worlds.
#
# Now look at what the bank sees. Its accuracy is counted against the records.

# %% mystnb={"image": {"alt": "Two panels with arrows from no repair to thresholds for parity and for odds. Horizontal axis accuracy against the records, vertical axis accuracy against merit. In direct, the parity arrows point up and to the left; odds arrows are short. In label the parity arrows are tiny, the odds arrows point far down and left."}, "figure": {"caption": "Biased records: what a repair does to accuracy, as the bank sees it (horizontal) and in truth (vertical). One arrow for each training population.", "name": "fig-repairing-bias-truth"}}
fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.6))
for ax, world in zip(axes, ("direct", "label"), strict=True):
    for criterion, color in (("parity", "teal"), ("odds", "rust")):
        for seed in seeds:
            a, b = (
                result[world, row, seed][[3, 2]] for row in ("none", f"thresholds, {criterion}")
            )
            arrow = {"arrowstyle": "->", "color": ku.plots.PALETTE[color]}
            ax.annotate("", xy=b, xytext=a, arrowprops=arrow)
            ax.plot(*np.stack([a, b]).T, " ")  # so that the axes hold the arrows
        ax.text(*b, f"  {criterion}", color=ku.plots.PALETTE[color], va="bottom")
    ax.set(title=world, xlabel="accuracy against the records (%)")
    ax.margins(0.2)
axes[0].set_ylabel("accuracy against merit (%)")
plt.show()

# %% tolerance={"rb_direct_before": 1.5, "rb_direct_after": 2, "rb_direct_parity": 0.6, "rb_merit_gain": 0.1, "rb_record_loss": 0.2, "rb_seen": 0.4}
plain, odds, parity = (
    over_seeds(result, "direct", row)[0]
    for row in ("none", "thresholds, odds", "thresholds, parity")
)
ku.glue(rb_direct_before=f"{plain[0]:.0f}", rb_direct_after=f"{odds[0]:.0f}")
ku.glue(rb_direct_parity=f"{parity[0]:.1f}", rb_merit_gain=f"{parity[2] - plain[2]:.1f}")
ku.glue(rb_record_loss=f"{plain[3] - parity[3]:.1f}")
seen = max(over_seeds(result, world, "thresholds, odds")[0][4] for world in WORLDS)
ku.glue(rb_seen=f"{seen:.1f}")

# %% [markdown]
# Under direct bias, parity gains {glue:text}`rb_merit_gain` points of accuracy against merit and
# loses {glue:text}`rb_record_loss` against the records. A bank that looks at its own accuracy would
# report that fairness costs accuracy, and would be wrong about the sign. A measured trade-off between
# fairness and accuracy is always one with the accuracy against some label. (The repair for odds moves
# both accuracies little here, in two populations of three upward, while it widens the gap: accuracy
# says nothing about who bears the errors.) Under `label` parity changes little, and the repair for
# odds costs some four points of both accuracies.
#
# ## Two real tables
#
# On real records there is no column of merit. What can be said? The mortgage applications of
# [the last chapter](detecting_bias.ipynb), and 1,445 people released from prisons in North Carolina
# {cite}`chung1991`, where the outcome is to stay out of prison for five years. A return to prison is
# a record of police and courts as much as of deeds, so both tables are of the dangerous kind.
# Everybody is judged by networks that saw other people only (five folds). The rules ask for parity,
# because odds would be counted against records that we do not trust.


# %%
def cross_fitted(table, seed):
    """Return decisions out of fold, {repair: (N,) bool}."""
    X = (table.X - table.X.mean(0)) / table.X.std(0)
    group = torch.tensor(table.race != "white").long()
    found = {
        name: np.zeros(len(X), bool) for name in ("none", "reweighing", "constraint", "thresholds")
    }
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    for part, test in folds.split(X, 2 * table.y + group):
        pop, held = (
            ku.data.Lending(X[r], table.y[r], table.y[r], group[r], None) for r in (part, test)
        )
        net = train(fresh_net(X.shape[1], seed), pop.X, pop.y, seed=seed, num_epochs=30)
        rules = {"none": rule_of(net), "reweighing": reweigh(pop, net, 1.0, seed)}
        rules["constraint"] = constrain(pop, net, 10.0, seed, parity=True)
        rules["thresholds"] = threshold(pop, net, 0.0, seed, "demographic_parity")
        for name, rule in rules.items():
            found[name][test] = rule(held)
    return found


# %% tolerance={"gap in approval (points)": 6, "agrees with the record (%)": 2}
tables = {"mortgages": ku.data.loanapp(), "prison": ku.data.recid()}
columns = {"table and repair": [], "gap in approval (points)": [], "agrees with the record (%)": []}
real, yes = {}, {}
for name, table in tables.items():
    runs, label = (
        [cross_fitted(table, seed) for seed in seeds],
        np.where(table.race == "white", "w", "m"),
    )
    for repair in runs[0]:
        audits = [ku.fairness.audit(table.y, run[repair], label, reference="w") for run in runs]
        gaps = [-100 * a.difference[a.at("m", "selection_rate")] for a in audits]
        gap, high, low = real[name, repair] = np.mean(gaps, 0)
        agree = 100 * np.mean([(run[repair] == table.y.numpy()).mean() for run in runs])
        yes[name, repair] = 100 * np.mean([run[repair].mean() for run in runs])
        row = f"{name}: {repair}", f"{gap:.0f} ({low:.0f} to {high:.0f})", f"{agree:.0f}"
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
ku.table(
    columns,
    caption="White minus minority; means over the seeds of the gap and of its 95 % interval",
)

# %% [markdown]
# On the mortgages every repair shrinks the gap. How differently they do it shows in the approval rates: cut at one half,
# the network approves
# {glue:text}`rb_yes_none` % of everybody, with the constraint {glue:text}`rb_yes_constraint` %, with
# thresholds {glue:text}`rb_yes_thresholds` %. The constraint closes the gap by approving nearly all,
# which agrees with the banks as often as anything does. And look at the brackets: with 303 minority
# applicants the interval of a gap is up to eight points wide. On tables of this size one can tell that
# a repair does something; a ranking of methods by a point or two ranks noise. On
# the prison table there is little to repair: a network that does not see race approves both groups
# alike, although the records of the two differ by {glue:text}`rb_prison_gap` points. (So it errs
# differently in the two groups, as it must.) Whether parity
# is the right thing to ask for is the question of the last section, and neither table contains the
# answer.
#
# ## Twenty years later
#
# A loan changes the person who gets it. Suppose that ability, as the bank sees it, moves: somebody
# who repays rises by 0.1, somebody who fails falls by 0.25, who is denied stays. A person of
# ability $z$ repays with probability $\pi(z) = \sigma(1.5 z + 0.5)$; the bank earns 1 from a
# repayment and loses 4 from a failure. Approval *helps* a person in expectation if
# $0.1\,\pi > 0.25\,(1 - \pi)$, above $\pi = 0.71$. It *pays* above $\pi = 0.8$. Between the two
# lies a band of people whom a loan would help and the bank turns away {cite}`liu2018`. One policy
# approves whoever pays; the other must approve equal shares of both groups, and picks the most
# profitable share.


# %%
def repays(z):
    return torch.sigmoid(1.5 * z + 0.5)


def most_profitable_share(z, group):
    """Return the share of both groups that earns most, if it must be the same."""
    profit, sums = repays(z) - 4 * (1 - repays(z)), 0.0
    for g in (0, 1):
        ranked = profit[group == g].sort(descending=True).values.cumsum(0)  # (N_g,)
        sums = sums + ranked[torch.linspace(0, len(ranked) - 1, 201).long()]
    return sums.argmax().item() / 200


def years(behind, policy, seed, share_of_1=0.15, fall=0.25, n=20_000):
    """Return the mean ability of group 1 from year to year, (21,)."""
    draw = torch.Generator().manual_seed(seed)
    group = (torch.rand(n, generator=draw) < share_of_1).long()
    z = torch.randn(n, generator=draw) + 0.8 - behind * group
    path = [z[group == 1].mean().item()]
    for _ in range(2 if few else 20):
        yes = repays(z) > 0.8
        if policy == "parity":
            share = most_profitable_share(z, group)
            yes = z >= torch.stack([z[group == g].quantile(1 - share) for g in (0, 1)])[group]
        pays = torch.rand(n, generator=draw) < repays(z)
        z = z + yes * torch.where(pays, 0.1, -fall)
        path.append(z[group == 1].mean().item())
    return np.array(path)


# %% mystnb={"image": {"alt": "Two panels, mean ability of group 1 over twenty years under two policies. Left, group 1 begins 0.6 behind: both lines rise, parity ends above profit. Right, group 1 begins 1.6 behind: profit rises slightly, parity falls steadily."}, "figure": {"caption": "The mean ability of group 1 under two policies, one line for each of three populations. Left: it begins 0.6 behind. Right: 1.6 behind.", "name": "fig-repairing-bias-years"}}
cases = itertools.product((0.6, 1.6), ("profit", "parity"), seeds)
paths = {case: years(*case) for case in cases}
fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.2))
for (behind, policy, seed), path in paths.items():
    ax, color = axes[int(behind > 1)], ku.plots.PALETTE["gray" if policy == "profit" else "teal"]
    ax.plot(path, color=color, linewidth=1.2)
    if seed == 0:
        ax.text(len(path) - 0.6, path[-1], policy, color=color, va="center")
    ax.set(title=f"group 1 begins {behind} behind", xlabel="year", xlim=(0, 1.25 * len(path)))
axes[0].set_ylabel("mean ability of group 1")
plt.show()
change = {case: path[-1] - path[0] for case, path in paths.items()}
record = tables["prison"].y.numpy()
ku.glue(
    **{
        f"rb_yes_{repair}": f"{yes['mortgages', repair]:.0f}"
        for repair in ("none", "constraint", "thresholds")
    }
)
ku.glue(rb_prison_gap=f"{100 * (record[label == 'w'].mean() - record[label == 'm'].mean()):.0f}")

# %% [markdown]
# The same rule, two fates. Where group 1 begins a little behind, parity reaches into the band of
# people whom a loan helps, and the group rises further than under the bank's own rule. Where it
# begins far behind, parity approves many who fail too often, and each failure throws them back, from
# the first year on. How firm is this? We vary what we had only assumed: how many belong to group 1,
# and how much a failure hurts.

# %% tolerance={"profit": 0.03, "parity": 0.05}
settings = list(itertools.product((0.15, 0.3), (0.15, 0.25, 0.4)))  # share of group 1, fall
columns = {"share of group 1 (%)": [f"{100 * share:.0f}" for share, _ in settings]}
columns["a failure costs"] = [f"{fall:.2f}" for _, fall in settings]
for policy in ("profit", "parity"):
    ends = [[years(1.6, policy, s, *setting)[[0, -1]] for s in seeds] for setting in settings]
    columns[policy] = [f"{np.diff(end, axis=1).mean():+.2f}" for end in ends]
ku.table(columns, caption="Group 1 begins 1.6 behind: change of its mean ability in twenty years")

# %% [markdown]
# Parity does its harm where the group is small and failures hurt. A small group weighs little in the
# bank's sum, so the common share is set by the others and falls on people who were far behind; a
# larger one makes the bank approve fewer of everybody. With mild failures the harm is small. None of
# these numbers stands in a table of decisions, and the verdict on the rule depends on them.
#
# ## Where it fails
#
# **The cases cannot be told apart by their rates.** Two new worlds: in one the ability of group 1 is
# 0.62 lower and the records are true, in the other the records move the line by 0.62 and the groups
# are equal.

# %%
twins = {"disadvantage": {"disadvantage": 0.62}, "direct": {"direct": 0.62}}
apart = {}  # world -> recorded gap and true gap, points
for name, dials in twins.items():
    pop = ku.data.lending(num_test, **dials, seed=2000)
    rates = [[t[pop.group == g].double().mean().item() for g in (0, 1)] for t in (pop.y, pop.merit)]
    apart[name] = [100 * (rate[0] - rate[1]) for rate in rates]
ku.glue(rb_twin_true=f"{apart['disadvantage'][0]:.0f}", rb_twin_false=f"{apart['direct'][0]:.0f}")

# %% [markdown]
# The recorded gap is {glue:text}`rb_twin_true` points in the first and {glue:text}`rb_twin_false` in
# the second (the line and the ability move by the same amount, so it has to be). In the first, all of
# it is true. In the second, none is. One calls for odds, the other
# for parity, and each repair harms in the other's world. (The features differ, since ability is lower
# in one world only. But to use that, one would have to trust the features, and `proxy` is the world
# in which one cannot.) What separates the cases is knowledge of how the records came to be.
#
# **A constraint on means is not a constraint on decisions.** At large strengths the constraint pushes
# all probabilities together; the gap of *probabilities* vanishes, decisions at one half need not
# follow, and accuracy goes first.
#
# **A repair is fitted to one population.** The thresholds were found on the people of this world and
# tested on more of the same. If next year's applicants have other abilities, or the district begins
# to mean something else, the gap comes back, and nobody notices who does not measure it again. A
# repaired model needs the audit of the last chapter as often as any other.
#
# **Groups are two here.** With intersections, thresholds need enough people in each, and
# [the audit's intervals](detecting_bias.ipynb) apply to the search itself.
#
# **Which one should I use?** First find out where the bias is; the matrix says why. If the records
# can be trusted: thresholds, where the group may be used at decision time, else a constraint. If they
# cannot: no criterion that counts errors against them. If neither is known, do not automate the
# decision.
#
# **Strengths.** Every repair here is short, works with any network, and takes seconds. **Limits.**
# Each optimizes the criterion it was told and no other; what it promises holds on average, over a
# population like the training table. **When not to use it.** To make a decision acceptable that
# should not be made by a score. A repaired metric is not justice. **Software.** fairlearn for
# reductions and thresholds, aif360 for reweighing and many others, error-parity for relaxed
# thresholds.
#
# ## Claims
#
# Two bounds were given before anything was run: 95 % of the gap for at most one point of accuracy. So
# were the signs of all claims about biased records. The other bounds were set after a trial with one
# training population, and hold here on three. That no rival beats thresholds was claimed of all at
# first, and failed by a hair: a constraint that sees the group beats thresholds on a network that
# does not. It is claimed of rivals from the same base network, where they reach the gap. In a first
# version of the feedback loop group 1 had twice as many members, and parity did no harm; the smaller
# group is the case on show, and the table has both. A reader asked for the cost from the base that
# sees the group and for a "none" that is trained on; both are claimed now.


# %%
def runs(results, *key):
    """Return the five measures of each training population, (S, 5)."""
    return np.stack([results[(*key, seed)] for seed in seeds])


start, end = runs(views, "honest", "base"), runs(front, "thresholds", 0.0)
plain = {world: runs(result, world, "none") for world in WORLDS}
odds = {world: runs(result, world, "thresholds, odds") for world in WORLDS}
parity = {world: runs(result, world, "thresholds, parity") for world in WORLDS}
removed = 100 * (1 - end[:, 0] / start[:, 0]).min()
text = "true records: % of the odds gap that thresholds remove, least over the populations"
ku.claim(text, removed, at_least=95, role="headline")
wrong = 100 * (1 - odds["direct"][:, 0] / plain["direct"][:, 0]).max()
ku.claim("the same on biased records: % removed, most", wrong, at_most=0, role="control")
loss = (start - end)[:, 2].max()
ku.claim("true records: points of accuracy that it costs, most", loss, at_most=1)
start, end = runs(views, "honest", "with the group"), runs(front, "thresholds, sees group", 0.0)
text = "the same from a network that sees the group: points of accuracy, most"
ku.claim(text, (start - end)[:, 2].max(), at_most=1)
gain = (parity["direct"] - plain["direct"]).min(0)  # (5,) least over the populations
text = "biased records: points of accuracy against merit that parity gains, least"
ku.claim(text, gain[2], at_least=0.3, rests_on=("rb_merit_gain",))
loses = (plain["direct"] - parity["direct"]).min(0)[3]
text = "biased records: points against the records that it loses, least"
ku.claim(text, loses, at_least=0.5, rests_on=("rb_record_loss",))

# %%
left = max(parity[world][:, 0].max() for world in ("direct", "label"))
ku.claim("two kinds of biased records: points of gap that parity leaves", left, at_most=2)
wider = (parity["disadvantage"] - plain["disadvantage"]).min(0)[0]
ku.claim("true disadvantage: points by which parity widens the odds gap", wider, at_least=2)
wider = (runs(views, "proxy", "without the district") - runs(views, "proxy", "base")).min(0)[0]
ku.claim("biased features: points by which dropping a column widens it", wider, at_least=2)
rivals = [method for method in SWEEPS if "thresholds" not in method]
mine = {m: "thresholds, sees group" if "sees" in m else "thresholds" for m in rivals}
edge = [best[m, a] - best[mine[m], a] for m in rivals for a in ALLOWED]
text = "points of accuracy by which a rival beats thresholds on the same base at equal gap, most"
ku.claim(text, np.nanmax(edge), at_most=0.3)
text = "thresholds, ours and fairlearn's: points apart in gap and accuracy"
ku.claim(text, apart_library, at_most=1)
ku.claim("thresholds by hand: gap left on the people searched", hand_gap, at_most=1e-6)
ku.claim("odds gap by hand: points from the package's audit", apart_audit, at_most=1e-9)
ku.claim("reversed gradient: distance from −k times the gradient", reversed_right, at_most=1e-6)
ahead = min(change[0.6, "parity", s] - change[0.6, "profit", s] for s in seeds)
ku.claim("a little behind: ability that parity adds over profit, least", ahead, at_least=0.02)
fall = max(change[1.6, "parity", s] for s in seeds)
ku.claim("far behind: change of ability under parity, most", fall, at_most=-0.1)
_, true = np.array(apart["disadvantage"]) - np.array(apart["direct"])
ku.claim("two worlds with the same recorded gap: points between their true gaps", true, at_least=15)

# %% [markdown]
# ## Exercises
#
# **1. Equal opportunity.** Only true positive rates shall be equal {cite}`hardt2016`: then one
# threshold a group is enough, no lottery. Write the search, on the honest world's training people.


# %% tags=["exercise"]
def check_opportunity(search) -> dict:
    """search(p, y, group) -> two cuts; all (N,). Compared with the linear program."""
    pop = people["honest", 0]
    p, y, group = score(base["honest", "base", 0], pop.X), pop.y.numpy(), pop.group.numpy()
    program = ku.fairness.threshold_search(y, p, group, criterion="equal_opportunity")
    chosen = p >= np.array(search(p, y, group))[group]
    tpr = [chosen[(y == 1) & (group == g)].mean() for g in (0, 1)]
    behind = 100 * ((program.decide(p, group) == y).mean() - (chosen == y).mean())
    value = behind + 100 * max(0, abs(tpr[0] - tpr[1]) - 0.005)
    sentence = "points of accuracy behind the linear program, at equal rates"
    return {"sentence": sentence, "value": value, "at_most": 0.1}


def my_search(p, y, group):
    return 0.5, 0.5


ku.attempt(**check_opportunity(my_search))


# %% tags=["solution", "hide-cell"]
def search(p, y, group):
    tries = []
    for rate in np.linspace(0.8, 0.99, 96):  # the common true positive rate
        cuts = [np.quantile(p[(y == 1) & (group == g)], 1 - rate) for g in (0, 1)]
        tries.append((((p >= np.array(cuts)[group]) == y).mean(), cuts))
    return max(tries)[1]


ku.claim(**check_opportunity(search), role="solution")

# %% [markdown]
# **2. Corrected records.** You are told that the records lost 30 % of the deserving of group 1, at
# random (the world `label`). Correct the *training*: replace each recorded outcome by a number whose
# expectation, for a person with any features, is the true outcome {cite}`natarajan2013`. Beware: to
# ask how many of the zeros should be ones is the wrong question, because among able people it is
# more of them. The cross-entropy is linear in its target, so the number need not lie between 0 and 1.


# %% tags=["exercise"]
def check_correction(correct) -> dict:
    """correct(y, group) -> targets with the right expectation, (N,)."""
    pop, other = people["label", 0], fresh["label"]
    soft = correct(pop.y.double(), pop.group)
    rule = rule_of(train(fresh_net(6, 7), pop.X, soft, seed=7))
    apart = (soft - pop.merit)[pop.group == 1].mean().abs().item()  # of the two means
    value = measure(rule(other), other)[0] + 1000 * max(0, apart - 0.02)
    sentence = "odds gap after training on corrected outcomes (points)"
    return {"sentence": sentence, "value": value, "at_most": 2}


def my_correct(y, group):
    return y


ku.attempt(**check_correction(my_correct))


# %% tags=["solution", "hide-cell"]
def correct(y, group):
    return torch.where(group == 1, y / 0.7, y)  # E[y / 0.7 | x] is what 0.7 of the deserving give


ku.claim(**check_correction(correct), role="solution")

# %% [markdown]
# **3. The kindest choice.** In the first year, group 1 far behind: whom should the bank approve so
# that the mean ability of the group rises most? Answer from $\pi$ alone.


# %% tags=["exercise"]
def check_kindness(kindest) -> dict:
    """kindest(z) -> who of z (n,) to approve. Compared with the best of all shares."""
    z = torch.randn(50_000, generator=torch.Generator().manual_seed(3)) + 0.8 - 1.6
    helped = 0.1 * repays(z) - 0.25 * (1 - repays(z))  # (n,)
    best = helped[z.argsort(descending=True)].cumsum(0).max() / len(z)
    value = best - (kindest(z) * helped).mean()
    return {"sentence": "ability below the best of 50,000 shares", "value": value, "at_most": 1e-5}


def my_kindest(z):
    return repays(z) > 0.5


ku.attempt(**check_kindness(my_kindest))


# %% tags=["solution", "hide-cell"]
def kindest(z):
    return 0.1 * repays(z) > 0.25 * (1 - repays(z))  # everybody whom a loan helps, nobody else


ku.claim(**check_kindness(kindest), role="solution")

# %% [markdown]
# ## References
#
# The entries cited on this page are in the book's [references](../../book/references.md).
