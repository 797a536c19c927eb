"""Generated road scenes: what they say about themselves is exactly true."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import karpa_utils as ku
from karpa_utils import vision
from karpa_utils.data.scenes import Camera, Scenes, road_scenes


@pytest.fixture(scope="module")
def scenes():
    return road_scenes(40, weather="clear", seed=11)


def test_a_box_contains_its_mask_and_touches_it_on_all_sides(scenes):
    counts = torch.bincount(scenes.scene, minlength=40).tolist()
    number = torch.cat([torch.arange(1, count + 1) for count in counts])
    assert len(scenes.boxes) > 200 and (scenes.scene.diff() >= 0).all()
    for scene, k, box in zip(scenes.scene, number, scenes.boxes, strict=True):
        rows, columns = (scenes.instance[scene] == k).nonzero().T
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box.tolist() == torch.stack(tight).tolist()
    for scene, count in enumerate(counts):  # and no mask is without its row
        assert scenes.instance[scene].max() == count


def test_nothing_is_listed_outside_the_picture(scenes):
    vision.check_boxes(scenes.boxes, 80, 160)
    assert (scenes.boxes >= 0).all() and (scenes.boxes[:, [2, 3]] <= torch.tensor([160, 80])).all()
    assert ((scenes.visible > 0) & (scenes.visible <= 1)).all()
    assert ((scenes.sign >= 0) == (scenes.labels == Scenes.classes.index("sign"))).all()
    assert set(scenes.sign.tolist()) == {-1, *range(len(Scenes.signs))}


def test_the_nearer_object_hides_the_farther_one(scenes):
    """Where two boxes meet, a fully visible object behind another one would be a contradiction."""
    hidden = 0
    for scene in range(40):
        rows = (scenes.scene == scene).nonzero()[:, 0]
        far_first = scenes.distance[rows]
        assert (far_first.diff() <= 0).all()  # the painter's order
        hidden += int((scenes.visible[rows[:-1]] < 1).sum())
        assert scenes.visible[rows[-1]] > 0  # only things that are no objects can hide the nearest
    assert hidden > 40


def test_visible_share_is_a_count_of_pixels():
    """A lone object is whole; the share follows from the mask where the silhouette is known."""
    s = road_scenes(60, weather="clear", strange=True, seed=5)
    whole = (
        (s.labels == Scenes.classes.index("sign"))
        & (s.visible == 1)
        & (s.sign == Scenes.signs.index("crossing"))
    )
    for scene, box in zip(s.scene[whole], s.boxes[whole].int().tolist(), strict=True):
        x0, y0, x1, y1 = box  # a crossing sign is a square without holes: its mask fills its box
        assert len(s.instance[scene, y0:y1, x0:x1].unique()) == 1
    assert whole.sum() > 5 and (s.labels == len(Scenes.classes)).sum() > 40


def test_ground_and_projection_undo_each_other():
    camera = Camera()
    v, u = (
        t.double().numpy()
        for t in torch.meshgrid(torch.arange(33.0, 80), torch.arange(160.0), indexing="ij")
    )
    X, Z = camera.ground(u, v)
    again = camera.project(X, Z)
    np.testing.assert_allclose(again[0], u, atol=1e-6)
    np.testing.assert_allclose(again[1], v, atol=1e-6)


def test_ground_equals_a_rotation_matrix():
    camera, u, v = Camera(), 37.0, 61.0
    c, s = math.cos(camera.pitch), math.sin(camera.pitch)
    ray = np.array([[1, 0, 0], [0, c, s], [0, -s, c]]) @ np.array(
        [(u - camera.cx) / camera.focal, (v - camera.cy) / camera.focal, 1.0]
    )
    X, Z = camera.ground(u, v)
    np.testing.assert_allclose([X, Z], (ray * camera.height / ray[1])[[0, 2]])
    assert camera.ground(80.0, 10.0)[1] == math.inf  # above the horizon


def test_a_rendered_lane_projects_back_to_its_curve(scenes):
    """Where road meets ego lane, the curve lies between the two pixels' centers."""
    v, u = torch.meshgrid(torch.arange(80.0) + 0.5, torch.arange(160.0) + 0.5, indexing="ij")
    X, Z = (torch.from_numpy(a) for a in scenes.camera.ground(u.numpy(), v.numpy()))
    checked = 0
    for surface, lanes in zip(scenes.surface, scenes.lanes.double(), strict=True):
        for line, inside in ((0, 1), (1, -1)):  # outside pixel to the left, to the right
            enter = surface.int().diff(dim=1) == inside
            rows, columns = (
                enter.logical_and(torch.minimum(surface[:, 1:], surface[:, :-1]) == 1).nonzero().T
            )
            z = Z[rows, columns]
            curve = lanes[line, 0] + lanes[line, 1] * z + lanes[line, 2] * z**2
            footprint = z / scenes.camera.focal
            assert (curve > X[rows, columns] - 0.02 * footprint).all()
            assert (curve < X[rows, columns + 1] + 0.02 * footprint).all()
            checked += len(rows)
    assert checked > 1000


def test_feet_of_vehicles_stand_at_their_distance(scenes):
    whole = (scenes.labels == 0) & (scenes.visible == 1) & (scenes.boxes[:, 3] < 80)
    foot = scenes.boxes[whole, 3].numpy()
    above = scenes.camera.ground(80.0 + 0 * foot, foot + 1)[1]
    below = scenes.camera.ground(80.0 + 0 * foot, foot - 1)[1]
    distance = scenes.distance[whole].numpy()
    assert ((above <= distance) & (distance <= below)).all() and len(foot) > 20


@pytest.mark.parametrize("weather", Scenes.weathers)
def test_weather_changes_the_picture_and_nothing_else(scenes, weather):
    other = road_scenes(40, weather=weather, seed=11)
    for name in ("scene", "boxes", "labels", "visible", "distance", "instance", "surface", "lanes"):
        assert torch.equal(getattr(other, name), getattr(scenes, name)), name
    assert torch.equal(other.X, scenes.X) == (weather == "clear")
    assert (other.weather == Scenes.weathers.index(weather)).all()


def test_fog_follows_koschmieder(scenes):
    """Contrast between neighbors on the road falls with exp(-3 d / visibility)."""
    fog = road_scenes(40, weather="fog", seed=11)
    v, u = np.mgrid[:80, :160] + 0.5
    Z = torch.from_numpy(scenes.camera.ground(u, v)[1])
    for near, far in ((8, 12), (12, 20)):
        rows = ((near < Z) & (far > Z)).any(1).nonzero()[:, 0]
        spread = []
        for s in (scenes, fog):
            road = (s.surface[:, rows] == 2).float()
            light = s.X[:, :, rows].float().mean(1)
            total = road.sum((1, 2)).clamp(min=1)
            mean = (light * road).sum((1, 2)) / total
            spread.append(((light - mean[:, None, None]).square() * road).sum((1, 2)) / total)
        middle = Z[rows].mean()
        clear, dimmed = spread
        strong = clear > 200  # shadows and lines, well above the noise
        expected = torch.exp(-3 * middle / fog.visibility[strong])
        ratio = (dimmed[strong] / clear[strong]).sqrt()
        assert strong.sum() >= 3 and torch.corrcoef(torch.stack([ratio, expected]))[0, 1] > 0.6


def test_enough_of_what_counts_is_partly_hidden():
    s = road_scenes(200, weather="clear", seed=4)
    counted = ((s.boxes[:, 2:] - s.boxes[:, :2]).prod(1) >= 36) & (s.visible >= 0.4)
    assert (s.visible[counted] < 0.95).float().mean() >= 0.3


def test_scans_return_distances(scenes):
    near = scenes.scan[(scenes.scan > 0) & (scenes.scan < 12)]
    assert scenes.scan.shape == (40, 10, 40) and len(near) > 1000
    v, u = np.mgrid[4:80:8, 2:160:4] + 0.5
    ground = torch.from_numpy(scenes.camera.ground(u, v)[1]).float()
    surface = scenes.surface[:, 4::8, 2::4] > 0  # the beam meets the road itself
    hit = surface & (scenes.scan > 0)
    error = (scenes.scan - ground)[hit] / (0.15 + 0.015 * ground.expand_as(scenes.scan)[hit])
    assert 0.8 < error.median().abs() + 1.4826 * error.abs().median() < 1.2  # standard normal
    lost = [
        (road_scenes(20, weather=w, seed=2).scan == 0).float().mean() for w in ("clear", "rain")
    ]
    assert lost[1] > lost[0] + 0.1


def test_same_seed_same_scenes_and_mixed_weather():
    a, b, c = (road_scenes(30, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(a.X, b.X) and torch.equal(a.scan, b.scan)
    assert not torch.equal(a.X, c.X)
    assert torch.equal(road_scenes(5, seed=3).X, a.X[:5])  # scene i does not depend on n
    shares = torch.bincount(road_scenes(200, 48, 48, seed=0).weather, minlength=4) / 200
    assert abs(shares[0] - 0.5) < 0.12 and (shares[1:] > 0.08).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 0}, "n >= 1"),
        ({"height": 50}, "50 × 160"),
        ({"width": 8}, "80 × 8"),
        ({"weather": "hail"}, "hail"),
    ],
)
def test_bad_input_is_one_sentence(change, words):
    with pytest.raises(ku.BadInput, match=words) as error:
        road_scenes(**({"n": 2, "seed": 0} | change))
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_pixels_name_the_object_that_is_seen(scenes):
    labels = scenes.pixels()
    for m in range(0, len(scenes.labels), 7):
        scene = scenes.scene[m]
        number = 1 + m - int((scenes.scene < scene).sum())
        assert (labels[scene][scenes.instance[scene] == number] == scenes.labels[m]).all()
    assert ((labels == len(Scenes.classes)) == (scenes.instance == 0)).all()


def test_echoes_of_the_road_lie_at_height_zero(scenes):
    near, height = scenes.echoes().unbind(1)
    road = (scenes.surface[:, 4::8, 2::4] > 0) & (scenes.scan > 0) & (scenes.scan < 30)
    assert height[road].median().abs() < 0.05
    some = scenes.scan > 2
    torch.testing.assert_close(10 / near[some], scenes.scan[some])
    assert (near[scenes.scan == 0] == 0).all() and (height[scenes.scan == 0] == 0).all()
