"""One file for each contender."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from benchmarks.contenders.base import Contender, Operation, Operations, Unavailable

__all__ = ["NAMES", "Contender", "Operation", "Operations", "Unavailable", "load"]

# The names of the files, in the order in which memory is given to them where it does not suffice.
NAMES = (
    "velora",
    "floor",
    "numpy_columns",
    "stable_baselines3",
    "cpprb",
    "torchrl",
    "tianshou",
    "flashbax",
    "torch_columns",
)


def load(name: str) -> Contender:
    """A contender that is not set up yet.

    Raises:
        Unavailable: If the library that it times is not installed, or cannot be imported.
    """
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except Exception as error:
        reasons = (str(error) or type(error).__name__, _why_not_installed(name))
        raise Unavailable("; ".join(filter(None, reasons))) from error
    contender: Contender = module.create()
    return contender


def _why_not_installed(name: str) -> str:
    """What pip said when `make bench` wanted it; empty where it did not fail."""
    log = Path(sys.prefix) / f"failed-{name}.txt"
    return log.read_text(encoding="utf-8").strip() if log.exists() else ""
