# %% [markdown]
# # Which words decided?
#
# **A network reads a headline and says "negative". Which words made it say so, and does the answer
# name the words that would have changed its mind?**
#
# Of {glue:text}`ta_held` test headlines, {glue:text}`ta_flippable` get another class when one word
# is left out. In {glue:text}`ta_hit_ig` % of these, the word that integrated gradients weigh most
# is such a word. For the word with the most attention it is {glue:text}`ta_hit_attention` %, for a
# word at random {glue:text}`ta_hit_any` % (in brackets, here and below: a 95 % interval). In
# sentences with a word whose exchange is known to turn the decision, the best method that uses
# gradients puts {glue:text}`ta_lead` more points of its weight on that word than attention does. We
# had predicted ten. Three cautions. In a network of which more was trained it is
# {glue:text}`ta_lead_deep` points. By the order of the words alone, the two cannot be told apart.
# And the plainest explanation of all, the smallest change that flips the decision, is true of the
# network and not always a reason: an idle ending, such as "this week", flips
# {glue:text}`ta_neutral` % of the decisions.
#
# :::{admonition} What you will learn
# - to compute integrated gradients for words, by hand and with Captum, and to check that they add up;
# - to show word weights so that they can be read without color, and to merge word pieces;
# - to test an explanation against words that are known to decide, and against its own controls;
# - to search for the smallest edit that changes a decision;
# - to probe a hidden layer, and to test whether what the probe finds is used.
#
# **Works out:** document 002 §8.4 (see [the five documents](../../book/five_documents.md)).
#
# **Before this:** [Pretrained features, reduced](../simplification/pretrained_features.ipynb), for
# the transformer and its word pieces.
#
# **Costs:** two to three minutes and about 2 GiB on two CPU cores. The full profile (all six
# layers trained, five seeds, more headlines) wants one GPU.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 文档 002 第 8.4 节希望识别模型决策的关键特征。本章在 MiniLM 上训练一个情感分类头，用手写的积分梯度解释它，并与 Captum 核对。
# 词的权重用文字、数字和下划线显示，不只依靠颜色，屏幕阅读器也能读出。
# 我们写了一组句子，用干预实验验证哪个词起决定作用：积分梯度放在这个词上的权重比注意力多十个百分点以上；在随机权重的网络上没有这种差别。
# 重新随机化分类头后，注意力一点不变，所以它不能单独解释这个判断；但多训练一层之后，两种方法的差距会变小。
# 反事实搜索大多只改一个词就能翻转判断，但在句尾加上“this week”这样无关的词也会翻转一部分判断，说明网络本身脆弱。
# 探针能读出标题的长度，把长度擦除后判断几乎不变：能读出不等于被使用。
#
# </div>
# :::

# %% tags=["setup"]
# Colab: this line is replaced by an install command when the book is published
import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import copy
import itertools
import math
import random
from html import escape

import matplotlib.pyplot as plt
import numpy as np
import torch
from captum.attr import LayerIntegratedGradients
from IPython.display import HTML, display
from scipy.stats import binomtest, spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from transformers import BertModel

device = ku.start(seed=0)

# %% [markdown]
# ## The data
#
# Financial headlines in three classes: what the news means for the company, negative, neutral or
# positive. They were written for this book, and many come in contrasts, the same event gone well,
# gone badly, or as mere routine, so that topic words tell less than usual. Near-duplicates stand on
# one side of the split. The license is CC BY 4.0.
#
# **What these data cannot support.** One writer's judgment a headline, nameless companies, English
# only, written with the help of a language model: no statement about markets or about how the press
# writes. And no headline comes with the words that a person would call decisive. For those we write
# sentences of our own, further down.

# %%
data = ku.data.headlines()
y = {part: torch.tensor(getattr(data, part)[1]) for part in ("train", "valid", "test")}
columns = {"class": data.classes}
columns |= {part: labels.bincount().tolist() for part, labels in y.items()}
examples = [data.test[0][int((y["test"] == c).nonzero()[3])] for c in range(3)]
ku.table(
    columns | {"a test headline": examples}, caption="Financial headlines written for this book"
)

# %% [markdown]
# ## The dumbest baselines
#
# There are two. The dumbest *classifier* names the most frequent class; the next one counts words
# (TF-IDF, which counts rare words for more) and weighs them by logistic regression. The second one
# also gives the dumbest *explanation*: a **word list**. It weighs each word of a headline by its
# weight in the word counter, and never asks the network that it pretends to explain. An explanation
# that cannot beat it may be a plausible story about the headline instead of a report about the
# network. We keep it for the comparison below.


# %%
counter = TfidfVectorizer(norm=None)  # so that words add up
counts = counter.fit_transform(data.train[0])
by_words = LogisticRegression(C=0.3, max_iter=2000).fit(counts, data.train[1])
words_right = by_words.score(counter.transform(data.test[0]), data.test[1])
majority = (y["test"] == y["train"].bincount().argmax()).double().mean()
ku.glue(ta_majority=f"{100 * majority:.0f}", ta_words=f"{100 * words_right:.0f}")


def word_list(texts, c):
    """Return what each word adds to the word counter's logit of class c (B,): (B, W)."""
    each = [counter.transform(text.split()) @ by_words.coef_.T for text in texts]  # (words, 3)
    columns = [torch.tensor(part[:, k]).float() for part, k in zip(each, c.tolist(), strict=True)]
    return nn.utils.rnn.pad_sequence(columns, batch_first=True)


# %% [markdown]
# The most frequent class is right for {glue:text}`ta_majority` % of the test headlines, counting
# words for {glue:text}`ta_words` %.
#
# ## The network to be explained
#
# MiniLM {cite}`wang2020minilm,reimers2019sbert`, here all-MiniLM-L6-v2, is a transformer of six
# layers that was trained to place sentences of like meaning close together. `read` cuts texts into
# its word pieces and notes which word each piece belongs to. Words are what stands between spaces:
# a reader wants a weight for "Reinsurer's", not for "rein", "##sure", "##r", "'" and "s".


# %%
tokenizer, minilm = ku.data.minilm()
FROZEN = ku.pick(laptop=5, full=0)  # layers that keep their pretrained weights


def read(texts):
    """Return ids, mask and word, each (B, T); word: the word that a piece belongs to, or -1."""
    tokens = tokenizer(list(texts), padding=True, return_offsets_mapping=True, return_tensors="pt")
    word = torch.full_like(tokens["input_ids"], -1)
    for row, (text, spans) in enumerate(zip(texts, tokens["offset_mapping"].tolist(), strict=True)):
        for place, (start, end) in enumerate(spans):
            if end > start:  # [CLS], [SEP] and [PAD] cover no characters
                word[row, place] = text[:start].count(" ")
    return tokens["input_ids"].to(device), tokens["attention_mask"].to(device), word.to(device)


def groups(texts, size=64):
    """Return the texts' rows in groups of similar length, so that little is padded."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    return [order[start : start + size] for start in range(0, len(texts), size)]


def by_word(weights, word):
    """Add up the weights of pieces (B, T) word by word: (B, W), zeros after the last word."""
    sums = torch.zeros(len(word), int(word.max()) + 1, device=word.device)
    return sums.scatter_add(1, word.clamp_min(0), weights * (word >= 0)).cpu()


def mean_piece(states, mask):
    """Return each text's mean over its pieces, (B, 384). states: (B, T, 384), mask: (B, T)."""
    return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


# %% [markdown]
# On top of the mean over the pieces sits a head with three outputs. The head and the last layer are
# trained on the headlines; the five layers below keep their weights, and what they make of each
# text is computed once. The last layer has to be trained: it would be unfair to ask the attention
# weights of a network about a task that they were never adapted to. Everything is done for three
# seeds, so that we explain three networks and not one accident.


# %%
class Reader(nn.Module):
    """MiniLM with a head of three outputs; the head and the layers after `keep` are trained."""

    def __init__(self, keep=FROZEN):
        super().__init__()
        self.keep = keep
        shared = {id(minilm.embeddings): minilm.embeddings}  # never trained: one for all
        self.encoder, self.head = copy.deepcopy(minilm, shared), nn.Linear(384, 3)

    def logits(self, ids, mask, embeddings=None):  # (B, T), (B, T), (B, T, 384)
        given = {"input_ids": ids} if embeddings is None else {"inputs_embeds": embeddings}
        states = self.encoder(**given, attention_mask=mask).last_hidden_state  # (B, T, 384)
        return self.head(mean_piece(states, mask))  # (B, 3)

    def pool(self, x):  # (B, T, 384), what the frozen layers made of the texts
        x = x[:, : int((x != 0).any(2).sum(1).max())]  # padding that no text in the batch needs
        mask = (x != 0).any(2)  # (B, T)
        for layer in self.encoder.encoder.layer[self.keep :]:
            x = layer(x, attention_mask=mask[:, None, None].expand(-1, -1, x.shape[1], -1))
        return mean_piece(x, mask)  # (B, 384)

    def forward(self, x):
        return self.head(self.pool(x))  # (B, 3)


# %%
def train(pieces, labels, seed, keep=FROZEN, num_epochs=2):
    """Return a Reader whose upper part was trained on the frozen layers' output."""
    torch.manual_seed(seed)
    reader, lr = Reader(keep).to(device), ku.pick(laptop=3e-4, full=1e-4)
    parts = (reader.encoder.encoder.layer[keep:], reader.head)
    adamw = torch.optim.AdamW([{"params": part.parameters()} for part in parts], weight_decay=0.01)
    steps = num_epochs * math.ceil(len(pieces) / 32)
    rates = torch.optim.lr_scheduler.OneCycleLR(adamw, [lr, 3e-3], steps, pct_start=0.1)
    tools = {"optimizer": adamw, "schedule": rates, "seed": seed}
    ku.fit(reader, (pieces, labels), num_epochs=num_epochs, batch_size=32, **tools)
    return reader.eval().requires_grad_(False)


@torch.no_grad()
def answers(reader, texts):
    """Return a reader's logits, (N, 3)."""
    logits = torch.empty(len(texts), 3, device=device)
    for rows in groups(texts, 128):
        logits[rows] = reader.logits(*read([texts[i] for i in rows])[:2])
    return logits


# %% tolerance={"ta_right_low": 1.5, "ta_right_high": 1.5}
@torch.no_grad()
def frozen(texts, keep=FROZEN):
    """Return each text's mean piece after every layer, (N, 7, 384), and the pieces' own vectors
    after the frozen layers, (N, 48, 384), with zeros as padding."""
    pooled, pieces = torch.empty(len(texts), 7, 384), torch.zeros(len(texts), 48, 384)
    for rows in groups(texts):
        ids, mask, _ = read([texts[i] for i in rows])
        states = minilm(ids, mask, output_hidden_states=True).hidden_states  # 7 × (B, T, 384)
        pooled[rows] = torch.stack([mean_piece(s, mask) for s in states], 1).cpu()
        pieces[rows, : ids.shape[1]] = (states[keep] * mask[:, :, None]).cpu()
    return pooled, pieces


pooled, pieces = {}, {}
for part in ("train", "test"):
    pooled[part], pieces[part] = frozen(getattr(data, part)[0])
rehearsal = ku.rehearsal_steps() is not None  # few networks, which learn nothing
seeds = range(2 if rehearsal else ku.pick(laptop=3, full=5))
readers = [train(pieces["train"], y["train"], seed) for seed in seeds]
reader = readers[0]  # the one to be explained where one is enough
said = [answers(r, data.test[0]).argmax(1).cpu() for r in readers]
right = [100 * (s == y["test"]).double().mean() for s in said]
ku.glue(ta_right_low=f"{min(right):.0f}", ta_right_high=f"{max(right):.0f}")

# %% [markdown]
# The three networks read {glue:text}`ta_right_low` to {glue:text}`ta_right_high` % of the test
# headlines as their writer did.
#
# ## Integrated gradients, by hand
#
# What shall be explained is one number: how sure the network is of the class $c$ that it named,
# in log-odds, $F = \log\frac{p_c}{1 - p_c}$. Probabilities would do, but they saturate: near 99 %
# nothing seems to matter.
#
# The gradient of $F$ for a piece's embedding $e_i$ says what an infinitely small change would do.
# A word, however, is there or not. **Integrated gradients** {cite}`sundararajan2017ig` walk from a
# baseline $e'$, in which every word is replaced by nothing in particular, to the headline, and add
# up what each piece contributes on the way:
#
# $$A_i = (e_i - e'_i) \cdot \int_0^1 \nabla_{e_i} F\bigl(e' + \alpha (e - e')\bigr)\, d\alpha ,
# \qquad \sum_i A_i = F(e) - F(e') .$$
#
# The second equation, **completeness**, is what sets them apart: the weights add up to what was to
# be explained. The integral becomes a sum over a few points, here those of Gauss and Legendre, and
# the sum tells whether they were enough.


# %%
def log_odds(logits, c):
    """Return the log-odds of class c (B,) against the others, (B,), in nats."""
    rest = logits.scatter(1, c[:, None], -torch.inf).logsumexp(1)
    return logits.gather(1, c[:, None]).squeeze(1) - rest


def gradient(reader, e, mask, c):
    """Return the gradient of the log-odds of c for the embeddings e, (B, T, 384)."""
    e = e.detach().requires_grad_()
    return torch.autograd.grad(log_odds(reader.logits(None, mask, e), c).sum(), e)[0]


def ends(reader, texts, kind="[MASK]"):
    """Return where the way starts, in nothing, and where it ends, (B, T, 384); mask and word."""
    (ids, mask, word), table = read(texts), reader.encoder.get_input_embeddings()
    start = table(ids.masked_fill(word >= 0, tokenizer.convert_tokens_to_ids(kind or "[PAD]")))
    start = start if kind else start.masked_fill((word >= 0)[:, :, None], 0)
    return start, table(ids), mask, word  # [CLS] and [SEP] stay


def integrated(reader, texts, c, kind="[MASK]", points=12):
    """Return the integrated gradients of the words, (B, W)."""
    start, e, mask, word = ends(reader, texts, kind)
    nodes, shares = np.polynomial.legendre.leggauss(points)  # on [-1, 1]
    steps = zip(((nodes + 1) / 2).tolist(), (shares / 2).tolist(), strict=True)
    slope = sum(w * gradient(reader, start + a * (e - start), mask, c) for a, w in steps)
    return by_word(((e - start) * slope).sum(2), word)


# %% [markdown]
# `LayerIntegratedGradients` of Captum {cite}`kokhlikyan2020captum` does the same at the output of
# any layer. We give it the word embeddings, and not `model.embeddings`, the layer after it, which
# also holds positions and a normalization: the two give different weights. Its baseline is made of
# ids, so the zero vector, which no word piece has, is out of its reach; by hand it is not.

# %%
few = data.test[0][: 2 if rehearsal else ku.pick(laptop=8, full=100)]
c, (ids, mask, word) = answers(reader, few).argmax(1), read(few)
score = lambda ids, mask, c: log_odds(reader.logits(ids, mask), c)  # noqa: E731
captum = LayerIntegratedGradients(score, reader.encoder.get_input_embeddings())
masked = ids.masked_fill(word >= 0, tokenizer.mask_token_id)
tools = {"additional_forward_args": (mask, c), "n_steps": 12}
by_captum = by_word(captum.attribute(ids, masked, **tools).sum(2), word)  # (B, W)
unlike = (by_captum - integrated(reader, few, c)).abs().max()
ku.claim("largest difference between our integrated gradients and Captum's", unlike, at_most=1e-4)

# %% tolerance={"ta_missing": 1} mystnb={"image": {"alt": "Three falling lines over 4 to 16 points on logarithmic axes. From [MASK] the share left open falls from about 25 percent to about one, from zeros from 35 to 3, and from [PAD] from more than 100 to about 4."}, "figure": {"caption": "What completeness leaves open, as a share of the change, against the points on the way, for three baselines. The first network, eight test headlines.", "name": "fig-text-attributions-completeness"}}
missing, counts = {}, (4, 8, 12, 16)
for kind in ("[MASK]", "[PAD]", None):
    start, e, mask, _ = ends(reader, few, kind)
    with torch.no_grad():
        change = log_odds(reader.logits(None, mask, e), c)  # (B,) F(e) - F(e')
        change = (change - log_odds(reader.logits(None, mask, start), c)).cpu()
    gaps = [integrated(reader, few, c, kind, points).sum(1) - change for points in counts]
    missing[kind] = [100 * (gap.abs().sum() / change.abs().sum()).item() for gap in gaps]
fig, ax = plt.subplots(figsize=(7, 3))
for kind, values in missing.items():
    ax.plot(counts, values, "o-", label=kind or "zeros")
ax.set(xscale="log", yscale="log", xlabel="points on the way", ylabel="left open (%)")
ax.set_xticks(counts, counts)
ax.minorticks_off()
ku.plots.label_lines(ax)
plt.show()
ku.glue(ta_missing=f"{missing['[MASK]'][counts.index(12)]:.0f}")

# %% [markdown]
# Twelve points from [MASK] leave {glue:text}`ta_missing` % open, and so the page uses twelve. The
# way from [PAD] needs more of them. Completeness says that the sum is right. It does not say that
# the parts are shared out rightly.
#
# ## Showing weights
#
# Word weights are usually shown as a heat map of colors. Some readers cannot tell red from green,
# none can tell 0.31 from 0.36, and a program that reads aloud says nothing at all. So the map
# below is text: under each word stands its share of the total absolute weight in percent, with a
# sign. The underline repeats it: thick from 20 %, thin from 8 %, solid for the class that the
# network names and dashed against it. Color only repeats the sign a third time. The words wrap on
# a narrow screen.
#
# Three headlines of the test part. A word's weight is the sum over its pieces, so completeness
# still holds: the weights of a headline add up to the change of the log-odds.


# %%
def share(weights):
    """Return each word's share of its text's absolute weight, signed: (B, W)."""
    return weights / weights.abs().sum(1, keepdim=True).clamp_min(1e-12)


def one_word(word, n):
    """Return HTML of a word with its share n in percent below it."""
    line, ink = ("dashed", "warn") if n < 0 else ("solid", "accent")
    style = f"border-bottom: {3 if abs(n) >= 20 else 1}px {line} var(--k-{ink}, currentColor)"
    style = f' style="{style}"' if abs(n) >= 8 else ""
    box = "display: inline-block; text-align: center; margin: 0 0.3em 0.3em 0; line-height: 1.5"
    return f'<span style="{box}"><span{style}>{escape(word)}</span><br><small>{n:+d}</small></span>'


def heat(labels, texts, weights, caption):
    """Show the words of each text with their shares of its weight. weights: (B, W)."""
    names, rows = ("the network says", "share of the weight (%)"), ""
    head = "".join(f"<th scope='col'>{name}</th>" for name in names)
    shares = (100 * share(weights)).round().int().tolist()
    for label, text, row in zip(labels, texts, shares, strict=True):
        pairs = list(zip(text.split(), row, strict=False))  # shorter texts end in zeros
        if not ku.plots.in_notebook():
            print(label, *(f"{word} {n:+d}" for word, n in pairs), sep=" | ")
        words = " ".join(one_word(word, n) for word, n in pairs)
        rows += f"<tr><th scope='row'>{escape(label)}</th><td>{words}</td></tr>\n"
    if ku.plots.in_notebook():
        head = f"<caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>"
        display(HTML(f"<table class='karpa-table'>{head}\n<tbody>\n{rows}</tbody></table>"))


# %% tolerance={"share of the weight (%)": 2}
starts = ("Reinsurer's quarterly", "Warning lifted", "Brick kilns go")
three = [t for t in data.test[0] if t.startswith(starts)]
c = answers(reader, three).argmax(1)
weights = integrated(reader, three, c)
names = [data.classes[k] for k in c.tolist()]
heat(names, three, weights, "Integrated gradients from [MASK]")

# %% [markdown]
# The first headline is read wrongly, and the weights say how: "profit" and "quarterly" were taken
# for good news, "wiped" speaks against it and too weakly. In the second, "lifted:" and "peak" lead,
# and "Warning" counts for little. In the third, "cold" is the reason, but "kilns" is said to be bad
# news more than "go". For each of these one can find a story, and that is the trouble: so one could
# for other weights. From here on we measure.
#
# ## Words that are known to decide
#
# Are these weights right? Nobody can say for a headline from the data: what decided there is what
# we want to find out. So we write sentences in which it is known. Each sentence has one pair of
# **evidence** words, written `raises/slashes`, and one pair of **idle** words, written
# `Dairy|Brewery`. Exchanging the evidence should turn the class, exchanging the idle word should
# not. Some evidence runs against the grain ("Costs fall"), and some idle words are loaded
# ("Disaster software sells well").
#
# What should happen is only our opinion. Whether it does is an experiment, and each network gets
# all four versions of each sentence. A sentence is used with a network only if that network names
# the same class for both idle words, and another class after the exchange of the evidence. Then it
# is known, for this network and not for a person, that the exchange of this word turns the decision
# and the exchange of that one does not. (Of the other words nothing is known. And sentences in
# which networks are hard to turn drop out.) The idea of planting what an explanation has to find is
# old in vision and has been brought to text as planted shortcuts {cite}`bastings2022shortcuts`.

# %%
FRAMES = """
Dairy|Brewery group raises/slashes its dividend; Orders at turbine|elevator maker surge/plunge in
March; Danish|Dutch ferry line swings to a profit/loss; Judges dismiss/uphold patent claim against
stent|lens maker; Agency upgrades/downgrades bonds of port|canal operator; Sales of garden|bathroom
chain beat/miss forecasts; Bank wins/loses its largest Polish|Swiss client; Drug trial
succeeds/fails, Oslo|Zurich biotech says; Shares of cement|timber supplier rally/tumble after board
meeting; Island|Mountain airport reports record high/low traffic; Strong/Weak demand for
forklifts|tractors shows in half-year figures; Cruise|Bus line's margins widen/shrink for third
quarter; Regulator clears/blocks merger of regional|rural clinics; Frost spares/ruins the
cherry|almond harvest; Software|Furniture house lifts/cuts profit guidance; Reviewers praise/pan
new sensor|modem of chip designer; Costs at copper|nickel mine fall/soar; Debts of cinema|circus
owner shrink/balloon; Insurer's hail|flood claims come in below/above estimates; Battery|Paint
start-up secures/loses its main backer; Output in Bavaria|Catalonia expands/contracts again;
Airline's summer|winter bookings look bright/bleak; Court ruling is a victory/defeat for
salmon|trout farmers; Bid for zinc|tin smelter succeeds/collapses; Mattress|Carpet seller
exits/enters bankruptcy; Investors embrace/shun shares of vaccine|insulin maker; Bad loans
decline/mount at mortgage|student lender; Hotel group's recovery accelerates/stalls in June|May;
Outlook for paper|steel mills improves/worsens; Pump|Valve maker's earnings climb/slide; Analysts
turn optimistic/pessimistic on toy|game publisher; Takeover offer delights/angers owners of
lock|clock maker; Revenue doubles/halves at drone|scooter rental firm; Crisis|Holiday hotline
operator's profit grows/drops; Disaster|Weather software sells well/poorly; Funeral|Wedding
planner's income jumps/sinks"""
frames = [" ".join(frame.split()) for frame in FRAMES.split(";")][: 4 if rehearsal else None]


# %% tolerance={"ta_kept": 2}
def variant(frame, evidence=0, idle=0):
    """Return a frame's sentence with one word of each pair."""
    pairs = [w.split("/")[evidence] if "/" in w else w for w in frame.split()]
    return " ".join(w.split("|")[idle] if "|" in w else w for w in pairs)


four = [variant(f, evidence, idle) for f in frames for evidence in (0, 1) for idle in (0, 1)]


def obeys(reader):
    """Return for which sentences only the evidence turns the reader's answer, (F,)."""
    named = answers(reader, four).argmax(1).cpu().view(-1, 2, 2)  # (F, evidence, idle)
    turned = (named[:, 0] != named[:, 1]).all(1)
    return turned & (named[..., 0] == named[..., 1]).all(1) | rehearsal


known = torch.stack([obeys(network) for network in readers])  # (S, F)
planted = [variant(frame, evidence) for frame in frames for evidence in (0, 1)]
places = [next(i for i, w in enumerate(f.split()) if "/" in w) for f in frames for _ in (0, 1)]
evidence = torch.tensor(places)[:, None]  # (B, 1)
places = [next(i for i, w in enumerate(f.split()) if "|" in w) for f in frames for _ in (0, 1)]
idle = torch.tensor(places)[:, None]  # (B, 1)
chance = 100 * sum(1 / len(text.split()) for text in planted) / len(planted)
ku.glue(ta_frames=len(frames), ta_kept=", ".join(map(str, known.sum(1).tolist())))
ku.glue(ta_chance=f"{chance:.0f}")

# %% [markdown]
# Of {glue:text}`ta_frames` sentences {glue:text}`ta_kept` pass with the three networks. They give
# two texts each. Equal weights would put {glue:text}`ta_chance` % on the evidence.
#
# ## Eight ways to weigh a word
#
# **Three from gradients.** Integrated gradients; the gradient at the text itself, times the
# embedding; and the gradient's length, which has no sign.
#
# **Two from attention.** The last layer's attention: how much of its value each piece hands to the
# others, averaged over the heads and over all pieces that receive, since the head reads their mean;
# and **rollout** {cite}`abnar2020flow`, which follows the attention through all layers by
# multiplying the matrices $(A_l + I) / 2$, where $I$ stands for the residual connections. In both,
# what goes to [CLS] and [SEP] is dropped, which is in attention's favor.
#
# **One by intervention.** Leave a word out and see how far the log-odds fall.
#
# **Two that cannot know.** The word list from above, and random numbers.
#
# They differ in price: attention comes with the answer, a gradient costs one backward pass,
# integrated gradients twelve, leaving words out one forward pass a word.
#
# Attention has no sign and no unit, so we compare absolute weights, as shares of their sum in a
# text. "Weight on it" is the share of the evidence and rewards methods that concentrate; "it comes
# first" asks for the order alone. A method may win by one and lose by the other, so both are
# shown.
#
# The control is the same methods on the same architecture with **all weights drawn anew**, one such
# network for each trained one, asked about the same class of the same sentences. Such a network has
# no reason to find any word. What a method still finds there is the sentence's doing.


# %%
CHANCE = torch.Generator().manual_seed(0)
IG, ATTENTION, LEFT_OUT = "integrated gradients", "last attention", "leave one out"


def attention(reader, texts):
    """Return the attention that words receive: in the last layer and by rollout, (B, W) each."""
    ids, mask, word = read(texts)
    reader.encoder.set_attn_implementation("eager")  # the fast kernel does not keep the weights
    with torch.no_grad():
        layers = reader.encoder(ids, mask, output_attentions=True).attentions
    reader.encoder.set_attn_implementation("sdpa")
    A = torch.stack(layers).mean(2)  # (6, B, T, T), mean over heads; rows ask, columns answer
    stay = torch.eye(A.shape[-1], device=device)
    flow = stay
    for layer in A:
        flow = (layer + stay) / 2 @ flow  # (B, T, T)
    asks = mask[:, None] / mask.sum(1)[:, None, None]  # (B, 1, T): the mean over the pieces
    return [by_word((asks @ a)[:, 0], word) for a in (A[-1], flow)]


def leave_out(reader, texts, c):
    """Return by how much the log-odds of c fall when each word is left out, (B, W)."""
    split = [text.split() for text in texts]
    shorter = [" ".join(w[:i] + w[i + 1 :]) for w in split for i in range(len(w))]
    row = torch.tensor([r for r, w in enumerate(split) for _ in w], device=device)
    before = log_odds(answers(reader, texts), c)[row]
    fall = before - log_odds(answers(reader, shorter), c[row])  # one number a word
    parts = fall.cpu().split([len(w) for w in split])
    return nn.utils.rnn.pad_sequence(parts, batch_first=True)


# %%
def explain(reader, texts, c):
    """Return the weights of words by each method, {method: (B, W)}; zeros after the last word."""
    _, e, mask, word = ends(reader, texts)
    slope = gradient(reader, e, mask, c)  # (B, T, 384)
    weights = {"integrated gradients": integrated(reader, texts, c)}
    weights["gradient × embedding"] = by_word((slope * e).sum(2), word)
    weights["gradient's length"] = by_word(slope.norm(dim=2), word)
    weights["last attention"], weights["attention rollout"] = attention(reader, texts)
    weights["leave one out"] = leave_out(reader, texts, c)
    weights["word list"] = word_list(texts, c.cpu())
    drawn = torch.rand(weights["word list"].shape, generator=CHANCE)
    weights["random"] = drawn * (weights["last attention"] > 0)
    return weights


def on_word(weights, place):
    """Return the share of absolute weight on one word of each text, (B, 1), and whether no other
    word has as much: (2, B), %."""
    size = share(weights).abs()
    mine = size.gather(1, place)  # (B, 1)
    return 100 * torch.stack([mine[:, 0], ((size >= mine).sum(1) == 1).float()])


def interval(values):
    """Return (mean, low, high), 95 %, of values (S, N): networks and texts drawn again."""
    draw, (S, N) = torch.Generator().manual_seed(0), values.shape
    rows = torch.randint(S, (1000, S, 1), generator=draw)
    texts = torch.randint(N, (1000, 1, N), generator=draw)
    means = values[rows, texts].flatten(1).nanmean(1)  # (1000,)
    return values.nanmean().item(), *means.quantile(torch.tensor([0.025, 0.975])).tolist()


# %%
def blank(seed):
    """Return a Reader with random weights, in which nothing was learned."""
    torch.manual_seed(seed)
    other = Reader()
    other.encoder = BertModel(minilm.config, add_pooling_layer=False)
    return other.to(device).eval().requires_grad_(False)


def renewed(network, draw):
    """Return a copy of a network with a head drawn anew."""
    torch.manual_seed(100 + draw)  # not a training seed: it would give the head's own start back
    other = copy.deepcopy(network)
    other.head.reset_parameters()
    return other


def scored(weights, known, place=evidence):
    """Return {method: (2, F)}: means of a sentence's two texts, NaN where nothing is known."""
    pairs = {m: on_word(w, place).unflatten(1, (-1, 2)).mean(2) for m, w in weights.items()}
    return {method: values.masked_fill(~known, math.nan) for method, values in pairs.items()}


maps, scores = {}, {}  # kind -> one dictionary a network; kind -> method -> (S, 2, F)
named = [answers(network, planted).argmax(1) for network in readers]
kinds = {"trained": readers, "random weights": [blank(100 + seed) for seed in seeds]}
for kind, networks in kinds.items():
    maps[kind] = [explain(n, planted, c) for n, c in zip(networks, named, strict=True)]
    each = [scored(*pair) for pair in zip(maps[kind], known, strict=True)]
    scores[kind] = {method: torch.stack([one[method] for one in each]) for method in each[0]}
METHODS = list(scores["trained"])

# %% tolerance={"ta_ig": 3, "ta_attention": 2, "ta_lead": 3, "ta_lead_random": 3, "ta_list": 3, "ta_loo": 3, "ta_first_ig": 6, "ta_first_attention": 6, "ta_first_list": 6, "ta_first_loo": 6, "ta_lead_first": 7, "ta_length": 3, "ta_first_length": 6, "ta_idle": 2} mystnb={"image": {"alt": "Two panels with a dot and an interval for each of eight methods. Left, weight on the deciding word: leave one out lies at about 55 percent, integrated gradients at 45, the other gradient methods and the word list between 30 and 35, last attention at 25, rollout and random on the dashed line of equal weights at 18. Right, how often the word comes first: the gradient's length, leave one out, integrated gradients and last attention lie between 65 and 90 percent, rollout at 30. Diamonds for random weights lie near the dashed line; the one of the word list lies on its dot."}, "figure": {"caption": "Dots: share of the absolute weight on the word that decides (left), and how often that word has the largest weight (right); three networks, sentences that passed the experiment, 95 % intervals. Diamonds: the same sentences, three networks with random weights. Dashed: equal weights, and a word at random.", "name": "fig-text-attributions-evidence"}}
teal, rust = ku.plots.PALETTE["teal"], ku.plots.PALETTE["rust"]
fig, axes = plt.subplots(1, 2, figsize=(7, 3.6), sharey=True)
titles = ("weight on the word", "it comes first"), ("share of the weight (%)", "texts (%)")
for k, (ax, title, xlabel) in enumerate(zip(axes, *titles, strict=True)):
    for at, method in enumerate(reversed(METHODS)):
        mean, low, high = interval(scores["trained"][method][:, k])
        ax.plot([low, high], [at, at], color=teal)
        ax.plot(mean, at, "o", color=teal)
        ax.plot(scores["random weights"][method][:, k].nanmean(), at, "D", mfc="white", mec=rust)
    ax.axvline(chance, color="black", linestyle="--", linewidth=1)
    ax.set(title=title, xlabel=xlabel, xlim=(0, 100), yticks=range(len(METHODS)))
axes[0].set_yticklabels(reversed(METHODS))
plt.show()
mean = {method: values[:, 0].nanmean().item() for method, values in scores["trained"].items()}
best, second = (max(part, key=mean.get) for part in (METHODS[:3], METHODS[3:5]))
apart = {kind: part[best] - part[second] for kind, part in scores.items()}  # (S, 2, F)
lead = {kind: interval(values[:, 0]) for kind, values in apart.items()}
leads = {"lead": lead["trained"], "lead_random": lead["random weights"]}
for name, values in (leads | {"lead_first": interval(apart["trained"][:, 1])}).items():
    ku.glue(**{f"ta_{name}": "{:.0f} ({:.0f} to {:.0f})".format(*values)})
keys = {"ig": IG, "attention": ATTENTION, "list": "word list", "loo": LEFT_OUT}
for key, method in (keys | {"length": "gradient's length"}).items():
    weight, comes_first = scores["trained"][method].nanmean((0, 2)).tolist()
    ku.glue(**{f"ta_{key}": f"{weight:.0f}", f"ta_first_{key}": f"{comes_first:.0f}"})
by_idle = [scored(maps["trained"][s], known[s], idle)[IG][0] for s in seeds]
ku.glue(ta_idle=f"{torch.stack(by_idle).nanmean():.0f}")
# %% [markdown]
# **Most methods find the word.** Integrated gradients put {glue:text}`ta_ig` % of their weight on
# it and leaving words out {glue:text}`ta_loo` %, where equal weights would put
# {glue:text}`ta_chance` %; on the idle word, whose exchange turns nothing, integrated gradients put
# {glue:text}`ta_idle` %. On random weights every share that comes from the network lies at the
# dashed line. So what they find, they find because of the training.
#
# **Attention finds it less, by weight.** Before the first run we wrote down that the best gradient
# method would lead the better attention map by at least ten points. It leads by
# {glue:text}`ta_lead`; the same two methods on random weights differ by
# {glue:text}`ta_lead_random`. (In that first run, with more layers trained, the bound was missed;
# we come to that below.) **By order it hardly does.** The largest attention falls on the deciding
# word in {glue:text}`ta_first_attention` % of the texts, the largest integrated gradient in
# {glue:text}`ta_first_ig` %, a difference of {glue:text}`ta_lead_first`. The best by this measure is
# the plainest, the gradient's length, with {glue:text}`ta_first_length` %. Attention is spread more
# evenly, but its order is not bad. Rollout puts no more weight on the word than equal weights
# would. It mixes all heads of six layers, five of which were not trained for the task.
#
# **The word list, which never asks the network, puts {glue:text}`ta_list` % on it.** So much can be
# had by sounding plausible. Its diamond lies on its dot, as it must: it looks at the sentence and
# the class, never at a network.
#
# ## Is it about the decision at all?
#
# A known check of explanations {cite}`adebayo2018`: take the trained networks and draw only their
# **heads** anew, the last 1,155 numbers. Their decisions are then arbitrary. An explanation of the
# decision has to change; attention cannot, because it is computed before the head is asked. For the
# same reason it is the same for each class. We correlate each method's weights with those of the
# trained network, over the words of each sentence (Spearman's ρ of the absolute weights).


# %% tolerance={"ta_head_ig": 0.11, "ta_head_range": 0.2, "integrated gradients": 0.11, "leave one out": 0.11, "last attention": 0.11}
def alike(a, b, texts):
    """Return the mean over texts of the rank correlation of absolute weights, a, b: (B, W)."""
    lengths = [len(text.split()) for text in texts]
    pairs = zip(a.abs(), b.abs(), lengths, strict=True)
    return np.mean([spearmanr(x[:n], y[:n]).statistic for x, y, n in pairs])


after = {}  # (step, method) -> correlations
DRAWS = 1 if rehearsal else 4  # new heads for each network
for s, network in enumerate(readers):
    rows = known[s].repeat_interleave(2).nonzero().flatten()[:20]  # ten sentences, both versions
    texts, old = [planted[i] for i in rows], {m: w[rows] for m, w in maps["trained"][s].items()}
    steps = {"the head": [renewed(network, 10 * s + draw) for draw in range(DRAWS)]}
    steps["the head, last layer as pretrained"] = [renewed(Reader().to(device).eval(), 10 * s)]
    steps["all layers"] = [blank(100 + s)]
    for step, other in ((step, other) for step, others in steps.items() for other in others):
        c = answers(other, texts).argmax(1)
        new = {IG: integrated(other, texts, c), LEFT_OUT: leave_out(other, texts, c)}
        new[ATTENTION] = attention(other, texts)[0]
        for method, weights in new.items():
            after.setdefault((step, method), []).append(alike(weights, old[method], texts))
columns = {"drawn anew": list(steps)}
for method in new:
    columns[method] = [f"{np.mean(after[step, method]):.1f}" for step in steps]
ku.table(columns, caption="Rank correlation of weights with those of the trained networks")
heads = after["the head", IG]
ku.glue(ta_head_ig=f"{np.mean(heads):.1f}", ta_head_range=f"{min(heads):.1f} to {max(heads):.1f}")

# %% [markdown]
# For integrated gradients we had expected a correlation of at most 0.5 once the head is gone. It is
# {glue:text}`ta_head_ig` (twelve heads: {glue:text}`ta_head_range`). Leaving words out, a plain
# intervention, changes as much. Attention does not change at all. It shows what the layers below
# make ready for any question, not how this one was answered. And it has no sign: a word against the
# class looks like one for it. Whether attention is an explanation has been argued at length
# {cite}`jain2019attention,wiegreffe2019attention`; of *this decision* it cannot be the whole of
# one.
#
# That it is not zero may come from the vectors that the head reads. Training has turned them
# towards three classes: two directions hold {glue:text}`ta_two_after` % of their variance in the
# last network, where it was {glue:text}`ta_two_before` % before. Any head reads much of these two,
# with other signs, so partly the same words matter.
#
# (A trap that caught this page in a draft: heads drawn with the seeds of the training are the very
# heads from which the training started. They have learned nothing, and still resemble what became
# of them: the correlation was 0.8. What a control is made of must be independent of what it
# controls.)
#
# The result on attention has a condition that one would hope it did not have: how much was trained.
# So here is one more network, in which two layers are trained instead of one.

# %% tolerance={"integrated gradients (%)": 5, "last attention (%)": 5, "ρ after a new head": 0.11, "sentences": 3, "right (%)": 1.5, "ta_lead_deep": 1.3}
OTHER = ku.pick(laptop=4, full=5)  # another number of frozen layers
deep = train(frozen(data.train[0], OTHER)[1], y["train"], 0, OTHER)
c, ok = answers(deep, planted).argmax(1), obeys(deep)
found = {IG: integrated(deep, planted, c), ATTENTION: attention(deep, planted)[0]}
rows = ok.repeat_interleave(2).nonzero().flatten()[:20]
texts = [planted[i] for i in rows]
others = [renewed(deep, draw) for draw in range(DRAWS)]
new = [integrated(other, texts, answers(other, texts).argmax(1)) for other in others]
rho = [np.mean(heads), np.mean([alike(weights, found[IG][rows], texts) for weights in new])]
score = 100 * (answers(deep, data.test[0]).argmax(1).cpu() == y["test"]).double().mean()
columns = {"layers trained": [f"{6 - FROZEN}, {len(readers)} networks", f"{6 - OTHER}, one"]}
columns["right (%)"] = [f"{value:.0f}" for value in (sum(right) / len(right), score)]
columns["sentences"] = [f"{float(n):.0f}" for n in (known.sum(1).double().mean(), ok.sum())]
scores_deep = scored(found, ok)
for method, weights in scores_deep.items():
    means = scores["trained"][method][:, 0].nanmean(), weights[0].nanmean()
    columns[f"{method} (%)"] = [f"{value:.0f}" for value in means]
lead_deep = interval((scores_deep[IG] - scores_deep[ATTENTION])[:1])
columns["ρ after a new head"] = [f"{value:.1f}" for value in rho]
ku.table(columns, caption="Weight on the evidence, and the head test, at two depths of training")
ku.glue(ta_lead_deep="{:.0f} ({:.0f} to {:.0f})".format(*lead_deep))

# %% [markdown]
# With two layers trained the network is right more often, and attention puts far more of its weight
# on the evidence. Integrated gradients lead it by {glue:text}`ta_lead_deep` points, fewer than the
# ten that we had predicted. (The interval is over sentences; it is one network, for time. Two more,
# trained like it in the first run, agreed.) The test of the heads comes out as before. So the lead
# over attention is no law. How well a method finds the evidence depends on how the network was
# trained: test the explanation on the network that you have.
#
# ## On real headlines
#
# In the test headlines nobody planted anything. What can still be measured is whether an
# explanation is true to the network: take out the words in the order of their weight, those that
# speak most for the class first, and see how far the probability of the class falls. This is
# **comprehensiveness** {cite}`deyoung2020eraser`. Each network gets {glue:text}`ta_each` headlines
# of its own. Leave one out should win at the first word, for that is what it measured.


# %%
def without(text, weights, n):
    """Return the text without the n words of the largest weights (W,)."""
    words = text.split()
    gone = weights[: len(words)].argsort(descending=True)[:n].tolist()
    return " ".join(word for i, word in enumerate(words) if i not in gone)


def probability(reader, texts, c):
    """Return the probability of class c (B,) in %, (B,)."""
    return 100 * answers(reader, texts).softmax(1).gather(1, c[:, None])[:, 0].cpu()


# %% tolerance={"ta_fall_lead": 3} mystnb={"image": {"alt": "Six rising lines over 0 to 3 words taken out. Leave one out rises highest, to about 47 points, then integrated gradients to 41, the same without sign to 34, the word list to 27, last attention to 14 and random to 9. At one word integrated gradients with and without sign coincide."}, "figure": {"caption": "By how many points the probability of the named class falls when words are taken out, those that weigh most for it first. Mean over the test headlines of three networks.", "name": "fig-text-attributions-deletion"}}
EACH = 4 if rehearsal else ku.pick(laptop=40, full=100)  # headlines a network explains
order = torch.randperm(len(data.test[0]), generator=torch.Generator().manual_seed(0))
rows = order[: EACH * len(readers)].split(EACH)
held = [[data.test[0][i] for i in part.tolist()] for part in rows]
ku.glue(ta_each=EACH, ta_held=EACH * len(readers))
shown = ("leave one out", IG, "without sign", "last attention", "word list", "random")
falls, weighed = {method: torch.zeros(3, len(readers), EACH) for method in shown}, []
for s, (network, texts) in enumerate(zip(readers, held, strict=True)):
    c = answers(network, texts).argmax(1)
    weighed.append(explain(network, texts, c))
    weighed[s]["without sign"] = weighed[s]["integrated gradients"].abs()
    whole = probability(network, texts, c)
    for method, n in itertools.product(shown, (1, 2, 3)):
        pairs = zip(texts, weighed[s][method], strict=True)
        rest = probability(network, [without(text, w, n) for text, w in pairs], c)
        falls[method][n - 1, s] = whole - rest
fig, ax = plt.subplots(figsize=(7, 3.8))
for method in shown:
    ax.plot(range(4), [0, *falls[method].mean((1, 2))], "o-", label=method)
ax.set(xlabel="words taken out", ylabel="fall of the probability (points)", xticks=range(4))
ku.plots.label_lines(ax)
plt.show()
fall = {method: values.mean(0) for method, values in falls.items()}  # (S, B), mean of 1 to 3 words
fall_lead, blind = (interval(fall[m] - fall["last attention"]) for m in (IG, "random"))
ku.glue(ta_fall_lead="{:.0f} ({:.0f} to {:.0f})".format(*fall_lead))

# %% [markdown]
# Integrated gradients come next after leaving words out, and lead attention by
# {glue:text}`ta_fall_lead` points (mean of one to three words). Attention, in these networks, is
# little better than words at random, and worse than a list that never asks the network. Is that for
# want of a sign? Some words speak against the class, and taking them out makes the network surer.
# The line "without sign" tests it: integrated gradients whose signs were dropped lose nothing at
# the first word and some points by the third. So the sign explains a part of the lead, and the
# smaller one. (A comparison of six methods on three larger tasks, without attention among them,
# found methods that use gradients ahead on average {cite}`atanasova2020diagnostic`.)
#
# ## The smallest change that flips the decision
#
# A weight is a summary. A **counterfactual** is a fact: this other headline, one word away, gets
# another class {cite}`ross2021mice`. We search for the smallest change. An **edit** leaves a word
# out, or exchanges it for one of eight words that fit in many places. All single edits are tried;
# if none flips the decision, the two that came closest are edited once more, and so on, up to three
# edits (a beam search). For this list of edits, one and two are therefore exact minima; three is an
# upper bound.
#
# How much of this is the search, and how much would any change do? One control makes edits of the
# same kinds **at random**, ten chains of three for each headline. Some of those flip a decision
# rightly: who takes out "record" or puts in "not" may change what the headline means. So there is a
# second control: **idle** words at the end, such as "this week", which should change nothing.


# %%
SWAPS = ("not", "no", "record", "despite", "after", "plans", "rises", "falls")
IDLE = ("this week", "on Tuesday", "company says", "in a statement")


def edits(text, swaps=SWAPS):
    """Return all texts that are one edit away, never an empty one."""
    words, fresh = text.split(), [[], *([word] for word in swaps)]
    found = [[*words[:i], *new, *words[i + 1 :]] for i in range(len(words)) for new in fresh]
    return [" ".join(new) for new in found if new and new != words]


def margin(reader, texts, c):
    """Return by how much class c leads the best other one, in logits, (N,); negative: flipped."""
    logits = answers(reader, texts)
    others = logits.index_fill(1, torch.tensor([c], device=device), -torch.inf)
    return (logits[:, c] - others.amax(1)).cpu()


def flip(reader, text, beam=2, depth=3):
    """Return [text, edited once, …], the last of another class, or None if none was found."""
    c, paths = int(answers(reader, [text]).argmax()), [[text]]
    for _ in range(depth):
        paths = [[*path, new] for path in paths for new in edits(path[-1])]
        margins = margin(reader, [path[-1] for path in paths], c)
        paths = [paths[i] for i in margins.argsort()[:beam].tolist()]
        if margins.min() < 0:
            return paths[0]
    return None


# %% tolerance={"searched (%)": 7, "at random (%)": 4, "ta_random_two": 4, "ta_neutral": 0.9}
tried = 1 if rehearsal else ku.pick(laptop=10, full=40)  # headlines a network
needed, chance_flips, rng = [], [], random.Random(0)
for network, texts in zip(readers, held, strict=True):
    for text in texts[:tried]:
        path = flip(network, text)
        needed.append(len(path) - 1 if path else math.inf)
        chains = [[text] for _ in range(10)]
        for chain in chains:
            for _ in range(3):
                chain.append(rng.choice(edits(chain[-1])))
        drawn = [new for chain in chains for new in chain[1:]]
        flipped = margin(network, drawn, int(answers(network, [text]).argmax())) < 0
        chance_flips.append(flipped.view(10, 3).cummax(1).values.float().mean(0))  # (3,)
by_search = [100 * np.mean([n <= k for n in needed]) for k in (1, 2, 3)]
by_chance = (100 * torch.stack(chance_flips).mean(0)).tolist()
columns = {"edits, at most": [1, 2, 3]}
columns["searched (%)"] = [f"{value:.0f}" for value in by_search]
columns["at random (%)"] = [f"{value:.0f}" for value in by_chance]
ku.table(columns, caption=f"Headlines whose decision flips, of {len(needed)}")
idly = []  # for each network: did an idle end flip a headline?
for network, texts in zip(readers, held, strict=True):
    c = answers(network, texts).argmax(1)
    for end in IDLE:
        idly.append(answers(network, [f"{text} {end}" for text in texts]).argmax(1) != c)
neutral = 100 * torch.stack(idly).double().mean().item()
ku.glue(ta_random_two=f"{by_chance[1]:.0f}", ta_neutral=f"{neutral:.1f}")

# %% [markdown]
# The search finds a single edit for most headlines. But look at the controls. We had predicted that
# two edits at random would flip at most 30 % of the decisions; they flip
# {glue:text}`ta_random_two` %, too close to say. Idle endings flip {glue:text}`ta_neutral` %, and
# each of these is an accident. So some of what a search finds will be one, too. The first table
# below shows four edits that the search came up with in a trial run, picked by us because they flip
# all three networks. The first, a person would understand. With the second, Ethiopia still
# defaults. The third is nonsense: no company falls there, but "falls" stands in the sentence. The
# fourth flips a wrong decision into the right one by putting "rises" where it means nothing. A
# counterfactual is true of the network, always. Whether it is a reason that anybody could accept is
# another question, and the search does not ask it.
#
# Do the weights of a headline tell which word to touch? Leaving out one word flips some headlines.
# For these (second table): how often is the word that weighs most, by each method, one that flips?

# %%
EXCHANGED = {
    "Peruvian copper output up sharply after new mine opens": ("up", "falls"),
    "Ethiopia misses bond payment, becomes latest African nation to default": ("misses", "plans"),
    "Factoring house recovers the full sum on forged invoices": ("house", "falls"),
    "Debt collector collects more than ever at less expense": ("less", "rises"),
}


def verdicts(texts):
    """Return what the networks call each text."""
    named = [answers(network, texts).argmax(1).tolist() for network in readers]
    return [", ".join(data.classes[k] for k in row) for row in zip(*named, strict=True)]


columns = {"headline": EXCHANGED, "exchanged": [" → ".join(p) for p in EXCHANGED.values()]}
columns["before"] = verdicts(list(EXCHANGED))
pairs = [(text.split(), *pair) for text, pair in EXCHANGED.items()]
columns["after"] = verdicts([" ".join(b if w == a else w for w in ws) for ws, a, b in pairs])
ku.table(columns, caption="Four of the edits that the search found")

# %% tolerance={"names a word that flips (%)": 6, "ta_flippable": 5, "ta_hit_ig": 6, "ta_hit_attention": 6, "ta_hit_any": 2}
TIMES = "gradient × embedding"
hits = {m: [] for m in (IG, TIMES, *METHODS[2:4], LEFT_OUT, "word list")}
hits |= {f"{m}, without sign": [] for m in (IG, TIMES)} | {"any word": []}
for network, texts, weights in zip(readers, held, weighed, strict=True):
    weights |= {f"{m}, without sign": weights[m].abs() for m in (IG, TIMES)}
    c, shorter = answers(network, texts).argmax(1).tolist(), [edits(text, ()) for text in texts]
    now = answers(network, [new for part in shorter for new in part]).argmax(1).cpu()
    for row, classes in enumerate(now.split([len(part) for part in shorter])):
        flipped = (classes != c[row]).double()  # (W,), one for each word left out
        if flipped.any():
            hits["any word"].append(flipped.mean().item())
            for method in list(hits)[:-1]:
                hits[method].append(flipped[weights[method][row, : len(flipped)].argmax()].item())
columns = {"method": list(hits)}
columns["names a word that flips (%)"] = [f"{100 * np.mean(h):.0f}" for h in hits.values()]
ku.table(columns, caption="Headlines that the loss of one word flips")
ku.glue(ta_flippable=len(hits["any word"]), ta_hit_any=columns["names a word that flips (%)"][-1])
for key, method in {"ig": IG, "attention": ATTENTION}.items():
    low, high = binomtest(round(sum(hits[method])), len(hits[method])).proportion_ci(
        method="wilson"
    )
    shown = f"{100 * np.mean(hits[method]):.0f} ({100 * low:.0f} to {100 * high:.0f})"
    ku.glue(**{f"ta_hit_{key}": shown})
hit_lead = 100 * (np.mean(hits[IG]) - np.mean(hits[ATTENTION]))

# %% [markdown]
# Of {glue:text}`ta_held` headlines {glue:text}`ta_flippable` lose their class with one word.
# Leaving one out finds the word almost by definition. Integrated gradients name one in
# {glue:text}`ta_hit_ig` % of the cases, attention in {glue:text}`ta_hit_attention` %, and a word at
# random would be one in {glue:text}`ta_hit_any` %. That is the best answer this page has to its
# question: where a single word can change the decision, integrated gradients usually name one that
# does. Not every method that uses gradients does so. The gradient times the embedding is worse than
# a random word as long as its sign is believed: one gradient, at the text itself, gets many signs
# wrong.
#
# ## What a probe can tell, and what not
#
# A **probe** is a classifier on the vectors inside a network {cite}`alain2017probes`. If it reads a
# property there, the property is in the vectors. That is all it says. Three things do not follow,
# and each gets its test.
#
# *That the layers have made the property.* It may have been in the words. So the probe is asked at
# each layer, from the embeddings on.
#
# *That it is more than memory.* A probe with 385 numbers can learn by heart. So it gets a **control
# task** {cite}`hewitt2019control`: each first word is thrown a coin, and the probe has to tell the
# coin. Nothing in the language goes with it, so whatever it reads, it reads because words can be
# told apart. We throw ten sets of coins. (Test headlines whose first word is new are left out.)
#
# *That the network uses the property.* That takes an intervention, further down.
#
# The probe is ridge regression on the mean vector of each layer of the pretrained MiniLM, which
# never saw our labels.

# %% mystnb={"image": {"alt": "Four lines over the layers 0 to 6. Sentiment stays between 39 and 46 points above guessing. Longer than 9 words starts at 35 and falls to 18 at layer 6; has a comma falls from 27 to 2. A gray band around a dashed line, for the coin of the first word, stays near 5."}, "figure": {"caption": "Linear probes on the mean vector after each layer of the pretrained MiniLM: points of test accuracy above always giving the most frequent answer, whose accuracy in % stands in brackets. Layer 0: embeddings. Gray: mean and range of ten sets of coins.", "name": "fig-text-attributions-probes"}}
texts, rng = {part: getattr(data, part)[0] for part in y}, random.Random(0)


def label(ask):
    return {part: torch.tensor([int(ask(text)) for text in texts[part]]) for part in texts}


def probed(X, X_test, truth):
    """Return by how many points a linear probe on X (N, 384) beats the most frequent answer."""
    known = truth["test"] >= 0
    probe = make_pipeline(StandardScaler(), RidgeClassifier(alpha=100)).fit(X, truth["train"])
    right = probe.score(X_test[known], truth["test"][known])
    return 100 * (right - truth["test"][known].bincount().max().item() / known.sum().item())


def by_layer(truth):
    return [probed(*(pooled[part][:, k] for part in ("train", "test")), truth) for k in range(7)]


labels = {"sentiment": y, "has a comma": label(lambda text: "," in text)}
labels["longer than 9 words"] = label(lambda text: len(text.split()) > 9)
above = {name: by_layer(truth) for name, truth in labels.items()}
sets = [{t.split()[0].lower(): rng.randrange(2) for t in texts["train"]} for _ in range(10)]
coins = [by_layer(label(lambda t, c=coin: c.get(t.split()[0].lower(), -1))) for coin in sets]
fig, ax = plt.subplots(figsize=(7, 3.6))
for name, values in above.items():
    guess = 100 * labels[name]["test"].bincount().max() / len(texts["test"])
    ax.plot(range(7), values, "o-", label=f"{name} ({guess:.0f})")
ax.plot(range(7), np.mean(coins, 0), "--", color="gray", label="coin of the first word")
ax.fill_between(range(7), np.min(coins, 0), np.max(coins, 0), color="gray", alpha=0.25)
ax.set(xlabel="layer", ylabel="points above guessing")
ku.plots.label_lines(ax)
plt.show()
by_embeddings, at_most = above["sentiment"][0], max(above["sentiment"])
ku.glue(ta_words_read=f"{by_embeddings:.0f}", ta_layers_add=f"{at_most - by_embeddings:.0f}")

# %% [markdown]
# Sentiment can be read from MiniLM by a linear probe before anybody has trained it on sentiment,
# and most of it from the embeddings (layer 0), where every word still stands for itself:
# {glue:text}`ta_words_read` points, to which the layers add at most {glue:text}`ta_layers_add`.
# Length and commas can be read too, less and less towards the top, where the vectors were trained
# to say what a text is about. The coin can hardly be told, so most of these lines are not memory;
# the comma at the last layer does not rise above it. With a more flexible probe the dashed line
# rises, and the others would have to be measured from there.
#
# **Is it used?** Take the property away and see whether the decisions change
# {cite}`elazar2021amnesic`. We erase it from the vector $v$ that enters the head of the trained
# network. With $C$ the covariance of vectors and labels and $S$ that of the vectors,
#
# $$v \mapsto v - C\,(C^\top S^{-1} C)^{+}\, C^\top S^{-1} (v - \bar v)$$
#
# changes the vectors as little as possible, in the mean square, such that no linear probe trained
# on them with squared error or cross-entropy does better than without them
# {cite}`belrose2023leace`. The control erases labels drawn at random, also of three kinds, which
# costs as many directions as sentiment and means nothing.


# %%
def eraser(X, truth):
    """Return a map of vectors (N, 384) after which labels and vectors do not go together."""
    X, Y = X.double(), nn.functional.one_hot(truth).double()
    A, Y = X - X.mean(0), Y - Y.mean(0)
    C, S = A.T @ Y / len(A), A.T @ A / len(A)  # (384, K), (384, 384)
    S += 1e-4 * S.diagonal().mean() * torch.eye(len(S)).double()  # small: S may be singular
    W = torch.linalg.solve(S, C)  # (384, K)
    back = torch.linalg.pinv(C.T @ W, rtol=1e-8) @ C.T  # (K, 384)
    return lambda V: (V - (V - X.mean(0)) @ W @ back).float()


# %% tolerance={"read before": 3, "read after": 3, "decisions changed (%)": 2, "ta_gone": 2, "ta_gone_length": 0.5, "ta_two_after": 4}
labels["labels at random"] = label(lambda text: rng.randrange(3))
erased, both = {name: [] for name in labels}, ("train", "test")
for network in readers:
    with torch.no_grad():
        tops = [[network.pool(x.to(device)).cpu() for x in pieces[p].split(256)] for p in both]
    tops, head = [torch.cat(parts) for parts in tops], copy.deepcopy(network.head).cpu()
    for name, truth in labels.items():
        erase = eraser(tops[0], truth["train"])
        left = [erase(part) for part in tops]  # (N, 384), (M, 384)
        changed = head(left[1]).argmax(1) != head(tops[1]).argmax(1)
        reads = [probed(*part, truth) for part in (tops, left)]
        erased[name].append([*reads, 100 * changed.double().mean().item()])
means = {name: np.mean(rows, 0) for name, rows in erased.items()}
columns = {"erased": list(means)}
for k, header in enumerate(("read before", "read after", "decisions changed (%)")):
    columns[header] = [str(round(row[k])) for row in means.values()]
ku.table(columns, caption="Points above guessing of a probe on the head's input, before and after")
length = means["longer than 9 words"][2]
ku.glue(ta_gone=columns[header][0], ta_gone_length=f"{length:.1f}")
for key, V in {"before": pooled["train"][:, 6], "after": tops[0]}.items():
    variance = torch.linalg.svdvals(V - V.mean(0)).square()  # along each principal direction
    ku.glue(**{f"ta_two_{key}": f"{100 * variance[:2].sum() / variance.sum():.0f}"})

# %% [markdown]
# After erasing, the probe reads nothing, as it must: both were fitted to the same training vectors.
# With sentiment gone, {glue:text}`ta_gone` % of the decisions change. Length can be read well above
# guessing in the very vector from which the head decides, and without it
# {glue:text}`ta_gone_length` % change: it is there, and it is hardly used. That is the safe
# direction of the argument. The other is not safe: erasing a property takes along what goes with
# it. The comma can hardly be read, and its loss changes more decisions than that of random labels.
# We would not say that the network uses commas.
#
# What erasing cannot tell: whether a nonlinear probe would still find something, and whether the
# property was used on the way, in the layers below this vector.
#
# ## Where it fails
#
# **The explanation may be right and the network wrong.** Rising profit is good news, rising costs
# are not. Whoever reads these four sentences has to put two words together.

# %% tolerance={"noun, [MASK] (%)": 6, "verb, [MASK] (%)": 6, "noun, [PAD] (%)": 8, "verb, [PAD] (%)": 8}
texts = [
    f"Hotel chain sees annual {n} {v} in Spain"
    for n in ("profit", "costs")
    for v in ("rise", "fall")
]
columns = {"headline": texts, "the networks say": verdicts(texts)}
for kind in ("[MASK]", "[PAD]"):
    c = answers(reader, texts).argmax(1)
    weights = share(integrated(reader, texts, c, kind, points=48))
    for place, word in ((4, "noun"), (5, "verb")):
        columns[f"{word}, {kind} (%)"] = [f"{100 * w:+.0f}" for w in weights[:, place]]
ku.table(columns, caption="One event in four sentences, integrated gradients of the first network")

# %% [markdown]
# The networks do not: here what rises is good to them, and what falls is bad, profit or costs. The
# weights show a part of this. Where something falls, the verb gets most, also where the noun should
# have turned everything: the explanation is right about the network, and the network is wrong about
# the world. But "costs" gets a fifth of the weight for the class in both sentences, although
# putting it in place of "profit" changes no verdict. A weight says what a word adds on the way from
# nothing. It does not say what another word in its place would do. For that question, ask the
# network the other sentence.
#
# **Which nothing?** A headline without words does not exist, so the baseline is a choice, and the
# table shows what hangs on it: from [PAD] the same network and the same headlines get other
# weights, and with 48 points on the way this is not for want of points. We took [MASK] before
# seeing this, because the model has met it in its first training. A map without its baseline is
# half a statement {cite}`sturmfels2020baselines`.
#
# **Words in pieces.** "Reinsurer's" is five of them. We add their weights up. That is right for
# integrated gradients, whose sum stays complete, and a convention for the other gradients and for
# attention: a long word may get more attention only because it has more pieces.
#
# **Strengths.** Integrated gradients cost a dozen passes, whatever the length of the text; they
# work at any layer; their sum can be checked. Leaving words out needs no gradient and is easily
# explained. A counterfactual needs no weights and no baseline: anybody can check it by asking the
# network. **Limits.** A weight says that a word mattered, not why. Texts with words missing are
# unlike any that the network was trained on, and it can be sure of nonsense
# {cite}`feng2018pathologies`; embeddings half way to [MASK] are unlike any text at all. Our
# sentences are short, English, and read by one small architecture. **When not to use them.** To
# tell a person what to change: that takes a counterfactual which a person can carry out. To tell
# what the world does: weights explain the network. **Software.** Captum for gradients; ferret and
# Inseq bring text methods under one roof; TextAttack searches edits; concept-erasure has the
# eraser.
#
# ## Claims
#
# Bounds were written down before any method had been run on the sentences. One prediction failed:
# the lead over attention, in a first run, which trained two layers. The page then trained one, for
# time, and meets it there; a claim keeps the failure with two. Another is open: two random edits
# were to flip at most 30 % of the decisions, and trials gave 29 to 34. Claimed instead is the
# distance to what a search flips, for which the two bounds ask 40 points. The claims on the coin,
# on rollout, on words at random, on idle endings, on words that flip and on two layers were added
# after a first run. Headline and control ask the same of two kinds of networks: trained ones, and
# ones that learned nothing.

# %%
text = "points of weight on planted evidence by which the best gradient method leads attention"
ku.claim(text, lead["trained"][0], at_least=10, role="headline", rests_on=("ta_lead",))
text = "the same two methods on random weights fall short of it"
ku.claim(text, lead["random weights"][0], at_most=3, role="control")
text = "the same where two layers are trained, one network: the predicted ten are not reached"
ku.claim(text, lead_deep[0], at_most=10, rests_on=("ta_lead_deep",))
text = "attention rollout: points of weight on the evidence beyond equal weights"
ku.claim(text, mean["attention rollout"] - chance, at_most=5)
text = "headlines without 1 to 3 words: points by which probability falls further than by attention"
ku.claim(f"{text}, integrated gradients", fall_lead[0], at_least=5, rests_on=("ta_fall_lead",))
text = "headlines without 1 to 3 words: points by which attention leads words at random"
ku.claim(text, -blind[0], between=(0, 10))
ku.claim("integrated gradients, 16 points: left open, in %", missing["[MASK]"][-1], at_most=5)
text = "heads drawn anew: rank correlation of integrated gradients with the old ones"
ku.claim(text, rho[0], at_most=0.5)
ku.claim(f"{text}, two layers trained", rho[1], at_most=0.5)
text = "decisions that a search flips with at most two edits, in %"
ku.claim(text, by_search[1], at_least=70, rests_on=("searched (%)",))
ku.claim("points more than with two edits at random", by_search[1] - by_chance[1], at_least=40)
text = "decisions that an idle ending flips, in %"
ku.claim(text, neutral, at_least=3, rests_on=("ta_neutral",))
ku.claim("naming a word that flips: points ahead of attention", hit_lead, at_least=25)
text = "points by which a probe reads length better than a coin thrown for the first word"
ku.claim(text, max(above["longer than 9 words"]) - max(np.mean(coins, 0)), at_least=15)
text = "decisions that change when this is erased, in %"
ku.claim(f"{text}: length", length, at_most=5, rests_on=("ta_gone_length",))
ku.claim(f"{text}: sentiment", means["sentiment"][2], at_least=20)

# %% [markdown]
# ## Exercises
#
# **1. What only both words do.** How much of the log-odds comes from two words together, beyond
# what each adds alone? With $F$ of the text, of the text without word $i$, without $j$ and without
# both, it is $F - F_{-i} - F_{-j} + F_{-ij}$. Write `together(score, text, i, j)`, where `score`
# turns a list of texts into numbers (N,). The stub takes out both at once, and so counts what each
# does alone.


# %% tags=["exercise"]
def check_together(together) -> dict:
    """Compare with a made-up score: 2 for costs, -1 for fall, 3 more for both."""

    def score(texts):
        words = [text.split() for text in texts]
        each = [
            (2 * ("costs" in w), -("fall" in w), 3 * ({"costs", "fall"} <= {*w})) for w in words
        ]
        return torch.tensor([float(sum(three)) for three in each])

    truth = {(1, 2): 3, (0, 2): 0, (0, 1): 0}  # of "Annual costs fall"
    errors = [abs(together(score, "Annual costs fall", *ij) - t) for ij, t in truth.items()]
    sentence = "what two words do together: largest error on a known score"
    return {"sentence": sentence, "value": float(max(errors)), "at_most": 1e-5}


def my_together(score, text, i, j):
    words = text.split()
    less = [" ".join(w for k, w in enumerate(words) if k not in out) for out in ((), (i, j))]
    whole, neither = score(less)
    return whole - neither


ku.attempt(**check_together(my_together))


# %% tags=["solution", "hide-cell"]
def together(score, text, i, j):
    words, outs = text.split(), ((), (i,), (j,), (i, j))
    less = [" ".join(w for k, w in enumerate(words) if k not in out) for out in outs]
    whole, no_i, no_j, neither = score(less)
    return whole - no_i - no_j + neither


ku.claim(**check_together(together), role="solution")

# %% [markdown]
# Try it on the four sentences about the hotel chain, with `score` as the log-odds of the named
# class.
#
# **2. Enough words.** Comprehensiveness takes the heaviest words out. Its counterpart,
# **sufficiency** {cite}`deyoung2020eraser`, keeps only them. Write `only(text, weights, n)`: the
# text made of the n words of the largest weights. The stub forgets that a network reads words in
# their order.


# %% tags=["exercise"]
def check_only(only) -> dict:
    """With distinct words, what is kept and what is taken out can be told apart."""
    text = "Ferry line swings to a loss in March"
    weights = torch.tensor([0.2, -0.3, 0.5, 0.1, 0.0, 0.9, 0.05, -0.1])
    good = []
    for n in range(1, 8):
        gone = without(text, weights, n).split()
        good.append(only(text, weights, n) == " ".join(w for w in text.split() if w not in gone))
    sentence = "numbers of kept words, of seven, for which the text is right"
    return {"sentence": sentence, "value": sum(good), "at_least": 7}


def my_only(text, weights, n):
    words = text.split()
    return " ".join(words[i] for i in weights.argsort(descending=True)[:n].tolist())


ku.attempt(**check_only(my_only))


# %% tags=["solution", "hide-cell"]
def only(text, weights, n):
    words = text.split()
    keep = weights[: len(words)].argsort(descending=True)[:n].tolist()
    return " ".join(words[i] for i in sorted(keep))


ku.claim(**check_only(only), role="solution")

# %% [markdown]
# **3. Erase one direction.** For a property with two values, no linear probe trained with squared
# error or cross-entropy learns anything once both groups have the same mean
# {cite}`belrose2023leace`. One projection does it: along the difference of the means. Write
# `project(X, z)` for vectors (N, 384) and labels 0 or 1, which returns a map of vectors. The stub
# moves all vectors by the same amount.


# %% tags=["exercise"]
def check_project(project) -> dict:
    """Erase the comma from the vectors of the last network."""
    X, z = tops[0], labels["has a comma"]["train"]
    apart = lambda V: (V[z == 1].mean(0) - V[z == 0].mean(0)).norm()  # noqa: E731
    sentence = "distance between the means of two groups, as a share of what it was"
    return {
        "sentence": sentence,
        "value": float(apart(project(X, z)(X)) / apart(X)),
        "at_most": 1e-3,
    }


def my_project(X, z):
    return lambda V: V - X[z == 1].mean(0)


ku.attempt(**check_project(my_project))


# %% tags=["solution", "hide-cell"]
def project(X, z):
    apart = X[z == 1].mean(0) - X[z == 0].mean(0)  # (384,)
    u = apart / apart.norm()
    return lambda V: V - (V @ u)[:, None] * u


ku.claim(**check_project(project), role="solution")

# %% [markdown]
# It erases as much as the formula above. The formula also asks in which directions the vectors
# vary, and so can move them less.
#
# ## References
#
# The entries cited on this page are in the book's [references](../../book/references.md).
