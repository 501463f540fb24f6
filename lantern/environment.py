"""Process environment that must be set before torch is imported."""

from __future__ import annotations

import logging
import multiprocessing
import os
import platform
import signal
import threading
import warnings
from importlib import metadata
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

SPAWN = multiprocessing.get_context("spawn")
"""Of worker processes. Not forked: a process with threads, which numerical libraries start, may hang in its copy."""


def prepare(threads: int | None = None) -> None:
    """Set OpenMP so that small models do not crawl, and keep libraries quiet; what the user has set stays.

    torch's OpenMP spins by default: with another busy process on the machine a small model's step takes tens of
    times longer than with ``OMP_WAIT_POLICY=passive``.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    os.environ.setdefault("OMP_NUM_THREADS", str(threads or cores()))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    quiet()


def cores() -> int:
    """Cores that this process may use; all there are where the system does not tell (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve_parent() -> None:
    """In a worker process: leave Ctrl-C to the parent, which ends its workers, and end when it does, even by a kill."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(multiprocessing.parent_process(),), daemon=True).start()


def _follow(parent: Any) -> None:
    wait([parent.sentinel])
    os._exit(1)


def quiet() -> None:
    """Silence library chatter that tells a user of Lantern nothing."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists.*",
        ".*torch.jit.script.*",
        ".*LeafSpec.*",
        ".*isinstance.treespec.*",
        ".*lr_scheduler.step.*",
    ):
        warnings.filterwarnings("ignore", message=pattern)


def versions() -> dict[str, str]:
    """Python, Lantern and the libraries that numbers depend on, as a result records them."""
    found = {"python": platform.python_version()}
    for name in ("lantern-erc", "torch", "lightning", "torch-geometric", "numpy", "litellm"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # a checkout that is not installed has no version of its own
    return found


def machine(gpu: bool = False) -> dict[str, Any]:
    """The machine that this process runs on, as a result records it; with *gpu* the accelerator, too."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cores(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    if gpu:
        import torch

        found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
