"""Every kind of data source, re-iteration, re-cutting into batches, and data that cannot be used."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mpqc.data.batches import Batches, notes_on_scale, open_data
from mpqc.errors import DataError, UsageError
from mpqc.values.network import TensorSpec

X = TensorSpec("x", (2, 3, 4, 4), "float32")
ONE = TensorSpec("x", (1, 3, 4, 4), "float32")
RNG = np.random.default_rng(0)
FIVE = RNG.standard_normal((5, 3, 4, 4)).astype(np.float32)


class Reader:
    """What ONNX Runtime calls a CalibrationDataReader."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self.rewind()

    def rewind(self) -> None:
        self.left = iter(self.rows)

    def get_next(self) -> dict[str, np.ndarray] | None:
        row = next(self.left, None)
        return None if row is None else {"x": row[None]}


class OnceReader(Reader):
    rewind = property()  # type: ignore[assignment]

    def __init__(self, rows: np.ndarray) -> None:
        self.left = iter(rows)


class Pairs(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(FIVE[index]), index * 10


def rows(batches: Batches) -> np.ndarray:
    return np.concatenate([batch["x"] for batch in batches])


def saved(folder: Path, name: str, **arrays: np.ndarray) -> Path:
    path = folder / name
    np.savez(path, **arrays)
    return path


def generator() -> Iterator[np.ndarray]:
    yield from FIVE


SOURCES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "one array": ("arrays", lambda _: FIVE),
    "torch tensor": ("arrays", lambda _: torch.from_numpy(FIVE)),
    "dict of arrays": ("arrays", lambda _: {"x": FIVE}),
    "tuple with labels": ("arrays", lambda _: (FIVE, np.arange(5))),
    "list of samples": ("iterable", lambda _: list(FIVE)),
    "list of batches": ("iterable", lambda _: [FIVE[:3], FIVE[3:]]),
    "list of tuples": ("iterable", lambda _: [(row, 1) for row in FIVE]),
    "list of dicts": ("iterable", lambda _: [{"x": row} for row in FIVE]),
    "generator": ("iterable", lambda _: generator()),
    "callable": ("callable", lambda _: generator),
    "data loader": ("loader", lambda _: torch.utils.data.DataLoader(Pairs(), batch_size=3)),
    "reader": ("reader", lambda _: Reader(FIVE)),
    "reader without rewind": ("reader", lambda _: OnceReader(FIVE)),
    "npz": ("npz", lambda folder: saved(folder, "d.npz", x=FIVE)),
    "npz, other name": ("npz", lambda folder: saved(folder, "d.npz", pictures=FIVE, labels=np.arange(5))),
    "npy": ("npy", lambda folder: np.save(folder / "d.npy", FIVE) or folder / "d.npy"),
    "float64": ("arrays", lambda _: FIVE.astype(np.float64)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_gives_the_samples_again_and_again(kind: str, tmp_path: Path) -> None:
    origin, make = SOURCES[kind]
    batches = open_data(make(tmp_path), (X,), limit=100)
    assert batches.origin == origin
    for _ in range(3):
        first = list(batches)
        assert [batch["x"].shape for batch in first] == [(2, 3, 4, 4)] * 2  # the fifth sample fills no batch
        assert all(batch["x"].dtype == np.float32 for batch in first)
        assert np.array_equal(np.concatenate([batch["x"] for batch in first]), FIVE[:4])


@pytest.mark.parametrize("kind", SOURCES)
def test_limit(kind: str, tmp_path: Path) -> None:
    assert len(rows(open_data(SOURCES[kind][1](tmp_path), (ONE,), limit=3))) == 3


def test_a_limited_generator_is_read_no_further() -> None:
    taken: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            taken.append(1)
            yield FIVE[0]

    batches = open_data(endless(), (ONE,), limit=3)
    assert len(list(batches)) == len(list(batches)) == 3
    assert len(taken) <= 4


def test_fewer_samples_than_a_batch_are_repeated() -> None:
    wide = TensorSpec("x", (8, 3, 4, 4), "float32")
    (batch,) = open_data(FIVE, (wide,), limit=100)
    assert np.array_equal(batch["x"], FIVE[[0, 1, 2, 3, 4, 0, 1, 2]])


def test_labels_only_when_asked_for(tmp_path: Path) -> None:
    loader = torch.utils.data.DataLoader(Pairs(), batch_size=5)
    kept = [labels for _, labels in open_data(loader, (ONE,), limit=5, labels=True).labelled()]
    assert [int(label[0]) for label in kept if label is not None] == [0, 10, 20, 30, 40]
    assert all(labels is None for _, labels in open_data(loader, (ONE,), limit=5).labelled())
    path = saved(tmp_path, "d.npz", x=FIVE, labels=np.arange(5))
    assert [int(label[0]) for _, label in open_data(path, (ONE,), limit=5, labels=True).labelled() if label is not None] == [0, 1, 2, 3, 4]


def test_a_float_second_item_is_no_label() -> None:
    batches = open_data([(row, 0.5) for row in FIVE], (ONE,), limit=5, labels=True)
    assert all(labels is None for _, labels in batches.labelled())


def test_two_inputs_from_tuples_and_dicts() -> None:
    inputs = (ONE, TensorSpec("n", (1, 2), "int64"))
    numbers = np.arange(10).reshape(5, 2)
    for source in ([(a, b) for a, b in zip(FIVE, numbers, strict=True)], {"x": FIVE, "n": numbers}):
        found = list(open_data(source, inputs, limit=9))
        assert [batch["n"].tolist() for batch in found] == [[row.tolist()] for row in numbers]
        assert found[0]["n"].dtype == np.int64


def test_states_without_a_batch_keep_their_shape() -> None:
    inputs = (TensorSpec("x", (1, 4), "float32"), TensorSpec("state", (2, 1, 8), "float32"))
    items = [{"x": np.ones((1, 4), np.float32), "state": np.zeros((2, 1, 8), np.float32)}] * 3
    assert [batch["state"].shape for batch in open_data(items, inputs, limit=2)] == [(2, 1, 8)] * 2


def test_noise_in_the_range_of_the_inputs() -> None:
    values = np.stack([batch["x"] for batch in open_data(None, (X,), limit=8, seed=3, noise=(0.0, 255.0))])
    assert values.dtype == np.float32
    assert 0 <= values.min() < 5
    assert 250 < values.max() <= 255


def test_made_up_pictures_have_areas_and_edges_and_the_range_of_the_inputs() -> None:
    """Neighbours are alike, as in a picture and not in noise; the same seed gives the same ones."""
    spec = TensorSpec("x", (1, 3, 48, 64), "float32")
    first, again = (np.concatenate([batch["x"] for batch in open_data(None, (spec,), limit=4, seed=5, noise=(0.0, 255.0))]) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.min() >= 0
    assert first.max() <= 255
    assert first.std() > 40
    alike = np.mean(first[..., 1:] == first[..., :-1])
    assert 0.5 < alike < 0.99
    free = np.concatenate([batch["x"] for batch in open_data(None, (spec,), limit=4, seed=5)])
    assert abs(free.mean()) < 1e-3
    assert free.std() == pytest.approx(1, abs=1e-3)


def test_no_data_is_noise_and_says_so() -> None:
    batches = open_data(None, (X, TensorSpec("n", (2,), "int64")), limit=4, seed=3, mean=100.0)
    assert batches.origin == "noise"
    assert "no data was given" in batches.notes[0]
    again = open_data(None, (X, TensorSpec("n", (2,), "int64")), limit=4, seed=3)
    for a, b in zip(batches, again, strict=True):
        assert np.array_equal(a["x"], b["x"])
        assert abs(a["x"].mean()) < 1
        assert not a["n"].any()


def test_mean_std_and_scale() -> None:
    pixels = RNG.integers(0, 256, (2, 3, 4, 4), np.uint8)
    mean, std = [0.5, 0.25, 0.0], [0.5, 1.0, 2.0]
    (batch,) = open_data(pixels, (X,), limit=2, mean=mean, std=std, scale=1 / 255)
    expected = (pixels / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert np.allclose(batch["x"], expected, atol=1e-6)
    (batch,) = open_data(pixels, (X,), limit=2, mean=128, std=128)
    assert np.array_equal(batch["x"], ((pixels.astype(np.float32) - 128) / 128))


def test_mean_for_channels_last() -> None:
    spec = TensorSpec("x", (1, 4, 4, 3), "float32")
    (batch,) = open_data(np.zeros((1, 4, 4, 3), np.float32), (spec,), limit=1, mean=[1, 2, 3])
    assert batch["x"][0, 0, 0].tolist() == [-1, -2, -3]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
@pytest.mark.parametrize(("shape", "first"), [((1, 3, 6, 8), True), ((1, 6, 8, 3), False), ((1, 1, 6, 8), True)])
def test_folder_of_images(tmp_path: Path, suffix: str, shape: tuple[int, ...], first: bool) -> None:
    for index, size in enumerate([(16, 12), (20, 12), (4, 9)]):
        folder = tmp_path / f"class{index}"
        folder.mkdir()
        Image.new("RGB", size, (200, 100, 50)).save(folder / f"{index}.{suffix}")
    (tmp_path / "notes.txt").write_text("not an image")
    batches = open_data(tmp_path, (TensorSpec("x", shape, "float32"),), limit=10)
    found = list(batches)
    assert batches.origin == "images"
    assert [batch["x"].shape for batch in found] == [shape] * 3
    pixel = found[0]["x"][0, :, 0, 0] if first else found[0]["x"][0, 0, 0]
    expected = [200, 100, 50] if shape[1] == 3 or not first else [0.299 * 200 + 0.587 * 100 + 0.114 * 50]
    assert np.allclose(pixel, expected, atol=4)


def test_folder_limit_spreads_over_the_folder(tmp_path: Path) -> None:
    for index in range(10):
        np.save(tmp_path / f"{index}.npy", np.full((3, 4, 4), index, np.float32))
    assert rows(open_data(tmp_path, (ONE,), limit=4))[:, 0, 0, 0].tolist() == [0, 3, 6, 9]


class Danger:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was executed",))


def test_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d.npy").write_bytes(pickle.dumps(Danger()))
    np.save(tmp_path / "e.npy", np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "f.npz", x=np.asarray([None], dtype=object))
    for name in ("d.npy", "e.npy", "f.npz"):
        with pytest.raises(DataError, match="pickled objects, which are never loaded"):
            list(open_data(tmp_path / name, (ONE,), limit=1))


def bad(value: float) -> np.ndarray:
    array = FIVE.copy()
    array[3, 1, 2, 2] = value
    return array


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 3, 5, 4), np.float32), r"x, sample 0: expected the shape \[1, 3, 4, 4\], found \[2, 3, 5, 4\]"),
        (np.zeros((0, 3, 4, 4), np.float32), r"found \[0, 3, 4, 4\]"),
        (np.zeros((1, 3, 4, 4), np.complex64), "x, sample 0: expected float32, found complex64"),
        ([["a", "b"]], "expected float32, found"),
        (bad(np.nan), "x, sample 3: NaN in the data"),
        (list(bad(np.inf)), "x, sample 3: an infinite value in the data"),
        ([], "there is no sample"),
        ([{"z": FIVE[0], "w": FIVE[0]}], "x, sample 0: the data has no array for this input: it has z, w"),
        (list, "there is no sample"),
    ],
)
def test_data_that_does_not_fit_names_input_and_sample(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(open_data(source, (ONE,), limit=10))


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere.npz", "nowhere.npz: no such file"), (3, "int is no kind of data"), ("d.pt", "no kind of data file"), (".", "no image or .npy file")],
)
def test_sources_that_cannot_be_opened(source: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "d.pt").write_bytes(b"")
    with pytest.raises(DataError, match=message):
        open_data("sub" if source == "." else source, (ONE,), limit=1)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for name in ("d.npz", "d.npy"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 not really")
        with pytest.raises(DataError, match=name):
            list(open_data(tmp_path / name, (ONE,), limit=1))
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"broken\.png: cannot read the image"):
        list(open_data(folder, (ONE,), limit=1))


def test_a_file_of_a_folder_that_does_not_fit_is_named(tmp_path: Path) -> None:
    wrong = {"narrow.npy": FIVE[0, :2], "odd.npy": np.full((3, 4, 4), np.nan, np.float32), "words.npy": np.full((3, 4, 4), "a")}
    for name, array in wrong.items():
        np.save(tmp_path / name, array)
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            list(open_data(tmp_path, (ONE,), limit=9))
        (tmp_path / name).unlink()


def test_options_that_cannot_be_meant() -> None:
    with pytest.raises(DataError, match="limit of 0"):
        open_data(FIVE, (ONE,), limit=0)
    with pytest.raises(UsageError, match="--std: divides by 0"):
        open_data(FIVE, (ONE,), limit=1, std=0)
    with pytest.raises(UsageError, match="--mean: 2 values for an input of the shape"):
        open_data(FIVE, (ONE,), limit=1, mean=[1, 2])


def test_batches_pass_through_with_the_smaller_limit() -> None:
    batches = open_data(FIVE, (ONE,), limit=4)
    assert len(rows(open_data(batches, (ONE,), limit=2))) == 2
    assert len(rows(open_data(batches, (ONE,), limit=9))) == 4


@pytest.mark.parametrize(("largest", "mean", "std", "warned"), [(255, 0.5, 0.25, True), (255, 127.5, 64.0, False), (1, 0.5, 0.25, False)])
def test_a_scale_for_other_pixels_is_warned_of(largest: float, mean: float, std: float, warned: bool) -> None:
    pixels = np.linspace(0, largest, 5 * 48, dtype=np.float32).reshape(5, 3, 4, 4)
    notes = notes_on_scale(open_data(pixels, (X,), limit=5, mean=mean, std=std))
    assert bool(notes) is warned
    assert all("multiply both by 255" in note for note in notes)


def test_data_without_normalisation_may_be_of_any_size() -> None:
    assert notes_on_scale(open_data(FIVE * 1000, (X,), limit=5)) == ()


def headed(path: Path, header: str, *, version: int = 1, data: bytes = bytes(4 * 48)) -> Path:
    """A .npy file with this header."""
    text = header.encode("latin-1") + b"\n"
    path.write_bytes(b"\x93NUMPY" + bytes((version, 0)) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + data)
    return path


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("order", [False, True])
def test_every_version_and_order_of_npy_is_read(tmp_path: Path, version: int, order: bool) -> None:
    data = FIVE[:1].tobytes("F" if order else "C")
    path = headed(tmp_path / "x.npy", str({"descr": "<f4", "fortran_order": order, "shape": (1, 3, 4, 4)}), version=version, data=data)
    assert np.array_equal(next(iter(open_data(path, (ONE,), limit=1)))["x"], FIVE[:1])


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}", "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3, 4, 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808, 2)}", "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 3)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1, 3, 4, 4)}", "{'descr': '<f99', 'fortran_order': False, 'shape': (1, 3, 4, 4)}",
        "{'descr': '<f4', 'fortran_order': 1, 'shape': (1, 3, 4, 4)}", "{'descr': '<f4', 'shape': (1, 3, 4, 4)}", "{'descr': '<f4'", "(" * 400,
        "[" * 9000,
        "", "{}", "__import__('os').abort()", "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 4, 4)}", "x" * 20000,
    ],
)  # fmt: skip
def test_odd_npy_headers_are_refused_in_one_line(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError, match=r"x\.npy") as refused:
        list(open_data(headed(tmp_path / "x.npy", header, version=1 if len(header) < 65000 else 2), (ONE,), limit=1))
    assert len(str(refused.value)) < 1500


@pytest.mark.parametrize("size", [0, 1, 6, 7, 8, 9, 10, 40, 127, 128, 300])
def test_npy_files_cut_short_are_refused(tmp_path: Path, size: int) -> None:
    np.save(tmp_path / "x.npy", FIVE[:1])
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:size])
    with pytest.raises(DataError, match=r"x\.npy"):
        list(open_data(tmp_path / "x.npy", (ONE,), limit=1))
