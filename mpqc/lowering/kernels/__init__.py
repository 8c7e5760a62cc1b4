"""The kernels: TIR PrimFuncs for one op each, at given shapes, qtypes and constants, with what the cost model must know of them."""
