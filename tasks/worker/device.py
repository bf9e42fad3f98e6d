"""The device of a length worker."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_DRIVER = Path("/proc/driver/nvidia/gpus")

_DRIVER_NODES = (_DRIVER, *map(Path, ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")))
"""Paths of GPU drivers: NVIDIA, WSL, AMD. Without any of them, torch finds no GPU."""


def visible_gpus() -> int:
    """Count the NVIDIA GPUs that this process may use, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = len(list(_DRIVER.iterdir())) if _DRIVER.is_dir() else 0
    if visible is None:
        return present
    return min(present, len([entry for entry in visible.split(",") if entry.strip()]))


def choose_device() -> "torch.device | None":
    """Return the first visible GPU, or None for the CPU with NumPy.

    torch is imported only if there is a GPU.
    """
    if not _may_have_gpu():
        return None
    try:
        import torch
    except ImportError:
        log.warning(
            "torch is not installed, so length terms are computed on the CPU and not on the GPU:"
            " pip install 'oyer[gpu]'"
        )
        return None
    return torch.device("cuda:0") if torch.cuda.is_available() else None


def _may_have_gpu() -> bool:
    """Whether a GPU driver is present and not hidden from this process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and any(
        node.exists() for node in _DRIVER_NODES
    )


def describe(device: "torch.device | None") -> str:
    """Return a device's name and memory, for `oyer check`."""
    if device is None:
        return "cpu"
    import torch

    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
