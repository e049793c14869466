"""Each variant learns: as the middle layer of a small network, on scikit-learn's handwritten digits."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from dense_layers import CHANNELS, LAYERS
from torch import Tensor, nn

from sparseconv.dense_ops import Conv2d

TRAINED_ON, BATCH, STEPS = 1000, 100, 60


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """1797 images ``[1, 8, 8]`` in -1 .. 1 and their digits, shuffled: the first 1000 are to learn from."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(bunch.images).float()[:, None] / 8 - 1
    return images[order], torch.from_numpy(bunch.target)[order]


def train(name: str, frozen: bool) -> tuple[float, list[float], nn.Module]:
    """Share of right answers on the held-out images, the losses, and the middle layer."""
    torch.manual_seed(0)
    middle = LAYERS[name]()
    net = nn.Sequential(
        Conv2d(1, CHANNELS, 3, padding=1),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        middle,
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * CHANNELS, 10),
    )
    if frozen:
        middle.requires_grad_(False)
    images, labels = digits()
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for step in range(STEPS):
        rows = (torch.arange(BATCH) + step * BATCH) % TRAINED_ON
        loss = F.cross_entropy(net(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    net.eval()
    with torch.no_grad():
        right = net(images[TRAINED_ON:]).argmax(1) == labels[TRAINED_ON:]
    return float(right.float().mean()), losses, middle


@pytest.mark.parametrize("name", LAYERS)
def test_it_learns_digits_that_it_has_not_seen(name: str) -> None:
    """Six passes over 1000 digits. With a random middle layer that stays as it is, the network knows fewer."""
    torch.set_num_threads(1)  # the work is small: waiting for a second thread would take most of the time
    accuracy, losses, middle = train(name, frozen=False)
    random, random_losses, untouched = train(name, frozen=True)
    assert all(map(torch.isfinite, torch.tensor(losses)))
    # Chance is 0.1. Two flattened sets, six kernels one after the other without a nonlinearity, learn slowest.
    assert accuracy > 0.4, losses
    assert accuracy > random, (accuracy, random)
    assert losses[-1] < random_losses[-1]
    for (key, learned), start in zip(middle.named_parameters(), untouched.parameters(), strict=True):
        assert (learned != start).any(), key
