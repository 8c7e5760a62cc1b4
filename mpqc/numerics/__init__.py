"""The definition of every integer result, in numpy and, for training, in torch: rounding, ranges, overflow bounds, the interpreter."""
