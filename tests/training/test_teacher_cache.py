"""What the float network says is computed once where it can be kept, and a phase that reads it is the phase that computed it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mpqc.errors import MpqcError
from mpqc.strategies import make_strategy
from mpqc.training import targets
from mpqc.training.loop import Loop
from mpqc.training.phase import Machine, prepare_loop
from mpqc.values.recipe import Recipe
from tests.training.phases import RECIPE, data, facts, run

SHORT = replace(RECIPE, evaluations=2)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "CHUNK", 4)


def counted(loop: Loop) -> list[int]:
    """Samples of every call of the float network from now on."""
    calls: list[int] = []
    teacher = loop.equipment.targets.teacher

    def count(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(len(inputs[0]))
        return teacher(*inputs)

    loop.equipment.targets.teacher = count
    return calls


def phase(folder: Path | None, recipe: Recipe = SHORT) -> Loop:
    return prepare_loop(facts(), make_strategy("fixed"), recipe, data(recipe), Machine(teacher_cache=folder))


def weights_of(loop: Loop) -> list[torch.Tensor]:
    return [item.detach().clone() for item in loop.root.parameters()]


def test_a_second_phase_does_not_run_the_float_network_and_is_the_same(tmp_path: Path) -> None:
    plain = run(phase(None), tmp_path / "plain")
    run(phase(tmp_path / "cache"), tmp_path / "first")
    second = phase(tmp_path / "cache")
    calls = counted(second)
    run(second, tmp_path / "second")
    held_out = len(second.equipment.samples.held_out)
    assert sum(calls) == held_out  # once, for two evaluations; none for the steps
    assert all(torch.equal(one, other) for one, other in zip(weights_of(plain), weights_of(second), strict=True))
    assert plain.history.losses == second.history.losses


def test_a_longer_phase_computes_what_is_missing(tmp_path: Path) -> None:
    run(phase(tmp_path / "cache", replace(SHORT, steps=6)), tmp_path / "short")  # one whole chunk of four
    longer = phase(tmp_path / "cache")
    calls = counted(longer)
    run(longer, tmp_path / "longer")
    assert calls.count(SHORT.batch) == SHORT.steps - 4


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch": 8}, {"augment": "flip_crop"}, {"augment": "flip_crop_mix"}])
def test_other_batches_have_other_outputs(tmp_path: Path, change: dict[str, object]) -> None:
    run(phase(tmp_path / "cache"), tmp_path / "one")
    recipe = replace(SHORT, **change)  # type: ignore[arg-type]
    other = phase(tmp_path / "cache", recipe)
    calls = counted(other)
    run(other, tmp_path / "other")
    assert calls.count(recipe.batch) >= recipe.steps


def test_a_damaged_file_is_computed_anew(tmp_path: Path) -> None:
    first = run(phase(tmp_path / "cache"), tmp_path / "first")
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    again = run(phase(tmp_path / "cache"), tmp_path / "again")
    assert first.history.losses == again.history.losses


def test_outputs_that_are_too_large_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "MOST_BYTES", 100)
    run(phase(tmp_path / "cache"), tmp_path / "run")
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MpqcError, match="cannot keep the float network's outputs") as caught:
        run(phase(tmp_path / "file" / "cache"), tmp_path / "run")
    assert "--teacher-cache" in caught.value.hint
