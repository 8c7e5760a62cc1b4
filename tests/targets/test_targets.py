"""Target files: what ships is good, what is wrong is named by file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpqc import targets
from mpqc.errors import TargetError, UsageError
from mpqc.targets import OpKind, check_target, list_targets, load_target

CORES = (
    "abstract",
    "bitfusion",
    "cortex-a35",
    "cortex-a53",
    "cortex-a55",
    "cortex-a72",
    "cortex-a73",
    "cortex-a76",
    "ethos-u55-256",
    "host",
    "neoverse-n1",
    "packed",
)
BOARDS = {"raspberry-pi-3": "cortex-a53", "raspberry-pi-4": "cortex-a72", "raspberry-pi-5": "cortex-a76", "rk3588": "cortex-a76"}
SHIPPED = (*CORES, *BOARDS)


def edited(folder: Path, name: str, old: str, new: str) -> Path:
    """A copy of a shipped target in `folder` with one text replaced."""
    text = (targets.FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    assert old in text
    for rows in targets.FOLDER.glob("*.csv"):
        (folder / rows.name).write_bytes(rows.read_bytes())
    path = folder / f"{name}.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def test_what_ships() -> None:
    assert list_targets() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_targets_pass_their_own_check(name: str) -> None:
    assert check_target(targets.FOLDER / f"{name}.toml") == []
    target = load_target(name)
    assert target.name == name
    assert target.sources
    assert (target.llvm is None) == (target.lowering == "cost-only")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_choice_has_a_kernel(name: str) -> None:
    target = load_target(name)
    for weights in target.choices.weights:
        for activations in target.choices.activations:
            assert target.kernel_bits(OpKind.CONV, weights, activations) is not None, (weights, activations)


OWN = {"name", "summary", "clock_hz", "sources"}


@pytest.mark.parametrize(("board", "core"), BOARDS.items())
def test_a_board_is_its_core_with_a_clock(board: str, core: str) -> None:
    target = load_target(board)
    assert target.model_dump(exclude=OWN) == load_target(core).model_dump(exclude=OWN)
    assert target.name == board


def test_a_chip_of_ones_own_made_from_a_core(tmp_path: Path) -> None:
    says = ("schema_version = 1", 'name = "mine"', 'base = "cortex-a76"', 'summary = "slow"', "clock_hz = 1_000_000", 'sources = ["here"]')
    text = "\n".join((*says, "[choices]", "weights = [8]", "activations = [8]", ""))
    (tmp_path / "mine.toml").write_text(text)
    mine = load_target(tmp_path / "mine.toml")
    assert (mine.clock_hz, mine.choices.weights, mine.rows) == (1_000_000, (8,), load_target("cortex-a76").rows)


@pytest.mark.parametrize("base", ["cortex-a7", "raspberry-pi-4", "../cortex-a76", 3])
def test_a_base_that_cannot_be(tmp_path: Path, base: object) -> None:
    (tmp_path / "mine.toml").write_text(f"base = {base!r}\n".replace("'", '"'))
    with pytest.raises(TargetError, match="no target that others can be made from"):
        load_target(tmp_path / "mine.toml")


def test_dotprod_is_where_it_should_be() -> None:
    assert {name for name in CORES if "dotprod" in load_target(name).features} == {"cortex-a55", "cortex-a76", "neoverse-n1"}


def test_llvm_target() -> None:
    assert load_target("cortex-a76").llvm_target == {
        "kind": "llvm",
        "mtriple": "aarch64-linux-gnu",
        "mcpu": "cortex-a76",
        "mattr": ["+neon", "+dotprod", "+fullfp16"],
    }
    assert load_target("abstract").llvm_target == {}


def test_narrow_widths_run_in_the_next_wider_kernel() -> None:
    target = load_target("cortex-a76")
    assert target.kernel_bits(OpKind.GEMM, 3, 4) == (4, 8)
    assert target.kernel_bits(OpKind.BINARY, None, 2) == (None, 8)
    assert target.kernel_bits(OpKind.GEMM, 9, 8) is None


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ("clock_hz = 2_400_000_000", "clock_hz = -1", "clock_hz", "greater than 0"),
        ("clock_hz = 2_400_000_000", 'clock_hz = "fast"', "clock_hz", "valid integer"),
        ("clock_hz = 2_400_000_000", "clock_hz = true", "clock_hz", "valid integer"),
        ("clock_hz", "clock_mhz", "clock_mhz", "unknown key"),
        ("l2_bytes", "l4_bytes", "caches.l4_bytes", "unknown key"),
        ("weights = [2, 4, 8]", "weights = [2, 4, 17]", "containers.weights[2]", "less than or equal to 16"),
        ("weights = [2, 4, 8]", "weights = [0]", "containers.weights[0]", "greater than or equal to 1"),
        ("weights = [2, 4, 8]", "weights = []", "containers.weights", "at least 1"),
        ("weights = [2, 4, 8]", "weights = [2, 4, 4]", "containers.weights", "more than once"),
        ("weights = [2, 4, 8]", "weights = [2, 4]", "choices.weights", "5 bits fit in no container"),
        ('lowering = "code"', 'lowering = "cost-only"', "llvm", "cost-only target has no [llvm]"),
        ('lowering = "code"', 'lowering = "magic"', "lowering", "'magic'"),
        ("schema_version = 1", "schema_version = 9", "schema_version", "9"),
        ('ops = ["conv"', 'ops = ["convolution"', "kernels[0].ops[0]", "'convolution'"),
        ("weight_bits = [2, 4, 8]\n", "", "kernels.weight_bits", "reads weights"),
        ('name = "cortex-a76"', 'name = "Cortex A76"', "name", "'Cortex A76'"),
        ('mcpu = "cortex-a76"\n', "", "llvm.mcpu", "is missing"),
        ("sources = [", "rows = [", "rows", "unknown key"),
    ],
)
def test_nonsense_is_named_by_file_and_key(tmp_path: Path, old: str, new: str, where: str, what: str) -> None:
    path = edited(tmp_path, "cortex-a76", old, new)
    problems = check_target(path)
    assert f"{path}: {where}" in [problem.where for problem in problems]
    assert what in " ".join(str(problem) for problem in problems)
    with pytest.raises(TargetError) as caught:
        load_target(path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_all_problems_are_listed_and_the_first_error_counts_them(tmp_path: Path) -> None:
    path = edited(tmp_path, "cortex-a76", "cores = 4", "cores = 0\ncolour = 3")
    assert {problem.where for problem in check_target(path)} == {f"{path}: cores", f"{path}: colour"}
    with pytest.raises(TargetError, match="1 more: mpqc targets check"):
        load_target(path)


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "chip.toml"
    path.write_bytes(b"\xff\xfe = [")
    with pytest.raises(TargetError, match=r"chip\.toml: cannot read the target"):
        load_target(path)
    with pytest.raises(TargetError, match=r"absent\.toml"):
        load_target(tmp_path / "absent.toml")


def test_a_name_that_nobody_has() -> None:
    with pytest.raises(UsageError, match=r"no target is called 'cortex-a7'.*cortex-a76"):
        load_target("cortex-a7")


def test_cost_rows_lie_beside_the_target(tmp_path: Path) -> None:
    path = edited(tmp_path, "cortex-a55", "alignment = 64", 'alignment = 64\ncost_rows = "../../etc/passwd"')
    assert [problem.where for problem in check_target(path)] == [f"{path}: cost_rows"]
