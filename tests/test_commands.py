"""The commands a reader types: what they say when something is wrong, and the full profile."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tools import regimes, setup_env
from tools.execute import scripts

ROOT = Path(__file__).parent.parent
MIRROR = Path(os.environ.get("KARPA_TEST_MIRROR", ROOT.parent / "shared" / "data"))


def run(*command, timeout=600, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KARPA_")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def refused(done, *words):
    assert done.returncode == 2, done.stdout + done.stderr
    sentence = done.stderr.strip()
    assert len(sentence.splitlines()) == 1, sentence
    for word in words:
        assert word in sentence


def execute(*arguments, **variables):
    return run(sys.executable, "-m", "tools.execute", *arguments, **variables)


def test_an_unknown_notebook_is_refused_with_the_list():
    refused(execute("foundations/nothing"), "foundations/nothing", "foundations/training_loop")
    refused(execute("--script", ""), "foundations/training_loop")


def test_an_unknown_profile_or_device_is_refused():
    script = ("--script", "foundations/training_loop")
    refused(execute(*script, KARPA_PROFILE="huge"), "'huge'", "laptop, full")
    refused(execute(*script, KARPA_DEVICE="toaster"), "toaster")


def test_a_missing_mirror_is_refused():
    script = ("--script", "foundations/training_loop")
    refused(
        execute(*script, KARPA_PROFILE="full", KARPA_DATA_MIRROR="/no/such/folder"),
        "KARPA_DATA_MIRROR",
        "/no/such/folder",
    )


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_alone_lists_the_targets():
    shown = run("make").stdout
    for target in ("book", "test", "rehearse", "run", "execute", "lint", "regimes", "bench"):
        assert f"make {target} " in shown
    assert "make clean " in shown


def test_a_half_made_environment_is_built_from_nothing(tmp_path, monkeypatch):
    """Without the stamp the folder is cleared; with it nothing happens; a failure leaves none."""
    calls, fail = [], [None]

    def fake(command):
        calls.append(list(map(str, command)))
        return 1 if fail[0] and fail[0] in calls[-1] else 0

    folder = tmp_path / "with a space"
    folder.mkdir()
    monkeypatch.setattr(setup_env.subprocess, "call", fake)
    monkeypatch.setattr(sys, "argv", ["setup_env.py", str(folder)])
    fail[0] = "-r"
    with pytest.raises(SystemExit):
        setup_env.main()
    assert not (folder / "installed").exists()
    fail[0] = None
    calls.clear()
    setup_env.main()
    assert "--clear" in calls[0]
    assert (folder / "installed").exists()
    calls.clear()
    setup_env.main()
    assert calls == []
    (folder / "installed").write_text("made from other pins")
    setup_env.main()
    assert not any("--clear" in call for call in calls)
    assert any("-r" in call for call in calls)


def test_the_regimes_are_the_five_that_the_book_promises():
    variables = list(regimes.REGIMES.values())
    assert variables[0] == {}
    assert [v.get("OMP_NUM_THREADS") for v in variables[1:3]] == ["1", "4"]
    assert variables[3]["MKL_CBWR"] == "COMPATIBLE"
    assert variables[3]["ATEN_CPU_CAPABILITY"] == "default"
    assert "ATEN_CPU_CAPABILITY" not in variables[4]
    assert all(v["KARPA_NUMERICS"] == "free" for v in variables[1:])


# One notebook of each part is rehearsed on every push, the others with `make rehearse`.
ON_EVERY_PUSH = {
    "foundations/training_loop",
    "simplification/layers_and_neurons",
    "interpretability/causes_and_games",
    "fairness/detecting_bias",
}


@pytest.fixture(scope="module")
def rehearsals(request):
    """The full profile of the notebooks asked for, for two steps: two at a time, a thread each.

    Compiling takes longer than all else and changes nothing that is looked at here: it is off.
    """
    variables = {
        "KARPA_PROFILE": "full",
        "KARPA_STEPS": "2",
        "KARPA_DEVICE": "cpu",
        "KARPA_DATA_MIRROR": str(MIRROR),
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",
    }
    asked = [item.callspec.params["name"] for item in request.session.items
             if "rehearsals" in getattr(item, "fixturenames", ())]  # fmt: skip
    pool = ThreadPoolExecutor(2)
    yield {name: pool.submit(execute, "--script", name, **variables) for name in asked}
    pool.shutdown(cancel_futures=True)


@pytest.mark.skipif(not MIRROR.is_dir(), reason=f"no mirror of the public data at {MIRROR}")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ON_EVERY_PUSH else pytest.mark.rehearsal)
        for name in scripts()
    ],
)
def test_the_full_profile_runs_for_a_few_steps(name, rehearsals):
    done = rehearsals[name].result()
    assert done.returncode == 0, done.stderr[-3000:]
    assert "not checked in a rehearsal" in done.stdout
    assert not run("git", "status", "--porcelain", "book/results/full").stdout
