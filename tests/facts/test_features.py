"""Instruction sets: a core gets the best code that its features allow, and nothing falls into slow loops unsaid."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from mpqc import targets
from mpqc.errors import LoweringError, TargetError
from mpqc.facts import features
from mpqc.facts.features import EMULATED, FEATURES, FORMS, PORTABLE, Form, KernelName, best_form
from mpqc.facts.kernels import PIXEL_TILES
from mpqc.lowering.kernels import depthwise, elementwise, matmul, requant
from mpqc.lowering.kernels.forms import PRODUCT_FORMS
from mpqc.lowering.kernels.kernel import KernelTarget
from mpqc.lowering.relax_module import kernel_target
from mpqc.targets import Target, load_target

PROBE = Path(__file__).with_name("probe.c")


def edited(folder: Path, **keys: str) -> Path:
    """The file of cortex-a76 without its cost rows, some keys with other values."""
    lines = (targets.FOLDER / "cortex-a76.toml").read_text(encoding="utf-8").splitlines()
    kept = [f"{line.split(' = ')[0]} = {keys[line.split(' = ')[0]]}" if line.split(" = ")[0] in keys else line for line in lines]
    path = folder / "chip.toml"
    path.write_text("\n".join(line for line in kept if not line.startswith("cost_rows")) + "\n", encoding="utf-8")
    return path


def loaded(folder: Path, **keys: str) -> Target:
    return load_target(edited(folder, **keys))


def test_every_form_needs_features_that_exist_and_the_last_is_the_least_demanding() -> None:
    assert set(FORMS) == set(get_args(KernelName))
    for forms in FORMS.values():
        assert all(form.needs <= set(FEATURES) for form in forms)
        assert all(not form.needs <= later.needs for n, form in enumerate(forms) for later in forms[n + 1 :]), "a form behind one that always runs"


def test_every_feature_includes_features_of_its_machine() -> None:
    for feature in FEATURES.values():
        assert all(FEATURES[other].machine == feature.machine for other in feature.includes)
        assert all(set(FEATURES[other].includes) <= set(feature.includes) for other in feature.includes), f"{feature.name} includes not all"


CODES: dict[KernelName, Mapping[str, object]] = {
    "product": PRODUCT_FORMS,
    "depthwise": depthwise.FORMS,
    "matmul": matmul.FORMS,
    "requantization": requant.FORMS,
    "binary": elementwise.BINARY_FORMS,
    "table": elementwise.TABLE_FORMS,
    "residual": {"dotprod": True},
    "winograd": {"dotprod": True},
    "winograd16": {"neon": True},
}
"""What each kernel has code for; the last three have one form and are used or not"""


@pytest.mark.parametrize("kernel", FORMS)
def test_every_form_of_a_kernel_has_code(kernel: KernelName) -> None:
    assert set(CODES[kernel]) == {form.name for form in FORMS[kernel]}
    assert set(PIXEL_TILES) == set(CODES["product"])


def test_a_form_without_code_is_refused_and_no_slower_one_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(features.FORMS, "matmul", (Form("matrices", frozenset({"neon", "i8mm"})), *FORMS["matmul"]))  # type: ignore[misc]
    core = KernelTarget(frozenset({"neon", "dotprod", "i8mm"}))
    with pytest.raises(LoweringError, match="the form matrices of the kernel matmul has no code"):
        core.code("matmul", matmul.FORMS)
    assert KernelTarget(frozenset({"neon", "dotprod"})).code("matmul", matmul.FORMS)


@pytest.mark.parametrize("kernel", FORMS)
@pytest.mark.parametrize("more", ["i8mm", "made-up"])
def test_a_further_feature_never_changes_a_form_for_the_worse(kernel: KernelName, more: str) -> None:
    for has in ((), ("neon",), ("neon", "dotprod")):
        assert best_form(kernel, (*has, more)) == best_form(kernel, has)


def test_a_target_with_a_further_feature_gets_the_dotprod_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up feature too: it stands in the table of features and no form needs it."""
    monkeypatch.setitem(features.FEATURES, "matrices", replace(FEATURES["i8mm"], name="matrices", attribute="matrices"))  # type: ignore[misc]
    for isa in ('["neon", "dotprod", "i8mm"]', '["neon", "dotprod", "matrices"]'):
        chip = loaded(tmp_path, isa=isa, qemu_cpu='"neoverse-v2"')
        assert kernel_target(chip).form("product") == "dotprod"
        assert chip.notes == ()


def test_a_core_without_dotprod_gets_neon_and_no_residual(tmp_path: Path) -> None:
    core = kernel_target(loaded(tmp_path, isa='["neon"]'))
    assert [core.form(kernel) for kernel in ("product", "depthwise", "matmul", "requantization")] == ["neon", "neon", "generic", "neon"]
    assert not core.has("residual")
    with pytest.raises(LoweringError, match="residual has no form for a core with neon"):
        core.form("residual")


def test_a_core_without_features_gets_portable_loops_and_says_so(tmp_path: Path) -> None:
    chip = loaded(tmp_path, isa="[]")
    assert kernel_target(chip).form("product") == PORTABLE.name
    assert chip.notes == ("cortex-a76: no kernels for its instruction set (features listed: none), so portable loops run",)
    assert KernelTarget(frozenset()).form("product") == PORTABLE.name


@pytest.mark.parametrize(
    ("isa", "qemu", "where", "what"),
    [
        ('["neon", "dotpord"]', "cortex-a76", "isa", "'dotpord' is no feature that mpqc knows (neon, fp16, dotprod"),
        ('["dotprod"]', "cortex-a76", "isa", "every core with 'dotprod' has 'neon'"),
        ('["neon", "sve2", "fp16"]', "max", "isa", "every core with 'sve2' has 'sve'"),
        ('["neon", "dotprod"]', "cortex-a72", "qemu_cpu", "cortex-a72 has no dotprod"),
    ],
)
def test_what_cannot_be_is_refused_by_name(isa: str, qemu: str, where: str, what: str, tmp_path: Path) -> None:
    path = edited(tmp_path, isa=isa, qemu_cpu=f'"{qemu}"')
    with pytest.raises(TargetError) as error:
        load_target(path)
    assert error.value.where == f"{path}: {where}"
    assert what in error.value.what


def test_a_feature_of_another_machine_is_refused(tmp_path: Path) -> None:
    path = edited(tmp_path, mtriple='"x86_64-linux-gnu"')
    with pytest.raises(TargetError, match="'neon' is a feature of aarch64, the code is for x86_64"):
        load_target(path)


def test_llvm_is_told_the_features_and_what_the_file_adds(tmp_path: Path) -> None:
    path = edited(tmp_path, isa='["neon", "dotprod"]')
    path.write_text(path.read_text(encoding="utf-8").replace('mcpu = "cortex-a76"', 'mcpu = "generic"\nmattr = ["+lse", "+neon"]'), encoding="utf-8")
    assert load_target(path).llvm_target["mattr"] == ["+neon", "+dotprod", "+lse"]


@pytest.mark.emulator
def test_emulated_cores_have_what_the_table_says(tmp_path: Path) -> None:
    """Bits of the auxiliary vector as well: a program asks for every feature on every core that this emulator knows."""
    from mpqc.lowering.toolchain import zig
    from mpqc.runtime.run import emulator

    program = tmp_path / "probe"
    zig("cc", "aarch64-linux-gnu", ["-O1", PROBE, "-o", program])
    asked = [str(value) for feature in FEATURES.values() for value in (16 if feature.word == "AT_HWCAP" else 26, feature.bit)]
    seen = 0
    for core, has in EMULATED.items():
        done = subprocess.run([*emulator(core), str(program), *asked], capture_output=True, text=True, check=False)
        if "unable to find CPU model" in done.stderr:
            continue
        assert {name for name, bit in zip(FEATURES, done.stdout.split(), strict=True) if bit == "1"} == has, core
        seen += 1
    assert seen >= 5
