"""Picture files as arrays: decoded, fitted to the network's input, channels in its order."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpqc.errors import DataError
from mpqc.values.network import TensorSpec
from mpqc.values.preprocessing import COVER, PAD, STRETCH, UNTOUCHED, Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_FORMATS = ("PNG", "JPEG", "BMP")
"""What a file may hold, whatever its name says: Pillow's readers of rarer formats are not asked"""
MOST_PIXELS = 1 << 26
"""Of a picture while it is resized"""
_SIXTEEN = 257
"""What 16-bit grey is divided by, so that 65535 becomes 255"""
MOST_SIDE, LEAST_SIDE = 96, 8
"""Pixels of a thumbnail's longer side, and of the shorter side of what is a picture at all"""
GREY = 114
"""Of the bars beside a picture that is kept whole, as detectors are trained with"""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_CHANNELS_FIRST = {"nchw": True, "nhwc": False}


def is_picture(path: Path) -> bool:
    """Whether the file's name says that it holds a picture."""
    return path.suffix.lower() in SUFFIXES


def read_image(path: Path, spec: TensorSpec, form: Preprocessing = UNTOUCHED) -> np.ndarray:
    """The picture in `path` as float32 0..255 with one sample of `spec` (NCHW or NHWC by where 1, 3 or 4 channels stand, or as `form` says).

    It is resized (bilinear) as `form` says; values are not scaled. Raises DataError.
    """
    from PIL import Image

    height, width, channels, first = _layout(spec, form.layout)
    try:
        with Image.open(path, formats=_FORMATS) as image:
            fitted = _fitted(_eight_bit(image).convert(_MODES[channels]), (width, height), form.resize)
            pixels = np.asarray(fitted, np.float32).reshape(height, width, channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError("cannot read the image", where=str(path), why=str(error)) from error
    ordered = pixels[:, :, [2, 1, 0, *range(3, channels)]] if form.bgr and channels >= 3 else pixels
    return ordered.transpose(2, 0, 1) if first else ordered


def thumbnail(values: np.ndarray, spec: TensorSpec, form: Preprocessing = UNTOUCHED) -> str:
    """The first of `values`, shaped as `spec`, as a small PNG in base64: its least value black, its largest white. Empty where it is no picture.

    Channels that go in as blue, green, red are shown in the order red, green, blue.
    """
    from PIL import Image
    from PIL.Image import Resampling

    if not _is_picture_shape(spec.shape, form.layout) or not np.isfinite(values).all():
        return ""
    height, width, channels, first = _layout(spec, form.layout)
    sample = np.asarray(values, np.float64).reshape(-1, *spec.shape[1:])[0]
    pixels = sample.transpose(1, 2, 0) if first else sample
    pixels = pixels[:, :, ::-1] if form.bgr and channels == 3 else pixels
    spread = float(pixels.max() - pixels.min()) or 1.0
    bytes_ = np.rint((pixels - pixels.min()) * (255 / spread)).astype(np.uint8)
    image = Image.fromarray(bytes_[:, :, 0] if channels == 1 else bytes_, _MODES[channels]).convert("L" if channels == 1 else "RGB")
    if max(height, width) > MOST_SIDE:
        image.thumbnail((MOST_SIDE, MOST_SIDE), Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _is_picture_shape(shape: tuple[int, ...], layout: str) -> bool:
    first = _CHANNELS_FIRST.get(layout, len(shape) == 4 and shape[1] in _MODES)
    return len(shape) == 4 and shape[1 if first else 3] in _MODES and min(shape[2:] if first else shape[1:3]) >= LEAST_SIDE


def _eight_bit(image: Image) -> Image:
    """`image`, 16-bit grey scaled to 8 bits: Pillow would cut it off at 255."""
    from PIL import Image as images  # noqa: N813

    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    return images.fromarray(np.rint(np.clip(np.asarray(image), 0, 65535) / _SIXTEEN).astype(np.uint8))


def _fitted(image: Image, size: tuple[int, int], resize: str) -> Image:
    from PIL import ImageOps
    from PIL.Image import Resampling

    if resize == COVER:
        return ImageOps.fit(image, size, Resampling.BILINEAR)
    if resize == STRETCH:
        return image.resize(size, Resampling.BILINEAR)
    if resize == PAD:
        return ImageOps.pad(image, size, Resampling.BILINEAR, color=_grey(image))
    return _centre(image, size, float(resize))


def _grey(image: Image) -> int | tuple[int, ...]:
    bands = len(image.getbands())
    return GREY if bands == 1 else (GREY, GREY, GREY, 255)[:bands]


def _centre(image: Image, size: tuple[int, int], number: float) -> Image:
    """The centre of `size` after the picture covers a larger rectangle: `number` is the part that is kept, or the larger one's shorter side."""
    from PIL.Image import Resampling

    factor = 1 / number if number <= 1 else number / min(size)
    if factor < 1:
        raise DataError(f"a shorter side of {number:g} pixels is smaller than the input", where="--resize", why=f"the input is {size[0]}x{size[1]}")
    scale = factor * max(size[0] / image.width, size[1] / image.height)
    larger = max(size[0], round(image.width * scale)), max(size[1], round(image.height * scale))
    if larger[0] * larger[1] > MOST_PIXELS:
        raise DataError(f"a picture would be resized to {larger[0]}x{larger[1]}", where="--resize", hint="write a number nearer to the input's size")
    covered = image.resize(larger, Resampling.BILINEAR)
    left, top = (covered.width - size[0]) // 2, (covered.height - size[1]) // 2
    return covered.crop((left, top, left + size[0], top + size[1]))


def _layout(spec: TensorSpec, asked: str) -> tuple[int, int, int, bool]:
    """Height, width, channels, and whether channels stand first."""
    shape = spec.shape
    first = _CHANNELS_FIRST.get(asked, len(shape) == 4 and shape[1] in _MODES)
    if len(shape) != 4 or shape[1 if first else 3] not in _MODES:
        hint = "leave --layout out" if asked else "give arrays instead of images"
        raise DataError(f"an image does not fit the shape {list(shape)}", where=spec.name, hint=hint)
    return (shape[2], shape[3], shape[1], True) if first else (shape[1], shape[2], shape[3], False)
