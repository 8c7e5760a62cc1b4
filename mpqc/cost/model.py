"""The cost model: what a node costs on a target at given widths, in microseconds, bytes, bit operations and nanojoules.

Latency comes from cost rows (fitted, see cost_fit) or from an analytic model that the target file states with its source; a
target with neither refuses latency by name. Sizes, memory, bit operations and average bits need no rows.
Latencies are those of one core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, prod

from mpqc.cost.boundary import conversions
from mpqc.cost.file import channels, file_bytes_beside, file_overhead_bytes, file_weight_bytes
from mpqc.cost.fit import ALL_WIDTHS, Fit, fit_rows
from mpqc.cost.forms import KERNELS, KINDS, cheapest, exact_kinds, has_forms
from mpqc.cost.fusion import Additions
from mpqc.cost.long_codes import SHORT_BITS, is_long, kind_at, lacks_long, times
from mpqc.cost.roofline import named, roofline
from mpqc.cost.run import Context, Run, Widths
from mpqc.cost.storage import bytes_beside, packable, panel_elements, panel_overhead
from mpqc.cost.workload import Workload, float_workload, workload
from mpqc.errors import TargetError
from mpqc.facts.features import PORTABLE, best_form
from mpqc.facts.float_kernels import FREE
from mpqc.facts.kinds import FLOAT_BITS, FLOATS
from mpqc.facts.resources import RESOURCES, priced_everywhere
from mpqc.targets import STAND_INS, WEIGHTED, OpKind, Shape, Target
from mpqc.targets.schema import Caches
from mpqc.values.budget import Resource
from mpqc.values.site import CHANNELS, FloatNode, OpNode, Site, SiteKind, SiteTable

FLOAT_WIDTHS: Widths = (None, FLOAT_BITS)
CHANNEL_BYTES = 8
"""Bias (int32) and scale (float32) of one output channel, where there is no code that needs more"""
PACKING_CYCLES = 0.5
"""A value of a packed activation, loaded or stored: the most that benchmarks/activations_a76.py finds (0.2 to 0.5), so that a latency budget holds"""
CHANNEL_TABLE_CYCLES = 3.0
"""A value of a table a channel, more than with one table for all: the most of three shapes priced for Cortex-A76 (1.2 to 3.0)"""


@dataclass(frozen=True)
class KernelRun:
    """The kernel that a node is predicted to run as, and its price."""

    kind: OpKind
    shape: Shape
    widths: Widths
    cycles: float


class CostModel:
    """Prices nodes and sites of any network on `target`."""

    def __init__(
        self,
        target: Target,
        context: Context | None = None,
        boundary: tuple[Workload, ...] = (),
        packed: frozenset[str] = frozenset(),
        additions: Additions | None = None,
        sites: Mapping[str, Site] | None = None,
    ) -> None:
        """`boundary`: kernels that every run of the network needs whatever the plan, counted as fixed. `packed`: activation sites that
        may lie in the target's packed containers. `additions`: those that convolutions do. `sites`: of the network, by name."""
        self.packed, self.additions, self.sites = packed, additions or Additions(), sites or {}
        self.target = target
        self.context = context or Context()
        self.boundary = boundary
        self._known: dict[tuple[OpNode, int | None, tuple[int, ...], int], float] = {}
        self._able: dict[tuple[OpNode, int | None, tuple[int, ...]], bool] = {}

    def for_network(self, table: SiteTable) -> CostModel:
        """This model for one network: its weights (counted at their widest) push each other out of the caches, values that enter
        and leave the integer program are converted."""
        widest = max(self.target.choices.weights)
        total = sum(self.code_bytes(site, widest) for site in table.sites if site.kind is SiteKind.WEIGHT)
        beside = (*conversions(table), *(work for node in table.floats if (work := self._float_work(node))))
        return CostModel(self.target, Context(float(total)), beside, packable(table), self._additions(table), table.by_name)

    def prices_float(self, node: FloatNode) -> bool:
        """Whether a node that stays float has a price here, so that latencies hold it."""
        return node.op_type in FREE or self._float_work(node) is not None

    def _float_work(self, node: FloatNode) -> Workload | None:
        """What a float node runs; None where that takes no time, and where it has no price."""
        try:
            work = float_workload(node)
        except TargetError:
            return None
        return work if work is not None and self._fit(work.kind, FLOAT_WIDTHS) is not None else None

    def _additions(self, table: SiteTable) -> Additions | None:
        has_kernel = best_form("residual", self.target.features) is not None
        return Additions.of(table, has_kernel=has_kernel) if has_kernel or self.target.joins_additions else None

    @property
    def joined(self) -> Mapping[str, str]:
        """Activation sites that are added to before they are stored, with the site of the sum."""
        return self.additions.joined

    def choices(self, site: Site) -> tuple[int, ...]:
        """Widths that `site` may be given, ascending."""
        side = self.target.choices.weights if site.kind is SiteKind.WEIGHT else self.target.choices.activations
        return tuple(sorted(side))

    def long_choices(self, site: Site) -> tuple[int, ...]:
        """Widths beyond these that `site` may be given where fewer bits lose too much, ascending."""
        return () if site.kind is SiteKind.WEIGHT else tuple(sorted(self.target.choices.long_activations))

    @property
    def origin(self) -> str:
        """Where latencies come from, for reports; `none` where the target has no latency."""
        doubt = self.target.unvalidated
        return self._source if doubt is None else f"{self._source}; not validated on {self.target.name}, +-{doubt.error_percent} %: {doubt.why}"

    @property
    def _source(self) -> str:
        if self.target.analytic:
            return f"analytic: {self.target.analytic.source}"
        if not self.target.rows:
            return "none"
        kinds = sorted({row.origin for row in self.target.rows})
        days, commits = sorted({row.date for row in self.target.rows}), sorted({row.commit for row in self.target.rows})
        span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        return f"{' and '.join(kinds)}: {len(self.target.rows)} rows, {span}, commit {', '.join(commits)}"

    @property
    def fits(self) -> tuple[Fit, ...]:
        """The fitted kernels with their errors, for reports; empty for an analytic model."""
        return tuple(self._fits.values())

    @property
    def mean_error(self) -> float | None:
        """Mean relative error of the fitted prices over the rows that they come from; None for an analytic model, and without rows."""
        rows = sum(fit.rows for fit in self.fits)
        return sum(fit.rows * fit.mean_error for fit in self.fits) / rows if rows else None

    def can_bound(self, resource: Resource) -> bool:
        """Whether the target knows this resource."""
        need = RESOURCES[resource].need
        return need is None or need.met(self.target)

    def require(self, resource: Resource) -> None:
        """Raises TargetError, naming target and resource, where the target does not know `resource`."""
        facts = RESOURCES[resource]
        if facts.need is None or facts.need.met(self.target):
            return
        hint = f"bound {', '.join(priced_everywhere())} instead, or give the target some ({facts.need.key} in its TOML)"
        raise TargetError(f"{facts.label} cannot be bounded", where=self.target.name, why=f"the target has no {facts.need.what}", hint=hint)

    def microseconds(self, node: OpNode, weight_bits: int | None, input_bits: tuple[int, ...], output_bits: int) -> float:
        """Time of one run of `node` on one core; an output that stays float counts 32 bits.

        Raises TargetError where the target has no latency or no kernel for it. What was priced once is remembered.
        """
        key = node, weight_bits, input_bits, output_bits
        if key not in self._known:
            self._known[key] = self._microseconds(*key)
        return self._known[key]

    def _microseconds(self, node: OpNode, weight_bits: int | None, input_bits: tuple[int, ...], output_bits: int) -> float:
        self.require(Resource.LATENCY)
        work = self._workload(node)
        if work is None:
            return 0.0
        computed = input_bits if work.macs or output_bits >= FLOAT_BITS else (*input_bits, output_bits)
        cycles = min(self._prices(node, work, weight_bits, computed, output_bits).values())
        return (cycles + self._more_cycles(node, input_bits, output_bits)) / self._cycles_a_microsecond

    def kernel_run(self, node: OpNode, weight_bits: int | None, input_bits: tuple[int, ...], output_bits: int) -> KernelRun | None:
        """What `microseconds` prices, its call apart, as a cost row names it; None for a view, for several runs, and for what no row says."""
        work = self._workload(node)
        if work is None or work.runs != 1 or not self.target.rows or self._more_cycles(node, input_bits, output_bits):
            return None
        computed = input_bits if work.macs or output_bits >= FLOAT_BITS else (*input_bits, output_bits)
        prices = self._prices(node, work, weight_bits, computed, output_bits)
        kind = cheapest(prices)
        plain = self._widths(node, work, weight_bits, computed)
        widths = plain if kind == work.kind else self.target.kernel_bits(kind, weight_bits, max(self.target.choices.activations))
        call = 0.0 if kind is OpKind.RESIDUAL else self.call_cycles
        unknown = widths is None or (is_long(widths[1]) and (kind, widths) not in self._fits)
        return None if unknown or widths is None or prices[kind] <= call else KernelRun(kind, work.shape, widths, prices[kind] - call)

    @property
    def call_cycles(self) -> float:
        """What the runtime adds to every kernel."""
        return self._row_cycles("call")

    def form(self, node: OpNode, weight_bits: int | None, input_bits: tuple[int, ...]) -> str:
        """Name of the form in which the convolution `node` is computed at these widths; empty where it is computed directly."""
        work = self._workload(node) if has_forms(node) and self.can_bound(Resource.LATENCY) else None
        if work is None or weight_bits == FLOAT_BITS or FLOAT_BITS in input_bits:
            return ""
        return KINDS.get(cheapest(self._prices(node, work, weight_bits, input_bits, FLOAT_BITS)), "")

    def kernel_cycles(self, kind: OpKind, shape: Shape, weight_bits: int, input_bits: int | None = None) -> float | None:
        """Cycles of a kernel with these weights and inputs (None: of the widest); None where the target has none or no cost rows for it."""
        widths = self.target.kernel_bits(kind, weight_bits, input_bits or max(self.target.choices.activations))
        has_code = kind not in KERNELS or best_form(KERNELS[kind], self.target.features) is not None
        if widths is None or self._fit(kind, widths) is None or not has_code:
            return None
        return self._cycles(Workload(kind, shape), widths, FLOAT_BITS)

    def _prices(self, node: OpNode, work: Workload, weight_bits: int | None, computed: tuple[int, ...], output_bits: int) -> dict[OpKind, float]:
        """Cycles of every kernel that computes `node` exactly at these widths, its plain one first."""
        prices = {work.kind: self._cycles(work, self._widths(node, work, weight_bits, computed), output_bits)}
        weight = self.sites.get(node.weight or "")
        for kind in exact_kinds(node, weight, weight_bits, computed):
            cycles = self.kernel_cycles(kind, work.shape, weight_bits or 0)
            if cycles is not None:
                prices[kind] = cycles
        return prices

    def _more_cycles(self, node: OpNode, input_bits: tuple[int, ...], output_bits: int) -> float:
        """What no cost row says."""
        tables = CHANNEL_TABLE_CYCLES * prod(node.output_shape) if node.mode == CHANNELS and not self.target.analytic else 0.0
        return tables + self._packing_cycles(node, input_bits, output_bits)

    def _packing_cycles(self, node: OpNode, input_bits: tuple[int, ...], output_bits: int) -> float:
        """What unpacking and packing the activations around `node` costs, where the target stores them packed."""
        widest = max(self.target.containers.packed_activations, default=0)
        names = [name for name in node.inputs if name]
        read = sum(bits <= widest and name in self.packed for name, bits in zip(names, input_bits, strict=False))
        written = output_bits <= widest and node.output in self.packed
        return PACKING_CYCLES * (read * prod(node.input_shape) + written * prod(node.output_shape))

    def fixed_microseconds(self) -> float:
        """Time of a run that no plan changes: the runtime's own and, after `for_network`, float nodes, and conversions from and to float."""
        self.require(Resource.LATENCY)
        bits = _container(8, self.target.containers.activations)
        beside = sum(self._cycles(work, FLOAT_WIDTHS if work.kind in FLOATS else (None, bits), bits) for work in self.boundary)
        return (self._row_cycles("run") + beside) / self._cycles_a_microsecond

    def code_bytes(self, site: Site, bits: int) -> int:
        """Bytes of the weight's codes: `bits` rounded up to a container, packed, whole bytes."""
        return self._packed_bytes(site.elements, bits)

    def weight_bytes(self, site: Site, bits: int) -> int:
        """Bytes of the weight as stored: its codes, in the panels of the kernels where the target has code, or as the QDQ file has it."""
        if self.target.stores_file:
            return file_weight_bytes(site, _container(bits, self.target.containers.weights))
        return self._packed_bytes(panel_elements(site) if self._has_code else site.elements, bits)

    def overhead_bytes(self, site: Site) -> int:
        """Bytes of scale and bias that go with a weight, whatever its width."""
        if self._has_code:
            return panel_overhead(site)
        return file_overhead_bytes(site) if self.target.stores_file else channels(site) * CHANNEL_BYTES

    def beside_bytes(self, table: SiteTable) -> int:
        """Bytes of constants that go with no weight: tables and the like where the target has code, biases and scales in the QDQ file."""
        if self.target.stores_file:
            return file_bytes_beside(table)
        return bytes_beside(table, (work.kind for work in self.boundary)) if self._has_code else 0

    def float_ends(self, table: SiteTable) -> Mapping[str, int]:
        """Bytes of the float32 copy that a program writes of each site that leaves the network; none where there is no program."""
        read = {name for node in table.nodes for name in node.inputs}
        ends = (node for node in table.nodes if self._has_code and node.output not in read and node.output in table.by_name)
        return {node.output: prod(node.output_shape) * FLOAT_BITS // 8 for node in ends}

    def _packed_bytes(self, elements: int, bits: int) -> int:
        return ceil(elements * _container(bits, self.target.containers.weights) / 8)

    @property
    def _has_code(self) -> bool:
        return self.target.lowering == "code"

    def activation_bytes(self, site: Site, bits: int) -> int:
        """Bytes of the activation as stored: `bits` rounded up to a container, packed, whole bytes; 0 where it is added to before it is stored.

        A container that only packed activations have counts after `for_network`, which knows what lies around the site.
        """
        if site.name in self.joined and bits <= SHORT_BITS:
            return 0
        containers = self.target.containers
        fitting = (*containers.activations, *(containers.packed_activations if site.name in self.packed else ()))
        return ceil(site.elements * _container(bits, fitting) / 8)

    def bit_operations(self, node: OpNode, weight_bits: int | None, input_bits: tuple[int, ...]) -> int:
        """MACs x weight bits x activation bits; the second input's bits where two activations are multiplied. Float counts 32 bits."""
        if not node.macs:
            return 0
        first = input_bits[0] if input_bits else FLOAT_BITS
        second = input_bits[1] if node.weight is None and len(input_bits) > 1 else weight_bits or FLOAT_BITS
        return node.macs * first * second

    def nanojoules(self, node: OpNode, weight_bits: int | None, input_bits: tuple[int, ...]) -> float:
        """Energy of `node`'s multiply-accumulates. Raises TargetError where the target has no energy table or no entry."""
        self.require(Resource.ENERGY)
        energy = self.target.energy
        work = self._workload(node)
        if work is None or not work.macs or energy is None:
            return 0.0
        weights, activations = self._widths(node, work, weight_bits, input_bits)
        table = {(entry.weight_bits, entry.activation_bits): entry.picojoules for entry in energy.macs}
        picojoules = table.get((weights or activations, activations))
        if picojoules is None:
            raise TargetError(f"no energy at w{weights}a{activations}", where=f"{self.target.name}: {node.name}")
        return work.macs * picojoules / 1e3

    def has_kernel(self, node: OpNode, weight_bits: int | None, input_bits: tuple[int, ...]) -> bool:
        """Whether the target can run `node` at these widths, in the next wider kernel where they have none of their own."""
        key = node, weight_bits, input_bits
        if key not in self._able:
            work = self._workload(node)
            able = work is None or self._kernel_widths(work, weight_bits, input_bits) is not None
            self._able[key] = able and not (self._has_code and lacks_long(node, input_bits))
        return self._able[key]

    def _workload(self, node: OpNode) -> Workload | None:
        """The kernel run of `node`, as a kind that the target lists."""
        work = workload(node)
        if work is None:
            return None
        kind = OpKind.RESIDUAL if node.name in self.additions.kernels else work.kind
        known = any(kind in facts.ops for facts in self.target.kernels)
        return replace(work, kind=kind if known else STAND_INS.get(kind, kind))

    @property
    def _cycles_a_microsecond(self) -> float:
        return (self.target.clock_hz or 1) / 1e6

    @cached_property
    def _fits(self) -> Mapping[tuple[OpKind, Widths], Fit]:
        return fit_rows(self.target.rows, self._caches, self._form, self.target.cores) if self.target.rows else {}

    @property
    def _form(self) -> str:
        """Of the product on this target."""
        return best_form("product", self.target.features) or PORTABLE.name

    def _fit(self, kind: OpKind, widths: Widths) -> Fit | None:
        return self._fits.get((kind, widths)) or self._fits.get((kind, ALL_WIDTHS))

    @property
    def _caches(self) -> Caches:
        return self.target.caches or Caches(l1d_bytes=1)

    def _row_cycles(self, kernel: str) -> float:
        return next((row.cycles for row in self.target.rows if row.kernel == kernel), 0.0)

    def _kernel_widths(self, work: Workload, weight_bits: int | None, activation_bits: tuple[int, ...]) -> Widths | None:
        weights = weight_bits if work.kind in WEIGHTED else None
        widest = max(activation_bits, default=max(self.target.choices.activations))
        return self.target.kernel_bits(kind_at(work.kind, widest), weights, widest)

    def _widths(self, node: OpNode, work: Workload, weight_bits: int | None, activation_bits: tuple[int, ...]) -> Widths:
        widths = self._kernel_widths(work, weight_bits, activation_bits)
        if widths is None:
            asked = f"weights of {weight_bits} and activations of {activation_bits} bits"
            raise TargetError(f"no {work.kind.value} kernel for {asked}", where=f"{self.target.name}: {node.name}", hint="give it wider types")
        return widths

    def _cycles(self, work: Workload, widths: Widths, output_bits: int) -> float:
        if self.target.analytic:
            output_container = min(output_bits, FLOAT_BITS)
            if output_bits < FLOAT_BITS:
                output_container = _container(output_bits, self.target.containers.activations)
            return roofline(self.target.analytic, work, widths, output_container, self.target.name)
        if is_long(widths[1]) and (work.kind, widths) not in self._fits:
            plain = replace(work, kind=kind_at(work.kind, widths[1]))
            return times(plain.kind, self._form) * self._cycles(plain, (widths[0], SHORT_BITS), output_bits)
        fit = self._fit(work.kind, widths) or self._fit(STAND_INS.get(work.kind, work.kind), widths)
        if fit is None:
            raise TargetError(
                f"no cost rows for {work.kind.value} at {named(widths)}", where=self.target.name, hint="bound size, BOPs or bits instead"
            )
        run = Run(work.shape, widths, self._caches, self.context, self._form, self.target.cores)
        call = 0.0 if fit.kind is OpKind.RESIDUAL else self._row_cycles("call")
        return work.runs * (fit.cycles(run) + call)


def _container(bits: int, containers: tuple[int, ...]) -> int:
    fitting = [width for width in containers if width >= bits]
    if not fitting:
        raise TargetError(f"{bits} bits fit in no container", hint=f"widest is {max(containers)} bits")
    return min(fitting)
