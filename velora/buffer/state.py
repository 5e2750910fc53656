"""Pickling: converts a buffer to plain values and back.

A pickle contains only plain values, and none of them is trusted: the constructor checks options,
the rules that infer a schema from an experience check the schema, and the native core checks rows.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
from collections.abc import Hashable
from multiprocessing.context import get_spawning_popen
from typing import Any

import torch

from velora import _core
from velora.buffer.fields import Leaf
from velora.buffer.samplers import plain_sampler
from velora.buffer.schema import Schema
from velora.buffer.type_names import MemberName, TypeName, experience_type, named_tuple_type

VERSION = 2
# The entries of a state and their types.
_PARTS: dict[str, tuple[type, ...]] = {
    "version": (int,),
    "options": (dict,),
    "seed": (int,),
    "draws": (int,),
    "copy": (int, type(None)),
    "worker": (int, type(None)),
    "schema": (dict, type(None)),
    "lanes": (bytes,),
    "rows": (bytes, bytearray, memoryview, torch.Tensor),
    "blocks": (bytes, bytearray, memoryview, torch.Tensor),
    "sampler": (bytes, bytearray, memoryview, torch.Tensor),
    "attributes": (dict,),
}
# The first protocol that pickles large bytes directly. torch.save uses an older one, and writes
# only tensors without a copy.
_BYTES_PROTOCOL = 4
_copies = itertools.count(1)


def make_state(
    options: dict[str, Any],
    schema: Schema | None,
    saved: tuple[Any, ...],
    worker: int | None,
    attributes: dict[str, Any],
) -> dict[str, Any]:
    """Returns the state of a buffer.

    Args:
        options: What its constructor takes, a sampler among them as an object.
        schema: What its rows hold; None before the first.
        saved: What `_core.BufferCore.state` gives.
        worker: The seed of the DataLoader's worker that this is, if it is one.
        attributes: Those that a subclass has besides.
    """
    lanes, seed, draws, rows, blocks, sampler = saved
    if "sampler" in options:
        options = options | {"sampler": plain_sampler(options["sampler"])}
    return {
        "version": VERSION,
        "options": options,
        "seed": seed,
        "draws": draws,
        # Set while multiprocessing spawns a process: the copy there then uses its own seed.
        "copy": None if get_spawning_popen() is None else next(_copies),
        "worker": worker,
        "schema": None if schema is None else plain_schema(schema),
        "lanes": lanes,
        "rows": rows,
        "blocks": blocks,
        "sampler": sampler,
        "attributes": attributes,
    }


def for_protocol(state: Any, protocol: int) -> Any:
    """Converts the bytes of a state to a type that the protocol pickles without a copy."""
    if protocol >= _BYTES_PROTOCOL or not isinstance(state, dict):
        return state
    parts = {
        name: state[name]
        for name in ("rows", "blocks", "sampler")
        if type(state.get(name)) is bytes
    }
    return state | {name: _core.byte_tensor(part) for name, part in parts.items()}


def check_state(state: Any) -> dict[str, Any]:
    """Checks that all entries of a state exist and have the right types; unwraps bytes.

    Raises:
        ValueError: If the version differs, or an entry is missing or of another type.
    """
    version = state.get("version") if isinstance(state, dict) else None
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"version: expected a buffer that was saved in format {VERSION}, got "
            f"{'another format' if version is None else version!r}; save it again with this velora"
        )
    if state.keys() != _PARTS.keys():
        raise ValueError(f"state: expected {', '.join(_PARTS)}, got {', '.join(map(str, state))}")
    for name, kinds in _PARTS.items():
        if not isinstance(state[name], kinds) or isinstance(state[name], bool):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{name}: expected {expected}, got {type(state[name]).__name__}")
    for name in ("seed", "draws", "copy", "worker"):
        number = state[name]
        if number is not None and not 0 <= number < 2**64:
            raise ValueError(f"{name}: expected 0 to 2**64 - 1, got {number}")
    checked: dict[str, Any] = {**state}
    for name in ("rows", "blocks", "sampler"):
        checked[name] = _bytes_of(name, state[name])
    return checked


def check_options(options: dict[str, Any], names: tuple[str, ...]) -> None:
    """Checks that the options have these names, and types that the constructor can check.

    Raises:
        ValueError: If they do not.
    """
    if options.keys() != set(names) or type(options["device"]) is not str:
        raise ValueError(f"options: expected {', '.join(names)}, got {options}")


def draw_seed(state: dict[str, Any]) -> _core.DrawSeed:
    """Returns the seed of a checked state for this process."""
    if state["copy"] is None:
        return _core.DrawSeed(state["seed"])
    return _core.DrawSeed.of_copy(state["seed"], state["worker"], state["copy"])


def _bytes_of(name: str, part: Any) -> Any:
    """Returns an entry as an object with the buffer protocol."""
    if not isinstance(part, torch.Tensor):
        return part
    if part.dtype != torch.uint8 or part.ndim != 1 or not part.is_contiguous():
        got = f"{part.dtype} of shape {tuple(part.shape)} and strides {part.stride()}"
        raise ValueError(f"{name}: expected a contiguous uint8 tensor (nbytes,), got {got}")
    return part.detach().cpu().numpy()


def plain_schema(schema: Schema) -> dict[str, Any]:
    """Converts a schema to plain values and names of types."""
    kind = schema.experience_type
    extras = tuple(schema.extra_names)
    return {
        "experience": None if kind is None else TypeName.of(kind, extras),
        "trees": [
            (name, _plain_nest(nest)) for name, nest in schema.trees.items() if name != "next_state"
        ],
    }


def _plain_nest(nest: Any) -> tuple[Any, ...]:
    if isinstance(nest, dict):
        return "dict", [(_plain_key(key), _plain_nest(child)) for key, child in nest.items()]
    if isinstance(nest, tuple):
        fields = getattr(nest, "_fields", None)
        kind = None if fields is None else TypeName.of(type(nest), tuple(fields))
        return "tuple", kind, [_plain_nest(child) for child in nest]
    given = nest.given if isinstance(nest.given, tuple) else nest.given.__name__
    return "leaf", nest.dtype, nest.shape, given


def _plain_key(key: Any) -> Any:
    is_member = isinstance(key, enum.Enum) and key.name in type(key).__members__
    return MemberName.of(key) if is_member else key


def schema_of(plain: dict[str, Any]) -> Schema:
    """Builds a schema from untrusted plain values.

    Raises:
        ValueError: If they do not describe the schema of an experience.
    """
    trees, name = plain.get("trees"), plain.get("experience")
    if plain.keys() != {"experience", "trees"} or type(trees) is not list:
        raise ValueError(
            f"schema: expected an experience and trees, got {', '.join(map(str, plain))}"
        )
    nests: dict[str, Any] = {}
    for attribute, nest in (_parts("trees", item, 2) for item in trees):
        if type(attribute) is not str or attribute in nests:
            raise ValueError(f"trees: expected names of fields, each once, got {attribute!r}")
        nests[attribute] = _nest(attribute, nest)
    schema = Schema.from_leaves(nests)
    if name is None:
        return schema
    extras = schema.extra_names
    if not isinstance(name, TypeName) or set(name.check("experience").fields) != set(extras):
        raise ValueError(f"experience: expected a type with the fields {extras}, got {name!r}")
    return dataclasses.replace(schema, experience_type=experience_type(name, schema.fits))


def _nest(name: str, plain: Any) -> Any:
    """Builds a nest of leaves from plain values."""
    kind = plain[0] if type(plain) is tuple and plain else None
    if kind == "dict":
        _, items = _parts(name, plain, 2)
        nest = {}
        for key, child in (_parts(name, item, 2) for item in _list(name, items)):
            known = key.find() if isinstance(key, MemberName) else key
            if not isinstance(known, Hashable) or known in nest:
                raise ValueError(f"{name}: expected keys, each once, got {known!r}")
            nest[known] = _nest(f"{name}[{known!r}]", child)
        return nest
    if kind == "tuple":
        _, of, children = _parts(name, plain, 3)
        entries = [_nest(f"{name}[{i}]", x) for i, x in enumerate(_list(name, children))]
        if of is None:
            return tuple(entries)
        if not isinstance(of, TypeName) or len(of.check(name).fields) != len(entries):
            raise ValueError(f"{name}: expected a name for each of {len(entries)}, got {of!r}")
        return named_tuple_type(of)(*entries)
    if kind == "leaf":
        _, dtype, shape, given = _parts(name, plain, 4)
        return _leaf(name, dtype, shape, given)
    raise ValueError(f"{name}: expected a dict, a tuple or a leaf, got {type(plain).__name__}")


def _leaf(name: str, dtype: Any, shape: Any, given: Any) -> Leaf:
    known = vars(torch).get(dtype) if type(dtype) is str else None
    if not isinstance(known, torch.dtype):
        raise ValueError(f"{name}: expected the name of a dtype, got {dtype!r}")
    if not _is_shape(shape):
        raise ValueError(f"{name}: expected a shape, got {shape!r}")
    if type(given) is str:
        kind = _number_of(known)
        if shape != (1,) or given != kind.__name__:
            raise ValueError(f"{name}: expected a number of {dtype}, got {given} of shape {shape}")
        return Leaf(name, "", dtype, shape, kind)
    if not _is_shape(given) or math.prod(given) != math.prod(shape):
        raise ValueError(f"{name}: expected another form of shape {shape}, got {given!r}")
    return Leaf(name, "", dtype, shape, given)


def _number_of(dtype: torch.dtype) -> type:
    if dtype == torch.bool:
        return bool
    return float if dtype.is_floating_point else int


def _is_shape(shape: Any) -> bool:
    return type(shape) is tuple and all(type(n) is int and 0 <= n < 2**32 for n in shape)


def _parts(name: str, plain: Any, count: int) -> tuple[Any, ...]:
    if type(plain) is not tuple or len(plain) != count:
        raise ValueError(f"{name}: expected {count} parts, got {type(plain).__name__}")
    return plain


def _list(name: str, plain: Any) -> list[Any]:
    if type(plain) is not list:
        raise ValueError(f"{name}: expected a list, got {type(plain).__name__}")
    return plain
