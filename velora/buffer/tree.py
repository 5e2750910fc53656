"""Nested dicts and tuples of arrays, traversed in the order of the native core."""

from __future__ import annotations

from typing import Any

import torch

from velora._core import form_of, leaves, map_leaves, map_named_leaves

__all__ = ["equal", "form_of", "leaves", "map_leaves", "map_named_leaves"]


def equal(left: Any, right: Any) -> bool:
    """Returns whether two nests have equal structure, shapes and values."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return torch.equal(left, right)
    if getattr(left, "shape", ()) != getattr(right, "shape", ()):
        return False
    same = left == right
    return bool(same.all() if hasattr(same, "all") else same)
