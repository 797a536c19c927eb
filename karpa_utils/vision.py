"""Measures of detection and segmentation, in COCO's definition.

Taught in vision/driving_perception. Boxes are x0, y0, x1, y1 in pixels with x0 < x1 and y0 < y1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from karpa_utils.errors import BadInput

THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))  # COCO's 0.50, 0.55, ..., 0.95
MOST = 100  # detections of one class that count in a picture


class Found(NamedTuple):
    """Detections of many pictures, D in all, in any order."""

    scene: Tensor  # int64, number of the picture, (D,)
    boxes: Tensor  # (D, 4)
    labels: Tensor  # int64, (D,)
    scores: Tensor  # the higher the surer, (D,)


def check_boxes(boxes: Tensor, height: int | None = None, width: int | None = None) -> None:
    """Raise BadInput unless boxes is (N, 4), finite, none of them empty or outside the picture."""
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise BadInput(f"Boxes must have the shape (N, 4), not {tuple(boxes.shape)}.")
    wrong = ~boxes.isfinite().all(1) | (boxes[:, 2:] <= boxes[:, :2]).any(1)
    what = "empty, turned round or not finite: x0 < x1 and y0 < y1 are needed"
    if height is not None and width is not None and not wrong.any():
        wrong = ((boxes < 0) | (boxes > boxes.new_tensor([width, height] * 2))).any(1)
        what = f"not within the picture of {height} × {width} pixels: clip or drop it"
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise BadInput(f"Box {row}, {boxes[row].tolist()}, is {what}.")


def check_images(X: Tensor, height: int, width: int) -> Tensor:
    """Return color images (N, 3, height, width) as float32 in [0, 1].

    Raises BadInput for another shape, a type other than uint8 or float, or values out of range.
    """
    if X.ndim != 4 or tuple(X.shape[1:]) != (3, height, width):
        want, found = f"(N, 3, {height}, {width})", tuple(X.shape)
        raise BadInput(f"Images must be {want}, not {found}: convert to RGB and resize them.")
    if X.dtype == torch.uint8:
        return X.float() / 255
    wrong = X[~((X >= 0) & (X <= 1))]
    if len(wrong) or not X.is_floating_point():
        found = f"{X.dtype} with values like {wrong[0]:g}" if len(wrong) else X.dtype
        raise BadInput(f"Images must be uint8, or floats in [0, 1], not {found}.")
    return X.float()


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of every pair of boxes: (N, 4), (M, 4) -> (N, M)."""
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    both = (high - low).clamp(min=0).prod(2)  # (N, M)
    area = [(x[:, 2:] - x[:, :2]).prod(1) for x in (a, b)]
    return both / (area[0][:, None] + area[1] - both)


def covered(
    found: Found, truth: Found, label: int, *, least: float = 0.3, overlap: float = 0.5
) -> Tensor:
    """Return which true boxes a detection of this label overlaps enough, (M,) bool.

    least: of the score; overlap: of the IoU. Other than in match one detection may serve several.
    """
    sure = (found.scores >= least) & (found.labels == label)
    iou = box_iou(truth.boxes, found.boxes[sure])  # (M, D)
    iou = iou * (truth.scene[:, None] == found.scene[sure])
    return F.pad(iou, (0, 1)).amax(1) >= overlap


def crops(X: Tensor, boxes: Tensor, scene: Tensor, *, size: int = 16, extra: float = 1.2) -> Tensor:
    """Return what stands in boxes (M, 4) of pictures X (N, 3, H, W): (M, 3, size, size) float32.

    scene: (M,) which picture; extra: how far beyond the box. Each crop has mean 0 and variance 1.
    """
    if not len(boxes):
        return torch.zeros(0, 3, size, size)
    H, W = X.shape[2:]
    scale = boxes.new_tensor([2 / W, 2 / H])
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 * scale - 1  # (M, 2) in [-1, 1]
    half = extra * (boxes[:, 2:] - boxes[:, :2]) / 2 * scale
    theta, parts = torch.cat([torch.diag_embed(half), middle[:, :, None]], 2), []  # (M, 2, 3)
    for t, n in zip(theta.split(200), scene.split(200), strict=True):  # to save memory
        grid = F.affine_grid(t, [len(t), 3, size, size], align_corners=False)
        parts.append(F.grid_sample(X[n].float(), grid, align_corners=False))
    x = torch.cat(parts)
    return (x - x.mean((1, 2, 3), True)) / (x.std((1, 2, 3), keepdim=True) + 1)


def color_patches(X: Tensor, pixels: Tensor, X_new: Tensor, least: float) -> Found:
    """Return what color alone finds in X_new: a box for each connected patch of telling colors.

    X: (N, 3, H, W) uint8 pictures with known pixels (N, H, W), whose largest value means "nothing".
    A color, one of 8 × 8 × 8, tells a class if that is the class of at least the share `least` of
    its pixels in X. The larger and the surer a patch, the higher its score.
    """
    from scipy import ndimage

    K = int(pixels.max())
    digits = torch.tensor([64, 8, 1]).view(3, 1, 1)
    old, new = (((x // 32).long() * digits).sum(1) for x in (X, X_new))  # (N, H, W) each
    counts = torch.bincount(old.flatten() * (K + 1) + pixels.flatten(), minlength=512 * (K + 1))
    counts = counts.view(-1, K + 1).float()
    share = (counts / counts.sum(1, keepdim=True).clamp(min=1))[new].numpy()  # (N, H, W, K + 1)
    rows = []
    for n in range(len(X_new)):
        for c in range(K):
            patches, _ = ndimage.label(share[n, :, :, c] > least)
            for y, x in ndimage.find_objects(patches):
                box = x.start, y.start, x.stop, y.stop
                rows.append((n, *box, c, share[n, y, x, c].sum()))
    t = torch.tensor(rows).view(-1, 7)
    return Found(t[:, 0].long(), t[:, 1:5], t[:, 5].long(), t[:, 6])


def draw_box(ax, box: Sequence[float], color: str, style: str = "-") -> None:
    """Draw one box over a picture shown by imshow, whose pixel centers are whole numbers."""
    x0, y0, x1, y1 = (float(b) - 0.5 for b in box)
    ax.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], style, color=color, linewidth=1.2)


def match(
    found: Found, truth: Found, ignore: Tensor, thresholds: Sequence[float] = THRESHOLDS
) -> tuple[Tensor, Tensor]:
    """Return which detections are right and which truths are found: int8 (T, D) and bool (T, M).

    A detection is 1 (right), 0 (false) or -1 (belongs to an ignored truth, does not count). In each
    picture and class detections come in the order of their scores; each takes the free truth that
    it overlaps most, if by a threshold at least; ignored truths only when no other is left.
    truth: its scores are not read, so Scenes will do; ignore: (M,) bool. Raises BadInput for boxes
    that are none.
    """
    check_boxes(found.boxes)
    check_boxes(truth.boxes)
    t = torch.tensor(thresholds, dtype=torch.float64)
    right = torch.zeros(len(t), len(found.scene), dtype=torch.int8)
    taken = torch.zeros(len(t), len(truth.scene), dtype=torch.bool)
    order = torch.argsort(found.scores, descending=True, stable=True)
    limit = np.minimum(t.numpy(), 1 - 1e-10)[:, None]  # (T, 1)
    mine, real = (part.labels + 2**20 * part.scene for part in (found, truth))
    for group in real.unique():  # one class in one picture
        D, G = order[mine[order] == group], (real == group).nonzero()[:, 0]
        right[:, D[MOST:]] = -1
        iou = box_iou(found.boxes[D[:MOST]].double(), truth.boxes[G].double()).numpy()  # (D, G)
        skip, free = ignore[G].numpy(), np.ones((len(t), len(G)), bool)
        for d, overlap in zip(D[:MOST], iou, strict=True):
            able = free & (overlap >= limit)  # (T, G)
            rank = np.where(able, overlap + 2 * ~skip, -1)  # real truths before ignored ones
            best, hit = rank.argmax(1), able.any(1)
            free[hit.nonzero()[0], best[hit]] = False
            right[:, d] = torch.from_numpy(np.where(hit, 1 - 2 * skip[best], 0).astype(np.int8))
        taken[:, G] = torch.from_numpy(~free)
    return right, taken


def average_precision(scores: Tensor, right: Tensor, num_truth: int) -> float:
    """Return COCO's average precision of one class at one threshold; nan without any truth.

    scores: (D,); right: (D,) as from match; num_truth: truths that are not ignored. Precision is
    read at the 101 recalls 0, 0.01, ..., 1, each time as the best at that recall or a higher one.
    """
    if num_truth == 0:
        return float("nan")
    order = torch.argsort(scores, descending=True, stable=True)
    hits = right[order][right[order] >= 0].double().cumsum(0).numpy()
    precision = np.append(hits / np.arange(1, len(hits) + 1), 0)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[np.searchsorted(hits / num_truth, np.linspace(0, 1, 101))].mean())


def mean_average_precision(
    found: Found,
    truth: Found,
    ignore: Tensor | None = None,
    *,
    num_classes: int,
    thresholds: Sequence[float] = THRESHOLDS,
) -> np.ndarray:
    """Return the average precision of every class and threshold, (num_classes, T).

    COCO's mAP is the mean of it all, mAP@0.5 that of column 0 (np.nanmean: a class that does not
    occur is nan). ignore: truths that neither count nor punish, (M,) bool.
    """
    for name, part in (("found", found), ("truth", truth)):
        sizes = {len(part.scene), len(part.boxes), len(part.labels)}
        if len(sizes) > 1:
            raise BadInput(f"The parts of {name} have different lengths: {sorted(sizes)}.")
        if len(part.labels) and not 0 <= part.labels.min() <= part.labels.max() < num_classes:
            raise BadInput(f"Labels of {name} must lie between 0 and {num_classes - 1}.")
    ignore = torch.zeros(len(truth.scene), dtype=torch.bool) if ignore is None else ignore
    right, _ = match(found, truth, ignore, thresholds)
    table = np.full((num_classes, len(thresholds)), np.nan)
    for c in range(num_classes):
        mine, count = found.labels == c, int(((truth.labels == c) & ~ignore).sum())
        for k in range(len(thresholds)):
            table[c, k] = average_precision(found.scores[mine], right[k, mine], count)
    return table


def intersection_over_union(predicted: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Return the IoU of every class over all pixels, (num_classes,); nan where a class is absent.

    predicted, truth: integer maps of one shape. Raises BadInput for values that are no class.
    """
    if predicted.shape != truth.shape:
        raise BadInput(f"The maps differ in shape: {tuple(predicted.shape)}, {tuple(truth.shape)}.")
    for name, part in (("predicted", predicted), ("true", truth)):
        wrong = part[(part < 0) | (part >= num_classes)]
        if part.is_floating_point() or len(wrong):
            found = wrong[0].item() if len(wrong) else part.dtype
            raise BadInput(
                f"The {name} map must hold whole numbers from 0 to {num_classes - 1}, not {found}."
            )
    pairs = num_classes * truth.flatten().long() + predicted.flatten().long()
    counts = torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes).double()
    both = counts.diag()
    return both / (counts.sum(0) + counts.sum(1) - both)
