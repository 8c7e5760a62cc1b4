"""`mpqc explain`: the layer or tensor that is meant, its alternatives, and no guess where several are meant."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from mpqc.errors import UsageError
from mpqc.report.explain import explain_lines, explained
from mpqc.report.model import FloatRow
from mpqc.values.site import SiteKind
from tests.report.pages import EVIL, page_report

REPORT = page_report(20)


def test_a_layer_is_told_of_with_its_alternatives() -> None:
    lines = explain_lines(REPORT, "/features/features.7/block/conv.1/Conv")
    text = "\n".join(lines)
    assert lines[0].startswith("/features/features.7/block/conv.1/Conv: Conv+Relu, output 1x23x8x8, 7,000 MACs")
    assert "time: 493 us predicted, 5.0 % of all layers" in text
    assert "weights weight 7 (16x16x3x3): 4 bits" in text
    assert "values -8 to 2, 25.0 % zeros; codes reach -1 to 1.5, step 0.01" in text
    assert text.count("<- chosen") == 2
    assert sum(line.split()[0] in "2345678" for line in lines if line.strip()) >= 14


@pytest.mark.parametrize("name", ["features.13", "weight 13", "output 13"])
def test_a_part_of_a_name_and_a_tensor_are_enough(name: str) -> None:
    assert explain_lines(REPORT, name)[0].startswith("/features/features.13/")


def test_several_and_none_are_refused_with_names_that_are_near() -> None:
    with pytest.raises(UsageError, match=r"15 layers have 'features'.*nearest: /features/features.5"):
        explain_lines(REPORT, "features")
    with pytest.raises(UsageError, match=r"no layer or tensor is called 'wieght 3'.*nearest: weight"):
        explain_lines(REPORT, "wieght 3")


def test_what_stays_float_and_inputs_are_told_of_too() -> None:
    source = replace(REPORT.sites[0], name="pixels", kind=SiteKind.ACTIVATION)
    report = replace(REPORT, floats=(FloatRow("last", "Softmax", "Softmax has no integer kernel"),), sites=(source, *REPORT.sites))
    assert explain_lines(report, "last") == ["last: Softmax", "runs as: float", "why: Softmax has no integer kernel"]
    assert explained(report, "last") == {"layer": None, "float": asdict(report.floats[0]), "sites": []}
    assert explain_lines(report, "pixels")[0].startswith("input pixels (")
    assert explained(report, "PIXELS") == {"layer": None, "sites": [asdict(source)]}


def test_values_are_the_same_as_json() -> None:
    found = explained(REPORT, EVIL[2])
    assert found["layer"]["name"] == EVIL[2]  # type: ignore[index]
    assert [site["name"] for site in found["sites"]] == ["weight 2", "output 2"]  # type: ignore[union-attr]
