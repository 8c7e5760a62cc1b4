"""Which modules mutate.py changes, the tests that have to notice, and the changes that no test can notice because they alter no result."""

from __future__ import annotations

COST = ("tests/cost/test_quantities.py", "tests/cost/test_prices.py", "tests/cost/test_forms.py")
MODULES: dict[str, tuple[str, ...]] = {
    "mpqc/cost/model.py": COST,
    "mpqc/cost/fit.py": COST,
    "mpqc/qdq/write/writer.py": ("tests/qdq/test_writer.py",),
    "mpqc/qdq/write/biases.py": ("tests/qdq/test_writer.py",),
    "mpqc/allocator/problem.py": ("tests/allocator/test_problem.py", "tests/allocator/test_tables.py", "tests/allocator/test_pairs.py"),
    "mpqc/allocator/elimination.py": ("tests/allocator/test_elimination.py",),
    "mpqc/allocator/relaxation.py": ("tests/allocator/test_relaxation.py",),
    "mpqc/numerics/integer.py": ("tests/numerics/test_numerics.py", "tests/numerics/test_integer_values.py"),
    "mpqc/numerics/ranges.py": ("tests/numerics/test_ranges.py",),
    "mpqc/numerics/overflow.py": ("tests/numerics/test_program_bounds.py",),
    "mpqc/numerics/winograd.py": ("tests/numerics/test_winograd_forms.py",),
}
"""Module -> those of its tests that pin numbers: quick ones, so that every change can be tried"""
EQUIVALENT: dict[str, dict[tuple[str, str], str]] = {
    "mpqc/cost/model.py": {
        ("weight_bits or 0", "0  >  -1"): "a weight that has forms has bits",
        ("Caches(l1d_bytes=1)", "1  >  0"): "no quantity reads the L1 cache",
        ("Caches(l1d_bytes=1)", "1  >  2"): "no quantity reads the L1 cache",
        ("work.weights * (weights or 0)", "0  >  1"): "work without weights has none to multiply",
        ("work.weights * (weights or 0)", "0  >  -1"): "work without weights has none to multiply",
    },
    "mpqc/qdq/write/writer.py": {
        ("if qtype.bits <= 8", "8  >  7"): "opsets begin at 13, which has 8 bits",
        ("strict=True", "True  >  False"): "they are as long",
    },
    "mpqc/qdq/write/biases.py": {
        ("op.inputs[0]", "0  >  -1"): "a node with a weight has one other input",
        ("(floor > w.scale)", "floor > w.scale  >  floor >= w.scale"): "a float32 bias over 2^31 - 1 is no float32",
        (".reshape(-1)", "1  >  2"): "numpy takes -2 for -1",
    },
    "mpqc/allocator/problem.py": {
        ("zip(group.choices, group.loss, strict=True)", "True  >  False"): "their lengths are compared before",
    },
    "mpqc/allocator/elimination.py": {
        ("CELLS = 60_000", "60000  >  60001"): "no table of equal sides has 60,001 entries",
        ("CELLS = 60_000", "60000  >  59999"): "no table of equal sides has 60,000 entries",
        ("return 0", "0  >  1"): "a group without neighbours leaves nothing: the slot is not read",
        ("return 0", "0  >  -1"): "a group without neighbours leaves nothing: the slot is not read",
        ("zip(reversed(self.steps)", "True  >  False"): "a pass has a clique and a message for each step",
        ("zip(groups, neighbours, strict=True)", "True  >  False"): "they are made with a comprehension over the other",
        ("zip(*pairs, strict=True)", "True  >  False"): "pairs are two long",
    },
    "mpqc/allocator/relaxation.py": {
        ("REPAIRS = 9_000", "9000  >  9001"): "9,001 is a prime: the quotients of 2 and more are the same",
        ("default=1)", "1  >  0"): "without groups nothing has choices",
        ("default=1)", "1  >  2"): "without groups nothing has choices",
        ("reshape([-1 if other == axis", "1  >  2"): "numpy takes -2 for -1",
        ("or 1.0", "1.0  >  1.501"): "losses of zero alone weigh nothing at any scale",
        ("zip(ascent.losses, ascent.overs, strict=True)", "True  >  False"): "every point met has both",
    },
    "mpqc/numerics/integer.py": {
        ("zip(kernel, dilations, strict=True)", "True  >  False"): "both are pairs",
        ("zip((a, b), zero_points, strict=True)", "True  >  False"): "both are pairs",
        ("shape[axis] = values.shape[0]", "0  >  -1"): "values along an axis have one axis",
        ("index = np.arange(len(tables))", "1  >  2"): "numpy takes -2 for -1",
        ("weight.reshape(groups, -1, kh, kw)", "1  >  2"): "numpy takes -2 for -1",
        ("reshape(weight.shape[0], -1)", "1  >  2"): "numpy takes -2 for -1",
        ("codes.astype(np.int16) + 128", "codes.astype(np.int16) + 128  >  codes.astype(np.int16) - 128"): "of 256 the same from the end",
        ("_depthwise if weight.shape[1] == 1", "1  >  0"): "_im2col computes the same, only slower",
        (".max(initial=0)", "0  >  -1"): "no sum of magnitudes is below 0",
        (".max(initial=0)", "0  >  1"): "1 is far from the limit",
        ("(2.0**24)", "24  >  23"): "codes have 8 bits: both are far outside",
        ("(2.0**24)", "24  >  25"): "codes have 8 bits: both are far outside",
        ("(2.0**24)", "2.0  >  3.001"): "codes have 8 bits, and int64 holds both",
    },
    "mpqc/numerics/overflow.py": {
        ("op.inputs[0]", "0  >  -1"): "these ops have one input",
        (".reshape(op.weight.shape[0], -1)", "1  >  2"): "numpy takes -2 for -1",
        (".max(initial=0)", "0  >  -1"): "no sum of magnitudes is below 0",
    },
    "mpqc/numerics/ranges.py": {
        ("return QParams(QType(bits), scale[0]", "0  >  -1"): "there is one range",
        ("reshape(1, -1)", "1  >  2"): "numpy takes -2 for -1",
        ("bound[0] < 0 < bound[1]", "bound[0] < 0 < bound[1]  >  bound[0] < 0 <= bound[1]"): "an end at 0 stays there",
        ("safe = np.where", "1.0  >  1.501"): "rows of zeros lose nothing at any scale",
        ("np.where(power > 0, power, 1.0)", "1.0  >  1.501"): "such a row keeps its scale",
        ("np.where(power > 0, power, 1.0)", "0  >  1"): "a power of 1 is divided by 1",
        ("np.where((power > 0)", "(power > 0) & (fitted > 0)  >  (power > 0) | (fitted > 0)"): "codes and values have one sign: both hold or neither",
        ("np.where((power > 0)", "power > 0  >  power >= 0"): "without power nothing is fitted",
        ("np.where((power > 0)", "fitted > 0  >  fitted >= 0"): "with power something is fitted",
        ("np.where((power > 0)", "0  >  -1"): "as the two above",
    },
    "mpqc/numerics/winograd.py": {
        ("return low << self.shift", "high << self.shift <= INT8.qmax  >  high << self.shift < INT8.qmax"): "twice a code is never 127",
        ("return low << self.shift", "high - low << self.shift - 1  >  high - low >> self.shift - 1"): "codes that meet the first two meet the third",
        ("return low << self.shift", "high - low  >  high + low"): "codes that meet the first two meet the third",
        ("return self.inputs_fit", "sums <= ACCUMULATOR // 2  >  sums < ACCUMULATOR // 2"): "sums have a factor of 9",
        ("return largest * 3", "largest * 3 ** self.shift <= -INT8.qmin  >  largest * 3 ** self.shift < -INT8.qmin"): "multiples of 3 are not 128",
        ("return largest * 3", "3  >  4"): "the largest are powers of 2: between 3 and 4 times lies no limit",
    },
}
"""Module -> what stands in the line, and `old  >  new` -> why no result changes"""
