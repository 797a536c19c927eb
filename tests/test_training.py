"""`ku.fit` against the bare loop, closed forms and a killed process."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import karpa_utils as ku

ROOT = Path(__file__).parent.parent


def data(n=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, 6, generator=generator)
    return X, (X[:, 0] + X[:, 1] > 0).long()


def network(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 2))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_losses_equal_the_bare_loop_to_the_bit(make):
    X, y = data()
    bare, fitted = network(dropout=0.3), network(dropout=0.3)
    optimizer, order, losses = make(bare.parameters(), lr=0.05), torch.Generator(), []
    order.manual_seed(5)
    torch.manual_seed(1)
    for _ in range(3):
        for rows in torch.randperm(len(X), generator=order).split(10):  # the last batch is smaller
            optimizer.zero_grad()
            loss = F.cross_entropy(bare(X[rows]), y[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    torch.manual_seed(1)
    history = ku.fit(
        fitted,
        (X, y),
        optimizer=make(fitted.parameters(), lr=0.05),
        num_epochs=3,
        batch_size=10,
        seed=5,
    )
    assert torch.equal(history.losses, torch.stack(losses))
    assert torch.equal(weights(bare), weights(fitted))


def test_least_squares_reaches_the_closed_form():
    X, _ = data(200)
    y = X @ torch.arange(6.0)[:, None] + 2
    model = nn.Linear(6, 1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    ku.fit(model, (X, y), optimizer=sgd, loss=F.mse_loss, num_epochs=200, batch_size=200)
    design = torch.cat([X, torch.ones(200, 1)], 1)
    solution = torch.linalg.lstsq(design, y).solution.flatten()
    found = torch.cat([model.weight.flatten(), model.bias]).detach()
    assert torch.allclose(found, solution, atol=1e-4)


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_accumulation_gives_the_whole_batchs_gradient(parts):
    X, y = data()
    whole, split = network().double(), network().double()
    for model, accumulate in ((whole, 1), (split, parts)):
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        ku.fit(model, (X.double(), y), optimizer=sgd, num_epochs=2, accumulate=accumulate)
    assert torch.allclose(weights(whole), weights(split), atol=1e-12)


def test_evaluate_is_the_mean_over_rows_and_keeps_the_mode():
    X, y = data(101)
    model = network(dropout=0.5).train()
    got = ku.evaluate(model, (X, y), batch_size=10)  # uneven last batch
    assert model.training
    model.eval()
    assert got["loss"] == pytest.approx(F.cross_entropy(model(X), y).item(), rel=1e-5)
    assert got["score"] == pytest.approx((model(X).argmax(1) == y).double().mean().item(), rel=1e-6)


def test_early_stopping_restores_the_best_epoch():
    X, y = data(40)
    X_valid, y_valid = data(40, seed=1)
    model = network()
    sgd = torch.optim.SGD(model.parameters(), lr=2.0)
    history = ku.fit(
        model, (X, y), (X_valid, 1 - y_valid), optimizer=sgd, num_epochs=50, patience=2
    )
    losses = [v["loss"] for v in history.valid]
    assert history.best_epoch == losses.index(min(losses))
    assert len(losses) == history.best_epoch + 1 + 2
    assert ku.evaluate(model, (X_valid, 1 - y_valid))["loss"] == min(losses)


def test_a_loader_gives_the_same_losses_as_its_tensors():
    X, y = data()
    by_pair, by_loader = network(), network()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, y), batch_size=96)
    a = ku.fit(by_pair, (X, y), num_epochs=1, batch_size=96)
    b = ku.fit(by_loader, loader, num_epochs=1)
    assert torch.allclose(a.losses, b.losses, atol=1e-6)


def test_no_synchronization_in_the_step(monkeypatch):
    X, y = data(640)
    calls = []
    item = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda self: calls.append(1) or item(self))
    model = network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)  # torch's Adam itself calls item on a CPU
    ku.fit(model, (X, y), optimizer=sgd, num_epochs=1, batch_size=10)  # 64 steps
    assert len(calls) < 10


# --- checkpoints --------------------------------------------------------------------------

RUN = """
import os, sys, time
import karpa_utils as ku, torch
from torch import nn
ku.start(0)
g = torch.Generator().manual_seed(0)
X = torch.randn(200, 6, generator=g); y = (X[:, 0] > 0).long()
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=40 * 13)
noise = lambda x: x + 0.1 * torch.randn_like(x)
ku.fit(model, (X, y), (X[:50], y[:50]), optimizer=optimizer, schedule=schedule, num_epochs=40,
       batch_size=16, augment=noise, keep_best=True, checkpoint=sys.argv[1])
torch.save(torch.cat([p.detach().flatten() for p in model.parameters()]), sys.argv[2])
"""


def run_once(checkpoint, output, kill_after=None):
    process = subprocess.Popen([sys.executable, "-c", RUN, str(checkpoint), str(output)], cwd=ROOT)
    if kill_after is None:
        return process.wait()
    deadline = time.time() + 60
    while process.poll() is None and time.time() < deadline:
        if checkpoint.exists():  # training has begun: now at any moment
            time.sleep(kill_after)
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    return process.wait()


def test_killed_and_resumed_gives_the_same_weights_to_the_bit(tmp_path):
    whole, pieces = tmp_path / "whole.safetensors", tmp_path / "pieces.safetensors"
    assert run_once(whole, tmp_path / "whole.pt") == 0
    killed, chance = 0, random.Random(0)
    for _ in range(4):
        killed += run_once(pieces, tmp_path / "pieces.pt", chance.uniform(0.0, 0.12)) != 0
    assert run_once(pieces, tmp_path / "pieces.pt") == 0
    assert killed >= 2, "the process must really have been killed on the way"
    a, b = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("whole", "pieces"))
    assert torch.equal(a, b)


def test_resuming_in_one_process_continues_history_and_random_states(tmp_path):
    X, y = data()
    runs = []
    for stop in ((6,), (2, 3, 6)):
        torch.manual_seed(3)
        model, path = network(dropout=0.4), tmp_path / f"{len(stop)}.safetensors"
        for epochs in stop:
            torch.manual_seed(3 if epochs == stop[0] else 99)  # the checkpoint must put it back
            sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            history = ku.fit(model, (X, y), optimizer=sgd, num_epochs=epochs, checkpoint=path)
        runs.append((weights(model), history.losses))
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


def test_a_failed_write_leaves_the_earlier_checkpoint_whole(tmp_path, monkeypatch):
    X, y = data()
    path, model = tmp_path / "run.safetensors", network()
    ku.fit(model, (X, y), num_epochs=1, checkpoint=path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ku.BadInput, match="No space left on device"):
        ku.fit(network(), (X, y), num_epochs=2, checkpoint=path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ku.BadInput, match="cannot be written"):
        ku.fit(network(), data(), num_epochs=1, checkpoint=tmp_path / "file" / "run.safetensors")


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    ku.fit(network(), data(), num_epochs=1, checkpoint=path)
    with pytest.raises(ku.BadInput, match="another run"):
        ku.fit(network(), data(), num_epochs=2, batch_size=7, checkpoint=path)
    with pytest.raises(ku.BadInput, match="another run"):
        ku.fit(nn.Linear(6, 2), data(), num_epochs=2, checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ku.BadInput, match="is not a checkpoint"):
        ku.fit(network(), data(), num_epochs=2, checkpoint=path)


# --- bad input: one sentence each ---------------------------------------------------------


def one_sentence(info):
    text = str(info.value)
    assert "\n" not in text
    assert 20 < len(text) < 300
    assert text.endswith(".")


def test_a_loss_that_is_not_finite_names_step_rate_and_rows(tmp_path):
    X, y = data(64)
    X = X.clone()
    X[37] = float("nan")
    model, path = network(), tmp_path / "run.safetensors"
    sgd = torch.optim.SGD(model.parameters(), lr=0.25)
    with pytest.raises(FloatingPointError) as info:
        ku.fit(model, (X, y), optimizer=sgd, batch_size=4, checkpoint=path)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    step = int((order == 37).nonzero()) // 4
    assert f"step {step + 1} " in str(info.value)
    assert "learning rate 0.25" in str(info.value)
    assert "37" in str(info.value).split("rows")[1]
    assert not path.exists()


def test_empty_data():
    for train in ((torch.empty(0, 6), torch.empty(0, dtype=torch.long)), []):
        with pytest.raises(ku.BadInput, match="empty") as info:
            ku.fit(network(), train)
        one_sentence(info)
    with pytest.raises(ku.BadInput, match="empty"):
        ku.evaluate(network(), [])


def test_labels_out_of_range():
    X, y = data()
    with pytest.raises(ku.BadInput, match="from 0 to 2.*2 outputs") as info:
        ku.fit(network(), (X, y * 2))
    one_sentence(info)


def test_rows_and_labels_that_do_not_match():
    X, y = data()
    with pytest.raises(ku.BadInput, match="96 rows but 95 labels") as info:
        ku.fit(network(), (X, y[:-1]))
    one_sentence(info)


def test_a_model_on_another_device():
    model = network().to("meta")
    with pytest.raises(ku.BadInput, match="is on meta.*device is cpu") as info:
        ku.fit(model, data())
    one_sentence(info)
    model = network()
    model[0].to("meta")
    with pytest.raises(ku.BadInput, match="spread over"):
        ku.fit(model, data())


def test_an_optimizer_of_another_model():
    with pytest.raises(ku.BadInput, match="not this model's") as info:
        ku.fit(network(), data(), optimizer=torch.optim.SGD(network().parameters(), lr=1))
    one_sentence(info)


def test_patience_without_validation_data():
    with pytest.raises(ku.BadInput, match="validation"):
        ku.fit(network(), data(), patience=2)


# --- several processes --------------------------------------------------------------------

PARALLEL = """
import sys
import karpa_utils as ku, torch
from torch import nn
ku.start(0)
g = torch.Generator().manual_seed(0)
X = torch.randn(128, 6, generator=g, dtype=torch.float64); y = (X[:, 0] > 0).long()
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)).double()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
ku.fit(model, (X, y), optimizer=optimizer, num_epochs=3, batch_size=32, checkpoint=sys.argv[1])
import os
if os.environ.get("RANK", "0") == "0":
    torch.save(torch.cat([p.detach().flatten() for p in model.parameters()]), sys.argv[2])
"""


def test_two_processes_take_the_same_steps_as_one(tmp_path):
    script = tmp_path / "parallel.py"
    script.write_text(PARALLEL)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name, start in (("one", [sys.executable]), ("two", launch)):
        arguments = [
            str(script),
            str(tmp_path / f"{name}.safetensors"),
            str(tmp_path / f"{name}.pt"),
        ]
        done = subprocess.run(
            [*start, *arguments], env=environment, capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("one", "two"))
    assert torch.allclose(one, two, atol=1e-12)


def test_bf16_trains_close_to_full_precision():
    X, y = data(400)
    scores = []
    for precision in ("no", "bf16"):
        model = network()
        sgd = torch.optim.SGD(model.parameters(), lr=0.2)
        ku.fit(model, (X, y), optimizer=sgd, num_epochs=20, precision=precision)
        scores.append(ku.evaluate(model, (X, y))["score"])
    assert min(scores) > 0.95


def test_history_survives_json(tmp_path):
    """What a checkpoint's header holds is plain JSON."""
    from safetensors import safe_open

    path = tmp_path / "run.safetensors"
    ku.fit(network(), data(), data(40, 1), num_epochs=2, checkpoint=path)
    with safe_open(path, framework="pt") as file:
        state = json.loads(file.metadata()["state"])
    assert state["epoch"] == 2
    assert len(state["history"]["valid"]) == 2
