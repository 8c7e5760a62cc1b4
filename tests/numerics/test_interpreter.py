"""The interpreter: batches, inputs that do not fit, float regions, and every value."""

from __future__ import annotations

import numpy as np
import pytest
from qdq_nets import Net, inputs_for, session

from mpqc.errors import DataError
from mpqc.numerics import interpreter
from mpqc.numerics.interpreter import Interpreter, interpret, interpret_all, interpret_op
from mpqc.qdq.read.program import read_qdq
from mpqc.values.program import Float, Program


def network() -> Program:
    """Every kind of op that a leading axis of samples could upset: broadcasting, moves by index, concat, a float region."""
    net = Net()
    x = net.qdq(net.input(1, 4, 6, 6), 0.03, 3)
    a = net.qdq(net.conv(x, 0.03, 8, 4, pads=[1, 1, 1, 1]), 0.05, 1)
    gate = net.qdq(net.op("GlobalAveragePool", a), 0.01, 0)
    scaled = net.qdq(net.op("Mul", a, gate), 0.02, 0)
    both = net.qdq(net.op("Concat", a, scaled, axis=1), 0.05, 1)
    picked = net.op("Transpose", net.op("Gather", both, net.constant(np.array([3, 0, 9])), axis=1), perm=[0, 2, 1, 3])
    flat = net.op("Flatten", net.qdq(net.op("Pad", picked, net.constant(np.array([0, 0, 0, 1, 0, 0, 0, 0]))), 0.05, 1))
    return read_qdq(net.model(net.op("Softmax", flat)))


def test_a_batch_gives_what_each_sample_gives_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    program = network()
    monkeypatch.setattr(interpreter, "_CHUNK_BYTES", 4 * 9 * 576 * 3)  # several chunks, the last one short
    batch = np.random.default_rng(0).standard_normal((8, 4, 6, 6)).astype(np.float32)
    together = Interpreter(program).run({"x": batch})[program.outputs[0]]
    alone = [interpret(program, {"x": batch[i : i + 1]})[program.outputs[0]] for i in range(8)]
    assert (together == np.concatenate(alone)).all()


def test_a_float_region_is_in_the_program_with_its_reason() -> None:
    regions = [op for op in network().ops if isinstance(op, Float)]
    assert [(op.op_types, op.reason) for op in regions] == [(("Softmax",), "Softmax has no integer kernel")]


def test_every_value_is_there_in_its_type_and_shape() -> None:
    program = network()
    values = interpret_all(program, inputs_for(program))
    assert set(values) == set(program.tensors)
    for name, tensor in program.tensors.items():
        assert (values[name].shape, values[name].dtype.name) == (tensor.shape, tensor.dtype)


def test_one_op_alone_computes_what_it_computes_inside() -> None:
    program = network()
    values = interpret_all(program, inputs_for(program))
    for op in program.ops:
        for name, value in interpret_op(program, op, values).items():
            assert (value == values[name]).all()


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [({}, "input is missing"), ({"x": np.zeros((1, 4, 6, 5), np.float32)}, r"not a batch of \[1, 4, 6, 6\]")],
)
def test_inputs_that_do_not_fit_are_named(inputs: dict, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        Interpreter(network()).run(inputs)


def test_inputs_of_different_counts_are_refused() -> None:
    net = Net()
    total = net.op("Add", net.qdq(net.input(1, 4, name="a"), 0.1), net.qdq(net.input(1, 4, name="b"), 0.1))
    program = read_qdq(net.model(net.qdq(total, 0.1)))
    with pytest.raises(DataError, match="do not belong together"):
        Interpreter(program).run({"a": np.zeros((2, 4), np.float32), "b": np.zeros((3, 4), np.float32)})


def test_a_program_for_a_batch_takes_multiples_of_it() -> None:
    net = Net()
    model = net.model(net.qdq(net.conv(net.qdq(net.input(2, 3, 5, 5), 0.03), 0.03, 4, 3), 0.05))
    program = read_qdq(model)
    batch = np.random.default_rng(0).standard_normal((6, 3, 5, 5)).astype(np.float32)
    expected = np.concatenate([session(model).run(None, {"x": batch[i : i + 2]})[0] for i in (0, 2, 4)])
    assert (Interpreter(program).run({"x": batch})[program.outputs[0]] == expected).all()


def test_a_float_region_takes_a_number_without_axes() -> None:
    net = Net()
    x = net.qdq(net.input(1, 4), 0.03)
    y = net.op("Mul", net.op("Softmax", x), net.op("Exp", net.input(name="s")))
    program = read_qdq(net.model(y))
    inputs = inputs_for(program) | {"s": np.float32(0.5)}
    assert interpret(program, inputs)[y] == pytest.approx(session(net.model(y)).run(None, {**inputs, "s": np.array(0.5, np.float32)})[0], abs=1e-6)
