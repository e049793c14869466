"""Each variant learns: as the middle layer of a small network, on drawn digits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dense_layers import CHANNELS, LAYERS
from torch import Tensor, nn

from sparseconv.dense_ops import Conv2d

# Ten digits on five rows of three dots.
_FONT = (
    "111101101101111",
    "010110010010111",
    "111001111100111",
    "111001111001111",
    "101101111001001",
    "111100111001111",
    "111100111101111",
    "111001001001001",
    "111101111101111",
    "111101111001111",
)


def draw_digits(count: int) -> tuple[Tensor, Tensor]:
    """Images ``[count, 1, 10, 8]`` of digits at random places, with noise, and which digits they are."""
    font = torch.tensor([[float(dot) for dot in digit] for digit in _FONT]).reshape(10, 1, 5, 3)
    labels = torch.arange(count) % 10
    images = torch.zeros(count, 1, 10, 8)
    for n, label in enumerate(labels.tolist()):
        y, x = torch.randint(0, 6, ()).item(), torch.randint(0, 6, ()).item()
        images[n, :, y : y + 5, x : x + 3] = font[label]
    return images + 0.1 * torch.randn_like(images), labels


@pytest.mark.parametrize("name", LAYERS)
def test_the_loss_falls(name) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the work is small: waiting for a second thread would take most of the time
    images, labels = draw_digits(60)
    middle = LAYERS[name]()
    net = nn.Sequential(
        Conv2d(1, CHANNELS, 3, padding=1),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        middle,
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d((3, 2)),
        nn.Flatten(),
        nn.Linear(6 * CHANNELS, 10),
    )
    before = [parameter.detach().clone() for parameter in middle.parameters()]
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(25):
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert torch.isfinite(loss)
    assert losses[-1] < 0.4 * losses[0], losses
    for old, new in zip(before, middle.parameters(), strict=True):
        assert (old != new).any()
