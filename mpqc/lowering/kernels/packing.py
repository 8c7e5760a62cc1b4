"""Weights as the kernels read them: panels of output channels, at their real width.

A panel holds the weights of `width` output channels for the whole reduction, four reduction steps (a quad) at a time:
quads [quad][channel][4], columns [quad][4][channel] (forms.py). The last panel of a group overlaps the one before it, so that no
panel is ragged; only groups narrower than one panel are padded with zeros.
"""

from __future__ import annotations

import numpy as np

from mpqc.lowering.kernels.forms import Loop


def panel_starts(channels: int, width: int) -> tuple[int, ...]:
    """First channel of each panel: multiples of `width`, the last one moved back so that it ends with the channels."""
    if channels <= width:
        return (0,)
    return tuple(min(start, channels - width) for start in range(0, channels, width))


def take_panels(values: np.ndarray, width: int) -> np.ndarray:
    """[channels, ...] -> [panels, width, ...]; channels beyond the last are zero."""
    short = max(0, width - values.shape[0])
    padded = np.concatenate([values, np.zeros((short, *values.shape[1:]), values.dtype)]) if short else values
    return np.stack([padded[start : start + width] for start in panel_starts(values.shape[0], width)])


def split_segments(weight: np.ndarray, length: int) -> np.ndarray:
    """[O, segments * length] -> [O, quads, 4]: every segment padded with zeros to whole quads."""
    channels = weight.shape[0]
    segments = weight.reshape(channels, -1, length)
    padded = np.pad(segments, ((0, 0), (0, 0), (0, -length % 4)))
    return padded.reshape(channels, -1, 4)


_ORDERS: dict[Loop, tuple[int, ...]] = {"quads": (0, 2, 1, 3), "columns": (0, 2, 3, 1)}
"""Axes of [panel, channel, quad, 4] as each loop reads them"""


def pack(quads: np.ndarray, width: int, bits: int, loop: Loop, *, nested: bool = False) -> np.ndarray:
    """[O, quads, 4] int8 -> [panels, bytes] int8: panels of `width` channels, `bits` wide (8, 4 or 2), see `nest`."""
    panels = take_panels(quads, width)
    ordered = panels.transpose(_ORDERS[loop])
    packed = narrow(np.ascontiguousarray(ordered).reshape(panels.shape[0], -1), bits)
    return nest(packed, bits) if nested else packed


def nest(packed: np.ndarray, bits: int) -> np.ndarray:
    """Packed words whose fields, all but the highest, hold code + 2^(bits - 1): a byte is a plain sum of its fields times powers of two."""
    return packed ^ np.int8(sum(1 << (field * bits + bits - 1) for field in range(8 // bits - 1)))


def narrow(codes: np.ndarray, bits: int) -> np.ndarray:
    """[panels, n] int8 codes -> [panels, bytes]: byte i of a 16-byte word holds codes i, 16 + i, ... of its run, lowest bits first."""
    if bits == 8:
        return codes
    fields = 8 // bits
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % (16 * fields))))
    runs = padded.reshape(codes.shape[0], -1, fields, 16).astype(np.uint8) & ((1 << bits) - 1)
    shifts = (np.arange(fields, dtype=np.uint8) * bits)[:, None]
    return np.bitwise_or.reduce(runs << shifts, axis=2).reshape(codes.shape[0], -1).astype(np.uint8).view(np.int8)


def as_stored(codes: np.ndarray, odd: bool) -> np.ndarray:
    """What is stored of weight codes: themselves, of odd ones (2q + 1) q."""
    return codes.astype(np.int8) >> 1 if odd else codes


def products_together(quads: np.ndarray) -> int:
    """How many neighbouring products (4, 2 or 1) fit int16 when summed, whatever the int8 inputs. quads: int8 [O, quads, 4]."""
    for count in (4, 2):
        runs = quads.reshape(-1, count).astype(np.int32)
        positive, negative = np.maximum(runs, 0).sum(axis=1), -np.minimum(runs, 0).sum(axis=1)
        if np.max(127 * positive + 128 * negative, initial=0) < 2**15 and np.max(128 * positive + 127 * negative, initial=0) <= 2**15:
            return count
    return 1
