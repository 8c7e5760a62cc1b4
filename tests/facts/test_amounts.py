"""Budgets: units are required, amounts are exact, faults are named."""

from __future__ import annotations

from fractions import Fraction

import pytest

from mpqc.errors import UsageError
from mpqc.facts.amounts import amount_of, format_amount, format_budget, parse_average_bits, parse_budget, parse_exactly
from mpqc.values.budget import Budget, Resource


@pytest.mark.parametrize(
    ("resource", "text", "limit"),
    [
        (Resource.LATENCY, "20ms", 20_000.0),
        (Resource.LATENCY, "1.5 s", 1.5e6),
        (Resource.LATENCY, "750us", 750.0),
        (Resource.SIZE, "1.5MB", 1.5 * 1024**2),
        (Resource.SIZE, "70kB", 70 * 1024.0),
        (Resource.BOPS, "3GBOPs", 3e9),
        (Resource.PEAK_MEMORY, "8KB", 8192.0),
        (Resource.ENERGY, "2mJ", 2e6),
        (Resource.BOPS, "32.77824MBOPs", 32_778_240.0),  # in floats 32778239.999999996
        (Resource.LATENCY, "0.0003s", 300.0),
    ],
)
def test_amounts_are_read_in_the_unit_of_the_resource(resource: Resource, text: str, limit: float) -> None:
    assert parse_budget(resource, text) == Budget(resource, limit)


@pytest.mark.parametrize("text", ["20", "ms", "20 minutes", "-5ms", "0ms", "nan ms", "1e400ms?", ""])
def test_an_amount_that_cannot_be_meant_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="--budget-latency") as caught:
        parse_budget(Resource.LATENCY, text)
    assert caught.value.exit_code == 2


def test_average_bits_bound_either_side_or_both() -> None:
    assert parse_average_bits("4/3") == (Budget(Resource.WEIGHT_BITS, 4.0), Budget(Resource.ACTIVATION_BITS, 3.0))
    assert parse_average_bits("3.5/-") == (Budget(Resource.WEIGHT_BITS, 3.5),)


@pytest.mark.parametrize("text", ["4", "-/-", "a/b", "4/4/4", "1.2.3/4", "0/4"])
def test_average_bits_that_bound_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--budget-avg-bits"):
        parse_average_bits(text)


def test_amounts_print_in_their_largest_unit() -> None:
    assert format_amount(Resource.LATENCY, 1234.0) == "1.234 ms"
    assert format_amount(Resource.SIZE, 70 * 1024) == "70 kB"
    assert format_amount(Resource.SIZE, 0) == "0 B"
    assert format_amount(Resource.WEIGHT_BITS, 3.25) == "3.25 bits"


def test_amounts_are_rounded_up_to_the_digits_asked_for_and_limits_print_in_full() -> None:
    assert format_amount(Resource.LATENCY, Fraction("15190.001"), 4) == "15.2 ms"
    assert format_amount(Resource.LATENCY, Fraction("15190.001"), 8) == "15.190001 ms"
    assert format_amount(Resource.SIZE, Fraction(21377), 5) == "21377 B"
    for text in ("32.77824 MBOPs", "7 BOPs", "1.5 GBOPs"):
        assert format_budget(parse_budget(Resource.BOPS, text)) == f"bops <= {text}"
    assert amount_of(Resource.SIZE, "1.5 kB") == 1536


def test_budgets_that_differ_are_never_the_same_text() -> None:
    near, nearer = parse_budget(Resource.SIZE, "1.50001MB"), parse_budget(Resource.SIZE, "1.50002MB")
    assert str(near) != str(nearer)
    assert format_budget(near) != format_budget(nearer)


@pytest.mark.parametrize(("text", "exact"), [("0.1us", Fraction(1, 10)), ("1e-3ms", 1), ("0.3ms", 300), ("16777217.5us", Fraction(33554435, 2))])
def test_amounts_are_read_without_rounding(text: str, exact: Fraction | int) -> None:
    assert parse_exactly(Resource.LATENCY, text) == exact


@pytest.mark.parametrize("text", ["1e999999999ms", "1e-999999999ms"])
def test_an_amount_that_no_float_holds_is_refused_at_once(text: str) -> None:
    with pytest.raises(UsageError, match="not a number above zero"):
        parse_budget(Resource.LATENCY, text)
