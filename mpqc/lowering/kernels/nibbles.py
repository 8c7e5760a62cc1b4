"""4-bit tensors stored two codes a byte: any kernel over bytes becomes one that loads and stores them so.

The layout: element 2i of the tensor as it lies in memory (layout.py) is in the low half of byte i, element 2i + 1 in the high half, both as
two's complement. The innermost extent is even, so a row of channels is whole bytes and a view of the tensor remains one. Codes are
unpacked in the load (ZIP, USHL, SSHR) and packed in the store (USHR, BSL, UZP); what lies between is the kernel as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.sym.analyzer import Analyzer

from mpqc.errors import LoweringError
from mpqc.lowering.kernels.kernel import Kernel

Expr = Any
SUFFIX = "two_a_byte"


@dataclass(frozen=True)
class Packing:
    """Which tensors of a kernel are stored two codes a byte."""

    inputs: tuple[bool, ...] = ()
    """One an activation input; those not named are not"""
    output: bool = False

    def input(self, index: int) -> bool:
        """Whether input `index` is."""
        return index < len(self.inputs) and self.inputs[index]

    def __bool__(self) -> bool:
        return self.output or any(self.inputs)

    @property
    def key(self) -> str:
        """For kernel names."""
        places = "".join(str(i) for i, packed in enumerate(self.inputs) if packed) + "y" * self.output
        return f"{SUFFIX}_{places}"


PLAIN = Packing()
"""Everything one code a byte"""


def packed(kernel: Kernel, packing: Packing) -> Kernel:
    """`kernel` with the tensors that `packing` names stored two a byte, as flat int8 buffers.

    Raises LoweringError where the code reads or writes one of them otherwise than in even runs of neighbours.
    """
    if not packing:
        return kernel
    params = kernel.func.params
    chosen = [i for i, is_packed in enumerate(packing.inputs) if is_packed] + [len(params) - 1] * packing.output
    func = _rewritten(kernel, [params[i] for i in chosen])
    shape = tuple(int(extent) for extent in func.params[-1].shape)
    name = f"{kernel.name}_{packing.key}"
    return replace(kernel, name=name, func=func.with_attr("global_symbol", name), output_shape=shape)


def _rewritten(kernel: Kernel, chosen: list[Any]) -> tirx.PrimFunc:
    func = kernel.func
    halves = {param: _half(param, kernel.name) for param in chosen}
    rewriter = _Rewriter(kernel.name, list(halves.items()))
    body = rewriter.apply(func.body)
    params = [next((half for param, half in halves.items() if param.same_as(p)), p) for p in func.params]
    return tirx.PrimFunc(params, body, func.ret_type, func.attrs)


def _half(param: Any, where: str) -> Any:
    size = prod(int(extent) for extent in param.shape)
    if size % 2:
        raise LoweringError("an odd number of codes is not stored two a byte", where=where)
    return tirx.decl_buffer((size // 2,), "int8", name=param.name, data_alignment=1)


class _Rewriter:
    """Rewrites every access to some buffers; knows what names stand for, to prove that offsets are even."""

    def __init__(self, where: str, halves: list[tuple[Any, Any]]) -> None:
        self.where, self.halves, self.analyzer = where, halves, Analyzer()
        self.bound: dict[Any, Any] = {}
        self.refused: LoweringError | None = None
        """What was raised within TVM, which keeps only an error's text"""

    def apply(self, body: Any) -> Any:
        """`body` on packed buffers."""
        tvm_ffi.structural_walk(body, [(tirx.DeclBuffer, self._alias), (tirx.Bind, self._bind)])
        rules = [(tvm.ir.TensorLoad, self._load), (tirx.BufferStore, self._store), (tirx.DeclBuffer, self._declared)]
        try:
            result = tvm_ffi.structural_mutate(body, rules)
            tvm_ffi.structural_walk(result, [(tvm.ir.Var, self._left)])
        except RuntimeError:
            if self.refused is None:
                raise
            raise self.refused from None
        return result

    def _alias(self, statement: Any) -> None:
        """Another name of a packed buffer's memory."""
        half = self._of(statement.data.args[0]) if isinstance(statement.data, tvm.ir.Call) and statement.data.op.name == "tirx.buffer_data" else None
        if half is not None:
            self.halves.append((statement.buffer, half))

    def _bind(self, statement: Any) -> None:
        self.bound[statement.var] = statement.value

    def _of(self, buffer: Any) -> Any | None:
        return next((half for whole, half in self.halves if whole.same_as(buffer)), None)

    def _left(self, var: Any) -> None:
        if self._of(var) is not None:
            raise self._refusal(f"{var.name} is used whole")

    def _declared(self, statement: Any, mutator: Any) -> Any:
        return tirx.Evaluate(0) if self._of(statement.buffer) is not None else mutator.default_mutate(statement)

    def _load(self, load: Any, mutator: Any) -> Any:
        half = self._of(load.source)
        if half is None:
            return mutator.default_mutate(load)
        index = mutator.mutate(load.indices[0])
        if isinstance(index, tirx.Ramp):
            return self._vector(half, index) if int(index.stride) == 1 else self._apart(half, index)
        return _alone(half, index)

    def _apart(self, half: Any, index: Any) -> Any:
        """Codes that are no neighbours, one by one."""
        lanes = int(index.lanes)
        return tirx.Shuffle([_alone(half, index.base + index.stride * lane) for lane in range(lanes)], list(range(lanes)))

    def _vector(self, half: Any, index: Any) -> Any:
        """An even run of neighbours."""
        lanes = self._even(index)
        return _unpacked(tirx.BufferLoad(half, [_ramp(self._halved(index.base), lanes // 2)]), lanes)

    def _store(self, store: Any, mutator: Any) -> Any:
        half = self._of(store.buffer)
        if half is None:
            return mutator.default_mutate(store)
        index, value = mutator.mutate(store.indices[0]), mutator.mutate(store.value)
        if not isinstance(index, tirx.Ramp):
            raise self._refusal("one code is written alone")
        lanes = self._even(index)
        whole = tirx.Var("codes", f"int8x{lanes}")
        return tirx.SeqStmt([tirx.Bind(whole, value), tirx.BufferStore(half, _joined(whole, lanes), [_ramp(self._halved(index.base), lanes // 2)])])

    def _even(self, index: Any) -> int:
        """Lanes of a run of neighbours; refused where it is not provably one of whole bytes."""
        lanes = int(index.lanes)
        if int(index.stride) != 1 or lanes % 2 or not self._is_even(index.base):
            raise self._refusal(f"{lanes} codes from {index.base} in steps of {index.stride} are not whole bytes")
        return lanes

    def _is_even(self, offset: Any) -> bool:
        while _names(offset) & self.bound.keys():
            offset = tvm_ffi.structural_mutate(offset, [(tvm.ir.Var, lambda var, mutator: self.bound.get(var, var))])
        known = self.analyzer.modular_set(tvm.runtime.convert(offset) if isinstance(offset, int) else offset)
        return int(known.coeff) % 2 == 0 and int(known.base) % 2 == 0

    def _halved(self, offset: Any) -> Any:
        return self.analyzer.simplify(tirx.floordiv(offset, 2))

    def _refusal(self, why: str) -> LoweringError:
        self.refused = LoweringError("has no form for codes stored two a byte", where=self.where, why=why)
        return self.refused


def _unpacked(pairs: Any, lanes: int) -> Any:
    """`lanes` codes of the bytes `pairs`."""
    if lanes in (8, 16):
        doubled = tirx.Shuffle([_twice(pairs)] if lanes == 8 else [pairs, pairs], [i // 2 for i in range(lanes)])
        up = tirx.Shuffle([tirx.IntImm("int8", 4 * (1 - i % 2)) for i in range(lanes)], list(range(lanes)))
        return _shifted(doubled, up, _splat(4, lanes))
    four = _splat(4, lanes // 2)
    low, high = _shifted(pairs, four, four), tirx.shift_right(pairs, four)
    return tirx.Shuffle([low, high], [0, 1] if lanes == 2 else [k for i in range(lanes // 2) for k in (i, lanes // 2 + i)])


def _twice(four: Any) -> Any:
    """int8x4 two times: LLVM would make int16x4 of vectors shorter than a register."""
    word = tirx.reinterpret("int32", four)
    return tirx.reinterpret("int8x8", tirx.Broadcast(word, 2))


def _joined(codes: Any, lanes: int) -> Any:
    """The bytes of `lanes` codes."""
    if lanes not in (8, 16):
        low, high = (tirx.Shuffle([codes], list(range(first, lanes, 2))) for first in (0, 1))
        return tirx.bitwise_or(tirx.bitwise_and(low, _splat(15, lanes // 2)), tirx.shift_left(high, _splat(4, lanes // 2)))
    twos = tirx.reinterpret(f"int16x{lanes // 2}", codes)
    low, mask = (tirx.Broadcast(tirx.IntImm("int16", value), lanes // 2) for value in (15, ~15))
    four = tirx.Broadcast(tirx.IntImm("int16", 4), lanes // 2)
    pairs = tirx.bitwise_or(tirx.bitwise_and(twos, low), tirx.bitwise_and(tirx.shift_right(twos, four), mask))
    even = tirx.Shuffle([tirx.reinterpret(f"int8x{lanes}", pairs)], list(range(0, lanes, 2)) * (16 // lanes))
    return even if lanes == 16 else tirx.reinterpret("int8x4", tirx.Shuffle([tirx.reinterpret("int32x2", even)], [0]))


def _alone(half: Any, index: Any) -> Any:
    """One code, in either half of its byte."""
    up = tirx.Select((index & 1) == 0, tirx.IntImm("int8", 4), tirx.IntImm("int8", 0))
    return _shifted(tirx.BufferLoad(half, [index >> 1]), up, tirx.IntImm("int8", 4))


def _names(expression: Any) -> set[Any]:
    found: list[Any] = []
    tvm_ffi.structural_walk(expression, [(tvm.ir.Var, found.append)])
    return set(found)


def _shifted(value: Any, left: Any, right: Any) -> Any:
    return tirx.shift_right(tirx.shift_left(value, left), right)


def _ramp(start: Any, lanes: int) -> Any:
    return start if lanes == 1 else tirx.Ramp(start, tirx.IntImm("int32", 1), lanes)


def _splat(value: int, lanes: int) -> Any:
    return tirx.IntImm("int8", value) if lanes == 1 else tirx.Broadcast(tirx.IntImm("int8", value), lanes)
