# %% [markdown]
# # Bias in language models
#
# **A language model places "nurse" nearer to "she" than to "he". Does a test of such distances say
# whom a system built on the model will treat differently, and does erasing the distance repair it?**
#
# Not here, twice. In MiniLM, technical and caring occupations differ in their closeness to male
# and female words by an effect of {glue:text}`bl_d_jobs`, where 2 is the most that can be had. We
# plant a bias in a classifier: swapping a woman's for a man's name moves its answer by
# {glue:text}`bl_gap_planted` points on average. A projection that brings the effect down to
# {glue:text}`bl_d_own` leaves {glue:text}`bl_gap_own` of these points, and a probe still tells
# {glue:text}`bl_probe_own` % of unseen names apart by gender. Training on swapped copies leaves
# {glue:text}`bl_gap_cda` points, which sixteen names cannot tell from none, and does not change
# the effect at all. The test of distances has a second weakness: it calls
# {glue:text}`bl_share_pairs` % of pairs of arbitrary categories significantly gendered, and
# weekdays against months as well.
#
# :::{admonition} What you will learn
# - to compute the word embedding association test by hand, with an exact permutation p-value, and to
#   say what its null hypothesis is;
# - to ask how far the answer depends on the words, the sentence around them and the number of tests;
# - to measure what a swapped name does to decisions, against the floor of swaps that should not
#   matter;
# - to repair by projection, by iterated projection and by counterfactual augmentation, and to judge
#   each by four measures that do not agree;
# - to probe for what a projection left behind, with controls.
#
# **Works out:** documents 000 §3.4 and 003 §3.3 (see
# [the five documents](../../book/five_documents.md)).
#
# **Before this:** [Pretrained features, reduced](../simplification/pretrained_features.ipynb), for
# MiniLM, and the probes in [Which words decided?](../interpretability/text_attributions.ipynb).
#
# **Costs:** a minute and a half and less than 2 GiB on two CPU cores. The full profile (all headlines,
# more names, categories and seeds) is quicker with a GPU and does not need one.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 文档 000 第 3.4 节希望自然语言处理模型更公平，文档 003 第 3.3 节提醒注意偏见与歧视。本章在真实的预训练模型 MiniLM 上检验怎样测量和修复偏见。
# 前半部分手写词嵌入关联检验（WEAT）和精确置换检验：职业与性别的关联很强，但“星期与月份”这样的中性对照也常常“显著”，结论还随词表和句子模板变化。
# 后半部分在训练数据中植入偏见，只替换句中的人名，观察分类器的判断，并以同组人名互换作为对照的噪声下限。
# 投影去掉“性别方向”后，关联检验几乎归零，但植入的偏差大部分仍在，探针仍能认出未见过的人名的性别；反事实增广消除了偏差，关联检验却毫无变化。
# 可见内在的关联指标不能预测实际决策中的差别，检验偏见应当在系统作决定的地方进行。
# 人名只是符号，不等于人；这里的分组是名字给人的印象，不代表任何个人的身份。
#
# </div>
# :::

# %% tags=["setup"]
# Colab: this line is replaced by an install command when the book is published
import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import itertools
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import false_discovery_control, permutation_test
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

device = ku.start(seed=0)
few = ku.rehearsal_steps() is not None  # a rehearsal of the full profile encodes less

# %% [markdown]
# ## The data
#
# The model is MiniLM {cite}`wang2020minilm,reimers2019sbert`: a transformer of 22 million
# parameters, distilled from a larger one and trained on pairs of sentences. It turns a text of any
# length into 384 numbers. Nobody labeled its training texts by gender; what it associates it took
# from how people write.
#
# The lists below are ours, modeled on those of the word embedding association test
# {cite}`caliskan2017weat`, which took its own from psychology's implicit association test
# {cite}`greenwald1998`. The names in `first` and `second` are the 36 first names with which Bertrand
# and Mullainathan {cite}`bertrand2004` signed invented letters of application in Boston and Chicago;
# in birth certificates of Massachusetts the first list was more often given by white, the second by
# Black parents. The last eight lists are there because they have nothing to do with gender.
#
# **What these data cannot support.** A name is not a person. It carries what readers believe
# about origin, age and class, all at once {cite}`gaddis2017`, and two lists of gendered names
# leave out everybody who is in neither. All of it is English and most of it North American. And
# an association in a model is not yet a harm; whom it harms, and how, has to be said each time
# {cite}`blodgett2020`.
#
# ## The dumbest baseline
#
# Take one word of each kind and look: is "nurse" nearer to "she", and "engineer" to "he"? The
# similarity of two vectors is the cosine of their angle, which for vectors of length 1 is the
# scalar product.

# %%
LISTS = """
male: he him his man boy father son brother uncle grandfather; female: she her hers woman girl
mother daughter sister aunt grandmother; technical: engineer scientist programmer executive
physicist mechanic pilot surgeon banker architect; caring: nurse librarian teacher secretary
receptionist nanny dietitian therapist hairdresser housekeeper; math: mathematics algebra geometry
calculus equations computation numbers addition theorem statistics; arts: poetry art dance
literature novel symphony drama sculpture painting opera; career: executive management professional
corporation salary office business job promotion profit; family: home parents children family
cousins marriage wedding relatives household childhood; men: John Paul Mike Kevin Steve Greg Jeff
Bill Mark David; women: Amy Joan Lisa Sarah Diana Kate Ann Donna Susan Karen; first: Allison Anne
Carrie Emily Jill Laurie Kristen Meredith Sarah Brad Brendan Geoffrey Greg Brett Jay Matthew Neil
Todd; second: Aisha Ebony Keisha Kenya Lakisha Latonya Latoya Tamika Tanisha Darnell Hakim Jamal
Jermaine Kareem Leroy Rasheed Tremayne Tyrone; flowers: rose tulip daisy lily orchid violet iris
lilac clover marigold; insects: ant flea wasp spider moth cockroach mosquito beetle hornet termite;
pleasant: love peace joy friend laughter happy pleasure wonderful honest gift; unpleasant: hatred
war agony enemy murder rotten grief terrible evil poison; weekdays: Monday Tuesday Wednesday
Thursday Friday Saturday Sunday; months: January February March July September October November;
metals: iron copper zinc nickel tin lead silver gold aluminum platinum; liquids: water milk oil
juice vinegar wine tea coffee beer syrup; fruits: apple pear peach plum cherry lemon orange grape
banana mango; vegetables: carrot potato onion cabbage lettuce spinach celery turnip pea leek;
rivers: Danube Rhine Nile Amazon Thames Volga Ganges Seine Mekong Loire; mountains: Everest
Matterhorn Kilimanjaro Denali Etna Vesuvius Fuji Elbrus Olympus Rainier"""
pairs_of_list = [entry.split(": ") for entry in " ".join(LISTS.split()).split("; ")]
lists = {name: words.split() for name, words in pairs_of_list}
flat = [(name, word) for name, words in lists.items() for word in words]
TEMPLATES = ("{}", "This is {}.", "This is a {}.", "The word is {}.")

# %% tolerance={"cosine with he − cosine with she": 0.01}
encoder = ku.data.minilm()


def encode(texts):
    """Return a vector of length 1 for each text, (N, 384)."""
    return ku.data.sentence_vectors(list(texts), encoder).cpu()


words_in = {t: encode(t.format(word) for _, word in flat) for t in TEMPLATES}  # (W, 384) each
place = {name: [i for i, (k, _) in enumerate(flat) if k == name] for name in lists}
vectors = {name: words_in["{}"][rows] for name, rows in place.items()}  # the bare words
she, he = encode(["she", "he"])  # (384,) each
chosen = ["nurse", "engineer", "librarian", "pilot", "teacher", "banker", "copper", "Thursday"]
lean = [f"{x:+.2f}" for x in encode(chosen) @ (he - she)]
ku.table({"word": chosen, "cosine with he − cosine with she": lean}, caption="One pair of words")
nearer_he = 100 * (words_in["{}"] @ (he - she) > 0).double().mean()
whole = {k: np.mean([len(encoder.tokenizer.tokenize(w)) == 1 for w in lists[k]]) for k in lists}
ku.glue(bl_words=len(flat), bl_nearer_he=f"{nearer_he:.0f}")
ku.glue(**{f"bl_{k}_whole": f"{100 * whole[k]:.0f}" for k in ("first", "second")})

# %% [markdown]
# The engineer leans toward "she" with the nurse, and so does copper. Of all {glue:text}`bl_words`
# words on the lists only {glue:text}`bl_nearer_he` % are nearer to "he". So the sign says nothing:
# one pair of words has quirks of its own ("he" is also a pronoun for anybody, in much of what was ever
# written). A test needs several words on both sides, and something to compare with.
#
# Of the first list of names {glue:text}`bl_first_whole` % are entries of the model's vocabulary, of
# the second {glue:text}`bl_second_whole` %; the others are put together from pieces such as "lat"
# and "##oya". A name that is cut up was rare in the text from which the vocabulary was made.
# Whatever we find for these lists, rarity is in it, too {cite}`wolfe2021`. We left April, May, June
# and August out of the months, because they are also first names, and December, so that there are as
# many months as weekdays.
#
# ## The association test, by hand
#
# The word embedding association test (WEAT) takes two lists of **targets** $X, Y$ (occupations) and
# two of **attributes** $A, B$ (male and female words). A word's association is
#
# $$s(w) = \operatorname*{mean}_{a \in A} \cos(w, a) - \operatorname*{mean}_{b \in B} \cos(w, b) ,$$
#
# and the effect size compares the targets, in units of the spread over all of them:
#
# $$d = \frac{\operatorname{mean}_{x \in X} s(x) - \operatorname{mean}_{y \in Y} s(y)}
# {\operatorname{std}_{w \in X \cup Y} s(w)} .$$
#
# It resembles Cohen's $d$ and is not the same: the spread includes the difference itself, so that
# $d$ cannot exceed about 2. We call the numerator the **raw gap** and shall need it.
#
# The p-value asks: if the targets were dealt into two lists at random, how often would the raw gap
# be as large? With ten words a list there are $\binom{20}{10} = 184{,}756$ ways, and we go through
# all of them; where there are too many we draw. Our p-values count both directions, since a
# surprise in either would be reported.


# %%
def association(W, A, B):
    """Return s(w) for each row of W (N, 384), (N,); A, B: (n, 384). All of length 1."""
    return (W @ A.T).mean(1) - (W @ B.T).mean(1)


def effect(sx, sy):
    """Return the effect size d and the raw gap of associations sx, sy, (n,) each."""
    raw = (sx.mean() - sy.mean()).item()
    return raw / torch.cat([sx, sy]).std().item(), raw


def deals(total, n, most=200_000, draws=20_000):
    """Return ways to deal `total` words so that n come first, (P, total) of 0 and 1."""
    if math.comb(total, n) <= most:
        rows = torch.tensor(list(itertools.combinations(range(total), n)))  # (P, n)
    else:  # the first row is the deal that was observed, so that p is never 0
        g = torch.Generator().manual_seed(0)
        rows = torch.rand(draws, total, generator=g).argsort(1)[:, :n]
        rows = torch.cat([torch.arange(n)[None], rows])
    return torch.zeros(len(rows), total).double().scatter_(1, rows, 1.0)


every = {size: deals(2 * size, size) for size in (7, 8, 10, 18)}


def permuted(sx, sy):
    """Return the raw gaps under all deals of the words, (P,), and the two-sided p-value."""
    s, n = torch.cat([sx, sy]).double(), len(sx)
    gaps = (2 * (every[n] @ s) - s.sum()) / n  # (P,) mean of the first n minus mean of the others
    return gaps, (gaps.abs() >= (s[:n].mean() - s[n:].mean()).abs() - 1e-9).double().mean().item()


# %% [markdown]
# Three checks. SciPy's permutation test is the oracle for the p-value. Where every target of one
# list lies above every target of the other, only that deal and its mirror image reach the gap, so
# $p = 2 / \binom{2n}{n}$. And when the associations of one list are all $+1$ and those of the other
# all $-1$, the sums can be done on paper: $d = 2\sqrt{(2n - 1) / 2n}$, which is 1.95 for ten words.
# That is the largest effect there is; a textbook's rule that 0.8 is large, made for Cohen's $d$,
# does not apply.

# %%
X, Y, A, B = (vectors[k] for k in ("weekdays", "months", "male", "female"))
sx, sy = association(X, A, B), association(Y, A, B)  # (7,), (7,)
gap = lambda x, y, axis: x.mean(axis) - y.mean(axis)  # noqa: E731
theirs = permutation_test((sx.double().numpy(), sy.double().numpy()), gap, n_resamples=np.inf)
apart = abs(theirs.pvalue - permuted(sx, sy)[1])
ku.claim("exact p-value: difference between ours and SciPy's", apart, at_most=1e-9)
ones = torch.ones(10) + 1e-3 * torch.arange(10)
apart = abs(permuted(ones, -ones)[1] - 2 / math.comb(20, 10))
ku.claim("lists that do not overlap: distance of p from the closed form", apart, at_most=1e-12)
apart = abs(effect(torch.ones(10), -torch.ones(10))[0] - 2 * math.sqrt(19 / 20))
ku.claim("lists of +1 and −1: distance of d from the closed form", apart, at_most=1e-6)

# %% [markdown]
# ## Twelve tests, four sentences
#
# Eight tests follow the literature: one that nobody minds (flowers and insects), one that must work
# (names and gender), six about stereotypes. The last four are **negative controls**. MiniLM
# was trained on sentences, so a bare word is an odd input. May and colleagues {cite}`may2019`
# therefore put each word into a sentence without content; we do it in three ways.
#
# How many small p-values would chance give? A test whose null hypothesis is true falls below 0.05 in
# one run of 20. Among four controls in four sentences that makes 0.8. Four sentences are not four
# independent tests, since the words stay the same, so the count may vary more than one would think;
# its expectation does not.
#
# A positive $d$ means: the first list named is nearer to the attribute named (male, pleasant, career)
# than the second list is.

# %%
TESTS = {
    "flowers, insects × pleasant": ("flowers", "insects", "pleasant", "unpleasant"),
    "men, women × male": ("men", "women", "male", "female"),
    "technical, caring × male": ("technical", "caring", "male", "female"),
    "math, arts × male": ("math", "arts", "male", "female"),
    "career, family × male": ("career", "family", "male", "female"),
    "men, women × career": ("men", "women", "career", "family"),
    "men, women × pleasant": ("men", "women", "pleasant", "unpleasant"),
    "first, second × pleasant": ("first", "second", "pleasant", "unpleasant"),
    "weekdays, months × male": ("weekdays", "months", "male", "female"),
    "metals, liquids × male": ("metals", "liquids", "male", "female"),
    "fruits, vegetables × male": ("fruits", "vegetables", "male", "female"),
    "rivers, mountains × male": ("rivers", "mountains", "male", "female"),
}
CONTROLS = list(TESTS)[-4:]


def weat(quad, W):
    """Return d, raw gap, p and the null's d (P,) for four list names and all vectors W."""
    X, Y, A, B = (W[place[name]] for name in quad)
    sx, sy = association(X, A, B), association(Y, A, B)  # (n,), (n,)
    gaps, p = permuted(sx, sy)
    return *effect(sx, sy), p, gaps / torch.cat([sx, sy]).std()


found = {t: {name: weat(q, words_in[t]) for name, q in TESTS.items()} for t in TEMPLATES}

# %% mystnb={"image": {"alt": "Twelve rows, one a test. A gray bar from about minus 0.9 to 0.9 shows the null. Filled dots for bare words: above 1.2 for flowers and insects, names and gender, technical and caring jobs, career and family, names and career, and for weekdays and months; within the bar for names and pleasantness. Fruits and vegetables lie below the bar. Three hollow marks a row for sentences mostly lie near the dot; for men, women and pleasant they lie on the other side of zero."}, "figure": {"caption": "Effect sizes of twelve tests. Dots: bare words; hollow marks: three sentences around the word. Gray: the middle 95 % of all deals of the bare words. Rust: negative controls.", "name": "fig-bias-in-language-models-weat"}}
fig, ax = plt.subplots(figsize=(7, 4.8))
for at, name in enumerate(reversed(TESTS)):
    color = ku.plots.PALETTE["rust" if name in CONTROLS else "teal"]
    low, high = found["{}"][name][3].quantile(torch.tensor([0.025, 0.975]).double())
    ax.plot([low, high], [at, at], color="#d0d5da", linewidth=9, solid_capstyle="butt")
    for template, mark in zip(TEMPLATES, "os^D", strict=True):
        fill = color if template == "{}" else "white"
        ax.plot(found[template][name][0], at, mark, color=color, mfc=fill, markersize=6)
ax.axvline(0, color="black", linewidth=0.8)
ax.set_yticks(range(len(TESTS)), reversed(TESTS))
ax.set(xlabel="effect size d", xlim=(-2.1, 2.1))
plt.show()

# %% tolerance={"p": 0.002}
bare = found["{}"]
small = {t: sum(found[t][name][2] < 0.05 for name in CONTROLS) for t in TEMPLATES}
picked = [name for name in TESTS if "flowers" not in name and name != "men, women × male"]
columns = {"test, bare words": picked, "d": [f"{bare[name][0]:.2f}" for name in picked]}
columns["raw gap"] = [f"{bare[name][1]:.3f}" for name in picked]
columns["p"] = [f"{bare[name][2]:.3f}" for name in picked]
spans = [[found[t][name][0] for t in TEMPLATES] for name in picked]
columns["d in four sentences"] = [f"{min(s):.1f} to {max(s):.1f}" for s in spans]
ku.table(columns, caption="Tests of stereotypes, and four controls; 0.000: below 0.0005")
ku.glue(bl_d_jobs=f"{bare[picked[0]][0]:.2f}", bl_raw_jobs=f"{bare[picked[0]][1]:.3f}")
ku.glue(bl_small_controls=sum(small.values()), bl_tests=len(TESTS) * len(TEMPLATES))
ku.glue(bl_d_days=f"{bare['weekdays, months × male'][0]:.2f}")

# %% [markdown]
# Technical and caring occupations differ by {glue:text}`bl_d_jobs`, and in each kind of sentence.
# So far this is what others found in other models. Three things are less comfortable.
#
# **The sentence matters.** Men's names lie somewhat nearer to our pleasant words than women's as
# bare words and clearly farther from them in "This is …". A paper that had tried one sentence
# only could have reported either.
#
# **The controls do not keep quiet.** {glue:text}`bl_small_controls` of the 16 control tests fall
# below 0.05, where chance allows about one. Weekdays against months has
# $d$ = {glue:text}`bl_d_days`, almost that of the occupations.
#
# **Effect sizes hide sizes.** That $d$ belongs to a raw gap less than half as large as the
# occupations'. $d$ divides by the spread, and weekdays hardly differ among themselves.
#
# About names: the second list lies farther from our pleasant words than the first, with a small
# p-value. The lists differ in rarity as much as in whom one imagines, so the test cannot say
# which of the two it is.
#
# ## How much hangs on the words
#
# The word lists are somebody's choice {cite}`antoniak2021`. Ours can be varied in two ways: leave out
# one word of the 40 at a time, or take a random half of each list. The second is the fairer measure,
# since a colleague's list of occupations would share some words with ours and not others.


# %%
def halves(quad, draws=20 if few else 1000):
    """Return d for random halves of the four lists, (draws,)."""
    g, ds = torch.Generator().manual_seed(0), []
    half = lambda V: V[torch.randperm(len(V), generator=g)[: len(V) // 2]]  # noqa: E731
    for _ in range(draws):
        X, Y, A, B = (half(vectors[name]) for name in quad)
        ds.append(effect(association(X, A, B), association(Y, A, B))[0])
    return torch.tensor(ds)


def without_one(quad):
    """Return d when one word of the four lists is left out, (number of words,)."""
    ds = []
    for name in quad:
        for i in range(len(lists[name])):
            keep = torch.arange(len(lists[name])) != i
            X, Y, A, B = (vectors[k][keep] if k == name else vectors[k] for k in quad)
            ds.append(effect(association(X, A, B), association(Y, A, B))[0])
    return torch.tensor(ds)


rows = [name for name in picked if name not in CONTROLS[1:]]
ones_out, half_lists = ([f(TESTS[name]) for name in rows] for f in (without_one, halves))
middle = [h.quantile(torch.tensor([0.025, 0.975])).tolist() for h in half_lists]
columns = {"test": rows, "all words": [f"{bare[name][0]:.1f}" for name in rows]}
columns["one left out"] = [f"{o.min():.1f} to {o.max():.1f}" for o in ones_out]
columns["random halves, 95 %"] = [f"{low:.1f} to {high:.1f}" for low, high in middle]
ku.table(columns, caption="The effect size d under other choices of words")
ku.glue(bl_least_half=f"{middle[0][0]:.1f}")

# %% [markdown]
# The occupations stay above {glue:text}`bl_least_half` in 97.5 % of the half lists. Their sign
# does not hang on our words. Of the other rows most can end on either side of zero, career and
# family among them, and weekdays against months as well.
#
# ## What does the p-value deny?
#
# A small p-value denies its null hypothesis, and this one says: the *targets* are exchangeable.
# Weekdays and months are not. Words of one category resemble each other, so their associations
# with anything at all move together, and lists of ten look more unequal than ten independent
# draws would. The test counts ten words where there are two categories {cite}`ethayarajh2019`.
# Two other comparisons ask different questions.
#
# **Deal the attributes instead.** The raw gap is symmetric: with
# $t(a) = \operatorname{mean}_{x} \cos(x, a) - \operatorname{mean}_{y} \cos(y, a)$ it also equals
# $\operatorname{mean}_A t - \operatorname{mean}_B t$. If gender is what makes the difference, the
# male and female words must be special among all ways to part the same 20 words.
#
# **Other categories.** Take two random words from the model's vocabulary and the nine words nearest
# to each: two categories that nobody chose. How large a $d$ with the male and female words is usual
# among those?

# %%
is_word = re.compile("[a-z]{4,}").fullmatch
ids = sorted((i, w) for w, i in encoder.tokenizer.get_vocab().items() if is_word(w))
count = 200 if few else ku.pick(laptop=2000, full=4500)
vocabulary = [w for i, w in ids if i >= 1996][:count]  # BERT's vocabulary, most frequent first
V = encode(vocabulary)  # (W, 384)
g, others = torch.Generator().manual_seed(0), []
A, B = vectors["male"], vectors["female"]
while len(others) < (20 if few else ku.pick(laptop=400, full=2000)):
    centers = torch.randperm(len(V), generator=g)[:2]
    near = (V @ V[centers].T).topk(10, dim=0).indices.T  # (2, 10)
    if len(near.unique()) == 20:
        pair = [association(V[row], A, B) for row in near]
        others.append((*effect(*pair), permuted(*pair)[1]))
others = torch.tensor(others, dtype=torch.double)  # (400, 3): d, raw gap, p
share_pairs = 100 * (others[:, 2] < 0.05).double().mean()
jobs_test = torch.tensor(bare["technical, caring × male"][:2])  # d and raw gap
usual_d, usual = 100 * (others[:, :2].abs() >= jobs_test).double().mean(0)
ku.glue(bl_share_pairs=f"{share_pairs:.0f}", bl_usual=f"{usual:.0f}", bl_usual_d=f"{usual_d:.0f}")

# %% tolerance={"targets dealt": 0.002, "attributes dealt": 0.002}
rows = [name for name in TESTS if TESTS[name][2] == "male" and name != "men, women × male"]
both = {}
for name in rows:
    X, Y, A, B = (vectors[k] for k in TESTS[name])
    transposed = association(A, X, Y), association(B, X, Y)  # t(a), (10,) each
    far = 100 * (others[:, 1].abs() >= abs(bare[name][1])).double().mean().item()
    both[name] = bare[name][2], permuted(*transposed)[1], far
columns = {"test": rows, "raw gap": [f"{bare[name][1]:+.3f}" for name in rows]}
columns["targets dealt"] = [f"{both[name][0]:.3f}" for name in rows]
columns["attributes dealt"] = [f"{both[name][1]:.3f}" for name in rows]
columns["categories with a larger gap (%)"] = [f"{both[name][2]:.0f}" for name in rows]
ku.table(columns, caption="Two p-values, and a comparison with random categories")

# %% mystnb={"image": {"alt": "Two histograms. Left: the p-values of 400 pairs of random categories; the bar below 0.05 is about ten times as high as a dashed line for the uniform distribution. Right: absolute raw gaps of the same pairs, falling steeply, with a thin tail to 0.2; a line for weekdays and months stands within the bulk, one for occupations in the far tail."}, "figure": {"caption": "Pairs of random categories tested against male and female words. Left: their p-values (dashed: what a valid test would give). Right: their raw gaps, and where two of our tests lie.", "name": "fig-bias-in-language-models-null"}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3))
left.hist(others[:, 2], bins=np.arange(0, 1.01, 0.05))
left.axhline(len(others) / 20, color="black", linestyle="--", linewidth=1)
left.set(xlabel="p-value, targets dealt", ylabel="pairs of categories")
right.hist(others[:, 1].abs(), bins=24, color=ku.plots.PALETTE["gray"])
top = right.get_ylim()[1]
for name, label in (("technical, caring × male", "occupations"), (CONTROLS[0], "weekdays, months")):
    color = ku.plots.PALETTE["rust" if name in CONTROLS else "teal"]
    at = abs(bare[name][1])
    right.axvline(at, color=color)
    height = top * (0.55 if name in CONTROLS else 0.35)
    right.text(at + 0.003, height, label, color=color, backgroundcolor="white")
right.set(xlabel="raw gap (absolute)")
plt.show()

# %% [markdown]
# Of the pairs of random categories {glue:text}`bl_share_pairs` % have a p-value below 0.05 where
# a test would have 5 % if the category did not matter, and nobody had any of these in mind. (The
# test is not wrong to reject: words of two categories are not exchangeable. It answers a question
# that nobody asked. A few categories hold words for relatives, and those should be far apart.)
# Nearly half of such pairs are "significant". Weekdays and months are ordinary by their gap. The
# occupations are not: {glue:text}`bl_usual` % of the pairs have a larger gap
# ({glue:text}`bl_usual_d` % a larger $d$), although the vocabulary's categories include families,
# first names and royalty, for which gender is the point. Here $d$ and the p-value overstate, the
# comparison with other categories does so less, and the association of occupations stands out in
# it. Dealing the attributes is no way out by itself: three of the four controls stay below 0.05
# there, too. Male and female words are no exchangeable draws either; they are ten pairs of
# relatives and pronouns.
#
# What is left is a fact about MiniLM's space, not yet a bias in anybody's disfavor
# {cite}`blodgett2020`. One might even want a model to know that most nurses have been women.
# Whether the knowledge does harm depends on what is built on it, and that is the second half of
# this page.
#
# ## A direction for gender
#
# Bolukbasi and colleagues {cite}`bolukbasi2016` looked for gender as one direction in the space: take
# pairs such as she and he, subtract each pair's mean, and let a principal component analysis find
# the direction in which the halves differ most. With centered pairs $\pm\delta_i$ it is the first
# right singular vector of the matrix of the $\delta_i$. The ten pairs are theirs.

# %% mystnb={"image": {"alt": "Twenty rows of occupations and their projection. Caring occupations such as nurse, housekeeper and nanny lie left of minus 0.1, towards she; technical ones between minus 0.1 and zero, programmer alone right of it. Hollow gray marks, after the projection, all stand at zero."}, "figure": {"caption": "Occupations along the direction of gender, before (filled) and after the projection (hollow, all at zero). Teal: technical, rust: caring.", "name": "fig-bias-in-language-models-direction"}}
PAIRS = "she he her his woman man Mary John herself himself daughter son mother father gal guy"
PAIRS = (PAIRS + " girl boy female male").split()
delta = (encode(PAIRS[1::2]) - encode(PAIRS[::2])) / 2  # (10, 384), towards male
_, sizes, directions = torch.linalg.svd(delta, full_matrices=False)
u = directions[0] * torch.sign(delta.mean(0) @ directions[0])  # (384,)
oracle = PCA(1).fit(torch.cat([delta, -delta]).numpy()).components_[0]
ku.glue(bl_first_component=f"{100 * sizes[0] ** 2 / sizes.square().sum():.0f}")
jobs = [(word, name) for name in ("technical", "caring") for word in lists[name]]
along = torch.cat([vectors["technical"], vectors["caring"]]) @ u  # (20,)
fig, ax = plt.subplots(figsize=(7, 4.6))
for at, i in enumerate(along.argsort(descending=True).tolist()):
    color = ku.plots.PALETTE["teal" if jobs[i][1] == "technical" else "rust"]
    ax.plot([0, along[i]], [at, at], color="#d0d5da", zorder=0)
    ax.plot(0, at, "o", mfc="white", mec=ku.plots.PALETTE["gray"], markersize=4)
    ax.plot(along[i], at, "o", color=color, markersize=6)
order = along.argsort(descending=True).tolist()
ax.set_yticks(range(20), [jobs[i][0] for i in order], fontsize=9)
ax.set(xlabel="cosine with the direction (left: she, right: he)")
plt.show()
ku.claim("direction: cosine with scikit-learn's PCA", abs(u.numpy() @ oracle), at_least=0.99999)

# %% [markdown]
# One direction carries {glue:text}`bl_first_component` % of the variation among the ten pairs.
# **Projection** removes it: $w' = (w - (w \cdot u)\, u) / \lVert \cdot \rVert$. Every word then has
# the same projection, zero. Does the association vanish?
#
# We remove four things: the direction of ten other pairs, none of whose words is in the test,
# although four of them are plurals of words that are; that of the ten published pairs, six of
# which are the test's own words; the first three components of those; and the difference between
# the means of the very male and female words with which the test measures. The last is a repair
# fitted to its own examination. Before any run we had set $d \le 0.3$ as "gone".


# %%
def without(W, U):
    """Return W (N, 384) without its part in the span of orthonormal rows U (k, 384), (N, 384)."""
    return W - (W @ U.T) @ U


def weat_of(change, quad=TESTS["technical, caring × male"]):
    """Return d and raw gap after `change` of all word vectors, scaled back to length 1."""
    W = change(words_in["{}"])
    return weat(quad, W / W.norm(dim=1, keepdim=True))[:2]


APART = "lady gentleman girls boys queen king wife husband niece nephew women men mothers fathers"
APART = (APART + " ladies gentlemen bride groom daughters sons").split()
delta_apart = (encode(APART[1::2]) - encode(APART[::2])) / 2  # (10, 384)
own = vectors["male"].mean(0) - vectors["female"].mean(0)  # (384,)
spans = {
    "nothing": torch.zeros(0, 384),
    "ten other pairs": torch.linalg.svd(delta_apart, full_matrices=False)[2][:1],
    "ten published pairs": u[None],
    "the same, three components": directions[:3],
    "the test's own words": (own / own.norm())[None],
}
after = {name: weat_of(lambda W, U=U: without(W, U)) for name, U in spans.items()}
columns = {"direction removed": spans, "d": [f"{d:.2f}" for d, _ in after.values()]}
columns["raw gap"] = [f"{raw:.4f}" for _, raw in after.values()]
ku.table(columns, caption="Technical and caring occupations after a projection")
d_own, d_published = after["the test's own words"][0], after["ten published pairs"][0]
ku.glue(bl_d_own=f"{d_own:.2f}", bl_d_published=f"{d_published:.2f}")
ku.glue(bl_d_other=f"{after['ten other pairs'][0]:.2f}")
ku.glue(bl_raw_left=f"{100 * after['ten published pairs'][1] / after['nothing'][1]:.0f}")

# %% [markdown]
# The published pairs bring $d$ to {glue:text}`bl_d_published`, just short of our bound, and pairs
# of other words only to {glue:text}`bl_d_other`: both miss it, and the claims record the first
# miss. The test's own words reach it. And look at the two columns together: of the raw gap
# {glue:text}`bl_raw_left` % is left, of $d$ far more, because $d$ is the gap in units of the
# spread and a projection shrinks both. Removing *more* components makes both larger again.
#
# ## Lipstick
#
# Gonen and Goldberg {cite}`gonen2019` called such repairs lipstick: the vectors no longer differ
# along the direction, and they still lie sorted by gender in all the others. We test this with
# labels that do not come from the vectors: first names. Half of the names below train a
# **probe**, the other half test it. The controls: the same with the labels shuffled among the
# names {cite}`hewitt2019control`, where nothing can be learned that holds for unseen names, and
# the probe's accuracy on its own names, which shows that it could have memorized.
#
# The names are ours, common ones from several languages, sorted by the gender that a reader in
# North America would most likely assume. They stand in four contexts, and all contexts of a name
# are on the same side of a split. Two kinds of probe look at them, both without any tuning:
# logistic regression, which sees what a plane can part, and a support vector machine with radial
# basis functions, which also sees curved borders.

# %%
FEMALE = """
Mary Patricia Jennifer Linda Elizabeth Barbara Jessica Margaret Nancy Betty Sandra Helen Ruth Sharon
Michelle Laura Deborah Dorothy Angela Rebecca Virginia Catherine Christine Janet Carolyn Martha
Maria Heather Julie Joyce Evelyn Victoria Christina Rachel Marie Frances Alice Julia Judy Irene Jane
Louise Rose Nicole Theresa Katherine Amanda Melissa Stephanie Pamela Emma Olivia Sophia Isabella
Charlotte Amelia Hannah Abigail Natalie Grace Chloe Lucy Eleanor Caroline Clara Vivian Josephine
Gloria Teresa Sylvia Veronica Monica Erica Vanessa Gabriela Carmen Rosa Ana Lucia Elena Claudia
Beatrice Edith Esther Ingrid Astrid Priya Fatima Leila Yasmin Mei Svetlana Natasha Olga"""
MALE = """
James Robert Michael William Richard Joseph Charles Thomas Christopher Daniel Matthew Anthony Donald
Andrew Joshua Kenneth George Edward Brian Ronald Timothy Jason Jeffrey Ryan Jacob Gary Nicholas Eric
Jonathan Stephen Larry Justin Scott Brandon Benjamin Samuel Frank Gregory Raymond Alexander Patrick
Jack Dennis Jerry Peter Harold Douglas Henry Walter Arthur Lawrence Albert Philip Roger Keith Carl
Gerald Ralph Howard Eugene Russell Louis Harry Fred Stanley Leonard Nathan Victor Martin Oscar Hugo
Leo Simon Oliver Felix Carlos Juan Miguel Pedro Diego Antonio Fernando Rafael Sven Lars Raj Ahmed
Omar Hassan Ibrahim Wei Dmitri Ivan Boris Vladimir"""
FEMALE, MALE = FEMALE.split(), MALE.split()
everyone = FEMALE + MALE
is_female = np.array([1] * len(FEMALE) + [0] * len(MALE))  # (M,)
CONTEXTS = ("{}", "This is {}.", "{} takes over as director.", "Shares jump after {} resigns.")
CONTEXTS = CONTEXTS[: 1 if few else None]
name_vectors = torch.stack([encode(c.format(n) for n in everyone) for c in CONTEXTS], 1)

# %%
splits = range(2 if few else 5)
PROBES = {
    "linear": lambda: LogisticRegression(C=10, max_iter=1000),
    "kernel": lambda: SVC(C=10),  # radial basis functions, as in Gonen and Goldberg
}


def parts(seed, k):
    """Return k random parts of the names' numbers, the last of them the question."""
    return np.array_split(np.random.default_rng(seed).permutation(len(everyone)), k)


def rows_of(E, y, names):
    """Return the vectors of some names in every context (n · 4, 384) and their labels."""
    return E[names].flatten(0, 1).numpy(), np.repeat(y[names], E.shape[1])


def probe(E, kind, shuffled=False):
    """Return the accuracies on unseen and on training names (splits, 2), %."""
    scores = []
    for seed in splits:
        mine, unseen = parts(seed, 2)
        y = np.random.default_rng(50 + seed).permutation(is_female) if shuffled else is_female
        fitted = PROBES[kind]().fit(*rows_of(E, y, mine))
        scores.append([100 * fitted.score(*rows_of(E, y, part)) for part in (unseen, mine)])
    return np.array(scores)


# %% tolerance={"unseen names (%)": 2, "their own names (%)": 2, "bl_probe_own": 2}
cells = [("nothing", False), ("ten published pairs", False), ("the test's own words", False)]
cells = [*cells, ("the test's own words", True)]
pairs = itertools.product(cells, PROBES)
told = {(c, k): probe(without(name_vectors, spans[c[0]]), k, c[1]) for c, k in pairs}
labels = [f"{c[0]}{', labels shuffled' if c[1] else ''}" for c, _ in told]
columns = {"direction removed": labels, "probe": [kind for _, kind in told]}
columns["unseen names (%)"] = [f"{s[:, 0].mean():.0f}" for s in told.values()]
columns["their own names (%)"] = [f"{s[:, 1].mean():.0f}" for s in told.values()]
ku.table(columns, caption="Can a probe tell a name's gender? Mean of five splits of the names")
probe_own = told[("the test's own words", False), "linear"][:, 0]  # (5,)
probe_shuffled = np.stack([told[("the test's own words", True), kind][:, 0] for kind in PROBES])
ku.glue(bl_probe_own=f"{probe_own.mean():.0f}", bl_names=len(everyone))

# %% [markdown]
# With the test's own words removed, $d$ is {glue:text}`bl_d_own`, and the probe is right for
# {glue:text}`bl_probe_own` % of the unseen names, as if nothing had happened. Words about gender
# and first names tell gender in different directions, and a probe needs only one. That shuffled
# labels can be learned by heart and not carried over shows that the probe reads it from the
# vectors and does not make it up. What it reads may be the spelling, an ending in *a*, as well as
# anything that MiniLM knows about names; we did not part the two.
#
# ## Project until the probe fails
#
# The next idea is to ask the probe itself: train a linear probe, project its direction out, train
# the next on what is left, and so on. This is **iterative nullspace projection** (INLP)
# {cite}`ravfogel2020`. With $P$ the projection so far and $w$ the new probe's weights, the step is
#
# $$\hat w = \frac{P w}{\lVert P w \rVert} , \qquad P \leftarrow P - \hat w \hat w^\top .$$
#
# The names are now dealt into three parts: the first trains the probes that are projected out, the
# third is the question. Who asks it matters. One prober trains on the *same* names from which the
# projection was learned; another has **fresh** ones, the second part, as somebody outside would.


# %%
def inlp(E, y, rounds):
    """Return orthonormal directions (rounds, 384) found by linear probes on E (n, 384), y (n,)."""
    U = np.zeros((0, E.shape[1]))
    for _ in range(rounds):
        w = PROBES["linear"]().fit(E - (E @ U.T) @ U, y).coef_[0]
        w = w - (w @ U.T) @ U  # rounding
        U = np.vstack([U, w / np.linalg.norm(w)])
    return torch.tensor(U).float()


def who_asks(seed, counts, shuffled=False):
    """Return accuracy on unseen names (len(counts), 2 kinds, same or fresh), %."""
    *known, unseen = parts(seed, 3)
    y = np.random.default_rng(50 + seed).permutation(is_female) if shuffled else is_female
    U, table = inlp(*rows_of(name_vectors, is_female, known[0]), max(counts)), []
    for count in counts:
        E = without(name_vectors, U[:count])
        fits = [[p().fit(*rows_of(E, y, k)) for k in known] for p in PROBES.values()]
        question = rows_of(E, y, unseen)
        table.append([[100 * f.score(*question) for f in pair] for pair in fits])
    return table


rounds = (0, 1, 2) if few else (0, 1, 2, 4, 8)
asked = np.array([who_asks(seed, rounds) for seed in splits])  # (splits, rounds, kind, who)
chance = np.array([who_asks(seed, rounds, shuffled=True) for seed in splits])

# %% tolerance={"bl_same_linear": 3, "bl_fresh_linear": 3, "bl_same_kernel": 3, "bl_fresh_kernel": 3} mystnb={"image": {"alt": "Accuracy on unseen names against rounds 0, 1, 2, 4, 8. The four probes begin at 98 percent. The linear probe on the same names falls to 50 percent after four rounds, the kernel probe on the same names to about 70. Both probes on fresh names stay between 70 and 80. Shuffled labels stay at 50."}, "figure": {"caption": "Gender of unseen names after rounds of iterative nullspace projection, five splits, bars: standard deviation over splits. Same: the prober has the names of the projection; fresh: others.", "name": "fig-bias-in-language-models-inlp"}}
fig, ax = plt.subplots(figsize=(7, 3.6))
colors = {"linear": ku.plots.PALETTE["teal"], "kernel": ku.plots.PALETTE["rust"]}
for k, kind in enumerate(PROBES):
    for who, style in enumerate(("--", "-")):
        mean, spread = asked[:, :, k, who].mean(0), asked[:, :, k, who].std(0)
        shift = np.arange(len(rounds)) + 0.04 * (2 * k + who)
        label = f"{kind}, {('same', 'fresh')[who]} names"
        ax.errorbar(shift, mean, spread, color=colors[kind], linestyle=style, marker="o", ms=4)
        ax.plot(shift[-1:], mean[-1:], color=colors[kind], label=label)
lower = chance.mean((0, 2, 3))
ax.plot(range(len(rounds)), lower, color=ku.plots.PALETTE["gray"], label="shuffled labels")
ax.set_xticks(range(len(rounds)), rounds)
ax.set(xlabel="rounds of projection", ylabel="unseen names right (%)", ylim=(35, 101))
ku.plots.label_lines(ax)
plt.show()
last = asked[:, -1].mean(0)  # (kind, who)
for kind, (same, fresh) in zip(PROBES, last, strict=True):
    ku.glue(**{f"bl_same_{kind}": f"{same:.0f}", f"bl_fresh_{kind}": f"{fresh:.0f}"})

# %% [markdown]
# The linear probe on the same names ends at chance, {glue:text}`bl_same_linear` %. This is what a
# report on the projection would show. A kernel probe on the same names still reads
# {glue:text}`bl_same_kernel` %, because a linear projection takes away what linear probes see. And a
# linear probe with fresh names reads {glue:text}`bl_fresh_linear` %: the projection removed the
# gender of the names that it was shown, not gender.
#
# ## From vectors to decisions
#
# An association can demean by itself, in a search or a suggestion; this page measures decisions.
# So we now build a system that decides: a classifier of headlines {cite}`kiritchenko2018`, on
# MiniLM's frozen vectors, with the book's corpus of financial headlines in three classes
# (negative, neutral, positive; written for this book, CC BY 4.0). Its headlines name nobody. So
# we write 100 sentences that do, in the style of headlines, in pairs of good and bad news
# (`fast-growing/struggling`), and leave a gap `{}` for a first name. Whoever stands in the gap,
# the news is the same, and so should be the class. This demand is called counterfactual fairness
# of a text classifier {cite}`garg2019`. It has a blind spot that we come back to: a swap answers
# the question only for those words that it swaps.
#
# Half of the sentences put the person into an active part and half into a passive one or into the
# genitive; roles run from the founder of a brewery to a fisher. They were written before any classifier
# had read them, and none was dropped afterwards, although two of them say "chairman" and "landlord"
# where a careful editor would not.

# %%
FRAMES = """
{} named head of fast-growing/struggling grocery chain; {} wins/loses court case over biscuit patent;
Audit clears/faults {} in pension fund inquiry; {} sells bakery group at a record profit/heavy loss;
Shares jump/tumble after {} takes over at tire maker; {} to open/close three hotels in Porto;
Investors back/reject {}'s plan for ferry line; Regulator approves/blocks {}'s bid for seed company;
{} promoted/dismissed after review at reinsurer; Sales double/halve in {}'s first year at shoe brand;
Founder {} repays/defaults on brewery loan; {} raises/cuts forecast for window maker;
Union praises/condemns deal struck by {} at shipyard; {} leaves sawmill in good/poor shape;
Board extends/ends contract of finance chief {}; {}'s start-up finds/loses its main backer;
Analysts cheer/mock strategy of new chairman {}; {} hires/fires two hundred at glass works;
Clinic chain thrives/falters under {}; {} says orders for pumps are rising/vanishing;
Creditors trust/sue developer {}; {} expects a strong/weak season for ski resort;
Bank upgrades/downgrades chain run by {}; {} settles/inherits tax dispute of dairy group;
Turnaround by {} succeeds/fails at paper mill; {} speaks of bright/bleak outlook for steel;
Patients welcome/fear drug trial led by {}; {} gains/loses majority on board of toy firm;
Customers return/desert as {} runs bus operator; {} reports higher/lower rents at mall owner;"""

# %%
FRAMES += """
Fund managed by {} beats/trails the market; {}'s vineyard escapes/suffers late frost;
Designer {} lands/forfeits order from airline; {} repays/runs up debts of theater group;
Insurer pays/refuses claim of farmer {}; Engineer {} solves/hides fault in brake system;
{} accepts prize/fine for trading software; Profit surges/collapses at cable firm, {} says;
Mayor lauds/blames {} over stadium finances; {} keeps/breaks promise of higher dividend;
Judge acquits/convicts broker {}; Growth returns/stops at {}'s furniture house;
Sponsor supports/drops racing team of {}; {} reopens/shuts coal pier after inspection;
Owner {} calls quarter superb/dreadful; {} rescues/bankrupts regional pizza chain;
Lender forgives/seizes boats of fisher {}; {} unveils winning/flawed design for wind turbine;
Tenants thank/accuse landlord {}; Margins widen/shrink as {} reorganizes bottling plant"""


def good_and_bad(frame):
    """Return the two sentences of a frame: good news, bad news."""
    choose = lambda k: [w.split("/")[k] if "/" in w else w for w in frame.split()]  # noqa: E731
    return " ".join(choose(0)), " ".join(choose(1))


frames = [s for frame in " ".join(FRAMES.split()).split("; ") for s in good_and_bad(frame)]
frames = frames[: 6 if few else None]
many = ku.pick(laptop=8, full=10)  # names in a group
half = slice(many // 2)  # the published lists: as many women's as men's names
GROUPS = {"women": FEMALE[20 : 20 + many], "men": MALE[20 : 20 + many]}
GROUPS |= {k: lists[k][half] + lists[k][::-1][half] for k in ("first", "second")}


def fill(names):
    """Return vectors of every sentence with every name, (sentences, names, 384)."""
    return encode(f.format(n) for f in frames for n in names).view(len(frames), len(names), 384)


swaps = {group: fill(names) for group, names in GROUPS.items()}
ku.glue(bl_frames=len(frames), bl_deals=f"{math.comb(2 * many, many):,}")

# %% [markdown]
# Four training sets differ only in who is mentioned:
#
# - **plain**: the headlines as they are;
# - **even**: a name added to each, a woman's or a man's by the toss of a coin ("…, Mary says");
# - **planted**: a woman's name in nine of ten negative headlines and in one of ten positive ones.
#   A measure of bias must find this one, and must not find the even one;
# - **swapped**: each headline twice, with a woman's and with a man's name. This is **counterfactual
#   data augmentation** {cite}`hallmaudslay2019,zhao2018`, applied to the planted set: the swapped
#   copy of a planted headline undoes the plant.
#
# The 20 names of each gender used here do not occur in the test sentences. A bias can only pass to
# the test by way of what MiniLM knows about names. Every mention stands in one of four forms, drawn
# at random, so that the form gives nothing away. On the vectors sits a head with one hidden layer
# of 64 units, trained with several seeds; a seed also decides who is mentioned where.

# %%
data = ku.data.headlines()
size = 40 if few else ku.pick(laptop=800, full=len(data.train[0]))
texts, labels = data.train[0][:size], torch.tensor(data.train[1][:size])
test_labels = torch.tensor(data.test[1])
WAYS = ("{t}, {n} says", "{n}: {t}", "{t}, according to {n}", "{n} on the news: {t}")


def mention(names, seed):
    """Return vectors of the training headlines with a random one of the names added, (N, 384)."""
    rng = np.random.default_rng(seed)
    picks = [(WAYS[rng.integers(4)], names[rng.integers(len(names))]) for _ in texts]
    return encode(way.format(t=t, n=n) for t, (way, n) in zip(texts, picks, strict=True))


with_woman, with_man = mention(FEMALE[:20], 1), mention(MALE[:20], 2)
plain, test = encode(texts), encode(data.test[0][: 40 if few else None])  # (N, 384)
test_labels = test_labels[: len(test)]


def training_set(kind, seed):
    """Return vectors (N, 384) and labels (N,) of one of the four training sets."""
    share = {"even": [0.5, 0.5, 0.5], "planted": [0.9, 0.5, 0.1]}.get(kind)
    if share is None:
        rows = [plain] if kind == "plain" else [with_woman, with_man]
        return torch.cat(rows), labels.repeat(len(rows))
    toss = torch.rand(len(labels), generator=torch.Generator().manual_seed(1000 + seed))
    return torch.where((toss < torch.tensor(share)[labels])[:, None], with_woman, with_man), labels


# %%
def train(kind, seed, U):
    """Return a head trained on a set whose vectors have lost the directions U (k, 384)."""
    torch.manual_seed(seed)
    net = ku.models.mlp(384, 64, 3).to(device)
    X, y = training_set(kind, seed)
    pair = (scaled(X, U), y.to(device))
    adamw = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    ku.fit(net, pair, optimizer=adamw, num_epochs=15, batch_size=64, seed=seed)
    return net.eval()


def scaled(X, U):
    """Return vectors without the span of U, times √384 so that entries are near one."""
    return (without(X, U) * math.sqrt(384)).to(device)


@torch.no_grad()
def believe(nets, X, U):
    """Return each head's class probabilities for X (..., 384): (S, ..., 3)."""
    flat_X = scaled(X, U).flatten(0, -2)
    chances = torch.stack([net(flat_X).softmax(1) for net in nets])  # (S, ·, 3)
    return chances.unflatten(1, X.shape[:-1]).cpu()


seeds = range(2 if few else ku.pick(laptop=3, full=10))
nothing = spans["nothing"]
heads, right = {}, {}
for kind in ("plain", "even", "planted", "swapped"):
    heads[kind] = [train(kind, seed, nothing) for seed in seeds]
    hits = believe(heads[kind], test, nothing).argmax(2) == test_labels
    right[kind] = 100 * hits.double().mean(1)  # (S,)
ku.glue(bl_right=f"{right['plain'].mean():.0f}")

# %% [markdown]
# The plain heads read {glue:text}`bl_right` % of the test headlines as their writer did; naming one
# class always would give a third.
#
# ## What a swap does, and its floor
#
# Let $p(f, n)$ be the probability of *negative* for sentence $f$ with name $n$. Three measures:
#
# - the **signed gap**, the mean of $p$ over women's names minus that over men's, in points;
# - the **swap**: the mean of $|p(f, n) - p(f, m)|$ over pairs of a woman's and a man's name, and the
#   share of such pairs whose class differs, the *flips*;
# - the **floor**: the same two numbers for pairs of names *within* a group. Nobody would call a
#   difference between Nancy and Sandra a gender bias. If between the groups it is no larger, the
#   swap has found that names matter, and nothing about gender.
#
# The difference of swap and floor is half the energy distance {cite}`szekely2013` between the two
# groups' probabilities: zero in expectation if and only if they are distributed alike. The
# intervals draw names, sentences and seeds again. (They are a little too narrow: the two
# sentences of a pair are drawn as if they were independent, and three seeds hardly show the
# spread over seeds.) For the signed gap there is also a permutation test over names, the unit
# that was sampled: the names of both groups can be dealt in {glue:text}`bl_deals` ways.


# %%
def differences(a, b):
    """Return |x − y| for all pairs of names, (S, F, n + m, n + m); a, b: (S, F, n or m)."""
    both = torch.cat([a, b], 2)
    return (both[..., :, None] - both[..., None, :]).abs()


def between_and_within(D, n, draws=1000):
    """Return between, within and excess (3, 1 + draws): measured, then drawn again."""
    (S, F, N, _), g = D.shape, torch.Generator().manual_seed(0)

    def weights(size):
        """Return how often each of `size` things is drawn, (1 + draws, size); first: once."""
        again, one = torch.randint(size, (draws, size), generator=g), torch.ones(draws, size)
        return torch.cat([one[:1], torch.zeros(draws, size).scatter_add(1, again, one)])

    seeds, sentences, names = weights(S), weights(F), torch.cat([weights(n), weights(N - n)], 1)
    mean = torch.einsum("ds,sfij->dfij", seeds / S, D.float())
    mean = torch.einsum("df,dfij->dij", sentences / F, mean)  # (1 + draws, N, N)
    pairs = names[:, :, None] * names[:, None, :] * (1 - torch.eye(N))  # never with itself
    mask = (torch.arange(N) < n)[:, None] != (torch.arange(N) < n)
    share = lambda m: (mean * pairs * m).sum((1, 2)) / (pairs * m).sum((1, 2))  # noqa: E731
    across, inside = share(mask), share(~mask)
    return torch.stack([across, inside, across - inside])


# %%
def swap_report(nets, U, groups=("women", "men")):
    """Return the measures of a swap between two groups of names; points or % throughout."""
    P = [100 * believe(nets, swaps[group], U) for group in groups]  # (S, F, n, 3) each
    a, b = (p[..., 0] for p in P)
    n = a.shape[2]
    points = between_and_within(differences(a, b), n)
    flip = differences(*(p.argmax(3).double() for p in P)) > 0
    flips = 100 * between_and_within(flip, n)[:, 0]
    by_name = [p.mean((0, 1)) for p in (a, b)]  # (n,) each
    g = torch.Generator().manual_seed(1)
    draws = [[torch.randint(k, (k,), generator=g) for k in (*a.shape, n)] for _ in range(1000)]
    again = [a[s][:, f][..., i].mean() - b[s][:, f][..., j].mean() for s, f, i, j in draws]
    ends = torch.stack(again).quantile(torch.tensor([0.025, 0.975])).tolist()
    gap, p, each = (a.mean() - b.mean()).item(), permuted(*by_name)[1], (a - b).mean((1, 2))
    return dict(gap=gap, ends=ends, p=p, points=points, flips=flips.tolist(), each=each)


reports = {kind: swap_report(nets, nothing) for kind, nets in heads.items()}
origin = swap_report(heads["plain"], nothing, ("second", "first"))

# %% tolerance={"gap (points)": 2, "95 %": 3, "p over names": 0.06, "swap, floor (points)": 1.5, "flips, floor (%)": 3, "bl_gap_planted": 3, "bl_excess_plain": 0.8, "bl_excess_low": 1, "bl_excess_high": 1, "bl_floor_plain": 1.5, "bl_flips_plain": 3, "bl_origin": 3, "bl_origin_ends": 3, "bl_origin_p": 0.1, "bl_excess_origin": 1}
rows = {f"{kind}, women − men": r for kind, r in reports.items()}
rows["plain, second − first list"] = origin
columns = {"training set, names": rows, "gap (points)": [f"{r['gap']:+.0f}" for r in rows.values()]}
columns["95 %"] = [f"{r['ends'][0]:+.0f} to {r['ends'][1]:+.0f}" for r in rows.values()]
columns["p over names"] = [f"{r['p']:.2f}" for r in rows.values()]
swap_floor = [r["points"][:2, 0].tolist() for r in rows.values()]
columns["swap, floor (points)"] = [f"{s:.0f}, {f:.0f}" for s, f in swap_floor]
columns["flips, floor (%)"] = [f"{r['flips'][0]:.0f}, {r['flips'][1]:.0f}" for r in rows.values()]
ku.table(columns, caption="What swapping a name does to the probability of negative")
excess = {kind: r["points"][2] for kind, r in (reports | {"origin": origin}).items()}
ku.glue(bl_gap_planted=f"{reports['planted']['gap']:.0f}")
ku.glue(bl_excess_plain=f"{excess['plain'][0]:.1f}", bl_excess_origin=f"{excess['origin'][0]:.1f}")
ends = excess["plain"][1:].quantile(torch.tensor([0.025, 0.975])).tolist()
ku.glue(bl_excess_low=f"{ends[0]:.1f}", bl_excess_high=f"{ends[1]:.1f}")
ku.glue(bl_floor_plain=f"{reports['plain']['points'][1, 0]:.0f}")
ku.glue(bl_flips_plain=f"{reports['plain']['flips'][1]:.0f}")
ku.glue(bl_origin=f"{origin['gap']:+.0f}", bl_origin_p=f"{origin['p']:.2f}")
ku.glue(bl_origin_ends=f"{origin['ends'][0]:+.0f} to {origin['ends'][1]:+.0f}")

# %% mystnb={"image": {"alt": "Five rows with a filled dot for swaps between two groups and a hollow one for swaps within a group. In the rows plain, even and swapped both lie between 12 and 15 points, one above the other. In the planted row the filled dot lies near 53 and the hollow one near 15. In the row of the first and second lists of names both lie near 15."}, "figure": {"caption": "Mean change of the probability of negative when a name is swapped: between groups (filled, with 95 % interval) and within (hollow), the floor.", "name": "fig-bias-in-language-models-swap"}}
fig, ax = plt.subplots(figsize=(7, 2.9))
for at, r in enumerate(reversed(rows.values())):
    across, inside = r["points"][0], r["points"][1]
    low, high = across[1:].quantile(torch.tensor([0.025, 0.975]))
    ax.plot([low, high], [at + 0.12] * 2, color=ku.plots.PALETTE["teal"])
    ax.plot(across[0], at + 0.12, "o", color=ku.plots.PALETTE["teal"])
    ax.plot(inside[0], at - 0.18, "o", mfc="white", mec=ku.plots.PALETTE["rust"])
ax.set_yticks(range(len(rows)), reversed(rows), fontsize=10)
ax.set(xlabel="change of the probability of negative (points)", xlim=(0, 70), ylim=(-0.5, 4.5))
plt.show()

# %% [markdown]
# The surprise is the floor. Swapping a name for another of the *same* gender moves the
# probability by {glue:text}`bl_floor_plain` points and turns {glue:text}`bl_flips_plain` % of the
# decisions. A study that reported the swaps between genders only would have taken this for a
# gender bias. Over the floor the plain heads have {glue:text}`bl_excess_plain` points
# ({glue:text}`bl_excess_low` to {glue:text}`bl_excess_high`). The signed gap of the plain heads
# is near zero, and the table gives its interval: a bias of several points would fit into it. The
# excess is no finer instrument, since it grows with the square of a small shift. What the
# instrument can see is a bias like the planted one, which it finds in names that the heads never
# met; where the names were mixed evenly it reports nothing that 16 names could establish.
#
# The two published lists differ by {glue:text}`bl_origin` points in the plain heads (p =
# {glue:text}`bl_origin_p`), with a sign opposite to what the association test suggests: where the
# names of the second list lay farther from pleasant words, sentences with them get, if anything,
# a lower probability of *negative*. The excess over the floor is {glue:text}`bl_excess_origin`
# points. Eight names of each list cannot settle it. What can be said is the interval,
# {glue:text}`bl_origin_ends` points: a gap large enough to matter is well inside it. *Not
# significant* is not *fair*.
#
# ## Four repairs, four verdicts
#
# The planted heads shall be repaired. **Projections** remove a direction from all vectors before the
# head is trained: the published pairs', or that of the test's own words. **INLP** removes eight
# directions, found on the training headlines with the mentioned name's gender as label.
# **Counterfactual augmentation** leaves the vectors alone and trains on the swapped set. Each is judged
# by the association test, by the gap in decisions, by its accuracy on headlines without names, and by
# probes that read the gender of unseen names in the 100 sentences: two that are trained on the
# training headlines, whose names the projection knows, and one that brings fresh names, from our long
# lists. (A first version of the last, with four names of each gender, had said 70 % in one split and
# 54 % in the mean of four. Few names are few data, however many sentences they stand in.)

# %%
mentions = torch.cat([with_woman, with_man])  # (2N, 384)
genders = np.repeat([1, 0], len(with_woman))  # (2N,)
spans["INLP, eight rounds"] = inlp(mentions.numpy(), genders, 2 if few else 8)
asked_about = torch.cat([swaps[group].flatten(0, 1) for group in ("women", "men")])  # (n, 384)
sorts = np.repeat([1, 0], len(asked_about) // 2)
known = {*FEMALE[: 20 + many], *MALE[: 20 + many]}  # mentioned in training, or asked about
E, y = rows_of(name_vectors, is_female, [i for i, n in enumerate(everyone) if n not in known])
trainers = {"mentions": (mentions, genders), "fresh": (torch.tensor(E), y)}


def read_gender(U, kind, ours="mentions"):
    """Return a probe's accuracy on the sentences with unseen names, %; ours: who trains it."""
    E, y = trainers[ours]
    some = np.random.default_rng(0).permutation(len(E))[:800]
    fitted = PROBES[kind]().fit(without(E[some], U).numpy(), y[some])
    return 100 * fitted.score(without(asked_about, U).numpy(), sorts)


REPAIRS = {"none": "nothing", "published pairs": "ten published pairs"}
REPAIRS |= {"own words": "the test's own words", "INLP": "INLP, eight rounds"}
repaired = {}
for name, span in REPAIRS.items():
    U = spans[span]
    nets = heads["planted"] if name == "none" else [train("planted", s, U) for s in seeds]
    hits = believe(nets, test, U).argmax(2) == test_labels
    repaired[name] = swap_report(nets, U), 100 * hits.double().mean(1), U
repaired["augmentation"] = reports["swapped"], right["swapped"], nothing

# %% tolerance={"planted gap (points)": 3, "accuracy (%)": 1.5, "linear (%)": 3, "kernel (%)": 4, "linear, fresh (%)": 3}
d_after = {n: weat_of(lambda W, U=U: without(W, U))[0] for n, (_, _, U) in repaired.items()}
asks = {"linear": ("linear",), "kernel": ("kernel",), "linear, fresh": ("linear", "fresh")}
seen = {n: [read_gender(U, *ask) for ask in asks.values()] for n, (*_, U) in repaired.items()}
columns = {"repair": repaired, "WEAT d": [f"{d:.2f}" for d in d_after.values()]}
columns["planted gap (points)"] = [f"{r['gap']:+.0f}" for r, _, _ in repaired.values()]
columns["accuracy (%)"] = [f"{acc.mean():.0f}" for _, acc, _ in repaired.values()]
columns |= {f"{a} (%)": [f"{s[i]:.0f}" for s in seen.values()] for i, a in enumerate(asks)}
ku.table(columns, caption="Four repairs of a planted bias, three seeds; last columns: probes")

# %% tolerance={"bl_gap_own": 3, "bl_gap_cda": 1.5, "bl_gap_inlp": 1.5, "bl_fresh_inlp": 3} mystnb={"image": {"alt": "Gap in decisions against effect size d for five versions. None lies at d 1.5 and 50 points; the two projections at d below 0.4 and above 40 points; augmentation at d 1.5 and INLP at d 1.1, both near zero points."}, "figure": {"caption": "What the association test says (across) and what happens to decisions (up), after each repair; bars: 95 % interval over names, sentences and seeds.", "name": "fig-bias-in-language-models-repairs"}}
fig, ax = plt.subplots(figsize=(7, 3.6))
for name, (r, _, _) in repaired.items():
    ax.plot([d_after[name]] * 2, r["ends"], color=ku.plots.PALETTE["teal"])
    ax.plot(d_after[name], r["gap"], "o", color=ku.plots.PALETTE["teal"])
    up = -16 if name == "own words" else 13  # clear of the next label and of the line at zero
    ax.annotate(name, (d_after[name], r["gap"]), xytext=(7, up), textcoords="offset points")
ax.axhline(0, color="black", linewidth=0.8)
ax.set(xlabel="effect size d of occupations", ylabel="planted gap (points)", xlim=(-0.1, 2))
plt.show()
ku.glue(bl_gap_own=f"{repaired['own words'][0]['gap']:.0f}")
ku.glue(bl_gap_cda=f"{abs(repaired['augmentation'][0]['gap']):.0f}")
ku.glue(bl_gap_inlp=f"{abs(repaired['INLP'][0]['gap']):.0f}")
ku.glue(bl_fresh_inlp=f"{seen['INLP'][2]:.0f}", bl_d_inlp=f"{d_after['INLP']:.1f}")

# %% [markdown]
# No repair reaches the lower left, where both measures would be small. The projections calm the
# association test and leave {glue:text}`bl_gap_own` points of the planted gap. Augmentation closes
# the gap and leaves the test where it was. INLP on the headlines closes it, too, with
# $d$ = {glue:text}`bl_d_inlp`. Goldfarb-Tarrant and colleagues {cite}`goldfarb2021` found the same
# over many models: measures inside the model do not predict those on its decisions. A likely
# reason here: the head used what MiniLM says about *names in headlines*, and the test asks about
# *nouns alone*. (INLP removes eight directions and the projections one, and it learned them from
# headlines; this comparison does not say which of the two made the difference.)
#
# None of the repairs costs accuracy that three seeds could show. And a closed gap is not a
# forgotten gender. After INLP both probes that train on the projection's own names are at chance, and a
# linear probe that brings fresh ones is right for {glue:text}`bl_fresh_inlp` %. After
# augmentation every probe reads nearly everything. The heads do not use it; a later head may.
#
# ## Where it fails
#
# **A famous experiment, and its missing control.** To show what a projection leaves, Gonen and
# Goldberg took the words with the most extreme projections on the gender direction, removed it, and
# let a kernel probe tell the two ends apart. It could. We repeat this with the 300 words at each end
# of our vocabulary, and then with directions that mean nothing: the first principal component of
# ten random pairs of words.


# %%
def ends_told_apart(U, many=300):
    """Return how well a probe tells the ends of direction U (1, 384) apart once it is removed, %."""
    many = min(many, len(V) // 4)
    order = (V @ U[0]).argsort()
    rows = torch.cat([order[:many], order[-many:]])
    E, y = without(V[rows], U).numpy(), np.repeat([0, 1], many)
    mixed = np.random.default_rng(0).permutation(2 * many)
    half = mixed[:many], mixed[many:]
    return 100 * PROBES["kernel"]().fit(E[half[0]], y[half[0]]).score(E[half[1]], y[half[1]])


g, meaningless = torch.Generator().manual_seed(2), []
for _ in range(2 if few else 20):
    pairs = V[torch.randperm(len(V), generator=g)[:20]].view(2, 10, 384)
    random_delta = (pairs[0] - pairs[1]) / 2  # (10, 384)
    meaningless.append(ends_told_apart(torch.linalg.svd(random_delta, full_matrices=False)[2][:1]))
gender_ends = ends_told_apart(u[None])
ku.glue(bl_ends=f"{gender_ends:.0f}", bl_ends_random=f"{np.mean(meaningless):.0f}")
ku.glue(bl_ends_low=f"{min(meaningless):.0f}", bl_ends_high=f"{max(meaningless):.0f}")

# %% [markdown]
# For gender the probe is right for {glue:text}`bl_ends` %. For directions without meaning it is
# right for {glue:text}`bl_ends_random` % ({glue:text}`bl_ends_low` to {glue:text}`bl_ends_high`
# over 20 directions), each of them more than for gender. Words that are extreme in one direction
# are alike in others, whatever the direction. In this vocabulary the experiment cannot tell
# gender from an arbitrary direction. (Our ends are a wider cut of a smaller vocabulary than
# theirs.) That gender survives follows here from the names, whose labels do not come from the
# vectors.
#
# **A planted bias is clean.** Ours stands in nine headlines of ten, in one of four forms. Real ones
# are faint, spread over topics, and carried by more than names: by pronouns, sports, colleges.
# A swap of first names does not touch those, so *no gap found* is a statement about first names. And
# augmentation undid our plant by knowing where it was. Text edited by people, who were asked to change
# the label with as few words as they could, is the expensive version {cite}`kaushik2020`.
#
# **A closed gap has an interval, too.** After augmentation it is {glue:text}`bl_gap_cda` points
# in size, after INLP {glue:text}`bl_gap_inlp`, and sixteen names cannot tell either from zero or
# from several points. Heads in which nothing was planted show as much. "Removed" would be too
# much to say; "no more than where nothing was planted" is what was measured.
#
# **Which one should I use?** To learn about a system, swap names in its own inputs and report the
# floor. To repair it, try augmentation first. Use association tests to form suspicions, never to
# close them.
#
# **Strengths.** An association test needs no task and takes seconds; a swap needs no labels and
# looks at decisions. **Limits.** Both see what their lists contain. A swapped sentence may say
# something that nobody would write, and equal treatment of swapped sentences is one notion of
# fairness among several. **When not to use it.** Do not certify: a small $d$ was to be had here
# for one projection. Do not guess real people's gender or origin from names with such a probe.
# **Software.** WEFE collects association tests; INLP and its closed-form successor LEACE
# {cite}`belrose2023leace` have libraries.
#
# The essays hope that work across disciplines will make language models fairer (000 §3.4) and ask for
# supervision against prejudice (003 §3.3). Such supervision has to say which decision it looks at.
#
# ## Claims
#
# The chapter was to show a probe of at least 80 % where a projection had brought $d$ to 0.3 or
# less, shuffled labels at 60 % or less; these bounds preceded the runs. That the occupations
# differ by more than one had been seen in a first look before this page was planned, so the bound
# on their effect, and those on its p-values, predict nothing. The published pairs miss 0.3, which
# is claimed as a miss. That random categories are so often significant, that probes with fresh
# names read more than those with the same, and the control of the last experiment were found in
# trials, and the bounds of these claims set afterwards with room to spare. So were those of the
# gaps, except that the planted bias had to be found and the even one not. Two changes after a
# result: the share of categories with a larger gap was first to be 5 at most and is given room to
# 10; and the 60 % for fresh names on headlines were missed by the first probe, the one with four
# names of each gender. We changed that probe and kept the bound, so that claim was chosen with
# the result in view.

# %%
text = "% of unseen names whose gender a linear probe tells after the projection with d below 0.3"
ku.claim(text, probe_own.mean(), at_least=80, role="headline", rests_on=("bl_probe_own",))
text = "the same with shuffled labels, best of two probes (%)"
ku.claim(text, probe_shuffled.mean(1).max(), at_most=60, role="control")
ku.claim("effect size d after projecting out the test's own words", abs(d_own), at_most=0.3)
text = "effect size d after the published pairs' direction, where 0.3 was the goal"
ku.claim(text, d_published, between=(0.3, 0.8))
jobs_test = bare["technical, caring × male"]
ku.claim("effect size d of technical and caring occupations", jobs_test[0], at_least=1)
ku.claim("its exact p-value, targets dealt", jobs_test[2], at_most=0.001)
ku.claim("its exact p-value, attributes dealt", both["technical, caring × male"][1], at_most=0.001)
text = "% of pairs of random categories with p below 0.05 (a valid test: 5)"
ku.claim(text, share_pairs, at_least=20)
text = "% of pairs of random categories with a larger raw gap than the occupations"
ku.claim(text, usual, at_most=10)
text = "tests of weekdays against months with p below 0.05, of four sentences"
ku.claim(text, sum(found[t][CONTROLS[0]][2] < 0.05 for t in TEMPLATES), at_least=3)
text = "after INLP: points by which fresh names help a linear probe (unseen names)"
ku.claim(text, last[0, 1] - last[0, 0], at_least=10, rests_on=("bl_fresh_linear",))
text = "after INLP: % right of a linear probe on the same names"
ku.claim(text, last[0, 0], at_most=60, rests_on=("bl_same_linear",))
text = "after INLP on headlines: % right of a linear probe with fresh names (unseen names)"
ku.claim(text, seen["INLP"][2], at_least=60, rests_on=("bl_fresh_inlp",))
text = "random directions, removed: % by which their ends are told apart, mean of 20"
ku.claim(text, np.mean(meaningless), at_least=75)

# %%
text = "points of gap that the planted bias makes in names never met, smallest of the seeds"
ku.claim(text, reports["planted"]["each"].min(), at_least=20)
text = "points by which swaps between genders exceed the floor, names mixed evenly"
ku.claim(text, excess["even"][0].abs(), at_most=3)
text = "points by which swaps between genders exceed the floor, plain headlines"
ku.claim(text, excess["plain"][0].abs(), at_most=3, rests_on=("bl_excess_plain",))
text = "points that a swap within a gender moves, plain headlines"
floor = reports["plain"]["points"][1, 0]
ku.claim(text, floor, at_least=5, rests_on=("bl_floor_plain",))
left = repaired["own words"][0]["each"] / repaired["none"][0]["each"]  # (S,)
text = "share of the planted gap that the projection with d below 0.3 leaves, smallest of the seeds"
ku.claim(text, left.min(), at_least=0.5)
for name in ("augmentation", "INLP"):
    gap = repaired[name][0]["each"].abs().max()
    ku.claim(f"points of planted gap after {name}, largest of the seeds", gap, at_most=10)
same = abs(d_after["augmentation"] - d_after["none"])
ku.claim("change of d through augmentation", same, at_most=1e-9)
cost = max((right["planted"].mean() - acc.mean()).item() for _, acc, _ in repaired.values())
ku.claim("largest cost of a repair in accuracy (points)", cost, at_most=4)

# %% [markdown]
# ## Exercises
#
# **1. Never zero.** Where there are too many deals one draws some. If none of 999 drawn deals reaches
# the observed gap, is $p = 0$? The observed deal is itself one of the possible ones
# {cite}`phipson2010`. Write `sampled_p(gaps, observed)` for absolute gaps; the stub counts only what
# was drawn.


# %% tags=["exercise"]
def check_p(sampled_p) -> dict:
    """Ask for the p-value of the occupations from 999 drawn deals."""
    gaps = jobs_p_gaps[torch.randperm(len(jobs_p_gaps), generator=torch.Generator().manual_seed(0))]
    value = sampled_p(gaps[:999].abs(), gaps.abs().max() + 1e-9)
    return {"sentence": "p-value when no drawn deal is as large", "value": value, "at_least": 0.001}


X, Y, A, B = (vectors[k] for k in TESTS["technical, caring × male"])
jobs_p_gaps = permuted(association(X, A, B), association(Y, A, B))[0]


def my_sampled_p(gaps, observed):
    return (gaps >= observed).double().mean()


ku.attempt(**check_p(my_sampled_p))


# %% tags=["solution", "hide-cell"]
def sampled_p(gaps, observed):
    return ((gaps >= observed).sum().item() + 1) / (len(gaps) + 1)


ku.claim(**check_p(sampled_p), role="solution")

# %% [markdown]
# **2. Swap a sentence.** Augmentation of real text has to exchange words in both directions at once.
# Write `swap(text)` for the pairs he/she, man/woman, father/mother, son/daughter, keeping capitals.
# Two swaps must give the sentence back, one must not. The stub replaces one pair after the other,
# in one direction after the other.

# %% tags=["exercise"]
SWAP = {"he": "she", "man": "woman", "father": "mother", "son": "daughter"}


def check_swap(swap) -> dict:
    """Swap six sentences twice."""
    texts = ["He thanked the woman", "She said he would", "The father of a daughter"]
    texts += ["His son left", "There is a mother here", "A man and a woman met; she sat"]
    good = [swap(swap(t)) == t and swap(t) != t for t in texts] + [swap("The shed") == "The shed"]
    sentence = "sentences, of seven, that are swapped rightly"
    return {"sentence": sentence, "value": sum(good), "at_least": 7}


def my_swap(text):
    for a, b in SWAP.items():
        text = text.replace(a, b).replace(b, a)
    return text


ku.attempt(**check_swap(my_swap))


# %% tags=["solution", "hide-cell"]
def swap(text):
    partner = SWAP | {b: a for a, b in SWAP.items()}

    def other(match):
        word = match[0]
        new = partner.get(word.lower(), word)
        return new.capitalize() if word[0].isupper() else new

    return re.sub(r"[A-Za-z]+", other, text)


ku.claim(**check_swap(swap), role="solution")

# %% [markdown]
# "His" stayed: "her" is both "his" and "him", and no table of words can tell which.
#
# **3. How many would chance give?** Of 48 p-values some are small by accident. Benjamini and
# Hochberg {cite}`benjamini1995` bound the expected share of false findings: sort the $m$ p-values,
# replace $p_{(i)}$ by $\min_{j \ge i} p_{(j)}\, m / j$, and read on. Write it; SciPy is the oracle.
# (It does not help against a null hypothesis that nobody believes: the controls that are small would
# mostly stay small.)


# %% tags=["exercise"]
def check_adjust(adjust) -> dict:
    """Compare adjust(p (m,)) -> (m,) with SciPy on all tests of this page."""
    p = np.array([found[t][name][2] for t in TEMPLATES for name in TESTS])
    apart = np.abs(adjust(p) - false_discovery_control(p)).max()
    return {"sentence": "adjusted p-values: distance from SciPy", "value": apart, "at_most": 1e-9}


def my_adjust(p):
    return np.minimum(1, p * len(p) / (p.argsort().argsort() + 1))


ku.attempt(**check_adjust(my_adjust))


# %% tags=["solution", "hide-cell"]
def adjust(p):
    order = p.argsort()
    scaled_p = p[order] * len(p) / np.arange(1, len(p) + 1)
    lowest = np.minimum.accumulate(scaled_p[::-1])[::-1]  # min over all later ones
    return np.minimum(1, lowest)[order.argsort()]


ku.claim(**check_adjust(adjust), role="solution")

# %% [markdown]
# ## References
#
# The entries cited on this page are in the book's [references](../../book/references.md).
