"""Generated lesions: exact masks, a marker apart, a class that only form decides; the X-rays."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score

from karpa_utils import data
from karpa_utils.data.lesions import CLINICS, MARK, SEPARATION, Clinic, lesions
from karpa_utils.errors import BadInput

MIRROR = Path(os.environ.get("KARPA_TEST_MIRROR") or Path(__file__).parents[2] / "shared" / "data")
CLEAR = Clinic(blur=0.0, noise=0.0)


@pytest.fixture(scope="module")
def many():
    return lesions(3000, clinic=CLEAR, marker=(0.1, 0.8), seed=0)


def area(found):
    return found.mask.sum((1, 2)).float()


def test_shapes_and_types(many):
    assert many.X.shape == many.plain.shape == (3000, 1, 48, 48)
    assert many.mask.shape == many.marker.shape == (3000, 48, 48)
    assert many.X.min() >= 0
    assert many.X.max() <= 1
    assert many.y.dtype == torch.int64
    assert lesions(2, 64, seed=0).X.shape == (2, 1, 64, 64)


def test_the_mask_is_where_the_lesion_was_added():
    """Without blur and noise the image is smooth tissue outside; inside its mean is lifted."""
    found = lesions(500, clinic=CLEAR, seed=1)
    x, mask = found.plain[:, 0], found.mask
    ring = torch.nn.functional.max_pool2d(mask[:, None].float(), 5, 1, 2)[:, 0].bool() & ~mask
    lifted = [(x[i][mask[i]].mean() - x[i][ring[i]].mean()).item() for i in range(500)]
    # the lesion adds 0.15 to 0.30 on its mask and nothing beside it; tissue varies by 0.1
    assert 0.2 < sum(lifted) / 500 < 0.25
    step = (x[:, :, 1:] - x[:, :, :-1]).abs()
    across = mask[:, :, 1:] != mask[:, :, :-1]
    beyond = ~(mask[:, :, 1:] | mask[:, :, :-1])
    assert step[across].mean() > 4 * step[beyond].mean()  # the edge is at the mask's, exactly
    shifted = mask.roll(2, 2)
    assert step[across].mean() > 2 * step[shifted[:, :, 1:] != shifted[:, :, :-1]].mean()


def test_areas_are_those_of_disks_of_the_drawn_radius(many):
    """Radii are uniform in [5, 7.5]: the mean area is pi times the mean squared radius."""
    expected = math.pi * (7.5**3 - 5**3) / (3 * 2.5)
    assert area(many).mean() == pytest.approx(expected, rel=0.02)


def test_the_marker_never_touches_the_lesion(many):
    wide = torch.nn.functional.max_pool2d(many.mask[:, None].float(), 3, 1, 1)[:, 0].bool()
    assert not (wide & many.marker).any()
    assert many.marker.any(2).any(1).all()
    margin = torch.ones(48, 48, dtype=torch.bool)
    margin[6:42, 6:42] = False
    assert not (many.mask & margin).any()
    assert not (many.marker & ~margin).any()


def test_painting_changes_the_marker_and_nothing_else(many):
    on = many.painted(torch.ones(3000, dtype=torch.bool))
    assert torch.equal(on[:, 0] != many.plain[:, 0], many.marker & (many.plain[:, 0] != MARK))
    assert (on[:, 0][many.marker] == MARK).all()
    assert torch.equal(many.painted(torch.zeros(3000, dtype=torch.bool)), many.plain)
    assert torch.equal(many.painted(many.marked), many.X)


def test_same_seed_same_images_and_same_patients_elsewhere():
    one, two = lesions(50, seed=3), lesions(50, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.X, lesions(50, seed=4).X)
    for clinic in CLINICS:
        other = lesions(50, clinic=clinic, marker=(1.0, 0.0), seed=3)
        assert torch.equal(other.mask, one.mask)
        assert torch.equal(other.y, one.y)
        assert clinic == "home" or not torch.equal(other.plain, one.plain)
    rare, common = (lesions(500, prevalence=p, seed=3).y for p in (0.1, 0.5))
    assert (rare <= common).all()


def test_balance_and_marker_rates(many):
    def close(share, p, n):
        return abs(float(share) - p) < 4 * math.sqrt(p * (1 - p) / n)

    assert close(many.y.float().mean(), 0.4, 3000)
    for c, p in enumerate((0.1, 0.8)):
        marked = many.marked[many.y == c].float()
        assert close(marked.mean(), p, len(marked))


def test_the_class_hides_from_size_brightness_and_place(many):
    sick, lit = many.y == 1, many.plain[:, 0]
    inside = (lit * many.mask).sum((1, 2)) / area(many)
    for feature in (area(many), inside, lit.mean((1, 2))):
        assert ks_2samp(feature[sick], feature[~sick]).pvalue > 0.001
    grid = torch.arange(48).float()
    for extent in (many.mask.sum(2), many.mask.sum(1)):
        center = (extent * grid).sum(1) / area(many)
        assert abs(roc_auc_score(many.y, center) - 0.5) < 0.04


def test_the_latent_has_the_promised_auc_and_shows_in_the_border(many):
    promised = 0.5 * (1 + math.erf(SEPARATION))  # Phi(sqrt(2) d)
    assert roc_auc_score(many.y, many.latent) == pytest.approx(promised, abs=0.012)
    across = (many.mask[:, 1:] != many.mask[:, :-1]).sum((1, 2))
    along = (many.mask[:, :, 1:] != many.mask[:, :, :-1]).sum((1, 2))
    assert roc_auc_score(many.y, (across + along) / area(many).sqrt()) > 0.8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 0}, "n >= 1"),
        ({"size": 40}, "size of 48, 64"),
        ({"clinic": "moon"}, "Unknown clinic 'moon'"),
        ({"prevalence": 1.5}, "not 1.5"),
        ({"marker": (0.5, -0.1)}, "not -0.1"),
    ],
)
def test_bad_input(change, words):
    with pytest.raises(BadInput, match=words):
        lesions(**({"n": 2, "seed": 0} | change))


def test_the_x_rays_need_the_full_profile():
    with pytest.raises(BadInput, match="not embedded"):
        data.pneumoniamnist_rebuilt(profile="laptop")


@pytest.mark.skipif(not MIRROR.is_dir(), reason=f"no data mirror in {MIRROR}")
def test_x_rays_against_the_published_counts(monkeypatch, tmp_path):
    monkeypatch.setenv("KARPA_DATA_MIRROR", str(MIRROR))
    monkeypatch.setenv("KARPA_CACHE", str(tmp_path))
    found = data.pneumoniamnist_rebuilt(profile="full")
    counts = [part[1].bincount().tolist() for part in found[:3]]
    assert counts == [[1214, 3494], [135, 389], [234, 390]]  # MedMNIST's own table
    assert found.train[0].shape == (4708, 1, 28, 28)
    assert data.source("pneumoniamnist_rebuilt")["folder"] == "pneumoniamnist"
