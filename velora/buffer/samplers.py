"""Samplers: how a buffer chooses the experiences of a batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from velora import _core


@dataclass(frozen=True)
class Sampler:
    """How a `ReplayBuffer` chooses the experiences of a batch: the base class of all samplers."""

    def build(self) -> _core.Sampler | None:
        """Builds the native sampler of one buffer; None is the core's own, which is uniform.

        Raises:
            TypeError: If an attribute has a wrong type.
            ValueError: If an attribute is out of range.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Uniform(Sampler):
    """Each experience is equally likely, without replacement."""

    @override
    def build(self) -> None:
        return None


# A new sampler gets its name here.
_SAMPLERS: tuple[type[Sampler], ...] = (Uniform,)


def check_sampler(sampler: Sampler) -> Sampler:
    """Checks that a sampler is one of velora's.

    Raises:
        TypeError: If it is not.
    """
    if type(sampler) not in _SAMPLERS:
        expected = " or ".join(f"{kind.__name__}(...)" for kind in _SAMPLERS)
        raise TypeError(f"sampler: expected {expected}, got {type(sampler).__name__}")
    return sampler


def plain_sampler(sampler: Sampler) -> tuple[str, dict[str, Any]]:
    """Converts a sampler to plain values."""
    return type(sampler).__name__, dataclasses.asdict(sampler)


def sampler_of(plain: Any) -> Sampler:
    """Builds a sampler from untrusted plain values; `build` checks the attributes.

    Raises:
        ValueError: If they do not name a sampler and its attributes.
    """
    kinds = {kind.__name__: kind for kind in _SAMPLERS}
    if type(plain) is not tuple or len(plain) != 2 or plain[0] not in kinds:
        raise ValueError(f"sampler: expected {' or '.join(kinds)} and its attributes, got {plain}")
    kind, attributes = kinds[plain[0]], plain[1]
    names = {item.name for item in dataclasses.fields(kind)}
    if type(attributes) is not dict or attributes.keys() != names:
        raise ValueError(f"sampler: expected attributes {sorted(names)}, got {attributes}")
    return kind(**attributes)
