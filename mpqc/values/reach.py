"""Where a program is run: which board, and how it is reached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mpqc.errors import UsageError
from mpqc.values.notation import WORDS
from mpqc.values.option import option


@dataclass(frozen=True)
class Reach:
    """The emulator, or a board and how it is reached."""

    GROUP: ClassVar[str] = "Where"
    emulate: bool = option(False, "run the bundle under qemu-aarch64")
    ssh: str | None = option(None, "run it on a board by ssh, which never asks anything", unit="USER@HOST[:PORT]")
    identity: Path | None = option(None, "private key for --ssh (without it those of ssh)")
    ssh_options: tuple[str, ...] = option((), "an option of ssh, as in its -o NAME=VALUE (repeat for more)", "--ssh-option", notation=WORDS)
    rpc: str | None = option(None, "run it on a board whose TVM RPC server listens there", unit="HOST:PORT")
    tracker: str | None = option(None, "run it on a free board of TVM's RPC tracker", unit="HOST:PORT")
    key: str | None = option(None, "key of the board: --tracker needs it, --rpc where its server has one")

    def __post_init__(self) -> None:
        if self.tracker is not None and self.key is None:
            raise UsageError("needs --key", where="--tracker", hint="for example --key pi4")
        if self.key is not None and self.tracker is None and self.rpc is None:
            raise UsageError("needs --tracker or --rpc", where="--key")
        if self.ssh is None and (self.identity is not None or self.ssh_options):
            raise UsageError("--identity and --ssh-option need --ssh", where="--ssh")

    @property
    def places(self) -> tuple[str, ...]:
        """The options that say where, as they are written."""
        given = {"--emulate": self.emulate, "--ssh": self.ssh is not None, "--rpc": self.rpc is not None, "--tracker": self.tracker is not None}
        return tuple(name for name, is_given in given.items() if is_given)
