"""Files that are no ONNX models, called what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Format:
    """A kind of file: its name in a sentence, and the way from it to ONNX."""

    name: str
    hint: str


_PYTORCH = Format("a PyTorch file (pickled code or weights)", "load it in Python and give the module to mpqc.compile(module, example_inputs=...)")
_EXPORTED = Format("an exported PyTorch program", "mpqc.compile(torch.export.load(file)), or torch.onnx.export(program).save('model.onnx')")
_TFLITE = Format("a TensorFlow Lite model", "convert the network that it was made from, or the file itself with tf2onnx (--tflite)")
_TENSORFLOW = Format("a TensorFlow graph", "convert it with tf2onnx: python -m tf2onnx.convert --graphdef FILE --output model.onnx")
_KERAS = Format("a Keras model", "convert it with tf2onnx or keras's model.export(format='onnx')")
_TENSORRT = Format("a TensorRT engine, which is machine code for one GPU", "use the ONNX file that it was built from")
_OPENVINO = Format("an OpenVINO model", "use the network that it was made from, exported as ONNX")
_COREML = Format("a Core ML model", "use the network that it was made from, exported as ONNX")
_WEIGHTS = Format("a file of weights without a network", "load it into the network in Python and export that as ONNX")
_ORT = Format("a model in ONNX Runtime's own format", "use the .onnx file that it was made from")
_NCNN = Format("an ncnn model", "use the network that it was made from, exported as ONNX")
_SUFFIXES: Mapping[str, Format] = {
    ".pt": _PYTORCH, ".pth": _PYTORCH, ".ckpt": _PYTORCH, ".pt2": _EXPORTED, ".tflite": _TFLITE, ".pb": _TENSORFLOW, ".h5": _KERAS, ".keras": _KERAS,
    ".engine": _TENSORRT, ".plan": _TENSORRT, ".trt": _TENSORRT, ".xml": _OPENVINO, ".mlmodel": _COREML, ".mlpackage": _COREML,
    ".safetensors": _WEIGHTS, ".gguf": _WEIGHTS, ".ort": _ORT, ".param": _NCNN,
}  # fmt: skip
_MARKS: tuple[tuple[int, bytes, Format], ...] = (
    (4, b"TFL3", _TFLITE),
    (4, b"ORTM", _ORT),
    (0, b"ptrt", _TENSORRT),
    (0, b"ftrt", _TENSORRT),
    (0, b"\x89HDF", _KERAS),
    (0, b"GGUF", _WEIGHTS),
    (0, b"\x80\x02", _PYTORCH),
    (0, b"PK\x03\x04", Format("a zip archive, such as PyTorch and Keras write", _PYTORCH.hint)),
)
"""Offset, bytes there, format"""


def foreign_format(path: Path, head: bytes) -> Format | None:
    """What the file is by its first bytes, else by its name; None where it may be ONNX."""
    named = _SUFFIXES.get(path.suffix.lower())
    marked = next((kind for offset, mark, kind in _MARKS if head[offset : offset + len(mark)] == mark), None)
    return named or marked
