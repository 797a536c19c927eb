"""Models that run without torch: export to ONNX, and post-training quantization to int8.

Imported as `ku.simplify.export_onnx` and `ku.simplify.export_int8`. The file either appears whole
under its name or not at all; nothing is printed and nothing else is left on the disk.
"""

from __future__ import annotations

import copy
import importlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from karpa_utils.checkpoints import write_whole
from karpa_utils.errors import BadInput

OPSET = 18  # the oldest that torch 2.6's exporter writes; every operator we need is older
CPU = ["CPUExecutionProvider"]
BATCH = 100  # calibration rows that pass through the network at a time


def export_onnx(model: nn.Module, x: Tensor, path: str | Path) -> Path:
    """Write `model` in evaluation mode as a float32 ONNX file and return its path.

    x: an example input (B, ...); the file takes batches of any size, its input is called "x" and
    its output "y". Batch norms are folded into the layers before them where that is possible.
    The file's outputs on `x` were compared with the model's. The model stays as it is.
    Raises BadInput for an input that the model does not take, an operator that cannot be exported,
    and a path that cannot be written; a file that was there before is then still whole.
    Taught in simplification/distill_and_quantize.
    """
    return _export(model, x, path, None)


def export_int8(
    model: nn.Module,
    calibration: Tensor,
    path: str | Path,
    *,
    reduce_range: bool = True,
    # 7-bit weights: no sum of two products leaves 16 bits, which processors without VNNI clip
    per_channel: bool = True,
    # one scale for each output channel of a weight, instead of one for the whole tensor
) -> Path:
    """Write `model` as an int8 ONNX file (QDQ) for ONNX Runtime and return its path.

    calibration: representative inputs (N, ...), a hundred or more; the smallest and the largest
        number that each activation takes on them become its range. Numbers outside are clipped.
    Weights are int8 and symmetric, activations uint8 with a zero point, biases int32. With
    reduce_range the integers come out the same on every x86 processor; without it those that lack
    VNNI may clip sums and answer differently.
    Raises BadInput as `export_onnx` does, and for calibration data that are empty or not finite.
    Jacob et al. 2018; taught in simplification/distill_and_quantize.
    """
    return _export(model, calibration, path, (reduce_range, per_channel))


def _export(model: nn.Module, x: Tensor, path: str | Path, choices: tuple | None) -> Path:
    path = _writable(Path(path))
    onnx, runtime = _needed("onnx"), _needed("onnxruntime")
    _needed("onnxscript")  # torch's exporter needs it
    model = copy.deepcopy(model).cpu().eval()  # so that the caller's cannot change
    x, expected = _checked(model, x)
    with tempfile.TemporaryDirectory() as folder, _silence():
        file = Path(folder, "float32.onnx")
        onnx.save(_traced(model, x, runtime), file)
        _compare(file, x, expected, runtime)
        if choices is not None:
            file = _quantized(file, x, *choices)
        graph = onnx.load(file)
        _strip(graph)
        onnx.checker.check_model(graph, full_check=True)
        content = graph.SerializeToString(deterministic=True)
    write_whole(path, content, "ONNX file")
    return path


def _needed(name: str) -> ModuleType:
    """Import a package that only the export needs; say in one sentence when it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise BadInput(
            f"The export to ONNX needs the package {name}, which is not installed: "
            "`pip install onnx onnxruntime onnxscript`."
        ) from None


def _writable(path: Path) -> Path:
    """Return `path`; raise BadInput before any work is done if no file can be written there."""
    if not path.parent.is_dir():
        raise BadInput(f"The folder {path.parent} does not exist: make it, then export again.")
    if path.is_dir():
        raise BadInput(f"{path} is a folder: give the path of a file, such as model.onnx.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BadInput(f"{path} is read-only: choose another path or change its permissions.")
    return path


def _checked(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the input on the CPU, and the model's outputs for its first rows."""
    if not isinstance(x, Tensor) or x.ndim == 0 or not len(x):
        raise BadInput("The calibration set is empty: give a tensor of inputs, a hundred or more.")
    x = x.detach().cpu()
    if not x.isfinite().all():
        raise BadInput("The calibration set holds numbers that are not finite: remove those rows.")
    try:
        with torch.no_grad():
            y = model(x[:3])
    except Exception as error:
        raise BadInput(
            f"The model does not take inputs of shape {(*x.shape,)} and type {x.dtype}: "
            f"{_reason(error)}"
        ) from None
    if not isinstance(y, Tensor):
        raise BadInput(f"The model returns a {type(y).__name__}: only one tensor can be exported.")
    return x, y


def _traced(model: nn.Module, x: Tensor, runtime: ModuleType) -> object:
    """Return the model's ONNX graph; raise BadInput if torch or ONNX Runtime cannot handle it."""
    example = x[:2] if len(x) > 1 else x.repeat(2, *[1] * (x.ndim - 1))  # a batch of 1 is special
    try:
        names = {"input_names": ["x"], "output_names": ["y"]}
        shapes = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
        options = {"dynamo": True, "opset_version": OPSET, "verbose": False}
        graph = torch.onnx.export(model, (example,), **names, **shapes, **options).model_proto
        runtime.InferenceSession(graph.SerializeToString(), _options(runtime), providers=CPU)
    except Exception as error:
        raise BadInput(f"The model cannot be exported to ONNX: {_reason(error)}") from None
    return graph


def _options(runtime: ModuleType) -> object:
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, too: no need to print them
    return options


def _compare(file: Path, x: Tensor, expected: Tensor, runtime: ModuleType) -> None:
    """Raise BadInput if the exported network answers otherwise than the model does."""
    session = runtime.InferenceSession(str(file), _options(runtime), providers=CPU)
    for rows in (1, len(expected)):
        found = torch.from_numpy(session.run(None, {"x": x[:rows].numpy()})[0])
        gap = (found - expected[:rows]).abs().max() / expected.abs().max().clamp_min(1)
        if not gap <= 1e-3:
            raise BadInput(
                "The exported network answers otherwise than the model (largest relative "
                f"difference {gap:.1g}): its forward pass depends on more than its input."
            )


def _quantized(file: Path, x: Tensor, reduce_range: bool, per_channel: bool) -> Path:
    """Return the file of the int8 network, written beside the float32 one."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(x.split(BATCH))

        def get_next(self) -> dict | None:
            batch = next(self.batches, None)
            return None if batch is None else {"x": batch.numpy()}

    ready, done = file.with_name("ready.onnx"), file.with_name("int8.onnx")
    quant_pre_process(file, ready, skip_symbolic_shape=True)  # folds and fuses what it can
    bytes_ = quantization.QuantType
    types = {"activation_type": bytes_.QUInt8, "weight_type": bytes_.QInt8}
    ranges = {"per_channel": per_channel, "reduce_range": reduce_range}
    qdq = quantization.QuantFormat.QDQ
    quantization.quantize_static(ready, done, Batches(), quant_format=qdq, **types, **ranges)
    return done


def _strip(graph: object) -> None:
    """Remove what only a developer reads: stack traces hold the paths of this machine."""
    parts = [*graph.graph.node, *graph.graph.initializer, *graph.graph.value_info]
    for part in (graph, graph.graph, *parts, *graph.graph.input, *graph.graph.output):
        part.doc_string = ""
        with suppress(AttributeError):  # an older onnx has no such field
            del part.metadata_props[:]
    del graph.graph.value_info[:]


@contextmanager
def _silence() -> Iterator[None]:
    """Keep warnings and log lines of the exporter and the quantizer to themselves for a while."""
    before, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.WARNING)
    try:  # torch.export prints the graph when it fails, and offers no switch for that
        with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> str:
    """Return the first sentence of the error that started it all."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
