"""Inputs that collecting rejects, and the state after it fails half way."""

from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from counting import (
    ALIKE,
    MIXED,
    MODES,
    TERMINATED,
    CountingEnv,
    Recorder,
    as_row,
    expected,
    factories,
    plain_loop,
    policy,
    vector_env,
)
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from velora.buffer import Experience, ReplayBuffer, RolloutBuffer
from velora.gym import (
    Collector,
    CollectStatistics,
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
    assert len(buffer) == 4  # the row that waited is one of them
    assert (statistics.steps, statistics.transitions, statistics.episodes) == (9, 9, 2)
    rows += [as_row((*x, x.truncated)) for x in buffer]
    assert rows == plain_loop((4, TERMINATED), 9)


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


# Results of environments


class GivingEnv(CountingEnv):
    """Gives something else at one of its steps, or at its resets."""

    def __init__(self, at: int = 4, **given: Any) -> None:
        super().__init__()
        self.at, self.given = at, given

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        result = super().reset(seed=seed)
        return self.given.get("reset", result)

    def step(self, action: Any) -> Any:
        names = ("observation", "reward", "terminated", "truncated", "info")
        results = dict(zip(names, super().step(action), strict=True))
        if self.steps != self.at:
            return tuple(results.values())
        return self.given.get("step", tuple((results | self.given).values()))


OLD_STEP = (np.zeros(2, np.float32), 1.0, False, {})


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"reward": Decimal(1)}, TypeError, r"reward: expected one number, got Decimal"),
        ({"reward": None}, TypeError, r"reward: expected one number, got NoneType"),
        ({"reward": "1"}, TypeError, r"reward: expected one number, got str"),
        ({"reward": [1, [2]]}, TypeError, r"reward: expected one number, got list"),
        ({"reward": np.zeros(3)}, ValueError, r"reward: expected one number, got shape \(3,\)"),
        ({"reward": torch.zeros(2, 2)}, ValueError, r"reward: expected one number, got shape"),
        ({"terminated": None}, TypeError, r"terminated: expected one number, got NoneType"),
        ({"truncated": {}}, TypeError, r"truncated: expected one number, got dict"),
        ({"terminated": np.zeros(2, bool)}, ValueError, r"terminated: .*gymnasium.vector.Vec"),
        ({"step": OLD_STEP}, ValueError, r"env\.step: expected 5 results .*, got 4; four are"),
        ({"step": OLD_STEP[:2]}, ValueError, r"env\.step: expected 5 results .*, got 2"),
        ({"step": None}, ValueError, r"env\.step: expected 5 results .*, got NoneType"),
        ({"observation": None}, ValueError, r"observations: expected an array.*got NoneType"),
        ({"observation": np.zeros(3)}, ValueError, r"next_states: expected rows of shape"),
    ],
)
def test_collect_step_that_gives_something_else_is_refused_by_name(
    given: Any, error: Any, message: str
) -> None:
    buffer = ReplayBuffer(40, n_step=3, gamma=1.0)
    collector = Collector(GivingEnv(**given), policy, buffer)
    for _ in range(3):
        with pytest.raises(error, match="^" + message):
            collector.collect(8)
    # Three steps of each episode; the fourth is lost. No sum goes on into another episode.
    assert [int(x.state[0]) for x in buffer] == [0, 1, 2] * 3
    assert [bool(x.truncated) for x in buffer] == [False, False, True] * 3
    batch = buffer.sample(9)
    rewards = {0: 41.0 + 42 + 43, 1: 42.0 + 43, 2: 43.0}
    assert batch.rewards[:, 0].tolist() == [rewards[int(x)] for x in batch.states[:, 0]]
    collector._env.env.given = {}  # type: ignore[union-attr]
    statistics = collector.collect(4)
    assert statistics.episode_lengths == (4,)
    assert (statistics.steps, statistics.transitions) == (13, 13)


@pytest.mark.parametrize(
    ("result", "got"),
    [(np.zeros(2, np.float32), "ndarray"), (None, "NoneType"), ((np.zeros(2), {}, 0), "3")],
)
def test_collect_reset_that_gives_something_else_is_refused_by_name(result: Any, got: str) -> None:
    buffer = ReplayBuffer(10)
    with pytest.raises(ValueError, match=rf"^env\.reset: expected 2 results.*, got {got}$"):
        collect(GivingEnv(reset=result), policy, buffer, 4)
    assert len(buffer) == 0


def test_collect_from_batched_single_env_says_what_it_should_be() -> None:
    class BatchedEnv(CountingEnv):
        def step(self, action: Any) -> Any:
            observation, reward, *_ = super().step(action)
            return np.stack([observation] * 3), np.full(3, reward), *np.zeros((2, 3), bool), {}

    with pytest.raises(ValueError, match=r"^reward: .* shape \(3,\).*gymnasium\.vector\.VectorEnv"):
        collect(BatchedEnv(), policy, ReplayBuffer(10), 4)


def test_collect_step_that_raises_stop_iteration_is_an_error() -> None:
    env = CountingEnv()
    steps = iter([env.step] * 3)
    real = env.step
    env.step = lambda action: next(steps) and real(action)  # type: ignore[method-assign]
    buffer = ReplayBuffer(10)
    collector = Collector(env, policy, buffer)
    with pytest.raises(RuntimeError, match=r"^env\.step: expected 5 results, got StopIteration"):
        collector.collect(5)
    assert [bool(x.truncated) for x in buffer] == [False, False, True]


class VectorGiving(gym.vector.VectorWrapper):
    """Gives something else at its second step."""

    def __init__(self, env: Any, position: int, value: Any) -> None:
        super().__init__(env)
        self.position, self.value, self.count = position, value, 0

    def step(self, actions: Any) -> Any:
        self.count += 1
        results: list[Any] = list(super().step(actions))
        if self.count == 2:
            results[self.position] = self.value
        return tuple(results)


@pytest.mark.parametrize(
    ("position", "value", "error", "message"),
    [
        (1, np.array([1.0, None, 2.0]), ValueError, r"rewards: expected an array"),
        (1, np.array(["1", "2", "3"]), TypeError, r"rewards: expected numbers, got <U1"),
        (1, np.zeros((3, 2)), ValueError, r"rewards: expected one for each of 3 env.*\(3, 2\)"),
        (1, np.zeros(2), ValueError, r"rewards: expected one for each of 3 environments"),
        (2, np.zeros((3, 2), bool), ValueError, r"terminations: expected one for each of"),
        (3, np.zeros(4, bool), ValueError, r"truncations: expected one for each of 3"),
        (3, [None] * 3, ValueError, r"truncations: expected an array"),
    ],
)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_collect_vector_step_that_gives_something_else_is_refused_by_name(
    mode: AutoresetMode, position: int, value: Any, error: Any, message: str
) -> None:
    buffer: Any = Recorder(3)
    with vector_env(SyncVectorEnv, ALIKE, mode) as env:
        collector = Collector(VectorGiving(env, position, value), policy, buffer)
        with pytest.raises(error, match="^" + message):
            collector.collect(8)
        assert buffer.lanes == expected(ALIKE, 1, is_cut=True)
        statistics = collector.collect(4)
    assert [rows[1:] for rows in buffer.lanes] == expected(ALIKE, 4)
    assert statistics == CollectStatistics(5, 15, (170.0,) * 3, (4,) * 3)


# Results of policies


class TupleEnv(CountingEnv):
    """Takes nests of actions."""

    action_space: Any

    def __init__(self, space: Any) -> None:
        super().__init__()
        self.action_space = space

    def step(self, action: Any) -> Any:
        return super().step(np.zeros(1))


BOX = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
PAIR = gym.spaces.Tuple([gym.spaces.Discrete(3), gym.spaces.Dict(force=BOX)])


@pytest.mark.parametrize(
    ("space", "action", "error", "message"),
    [
        (BOX, np.zeros((1, 2)), ValueError, r"action: expected shape \(2,\).* got \(1, 2\); "),
        (BOX, torch.zeros(1, 1, 2), ValueError, r"action: expected shape \(2,\).* got \(1, 1, 2\)"),
        (BOX, None, ValueError, r"action: expected an array, a tensor or a number, got NoneType"),
        (BOX, [[1], [1, 2]], ValueError, r"action: expected an array, .* got list"),
        (PAIR, [1, {"force": np.zeros(2)}], TypeError, r"action: expected a tuple, .* got list"),
        (PAIR, (1, [0.0, 1.0]), TypeError, r"action\[1\]: expected a dict, .* got list"),
        (
            PAIR,
            ((1, {"force": np.zeros((1, 2))}), {}),
            ValueError,
            r"action\[1\]\['force'\]: expected shape \(2,\)",
        ),
        (BOX, (np.zeros(2), {"log_prob": object()}), ValueError, r"extras\['log_prob'\]: exp"),
    ],
)
def test_collect_policy_that_gives_something_else_is_refused_by_name(
    space: Any, action: Any, error: Any, message: str
) -> None:
    buffer = ReplayBuffer(10)
    collector = Collector(TupleEnv(space), lambda _: action, buffer)
    with pytest.raises(error, match="^" + message):
        collector.collect(3)
    assert len(buffer) == 0
    collector.policy = None  # The environment has not moved: the episode goes on.
    collector.collect(2)
    assert [int(x.state[0]) for x in buffer] == [0, 1]


# The buffer


def test_collect_after_rows_from_elsewhere_cuts_the_episode_off() -> None:
    buffer = ReplayBuffer(20)
    collector = Collector(CountingEnv(limit=9), policy, buffer)
    collector.collect(2)
    buffer.push(
        Experience(
            np.full(2, 50, np.float32), np.zeros(1, np.float32), 0.0, np.full(2, 51.0), False
        )
    )
    collector.collect(2)
    assert [int(x.state[0]) for x in buffer] == [0, 1, 50, 2, 3]
    assert [bool(x.truncated) for x in buffer] == [False, False, True, False, False]


def test_collect_into_buffer_that_held_an_open_episode_truncates_that() -> None:
    buffer = ReplayBuffer(20)
    Collector(CountingEnv(limit=9), policy, buffer).collect(2)
    loaded = pickle.loads(pickle.dumps(buffer))
    Collector(CountingEnv(limit=9), policy, loaded).collect(2)
    assert [bool(x.truncated) for x in loaded] == [False, True, False, False]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_collect_with_seed_after_interrupted_reset_uses_it_once(error: Any) -> None:
    seeds = []

    class SeededEnv(CountingEnv):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            seeds.append(seed)
            if len(seeds) == 1:
                raise error
            return super().reset(seed=seed)

    collector = Collector(SeededEnv(), policy, ReplayBuffer(20), seed=7)
    with pytest.raises(error):
        collector.collect(5)
    collector.collect(5)
    assert seeds == [7, 7, None]


def test_collector_repr_says_what_it_puts_together() -> None:
    collector = Collector(CountingEnv(), None, ReplayBuffer(20))
    assert repr(collector) == (
        f"Collector(env={collector._env.env}, policy='random', buffer={ReplayBuffer(20)!r})"
    )
    collector.policy = policy
    assert "policy=policy, " in repr(collector)
