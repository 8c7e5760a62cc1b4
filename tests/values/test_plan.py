"""Plans and sensitivities survive their files; a file that is not one is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mpqc.errors import PlanError, UsageError
from mpqc.values.budget import Resource
from mpqc.values.plan import Choice, Plan, Proof, Use, bits_by_group, group_bits, read_plan, uniform_plan
from mpqc.values.qtype import QType
from mpqc.values.sensitivities import Sensitivities, read_sensitivities
from mpqc.values.site import FloatNode, OpNode, Site, SiteKind, SiteTable
from mpqc.values.site_file import read_sites, write_sites

PLAN = Plan(
    "cortex-a76", (Choice("w", SiteKind.WEIGHT, 4, "saves 3 us", 0.5),), Proof("optimal", 1.0, 1.0), (Use(Resource.SIZE, 12.0, 16.0),), "fit", ("n",)
)
TABLE = SiteTable(
    (Site("w", SiteKind.WEIGHT, (8, 4), 0), Site("x", SiteKind.ACTIVATION, (1, 4), group="g"), Site("y", SiteKind.ACTIVATION, (1, 8), group="g")),
    (OpNode("fc", "Gemm", ("x",), "y", "w", (1, 4), (1, 8), (8, 4), 32),),
    (FloatNode("sm", "Softmax", "no integer kernel"),),
    (("x", "y"),),
)


def test_a_plan_is_what_its_file_says(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(PLAN.to_json())
    assert read_plan(path) == PLAN
    assert PLAN.bits("w") == 4
    assert PLAN.bits("elsewhere") is None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda raw: raw.pop("choices"), "choices"),
        (lambda raw: raw.update(schema_version=9), "schema_version"),
        (lambda raw: raw["choices"][0].update(kind="scale"), "scale"),
        (lambda raw: raw["choices"][0].update(bits="4"), "'4'"),
        (lambda raw: raw["choices"][0].update(bots=4), "bots"),
        (lambda raw: raw.update(extra=1), "extra"),
    ],
)
def test_a_file_that_is_no_plan_names_the_file_and_the_fault(tmp_path: Path, change, fault: str) -> None:  # type: ignore[no-untyped-def]
    raw = json.loads(PLAN.to_json())
    change(raw)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(PlanError, match=fault) as caught:
        read_plan(path)
    assert "plan.json" in str(caught.value)


def test_bits_outside_one_to_sixteen_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(PLAN.to_json().replace('"bits": 4', '"bits": 40'))
    with pytest.raises(PlanError, match=r"plan\.json: w: 40 bits"):
        read_plan(path)


def test_the_uniform_plan_gives_each_kind_its_bits() -> None:
    plan = uniform_plan(TABLE, "abstract", 4, 8)
    assert {choice.site: choice.bits for choice in plan.choices} == {"w": 4, "x": 8, "y": 8}


def test_groups_and_containers() -> None:
    assert [site.name for site in TABLE.groups["g"]] == ["x", "y"]
    assert [QType(bits).container for bits in (1, 2, 3, 4, 5, 8, 9)] == [2, 2, 4, 4, 8, 8, 16]
    assert (QType(4).qmin, QType(4).qmax) == (-8, 7)
    assert QType.parse("int4") == QType(4)
    with pytest.raises(UsageError, match="uint8"):
        QType.parse("uint8")


def test_sensitivities_survive_their_file_and_refuse_nan(tmp_path: Path) -> None:
    table = Sensitivities("fit", "loss", {"w": {2: 1.5, 8: 0.0}}, "noise", "abc", ("n",))
    path = tmp_path / "sensitivities.json"
    path.write_text(table.to_json())
    assert read_sensitivities(path) == table
    with pytest.raises(PlanError, match="conv7") as caught:
        Sensitivities("fit", "loss", {"conv7": {4: float("nan")}})
    assert "4 bits" in str(caught.value)
    path.write_text("{")
    with pytest.raises(PlanError, match=r"sensitivities\.json"):
        read_sensitivities(path)


def test_the_site_table_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "sites.json"
    path.write_text(write_sites(TABLE))
    assert read_sites(path) == TABLE
    path.write_text('{"sites": [{"name": 3}]}')
    with pytest.raises(PlanError, match=r"sites\.json"):
        read_sites(path)


def test_one_check_says_what_groups_get_and_names_members_that_differ() -> None:
    assert group_bits(TABLE, {"y": 4}) == {"g": 4}
    assert bits_by_group(TABLE, uniform_plan(TABLE, "abstract", 4, 8)) == {"w": 4, "g": 8}
    assert bits_by_group(TABLE, PLAN) == {"w": 4, "g": None}
    with pytest.raises(PlanError, match="g: sites that share qparams have different bits: x 4, y float"):
        group_bits(TABLE, {"x": 4, "y": None})
    with pytest.raises(PlanError, match="g: sites that share qparams have different bits: x float, y 8"):
        bits_by_group(TABLE, replace(PLAN, choices=(Choice("y", SiteKind.ACTIVATION, 8),)))
    with pytest.raises(PlanError, match="stranger: no such site"):
        group_bits(TABLE, {"stranger": 4})


def test_uses_are_found_by_resource_and_keep_their_text() -> None:
    assert PLAN.used(Resource.SIZE) == 12.0
    assert PLAN.use(Resource.SIZE) == Use(Resource.SIZE, 12.0, 16.0)
    assert PLAN.used(Resource.LATENCY) is None
    assert json.loads(PLAN.to_json())["uses"] == [
        {"resource": "size", "used": 12.0, "limit": 16.0, "unpriced": [], "error_percent": 0, "built": None}
    ]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"saves 3 us"', "[1]", "choices[0].reason"), ("0.5", '"much"', "choices[0].sensitivity"),
        ("0.5", "NaN", "choices[0].sensitivity"), ("0.5", "1e999", "choices[0].sensitivity"),
        ('"size"', '"[red]x[/red]"', "uses[0].resource"), ("12.0", "Infinity", "uses[0].used"),
        ('"n"', "7", "notes[0]"), ('"cortex-a76"', "null", "target"),
        ('"seed": 0', '"seed": 1.5', "proof.seed"), ('"bits": 4', '"bits": true', "choices[0].bits"), ('"n"', "[" * 90000, "not JSON"),
        ('"n"', '"\\ud800"', "not JSON"), ('"seed": 0', '"seed": ' + "9" * 5000, "plan.json"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used_is_refused_by_its_key(tmp_path: Path, old: str, new: str, fault: str) -> None:
    path = tmp_path / "plan.json"
    assert old in PLAN.to_json()
    path.write_text(PLAN.to_json().replace(old, new))
    with pytest.raises(PlanError) as refused:
        read_plan(path)
    assert fault in str(refused.value)
    assert "plan.json" in str(refused.value)


@pytest.mark.parametrize("values", [{"w": {"8": 10**400}}, {"w": {"eight": 1.0}}, {"w": [1]}, {"w": {"8": None}}, [], 3])
def test_sensitivities_of_another_type_are_refused(tmp_path: Path, values: object) -> None:
    path = tmp_path / "sensitivities.json"
    path.write_text(json.dumps({**json.loads(Sensitivities("fit", "nats", {}).to_json()), "values": values}))
    with pytest.raises(PlanError, match=r"sensitivities\.json"):
        read_sensitivities(path)
