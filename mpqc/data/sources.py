"""The kinds of data sources, each turned into a function that starts a fresh stream of items."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpqc.data.pictures import SUFFIXES, is_picture, read_image
from mpqc.data.synthetic import picture, takes_pictures
from mpqc.errors import DataError
from mpqc.values.network import TensorSpec
from mpqc.values.preprocessing import UNTOUCHED, Preprocessing

LABELS = "labels"
"""Name of the array of labels in a .npz file or a dict."""

LEAST_CLASSES = 2


@dataclass(frozen=True)
class Place:
    """Where a sample is, for messages."""

    file: str
    """That it was read from, where it is one of several; else empty"""
    index: int

    def __str__(self) -> str:
        return self.file or f"sample {self.index}"

    def row(self, count: int) -> Place:
        """So many samples further."""
        return Place(self.file, self.index + count)


@dataclass(frozen=True, eq=False)
class Item:
    """What a source gives at once: one sample or several, by input name; not checked yet."""

    arrays: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    """[samples, ...], int64 where they are classes"""
    file: str = ""
    """That it was read from, where it is one of several"""

    def place(self, index: int) -> Place:
        """Where it is. index: of its first sample."""
        return Place(self.file, index)


Stream = Callable[[], Iterator[Item]]
Noise = tuple[float, float]
"""Least and largest value of uniform noise"""


@dataclass(frozen=True)
class Wanted:
    """What is taken of a source."""

    limit: int
    """At most so many samples"""
    labels: bool = False
    """Whether an integer item behind the inputs is the label"""
    seed: int = 0
    noise: Noise | None = None
    form: Preprocessing = UNTOUCHED
    """How pictures are read"""


def item_stream(source: Any, inputs: tuple[TensorSpec, ...], wanted: Wanted) -> tuple[str, Stream]:
    """The origin of `source` (see Batches.origin) and a function that starts a stream of its items. Raises DataError."""
    limit, labels = wanted.limit, wanted.labels
    if source is None:
        return "noise", lambda: _noise(inputs, limit, wanted.seed, wanted.noise)
    if isinstance(source, (str, Path)):
        return _path(Path(source), inputs, wanted)
    if isinstance(source, np.ndarray) or hasattr(source, "detach"):
        return "arrays", lambda: iter([_item(source, inputs, labels)])
    if isinstance(source, (Mapping, tuple)):  # one item; a list is an iterable of items
        return "arrays", lambda: iter([_item(source, inputs, labels)])
    if hasattr(source, "get_next"):
        return "reader", _items(_reader(source, limit), inputs, labels)
    if callable(source) and not isinstance(source, Iterable):
        return "callable", _items(lambda: iter(source()), inputs, labels)
    if isinstance(source, Iterable):
        origin = "loader" if hasattr(source, "dataset") else "iterable"
        return origin, _items(_replayed(source, limit), inputs, labels)
    raise DataError(f"{type(source).__name__} is no kind of data", where="data", hint="give a path, an iterable, a DataLoader or a data reader")


def rereadable(source: Any) -> Any:
    """`source`, or, where it can be read only once (a generator, a data reader without rewind), a list of all that it gives."""
    if hasattr(source, "get_next") and not hasattr(source, "rewind"):
        return list(iter(source.get_next, None))
    return list(source) if isinstance(source, Iterator) else source


def _items(start: Callable[[], Iterator[Any]], inputs: tuple[TensorSpec, ...], labels: bool) -> Stream:
    return lambda: (_item(raw, inputs, labels) for raw in start())


def _replayed(source: Iterable[Any], limit: int) -> Callable[[], Iterator[Any]]:
    """A generator can be read once: keep what it gave. Anything else starts afresh by itself."""
    if not isinstance(source, Iterator):
        return lambda: iter(source)
    return _cache(source, limit)


def _cache(source: Iterator[Any], limit: int) -> Callable[[], Iterator[Any]]:
    kept: list[Any] = []

    def start() -> Iterator[Any]:
        yield from kept
        for raw in source:
            if len(kept) >= limit:  # an item holds at least one sample
                return
            kept.append(raw)
            yield raw

    return start


def _reader(reader: Any, limit: int) -> Callable[[], Iterator[Any]]:
    if not hasattr(reader, "rewind"):
        return _cache(iter(reader.get_next, None), limit)

    def start() -> Iterator[Any]:
        reader.rewind()
        return iter(reader.get_next, None)

    return start


def _item(raw: Any, inputs: tuple[TensorSpec, ...], labels: bool) -> Item:
    if isinstance(raw, Mapping):
        found = {str(name): _array(value) for name, value in raw.items()}
        arrays = _named(found, inputs)
        return Item(arrays, _labels(found.get(LABELS)) if labels else None)
    parts = list(raw) if isinstance(raw, (tuple, list)) else [raw]
    if len(parts) < len(inputs):
        raise DataError(f"{len(parts)} arrays for {len(inputs)} inputs", where="data", hint=f"expected {', '.join(spec.name for spec in inputs)}")
    arrays = {spec.name: _array(part) for spec, part in zip(inputs, parts, strict=False)}
    rest = parts[len(inputs) :]
    return Item(arrays, _labels(_array(rest[0])) if labels and rest else None)


def _named(found: dict[str, np.ndarray], inputs: tuple[TensorSpec, ...]) -> dict[str, np.ndarray]:
    """Arrays by input name; the only array of data for a network with one input needs no matching name."""
    data = [name for name in found if name != LABELS]
    if len(inputs) == len(data) == 1:
        return {inputs[0].name: found[data[0]]}
    return found


def _labels(array: np.ndarray | None) -> np.ndarray | None:
    return np.atleast_1d(array).astype(np.int64) if array is not None and array.dtype.kind in "iu" and array.ndim <= 1 else None


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor, without importing torch
        value = value.detach().cpu().numpy()
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError("an item is no array", where="data", why=str(error)) from error


def _noise(inputs: tuple[TensorSpec, ...], limit: int, seed: int, noise: Noise | None) -> Iterator[Item]:
    generator = np.random.default_rng(seed)
    for _ in range(limit):
        yield Item({spec.name: _noise_array(spec, generator, noise) for spec in inputs})


def _noise_array(spec: TensorSpec, generator: np.random.Generator, noise: Noise | None) -> np.ndarray:
    if takes_pictures(spec.shape) and np.dtype(spec.dtype).kind == "f":
        return np.stack([picture(spec.shape, generator, noise) for _ in range(spec.shape[0])]).astype(spec.dtype)
    if np.dtype(spec.dtype).kind == "f":
        values = generator.standard_normal(spec.shape) if noise is None else generator.uniform(*noise, spec.shape)
        return values.astype(spec.dtype)
    return np.zeros(spec.shape, spec.dtype)  # indices and sizes: 0 is the one value that is always legal


def _path(path: Path, inputs: tuple[TensorSpec, ...], wanted: Wanted) -> tuple[str, Stream]:
    if not path.exists():
        raise DataError("no such file or folder", where=str(path))
    if path.is_dir() or is_picture(path):
        return _folder(path, inputs, wanted)
    if path.suffix == ".npz":
        return "npz", lambda: iter([_item(load_arrays(path), inputs, wanted.labels)])
    if path.suffix == ".npy":
        return "npy", lambda: iter([_item(_load_npy(path), inputs, wanted.labels)])
    raise DataError(f"{path.suffix or 'no suffix'} is no kind of data file", where=str(path), hint="give .npz, .npy, a picture or a folder of images")


def _load_npy(path: Path) -> np.ndarray:
    loaded = load_arrays(path)
    if isinstance(loaded, dict):
        raise DataError("a .npy file that is really a .npz file", where=str(path), hint="rename it")
    return loaded


def load_arrays(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a .npy file or the arrays by name of a .npz file. Nothing is unpickled. Raises DataError."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's advice on headers of other versions is not for the user of mpqc
            loaded = np.load(file, allow_pickle=False)
            return {name: loaded[name] for name in loaded.files} if hasattr(loaded, "files") else np.asarray(loaded)
    except Exception as error:  # numpy reads headers with Python's tokenizer and parser and sizes arrays before it checks them: any of their errors
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    if "max_header_size" in str(error):
        return DataError("cannot read the file", where=str(path), why="its header is too long for an array's")
    if "pickle" in str(error):
        return DataError("pickled objects, which are never loaded, or no numpy file", where=str(path), hint="save plain arrays with numpy.save")
    return DataError("cannot read the file", where=str(path), why=str(error) or type(error).__name__)


def _folder(path: Path, inputs: tuple[TensorSpec, ...], wanted: Wanted) -> tuple[str, Stream]:
    if len(inputs) != 1:
        raise DataError(
            f"a folder holds one input and the network has {len(inputs)}", where=str(path), hint="give a .npz file or an iterable of dicts"
        )
    files = files_in(path)
    if not files:
        raise DataError("no image or .npy file in the folder", where=str(path), hint=f"looked for {', '.join((*SUFFIXES, '.npy'))}")
    chosen = [files[index] for index in spread(len(files), wanted.limit)]
    classes = _classes(path, files) if wanted.labels else {}
    return "images", lambda: (_item_of(file, inputs[0], wanted.form, _class_of(file, path, classes)) for file in chosen)


def _item_of(file: Path, spec: TensorSpec, form: Preprocessing, label: np.ndarray | None) -> Item:
    return Item({spec.name: _file(file, spec, form)}, label, str(file))


def spread(count: int, limit: int) -> list[int]:
    """Which of `count` files are taken: at most `limit`, over the whole folder, as sorted names often begin with one class."""
    return [round(index) for index in np.linspace(0, count - 1, min(limit, count))]


def known_samples(source: Any, origin: str, inputs: tuple[TensorSpec, ...], limit: int) -> int | None:
    """How many samples `source` has, at most `limit`, where looking is cheap: files of a folder, the rows of one array. Else None."""
    if origin == "images":
        return min(len(files_in(Path(source))), limit)
    array = load_arrays(Path(source)) if origin == "npy" else source
    if not isinstance(array, np.ndarray):
        return None
    return 1 if array.shape == inputs[0].shape[1:] else min(len(array), limit) if array.ndim else None


def labels_taken(labels: np.ndarray, source: Any, limit: int) -> np.ndarray:
    """Those of `labels` that belong to the samples taken: of a folder, where there is one label a file, the labels of the files that are."""
    if not isinstance(source, (str, Path)) or not Path(source).is_dir():
        return labels
    files = len(files_in(Path(source)))
    return labels[spread(files, limit)] if len(labels) == files else labels


def class_names(source: Any) -> tuple[str, ...]:
    """The folders in the folder `source` whose names are its classes, in their order; none where there are no two, or where they are numbers."""
    if not isinstance(source, (str, Path)) or not Path(source).is_dir():
        return ()
    names = tuple(_classes(Path(source), files_in(Path(source))))
    return () if _are_numbers(names) else names


def _classes(root: Path, files: list[Path]) -> dict[str, int]:
    """Name of each folder in `root` -> its class: the number that is its name, else its place among the names, as torchvision counts.

    Empty where a file lies in none, or all lie in one.
    """
    parts = [file.relative_to(root).parts for file in files] if root.is_dir() else []
    names = sorted({part[0] for part in parts})
    if len(names) < LEAST_CLASSES or any(len(part) == 1 for part in parts):
        return {}
    return {name: int(name) for name in names} if _are_numbers(names) else {name: index for index, name in enumerate(names)}


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.isascii() and name.isdigit() for name in names)


def _class_of(file: Path, root: Path, classes: Mapping[str, int]) -> np.ndarray | None:
    return np.asarray([classes[file.relative_to(root).parts[0]]], np.int64) if classes else None


def files_in(path: Path) -> list[Path]:
    """Pictures and .npy files of a folder and the folders in it, by name; a picture itself."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if is_picture(file) or file.suffix.lower() == ".npy")


def holds_pictures(source: Any) -> bool:
    """Whether `source` is a picture, or a folder with one."""
    return isinstance(source, (str, Path)) and Path(source).exists() and any(map(is_picture, files_in(Path(source))))


def _file(path: Path, spec: TensorSpec, form: Preprocessing) -> np.ndarray:
    return _load_npy(path) if path.suffix.lower() == ".npy" else read_image(path, spec, form)
