"""Attributions and their measures against closed forms, enumeration and Captum itself."""

import itertools
import math
import warnings

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

import karpa_utils as ku
from karpa_utils import explain
from karpa_utils.explain import attribution

COMPLETE = ("integrated_gradients", "deeplift", "kernel_shap", "shapley_sampling")


def linear() -> nn.Sequential:
    """Return a linear model of 1 × 8 × 8 images with three classes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def network() -> nn.Sequential:
    """Return an untrained network of 3 × 8 × 8 images with two classes."""
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(6)
    nn.init.uniform_(norm.running_mean, -0.2, 0.2)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    layers = [nn.Conv2d(3, 6, 3, padding=1), norm, nn.ReLU(), nn.AvgPool2d(2)]
    layers += [nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)]
    return nn.Sequential(*layers).eval()


def images(channels: int, n: int = 3) -> torch.Tensor:
    return torch.rand(n, channels, 8, 8, generator=torch.Generator().manual_seed(2))


def patch_sums(values: torch.Tensor, patch: int = 4) -> torch.Tensor:
    """Return a map's total in each patch, (B, patches)."""
    parts = values.sum(1).unfold(1, patch, patch).unfold(2, patch, patch)
    return parts.sum((3, 4)).flatten(1)


@pytest.mark.parametrize("method", explain.METHODS)
def test_every_method_leaves_the_model_and_the_random_numbers_alone(method):
    model, x, y = network(), images(3), torch.tensor([0, 1, 1])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = explain.attribute(model, x, y, method, samples=8)
    assert first.shape == x.shape and first.isfinite().all() and not first.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert not any(hasattr(m, "rule") for m in model.modules())
    assert all(p.requires_grad for p in model.parameters()) and not x.requires_grad
    again = explain.attribute(model, x, y, method, samples=8)
    assert torch.allclose(first, again, atol=1e-6)


def test_a_linear_model_has_its_closed_form():
    model, x, y = linear(), images(1), torch.tensor([0, 1, 2])
    baseline = torch.full((1, 1, 8, 8), 0.3)
    weight = model[1].weight[y].view(3, 1, 8, 8)
    truth = (weight * (x - baseline)).detach()
    for method in ("integrated_gradients", "deeplift"):
        assert torch.allclose(
            explain.attribute(model, x, y, method, baseline=baseline), truth, atol=1e-5
        )
    found = explain.attribute(model, x, y, "gradient_shap", baseline=baseline, noise=0.0)
    assert torch.allclose(found, truth, atol=1e-5)
    for method in ("saliency", "smoothgrad"):
        assert torch.allclose(explain.attribute(model, x, y, method), weight.abs(), atol=1e-5)
    assert torch.allclose(explain.attribute(model, x, y, "input_x_gradient"), weight * x, atol=1e-5)
    for method in ("feature_ablation", "shapley_sampling", "kernel_shap"):
        found = explain.attribute(model, x, y, method, baseline=baseline)
        assert torch.allclose(patch_sums(found), patch_sums(truth), atol=1e-3), method
        assert torch.allclose(found[:, :, :4, :4], found[:, :, :1, :1].expand(3, 1, 4, 4))


def exact_shapley(model, x, y, patch: int = 4) -> torch.Tensor:
    """Return the Shapley values of the patches by enumeration of all coalitions, (B, patches)."""
    grid = explain.patch_grid(8, 8, patch)
    players = int(grid.max()) + 1
    found = torch.zeros(len(x), players)
    with torch.no_grad():
        for size in range(players):
            weight = math.factorial(size) * math.factorial(players - size - 1)
            for team in itertools.combinations(range(players), size):
                on = sum((grid == p for p in team), torch.zeros(8, 8, dtype=torch.bool))
                for player in set(range(players)) - set(team):
                    with_it, without = x * (on | (grid == player)), x * on
                    gain = attribution._at(model(with_it) - model(without), y)
                    found[:, player] += weight / math.factorial(players) * gain
    return found


def test_shapley_methods_meet_enumeration():
    model, x, y = network(), images(3), torch.tensor([0, 1, 1])
    truth = exact_shapley(model, x, y)  # 4 patches, 16 coalitions
    scale = truth.abs().max()
    sampled = explain.attribute(model, x, y, "shapley_sampling", samples=400)
    assert (patch_sums(sampled) - truth).abs().max() < 0.05 * scale
    kernel = explain.attribute(model, x, y, "kernel_shap", samples=100)
    assert (patch_sums(kernel) - truth).abs().max() < 0.05 * scale


def test_batches_of_perturbations_give_captums_own_values():
    model, x, y = network(), images(3), torch.tensor([0, 1, 1])
    grid = explain.patch_grid(8, 8, 4).expand(1, 3, 8, 8).contiguous()
    size = 16 * 3
    ablation = captum.attr.FeatureAblation(model).attribute(x, target=y, feature_mask=grid)
    assert torch.allclose(
        explain.attribute(model, x, y, "feature_ablation") * size, ablation, atol=1e-5
    )
    occlusion = captum.attr.Occlusion(model).attribute(x, (3, 3, 3), target=y)
    assert torch.allclose(explain.attribute(model, x, y, "occlusion") * 27, occlusion, atol=1e-5)
    torch.manual_seed(0)
    shapley = captum.attr.ShapleyValueSampling(model).attribute(
        x, target=y, feature_mask=grid, n_samples=8
    )
    found = explain.attribute(model, x, y, "shapley_sampling", samples=8)
    assert torch.allclose(found * size, shapley, atol=1e-5)


def test_lrp_folds_batch_norms_and_keeps_the_total():
    model, x, y = network(), images(3), torch.tensor([0, 1, 1])
    for module in model:
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)  # without biases no rule loses relevance
    nn.init.zeros_(model[1].running_mean)
    logits = attribution._at(model(x), y)
    total = explain.attribute(model, x, y, "lrp").sum((1, 2, 3))
    assert torch.allclose(total, logits, rtol=1e-3)


@pytest.mark.parametrize("method", COMPLETE)
def test_complete_methods_are_complete(method):
    model, x, y = network(), images(3), torch.tensor([0, 1, 1])
    found = explain.attribute(model, x, y, method, samples=200)
    gap = explain.faithfulness(model, x, y, found)["completeness"]
    assert gap.max() < 0.01 * attribution._at(model(x) - model(0 * x), y).abs().max()


# --- measures -----------------------------------------------------------------------------------


def test_deletion_and_insertion_against_a_loop():
    model, x, y = network(), images(3, 2), torch.tensor([1, 0])
    heat = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    found = explain.faithfulness(model, x, y, heat, baseline=0.5, step=16)
    for row in range(2):
        order = heat[row].sum(0).flatten().argsort(descending=True)
        curves = {"deletion": [], "insertion": []}
        for cut in (0, 16, 32, 48, 64):
            first = torch.zeros(64, dtype=torch.bool)
            first[order[:cut]] = True
            for name, off in {"deletion": first, "insertion": ~first}.items():
                changed = torch.where(off.view(8, 8), torch.tensor(0.5), x[row])
                curves[name].append(model(changed[None]).softmax(1)[0, y[row]].item())
        for name, curve in curves.items():
            area = sum((a + b) / 2 for a, b in itertools.pairwise(curve)) / 4
            assert found[name][row].item() == pytest.approx(area, abs=1e-5)


def test_infidelity_is_zero_for_the_truth_at_any_scale_and_near_one_for_noise():
    model, x, y = linear(), images(1), torch.tensor([0, 1, 2])
    truth = explain.attribute(model, x, y, "integrated_gradients")
    for scale in (1.0, 100.0):
        found = explain.faithfulness(model, x, y, scale * truth, draws=200)
        assert found["infidelity"].max() < 1e-4
    assert explain.faithfulness(model, x, y, -truth)["infidelity"].min() == 1  # the wrong sign
    assert explain.faithfulness(model, x, y, torch.zeros_like(x))["infidelity"].min() == 1
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert explain.faithfulness(model, x, y, noise, draws=500)["infidelity"].mean() > 0.6


def test_infidelity_is_captums_over_that_of_a_map_of_zeros():
    model, x, y = network(), images(3), torch.tensor([0, 1, 1])
    heat = explain.attribute(model, x, y, "input_x_gradient")
    squares = attribution._squares(64, 8, 8, 4, seed=0).view(64, 1, 8, 8)
    turn = iter(squares.repeat_interleave(1, 0))

    def switch(inputs):  # one square at a time for all images: what is taken away, what remains
        off = next(turn).expand(inputs.shape)
        return inputs * 0 + off, torch.where(off, torch.zeros(()), inputs)

    from captum.metrics import infidelity

    def one(normalize, attribution):
        nonlocal turn
        turn = iter(squares)
        return infidelity(
            model, switch, x, attribution, target=y, n_perturb_samples=64,
            max_examples_per_batch=len(x), normalize=normalize,
        )  # fmt: skip

    # `off` is one where a number goes, so that its product with the map is what the map says
    theirs = one(True, heat) / one(False, torch.zeros_like(heat))
    ours = explain.faithfulness(model, x, y, heat, draws=64)["infidelity"]
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_sensitivity_of_a_gradient_that_never_changes_and_of_one_that_does():
    x = images(1)
    flat = explain.sensitivity(torch.ones_like, x, torch.ones_like(x))
    assert torch.equal(flat, torch.zeros(3))
    moved = explain.sensitivity(lambda z: z, x, x, radius=0.1)
    bound = 0.1 * 8 / x.flatten(1).norm(dim=1)  # ‖noise‖ ≤ radius · √64
    assert (moved > 0).all() and (moved <= bound).all()


def test_sparsity_and_localization_by_hand():
    point = torch.zeros(1, 2, 8, 8)
    point[0, :, 3, 4] = -2.0
    assert explain.sparsity(point).item() == pytest.approx(63 / 64)
    assert explain.sparsity(torch.ones(1, 2, 8, 8)).item() == pytest.approx(0, abs=1e-6)
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 3, 4] = mask[0, 0, 0] = True
    heat = point.clone()
    heat[0, 0, 7, 7] = 1.0  # outside: a fifth of the map, and the second highest pixel
    found = explain.localization(heat, mask)
    assert found["mass"].item() == pytest.approx(4 / 5) and found["rank"].item() == 0.5


def test_edges_see_steps_and_nothing_else():
    x = torch.zeros(1, 1, 8, 8)
    x[..., 4:] = 1.0
    edges = explain.controls(x)["edges"]
    assert torch.equal(edges[0, 0, 0] > 0, torch.tensor([0, 0, 0, 1, 1, 0, 0, 0]).bool())


def test_the_cascade_draws_the_last_layers_anew_and_no_others():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one = explain.randomized(model, 1, seed=5).state_dict()
    changed = {
        name.split(".")[0] for name, value in one.items() if not torch.equal(value, before[name])
    }
    assert changed == {"7"}
    every = explain.randomized(model, seed=5).state_dict()
    assert not torch.equal(every["0.weight"], before["0.weight"])
    assert torch.equal(model.state_dict()["7.weight"], before["7.weight"])
    assert not torch.equal(
        explain.randomized(model, seed=6).state_dict()["7.weight"], one["7.weight"]
    )


# --- bad input ----------------------------------------------------------------------------------


def bad(text: str):
    return pytest.raises(ku.BadInput, match=text)


def test_bad_input_gets_one_sentence():
    x, y = images(1), torch.tensor([0, 1, 2])
    model = linear()
    with bad("Unknown method 'magic'"):
        explain.attribute(model, x, y, "magic")
    with bad("must return logits"):
        explain.attribute(nn.Identity(), x, y)
    with bad("must return logits"):
        explain.attribute(nn.LSTM(8, 2), x[:, 0], y)
    with bad("single class"):
        explain.attribute(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), x, y)
    for target in (torch.tensor([0, 1, 3]), torch.tensor([0, -1, 1])):
        with bad("out of range: the model has classes 0 to 2"):
            explain.attribute(model, x, target)
    with bad("3 class indices"):
        explain.attribute(model, x, y[:2])
    with bad("no convolution"):
        explain.attribute(model, x, y, "gradcam")
    with bad("images' shape"):
        explain.faithfulness(model, x, y, x[:, :, 1:])
    with bad("not finite"):
        explain.faithfulness(model, x, y, x / 0)
    mask = torch.ones(3, 8, 8, dtype=torch.bool)
    with bad("The mask must be bool"):
        explain.localization(x, mask[:, 1:])
    mask[1] = False
    with bad("A mask is empty"):
        explain.localization(x, mask)
