"""The schema of a buffer's rows: inferred once, then fixed."""

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
# Common misnomers, which would otherwise silently become extra fields, and the right names.
_MISTAKEN = {
    **dict.fromkeys(("obs", "observations"), "states"),
    **dict.fromkeys(("next_obs", "next_observations"), "next_states"),
    **dict.fromkeys(("terminated", "terminateds", "terminations"), "dones"),
    **dict.fromkeys(("truncation", "truncateds"), "truncations"),
    "lane": "lanes",
    "extras": "extra fields by their own names",
}
# Attributes that only sampled batches have.
_SAMPLED = [
    item.name
    for item in dataclasses.fields(BatchExperience)
    if item.name not in _UNSTACKED and item.name != "extras"
]


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


@dataclasses.dataclass(frozen=True)
class Schema:
    """The fields of an experience: a tree of leaves for each attribute, flags aside.

    Attributes:
        trees: Attribute -> nest of leaves: state, action, reward, next_state, then the extras.
        experience_type: Type of `buffer[i]`; None if there are extra fields of no declared type.
        extra_fields: Name of an extra field -> indices of its leaves among all leaves.
    """

    trees: dict[str, Any]
    experience_type: type[Any] | None
    extra_fields: dict[str, list[int]] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Not lazily: that would change an object that other threads may be reading.
        indices = self.leaf_indices()
        extras = {name: tree.leaves(indices[name]) for name in indices if name not in _STACKED}
        object.__setattr__(self, "extra_fields", extras)

    @classmethod
    def from_experience(cls, experience: Any) -> Schema:
        """Infers the schema from the first experience.

        Raises:
            TypeError: If it is not a dataclass with the fields of `Experience`.
            ValueError: If a field is not an array, a number or a nest of them.
        """
        values = {name: getattr(experience, name) for name in _row_fields(type(experience))}
        return cls(_infer(values, _row_of_one), type(experience))

    @classmethod
    def from_columns(cls, columns: dict[str, Any]) -> Schema:
        """Infers the schema from the first batch, given as attribute -> array `(k, ...)`.

        Raises:
            ValueError: If a field is missing or has no leading dimension.
        """
        extras = {name: value for name, value in columns.items() if name not in _STACKED}
        values = {name: columns[name] for name in _STEP} | extras
        return cls(_infer(values, _row_of_batch, _label_of_batch), None if extras else Experience)

    @classmethod
    def from_leaves(cls, nests: dict[str, Any]) -> Schema:
        """Builds the schema from known leaves: attribute -> nest of leaves, without next states.

        Raises:
            ValueError: If a field is missing or invalid.
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
        """Checks that experiences of type `kind` have exactly this schema's fields.

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
        """Whether experiences of type `kind` have exactly this schema's fields."""
        try:
            self.check_type(kind)
        except (TypeError, ValueError):
            return False
        return True

    def read_batch(
        self, batch: Any = None, *, lanes: Any = None, **arrays: Any
    ) -> tuple[dict[str, Any] | _core.Buffer | None, Any]:
        """Converts the arguments of `Buffer.extend` to attribute -> stacked arrays, and lanes.

        The native core calls it for calls that are not plain arrays by name. To copy a buffer, it
        returns that buffer's core instead of arrays, or None if that has none.

        Raises:
            TypeError: If `batch` is neither a BatchExperience nor a buffer, or if both a batch and
                arrays are given.
            ValueError: If a field is missing or unknown, or the batch was sampled from a buffer.
        """
        from velora.buffer.base import Buffer  # not at the top: it imports this module

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

    def build_core(
        self,
        *,
        lane_capacity: int,
        num_lanes: int,
        seed: _core.DrawSeed,
        n_step: int,
        gamma: float | None,
        overwrite: bool,
        compact: bool,
        frame_stack: int,
        storage: str,
        device: int | None,
    ) -> _core.Buffer:
        """Builds a native buffer for rows of this schema, on a CUDA device if an index is given.

        Raises:
            MemoryError: If the rows do not fit into host or device memory.
            ValueError: If states are not stacks of `frame_stack` frames.
        """
        return _core.Buffer(
            fields=self._fields(),
            trees=self.leaf_indices(),
            lane_capacity=lane_capacity,
            num_lanes=num_lanes,
            seed=seed,
            n_step=n_step,
            gamma=gamma,
            overwrite=overwrite,
            compact=compact,
            frame_stack=frame_stack,
            check_type=self.check_type,
            batch_names=[_STACKED.get(name, name) for name in (*self.trees, "done", "truncated")],
            read_batch=self.read_batch,
            batch_type=BatchExperience,
            storage=storage,
            device=device,
        )

    def rows_nbytes(
        self, lane_capacity: int, num_lanes: int, compact: bool, frame_stack: int
    ) -> int:
        """Size of the rows in bytes, without the links and blocks of compact rows."""
        return _core.rows_nbytes(self._fields(), lane_capacity, num_lanes, compact, frame_stack)

    def _fields(self) -> list[_core.Field]:
        leaves = tree.leaves(self.trees)
        return [_core.Field(x.name, x.role, x.dtype, list(x.shape)) for x in leaves]

    @property
    def observation_bytes(self) -> int:
        """Size of one state in bytes."""
        return sum(leaf.nbytes for leaf in tree.leaves(self.trees["state"]))

    def leaf_indices(self) -> dict[str, Any]:
        """Attribute -> nest with the index of each leaf among all leaves."""
        numbers = itertools.count()
        return {
            name: tree.map_leaves(lambda _: next(numbers), nest)
            for name, nest in self.trees.items()
        }

    @property
    def extra_names(self) -> list[str]:
        """Names of the fields that a subclass of `Experience` added."""
        return list(self.extra_fields)

    def experience(self, batch: BatchExperience, i: int) -> Any:
        """Returns row `i` of a batch in the form in which it was pushed."""
        values = {name: getattr(batch, _STACKED[name]) for name in self.trees if name in _STACKED}
        values.update(batch.extras)
        restored = {name: _restore(nest, values[name], i) for name, nest in self.trees.items()}
        restored["done"] = bool(batch.dones[i])
        restored["truncated"] = bool(batch.truncations[i])
        return construct(self.experience_type or self._declare_type(), restored)

    def _declare_type(self) -> type[Any]:
        """Declares a class for rows with extra fields that were pushed without one."""
        extras = tuple(self.extra_names)
        return declare_experience(TypeName(Experience.__module__, Experience.__qualname__, extras))


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
    """Converts a list of lanes to an array; returns anything else unchanged.

    Raises:
        ValueError: If the list does not contain numbers.
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
    """Converts arrays given by the names of a batch's fields to attribute -> stacked arrays.

    Extra fields keep their names.

    Raises:
        ValueError: If a field is missing, or is one that only a sampled batch has.
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
    columns = {name: getattr(batch, stacked) for name, stacked in _STACKED.items()}
    for name in batch.extras:
        if not isinstance(name, str) or name in columns:
            raise ValueError(f"extras: expected names of extra fields, got {name!r}")
    return columns | batch.extras


def _row_fields(kind: type[Any]) -> list[str]:
    """Names of the fields of an experience in row order, without flags."""
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
    """Annotations of subclasses of Experience that lack the @dataclass decorator."""
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
    """Infers a tree of leaves per attribute; `label` converts a name for error messages."""
    trees: dict[str, Any] = {}
    for attribute, value in values.items():
        if attribute == "next_state":
            # Not inferred: a next state has the schema of a state, which the native reader checks.
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
            # A number's type follows the stored dtype: after an int reward, 0.5 may come.
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
    """Converts a row's path to a batch's: `state['camera']` to `states['camera']`."""
    attribute, bracket, entry = name.partition("[")
    return _STACKED.get(attribute, attribute) + bracket + entry


def _restore(nest: Any, batch: Any, i: int) -> Any:
    if isinstance(nest, dict):
        return {key: _restore(child, batch[key], i) for key, child in nest.items()}
    if isinstance(nest, tuple):
        children = [_restore(child, batch[j], i) for j, child in enumerate(nest)]
        return tree.rebuild_tuple(nest, children)
    return nest.restore(batch[i])
