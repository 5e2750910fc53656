"""Steps as columns: the arguments of `extend`, by the names of an experience's attributes."""

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
# Names that would otherwise be those of extra fields, without a word, and what they stand for.
_MISTAKEN = {
    **dict.fromkeys(("obs", "observations"), "states"),
    **dict.fromkeys(("next_obs", "next_observations"), "next_states"),
    **dict.fromkeys(("terminated", "terminateds", "terminations"), "dones"),
    **dict.fromkeys(("truncation", "truncateds"), "truncations"),
    "lane": "lanes",
    "extras": "extra fields by their own names",
}
# What a batch has that came out of a buffer.
_SAMPLED = [
    item.name
    for item in dataclasses.fields(BatchExperience)
    if item.name not in _UNSTACKED and item.name != "extras"
]


def columns_of_call(batch: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """Attribute -> stacked arrays, from those of a batch or those given by name.

    Raises:
        TypeError: If `batch` is not a BatchExperience, or there are arrays beside it.
        ValueError: If a part is missing, or is one that only a sampled batch has.
    """
    if batch is not None and arrays:
        raise TypeError(f"{next(iter(arrays))}: expected a batch or arrays, got both")
    return columns_of_arrays(arrays) if arrays else columns_of_steps(batch)


def lane_array(lanes: Any) -> Any:
    """Lanes that are listed, as an array; anything else as it is.

    Raises:
        ValueError: If the list is none of numbers.
    """
    if not isinstance(lanes, (list, tuple, range)):
        return lanes
    try:
        return np.asarray(lanes, dtype=None if len(lanes) > 0 else np.int64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"lanes: expected ints (k,), got {type(lanes).__name__}: {error}"
        ) from None


def columns_of_arrays(arrays: dict[str, Any]) -> dict[str, Any]:
    """Attribute -> stacked arrays, from those given by the names of a batch's fields.

    Extra fields go by their own names.

    Raises:
        ValueError: If a part is missing, or is one that only a sampled batch has.
    """
    for name in arrays:
        if name in _MISTAKEN:
            raise ValueError(f"{name}: expected {_MISTAKEN[name]} for this, got {name}")
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
    """Attribute -> stacked arrays of a batch of steps in time order.

    What a buffer hands out is no such batch: a row of it may be the sum of several steps, and the
    row behind it the step of another time, episode or environment.

    Raises:
        TypeError: If `batch` is not a BatchExperience.
        ValueError: If it came out of a buffer, or an extra field has the name of another.
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
    """Attribute -> stacked arrays of a batch.

    Raises:
        ValueError: If an extra field has the name of another.
    """
    columns = {name: getattr(batch, stacked) for name, stacked in STACKED.items()}
    for name in batch.extras:
        if not isinstance(name, str) or name in columns:
            raise ValueError(f"extras: expected names of extra fields, got {name!r}")
    return columns | batch.extras
