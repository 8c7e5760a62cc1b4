"""Pictures become arrays as the preprocessing says: how they are fitted, the order of channels, and how values are scaled."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpqc.data.batches import open_data
from mpqc.data.pictures import GREY, read_image, thumbnail
from mpqc.errors import DataError, UsageError
from mpqc.values.network import TensorSpec
from mpqc.values.preprocessing import Preprocessing
from mpqc.values.presets import PRESETS

X = TensorSpec("x", (1, 3, 8, 8), "float32")
RED = (200, 100, 50)


def striped(path: Path) -> Path:
    """24 x 8 pixels: grey, RED, white, each 8 wide."""
    image = Image.new("RGB", (24, 8), (128, 128, 128))
    image.paste(RED, (8, 0, 16, 8))
    image.paste((255, 255, 255), (16, 0, 24, 8))
    image.save(path)
    return path


def test_cover_keeps_the_centre(tmp_path: Path) -> None:
    pixels = read_image(striped(tmp_path / "a.png"), X)
    assert pixels.shape == (3, 8, 8)
    assert np.array_equal(pixels[:, 4, 4], RED)
    assert np.array_equal(pixels[:, 0, 1], RED)


def test_stretch_keeps_all_of_it(tmp_path: Path) -> None:
    pixels = read_image(striped(tmp_path / "a.png"), X, Preprocessing(resize="stretch"))
    assert np.allclose(pixels[:, 4, 0], 128, atol=2)
    assert np.allclose(pixels[:, 4, 7], 255, atol=2)


def test_pad_keeps_its_shape_between_grey_bars(tmp_path: Path) -> None:
    pixels = read_image(striped(tmp_path / "a.png"), X, Preprocessing(resize="pad"))
    assert np.array_equal(pixels[:, 0, 4], [GREY] * 3)
    assert np.array_equal(pixels[:, 7, 4], [GREY] * 3)
    assert np.allclose(pixels[:, 4, 3], RED, atol=30)


@pytest.mark.parametrize(("resize", "reach"), [("0.5", 4), ("16", 4), ("1", 8), ("8", 8)])
def test_the_centre_of_a_larger_picture(tmp_path: Path, resize: str, reach: int) -> None:
    """A ramp from left to right: what is kept of it is its middle."""
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 4, 64, 0).repeat(3, 2)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    row = read_image(tmp_path / "ramp.png", X, Preprocessing(resize=resize))[0, 4]
    assert row[-1] - row[0] == pytest.approx(255 * 7 / 8 * reach / 8, abs=6)


def test_a_shorter_side_below_the_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="4 pixels is smaller than the input"):
        read_image(striped(tmp_path / "a.png"), X, Preprocessing(resize="4"))


def test_blue_green_red(tmp_path: Path) -> None:
    assert np.array_equal(read_image(striped(tmp_path / "a.png"), X, Preprocessing(bgr=True))[:, 4, 4], RED[::-1])


def test_the_layout_decides_where_the_shape_does_not(tmp_path: Path) -> None:
    narrow = TensorSpec("x", (1, 3, 8, 3), "float32")
    path = striped(tmp_path / "a.png")
    assert read_image(path, narrow).shape == (3, 8, 3)
    assert read_image(path, narrow, Preprocessing(layout="nhwc")).shape == (3, 8, 3)
    assert np.array_equal(read_image(path, narrow, Preprocessing(layout="nhwc"))[1, 4], RED)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("raw", RED),
        ("unit", np.divide(RED, 255)),
        ("signed", np.subtract(RED, 127.5) / 127.5),
        ("imagenet", (np.divide(RED, 255) - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)),
        ("caffe", np.subtract(RED[::-1], (103.939, 116.779, 123.68))),
    ],
)
def test_what_every_preset_makes_of_a_pixel(tmp_path: Path, preset: str, expected: np.ndarray) -> None:
    Image.new("RGB", (8, 8), RED).save(tmp_path / "a.png")
    (batch,) = open_data(tmp_path, (X,), limit=1, preprocessing=PRESETS[preset].preprocessing)
    assert np.allclose(batch["x"][0, :, 4, 4], expected, atol=1e-4)


def test_every_preset_is_tried() -> None:
    assert set(PRESETS) == {"raw", "unit", "signed", "imagenet", "caffe"}


def test_one_picture_is_a_data_set_of_one(tmp_path: Path) -> None:
    found = list(open_data(striped(tmp_path / "a.png"), (X,), limit=9))
    assert len(found) == 1
    assert np.array_equal(found[0]["x"][0, :, 4, 4], RED)


@pytest.mark.parametrize(
    "wrong", [{"resize": "tall"}, {"resize": "-1"}, {"resize": "nan"}, {"layout": "chwn"}, {"scale": 0.0}, {"scale": float("inf")}]
)
def test_what_no_preprocessing_can_be(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Preprocessing(**wrong)  # type: ignore[arg-type]


def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 64).reshape(8, 8)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "deep.png")
    grey = read_image(tmp_path / "deep.png", TensorSpec("x", (1, 1, 8, 8), "float32"))
    assert np.allclose(grey[0], values / 257, atol=1)


@pytest.mark.parametrize("content", [b"P6 4 x 255\n", b"\x01\xda\x01\x01\x00\x03\x00\x04\x00\x04\x00\x09" + bytes(500), b""])
def test_other_content_than_the_name_says_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: cannot read the image"):
        read_image(tmp_path / "a.png", X)


def test_a_resize_without_bounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--resize"):
        read_image(striped(tmp_path / "a.png"), X, Preprocessing(resize="1e9"))


def test_a_thumbnail_is_small_stretched_to_black_and_white_and_of_pictures_alone() -> None:
    values = np.zeros((1, 3, 200, 100), np.float32)
    values[:, 0], values[:, 1] = 2.0, -1.0
    for form, colour in ((Preprocessing(), (255, 0, 85)), (Preprocessing(bgr=True), (85, 0, 255))):
        image = Image.open(io.BytesIO(base64.b64decode(thumbnail(values, TensorSpec("x", (1, 3, 200, 100), "float32"), form))))
        assert (image.format, image.mode, image.size, image.getpixel((5, 5))) == ("PNG", "RGB", (48, 96), colour)
    grey = thumbnail(np.zeros((1, 8, 8, 1), np.float32), TensorSpec("x", (1, 8, 8, 1), "float32"), Preprocessing(layout="nhwc"))
    assert Image.open(io.BytesIO(base64.b64decode(grey))).mode == "L"
    for shape in ((1, 40), (1, 3, 4, 4), (1, 7, 32, 32)):
        assert thumbnail(np.zeros(shape, np.float32), TensorSpec("x", shape, "float32")) == ""
