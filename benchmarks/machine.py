"""What a result was measured on."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "velora",
    "torch",
    "numpy",
    "stable-baselines3",
    "cpprb",
    "torchrl",
    "tensordict",
    "tianshou",
    "flashbax",
    "jax",
)


def describe_machine() -> dict[str, object]:
    """Processor, memory and system; no names of hosts or people."""
    return {
        "processor": _proc_line(Path("/proc/cpuinfo"), "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "memory": _proc_line(Path("/proc/meminfo"), "MemTotal"),
        "system": platform.system(),
        "architecture": platform.machine(),
    }


def name(machine: Mapping[str, object] | None = None) -> str:
    """Processor and cores, of this machine or a described one."""
    machine = describe_machine() if machine is None else machine
    return f"{machine['processor']}, {machine['cores']} cores"


def slug() -> str:
    """The same for the name of a folder."""
    plain = re.sub(r"\((R|TM)\)|\b(CPU|Processor)\b", "", name())
    return re.sub(r"[^a-z0-9.]+", "-", plain.lower()).strip("-")


def describe_versions() -> dict[str, str]:
    """What is installed of Python and the packages that are timed."""
    found = {"python": platform.python_version()}
    return found | {package: _version_of(package) for package in PACKAGES}


def now() -> str:
    """The date and time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _proc_line(path: Path, key: str) -> str | None:
    if not path.exists():
        return None
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None
