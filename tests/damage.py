"""Damaged pickles: their bytes, and the values in them, changed at random; no velora in here."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import random
from collections.abc import Callable
from typing import Any

import torch

Random = random.Random


class Unpickler(pickle._Unpickler):
    """Of what a buffer's pickle may call, and nothing else: bytes may say anything.

    In Python, as the one in C reserves memory for whatever number follows an opcode.
    """

    def __init__(self, file: Any, allowed: frozenset[tuple[str, str]], **options: Any) -> None:
        super().__init__(file, **options)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a buffer")
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a persistent id is not part of a buffer")

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("an opcode that is not part of a buffer")

    dispatch = {  # noqa: RUF012
        **pickle._Unpickler.dispatch,
        **dict.fromkeys((pickle.BYTEARRAY8[0], pickle.INST[0], pickle.OBJ[0]), _refuse),
    }


def damage_bytes(data: bytes, rng: Random) -> bytes:
    """Some bits flipped, bytes cut, inserted, repeated or overwritten."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if not damaged:
            break
        at = rng.randrange(len(damaged))
        kind = rng.randrange(7)
        if kind <= 2:
            damaged[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            damaged[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 4:
            del damaged[at : at + rng.choice((1, 1, 8, rng.randrange(1, 200)))]
        elif kind == 5:
            damaged[at:at] = rng.randbytes(rng.choice((1, 1, 4, 8, 24)))
        else:
            start = rng.randrange(len(damaged))
            damaged[at:at] = damaged[start : start + rng.randrange(1, 40)]
    return bytes(damaged)


def hostile(rng: Random, known: list[Any]) -> Any:
    """A value that does not belong, in some cases from another part of a pickle."""
    deep: Any = ("leaf", "float32", (1,), (1,))
    for _ in range(rng.choice((3, 2000))):
        deep = ("tuple", None, [deep])
    values: list[Callable[[], Any]] = [
        lambda: rng.choice((None, True, False, float("nan"), float("inf"), 1.5, -0.0, 2 + 1j)),
        lambda: rng.choice((-1, 0, 1, 2, 3, 255, 2**16, 2**31, 2**32, 2**39, 2**40)),
        lambda: rng.choice((2**47, 2**60, 2**63, 2**64 - 1, 2**64, -(2**63), 10**400)),
        lambda: rng.choice(("", "x", "state", "cpu", "cuda", "float32", "int64", "bool", "\ud800")),
        lambda: rng.choice(([], {}, (), b"", set(), bytearray(3), ..., object, [[]], ((),))),
        lambda: rng.randbytes(rng.choice((1, 8, 24, 64, 1000))),
        lambda: torch.zeros(rng.choice((0, 1, 64)), dtype=rng.choice((torch.uint8, torch.int8))),
        lambda: torch.zeros(8, 8, dtype=torch.uint8).t(),
        lambda: deep,
        lambda: rng.choice(known),
        lambda: rng.choice(known),
    ]
    return rng.choice(values)()


def children(value: Any) -> list[tuple[Any, Any]]:
    """Returns the children of a container, each with its key."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return list(vars(value).items())
    return []


def nodes(value: Any) -> list[Any]:
    """A nest and all that is in it."""
    return [value, *(node for _, child in children(value) for node in nodes(child))]


def damage_value(value: Any, rng: Random, known: list[Any]) -> Any:
    """A copy of a nest that is changed somewhere."""
    parts = children(value)
    if parts and rng.random() < 0.85:
        key, child = rng.choice(parts)
        if rng.random() < 0.06 and isinstance(value, (dict, list)):
            return _damage_container(value, key, rng, known)
        return _put(value, key, damage_value(child, rng, known))
    kind = rng.randrange(4)
    if isinstance(value, bytes) and kind < 3:
        return damage_bytes(value, rng)
    if type(value) is int and kind < 2:
        return rng.choice((value ^ (1 << rng.randrange(64)), value + 1, value - 1, -value))
    if type(value) is str and kind < 1:
        return damage_bytes(value.encode(errors="replace"), rng).decode(errors="replace")
    return hostile(rng, known)


def _damage_container(value: Any, key: Any, rng: Random, known: list[Any]) -> Any:
    """A dict or list with an entry less or more, or two of them exchanged."""
    other, _ = rng.choice(children(value))
    changed: Any = value.copy()
    kind = rng.randrange(3)
    if kind == 0:
        del changed[key]
    elif kind == 1:
        changed[key], changed[other] = changed[other], changed[key]
    elif isinstance(changed, list):
        changed.insert(key, hostile(rng, known))
    else:
        changed[rng.choice(("x", "", 3, None, "_core", "push"))] = hostile(rng, known)
    return changed


def _put(value: Any, key: Any, child: Any) -> Any:
    if isinstance(value, tuple):
        return (*value[:key], child, *value[key + 1 :])
    changed = copy.copy(value)
    if isinstance(value, (dict, list)):
        changed[key] = child
    else:
        object.__setattr__(changed, key, child)
    return changed
