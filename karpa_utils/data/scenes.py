"""Generated road scenes in which every box, mask, distance and lane is known exactly.

A pinhole camera looks along a flat road. Objects are flat shapes that stand on the ground at known
distances and are painted from far to near, so what hides what is exact. Weather is added last and
draws from its own random numbers: the same seed in other weather is the same scene.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from karpa_utils.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

# meteorological optical range in meters, drawn between two ends
VISIBILITY = {"clear": (2000, 5000), "fog": (15, 60), "rain": (120, 300), "night": (800, 2000)}
FAR_M = 80.0  # the road ends here; beyond it is skyline


class Camera(NamedTuple):
    """A pinhole camera over flat ground. Pixels: u to the right, v down, centers at halves."""

    height: float = 1.4  # meters above the ground
    pitch: float = math.radians(3)  # looking down
    focal: float = 240.0  # pixels
    cx: float = 80.0  # optical center
    cy: float = 40.0

    def ground(self, u, v):
        """Return (X, Z), meters to the right and ahead, of the ground under pixel positions.

        Above the horizon Z is infinite and X is nan. Arrays or tensors of one shape, or numbers.
        """
        yn = (v - self.cy) / self.focal
        down = yn * math.cos(self.pitch) + math.sin(self.pitch)
        t = np.where(down > 1e-6, self.height / np.maximum(down, 1e-6), np.nan)
        Z = t * (math.cos(self.pitch) - yn * math.sin(self.pitch))
        return t * (u - self.cx) / self.focal, np.where(np.isnan(Z), np.inf, Z)

    def project(self, X, Z):
        """Return (u, v, pixels per meter) of points on the ground, X right and Z ahead."""
        depth = self.height * math.sin(self.pitch) + Z * math.cos(self.pitch)
        side = self.height * math.cos(self.pitch) - Z * math.sin(self.pitch)
        scale = self.focal / depth
        return self.cx + scale * X, self.cy + scale * side, scale


class Scenes(NamedTuple):
    """Pictures and everything that is true about them. N scenes, M objects in all.

    A box is the tight box of an object's visible pixels, edges included: its corners are x0, y0 and
    one more than the last column and row. An object without a visible pixel is not listed.
    """

    classes, signs = ("vehicle", "pedestrian", "sign"), ("stop", "yield", "limit", "crossing")
    surfaces, weathers = ("other", "road", "ego lane"), ("clear", "fog", "rain", "night")

    X: Tensor  # uint8, (N, 3, H, W)
    scene: Tensor  # int64, which picture an object is in, rising, (M,)
    boxes: Tensor  # float32, x0, y0, x1, y1 in pixels, (M, 4)
    labels: Tensor  # int64 into classes; len(classes) for a thing that has none, (M,)
    sign: Tensor  # int64 into signs, -1 for other objects, (M,)
    visible: Tensor  # float32, the share not hidden, of its pixels within the picture, (M,)
    distance: Tensor  # float32, meters ahead, (M,)
    lateral: Tensor  # float32, meters from the middle of the ego lane, (M,)
    instance: Tensor  # uint8, 1 + number of the object within its scene, 0 for none, (N, H, W)
    surface: Tensor  # uint8 into surfaces, (N, H, W)
    lanes: Tensor  # float32, left and right line: X = c0 + c1 Z + c2 Z² in meters, (N, 2, 3)
    scan: Tensor  # float32, meters, 0 where nothing came back, (N, H / 8, W / 4)
    weather: Tensor  # int64 into weathers, (N,)
    visibility: Tensor  # float32, meteorological optical range in meters, (N,)
    camera: Camera

    def pixels(self) -> Tensor:
        """Return the label of each pixel's object, len(classes) where there is none, (N, H, W)."""
        counts = self.scene.bincount(minlength=len(self.X))
        first = (counts.cumsum(0) - counts)[:, None, None]  # of each scene's objects
        labels = self.labels.new_tensor([len(self.classes), *self.labels.tolist()])
        return labels[(first + self.instance) * (self.instance > 0)]

    def echoes(self) -> Tensor:
        """Return nearness 10 / d and height above the road of each echo: (N, 2, H / 8, W / 4).

        Both are 0 where nothing came back; heights are held between -2 and 6 meters.
        """
        beam = 8 * np.arange(self.scan.shape[1]) + 4.5  # the pixel rows that are scanned
        angle = self.camera.pitch + np.arctan((beam - self.camera.cy) / self.camera.focal)
        down = self.scan.new_tensor(np.tan(angle))[:, None]  # meters a meter ahead, (H / 8, 1)
        height = (self.camera.height - self.scan * down).clamp(-2, 6)
        both = height.new_empty(len(height), 2, *height.shape[1:])
        both[:, 0], both[:, 1] = 10 / self.scan.clamp(min=2), height
        return both * (self.scan > 0)[:, None]


def road_scenes(
    n: int, height: int = 80, width: int = 160, *, weather="mixed", strange=False, seed: int
) -> Scenes:
    """Return n road scenes; the same seed gives the same roads and objects in every weather.

    weather: one of Scenes.weathers, or "mixed": half of the scenes clear, the others shared by the
    rest. strange: put a fallen tree, a thing that has no class, on the ego lane of every scene.
    Fog follows Koschmieder: light from d meters is dimmed by exp(-3 d / visibility) and replaced by
    gray. The scan is one beam a cell of 8 × 4 pixels: its noise grows with the distance, beams get
    lost, more of them in rain. Raises BadInput for sizes that are no multiples of 16, no scene, or
    an unknown weather. Taught in vision/driving_perception.
    """
    import torch

    if n < 1 or height < 48 or width < 48 or height % 16 or width % 16:
        raise BadInput(
            f"Scenes need n >= 1 and sides of 48, 64, 80, ... pixels, not {n}, {height} × {width}."
        )
    kinds = Scenes.weathers
    if weather not in (*kinds, "mixed"):
        raise BadInput(f"Unknown weather {weather!r}: choose mixed or one of {kinds}.")
    camera = Camera(focal=1.5 * width, cx=width / 2, cy=height / 2)
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    X, Z = (a.astype(np.float32) for a in camera.ground(u, v))  # (H, W)
    maps, objects = [], []
    for i in range(n):
        raw, known, listed = _draw(camera, X, Z, random.Random(f"{seed} {i}"), strange)
        sky = np.random.default_rng((seed, i, 1))  # the weather's own stream
        at = max(0, int(sky.integers(-2, 4))) if weather == "mixed" else kinds.index(weather)
        maps.append((*_expose(camera, *raw, at, sky), at, *known))
        objects += [(i, *row) for row in listed]
    pixels, scan, visibility, names, instance, surface, lanes = (
        torch.from_numpy(np.stack(column)) for column in zip(*maps, strict=True)
    )
    table = torch.tensor(objects, dtype=torch.float32).view(-1, 10)
    scene, boxes, labels, sign, *others = table.split([1, 4, 1, 1, 1, 1, 1], 1)
    visible, distance, lateral = (t[:, 0].contiguous() for t in others)
    scene, labels, sign = (t[:, 0].long() for t in (scene, labels, sign))
    pixels, boxes, visibility = pixels.permute(0, 3, 1, 2), boxes.contiguous(), visibility.float()
    where = pixels.contiguous(), scene, boxes, labels, sign, visible, distance, lateral
    return Scenes(*where, instance, surface, lanes, scan, names, visibility, camera)


# Outlines in hundredths of width and height, painted in order: o ellipse, r rectangle by two
# corners, p polygon; the digit is the part, which picks the color. Vehicles: body, glass, dark,
# lamp, plate. People: coat, trousers, skin, hair, bag. Signs: face, rim, mark. Others: main first.
SHAPES = {
    "vehicle": (
        "r3 6 80 24 100|r3 76 80 94 100|p1 20 0 80 0 94 42 6 42|r1 0 40 100 88|"
        "p2 27 8 73 8 83 40 17 40|r4 3 48 16 60|r4 84 48 97 60|r5 38 66 62 76",
        "r3 6 80 24 100|r3 76 80 94 100|r1 0 0 100 93|r2 10 10 90 38|r4 3 58 14 70|r4 86 58 97 70|"
        "r5 38 74 62 82",
        "r3 5 80 25 100|r3 75 80 95 100|r1 0 0 100 84|r3 0 80 100 88|r4 3 72 15 79|r4 85 72 97 79",
        "p1 30 0 68 0 86 42 16 42|r1 0 40 100 82|p2 33 8 66 8 78 38 24 38|o3 10 62 28 100|"
        "o3 72 62 90 100|r4 0 45 5 60",
    ),
    "pedestrian": (
        "r2 27 50 48 100|r2 52 50 73 100|p1 15 17 85 17 75 55 25 55|r1 0 19 18 50|r1 82 19 100 50|"
        "o3 32 0 68 16|o4 32 0 68 8",
        "p2 30 50 55 50 25 100 0 100|p2 45 50 70 50 100 100 75 100|p1 20 17 75 17 70 55 28 55|"
        "r5 72 40 100 62|o3 32 0 64 16|o4 32 0 64 8",
        "r2 30 70 44 100|r2 56 70 70 100|p1 35 15 65 15 100 75 0 75|o3 34 0 66 16|o4 32 0 68 10",
    ),
    "stop": ("p1 29 0 71 0 100 29 100 71 71 100 29 100 0 71 0 29|r3 14 40 86 60",),
    "yield": ("p2 0 0 100 0 50 100|p1 25 14 75 14 50 66",),
    "limit": ("o2 0 0 100 100|o1 17 17 83 83|r3 27 32 46 68|r3 54 32 73 68|r1 33 40 40 60",),
    "crossing": ("r1 0 0 100 100|p3 50 12 90 86 10 86|r1 42 42 58 80",),
    "tree": ("r3 43 60 57 100|o1 0 0 100 72|o2 20 5 70 40",),
    "pole": ("r1 0 0 100 100",),
    "house": ("r1 4 30 96 100|p2 50 0 100 32 0 32|r3 18 45 34 65|r3 62 45 78 65",),
    "panel": ("r2 0 0 100 100|r1 8 10 92 90|r3 20 30 80 45",),
    "fallen tree": (
        "p3 0 55 100 40 100 85 0 95|o1 55 0 100 100|o2 65 15 90 60|p3 12 60 22 0 28 60",
    ),
}
# width, height (meters, drawn between two ends) of each vehicle outline
VEHICLES = ((1.7, 1.9, 1.4, 1.6), (1.8, 2.1, 1.9, 2.4), (2.3, 2.5, 2.8, 3.4), (3.9, 4.6, 1.4, 1.6))
RED, WHITE, BLACK, BLUE, GREEN, GRAY = (
    (185, 35, 35), (222, 222, 218), (35, 35, 38), (35, 75, 165), (75, 105, 55), (115, 115, 118)
)  # fmt: skip
LEAVES = GREEN, (95, 125, 60), (85, 65, 45)
SIGN_COLORS = (RED, RED, WHITE), (WHITE, RED, RED), (WHITE, RED, BLACK), (BLUE, BLUE, WHITE)
PAINTS = (RED, WHITE, BLACK, BLUE, GREEN, GRAY, (190, 160, 60), (130, 100, 75))


@lru_cache
def _outline(kind: str, which: int) -> np.ndarray:
    """Return one of SHAPES as part numbers, (64, 64) uint8; 0 is outside."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (64, 64))
    draw = ImageDraw.Draw(image)
    calls = {"o": draw.ellipse, "r": draw.rectangle, "p": draw.polygon}
    for part in SHAPES[kind][which].split("|"):
        name, *numbers = part.split()
        calls[name[0]]([0.63 * float(x) for x in numbers], fill=int(name[1]))
    return np.asarray(image)


@lru_cache
def _grain() -> np.ndarray:
    """Return standard normal noise, (512, 1024); pictures take windows of it, which is quick."""
    return np.random.default_rng(0).standard_normal((512, 1024), np.float32)


def _window(row: float, column: float, shape: tuple[int, int]) -> np.ndarray:
    """Return the window of the grain whose place is given by two numbers in [0, 1)."""
    row, column = int(row * (512 - shape[0])), int(column * (1024 - shape[1]))
    return _grain()[row : row + shape[0], column : column + shape[1]]


def _things(rng: random.Random, w: float, edges: tuple[float, float], strange: bool) -> list:
    """Return what stands on the ground: (Z, offset, kind, outline, width, height, lift, colors).

    w: lane width; edges: offsets of the road's edges from the middle of the ego lane; in meters.
    """
    things, uniform, whole = [], rng.uniform, rng.randrange

    def colors(*given) -> np.ndarray:
        """Return the parts' colors (6, 3), each given as a color or None for any paint."""
        rows = [rng.choice(PAINTS) if g is None else g for g in given]
        rows = [(uniform(0.75, 1.15), row) for row in (BLACK, *rows, *[GRAY] * (5 - len(rows)))]
        return np.array([[k * c + uniform(-15, 15) for c in row] for k, row in rows], np.float32)

    places = [(8 + 52 * rng.random() ** 1.4, w * whole(-1, 2)) for _ in range(whole(3, 7))]
    if rng.random() < 0.75:  # a row of parked cars
        start = uniform(8, 25)
        places += [(start + uniform(6, 7.5) * k, edges[1] + 1.1) for k in range(whole(2, 5))]
    for Z, offset in places:
        which = rng.choices(range(4), (50, 20, 15, 15))[0]
        paint = colors(None, (50, 60, 75), BLACK, (200, 60, 40), WHITE)
        at = Z + 4 * (which == 3), offset + uniform(-0.4, 0.4)
        size = uniform(*VEHICLES[which][:2]), uniform(*VEHICLES[which][2:])
        things.append((*at, "vehicle", which, *size, 0, paint))
    for _ in range(whole(1, 5)):  # groups of people
        Z, on_road = 7 + 33 * rng.random(), rng.random() < 0.35
        middle = uniform(*edges) if on_road else rng.choice(edges) + uniform(-0.5, 3)
        for _ in range(whole(1, 4)):
            skin = np.multiply((225, 180, 150), uniform(0.35, 1))
            paint = colors(None, rng.choice((BLACK, BLUE, GRAY)), skin, BLACK, None)
            size = uniform(0.5, 0.65), uniform(1.2, 1.9)
            where = Z + uniform(-0.8, 0.8), middle + uniform(-1.2, 1.2)
            things.append((*where, "pedestrian", whole(3), *size, 0, paint))
    for _ in range(whole(2, 6)):
        kind, Z = rng.choice(Scenes.signs), 7 + 28 * rng.random() ** 1.2
        right = rng.random() < 0.7
        offset = edges[right] + (2 * right - 1) * uniform(0.5, 2)
        size, lift = uniform(0.75, 1.05), uniform(1.5, 2.1)
        paint = colors(*SIGN_COLORS[Scenes.signs.index(kind)])
        things.append((Z, offset, kind, 0, size, size, lift, paint))
        things.append((Z + 0.01, offset, "pole", 0, 0.09, lift + 0.1, 0, colors(GRAY)))
    for kind in rng.choices(("tree", "pole", "house", "panel"), k=whole(6, 13)):
        side, Z = whole(2), 7 + 55 * rng.random()
        width, height, lift, away = {
            "tree": (uniform(2, 4), uniform(3, 7), 0, uniform(1, 8)),
            "pole": (uniform(0.15, 0.35), uniform(3, 6), 0, uniform(0.3, 2)),
            "house": (uniform(6, 12), uniform(4, 8), 0, uniform(8, 20)),
            "panel": (uniform(0.7, 1.6), uniform(0.7, 1.4), uniform(0.8, 2.2), uniform(0.8, 5)),
        }[kind]
        paint = colors(*(LEAVES if kind == "tree" else (None, None, BLACK)))
        offset = edges[side] + (2 * side - 1) * away
        things.append((Z, offset, kind, 0, width, height, lift, paint))
    if strange:
        wood, at = colors(*LEAVES), (uniform(9, 25), uniform(-0.5, 0.5))
        things.append((*at, "fallen tree", 0, uniform(2.5, 3.5), uniform(0.9, 1.3), 0, wood))
    return sorted(things, key=lambda thing: -thing[0])


def _draw(camera: Camera, X: np.ndarray, Z: np.ndarray, rng: random.Random, strange: bool):
    """Return a scene before its weather, what is true of it, and a row for each visible object.

    X, Z: meters on the ground under each pixel, (H, W). Before the weather: light (H, W, 3), depth
    in meters, lamps. True: instance, surface, lanes. A row: box, label, sign, visible share,
    distance, offset.
    """
    uniform, whole, chance, (H, W) = rng.uniform, rng.randrange, rng.random, X.shape
    w, bend = uniform(3.3, 3.8), (uniform(-0.6, 0.6), uniform(-0.04, 0.04), uniform(-1, 1) / 300)
    left, right, verge = whole(1, 3), whole(0, 2), uniform(0.2, 0.8)
    edges = -(0.5 + left) * w - verge, (0.5 + right) * w + verge
    lanes = np.array([bend, bend], np.float32)
    lanes[:, 0] += -w / 2, w / 2

    up = int((Z[:, 0] > FAR_M).sum())  # rows above the road's end
    depth = np.full((H, W), 300, np.float32)
    depth[up:] = Z[up:]
    light = np.empty((H, W, 3), np.float32)
    sky = np.array(((110, 150, 205), (190, 195, 200), (215, 205, 195))[whole(3)], np.float32)
    light[:up] = sky * np.linspace(0.85, 1.1, up)[:, None, None]
    steps = np.diff([0, *sorted(whole(W) for _ in range(14)), W])  # a skyline of houses and trees
    blocks = [[uniform(70, 150) + uniform(-25, 25) for _ in range(3)] for _ in steps]
    hue = np.repeat(np.array(blocks, np.float32), steps, 0)  # (W, 3)
    tall = np.repeat([uniform(0, 14) * (chance() < 0.8) for _ in steps], steps)  # (W,) pixels
    built = up - np.arange(up)[:, None] <= tall
    light[:up][built] = np.broadcast_to(hue, (up, W, 3))[built]
    depth[:up][built] = 1.2 * FAR_M

    Xg, Zg = X[up:], Z[up:]
    off = Xg - (bend[0] + bend[1] * Zg + bend[2] * Zg**2)  # meters from the lane's middle
    grain, road = _window(chance(), chance(), off.shape), (off > edges[0]) & (off < edges[1])
    land = ((85, 110, 60), (140, 125, 90), (120, 120, 118), (165, 165, 160))[whole(4)]
    light[up:] = np.array(land, np.float32) + 12 * grain[..., None]
    pavement = (off > edges[0] - 2) & (off < edges[1] + 2) & (chance() < 0.6)
    light[up:][pavement] = uniform(110, 175) + 5 * grain[pavement, None]
    gray = np.float32([gray + uniform(-8, 8) for gray in [uniform(65, 130)] * 3])
    light[up:][road] = gray + uniform(3, 9) * grain[road, None]
    pixel, phase = Zg / camera.focal, uniform(0, 12)  # meters that a pixel covers
    for lane in range(-left, right + 2):  # the line on the left of each lane, and the last edge
        edge, width = lane in (-left, right + 1), uniform(0.12, 0.18)
        ink = np.float32(WHITE if chance() < 0.75 else (215, 175, 60)) * uniform(0.85, 1.1)
        reach = (width + pixel) / 2 - np.abs(off - (lane - 0.5) * w)
        hit, paint = reach > 0, uniform(0.45, 1)
        if not edge and chance() < 0.75:
            hit &= (Zg + phase) % 12 < 6
        cover = paint * np.minimum(np.minimum(reach[hit], pixel[hit]), width) / pixel[hit]
        light[up:][hit] += cover[:, None] * (ink - light[up:][hit])
    for _ in range(whole(4)):  # shadows
        a, b = uniform(1, 4), uniform(1, 6)
        dark = ((Xg - uniform(-8, 8)) / a) ** 2 + ((Zg - uniform(5, 40)) / b) ** 2 < 1
        light[up:][dark] *= uniform(0.45, 0.8)
    surface = np.zeros((H, W), np.uint8)
    surface[up:] = road.astype(np.uint8) + (np.abs(off) < w / 2)

    instance, lamps, things = np.zeros((H, W), np.uint8), np.zeros((H, W), bool), []
    for far, offset, kind, which, width, height, lift, palette in _things(rng, w, edges, strange):
        u, v, scale = camera.project(offset + bend[0] + bend[1] * far + bend[2] * far**2, far)
        sign = Scenes.signs.index(kind) if kind in Scenes.signs else -1
        name = "sign" if sign >= 0 else kind
        known = name in (*Scenes.classes, "fallen tree")
        x0, y1 = u - scale * width / 2, v - scale * lift
        y0, size = y1 - scale * height, np.array((scale * height, scale * width))
        rows = np.arange(max(0, math.ceil(y0 - 0.5)), min(H, math.ceil(y1 - 0.5)))
        columns = np.arange(max(0, math.ceil(x0 - 0.5)), min(W, math.ceil(x0 + size[1] - 0.5)))
        if not (len(rows) and len(columns)) or (known and not 0 < u < W):
            continue
        gy = (64 * (rows + 0.5 - y0) / size[0]).astype(int)
        gx = (64 * (columns + 0.5 - x0) / size[1]).astype(int)
        part = _outline(kind, which)[gy[:, None], gx]
        at, inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], part > 0
        if kind == "vehicle":  # its shadow on the ground
            low = np.s_[max(0, int(v - 0.2 * scale)) : int(v + 0.15 * scale) + 1, at[1]]
            light[low][surface[low] > 0] *= 0.5
        shade = np.float32(uniform(0.7, 1)) + uniform(-0.2, 0.2) * gx.astype(np.float32) / 64
        light[at][inside] = (palette[part] * shade[:, None])[inside]
        depth[at][inside], surface[at][inside] = far, 0
        lamps[at][inside] = (part == 4)[inside] & (kind == "vehicle")
        instance[at][inside] = len(things) + 1 if known else 0
        if known:
            label = (*Scenes.classes, kind).index(name)
            things.append((at, int(inside.sum()), label, sign, far, offset))
    light *= np.array([uniform(0.92, 1.08) for _ in range(3)], np.float32) * uniform(0.65, 1.1)
    listed, number = [], np.zeros(len(things) + 1, np.uint8)  # anew, without what is hidden
    for k, ((rows, columns), pixels, *others) in enumerate(things, start=1):
        v, u = (instance[rows, columns] == k).nonzero()
        if len(v):
            x, y = columns.start + u, rows.start + v
            box = x.min(), y.min(), x.max() + 1, y.max() + 1
            listed.append((*box, *others[:2], len(v) / pixels, *others[2:]))
            number[k] = len(listed)
    return (light, depth, lamps), (number[instance], surface, lanes), listed


def _expose(camera: Camera, light, depth, lamps, weather: int, rng: np.random.Generator):
    """Return (pixels (H, W, 3) uint8, scan (H / 8, W / 4), visibility in meters) of a scene."""
    uniform, (H, W), name = rng.uniform, depth.shape, Scenes.weathers[weather]
    visibility, noise, blur = uniform(*VISIBILITY[name]), 3.0, 0.1
    if name == "night":
        beam = np.exp(-((depth / uniform(18, 35)) ** 2)) * uniform(0.5, 0.9)  # headlights
        light = light * (uniform(0.08, 0.2) + beam)[..., None]
        light[lamps] += (170, 40, 25)
        noise = 6.0
    through = np.exp(depth * (-3 / visibility))[..., None]  # Koschmieder
    gray = uniform(150, 210) * (0.15 if name == "night" else 1)
    light = light * through + gray * (1 - through)
    if name == "rain":
        light, noise, blur = 0.75 * light + 25, 5.0, 0.22
        top, side = rng.integers(0, H - 8, 60), rng.integers(0, W - 3, 60)
        for step in range(rng.integers(4, 8)):
            light[top + step, side + step // 3] += 28
    for _ in range(2):  # the lens: a small blur along rows, then along columns
        middle = (1 - 2 * blur) * light
        middle[1:] += blur * light[:-1]
        middle[:-1] += blur * light[1:]
        middle[0], middle[-1] = light[0], light[-1]
        light = middle.transpose(1, 0, 2)
    light = light + noise * _window(*rng.random(2), (H, 3 * W)).reshape(H, W, 3)
    pixels = np.clip(light, 0, 255).astype(np.uint8)

    true = depth[4::8, 2::4]  # one beam a cell, through its middle
    rate = 0.04 + {"rain": 0.2, "fog": 0.1}.get(name, 0) + true / 250
    lost = uniform(size=true.shape) < rate
    scan = true + (0.15 + 0.015 * true) * _window(*rng.random(2), true.shape)
    scan[lost | (true > FAR_M)] = 0
    false = uniform(size=true.shape) < (0.02 if name == "rain" else 0.005)
    scan[false] = uniform(3, FAR_M, false.sum())
    return pixels, scan.astype(np.float32), visibility
