"""What collecting refuses, and what is left when it fails half way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from counting import (
    ALIKE,
    MIXED,
    MODES,
    TERMINATED,
    CountingEnv,
    Recorder,
    as_row,
    factories,
    plain_loop,
    policy,
    vector_env,
)
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from velora.buffer import ReplayBuffer, RolloutBuffer
from velora.gym import (
    Collector,
    collect,
)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_collect_that_fails_half_way_leaves_no_open_episode(
    mode: AutoresetMode, error: Any
) -> None:
    calls = 0

    def fail_at_last(observations: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise error
        return policy(observations)

    buffer: Any = Recorder(len(MIXED))
    with vector_env(SyncVectorEnv, MIXED, mode) as env, pytest.raises(error):
        collect(env, fail_at_last, buffer, 20)
    for kind, rows in zip(MIXED, buffer.lanes, strict=True):
        assert 0 < len(rows) <= 5
        assert rows == plain_loop(kind, len(rows), is_cut=True)


def test_collect_into_full_rollout_buffer_loses_no_step() -> None:
    buffer = RolloutBuffer(5)
    collector = Collector(CountingEnv(), policy, buffer)
    with pytest.raises(BufferError):
        collector.collect(8)
    rows = [as_row((*x, x.truncated)) for x in buffer]
    buffer.empty()
    statistics = collector.collect(4)
    assert (statistics.steps, statistics.transitions, statistics.episodes) == (10, 10, 2)
    rows += [as_row((*x, x.truncated)) for x in buffer]
    assert rows == plain_loop((4, TERMINATED), 10)


@pytest.mark.parametrize("steps", [0, -3])
def test_collect_less_than_a_step_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"^steps: expected at least 1, got {steps}$"):
        collect(CountingEnv(), policy, ReplayBuffer(3), steps)
    with pytest.raises(ValueError, match=rf"^steps: expected at least 1, got {steps}$"):
        Collector(CountingEnv(), policy, ReplayBuffer(3)).collect(steps)


def test_collect_steps_that_are_not_whole_are_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"^steps: expected a whole number, got float 2\.5$"):
        collect(CountingEnv(), policy, ReplayBuffer(3), 2.5)


def test_collect_steps_that_are_a_whole_float_are_so_many() -> None:
    buffer = ReplayBuffer(30)
    collect(CountingEnv(), policy, buffer, 1e1)
    Collector(CountingEnv(), policy, buffer).collect(2.0)
    assert len(buffer) == 12


def test_collect_into_buffer_of_other_num_envs_names_both() -> None:
    env = SyncVectorEnv(factories(ALIKE))
    with pytest.raises(ValueError, match=r"^buffer: expected num_envs=3.*num_envs=1$"):
        collect(env, policy, ReplayBuffer(30), 5)
    with pytest.raises(ValueError, match=r"^buffer: expected num_envs=1.*num_envs=2$"):
        collect(CountingEnv(), policy, ReplayBuffer(30, num_envs=2), 5)


def test_collect_into_what_is_no_buffer_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"^buffer: expected a ReplayBuffer.*got list$"):
        collect(CountingEnv(), policy, [], 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("thing", [None, "CartPole-v1", CountingEnv], ids=repr)
def test_collect_from_what_is_no_env_is_a_type_error(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"^env: expected a Gymnasium Env or VectorEnv, got"):
        collect(thing, policy, ReplayBuffer(3), 3)


@pytest.mark.parametrize("thing", [3, "greedy"])
def test_collect_with_what_is_no_policy_is_a_type_error(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"^policy: expected a callable, None or 'random', got"):
        collect(CountingEnv(), thing, ReplayBuffer(3), 3)


def test_collect_actions_of_another_shape_is_refused_by_the_buffer() -> None:
    buffer = ReplayBuffer(10)
    collector = Collector(CountingEnv(), policy, buffer)
    collector.collect(2)
    collector.policy = lambda _: np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"^action"):
        collector.collect(1)
    assert len(buffer) == 2
