"""A plan becomes a QDQ ONNX file."""
