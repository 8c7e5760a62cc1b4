"""What passes share: surgery on ONNX graphs, patterns, evaluation, the quantizers of an FX graph."""
