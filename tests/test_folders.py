"""Folders of images: what is read against Pillow, how it is split, what is refused."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from karpa_utils.data.folders import image_folder
from karpa_utils.errors import BadInput


def picture(seed: int, shape=(9, 7, 3), high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.uint8)


def save(root, name: str, array) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(root / name)


@pytest.fixture
def folder(tmp_path):
    """Two classes of 20 and 40 different images."""
    for label, count in (("cat", 20), ("dog", 40)):
        for i in range(count):
            save(tmp_path, f"{label}/{i:03}.png", picture(1000 * count + i))
    return tmp_path


def rows(part) -> set[bytes]:
    return {x.numpy().tobytes() for x in part[0]}


def test_split_is_stratified_whole_and_disjoint(folder):
    data = image_folder(folder, 8, valid=0.1, test=0.25)
    assert data.classes == ("cat", "dog")
    assert data.name == folder.name
    sizes = [part[1].bincount(minlength=2).tolist() for part in data[:3]]
    assert sizes == [[13, 26], [2, 4], [5, 10]]
    found = [rows(part) for part in data[:3]]
    assert len(set.union(*found)) == sum(map(len, found)) == 60
    for X, y in data[:3]:
        assert X.shape == (len(y), 3, 8, 8)
        assert X.dtype == torch.float32
        assert y.dtype == torch.int64


def test_split_is_deterministic_and_follows_the_seed(folder):
    one, two, other = (image_folder(folder, 8, seed=s) for s in (3, 3, 4))
    assert torch.equal(one.test[0], two.test[0])
    assert rows(one.test) != rows(other.test)


def test_pixels_are_pillows(folder):
    X, y = image_folder(folder, 5, valid=0, test=0)[0]
    with Image.open(folder / "cat" / "000.png") as image:
        pixels = np.asarray(image.resize((5, 5), Image.Resampling.BILINEAR))
    expected = torch.tensor(pixels).permute(2, 0, 1).float() / 255
    assert any(torch.equal(x, expected) for x in X[y == 0])
    assert len(y) == 60
    assert image_folder(folder, 5, valid=0, test=0).test[0].shape == (0, 3, 5, 5)


def test_gray_and_color_are_converted_to_the_mode_asked_for(tmp_path):
    for i in range(3):
        save(tmp_path, f"a/{i}.png", picture(i, (6, 6)))
        save(tmp_path, f"b/{i}.png", picture(9 + i))
    color, gray = (image_folder(tmp_path, 6, mode=m, valid=0.3, test=0.3) for m in ("RGB", "L"))
    X, y = color.train
    assert (X[y == 0][:, 0] == X[y == 0][:, 2]).all()
    assert (X[y == 1][:, 0] != X[y == 1][:, 2]).any()
    assert gray.train[0].shape[1:] == (1, 6, 6)


def test_copies_of_a_file_stay_on_one_side(tmp_path):
    for label in ("a", "b"):
        for i in range(10):
            for copy in range(i % 3 + 1):  # up to three files with the same bytes
                save(tmp_path, f"{label}/{copy}_{i}.png", picture(100 * ord(label) + i))
    for seed in range(20):
        data = image_folder(tmp_path, 8, seed=seed)
        found = [rows(part) for part in data[:3]]
        assert sum(map(len, found)) == len(set.union(*found)) == 20
        assert sum(len(part[1]) for part in data[:3]) == 38
        assert all(part[1].bincount(minlength=2).min() > 0 for part in data[:3])


def test_three_images_a_class_are_enough_for_three_parts(tmp_path):
    for label in ("a", "b"):
        for i in range(3):
            save(tmp_path, f"{label}/{i}.png", picture(10 * ord(label) + i))
    data = image_folder(tmp_path, 8, valid=0.45, test=0.45)
    assert [len(part[1]) for part in data[:3]] == [2, 2, 2]


def test_a_big_group_of_copies_leaves_one_image_for_each_part(tmp_path):
    for label in ("a", "b"):
        for i, copies in enumerate((8, 1, 1)):
            for copy in range(copies):
                save(tmp_path, f"{label}/{i}_{copy}.png", picture(10 * ord(label) + i))
    for seed in range(10):
        data = image_folder(tmp_path, 8, valid=0.1, test=0.5, seed=seed)
        assert all(part[1].bincount(minlength=2).min() > 0 for part in data[:3])


def test_sixteen_bit_and_float_gray_keep_their_range(tmp_path):
    ramp = np.linspace(0, 1, 16).reshape(4, 4)
    for i in range(2):
        save(tmp_path, f"a/{i}.tiff", (ramp + i / 1000).clip(0, 1).astype(np.float32))
        save(tmp_path, f"b/{i}.png", np.rint(ramp * 65535 - i).clip(0).astype(np.uint16))
    X, _ = image_folder(tmp_path, 4, mode="L", valid=0, test=0)[0]
    assert (X - torch.tensor(ramp)).abs().max() < 0.004  # half a step of 255, and i / 1000


@pytest.mark.parametrize("high", [7.0, float("nan")])
def test_float_images_out_of_range_are_refused(folder, high):
    save(folder, "cat/x.tiff", np.array([[-3, high], [0, 0]], np.float32))
    with pytest.raises(BadInput, match=r"x\.tiff holds .*: rescale it to 0 … 1\."):
        image_folder(folder, 8)


def test_unreadable_files_are_skipped_counted_and_named(folder, caplog):
    whole = (folder / "dog" / "000.png").read_bytes()
    (folder / "dog" / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "notes.txt").write_text("not an image")
    (folder / "cat" / "empty.jpg").write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="karpa_utils"):
        data = image_folder(folder, 8)
    assert sum(len(part[1]) for part in data[:3]) == 60
    (line,) = [record.getMessage() for record in caplog.records]
    names = "cat/empty.jpg, dog/half.png, dog/notes.txt"
    assert line == f"image_folder skipped 3 unreadable files: {names}"


def test_nothing_readable_is_refused(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match="has 0 different readable images: 3 parts need one each"):
        image_folder(tmp_path, 8)


def test_one_image_in_two_classes_is_refused(folder):
    (folder / "dog" / "copy.png").write_bytes((folder / "cat" / "003.png").read_bytes())
    with pytest.raises(BadInput, match=r"003\.png and .*copy\.png are one image in two classes"):
        image_folder(folder, 8)


def test_folders_that_are_none_are_refused(tmp_path):
    with pytest.raises(BadInput, match="There is no folder"):
        image_folder(tmp_path / "nowhere", 8)
    save(tmp_path, "only.png", picture(0))
    with pytest.raises(BadInput, match="There is no folder"):
        image_folder(tmp_path / "only.png", 8)
    with pytest.raises(BadInput, match="has 0 sub-folders"):
        image_folder(tmp_path, 8)
    save(tmp_path, "a/0.png", picture(0))
    with pytest.raises(BadInput, match="has 1 sub-folders: two classes or more"):
        image_folder(tmp_path, 8)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mode": "CMYK"}, "mode is 'RGB' or 'L'"),
        ({"size": 0}, "size a whole number above 0"),
        ({"size": 8.5}, "size a whole number above 0"),
        ({"valid": 0.5, "test": 0.5}, "a sum below 1, not 0.5 and 0.5"),
        ({"valid": -0.1}, "a sum below 1, not -0.1"),
        ({"test": float("nan")}, "a sum below 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(folder, options, sentence):
    with pytest.raises(BadInput, match=sentence):
        image_folder(folder, **{"size": 8} | options)
