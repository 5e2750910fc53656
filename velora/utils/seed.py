"""Seeding of random number generators."""

from __future__ import annotations

import operator
import random

import numpy as np
import torch


def set_seed(seed: int) -> None:
    """Seeds the global generators of Python, numpy and torch (on all devices).

    Buffers created afterwards without a seed draw theirs from torch's generator, so the whole run
    is reproducible.

    Args:
        seed: 0 to 2**32 - 1, the range that all of them accept.

    Raises:
        TypeError: If `seed` is not an int.
        ValueError: If it is out of range.
    """
    if not hasattr(type(seed), "__index__"):
        raise TypeError(f"seed: expected an int, got {type(seed).__name__} {seed!r}")
    number = operator.index(seed)
    if not 0 <= number < 2**32:
        raise ValueError(f"seed: expected 0 to 2**32 - 1, got {seed}")
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002  # the generator that other libraries use
    torch.manual_seed(number)
