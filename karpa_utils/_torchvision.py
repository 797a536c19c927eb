"""Make `import torchvision` work beside a CPU-only torch.

The torchvision wheel is linked against the CUDA build of torch. Beside a CPU-only torch its
compiled operators do not load, and `import torchvision` dies with "operator torchvision::nms
does not exist", which also breaks `transformers`. Models, transforms, datasets and `roi_align`
are Python and need only the operators' schemas. This module declares the two schemas that the
import asks for, and does nothing where torchvision is healthy. `torchvision.ops.nms` and
`torchvision.io.read_image` still need a matching wheel: calling them raises torch's own error.
`roi_align` compiles itself at its first call, which needs a C++ compiler and, in torch 2.13, a path
without a space; TORCHDYNAMO_DISABLE=1 runs it as plain Python.
"""

from __future__ import annotations

import importlib.util
import logging

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: torch.library.Library | None = None  # schemas live as long as this object


def _operators_load() -> bool:
    """True if torchvision's compiled operators load into this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return True  # not installed: nothing to mend
    from pathlib import Path

    folder = Path(spec.submodule_search_locations[0])
    libraries = [*folder.glob("_C*.so"), *folder.glob("_C*.pyd")]
    if not libraries:
        return False
    try:
        torch.ops.load_library(str(libraries[0]))
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")


def mend() -> bool:
    """True if schemas had to be declared, False if torchvision needed nothing."""
    global _library
    if _library is not None:
        return True
    if hasattr(torch.ops.torchvision, "nms") or _operators_load():
        return False
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS.values():
        _library.define(schema)
    logging.getLogger("karpa_utils").info(
        "torchvision's compiled operators do not match this torch: nms and read_image are missing"
    )
    return True
