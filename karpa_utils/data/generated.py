"""Generated images in which the pixels that decide the class are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from karpa_utils.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

# Every glyph has nine cells, so that neither brightness nor area tells one from another.
GLYPHS = {
    "plus": ("..#..", "..#..", "#####", "..#..", "..#.."),
    "saltire": ("#...#", ".#.#.", "..#..", ".#.#.", "#...#"),
    "tee": ("#####", "..#..", "..#..", "..#..", "..#.."),
    "ell": ("#....", "#....", "#....", "#....", "#####"),
    "block": (".....", ".###.", ".###.", ".###.", "....."),
    "stair": ("##...", ".##..", "..##.", "...##", "....#"),
}
COLORS = ((0.9, 0.15, 0.15), (0.1, 0.75, 0.2), (0.15, 0.25, 0.95), (0.95, 0.85, 0.1))  # RGB


class Shapes(NamedTuple):
    """Images of one deciding glyph and one distractor, both of any color, on a noisy ground.

    The class is the glyph's form alone: its place and color, the distractor and the ground are
    drawn independently of it. To intervene, paint: `torch.where(mask[:, None], ground, X)` is the
    same image without its glyph.
    """

    classes = ("plus", "saltire", "tee", "ell")
    kinds = ("block", "stair")
    palette = ("red", "green", "blue", "yellow")

    X: Tensor  # float32 in [0, 1], (N, 3, size, size)
    y: Tensor  # int64 into classes, (N,)
    mask: Tensor  # bool, the pixels of the glyph, (N, size, size)
    distractor: Tensor  # bool, the pixels of the distractor, (N, size, size)
    ground: Tensor  # the image before anything was painted on it, (N, 3, size, size)
    colors: Tensor  # int64 into palette, of the glyph and of the distractor, (N, 2)
    kind: Tensor  # int64 into kinds, (N,)


def shapes(n: int, size: int = 16, *, seed: int) -> Shapes:
    """Return n generated images of size × size pixels; the same seed gives the same images.

    A glyph is 5 × 5 cells of size // 16 pixels; glyph and distractor never touch. Raises BadInput
    for a size that is no multiple of 16. Taught in interpretability/local_attributions.
    """
    import torch
    import torch.nn.functional as F

    if n < 1 or size < 16 or size % 16:
        raise BadInput(f"Shapes need n >= 1 and a size of 16, 32, ..., not {n} and {size}.")
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(len(Shapes.classes), (n,), generator=draw)
    kind = torch.randint(len(Shapes.kinds), (n,), generator=draw)
    colors = torch.randint(len(COLORS), (n, 2), generator=draw)

    corners = torch.cartesian_prod(torch.arange(12), torch.arange(12))  # (144, 2) row, column
    apart = (corners[:, None] - corners[None]).abs().amax(2) >= 6  # (144, 144): a gap of one cell
    pairs = apart.nonzero()  # (P, 2): every allowed pair of places
    places = corners[pairs[torch.randint(len(pairs), (n,), generator=draw)]]  # (N, 2, 2)

    cells = {name: [[c == "#" for c in row] for row in form] for name, form in GLYPHS.items()}
    glyphs = torch.tensor([cells[name] for name in Shapes.classes])[y]  # (N, 5, 5)
    others = torch.tensor([cells[name] for name in Shapes.kinds])[kind]  # (N, 5, 5)
    forms = torch.stack([glyphs, others], 1)  # (N, 2, 5, 5)
    painted = torch.zeros(n, 2, 16, 16, dtype=torch.bool)
    rows = places[:, :, 0, None, None] + torch.arange(5)[:, None]  # (N, 2, 5, 1)
    columns = places[:, :, 1, None, None] + torch.arange(5)  # (N, 2, 1, 5)
    images, objects = torch.arange(n)[:, None, None, None], torch.arange(2)[:, None, None]
    painted[images, objects, rows, columns] = forms
    scale = size // 16
    painted = painted.repeat_interleave(scale, 2).repeat_interleave(scale, 3)  # (N, 2, size, size)

    ends = 0.35 + 0.3 * torch.rand(n, 3, 2, 2, generator=draw)  # a color in each corner
    ground = F.interpolate(ends, (size, size), mode="bilinear", align_corners=True)
    ground = (ground + 0.05 * torch.randn(ground.shape, generator=draw)).clamp(0, 1)
    palette = torch.tensor(COLORS)  # (4, 3)
    X = ground.clone()
    for i in range(2):
        X = torch.where(painted[:, i, None], palette[colors[:, i], :, None, None], X)
    X = (X + 0.02 * torch.randn(X.shape, generator=draw) * painted.any(1)[:, None]).clamp(0, 1)
    return Shapes(X, y, painted[:, 0], painted[:, 1], ground, colors, kind)
