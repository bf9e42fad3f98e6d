"""The device of a length worker: what is there, which one is used, what it is called."""

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from celery.utils.log import get_logger

if TYPE_CHECKING:
    import torch

log = get_logger(__name__)

_DRIVER = Path("/proc/driver/nvidia/gpus")


def visible_gpus() -> int:
    """Count the NVIDIA GPUs that this process may use, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = len(list(_DRIVER.iterdir())) if _DRIVER.is_dir() else 0
    if visible is None:
        return present
    return min(present, len([entry for entry in visible.split(",") if entry.strip()]))


@cache
def device() -> "torch.device":
    """Return the device that lengths are computed on: the first visible GPU, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda:0")
    log.warning("no CUDA device is visible: length terms are computed on the CPU")
    return torch.device("cpu")


def describe() -> str:
    """Name the device and its memory, for `oyer check`."""
    import torch

    chosen = device()
    if chosen.type != "cuda":
        return "cpu"
    free, total = torch.cuda.mem_get_info(chosen)
    name = torch.cuda.get_device_name(chosen)
    return f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
