"""`mpqc bench --calibrate`: cost rows of a target corrected by the layers that a board ran, as a target file of their own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from mpqc.cost.forms import KINDS
from mpqc.cost.model import CostModel, KernelRun
from mpqc.errors import RunError, UsageError
from mpqc.targets import CostRow, Target, load_target, write_rows
from mpqc.timing.program import clock_hz
from mpqc.timing.rows import LEAST, kernels_commit
from mpqc.values.bench import MEASURED, Bench, LayerTime
from mpqc.values.json_file import read_json
from mpqc.values.plan import Plan, read_plan
from mpqc.values.site_file import read_sites
from mpqc.workspace.folder import Workspace

if TYPE_CHECKING:
    from mpqc.values.site import OpNode

FOLDER = "calibrated"
METHOD = "mpqc bench: shortest run of the kernel inside the network, one core, the call taken off"


@dataclass(frozen=True)
class Found:
    """One layer as a row has it: which kernel ran, and how long it took beside what was predicted."""

    run: KernelRun
    cycles: float

    @property
    def ratio(self) -> float:
        """Measured of predicted."""
        return self.cycles / self.run.cycles


def correct_target(root: Path, bench: Bench, target: Target) -> list[str]:
    """Writes calibrated/NAME.toml and its cost rows into `root`, from what `bench` measured of `target`; lines that say what was corrected.

    A kernel that ran at a shape gets a row `measured on DEVICE`; other rows of its kind are scaled by the median of measured / predicted, and
    say so in their method. Raises UsageError where times are not a board's or of several threads, RunError where no layer could be compared.
    """
    _check(root, bench)
    found = list(_found(root, bench, target))
    if not found:
        raise RunError("no layer was measured that a cost row prices alone", where=str(root), hint="a network with convolutions has some")
    ratios = {kind: _ratios(found, kind) for kind in sorted({item.run.kind.value for item in found})}
    rows = (*_scaled(target.rows, found, ratios, bench), *_measured(found, bench))
    path = _write(root, target, rows)
    lines = [f"{kind}: {median(values):.2f} of predicted in {len(values)} layers" for kind, values in ratios.items()]
    return [*lines, f"{len(rows)} cost rows for  mpqc compile --target {path}"]


def corrected_file(root: Path, target: str) -> Path:
    """Where the corrected target of `root` is."""
    return root / FOLDER / f"{target}.toml"


def _check(root: Path, bench: Bench) -> None:
    if bench.how != MEASURED:
        raise UsageError("only a board measures", where="--calibrate", why=f"these times are {bench.how}")
    if bench.threads != 1:
        raise UsageError("cost rows are of one core", where="--calibrate", why=f"{bench.threads} threads ran", hint="use --threads 1")
    if not (root / "sites.json").is_file():
        raise UsageError("the folder holds a lowered file", where=str(root), hint="--calibrate needs a folder of mpqc compile")


def _found(root: Path, bench: Bench, target: Target) -> Iterable[Found]:
    """The layers that one kernel computes, whose price is known."""
    table, plan = read_sites(root / "sites.json"), read_plan(root / "plan.json")
    model = CostModel(target).for_network(table)
    joined = {str(op["name"]) for op in read_json(root / "bundle" / "model.json")["ops"] if op["joined"]}
    nodes = {node.name: node for node in table.nodes}
    for layer in bench.layers:
        if layer.name not in nodes or layer.name in joined or " + " in layer.kernels:
            continue
        run = _priced(model, nodes[layer.name], plan)
        if run is not None and _is_same_form(run, layer):
            cycles = layer.least_us * clock_hz(target) / 1e6 - model.call_cycles
            yield Found(run, max(cycles, LEAST))


def _priced(model: CostModel, node: OpNode, plan: Plan) -> KernelRun | None:
    inputs = tuple(plan.bits(name) for name in node.inputs if name)
    known = tuple(bits for bits in inputs if bits is not None)
    weight_bits, output_bits = plan.bits(node.weight) if node.weight else None, plan.bits(node.output)
    if len(known) != len(inputs) or (node.weight and weight_bits is None):
        return None
    return model.kernel_run(node, weight_bits, known, output_bits or 8)


def _is_same_form(run: KernelRun, layer: LayerTime) -> bool:
    """Whether the kernel that ran is of the kind that was predicted."""
    return ("winograd" in layer.kernels) == (run.kind in KINDS)


def _ratios(found: Iterable[Found], kind: str) -> list[float]:
    return [item.ratio for item in found if item.run.kind.value == kind]


def _measured(found: Iterable[Found], bench: Bench) -> Iterable[CostRow]:
    """One row a kernel and shape: the shortest where layers are alike."""
    rows: dict[object, CostRow] = {}
    for item in sorted(found, key=lambda item: -item.cycles):
        run = item.run
        provenance = {"origin": f"measured on {bench.device}", "method": METHOD, "date": bench.date, "commit": kernels_commit()}
        rows[_key(run)] = CostRow(run.kind.value, run.shape, run.widths[0], run.widths[1], item.cycles, **provenance)
    return rows.values()


def _scaled(rows: Iterable[CostRow], found: Iterable[Found], ratios: Mapping[str, list[float]], bench: Bench) -> Iterable[CostRow]:
    """The rows that were there, without those that are measured now; those of a kind that was measured corrected."""
    keys = {_key(item.run) for item in found}
    for row in rows:
        if (row.kernel, row.shape, (row.weight_bits, row.activation_bits)) in keys:
            continue
        factor = median(ratios[row.kernel]) if row.kernel in ratios else 1.0
        more = f"; x {factor:.3f}, as {len(ratios[row.kernel])} layers on {bench.device}" if row.kernel in ratios else ""
        yield replace(row, cycles=max(row.cycles * factor, LEAST), method=row.method + more)


def _key(run: KernelRun) -> object:
    return run.kind.value, run.shape, run.widths


def _write(root: Path, target: Target, rows: Iterable[CostRow]) -> Path:
    """Target file and rows, both or none; read back, so that what is written can be used."""
    workspace = Workspace(root)
    name = f"{target.name}.csv"
    facts = target.model_dump(mode="json", exclude={"rows", "unvalidated"}, exclude_none=True) | {"cost_rows": name}
    with workspace.replacing(FOLDER) as partial:
        partial.mkdir()
        write_rows(rows, partial / name)
        path = partial / f"{target.name}.toml"
        path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in facts.items()), encoding="utf-8")
        load_target(path)
    return corrected_file(root, target.name)


def _toml(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
