"""Reading QDQ ONNX files: the parts behind mpqc.qdq.read.program.read_qdq."""
