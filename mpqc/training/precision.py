"""Where and in what arithmetic a phase runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from mpqc.errors import UsageError
from mpqc.training.processes import Group
from mpqc.values.recipe import Recipe


def chosen_device(recipe: Recipe, group: Group) -> torch.device:
    """CUDA where the recipe leaves it open and a device is there. Raises UsageError for cuda without one."""
    present = torch.cuda.is_available()
    if recipe.device == "cuda" and not present:
        raise UsageError("there is no CUDA device", where="device", hint="use cpu or auto")
    if recipe.device == "cpu" or not present:
        return torch.device("cpu")
    return torch.device("cuda", group.rank % torch.cuda.device_count())


def half_width_is_fast(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 numbers in hardware: CUDA from Ampere on, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in found if check is not None)


def arithmetic(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast where asked for or fast; float32 otherwise."""
    wanted = recipe.autocast if recipe.autocast is not None else half_width_is_fast(device)
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else nullcontext()
