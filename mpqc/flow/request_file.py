"""What a folder was asked for: enough to build its plan again without the network or the data being given again. It lies in the folder's .mpqc.

The network is a path and its SHA-256, or a copy where it came from memory; so is the data, where it is small enough to be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpqc.data.batches import Batches
from mpqc.data.sources import Item
from mpqc.errors import PlanError
from mpqc.values.budget import Budget, Resource
from mpqc.values.json_file import Record, read_record
from mpqc.values.network import TensorSpec
from mpqc.values.preprocessing import Preprocessing
from mpqc.values.request import READY, Options
from mpqc.workspace.digest import File
from mpqc.workspace.folder import MARKER, Workspace, to_json

if TYPE_CHECKING:
    import onnx

    from mpqc.flow.analysis import Material
    from mpqc.values.plan import Plan

SCHEMA_VERSION = 1
FILE = f"{MARKER}/request.json"
NETWORK = f"{MARKER}/source.onnx"
SAMPLES = f"{MARKER}/samples.npz"
LABELS = f"{MARKER}/labels.npy"
MOST_BYTES = 256 << 20
"""Of samples from memory that are kept"""
LEFT_OUT = ("plan", "example_inputs", "training", "teacher_cache", "force")
"""Options that belong to one run, or stand elsewhere"""
MADE_UP, GIVEN, KEPT, GONE = "made up", "path", "kept", "gone"
"""Where the data is"""
OWN = "a function of your own"


@dataclass(frozen=True)
class Request(Record):
    """request.json."""

    network: str
    """Path, or empty where NETWORK is the network"""
    network_digest: str
    """SHA-256 of the file at the path"""
    data: str
    """MADE_UP, GIVEN, KEPT, or GONE: in memory, and too much to keep"""
    data_path: str
    data_origin: str
    labelled: bool
    trained: bool
    """Whether weights were learned: they belong to the plan that they were learned for"""
    options: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Asked:
    """What a folder was asked for, read back."""

    source: Path | onnx.ModelProto
    data: Any
    labels: np.ndarray | None
    options: Options


def write_request(workspace: Workspace, material: Material, options: Options, whole: Batches) -> None:
    """Writes request.json and what has to be kept beside it."""
    path = str(Path(material.source).absolute()) if isinstance(material.source, (str, Path)) else ""
    if not path:
        workspace.write_bytes(NETWORK, _network(material, options).SerializeToString())
    if material.labels is not None:
        with workspace.replacing(LABELS) as partial, partial.open("wb") as file:
            np.save(file, material.labels, allow_pickle=False)
    where, data_path = _keep_data(workspace, material.data, whole)
    request = Request(
        network=path,
        network_digest=File(Path(path)).content if path else "",
        data=where,
        data_path=data_path,
        data_origin=whole.origin,
        labelled=material.labels is not None,
        trained=options.training is not None,
        options={item.name: _plain(getattr(options, item.name)) for item in fields(options) if item.name not in LEFT_OUT},
    )
    text = to_json({"schema_version": SCHEMA_VERSION, **vars(request)})
    if not workspace.path(FILE).is_file() or workspace.path(FILE).read_text(encoding="utf-8") != text:
        workspace.write_text(FILE, text)


def _network(material: Material, options: Options) -> onnx.ModelProto:
    from mpqc.frontend.network import read_source

    return read_source(material.source, options.example_inputs)[1]


def _keep_data(workspace: Workspace, data: Any, whole: Batches) -> tuple[str, str]:
    if data is None:
        return MADE_UP, ""
    if isinstance(data, (str, Path)):
        return GIVEN, str(Path(data).absolute())
    rows = list(whole.labelled())
    if sum(array.nbytes for batch, _ in rows for array in batch.values()) > MOST_BYTES:
        return GONE, ""
    arrays = {f"{index}/{name}": array for index, (batch, _) in enumerate(rows) for name, array in batch.items()}
    arrays |= {f"{index}": label for index, (_, label) in enumerate(rows) if label is not None}
    with workspace.replacing(SAMPLES) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return KEPT, ""


def _plain(value: Any) -> Any:
    """An option as JSON has it. A function of the user's own is not kept: no file makes mpqc run code."""
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Budget):
        return [value.resource.value, value.limit]
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return OWN if callable(value) else value


def read_request(workspace: Workspace, *, learned: bool = False) -> Asked:
    """What the folder was asked for. Raises PlanError where that is not known, or where network or data are no longer there.

    learned: whether a folder whose weights were learned will do: the network is the one before that.
    """
    where = str(workspace.root)
    hint = "run mpqc compile or mpqc analyze with this version first"
    request = read_record(Request, workspace.path(FILE), "request of a compile", SCHEMA_VERSION, hint)
    again = "mpqc compile MODEL --data DATA --plan PLAN.json builds it"
    if request.trained and not learned:
        raise PlanError("its weights were learned for the plan before", where=where, hint=f"{again}, with --qat-steps it learns at the new one")
    if request.data == GONE:
        raise PlanError("its data came from memory and was too much to keep", where=where, hint=again)
    options = _options(request.options, where)
    labels = _labels(workspace) if request.labelled else None
    return Asked(_source(workspace, request, again), _data(workspace, request, options.reading.preprocessing), labels, options)


def _source(workspace: Workspace, request: Request, again: str) -> Path | onnx.ModelProto:
    if not request.network:
        import onnx

        return onnx.load(workspace.path(NETWORK))
    path = Path(request.network)
    if not path.is_file():
        raise PlanError("the network is no longer there", where=request.network, hint=again)
    if File(path).content != request.network_digest:
        raise PlanError("the network is another one by now", where=request.network, hint=again)
    return path


def _data(workspace: Workspace, request: Request, form: Preprocessing) -> Any:
    if request.data == GIVEN:
        return Path(request.data_path)
    return _kept(workspace, request.data_origin, form) if request.data == KEPT else None


def _kept(workspace: Workspace, origin: str, form: Preprocessing) -> Batches:
    """The samples as the network takes them, under the origin that they had, so that what was made of them is found again."""
    from mpqc.data.sources import load_arrays

    arrays = load_arrays(workspace.path(SAMPLES))
    assert isinstance(arrays, dict)
    rows: dict[int, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        index, _, name = key.partition("/")
        rows.setdefault(int(index), {})[name] = array
    first = {name: array for name, array in rows[0].items() if name}
    inputs = tuple(TensorSpec(name, array.shape, str(array.dtype)) for name, array in first.items())

    def stream() -> Iterator[Item]:
        for row in rows.values():
            yield Item({name: array for name, array in row.items() if name}, row.get(""))

    return Batches(inputs, origin, len(rows) * (next(iter(first.values())).shape or (1,))[0], stream, lambda array: array, (), form)


def _labels(workspace: Workspace) -> np.ndarray:
    from mpqc.data.sources import load_arrays

    return np.asarray(load_arrays(workspace.path(LABELS)))


def _options(kept: Mapping[str, Any], where: str) -> Options:
    known = {item.name for item in fields(Options)} - set(LEFT_OUT)
    try:
        if set(kept) != known:
            raise KeyError(*sorted(set(kept) ^ known)[:1])
        return Options(**{name: READ.get(name, _sequence)(value) for name, value in kept.items()})
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError("not a request of a compile", where=f"{where}/{FILE}", why=f"{type(error).__name__} {error}") from error


def _sequence(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _metric(value: Any) -> Any:
    """Only a ready one: what a file names is not imported."""
    return value if value in READY else None


READ: dict[str, Callable[[Any], Any]] = {
    "budgets": lambda rows: tuple(Budget(Resource(name), float(limit)) for name, limit in rows),
    "shapes": lambda shapes: {name: tuple(shape) for name, shape in shapes.items()},
    "pricer": lambda path: None if path is None else Path(path),
    "metric": _metric,
}
"""How options that are no plain values are read"""


def is_own_metric(workspace: Workspace) -> bool:
    """Whether the folder was scored by a function of the user's own, which has to be named again."""
    asked = read_record(Request, workspace.path(FILE), "request of a compile", SCHEMA_VERSION).options.get("metric")
    return asked is not None and asked not in READY


def rewritten(options: Options, plan: Plan) -> Options:
    """`options` with the target and the budgets that `plan` was made for."""
    target = options.target if Path(options.target).stem == plan.target else plan.target
    return replace(options, target=target, budgets=tuple(Budget(use.resource, use.limit) for use in plan.uses if use.limit is not None))
