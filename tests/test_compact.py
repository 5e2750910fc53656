"""Observations stored once: visible only in the memory that they take."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import reference_time
import torch
from helpers import map_nest, stack, unchanged
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_time import BOUNDARIES
from streams import (
    COPIES,
    Environment,
    Recording,
    assert_flat,
    assert_same_bits,
    assert_sequences,
    bits,
    colour_frame,
    image_frame,
    mixed_frame,
    odd_frame,
    policy_step,
    record,
)

from velora.buffer import Experience, ReplayBuffer

FRAMES: dict[str, Callable[[Random], Any]] = {
    "image": image_frame,
    "colours": colour_frame,
    "odd floats": odd_frame,
    "nest": mixed_frame,
}


def variants(k: int) -> list[dict[str, Any]]:
    """As it is pushed, each observation once, each frame once."""
    stored = [{"compact": False}, {"compact": True}]
    return stored if k == 1 else [*stored, {"frame_stack": k}]


def filming(
    capacity: int,
    num_envs: int = 1,
    *,
    frame: Callable[[Random], Any] = image_frame,
    k: int = 1,
    pad: str = "repeat",
    breaks: float = 0.0,
    ends: float = 0.2,
    seed: int = 0,
    **options: Any,
) -> Recording:
    def make(random: Random) -> Environment:
        return Environment(random, frame, k, pad=pad, breaks=breaks, ends=ends)

    return record(capacity, num_envs, seed=seed, make=make, variants=variants(k), **options)


def others_steps(count: int, k: int) -> list[Experience]:
    """Steps of an environment that has nothing to do with the recorded ones."""
    environment = Environment(Random(99), image_frame, k, ends=0.0)
    return [environment.step(i) for i in range(count)]


def assert_alike(recording: Recording) -> None:
    """All the buffers give the same, whatever is asked for, and what the model has."""
    first, *others = recording.buffers
    count = len(first)
    n_step, gamma = first.n_step, first.gamma
    for size in {1, (count + 1) // 2, count}:
        batch = first.sample(size)
        assert_flat(batch, recording.model, n_step=n_step, gamma=gamma)
        for other in others:
            assert_same_bits(other.sample(size), batch)
    length, burn_in = (min(n, recording.model.lanes[0].capacity) for n in (3, 2))
    for boundary in BOUNDARIES:
        starts = recording.model.starts(length, boundary)
        if starts:
            batch = first.sample_sequences(len(starts), length, burn_in, boundary=boundary)
            assert_sequences(batch, recording.model, length, burn_in, boundary, gamma=gamma)
            for other in others:
                got = other.sample_sequences(len(starts), length, burn_in, boundary=boundary)
                assert_same_bits(got, batch)
    rows = list(first)
    for got, expected in zip(rows, recording.model.rows(), strict=True):
        assert_same_bits((got.state, got.next_state), (expected.state, expected.next_state))
    for other in others:
        assert len(other) == count
        for got, expected in zip(other, rows, strict=True):
            assert_same_bits(got, expected)


# Indistinguishable from plain rows


@pytest.mark.parametrize("frame", FRAMES.values(), ids=list(FRAMES))
@pytest.mark.parametrize("breaks", [0.0, 0.3, 1.0], ids=["linked", "broken at random", "broken"])
@pytest.mark.parametrize(("k", "pad"), [(1, "repeat"), (2, "zero"), (4, "repeat"), (4, "zero")])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_store_compact_gives_what_was_pushed(
    frame: Callable[[Random], Any], breaks: float, k: int, pad: str, num_envs: int
) -> None:
    recording = filming(7 * num_envs, num_envs, frame=frame, k=k, pad=pad, breaks=breaks)
    random = Random(1)
    for rows in (1, 2, 5, 20, 20):
        recording.play(random, rows)
        assert_alike(recording)


@pytest.mark.parametrize("n_step", [2, 5])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("breaks", [0.0, 0.3], ids=["linked", "broken at random"])
def test_store_compact_sums_n_steps_as_ever(n_step: int, k: int, breaks: float) -> None:
    recording = filming(24, 3, frame=mixed_frame, k=k, breaks=breaks, n_step=n_step, gamma=0.5)
    for rows in (4, 30, 9):
        recording.play(Random(2), rows)
        assert_alike(recording)


@settings(max_examples=60)
@given(
    frame=st.sampled_from(list(FRAMES.values())),
    k=st.integers(1, 5),
    capacity=st.integers(1, 9),
    num_envs=st.integers(1, 3),
    pad=st.sampled_from(["repeat", "zero"]),
    breaks=st.sampled_from([0.0, 0.1, 0.5]),
    ends=st.sampled_from([0.0, 0.1, 0.5]),
    pieces=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_store_compact_gives_what_was_pushed_in_any_shape(
    frame: Callable[[Random], Any],
    k: int,
    capacity: int,
    num_envs: int,
    pad: str,
    breaks: float,
    ends: float,
    pieces: list[int],
    seed: int,
) -> None:
    recording = filming(
        capacity * num_envs,
        num_envs,
        frame=frame,
        k=k,
        pad=pad,
        breaks=breaks,
        ends=ends,
        seed=seed,
    )
    for rows in pieces:
        recording.play(Random(seed), rows)
        assert_alike(recording)


@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_store_compact_in_lanes_of_one_row_keeps_the_newest(k: int) -> None:
    recording = filming(3, 3, frame=mixed_frame, k=k, ends=0.1)
    for _ in range(12):
        recording.play(Random(recording.count), 1)
        assert_alike(recording)


def test_store_compact_the_most_frames_there_can_be() -> None:
    recording = filming(5, k=64, ends=0.02)
    for _ in range(3):
        recording.play(Random(recording.count), 40)
        assert_alike(recording)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("rows", [3, 5, 6, 7, 17])
@pytest.mark.parametrize("num_envs", [1, 2])
def test_extend_compact_by_more_than_fits_keeps_the_newest(
    rows: int, k: int, num_envs: int
) -> None:
    recording = filming(5 * num_envs, num_envs, k=k, ends=0.05)
    for _ in range(4):
        recording.extend(rows)
        assert_alike(recording)
        recording.push(0)
        assert_alike(recording)


@pytest.mark.parametrize("k", [1, 4])
def test_store_compact_one_long_episode_over_many_wraps(k: int) -> None:
    recording = filming(6, frame=colour_frame, k=k, ends=0.0)
    for _ in range(40):
        recording.push(0)
        assert_alike(recording)


@pytest.mark.parametrize("k", [1, 3])
def test_store_compact_episodes_of_one_step(k: int) -> None:
    recording = filming(6, k=k, ends=1.0)
    for _ in range(15):
        recording.push(0)
        assert_alike(recording)


@pytest.mark.parametrize("end", ["done", "truncated", "open"])
def test_store_compact_the_newest_row_has_its_next_state(end: str) -> None:
    recording = filming(6, k=3)
    for _ in range(3):
        recording.push(0, "open")
    recording.push(0, end)
    (*_, newest) = recording.model.rows()
    for buffer in recording.buffers:
        assert_same_bits(buffer[-1].next_state, newest.next_state)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
@pytest.mark.parametrize("frame", [mixed_frame, image_frame], ids=["nest", "image"])
def test_copy_compact_in_mid_episode_goes_on_just_so(
    k: int, copied: Callable[[Any], Any], frame: Callable[[Random], Any]
) -> None:
    recording = filming(14, 2, frame=frame, k=k, breaks=0.1, ends=0.1)
    for rows in (1, 4, 9, 16, 9):
        recording.play(Random(3), rows)
        recording.buffers = [recording.buffers[0], *map(copied, recording.buffers[1:])]
        assert_alike(recording)
    recording.play(Random(3), 5)
    assert_alike(recording)


@pytest.mark.parametrize("k", [1, 3])
def test_copy_compact_shares_nothing(k: int) -> None:
    recording = filming(14, 2, k=k)
    recording.play(Random(4), 40)
    for buffer in recording.buffers:
        again = COPIES["deepcopy"](buffer)
        with unchanged(buffer):
            for step in recording.steps([0, 1, 0, 1, 1]):
                again.push(step, lane=0)
            again.sample(3)


@pytest.mark.parametrize("k", [1, 3])
def test_push_a_bad_step_to_compact_changes_nothing(k: int) -> None:
    recording = filming(6, k=k, ends=0.0)
    for _ in range(15):
        recording.push(0)
        (bad,) = others_steps(1, k)
        for buffer in recording.buffers:
            for change in ({"reward": "x"}, {"next_state": torch.zeros(9)}, {"done": 0.5}):
                with unchanged(buffer), pytest.raises(ValueError, match=next(iter(change))):
                    buffer.push(replace(bad, **change))
        assert_alike(recording)


@pytest.mark.parametrize("k", [1, 3])
def test_extend_a_late_bad_row_of_compact_changes_nothing(k: int) -> None:
    recording = filming(6, k=k, ends=0.0)
    for _ in range(5):
        recording.extend(2)
        bad = stack(others_steps(9, k))
        bad.dones = torch.tensor([0.0] * 8 + [0.5])
        for buffer in recording.buffers:
            with unchanged(buffer), pytest.raises(ValueError, match="done"):
                buffer.extend(bad)
        assert_alike(recording)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bool,
        torch.uint8,
        torch.int16,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
    ],
    ids=str,
)
def test_store_compact_observations_of_any_dtype(dtype: torch.dtype) -> None:
    def frame(random: Random) -> torch.Tensor:
        return torch.tensor([[random.randrange(2), random.randrange(2)]]).to(dtype)

    recording = filming(6, frame=frame, k=3, breaks=0.1)
    recording.play(Random(5), 20)
    left, *others = (buffer.sample(6) for buffer in recording.buffers)
    for right in others:
        assert left.states.dtype == right.states.dtype == dtype
        assert torch.equal(left.states, right.states)
        assert torch.equal(left.next_states, right.next_states)


def test_store_compact_observations_of_double_precision_rounds_them_as_ever() -> None:
    def frame(random: Random) -> torch.Tensor:
        return torch.tensor([[random.random(), random.random()]], dtype=torch.float64)

    recording = filming(6, frame=frame, k=3)
    for _ in range(20):
        recording.push(0)
    batch, *others = (buffer.sample(6) for buffer in recording.buffers)
    assert batch.states.dtype == torch.float32
    for other in others:
        assert_same_bits(other, batch)


def test_store_compact_numbers_as_observations() -> None:
    recording = record(5, variants=variants(1))
    for i in range(12):
        for buffer in recording.buffers:
            buffer.push(Experience(i // 2, i, 0.0, (i + 1) // 2, i % 4 == 0))
    plain, compact = recording.buffers
    assert [x.next_state for x in compact] == [x.next_state for x in plain]
    assert_same_bits(compact.sample(5), plain.sample(5))


@pytest.mark.parametrize("k", [1, 3])
def test_store_compact_keeps_extras_and_actions(k: int) -> None:
    recording = filming(6, k=k)
    environment = Environment(Random(6), image_frame, k)
    for i in range(15):
        more = policy_step(environment.step(i), torch.full((2,), float(i)))
        recording.model.push(more)
        for buffer in recording.buffers:
            buffer.push(more)
        assert_alike(recording)


# Bits, not values


NEGATIVE_ZERO = torch.tensor([-0.0])
SIGNALLING = torch.tensor([0x7F800001], dtype=torch.int32).view(torch.float32)
QUIET = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)
OTHER_QUIET = torch.tensor([0x7FC00002], dtype=torch.int32).view(torch.float32)


@pytest.mark.parametrize(
    ("next_state", "state_after"),
    [
        (torch.zeros(1), NEGATIVE_ZERO),
        (NEGATIVE_ZERO, torch.zeros(1)),
        (QUIET, OTHER_QUIET),
        (QUIET, SIGNALLING),
        (SIGNALLING, SIGNALLING),
        (NEGATIVE_ZERO, NEGATIVE_ZERO),
    ],
    ids=["+0 -0", "-0 +0", "NaNs", "NaN and signalling NaN", "signalling NaN", "-0"],
)
@pytest.mark.parametrize("frame_stack", [1, 2])
def test_store_compact_compares_bits_not_values(
    next_state: torch.Tensor, state_after: torch.Tensor, frame_stack: int
) -> None:
    buffer = ReplayBuffer(4, compact=True, frame_stack=frame_stack)
    one = torch.ones(1)

    def observation(older: torch.Tensor, newer: torch.Tensor) -> torch.Tensor:
        return torch.stack([older, newer]) if frame_stack == 2 else newer

    pushed = [
        (observation(one, one), observation(one, next_state)),
        (observation(one, state_after), observation(state_after, one)),
        (observation(next_state, one), observation(one, one)),
    ]
    for state, following in pushed:
        buffer.push(Experience(state, 0.0, 0.0, following, False))
    for got, expected in zip(buffer, pushed, strict=True):
        assert_same_bits((got.state, got.next_state), expected)


@pytest.mark.parametrize("leaf", ["a", "b"])
@pytest.mark.parametrize("k", [1, 2])
def test_store_compact_nest_of_which_one_leaf_does_not_link(leaf: str, k: int) -> None:
    buffer = ReplayBuffer(4, compact=True, frame_stack=k)
    pushed = []
    for i in range(9):
        frames = torch.tensor([[i], [i + 1]])
        state = {"a": frames.float(), "b": frames.byte()}
        following = {key: value + 1 for key, value in state.items()}
        following[leaf] = following[leaf] + (i % 3 == 0)
        pushed.append((state, following))
        buffer.push(Experience(state, 0, 0.0, following, False))
        for got, expected in zip(buffer, pushed[-4:], strict=True):
            assert_same_bits((got.state, got.next_state), expected)


def test_push_from_one_array_that_is_written_again_keeps_each_step() -> None:
    buffer = ReplayBuffer(8, frame_stack=2)
    state, following = np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8)
    for i in range(8):
        state[0], state[1] = i, i + 1
        following[0], following[1] = i + 1, i + 2
        buffer.push(Experience(state, i, 0.0, following, False))
    assert [x.state[:, 0, 0].tolist() for x in buffer] == [[i, i + 1] for i in range(8)]
    assert [x.next_state[:, 0, 0].tolist() for x in buffer] == [[i + 1, i + 2] for i in range(8)]


@pytest.mark.parametrize("form", ["transposed", "strided", "backwards", "read-only"])
def test_push_compact_stacks_of_any_layout_stores_them(form: str) -> None:
    def arranged(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if form == "transposed":
            return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 0, -1)), -1, 0)
        if form == "strided":
            return np.repeat(array, 2, axis=0)[::2]
        if form == "backwards":
            return np.ascontiguousarray(array[::-1])[::-1]
        array.setflags(write=False)
        return array

    generator = np.random.default_rng(7)
    film = generator.integers(0, 255, (20, 3, 2), dtype=np.uint8)
    buffer = ReplayBuffer(6, frame_stack=4)
    for t in range(14):
        state, following = arranged(film[t : t + 4].copy()), arranged(film[t + 1 : t + 5].copy())
        buffer.push(Experience(state, t, 0.0, following, False))
    for got in buffer:
        assert got.state.tolist() == film[got.action : got.action + 4].tolist()
        assert got.next_state.tolist() == film[got.action + 1 : got.action + 5].tolist()


def test_sample_compact_screens_in_large_batches() -> None:
    generator = np.random.default_rng(8)
    film = generator.integers(0, 255, (260, 84, 84), dtype=np.uint8)
    plain, compact = (
        ReplayBuffer(200, seed=9, **options) for options in ({"compact": False}, {"frame_stack": 4})
    )
    starts = np.arange(250)[:, None] + np.arange(4)
    for at in range(0, 250, 50):
        chosen = starts[at : at + 50]
        columns = np.zeros(50, np.float32)
        for buffer in (plain, compact):
            buffer.extend(
                states=film[chosen],
                actions=np.arange(at, at + 50),
                rewards=columns,
                next_states=film[chosen + 1],
                dones=columns,
            )
    left, right = plain.sample(150), compact.sample(150)
    assert torch.equal(left.indices, right.indices)
    assert torch.equal(left.states, right.states)
    assert torch.equal(left.next_states, right.next_states)


# Benefits


def size_of(buffer: ReplayBuffer) -> int:
    """Bytes of what a buffer holds, seen from outside."""
    return len(pickle.dumps(buffer))


def noise(random: Random) -> torch.Tensor:
    return torch.tensor(list(random.randbytes(1024)), dtype=torch.uint8).view(1, 32, 32)


def test_store_compact_linked_observations_takes_half() -> None:
    recording = filming(100, frame=noise, ends=0.02)
    recording.play(Random(10), 150)
    plain, compact = map(size_of, recording.buffers)
    assert compact < 0.6 * plain


def test_store_frames_of_linked_stacks_takes_an_eighth() -> None:
    recording = filming(100, frame=noise, k=4, ends=0.0)
    recording.play(Random(11), 150)
    plain, _, frames = map(size_of, recording.buffers)
    assert frames < 0.15 * plain


def test_store_compact_observations_that_never_link_takes_no_more() -> None:
    recording = filming(100, frame=noise, breaks=1.0)
    recording.play(Random(12), 150)
    plain, compact = map(size_of, recording.buffers)
    assert compact < 1.1 * plain


@pytest.mark.parametrize(
    ("state", "compact"),
    [
        (torch.zeros(4096, dtype=torch.uint8), True),
        (torch.zeros(4095, dtype=torch.uint8), False),
        (torch.zeros(1024), True),
        (torch.zeros(1023), False),
        (torch.zeros(1024, dtype=torch.float64), True),
        ({"a": torch.zeros(64, 32, dtype=torch.uint8), "b": torch.zeros(512)}, True),
        ({"a": torch.zeros(64, 32, dtype=torch.uint8), "b": torch.zeros(511)}, False),
        (torch.zeros(3), False),
    ],
    ids=["4096", "4095", "1024 floats", "1023 floats", "doubles", "nest", "small nest", "small"],
)
def test_store_by_default_is_compact_where_observations_are_large(
    state: Any, compact: bool
) -> None:
    buffer = ReplayBuffer(3)
    buffer.push(Experience(state, 0, 0.0, state, False))
    assert buffer.compact is compact


@pytest.mark.parametrize("compact", [True, False])
def test_store_compact_or_not_when_asked_to(compact: bool) -> None:
    for size in (3, 5000):
        buffer = ReplayBuffer(3, compact=compact)
        buffer.push(Experience(torch.zeros(size), 0, 0.0, torch.zeros(size), False))
        assert buffer.compact is compact


def test_store_stacks_is_compact() -> None:
    buffer = ReplayBuffer(3, frame_stack=2)
    buffer.push(Experience(torch.zeros(4, 1), 0, 0.0, torch.zeros(4, 1), False))
    assert buffer.compact is True
    assert buffer.frame_stack == 2


def test_construct_without_stacks_has_single_frames() -> None:
    assert ReplayBuffer(3).frame_stack == 1


# Rejected arguments


def push(buffer: ReplayBuffer, step: Experience) -> None:
    buffer.push(step)


def extend(buffer: ReplayBuffer, step: Experience) -> None:
    buffer.extend(stack([step]))


@pytest.mark.parametrize(
    "state",
    [
        torch.zeros(3, 4, 4),
        torch.zeros(6, 1),
        torch.zeros(4),
        torch.zeros(1, 4),
        torch.tensor(1.0),
        1.5,
        {"a": torch.zeros(4), "b": torch.zeros(6, 2)},
    ],
    ids=["image", "matrix", "vector", "row", "scalar", "float", "nest"],
)
@pytest.mark.parametrize("store", [push, extend])
def test_store_what_is_no_stack_says_what_one_looks_like(
    state: Any, store: Callable[[ReplayBuffer, Experience], None]
) -> None:
    buffer = ReplayBuffer(3, frame_stack=4)
    step = Experience(state, 0, 0.0, state, False)
    with pytest.raises(ValueError, match=r"^state.*(stack|frame).*4|^state.*4.*(stack|frame)"):
        store(buffer, step)
    assert len(buffer) == 0
    good = torch.arange(4.0).view(4, 1)
    buffer.push(Experience(good, 0, 0.0, good + 1, False))
    assert torch.equal(buffer[0].next_state, good + 1)


@pytest.mark.parametrize("frame_stack", [0, -1, 65, 2**70])
def test_construct_with_impossible_stacks_is_refused(frame_stack: int) -> None:
    with pytest.raises(ValueError, match=rf"frame_stack: .*{frame_stack}"):
        ReplayBuffer(3, frame_stack=frame_stack)


@pytest.mark.parametrize("frame_stack", [True, 2.0, "4", None])
def test_construct_with_stacks_that_are_no_int_is_a_type_error(frame_stack: Any) -> None:
    with pytest.raises(TypeError, match="frame_stack"):
        ReplayBuffer(3, frame_stack=frame_stack)


def test_construct_with_stacks_that_are_not_compact_is_refused() -> None:
    with pytest.raises(ValueError, match=r"compact: .*frame_stack=2.*False"):
        ReplayBuffer(3, frame_stack=2, compact=False)


@pytest.mark.parametrize("compact", ["yes", "", None, 2, 0.5])
def test_construct_with_unknown_compactness_is_refused(compact: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="compact"):
        ReplayBuffer(3, compact=compact)


# The streams of these tests are what they are meant to be


@pytest.mark.parametrize("pad", ["repeat", "zero"])
def test_stream_of_stacks_has_the_newest_frames(pad: str) -> None:
    numbers = iter(range(1, 100))
    environment = Environment(
        Random(0), lambda _: torch.tensor([[next(numbers)]]), 3, pad=pad, ends=0.0
    )
    states = [environment.step(i).state.flatten().tolist() for i in range(6)]
    expected = reference_time.frame_stacks(range(1, 7), 3, pad=None if pad == "repeat" else 0)
    assert states == expected


def test_stream_links_unless_broken() -> None:
    links = {}
    for breaks in (0.0, 0.5):
        environment = Environment(Random(0), mixed_frame, 2, ends=0.1, breaks=breaks)
        steps = [environment.step(i) for i in range(200)]
        pairs = itertools.pairwise(steps)
        linked = [bits(a.next_state) == bits(b.state) for a, b in pairs]
        links[breaks] = sum(linked) / len(linked)
        ends = [step.done or step.truncated for step in steps[:-1]]
        assert breaks or all(a or b for a, b in zip(linked, ends, strict=True))
    assert links[0.0] > 0.8
    assert 0.2 < links[0.5] < 0.8
    assert map_nest(lambda leaf: leaf.shape[0], steps[0].state) == {
        "camera": 2,
        "body": (2, 2),
    }


def test_nbytes_is_what_rows_and_blocks_take() -> None:
    frames = torch.zeros(4, 64, 64, dtype=torch.uint8)
    whole, compact, stacked = (
        ReplayBuffer(1_000, compact=False),
        ReplayBuffer(1_000, compact=True),
        ReplayBuffer(1_000, frame_stack=4),
    )
    for buffer in (whole, compact, stacked):
        assert buffer.nbytes == 0
        buffer.push(Experience(frames, 0, 0.0, frames, done=False))
    beside = 8 << 20  # the memory for observations beside the rows comes in pieces
    assert 2_000 * frames.nbytes <= whole.nbytes <= 2_010 * frames.nbytes
    assert 1_000 * frames.nbytes <= compact.nbytes <= 1_010 * frames.nbytes + beside
    assert 250 * frames.nbytes <= stacked.nbytes <= 260 * frames.nbytes + beside
