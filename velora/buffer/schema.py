"""What a buffer's rows hold: inferred once, then fixed."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import keyword
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from velora import _core
from velora.buffer import tree
from velora.buffer.experience import BatchExperience, Experience
from velora.buffer.type_names import TypeName, construct, declare_experience

# Attribute of an experience -> attribute of a batch.
_STACKED = {
    "state": "states",
    "action": "actions",
    "reward": "rewards",
    "next_state": "next_states",
    "done": "dones",
    "truncated": "truncations",
}
_STEP = ("state", "action", "reward", "next_state")
_UNSTACKED = {stacked: name for name, stacked in _STACKED.items()}
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


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of a row.

    Attributes:
        name: Where it is, for errors: `state['camera']`.
        role: The attribute of the experience that it belongs to.
        dtype: What it is stored and returned as, by torch's name: "float32".
        shape: Of one row in a batch: `(F,)`, `(C, H, W)`; a single number is `(1,)`.
        given: How it was pushed, to give it back alike: the shape, or a Python number's type.
    """

    name: str
    role: str
    dtype: str
    shape: tuple[int, ...]
    given: tuple[int, ...] | type

    @property
    def nbytes(self) -> int:
        """Of one row."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return math.prod(self.shape) * dtype.itemsize

    def restore(self, row: Tensor) -> Any:
        """Turns the stored row into the form in which it was pushed."""
        if isinstance(self.given, tuple):
            return row.reshape(self.given)
        return self.given(row.item())


@dataclasses.dataclass(frozen=True)
class Schema:
    """The fields of an experience: a tree of leaves for each attribute, flags aside.

    Attributes:
        trees: Attribute -> nest of leaves: state, action, reward, next_state, then the extras.
        experience_type: What `buffer[i]` gives back; None for extra fields of no declared type.
        extra_fields: Name of an extra field -> numbers of its leaves among those of all trees.
    """

    trees: dict[str, Any]
    experience_type: type[Any] | None
    extra_fields: dict[str, list[int]] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Now, not at the first use: that would change an object which others may be reading.
        numbers = itertools.count()
        fields = {
            name: [next(numbers) for _ in tree.leaves(nest)] for name, nest in self.trees.items()
        }
        extras = {name: fields[name] for name in fields if name not in _STACKED}
        object.__setattr__(self, "extra_fields", extras)

    @classmethod
    def from_experience(cls, experience: Any) -> Schema:
        """The schema that the first experience fixes.

        Raises:
            TypeError: If it is not a dataclass with the fields of `Experience`.
            ValueError: If a field is not an array, a number or a nest of them.
        """
        values = {name: getattr(experience, name) for name in _row_fields(type(experience))}
        return cls(_infer(values, _row_of_one), type(experience))

    @classmethod
    def from_columns(cls, columns: dict[str, Any]) -> Schema:
        """The schema that the first batch fixes, from attribute -> array `(k, ...)`.

        Raises:
            ValueError: If a field is missing or has no leading dimension.
        """
        extras = {name: value for name, value in columns.items() if name not in _STACKED}
        values = {name: columns[name] for name in _STEP} | extras
        return cls(_infer(values, _row_of_batch, _label_of_batch), None if extras else Experience)

    @classmethod
    def from_leaves(cls, nests: dict[str, Any]) -> Schema:
        """The schema of leaves that are known, from attribute -> nest of them, next states aside.

        Raises:
            ValueError: If a field is missing, or is one that cannot be.
        """
        required = [name for name in _STEP if name != "next_state"]
        extras = [name for name in nests if name not in required]
        if [*required, *extras] != list(nests) or any(name in _STACKED for name in extras):
            raise ValueError(
                f"trees: expected {', '.join(required)} and extra fields, got {', '.join(nests)}"
            )
        values = {name: nests.get(name) for name in (*_STEP, *extras)}
        return cls(_infer(values, _row_of_leaf), None)

    def check_type(self, kind: type[Any]) -> None:
        """Checks that experiences of type `kind` have just this schema's fields.

        Raises:
            TypeError: If `kind` is not a dataclass with the fields of `Experience`.
            ValueError: If a field is missing or unknown.
        """
        names = _row_fields(kind)
        for name in self.trees:
            if name not in names:
                raise ValueError(
                    f"{name}: expected this field in each experience, got a {kind.__name__} "
                    "without it"
                )
        for name in names:
            if name not in self.trees:
                raise ValueError(
                    f"{name}: expected no such field, since the first experience had none, got a "
                    f"{kind.__name__} with it"
                )

    def fits(self, kind: type[Any]) -> bool:
        """Whether experiences of type `kind` have just this schema's fields."""
        try:
            self.check_type(kind)
        except (TypeError, ValueError):
            return False
        return True

    def read_batch(
        self, batch: Any = None, *, lanes: Any = None, **arrays: Any
    ) -> tuple[dict[str, Any] | _core.BufferCore | None, Any]:
        """Attribute -> stacked arrays, and lanes, from the arguments of `Buffer.extend`.

        The native core calls it for those that are not just arrays by their names. In place of
        arrays there is the core of a buffer whose steps are to be copied, None where it has none.

        Raises:
            TypeError: If `batch` is neither a BatchExperience nor a buffer, or there are arrays
                beside it.
            ValueError: If a part is missing or unknown, or the batch came out of a buffer.
        """
        from velora.buffer.base import Buffer  # which needs this module

        lanes = lane_array(lanes)
        if isinstance(batch, Buffer) and not arrays:
            return batch._core, lanes
        columns = columns_of_call(batch, arrays)
        for name in columns:
            if name not in self.trees and name not in _STACKED:
                raise ValueError(
                    f"{name}: expected no such field, since the first experience had none, got a "
                    "batch with it"
                )
        return columns, lanes

    def build_core(self, options: _core.BufferOptions) -> _core.BufferCore:
        """A native buffer for rows of this schema.

        Raises:
            MemoryError: If so many rows do not fit into this machine, or onto the device.
            ValueError: If states are no stacks of `frame_stack` frames.
        """
        return _core.BufferCore(
            fields=self._fields(),
            trees=self.trees,
            options=options,
            check_type=self.check_type,
            batch_names=[_STACKED.get(name, name) for name in (*self.trees, "done", "truncated")],
            read_batch=self.read_batch,
            batch_type=BatchExperience,
        )

    def rows_nbytes(self, options: _core.BufferOptions) -> int:
        """The size of all rows, without what compact ones have beside them."""
        return _core.rows_nbytes(self._fields(), options)

    def _fields(self) -> list[_core.Field]:
        leaves = tree.leaves(self.trees)
        return [_core.Field(x.name, x.role, x.dtype, list(x.shape)) for x in leaves]

    @property
    def observation_bytes(self) -> int:
        """The size of one state."""
        return sum(leaf.nbytes for leaf in tree.leaves(self.trees["state"]))

    @property
    def extra_names(self) -> list[str]:
        """The fields that a subclass of `Experience` added."""
        return list(self.extra_fields)

    def experience(self, batch: BatchExperience, i: int) -> Any:
        """Row `i` of a batch, in the form in which it was pushed."""
        values = {name: getattr(batch, _STACKED[name]) for name in self.trees if name in _STACKED}
        values.update(batch.extras)
        restored = {
            name: tree.map_named_leaves(
                lambda _, leaf, column: leaf.restore(column[i]), nest, name, (values[name],)
            )
            for name, nest in self.trees.items()
        }
        restored["done"] = bool(batch.dones[i])
        restored["truncated"] = bool(batch.truncations[i])
        return construct(self.experience_type or self._declare_type(), restored)

    def _declare_type(self) -> type[Any]:
        """For rows with extra fields that came without a class."""
        extras = tuple(self.extra_names)
        return declare_experience(TypeName(Experience.__module__, Experience.__qualname__, extras))


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
    for name, stacked in _STACKED.items():
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
    columns = {name: getattr(batch, stacked) for name, stacked in _STACKED.items()}
    for name in batch.extras:
        if not isinstance(name, str) or name in columns:
            raise ValueError(f"extras: expected names of extra fields, got {name!r}")
    return columns | batch.extras


def _row_fields(kind: type[Any]) -> list[str]:
    """The fields of an experience in the order of a row, flags aside."""
    declared = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    names = [item.name for item in declared]
    missing = [name for name in (*_STEP, "done") if name not in names]
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
    return [*_STEP, *(name for name in names if name not in _STACKED)]


def _annotations(kind: type[Any]) -> list[str]:
    """What subclasses of Experience that are no dataclasses declare as if they were."""
    return [
        name
        for base in kind.__mro__
        if issubclass(base, Experience) and "__dataclass_fields__" not in vars(base)
        for name in inspect.get_annotations(base)
    ]


def _infer(
    values: dict[str, Any],
    row_of: Callable[[Any, str], tuple[str, tuple[int, ...], Any]],
    label: Callable[[str], str] = str,
) -> dict[str, Any]:
    """A tree of leaves for each attribute; `label` makes of its name what errors call it."""
    trees: dict[str, Any] = {}
    for attribute, value in values.items():
        if attribute == "next_state":
            # Not inferred: a next state is a state, and the native reader holds it to that.
            trees[attribute] = tree.map_leaves(
                lambda leaf: dataclasses.replace(leaf, name="next_" + leaf.name, role="next_state"),
                trees["state"],
            )
            continue
        role = attribute if attribute in _STACKED else "extra"
        if role == "extra" and (not attribute.isidentifier() or keyword.iskeyword(attribute)):
            raise ValueError(
                f"extras: expected names that fields of an experience can have, got {attribute!r}"
            )

        def infer_leaf(name: str, leaf: Any, role: str = role) -> Leaf:
            dtype, shape, given = row_of(leaf, label(name))
            if role == "reward" or dtype == "float64":
                dtype = "float32"
            # Numbers come back by what is stored: rewards that begin with an int may go on halved.
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
    """What a batch calls `state['camera']`: `states['camera']`."""
    attribute, bracket, entry = name.partition("[")
    return _STACKED.get(attribute, attribute) + bracket + entry
