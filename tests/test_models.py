"""Structure of the published networks, and what they must survive."""

from __future__ import annotations

import copy

import pytest
import torch
from test_models_inputs import SECOND_GRID, assert_close, network_tolerance, random_voxels, settle
from torch import nn

from sparseconv import SparseTensor
from sparseconv.functional import prune
from sparseconv.models import (
    MODELS,
    BackboneOutput,
    BasicBlock,
    MinkUNet,
    MinkUNet14,
    UNetOutput,
    UNetV2,
    VoxelBackBone8x,
    VoxelNeXtBackbone,
    VoxelResBackBone8x,
    build_model,
    to_bev,
)
from sparseconv.models.unet import reduce_channels
from sparseconv.models.voxelnext import scale_onto, sum_over_height

NAMES = list(MODELS)
GRID = [41, 96, 96]

# One convolution with its norm: (taps, C_in, C_out, whether it has a bias).
Row = tuple[int, int, int, bool]


def parameters_of(rows: list[Row]) -> int:
    """Weights, biases, and the scale and shift of the norm after each convolution."""
    return sum(taps * c_in * c_out + (c_out if bias else 0) + 2 * c_out for taps, c_in, c_out, bias in rows)


def plain_levels(c_in: int) -> list[Row]:
    """SECOND, table of the sparse middle extractor: 16; then 32, 64, 64, each one strided and two submanifold."""
    rows: list[Row] = [(27, c_in, 16, False), (27, 16, 16, False)]
    for below, width in ((16, 32), (32, 64), (64, 64)):
        rows += [(27, below, width, False), (27, width, width, False), (27, width, width, False)]
    return rows


def residual_levels(c_in: int, widths: tuple[int, ...]) -> list[Row]:
    """A stem; on each level a strided convolution (not on the first) and two blocks of two convolutions."""
    rows: list[Row] = [(27, c_in, widths[0], False)]
    for level, width in enumerate(widths):
        if level:
            rows.append((27, widths[level - 1], width, False))
        rows += [(27, width, width, True)] * 4
    return rows


def decoder_levels() -> list[Row]:
    """Part-A2: on each level a block of two, a merge from twice the width, and the way up."""
    rows: list[Row] = []
    for width, above in ((64, 64), (64, 32), (32, 16), (16, 16)):
        rows += [(27, width, width, False)] * 2
        rows += [(27, 2 * width, width, False), (27, width, above, False)]
    return rows


def mink_rows(c_in: int, depths: tuple[int, ...], planes: tuple[int, ...]) -> list[Row]:
    """The reference's MinkUNet: a 5x5x5 stem of 32, four levels down (2x2x2), four up; 1x1x1 projections."""
    rows: list[Row] = [(125, c_in, 32, False)]
    skips, width = [], 32
    for depth, plane in zip(depths[:4], planes[:4], strict=True):
        skips.append(width)
        rows += [(8, width, width, False), *mink_stage(width, plane, depth)]
        width = plane
    for depth, plane in zip(depths[4:], planes[4:], strict=True):
        rows += [(8, width, plane, False), *mink_stage(plane + skips.pop(), plane, depth)]
        width = plane
    return rows


def mink_stage(c_in: int, plane: int, depth: int) -> list[Row]:
    projection: list[Row] = [(1, c_in, plane, False)] if c_in != plane else []
    return [(27, c_in, plane, False)] + [(27, plane, plane, False)] * (2 * depth - 1) + projection


def mink_parameters(depths: tuple[int, ...], planes: tuple[int, ...]) -> int:
    """The rows above, and a last linear layer to 20 classes with its bias."""
    return parameters_of(mink_rows(4, depths, planes)) + planes[-1] * 20 + 20


DOWN_Z: Row = (3, 64, 128, False)
PLANES_A = (32, 64, 128, 256, 128, 128, 96, 96)
PLANES_C = (32, 64, 128, 256, 256, 128, 96, 96)

# The total as a number beside its derivation, so that tables and networks cannot drift together.
PARAMETERS = {
    "VoxelBackBone8x": (711_872, parameters_of([*plain_levels(4), DOWN_Z])),
    "VoxelResBackBone8x": (
        2_694_880,
        parameters_of([*residual_levels(4, (16, 32, 64, 128)), (3, 128, 128, False)]),
    ),
    "UNetV2": (1_922_784, parameters_of([*plain_levels(4), DOWN_Z, *decoder_levels()])),
    "VoxelNeXtBackbone": (
        7_368_288,
        parameters_of(
            [*residual_levels(4, (16, 32, 64, 128, 128, 128)), (9, 128, 128, False), (9, 128, 128, True)]
        ),
    ),
    "MinkUNet14": (8_028_500, mink_parameters((1,) * 8, PLANES_A)),
    "MinkUNet18": (15_497_172, mink_parameters((2,) * 8, PLANES_A)),
    "MinkUNet34": (37_860_052, mink_parameters((2, 3, 4, 6, 2, 2, 2, 2), PLANES_C)),
}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def results(output: BackboneOutput) -> list[SparseTensor]:
    """Every sparse tensor that a network returns."""
    voxels = [output.voxels] if isinstance(output, UNetOutput) else []
    return [output.encoded, *voxels, *output.stages.values()]


def settled(name: str) -> nn.Module:
    model = build_model(name, 4).double()
    return settle(model, random_voxels(3000, GRID))


def test_parameter_counts_are_the_papers(name: str) -> None:
    total, derived = PARAMETERS[name]
    assert sum(parameter.numel() for parameter in build_model(name, 4).parameters()) == derived == total


def test_shapes_on_the_grid_of_second() -> None:
    x = random_voxels(800, SECOND_GRID, (0, 1), 2).float()
    for backbone, width in ((VoxelBackBone8x(), 64), (VoxelResBackBone8x(), 128), (UNetV2(), 64)):
        output = backbone.eval()(x)
        assert output.encoded.spatial_shape == [2, 200, 176]
        assert output.encoded.features.shape[1] == 128
        shapes = [(stage.spatial_shape, stage.features.shape[1]) for stage in output.stages.values()]
        assert shapes == [
            (SECOND_GRID, 16),
            ([21, 800, 704], 32),
            ([11, 400, 352], 64),
            ([5, 200, 176], width),
        ]
        assert list(output.stages) == ["x_conv1", "x_conv2", "x_conv3", "x_conv4"]
        assert to_bev(output.encoded).shape == (2, 256, 200, 176)


def test_shapes_of_the_decoders_and_of_the_2d_map() -> None:
    x = random_voxels(800, SECOND_GRID, (0, 1), 2).float()
    voxels = UNetV2().eval()(x).voxels
    assert voxels.features.shape == (len(x), 16)
    assert voxels.coordinates is x.coordinates
    output = VoxelNeXtBackbone().eval()(x)
    assert output.encoded.spatial_shape == [200, 176]
    assert output.encoded.features.shape[1] == 128
    shapes = [stage.spatial_shape for stage in output.stages.values()]
    assert shapes[3:] == [[6, 200, 176], [3, 100, 88], [2, 50, 44]]
    scores = MinkUNet14(4, 7).eval()(x).encoded
    assert scores.features.shape == (len(x), 7)
    assert scores.coordinates is x.coordinates


def test_names_are_those_of_published_state_dicts() -> None:
    plain, residual = VoxelBackBone8x().state_dict(), VoxelResBackBone8x().state_dict()
    assert plain["conv_input.0.weight"].shape == (16, 3, 3, 3, 4)
    assert plain["conv1.0.0.weight"].shape == (16, 3, 3, 3, 16)
    assert plain["conv4.2.1.running_var"].shape == (64,)
    assert plain["conv_out.0.weight"].shape == (128, 3, 1, 1, 64)
    assert residual["conv2.0.0.weight"].shape == (32, 3, 3, 3, 16)
    assert residual["conv4.2.conv2.bias"].shape == (128,)
    assert residual["conv1.1.bn2.num_batches_tracked"].shape == ()
    unet, voxelnext = UNetV2().state_dict(), VoxelNeXtBackbone().state_dict()
    assert unet["conv_up_m4.0.weight"].shape == (64, 3, 3, 3, 128)
    assert unet["inv_conv3.0.weight"].shape == (32, 3, 3, 3, 64)
    assert unet["conv5.0.0.weight"].shape == (16, 3, 3, 3, 16)
    assert "conv_up_t1.conv1.bias" not in unet
    assert voxelnext["conv6.2.conv2.weight"].shape == (128, 3, 3, 3, 128)
    assert voxelnext["shared_conv.0.weight"].shape == (128, 3, 3, 128)
    assert voxelnext["shared_conv.0.bias"].shape == (128,)


def test_bev_stacks_heights_as_channels() -> None:
    x = random_voxels(30, [2, 3, 4], (0, 2), 3)
    bev = to_bev(x)
    assert bev.shape == (3, 8, 3, 4)
    for row, (sample, z, y, column) in enumerate(x.indices.tolist()):
        for channel in range(4):
            assert bev[sample, 2 * channel + z, y, column] == x.features[row, channel]
    with pytest.raises(ValueError, match="2 spatial axes"):
        to_bev(SparseTensor(torch.zeros(0, 1), torch.zeros(0, 3).int(), [2, 2], 1))
    with pytest.raises(ValueError, match="bounded grid"):
        to_bev(random_voxels(20, None))


def test_wrong_sizes_are_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"no model 'MinkUNet50'; the models are VoxelBackBone8x, .*MinkUNet34"):
        build_model("MinkUNet50", 4)
    with pytest.raises(ValueError, match="from 16 to 32 channels needs a projection"):
        BasicBlock(16, 32)
    with pytest.raises(TypeError, match="use MinkUNet14"):
        MinkUNet()
    with pytest.raises(ValueError, match="6 channels cannot be reduced to 4"):
        reduce_channels(torch.zeros(1, 6), 4)


def test_channels_are_reduced_by_consecutive_groups() -> None:
    features = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    assert reduce_channels(features, 2).tolist() == [[11.0, 1100.0]]
    assert reduce_channels(features[:0], 2).shape == (0, 2)


def test_coarse_levels_merge_without_touching_their_indices() -> None:
    fine = SparseTensor(torch.ones(1, 1), torch.tensor([[0, 4, 2, 0]]), [6, 6, 6], 1)
    sites = torch.tensor([[0, 1, 0, 1], [0, 2, 1, 0]], dtype=torch.int32)
    coarse = SparseTensor(torch.tensor([[2.0], [3.0]]), sites, [3, 3, 3], 1)
    moved = scale_onto(coarse, fine, 2)
    assert moved.indices.tolist() == [[0, 2, 0, 2], [0, 4, 2, 0]]
    assert moved.spatial_shape == [6, 6, 6]
    assert coarse.indices.tolist() == sites.tolist() == [[0, 1, 0, 1], [0, 2, 1, 0]]
    flat = sum_over_height(SparseTensor(torch.tensor([[1.0], [2.0], [4.0]]), column_sites(), [6, 6, 6], 2))
    assert flat.indices.tolist() == [[0, 2, 3], [1, 0, 0]]
    assert flat.features.tolist() == [[5.0], [2.0]]
    assert (flat.spatial_shape, flat.batch_size) == ([6, 6], 2)


def column_sites() -> torch.Tensor:
    return torch.tensor([[0, 5, 2, 3], [1, 0, 0, 0], [0, 1, 2, 3]])


@pytest.mark.parametrize("shape", [GRID, None], ids=["bounded", "unbounded"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_no_voxels_at_all(name: str, shape: list[int] | None, training: bool) -> None:
    empty = SparseTensor(torch.zeros(0, 4), torch.zeros(0, 4).int(), shape, 3)
    model = build_model(name, 4).train(training)
    before = copy.deepcopy(model.state_dict())
    output = model(empty)
    assert all(len(result) == 0 and result.batch_size == 3 for result in results(output))
    output.encoded.features.sum().backward()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("shape", [GRID, None], ids=["bounded", "unbounded"])
def test_a_single_voxel(name: str, shape: list[int] | None) -> None:
    single = SparseTensor(torch.ones(1, 4), torch.tensor([[0, 20, 40, 41]]), shape, 1)
    output = build_model(name, 4).eval()(single)
    assert len(output.encoded) > 0
    assert all(result.features.isfinite().all() for result in results(output))


@pytest.mark.parametrize("shape", [GRID, None], ids=["bounded", "unbounded"])
def test_samples_do_not_mix_and_may_be_empty(name: str, shape: list[int] | None) -> None:
    model = settled(name)
    batch = random_voxels(300, shape, (0, 2), 4)
    with torch.no_grad():
        together = results(model(batch))
        for sample in range(4):
            alone = results(model(prune(batch, batch.indices[:, 0] == sample)))
            for whole, part in zip(together, alone, strict=True):
                rows = whole.indices[:, 0] == sample
                assert torch.equal(whole.indices[rows], part.indices)
                assert_close(whole.features[rows], part.features, network_tolerance(model, whole.features))


def test_the_order_of_voxels_does_not_matter(name: str) -> None:
    model = settled(name)
    x = random_voxels(200, GRID)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    shuffled = SparseTensor(x.features[order], x.indices[order], GRID, 1)
    with torch.no_grad():
        plain, mixed = results(model(x)), results(model(shuffled))
    for expected, got in zip(plain, mixed, strict=True):
        rows = expected.coordinates.lookup(got.indices)
        assert torch.equal(rows.sort().values, torch.arange(len(expected)))
        assert_close(got.features, expected.features[rows], network_tolerance(model, expected.features))


@pytest.mark.parametrize(
    ("shape", "dtype"), [(GRID, torch.float32), (None, torch.float64)], ids=["bounded", "unbounded"]
)
def test_training_reaches_every_parameter(name: str, shape: list[int] | None, dtype: torch.dtype) -> None:
    model = build_model(name, 4).to(dtype).train()
    x = random_voxels(600, shape, (0, 2), 3).to(dtype)
    output = model(x)
    used = [output.encoded, *([output.voxels] if isinstance(output, UNetOutput) else [])]
    loss = torch.stack([result.features.square().sum() for result in used]).sum()
    loss.backward()
    assert output.encoded.dtype == dtype
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        # Only a bias right before a batch norm has no influence.
        assert parameter.grad.any() or key.endswith(".bias"), key


def test_copies_and_state_dicts_compute_the_same(name: str) -> None:
    model = settled(name)
    x = random_voxels(200, GRID)
    twin = build_model(name, 4).double().eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model(x).encoded.features
        for other in (model, copy.deepcopy(model), twin):
            assert torch.equal(other(x).encoded.features, expected)


def test_minkunet_keeps_the_last_cells_of_an_indivisible_grid() -> None:
    model = settled("MinkUNet14")
    x = random_voxels(300, [41, 33, 47])
    unbounded = SparseTensor(x.features, x.indices, None, 1)
    with torch.no_grad():
        bounded, expected = model(x), model(unbounded)
    assert torch.equal(bounded.encoded.features, expected.encoded.features)
    assert bounded.encoded.spatial_shape == [41, 33, 47]
    coarse = bounded.stages["stride16"].indices
    assert torch.equal(
        torch.unique(coarse, dim=0), torch.unique(x.indices // x.indices.new_tensor([1, 16, 16, 16]), dim=0)
    )
