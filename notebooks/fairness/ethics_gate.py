# %% [markdown]
# # An ethics gate: a policy that can stop a release
#
# **Codes of ethics are sentences, and sentences seldom stop a release. What has to be written
# down, and what has to be measured, so that one does, with a reason that names whom it protects?**
#
# A policy with nine limits, in a file that people can agree on before anything is measured, and a
# gate that compares it with measured values. We sabotage a sound lending system in eight ways.
# The gate stops {glue:text}`eg_stopped` of the eight, each by the limit that was written against
# it; a check of accuracy alone would have stopped {glue:text}`eg_accuracy_stops`. It releases
# {glue:text}`eg_passes` of {glue:text}`eg_populations` sound systems, each newly trained and
# measured on fresh people, and stops one that was measured on 200 people, because what is not
# known well enough is not released. (The limits and the sabotages were chosen after a first look
# at other populations: this says that the gate looks where it should, not how weak a sabotage it
# would notice.) Then it fails: where the records are biased, its limit on unequal errors stops a
# system whose true gap is {glue:text}`eg_true_stopped` points and lets one pass whose true gap is
# {glue:text}`eg_true_released`.
#
# :::{admonition} What you will learn
# - to write a policy that names who is affected, which error hurts whom, and a limit for each;
# - to measure what a limit asks for, with an interval, and to judge by its worse end;
# - to test the gate itself: with systems that must be stopped and one that must not;
# - to write a model card and a data sheet from measurements alone;
# - to refer uncertain cases to people whose time is short, and to tell a refused person the nearest feasible change (*recourse*), and what it is worth.
#
# **Works out:** documents 000 §3.2.4 and 002 §1.2 (see
# [the five documents](../../book/five_documents.md)).
#
# **Before this:** [Detecting bias](detecting_bias.ipynb) and
# [Repairing bias](repairing_bias.ipynb), for the audit and the population.
#
# **Costs:** about a minute and less than 1 GiB on two CPU cores. The full profile uses larger
# populations and more of them.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 文档 000 第 3.2.4 节呼吁建立“人工智能伦理框架”，文档 002 第 1.2 节要求系统可追责、由人监督。本章把这些要求写成一个可以执行的政策文件。
# 文件说明谁受影响、哪种错误伤害谁，并为准确率、差距、校准、隐私、稳健、解释、转人工和申诉各设一条界限。
# 关口程序把测量值（取区间中较差的一端）与界限比较，超出就阻止发布并说明理由；没有测量的也算不合格。
# 我们破坏一个合格的系统八次，检验关口是否每次都因对应的那条界限而阻止；合格的系统在新的人群上应当通过。
# 模型卡和数据说明全部由测量值写成。转人工有人数上限，申诉给出申请人自己能做到的最近改变。
# 关口只看得见它所测量的东西：记录本身有偏时，它会放过真正不公平的系统，拦下真正公平的系统。
#
# </div>
# :::

# %% tags=["setup"]
# Colab: this line is replaced by an install command when the book is published
import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from scipy.stats import rankdata
from torch import nn

device = ku.start(seed=0)
few = ku.rehearsal_steps() is not None  # a rehearsal of the full profile counts less
Measured, gate = ku.cards.Measured, ku.cards.gate

# %% [markdown]
# ## The data
#
# The people are generated, as in [Repairing bias](repairing_bias.ipynb): each has an ability that
# nobody sees, five features that measure it with noise (income, savings, debts, late payments,
# years in the job) and a district that says nothing about ability and much about the group. Three
# in ten belong to group 1, whose ability is on average 0.15 standard deviations lower here. `y`
# is what the records say, `merit` whether a person would repay. Here they are the same, until
# *Where it fails*. One population trains the system, another of equal size measures it, further
# ones ask whether the verdict was luck. All features are in standard deviations.
#
# The release at the end concerns real people: the Boston mortgage applications of 1990
# {cite}`munnell1996` of [Detecting bias](detecting_bias.ipynb).
#
# **What these data cannot support.** A generated population has no history and no neighbors. It
# can show that a gate stops what we broke; whether the limits are the right ones for a bank, a
# court or a hospital is a question for the people concerned, and no number on this page answers
# it. "Group" stands for whatever the law or decency says must not matter; two groups of known
# size and a single label for each person are far simpler than any society.


# %%
SIZE = ku.pick(laptop=20_000, full=4000 if few else 100_000)


def people(seed, n=SIZE, **dials):
    """Return n applicants of the world of this page."""
    return ku.data.lending(n, disadvantage=0.15, seed=seed, **dials)


world, held = people(1), people(2)
columns = {"group": ["0", "1"], "members": [], "would repay (%)": [], "mean income": []}
for group in (0, 1):
    mine = world.group == group
    columns["members"].append(f"{mine.sum():,}")
    columns["would repay (%)"].append(f"{100 * world.merit[mine].float().mean():.0f}")
    columns["mean income"].append(f"{world.X[mine, 0].mean():+.2f}")
ku.table(columns, caption="The population that trains the system")

# %% [markdown]
# ## The dumbest baseline: one number
#
# Most releases are decided on one number. A small network gets the five features without the
# district; who scores at least 0.6 gets the loan, which is right for a lender who loses one and a
# half times on a bad loan what a good one earns. Its accuracy is compared with that of approving
# everybody.


# %%
USED = [0, 1, 2, 3, 4]  # not the district


def train(data, seed, columns=USED, width=16, num_epochs=15, lr=5e-3, batch_size=256):
    """Return a network (N, 6) -> log odds (N,), trained on data (X, y)."""
    torch.manual_seed(seed)
    X, y = data[0][:, columns].to(device), data[1].float().to(device)
    net = nn.Sequential(nn.Linear(len(columns), width), nn.Tanh(), nn.Linear(width, 1)).to(device)
    adamw = torch.optim.AdamW(net.parameters(), lr, weight_decay=1e-3)
    for _ in range(1 if few else num_epochs):
        for rows in torch.randperm(len(X)).to(device).split(batch_size):
            adamw.zero_grad()
            F.binary_cross_entropy_with_logits(net(X[rows])[:, 0], y[rows]).backward()
            adamw.step()
    return lambda x: net(x[:, columns].to(device))[:, 0].cpu()  # (N,)


CUT = 0.6
lender = train((world.X, world.y), seed=0)
scores = lender(held.X).detach().sigmoid()  # (N,)
right = 100 * ((scores >= CUT) == held.y).float().mean()
ku.table(
    {"rule": ["approve everybody", "network"], "right (%)": [f"{100 * held.y.float().mean():.0f}",
     f"{right:.0f}"]}, caption=f"Accuracy on {len(held.y):,} fresh people")  # fmt: skip
ku.glue(eg_right=f"{right:.0f}")

# %% [markdown]
# {glue:text}`eg_right` % right, well above the baseline: released? Nothing in that number says whether
# the errors fall on one group, whether a "70 %" means 70 %, whether the network remembers the people
# it was trained on, or what a refused person can do.
#
# ## The policy
#
# A policy comes before the measurement, and from other people than the engineers. It says who is
# affected, who answers for the release, and for each limit **whom it protects**. The last is what
# separates a limit from a metric: if nobody can say who is hurt beyond it, it should not be there.
# The format is TOML, which a person can read in a meeting and a program can check.
#
# Ours has nine limits. Some complete each other. A limit on accuracy alone would permit any gap
# between groups; a limit on gaps alone is kept by approving everybody. The limit on the smallest
# group is one on our own diligence: nobody should be able to leave a group out by measuring few
# of its members. The last three protect a person who asks *why*, one whose case is close, and one
# who wants to come back with a better file.
#
# The values are choices, made after a first look at other populations than those measured below;
# with true records and 20,000 people a sound system stays inside all of them. A real policy would
# take longer over each number than over the code of this page, and the people in its list
# `affected` would be in the room.


# %%
POLICY = """
name = "Consumer credit, automatic decision"
purpose = "Decide on loans that are paid back in monthly rates."
affected = ["applicants of both groups", "people whose files trained the system", "the lender"]
decides = "The board member for lending, by name, in the minutes"
limit = [
{ metric = "accuracy", at_least = 0.80, protects = "everybody who is judged wrongly" },
{ metric = "equalized_odds_difference", at_most = 0.08, protects = "the group that errors hit more often" },
{ metric = "calibration_gap", at_most = 0.12, protects = "those whose rate depends on the score" },
{ metric = "smallest_group", at_least = 1000, protects = "the smaller group" },
{ metric = "membership_auc", at_most = 0.55, protects = "people in the training data" },
{ metric = "decisions_flipped_by_noise", at_most = 0.02, protects = "people whose file is typed in twice" },
{ metric = "explanation_drop", at_least = 1.3, protects = "refused people who ask why" },
{ metric = "referred_within_capacity", at_least = 0.95, protects = "close cases" },
{ metric = "appeal_possible", at_least = 0.30, protects = "refused people who could change" },
]
"""
policy = ku.cards.read_policy(POLICY)
limits = policy["limit"]
bounds = [f"≥ {x['at_least']}" if "at_least" in x else f"≤ {x['at_most']}" for x in limits]
columns = {"limit on": [x["metric"].replace("_", " ") for x in limits], "bound": bounds}
columns["protects"] = [x["protects"] for x in limits]
ku.table(columns, caption="The policy's nine limits")

# %% [markdown]
# ## Measuring what a limit asks for
#
# What the gate may look at is a *system*, more than a network: its scores, its cuts, its reasons,
# the people who trained it and the staff behind it. Every share, gap and area comes with a 95 %
# interval and a note on whom it was measured; the network is taken as it is. An interval is no
# decoration here: the gate judges by its worse end. Measuring few people is paid for with width.
# Measuring the wrong people costs nothing, and no interval shows it.
#
# **Accuracy and gaps** come from the audit of [Detecting bias](detecting_bias.ipynb). The
# equalized odds difference is the larger of the gaps in true and in false positive rate
# {cite}`hardt2016`; the worse end of its interval is the farthest end of either gap's, which is
# careful. **Calibration**: each group is cut into ten bands of equal size by score. In each band,
# how far does the mean score lie from the share who repay? The band whose interval reaches
# farthest counts. That is partly luck, being the worst of twenty, and the limit allows for it. In
# a group with fewer than a hundred people a band nothing is known: the value is not defined.


# %%
UNKNOWN = Measured(float("nan"), float("nan"), float("nan"))


class System(NamedTuple):
    """What is released: scores, decisions, reasons, training people, staff."""

    logit: Callable  # X (N, 6) -> log odds (N,)
    trained_on: tuple  # X, y of people in the training data
    cuts: tuple = (CUT, CUT)  # a score of at least this is a loan, in group 0 and 1
    order: tuple = tuple(range(6))  # the features whose attributions are told as reasons
    capacity: float = 0.2  # share of the applicants for whom a person has time


def decide(system, crowd):
    """Return scores (N,) and decisions (N,) of 0 and 1."""
    with torch.no_grad():
        scores = system.logit(crowd.X).sigmoid()  # (N,)
    return scores, (scores >= torch.tensor(system.cuts)[crowd.group]).long()


def share(hits):
    """Return a share as Measured, with its Wilson interval. hits: (N,) of 0 and 1, or true."""
    value = float(torch.as_tensor(hits).double().mean()) if len(hits) else float("nan")
    return Measured(
        value, *map(float, ku.fairness.wilson(value, len(hits))), f"{len(hits):,} people"
    )


# %%
def odds(audit):
    """Return the equalized odds difference of an audit of two groups as Measured."""
    rates = [audit.metrics.index(m) for m in ("true_positive_rate", "false_positive_rate")]
    other = 1 - audit.groups.index(audit.reference)
    ends = audit.difference[other][rates][:, 1:]  # (2, 2) low and high of each gap
    least = np.where((ends[:, 0] < 0) & (ends[:, 1] > 0), 0, np.abs(ends).min(1)).max()
    how = f"{audit.members.sum():,} people"
    return Measured(audit.equalized_odds_difference, least, np.abs(ends).max(), how)


def calibration(scores, y, groups, least=100):
    """Return |mean score − share of positives| of the band, of ten a group, that may be worst."""
    cells = []
    for group in range(groups.max() + 1):
        mine = np.flatnonzero(groups == group)
        for rows in np.array_split(mine[scores[mine].argsort(kind="stable")], 10):
            if len(rows) < least:
                return UNKNOWN
            true, mean = y[rows].mean(), scores[rows].mean()
            low, high = ku.fairness.wilson(true, len(rows))
            near, far = max(low - mean, mean - high, 0), max(high - mean, mean - low)
            cells.append((far, near, abs(mean - true)))
    far, near, value = max(cells)
    return Measured(value, near, far, f"{len(y):,} people, ten bands of equal size in each group")


# %% [markdown]
# **Privacy** is attacked, as in [Privacy](privacy.ipynb): does a small loss tell who was in the
# training data? The attack's AUC (0.5 is guessing, 1 is certainty) is an average, and single
# people may still be exposed. It comes from ranks, its interval from the placements of each side
# among the other {cite}`delong1988`. **Robustness**: income and the other features are known to
# two hundredths of their deviation; how many decisions does a second measurement turn?
# **Reasons**: a refused person is told the feature that counts most against them, by integrated
# gradients {cite}`sundararajan2017ig`, measured from the average of all features. If the reason
# is true, then setting the named feature to that average raises the score more than setting a
# random one. (For a network that nearly adds its features up, this is not far from a check that
# the reported order is the network's own: it finds reasons from wrong columns, of wrong sign, of
# another model.) **Oversight**: of the cases within 0.1 of the line, for how many does a person
# have time?


# %%
def membership(system, crowd, most=5000):
    """Return the AUC of telling training people from fresh ones by their loss."""
    losses = []
    for X, y in (system.trained_on, (crowd.X, crowd.y)):
        with torch.no_grad():
            z = system.logit(X[:most])
        losses.append(F.binary_cross_entropy_with_logits(z, y[:most].float(), reduction="none"))
    members, strangers = (-each.numpy() for each in losses)  # (n,), (m,): higher is more likely
    n, m = len(members), len(strangers)
    rank = rankdata(np.concatenate([members, strangers]))  # (n + m,)
    below = (rank[:n] - rankdata(members)) / m  # share of strangers below each member
    above = 1 - (rank[n:] - rankdata(strangers)) / n  # share of members above each stranger
    value, half = below.mean(), 1.96 * (below.var() / n + above.var() / m) ** 0.5
    return Measured(value, value - half, value + half, f"{n:,} members, {m:,} strangers")


def flips(system, crowd):
    """Return the share of decisions that a second measurement of the features turns."""
    noise = 0.02 * torch.randn(crowd.X.shape, generator=torch.Generator().manual_seed(5))
    again = decide(system, crowd._replace(X=crowd.X + noise))[1]
    return share(again != decide(system, crowd)[1])


def reasons(system, X):
    """Return what the system tells as attributions of its features, (N, 6)."""
    told = IntegratedGradients(system.logit).attribute(X, n_steps=16)  # from the mean, all zeros
    return told[:, list(system.order)].detach()


# %%
def explanation_drop(system, crowd, decisions, features=5, most=2000):
    """Return how much more the reason raises a refused score than a random feature: a ratio."""
    X, g = crowd.X[decisions == 0][:most], torch.Generator().manual_seed(6)
    if not len(X):
        return UNKNOWN  # nobody is refused, nobody is told a reason
    reason = reasons(system, X)[:, :features].argmin(1)  # (n,) what counts most against them
    raised = []
    for feature in (reason, torch.randint(features, (len(X),), generator=g)):
        with torch.no_grad():
            average = system.logit(X.scatter(1, feature[:, None], 0.0))
            raised.append(average - system.logit(X))  # (n,)
    rows = torch.randint(len(X), (500, len(X)), generator=g)  # bootstrap over people
    drawn = raised[0][rows].mean(1) / raised[1][rows].mean(1)
    ends = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    return Measured((raised[0].mean() / raised[1].mean()).item(), *ends, f"{len(X):,} refused")


def within_capacity(system, scores, group):
    """Return the share of uncertain cases for which a person has time."""
    line = torch.tensor(system.cuts)[group]  # (N,)
    wanted = share((scores - line).abs() < 0.1)
    ends = [
        min(1.0, system.capacity / max(w, 1e-9)) for w in (wanted.value, wanted.high, wanted.low)
    ]
    return Measured(*ends, wanted.how)


# %% [markdown]
# **Recourse.** A refused person asks what would have changed the answer. The answer may only name
# what a person can change: more savings (up to one deviation), fewer debts (one deviation), time
# in the job (half a deviation). It may not name income, which others set, nor late payments,
# which are past. Among these changes we look for the nearest that leads to a loan, on a grid of
# ten steps each (five where only the share is wanted), with the sum of the three shares as the
# distance {cite}`wachter2018`. The limit counts for how many of the refused there is any.


# %%
CHANGE = {1: 1.0, 2: -1.0, 4: 0.5}  # feature: the most that a person can change it


def feasible(steps=11):
    """Return changes (K, 6) of the features and their effort (K,), the smallest effort first."""
    part = torch.linspace(0, 1, steps)
    shares = torch.cartesian_prod(part, part, part)  # (K, 3)
    shares = shares[shares.sum(1).argsort(stable=True)]
    changes = torch.zeros(len(shares), 6)
    for column, (feature, most) in enumerate(CHANGE.items()):
        changes[:, feature] = most * shares[:, column]
    return changes, shares.sum(1)


def nearest(logit, X, cut, steps=11):
    """Return the nearest feasible change of each person (N, 6) and its effort (N,), inf if none."""
    changes, effort = feasible(steps)
    cut = torch.as_tensor(cut).expand(len(X), 1)
    first, found = torch.zeros(len(X), dtype=torch.long), torch.zeros(len(X), dtype=torch.bool)
    for rows in torch.arange(len(X)).split(100):
        with torch.no_grad():
            z = logit((X[rows, None] + changes).flatten(0, 1)).view(len(rows), len(changes))
        good = z.sigmoid() >= cut[rows]
        first[rows], found[rows] = good.int().argmax(1), good.any(1)
    return changes[first], torch.where(found, effort[first], torch.inf)


def appeals(system, crowd, decisions, most=300):
    """Return the share of refused people whom a feasible change would have given the loan."""
    refused = (decisions == 0).nonzero()[:most, 0]
    cuts = torch.tensor(system.cuts)[crowd.group[refused], None]  # (N, 1)
    return share(nearest(system.logit, crowd.X[refused], cuts, steps=6)[1].isfinite())


# %% [markdown]
# ## The gate
#
# The rule has one line that matters: a limit is kept if the **worse end** of the interval keeps
# it. The burden of proof lies with the release. A value that was not measured, or is not defined,
# keeps nothing. All limits must hold, so judging nine at once makes no wrong release more likely,
# only wrong refusals. Trying again until the gate opens does: attempts have to be counted, and
# ours is one. First the rule by hand, then `ku.cards.gate`, which also writes the reasons.


# %%
def measure(system, crowd):
    """Return all nine values of the policy, each as Measured."""
    scores, decisions = decide(system, crowd)
    y, p, group = crowd.y.numpy(), scores.numpy(), crowd.group.numpy()
    audit = ku.fairness.audit(y, decisions.numpy(), group)
    smallest = float(audit.members.min())
    return {
        "accuracy": share(decisions == crowd.y),
        "equalized_odds_difference": odds(audit),
        "calibration_gap": calibration(p, y, group),
        "smallest_group": Measured(smallest, smallest, smallest),
        "membership_auc": membership(system, crowd),
        "decisions_flipped_by_noise": flips(system, crowd),
        "explanation_drop": explanation_drop(system, crowd, decisions),
        "referred_within_capacity": within_capacity(system, scores, crowd.group),
        "appeal_possible": appeals(system, crowd, decisions),
    }


# %% [markdown]
# An ordered comparison with NaN is false wherever IEEE 754 is followed. That is convenient here, and
# it is also how a gate written the other way round ("block if the value exceeds the limit") opens for
# everything that is not defined. So the rule asks whether a limit *is kept*.


# %%
def blocks(limits, measured):
    """Return the metrics whose limit the worse end of the interval does not keep."""
    found = []
    for limit in limits:
        value = measured.get(limit["metric"], UNKNOWN)
        if "at_least" in limit:
            kept = value.low >= limit["at_least"]
        else:
            kept = value.high <= limit["at_most"]  # a comparison with NaN is false: it blocks
        found += [] if kept else [limit["metric"]]
    return found


# %% tolerance={"measured": 0.02, "worse end": 0.02}
def show(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}"


sound = System(lender, (world.X, world.y))
measured = measure(sound, held)
verdict = gate(policy, measured)
columns = {"limit on": [check.metric.replace("_", " ") for check in verdict.checks]}
columns["bound"] = bounds
columns["measured"] = [show(measured[check.metric].value) for check in verdict.checks]
sides = ["low" if "at_least" in limit else "high" for limit in limits]
ends = [getattr(measured[x["metric"]], side) for x, side in zip(limits, sides, strict=True)]
columns["worse end"] = [show(end) for end in ends]
columns["kept"] = ["yes" if check.kept else "no" for check in verdict.checks]
ku.table(columns, caption="The sound system, measured on the held-out population")
print("released:", verdict.released)

# %% [markdown]
# All nine limits are kept. That is one run of one system, and it tests nothing: a gate that always
# opened would say the same. So we test the gate, as one tests a smoke alarm: with smoke.
#
# ## Eight sabotaged systems
#
# Each break is the kind of thing that happens: a cut that was "tuned" for one branch, scores
# pushed toward certainty, a network that learned 400 files by heart, a rule that looks at the
# last digit of the income, reasons read from the wrong columns, an office without staff, a model
# on what nobody can change, labels joined to the wrong rows. Beside each stands the limit that
# was written against it. The question is whether *that* limit blocks, not whether anything does.


# %%
small = people(7, n=400)
mixed = world.y[torch.randperm(SIZE, generator=torch.Generator().manual_seed(8))]
by_heart = train((small.X, small.y), 9, width=256, num_epochs=400, lr=1e-2, batch_size=50)
fixed = train((world.X, world.y), 10, columns=[0, 3])  # income and late payments
joined_wrongly = train((world.X, mixed), 11)
seen = world.X, world.y


def digit(X):
    return lender(X) + 1.5 * torch.sign(torch.sin(300 * X[:, 0]))  # the income's later digits


SABOTAGED = {
    "another cut for group 1": (sound._replace(cuts=(CUT, 0.75)), "equalized_odds_difference"),
    "overconfident": (sound._replace(logit=lambda X: 2.5 * lender(X)), "calibration_gap"),
    "learned by heart": (System(by_heart, (small.X, small.y)), "membership_auc"),
    "last digit of income": (System(digit, seen), "decisions_flipped_by_noise"),
    "reasons of wrong columns": (sound._replace(order=(1, 2, 3, 4, 0, 5)), "explanation_drop"),
    "no staff": (sound._replace(capacity=0.02), "referred_within_capacity"),
    "what nobody can change": (System(fixed, seen), "appeal_possible"),
    "labels of wrong rows": (System(joined_wrongly, seen), "accuracy"),
}
found = {name: measure(system, held) for name, (system, _) in SABOTAGED.items()}
stopped = {name: blocks(limits, values) for name, values in found.items()}
agree = [blocks(limits, v) == [c.metric for c in gate(policy, v).checks if not c.kept]
         for v in (measured, *found.values())]  # fmt: skip
own = [metric in stopped[name] for name, (_, metric) in SABOTAGED.items()]
by_accuracy = sum("accuracy" in found for found in stopped.values())
ku.glue(eg_stopped=sum(own), eg_accuracy_stops=by_accuracy)
ku.glue(eg_single=sum(len(each) == 1 for each in stopped.values()))

# %% mystnb={"image": {"alt": "A table of nine systems in rows and nine limits in columns. The first row, sound, is all light. Each sabotaged row has a dark cell in the column of the limit that was written against it, marked with a ring; some rows have further dark cells, most of all the system that learned by heart and the one with labels of wrong rows."}, "figure": {"caption": "Which limits block which system (dark). Ring: the limit written against this sabotage.", "name": "fig-ethics-gate-matrix"}}
rows = {"sound": blocks(limits, measured)} | stopped
metrics = [x["metric"] for x in limits]
grid = np.array([[metric in blocked for metric in metrics] for blocked in rows.values()])  # (9, 9)
values = [measured, *found.values()]
fig, ax = plt.subplots(figsize=(7, 4.6))
colors = ["#e3e8ec", ku.plots.PALETTE["rust"]]
for (row, column), blocked in np.ndenumerate(grid):
    ax.add_patch(plt.Rectangle((column - 0.45, row - 0.42), 0.9, 0.84, color=colors[int(blocked)]))
    if np.isnan(values[row][metrics[column]].value):
        ax.text(column, row, "not\ndefined", color="white", ha="center", va="center", fontsize=7)
for row, (_, metric) in enumerate(SABOTAGED.values(), start=1):
    ax.plot(metrics.index(metric), row, "o", mfc="none", mec="black", ms=11, mew=1.6)
ax.set(xlim=(-0.6, 8.6), ylim=(8.6, -0.6), yticks=range(9), yticklabels=rows)
ax.set_xticks(range(9), [m.replace("_", " ") for m in metrics], rotation=38, ha="right", fontsize=9)
ax.grid(False)
plt.show()

# %% [markdown]
# {glue:text}`eg_stopped` of eight are stopped by the limit that was written against them. A limit
# on accuracy alone would have stopped {glue:text}`eg_accuracy_stops`. Some sabotage shows in
# several places: what was learned by heart is also badly calibrated, and labels of wrong rows
# make a network that approves everybody, so nobody is refused, an appeal is *not defined*, and
# what is not defined blocks. More telling is that {glue:text}`eg_single` of the eight touch one
# limit only, so without it they would have passed. It would be a mistake to count these as eight
# hard cases. Three fail almost by construction (no staff, reasons of wrong columns, what nobody
# can change), and two of these change no decision, so no measure of decisions could notice. What
# the test shows is that no limit sleeps. The ninth, on the smallest group, has its turn in the
# next section.
#
# What a person reads is a sentence for each broken limit. It says what was measured, what was allowed
# and who is hurt:

# %% tolerance={"Equalized odds difference is": 0.02, "up to": 0.02}
print(gate(policy, found["another cut for group 1"]).reasons[0])
print(gate(policy, {m: v for m, v in measured.items() if m != "membership_auc"}).reasons[0])
try:
    ku.cards.read_policy(POLICY.replace("calibration_gap", "calibrated_gap"))
except ku.BadInput as error:
    print(error)

# %% [markdown]
# The second reason comes from a measurement that somebody left out, and the last line from a policy
# with a misspelled metric. A gate that ignored either would have opened silently.
#
# ## Luck, and two hundred people
#
# Was the release luck? Eight systems, each newly trained, are measured on fresh populations. And
# how much must one measure? The same sound system, measured on fewer and fewer people, has wider
# intervals, and at some size the worse end of one of them leaves its limit.

# %%
POPULATIONS = range(20, 20 + (2 if few else ku.pick(laptop=8, full=20)))
passes = []
for seed in POPULATIONS:
    mine, fresh = people(1000 + seed), people(seed)
    values = measure(System(train((mine.X, mine.y), seed), (mine.X, mine.y)), fresh)
    passes.append(gate(policy, values).released)
ku.glue(eg_passes=sum(passes), eg_populations=len(passes))
ku.glue(eg_passes_low=f"{100 * share(passes).low:.0f}")

# %% tolerance={"eg_blocked_200": 1, "eg_blocked_1000": 1} mystnb={"image": {"alt": "Six vertical intervals, one for each number of people from 200 to 20,000, with a dot for the measured gap. The intervals shrink from left to right. Up to 2,000 people their upper ends lie above the dashed limit at 0.08, from 5,000 on below it; all dots lie below it."}, "figure": {"caption": "The sound system's equalized odds difference, measured on fewer and more people, with 95 % intervals. Dashed: the limit, which the upper end must keep (teal) or breaks (rust).", "name": "fig-ethics-gate-people"}}
sizes = [200, 500, 1000, 2000, 5000, SIZE]
fewer = {size: measure(sound, people(40, n=size)) for size in sizes}
blocked = {size: blocks(limits, values) for size, values in fewer.items()}
fig, ax = plt.subplots(figsize=(6.4, 3.4))
bound = next(x["at_most"] for x in limits if x["metric"] == "equalized_odds_difference")
for size, values in fewer.items():
    value, low, high, _ = values["equalized_odds_difference"]
    color = ku.plots.PALETTE["teal" if high <= bound else "rust"]
    ax.plot([size, size], [low, high], color=color, linewidth=2)
    ax.plot(size, value, "o", color=color)
ax.axhline(bound, color="black", linestyle="--", linewidth=1)
ax.text(SIZE, bound + 0.01, "limit", ha="right")
ax.set(xscale="log", xlabel="people measured", ylabel="equalized odds difference", ylim=(0, None))
ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
ax.minorticks_off()
plt.show()
ku.glue(eg_blocked_200=len(blocked[200]), eg_blocked_1000=len(blocked[1000]))

# %% [markdown]
# {glue:text}`eg_passes` of {glue:text}`eg_populations` newly trained systems pass; from so few
# one may conclude that at least {glue:text}`eg_passes_low` % do. And the first one, with nothing
# wrong but our knowledge of it, breaks {glue:text}`eg_blocked_200` limits when it is measured on
# 200 people and {glue:text}`eg_blocked_1000` on a thousand. The gap's interval is wide, as the
# figure shows; group 1 is too small for bands of a hundred, so calibration is not defined; and it
# is smaller than promised. Anybody who finds this too strict should change the limit in the
# policy, where it can be seen, and not the rule.
#
# ## Real applicants, and a release refused
#
# The same policy meets real people: networks that predict the decisions of Boston's banks from 25
# columns. Race and sex are not among them; marital status is, and the share of minorities in the
# district, which are no innocent columns. Each half of the file is scored by the network that was
# trained on the other half. Six limits can be measured from the file. Nobody told us how precisely the
# banks recorded, who sat in their offices, and what an applicant of 1990 could have changed.


# %%
loans, BANK = ku.data.loanapp(), {"seed": 13, "width": 8}
X = (loans.X - loans.X.mean(0)) / loans.X.std(0)  # (1958, 25)
half = torch.rand(len(X), generator=torch.Generator().manual_seed(12)) < 0.5
bank = torch.empty(len(X))  # scores, each from the network of the other half
for part in (half, ~half):
    net = train((X[part], loans.y[part]), **BANK, columns=list(range(25)), batch_size=64)
    bank[~part] = net(X[~part]).detach().sigmoid()
y, p, chosen = loans.y.numpy(), bank.numpy(), (bank >= CUT).numpy()
audit = ku.fairness.audit(y, p, loans.race, threshold=CUT)
two = np.isin(loans.race, ("black", "white"))
pair = ku.fairness.audit(y[two], p[two], loans.race[two], threshold=CUT)
scored = loans._replace(X=X[half], y=loans.y[half])  # by the second network, a stranger to them
network = System(net, (X[~half], loans.y[~half]), order=tuple(range(25)))
known = {
    "accuracy": share(chosen == y),
    "equalized_odds_difference": odds(pair),
    "calibration_gap": calibration(p[two], y[two], (loans.race[two] == "black").astype(int)),
    "smallest_group": Measured(*3 * (float(audit.members.min()),)),
    "membership_auc": membership(network, scored),
    "explanation_drop": explanation_drop(network, scored, chosen[half.numpy()], features=25),
}
for metric in ("membership_auc", "explanation_drop"):
    known[metric] = known[metric]._replace(how=f"{known[metric].how}; one of the two networks")

# %% tolerance={"eg_wrongly_white": 6, "eg_wrongly_black": 6, "eg_approved_white": 2, "eg_approved_black": 5, "eg_bank_right": 1.5}
mortgages = policy | {"name": "Mortgages, Boston 1990", "purpose": "Repeat the banks' decisions."}
mortgages["affected"] = ["white, black and Hispanic applicants", "the banks"]
refusal = gate(mortgages, known)
for check in refusal.checks:
    state = "not measured" if check.measured is None else "not defined"
    if check.measured and np.isfinite(check.measured.value):
        state = "kept" if check.kept else "broken"
    print(f"{check.metric.replace('_', ' ')}: {state}")
for name, metric in (("wrongly", "false_positive_rate"), ("approved", "true_positive_rate")):
    rates = 100 * audit.rate[:, audit.metrics.index(metric), 0]  # (groups,)
    for group in ("white", "black"):
        ku.glue(**{f"eg_{name}_{group}": f"{rates[audit.groups.index(group)]:.0f}"})
ku.glue(eg_bank_right=f"{100 * known['accuracy'].value:.0f}", eg_bank_base=f"{100 * y.mean():.0f}")

# %% [markdown]
# The release is refused. 108 Hispanic applicants are fewer than the policy wants to see before it
# believes anything about them, and 195 black ones are too few for bands of a hundred, so nobody
# can say whether their scores mean what they say. (Gap and calibration compare black and white
# applicants only.) Of those whom a bank approved, the network would approve
# {glue:text}`eg_approved_white` % of the white and {glue:text}`eg_approved_black` % of the black
# ones; of those whom a bank refused, {glue:text}`eg_wrongly_white` % and
# {glue:text}`eg_wrongly_black` %. Both gaps break the limit, and both are to the disadvantage of
# the same people. And the limit on accuracy is kept by {glue:text}`eg_bank_right` % right
# answers, where approving everybody gives {glue:text}`eg_bank_base`: our bound, made for another
# population, promises nothing here. A policy has to be written for its case.
#
# A larger file would make calibration measurable, which is not yet good, and would not change the
# meaning of the label, which is what banks *decided*. A perfect copy of the banks would keep the
# limit on the gap to the letter. Which question a label can answer is not among the nine limits;
# it is in the data sheet, under harms.
#
# ## A model card and a data sheet
#
# Both are written from what was measured, from the policy and from the registry of the book's
# data {cite}`mitchell2019,gebru2021`. No number in them is typed in, and what the policy limits
# and nobody measured is listed as *not measured*, because a card that leaves it out reads as if
# all were well. The purpose, those affected and who decides come from the policy, and the source,
# the license and the known harms from the registry.

# %%
folder, raw = Path(tempfile.mkdtemp()), ku.data.loanapp_raw()
entry = ku.data.source("loanapp")
facts = {"label": "1: a bank approved the application; what became of the loan is unknown"}
facts |= {"baseline": f"approving everybody is right for {100 * y.mean():.1f} %"}
facts |= {"network": f"one hidden layer of {BANK['width']} units, {len(loans.features)} features"}
facts |= {"cut": f"{CUT:g}", "seed": f"{BANK['seed']}", "torch": torch.__version__.split("+")[0]}
facts |= {
    "scored by": "two networks, each for the half it was not trained on; neither is a product"
}
facts |= {"not for": entry["harms"], "features": ", ".join(loans.features)}
rates = ("selection_rate", "true_positive_rate", "false_positive_rate")
audits = {"race": audit, "sex": ku.fairness.audit(y, p, loans.sex, threshold=CUT)}
by_group = {f"Decisions by {name}, 95 % intervals": a.table(*rates) for name, a in audits.items()}
counted = {"rows in the file": f"{len(raw):,}", "rows after cleaning": f"{len(y):,}"}
counted |= {"columns in the file": str(raw.shape[1]), "features": str(len(loans.features))}
counted |= {f"missing: {c}": f"{n:,}" for c, n in raw.isna().sum().items() if n}
counted["approved (%)"] = f"{100 * y.mean():.1f}"
groups = [f"{race}, {sex}" for race, sex in zip(loans.race, loans.sex, strict=True)]
both = ku.fairness.audit(y, chosen.astype(float), groups).table("base_rate")
shares = {"Approved (base rate), by group": both}
pages = {"model_card.html": ku.cards.model_card(mortgages, refusal, facts, by_group)}
pages["data_sheet.html"] = ku.cards.data_sheet(entry["title"], entry, counted, shares)

# %%
for name, page in pages.items():
    (folder / name).write_text(page, encoding="utf-8")
    ku.publish(folder / name)  # keeps it with the rendered book; does nothing where you run it
missing = {x["metric"] for x in limits} - set(known)
written = pages["model_card.html"].count("<td>not measured</td>")
text = "limits that nobody measured and the card does not call so"
ku.claim(text, abs(len(missing) - written), at_most=0)

# %% [markdown]
# Open them: [the model card](../../book/_static/pages/ethics_gate/model_card.html), [the data
# sheet](../../book/_static/pages/ethics_gate/data_sheet.html). (Where you run the notebook, they
# lie in `folder`.) The card's first line is the verdict, because that is what a reader in a hurry
# takes away. The usual model card is written by those who want the model released, in words they
# choose; one that is written from a verdict can be made again by anybody who has the policy and
# the data, and compared.
#
# ## Cases for a person
#
# The policy asks that uncertain cases go to a person. What does that do to each group, and what
# if there are fewer people than cases? We refer those applicants whose scores lie nearest to the
# cut. A reviewer who sees more than the files decides rightly in 85 % of the cases. A *harsh*
# reviewer does so too, except for applicants of group 1 who would repay, of whom only 60 % get
# the loan. Both numbers are assumptions; they are where a real institution would have to measure.


# %%
def reviewed(crowd, capacity, repaying_of_1, seed=0):
    """Return decisions (N,) after the most uncertain share went to a reviewer, and who went."""
    scores, decisions = decide(sound, crowd)
    order = (scores - CUT).abs().argsort()
    referred = torch.zeros(len(scores), dtype=torch.bool)
    referred[order[: int(capacity * len(scores))]] = True
    chance = torch.full((len(scores),), 0.85)
    chance[(crowd.group == 1) & (crowd.merit == 1)] = repaying_of_1
    draw = torch.rand(len(scores), generator=torch.Generator().manual_seed(seed))
    verdicts = torch.where(draw < chance, crowd.merit, 1 - crowd.merit)
    return torch.where(referred, verdicts, decisions), referred


def repaying_with_loan(decisions, crowd):
    """Return the % of those who would repay, of group 0 and 1, who get the loan."""
    return [
        100 * decisions[(crowd.group == g) & (crowd.merit == 1)].double().mean().item()
        for g in (0, 1)
    ]


crowd = people(50, n=ku.pick(laptop=50_000, full=SIZE))
capacities = np.array([0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3])
fates = {}  # reviewer -> (capacities, groups) in %
for kind, chance in (("fair", 0.85), ("harsh", 0.6)):
    runs = [reviewed(crowd, capacity, chance)[0] for capacity in capacities]
    fates[kind] = np.array([repaying_with_loan(decisions, crowd) for decisions in runs])

# %% tolerance={"eg_gap_before": 0.6, "eg_gap_fair": 0.6, "eg_gap_harsh": 0.6, "eg_fair_gain": 0.6} mystnb={"image": {"alt": "Percentage of people who would repay and get the loan against the share of cases referred. With a fair reviewer both groups rise together from about 88 to about 92 percent. With a harsh reviewer group 0 rises in the same way and group 1 stays flat and then falls."}, "figure": {"caption": "Referral of the most uncertain cases: share of those who would repay that gets the loan. The line of group 0 is the same for both reviewers; the axis does not begin at zero.", "name": "fig-ethics-gate-referral"}}
fig, ax = plt.subplots(figsize=(6.8, 3.6))
shown = {"group 0": fates["fair"][:, 0], "group 1, fair reviewer": fates["fair"][:, 1]}
shown["group 1, harsh reviewer"] = fates["harsh"][:, 1]
for name, line in shown.items():
    ax.plot(100 * capacities, line, "o-", markersize=4, label=name)
ax.set(xlabel="cases that go to a person (%)", ylabel="would repay, get the loan (%)")
ku.plots.label_lines(ax)
plt.show()
gap = {kind: lines[:, 0] - lines[:, 1] for kind, lines in fates.items()}  # (capacities,)
at = int(np.flatnonzero(capacities == 0.2)[0])
ku.glue(eg_gap_before=f"{gap['fair'][0]:.1f}", eg_gap_fair=f"{gap['fair'][at]:.1f}")
ku.glue(eg_gap_harsh=f"{gap['harsh'][at]:.1f}")
ku.glue(eg_fair_gain=f"{(fates['fair'][at] - fates['fair'][0]).mean():.1f}")
sent = reviewed(crowd, 0.1, 0.85)[1]
sent = [100 * sent[crowd.group == g].double().mean().item() for g in (0, 1)]
ku.glue(eg_sent_0=f"{sent[0]:.0f}", eg_sent_1=f"{sent[1]:.0f}")

# %% [markdown]
# With time for a fifth of the applicants, a fair reviewer raises the share of good payers who get
# a loan by {glue:text}`eg_fair_gain` points in both groups, and the gap stays near
# {glue:text}`eg_gap_fair` points. (How much follows from the 85 % that we assumed, where the
# network is least sure. Loans to those who do not repay are not shown.) A harsh one widens the
# gap from {glue:text}`eg_gap_before` to {glue:text}`eg_gap_harsh`: oversight by a person adds the
# person's own judgment, and the more is referred the more of it. So the gate must measure the
# decisions *after* review; ours measured those before. (Of every hundred, {glue:text}`eg_sent_0`
# of group 0 and {glue:text}`eg_sent_1` of group 1 are referred when there is time for ten: the
# line runs through the denser part of group 1.)
#
# ## An answer that can be acted on
#
# A refused person gets the nearest feasible change. Is it really the nearest, is it still good
# when the network has been trained anew, and is it good for the person?

# %% tolerance={"eg_holds": 10, "eg_holds_low": 15, "eg_holds_high": 15, "eg_possible": 3, "eg_possible_low": 3, "eg_possible_high": 3, "eg_worth": 3, "eg_worth_low": 3, "eg_worth_high": 3, "eg_above": 3, "eg_above_low": 3, "eg_above_high": 3, "eg_finer": 3}
refused = (decide(sound, crowd)[1] == 0).nonzero()[:300, 0]
told, effort = nearest(lender, crowd.X[refused], CUT)
some = effort.isfinite()
next_years = [train((world.X, world.y), seed) for seed in range(90, 92 if few else 95)]
with torch.no_grad():
    moved = crowd.X[refused][some] + told[some]  # (n, 6)
    holds = [100 * (net(moved).sigmoid() >= CUT).float().mean().item() for net in next_years]
finer = nearest(lender, crowd.X[refused], CUT, steps=21)[1][some]  # half the step
finer = 100 * (1 - finer.mean() / effort[some].mean()).item()
repay = crowd.merit.float()
worth = share(repay[refused][some])
scores = decide(sound, crowd)[0]
above = share(repay[(scores >= CUT) & (scores < CUT + 0.02)])
ku.glue(eg_possible=f"{100 * some.float().mean():.0f}", eg_holds=f"{np.mean(holds):.0f}")
ku.glue(eg_holds_low=f"{min(holds):.0f}", eg_holds_high=f"{max(holds):.0f}")
for name, found_share in (("worth", worth), ("above", above)):
    value, low, high = (f"{100 * v:.0f}" for v in found_share[:3])
    ku.glue(**{f"eg_{name}": value, f"eg_{name}_low": low, f"eg_{name}_high": high})
ku.glue(eg_finer=f"{finer:.0f}", eg_cut=f"{CUT:.2f}", eg_cut_end=f"{CUT + 0.02:.2f}")
ends = share(some)
ku.glue(eg_possible_low=f"{100 * ends.low:.0f}", eg_possible_high=f"{100 * ends.high:.0f}")

# %% [markdown]
# For {glue:text}`eg_possible` % of 300 refused people ({glue:text}`eg_possible_low` to
# {glue:text}`eg_possible_high`) there is a feasible change, and with it the network does give the
# loan. Half the step would find changes that cost {glue:text}`eg_finer` % less: near enough to
# the nearest. But the nearest change lies *just* beyond the line. Five times we train the same
# network again on the same people, with another seed. On average {glue:text}`eg_holds` % of the
# answers are still good, in the worst of the five {glue:text}`eg_holds_low` and in the best
# {glue:text}`eg_holds_high`; the others saved for a year and are refused again. So a whole cohort
# is lucky or unlucky together: a new network is a little stricter or milder for everybody near
# the line. (Here only the seed is new. New data would move the line further.) An institution that
# gives such an answer has to keep its promise, or to ask for a margin; exercise
# 3 does.
#
# And the change moves the score, not the ability. Of those who could be advised so,
# {glue:text}`eg_worth` % would repay ({glue:text}`eg_worth_low` to {glue:text}`eg_worth_high`);
# of those who score there by themselves, from {glue:text}`eg_cut` to {glue:text}`eg_cut_end`,
# {glue:text}`eg_above` % do ({glue:text}`eg_above_low` to {glue:text}`eg_above_high`). In our
# world savings *measure* an ability and do not make it, so moving them moves the number. Whether
# more savings make somebody a safer borrower is a causal question, which no explanation of a
# network answers {cite}`karimi2021`.
#
# ## Where it fails
#
# **The gate believes the records.** Now one in ten people of group 1 who would repay is recorded
# as one who would not, at random. They are good payers, so many of them are approved: the
# recorded false positive rate of group 1 rises, its true positive rate hardly moves. Two systems
# are offered: the plain network, and the same network with cuts per group chosen by
# `ku.fairness.threshold_search` so that the recorded error rates are equal, an honest repair by
# the book. The gate sees records; in this world we also see the truth.


# %%
def two_systems(seed):
    """Return for a plain and a repaired system: released?, gap allowed?, gaps in records, truth."""
    biased, later = people(60 + seed, label=0.1), people(160 + seed, label=0.1)
    net = train((biased.X, biased.y), seed)
    p, p_later = (net(crowd.X).detach().sigmoid().numpy() for crowd in (biased, later))
    groups = [crowd.group.numpy() for crowd in (biased, later)]
    cuts = ku.fairness.threshold_search(biased.y.numpy(), p, groups[0])
    plain = System(net, (biased.X, biased.y))
    rows = []
    for decisions in ((p_later >= CUT).astype(int), cuts.decide(p_later, groups[1])):
        recorded, true = (
            ku.fairness.audit(truth.numpy(), decisions, groups[1])
            for truth in (later.y, later.merit)
        )
        values = measure(plain, later)
        values["equalized_odds_difference"] = odds(recorded)
        values["accuracy"] = share(decisions == later.y.numpy())
        checks = gate(policy, values).checks
        gaps = [100 * a.equalized_odds_difference for a in (recorded, true)]
        rows.append((all(check.kept for check in checks), checks[1].kept, *gaps))
    return rows


# %% tolerance={"eg_true_stopped": 2, "eg_true_released": 2, "eg_repaired_out": 1} mystnb={"image": {"alt": "Two rows of dots for six populations. Plain system: the true gaps lie between one and four points, the recorded ones between eight and ten, right of the dashed limit at eight. Repaired system: the recorded gaps lie between zero and two and a half, the true ones between nearly eight and twelve."}, "figure": {"caption": "The gap in error rates as the records show it (hollow) and as it is (filled), in points, one dot per population. Dashed: the policy's limit, which is about the upper end of an interval.", "name": "fig-ethics-gate-records"}}
SEEDS = range(2 if few else 6)
offered = np.array([two_systems(seed) for seed in SEEDS], float)  # (seeds, 2 systems, 4)
fig, ax = plt.subplots(figsize=(6.4, 2.6))
for row, color in enumerate((ku.plots.PALETTE["teal"], ku.plots.PALETTE["rust"])):
    recorded, true = offered[:, row, 2], offered[:, row, 3]  # (seeds,) each
    ax.plot(recorded, np.full(len(SEEDS), row), "o", mfc="none", color=color, markersize=9)
    ax.plot(true, np.full(len(SEEDS), row), "o", color=color, markersize=9, alpha=0.7)
    for points, word in ((recorded, "in the records"), (true, "in truth")):
        ax.text(points.min() + 0.15, row - 0.22, word, color=color, va="bottom")
ax.axvline(100 * bound, color="black", linestyle="--", linewidth=1)
ax.set_yticks([0, 1], ["plain", "repaired on\nthe records"])
ax.set(xlabel="equalized odds difference (points)", xlim=(0, None), ylim=(1.5, -0.6))
plt.show()
ku.glue(eg_true_stopped=f"{offered[:, 0, 3].mean():.0f}")
ku.glue(eg_true_released=f"{offered[:, 1, 3].mean():.0f}", eg_worlds=len(SEEDS))
ku.glue(
    eg_plain_out=f"{offered[:, 0, 0].sum():.0f}", eg_repaired_out=f"{offered[:, 1, 0].sum():.0f}"
)

# %% [markdown]
# In every population the limit on unequal errors is broken by the system that treats people alike and
# kept by the one that does not: to make the recorded rates equal, the repair raises group 1's line and
# refuses people who would repay. The gate would release {glue:text}`eg_plain_out` of
# {glue:text}`eg_worlds` plain systems and {glue:text}`eg_repaired_out` repaired ones. (All limits but
# accuracy and the gap are measured with the plain cuts, so recourse and referral count as the plain
# system's. Where a repaired one is stopped all the same, it is by the limit on calibration, which looks
# at the scores that both share.)
#
# Every number that the gate was shown about the gap is correct. It compares decisions with records,
# and the records are where the harm is. No limit on these metrics can notice, because a world with
# true records and unequal groups can give the same ones. What helps lies outside: loans given at
# random to a few of the refused, an audit of how records arise, people who say what was done to
# them.
#
# **What is not in the policy is not protected.** A group that nobody named or that is missing
# from the sample altogether, a harm that nobody listed, the months after the release. And whoever
# writes the limits can write easy ones. The gate moves the quarrel to a place where it can be
# had: a short file, with names in it.
#
# **Strengths.** Reasons instead of a score; the burden of proof is stated; what was not measured
# blocks; the gate itself is tested. **Limits.** It judges one moment, the metrics it has, against the
# records there are. **When not to use it.** As a certificate for others, or instead of asking those
# affected. **Which limit should I begin with?** The one for which you can name who is hurt and have
# enough people to measure. **Software.** Model cards: the `model-card-toolkit` and the Hub's cards;
# recourse: DiCE, alibi; checks in a pipeline: deepchecks, Great Expectations.
#
# ## Claims
#
# The plan fixed that each sabotage is stopped by its own limit, that the sound system passes on
# fresh populations and is stopped on 200 people. The policy's nine bounds followed a first look
# at other populations, and so did the strength of the sabotages, so that "eight of eight" says
# that the gate looks where it should, and nothing about how weak a sabotage it would notice. The
# bounds on referral, recourse and the biased records were set after trials of the same kind; the
# two on reviewers follow from what we assumed about them and only say how much. A first version
# compared the advised with all borrowers, which is no fair comparison, named the feature with the
# largest attribution of either sign, which may be one that helped, and judged calibration in
# bands of the score, where it could pass over most of a group.

# %%
text = "sabotaged systems, of eight, stopped by the limit written against them"
ku.claim(text, sum(own), at_least=8, role="headline")
text = "the same eight, stopped by a limit on accuracy alone"
ku.claim(text, by_accuracy, at_most=4, role="control")
text = f"sound systems that pass on fresh populations, of {len(passes)}"
ku.claim(text, sum(passes), at_least=0.75 * len(passes))
text = "limits but the one on the smallest group that stop the sound system measured on 200 people"
ku.claim(text, len(set(blocked[200]) - {"smallest_group"}), at_least=1)
ku.claim(
    "systems on which the rule by hand and ku.cards.gate agree, of nine", sum(agree), at_least=9
)

# %%
text = "points that a fair reviewer of a fifth of the applicants adds to the repaying with a loan"
ku.claim(
    text, (fates["fair"][at] - fates["fair"][0]).mean(), at_least=1.5, rests_on=("eg_fair_gain",)
)
text = "points by which a harsh reviewer's gap exceeds a fair one's"
ku.claim(text, gap["harsh"][at] - gap["fair"][at], at_least=2, rests_on=("eg_gap_harsh",))
text = "% of advised changes that still lead to the loan after a new training, mean of five"
ku.claim(text, np.mean(holds), at_most=90, rests_on=("eg_holds",))
text = "points by which the advised repay less often than people just above the line"
ku.claim(text, 100 * (above.value - worth.value), at_least=5, rests_on=("eg_worth", "eg_above"))
text = "biased records: populations in which the repaired system keeps the limit on the gap, %"
ku.claim(text, 100 * offered[:, 1, 1].mean(), at_least=100)
text = "biased records: populations in which the plain one, with the smaller true gap, does, %"
ku.claim(text, 100 * offered[:, 0, 1].mean(), at_most=0)
text = "biased records: points by which the repaired system's true gap exceeds the plain one's"
ku.claim(text, (offered[:, 1, 3] - offered[:, 0, 3]).min(), at_least=4)

# %% [markdown]
# ## Exercises
#
# **1. The average passes.** A colleague compares the measured *value* with the bound, not the worse
# end of its interval. Write `kept(limit, measured)` so that the sound system passes on the large
# population and not on 2,000 people, too few to say that its gap is below 0.08. (The limits on the
# smallest group and on calibration are not asked: so few people can keep neither.)


# %% tags=["exercise"]
def check_kept(kept) -> dict:
    """kept(limit, Measured) -> bool, on 20,000 and on 2,000 people."""
    values = measure(sound, people(41, n=2000))
    large = all(kept(x, measured[x["metric"]]) for x in limits)
    asked = [x for x in limits if x["metric"] not in ("smallest_group", "calibration_gap")]
    few_people = all(kept(x, values[x["metric"]]) for x in asked)
    sentence = "verdicts, of two, that are right (two limits are not asked)"
    return {"sentence": sentence, "value": large + (not few_people), "at_least": 2}


def my_kept(limit, found):
    return limit.get("at_least", -np.inf) <= found.value <= limit.get("at_most", np.inf)


ku.attempt(**check_kept(my_kept))


# %% tags=["solution", "hide-cell"]
def kept(limit, found):
    return limit.get("at_least", -np.inf) <= found.low and found.high <= limit.get(
        "at_most", np.inf
    )


ku.claim(**check_kept(kept), role="solution")

# %% [markdown]
# **2. Who goes first?** Reviewers have time for 5 % of the applicants. Write `refer(scores)` that
# returns whom to refer, so that reviewers meet as many of the network's errors as they can. The stub
# takes the first in line.


# %% tags=["exercise"]
def check_refer(refer) -> dict:
    """refer(scores (N,)) -> (N,) bool with 5 % of them true."""
    scores, decisions = decide(sound, crowd)
    chosen = refer(scores)
    wrong = (decisions != crowd.merit).double()
    ratio = wrong[chosen].mean() / wrong.mean() * (chosen.sum() == int(0.05 * len(scores)))
    sentence = "errors among the referred, as a multiple of the average"
    return {"sentence": sentence, "value": ratio, "at_least": 2}


def my_refer(scores):
    return torch.arange(len(scores)) < int(0.05 * len(scores))


ku.attempt(**check_refer(my_refer))


# %% tags=["solution", "hide-cell"]
def refer(scores):
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    wrong = torch.where(scores >= CUT, 1 - scores, scores)  # the chance of an error, if calibrated
    chosen[wrong.argsort(descending=True)[: int(0.05 * len(scores))]] = True
    return chosen


ku.claim(**check_refer(refer), role="solution")

# %% [markdown]
# **3. An answer with a margin.** Write `advise(X)` that returns the nearest feasible change after
# which the loan is still given by the networks that will be trained next year. You do not have
# them. You do have the present one, and may ask for more than the line.


# %% tags=["exercise"]
def check_advise(advise) -> dict:
    """advise(X (N, 6)) -> changes (N, 6), effort (N,); inf where there is none."""
    X = crowd.X[refused]
    changes, effort = advise(X)
    some = effort.isfinite()
    with torch.no_grad():
        moved = X[some] + changes[some]
        good = min((net(moved).sigmoid() >= CUT).float().mean() for net in next_years)
    sentence = "% of answers that hold after each new training, if a third of the refused get one"
    return {
        "sentence": sentence,
        "value": 100 * good * (some.float().mean() > 1 / 3),
        "at_least": 95,
    }


def my_advise(X):
    return nearest(lender, X, CUT)


ku.attempt(**check_advise(my_advise))


# %% tags=["solution", "hide-cell"]
def advise(X):
    return nearest(lender, X, CUT + 0.1)


ku.claim(**check_advise(advise), role="solution")

# %% [markdown]
# ## References
#
# The entries cited on this page are in the book's [references](../../book/references.md).
