"""Networks that lose too much at 8 bits: what the default plan keeps of their outputs, and its time beside all int8.

    python benchmarks/sixteen_bits.py           # both networks
    python benchmarks/sixteen_bits.py kwt1

KWT-1 hears speech and has its spectrogram inside; Basic Pitch the same of a constant-Q transform. Data: windows of one or two seconds of a minute of
speech, the first 24 for calibration, the others for the figures. Plans: 8 bits everywhere, which the allocator finds without a budget, and
what mpqc.flow.widening makes of it. SQNR: the built program (numerics.interpreter) against the float network in ONNX Runtime, of the
output that keeps least, over all samples. Times are modelled by a76time, of the whole program on one core. Writes results/sixteen_bits.md.
"""

from __future__ import annotations

import sys
import tempfile
import wave
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
from cost_pricing import pricer
from provenance import SMOKE, few, shared, write_results

from mpqc.allocator import evaluate
from mpqc.cost.model import CostModel
from mpqc.data.batches import open_data
from mpqc.flow.export import Exporting, export_program
from mpqc.flow.results import Analysis
from mpqc.flow.widening import widened_plan
from mpqc.frontend import load_network
from mpqc.lowering import build, lower
from mpqc.numerics.interpreter import Interpreter
from mpqc.numerics.metrics import decibel
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.sites import find_sites
from mpqc.runtime import write_bundle
from mpqc.targets import load_target
from mpqc.values.plan import Plan, predicted, uniform_plan
from mpqc.values.program import Program

TARGET = "cortex-a76"
RATE = 16_000
CALIBRATED = 24


@dataclass(frozen=True)
class Subject:
    """A network that hears."""

    file: str
    rate: int
    shape: tuple[int, ...]


NETWORKS = {
    "kwt1": Subject("onnx_derived/kwt1_speech_commands12.onnx", RATE, (1, 16000)),
    "basic_pitch": Subject("onnx/basic_pitch.onnx", 22_050, (1, 43844, 1)),
}


def main() -> None:
    """Builds every network with both plans and writes the table."""
    rows = []
    for name in sys.argv[1:] or few(NETWORKS):
        subject, base = NETWORKS[name], 0.0
        samples = windows(subject)
        for setting, plan, program in plans(subject, samples):
            milliseconds = modelled_ms(program)
            base = base or milliseconds
            bits = [choice.bits for choice in plan.choices if choice.kind.value == "activation"]
            widths = {"activations": len(bits), "16 bits": bits.count(16), "float": bits.count(None)}
            times = {"predicted ms": predicted(plan) / 1000, "ms": milliseconds, "times": round(milliseconds / base, 2)}
            rows.append({"network": name, "plan": setting, "SQNR dB": kept(subject, program, samples), **widths, **times})
            print(rows[-1], file=sys.stderr, flush=True)
    write_results("sixteen_bits", "Networks that lose too much at 8 bits, on a Cortex-A76 (modelled, one thread)", rows, [])


def plans(subject: Subject, samples: np.ndarray) -> list[tuple[str, Plan, Program]]:
    """Both plans, with their programs."""
    network = load_network(shared(subject.file))
    table, batches = find_sites(network), open_data(samples[:CALIBRATED], network.inputs, limit=2 if SMOKE else CALIBRATED)
    analysis = Analysis(network, table, batches, calibrate(network, table, batches), None)
    model = CostModel(load_target(TARGET)).for_network(table)
    plain = uniform_plan(table, TARGET, 8, 8)
    plain = replace(plain, uses=evaluate(table, plain, model, ()).uses)
    wide = widened_plan(plain, analysis, model, (), {})
    exporting = Exporting(network, table, analysis.calibration, batches)
    return [(name, plan, export_program(exporting, plan)[1]) for name, plan in (("all int8", plain), ("default", wide))]


def windows(subject: Subject) -> np.ndarray:
    """Neighbouring windows of the speech at the network's rate."""
    with wave.open(str(shared("data/samples/speech_16k.wav"))) as file:
        heard = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
    at = np.arange(0, len(heard) - 1, RATE / subject.rate)
    sound = np.interp(at, np.arange(len(heard)), heard).astype(np.float32)
    size = int(np.prod(subject.shape))
    return sound[: len(sound) // size * size].reshape(-1, *subject.shape[1:])


def modelled_ms(program: Program) -> float:
    """Of the whole program."""
    target = load_target(TARGET)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lowered = lower(program, target)
        bundle = write_bundle(folder / "bundle", lowered, build(lowered, folder / "model.so"))
        return pricer().bundle(bundle) / (target.clock_hz or 1) * 1e3


def kept(subject: Subject, program: Program, samples: np.ndarray) -> float:
    """Decibel of the output that keeps least, on what was not calibrated with."""
    session, run = onnxruntime.InferenceSession(str(shared(subject.file))), Interpreter(program)
    others = few(samples[CALIBRATED:])
    name, outputs = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
    wanted = [session.run(outputs, {name: one[None]}) for one in others]
    found = [run.run({program.inputs[0]: one[None]}) for one in others]
    pairs = [(np.stack([one[output] for one in found]), np.stack([one[i] for one in wanted])) for i, output in enumerate(program.outputs)]
    return round(min(decibel(own, other) for own, other in pairs), 1)


if __name__ == "__main__":
    main()
