"""What a float node is priced as: families of ONNX operators whose loops cost about the same a value."""

from __future__ import annotations

from mpqc.facts.kinds import OpKind

_PLAIN = (
    "Abs Add And BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip Equal Floor Greater GreaterOrEqual HardSigmoid HardSwish IsInf "
    "IsNaN LeakyRelu Less LessOrEqual Max Mean Min Mul Neg Not Or PRelu Relu Round Sign Sub Sum ThresholdedRelu Where Xor BatchNormalization"
)
_FUNCTIONS = (
    "Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp FastGelu Gelu Log Mish Pow QuickGelu Selu Shrink Sigmoid Sin Sinh Softplus Swish Tan "
    "Tanh"
)
_DIVISIONS = "Div Mod Reciprocal Softsign Sqrt"
_ROWS = (
    "ArgMax ArgMin GlobalAveragePool GlobalLpPool GlobalMaxPool Hardmax InstanceNormalization LayerNormalization LpNormalization "
    "MeanVarianceNormalization ReduceL1 ReduceL2 ReduceLogSum ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare RMSNormalization"
)
_SOFTMAXES = "LogSoftmax ReduceLogSumExp Softmax"
_MOVES = "DepthToSpace Expand Gather GatherElements GatherND Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze"
_SOURCES = "Concat Pad"
_PRODUCTS = "Conv Gemm MatMul"
_VIEWS = "Dropout Flatten Identity Reshape Constant ConstantOfShape Shape Size"
KINDS: dict[str, OpKind] = {
    name: kind
    for names, kind in (
        (_PLAIN, OpKind.FLOAT_ELEMENTS),
        (_FUNCTIONS, OpKind.FLOAT_FUNCTION),
        (_DIVISIONS, OpKind.FLOAT_DIVISION),
        (_ROWS, OpKind.FLOAT_ROWS),
        (_SOFTMAXES, OpKind.FLOAT_SOFTMAX),
        (_MOVES, OpKind.FLOAT_MOVE),
        (_SOURCES, OpKind.FLOAT_CONCAT),
        (_PRODUCTS, OpKind.FLOAT_PRODUCT),
    )
    for name in names.split()
}
"""The family of an operator of the standard domain that float kernels compute"""
FREE = frozenset(_VIEWS.split())
"""Operators that take no time: their result is memory or a constant that is there"""
