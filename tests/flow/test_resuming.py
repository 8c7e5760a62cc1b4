"""What a second run picks up, and what it must not: results that were made of anything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, make_dataclass, replace
from pathlib import Path

import pytest

from mpqc.flow.pipeline import compile_network
from mpqc.flow.training_stage import TrainingInputs, training_strategy
from mpqc.targets import FOLDER, load_target
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Proof
from mpqc.values.preprocessing import Preprocessing
from mpqc.values.request import Options
from mpqc.workspace.digest import digest
from tests.quant_models import images
from tests.training.phases import RECIPE, data, facts, folded_model

SHORT = replace(RECIPE, steps=4, evaluations=1)


def kept(folder: Path, phase: str) -> set[str]:
    """Checkpoints of a phase."""
    return {path.name for path in (folder / ".mpqc").glob(f"{phase}-*")}


def test_an_edited_target_does_not_resume_what_was_decided_before(tmp_path: Path) -> None:
    """The same name, the same file, other facts: what it decided (channels, bits while training) is decided anew, what it did not stays."""
    chip, out = tmp_path / "chip.toml", tmp_path / "out"
    options = Options(target=str(chip), budgets=(Budget(Resource.WEIGHT_BITS, 1.6),), samples=16, strategy="auto", training=SHORT)
    names: dict[str, list[set[str]]] = {"pruning": [], "training": [], "calibration": [], "sensitivities": []}
    text = (FOLDER / "abstract.toml").read_text()
    edited = text.replace("15, 16]\nactivations", "15]\nactivations")
    assert edited != text
    for facts_of_the_chip in (text, edited, text):
        chip.write_text(facts_of_the_chip)
        compile_network(folded_model(), options, images(32), output=out)
        for phase, found in names.items():
            found.append(kept(out, phase))
    for phase in ("pruning", "training"):
        assert [len(found) for found in names[phase]] == [1, 2, 2], phase
    for phase in ("calibration", "sensitivities"):
        assert [len(found) for found in names[phase]] == [1, 1, 1], phase


def inputs() -> TrainingInputs:
    start = facts()
    return TrainingInputs(
        network=start.network,
        table=start.table,
        calibration=start.calibration,
        sensitivities=None,
        target=load_target("abstract"),
        budgets=(Budget(Resource.WEIGHT_BITS, 3.0),),
        fixed={},
        plan=start.plan,
        original=None,
        strategy=training_strategy("auto"),
        recipe=RECIPE,
        samples=data(),
    )


CHANGES: dict[str, Callable[[TrainingInputs], TrainingInputs]] = {
    "target": lambda of: replace(of, target=of.target.model_copy(update={"alignment": 16})),
    "budgets": lambda of: replace(of, budgets=(Budget(Resource.WEIGHT_BITS, 3.0000001),)),
    "fixed": lambda of: replace(of, fixed={"w0": None}),
    "plan": lambda of: replace(of, plan=replace(of.plan, choices=(replace(of.plan.choices[0], bits=2), *of.plan.choices[1:]))),
    "strategy": lambda of: replace(of, strategy=training_strategy("uniform")),
    "recipe": lambda of: replace(of, recipe=replace(of.recipe, momentum=0.91)),
    "labels": lambda of: replace(of, samples=replace(of.samples, labels=of.samples.trained * 0)),
    "held out": lambda of: replace(of, samples=replace(of.samples, held_out=of.samples.held_out[1:])),
    "normalisation": lambda of: replace(of, samples=replace(of.samples, batches=replace(of.samples.batches, preprocessing=Preprocessing(scale=0.5)))),
    "ranges": lambda of: replace(of, calibration=replace(of.calibration, method="minmax")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_training_is_found_again_by_everything_it_depends_on(what: str) -> None:
    assert digest(CHANGES[what](inputs())) != digest(inputs())


def test_a_field_that_training_gets_changes_its_name_by_itself() -> None:
    wider = make_dataclass("TrainingInputs", [("option", int, field(default=0))], bases=(TrainingInputs,), frozen=True)
    known = vars(inputs())
    assert len({digest(made) for made in (inputs(), wider(**known), wider(**known, option=1))}) == 3


def test_edited_costs_are_another_target(tmp_path: Path) -> None:
    """The same TOML file; one price in the table beside it differs."""
    (tmp_path / "chip.toml").write_text((FOLDER / "cortex-a76.toml").read_text())
    rows = (FOLDER / "cortex-a76.csv").read_text()
    found = []
    for text in (rows, rows.replace(",28628.9,", ",28629.9,"), rows):
        (tmp_path / "cortex-a76.csv").write_text(text)
        found.append(digest(replace(inputs(), target=load_target(str(tmp_path / "chip.toml")))))
    assert found[0] == found[2] != found[1]


def test_training_is_found_again_whatever_the_solver_took() -> None:
    later = replace(inputs(), plan=replace(facts().plan, proof=replace(facts().plan.proof, seconds=9.0)))
    assert digest(later) == digest(inputs())
    assert digest(replace(later, plan=replace(later.plan, proof=Proof("feasible")))) != digest(inputs())
