"""Steps that are copied from buffer to buffer: all of them, and no neighbours but their own."""

from __future__ import annotations

import contextlib
import copy
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from cuda_helpers import MAKERS, assert_same
from helpers import AnyBuffer, PolicyExperience, filled, stack, stamped, unchanged
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_time import BOUNDARIES, LanesModel
from streams import (
    Environment,
    Plain,
    Recording,
    actions,
    assert_flat,
    assert_same_bits,
    assert_sequences,
    buffer_of,
    image_frame,
    mixed_frame,
    numbered,
    odd_frame,
    record,
    unequal,
)

from velora.buffer import Experience, ReplayBuffer, RolloutBuffer

Frame = Callable[[Random], Any]


def played(capacity: int, num_envs: int, rows: int, seed: int = 0, **options: Any) -> Recording:
    recording = record(capacity, num_envs, seed=seed, make=options.pop("make", Plain), **options)
    recording.play(Random(seed + 1), rows)
    return recording


def extend_both(target: Recording, source: Recording, lanes: Sequence[int] | None = None) -> None:
    """Copies between buffers and between their models."""
    for mine, theirs in zip(target.buffers, source.buffers, strict=True):
        mine.extend(theirs, lanes=lanes)
    target.model.copy(source.model, range(len(source.environments)) if lanes is None else lanes)
    target.count += source.count


def assert_holds(recording: Recording, n_step: int = 1) -> None:
    """Each of the buffers has what the model has, as single steps, n-step sums and sequences."""
    model = recording.model
    if not model.alive():
        assert [len(buffer) for buffer in recording.buffers] == [0] * len(recording.buffers)
        return
    for buffer in recording.buffers:
        for got, expected in zip(buffer, model.rows(), strict=True):
            assert_same_bits((got.state, got.next_state), (expected.state, expected.next_state))
            assert (got.done, got.truncated) == (expected.done, expected.truncated)
        batch = buffer.sample(len(model.alive()))
        assert sorted(assert_flat(batch, model, n_step=n_step)) == sorted(model.alive())
        for boundary in BOUNDARIES:
            length = min(2, buffer.capacity // buffer.num_envs)
            starts = model.starts(length, boundary)
            if starts:
                got = buffer.sample_sequences(len(starts), length, 1, boundary=boundary)
                assert sorted(assert_sequences(got, model, length, 1, boundary)) == sorted(starts)


# Copied steps


@pytest.mark.parametrize("before", [0, 3, 10])
@pytest.mark.parametrize("count", [1, 7, 13])
@pytest.mark.parametrize("n_step", [1, 3])
def test_extend_with_a_buffer_copies_its_single_steps(before: int, count: int, n_step: int) -> None:
    source = played(9, 1, count, seed=1, n_step=3)
    target = played(10, 1, before, seed=2, n_step=n_step)
    extend_both(target, source)
    assert_holds(target, n_step)


def test_extend_with_an_n_step_buffer_stores_no_sums() -> None:
    source = ReplayBuffer(8, n_step=3, gamma=0.5)
    for i in range(6):
        source.push(replace(numbered(i), reward=1.0))
    target = ReplayBuffer(8, gamma=0.5)
    target.extend(source)
    batch = target.sample(6)
    assert batch.rewards.flatten().tolist() == [1.0] * 6
    assert batch.discounts.flatten().tolist() == [0.5] * 6


@settings(max_examples=80, deadline=None)
@given(
    capacities=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    num_envs=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    rows=st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 9)),
    frame=st.sampled_from([image_frame, mixed_frame, odd_frame]),
    k=st.integers(1, 4),
    breaks=st.sampled_from([0.0, 0.3]),
    ends=st.sampled_from([0.0, 0.3]),
    n_step=st.integers(1, 4),
    data=st.data(),
)
def test_extend_with_a_buffer_holds_its_steps_however_both_store_them(
    capacities: tuple[int, int],
    num_envs: tuple[int, int],
    rows: tuple[int, int, int],
    frame: Frame,
    k: int,
    breaks: float,
    ends: float,
    n_step: int,
    data: st.DataObject,
) -> None:
    def make(random: Random) -> Environment:
        return Environment(random, frame, k, breaks=breaks, ends=ends)

    stored = [{"compact": False}, {"compact": True} if k == 1 else {"frame_stack": k}]
    pairs = [(data.draw(st.sampled_from(stored)), data.draw(st.sampled_from(stored)))]
    source, target = (
        played(
            capacities[i] * num_envs[i],
            num_envs[i],
            rows[i],
            seed=i,
            make=make,
            variants=[pair[i] for pair in pairs],
            n_step=(3, n_step)[i],
        )
        for i in (0, 1)
    )
    lane = st.integers(0, num_envs[1] - 1)
    lanes = data.draw(st.lists(lane, min_size=num_envs[0], max_size=num_envs[0]))
    extend_both(target, source, lanes)
    assert_holds(target, n_step)
    target.play(Random(5), rows[2])
    extend_both(target, source, lanes)
    assert_holds(target, n_step)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("into", [ReplayBuffer, RolloutBuffer])
@pytest.mark.parametrize("out_of", [ReplayBuffer, RolloutBuffer])
def test_extend_a_new_buffer_with_a_buffer_gives_equal_experiences(
    kind: str, into: type[AnyBuffer], out_of: type[AnyBuffer]
) -> None:
    source, target = out_of(12), into(12)
    for i in range(1, 8):
        source.push(MAKERS[kind](i))
    target.extend(source)
    assert len(target) == 7
    for got, expected in zip(target, source, strict=True):
        assert replace(got, truncated=False) == replace(expected, truncated=False)
    assert type(target[0]) is type(source[0])
    target.push(MAKERS[kind](8))
    assert target[-1] == MAKERS[kind](8)


def test_extend_with_a_rollout_copies_uneven_lanes() -> None:
    source = RolloutBuffer(12, num_envs=3)
    for i, lane in enumerate([0, 2, 2, 2, 0]):
        source.push(numbered(i), lane=lane)
    target = ReplayBuffer(12, num_envs=3)
    target.extend(source)
    assert actions(target) == actions(source) == [0, 1, 4, 2, 3]
    assert [step.truncated for step in target] == [False, False, True, False, True]


def test_extend_with_more_steps_than_fit_keeps_the_newest() -> None:
    target = ReplayBuffer(4)
    target.extend(filled(ReplayBuffer, range(1, 10), 9))
    assert actions(target) == [6, 7, 8, 9]


def test_extend_with_many_steps_copies_them_part_by_part() -> None:
    source = ReplayBuffer(60_000, num_envs=2)
    states = torch.arange(120_000.0).reshape(60_000, 2)
    source.extend(
        states=states,
        actions=torch.arange(60_000),
        rewards=torch.ones(60_000),
        next_states=states + 1,
        dones=torch.arange(60_000) % 1000 > 997,
    )
    target = ReplayBuffer(50_000, num_envs=2)
    target.extend(source)
    got = target.sample_sequences(50_000, 1).actions.flatten()
    assert got.sort().values.tolist() == list(range(10_000, 60_000))


def test_extend_with_another_order_of_fields_matches_them_by_name() -> None:
    def nested(i: int, *keys: str) -> Experience:
        parts = {"a": torch.full((2,), float(i)), "b": torch.full((2,), -float(i))}
        observation = {key: parts[key] for key in keys}
        return Experience(observation, i, 0.0, observation, True)

    source, target = ReplayBuffer(4), ReplayBuffer(4)
    source.push(nested(1, "b", "a"))
    target.push(nested(2, "a", "b"))
    target.extend(source)
    assert list(target) == [nested(2, "a", "b"), nested(1, "a", "b")]


# No neighbours but their own


@pytest.mark.parametrize("end", ["done", "truncated", "open"])
def test_extend_with_a_buffer_joins_no_episodes_at_either_end(end: str) -> None:
    text = {"done": "...d", "truncated": "...t", "open": "...."}[end]
    target, _ = buffer_of("..", capacity=9, n_step=9, gamma=1.0)
    source, _ = buffer_of(text)
    target.extend(source)
    target.push(numbered(70))
    flags = [(step.done, step.truncated) for step in target]
    last = (True, False) if end == "done" else (False, True)
    assert flags == [(False, False), (False, True), *[(False, False)] * 3, last, (False, False)]
    batch = target.sample_sequences(7, 7)
    by_start = batch[batch.indices[:, 0].argsort()]
    assert by_start.mask.sum(dim=(1, 2)).tolist() == [2, 1, 4, 3, 2, 1, 1]
    assert by_start.is_first[:, 0, 0].tolist() == [1, 0, 1, 0, 0, 0, 1]


def test_extend_marks_only_lanes_that_get_steps() -> None:
    target = ReplayBuffer(12, num_envs=3)
    target.extend(stack([numbered(i) for i in range(3)]))
    source = ReplayBuffer(4, num_envs=2)
    source.push(numbered(7), lane=1)
    target.extend(source)
    assert [(step.action, step.truncated) for step in target] == [
        (0, False),
        (1, True),
        (2, False),
        (7, True),
    ]


def test_extend_with_lanes_that_share_one_copies_one_after_the_other() -> None:
    source = ReplayBuffer(9, num_envs=3)
    source.extend(stack([numbered(i) for i in range(9)]))
    target = ReplayBuffer(20, num_envs=2)
    target.extend(source, lanes=[1, 0, 1])
    model: LanesModel[Experience] = LanesModel(20, 2)
    model.copy(_model_of(source), [1, 0, 1])
    assert list(target) == model.rows()
    assert actions(target) == [1, 0, 4, 3, 7, 6, 2, 5, 8]


def _model_of(buffer: ReplayBuffer) -> LanesModel[Experience]:
    model: LanesModel[Experience] = LanesModel(buffer.capacity, buffer.num_envs)
    model.extend(list(buffer))
    return model


@pytest.mark.parametrize("form", [list, tuple, np.array, torch.tensor])
def test_extend_with_a_buffer_takes_lanes_in_any_form(form: Callable[[Any], Any]) -> None:
    source, _ = unequal()
    target = ReplayBuffer(100, num_envs=2)
    target.extend(source, lanes=form([0, 0, 1, 1, 1]))
    assert len(target) == len(source)


# Itself


@pytest.mark.parametrize("rows", [0, 3, 12, 40])
@pytest.mark.parametrize("lanes", [None, [1, 0, 1], [2, 2, 2]], ids=str)
@pytest.mark.parametrize("k", [1, 3])
def test_extend_with_itself_appends_what_there_was(
    rows: int, lanes: list[int] | None, k: int
) -> None:
    variants = [{"compact": False}, {"compact": True} if k == 1 else {"frame_stack": k}]
    recording = played(
        21, 3, rows, make=lambda random: Environment(random, image_frame, k), variants=variants
    )
    for buffer in recording.buffers:
        buffer.extend(buffer, lanes=lanes)
    recording.model.copy(recording.model, lanes or range(3))
    assert_holds(recording)


def test_extend_with_itself_counts_no_draw() -> None:
    buffer = filled(ReplayBuffer, range(5), 20, seed=3)
    expected = copy.deepcopy(buffer)
    buffer.extend(buffer)
    for other in (buffer, expected):
        for i in range(5):
            other.push(stamped(i))
    expected.extend(stack([stamped(i) for i in range(5)]))
    assert len(buffer) == len(expected)
    assert buffer.sample(7).indices.tolist() == expected.sample(7).indices.tolist()


# Rejected arguments


def test_extend_with_nothing_changes_nothing() -> None:
    buffer = filled(ReplayBuffer, range(3), 5, seed=1)
    emptied = filled(RolloutBuffer, range(3), 5)
    emptied.empty()
    with unchanged(buffer):
        buffer.extend(ReplayBuffer(4, num_envs=3))
        buffer.extend(emptied)
    new = ReplayBuffer(5)
    new.extend(emptied)
    new.push(stamped(1, features=9))
    assert new.sample(1).states.shape == (1, 9)


OTHERS: dict[str, tuple[Experience, str]] = {
    "shape": (stamped(1, features=5), r"state: expected float32 of shape \(4,\), got a buffer "),
    "dtype": (
        replace(stamped(1), action=1.0),
        r"action: expected int64 of shape \(1,\), got a buffer with float32 of shape \(1,\)",
    ),
    "nest": (
        replace(stamped(1), state={"x": torch.zeros(4)}, next_state={"x": torch.zeros(4)}),
        r"state\['x'\]: expected no such field",
    ),
    "more": (
        PolicyExperience(**vars(stamped(1)), log_prob=0.0, hidden=torch.zeros(2)),
        "log_prob: expected no such field",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_extend_with_steps_of_another_form_names_the_field(name: str) -> None:
    other, message = OTHERS[name]
    source, target = ReplayBuffer(4), filled(ReplayBuffer, range(3), 5, seed=1)
    source.push(other)
    with unchanged(target), unchanged(source), pytest.raises(ValueError, match=message):
        target.extend(source)


def test_extend_with_steps_that_lack_a_field_names_it() -> None:
    target = ReplayBuffer(4)
    target.push(OTHERS["more"][0])
    with unchanged(target), pytest.raises(ValueError, match="log_prob: expected this field"):
        target.extend(filled(ReplayBuffer, range(3), 5))


@pytest.mark.parametrize(
    ("lanes", "error", "message"),
    [
        (None, ValueError, "lanes: expected a lane of the 2 here for each of the 5 .* got none"),
        ([0, 1], ValueError, "lanes: .* each of the 5 environments of the other buffer, got 2"),
        ([0, 1, 2, 0, 1], ValueError, "lanes: expected numbers from 0 to 1, got 2"),
        ([0, 1, -1, 0, 1], ValueError, "lanes: .* got -1"),
        ([0.0] * 5, ValueError, "lanes"),
    ],
)
def test_extend_with_a_buffer_and_bad_lanes_names_them(
    lanes: Any, error: type[Exception], message: str
) -> None:
    source, _ = unequal()
    target = ReplayBuffer(6, num_envs=2, seed=1)
    target.extend(stack([numbered(i) for i in range(4)]))
    with unchanged(target), pytest.raises(error, match=message):
        target.extend(source, lanes=lanes)


def test_extend_with_a_buffer_and_arrays_is_an_error() -> None:
    buffer = filled(ReplayBuffer, range(3), 9, seed=1)
    for target in (buffer, ReplayBuffer(4)):
        with unchanged(target), pytest.raises(TypeError, match="expected a batch or arrays"):
            target.extend(buffer, states=torch.zeros(3, 4))


@pytest.mark.parametrize("lanes", [[0, 1], [1, 1]], ids=str)
def test_extend_a_rollout_without_room_says_where_and_stores_nothing(lanes: list[int]) -> None:
    source = ReplayBuffer(20, num_envs=2)
    source.extend(stack([numbered(i) for i in range(10)]))
    target = RolloutBuffer(14, num_envs=2)
    for i in range(3):
        target.push(numbered(i), lane=1)
    with unchanged(target), pytest.raises(BufferError, match=r"lane 1 is full: it holds 3 of 7"):
        target.extend(source, lanes=lanes)
    new = RolloutBuffer(4)
    with pytest.raises(BufferError, match=r"the buffer is full: it holds 0 of 4 .* 10 more"):
        new.extend(source, lanes=[0, 0])
    new.push(stamped(1, features=9))


@pytest.mark.parametrize("made", ["sample", "slice", "sequences", "rollout", "minibatch"])
@pytest.mark.parametrize("new", [True, False])
def test_extend_with_a_batch_that_a_buffer_made_is_an_error(made: str, new: bool) -> None:
    source = filled(ReplayBuffer, range(9), 9, seed=1, n_step=2)
    rollout = filled(RolloutBuffer, range(9), 9)
    batch = {
        "sample": lambda: source.sample(4),
        "slice": lambda: rollout.sample()[2:4],
        "sequences": lambda: source.sample_sequences(3, 2),
        "rollout": lambda: rollout.sample(),
        "minibatch": lambda: next(iter(rollout.minibatches(3))),
    }[made]()
    target = ReplayBuffer(9) if new else filled(ReplayBuffer, range(3), 9, seed=1)
    with unchanged(target), pytest.raises(ValueError, match=r"batch\.indices: .*extend\(buffer\)"):
        target.extend(batch)


@pytest.mark.parametrize("name", ["indices", "weights", "discounts", "mask", "is_first"])
def test_extend_with_any_part_that_sampling_adds_names_it(name: str) -> None:
    target = filled(ReplayBuffer, range(3), 9, seed=1)
    batch = replace(stack([stamped(1)]), **{name: torch.ones(1)})
    with unchanged(target), pytest.raises(ValueError, match=rf"batch\.{name}: .*, {name}=None\)"):
        target.extend(batch)


def test_extend_with_a_cleared_batch_stores_its_rows_in_their_order() -> None:
    rollout = filled(RolloutBuffer, range(6), 6)
    target = ReplayBuffer(9)
    target.extend(replace(rollout.sample()[1:5], indices=None))
    assert actions(target) == [1, 2, 3, 4]


@pytest.mark.parametrize("thing", [[stamped(1)], "abc", 3, {"states": 1}], ids=repr)
def test_extend_with_anything_else_says_what_is_expected(thing: Any) -> None:
    for target in (ReplayBuffer(4), filled(ReplayBuffer, range(3), 9, seed=1)):
        with unchanged(target), pytest.raises(TypeError, match="BatchExperience or a buffer, got"):
            target.extend(thing)


# On a device


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("storage", ["cpu", "cuda", "pinned"])
@pytest.mark.parametrize("option", [{}, {"compact": True}, {"frame_stack": 4}], ids=str)
@pytest.mark.parametrize("way", ["to", "from", "within", "itself"])
def test_extend_with_a_buffer_of_a_device_gives_the_batches_of_the_cpu(
    storage: str, option: dict[str, Any], way: str
) -> None:
    buffers = []
    for device in ("cpu", "cuda"):
        source = ReplayBuffer(16, num_envs=2, seed=3, **option)
        target = ReplayBuffer(30, num_envs=2, seed=7, **option)
        if device == "cuda" and way in ("from", "within"):
            source = ReplayBuffer(16, "cuda", num_envs=2, seed=3, storage=storage, **option)
        if device == "cuda" and way in ("to", "within", "itself"):
            target = ReplayBuffer(30, "cuda", num_envs=2, seed=7, storage=storage, **option)
        environments = [Environment(Random(lane), image_frame, 4, ends=0.1) for lane in range(2)]
        for i in range(30):
            source.push(environments[i % 2].step(i), lane=i % 2)
        for i in range(9):
            target.push(environments[i % 2].step(i), lane=i % 2)
        target.extend(target if way == "itself" else source, lanes=[1, 0])
        target.push(environments[0].step(50), lane=0)
        buffers.append(target)
    cpu, cuda = buffers
    count = len(cpu)
    assert count == len(cuda)
    if way == "from":
        assert list(cpu) == list(cuda)
        return
    assert_same(cpu.sample(count), cuda.sample(count))
    for boundary in BOUNDARIES:
        left, right = (x.sample_sequences(5, 3, 2, boundary=boundary) for x in buffers)
        assert_same(left, right)


@pytest.mark.cuda(emulated=True)
def test_extend_with_rows_that_a_device_wrote_knows_where_episodes_end() -> None:
    batch = stack([stamped(i) for i in range(40)])
    cpu, cuda = ReplayBuffer(50, seed=1), ReplayBuffer(50, "cuda", seed=1)
    for buffer in (cpu, cuda):
        device = buffer.device if torch.cuda.is_available() else torch.device("cpu")
        source = ReplayBuffer(50, buffer.device)
        source.extend(batch.to(device))
        buffer.extend(batch.to(device))
        buffer.extend(source)
    assert_same(cpu.sample(50), cuda.sample(50))


@pytest.mark.parametrize("into", [ReplayBuffer, RolloutBuffer])
def test_extend_with_a_buffer_interrupted_at_any_time_copies_all_or_nothing(
    into: type[AnyBuffer],
) -> None:
    source = ReplayBuffer(30_000, num_envs=3)
    columns = torch.arange(30_000.0)
    source.extend(
        states=columns.reshape(-1, 1).expand(-1, 8),
        actions=columns,
        rewards=columns,
        next_states=columns.reshape(-1, 1).expand(-1, 8),
        dones=torch.zeros(30_000),
    )

    armed = False

    def interrupt(*_: Any) -> None:
        if armed:
            raise KeyboardInterrupt

    outcomes = set()
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        for i in range(60):
            target = into(60_000, num_envs=3)
            target.push(source[0], lane=0)
            completed, armed = False, True
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + i * 1e-4)
                target.extend(source)
                completed = True
                armed = False
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert len(target) in ((30_001,) if completed else (1, 30_001))
            assert target[0].truncated == (len(target) > 1)
            outcomes.add((completed, len(target)))
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert (True, 30_001) in outcomes
    assert any(not completed for completed, _ in outcomes)


def test_use_buffer_whose_first_extend_was_interrupted_sees_its_rows() -> None:
    def interrupted(kind: type[AnyBuffer]) -> AnyBuffer:
        buffer = filled(kind, range(3), 8)
        for name in ("push", "extend", "sample", "_push", "_extend"):  # these come last
            vars(buffer).pop(name, None)
        return buffer

    target = filled(ReplayBuffer, range(2), 8)
    target.extend(interrupted(ReplayBuffer))
    assert len(target) == 5
    replay = interrupted(ReplayBuffer)
    assert len(replay.sample(3)) == 3
    replay.push(stamped(3))
    assert len(replay) == 4
    rollout = interrupted(RolloutBuffer)
    assert len(rollout.sample()) == 3
    rollout.empty()
    assert len(rollout) == 0
