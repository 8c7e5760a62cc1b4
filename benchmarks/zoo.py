"""Networks that nobody here wrote: compiled with and without data, emulator against interpreter, SQNR of each output against float.

python benchmarks/zoo.py                        # all of them
python benchmarks/zoo.py yunet_n_320 mnist_cntk
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from PIL import Image
from provenance import SMOKE, WORK, few, shared, write_results

from mpqc.errors import MpqcError
from mpqc.flow.pipeline import compile_network
from mpqc.flow.results import Compiled
from mpqc.runtime import run_emulated
from mpqc.values.request import Options
from mpqc.workspace.progress import Progress

Maker = Callable[[], np.ndarray]


def photograph(name: str, height: int, width: int, mean: float, std: float) -> np.ndarray:
    """One image as NCHW float32, with seven shifted and dimmed versions of it: eight samples."""
    image = Image.open(shared(f"data/samples/{name}")).convert("RGB")
    views = [image.resize((width + 24, height + 24)).crop((3 * i, 2 * i, 3 * i + width, 2 * i + height)) for i in range(8)]
    pixels = np.stack([np.asarray(view, np.float32) * (1 - 0.06 * i) for i, view in enumerate(views)]).transpose(0, 3, 1, 2)
    return ((pixels - mean) / std).astype(np.float32)


def speech() -> np.ndarray:
    """Log-power spectra of 9 s windows of speech, [6, 900, 120], as the DNSMOS P.808 model takes them."""
    import wave

    with wave.open(str(shared("data/samples/speech_16k.wav"))) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
    windows = [_spectrum(samples[start : start + 160 * 899 + 321]) for start in range(0, 6 * 120_000, 120_000)]
    return np.stack(windows)


def _spectrum(samples: np.ndarray) -> np.ndarray:
    frames = np.stack([samples[160 * i : 160 * i + 321] for i in range(900)]) * np.hanning(321)
    power = np.abs(np.fft.rfft(frames, 321))[:, :120] ** 2
    decibels = 10 * np.log10(np.maximum(power, 1e-10))
    return ((decibels - decibels.max() + 40) / 40).astype(np.float32)


def digits() -> np.ndarray:
    """Scikit-learn's digits enlarged to 28x28, 0..255."""
    from sklearn.datasets import load_digits

    images = load_digits().images[:64]
    big = [np.asarray(Image.fromarray((image * 15.9).astype(np.uint8)).resize((28, 28)), np.float32) for image in images]
    return np.stack(big)[:, None]


NETWORKS: dict[str, Maker] = {
    "ultraface_rfb_320_simplified": lambda: photograph("grace_hopper.bmp", 240, 320, 127, 128),
    "yunet_n_320": lambda: photograph("grace_hopper.bmp", 320, 320, 0, 1)[:, ::-1].copy(),
    "mnist_cntk": digits,
    "espcn_nnresize_float": lambda: photograph("dog.jpg", 128, 128, 0, 255),
    "fastestdet": lambda: photograph("dog.jpg", 352, 352, 0, 255)[:, ::-1].copy(),
    "dnsmos_model_v8": speech,
}


def measure(name: str, data: np.ndarray | None, samples: np.ndarray, span: tuple[float, float] | None = None) -> list[dict[str, object]]:
    """A row for each output of the compiled network. Compile errors become a row too."""
    kind = f"{len(data)} samples" if data is not None else ("none" if span is None else f"range {span[0]:g}..{span[1]:g}")
    start = time.monotonic()
    try:
        folder = WORK / "zoo" / f"{name}_{kind.split()[-1]}"
        options = Options(samples=64, input_range=span)
        compiled = compile_network(shared(f"onnx/{name}.onnx"), options, data, output=folder, progress=Progress(quiet=True))
    except MpqcError as error:
        return [{"network": name, "data": kind, "output": "", "SQNR dB": "", "emulator": str(error), "integer ops": "", "float": "", "seconds": ""}]
    seconds = time.monotonic() - start
    same = agreement(compiled, samples[:1])
    facts = {"integer ops": integer_ops(compiled), "float": float_ops(compiled), "seconds": round(seconds, 1)}
    quality = sqnr(compiled, samples)
    return [{"network": name, "data": kind, "output": output, "SQNR dB": quality[output], "emulator": same[output], **facts} for output in quality]


def agreement(compiled: Compiled, sample: np.ndarray) -> dict[str, str]:
    """For each output, whether the emulator gives the interpreter's values."""
    key = compiled.program.inputs[0]
    emulated, expected = run_emulated(compiled.output / "bundle", {key: sample}), compiled.run({key: sample})
    return {name: _difference(emulated[name], expected[name]) for name in expected}


def _difference(got: np.ndarray, wanted: np.ndarray) -> str:
    if np.array_equal(got, wanted):
        return "equal"
    return f"differs by at most {np.max(np.abs(got.astype(np.float64) - wanted)):.2g}"


def sqnr(compiled: Compiled, samples: np.ndarray) -> dict[str, object]:
    """SQNR in dB of each output over `samples`, against the float network in ONNX Runtime."""
    from mpqc.frontend.reference import Reference

    key, reference = compiled.program.inputs[0], Reference(compiled.analysis.network.model)
    pairs = [(reference.run({key: sample[None]}), compiled.run({key: sample[None]})) for sample in samples[:4]]
    return {name: _decibels([(wanted[name], got[name]) for wanted, got in pairs]) for name in pairs[0][0]}


def _decibels(pairs: list[tuple[np.ndarray, np.ndarray]]) -> object:
    signal = sum(float(np.square(wanted, dtype=np.float64).sum()) for wanted, _ in pairs)
    error = sum(float(np.square(wanted.astype(np.float64) - got).sum()) for wanted, got in pairs)
    return round(10 * float(np.log10(signal / error)), 1) if error and signal else "exact"


def integer_ops(compiled: Compiled) -> int:
    """Ops that run on integers."""
    return sum(type(op).__name__ != "Float" for op in compiled.program.ops)


def float_ops(compiled: Compiled) -> str:
    """What stays float, in short: op types and reason."""
    return "; ".join(f"{row.ops}: {row.reason}" for row in compiled.report.floats) or "nothing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", help=", ".join(NETWORKS))
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    for name in ["mnist_cntk"] if SMOKE else arguments.networks or NETWORKS:
        samples = NETWORKS[name]()
        span = (float(samples.min()), float(samples.max()))
        for data, noise in few(((samples, None), (None, None), (None, span))):
            rows += measure(name, data, samples, noise)
            print(rows[-1])
    notes = ["All weights and activations at 8 bits (no budget). SQNR is over four real samples, those of the calibration where there is data."]
    write_results("zoo", "Networks nobody here wrote", rows, notes)


if __name__ == "__main__":
    main()
