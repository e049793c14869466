"""The benchmark of the CUDA executors, with stand-ins: what it runs, what it withholds, and without a card."""

from __future__ import annotations

import math
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from scans import random_sites
from torch import Tensor

from sparseconv import Coordinates
from sparseconv.backends import reference
from sparseconv.scripts.benchmarks.cuda_conv import DIRECTIONS, Layer, layers_of, time_layer, timing_table


def executor(usable: bool = True, **changes: Any) -> SimpleNamespace:
    parts = {"convolve": reference.convolve, "weight_gradient": reference.weight_gradient} | changes
    return SimpleNamespace(usable=lambda features, weight, groups: usable, **parts)


def wrong(*args: Any) -> Tensor:
    return reference.convolve(*args) * 1.001


def not_a_number(*args: Any) -> Tensor:
    return reference.weight_gradient(*args) * math.nan


@pytest.fixture(scope="module")
def layers() -> list[Layer]:
    sites = Coordinates(random_sites(400, (20, 20, 20)), (20, 20, 20), 1)
    return list(layers_of(sites, (torch.float32,)))


def test_layers_of_every_level(layers: list[Layer]) -> None:
    assert len(layers) == 4 * 3
    assert layers[0].map.n_in == layers[0].map.n_out == 400
    assert layers[2].map.n_out == layers[3].map.n_in
    assert [layer.c_out for layer in layers[2::3]] == [32, 64, 64, 64]


def test_only_what_agrees_is_timed(layers: list[Layer]) -> None:
    executors = {
        "wrong": executor(convolve=wrong),
        "nan": executor(weight_gradient=not_a_number),
        "unusable": executor(usable=False),
        "mm": executor(),
    }
    ran: list[tuple[int, ...]] = []

    def timer(run: Any) -> float:
        ran.append(tuple(run().shape))
        return 1e-3

    layer = layers[2]
    timings = time_layer(layer, executors, timer)
    told = {(timing.direction, timing.executor): timing for timing in timings}
    assert len(told) == len(timings) == 3 * 3
    for direction in DIRECTIONS:
        gradient = direction == "weight gradient"
        assert (told[direction, "wrong"].seconds is None) != gradient
        assert (told[direction, "nan"].seconds is None) == gradient
        good = told[direction, "mm"]
        assert good.error == 0 and good.seconds == 1e-3
        assert good.tflops == pytest.approx(2e-9 * layer.map.n_pairs * 16 * 32)
    shapes = {(layer.map.n_out, 32), (layer.map.n_in, 16), (32, 27, 16)}
    assert set(ran) == shapes and len(ran) == 6
    console = Console(width=200, record=True)
    console.print(timing_table(timings))
    page = console.export_text()
    assert page.count("wrong by") == 3 and "unusable" not in page and "1000 (" in page


def test_without_a_card_it_says_so() -> None:
    command = [sys.executable, "-m", "sparseconv.scripts.benchmarks.cuda_conv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2
    assert done.stderr.strip() == "sparseconv: torch sees no CUDA device; this benchmark runs on one"
