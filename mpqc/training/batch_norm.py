"""BatchNorm put back behind a convolution whose file has it folded, so that it trains as networks do; folded again at the end.

With z = W x the convolution without its bias, W scaled to one norm a channel (W = k W_file) and m, v the mean and variance of z over data,
gamma = sqrt(v + eps) / k and beta = m / k + bias make gamma (z - m) / sqrt(v + eps) + beta the convolution of the file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpqc.numerics.fake_quant import FakeQuantize, int32_grid
from mpqc.training.processes import Group

EPSILON = 1e-5
MOMENTUM = 0.1
LATENT_NORM = 1.7
"""Of each output channel's weights, about what networks trained with BatchNorm have: learning rates assume it"""
LEAST_GAMMA = 0.01
"""Of the gamma at the start: it stays positive, so that folding keeps every code"""


class BatchNormBehind(nn.Module):
    """Normalises z [n, c, ...] by the statistics of the batch in training, by the running ones in evaluation, where it adds the folded bias as
    the integer program stores it."""

    mean: Tensor
    variance: Tensor
    least: Tensor

    def __init__(self, bias: Tensor, data: FakeQuantize, weight: FakeQuantize, group: Group) -> None:
        """`bias` [c]: that of the convolution."""
        super().__init__()
        channels = bias.numel()
        self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(bias.detach().clone().reshape(-1))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("least", torch.zeros(channels))
        self.neighbours = (data, weight)  # in a tuple, so that they stay children of the graph module alone
        self.group = group
        self.momentum = MOMENTUM
        self.gathered: list[tuple[Tensor, Tensor, int]] | None = None
        """Sums of z and z^2 and their count, one entry a batch, while statistics are measured; then the bias alone is added"""

    def forward(self, z: Tensor) -> Tensor:
        """The same shape and dtype."""
        if self.gathered is not None:
            return self._gather(z)
        if not self.training:
            return z * _along(self.factor(), z.ndim) + _along(self.stored_bias(), z.ndim)
        if self.group.size > 1:
            return self._normalise_together(z)
        return F.batch_norm(z, self.mean, self.variance, self.gamma, self.beta, True, self.momentum, EPSILON)

    def factor(self) -> Tensor:
        """float32 [c]: what folding multiplies the weights with. Positive."""
        return (self.gamma / torch.sqrt(self.variance + EPSILON)).detach()

    def bias(self) -> Tensor:
        """float32 [c]: the bias of the folded convolution."""
        return (self.beta - self.mean * self.factor()).detach()

    def stored_bias(self) -> Tensor:
        """`bias`, as int32 codes of the folded convolution where its data and weights are quantized."""
        data, weight = (item.state.qparams() if item.active else None for item in self.neighbours)
        if data is None or weight is None:
            return self.bias()
        scale = torch.from_numpy(data.scale).to(self.mean.device) * (torch.from_numpy(weight.scale).to(self.mean.device) * self.factor())
        return int32_grid(self.bias(), scale)

    def start(self, scales: Tensor) -> None:
        """By the statistics gathered, become the identity plus the bias for weights that are multiplied with `scales` [c] from now on."""
        assert self.gathered is not None
        count = max(sum(item[2] for item in self.gathered), 1)
        mean = torch.stack([item[0] for item in self.gathered]).sum(0) / count
        square = torch.stack([item[1] for item in self.gathered]).sum(0) / count
        self.gathered = None
        with torch.no_grad():
            self.beta.add_(mean)
            self.mean.copy_(mean * scales)
            self.variance.copy_((square - mean**2).clamp(min=0) * scales**2)
            self.gamma.copy_(torch.sqrt(self.variance + EPSILON) / scales)
            self.least.copy_(LEAST_GAMMA * self.gamma)

    def constrain(self) -> None:
        """Gamma stays above `least`, so that folding flips no code."""
        with torch.no_grad():
            torch.maximum(self.gamma, self.least, out=self.gamma.data)

    def _gather(self, z: Tensor) -> Tensor:
        assert self.gathered is not None
        axes = [axis for axis in range(z.ndim) if axis != 1]
        wide = z.detach().double()
        self.gathered.append((wide.sum(axes), (wide * wide).sum(axes), z.numel() // z.shape[1]))
        return z + _along(self.beta.detach(), z.ndim)

    def _normalise_together(self, z: Tensor) -> Tensor:
        """By the statistics of the whole batch, of which this process has a part; gradients flow through them on every process."""
        axes = [axis for axis in range(z.ndim) if axis != 1]
        wide = z.float()
        sums = self.group.differentiable_sum(torch.cat([wide.sum(axes), (wide * wide).sum(axes), wide.new_tensor([z.numel() / z.shape[1]])]))
        count = sums[-1].detach()
        mean, square = sums[: z.shape[1]] / count, sums[z.shape[1] : -1] / count
        variance = (square - mean * mean).clamp(min=0)
        with torch.no_grad():
            self.mean.lerp_(mean, self.momentum)
            self.variance.lerp_(variance * (count / (count - 1).clamp(min=1)), self.momentum)
        scale = self.gamma * torch.rsqrt(variance + EPSILON)
        made = wide * _along(scale, z.ndim) + _along(self.beta - mean * scale, z.ndim)
        return made.to(z.dtype)


def _along(values: Tensor, rank: int) -> Tensor:
    return values.reshape(1, -1, *[1] * (rank - 2))
