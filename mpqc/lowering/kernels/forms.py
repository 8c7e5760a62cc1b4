"""The forms of the matrix product behind convolutions and fully connected layers: what tiling, packing and code differ in.

Which core gets which form says mpqc/facts/features.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mpqc.facts.kernels import PIXEL_TILES

Loop = Literal["quads", "rows", "columns"]
"""How the inner loop sums.

quads: SDOT by lane, four products of four channels at once (micro.py). rows: SMULL along the reduction, channel by channel (smull.py).
columns: portable, one product of all channels of the tile after the other (micro.py).
"""


@dataclass(frozen=True)
class ProductForm:
    """One form of the product; every field is asked for somewhere, so a new form has to say all of it."""

    name: str
    """That of the table of forms; part of a kernel's name"""
    loop: Loop
    wide_panels: bool
    """Tiles of few pixels take 16 or 32 channels"""
    start_in_memory: bool
    """Tiles load the accumulators' start values again for every pixel: loads have idle pipes, copies between vector registers have not"""
    paired_stores: bool
    """Unpacked weights are stored two vectors at a time by ST1, which costs half of what the compiler's STP does"""
    rolled: bool
    """Short loops over large tiles are kept from being unrolled: the copies would not fit the registers"""

    stores_wait: bool
    """A block keeps its outputs in L1 beside its inputs: cores with this form wait for stores that miss"""

    @property
    def pixels(self) -> int:
        """Most pixels of a register tile."""
        return PIXEL_TILES[self.name]


PRODUCT_FORMS: Mapping[str, ProductForm] = {
    form.name: form
    for form in (
        ProductForm("dotprod", "quads", wide_panels=True, start_in_memory=True, paired_stores=True, rolled=True, stores_wait=False),
        ProductForm("neon", "rows", wide_panels=False, start_in_memory=False, paired_stores=False, rolled=False, stores_wait=True),
        ProductForm("generic", "columns", wide_panels=False, start_in_memory=False, paired_stores=False, rolled=False, stores_wait=False),
    )
}
"""By name"""
