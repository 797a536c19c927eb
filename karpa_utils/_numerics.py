"""Numeric pins: the same bits on every Intel machine, set before torch is loaded.

The laptop profile asks every math library for AVX2 arithmetic and two threads, because the
order of additions, and so the last bits of a sum, depend on both. `KARPA_NUMERICS=free`
leaves the shell's own values alone; the numeric regimes (`make regimes`) use that.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys

PINS = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own vectorized kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions and matrix products through oneDNN
    "MKL_CBWR": "AVX2",  # MKL: one code path for matrix products
    "MKL_DYNAMIC": "FALSE",  # MKL: never fewer threads than asked for
    "OMP_NUM_THREADS": "2",
    "OPENBLAS_NUM_THREADS": "2",
    "OPENBLAS_CORETYPE": "Haswell",  # NumPy's matrix products, the AVX2 path
}


def pin() -> None:
    """Set the pins for the laptop profile; say so in the log if torch was loaded too early."""
    if os.environ.get("KARPA_NUMERICS") == "free":
        return
    if os.environ.get("KARPA_PROFILE", "laptop") != "laptop":
        return
    if "torch" in sys.modules and any(os.environ.get(k) != v for k, v in PINS.items()):
        logging.getLogger("karpa_utils").warning(
            "torch was imported before karpa_utils: numbers may differ in the last bits"
        )
    os.environ.update(PINS)


def keep_memory() -> None:
    """Let the C library (glibc) keep freed memory for the next tensor.

    By default every large tensor is fetched from the system and given back, page by page, in each
    training step. Keeping it changes no bit and saves about a quarter of a small CNN's time.
    """
    if not sys.platform.startswith("linux"):
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # not every C library has it
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: smaller blocks come from the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap does not shrink
