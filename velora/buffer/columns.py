"""Columns of steps: the arguments of `extend`, by the attribute names of an experience."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from velora.buffer.experience import BatchExperience

# Attribute of an experience -> attribute of a batch.
STACKED = {
    "state": "states",
    "action": "actions",
    "reward": "rewards",
    "next_state": "next_states",
    "done": "dones",
    "truncated": "truncations",
}
STEP = ("state", "action", "reward", "next_state")
_UNSTACKED = {stacked: name for name, stacked in STACKED.items()}
# Common names of standard fields, which would silently become extra fields -> velora's names.
_MISNAMED = {
    **dict.fromkeys(("obs", "observations"), "states"),
    **dict.fromkeys(("next_obs", "next_observations"), "next_states"),
    **dict.fromkeys(("terminated", "terminateds", "terminations"), "dones"),
    **dict.fromkeys(("truncation", "truncateds"), "truncations"),
    "lane": "lanes",
    "extras": "extra fields by their own names",
}
# Fields that only a sampled batch has.
_SAMPLED = [
    item.name
    for item in dataclasses.fields(BatchExperience)
    if item.name not in _UNSTACKED and item.name != "extras"
]


def columns_of_call(batch: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """Converts a batch, or arrays given by name, to attribute -> stacked arrays.

    Raises:
        TypeError: If `batch` is not a BatchExperience, or both a batch and arrays are given.
        ValueError: If a field is missing, or is one that only a sampled batch has.
    """
    if batch is not None and arrays:
        raise TypeError(f"{next(iter(arrays))}: expected a batch or arrays, got both")
    return columns_of_arrays(arrays) if arrays else columns_of_steps(batch)


def lane_array(lanes: Any) -> Any:
    """As `int_array`, for lanes."""
    return int_array("lanes", "(k,)", lanes)


def int_array(name: str, shape: str, values: Any) -> Any:
    """Converts a list of ints to an array; returns anything else unchanged.

    Raises:
        ValueError: If the list does not contain numbers.
    """
    if not isinstance(values, (list, tuple, range)):
        return values
    try:
        return np.asarray(values, dtype=None if len(values) > 0 else np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{name}: expected ints {shape}, got {type(values).__name__}: {error}"
        ) from None


def columns_of_arrays(arrays: dict[str, Any]) -> dict[str, Any]:
    """Converts arrays, named as the fields of a batch, to attribute -> stacked arrays.

    Extra fields keep their names.

    Raises:
        ValueError: If a field is missing, or is one that only a sampled batch has.
    """
    for name in arrays:
        if name in _MISNAMED:
            raise ValueError(f"{name}: expected {_MISNAMED[name]} for this, got {name}")
    columns = {_UNSTACKED.get(name, name): value for name, value in arrays.items()}
    columns.setdefault("truncated", None)
    for name, stacked in STACKED.items():
        if name not in columns or name in arrays:
            raise ValueError(f"{stacked}: expected a batch of this field, got none")
    for name in _SAMPLED:
        if name in arrays:
            raise ValueError(f"{name}: expected parts of steps, got one that sampling adds")
    return columns


def columns_of_steps(batch: Any) -> dict[str, Any]:
    """Converts a batch of steps in time order to attribute -> stacked arrays.

    Sampled batches are rejected: a row may be the sum of several steps, and the next row may come
    from another time, episode or environment.

    Raises:
        TypeError: If `batch` is not a BatchExperience.
        ValueError: If it was sampled, or an extra field has the name of another field.
    """
    if not isinstance(batch, BatchExperience):
        raise TypeError(
            f"batch: expected a BatchExperience or a buffer, got {type(batch).__name__}; push() "
            "experiences one by one"
        )
    sampled = [name for name in _SAMPLED if getattr(batch, name) is not None]
    if sampled:
        cleared = ", ".join(f"{name}=None" for name in sampled)
        raise ValueError(
            f"batch.{sampled[0]}: expected None, as in a batch of steps in time order, got a batch "
            "that a buffer made, whose rows would become each other's successors; extend(buffer) "
            "copies the steps of a buffer; if these rows are single steps in time order, pass "
            f"dataclasses.replace(batch, {cleared})"
        )
    return columns_of(batch)


def columns_of(batch: BatchExperience) -> dict[str, Any]:
    """Converts a batch to attribute -> stacked arrays.

    Raises:
        ValueError: If an extra field has the name of another field.
    """
    columns = {name: getattr(batch, stacked) for name, stacked in STACKED.items()}
    for name in batch.extras:
        if not isinstance(name, str) or name in columns:
            raise ValueError(f"extras: expected names of extra fields, got {name!r}")
    return columns | batch.extras
