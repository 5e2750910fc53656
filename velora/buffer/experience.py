"""Experiences and batches: the input and the output of a buffer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral
from typing import Any, NoReturn, overload

import numpy as np
import torch

from velora.buffer import tree

Index = int | slice | Sequence[int] | torch.Tensor | np.ndarray[Any, Any]


@dataclass(eq=False)
class Experience:
    """One step of an environment, to be pushed into a buffer.

    Iterating yields the first five fields, so `zip(*experiences)` transposes a list of experiences.
    To store more per step, subclass it as a dataclass: the buffer stores all fields.

        @dataclass
        class PolicyExperience(Experience):
            log_prob: float

    Attributes:
        state: The observation that the agent acted on: a tensor or array `(F,)` or `(1, F)`, an
            image `(C, H, W)`, a number, or a dict or tuple of these.
        action: The action: a number, or a tensor or array.
        reward: Reward for this action.
        next_state: The next observation, of the same form as `state`.
        done: Whether the episode terminated, so that the value of `next_state` is 0.
        truncated: Whether the episode was cut off, for example by a time limit. The episode ends,
            but targets still bootstrap from `next_state`. Keyword-only.
    """

    state: Any
    action: Any
    reward: Any
    next_state: Any
    done: Any
    truncated: Any = field(default=False, kw_only=True)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Defined here, so that @dataclass does not add one that compares tuples of tensors.
        if "__eq__" not in cls.__dict__:
            cls.__eq__ = Experience.__eq__  # type: ignore[method-assign]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.state, self.action, self.reward, self.next_state, self.done))

    def __eq__(self, other: object) -> bool:
        """Compares types and all fields, tensors by shape and values."""
        if type(self) is not type(other):
            return NotImplemented
        return all(
            tree.equal(getattr(self, item.name), getattr(other, item.name)) for item in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]  # mutable, as any dataclass with __eq__


@dataclass(eq=False, repr=False)
class BatchExperience:
    """Steps stacked along a leading batch dimension B, as a buffer returns them.

    If observations are dicts or tuples, so are `states` and `next_states`. A batch of sequences
    has a second dimension L for time: states `(B, L, F)`, rewards `(B, L, 1)`, indices `(B, L)`.

    Fields are accessed by name: `batch.states`, `batch["states"]`, or `batch.as_dict()` for all of
    them. Unlike an `Experience`, a batch cannot be unpacked or iterated.

    Attributes:
        states: `(B, F)`, or `(B, C, H, W)` for images.
        actions: `(B, A)`; `(B, 1)` for a single number.
        rewards: `(B, 1)`, float32; with n-step returns, the discounted sum over n steps. The
            following fields are then those of the last of these steps.
        next_states: Same form as `states`.
        dones: `(B, 1)`, float32: 1 where the episode terminated.
        truncations: `(B, 1)`, float32: 1 where the episode was cut off.
        indices: `(B,)`, int64: a permanent ID of each row. Its lane is `indices >> 47`, its serial
            number in the lane `indices & (2**47 - 1)`. None if the batch is not from a buffer.
        weights: `(B, 1)`, float32: importance weights, by which to multiply the loss; one for each
            sequence in a batch of sequences. None unless the sampler is `Prioritized`.
        discounts: `(B, 1)`, float32: the factor of the next value: the target is
            `rewards + discounts * next_values`. `ReplayBuffer` only.
        mask: `(B, L, 1)`, float32: 1 for the steps of a sequence to train on, 0 for burn-in and
            padding. None for batches of single steps.
        is_first: `(B, L, 1)`, float32: 1 for the first step of an episode. None for batches of
            single steps.
        steps: `(B, 1)`, float32: how many steps a row sums up, 1 to `n_step`; 0 for padding. None
            unless `n_step` is more than 1, and for sequences.
        source: `(B,)`, int64: which buffer of a `Mixture` each experience comes from. None for
            batches of a single buffer.
        extras: Fields that a subclass of `Experience` added, by name.
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
    steps: Any = None
    source: Any = None
    extras: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Shows dtypes and shapes, not values."""
        named = {item.name: getattr(self, item.name) for item in fields(self)}
        parts = [f"{name}={_summary(part)}" for name, part in named.items() if part is not None]
        return f"{type(self).__name__}({', '.join(parts)})"

    def __len__(self) -> int:
        """Number of steps or sequences, B."""
        return len(self.rewards)

    def __iter__(self) -> NoReturn:
        """Raises TypeError: iterating over fields is easily mistaken for iterating over steps."""
        raise TypeError(
            "batch: expected its parts by name, got an iteration over it; write batch.states or "
            "batch['states'], batch.as_dict() for all parts, or batch[i] for some of its steps"
        )

    __reversed__ = None

    @overload
    def __getitem__(self, index: str) -> Any: ...
    @overload
    def __getitem__(self, index: Index) -> BatchExperience: ...
    def __getitem__(self, index: str | Index) -> Any:
        """Returns a field by name, or a subset of the steps as a batch.

        Args:
            index: The name of a field that is not None, or of an extra field; or a slice, mask,
                list of positions or single position along B. An int gives a batch of one step.

        Raises:
            KeyError: If there is no such field.
            IndexError: If a position is out of range.
            TypeError: If it indexes more than the first dimension: fields differ in their number
                of dimensions, so index time in each field.
            ValueError: If an extra field has the name of another field.
        """
        if isinstance(index, str):
            parts = self.as_dict()
            if index not in parts:
                raise KeyError(f"{index}: expected one of {', '.join(parts)}, got another name")
            return parts[index]
        if isinstance(index, tuple):
            raise TypeError("index: expected one for the first dimension, got a tuple")
        if isinstance(index, Integral) or getattr(index, "ndim", None) == 0:
            position = int(index)  # type: ignore[arg-type]
            position += len(self) if position < 0 else 0
            if not 0 <= position < len(self):
                raise IndexError(f"index: expected a row of {len(self)}, got {index}")
            index = slice(position, position + 1)
        return self._map(lambda part: part[index])

    def as_dict(self) -> dict[str, Any]:
        """Returns all fields that are not None, and the extra fields, by name, without copying.

        For code that takes dicts: `TensorDict(batch.as_dict(), batch_size=len(batch))`.

        Raises:
            ValueError: If an extra field has the name of another field.
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
        """Returns the batch with all tensors on `device`.

        Args:
            device: The target device. Tensors that are already on it are not copied.
            non_blocking: Copy from pinned memory asynchronously.
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
    device = "" if part.device.type == "cpu" else f" on {part.device}"
    return f"{str(part.dtype).removeprefix('torch.')}{list(part.shape)}{device}"
