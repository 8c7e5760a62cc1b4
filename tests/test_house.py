"""The house: rooms import one way and never in a circle, and what has to be registered is. docs/architecture.md has the order."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import networkx as nx
import pytest

from mpqc.strategies import TRAINED, make_strategy

REPO = Path(__file__).resolve().parent.parent
FOLDERS = {"mpqc": REPO / "mpqc", "mpqc.passes": REPO / "passes", "mpqc.targets": REPO / "targets"}
PIPELINES = ("mpqc.frontend.network", "mpqc.passes.prepare_quantizers")
MOST = 6
"""Parameters of a function"""
LONGER = {"frontend", "lowering", "numerics", "strategies", "timing", "training"}
"""Rooms with functions of an op's attributes, of a kernel's shapes, or of a gradient"""
DOORS = {"mpqc.flow.api.compile", "mpqc.allocator.build.allocate", "mpqc.data.batches.open_data", "mpqc.sensitivity.measure.measure"}
"""What users call, with a name for every question"""
MANUAL = {"mpqc.passes.apply_plan", "mpqc.passes.prune_channels"}
"""Passes that run alone, where somebody asks for them: a plan is tried out, channels go"""


@cache
def modules() -> dict[str, Path]:
    """Dotted name of every module -> its file."""
    found = {}
    for package, folder in FOLDERS.items():
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            if package != "mpqc" or parts[0] not in ("passes", "targets"):
                found[".".join((package, *parts)).removesuffix(".__init__")] = file
    return found


@cache
def imported(module: str) -> frozenset[str]:
    """What `module` imports of mpqc, wherever the import stands."""
    return frozenset(_imported(module))


def _imported(module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mpqc":
            yield from (name if (name := f"{node.module}.{alias.name}") in modules() else str(node.module) for alias in node.names)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "mpqc")


@cache
def rooms() -> tuple[str, ...]:
    """The rooms in the order that docs/architecture.md gives."""
    text = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = text.split("<!-- rooms")[1].split("<!-- end of rooms")[0]
    return tuple(re.findall(r"^    (\w+)  ", listed, re.MULTILINE))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_the_root_holds_only_what_everything_needs() -> None:
    inside = {path.name for path in (REPO / "mpqc").iterdir() if path.name != "__pycache__"}
    assert inside == {"__init__.py", "__main__.py", "errors.py", *rooms()}


@pytest.mark.parametrize("name", rooms())
def test_a_room_imports_only_rooms_above_it(name: str) -> None:
    allowed = {"", "errors", *rooms()[: rooms().index(name) + 1]}
    edges = [(module, other) for module in modules() if room(module) == name for other in sorted(imported(module))]
    assert [edge for edge in edges if room(edge[1]) not in allowed] == []


@cache
def doors() -> dict[str, tuple[set[str], set[str]]]:
    """Library -> rooms whose modules load it at import, rooms whose functions do, as docs/architecture.md says."""
    text = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8").split("<!-- doors")[1].split("<!-- end of doors")[0]
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|([^|]*)\|$", text, re.MULTILINE)
    return {library: (set(re.findall(r"\w+", early)), set(re.findall(r"\w+", late))) for library, early, late in rows}


def libraries(tree: ast.AST, *, late: bool = False) -> Iterator[tuple[str, bool]]:
    """Every library that is imported in `tree`, and whether a function does it; imports for type checkers load nothing."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0], late
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield from libraries(node, late=late or isinstance(node, ast.FunctionDef))


def test_heavy_libraries_are_loaded_where_the_table_says() -> None:
    found: dict[str, tuple[set[str], set[str]]] = {library: (set(), set()) for library in doors()}
    for module, path in modules().items():
        for library, late in libraries(ast.parse(path.read_text(encoding="utf-8"))):
            if library in found:
                found[library][late].add(room(module))
    assert found == doors()


def test_the_product_names_no_path_outside_the_repository() -> None:
    texts = [path for folder in FOLDERS.values() for path in folder.rglob("*") if path.suffix in (".py", ".toml", ".md", ".c", ".h", ".cc")]
    outside = re.compile(r"(?<!\$ORIGIN/)\.\./|parents\[[3-9]|MPQC_SHARED|shared/")
    assert len(texts) > 200
    assert [str(path) for path in texts if outside.search(path.read_text(encoding="utf-8"))] == []


def parameters(module: str) -> Iterator[tuple[str, int]]:
    """Every function of `module`, and how many parameters it has."""
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            yield f"{module}.{node.name}", sum(item.arg not in ("self", "cls") for item in given)


def test_functions_take_records_instead_of_many_values() -> None:
    ours = [module for module in modules() if room(module) in set(rooms()) - LONGER]
    assert {name for module in ours for name, count in parameters(module) if count > MOST} <= DOORS


def test_files_are_short() -> None:
    assert {str(path) for path in modules().values() if len(path.read_text(encoding="utf-8").splitlines()) >= 400} == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = nx.DiGraph([(module, other) for module in modules() for other in imported(module) if other != module])
    assert [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_every_pass_is_in_its_pipeline_or_runs_alone() -> None:
    passes = {f"mpqc.passes.{path.stem}" for path in (REPO / "passes").glob("*.py") if path.stem != "__init__"} - {PIPELINES[1]}
    assert {name for name in passes if not any(name in imported(pipeline) for pipeline in PIPELINES)} == MANUAL
    assert {other for module in modules() for other in imported(module)} >= MANUAL


def test_every_pass_has_tests() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (REPO / "tests").rglob("test_*.py"))
    names = {path.stem for path in (REPO / "passes").glob("*.py")} - {"__init__"}
    assert {name for name in names if not re.search(rf"mpqc\.passes\.{name}\b", tests)} == set()


def recipes() -> list[str]:
    """Where to add something, one paragraph each."""
    text = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    return re.findall(r"^\*\*.*?(?=\n\n|\Z)", text.split("## Where to add something")[1].split("\n## ")[0], re.MULTILINE | re.DOTALL)


def test_recipes_are_short_and_name_tests_and_files_that_exist() -> None:
    assert len(recipes()) == 8
    for recipe in recipes():
        assert len(recipe.splitlines()) <= 5, recipe
        files = re.findall(r"`((?:mpqc|passes|targets|tests|benchmarks|docs)/[\w/.]+\.(?:py|md))", recipe)
        named = [path for path in files if "NAME" not in path]
        assert all((REPO / path).is_file() for path in named), named
        tests = "".join((REPO / path).read_text(encoding="utf-8") for path in files if path.startswith("tests/"))
        assert tests, recipe
        assert all(f"def {name}(" in tests for name in re.findall(r"\b(test_\w+)(?=`)", recipe) if f"{name}.py" not in recipe), recipe


@pytest.mark.parametrize("name", ["fixed", *TRAINED])
def test_every_strategy_can_be_made(name: str) -> None:
    assert make_strategy(name)


@pytest.mark.parametrize("name", import_module("mpqc").__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(import_module("mpqc"), name) is not None
