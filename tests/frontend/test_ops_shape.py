"""Data movement and Resize against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import check, noise, one_op


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize("shape", [(6, 4), (-1,), (0, -1), (4, 1, 6)])
def test_reshape(shape: tuple[int, ...]) -> None:
    check(*one_op("Reshape", [noise(2, 3, 4)], {1: ints(*shape)}))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, 3])
def test_flatten(axis: int) -> None:
    check(*one_op("Flatten", [noise(2, 3, 4)], axis=axis))


@pytest.mark.parametrize("attributes", [{}, {"perm": [1, 0, 2]}, {"perm": [0, 1, 2]}])
def test_transpose(attributes: dict[str, Any]) -> None:
    check(*one_op("Transpose", [noise(2, 3, 4)], **attributes))


@pytest.mark.parametrize("axes", [(0,), (-2,), (0, 2), None])
def test_squeeze(axes: tuple[int, ...] | None) -> None:
    check(*one_op("Squeeze", [noise(1, 3, 1, 2)], {} if axes is None else {1: ints(*axes)}))


@pytest.mark.parametrize("axes", [(0,), (-1,), (0, 3), (1, -1)])
def test_unsqueeze(axes: tuple[int, ...]) -> None:
    check(*one_op("Unsqueeze", [noise(2, 3)], {1: ints(*axes)}))


@pytest.mark.parametrize("shape", [(4, 3, 5), (3, 1), (1, 1, 1, 1)])
def test_expand(shape: tuple[int, ...]) -> None:
    check(*one_op("Expand", [noise(3, 1)], {1: ints(*shape)}))


def test_tile_concat() -> None:
    check(*one_op("Tile", [noise(2, 3)], {1: ints(2, 3)}))
    for axis in (0, 1, -1):
        check(*one_op("Concat", [noise(2, 3), noise(2, 3, seed=1)], axis=axis))


@pytest.mark.parametrize(
    ("outputs", "constants", "attributes"),
    [(3, {1: ints(1, 2, 4)}, {"axis": 1}), (2, {}, {"axis": -1, "num_outputs": 2}), (1, {}, {"num_outputs": 1})],
)
def test_split(outputs: int, constants: dict[int, Any], attributes: dict[str, int]) -> None:
    check(*one_op("Split", [noise(2, 7)], constants, outputs=outputs, **attributes))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    check(*one_op("DepthToSpace", [noise(2, 12, 2, 3)], blocksize=2, mode=mode))


def test_space_to_depth_trilu() -> None:
    check(*one_op("SpaceToDepth", [noise(2, 3, 4, 6)], blocksize=2))
    check(*one_op("Trilu", [noise(4, 5)], {1: np.int64(1)}))
    check(*one_op("Trilu", [noise(4, 5)], upper=0))


SLICES = [
    ((1,), (3,), (1,), None),
    ((-3,), (-1,), (-1,), None),
    ((0, 1), (9223372036854775807, 4), (0, 1), (1, 2)),
    ((-1,), (-9223372036854775807,), (1,), (-1,)),
    ((3, 4), (0, 0), (0, 1), (-1, -2)),
    ((0, 0), (2, 2), None, None),
]


@pytest.mark.parametrize(("starts", "ends", "axes", "steps"), SLICES)
def test_slice(starts: tuple[int, ...], ends: tuple[int, ...], axes: tuple[int, ...] | None, steps: tuple[int, ...] | None) -> None:
    constants: dict[int, Any] = {1: ints(*starts), 2: ints(*ends)}
    constants |= {3: ints(*axes) if axes else None} if axes or steps else {}
    constants |= {4: ints(*steps)} if steps else {}
    check(*one_op("Slice", [noise(4, 5)], constants))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [(0, 0, 1, 2, 0, 0, 2, 1), (0, 0, 0, 3, 0, 0, 0, 3), (0, 0, -1, 1, 0, 0, 2, -1)])
def test_pad(mode: str, pads: tuple[int, ...]) -> None:
    if mode in ("reflect", "wrap") and min(pads) < 0:
        pytest.skip("ONNX Runtime's result for cut and mirrored axes is not the standard's")
    check(*one_op("Pad", [noise(1, 2, 4, 5)], {1: ints(*pads)}, mode=mode))


def test_pad_value_and_axes() -> None:
    check(*one_op("Pad", [noise(1, 2, 4, 5)], {1: ints(1, 2), 2: np.float32(-1.5), 3: ints(-1)}))
    check(
        *one_op(
            "Pad",
            [
                noise(1, 2, 4, 5),
            ],
            {1: ints(1, 1, 0, 2), 2: None, 3: ints(3, 1)},
        )
    )


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [[0, 2, -1], [[1, 0], [2, 2]], 1, -2])
def test_gather(axis: int, indices: Any) -> None:
    check(*one_op("Gather", [noise(4, 3, 5)], {1: np.array(indices, np.int64)}, axis=axis))
    check(*one_op("Gather", [noise(4, 3, 5), np.array(indices, np.int32)], axis=axis))


def test_gather_and_scatter_by_coordinates() -> None:
    check(*one_op("GatherElements", [noise(3, 4)], {1: np.array([[0, -1], [2, 1]], np.int64)}, axis=1))
    check(*one_op("GatherND", [noise(3, 4, 2)], {1: np.array([[0, 1], [2, -1]], np.int64)}))
    check(*one_op("ScatterND", [noise(3, 4), noise(2, 4, seed=1)], {1: np.array([[2], [0]], np.int64)}))
    check(*one_op("ScatterND", [noise(3, 4), noise(3, seed=1)], {1: np.array([[1, 2], [0, 0], [1, 2]], np.int64)}, reduction="add"))
    check(*one_op("ScatterElements", [noise(3, 4), noise(1, 4, seed=1)], {1: np.array([[2, -1, 0, 1]], np.int64)}, axis=0))


COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
SIZES = [(1, 2, 8, 10), (1, 2, 7, 3), (1, 2, 2, 1), (1, 2, 4, 15)]


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_to_sizes(coordinates: str, sizes: tuple[int, ...], mode: str) -> None:
    check(*one_op("Resize", [noise(1, 2, 4, 5)], {1: None, 2: None, 3: ints(*sizes)}, mode=mode, coordinate_transformation_mode=coordinates))


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_nearest(coordinates: str, sizes: tuple[int, ...], rounding: str) -> None:
    if (coordinates, sizes[-1], rounding) == ("half_pixel_symmetric", 3, "floor"):
        pytest.skip("a position is 2 up to float32 rounding, on which side is nobody's rule")
    constants = {1: None, 2: None, 3: ints(*sizes)}
    check(*one_op("Resize", [noise(1, 2, 4, 5)], constants, nearest_mode=rounding, coordinate_transformation_mode=coordinates))


@pytest.mark.parametrize("scales", [(1, 1, 2, 2), (1, 1, 0.6, 1.3), (1, 1, 3, 0.4)])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
def test_resize_by_scales(scales: tuple[float, ...], mode: str, coordinates: str) -> None:
    constants = {1: None, 2: np.array(scales, np.float32)}
    check(*one_op("Resize", [noise(1, 2, 5, 7)], constants, mode=mode, coordinate_transformation_mode=coordinates))


def test_resize_axes_and_excluded_cubic() -> None:
    check(*one_op("Resize", [noise(1, 2, 5, 7)], {1: None, 2: None, 3: ints(9, 4)}, axes=[2, 3], mode="linear"))
    check(*one_op("Resize", [noise(1, 2, 5, 7)], {1: None, 2: None, 3: ints(1, 2, 9, 4)}, mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5))


@pytest.mark.parametrize(
    "attributes", [{"antialias": 1, "mode": "linear"}, {"keep_aspect_ratio_policy": "not_larger", "axes": [2, 3], "mode": "linear"}]
)
def test_resize_variants_that_stay_float(attributes: dict[str, Any]) -> None:
    sizes = ints(3, 4) if "axes" in attributes else ints(1, 2, 3, 4)
    network = check(*one_op("Resize", [noise(1, 2, 5, 7)], {1: None, 2: None, 3: sizes}, **attributes), floats=["Resize"])
    assert next(name for name in attributes if name not in ("mode", "axes")) in network.floats[0].reason
