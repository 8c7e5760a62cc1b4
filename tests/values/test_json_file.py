"""Files that mpqc wrote and people edit: read back as they were, and refused in one line, with file, key and fault, wherever they are broken."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mpqc.errors import PlanError
from mpqc.report.file import read_report
from mpqc.report.model import AccumulatorRow, Accuracy, FloatRow, LayerRow, Quality, Report, Sizes
from mpqc.values.budget import Resource
from mpqc.values.history import BitChange, Evaluation, TrainingSummary
from mpqc.values.plan import Choice, Plan, Proof, Use, read_plan
from mpqc.values.sensitivities import Sensitivities, read_sensitivities
from mpqc.values.site import FloatNode, OpNode, PrunedChannels, Site, SiteKind, SiteTable
from mpqc.values.site_file import read_sites, write_sites
from mpqc.values.verdict import Fit, Loss, Verdict

PLAN = Plan(
    "cortex-a76",
    (Choice("w", SiteKind.WEIGHT, 4, "saves 3 us", 0.5), Choice("x", SiteKind.ACTIVATION, None)),
    Proof("optimal", 1.0, 1.0),
    (Use(Resource.SIZE, 12.0, 16.0), Use(Resource.LATENCY, 3.5)),
    "fit",
    ("n",),
    (PrunedChannels("conv", (1, 5)),),
)
TABLE = SiteTable(
    (Site("w", SiteKind.WEIGHT, (8, 4), 0), Site("x", SiteKind.ACTIVATION, (1, 4)), Site("y", SiteKind.ACTIVATION, (1, 8))),
    (OpNode("fc", "Gemm", ("x",), "y", "w", (1, 4), (1, 8), (8, 4), 32),),
    (FloatNode("sm", "Softmax", "no integer kernel"),),
    (("x", "y"),),
)
SENSITIVITIES = Sensitivities("fit", "loss", {"w": {2: 1.5, 8: 0.0}, "x": {8: 1e-9}}, "noise", "abc", ("n",))
TRAINING = TrainingSummary(
    "auto", 10, 8, 64, 8, 1, "float32 on cpu", True, ((1, 0.5),), (Evaluation(1, 0.5, None, True),), (BitChange(1, "w", 8, None),), 1, {"w": 3}
)
VERDICT = Verdict(
    "fine",
    "inside the budget",
    (Fit(Resource.SIZE, 1.0, 2.0, "counted in the plan"),),
    "size",
    (Loss("top-1", "%", 99.0, 100.0, None),),
    8,
    True,
    ("t",),
    ("n",),
    1.0,
)
REPORT = Report(
    network="net",
    network_digest="a",
    target="cortex-a76",
    target_digest="b",
    strategy="fit",
    seed=0,
    data="noise",
    budgets=("size <= 1 kB",),
    proof=PLAN.proof,
    uses=PLAN.uses,
    layers=(LayerRow("fc", "Gemm", (1, 8), 32, 4, 8, 16, None, "integer", 0.5, "saves"),),
    floats=(FloatRow("sm", "Softmax", "no kernel"),),
    sizes=Sizes(1, 2, 3, {"model.so": 4}),
    latency_us=None,
    latency_origin="none",
    quality=(Quality("y", None, 4),),
    accuracy=Accuracy(4, 50.0, 25.0),
    accumulators=(AccumulatorRow("fc", 1, 2),),
    training=TRAINING,
    verdict=VERDICT,
)


@dataclass(frozen=True)
class Kind:
    """A kind of file: an example, its text, and how it is read."""

    name: str
    value: object
    text: str
    read: Callable[[Path], object]
    versioned: bool = True


KINDS = (
    Kind("plan.json", PLAN, PLAN.to_json(), read_plan),
    Kind("sites.json", TABLE, write_sites(TABLE), read_sites, versioned=False),
    Kind("sensitivities.json", SENSITIVITIES, SENSITIVITIES.to_json(), read_sensitivities),
    Kind("report.json", REPORT, json.dumps(REPORT.to_dict()), read_report),
)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def refusal(kind: Kind, path: Path, content: bytes | str | object) -> str:
    """The one line by which the file is refused."""
    data = content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(data)
    with pytest.raises(PlanError) as caught:
        kind.read(path)
    line = caught.value.message
    assert line.startswith(f"{path}: "), line
    assert "\n" not in line
    assert len(line) < len(str(path)) + 300
    return line.removeprefix(f"{path}: ")


@every_kind
def test_a_file_is_read_as_it_was_written(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / kind.name).write_text(kind.text)
    assert kind.read(tmp_path / kind.name) == kind.value


@every_kind
@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'{"a": 1,}', b"[" * 100_000, b"[]", b"null", b"7", b'"text"'], ids=lambda text: repr(text[:6])
)
def test_what_is_no_json_object_is_refused(kind: Kind, tmp_path: Path, content: bytes) -> None:
    assert refusal(kind, tmp_path / kind.name, content).startswith("not a ")


@every_kind
def test_a_file_that_cannot_be_opened_is_refused_with_what_to_do(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"No such file or directory \(.* mpqc "):
        kind.read(tmp_path / kind.name)
    with pytest.raises(PlanError, match="Is a directory"):
        kind.read(tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.versioned], ids=lambda kind: kind.name)
@pytest.mark.parametrize("version", [None, 2, "1", 1.0, True])
def test_another_version_is_refused(kind: Kind, tmp_path: Path, version: object) -> None:
    assert refusal(kind, tmp_path / kind.name, {**json.loads(kind.text), "schema_version": version}).startswith("schema_version is not 1")


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where something stands in parsed JSON: every key and every item, at every depth."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*path, key)
        yield from places(item, (*path, key))


def at(raw: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        raw = raw[key]
    return raw


@every_kind
def test_an_unknown_key_is_refused_by_name_at_every_depth(kind: Kind, tmp_path: Path) -> None:
    raw = json.loads(kind.text)
    free = {("values",), ("values", "w"), ("values", "x"), ("memory",), ("versions",), ("sizes", "files"), ("training", "raw_bits")}
    records = [path for path in [(), *places(raw)] if isinstance(at(raw, path), dict) and path not in free]
    for path in records:
        changed = copy.deepcopy(raw)
        at(changed, path)["bots"] = 1
        line = refusal(kind, tmp_path / kind.name, changed)
        assert "bots: " in line
        assert "unknown key" in line


@pytest.mark.slow
@every_kind
def test_a_wrong_value_anywhere_is_refused_by_its_key_or_read(kind: Kind, tmp_path: Path) -> None:
    """Nothing but a PlanError comes out, and what is another type is never read as if it were the right one."""
    raw, file = json.loads(kind.text), tmp_path / kind.name
    for path in places(raw):
        right = at(raw, path)
        for wrong in ("four", True, [[]], {"a": {}}, None, 3, 1.5, -1):
            changed = copy.deepcopy(raw)
            at(changed, path[:-1])[path[-1]] = wrong
            file.write_text(json.dumps(changed))
            line = complaint(kind, file)
            assert str(file) in line or type(wrong) in alike(right), (path, wrong)


def complaint(kind: Kind, path: Path) -> str:
    """What is said of the file; empty where it is read."""
    try:
        kind.read(path)
    except PlanError as error:
        return error.message
    return ""


def alike(right: object) -> set[type]:
    """What may stand for a value without being another kind of thing: whole numbers for numbers, null or text or a number for null."""
    numbers: set[type] = {int, float} if right is None or isinstance(right, float) else set()
    return {type(right), type(None)} | numbers | ({str} if right is None else set())


@every_kind
def test_a_missing_key_is_named(kind: Kind, tmp_path: Path) -> None:
    raw = json.loads(kind.text)
    needed = {"plan.json": "choices", "sites.json": "nodes", "sensitivities.json": "unit", "report.json": "uses"}[kind.name]
    del raw[needed]
    assert f"{needed}: not a " in refusal(kind, tmp_path / kind.name, raw)


@pytest.mark.parametrize(
    ("name", "path", "wrong", "told"),
    [
        ("plan.json", ("choices", 0, "bits"), "4", "choices[0].bits: not a plan: '4': input should be a valid integer"),
        ("plan.json", ("choices", 0, "bits"), True, "choices[0].bits: not a plan: True"),
        ("plan.json", ("choices", 0, "bits"), 40, "w: 40 bits is outside 1..16"),
        ("plan.json", ("choices", 1, "site"), "w", "w: the site has two choices"),
        ("plan.json", ("choices", 0, "kind"), "spice", "choices[0].kind: not a plan: 'spice'"),
        ("plan.json", ("uses", 0, "resource"), "money", "uses[0].resource: not a plan: 'money'"),
        ("plan.json", ("pruned", 0, "channels", 1), -5, "conv: pruned channels [1, -5] are not numbers of channels"),
        ("sites.json", ("sites", 1, "name"), "w", "w: two sites have this name"),
        ("sites.json", ("sites", 0, "axis"), 7, "w: axis 7 is not one of the shape [8, 4]"),
        ("sites.json", ("sites", 0, "shape", 0), 0, "w: a site of shape [0, 4] has no values"),
        ("sites.json", ("nodes", 0, "weight"), "v", "fc: its weight v is not a site"),
        ("sites.json", ("nodes", 0, "input_shape"), [], "fc: a node with a weight needs input_shape"),
        ("sensitivities.json", ("values", "w", "2"), float("nan"), "w: sensitivity at 2 bits is nan"),
        ("sensitivities.json", ("values", "w", "2"), "NaN", "values.w.2: not a table of sensitivities: 'NaN'"),
        ("report.json", ("uses", 1, "used"), "fast", "uses[1].used: not a report: 'fast'"),
    ],
)
def test_the_key_and_the_fault_are_told(tmp_path: Path, name: str, path: tuple[str | int, ...], wrong: object, told: str) -> None:
    kind = next(kind for kind in KINDS if kind.name == name)
    raw = json.loads(kind.text)
    at(raw, path[:-1])[path[-1]] = wrong
    assert refusal(kind, tmp_path / name, raw).startswith(told)


def test_the_records_load_no_pydantic() -> None:
    code = "import mpqc.report.model, mpqc.values.site_file, mpqc.values.sensitivities, sys; print('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
