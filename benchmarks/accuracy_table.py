"""The rows of the head-to-head: networks, constraints and methods; which runs there are, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mpqc.values.budget import Budget, Resource
from mpqc.values.site import SiteKind, SiteTable

KB = 1024.0
MIXED = "auto, mixed"
"""`auto` with boxes of other pictures in half of those of a step (mpqc/training/mixing.py): one seed, on the rows that are trained longest"""
METHODS = ("auto", MIXED, "qbitopt", "dq", "fracbits", "mixquant", "uniform", "mixquant + brecq", "mixquant + asymmetric")
UNTRAINED = METHODS[-2:]
"""Post-training, as MixQuant's abstract has it: one seed, on rows of the weights' size"""
PAPER_ACTIVATIONS = 188_426
"""Values that DQ counts in ResNet-20: one tensor a layer"""


@dataclass(frozen=True)
class Constraint:
    """One row: budgets that depend on the network, and how much training it gets."""

    name: str
    budgets: Callable[[SiteTable], tuple[Budget, ...]]
    resource: Resource
    """The one whose budget and use the table shows; weights and activations in kB where they are sizes"""
    steps: int
    target: str = "packed"
    float_activations: bool = False
    long: bool = False
    """Three seeds for every method that learns bits, not for auto alone"""
    uniform: tuple[int, int] | None = None
    """The plan made by hand that the methods are compared with, where one fits"""
    drop: tuple[float, float] | None = None
    """Points below the float network that mpqc's own method must not exceed, and that it aims at"""
    published: str = ""
    """What is known from elsewhere"""
    networks: tuple[str, ...] = ("resnet20",)
    """That it says something about: sizes in kB are ResNet-20's, whose all w8a8 is the fastest plan on cortex-a76 itself"""
    methods: tuple[str, ...] = METHODS
    """That are compared on it"""


@dataclass(frozen=True)
class Run:
    """One training run."""

    network: str
    constraint: Constraint
    method: str
    seed: int

    @property
    def key(self) -> str:
        """Folder name."""
        text = f"{self.network} {self.constraint.name} {self.method} {self.seed}"
        return "".join(letter if letter.isalnum() else "_" for letter in text.lower())


def elements(table: SiteTable, kind: SiteKind) -> int:
    """Values in all tensors of a kind."""
    return sum(site.elements for site in table.sites if site.kind is kind)


def weights(kilobytes: float) -> Callable[[SiteTable], tuple[Budget, ...]]:
    """Weights packed at their bits in so many kB."""
    return lambda table: (Budget(Resource.WEIGHT_BITS, kilobytes * KB * 8 / elements(table, SiteKind.WEIGHT)),)


def both(*makers: Callable[[SiteTable], tuple[Budget, ...]]) -> Callable[[SiteTable], tuple[Budget, ...]]:
    """All of these budgets."""
    return lambda table: tuple(budget for make in makers for budget in make(table))


def given(*budgets: Budget) -> Callable[[SiteTable], tuple[Budget, ...]]:
    """Budgets that do not depend on the network."""
    return lambda table: budgets


def average(bits: float) -> Callable[[SiteTable], tuple[Budget, ...]]:
    """Average bits of weights and of activations."""
    return given(Budget(Resource.WEIGHT_BITS, bits), Budget(Resource.ACTIVATION_BITS, bits))


def bit_operations(bits: int) -> Callable[[SiteTable], tuple[Budget, ...]]:
    """As many bit operations as a network of `bits` everywhere takes."""
    return lambda table: (Budget(Resource.BOPS, float(sum(node.macs for node in table.nodes) * bits**2)),)


SECOND = ("mobilenetv2",)
BOTH = ("resnet20", *SECOND)
BY_HAND = ("auto", "uniform")
LARGEST_8KB = given(Budget(Resource.LARGEST_ACTIVATION, 8 * KB))
SUM_92KB = given(Budget(Resource.ACTIVATION_BITS, 92 * KB * 8 / PAPER_ACTIVATIONS))
DQ = "DQ, 160 epochs: {}"
CONSTRAINTS = (
    Constraint(
        "weights 70 kB, activations float",
        weights(70),
        Resource.WEIGHT_BITS,
        4000,
        float_activations=True,
        long=True,
        drop=(0.8, 0.4),
        published=DQ.format(1.30),
    ),
    Constraint(
        "weights 70 kB, largest activation 8 kB",
        both(weights(70), LARGEST_8KB),
        Resource.WEIGHT_BITS,
        4000,
        long=True,
        uniform=(2, 4),
        drop=(1.0, 0.5),
        published=DQ.format(1.29),
    ),
    Constraint(
        "weights 70 kB, sum of activations 92 kB",
        both(weights(70), SUM_92KB),
        Resource.WEIGHT_BITS,
        4000,
        long=True,
        drop=(1.3, 0.8),
        published=DQ.format(2.09),
    ),
    Constraint("weights 50 kB, largest activation 8 kB", both(weights(50), LARGEST_8KB), Resource.WEIGHT_BITS, 4000, drop=(2.5, 1.5)),
    Constraint("average 4/4 bits", average(4), Resource.WEIGHT_BITS, 2000, uniform=(4, 4), networks=BOTH),
    Constraint("average 3/3 bits", average(3), Resource.WEIGHT_BITS, 2000, uniform=(3, 3)),
    Constraint("BOPs of 4 bits", bit_operations(4), Resource.BOPS, 2000, uniform=(4, 4)),
    Constraint("BOPs of 3 bits", bit_operations(3), Resource.BOPS, 2000, uniform=(3, 3)),
    Constraint("latency halfway to the fastest plan", given(), Resource.LATENCY, 2000, target="cortex-a76", networks=SECOND, methods=BY_HAND),
    Constraint(
        "latency of all w4a8",
        given(),
        Resource.LATENCY,
        2000,
        target="cortex-a76",
        uniform=(4, 8),
        networks=SECOND,
        methods=BY_HAND,
    ),
)
BY_NAME = {constraint.name: constraint for constraint in CONSTRAINTS}


def runs(network: str, seeds: int = 3) -> Iterator[Run]:
    """All runs of a network, the first seed of everything first, so that an unfinished table is a fair one."""
    for seed in range(seeds):
        for constraint in (row for row in CONSTRAINTS if network in row.networks):
            for method in constraint.methods:
                if method == "uniform" and constraint.uniform is None and constraint.target == "packed":
                    continue
                if method == MIXED and (seed or constraint.drop is None):
                    continue
                if method in UNTRAINED and (seed or not constraint.name.startswith("weights")):
                    continue
                if seed == 0 or _is_repeated(constraint, method):
                    yield Run(network, constraint, method, seed)


def _is_repeated(constraint: Constraint, method: str) -> bool:
    """Whether seeds follow the first: of mpqc's own, of all that learn bits in the long rows, and of a plan by hand where it is the one rival."""
    return method == "auto" or constraint.methods == BY_HAND or (constraint.long and method != "uniform")
