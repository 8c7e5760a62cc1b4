"""One call, or one load, of the smallest network in an AArch64 Python: `python overhead_peers.py NAME load|run FOLDER N`. overhead.py runs it.

The network is the larger of a value and zero; FOLDER holds it for each of mpqc, LiteRT and ncnn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np


def mpqc(folder: Path) -> Callable[[], object]:
    sys.path.insert(0, str(folder / "bundle"))
    from mpqc_runtime import Model

    return Model(folder / "bundle" / "model.so").run_again


def litert(folder: Path) -> Callable[[], object]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(folder / "relu.tflite"), num_threads=1, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    return interpreter.invoke


def ncnn(folder: Path) -> Callable[[], object]:
    import ncnn as library

    net = library.Net()
    net.opt.num_threads = 1
    net.load_param(str(folder / "relu.param"))
    net.load_model(str(folder / "relu.bin"))
    values = np.zeros(1, np.float32)
    given = library.Mat(values).clone()

    def run() -> object:
        extractor = net.create_extractor()
        extractor.input("x", given)
        return extractor.extract("y")

    return run


def main() -> None:
    """Command line."""
    name, what, folder, often = sys.argv[1:]
    load = {"mpqc": mpqc, "litert": litert, "ncnn": ncnn}[name]
    run = load(Path(folder))
    run()
    for _ in range(int(often)):
        if what == "load":
            run = load(Path(folder))
        else:
            run()


if __name__ == "__main__":
    main()
