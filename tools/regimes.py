"""Run the notebooks' comparison under five kinds of arithmetic: `python -m tools.regimes`.

Each regime must pass: to the bit where the arithmetic is the same, within the declared
tolerances elsewhere. Give a notebook's name to run that one alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from time import perf_counter

from karpa_utils._numerics import PINS
from tools.execute import NOTEBOOKS, chosen

FREE = {"KARPA_NUMERICS": "free"}
REGIMES: dict[str, dict[str, str]] = {
    "pinned": {},
    "1 thread": {**PINS, **FREE, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    "4 threads": {**PINS, **FREE, "OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"},
    "another processor": {
        **PINS,
        **FREE,
        "MKL_CBWR": "COMPATIBLE",
        "ATEN_CPU_CAPABILITY": "default",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
    "unpinned": {**FREE, "OMP_NUM_THREADS": "2"},
}


def main() -> None:
    """Print one line a regime and exit with 1 if any fails."""
    targets = [str(chosen(n).with_suffix(".ipynb")) for n in sys.argv[1:]] or [str(NOTEBOOKS)]
    base = {k: v for k, v in os.environ.items() if k not in PINS}
    failed = []
    for name, variables in REGIMES.items():
        start = perf_counter()
        command = [sys.executable, "-m", "pytest", "--nbval", "-q", "--no-header", *targets]
        done = subprocess.run(
            command, env={**base, **variables}, capture_output=True, text=True, check=False
        )
        verdict = "passes" if done.returncode == 0 else "FAILS"
        print(f"{name:18s} {verdict}  {perf_counter() - start:6.0f} s", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stdout)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
