"""Frozen records that every room shares. No torch, onnx or tvm is imported here."""
