"""Versions of mpqc and of the packages that decide results."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("mpqc", "onnx", "onnxruntime", "torch", "ortools", "apache-tvm")


def versions() -> dict[str, str]:
    """Package name -> version, or `missing`."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
