"""Arrays of other libraries: what can be read as it is, and what is refused with what to write."""

from __future__ import annotations

import ctypes
from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import filled, stack, stamped, stamps_of, step, unchanged
from torch import Tensor

from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer


class Frames:
    """A stack of frames that is put together when numpy asks for it, as wrappers make them."""

    def __init__(self, frames: list[Any]) -> None:
        self.frames = frames

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.stack(self.frames).astype(dtype) if dtype else np.stack(self.frames)


class ShortFloats:
    """An array of bfloat16: the buffer protocol has no name for it, DLPack has."""

    def __init__(self, values: Tensor) -> None:
        self.values = values.to(torch.bfloat16)
        self.shape = tuple(values.shape)
        self.dtype = "bfloat16"

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


class ShortFloatsWithBuffer(ctypes.c_longdouble):
    """The same with a buffer, of a format that no field has; `jax.Array` has one that refuses."""

    values: Tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


def with_buffer(values: Tensor) -> ShortFloatsWithBuffer:
    made = ShortFloatsWithBuffer()
    made.values = values.to(torch.bfloat16)
    return made


class Table:
    """The interface common to pandas, polars and xarray."""

    dtype = np.dtype(np.float64)
    shape = (3,)

    def to_numpy(self) -> Any:
        return np.ones(3)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.to_numpy()

    def mask(self) -> None:
        """pandas has a method of this name."""


class Nest:
    """The interface of a TensorDict: entries, one dtype or none, a batch shape."""

    dtype = None
    shape = torch.Size([])

    def __init__(self, entries: dict[str, Any]) -> None:
        self.entries = entries

    def keys(self) -> Iterator[str]:
        return iter(self.entries)

    def __getitem__(self, name: str) -> Any:
        return self.entries[name]

    def to_dict(self) -> dict[str, Any]:
        return self.entries


# Arrays that are read directly


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
def test_push_what_numpy_makes_an_array_of_stores_it(started: bool) -> None:
    images = [np.full((4, 5), i, np.uint8) for i in range(4)]
    buffer = RolloutBuffer(3)
    if started:
        buffer.push(step(state=np.zeros((3, 4, 5), np.uint8)))
    buffer.push(step(state=Frames(images[:3]), next_state=Frames(images[1:])))
    batch = buffer.sample()
    assert batch.states.dtype == torch.uint8
    assert np.array_equal(batch.states[-1].numpy(), np.stack(images[:3]))
    assert np.array_equal(batch.next_states[-1].numpy(), np.stack(images[1:]))


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
def test_extend_with_what_numpy_makes_an_array_of_stores_it(started: bool) -> None:
    buffer = ReplayBuffer(9, seed=1, num_envs=2)
    if started:
        buffer.extend(stack([stamped(8), stamped(9)]))
    batch = stack([stamped(1), stamped(2)])
    buffer.extend(
        BatchExperience(
            Frames(list(batch.states.numpy())),
            Frames(list(batch.actions.numpy())),
            batch.rewards,
            batch.next_states,
            batch.dones,
            Frames(list(batch.truncations.numpy())),
        ),
        lanes=Frames([np.int64(0), np.int64(1)]),
    )
    assert stamps_of(buffer.sample(2 + 2 * started))[-2:]
    assert [experience.action for experience in buffer][-2:] == [1, 2]


@pytest.mark.parametrize("make", [ShortFloats, with_buffer])
@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
def test_push_short_floats_that_come_by_dlpack_alone_keeps_them(
    make: Callable[[Tensor], Any], started: bool
) -> None:
    values = torch.tensor([1.0, -2.5, 3.0])
    buffer = RolloutBuffer(3)
    if started:
        buffer.push(step(state=torch.zeros(3, dtype=torch.bfloat16)))
    buffer.push(step(state=make(values), next_state=make(values)))
    states = buffer.sample().states
    assert states.dtype == torch.bfloat16
    assert states[-1].tolist() == values.tolist()


# Rejected arrays


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
@pytest.mark.parametrize("field", ["state", "action", "reward", "next_state", "done"])
def test_push_labelled_data_says_how_to_make_an_array_of_it(field: str, started: bool) -> None:
    buffer = filled(ReplayBuffer, range(3 if started else 0), 5, seed=1)
    experience = stamped(1)
    setattr(experience, field, Table())
    message = rf"^{field}: expected .*, got Table, float64 of shape \(3,\); use \.to_numpy\(\)"
    with unchanged(buffer), pytest.raises(ValueError, match=message):
        buffer.push(experience)


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
def test_extend_with_labelled_data_says_how_to_make_an_array_of_it(started: bool) -> None:
    buffer = filled(ReplayBuffer, range(3 if started else 0), 5, seed=1)
    batch = stack([stamped(1), stamped(2)])
    batch.rewards = Table()
    message = r"^rewards: expected .*, got Table, .*; use \.to_numpy\(\)"
    with unchanged(buffer), pytest.raises(ValueError, match=message):
        buffer.extend(batch)


def test_push_masked_array_says_how_to_make_an_array_of_it() -> None:
    masked = np.ma.masked_array([1.0, 2.0], [True, False])
    with pytest.raises(ValueError, match=r"^state: .*MaskedArray, .*; use \.filled\("):
        ReplayBuffer(3).push(step(state=masked))


def nested(observation: Any, next_observation: Any = None) -> Experience:
    following = observation if next_observation is None else next_observation
    return Experience(observation, 0, 0.0, following, False)


PARTS = ("states", "actions", "rewards", "next_states", "dones")
ENTRIES = {"a": torch.zeros(3), "b": torch.zeros(2)}


@pytest.mark.parametrize("make", [Nest, UserDict])
@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
def test_push_mapping_that_is_no_dict_says_how_to_make_one(make: Any, started: bool) -> None:
    buffer = ReplayBuffer(5, seed=1)
    if started:
        buffer.push(nested(ENTRIES))
    hint = r"use \.to_dict\(\)" if make is Nest else r"use dict\(\.\.\.\)"
    message = rf"^state: .* got {make.__name__}; {hint}"
    with unchanged(buffer), pytest.raises(ValueError, match=message):
        buffer.push(nested(make(ENTRIES)))


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
def test_push_list_for_a_tuple_says_that_it_is_to_be_one(started: bool) -> None:
    buffer = ReplayBuffer(5, seed=1)
    if started:
        buffer.push(nested((torch.zeros(3), torch.zeros(2))))
    with unchanged(buffer), pytest.raises(ValueError, match=r"^state: .* got list.* tuple"):
        buffer.push(nested([torch.zeros(3), torch.zeros(2)]))


def test_push_list_for_the_tuple_of_a_space_says_that_it_is_to_be_one() -> None:
    class Pairs(gym.Env):  # type: ignore[type-arg]
        observation_space = gym.spaces.Tuple([gym.spaces.Box(0, 1, (3,)), gym.spaces.Discrete(4)])
        action_space = gym.spaces.Discrete(2)

    buffer = ReplayBuffer.from_env(Pairs(), 5, seed=1)
    with unchanged(buffer), pytest.raises(ValueError, match=r"^state: expected a tuple of 2, got"):
        buffer.push(nested([np.zeros(3, np.float32), 0]))


@pytest.mark.parametrize("name", ["states", "actions", "rewards", "next_states", "dones"])
@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
def test_extend_with_a_list_uses_the_name_of_the_call(name: str, started: bool) -> None:
    buffer = filled(ReplayBuffer, range(3 if started else 0), 5, seed=1)
    parts = {part: getattr(stack([stamped(1), stamped(2)]), part) for part in PARTS}
    parts[name] = [0, 1]
    message = rf"^{name}: expected .*, got list; use torch\.tensor\(\.\.\.\) or np\.array"
    with unchanged(buffer), pytest.raises(ValueError, match=message):
        buffer.extend(**parts)


class Failing:
    """An array whose library refuses to give it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class FailingDlpack(Failing):
    def __dlpack__(self, **_: Any) -> Any:
        raise self.error

    def __dlpack_device__(self) -> Any:
        return (1, 0)


class FailingArray(Failing):
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise self.error


@pytest.mark.parametrize("kind", [FailingDlpack, FailingArray])
@pytest.mark.parametrize("error", [BufferError, RuntimeError, TypeError, KeyError])
def test_push_array_that_its_library_refuses_names_field_and_reason(
    kind: type[Failing], error: type[Exception]
) -> None:
    message = rf"^state: expected .*, got {kind.__name__}: .*no room"
    with pytest.raises(ValueError, match=message):
        ReplayBuffer(3).push(step(state=kind(error("no room"))))


@pytest.mark.parametrize("kind", [FailingDlpack, FailingArray])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_push_array_whose_reading_is_stopped_passes_that_on(kind: Any, error: Any) -> None:
    with pytest.raises(error):
        ReplayBuffer(3).push(step(state=kind(error())))


@pytest.mark.parametrize("value", [Tensor, np.ndarray, Frames], ids=lambda kind: kind.__name__)
def test_push_type_of_arrays_is_refused(value: type[Any]) -> None:
    """The type itself has the methods of an array, too."""
    with pytest.raises(ValueError, match=r"^state: expected .*, got "):
        ReplayBuffer(3).push(step(state=value))


def test_push_what_gives_no_numbers_says_what_it_gave() -> None:
    class Words:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
            return np.array(["a", "b"])

    message = r"^state: expected .*, got Words whose __array__ is <U1 of shape \(2,\)"
    with pytest.raises(ValueError, match=message):
        ReplayBuffer(3).push(step(state=Words()))
