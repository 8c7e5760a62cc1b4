"""Several processes that train one network together, as torchrun starts them; one process alone is the usual case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mpqc.workspace.launch import Launched


@dataclass(frozen=True)
class Group(Launched):
    """The processes of one training phase. Alone, every method returns what it was given."""

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes; no gradient."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def largest(self, value: Tensor) -> Tensor:
        """The elementwise maximum over all processes; no gradient."""
        if self.size == 1:
            return value
        found = value.detach().clone()
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return found

    def differentiable_sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, with the gradient of the sum of all their losses."""
        return _Sum.apply(value) if self.size > 1 else value  # type: ignore[no-untyped-call,no-any-return]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Every gradient becomes its mean over all processes, in one message."""
        gradients = [item.grad for item in parameters if item.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([item.reshape(-1) for item in gradients])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([item.numel() for item in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.reshape(gradient.shape))

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Every tensor becomes that of the first process, in place."""
        if self.size > 1:
            for tensor in tensors:
                whole = tensor.data.contiguous()
                dist.broadcast(whole, 0)
                tensor.data.copy_(whole)

    def shared_bytes(self, data: bytes | None) -> bytes | None:
        """What the first process gave (None is kept)."""
        if self.size == 1:
            return data
        length = torch.tensor([-1 if data is None else len(data)])
        self._send(length)
        if int(length) < 0:
            return None
        given = data if data is not None else bytes(int(length))
        content = torch.frombuffer(bytearray(given), dtype=torch.uint8) if given else torch.zeros(0, dtype=torch.uint8)
        self._send(content)
        return content.numpy().tobytes()

    def _send(self, tensor: Tensor) -> None:
        if dist.get_backend() == "nccl":
            moved = tensor.cuda()
            dist.broadcast(moved, 0)
            tensor.copy_(moved)
        else:
            dist.broadcast(tensor, 0)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def join(group: Launched, device: torch.device) -> None:
    """Connect the processes: nccl on CUDA, gloo elsewhere."""
    if group.size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=group.rank, world_size=group.size)


def leave() -> None:
    """End the connection."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
