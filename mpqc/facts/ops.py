"""What mpqc knows of each ONNX operator: who imports it, what it is in an integer program and why not, what it costs, whether it is trained through.

Sites (quantize/), the exported file (qdq/write), the program (qdq/read), the cost model (cost/), passes and the importer ask this table and have no
list of their own that says the same. An operator without a row is run by ONNX Runtime while calibrating and stays float. `docs/ops.md` is made
from it. What a particular node must be like (rank, constant operands, modes) is decided where the node is at hand: quantize/capability.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from mpqc.facts.kinds import OpKind

STANDARD_DOMAINS = ("", "ai.onnx")
"""Domains whose operators the table is about"""


class Role(StrEnum):
    """What a node does in the integer program."""

    MAC = "mac"
    """Convolution or matrix product with a constant weight"""
    PRODUCT = "product"
    """Matrix product of two activations (a node of a MAC op whose weight is computed)"""
    BINARY = "binary"
    """Add, Sub or Mul: rescales both operands"""
    TABLE = "table"
    """Elementwise function of one tensor: 256-entry table, or a clamp fused into the node before it"""
    AVERAGE = "average"
    """Average pooling: an output range of its own"""
    MOVE = "move"
    """Codes are moved or selected, not changed: inputs and outputs share qparams (a linear Resize blends them and keeps the qparams)"""
    VIEW = "view"
    """A move that moves nothing: the output is the input's memory"""


MULTIPLYING = (Role.MAC, Role.PRODUCT)
"""Roles of nodes that multiply and accumulate: what quantizing pays for"""
CARRYING = (Role.MOVE, Role.VIEW)
"""Roles of nodes whose output has the codes of their input"""
ELEMENTWISE = (Role.TABLE, Role.BINARY)
"""Roles of ops whose output element depends on the input elements at the same place alone"""


@dataclass(frozen=True)
class OpFacts:
    """One operator of the standard domain."""

    name: str
    imported_by: str
    """Module and function of mpqc.frontend that computes it in torch, or writes it with older operators (opset_upgrades, opset_functions)"""
    role: Role | None = None
    """None: it has no integer kernel"""
    kinds: tuple[OpKind, ...] = ()
    """What the cost model prices its integer nodes as, by what the node is like; empty for a view, which costs nothing, and for float ops"""
    trainable: bool = True
    """Whether a useful gradient passes through it"""
    is_clamp: bool = False
    """Whether the kernel of the node before can do it as bounds on its output codes"""
    alone: str = ""
    """Why the op gets no codes of its own, where it has a role all the same: it is computed in a table only between codes that are there anyway
    (quantize/functions.py), which loses nothing"""

    @property
    def reason(self) -> str:
        """Why a node of this op stays float whatever it is like; empty where it need not."""
        return f"{self.name} {self.alone}" if self.alone else "" if self.role else f"{self.name} has no integer kernel"


_WIDE = "has an output range too wide for eight bits"
_JUMPS = "jumps: rounding its input could move its output by a whole step of it"
ROWS: tuple[OpFacts, ...] = (
    # multiply and accumulate
    OpFacts("Conv", "ops_conv.conv", Role.MAC, (OpKind.CONV, OpKind.DEPTHWISE)),
    OpFacts("Gemm", "ops_conv.gemm", Role.MAC, (OpKind.GEMM, OpKind.MATMUL)),
    OpFacts("MatMul", "ops_conv.matmul", Role.MAC, (OpKind.GEMM, OpKind.MATMUL)),
    # two operands
    OpFacts("Add", "ops_elementwise.add", Role.BINARY, (OpKind.BINARY, OpKind.RESIDUAL, OpKind.TABLE)),
    OpFacts("Mul", "ops_elementwise.mul", Role.BINARY, (OpKind.BINARY, OpKind.TABLE)),
    OpFacts("Sub", "ops_elementwise.sub", Role.BINARY, (OpKind.BINARY, OpKind.TABLE)),
    # clamps
    OpFacts("Clip", "ops_elementwise.clip", Role.TABLE, (OpKind.TABLE,), is_clamp=True),
    OpFacts("Relu", "ops_elementwise.relu", Role.TABLE, (OpKind.TABLE,), is_clamp=True),
    # functions of one value
    OpFacts("Abs", "ops_elementwise.absolute", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Acos", "ops_elementwise.acos", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Asin", "ops_elementwise.asin", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Asinh", "ops_elementwise.asinh", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Atan", "ops_elementwise.atan", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Celu", "ops_elementwise.celu", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Cos", "ops_elementwise.cos", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Elu", "ops_elementwise.elu", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Erf", "ops_elementwise.erf", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Gelu", "ops_elementwise.gelu", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("HardSigmoid", "ops_elementwise.hard_sigmoid", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("HardSwish", "ops_elementwise.hard_swish", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("LeakyRelu", "ops_elementwise.leaky_relu", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Max", "ops_elementwise.maximum", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Min", "ops_elementwise.minimum", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Mish", "ops_elementwise.mish", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Neg", "ops_elementwise.neg", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("PRelu", "ops_elementwise.prelu", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Selu", "ops_elementwise.selu", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Sigmoid", "ops_elementwise.sigmoid", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Sin", "ops_elementwise.sin", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Softplus", "ops_elementwise.softplus", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Softsign", "ops_elementwise.softsign", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Swish", "opset_upgrades.swish", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("Tanh", "ops_elementwise.tanh", Role.TABLE, (OpKind.TABLE,)),
    OpFacts("ThresholdedRelu", "ops_elementwise.thresholded_relu", Role.TABLE, (OpKind.TABLE,)),
    # functions of one value whose outputs span orders of magnitude
    OpFacts("Acosh", "ops_elementwise.acosh", Role.TABLE, (OpKind.TABLE,), alone=_WIDE),
    OpFacts("Atanh", "ops_elementwise.atanh", Role.TABLE, (OpKind.TABLE,), alone=_WIDE),
    OpFacts("Cosh", "ops_elementwise.cosh", Role.TABLE, (OpKind.TABLE,), alone=_WIDE),
    OpFacts("Div", "ops_elementwise.div", Role.TABLE, (OpKind.TABLE,), alone=_WIDE),
    OpFacts("Exp", "ops_elementwise.exp", Role.TABLE, (OpKind.TABLE,), alone=_WIDE),
    OpFacts("Log", "ops_elementwise.log", Role.TABLE, (OpKind.TABLE,), alone=_WIDE),
    OpFacts("Pow", "ops_elementwise.power", Role.TABLE, (OpKind.TABLE,), alone=_WIDE),
    OpFacts("Reciprocal", "ops_elementwise.reciprocal", Role.TABLE, (OpKind.TABLE,), alone=_WIDE),
    OpFacts("Sinh", "ops_elementwise.sinh", Role.TABLE, (OpKind.TABLE,), alone=_WIDE),
    OpFacts("Sqrt", "ops_elementwise.sqrt", Role.TABLE, (OpKind.TABLE,), alone=_WIDE),
    OpFacts("Tan", "ops_elementwise.tan", Role.TABLE, (OpKind.TABLE,), alone=_WIDE),
    # functions of one value that jump
    OpFacts("Ceil", "ops_elementwise.ceil", Role.TABLE, (OpKind.TABLE,), trainable=False, alone=_JUMPS),
    OpFacts("Floor", "ops_elementwise.floor", Role.TABLE, (OpKind.TABLE,), trainable=False, alone=_JUMPS),
    OpFacts("Round", "ops_elementwise.round_half_even", Role.TABLE, (OpKind.TABLE,), trainable=False, alone=_JUMPS),
    OpFacts("Sign", "ops_elementwise.sign", Role.TABLE, (OpKind.TABLE,), trainable=False, alone=_JUMPS),
    # pools
    OpFacts("AveragePool", "ops_pool.average_pool", Role.AVERAGE, (OpKind.AVERAGE_POOL,)),
    OpFacts("GlobalAveragePool", "ops_pool.global_average_pool", Role.AVERAGE, (OpKind.AVERAGE_POOL,)),
    OpFacts("GlobalMaxPool", "ops_pool.global_max_pool", Role.MOVE, (OpKind.MAX_POOL,)),
    OpFacts("MaxPool", "ops_pool.max_pool", Role.MOVE, (OpKind.MAX_POOL,)),
    OpFacts("ReduceMean", "ops_reduce.reduce_mean", Role.AVERAGE, (OpKind.AVERAGE_POOL,)),
    # moves
    OpFacts("Concat", "ops_shape.concat", Role.MOVE, (OpKind.CONCAT,)),
    OpFacts("DepthToSpace", "ops_shape.depth_to_space", Role.MOVE, (OpKind.SHUFFLE,)),
    OpFacts("Expand", "ops_shape.expand", Role.MOVE, (OpKind.MOVE,)),
    OpFacts("Gather", "ops_index.gather", Role.MOVE, (OpKind.MOVE,)),
    OpFacts("GatherElements", "ops_index.gather_elements", Role.MOVE, (OpKind.MOVE,)),
    OpFacts("GatherND", "ops_index.gather_nd", Role.MOVE, (OpKind.MOVE,)),
    OpFacts("Pad", "ops_index.pad", Role.MOVE, (OpKind.PAD, OpKind.MOVE)),
    OpFacts("Resize", "ops_resize.resize", Role.MOVE, (OpKind.RESIZE, OpKind.NEAREST)),
    OpFacts("Slice", "ops_index.slice_axes", Role.MOVE, (OpKind.MOVE,)),
    OpFacts("SpaceToDepth", "ops_shape.space_to_depth", Role.MOVE, (OpKind.SHUFFLE,)),
    OpFacts("Split", "ops_shape.split", Role.MOVE, (OpKind.MOVE,)),
    OpFacts("Tile", "ops_shape.tile", Role.MOVE, (OpKind.MOVE,)),
    OpFacts("Transpose", "ops_shape.transpose", Role.MOVE, (OpKind.SHUFFLE,)),
    # views
    OpFacts("Dropout", "ops_shape.dropout", Role.VIEW),
    OpFacts("Flatten", "ops_shape.flatten", Role.VIEW),
    OpFacts("Identity", "ops_elementwise.identity", Role.VIEW),
    OpFacts("Reshape", "ops_shape.reshape", Role.VIEW),
    OpFacts("Squeeze", "ops_shape.squeeze", Role.VIEW),
    OpFacts("Unsqueeze", "ops_shape.unsqueeze", Role.VIEW),
    # no integer kernel
    OpFacts("BatchNormalization", "ops_norm.batch_normalization"),
    OpFacts("Cast", "ops_elementwise.cast"),
    OpFacts("CastLike", "ops_elementwise.cast_like"),
    OpFacts("ConvTranspose", "ops_conv.conv_transpose"),
    OpFacts("CumSum", "ops_reduce.cumulative_sum"),
    OpFacts("Einsum", "ops_conv.einsum"),
    OpFacts("GRU", "ops_recurrent.gru"),
    OpFacts("GroupNormalization", "ops_norm.group_normalization"),
    OpFacts("InstanceNormalization", "ops_norm.instance_normalization"),
    OpFacts("LRN", "ops_norm.local_response_normalization"),
    OpFacts("LSTM", "ops_recurrent.lstm"),
    OpFacts("LayerNormalization", "ops_norm.layer_normalization"),
    OpFacts("LogSoftmax", "ops_elementwise.log_softmax"),
    OpFacts("LpNormalization", "ops_norm.lp_normalization"),
    OpFacts("Mean", "ops_elementwise.mean"),
    OpFacts("Mod", "ops_elementwise.mod"),
    OpFacts("RMSNormalization", "opset_upgrades.rms_normalization"),
    OpFacts("ReduceL1", "ops_reduce.reduce_l1"),
    OpFacts("ReduceL2", "ops_reduce.reduce_l2"),
    OpFacts("ReduceLogSum", "ops_reduce.reduce_log_sum"),
    OpFacts("ReduceLogSumExp", "ops_reduce.reduce_log_sum_exp"),
    OpFacts("ReduceMax", "ops_reduce.reduce_max"),
    OpFacts("ReduceMin", "ops_reduce.reduce_min"),
    OpFacts("ReduceProd", "ops_reduce.reduce_prod"),
    OpFacts("ReduceSum", "ops_reduce.reduce_sum"),
    OpFacts("ReduceSumSquare", "ops_reduce.reduce_sum_square"),
    OpFacts("ScatterElements", "ops_index.scatter_elements"),
    OpFacts("ScatterND", "ops_index.scatter_nd"),
    OpFacts("Softmax", "ops_elementwise.softmax"),
    OpFacts("Sum", "ops_elementwise.total"),
    OpFacts("TopK", "ops_reduce.top_k"),
    OpFacts("Trilu", "ops_shape.trilu"),
    OpFacts("Where", "ops_compare.where"),
    # written by ONNX itself with operators above
    OpFacts("Attention", "opset_functions.expand"),
    OpFacts("CausalConvWithState", "opset_functions.expand"),
    OpFacts("LinearAttention", "opset_functions.expand"),
    OpFacts("MeanVarianceNormalization", "opset_functions.expand"),
    OpFacts("RotaryEmbedding", "opset_functions.expand"),
    OpFacts("Shrink", "opset_functions.expand"),
    OpFacts("SwiGLU", "opset_functions.expand"),
    # no integer kernel, and nothing to train through
    OpFacts("And", "ops_compare.logical_and", trainable=False),
    OpFacts("ArgMax", "ops_reduce.arg_max", trainable=False),
    OpFacts("ArgMin", "ops_reduce.arg_min", trainable=False),
    OpFacts("Equal", "ops_compare.equal", trainable=False),
    OpFacts("Greater", "ops_compare.greater", trainable=False),
    OpFacts("GreaterOrEqual", "ops_compare.greater_or_equal", trainable=False),
    OpFacts("IsNaN", "ops_elementwise.is_nan", trainable=False),
    OpFacts("Less", "ops_compare.less", trainable=False),
    OpFacts("LessOrEqual", "ops_compare.less_or_equal", trainable=False),
    OpFacts("Not", "ops_compare.logical_not", trainable=False),
    OpFacts("Or", "ops_compare.logical_or", trainable=False),
    OpFacts("Xor", "ops_compare.logical_xor", trainable=False),
)
RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"})
"""Ops that draw numbers: they have no value that could be folded"""
REWRITING = "opset_upgrades"
"""Module whose functions write an op with others"""
OPS: Mapping[str, OpFacts] = {row.name: row for row in ROWS}
"""Op type -> its row"""


def facts(op_type: str, domain: str = "") -> OpFacts:
    """The row of an op; one that says that it has no integer kernel where the table has none, or the domain is not the standard one."""
    found = OPS.get(op_type) if domain in STANDARD_DOMAINS else None
    return found or OpFacts(op_type, "", trainable=False)


def carries(op_type: str) -> bool:
    """Whether the output of an op has the codes of its input."""
    return facts(op_type).role in CARRYING


def is_view(op_type: str) -> bool:
    """Whether the output of an op is the memory of its input."""
    return facts(op_type).role is Role.VIEW


def is_elementwise(op_type: str) -> bool:
    """Whether an op may be part of a function that runs as one table: an output element depends on the input elements at the same place alone."""
    return facts(op_type).role in ELEMENTWISE or op_type == "Identity"
