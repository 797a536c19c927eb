"""Generated images of tissue with one lesion and, where a clinic uses it, a burned-in marker."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from karpa_utils.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

ANGLES = 256  # directions in which a border is drawn
BAND = 6  # forty-eighths of the side: markers lie in this margin, lesions never enter it
EXCESS = 0.5  # log of the longest radius over the mean one at full irregularity
GLYPH = ("###.", "#..#", "###.", "#.#.", "#..#")  # an R, as technicians put on a plate
MARK = 1.0  # gray value of the marker
SEPARATION = 1.4  # the classes' latent irregularities are N(-1.4, 1) and N(+1.4, 1)


class Clinic(NamedTuple):
    """What a clinic's scanner does to the tissue, gray values in [0, 1]."""

    brightness: float = 0.0  # added
    contrast: float = 1.0  # times the distance from middle gray
    blur: float = 0.5  # standard deviation of a Gaussian, pixels
    noise: float = 0.02  # standard deviation


CLINICS = {
    "home": Clinic(),
    "bright": Clinic(brightness=0.2, contrast=0.7),
    "noisy": Clinic(noise=0.1),
    "blurred": Clinic(blur=1.5),
}


class Lesions(NamedTuple):
    """Images of one lesion each; what decides is how irregular its border and its inside are.

    Size, place, brightness and tissue are drawn independently of the class. Since the class acts
    through `latent` alone, no reader can have an AUC above that of `latent`, Phi(1.4 * sqrt(2)).
    """

    classes = ("benign", "malignant")

    X: Tensor  # float32 in [0, 1], (N, 1, size, size)
    y: Tensor  # int64, 1: malignant, (N,)
    mask: Tensor  # bool, the pixels of the lesion, (N, size, size)
    marked: Tensor  # bool, is the marker in the image? (N,)
    marker: Tensor  # bool, the pixels where it is or would be, (N, size, size)
    plain: Tensor  # the images without marker, (N, 1, size, size)
    latent: Tensor  # float32, irregularity on an unbounded scale, (N,)

    def painted(self, marked: Tensor) -> Tensor:
        """Return the same images with the marker where `marked` (N,) is True, (N, 1, H, W)."""
        return self.plain.masked_fill(marked[:, None, None, None] & self.marker[:, None], MARK)


def lesions(
    n: int,
    size: int = 48,
    *,
    clinic: str | Clinic = "home",
    # a name in CLINICS, or what the scanner does
    prevalence: float = 0.4,
    # chance that a lesion is malignant
    marker: tuple[float, float] = (0.0, 0.0),
    # chances that a benign and a malignant image get the marker
    seed: int,
) -> Lesions:
    """Return n generated images; the same seed gives the same patients at every clinic.

    (Classes follow the prevalence: of the same draws, more are malignant where it is higher.)
    Raises BadInput for a size below 48 or not a multiple of 16, an unknown clinic, or a chance
    outside [0, 1]. Taught in vision/medical_imaging.
    """
    import torch
    import torch.nn.functional as F

    if n < 1 or size < 48 or size % 16:
        raise BadInput(f"Lesions need n >= 1 and a size of 48, 64, ..., not {n} and {size}.")
    if isinstance(clinic, str) and clinic not in CLINICS:
        raise BadInput(f"Unknown clinic {clinic!r}: choose one of {', '.join(CLINICS)}.")
    if bad := [p for p in (prevalence, *marker) if not 0 <= p <= 1]:
        raise BadInput(f"Prevalence and marker are chances between 0 and 1, not {bad[0]}.")
    scanner = CLINICS[clinic] if isinstance(clinic, str) else clinic
    draw, unit = torch.Generator().manual_seed(seed), size / 48
    y = (torch.rand(n, generator=draw) < prevalence).long()
    latent = SEPARATION * (2 * y - 1) + torch.randn(n, generator=draw)
    level = latent.sigmoid()[:, None]  # (N, 1) irregularity in (0, 1)

    angle = torch.arange(ANGLES) * (2 * math.pi / ANGLES)
    orders = torch.arange(2, 10)[:, None]  # waves around the border
    phase = 2 * math.pi * torch.rand(n, 8, 1, generator=draw)
    height = torch.randn(n, 8, 1, generator=draw)
    waves = (height * torch.cos(orders * angle + phase)).sum(1)  # (N, ANGLES)
    border = (EXCESS * level * waves / waves.abs().amax(1, keepdim=True)).exp()
    border /= border.square().mean(1, keepdim=True).sqrt()  # the area does not depend on level
    radius = unit * (5 + 2.5 * torch.rand(n, 1, generator=draw))  # of a disk of equal area, pixels
    room = size / 2 - BAND * unit - math.exp(EXCESS) * 7.5 * unit  # what the largest leaves
    center = (size - 1) / 2 + room * (2 * torch.rand(n, 2, generator=draw) - 1)  # (N, 2)

    offset = torch.arange(size) - center[..., None]  # (N, 2, size)
    down, right = offset[:, 0, :, None], offset[:, 1, None]  # (N, size, 1), (N, 1, size)
    turn = torch.atan2(down.expand(n, size, size), right.expand(n, size, size))  # (N, size, size)
    place = (turn * (ANGLES / (2 * math.pi))).round().long() % ANGLES
    reach = (radius * border).gather(1, place.flatten(1)).view_as(turn)
    mask = down.square() + right.square() < reach.square()

    def noise(cells: int) -> Tensor:
        grid = torch.randn(n, 1, cells, cells, generator=draw)
        return F.interpolate(grid, (size, size), mode="bicubic", align_corners=False)[:, 0]

    tissue = 0.38 + 0.06 * noise(4) + 0.06 * noise(8) + 0.05 * noise(size // 3)
    inside = noise(size // 3) * mask
    inside -= inside.sum((1, 2), keepdim=True) / mask.sum((1, 2), keepdim=True) * mask  # mean 0
    extra = 0.15 + 0.15 * torch.rand(n, 1, 1, generator=draw)  # the lesion's mean above its ground
    scan = (tissue + mask * (extra + 0.12 * level[..., None] * inside))[:, None]  # (N, 1, H, W)

    span = torch.arange(-4, 5)
    kernel = torch.exp(-0.5 * (span / max(scanner.blur, 1e-3)).square())
    kernel /= kernel.sum()
    scan = F.conv2d(F.pad(scan, (4, 4, 0, 0), mode="replicate"), kernel.view(1, 1, 1, 9))
    scan = F.conv2d(F.pad(scan, (0, 0, 4, 4), mode="replicate"), kernel.view(1, 1, 9, 1))
    scan = 0.5 + scanner.brightness + scanner.contrast * (scan - 0.5)
    corners = torch.randint(4, (n,), generator=draw)
    chance = torch.rand(n, generator=draw)
    plain = (scan + scanner.noise * torch.randn(scan.shape, generator=draw)).clamp(0, 1)

    glyph = torch.tensor([[c == "#" for c in row] for row in GLYPH])
    glyph = glyph.repeat_interleave(size // 48, 0).repeat_interleave(size // 48, 1)
    tall, wide = glyph.shape
    options = torch.zeros(4, size, size, dtype=torch.bool)
    for i in range(4):  # the four corners, a pixel from the edge
        top, left = (size - tall - 1 if i // 2 else 1), (size - wide - 1 if i % 2 else 1)
        options[i, top : top + tall, left : left + wide] = glyph
    marked = chance < torch.tensor(marker, dtype=torch.float32)[y]
    found = Lesions(plain, y, mask, marked, options[corners], plain, latent)
    return found._replace(X=found.painted(marked))
