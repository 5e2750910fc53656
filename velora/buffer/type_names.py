"""Pickling of experience and observation classes by name.

A class that is defined in a notebook cell, a function or `__main__` cannot be imported where a
buffer is loaded, and importing a module because a pickle names it would run its code. So a pickle
contains only the names of such types and of their fields. On loading, a matching type of an already
imported module is used; otherwise a stand-in with the same fields is declared.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from velora.buffer.experience import Experience

_STEP_FIELDS = frozenset(item.name for item in dataclasses.fields(Experience))


@dataclasses.dataclass(frozen=True)
class TypeName:
    """The name of a type, and of its fields.

    Attributes:
        module: The module that defines it.
        qualname: Its qualified name: `make.<locals>.Pose`.
        fields: Names of its fields; for an enum, its members as `(name, value)`.
        live: The type itself, for copies within this process. Not pickled.
    """

    # Defaults, since a damaged pickle may create an instance without calling `__init__`.
    module: str = ""
    qualname: str = ""
    fields: tuple[Any, ...] = ()
    live: type[Any] | None = dataclasses.field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, kind: type[Any], fields: tuple[Any, ...]) -> TypeName:
        """Returns the name of a type that has these fields."""
        return cls(kind.__module__, kind.__qualname__, fields, kind)

    def __reduce__(self) -> tuple[Any, ...]:
        return TypeName, (self.module, self.qualname, self.fields)

    def __deepcopy__(self, memo: dict[int, Any]) -> TypeName:
        return self

    def check(self, name: str) -> TypeName:
        """Returns this name after checking it, since it may come from a damaged pickle.

        Raises:
            ValueError: If a part of it is not a string.
        """
        fields = self.fields if type(self.fields) is tuple else (None,)
        if not all(type(text) is str for text in (self.module, self.qualname, *fields)):
            raise ValueError(f"{name}: expected a type's name and those of its fields, got {self}")
        return self

    def find(self, fits: Callable[[type[Any]], bool]) -> type[Any] | None:
        """Returns the type itself, or the type of this name in an imported module, if it fits."""
        if isinstance(self.live, type) and fits(self.live):
            return self.live
        found: Any = sys.modules.get(self.module)
        for part in self.qualname.split("."):
            # Not getattr: a module or a metaclass may run code in it.
            found = getattr(found, "__dict__", {}).get(part)
        return found if isinstance(found, type) and fits(found) else None


def experience_type(name: TypeName, fits: Callable[[type[Any]], bool]) -> type[Any]:
    """Returns the experience class of that name, or a stand-in with its extra fields."""
    return name.find(fits) or declare_experience(name)


@cache  # one class for each name: experiences of different classes are never equal
def declare_experience(name: TypeName) -> type[Any]:
    """Declares an experience class with these extra fields."""
    kind = dataclasses.make_dataclass(
        name.qualname.rpartition(".")[2] or "Experience",
        [(field, Any) for field in name.fields],
        bases=(Experience,),
        eq=False,
    )

    def reduce_ex(self: Any, protocol: Any) -> Any:
        if type(self) is not kind:
            return object.__reduce_ex__(self, protocol)
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(kind)}
        return _experience, (known, values)

    known = dataclasses.replace(name, live=kind)
    _rename(kind, name, reduce_ex)
    return kind


def _experience(name: TypeName, values: dict[str, Any]) -> Any:
    """Unpickles an experience of a declared class, or of the real class if that is imported."""
    extras = set(name.check("experience").fields)

    def fits(kind: type[Any]) -> bool:
        if not dataclasses.is_dataclass(kind):
            return False
        return {item.name for item in dataclasses.fields(kind)} - _STEP_FIELDS == extras

    return construct(experience_type(name, fits), values)


def construct(kind: type[Any], values: dict[str, Any]) -> Any:
    """Builds an experience with these values, also for fields that `__init__` does not take."""
    items = dataclasses.fields(kind)
    experience = kind(**{x.name: values[x.name] for x in items if x.init})
    for item in items:
        if not item.init:
            object.__setattr__(experience, item.name, values[item.name])
    return experience


def named_tuple_type(name: TypeName) -> type[Any]:
    """Returns the named tuple of that name, or a stand-in with the same fields."""

    def fits(kind: type[Any]) -> bool:
        return issubclass(kind, tuple) and getattr(kind, "_fields", None) == name.fields

    return name.find(fits) or _declare_named_tuple(name)


@cache
def _declare_named_tuple(name: TypeName) -> type[Any]:
    simple = name.qualname.rpartition(".")[2]
    base = collections.namedtuple(simple, name.fields)  # type: ignore[misc]
    kind = type(simple, (base,), {"__slots__": ()})
    known = dataclasses.replace(name, live=kind)
    _rename(kind, name, lambda self, _: (_named_tuple, (known, tuple(self))))
    return kind


def _named_tuple(name: TypeName, entries: tuple[Any, ...]) -> Any:
    return named_tuple_type(name.check("named tuple"))(*entries)


@dataclasses.dataclass(frozen=True)
class MemberName:
    """The name of an enum member that is a key of an observation.

    Attributes:
        type: The enum, with its members as fields.
        member: The name of the member.
        mixin: "int" or "str" if members are instances of it, else "".
    """

    type: TypeName = TypeName()
    member: str = ""
    mixin: str = ""

    @classmethod
    def of(cls, key: enum.Enum) -> MemberName:
        """Returns the name of an enum member."""
        members = type(key).__members__.items()
        fields = tuple((name, _plain(member.value, name)) for name, member in members)
        mixin = next((kind.__name__ for kind in (int, str) if isinstance(key, kind)), "")
        return cls(TypeName.of(type(key), fields), key.name, mixin)

    def find(self) -> Any:
        """Returns the member of that enum or of a stand-in.

        Raises:
            ValueError: If a part is not a plain value, or the enum has no such member.
        """
        name = self.type if isinstance(self.type, TypeName) else TypeName()
        members = name.fields
        texts = (name.module, name.qualname, self.member)
        if (
            not all(type(text) is str for text in texts)
            or self.mixin not in _MIXINS
            or type(members) is not tuple
            or not all(map(_is_member, members))
            or self.member not in dict(members)
        ):
            raise ValueError(f"{self.member!r}: expected a member of an enum, got {self}")

        def fits(kind: type[Any]) -> bool:
            return issubclass(kind, enum.Enum) and self.member in kind.__members__

        return (name.find(fits) or _declare_enum(name, self.mixin))[self.member]


_MIXINS = {"": None, "int": int, "str": str}


def _plain(value: Any, name: str) -> Any:
    return value if type(value) in (int, str, float, bool) else name


def _is_member(pair: Any) -> bool:
    if type(pair) is not tuple or len(pair) != 2 or type(pair[0]) is not str:
        return False
    return type(pair[1]) in (int, str, float, bool)


@cache
def _declare_enum(name: TypeName, mixin: str) -> Any:
    simple = name.qualname.rpartition(".")[2]
    make: Any = enum.Enum
    kind = make(simple, list(name.fields), type=_MIXINS[mixin])
    known = dataclasses.replace(name, live=kind)
    _rename(kind, name, lambda self, _: (_member, (MemberName(known, self.name, mixin),)))
    return kind


def _member(name: MemberName) -> Any:
    return name.find()


def _rename(kind: Any, name: TypeName, reduce_ex: Callable[[Any, Any], Any]) -> None:
    """Sets a stand-in's name and how to pickle it, since pickle cannot import it by that name."""
    kind.__module__, kind.__qualname__ = name.module, name.qualname
    kind.__reduce_ex__ = reduce_ex
