"""Attributions of a classifier's decision to its input, and measures of whether they are right.

`attribute` gives fifteen methods one interface over Captum, with their perturbations batched.
`faithfulness`, `sensitivity`, `sparsity` and `localization` judge a map; `controls` gives the maps
that any method has to beat. Taught in interpretability/local_attributions.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from karpa_utils.errors import BadInput

GRADIENT_METHODS = (
    *("saliency", "input_x_gradient", "integrated_gradients", "smoothgrad", "gradient_shap"),
    *("deeplift", "lrp", "guided_backprop", "gradcam", "guided_gradcam"),
)
PERTURBATION_METHODS = ("occlusion", "feature_ablation", "lime", "kernel_shap", "shapley_sampling")
METHODS = GRADIENT_METHODS + PERTURBATION_METHODS

ROWS = 512  # images in one evaluation of the model


def attribute(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    method: str = "integrated_gradients",
    *,
    baseline: Tensor | float = 0.0,
    # what stands for "absent": a number, or a tensor that expands to x
    layer: nn.Module | None = None,
    # of the model, for gradcam and guided_gradcam; None is the last convolution
    patch: int = 4,
    # pixels along the side of the patches that perturbation methods switch
    samples: int = 32,
    # draws, steps or permutations of the methods that have them; lime and kernel_shap take 8 each
    noise: float = 0.1,
    # standard deviation added to x by smoothgrad and gradient_shap
    seed: int = 0,
) -> Tensor:
    """Return what each input number adds to its image's target logit: x's shape (B, C, H, W).

    target: (B,) class indices. For the patch methods a patch's value is shared evenly by its
    numbers, so that sums are totals for every method (Captum repeats it at each number). The model
    stays as it is, random numbers outside are not consumed, and Captum's notices about its own
    hooks are not shown. Raises BadInput for an unknown method, a model without logits of two or
    more classes, or a target out of range. Sources: each method's reference in the chapter.
    """
    if method not in METHODS:
        raise BadInput(f"Unknown method {method!r}: choose one of {', '.join(METHODS)}.")
    _check_classifier(model, x, target)
    model = copy.deepcopy(model).eval().requires_grad_(False)  # hooks and rules go to the copy
    x = x.detach().clone().requires_grad_()  # Captum warns where it has to ask for the gradient
    baseline = torch.as_tensor(baseline, dtype=x.dtype, device=x.device).expand(x.shape)
    with _seeded(seed, x), _without_hook_notices():
        run = _patches if method in PERTURBATION_METHODS else _gradients
        return run(model, x, target, method, baseline, layer, patch, samples, noise).detach()


def _gradients(model, x, target, method, baseline, layer, patch, samples, noise) -> Tensor:
    """Return a map that needs gradients, or rules in their place: (B, C, H, W)."""
    from captum import attr  # here: it takes half a second, and most chapters do without

    chunk = max(1, ROWS // len(x))  # noisy or interpolated copies of the whole batch in one pass
    if method == "saliency":
        return attr.Saliency(model).attribute(x, target)
    if method == "input_x_gradient":
        return attr.InputXGradient(model).attribute(x, target)
    if method == "integrated_gradients":
        return attr.IntegratedGradients(model).attribute(
            x, baseline, target, n_steps=samples, internal_batch_size=ROWS
        )
    if method == "smoothgrad":
        tunnel = attr.NoiseTunnel(attr.Saliency(model))
        draws = {"nt_samples": samples, "nt_samples_batch_size": min(chunk, samples)}
        return tunnel.attribute(x, nt_type="smoothgrad", stdevs=noise, target=target, **draws)
    if method == "gradient_shap":  # in parts, for it has no internal batch size
        found, left = torch.zeros_like(x), samples
        while left:
            n = min(chunk, left)
            part = attr.GradientShap(model).attribute(
                x, baseline, n_samples=n, stdevs=noise, target=target
            )
            found, left = found + n / samples * part, left - n
        return found
    if method == "deeplift":
        return attr.DeepLift(model).attribute(x, baseline, target)
    if method == "lrp":
        return attr.LRP(_with_rules(model)).attribute(x, target)
    if method == "guided_backprop":
        return attr.GuidedBackprop(model).attribute(x, target)
    layer = _last_convolution(model) if layer is None else layer
    coarse = attr.LayerGradCam(model, layer).attribute(x, target, relu_attributions=True)
    coarse = F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False)  # (B,1,H,W)
    if method == "gradcam":
        return coarse.expand(x.shape) / x.shape[1]
    return coarse * attr.GuidedBackprop(model).attribute(x, target)


def _patches(model, x, target, method, baseline, layer, patch, samples, noise) -> Tensor:
    """Return a map that needs only the model's answers to changed images: (B, C, H, W)."""
    from captum import attr

    count, channels, height, width = x.shape
    mask = patch_grid(height, width, patch).to(x.device)  # (H, W)
    size = mask.flatten().bincount()[mask] * channels  # (H, W): numbers that share a value
    shared = {"baselines": baseline, "target": target}
    many = {"perturbations_per_eval": max(1, ROWS // count)}
    with torch.no_grad():
        if method == "occlusion":  # windows of 3 × 3 that overlap; a pixel gets their mean
            window = (channels, 3, 3)
            found = attr.Occlusion(model).attribute(x, window, strides=1, **shared, **many)
            return found / (channels * 9)
        if method in ("feature_ablation", "shapley_sampling"):
            if method == "feature_ablation":
                explainer, draws = attr.FeatureAblation(model), {}
            else:
                explainer, draws = attr.ShapleyValueSampling(model), {"n_samples": samples}
            grid = mask.expand(1, channels, height, width).contiguous()
            found = explainer.attribute(x, feature_mask=grid, **shared, **draws, **many)
            return found / size
        explain = attr.Lime(model) if method == "lime" else attr.KernelShap(model)
        found = []
        for row in range(count):  # each image has a linear model of its own
            values = explain.attribute(
                x[row : row + 1],
                baselines=baseline[row : row + 1],
                target=target[row : row + 1],
                feature_mask=mask.expand(1, channels, height, width),
                n_samples=8 * samples,
                perturbations_per_eval=ROWS,
            )
            found.append(values / size)
        return torch.cat(found)


def patch_grid(height: int, width: int, patch: int) -> Tensor:
    """Return the number of the patch that each pixel belongs to, (height, width), from 0."""
    rows, columns = torch.arange(height) // patch, torch.arange(width) // patch
    return rows[:, None] * math.ceil(width / patch) + columns


@contextmanager
def _seeded(seed: int, x: Tensor) -> Iterator[None]:
    """Draw from this seed inside, and leave all generators outside where they were."""
    numpy_state = np.random.get_state()  # Captum's GradientShap draws from NumPy
    with torch.random.fork_rng([x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)


@contextmanager
def _without_hook_notices() -> Iterator[None]:
    """Captum tells at each call that it sets and removes hooks: here it does so on a copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Setting (forward, )?backward hooks")
        yield


class _Flat(nn.Sequential):
    """nn.Flatten for Captum's LRP, which knows no rule for it: not a leaf, with a leaf it knows."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(nn.Dropout(0.0))
        self.dims = start, end

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten(*self.dims)


def _with_rules(model: nn.Module) -> nn.Module:
    """Return the model as Captum's LRP needs it: gamma rule for convolutions, epsilon elsewhere.

    Each batch norm is folded into its convolution, for rules that treat the two apart lose the
    total; layers that only pass numbers on, and for which Captum has no rule, are exchanged.
    """
    from captum.attr._utils.lrp_rules import GammaRule

    for parent in list(model.modules()):
        if isinstance(parent, nn.Sequential):
            for i in range(1, len(parent)):
                if isinstance(parent[i - 1], nn.Conv2d) and isinstance(parent[i], nn.BatchNorm2d):
                    parent[i - 1] = fuse_conv_bn_eval(parent[i - 1], parent[i])
                    parent[i] = nn.Dropout(0.0)
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Flatten):
                setattr(parent, name, _Flat(child.start_dim, child.end_dim))
            elif isinstance(child, nn.Identity):
                setattr(parent, name, nn.Dropout(0.0))
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            raise BadInput(f"LRP cannot fold the batch norm {name!r}: no convolution before it.")
        if isinstance(module, nn.Conv2d):
            module.rule = GammaRule()
    return model


def _last_convolution(model: nn.Module) -> nn.Module:
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not layers:
        raise BadInput("The model has no convolution for GradCAM: give the layer, layer=….")
    return layers[-1]


def _check_classifier(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Return the model's logits (B, C), or raise BadInput where they are none."""
    with torch.no_grad():
        logits = model(x)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BadInput(f"The model must return logits (batch, classes); it returned {found}.")
    classes = logits.shape[1]
    if classes < 2:
        raise BadInput("The model has a single class: there is no decision to explain.")
    if target.shape != (len(x),) or target.is_floating_point():
        raise BadInput(f"target must be {len(x)} class indices, not {tuple(target.shape)}.")
    if len(target) and not (target.min() >= 0 and target.max() < classes):
        raise BadInput(f"A target is out of range: the model has classes 0 to {classes - 1}.")
    return logits


# --- is the map true to the model? ------------------------------------------------------------


def faithfulness(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    attribution: Tensor,
    *,
    baseline: Tensor | float = 0.0,
    step: int = 8,
    # pixels switched at a time by deletion and insertion
    draws: int = 64,
    # random squares switched off, for infidelity
    side: int = 4,
    # pixels along a square's side
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return measure -> one number an image, (B,); all from the map's sum over channels.

    deletion: mean probability of the target while pixels go to the baseline, the highest first;
        lower is better (Petsiuk et al. 2018). The mean is taken by trapezoids.
    insertion: the same from the baseline back to the image; higher is better.
    infidelity: 1 - squared uncentered correlation, over random squares, between a square's
        attribution and what the target logit loses without it; 0 is perfect, 1 is blind or of the
        wrong sign. It is the infidelity of Yeh et al. (2019) at the best positive scale of the
        map, over its value for a map of zeros, so that a method's unit does not count.
    completeness: |sum of the map - (logit of x - logit of the baseline)|, in logits; 0 is perfect.
    Raises BadInput as `attribute` does, and for a map of another shape than x or with NaN.
    """
    logits = _check_classifier(model, x, target)
    _check_map(attribution, x)
    baseline = torch.as_tensor(baseline, dtype=x.dtype, device=x.device).expand(x.shape)
    heat = attribution.sum(1).flatten(1)  # (B, P)
    count, pixels = heat.shape
    rank = heat.argsort(1, descending=True).argsort(1)  # (B, P): 0 is the highest
    cuts = torch.tensor([*range(0, pixels, step), pixels], device=x.device)  # (K,)
    gone = rank[None] < cuts[:, None, None]  # (K, B, P)
    probability = {}
    for name, off in {"deletion": gone, "insertion": ~gone}.items():
        logit = _answers(model, x, baseline, off)  # (K, B, classes)
        probability[name] = _at(logit.softmax(2), target)  # (K, B)
    share = cuts / pixels
    found = {name: torch.trapezoid(p, share, dim=0) for name, p in probability.items()}  # (B,)

    squares = _squares(draws, *x.shape[2:], side, seed).to(x.device)  # (D, P)
    whole = _at(logits, target)  # (B,)
    without = _at(_answers(model, x, baseline, squares[:, None].expand(-1, count, -1)), target)
    lost = whole - without  # (D, B)
    said = squares.to(heat.dtype) @ heat.T  # (D, B)
    tiny = torch.finfo(heat.dtype).tiny
    agree = (lost * said).mean(0).clamp_min(0).square() / (
        lost.square().mean(0) * said.square().mean(0) + tiny
    )
    with torch.no_grad():
        absent = _at(model(baseline), target)
    total = heat.sum(1) - (whole - absent)
    return found | {"infidelity": 1 - agree, "completeness": total.abs()}


def _answers(model: nn.Module, x: Tensor, baseline: Tensor, off: Tensor) -> Tensor:
    """Return the logits (K, B, classes) of x where the pixels `off` (K, B, P) are switched off."""
    turns, count, _ = off.shape
    each = max(1, ROWS // count)
    found = []
    with torch.no_grad():
        for part in off.split(each):  # (k, B, P)
            mask = part.view(len(part), count, 1, *x.shape[2:])
            found.append(model(torch.where(mask, baseline, x).flatten(0, 1)))
    return torch.cat(found).view(turns, count, -1)


def _at(values: Tensor, target: Tensor) -> Tensor:
    """Return each image's value for its target: (..., B, classes) -> (..., B)."""
    index = target.expand(values.shape[:-1])[..., None]
    return values.gather(-1, index)[..., 0]


def _squares(draws: int, height: int, width: int, side: int, seed: int) -> Tensor:
    """Return random squares as rows of pixels: bool (draws, height * width)."""
    generator = torch.Generator().manual_seed(seed)
    top = torch.randint(height - side + 1, (draws, 1), generator=generator)
    left = torch.randint(width - side + 1, (draws, 1), generator=generator)
    down, right = torch.arange(height) - top, torch.arange(width) - left  # (draws, H), (draws, W)
    inside = [(offset >= 0) & (offset < side) for offset in (down, right)]
    return (inside[0][:, :, None] & inside[1][:, None, :]).flatten(1)


def sensitivity(
    explain: Callable[[Tensor], Tensor],
    x: Tensor,
    attribution: Tensor,
    *,
    radius: float = 0.02,
    draws: int = 4,
    seed: int = 0,
) -> Tensor:
    """Return how far the map moves when x moves by at most `radius` a number: (B,).

    The largest relative change ‖map(x + noise) - map(x)‖ / ‖map(x)‖ over the draws: the maximum
    sensitivity of Yeh et al. (2019), lower is better. explain: images -> their maps.
    """
    _check_map(attribution, x)
    generator = torch.Generator().manual_seed(seed)
    worst = torch.zeros(len(x), device=x.device)
    for _ in range(draws):
        noise = (2 * torch.rand(x.shape, generator=generator) - 1) * radius
        moved = explain(x + noise.to(x.device)) - attribution
        worst = torch.maximum(worst, _length(moved) / _length(attribution).clamp_min(1e-12))
    return worst


def _length(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values.flatten(1), dim=1)


def sparsity(attribution: Tensor) -> Tensor:
    """Return the Gini index of each map's pixels, (B,): 0 is even, near 1 is a single pixel.

    Of the absolute sum over channels (Chalasani et al. 2020). A map of zeros has 0.
    """
    heat = attribution.sum(1).flatten(1).abs().sort(1).values  # (B, P), ascending
    n = heat.shape[1]
    weight = 2 * torch.arange(1, n + 1, device=heat.device) - n - 1
    return (heat * weight).sum(1) / (n * heat.sum(1)).clamp_min(torch.finfo(heat.dtype).tiny)


# --- does it show the pixels that decide? -----------------------------------------------------


def localization(attribution: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return measure -> one number an image, (B,), from absolute sums over channels.

    mask: bool (B, H, W), the pixels that decide. mass: the share of the map inside the mask. rank:
    of the K highest pixels the share inside, K being the mask's size (both Arras et al. 2022).
    Chance is the mask's share of the image for both. Raises BadInput for a map with NaN, a mask of
    another shape, or an empty one.
    """
    if mask.shape != (len(attribution), *attribution.shape[2:]) or mask.dtype != torch.bool:
        raise BadInput(
            f"The mask must be bool of shape {(len(attribution), *attribution.shape[2:])}, "
            f"not {mask.dtype} of {tuple(mask.shape)}."
        )
    if not mask.flatten(1).any(1).all():
        raise BadInput("A mask is empty: no pixel decides, so there is nothing to find.")
    _check_map(attribution, attribution)
    heat, mask = attribution.sum(1).flatten(1).abs(), mask.flatten(1)  # (B, P)
    tiny = torch.finfo(heat.dtype).tiny
    mass = (heat * mask).sum(1) / heat.sum(1).clamp_min(tiny)
    size = mask.sum(1)  # (B,)
    rank = heat.argsort(1, descending=True).argsort(1)  # (B, P)
    hits = ((rank < size[:, None]) & mask).sum(1)
    return {"mass": mass, "rank": hits / size}


def _check_map(attribution: Tensor, x: Tensor) -> None:
    if attribution.shape != x.shape:
        raise BadInput(
            f"The map must have the images' shape {tuple(x.shape)}, not {tuple(attribution.shape)}."
        )
    if not attribution.isfinite().all():
        raise BadInput("The map has numbers that are not finite.")


# --- what any method has to beat --------------------------------------------------------------


def controls(x: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Return maps that know nothing of the model, each of x's shape: "random" and "edges".

    edges is the length of the image's gradient by Sobel filters, summed over channels. The third
    control is a method of `attribute` on `randomized(model)`.
    """
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(x.shape, generator=generator).to(x.device)
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], device=x.device, dtype=x.dtype)
    kernels = torch.stack([sobel, sobel.T])[:, None]  # (2, 1, 3, 3)
    padded = F.pad(x.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")  # (B * C, 1, H+2, W+2)
    edges = F.conv2d(padded, kernels).square().sum(1).sqrt()  # (B * C, H, W)
    return {"random": random, "edges": edges.view(x.shape)}


def randomized(model: nn.Module, layers: int | None = None, *, seed: int = 0) -> nn.Module:
    """Return a copy whose last `layers` layers with weights are drawn anew, None for all.

    Layers count from the output. This is the cascade of Adebayo et al. (2018): an explanation that
    stays the same does not explain the model. Each layer's own `reset_parameters` draws.
    """
    model = copy.deepcopy(model)
    own = [m for m in model.modules() if hasattr(m, "reset_parameters")]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in own[::-1][:layers]:
            module.reset_parameters()
    return model
