"""From environments into buffers: the same rows whatever resets the environments."""

from __future__ import annotations

import builtins
from collections import Counter
from typing import Any

import pytest
import torch
from counting import (
    ALIKE,
    MIXED,
    MODES,
    TERMINATED,
    TRUE,
    TRUNCATED,
    CountingEnv,
    Recorder,
    Row,
    as_row,
    expected,
    plain_loop,
    policy,
    vector_env,
)
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics, TransformAction
from helpers import map_nest

from velora.buffer import BatchExperience, ReplayBuffer, RolloutBuffer
from velora.gym import (
    Collector,
    CollectStatistics,
    add_core_env_wrappers,
    collect,
)

# Vector environments


@pytest.mark.parametrize("kinds", [ALIKE, MIXED], ids=["alike", "mixed"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_collect_stores_what_a_plain_loop_over_single_envs_does(
    kind: Any, mode: AutoresetMode, kinds: Any
) -> None:
    buffer: Any = Recorder(len(kinds))
    with vector_env(kind, kinds, mode) as env:
        statistics = collect(env, policy, buffer, 13)
    assert buffer.lanes == expected(kinds, 13, is_cut=True)
    assert statistics.transitions == len(buffer) == 13 * len(kinds)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_collect_nested_observations_stores_what_a_plain_loop_does(
    kind: Any, mode: AutoresetMode
) -> None:
    buffer: Any = Recorder(len(MIXED))
    with vector_env(kind, MIXED, mode, form="nested") as env:
        collect(env, policy, buffer, 9)
    assert buffer.lanes == expected(MIXED, 9, form="nested", is_cut=True)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_collect_from_env_that_overwrites_its_observations_stores_what_they_were(
    kind: Any, mode: AutoresetMode
) -> None:
    buffer: Any = Recorder(len(MIXED))
    with vector_env(kind, MIXED, mode, copy=False) as env:
        collect(env, policy, buffer, 9)
    assert buffer.lanes == expected(MIXED, 9, is_cut=True)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("form", ["flat", "nested"])
def test_collect_from_env_with_core_wrappers_stores_what_a_plain_loop_does(
    form: str, mode: AutoresetMode
) -> None:
    buffer: Any = Recorder(len(MIXED))
    with vector_env(SyncVectorEnv, MIXED, mode, form=form) as env:
        collect(add_core_env_wrappers(env), policy, buffer, 9)
    assert buffer.lanes == expected(MIXED, 9, form=form, is_cut=True)
    assert isinstance(leaves_of(buffer.batches[0].states)[0], torch.Tensor)


def leaves_of(nest: Any) -> list[Any]:
    found: list[Any] = []
    map_nest(found.append, nest)
    return found


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_collect_goes_on_where_the_last_call_stopped(mode: AutoresetMode) -> None:
    buffer: Any = Recorder(len(MIXED))
    with vector_env(SyncVectorEnv, MIXED, mode) as env:
        collector = Collector(env, policy, buffer)
        counts = [collector.collect(steps).transitions for steps in (1, 4, 2, 1, 12)]
    assert sum(counts) == len(buffer)
    for kind, rows in zip(MIXED, buffer.lanes, strict=True):
        assert rows == plain_loop(kind, len(rows))
        resets = 0 if mode is not AutoresetMode.NEXT_STEP else 20 // (kind[0] + 1)
        assert len(rows) == 20 - resets


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_collect_with_truncate_ends_all_episodes_and_begins_new_ones(mode: AutoresetMode) -> None:
    buffer: Any = Recorder(len(MIXED))
    with vector_env(SyncVectorEnv, MIXED, mode) as env:
        collector = Collector(env, policy, buffer)
        collector.collect(2, truncate=True)
        middle = [len(rows) for rows in buffer.lanes]
        collector.collect(2)
    for kind, rows, count in zip(MIXED, buffer.lanes, middle, strict=True):
        assert rows[:count] == plain_loop(kind, count, is_cut=True)
        assert rows[count:] == plain_loop(kind, len(rows) - count)


@pytest.mark.parametrize("options", [{}, {"shared_memory": False}], ids=str)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_collect_again_from_processes_stores_no_reset_of_the_time_before(
    mode: AutoresetMode, options: Any
) -> None:
    with vector_env(AsyncVectorEnv, MIXED, mode, **options) as env:
        for steps in (4, 3, 6):
            buffer: Any = Recorder(len(MIXED))
            collect(env, policy, buffer, steps)
            assert buffer.lanes == expected(MIXED, steps, is_cut=True)


def test_collect_next_step_env_gives_rows_without_resets_lane_by_lane() -> None:
    given = []
    buffer: Any = Recorder(2)
    extend = buffer.extend

    def spy(batch: BatchExperience, *, lanes: Any = None) -> None:
        given.append(None if lanes is None else list(lanes))
        extend(batch, lanes=lanes)

    buffer.extend = spy
    with vector_env(SyncVectorEnv, [(1, TERMINATED), (2, TERMINATED)], MODES[0]) as env:
        Collector(env, policy, buffer).collect(6)
    # Step 6 resets both: there is nothing to store.
    assert given == [None, [1], [0], [1], None]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_collect_into_replay_buffer_stores_each_lane_of_its_own(mode: AutoresetMode) -> None:
    buffer = ReplayBuffer(100, num_envs=len(MIXED))
    with vector_env(SyncVectorEnv, MIXED, mode) as env:
        collect(env, policy, buffer, 13)
    assert len(buffer) == 13 * len(MIXED)
    got = [as_row((*x, x.truncated)) for x in buffer]
    lanes = expected(MIXED, 13, is_cut=True)
    assert got == [row for step in zip(*lanes, strict=True) for row in step]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_collect_fills_a_rollout_buffer_to_the_last_row(mode: AutoresetMode) -> None:
    buffer = RolloutBuffer(13 * len(MIXED), num_envs=len(MIXED))
    with vector_env(SyncVectorEnv, MIXED, mode) as env:
        collect(env, policy, buffer, 13)
    assert len(buffer) == buffer.capacity


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_collector_gives_a_rollout_buffer_as_many_steps_of_each_env(mode: AutoresetMode) -> None:
    buffer = RolloutBuffer(7 * len(MIXED), num_envs=len(MIXED))
    lanes: list[list[Row]] = [[] for _ in MIXED]
    with vector_env(SyncVectorEnv, MIXED, mode) as env:
        collector = Collector(env, policy, buffer)
        for _ in range(3):
            statistics = collector.collect(7)
            assert statistics.transitions == buffer.capacity
            assert set(statistics.episode_lengths) <= {limit for limit, _ in MIXED}
            buffer.compute_returns(torch.zeros(len(buffer)), torch.zeros(len(buffer)))
            for i, x in enumerate(buffer):
                lanes[i % len(MIXED)].append(as_row((*x, x.truncated)))
            buffer.empty()
    for kind, rows in zip(MIXED, lanes, strict=True):
        if mode is not AutoresetMode.NEXT_STEP:
            assert rows == plain_loop(kind, 21)
            continue
        # Steps of a waiting environment are left out: its row before them is truncated.
        steps = plain_loop(kind, 30)
        position = -1
        for i, row in enumerate(rows):
            following = steps[(position + 1) % kind[0]]
            is_gap = row[0] != following[0]
            assert not is_gap or i in (7, 14)
            assert not is_gap or rows[i - 1][5] == TRUE
            position = next(j for j in range(kind[0]) if steps[j][0] == row[0])
            assert row[:5] == steps[position][:5]


# Single environments


@pytest.mark.parametrize("form", ["flat", "in place", "nested"])
@pytest.mark.parametrize("kind", MIXED, ids=str)
def test_collect_from_single_env_stores_what_a_plain_loop_does(kind: Any, form: str) -> None:
    limit, end = kind
    buffer: Any = Recorder(1)
    collect(CountingEnv(limit, end, form), policy, buffer, 11)
    assert buffer.lanes == [
        plain_loop(kind, 11, form=form.replace("in place", "flat"), is_cut=True)
    ]


@pytest.mark.parametrize("kind", [ReplayBuffer, RolloutBuffer])
def test_collect_from_single_env_into_buffer_stores_experiences(kind: Any) -> None:
    buffer = kind(11)
    collect(CountingEnv(3, TRUNCATED), policy, buffer, 11)
    assert [as_row((*x, x.truncated)) for x in buffer] == plain_loop(
        (3, TRUNCATED), 11, is_cut=True
    )


def test_collect_from_wrapped_single_env_stores_tensors_and_gives_it_numpy() -> None:
    env = CountingEnv()
    buffer: Any = Recorder(1)
    collect(add_core_env_wrappers(env), policy, buffer, 11)
    assert buffer.lanes == [plain_loop((4, TERMINATED), 11, is_cut=True)]
    assert isinstance(buffer.batches[0].states, torch.Tensor)


# Statistics and progress


def returns_of(limit: int) -> float:
    return float(sum(10 * limit + step for step in range(1, limit + 1)))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_collect_reports_episodes_that_ended(mode: AutoresetMode) -> None:
    with vector_env(SyncVectorEnv, [(4, TERMINATED), (3, TRUNCATED)], mode) as env:
        statistics = collect(env, policy, Recorder(2), 7)  # type: ignore[arg-type]
    calls = 9 if mode is AutoresetMode.NEXT_STEP else 7
    lengths = (3, 4, 3)
    assert statistics == CollectStatistics(
        calls, 14, tuple(returns_of(length) for length in lengths), lengths
    )
    assert statistics.episodes == 3


def test_collect_reports_whole_episodes_that_began_in_an_earlier_call() -> None:
    collector = Collector(CountingEnv(), policy, ReplayBuffer(20))
    assert collector.collect(3) == CollectStatistics(3, 3, (), ())
    assert collector.collect(2) == CollectStatistics(2, 2, (returns_of(4),), (4,))
    collector.collect(1, truncate=True)
    assert collector.collect(4) == CollectStatistics(4, 4, (returns_of(4),), (4,))


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_collect_from_env_that_records_statistics_reports_whole_episodes(
    mode: AutoresetMode, kind: Any
) -> None:
    lengths = [4, 3, 6]
    with vector_env(kind, [(length, TERMINATED) for length in lengths], mode) as env:
        recorder = RecordEpisodeStatistics(env)
        statistics = collect(TransformAction(recorder, lambda x: x), policy, Recorder(3), 12)  # type: ignore[arg-type]
    assert Counter(recorder.length_queue) >= Counter(statistics.episode_lengths)
    assert set(recorder.length_queue) == set(lengths)
    assert Counter(recorder.return_queue) >= Counter(statistics.episode_returns)


def test_collect_with_progress_shows_a_bar_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    collect(CountingEnv(), policy, ReplayBuffer(20), 20, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "100%" in err


def test_collect_with_progress_without_rich_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("rich"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    buffer = ReplayBuffer(20)
    with pytest.raises(ImportError, match=r"^progress: .*pip install rich"):
        collect(CountingEnv(), policy, buffer, 20, progress=True)
    assert len(buffer) == 0


@pytest.mark.parametrize("mode", MODES)
def test_collect_after_a_full_rollout_was_emptied_fills_it_again(mode: AutoresetMode) -> None:
    buffer = RolloutBuffer(2 * 6, num_envs=2)
    with vector_env(SyncVectorEnv, ALIKE[:2], mode) as env:
        collector = Collector(env, policy, buffer)
        collector.collect(6)
        for _ in range(3):
            with pytest.raises(BufferError):
                collector.collect(6)
            buffer.empty()
            collector.collect(6)
            assert len(buffer) == 12
