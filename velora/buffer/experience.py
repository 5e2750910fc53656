"""What goes into a buffer and what comes out of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral
from typing import Any, NoReturn, overload

import numpy as np
import torch

from velora.buffer import tree

Places = int | slice | Sequence[int] | torch.Tensor | np.ndarray[Any, Any]


@dataclass(eq=False)
class Experience:
    """One step of an environment, as it is pushed into a buffer.

    Iterating gives the five documented values, so `zip(*experiences)` unpacks a list of them.
    Subclass it, as a dataclass, to store more with each step: the buffer reads all fields.

        @dataclass
        class PolicyExperience(Experience):
            log_prob: float

    Attributes:
        state: The observation that the agent acted on: a tensor or array `(F,)` or `(1, F)`, an
            image `(C, H, W)`, a number, or a dict or tuple of these.
        action: What the agent did: a number, or a tensor or array.
        reward: The reward for it.
        next_state: The observation that came of it, of the same form as `state`.
        done: True where the episode terminated, so that no value follows.
        truncated: True where the episode was cut off, by a time limit say. It ends the episode,
            but a value still follows: learning keeps its bootstrap. Keyword-only.
    """

    state: Any
    action: Any
    reward: Any
    next_state: Any
    done: Any
    truncated: Any = field(default=False, kw_only=True)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A method of its own keeps @dataclass from adding one that compares tuples of tensors.
        if "__eq__" not in cls.__dict__:
            cls.__eq__ = Experience.__eq__  # type: ignore[method-assign]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.state, self.action, self.reward, self.next_state, self.done))

    def __eq__(self, other: object) -> bool:
        """Equal when the types are the same and all fields are, tensors by shape and values."""
        if type(self) is not type(other):
            return NotImplemented
        return all(
            tree.equal(getattr(self, item.name), getattr(other, item.name)) for item in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]  # mutable, as any dataclass with __eq__


@dataclass(eq=False, repr=False)
class BatchExperience:
    """Steps stacked along a leading batch dimension B, as they come out of a buffer.

    Where observations are dicts or tuples, so are `states` and `next_states`. A batch of sequences
    has a second dimension L, of time: states `(B, L, F)`, rewards `(B, L, 1)`, indices `(B, L)`.

    Parts go by name: `batch.states`, `batch["states"]`, or `batch.as_dict()` for all of them. A
    batch is no tuple of its parts, as an `Experience` is, so it cannot be unpacked or iterated.

    Attributes:
        states: `(B, F)`, or `(B, C, H, W)` for images.
        actions: `(B, A)`; `(B, 1)` for a single number.
        rewards: `(B, 1)`, float32; the discounted sum over n steps where a buffer looks n steps
            ahead. What follows is then that of the last of these steps.
        next_states: As `states`.
        dones: `(B, 1)`, float32: 1 where the episode terminated.
        truncations: `(B, 1)`, float32: 1 where the episode was cut off.
        indices: `(B,)`, int64: the name of each row in its buffer, for good. Its lane is
            `indices >> 47`, its number there `indices & (2**47 - 1)`. None for a batch that no
            buffer made.
        weights: `(B, 1)`: importance weights; None where sampling is uniform.
        discounts: `(B, 1)`, float32: what multiplies the value of `next_states`, so that
            `rewards + discounts * next_values` is the target. `ReplayBuffer` only.
        mask: `(B, L, 1)`, float32: 1 where a step of a sequence counts, 0 where it warms up a
            network or is padding. None for batches of single steps.
        is_first: `(B, L, 1)`, float32: 1 where a step is the first of its episode. None for
            batches of single steps.
        extras: The fields that a subclass of `Experience` added, by name.
    """

    states: Any
    actions: Any
    rewards: Any
    next_states: Any
    dones: Any
    truncations: Any = None
    indices: Any = None
    weights: Any = None
    discounts: Any = None
    mask: Any = None
    is_first: Any = None
    extras: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """What there is, by dtype and shape: a batch has too many numbers to print."""
        named = {item.name: getattr(self, item.name) for item in fields(self)}
        parts = [f"{name}={_summary(part)}" for name, part in named.items() if part is not None]
        return f"{type(self).__name__}({', '.join(parts)})"

    def __len__(self) -> int:
        """The number of steps, or of sequences, B."""
        return len(self.rewards)

    def __iter__(self) -> NoReturn:
        """Refuses: what comes out could be parts or steps, and is mistaken for the other."""
        raise TypeError(
            "batch: expected its parts by name, got an iteration over it; write batch.states or "
            "batch['states'], batch.as_dict() for all parts, or batch[i] for some of its steps"
        )

    __reversed__ = None

    @overload
    def __getitem__(self, index: str) -> Any: ...
    @overload
    def __getitem__(self, index: Places) -> BatchExperience: ...
    def __getitem__(self, index: str | Places) -> Any:
        """A part by its name, or some of the steps as a batch.

        Args:
            index: The name of a part that is there, or of an extra field; or a slice, a mask, a
                list of places or one place, for these steps. An int gives a batch of one step.

        Raises:
            KeyError: If there is no such part.
            IndexError: If a place is out of range.
            TypeError: If it indexes more than the first dimension, of which parts have different
                numbers: index time in each part.
            ValueError: If a part and an extra field have the same name.
        """
        if isinstance(index, str):
            parts = self.as_dict()
            if index not in parts:
                raise KeyError(f"{index}: expected one of {', '.join(parts)}, got another name")
            return parts[index]
        if isinstance(index, tuple):
            raise TypeError("index: expected one for the first dimension, got a tuple")
        if isinstance(index, Integral) or getattr(index, "ndim", None) == 0:
            place = int(index)  # type: ignore[arg-type]
            place += len(self) if place < 0 else 0
            if not 0 <= place < len(self):
                raise IndexError(f"index: expected a place in a batch of {len(self)}, got {index}")
            index = slice(place, place + 1)
        return self._map(lambda part: part[index])

    def as_dict(self) -> dict[str, Any]:
        """The parts that are there and the extra fields, by name, as they are.

        For code that takes dicts: `TensorDict(batch.as_dict(), batch_size=len(batch))`.

        Raises:
            ValueError: If a part and an extra field have the same name.
        """
        named = {item.name: getattr(self, item.name) for item in fields(self)}
        extras: dict[str, Any] = named.pop("extras")
        parts = {name: part for name, part in named.items() if part is not None}
        for name in extras:
            if name in parts:
                raise ValueError(
                    f"extras[{name!r}]: expected another name than that of a part, got {name!r}; "
                    f"read batch.{name} and batch.extras[{name!r}]"
                )
        return parts | extras

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> BatchExperience:
        """The same batch with all its tensors on `device`.

        Args:
            device: Where to copy what is not there yet.
            non_blocking: Let copies from pinned memory run beside the host.
        """
        return self._map(lambda part: part.to(device, non_blocking=non_blocking))

    def _map(self, function: Any) -> BatchExperience:
        parts = {item.name: getattr(self, item.name) for item in fields(self)}
        return type(self)(**tree.map_leaves(function, parts))


def _summary(part: Any) -> str:
    if isinstance(part, dict):
        return "{" + ", ".join(f"{key!r}: {_summary(child)}" for key, child in part.items()) + "}"
    if isinstance(part, tuple):
        return "(" + ", ".join(map(_summary, part)) + ")"
    if not isinstance(part, torch.Tensor):
        return type(part).__name__
    place = "" if part.device.type == "cpu" else f" on {part.device}"
    return f"{str(part.dtype).removeprefix('torch.')}{list(part.shape)}{place}"
