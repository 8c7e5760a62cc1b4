"""One record a resource: every member has one, and all that mpqc says of budgets comes from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mpqc
from mpqc.errors import TargetError, UsageError
from mpqc.facts.amounts import format_amount, parse_budget, parse_flag
from mpqc.facts.resources import RESOURCES, Flag, flags, over_names, resource_named, resources_of
from mpqc.values.budget import Resource
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import OpNode, Site, SiteKind, SiteTable
from mpqc.values.site_file import write_sites
from tests.cli_runs import Done, Mpqc

ROOT = Path(__file__).parents[2]
WEIGHT, ACTIVATION = SiteKind.WEIGHT, SiteKind.ACTIVATION
TABLE = SiteTable(
    sites=(Site("x", ACTIVATION, (1, 100)), Site("w1", WEIGHT, (40, 100), 0), Site("h", ACTIVATION, (1, 40)), Site("w2", WEIGHT, (40, 40), 0)),
    nodes=(
        OpNode("fc1", "Gemm", ("x",), "h", "w1", (1, 100), (1, 40), (40, 100), 4000, bias_elements=40),
        OpNode("fc2", "Gemm", ("h",), "y", "w2", (1, 40), (1, 40), (40, 40), 1600, bias_elements=40),
    ),
    live=(("x", "h"), ("h",)),
)
SENSITIVITIES = Sensitivities("fit", "nats", {site.name: {bits: 2.0**-bits for bits in (2, 4, 8)} for site in TABLE.sites})
WORN = 3.0 * 5600
"""Of the table's weights, a bit"""


def test_every_resource_has_a_record() -> None:
    assert set(RESOURCES) == set(Resource)


@pytest.mark.parametrize("resource", Resource)
def test_the_units_count_from_one_and_print_back(resource: Resource) -> None:
    units = RESOURCES[resource].units
    assert min(units.values()) == 1
    for unit, factor in units.items():
        assert parse_budget(resource, f"1.5{unit}").limit == 1.5 * factor
        assert parse_budget(resource, format_amount(resource, 1.5 * factor)).limit == 1.5 * factor


def test_flags_and_classes_have_names_of_their_own() -> None:
    for names in ([flag.name for flag in flags()], [flag.bound for flag in flags()], [facts.label for facts in RESOURCES.values()]):
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("flag", flags(), ids=lambda flag: flag.name)
def test_the_example_of_a_flag_is_what_its_class_takes(flag: Flag) -> None:
    bound = getattr(mpqc, flag.bound)(flag.example)
    assert tuple(budget.resource for budget in bound.budgets) == resources_of(flag)
    assert flag.bound in mpqc.__all__
    assert flag.example in (bound.__doc__ or "")
    with pytest.raises(UsageError, match=flag.bound):
        getattr(mpqc, flag.bound)(20)


@pytest.mark.parametrize("flag", flags(), ids=lambda flag: flag.name)
def test_a_complaint_names_the_option_that_exists(flag: Flag, mpqc: Mpqc, tmp_path: Path) -> None:
    assert flag.option in mpqc("allocate", tmp_path, flag.option, "8 parsecs").complaint(2)
    assert flag.option in mpqc("allocate", tmp_path, flag.option, "").complaint(2)


@pytest.mark.parametrize("flag", flags(), ids=lambda flag: flag.name)
def test_help_and_documentation_show_every_option(flag: Flag, mpqc: Mpqc) -> None:
    assert f"{flag.option} {flag.example}" in (ROOT / "docs" / "using.md").read_text(encoding="utf-8")
    for command in ("compile", "allocate"):
        assert flag.option in mpqc(command, "--help").out


def test_over_takes_the_names_of_plans_and_of_flags(mpqc: Mpqc) -> None:
    assert [resource_named(name) for name in over_names()] == list(Resource)
    assert resource_named("activation-memory") is Resource.PEAK_MEMORY
    listed = " ".join(mpqc("pareto", "--help").out.split())
    assert all(name in listed for name in over_names())
    with pytest.raises(UsageError, match="--over"):
        resource_named("avg-bits")


def test_several_amounts_in_one_flag_are_as_many_as_its_resources() -> None:
    flag = RESOURCES[Resource.WEIGHT_BITS].flag
    assert parse_flag(flag, "-/3.5") == (parse_budget(Resource.ACTIVATION_BITS, "3.5"),)
    with pytest.raises(UsageError, match="WEIGHT_BITS/ACTIVATION_BITS"):
        parse_flag(flag, "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `mpqc analyze` leaves, of a table whose costs can be added up by hand."""
    place = tmp_path_factory.mktemp("saved")
    (place / "sites.json").write_text(write_sites(TABLE), encoding="utf-8")
    (place / "sensitivities.json").write_text(SENSITIVITIES.to_json(), encoding="utf-8")
    return place


def with_wear(*arguments: object) -> Done:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "tests.facts.made_up_resource", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300, cwd=ROOT)
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_made_up_resource_is_bounded_and_priced_as_its_record_says(folder: Path) -> None:
    done = with_wear("allocate", folder, "--target", "abstract", "--budget-rubbing", "80.5kWo", "--json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    use = next(use for use in plan["uses"] if use["resource"] == "wear")
    bits = {choice["site"]: choice["bits"] for choice in plan["choices"]}
    assert use["limit"] == 80_500.0
    assert use["used"] == 3.0 * (4000 * bits["w1"] + 1600 * bits["w2"]) <= 80_500.0


def test_a_made_up_resource_is_printed_in_its_units(folder: Path) -> None:
    done = with_wear("allocate", folder, "--target", "abstract", "--budget-rubbing", "90kWo")
    assert "worn off: " in done.out, done.err
    assert "kWo of 90 kWo" in done.out
    assert "saves " in done.out
    assert " kWo for " in done.out


def test_a_made_up_resource_is_swept(folder: Path) -> None:
    done = with_wear("pareto", folder, "--target", "abstract", "--over", "wear", "--points", "3", "--json")
    assert done.code == 0, done.err
    assert [point["limit"] for point in json.loads(done.out)] == [2 * WORN, 5 * WORN, 8 * WORN]
    assert "wear" in with_wear("pareto", folder, "--over", "beauty").complaint(2)
    assert "--budget-rubbing" in with_wear("compile", "--help").out


def test_a_made_up_resource_is_refused_by_its_names(folder: Path) -> None:
    wrong = with_wear("allocate", folder, "--target", "abstract", "--budget-rubbing", "80").complaint(2)
    assert "--budget-rubbing: '80' has no unit (use one of Wo, kWo, for example 12kWo)" in wrong
    low = with_wear("allocate", folder, "--target", "abstract", "--budget-rubbing", "1Wo").complaint(3)
    assert "cannot meet wear <= 1 Wo (the least possible is 33.6 kWo) (raise --budget-rubbing to at least that" in low
    lacking = with_wear("allocate", folder, "--target", "cortex-a72", "--budget-rubbing", "90kWo").complaint(2)
    assert "worn off cannot be bounded: the target has no wear table" in lacking


def test_a_made_up_resource_has_its_class() -> None:
    assert with_wear().out.splitlines() == ["Rubbing(amount='2kWo') wear <= 2000.0 True"]


def test_what_a_target_lacks_is_said_with_the_key_that_gives_it() -> None:
    model = mpqc.CostModel(mpqc.load_target("cortex-a76"))
    with pytest.raises(TargetError, match=r"energy cannot be bounded: the target has no energy table \(bound size, .*\(energy in its TOML\)"):
        model.require(Resource.ENERGY)
