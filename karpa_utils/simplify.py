"""Smaller models: what a model costs, and channel pruning that really removes channels.

Channels are cut along whole groups: where a residual connection adds two outputs, both lose the
same channels, and every layer that reads them loses the matching inputs. The result is an ordinary
smaller module, without masks.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from karpa_utils.errors import BadInput
from karpa_utils.runtime import rehearsal_steps
from karpa_utils.training import Pair, batches

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
SAME_CHANNELS = (  # layers that keep channel c in channel c and have no numbers of their own
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid),
    *(nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)
SAME_CHANNELS_CALLS = {
    *("relu", "relu_", "relu6", "leaky_relu", "gelu", "silu", "hardswish", "hardsigmoid"),
    *("sigmoid", "tanh", "dropout", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"),
    *("contiguous", "clone", "detach", "float"),
}
JOINING_CALLS = {"add", "iadd", "mul", "imul", "sub"}


# --- what a model costs -----------------------------------------------------------------------


def cost(model: nn.Module, x: Tensor, repeats: int = 30) -> dict[str, float]:
    """Return what one forward pass of `model` on `x` costs.

    parameters: how many numbers are trained; bytes: the weights as a safetensors file, buffers
    included; macs: multiply-accumulates, counted by torch's flop counter (two flops each);
    latency_ms: median of `repeats` passes on this machine, in evaluation mode, with its quartiles
    latency_ms_low and latency_ms_high. repeats=0 leaves the latency out.
    To compare latencies measure them in one interleaved run: `latency`.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into fused attention
    counter = FlopCounterMode(display=False)
    try:
        with _evaluating(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    found: dict[str, float] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": len(save({k: v.contiguous() for k, v in model.state_dict().items()})),
        "macs": counter.get_total_flops() // 2,
    }
    if repeats:
        low, middle, high = latency({"model": (model, x)}, repeats)["model"]
        found |= {"latency_ms": middle, "latency_ms_low": low, "latency_ms_high": high}
    return found


@torch.inference_mode()
def latency(
    models: Mapping[str, tuple[Callable[[Tensor], object], Tensor]],
    repeats: int = 30,
    warm_up: int = 5,
) -> dict[str, tuple[float, float, float]]:
    """Return name -> (lower quartile, median, upper quartile) of a call's milliseconds.

    models: name -> (model, its input). After `warm_up` rounds every round calls each model once,
    so that a busy moment of the machine falls on all of them. Modules run in evaluation mode.
    A rehearsal of n steps takes 2 n rounds.
    """
    if steps := rehearsal_steps():
        repeats, warm_up = min(repeats, 2 * steps), min(warm_up, steps)
    times: dict[str, list[float]] = {name: [] for name in models}
    with _evaluating(*(m for m, _ in models.values() if isinstance(m, nn.Module))):
        for turn in range(warm_up + repeats):
            for name, (model, x) in models.items():
                _wait(x)
                start = perf_counter()
                model(x)
                _wait(x)
                if turn >= warm_up:
                    times[name].append(1000 * (perf_counter() - start))
    return {name: tuple(statistics.quantiles(t, n=4)) for name, t in times.items()}


@contextmanager
def _evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models into evaluation mode for a while; every layer gets its own mode back."""
    modes = [(layer, layer.training) for model in models for layer in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def _wait(x: Tensor) -> None:
    """Wait until an accelerator has done what it was given."""
    if x.device.type != "cpu":
        torch.accelerator.synchronize(x.device)


# --- which channels belong together -----------------------------------------------------------


@dataclass
class Part:
    """Where a group's channels stand in one layer."""

    layer: str  # the module's name
    dim: int  # 0: along its outputs, 1: along its inputs
    repeat: int = 1  # numbers a channel takes there: H·W after a flatten


@dataclass
class Group:
    """Channels that can only be removed together, from every layer in `parts`."""

    channels: int
    parts: list[Part] = field(default_factory=list)
    fixed: bool = False  # the model's inputs and outputs, and what we cannot follow

    @property
    def outputs(self) -> list[Part]:
        """Return the parts in which the channels are computed."""
        return [part for part in self.parts if part.dim == 0]


def channel_groups(model: nn.Module, x: Tensor) -> list[Group]:
    """Return the groups of channels that pruning can cut, found by tracing `model(x)`.

    Follows convolutions (also depthwise ones), linear layers on (B, F), batch norms, residual
    sums and products, pooling, activations and flattening. Channels that reach anything else, or
    the model's output, stay as they are. Raises BadInput for a model that torch.fx cannot trace and
    for a layer, or a layer's weights, that are used twice.
    """
    try:
        with _evaluating(model), torch.no_grad():  # nothing is trained, no statistics move
            graph = fx.Tracer().trace(model)
            _Shapes(model, graph=graph).run(x)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"The model cannot be traced, so it cannot be pruned: {reason}") from error
    return _Tracer(dict(model.named_modules())).groups(graph)


class _Shapes(fx.Interpreter):
    """Runs a traced graph and notes the shape of every tensor in it."""

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["shape"] = tuple(result.shape)
        return result


class _Tracer:
    """Follows the channels of every tensor through a traced graph."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.modules = modules
        self.group: dict[fx.Node, tuple[Group, int]] = {}  # a tensor's channels, numbers each
        self.merged: dict[int, Group] = {}  # id of a group that was joined -> the group it is in
        self.all: list[Group] = []
        self.used: set[int] = set()

    def groups(self, graph: fx.Graph) -> list[Group]:
        for node in graph.nodes:
            self.visit(node)
        return [g for g in self.all if id(g) not in self.merged and not g.fixed and g.outputs]

    def find(self, group: Group) -> Group:
        while id(group) in self.merged:
            group = self.merged[id(group)]
        return group

    def of(self, node: fx.Node) -> tuple[Group, int]:
        group, repeat = self.group[node]
        return self.find(group), repeat

    def new(self, channels: int, *, fixed: bool = False) -> Group:
        self.all.append(Group(channels, fixed=fixed))
        return self.all[-1]

    def fix(self, nodes: list[fx.Node]) -> None:
        for node in nodes:
            self.of(node)[0].fixed = True

    def unknown(self, node: fx.Node, tensors: list[fx.Node]) -> None:
        """Leave the channels of these tensors, and of this node's result, as they are."""
        self.fix(tensors)
        shape = _shape(node)
        if shape is not None and len(shape) > 1:
            self.group[node] = (self.new(shape[1], fixed=True), 1)

    def join(self, node: fx.Node, tensors: list[fx.Node]) -> None:
        """Tie tensors that are added or multiplied number by number."""
        shapes = {(_shape(t)[1], self.of(t)[1]) for t in tensors}
        ranks = {len(_shape(t)) for t in tensors}
        if len(shapes) > 1 or len(ranks) > 1:
            return self.unknown(node, tensors)
        first, repeat = self.of(tensors[0])
        for tensor in tensors[1:]:
            other = self.of(tensor)[0]
            if other is not first:
                first.parts += other.parts
                first.fixed |= other.fixed
                self.merged[id(other)] = first
        self.group[node] = (first, repeat)
        return None

    def visit(self, node: fx.Node) -> None:
        tensors = [n for n in node.all_input_nodes if n in self.group]
        if node.op == "output":
            self.fix(tensors)
        elif node.op in ("placeholder", "get_attr"):
            self.unknown(node, [])
        elif not tensors:
            return
        elif node.op == "call_module":
            self.visit_layer(node, str(node.target), tensors)
        else:
            self.visit_call(node, tensors)

    def visit_layer(self, node: fx.Node, name: str, tensors: list[fx.Node]) -> None:
        layer = self.modules[name]
        mine = {id(parameter) for parameter in layer.parameters()}
        if mine & self.used:
            raise BadInput(f"The layer {name!r} is used twice: it cannot be pruned.")
        self.used |= mine
        source, repeat = self.of(tensors[0])
        plain = len(tensors) == 1
        if plain and (isinstance(layer, NORMS) or _depthwise(layer)):
            source.parts.append(Part(name, 0, repeat))
            self.group[node] = (source, repeat)
        elif plain and (
            (isinstance(layer, CONVOLUTIONS) and layer.groups == 1)
            or (isinstance(layer, nn.Linear) and len(_shape(tensors[0]) or ()) == 2)
        ):
            source.parts.append(Part(name, 1, repeat))
            result = self.new(layer.weight.shape[0])
            result.parts.append(Part(name, 0))
            self.group[node] = (result, 1)
        elif plain and isinstance(layer, SAME_CHANNELS):
            self.group[node] = (source, repeat)
        elif (
            plain and isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1)
        ):
            self.group[node] = (source, repeat * math.prod(_shape(tensors[0])[2:]))
        else:
            self.unknown(node, tensors)

    def visit_call(self, node: fx.Node, tensors: list[fx.Node]) -> None:
        name = node.target if isinstance(node.target, str) else node.target.__name__
        source, repeat = self.of(tensors[0])
        before, after = _shape(tensors[0]), _shape(node)
        if after is None:  # a size, a number
            return
        if name in JOINING_CALLS:
            self.join(node, tensors)
        elif len(tensors) == 1 and name in SAME_CHANNELS_CALLS:
            self.group[node] = (source, repeat)
        elif len(tensors) == 1 and name == "flatten" and len(after) == 2 and before:
            self.group[node] = (source, repeat * math.prod(before[2:]))
        elif len(tensors) == 1 and name == "mean" and before and after[:2] == before[:2]:
            self.group[node] = (source, repeat)  # over height and width
        else:
            self.unknown(node, tensors)


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    """Return the shape of a traced tensor, None for anything else."""
    return node.meta.get("shape")


def _depthwise(layer: nn.Module) -> bool:
    """Return whether a convolution keeps channels apart: one filter for each."""
    if not isinstance(layer, CONVOLUTIONS):
        return False
    return layer.groups == layer.in_channels == layer.out_channels and layer.groups > 1


# --- cutting them -----------------------------------------------------------------------------

Importance = Literal["magnitude", "taylor", "random"]


def importances(
    model: nn.Module,
    groups: list[Group],
    kind: Importance = "magnitude",
    *,
    data: Pair | None = None,
    # (X, y) on the model's device, for "taylor"
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    batch_size: int = 100,
    seed: int = 0,
) -> list[Tensor]:
    """Return one score for each channel of each group, (channels,); small ones are cut first.

    magnitude: Euclidean norm of the weights that compute the channel (after Li et al. 2017, who
        sum absolute values).
    taylor: squared first-order estimate of what the loss gains when the channel's weights become
        zero, summed over batches (Molchanov et al. 2019); needs `data`.
    random: the control.
    """
    layers = dict(model.named_modules())
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        return [torch.rand(group.channels, generator=generator) for group in groups]
    if kind == "magnitude":
        return [_magnitude(layers, group) for group in groups]
    if kind != "taylor":
        raise BadInput(f"Unknown importance {kind!r}: choose magnitude, taylor or random.")
    if data is None or not len(data[0]):
        raise BadInput('The importance "taylor" needs data=(X, y): gradients come from images.')
    return _taylor(model, layers, groups, data, loss, batch_size)


def _magnitude(layers: dict[str, nn.Module], group: Group) -> Tensor:
    """Return the length of the weights that compute each channel, batch norms left out."""
    weights = [layers[part.layer] for part in group.outputs]
    weights = [layer.weight.detach() for layer in weights if not isinstance(layer, NORMS)]
    lengths = [torch.linalg.vector_norm(w.reshape(group.channels, -1), dim=1) for w in weights]
    return torch.linalg.vector_norm(torch.stack(lengths), dim=0)


def _taylor(model, layers, groups, data, loss, batch_size) -> list[Tensor]:
    """Return the sum over batches of (gradient · weight)², per channel."""
    scores = [torch.zeros(group.channels) for group in groups]
    weights = [layers[p.layer].weight for group in groups for p in group.outputs]
    with _evaluating(model):  # the running statistics are not to move
        for x, y, _ in batches(data, batch_size):
            gradients = iter(torch.autograd.grad(loss(model(x), y), weights))
            for score, group in zip(scores, groups, strict=True):
                change = sum(
                    _by_channel(next(gradients) * layers[part.layer].weight.detach(), group)
                    for part in group.outputs
                )
                score += change.square().cpu()
    return scores


def _by_channel(values: Tensor, group: Group) -> Tensor:
    """Return the sum of a layer's numbers for each channel. values: (channels * repeat, ...)."""
    return values.reshape(group.channels, -1).sum(1)


def prune_channels(
    model: nn.Module,
    x: Tensor,
    ratio: float,
    *,
    importance: Importance | list[Tensor] = "magnitude",
    scope: Literal["layer", "model"] = "layer",
    # "layer": every group loses the same share; "model": the weakest channels anywhere go
    round_to: int = 1,
    # keep multiples of this many channels where there are that many
    **options,
    # of `importances`: data, loss, batch_size, seed
) -> nn.Module:
    """Return a smaller copy of `model`, without the share `ratio` of its channels.

    x: an example input, which decides what the model computes on the way. The given model stays as
    it is; batch norms keep their statistics for the channels that stay. At least one channel stays
    in each group.
    Raises BadInput for a ratio outside (0, 1), a model that cannot be traced or has nothing to
    prune, or a layer that is used twice. Taught in simplification/layers_and_neurons.
    """
    if not 0 < ratio < 1:
        raise BadInput(f"The pruning ratio is the share to remove, between 0 and 1, not {ratio}.")
    groups = channel_groups(model, x)
    if not groups:
        raise BadInput("The model has nothing to prune: no channels lie between its layers.")
    scores = importance
    if not isinstance(scores, list):
        scores = importances(model, groups, scores, **options)
    layers = dict(model.named_modules())
    cut: dict[int, Tensor] = {}  # id of a tensor of the model -> what stays of it
    for group, keep in zip(groups, _kept(scores, ratio, scope, round_to), strict=True):
        for part in group.parts:
            step = torch.arange(part.repeat)
            rows = (keep[:, None] * part.repeat + step).flatten()
            _cut(layers[part.layer], part.dim, rows, cut)
    small = copy.deepcopy(model, cut)  # the memo: where the copy meets these, it takes what stays
    for layer in small.modules():
        _describe(layer)
    return small


def _kept(scores: list[Tensor], ratio: float, scope: str, round_to: int) -> list[Tensor]:
    """Return the channels that stay in each group, in ascending order."""
    if scope == "model":  # scores of different layers compare as shares of their layer's mean
        scaled = [s / s.mean().clamp_min(torch.finfo(s.dtype).tiny) for s in scores]
        everywhere = torch.cat(scaled).sort().values
        edge = everywhere[min(round(ratio * len(everywhere)), len(everywhere) - 1)]
        counts = [int((s >= edge).sum()) for s in scaled]
    elif scope == "layer":
        counts = [round((1 - ratio) * len(s)) for s in scores]
    else:
        raise BadInput(f"Unknown scope {scope!r}: choose layer or model.")
    counts = [
        min(len(s), max(1, round_to * round(n / round_to) or min(round_to, len(s))))
        for s, n in zip(scores, counts, strict=True)
    ]
    return [s.topk(n).indices.sort().values.cpu() for s, n in zip(scores, counts, strict=True)]


def _cut(layer: nn.Module, dim: int, index: Tensor, cut: dict[int, Tensor]) -> None:
    """Note in `cut` the rows (dim 0) or columns (dim 1) `index` of a layer's numbers."""
    index = index.to(layer.weight.device)
    names = ("weight", "bias", "running_mean", "running_var") if dim == 0 else ("weight",)
    for name in names:
        old = getattr(layer, name, None)
        if old is None:
            continue
        new = cut.get(id(old), old).detach().index_select(dim, index)
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, old.requires_grad)
        cut[id(old)] = new


def _describe(layer: nn.Module) -> None:
    """Let a layer's own account of its size agree with its weights."""
    if isinstance(layer, NORMS) and layer.weight is not None:
        layer.num_features = len(layer.weight)
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif _depthwise(layer):
        layer.groups = layer.in_channels = layer.out_channels = len(layer.weight)
    elif isinstance(layer, CONVOLUTIONS) and not layer.transposed:
        layer.out_channels = len(layer.weight)
        layer.in_channels = layer.weight.shape[1] * layer.groups


# --- learning from a larger model -------------------------------------------------------------


def distillation_loss(
    student: Tensor, teacher: Tensor, y: Tensor, temperature: float = 4.0, weight: float = 0.9
) -> Tensor:
    """Return the loss of Hinton, Vinyals and Dean (2015). student, teacher: logits (B, C), y: (B,).

    weight · T² · KL(teacher ‖ student, both softened by the temperature T)
    + (1 - weight) · cross-entropy with the labels. T² keeps the gradient's size as T grows.
    """
    soft = F.kl_div(
        (student / temperature).log_softmax(1),
        (teacher / temperature).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
    return weight * temperature**2 * soft + (1 - weight) * F.cross_entropy(student, y)


from karpa_utils.deploy import export_int8, export_onnx  # noqa: E402, F401 part of this module's interface
