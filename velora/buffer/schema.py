"""The schema of a buffer's rows: inferred once, then fixed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from velora import _core
from velora.buffer import tree
from velora.buffer.columns import STACKED, STEP
from velora.buffer.experience import BatchExperience, Experience
from velora.buffer.fields import (
    row_fields,
    trees_of_columns,
    trees_of_experience,
    trees_of_leaves,
)
from velora.buffer.type_names import TypeName, construct, declare_experience


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
        # Set here, not at the first use, which would change an object that other threads may read.
        numbers = itertools.count()
        fields = {
            name: [next(numbers) for _ in tree.leaves(nest)] for name, nest in self.trees.items()
        }
        extras = {name: fields[name] for name in fields if name not in STACKED}
        object.__setattr__(self, "extra_fields", extras)

    @classmethod
    def from_experience(cls, experience: Any) -> Schema:
        """Infers the schema from the first experience.

        Raises:
            TypeError: If it is not a dataclass with the fields of `Experience`.
            ValueError: If a field is not an array, a number or a nest of them.
        """
        values = {name: getattr(experience, name) for name in row_fields(type(experience))}
        return cls(trees_of_experience(values), type(experience))

    @classmethod
    def from_columns(cls, columns: dict[str, Any]) -> Schema:
        """Infers the schema from the first batch, given as attribute -> array `(k, ...)`.

        Raises:
            ValueError: If a field is missing or has no leading dimension.
        """
        extras = {name: value for name, value in columns.items() if name not in STACKED}
        values = {name: columns[name] for name in STEP} | extras
        return cls(trees_of_columns(values), None if extras else Experience)

    @classmethod
    def from_leaves(cls, nests: dict[str, Any]) -> Schema:
        """Builds the schema from known leaves: attribute -> nest of leaves, without next states.

        Raises:
            ValueError: If a field is missing or invalid.
        """
        required = [name for name in STEP if name != "next_state"]
        extras = [name for name in nests if name not in required]
        if [*required, *extras] != list(nests) or any(name in STACKED for name in extras):
            raise ValueError(
                f"trees: expected {', '.join(required)} and extra fields, got {', '.join(nests)}"
            )
        values = {name: nests.get(name) for name in (*STEP, *extras)}
        return cls(trees_of_leaves(values), None)

    def check_type(self, kind: type[Any]) -> None:
        """Checks that experiences of type `kind` have exactly this schema's fields.

        Raises:
            TypeError: If `kind` is not a dataclass with the fields of `Experience`.
            ValueError: If a field is missing or unknown.
        """
        names = row_fields(kind)
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

    def check_columns(self, columns: Iterable[str]) -> None:
        """Checks that this schema has fields of these names, flags included.

        Raises:
            ValueError: If one is unknown.
        """
        for name in columns:
            if name not in self.trees and name not in STACKED:
                raise ValueError(
                    f"{name}: expected no such field, since the first experience had none, got a "
                    "batch with it"
                )

    def fits(self, kind: type[Any]) -> bool:
        """Returns whether experiences of type `kind` have exactly this schema's fields."""
        try:
            self.check_type(kind)
        except (TypeError, ValueError):
            return False
        return True

    def build_core(
        self, options: _core.BufferOptions, *, read_batch: Callable[..., Any]
    ) -> _core.BufferCore:
        """Builds a native buffer for rows of this schema.

        It calls `read_batch` with the arguments of an `extend` that are not just arrays by their
        names: for attribute -> stacked arrays, or another native buffer, and lanes.

        Raises:
            MemoryError: If the rows do not fit into host or device memory.
            ValueError: If states are not stacks of `frame_stack` frames.
        """
        return _core.BufferCore(
            fields=self._fields(),
            trees=self.trees,
            options=options,
            check_type=self.check_type,
            batch_names=[STACKED.get(name, name) for name in (*self.trees, "done", "truncated")],
            read_batch=read_batch,
            batch_type=BatchExperience,
        )

    def rows_nbytes(self, options: _core.BufferOptions) -> int:
        """Returns the size of all rows in bytes, without the additional data of compact rows."""
        return _core.rows_nbytes(self._fields(), options)

    def _fields(self) -> list[_core.Field]:
        leaves = tree.leaves(self.trees)
        return [_core.Field(x.name, x.role, x.dtype, list(x.shape)) for x in leaves]

    @property
    def observation_bytes(self) -> int:
        """Size of one state in bytes."""
        return sum(leaf.nbytes for leaf in tree.leaves(self.trees["state"]))

    @property
    def extra_names(self) -> list[str]:
        """Names of the fields that a subclass of `Experience` added."""
        return list(self.extra_fields)

    def experience(self, batch: BatchExperience, i: int) -> Any:
        """Returns row `i` of a batch in the form in which it was pushed."""
        values = {name: getattr(batch, STACKED[name]) for name in self.trees if name in STACKED}
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
        """Declares a class for rows with extra fields that were pushed without one."""
        extras = tuple(self.extra_names)
        return declare_experience(TypeName(Experience.__module__, Experience.__qualname__, extras))
