"""Networks that two or more notebooks use. Each is built by hand where it is first taught."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return affine layers of the given widths with `activation` between them.

    mlp(784, 64, 10) maps (B, ...) with 784 numbers a row to logits (B, 10).
    Taught in foundations/training_loop.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def small_cnn(channels: int = 1, width: int = 32, dropout: float = 0.0) -> nn.Sequential:
    """Return a convolutional network for 28×28 images and 10 classes.

    (B, channels, 28, 28) -> logits (B, 10): two blocks of convolution, batch norm, ReLU and
    pooling, then two affine layers. Taught in foundations/first_networks.
    """

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(
        *block(channels, width),  # (B, width, 14, 14)
        *block(width, 2 * width),  # (B, 2 * width, 7, 7)
        nn.Flatten(),
        nn.Linear(2 * width * 49, 128),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(128, 10),
    )


class ResidualBlock(nn.Module):
    """Two convolutions with batch norm, added to their input (He et al. 2016).

    (B, inputs, H, W) -> (B, outputs, H/stride, W/stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1, self.act1 = nn.BatchNorm2d(outputs), nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2, self.act2 = nn.BatchNorm2d(outputs), nn.ReLU()
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output. x: (B, inputs, H, W)."""
        inside = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        return self.act2(inside + self.shortcut(x))


def small_resnet(depth: int = 2, width: int = 16, channels: int = 1) -> nn.Sequential:
    """Return a residual network for 28×28 images and 10 classes.

    (B, channels, 28, 28) -> logits (B, 10): a strided stem, then two stages of `depth` blocks with
    `width` channels at 14×14 and twice as many at 7×7. Taught in simplification/layers_and_neurons.
    """
    stem = [nn.Conv2d(channels, width, 3, 2, padding=1, bias=False), nn.BatchNorm2d(width)]
    blocks = []
    for number in range(2 * depth):
        inputs = width if number <= depth else 2 * width
        outputs = width if number < depth else 2 * width
        blocks.append(ResidualBlock(inputs, outputs, stride=2 if number == depth else 1))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)]
    return nn.Sequential(*stem, nn.ReLU(), *blocks, *head)
