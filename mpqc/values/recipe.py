"""What a training phase is asked: how long, how fast, from what it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mpqc.errors import UsageError
from mpqc.values.notation import SECONDS
from mpqc.values.option import option, spelling

AUGMENTATIONS = ("none", "flip_crop", "flip_crop_mix")
HOW_TO_TRAIN = "add --qat-steps 2000, or --qat-time 10m"


@dataclass(frozen=True)
class Recipe:
    """One training phase. The defaults suit a trained float network and a few thousand steps."""

    GROUP: ClassVar[str] = "Training"
    steps: int = option(2000, "optimizer steps of a training phase (quantization-aware training)", "--qat-steps", unit="steps", least=1, open=True)
    """Optimizer steps in all"""
    seconds: float | None = option(None, "time that the training phase may take instead, for example 10m", "--qat-time", notation=SECONDS)
    """Instead of `steps`: wall-clock time that the phase may take; the number of steps follows from the speed of the first ones"""
    batch: int = option(128, "samples a training step, over all processes", "--qat-batch", unit="samples", least=1)
    """Samples a step, over all processes together"""
    learning_rate: float = option(0.005, "peak learning rate of the weights", "--qat-rate", unit="rate")
    """Peak, of weights, biases and BatchNorm"""
    step_learning_rate: float = 0.001
    """Peak, of quantizer steps (strategies may scale it for parameters of their own)"""
    adapt_rates: bool = True
    """Whether a strategy may lower both where little is to be repaired (`auto` does, without labels)"""
    momentum: float = 0.9
    weight_decay: float = 5e-5
    """Of weights alone"""
    warm_up: float = 0.02
    """Fraction of the steps in which learning rates rise from 0; afterwards they fall by half a cosine to 0"""
    temperature: float = 2.0
    """Of the softmax that the float network teaches with"""
    distillation_weight: float = 0.7
    """Weight of the float network's term where labels are given; without labels it counts 1"""
    label_weight: float = 0.3
    """Weight of the cross-entropy with the labels, where there are any"""
    tau: int = 250
    """Steps between two re-allocations; fewer in phases of less than about 1,000 steps"""
    freeze: float = 0.8
    """Fraction of the steps after which no bits change any more"""
    oscillation: str = "none"
    """none | freeze: what is done about weights that jump to and fro between two codes (oscillation.py)"""
    batch_norm: bool = True
    """Whether BatchNorm is put back behind convolutions while training"""
    augment: str = option("none", "none | flip_crop: pictures mirrored and shifted at random | flip_crop_mix: and half of them with a box of another")
    """none | flip_crop: mirrored at random and cropped from a zero-padded (1/8 a side) picture | flip_crop_mix: and half of
    them with a box of another one (mixing.py)"""
    autocast: bool | None = None
    """bfloat16 arithmetic; None: where the processor has it"""
    device: str = "auto"
    """auto (CUDA where present) | cpu | cuda"""
    held_out: float = 0.1
    """Fraction of the samples, at most 5,000, that choose the best state and are never trained on"""
    evaluations: int = 10
    """How often the held-out part is evaluated, spread evenly over the phase"""
    checkpoint_seconds: float = 15.0
    """Between two checkpoints"""
    seed: int = 0

    def __post_init__(self) -> None:
        _positive("steps", self.steps)
        _positive("batch", self.batch)
        _positive("tau", self.tau)
        _positive("temperature", self.temperature)
        if self.seconds is not None:
            _positive("seconds", self.seconds)
        for name in ("warm_up", "freeze", "held_out"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{getattr(self, name)} is outside 0..1", where=name)
        _one_of("augment", self.augment, AUGMENTATIONS)
        _one_of("oscillation", self.oscillation, ("none", "freeze"))
        _one_of("device", self.device, ("auto", "cpu", "cuda"))

    @classmethod
    def asked(cls, given: Mapping[str, Any]) -> Recipe | None:
        """From what a command line gives; None where no phase is asked for. Raises UsageError, also for options of a phase that is not there."""
        bounds = [name for name in ("steps", "seconds") if name in given]
        if given and not bounds:
            where = ", ".join(spelling(cls, name) for name in given)
            raise UsageError("there is no training phase", where=where, hint=HOW_TO_TRAIN)
        if len(bounds) == 2:
            raise UsageError("both bound the training phase", where=", ".join(spelling(cls, name) for name in bounds), hint="give one")
        return cls(**given, adapt_rates="learning_rate" not in given) if given else None


def _positive(name: str, value: float) -> None:
    if value <= 0:
        raise UsageError(f"{value} is not above 0", where=name)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{value!r} is not known", where=name, hint=f"use one of {', '.join(known)}")
