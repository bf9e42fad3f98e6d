"""Names the training that a process belongs to, so that groups of two trainings never mix.

Read from what a launcher tells all processes of one training: Ray's job, the rendezvous of torchrun,
accelerate or DeepSpeed, or a Slurm step. Trainers number their groups from 0 or name them by the
prompt, so that a group's id alone does not tell two trainings apart.
"""

import os
import socket
import sys
from collections.abc import Mapping

_RENDEZVOUS = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
"""Equal in all ranks that torchrun, accelerate or DeepSpeed start together."""

_SLURM_STEP = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID")
"""Equal in all tasks of one `srun`."""

_LOOPBACK = ("", "localhost", "127.0.0.1", "::1")


def launched(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return what names this training in all its processes; None where no launcher says it."""
    job = _ray_job()
    if job is not None:
        return job
    if _count(environ, "WORLD_SIZE") > 1:
        return " ".join(["ranks", *(environ.get(name, "") for name in _RENDEZVOUS), _host(environ)])
    if _count(environ, "SLURM_STEP_NUM_TASKS") > 1:
        return " ".join(["slurm", *(environ.get(name, "") for name in _SLURM_STEP)])
    return None


def _ray_job() -> str | None:
    """Name the Ray job of this driver, task or actor; a cluster numbers its jobs from 1."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        context = ray.get_runtime_context()
        return f"ray {context.gcs_address} {context.get_job_id()}"
    return None


def _host(environ: Mapping[str, str]) -> str:
    """Name host and launcher of ranks that all run on one host; nothing for several hosts.

    On one host the rendezvous is often the default address, which two trainings then share.
    """
    one_host = environ.get("LOCAL_WORLD_SIZE") == environ.get("WORLD_SIZE")
    if one_host or environ.get("MASTER_ADDR", "") in _LOOPBACK:
        return f"{socket.gethostname()} {os.getppid()}"
    return ""


def _count(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "")
    return int(value) if value.isdecimal() else 0
