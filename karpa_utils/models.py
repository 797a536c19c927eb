"""Networks that two or more notebooks use. Each is built by hand where it is first taught."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


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
