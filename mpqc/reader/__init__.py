"""Reading QDQ ONNX files: the parts behind mpqc.program_reader.read_qdq."""
