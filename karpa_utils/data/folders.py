"""A folder with one sub-folder per class, split for good. Taught in vision/transfer_learning."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from karpa_utils.data.images import Images, _images
from karpa_utils.errors import BadInput

SHOWN = 5  # unreadable files named in the log line


def image_folder(
    path: str | Path,
    size: int,
    *,
    mode: str = "RGB",
    # "RGB" or "L" (gray); every image is converted
    valid: float = 0.15,
    test: float = 0.15,
    # shares of each class; the rest is for training, 0 leaves a part empty
    seed: int = 0,
) -> Images:
    """Return the images below path/<class>/ in three parts that share no image, (N, C, size, size).

    Each class is divided by itself; files with the same bytes stay on one side. The same names,
    bytes and seed give the same split anywhere. Classes are the sub-folders in sorted order.
    Images are turned as their EXIF data say and resized, not cropped, to size × size; 16-bit gray
    is divided by 65,535, float gray is taken as it is, the first frame of an animation stands for
    it, transparency is dropped. Files that are no readable image are skipped: one warning in the
    log gives their number and the first names.
    Raises BadInput for a folder that is missing, empty or has one class, a class without enough
    different images, the same bytes in two classes, shares or a size that make no sense, a number
    outside an image's range, and where nothing in a class can be read.
    """
    root = Path(path)
    if not root.is_dir():
        raise BadInput(f"There is no folder {root}: give one that holds a sub-folder per class.")
    if mode not in ("RGB", "L") or not (isinstance(size, int) and size > 0):
        raise BadInput(f"mode is 'RGB' or 'L' and size a whole number above 0: {mode!r}, {size!r}.")
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise BadInput(f"valid and test are shares with a sum below 1, not {valid} and {test}.")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(folders) < 2:
        raise BadInput(f"{root} has {len(folders)} sub-folders: two classes or more are needed.")
    parts: list[tuple[list, list]] = [([], []), ([], []), ([], [])]  # train, valid, test
    skipped: list[str] = []
    owner: dict[str, Path] = {}  # digest -> the first file that has it
    for label, folder in enumerate(folders):
        groups: dict[str, list[np.ndarray]] = {}  # digest -> its images, one a file
        for file in sorted(p for p in folder.iterdir() if p.is_file()):
            try:
                pixels = _read(file, size, mode)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
                skipped.append(f"{folder.name}/{file.name}")
                continue
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            first = owner.setdefault(digest, file)
            if first.parent != folder:
                raise BadInput(f"{first} and {file} are one image in two classes: remove one.")
            groups.setdefault(digest, []).append(pixels)
        _deal(list(groups.values()), (valid, test), (seed, label), label, parts, folder)
    if skipped:
        names = ", ".join(skipped[:SHOWN]) + (", …" if len(skipped) > SHOWN else "")
        logging.getLogger("karpa_utils").warning(
            "image_folder skipped %d unreadable files: %s", len(skipped), names
        )
    shape = (0, size, size) if mode == "L" else (0, 3, size, size)
    arrays = [(np.stack(X) if X else np.empty(shape, np.uint8), np.array(y)) for X, y in parts]
    return _images(arrays, tuple(f.name for f in folders), root.name)


def _deal(groups, shares, seed, label, parts, folder) -> None:
    """Deal one class's groups of equal files to the three parts, test first, in random order."""
    wanted = 1 + sum(share > 0 for share in shares)
    if len(groups) < wanted:
        raise BadInput(
            f"{folder} has {len(groups)} different readable images: {wanted} parts need one each."
        )
    files = sum(map(len, groups))
    needs = [max(1, round(share * files)) if share else 0 for share in shares]  # valid, test
    order = list(np.random.default_rng(seed).permutation(len(groups)))
    for part, need, later in ((2, needs[1], wanted - 1), (1, needs[0], 1), (0, files, 0)):
        while need > 0 and len(order) > later:  # one image each is left for the later parts
            images = groups[order.pop()]
            parts[part][0].extend(images)
            parts[part][1].extend([label] * len(images))
            need -= len(images)


def _read(file: Path, size: int, mode: str) -> np.ndarray:
    """Return one image as uint8, (size, size) or (3, size, size); raise as Pillow does."""
    with Image.open(file) as image:
        image = ImageOps.exif_transpose(image)  # decodes all of it: half a file is an error
        if image.mode == "F" or image.mode.startswith("I"):  # convert() would clip these at 255
            values, top = np.asarray(image, np.float32), 1.0 if image.mode == "F" else 65535.0
            low, high = values.min(), values.max()
            if not (low >= 0 and high <= top):  # also where a number is nan
                raise BadInput(f"{file} holds {low:g} to {high:g}: rescale it to 0 … {top:g}.")
            image = Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))
        pixels = np.asarray(image.convert(mode).resize((size, size), Image.Resampling.BILINEAR))
    return pixels if mode == "L" else pixels.transpose(2, 0, 1)
