"""One file for each contender."""

from __future__ import annotations

import importlib

from benchmarks.contenders.base import Contender, Operation, Operations, Unavailable

__all__ = ["NAMES", "Contender", "Operation", "Operations", "Unavailable", "load"]

# In the order in which they take turns. The name is that of the file.
NAMES = ("velora", "torch_columns", "numpy_columns", "torchrl", "floor")


def load(name: str) -> Contender:
    """A contender that is not set up yet.

    Raises:
        Unavailable: If the library that it times is not installed.
    """
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise Unavailable(str(error)) from error
    contender: Contender = module.create()
    return contender
