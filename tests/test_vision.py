"""Measures of detection and segmentation, against hand counts, brute force and set arithmetic."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from karpa_utils import data, vision
from karpa_utils.data import pretrained
from karpa_utils.errors import BadInput
from karpa_utils.vision import Found


def found(rows) -> Found:
    """Return Found from rows (scene, x0, y0, x1, y1, label, score)."""
    t = torch.tensor(rows, dtype=torch.float64).view(-1, 7)
    return Found(t[:, 0].long(), t[:, 1:5], t[:, 5].long(), t[:, 6])


def random_case(seed: int):
    """Return detections, truths and what to ignore for 6 pictures of 3 classes."""
    rng = np.random.default_rng(seed)
    truth = [
        (s, x, y, x + w, y + h, rng.integers(3), 1)
        for s in range(6)
        for x, y, w, h in rng.integers(1, 12, (rng.integers(0, 6), 4))
    ]
    rows = [
        (s, x0 + a, y0 + b, x1 + c + 2, y1 + d + 2, (k + (rng.random() < 0.1)) % 3, rng.random())
        for s, x0, y0, x1, y1, k, _ in truth * 3
        for a, b, c, d in rng.integers(-1, 2, (1, 4))
        if rng.random() < 0.8
    ]
    return found(rows), found(truth), torch.from_numpy(rng.random(len(truth)) < 0.25)


def brute_force(detections: Found, truth: Found, ignore, num_classes: int, thresholds):
    """Average precision by the definition, one loop for each word of it."""
    table = np.full((num_classes, len(thresholds)), np.nan)
    for c in range(num_classes):
        mine = [g for g in range(len(truth.scene)) if truth.labels[g] == c]
        number = sum(not ignore[g] for g in mine)
        rows = [d for d in range(len(detections.scene)) if detections.labels[d] == c]
        rows.sort(key=lambda d: -detections.scores[d].item())
        for k, t in enumerate(thresholds):
            if not number:
                continue
            free, verdict = set(mine), []
            for d in rows:
                best, best_iou = None, t
                for wanted in (False, True):  # truths that count first, ignored ones after
                    for g in sorted(free):
                        if bool(ignore[g]) == wanted and truth.scene[g] == detections.scene[d]:
                            a, b = detections.boxes[d].tolist(), truth.boxes[g].tolist()
                            wide = min(a[2], b[2]) - max(a[0], b[0])
                            high = min(a[3], b[3]) - max(a[1], b[1])
                            both = max(wide, 0) * max(high, 0)
                            area = [(q[2] - q[0]) * (q[3] - q[1]) for q in (a, b)]
                            iou = both / (sum(area) - both)
                            if iou >= best_iou and (best is None or iou > best_iou):
                                best, best_iou = g, iou
                    if best is not None:
                        break
                free.discard(best)
                if best is None or not ignore[best]:
                    verdict.append(best is not None)
            curve = [
                (sum(verdict[: i + 1]) / number, sum(verdict[: i + 1]) / (i + 1))
                for i in range(len(verdict))
            ]
            at = [max([p for r, p in curve if r >= x], default=0) for x in np.linspace(0, 1, 101)]
            table[c, k] = sum(at) / 101
    return table


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_equals_brute_force(seed):
    detections, truth, ignore = random_case(seed)
    ours = vision.mean_average_precision(detections, truth, ignore, num_classes=3)
    theirs = brute_force(detections, truth, ignore, 3, vision.THRESHOLDS)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_average_precision_counted_by_hand():
    """Two truths; right, wrong, right: precision 1 up to recall ½ (51 points), then ⅔ (50)."""
    right = torch.tensor([1, 0, 1])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert vision.average_precision(scores, right, 2) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert vision.average_precision(scores, torch.tensor([1, -1, 1]), 2) == 1  # one ignored
    assert vision.average_precision(scores[:1], right[:1], 2) == pytest.approx(51 / 101)
    assert vision.average_precision(scores[:0], right[:0], 2) == 0
    assert np.isnan(vision.average_precision(scores, right, 0))


def test_a_truth_is_found_once_and_the_surer_detection_takes_it():
    truth = found([(0, 0, 0, 10, 10, 0, 1)])
    twice = found([(0, 0, 0, 10, 9, 0, 0.6), (0, 0, 0, 10, 10, 0, 0.5)])
    right, taken = vision.match(twice, truth, torch.tensor([False]), (0.5, 0.95))
    assert right.tolist() == [[1, 0], [0, 1]]  # at 0.95 the first is not good enough
    assert taken.all()
    elsewhere = found([(1, 0, 0, 10, 10, 0, 0.9), (0, 0, 0, 10, 10, 1, 0.9)])
    right, taken = vision.match(elsewhere, truth, torch.tensor([False]), (0.5,))
    assert not right.any() and not taken.any()  # another picture, another class


def test_ignored_truths_neither_count_nor_punish():
    truth = found([(0, 0, 0, 10, 10, 0, 1), (0, 20, 0, 30, 10, 0, 1)])
    both = found([(0, 0, 0, 10, 10, 0, 0.5), (0, 20, 0, 30, 10, 0, 0.9)])
    ignore = torch.tensor([False, True])
    assert vision.match(both, truth, ignore, (0.5,))[0].tolist() == [[1, -1]]
    assert (vision.mean_average_precision(both, truth, ignore, num_classes=1) == 1).all()


def test_average_precision_depends_on_the_order_of_scores_only():
    detections, truth, ignore = random_case(3)
    a = vision.mean_average_precision(detections, truth, ignore, num_classes=3)
    squeezed = detections._replace(scores=detections.scores**3 / 7)
    b = vision.mean_average_precision(squeezed, truth, ignore, num_classes=3)
    np.testing.assert_array_equal(a, b)


def test_box_iou_counts_pixels():
    g = torch.Generator().manual_seed(0)
    low = torch.randint(0, 8, (12, 2), generator=g)
    boxes = torch.cat([low, low + torch.randint(1, 8, (12, 2), generator=g)], 1)
    pixels = torch.zeros(12, 16, 16, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(pixels, boxes.tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    both = (pixels[:, None] & pixels).sum((2, 3))
    either = (pixels[:, None] | pixels).sum((2, 3))
    torch.testing.assert_close(vision.box_iou(boxes.float(), boxes.float()), both / either)


def test_mask_iou_equals_set_arithmetic():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 3, (2, 4, 9, 9), generator=g)
    ours = vision.intersection_over_union(a, b, 4)
    for c in range(3):
        assert ours[c] == pytest.approx(((a == c) & (b == c)).sum() / ((a == c) | (b == c)).sum())
    assert ours[3].isnan()  # a class that occurs in neither


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: vision.check_boxes(torch.zeros(3)), "shape"),
        (lambda: vision.check_boxes(torch.tensor([[0.0, 0, 0, 5]])), "empty"),
        (lambda: vision.check_boxes(torch.tensor([[0.0, 0, float("nan"), 5]])), "not finite"),
        (lambda: vision.check_boxes(torch.tensor([[0.0, 0, 9, 5]]), 8, 8), "not within"),
        (lambda: vision.check_images(torch.zeros(1, 1, 8, 8), 8, 8), "RGB"),
        (lambda: vision.check_images(torch.zeros(1, 3, 8, 9), 8, 8), "resize"),
        (lambda: vision.check_images(torch.full((1, 3, 8, 8), 255.0), 8, 8), "255"),
        (lambda: vision.check_images(torch.zeros(1, 3, 8, 8).long(), 8, 8), "int64"),
        (
            lambda: vision.intersection_over_union(torch.tensor([0, 7]), torch.tensor([0, 1]), 3),
            "to 2, not 7",
        ),
        (
            lambda: vision.intersection_over_union(torch.tensor([0.5]), torch.tensor([0.5]), 3),
            "whole numbers .* not torch.float32",
        ),
        (lambda: vision.intersection_over_union(torch.zeros(2), torch.zeros(3), 2), "shape"),
        (
            lambda: vision.mean_average_precision(
                found([(0, 0, 0, 1, 1, 5, 1)]), found([(0, 0, 0, 1, 1, 0, 1)]), num_classes=2
            ),
            "Labels of found",
        ),
        (
            lambda: vision.match(
                found([(0, 1, 0, 1, 1, 0, 1)]), found([]), torch.zeros(0, dtype=torch.bool)
            ),
            "empty",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(BadInput, match=words) as error:
        call()
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_images_of_both_kinds_come_out_alike():
    X = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(
        vision.check_images(X, 8, 8), vision.check_images(X.double() / 255, 8, 8)
    )


def test_covered_by_a_box_of_the_label_in_the_picture():
    truth = found([(0, 0, 0, 10, 10, 0, 1), (1, 0, 0, 10, 10, 0, 1), (1, 0, 0, 10, 10, 1, 1)])
    boxes = found([(1, 0, 0, 10, 8, 1, 0.9), (0, 0, 0, 10, 10, 0, 0.2)])
    assert vision.covered(boxes, truth, 1).tolist() == [False, True, True]  # whatever it is
    assert vision.covered(boxes, truth, 1, overlap=0.9).sum() == 0
    assert vision.covered(boxes, truth, 0).sum() == 0  # not sure enough
    assert vision.covered(found([]), truth, 0).shape == (3,)


def test_crops_of_whole_cells_are_the_pixels():
    X = torch.randint(0, 256, (2, 3, 12, 20), dtype=torch.uint8)
    x = vision.crops(X, torch.tensor([[4.0, 2, 8, 6]]), torch.tensor([1]), size=4, extra=1.0)
    part = X[1, :, 2:6, 4:8].float()
    torch.testing.assert_close(x[0], (part - part.mean()) / (part.std() + 1), atol=1e-4, rtol=1e-4)


def test_color_patches_box_the_only_colored_thing():
    X = torch.full((1, 3, 16, 16), 200, dtype=torch.uint8)
    X[0, :, 3:7, 5:12] = torch.tensor([200, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    pixels = torch.ones(1, 16, 16).long()
    pixels[0, 3:7, 5:12] = 0  # the only class, 1 is nothing
    patches = vision.color_patches(X, pixels, X.flip(3), 0.5)
    assert patches.boxes.tolist() == [[4, 3, 11, 7]] and patches.labels.tolist() == [0]


def test_the_weights_are_those_of_the_record(monkeypatch, tmp_path):
    """What the laptop run loads is what the record names; the cell that made it is still there."""
    root, name = Path(__file__).parents[1], "driving_perception"
    folder = root / "book/checkpoints"
    record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert (folder / f"{name}.safetensors").stat().st_size <= 2**20
    assert {"command", "profile", "seconds", "hardware", "versions", "date"} < set(record)
    assert record["command"] == f"python book/checkpoints/{name}.py"
    page = (root / f"notebooks/vision/{name}.py").read_text(encoding="utf-8")
    assert page.count("\ndef train_camera(") == 1
    weights = data.chapter_weights(name)
    assert all(w.isfinite().all() for w in weights.values())

    # an installed package finds them at its data path, and refuses what is not in the record
    monkeypatch.setattr(pretrained, "__file__", str(tmp_path / "a/b/c.py"))
    monkeypatch.setattr(pretrained.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(BadInput, match="There are no weights 'driving_perception'"):
        data.chapter_weights(name)
    installed = tmp_path / "share/karpa-utils/checkpoints"
    shutil.copytree(folder, installed)
    assert data.chapter_weights(name).keys() == weights.keys()
    with (installed / f"{name}.safetensors").open("ab") as file:
        file.write(b"0")
    with pytest.raises(BadInput, match="not those of their record.*python book/checkpoints"):
        data.chapter_weights(name)
