"""Identifies the training that a process belongs to, so that groups of two trainings never mix.

The identity comes from the launcher: Ray's job, the rendezvous of torchrun, accelerate or DeepSpeed,
or a Slurm step. A group's id alone is not enough, because trainers number groups from 0 or name them
by the prompt.
"""

import os
import socket
import sys
from collections.abc import Mapping

_RENDEZVOUS = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
"""Variables that are equal in all ranks of one torchrun, accelerate or DeepSpeed launch."""

_SLURM_STEP = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID")
"""Variables that are equal in all tasks of one `srun`."""

_LOOPBACK = ("", "localhost", "127.0.0.1", "::1")


def training_name(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return an id that all processes of this training share; None without a known launcher."""
    job = _ray_job()
    if job is not None:
        return job
    if _count(environ, "WORLD_SIZE") > 1:
        return " ".join(["ranks", *(environ.get(name, "") for name in _RENDEZVOUS), _host(environ)])
    if _count(environ, "SLURM_STEP_NUM_TASKS") > 1:
        return " ".join(["slurm", *(environ.get(name, "") for name in _SLURM_STEP)])
    return None


def is_first_process(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process has rank 0 in its launch; True without a known launcher."""
    if _count(environ, "WORLD_SIZE") > 1:
        return _count(environ, "RANK") == 0
    if _count(environ, "SLURM_STEP_NUM_TASKS") > 1:
        return _count(environ, "SLURM_PROCID") == 0
    return True


def _ray_job() -> str | None:
    """Return the cluster and job of this Ray driver, task or actor; jobs are numbered from 1."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        context = ray.get_runtime_context()
        return f"ray {context.gcs_address} {context.get_job_id()}"
    return None


def _host(environ: Mapping[str, str]) -> str:
    """Return host and launcher process if all ranks run on one host, else nothing.

    On one host the rendezvous is often the default address, which two trainings may share.
    """
    one_host = environ.get("LOCAL_WORLD_SIZE") == environ.get("WORLD_SIZE")
    if one_host or environ.get("MASTER_ADDR", "") in _LOOPBACK:
        return f"{socket.gethostname()} {os.getppid()}"
    return ""


def _count(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "")
    return int(value) if value.isdecimal() else 0
