"""The exported files against the eager model, against bounds, and in a process without torch."""

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import karpa_utils as ku
from karpa_utils import deploy, simplify

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

IMAGES = torch.rand(200, 1, 28, 28, generator=torch.Generator().manual_seed(0))
MODELS = {
    "mlp": lambda: ku.models.mlp(784, 64, 10),
    "small_cnn": lambda: ku.models.small_cnn(width=16, dropout=0.2),
    "small_resnet": lambda: ku.models.small_resnet(1, 8),
}
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)


def lively(name):
    """Return a model whose batch norms have statistics, weights and biases of their own."""
    torch.manual_seed(0)
    model = MODELS[name]()
    for layer in model.modules():
        if isinstance(layer, simplify.NORMS):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 1.5)
    return model


def outputs(path, x):
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 2
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def eager(model, x):
    with torch.no_grad():
        return model.eval()(x)


def weights_of(path):
    """Return name -> array of every number stored in the file."""
    graph = onnx.load(path).graph
    return {part.name: onnx.numpy_helper.to_array(part) for part in graph.initializer}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in an empty folder whose path holds a space; nothing but the exports may appear."""
    folder = tmp_path / "with a space"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@EVERY_MODEL
def test_the_float_file_computes_what_the_eager_model_does(name, folder):
    model = lively(name)
    path = ku.simplify.export_onnx(model, IMAGES[:5], folder / "model.onnx")
    expected = eager(model, IMAGES)
    for rows in (1, 2, 7, 200):  # the batch axis is dynamic
        assert (outputs(path, IMAGES[:rows]) - expected[:rows]).abs().max() <= 1e-5
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert "BatchNormalization" not in kinds
    assert path.stat().st_size < 4 * sum(p.numel() for p in model.parameters()) + 10_000
    assert os.listdir(folder) == ["model.onnx"]


@EVERY_MODEL
def test_the_int8_file_stays_near_the_eager_model(name, folder):
    model = lively(name)
    path = ku.simplify.export_int8(model, IMAGES, folder / "model.onnx")
    expected, found = eager(model, IMAGES), outputs(path, IMAGES)
    assert (found - expected).abs().max() <= 0.1 * expected.abs().max()
    assert (found - expected).square().mean() <= 1e-3 * expected.var()
    assert (found - expected).abs().max() > 0  # something was rounded
    assert os.listdir(folder) == ["model.onnx"]


@EVERY_MODEL
def test_the_weights_in_the_file_are_int8_with_a_scale_for_each_channel(name, folder):
    model = lively(name)
    path = ku.simplify.export_int8(model, IMAGES, folder / "model.onnx")
    stored = weights_of(path)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    integers = {k: v for k, v in stored.items() if v.dtype == np.int8 and v.ndim > 1}
    assert sorted(v.size for v in integers.values()) == sorted(m.weight.numel() for m in layers)
    for key, whole in integers.items():
        scale = stored[key.replace("_quantized", "_scale")]
        assert scale.shape == (len(whole),)
        assert np.abs(whole).max() <= 64  # 7 bits
        assert (np.abs(whole.reshape(len(whole), -1)).max(1) >= 63).all()  # the range is used
    assert not [k for k, v in stored.items() if v.dtype == np.float32 and v.size > len(layers) * 64]
    size = sum(p.numel() for p in model.parameters())
    assert size < path.stat().st_size < 1.05 * size + 12_000


def test_the_stored_integers_are_the_rounded_weights(folder):
    model = lively("mlp")
    stored = weights_of(ku.simplify.export_int8(model, IMAGES, "model.onnx"))
    weight = model[1].weight.detach().numpy()
    scale = stored["1.weight_scale"][:, None]
    assert np.allclose(scale[:, 0], np.abs(weight).max(1) / 63.5, rtol=0.02)
    assert np.abs(weight - scale * stored["1.weight_quantized"]).max() <= scale.max() / 2 * 1.001


def test_eight_bits_and_one_scale_a_tensor_can_be_asked_for(folder):
    model = lively("small_cnn")
    options = {"reduce_range": False, "per_channel": False}
    stored = weights_of(ku.simplify.export_int8(model, IMAGES, "model.onnx", **options))
    integers = {k: v for k, v in stored.items() if v.dtype == np.int8 and v.ndim > 1}
    assert max(np.abs(v).max() for v in integers.values()) == 127
    assert all(stored[k.replace("_quantized", "_scale")].size == 1 for k in integers)


def test_a_linear_layer_is_off_by_no_more_than_its_roundings(folder):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30))
    x = torch.randn(500, 20)
    path = ku.simplify.export_int8(model, x, folder / "model.onnx")
    stored = {k: torch.tensor(v) for k, v in weights_of(path).items()}
    weight = model[0].weight.detach()
    s_x, s_y = stored["x_scale"], stored["y_scale"]
    s_w = next(v for k, v in stored.items() if "weight_scale" in k and "bias" not in k)
    e_x, e_w = s_x / 2, s_w[:, None] / 2
    bound = weight.abs().sum(1) * e_x + (x.abs() + e_x) @ e_w.expand_as(weight).T
    bound += s_x * s_w / 2 + s_y / 2  # the bias and the result are rounded, too
    gap = (outputs(path, x) - eager(model, x)).abs()
    assert (gap <= bound + 1e-5).all()
    assert gap.max() > 0.05 * bound.max()


def test_numbers_outside_the_calibration_are_clipped(folder):
    model = nn.Sequential(nn.Linear(4, 4))
    x = torch.randn(100, 4)
    path = ku.simplify.export_int8(model, x, folder / "model.onnx")
    far = outputs(path, 100 * x)
    assert far.abs().max() <= 1.5 * eager(model, x).abs().max()


def test_the_file_runs_where_torch_cannot_be_imported(folder):
    model = lively("small_cnn")
    path = ku.simplify.export_int8(model, IMAGES, folder / "model.onnx")
    np.save("x.npy", IMAGES[:20].numpy())
    program = """
import sys
sys.modules["torch"] = None  # an import of torch now fails
import json, numpy, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
print(json.dumps(session.run(None, {"x": numpy.load("x.npy")})[0].tolist()))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert torch.equal(torch.tensor(json.loads(done.stdout)), outputs(path, IMAGES[:20]))


def test_two_exports_write_the_same_bytes_and_no_path_of_this_machine(folder):
    files = [ku.simplify.export_int8(lively("small_cnn"), IMAGES, f"{n}.onnx") for n in "ab"]
    contents = [file.read_bytes() for file in files]
    assert contents[0] == contents[1]
    assert str(os.getcwd()).encode() not in contents[0]
    assert b"site-packages" not in contents[0]


def test_nothing_is_printed_and_the_loggers_get_their_levels_back(folder, capfd, recwarn):
    before = logging.root.manager.disable, logging.root.level
    ku.simplify.export_int8(lively("small_resnet"), IMAGES, "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert (logging.root.manager.disable, logging.root.level) == before


def test_the_given_model_stays_as_it_is(folder):
    model = lively("small_cnn").train()
    model[1].eval()
    modes = [layer.training for layer in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ku.simplify.export_int8(model, IMAGES, "model.onnx")
    assert [layer.training for layer in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# --- what cannot be exported -----------------------------------------------------------------


class Unsupported(nn.Module):
    def forward(self, x):
        return torch.linalg.qr(x.flatten(1)).R


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Pair(nn.Module):
    def forward(self, x):
        return x, x


HOLE = IMAGES.clone()
HOLE[3, 0, 5, 5] = float("nan")
BAD = {
    "no rows": (lambda: lively("small_cnn"), IMAGES[:0], "empty"),
    "not a tensor": (lambda: lively("small_cnn"), [], "empty"),
    "another shape": (lambda: lively("mlp"), torch.rand(9, 3, 28, 28), "does not take inputs"),
    "another type": (lambda: lively("small_cnn"), (255 * IMAGES).byte(), "does not take inputs"),
    "nan": (lambda: lively("small_cnn"), HOLE, "not finite"),
    "unsupported operator": (Unsupported, IMAGES, "cannot be exported to ONNX"),
    "branch on a number": (Branching, IMAGES, "cannot be exported to ONNX"),
    "two outputs": (Pair, IMAGES, "only one tensor"),
}


@pytest.mark.parametrize("old", [None, b"a good file"], ids=["new file", "file there"])
@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_exported_is_refused_in_one_sentence(case, old, folder, capfd):
    build, x, words = BAD[case]
    model = build().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    if old is not None:
        (folder / "model.onnx").write_bytes(old)
    with pytest.raises(ku.BadInput, match=words) as caught:
        ku.simplify.export_int8(model, x, folder / "model.onnx")
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert capfd.readouterr() == ("", "")
    assert [p.read_bytes() for p in folder.iterdir()] == ([] if old is None else [old])
    assert all(layer.training for layer in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_place_that_cannot_be_written_is_refused_before_any_work(folder, monkeypatch):
    model = lively("mlp")
    with pytest.raises(ku.BadInput, match="does not exist"):
        ku.simplify.export_int8(model, IMAGES, "nowhere/model.onnx")
    (folder / "model.onnx").mkdir()
    with pytest.raises(ku.BadInput, match="is a folder"):
        ku.simplify.export_int8(model, IMAGES, "model.onnx")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ku.BadInput, match="read-only"):
        ku.simplify.export_int8(model, IMAGES, "other.onnx")
    assert os.listdir(folder) == ["model.onnx"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(folder):
    folder.chmod(0o500)
    with pytest.raises(ku.BadInput, match="read-only"):
        ku.simplify.export_int8(lively("mlp"), IMAGES, folder / "model.onnx")
    folder.chmod(0o700)


def test_a_disk_that_fills_up_leaves_the_old_file_whole(folder, monkeypatch):
    (folder / "model.onnx").write_bytes(b"a good file")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deploy.os, "fsync", full)
    with pytest.raises(ku.BadInput, match="No space left"):
        ku.simplify.export_int8(lively("mlp"), IMAGES, folder / "model.onnx")
    assert [p.read_bytes() for p in folder.iterdir()] == [b"a good file"]


def test_a_missing_package_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ku.BadInput, match="pip install"):
        ku.simplify.export_onnx(lively("mlp"), IMAGES, "model.onnx")
    assert not os.listdir(folder)


def test_importing_the_package_loads_neither_onnx_nor_the_runtime():
    program = "import karpa_utils, sys; print(sorted({'onnx', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n"
