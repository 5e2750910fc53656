"""Inputs of policies, their permitted outputs and the rows stored from them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from counting import (
    MIXED,
    MODES,
    TERMINATED,
    CountingEnv,
    Recorder,
    Row,
    expected,
    plain_loop,
    policy,
    vector_env,
)
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from velora.buffer import ReplayBuffer
from velora.gym import (
    Collector,
    add_core_env_wrappers,
    collect,
)


@pytest.mark.parametrize("is_single", [True, False])
def test_collect_with_policy_of_tensors_gives_numpy_to_numpy_env(is_single: bool) -> None:
    weight = torch.nn.Parameter(torch.ones(1))

    def tensor_policy(observations: Any) -> torch.Tensor:
        return torch.from_numpy(observations)[..., :1] * 2 * weight + 0.5

    envs = [CountingEnv(), CountingEnv()]
    buffer: Any = Recorder(1 if is_single else 2)
    env: Any = envs[0] if is_single else SyncVectorEnv([lambda: envs[0], lambda: envs[1]])
    collect(env, tensor_policy, buffer, 6)
    assert all(type(action) is np.ndarray for action in envs[0].actions)
    assert isinstance(buffer.batches[0].actions, torch.Tensor)
    assert not buffer.batches[0].actions.requires_grad
    assert buffer.lanes[0] == plain_loop((4, TERMINATED), 6, is_cut=True)


class DiscreteEnv(CountingEnv):
    """Takes an integer that a table could have as a key."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.Discrete(3)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        return super().step(np.array([{0: 0, 1: 1, 2: 2}[action]]))


@pytest.mark.parametrize(
    "answer", [1, np.int64(1), np.array(1), torch.tensor(1)], ids=lambda answer: str(type(answer))
)
def test_collect_with_single_integer_actions_stores_them(answer: Any) -> None:
    buffer = ReplayBuffer(4)
    collect(DiscreteEnv(), lambda observation: answer, buffer, 4)
    actions = buffer.sample(4).actions
    assert actions.dtype == torch.int64
    assert actions.tolist() == [[1]] * 4


@pytest.mark.parametrize("random", [None, "random"])
@pytest.mark.parametrize(
    "make",
    [
        DiscreteEnv,
        lambda: SyncVectorEnv([DiscreteEnv] * 2),
        lambda: add_core_env_wrappers(SyncVectorEnv([DiscreteEnv] * 2)),
    ],
    ids=["single", "vector", "tensors"],
)
def test_collect_without_policy_draws_actions_that_the_seed_repeats(make: Any, random: Any) -> None:
    def draw(seed: int) -> list[list[Row]]:
        env = make()
        buffer: Any = Recorder(getattr(env, "num_envs", 1))
        collect(env, random, buffer, 20, seed=seed)
        return list(buffer.lanes)

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    assert len({row[1] for row in draw(3)[0]}) == 3


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_collect_with_extras_stores_them_beside_their_actions(mode: AutoresetMode) -> None:
    def policy_with_extras(observations: Any) -> Any:
        hidden = (observations[:, 0], np.stack([observations[:, 0]] * 3, axis=1))
        return policy(observations), {"log_prob": torch.from_numpy(-hidden[0]), "h": hidden[1]}

    buffer: Any = Recorder(len(MIXED))
    with vector_env(SyncVectorEnv, MIXED, mode) as env:
        collect(env, policy_with_extras, buffer, 7)
    assert buffer.lanes == expected(MIXED, 7, is_cut=True)
    for (limit, _), extras in zip(MIXED, buffer.extras, strict=True):
        assert [extra["log_prob"].item() for extra in extras] == [-(i % limit) for i in range(7)]
        assert [extra["h"].tolist() for extra in extras] == [[i % limit] * 3 for i in range(7)]


def test_collect_with_extras_from_single_env_stores_them() -> None:
    buffer = ReplayBuffer(7)
    collect(
        CountingEnv(),
        lambda state: (policy(state), {"log_prob": -state[0], "hidden": torch.ones(1, 5)}),
        buffer,
        7,
    )
    batch = buffer.sample(7)
    assert torch.equal(batch.extras["log_prob"], -batch.states[:, :1])
    assert batch.extras["hidden"].shape == (7, 5)


class PairEnv(CountingEnv):
    """An action is a pair of which the second is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.Tuple(
            [gym.spaces.Discrete(3), gym.spaces.Dict(force=gym.spaces.Discrete(3))]
        )

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        return super().step(np.zeros(1))


@pytest.mark.parametrize("extras", [None, {"log_prob": -1.0}])
def test_collect_pair_actions_tells_them_from_extras(extras: Any) -> None:
    action = (np.int64(1), {"force": np.int64(2)})
    buffer: Any = Recorder(1)
    collect(PairEnv(), lambda _: action if extras is None else (action, extras), buffer, 3)
    assert buffer.batches[0].actions[1]["force"].tolist() == [2]
    assert set(buffer.batches[0].extras) == set(extras or {})


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_policy_with_memory_learns_where_episodes_begin(mode: AutoresetMode) -> None:
    seen: list[tuple[list[bool], list[float]]] = []

    def watch(observations: Any) -> Any:
        seen.append((collector.is_first.tolist(), observations[:, 0].tolist()))
        return policy(observations)

    with vector_env(SyncVectorEnv, MIXED, mode) as env:
        collector = Collector(env, watch, Recorder(len(MIXED)))  # type: ignore[arg-type]
        collector.collect(12)
    for firsts, steps in seen:
        assert firsts == [step == 0 for step in steps]


def test_policy_runs_without_gradients() -> None:
    def check(observation: Any) -> Any:
        assert not torch.is_grad_enabled()
        return policy(observation)

    collect(CountingEnv(), check, ReplayBuffer(3), 3)
    assert torch.is_grad_enabled()


def test_policy_may_be_exchanged_between_calls() -> None:
    buffer = ReplayBuffer(10)
    collector = Collector(CountingEnv(), lambda _: np.zeros(1, np.float32), buffer)
    collector.collect(2)
    collector.policy = lambda _: np.ones(1, np.float32)
    collector.collect(1)
    assert [x.action.tolist() for x in buffer] == [[0], [0], [1]]
    assert [x.state.tolist() for x in buffer] == [[0, 0], [1, 1], [2, 2]]


@pytest.mark.parametrize("is_single", [True, False])
def test_collect_with_policy_of_bfloat16_gives_numpy_env_float32(is_single: bool) -> None:
    envs = [CountingEnv(), CountingEnv()]
    env: Any = envs[0] if is_single else SyncVectorEnv([lambda: envs[0], lambda: envs[1]])
    buffer = ReplayBuffer(20, num_envs=1 if is_single else 2)
    collect(env, lambda x: torch.from_numpy(x)[..., :1].bfloat16() * 1.5, buffer, 6)
    assert [action.tolist() for action in envs[0].actions] == [[0], [1.5], [3], [4.5], [0], [1.5]]
    assert envs[0].actions[0].dtype == np.float32
    assert buffer.sample(6).actions.dtype == torch.bfloat16
