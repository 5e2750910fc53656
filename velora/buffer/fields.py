"""Inference of a row's fields from values."""

from __future__ import annotations

import dataclasses
import inspect
import keyword
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from velora import _core
from velora.buffer import tree
from velora.buffer.columns import STACKED, STEP
from velora.buffer.experience import Experience


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of a row.

    Attributes:
        name: Its path, for error messages: `state['camera']`.
        role: The attribute of the experience that it belongs to.
        dtype: The dtype that is stored and returned, by torch's name: "float32".
        shape: Shape of one row in a batch: `(F,)`, `(C, H, W)`; a single number is `(1,)`.
        given: The form in which it was pushed and is returned: a shape, or a number's Python type.
    """

    name: str
    role: str
    dtype: str
    shape: tuple[int, ...]
    given: tuple[int, ...] | type

    @property
    def nbytes(self) -> int:
        """Size of one row in bytes."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return math.prod(self.shape) * dtype.itemsize

    def restore(self, row: Tensor) -> Any:
        """Converts a stored row to the form in which it was pushed."""
        if isinstance(self.given, tuple):
            return row.reshape(self.given)
        return self.given(row.item())


def row_fields(kind: type[Any]) -> list[str]:
    """Returns the names of an experience's fields in row order, without the flags.

    Raises:
        TypeError: If `kind` is not an experience class, or lacks the @dataclass decorator.
    """
    declared = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    names = [item.name for item in declared]
    missing = [name for name in (*STEP, "done") if name not in names]
    if missing:
        raise TypeError(
            f"experience: expected an Experience, got {kind.__name__} without {', '.join(missing)}"
        )
    forgotten = [name for name in _annotations(kind) if name not in names]
    if forgotten:
        raise TypeError(
            f"{forgotten[0]}: expected a dataclass field, got an annotation that no buffer sees; "
            f"put @dataclass above class {kind.__name__}"
        )
    return [*STEP, *(name for name in names if name not in STACKED)]


def _annotations(kind: type[Any]) -> list[str]:
    """Returns the annotations of subclasses of Experience that lack the @dataclass decorator."""
    return [
        name
        for base in kind.__mro__
        if issubclass(base, Experience) and "__dataclass_fields__" not in vars(base)
        for name in inspect.get_annotations(base)
    ]


def trees_of_experience(values: dict[str, Any]) -> dict[str, Any]:
    """Infers a tree of leaves for each attribute of an experience.

    Raises:
        ValueError: If a value is not an array, a number or a nest of them.
    """
    return _infer_trees(values, _row_of_one)


def trees_of_columns(values: dict[str, Any]) -> dict[str, Any]:
    """Infers a tree of leaves for each attribute from stacked arrays `(k, ...)`.

    Raises:
        ValueError: If one has no leading dimension.
    """
    return _infer_trees(values, _row_of_batch, _label_of_batch)


def trees_of_leaves(values: dict[str, Any]) -> dict[str, Any]:
    """Checks nests of leaves and returns a tree of leaves for each attribute.

    Raises:
        ValueError: If a nest does not fit its attribute.
    """
    return _infer_trees(values, _row_of_leaf)


def _infer_trees(
    values: dict[str, Any],
    row_of: Callable[[Any, str], tuple[str, tuple[int, ...], Any]],
    label: Callable[[str], str] = str,
) -> dict[str, Any]:
    """Returns a tree of leaves for each attribute; `label` converts a path for error messages."""
    trees: dict[str, Any] = {}
    for attribute, value in values.items():
        if attribute == "next_state":
            # Not inferred: a next state has the form of a state, which the native reader checks.
            trees[attribute] = tree.map_leaves(
                lambda leaf: dataclasses.replace(leaf, name="next_" + leaf.name, role="next_state"),
                trees["state"],
            )
            continue
        role = attribute if attribute in STACKED else "extra"
        if role == "extra" and (not attribute.isidentifier() or keyword.iskeyword(attribute)):
            raise ValueError(
                f"extras: expected names that fields of an experience can have, got {attribute!r}"
            )

        def infer_leaf(name: str, leaf: Any, role: str = role) -> Leaf:
            dtype, shape, given = row_of(leaf, label(name))
            if role == "reward" or dtype == "float64":
                dtype = "float32"
            # Numbers come back in the stored type: rewards may begin with an int, then be floats.
            if isinstance(given, type) and dtype == "float32":
                given = float
            if role == "reward" and 0 not in shape and _stored_shape(shape) != (1,):
                raise ValueError(f"reward: expected a single number, got {dtype} of shape {shape}")
            return Leaf(name, role, dtype, _stored_shape(shape), given)

        if role == "reward" and isinstance(value, (dict, tuple)):
            raise ValueError(
                f"{label(role)}: expected a number or an array, got {type(value).__name__}"
            )
        trees[attribute] = tree.map_named_leaves(infer_leaf, value, attribute)
        if not tree.leaves(trees[attribute]):
            raise ValueError(f"{label(attribute)}: expected at least one array, got {value!r}")
    return trees


def _stored_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if not shape:
        return (1,)
    if len(shape) == 2 and shape[0] == 1:
        return shape[1:]
    return shape


def _row_of_one(value: Any, name: str) -> tuple[str, tuple[int, ...], Any]:
    dtype, shape = _core.inspect(value, name)
    for number in (bool, int, float):  # bool first: it is an int
        if isinstance(value, number):
            return dtype, shape, number
    return dtype, shape, shape


def _row_of_leaf(leaf: Leaf, _name: str) -> tuple[str, tuple[int, ...], Any]:
    return leaf.dtype, leaf.shape, leaf.given


def _row_of_batch(value: Any, name: str) -> tuple[str, tuple[int, ...], Any]:
    dtype, shape = _core.inspect(value, name)
    if not shape:
        raise ValueError(f"{name}: expected a batch with a leading dimension, got a single number")
    is_reward = name == "rewards"
    if is_reward and shape[1:] not in ((), (1,)):
        raise ValueError(
            f"rewards: expected (rows,) or (rows, 1), with environments and steps in one "
            f"dimension, got {dtype} of shape {shape}"
        )
    return dtype, shape[1:], float if is_reward else shape[1:]


def _label_of_batch(name: str) -> str:
    """Converts the path of a row to that of a batch: `state['camera']` to `states['camera']`."""
    attribute, bracket, entry = name.partition("[")
    return STACKED.get(attribute, attribute) + bracket + entry
