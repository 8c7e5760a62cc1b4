"""Graph passes, one a file: those on ONNX change the structure before import, those on torch.fx insert and set quantizers."""
