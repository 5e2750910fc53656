"""One file for each contender."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch

from benchmarks.contenders.base import CPU, Contender, Operation, Operations, Unavailable

__all__ = ["NAMES", "Contender", "Operation", "Operations", "Unavailable", "load"]

# Name -> class in a file, in the order in which memory is given to them.
NAMES = {
    "velora": "velora.Velora",
    "floor": "floor.Floor",
    "numpy_columns": "columns.NumpyColumns",
    "stable_baselines3": "stable_baselines3.StableBaselines3",
    "cpprb": "cpprb.Cpprb",
    "torchrl": "torchrl.TorchRL",
    "tianshou": "tianshou.Tianshou",
    "flashbax": "flashbax.Flashbax",
    "torch_columns": "columns.TorchColumns",
    "copies": "copies.Copies",
}


def load(name: str, device: torch.device = CPU) -> Contender:
    """A contender that is not set up yet.

    Raises:
        Unavailable: If the library that it times is not installed, or cannot be imported.
    """
    file, _, kind = NAMES[name].partition(".")
    try:
        module = importlib.import_module(f"{__name__}.{file}")
    except Exception as error:
        reasons = (str(error) or type(error).__name__, _why_not_installed(name))
        raise Unavailable("; ".join(filter(None, reasons))) from error
    contender: Contender = getattr(module, kind)(device)
    return contender


def _why_not_installed(name: str) -> str:
    """The last line of pip in `make bench`; empty if it did not fail."""
    log = Path(sys.prefix) / f"failed-{name}.txt"
    return log.read_text(encoding="utf-8").strip() if log.exists() else ""
