"""Running what was compiled: the bundle for the board, the emulator, and this machine."""

from mpqc.runtime.bundle import write_bundle
from mpqc.runtime.run import run_emulated, run_host

__all__ = ["run_emulated", "run_host", "write_bundle"]
