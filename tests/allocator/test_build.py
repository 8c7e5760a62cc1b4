"""Plans from sites, sensitivities and a cost model."""

from __future__ import annotations

import math

import pytest

from mpqc.allocator import allocate, evaluate
from mpqc.allocator.pricing import enough, split
from mpqc.allocator.problem import Table
from mpqc.errors import BudgetInfeasibleError, PlanError, TargetError
from mpqc.facts.amounts import parse_average_bits, parse_budget
from mpqc.values.budget import Budget, Resource
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import FloatNode, OpNode, Site, SiteKind, SiteTable

WEIGHT, ACTIVATION = SiteKind.WEIGHT, SiteKind.ACTIVATION


class Chip:
    """A cost model whose prices can be added up by hand."""

    def choices(self, site: Site) -> tuple[int, ...]:
        return (2, 4, 8)

    def microseconds(self, node: OpNode, weight_bits: int | None, input_bits: tuple[int, ...], output_bits: int) -> float:
        widest = max(weight_bits or 0, *input_bits)
        return node.macs * widest / 1000 + output_bits

    def fixed_microseconds(self) -> float:
        return 7.0

    def weight_bytes(self, site: Site, bits: int) -> int:
        return math.ceil(site.elements * bits / 8)

    def activation_bytes(self, site: Site, bits: int) -> int:
        return math.ceil(site.elements * bits / 8)

    def bit_operations(self, node: OpNode, weight_bits: int | None, input_bits: tuple[int, ...]) -> float:
        return node.macs * (weight_bits or 32) * input_bits[0]


class PickyChip(Chip):
    """Weights of 2 bits run with activations of 8 bits alone."""

    def has_kernel(self, node: OpNode, weight_bits: int | None, input_bits: tuple[int, ...]) -> bool:
        return weight_bits != 2 or input_bits == (8,)


class Wide(Chip):
    """Every width from 1 to 16."""

    def choices(self, site: Site) -> tuple[int, ...]:
        return tuple(range(1, 17))


TABLE = SiteTable(
    sites=(
        Site("x", ACTIVATION, (1, 100)),
        Site("w1", WEIGHT, (40, 100), 0),
        Site("h", ACTIVATION, (1, 40), group="sum"),
        Site("w2", WEIGHT, (40, 40), 0),
        Site("y", ACTIVATION, (1, 40), group="sum"),
    ),
    nodes=(
        OpNode("fc1", "Gemm", ("x",), "h", "w1", macs=4000, bias_elements=40),
        OpNode("fc2", "Gemm", ("h",), "y", "w2", macs=1600, bias_elements=40),
    ),
    floats=(FloatNode("softmax", "Softmax", "no integer kernel"),),
    live=(("x", "h"), ("h", "y")),
)
VALUES = {
    "x": {2: 0.5, 4: 0.05, 8: 0.001},
    "w1": {2: 0.8, 4: 0.02, 8: 0.0005},
    "h": {2: 0.4, 4: 0.03, 8: 0.001},
    "w2": {2: 0.3, 4: 0.01, 8: 0.0002},
    "y": {2: 0.2, 4: 0.02, 8: 0.002},
}
SENSITIVITIES = Sensitivities("fit", "nats", VALUES)


def bits_of(plan: object) -> dict[str, int | None]:
    return {choice.site: choice.bits for choice in plan.choices}  # type: ignore[attr-defined]


def test_without_budgets_everything_gets_the_widest() -> None:
    plan = allocate(TABLE, SENSITIVITIES, Chip(), ())
    assert set(bits_of(plan).values()) == {8}
    assert plan.proof.objective == pytest.approx(0.001 + 0.0005 + 0.001 + 0.0002 + 0.002)
    uses = {use.resource: use.used for use in plan.uses}
    assert uses["size"] == 4000 + 1600 + 4 * 80
    assert uses["latency"] == 7 + (4000 * 8 + 1600 * 8) / 1000 + 16
    assert uses["bops"] == 5600 * 64
    assert (uses["weight_bits"], uses["activation_bits"]) == (8.0, 8.0)
    assert (uses["peak_memory"], uses["largest_activation"]) == (140.0, 100.0)
    assert plan.notes == ("1 float nodes are outside bit operations, 1 of them outside latency too",)


def test_size_takes_bits_where_they_are_cheapest() -> None:
    plan = allocate(TABLE, SENSITIVITIES, Chip(), [parse_budget(Resource.SIZE, "5200B")])
    assert bits_of(plan)["w2"] == 4
    assert bits_of(plan)["w1"] == 8
    reason = next(choice.reason for choice in plan.choices if choice.site == "w2")
    assert reason == "4 bits: saves 800 B for +0.0098 loss against 8 bits; 2 bits would cost +0.29 loss"


def test_a_sharing_group_has_one_width_and_the_sum_of_its_sensitivities() -> None:
    plan = allocate(TABLE, SENSITIVITIES, Chip(), [Budget(Resource.PEAK_MEMORY, 70.0)])
    assert bits_of(plan)["h"] == bits_of(plan)["y"] == 4
    choice = next(choice for choice in plan.choices if choice.site == "h")
    assert choice.sensitivity == 0.03
    assert choice.reason.endswith("(shared by 2 tensors)")
    assert plan.proof.objective == pytest.approx(0.05 + 0.0005 + 0.05 + 0.0002)


def test_average_bits_are_averages_over_elements() -> None:
    plan = allocate(TABLE, SENSITIVITIES, Chip(), parse_average_bits("6/-"))
    use = next(use for use in plan.uses if use.resource == "weight_bits")
    assert use.limit == 6.0
    assert use.used == pytest.approx((4000 * 4 + 1600 * 8) / 5600)
    assert bits_of(plan)["w1"] == 4


def test_latency_depends_on_both_widths_of_a_layer() -> None:
    free = allocate(TABLE, SENSITIVITIES, Chip(), ())
    used = next(use.used for use in free.uses if use.resource == "latency")
    plan = allocate(TABLE, SENSITIVITIES, Chip(), [Budget(Resource.LATENCY, used - 16.0)])
    assert (bits_of(plan)["x"], bits_of(plan)["w1"]) == (4, 4), "narrowing one of the two alone would save nothing"
    assert next(use.used for use in plan.uses if use.resource == "latency") <= used - 16.0


def test_two_budgets_of_one_resource_mean_the_tighter() -> None:
    plan = allocate(TABLE, SENSITIVITIES, Chip(), [Budget(Resource.SIZE, 9e9), Budget(Resource.SIZE, 5200.0)])
    assert next(use for use in plan.uses if use.resource == "size").limit == 5200.0


def test_fixed_sites_are_obeyed_and_said() -> None:
    plan = allocate(TABLE, SENSITIVITIES, Chip(), (), fixed={"w1": 2, "x": None})
    assert bits_of(plan)["w1"] == 2
    assert bits_of(plan)["x"] is None
    reasons = {choice.site: choice.reason for choice in plan.choices}
    assert (reasons["w1"], reasons["x"]) == ("2 bits: fixed by the user", "float: fixed by the user")
    assert "x" in plan.notes[-1]


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"nowhere": 4}, "nowhere: no such site"),
        ({"w1": 3}, "w1: is fixed at 3 bits"),
        ({"h": 4, "y": 8}, "sum: sites that share qparams have different bits: h 4, y 8"),
    ],
)
def test_fixed_sites_that_cannot_be_are_named(fixed: dict[str, int | None], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        allocate(TABLE, SENSITIVITIES, Chip(), (), fixed=fixed)


def test_candidates_narrow_the_choice() -> None:
    plan = allocate(TABLE, SENSITIVITIES, Chip(), (), candidates={"w1": (2, 4)})
    assert bits_of(plan)["w1"] == 4
    with pytest.raises(PlanError, match="w1"):
        allocate(TABLE, SENSITIVITIES, Chip(), (), candidates={"w1": (5,)})


def test_infeasible_says_budget_least_and_plan_in_user_units() -> None:
    with pytest.raises(BudgetInfeasibleError) as caught:
        allocate(TABLE, SENSITIVITIES, Chip(), [parse_budget(Resource.SIZE, "1kB"), *parse_average_bits("-/4")])
    error = caught.value
    assert error.message.startswith("cannot meet size <= 1 kB (the least possible is 1720 B)")
    assert error.least == {"size": 1720.0, "activation_bits": 2.0}
    assert error.plan is not None
    used = {use.resource: use.used for use in error.plan.uses}  # type: ignore[attr-defined]
    assert used["size"] == 1720.0
    assert used["activation_bits"] <= 4.0
    assert bits_of(error.plan)["x"] == 4, "the rest of the plan is still the best one"
    assert bits_of(allocate(TABLE, SENSITIVITIES, Chip(), [parse_budget(Resource.SIZE, "1.68kB")]))["w1"] == 2


def test_the_least_typed_back_is_met() -> None:
    for amount in (1720.0, 1234567.0, 999.96, 1048575.0, 3.0):
        assert parse_budget(Resource.SIZE, enough(Resource.SIZE, amount)).limit >= amount
    assert float(enough(Resource.WEIGHT_BITS, 3.99996).split()[0]) >= 3.99996


def test_a_refusal_tells_the_limit_from_the_least_however_near_they_are() -> None:
    """Uses of latency: 7 + (4000 w1 + 1600 w2) / 1000 + 2 h; all at 2 bits 22.2 us."""
    for text in ("22.2us", "0.0222ms", "22.200000001us"):
        assert bits_of(allocate(TABLE, SENSITIVITIES, Chip(), [parse_budget(Resource.LATENCY, text)]))["w1"] == 2
    with pytest.raises(BudgetInfeasibleError, match=r"latency <= 22\.199 us \(the least possible is 22\.2 us\)"):
        allocate(TABLE, SENSITIVITIES, Chip(), [parse_budget(Resource.LATENCY, "22.199us")])
    with pytest.raises(BudgetInfeasibleError, match=r"bops <= 22399\.999 BOPs \(the least possible is 22400 BOPs\)"):
        allocate(TABLE, SENSITIVITIES, Chip(), [parse_budget(Resource.BOPS, "22399.999BOPs")])


def test_an_average_typed_in_decimal_is_met_exactly() -> None:
    """4.1 bits of ten elements are 41 bits, although the float 4.1 is a little less than that."""
    sites = (Site("x", ACTIVATION, (1, 9)), Site("y", ACTIVATION, (1, 1)))
    table = SiteTable(sites, (OpNode("op", "Relu", ("x",), "y"),), (), (("x", "y"),))
    values = Sensitivities("fit", "nats", {"x": {4: 1.0, 8: 0.0}, "y": {4: 1.0, 5: 0.0}})
    plan = allocate(table, values, Wide(), parse_average_bits("-/4.1"))
    assert bits_of(plan) == {"x": 4, "y": 5}
    assert [use.used for use in plan.uses if use.limit is not None] == [4.1]


def test_kernels_that_do_not_exist_are_not_planned() -> None:
    plan = allocate(TABLE, SENSITIVITIES, PickyChip(), [Budget(Resource.SIZE, 1720.0)])
    assert (bits_of(plan)["w1"], bits_of(plan)["x"], bits_of(plan)["h"]) == (2, 8, 8)
    with pytest.raises(TargetError, match="fc1: the target has no kernel for Gemm"):
        allocate(TABLE, SENSITIVITIES, PickyChip(), (), candidates={"w1": (2,), "x": (4,)})


def test_a_missing_sensitivity_names_its_site() -> None:
    values = {site: row for site, row in VALUES.items() if site != "w2"}
    with pytest.raises(PlanError, match="w2: has no sensitivities"):
        allocate(TABLE, Sensitivities("fit", "nats", values), Chip(), ())


def test_a_negative_sensitivity_names_its_site() -> None:
    values = {**VALUES, "y": {2: 0.2, 4: -0.5, 8: 0.1}}
    with pytest.raises(PlanError, match="y: the sensitivity at 4 bits is negative"):
        allocate(TABLE, Sensitivities("fit", "nats", values), Chip(), ())


def test_a_given_plan_is_priced_and_refused_where_it_does_not_fit() -> None:
    best = allocate(TABLE, SENSITIVITIES, Chip(), [Budget(Resource.SIZE, 5200.0)])
    priced = evaluate(TABLE, best, Chip(), [Budget(Resource.SIZE, 5200.0)])
    assert priced.proof.status == "given"
    assert next(use.used for use in priced.uses if use.resource == "size") == 4000 + 800 + 320
    with pytest.raises(BudgetInfeasibleError, match="size"):
        evaluate(TABLE, best, Chip(), [Budget(Resource.SIZE, 5000.0)])


def test_sums_are_split_and_products_are_not() -> None:
    column, row = [[1.0], [2.0], [5.0]], [[10.0, 20.0]]
    parts = split(Table((3, 7), [[a[0] + b for b in row[0]] for a in column]))  # type: ignore[arg-type]
    assert sorted(part.groups for part in parts) == [(3,), (7,)]
    product = Table((3, 7), [[a[0] * b for b in row[0]] for a in column])  # type: ignore[arg-type]
    assert split(product) == [product]
    flat = split(Table((3, 7), [[1.0, 1.0], [4.0, 4.0]]))  # type: ignore[arg-type]
    assert [part.groups for part in flat] == [(3,)]


def test_an_average_that_is_met_exactly_is_not_above_its_limit() -> None:
    """5,600 elements at exactly 4 bits: the quotient is 4, not 4 and a rounding."""
    plan = allocate(TABLE, SENSITIVITIES, Chip(), parse_average_bits("4/4"), candidates=dict.fromkeys(VALUES, (4,)))
    assert all(use.used <= use.limit for use in plan.uses if use.limit is not None)
    assert {use.used for use in plan.uses if use.limit is not None} == {4.0}
    reason = allocate(TABLE, SENSITIVITIES, Chip(), parse_average_bits("6/-")).choices[1].reason
    assert reason == "4 bits: saves 2.857 bits of the average weight for +0.0195 loss against 8 bits; 2 bits would cost +0.78 loss"
