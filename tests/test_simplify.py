"""Pruning, cost and distillation against masks, hand counts and closed forms."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import karpa_utils as ku
from karpa_utils import simplify

torchvision = pytest.importorskip("torchvision")  # after karpa_utils, which mends it

DIGITS, PHOTOS = torch.randn(3, 1, 28, 28), torch.randn(3, 3, 64, 64)
MODELS = {
    "mlp": (lambda: ku.models.mlp(784, 64, 32, 10), DIGITS),
    "small_cnn": (lambda: ku.models.small_cnn(width=16), DIGITS),
    "small_resnet": (lambda: ku.models.small_resnet(2, 8), DIGITS),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), PHOTOS),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=10), PHOTOS),
}


def lively(build):
    """Return a model whose batch norms have statistics, weights and biases of their own."""
    torch.manual_seed(0)
    model = build()
    for layer in model.modules():
        if isinstance(layer, simplify.NORMS):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 1.5)
    return model.eval()


def masked(model, groups, kept):
    """Return a copy in which the inputs that read a removed channel are multiplied by zero."""
    model = copy.deepcopy(model)
    layers = dict(model.named_modules())
    with torch.no_grad():
        for group, keep in zip(groups, kept, strict=True):
            gone = torch.ones(group.channels, dtype=torch.bool)
            gone[keep] = False
            for part in group.parts:
                if part.dim == 1:
                    layers[part.layer].weight[:, gone.repeat_interleave(part.repeat)] = 0
    return model


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("name", MODELS)
def test_the_pruned_model_computes_what_the_masked_one_does(name, scope):
    build, x = MODELS[name]
    model = lively(build)
    groups = simplify.channel_groups(model, x)
    scores = simplify.importances(model, groups, "random", seed=1)
    small = ku.simplify.prune_channels(model, x, 0.4, importance=scores, scope=scope)
    kept = simplify._kept(scores, 0.4, scope, 1)
    x = torch.randn_like(x)
    with torch.no_grad():
        expected, found = masked(model, groups, kept)(x), small(x)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1)
    assert (found - model(x)).abs().max() > 1e-3  # something was removed
    sizes = [sum(p.numel() for p in m.parameters()) for m in (small, model)]
    assert sizes[0] < 0.8 * sizes[1]


@pytest.mark.parametrize("name", MODELS)
def test_the_pruned_model_is_an_ordinary_module(name, tmp_path):
    build, x = MODELS[name]
    model = lively(build)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    small = ku.simplify.prune_channels(model, x, 0.5, round_to=4)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert list(small.state_dict()) == list(before)
    for layer in small.modules():  # what it says of itself is what its weights are
        if isinstance(layer, simplify.CONVOLUTIONS):
            inputs = layer.in_channels // layer.groups
            assert layer.weight.shape[:2] == (layer.out_channels, inputs)
        elif isinstance(layer, nn.Linear):
            assert layer.weight.shape == (layer.out_features, layer.in_features)
        elif isinstance(layer, simplify.NORMS):
            assert len(layer.running_var) == len(layer.weight) == layer.num_features
    small.train()
    F.cross_entropy(small(x), torch.tensor([0, 1, 2])).backward()
    assert all(p.grad is not None for p in small.parameters())


def test_the_groups_of_a_residual_network_are_those_counted_by_hand():
    model, x = torchvision.models.resnet18(), PHOTOS
    groups = simplify.channel_groups(model, x)
    streams = [g for g in groups if len(g.outputs) > 2]  # what the residual sums tie together
    inner = [g for g in groups if len(g.outputs) == 2]  # inside a block: one convolution, one norm
    assert sorted(g.channels for g in streams) == [64, 128, 256, 512]
    assert sorted(g.channels for g in inner) == 2 * [64] + 2 * [128] + 2 * [256] + 2 * [512]
    first = next(g for g in streams if g.channels == 64)
    computed = {part.layer for part in first.outputs if "bn" not in part.layer}
    assert computed == {"conv1", "layer1.0.conv2", "layer1.1.conv2"}
    last = next(g for g in streams if g.channels == 512)
    assert ("fc", 1) in {(part.layer, part.dim) for part in last.parts}


def test_half_the_channels_are_about_a_quarter_of_the_operations():
    model = torchvision.models.resnet18()
    small = ku.simplify.prune_channels(model, PHOTOS, 0.5)
    macs = [ku.simplify.cost(m, PHOTOS, repeats=0)["macs"] for m in (small, model)]
    assert 0.24 < macs[0] / macs[1] < 0.28  # the first layer keeps its three inputs


def test_magnitude_removes_the_filters_made_small():
    model = lively(lambda: ku.models.small_cnn(width=8))
    weak = torch.tensor([1, 4, 6])
    model[0].weight.data[weak] *= 1e-3
    small = ku.simplify.prune_channels(model, DIGITS, 3 / 8)
    stay = [c for c in range(8) if c not in weak]
    assert torch.equal(small[0].weight, model[0].weight[stay])
    assert torch.equal(small[1].running_mean, model[1].running_mean[stay])


def test_taylor_is_the_squared_gradient_of_a_gate():
    """With y = gate · conv(x), the gradient at gate = 1 is the sum of gradient · weight."""
    torch.manual_seed(0)
    conv, head = nn.Conv2d(1, 6, 3, bias=False), nn.Linear(6 * 26 * 26, 10)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), head)
    x, y = torch.randn(20, 1, 28, 28), torch.arange(20) % 10
    gate = torch.ones(6, requires_grad=True)
    expected = torch.zeros(6)
    for part in (slice(0, 10), slice(10, 20)):
        logits = head((gate[:, None, None] * conv(x[part])).relu().flatten(1))
        (slope,) = torch.autograd.grad(F.cross_entropy(logits, y[part]), gate)
        expected += slope.square()
    groups = simplify.channel_groups(model, x)
    (score,) = simplify.importances(model, groups, "taylor", data=(x, y), batch_size=10)
    assert torch.allclose(score, expected, rtol=1e-4)


def test_macs_equal_hand_counts():
    def macs(model, x):
        return ku.simplify.cost(model, x, repeats=0)["macs"]

    image = torch.randn(2, 8, 10, 10)
    assert macs(nn.Conv2d(8, 16, 3, padding=1), image) == 2 * 16 * 8 * 9 * 100
    assert macs(nn.Conv2d(8, 16, 3, padding=1, groups=4), image) == 2 * 16 * 2 * 9 * 100
    assert macs(nn.Conv2d(8, 8, 3, padding=1, groups=8), image) == 2 * 8 * 9 * 100
    assert macs(nn.Conv2d(8, 16, 3, stride=2), image) == 2 * 16 * 8 * 9 * 16
    assert macs(nn.Linear(30, 7), torch.randn(5, 30)) == 5 * 30 * 7
    assert macs(nn.Linear(30, 7), torch.randn(5, 4, 30)) == 5 * 4 * 30 * 7
    B, T, D = 2, 6, 8
    layer = nn.TransformerEncoderLayer(D, 2, dim_feedforward=32, batch_first=True)
    by_hand = B * (4 * T * D * D + 2 * T * T * D + 2 * T * D * 32)  # q k v out, QKᵀ and AV, MLP
    assert macs(layer, torch.randn(B, T, D)) == by_hand


def test_cost_counts_parameters_and_the_bytes_of_the_file(tmp_path):
    from safetensors.torch import save_file

    model = ku.models.small_cnn(width=8).train()
    model[1].eval()  # one layer frozen, as in fine-tuning
    found = ku.simplify.cost(model, DIGITS, repeats=4)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert found["bytes"] == (tmp_path / "model.safetensors").stat().st_size
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert 0 < found["latency_ms_low"] <= found["latency_ms"] <= found["latency_ms_high"]
    assert model.training and not model[1].training  # their modes are put back


def test_latency_takes_turns():
    calls = []
    models = {name: (lambda x, name=name: calls.append(name), DIGITS) for name in "ab"}
    found = ku.simplify.latency(models, repeats=3, warm_up=1)
    assert calls == list("abababab")
    assert set(found) == {"a", "b"}


def test_latency_is_short_in_a_rehearsal(monkeypatch):
    calls = []
    monkeypatch.setenv("KARPA_STEPS", "2")
    found = ku.simplify.latency({"a": (calls.append, DIGITS)}, repeats=400, warm_up=40)
    assert len(calls) == 2 + 4
    assert set(found) == {"a"}


def test_distillation_loss_against_its_parts():
    torch.manual_seed(0)
    student, teacher, y = torch.randn(5, 10), torch.randn(5, 10), torch.arange(5)
    loss = ku.simplify.distillation_loss
    assert torch.isclose(loss(student, teacher, y, weight=0), F.cross_entropy(student, y))
    assert loss(teacher, teacher, y, weight=1).abs() < 1e-6
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    by_hand = 9 * (p * (p / q).log()).sum(1).mean()
    assert torch.isclose(loss(student, teacher, y, temperature=3, weight=1), by_hand)
    student.requires_grad_()  # at high temperature: matching logits, each row without its mean
    (slope,) = torch.autograd.grad(loss(student, teacher, y, temperature=1e3, weight=1), student)
    gap = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    assert torch.allclose(slope, gap / (10 * 5), atol=1e-3)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(784, 784), nn.Linear(784, 10)

    def forward(self, x):
        return self.b(self.a(self.a(x.flatten(1))))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(784, 784), nn.Linear(784, 784), nn.Linear(784, 10)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.c(self.b(self.a(x.flatten(1))))


class Asks(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(784, 10)

    def forward(self, x):
        return self.a(x.flatten(1)) if x.sum() > 0 else x


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.5, float("nan")])
def test_a_ratio_outside_zero_and_one_is_refused(ratio):
    with pytest.raises(ku.BadInput, match="between 0 and 1"):
        ku.simplify.prune_channels(ku.models.mlp(784, 8, 10), DIGITS, ratio)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (ku.models.mlp(784, 10), {}, "nothing to prune"),
        (Twice(), {}, "'a' is used twice"),
        (Tied(), {}, "'b' is used twice"),
        (Asks(), {}, "cannot be traced"),
        (ku.models.mlp(784, 8, 10), {"importance": "taylor"}, "needs data"),
        (ku.models.mlp(784, 8, 10), {"importance": "beauty"}, "'beauty'"),
        (ku.models.mlp(784, 8, 10), {"scope": "room"}, "'room'"),
    ],
)
def test_what_cannot_be_pruned_is_refused_and_left_alone(model, options, words):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ku.BadInput, match=words) as caught:
        ku.simplify.prune_channels(model, DIGITS, 0.5, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_channels_that_reach_something_unknown_stay():
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 6, 3)
            self.c = nn.Conv2d(6, 4, 3)

        def forward(self, x):
            x = F.channel_shuffle(self.a(x), 2)  # mixes the channels' order
            return self.c(F.relu(self.b(x))).mean((2, 3))

    small = ku.simplify.prune_channels(Shuffled(), DIGITS, 0.5)
    assert (small.a.out_channels, small.b.out_channels, small.c.out_channels) == (8, 3, 4)
    assert small(DIGITS).shape == (3, 4)
