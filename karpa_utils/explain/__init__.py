"""Explanations: attributions with metrics and controls, and one page about a whole classifier.

What they mean is taught in interpretability/local_attributions and interpretability/global_report.
"""

from karpa_utils.explain.attribution import (
    GRADIENT_METHODS,
    METHODS,
    attribute,
    controls,
    faithfulness,
    localization,
    patch_grid,
    randomized,
    sensitivity,
    sparsity,
)
from karpa_utils.explain.global_report import report

__all__ = [
    "GRADIENT_METHODS",
    "METHODS",
    "attribute",
    "controls",
    "faithfulness",
    "localization",
    "patch_grid",
    "randomized",
    "report",
    "sensitivity",
    "sparsity",
]
