"""Pins, profile, device, claims, exercises, glue, tables and the torchvision module."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import karpa_utils as ku
from karpa_utils._numerics import PINS

ROOT = Path(__file__).parent.parent


def script(code, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KARPA_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def fails_with_one_sentence(done, *words):
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_pins_override_the_shell_unless_numerics_are_free():
    code = (
        "import karpa_utils, os; print(os.environ['OMP_NUM_THREADS'], os.environ.get('MKL_CBWR'))"
    )
    assert script(code, OMP_NUM_THREADS="7").stdout.split() == ["2", "AVX2"]
    free = script(code, OMP_NUM_THREADS="7", KARPA_NUMERICS="free", MKL_CBWR="COMPATIBLE")
    assert free.stdout.split() == ["7", "COMPATIBLE"]


def test_pins_reach_torch():
    code = (
        "import karpa_utils as ku, torch; ku.start();"
        "print(torch.get_num_threads(), torch.backends.cpu.get_cpu_capability())"
    )
    threads, capability = script(code, OMP_NUM_THREADS="7").stdout.split()
    assert threads == "2"
    assert capability in ("AVX2", "DEFAULT", "NO")  # never AVX512
    assert PINS["ATEN_CPU_CAPABILITY"] == "avx2"


def test_importing_torch_first_is_said_in_the_log():
    done = script("import torch, karpa_utils", OMP_NUM_THREADS="7")
    assert "before karpa_utils" in done.stderr


def test_start_makes_runs_repeat():
    code = (
        "import karpa_utils as ku, torch, numpy, random; ku.start(3);"
        "print(torch.randn(3), numpy.random.rand(), random.random())"
    )
    assert script(code).stdout == script(code).stdout != ""


def test_bad_environment_gives_one_sentence_and_exit_code_2():
    start = "import karpa_utils as ku; ku.start()"
    fails_with_one_sentence(script(start, KARPA_PROFILE="huge"), "'huge'", "laptop, full")
    fails_with_one_sentence(script(start, KARPA_DEVICE="toaster"), "'toaster'", "KARPA_DEVICE")
    fails_with_one_sentence(script(start, KARPA_DEVICE="cuda:99"), "cuda:99")
    fails_with_one_sentence(script(start, KARPA_STEPS="many"), "KARPA_STEPS")


def test_torch_missing_gives_one_sentence(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    done = script("import karpa_utils", PYTHONPATH=str(tmp_path))
    fails_with_one_sentence(done, "torch", "make book")


def test_an_old_python_is_refused_by_name():
    """The set-up script parses on old versions and says what is needed."""
    code = (
        "import sys, runpy; sys.version_info = (3, 8, 1); sys.argv = ['setup_env.py', '/nowhere'];"
        "runpy.run_path('tools/setup_env.py', run_name='__main__')"
    )
    fails_with_one_sentence(script(code), "3.11", "3.8")


def test_pick(monkeypatch):
    assert ku.pick(laptop=4, full=60) == 4
    monkeypatch.setenv("KARPA_PROFILE", "full")
    assert ku.pick(laptop=4, full=60) == 60
    with pytest.raises(ku.BadInput, match="one value per profile"):
        ku.pick(laptop=4)


@pytest.mark.parametrize(
    ("bound", "inside", "outside"),
    [
        ({"at_least": 2}, [2, 3], [1.999, float("nan"), float("-inf")]),
        ({"at_most": 2}, [2, 1], [2.001, float("nan"), float("inf")]),
        ({"between": (1, 2)}, [1, 1.5, 2], [0.99, 2.01, float("nan")]),
    ],
)
def test_claims_hold_and_fail_at_their_bounds(bound, inside, outside, capsys):
    for value in inside:
        ku.claim("it holds", torch.tensor(value, requires_grad=True, dtype=torch.float64), **bound)
    assert capsys.readouterr().out.count("✓ it holds") == len(inside)
    for value in outside:
        with pytest.raises(ku.ClaimError, match="it does not: measured .* claimed"):
            ku.claim("it does not", value, **bound)
        ku.attempt("not yet", value, **bound)
    assert capsys.readouterr().out.count("✗ not yet: not yet") == len(outside)


def test_a_claim_prints_its_bound_and_never_its_value(capsys):
    ku.claim("smaller", 23.456, at_least=20)
    assert capsys.readouterr().out == "✓ smaller (at least 20)\n"


def test_a_claim_needs_exactly_one_bound():
    for bounds in ({}, {"at_least": 1, "at_most": 2}):
        with pytest.raises(ku.BadInput, match="exactly one"):
            ku.claim("?", 1, **bounds)


def test_a_claim_of_something_that_happened_needs_no_bound(capsys):
    ku.claim("the listing stops", True)
    ku.claim("ten epochs make ten passes", 10, between=(10, 10))
    assert capsys.readouterr().out == (
        "✓ the listing stops (true)\n✓ ten epochs make ten passes (exactly 10)\n"
    )
    with pytest.raises(ku.ClaimError, match="the listing stops"):
        ku.claim("the listing stops", False)
    with pytest.raises(ku.BadInput, match="exactly one"):
        ku.claim("the listing stops", True, at_least=1)
    with pytest.raises(ku.BadInput, match="exactly one"):
        ku.claim("a number, however", 1.0)


def test_an_erratum_stands_beside_its_correction(tmp_path, monkeypatch):
    monkeypatch.setenv("KARPA_RECORD", str(tmp_path / "claims.json"))
    erratum, mended = ku.errata("002 §5", "`model(batch)`", "`model(x)`")
    erratum("the port stops", True)
    mended("it does not", 0, at_most=0)
    fault, correction = json.loads((tmp_path / "claims.json").read_text())
    assert (fault["erratum"], fault["role"], fault["value"]) == ("002 §5", "erratum", True)
    assert (fault["at_least"], fault["at_most"]) == (None, None)
    assert (fault["formula"], correction["formula"]) == ("`model(batch)`", "`model(x)`")
    assert (correction["erratum"], correction["role"]) == ("002 §5", "correction")


def test_claims_are_recorded_only_when_asked(tmp_path, monkeypatch):
    file = tmp_path / "claims.json"
    ku.claim("unrecorded", 1, at_least=0)
    assert not file.exists()
    monkeypatch.setenv("KARPA_RECORD", str(file))
    ku.claim("first", 1, at_least=0, role="headline", rests_on=("accuracy",))
    ku.claim("second", 2, between=(1, 3), erratum="001 §4.2")
    first, second = json.loads(file.read_text())
    assert first["sentence"] == "first"
    assert (first["value"], first["at_least"], first["at_most"]) == (1.0, 0, None)
    assert first["rests_on"] == ["accuracy"]
    assert (second["role"], second["erratum"]) == ("erratum", "001 §4.2")


def test_a_rehearsal_stops_fit_and_checks_no_claim(monkeypatch, capsys):
    monkeypatch.setenv("KARPA_STEPS", "2")
    X, y = torch.randn(100, 3), torch.zeros(100, dtype=torch.long)
    history = ku.fit(torch.nn.Linear(3, 2), (X, y), num_epochs=5, batch_size=10)
    assert len(history.losses) == 2
    ku.claim("impossible", 0, at_least=1)
    assert "not checked in a rehearsal" in capsys.readouterr().out


def test_torchvision_works_beside_this_torch():
    code = (
        "import karpa_utils; import torch, torchvision; from torchvision import models, transforms;"
        "from torchvision.ops import roi_align; import transformers;"
        "box = [torch.tensor([[0., 0., 4., 4.]])];"
        "print(models.resnet18()(torch.zeros(2, 3, 32, 32)).shape[1],"
        "roi_align(torch.ones(1, 1, 8, 8), box, 2).sum().item())"
    )
    done = script(code, TORCHDYNAMO_DISABLE="1")  # roi_align would compile: slow, and no spaces
    assert done.stdout.split() == ["1000", "4.0"], done.stderr


def test_the_torchvision_module_leaves_a_healthy_one_alone(monkeypatch):
    from karpa_utils import _torchvision

    monkeypatch.setattr(_torchvision, "_library", None)
    monkeypatch.setattr(_torchvision, "_operators_load", lambda: True)
    assert _torchvision.mend() is False


def test_table_in_a_terminal_is_aligned(capsys):
    ku.table({"model": ["MLP", "a longer name"], "accuracy (%)": [97.1, 98]})
    lines = capsys.readouterr().out.splitlines()
    assert [line.index(word) for line, word in zip(lines, ("acc", "97.1", "98"), strict=True)] == [
        15
    ] * 3


def test_a_page_is_published_only_where_a_run_is_recorded(monkeypatch, tmp_path):
    page, folder = tmp_path / "a.html", tmp_path / "record"
    page.write_text("whole")
    folder.mkdir()
    monkeypatch.delenv("KARPA_RECORD", raising=False)
    ku.publish(page)
    assert not list(folder.iterdir())
    monkeypatch.setenv("KARPA_RECORD", str(folder / "claims.json"))
    ku.publish(page)
    assert (folder / "a.html").read_text() == "whole"
