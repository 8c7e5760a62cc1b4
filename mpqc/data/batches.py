"""Data for calibration, sensitivities and training: every kind of source becomes re-iterable batches of the network's fixed shapes.

Sources: an ONNX Runtime CalibrationDataReader (get_next, rewind), any iterable or generator of arrays, tuples or dicts, a callable that
returns one, a DataLoader, a .npz or .npy file (never pickled), a folder of images or .npy files, or None for made-up inputs: pictures
(synthetic.py) or noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from mpqc.data.sources import Item, Place, Wanted, item_stream, known_samples
from mpqc.errors import DataError, UsageError
from mpqc.values.network import TensorSpec
from mpqc.values.preprocessing import PIXEL_RANGE, UNTOUCHED, Preprocessing
from mpqc.workspace.digest import digest

Batch = dict[str, np.ndarray]
NOISE_NOTE = "no data was given: inputs are made up (seeded pictures, or noise), so ranges and sensitivities say little about real data"
FAR = 50.0
"""Beyond what normalised samples reach"""
HELD_OUT_EVERY = 5
"""Of so many samples one is held out of calibration: spread evenly, as sorted files often begin with one class"""
BYTES_LOOKED_AT = 16
"""Batches that are looked at for values that are no bytes; the program refuses others when it gets them"""
FEWEST = 10
"""Samples from which some are held out"""
_TO_NUMBER_KINDS = {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}
"""numpy kind of the network's input -> kinds of data that convert to it without a doubt"""


class Part(StrEnum):
    """Samples of one source for different ends."""

    WHOLE = "whole"
    CALIBRATED = "calibrated"
    """All but one of HELD_OUT_EVERY"""
    HELD_OUT = "held out"
    """Those ones"""

    def has(self, index: int) -> bool:
        """Whether the sample at `index` of the source is one of them."""
        return self is Part.WHOLE or (self is Part.HELD_OUT) == (index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)


@dataclass(frozen=True, eq=False)
class Batches:
    """Re-iterable batches: each iteration yields dicts of input name -> array of exactly the input's shape and dtype."""

    inputs: tuple[TensorSpec, ...]
    origin: str
    """reader | iterable | callable | loader | npz | npy | images | arrays | noise"""
    limit: int
    """At most so many samples"""
    stream: Callable[[], Iterator[Item]] = field(repr=False)
    prepare: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    notes: tuple[str, ...] = ()
    preprocessing: Preprocessing = UNTOUCHED
    """What `prepare` does, and how pictures were read"""
    start: int = 0
    """Samples that are left out before the first; `raw` has them all the same"""
    part: Part = Part.WHOLE
    """Which of the samples; `raw` has them all"""
    known: int | None = None
    """Samples of the source, where that is known without reading it"""

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch, _ in self.labelled())

    def labelled(self) -> Iterator[tuple[Batch, np.ndarray | None]]:
        """Batches with their labels (int64 [batch]), None where the source has none.

        Raises DataError naming the input and the sample for data that does not fit, and where there is no sample at all.
        """
        if self.batch_size is None:
            yield from self._whole()
            return
        waiting: list[tuple[Batch, np.ndarray | None]] = []
        empty = True
        for sample in islice(self._samples(), self.start, self.start + self.limit):
            waiting.append(sample)
            if len(waiting) == self.batch_size:
                yield self._join(waiting)
                waiting, empty = [], False
        if empty and not waiting:
            raise DataError("there is no sample in the data", hint="give at least one")
        if empty:  # fewer samples than one batch: repeated until it is full
            yield self._join([waiting[index % len(waiting)] for index in range(self.batch_size)])

    def raw(self) -> Iterator[Item]:
        """The items of the source with their own dtypes, not normalised: [n, ...] of the input's sample shape, at most `limit` samples.

        Raises DataError as `labelled` does. `prepared` makes of them what the network takes.
        """
        index = 0
        for item in self.stream():
            place = item.place(index)
            arrays = {spec.name: self._fit(_typed_as_is(self._given(item, spec, place), spec, place), spec, place) for spec in self.inputs}
            count = self._count(arrays, place)
            kept = slice(0, min(count, self.limit - index))
            yield Item({name: array[kept] for name, array in arrays.items()}, None if item.labels is None else item.labels[kept])
            index += count
            if index >= self.limit:
                return
        if not index:
            raise DataError("there is no sample in the data", hint="give at least one")

    def prepared(self, name: str, array: np.ndarray) -> np.ndarray:
        """`array` [n, ...] of `raw` as the input `name` takes it."""
        spec = next(spec for spec in self.inputs if spec.name == name)
        return self._prepared(array.astype(spec.dtype), spec)

    @cached_property
    def content(self) -> tuple[str, tuple[str, ...], str]:
        """What stands for all of it in a digest: what it says of itself, and its samples with their labels."""
        return self.origin, self.notes, _digest_of(self)

    @property
    def expected(self) -> int | None:
        """How many batches an iteration gives; None where that is not known before."""
        if self.known is None:
            return None
        own = sum(map(self.part.has, range(self.known))) - self.start
        return max(min(own, self.limit) // (self.batch_size or 1), 1)

    @property
    def batch_size(self) -> int | None:
        """The first dimension that all inputs have in common, None where they have none (states, caches)."""
        sizes = {spec.shape[0] if spec.shape else 0 for spec in self.inputs}
        return sizes.pop() if len(sizes) == 1 and 0 not in sizes else None

    def _samples(self) -> Iterator[tuple[Batch, np.ndarray | None]]:
        index = 0
        for item in self.stream():
            place = item.place(index)
            arrays = {spec.name: self._fit(self._input(item, spec, place), spec, place) for spec in self.inputs}
            for row in range(self._count(arrays, place)):
                if self.part.has(index):
                    yield {name: array[row] for name, array in arrays.items()}, None if item.labels is None else item.labels[row]
                index += 1

    @staticmethod
    def _count(arrays: Batch, place: Place) -> int:
        counts = {name: array.shape[0] for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            raise DataError(f"inputs with different numbers of samples: {counts}", where=str(place))
        return next(iter(counts.values()))

    def _whole(self) -> Iterator[tuple[Batch, np.ndarray | None]]:
        count = -1
        items = (item for index, item in enumerate(self.stream()) if self.part.has(index))
        for count, item in enumerate(islice(items, self.start, self.start + self.limit)):
            place = item.place(count)
            yield {spec.name: self._exact(self._input(item, spec, place), spec, place) for spec in self.inputs}, item.labels
        if count < 0:
            raise DataError("there is no sample in the data", hint="give at least one")

    def _input(self, item: Item, spec: TensorSpec, place: Place) -> np.ndarray:
        return self._prepared(_typed(self._given(item, spec, place), spec, place), spec)

    @staticmethod
    def _given(item: Item, spec: TensorSpec, place: Place) -> np.ndarray:
        if spec.name not in item.arrays:
            raise DataError("the data has no array for this input", where=f"{spec.name}, {place}", why=f"it has {', '.join(item.arrays)}")
        return item.arrays[spec.name]

    def _prepared(self, array: np.ndarray, spec: TensorSpec) -> np.ndarray:
        return self.prepare(array) if spec.name == self.inputs[0].name and spec.dtype == "float32" else array

    def _fit(self, array: np.ndarray, spec: TensorSpec, place: Place) -> np.ndarray:
        """`array` with a first dimension that counts samples, whatever their number."""
        array = array[None] if array.shape == spec.shape[1:] else array
        if array.ndim != len(spec.shape) or array.shape[1:] != spec.shape[1:] or array.shape[0] == 0:
            raise _misfit(array, spec, place)
        return _finite(array, spec, place)

    def _exact(self, array: np.ndarray, spec: TensorSpec, place: Place) -> np.ndarray:
        if array.shape != spec.shape:
            raise _misfit(array, spec, place)
        return _finite(array, spec, place)

    @staticmethod
    def _join(samples: list[tuple[Batch, np.ndarray | None]]) -> tuple[Batch, np.ndarray | None]:
        batch = {name: np.stack([arrays[name] for arrays, _ in samples]) for name in samples[0][0]}
        labels = [label for _, label in samples if label is not None]
        return batch, np.stack(labels) if len(labels) == len(samples) else None


def open_data(
    source: Any,
    inputs: tuple[TensorSpec, ...],
    *,
    limit: int,
    mean: Any = None,
    std: Any = None,
    scale: float | None = None,
    labels: bool = False,
    seed: int = 0,
    noise: tuple[float, float] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Batches:
    """`source` as batches for `inputs`, at most `limit` samples.

    Args:
        source: see the module's docstring; None gives made-up inputs (`seed`), which `origin` ("noise") and `notes` say.
        noise: least and largest value of these; without it they have mean 0 and deviation 1.
        mean: the first input becomes (x * scale - mean) / std; one number, or one a channel.
        std: as `mean`.
        scale: one number.
        preprocessing: these three and how pictures are read, as one value, instead of them.
        labels: keep an integer second item (or an array called `labels`) as the label; otherwise it is ignored.
    Raises:
        DataError: the source is missing, empty, of no known kind, or pickled; while iterating: wrong shape or dtype, NaN, infinity.
    """
    if limit < 1:
        raise DataError(f"a limit of {limit} samples leaves none", where="data")
    if isinstance(source, Batches):
        return replace(source, limit=min(limit, source.limit))
    form = preprocessing if preprocessing is not None else Preprocessing(_numbers(mean), _numbers(std), scale)
    origin, stream = item_stream(source, inputs, Wanted(limit, labels, seed, noise, form))
    if origin == "noise":
        return Batches(inputs, origin, limit, stream, _unchanged, (NOISE_NOTE,), known=limit)
    return Batches(inputs, origin, limit, stream, _normalizer(inputs[0], form), (), form, known=known_samples(source, origin, inputs, limit))


def skipping(batches: Batches, count: int, limit: int) -> Batches:
    """At most `limit` of the samples behind the first `count`; of the last ones where there are too few, which may be among those."""
    total = sum(next(iter(batch.values())).shape[0] if batches.batch_size else 1 for batch in batches)
    return replace(batches, start=batches.start + max(min(count, total - limit), 0), limit=min(limit, batches.limit))


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one source: what is calibrated on, and what results are judged on."""

    calibrated: Batches
    """Without labels, which ranges do not depend on"""
    held_out: Batches | None
    """None where there are too few samples to hold any out"""


def split(batches: Batches, samples: int, most: int) -> Split:
    """At most `samples` of `batches` to calibrate on and at most `most` others, held out of it. Made-up inputs are not split."""
    need = max(FEWEST, HELD_OUT_EVERY * (batches.batch_size or 1))
    unlabelled = replace(batches, stream=lambda: (replace(item, labels=None) for item in batches.stream()))
    if batches.origin == "noise" or not _has(batches, need):
        return Split(replace(unlabelled, limit=min(samples, batches.limit)), None)
    held_out = replace(batches, part=Part.HELD_OUT, limit=min(most, batches.limit // HELD_OUT_EVERY))
    most = min(samples, batches.limit - batches.limit // HELD_OUT_EVERY)
    return Split(replace(unlabelled, part=Part.CALIBRATED, limit=most), held_out)


def _has(batches: Batches, count: int) -> bool:
    """Whether there are so many samples."""
    size = batches.batch_size or 1
    return sum(size for _ in islice(batches, -(-count // size))) >= count


def beside(samples: int) -> int:
    """Samples to open so that `samples` are left to calibrate on when the others are held out."""
    return samples + samples // (HELD_OUT_EVERY - 1)


def labelled_by(batches: Batches, labels: np.ndarray) -> Batches:
    """`batches` with `labels` [samples, ...], in the order of the source."""

    def stream() -> Iterator[Item]:
        seen = 0
        for item in batches.stream():
            arrays = {spec.name: item.arrays[spec.name] for spec in batches.inputs}
            count = 1 if batches.batch_size is None else _samples_in(arrays, batches.inputs[0])
            yield replace(item, labels=labels[seen : seen + count])
            seen += count

    return replace(batches, stream=stream)


def _samples_in(arrays: Batch, spec: TensorSpec) -> int:
    array = arrays[spec.name]
    return 1 if array.shape == spec.shape[1:] else len(array)


def _numbers(value: Any) -> tuple[float, ...] | None:
    return None if value is None else tuple(np.atleast_1d(np.asarray(value, np.float64)).tolist())


def _unchanged(array: np.ndarray) -> np.ndarray:
    return array


def _normalizer(spec: TensorSpec, form: Preprocessing) -> Callable[[np.ndarray], np.ndarray]:
    if form.is_identity:
        return _unchanged
    offset, spread = (_along_channels(value, spec, name, neutral) for value, name, neutral in ((form.mean, "mean", 0.0), (form.std, "std", 1.0)))
    if np.any(spread == 0):
        raise UsageError("a deviation of 0 cannot be divided by", where="--std", hint="give one above 0 for every channel")
    factor = np.float32(1.0 if form.scale is None else form.scale)
    return lambda array: ((array * factor - offset) / spread).astype(np.float32)


def _along_channels(value: Any, spec: TensorSpec, name: str, neutral: float) -> np.ndarray:
    array = np.atleast_1d(np.asarray(neutral if value is None else value, np.float32))
    if array.size == 1:
        return array.reshape(())
    axis = next((axis for axis in (1, len(spec.shape) - 1) if 0 <= axis < len(spec.shape) and spec.shape[axis] == array.size), None)
    if axis is None:
        what = f"{array.size} values for an input of the shape {list(spec.shape)}"
        raise UsageError(what, where=f"--{name}", hint="give one for all channels, or one for each")
    return array.reshape([array.size if index == axis else 1 for index in range(1, len(spec.shape))])


def _typed(array: np.ndarray, spec: TensorSpec, place: Place) -> np.ndarray:
    return _typed_as_is(array, spec, place).astype(spec.dtype)


def _typed_as_is(array: np.ndarray, spec: TensorSpec, place: Place) -> np.ndarray:
    if array.dtype.kind not in _TO_NUMBER_KINDS.get(np.dtype(spec.dtype).kind, ""):
        raise DataError(f"expected {spec.dtype}, found {array.dtype}", where=f"{spec.name}, {place}")
    return array


def _misfit(array: np.ndarray, spec: TensorSpec, place: Place) -> DataError:
    where = f"{spec.name}, {place}"
    return DataError(f"expected the shape {list(spec.shape)}, found {list(array.shape)}", where=where, hint="any first dimension is cut into batches")


def _finite(array: np.ndarray, spec: TensorSpec, place: Place) -> np.ndarray:
    if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
        row = int(np.argwhere(~np.isfinite(array))[0][0]) if array.ndim else 0
        fault = "NaN" if np.any(np.isnan(array)) else "an infinite value"
        raise DataError(f"{fault} in the data", where=f"{spec.name}, {place.row(row)}")
    return array


def _digest_of(batches: Batches) -> str:
    """SHA-256 of all samples, hexadecimal; one batch is in memory at a time."""
    return digest([digest(item) for item in batches.labelled()])


def notes_on_scale(batches: Batches) -> tuple[str, ...]:
    """A warning where samples are far larger after normalisation than any network expects: mean and std for pixels of 0..1, pixels of 0..255."""
    if batches.prepare is _unchanged:
        return ()
    largest = float(np.abs(next(iter(batches))[batches.inputs[0].name]).max(initial=0))
    if largest <= FAR:
        return ()
    return (f"normalised samples reach {largest:.0f}: are --mean and --std for pixels of 0..1 and the pixels 0..255? Then multiply both by 255",)


def check_bytes(batches: Batches) -> None:
    """Raises DataError where the first input's values are no bytes: whole numbers from 0 to 255."""
    name = batches.inputs[0].name
    for batch in islice(batches, BYTES_LOOKED_AT):
        if not np.array_equal(batch[name], np.clip(np.rint(batch[name]), *PIXEL_RANGE)):
            why = f"values from {batch[name].min():.4g} to {batch[name].max():.4g}"
            raise DataError("not whole numbers from 0 to 255", where=name, why=why, hint="leave --fold-preprocessing out")


def check_labels(labels: np.ndarray, batches: Batches, *, classes: bool = True) -> None:
    """Raises DataError for labels that are not one a sample of `batches`: with `classes`, one whole number."""
    if labels.ndim == 0 or (classes and (labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels.size and labels.min() < 0))):
        raise DataError(f"expected class indices of shape [n], found {labels.dtype} {list(labels.shape)}", where="labels")
    samples = sum(len(next(iter(batch.values()))) for batch in batches)
    if batches.origin == "noise":
        raise DataError("labels need the data that they belong to", where="labels", hint="add --data")
    if len(labels) < samples or (batches.origin == "images" and len(labels) != samples):
        raise DataError(f"{len(labels)} labels for {samples} samples", where="labels", hint="one for each sample, in the order of the data")
