"""Changes of a module's source: each of one operator, comparison, condition, number, or of min for max. Used by mutate.py.

Texts, defaults of fields and what stands in a `raise` are not changed.
"""

from __future__ import annotations

import ast
import copy
import gc
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass

ORDER: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
CALLS = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil"}
UNCHANGED = (ast.Raise, ast.Assert, ast.JoinedStr, ast.arguments)
SKIPPED = ("decorator_list", "returns", "annotation")
Route = tuple[tuple[str, int | None], ...]
"""Field, and index where that is a list, of each step from a node to one below it"""


@dataclass(frozen=True, eq=False)
class Mutant:
    """A module with one change."""

    line: int
    old: str
    new: str
    tree: ast.Module
    statement: int | None
    """Index of the module's assignment that is changed; None: a function"""

    def __str__(self) -> str:
        return f"line {self.line}: {self.old}  >  {self.new}"


def mutants(source: str) -> Iterator[Mutant]:
    """Every change of `source`, from its top to its end."""
    tree = ast.parse(source)
    for index, statement in enumerate(tree.body):
        functions = isinstance(statement, (ast.FunctionDef, ast.ClassDef)) or any(isinstance(node, ast.Lambda) for node in ast.walk(statement))
        if not functions and not isinstance(statement, (ast.Assign, ast.AnnAssign)):
            continue
        for route in _places(statement, within=not functions):
            for old, new in _changes(_at(statement, route)):
                changed = copy.deepcopy(tree)
                _replace(changed.body[index], route, new)
                ast.fix_missing_locations(changed)
                yield Mutant(_at(statement, route).lineno, ast.unparse(old), ast.unparse(new), changed, None if functions else index)  # type: ignore[attr-defined]


def _places(node: ast.AST, within: bool, route: Route = ()) -> Iterator[Route]:
    """Places in `node` that may be changed: within functions, or anywhere in an assignment."""
    if isinstance(node, UNCHANGED):
        return
    if within:
        yield route
    inside = within or isinstance(node, (ast.FunctionDef, ast.Lambda))
    for step, child in _children(node):
        yield from _places(child, inside, (*route, step))


def _children(node: ast.AST) -> Iterator[tuple[tuple[str, int | None], ast.AST]]:
    for name, value in ast.iter_fields(node):
        if name in SKIPPED:
            continue
        if isinstance(value, list):
            yield from (((name, i), child) for i, child in enumerate(value) if isinstance(child, ast.AST))
        elif isinstance(value, ast.AST):
            yield (name, None), value


def _at(node: ast.AST, route: Route) -> ast.AST:
    for name, i in route:
        node = getattr(node, name) if i is None else getattr(node, name)[i]
    return node


def _replace(root: ast.AST, route: Route, new: ast.AST) -> None:
    *before, (name, i) = route
    parent, place = _at(root, tuple(before)), _at(root, route)
    new = ast.copy_location(copy.deepcopy(new), place)
    if i is None:
        setattr(parent, name, new)
    else:
        getattr(parent, name)[i] = new


def _changes(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """(node, another in its place)."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in ORDER.get(type(op), ()):
                yield node, _with(node, "ops", [*node.ops[:i], other(), *node.ops[i + 1 :]])
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in ARITHMETIC:
        yield node, _with(node, "op", ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield node, _with(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node, node.operand
    elif isinstance(node, ast.Call):
        yield from _other_call(node)
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield node.test, _with(node, "test", ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Constant):
        yield from ((node, ast.Constant(value)) for value in _numbers(node.value))


def _other_call(node: ast.Call) -> Iterator[tuple[ast.AST, ast.AST]]:
    field = {ast.Name: "id", ast.Attribute: "attr"}.get(type(node.func))
    name = getattr(node.func, field) if field else None
    if field and name in CALLS:
        yield node, _with(node, "func", _with(node.func, field, CALLS[name]))


def _numbers(value: object) -> tuple[object, ...]:
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):
        return (value + 1, value - 1)
    return (value * 1.5 + 1e-3,) if isinstance(value, float) else ()


def _with(node: ast.AST, name: str, value: object) -> ast.AST:
    changed = copy.copy(node)
    setattr(changed, name, value)
    return changed


def functions_of(module: types.ModuleType) -> list[types.FunctionType]:
    """Every living function that the module's file defines."""
    return [found for found in gc.get_objects() if type(found) is types.FunctionType and found.__code__.co_filename == module.__file__]


def apply_to(module: types.ModuleType, functions: list[types.FunctionType], mutant: Mutant) -> None:
    """Changes the imported `module`: its functions get the changed code, an assignment is run again, for those too that imported its names."""
    file = str(module.__file__)
    if mutant.statement is None:
        new = dict(_codes(compile(mutant.tree, file, "exec", dont_inherit=True)))
        for function in functions:
            function.__code__ = new[_key(function.__code__)]
        return
    statement = mutant.tree.body[mutant.statement]
    names = [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    before = {name: module.__dict__[name] for name in names}
    exec(compile(ast.Module([statement], []), file, "exec"), module.__dict__)
    for other in list(sys.modules.values()):
        for name, value in before.items():
            if getattr(other, "__dict__", {}).get(name) is value:
                setattr(other, name, module.__dict__[name])


def _codes(code: types.CodeType) -> Iterator[tuple[tuple[object, ...], types.CodeType]]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield _key(constant), constant
            yield from _codes(constant)


def _key(code: types.CodeType) -> tuple[object, ...]:
    """Name and line of a function; of a lambda also its column, as several may stand in a line."""
    columns = [position[2] for position in code.co_positions() if position[2] is not None]
    return code.co_qualname, code.co_firstlineno, min(columns) if columns and "<lambda>" in code.co_qualname else None
