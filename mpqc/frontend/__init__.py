"""The frontend: ONNX files and PyTorch modules -> Network."""

from mpqc.frontend.network import load_network

__all__ = ["load_network"]
