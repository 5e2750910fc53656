"""The machine: what a result was measured on, where results go, threads, free memory."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

Threads = Literal[1, "all"]

BUILD_DIR = Path(__file__).parent.parent / "build" / "benchmarks"
RESULTS = BUILD_DIR / "results"
PACKAGES = (
    *("velora", "torch", "numpy", "stable-baselines3", "cpprb"),
    *("torchrl", "tensordict", "tianshou", "flashbax", "jax"),
)
GIGABYTE = 1e9
# Some contenders hold their contents a second time while they are filled.
COPIES = 2.2
SPARE = 1e9  # for the system and other programs


def describe() -> dict[str, Any]:
    """Date, machine and versions; no names of hosts or people."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "processor": _proc("cpuinfo", "model name") or platform.processor(),
            "cores": os.cpu_count(),
            "memory": _proc("meminfo", "MemTotal"),
            "system": platform.system(),
            "architecture": platform.machine(),
        },
        "versions": {"python": platform.python_version()}
        | {package: _version_of(package) for package in PACKAGES},
    }


def name(machine: Mapping[str, object] | None = None) -> str:
    """Processor and cores, of this machine or a described one."""
    found = describe()["machine"] if machine is None else machine
    return f"{found['processor']}, {found['cores']} cores"


def name_of(device: torch.device) -> str:
    """Name of the GPU, or of this machine."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else name()


def folder(results: Path, name: str) -> Path:
    """The folder of a machine or a GPU of this name."""
    plain = re.sub(r"\((R|TM)\)|\b(CPU|Processor)\b", "", name)
    return results / re.sub(r"[^a-z0-9.]+", "-", plain.lower()).strip("-")


def write_json(document: Mapping[str, Any], path: Path) -> None:
    """Writes what `json.loads` reads back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def count_threads(threads: Threads) -> int:
    """Their number, which for "all" is that of the cores that this process may use."""
    return 1 if threads == 1 else len(os.sched_getaffinity(0))


def use_threads(threads: Threads) -> None:
    """Tells torch, and whatever follows `torch.get_num_threads`."""
    torch.set_num_threads(count_threads(threads))


def keep_jax_on_one_thread() -> None:
    """JAX reads this once, when it is imported."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    os.environ.setdefault("NPROC", "1")


def on_one_thread(run: Callable[[], object]) -> Callable[[], object]:
    """An operation that has one thread even where others have all."""

    def run_on_one() -> None:
        use_threads(1)
        run()
        use_threads("all")

    return run_on_one


def lack_of_memory(contents_nbytes: int) -> str | None:
    """Why no contender with such contents should be set up; None if there is memory for it."""
    needed, free = COPIES * contents_nbytes + SPARE, free_nbytes()
    if free is None or needed <= free:
        return None
    return f"needs {needed / GIGABYTE:.1f} GB of memory, {free / GIGABYTE:.1f} GB are free"


def free_nbytes() -> int | None:
    """Memory that programs can still allocate; None where the system does not tell."""
    found = _proc("meminfo", "MemAvailable")
    return None if found is None else int(found.split()[0]) * 1024


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _proc(file: str, key: str) -> str | None:
    path = Path("/proc", file)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(rf"^{key}\s*: *(.*)$", text, re.MULTILINE)
    return found[1] if found else None
