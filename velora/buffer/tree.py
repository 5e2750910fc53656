"""Traversal of nested dicts and tuples of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Applies `function` to each leaf of a nest; None stays None."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: map_leaves(function, child) for key, child in tree.items()}
    if isinstance(tree, tuple):
        return rebuild_tuple(tree, [map_leaves(function, child) for child in tree])
    return function(tree)


def map_named_leaves(function: Callable[[str, Any], Any], tree: Any, name: str) -> Any:
    """Like `map_leaves`, but also passes the path of each leaf: `state['camera'][0]`."""
    if isinstance(tree, dict):
        return {
            key: map_named_leaves(function, child, f"{name}[{key!r}]")
            for key, child in tree.items()
        }
    if isinstance(tree, tuple):
        return rebuild_tuple(
            tree,
            [map_named_leaves(function, child, f"{name}[{i}]") for i, child in enumerate(tree)],
        )
    return function(name, tree)


def leaves(tree: Any) -> list[Any]:
    """Returns all leaves in the order of `map_leaves`."""
    found: list[Any] = []
    map_leaves(found.append, tree)
    return found


def equal(left: Any, right: Any) -> bool:
    """Whether two nests have the same structure, and their leaves the same shapes and values."""
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


def rebuild_tuple(like: tuple[Any, ...], children: list[Any]) -> tuple[Any, ...]:
    """Builds a tuple of the type of `like` from other entries."""
    # A named tuple takes separate arguments, a plain tuple takes one iterable.
    return type(like)(*children) if hasattr(like, "_fields") else tuple(children)
