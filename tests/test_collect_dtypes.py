"""Resets and steps that observe in different dtypes: nothing is rounded to fit the other."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from velora.buffer import ReplayBuffer
from velora.gym import Collector, add_core_env_wrappers, collect, transitions

FIRST = [0.5, -0.25]
DTYPES = ["int64", "int32", "uint8", "bool", "float16", "float32", "float64"]


class OddEnv(gym.Env[Any, Any]):
    """Begins at halves and quarters, and observes ones and zeros in another dtype after that."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (2,), np.float64)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, dtype: str, *, first: Any = FIRST, form: str = "flat") -> None:
        self.dtype, self.first, self.form = dtype, np.array(first), form
        self.count = 0
        if form == "nested":
            self.observation_space = gym.spaces.Dict(
                a=gym.spaces.Tuple([OddEnv.observation_space]), b=OddEnv.observation_space
            )

    def observe(self, array: Any) -> Any:
        return array if self.form == "flat" else {"a": (array,), "b": -array.astype(np.float64)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.count = 0
        return self.observe(self.first), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        array = np.array([1, self.count % 2]).astype(self.dtype)
        return self.observe(array), 1.0, self.count == 3, False, {}


class OddVector(gym.vector.VectorEnv[Any, Any, Any]):
    """Three of them, which are reset apart, or within a step; with episodes of other lengths."""

    num_envs = 3

    def __init__(self, dtype: str, mode: AutoresetMode, *, first: Any = FIRST) -> None:
        self.metadata = {"autoreset_mode": mode}
        self.mode = mode
        self.dtype, self.first = dtype, np.array(first)
        self.single_observation_space = OddEnv.observation_space
        self.observation_space = gym.vector.utils.batch_space(OddEnv.observation_space, 3)
        self.single_action_space = OddEnv.action_space
        self.action_space = gym.spaces.MultiDiscrete([2] * 3)
        self.counts = np.zeros(3, int)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        mask = (options or {}).get("reset_mask", np.ones(3, np.bool_))
        self.counts[mask] = 0
        return np.stack([self.first] * 3), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.counts += 1
        observed = np.stack([np.ones(3), self.counts % 2], axis=1).astype(self.dtype)
        over = self.counts == [2, 3, 5]
        infos = {}
        if self.mode is AutoresetMode.SAME_STEP and over.any():
            infos = {"final_obs": observed, "_final_obs": over}
            observed = np.where(over[:, None], self.first, observed)
            self.counts[over] = 0
        return observed, np.ones(3), over, np.zeros(3, np.bool_), infos


def starts(buffer: ReplayBuffer) -> list[list[float]]:
    """First states: those that are not 1 in the beginning, as all that steps observe are."""
    return [x.state.tolist() for x in buffer if x.state[0] != 1]


@pytest.mark.parametrize("wrap", [lambda env: env, add_core_env_wrappers], ids=["numpy", "torch"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_collect_single_env_stores_and_shows_what_reset_observed(dtype: str, wrap: Any) -> None:
    seen = []

    def policy(observation: Any) -> int:
        seen.append(np.asarray(observation).tolist())
        return 1

    buffer = ReplayBuffer(20)
    Collector(wrap(OddEnv(dtype)), policy, buffer).collect(9)
    assert starts(buffer) == [FIRST] * 3
    assert seen[::3] == [FIRST] * 3
    assert [x.next_state.tolist() for x in buffer][:3] == [[1, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize("mode", [AutoresetMode.DISABLED, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("wrap", [lambda env: env, add_core_env_wrappers], ids=["numpy", "torch"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_collect_envs_that_are_reset_apart_stores_and_shows_what_resets_observed(
    dtype: str, wrap: Any, mode: AutoresetMode
) -> None:
    seen = []

    def policy(observations: Any) -> Any:
        first = collector.is_first
        seen.extend(np.asarray(observations)[first].tolist())
        return np.ones(3, np.int64)

    buffer = ReplayBuffer(60, num_envs=3)
    collector = Collector(wrap(OddVector(dtype, mode)), policy, buffer)
    collector.collect(10)
    assert starts(buffer) == [FIRST] * (5 + 4 + 2)
    assert seen == [FIRST] * (5 + 4 + 2)
    assert all(x.next_state[0] == 1 for x in buffer)


@pytest.mark.parametrize("wrap", [lambda env: env, add_core_env_wrappers], ids=["numpy", "torch"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_collect_nested_observations_stores_what_reset_observed(dtype: str, wrap: Any) -> None:
    buffer = ReplayBuffer(20)
    Collector(wrap(OddEnv(dtype, form="nested")), None, buffer).collect(9)
    assert [x.state["a"][0].tolist() for x in buffer][::3] == [FIRST] * 3
    assert [x.state["b"].tolist() for x in buffer][::3] == [[-0.5, 0.25]] * 3


@pytest.mark.parametrize("wrap", [lambda env: env, add_core_env_wrappers], ids=["numpy", "torch"])
def test_collect_final_observations_of_another_dtype_are_stored_with_their_values(
    wrap: Any,
) -> None:
    class Halves(OddEnv):
        # Gymnasium gives observations the dtype of the space, but for the final ones.
        observation_space = gym.spaces.Box(0, 10, (2,), np.int64)

        def step(self, action: Any) -> Any:
            _, *others = super().step(action)
            if self.count == 3:
                return np.array([7.5, 0.25]), *others
            return np.array([1, 1]), *others

    def envs(kind: Any) -> Any:
        factory = lambda: kind("int64", first=[2, 4])  # noqa: E731
        return SyncVectorEnv([factory] * 2, autoreset_mode=AutoresetMode.SAME_STEP)

    buffer = ReplayBuffer.from_env(envs(OddEnv), 60)
    collect(wrap(envs(Halves)), None, buffer, 6)
    ends = [x.next_state.tolist() for x in buffer if x.done]
    assert ends == [[7.5, 0.25]] * 4
    with pytest.raises(ValueError, match=r"^next_states: expected a value that int64 holds"):
        collect(wrap(envs(Halves)), None, ReplayBuffer.from_env(envs(Halves), 60), 6)


def test_collect_reset_that_no_dtype_holds_beside_steps_is_refused() -> None:
    env = OddVector("int64", AutoresetMode.DISABLED)
    step = env.step

    def step_far(actions: Any) -> Any:
        observations, *others = step(actions)
        return observations * 0 + 2**53 + 1, *others

    env.step = step_far  # type: ignore[method-assign]
    buffer = ReplayBuffer.from_env(OddVector("int64", AutoresetMode.DISABLED), 60)
    collector = Collector(env, None, buffer)
    with pytest.raises(ValueError, match="rounded"):
        collector.collect(4)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (np.zeros((3, 1)), r"expected shape \(\d, 2\), got \(\d, 1\)"),
        (np.zeros((3, 3)), r"expected shape \(\d, 2\), got \(\d, 3\)"),
        ({"a": np.zeros((3, 2))}, r"expected an array, got a dict with keys \['a'\]"),
        ((np.zeros((3, 2)),), "expected an array, got a tuple of 1"),
    ],
    ids=["one", "three", "dict", "tuple"],
)
def test_collect_reset_of_another_form_than_steps_is_refused_by_name(
    first: Any, message: str
) -> None:
    env = OddVector("float32", AutoresetMode.DISABLED)
    buffer = ReplayBuffer(60, num_envs=3)
    collector = Collector(env, None, buffer)
    collector.collect(2)  # environment 0 is over
    env.reset = lambda **_: (first, {})  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"^observations of env\.reset.*" + message):
        collector.collect(1)
    assert buffer[-1].truncated


def test_transitions_final_observations_that_no_dtype_holds_beside_others_are_refused() -> None:
    infos = {"final_obs": np.array([[0.5], [0.0]]), "_final_obs": np.array([True, False])}
    over = np.array([True, False])
    for states in [np.full((2, 1), 2**53 + 1), torch.full((2, 1), 2**53 + 1)]:
        step = (states, np.zeros(2), over, np.zeros(2, np.bool_), infos)
        with pytest.raises(ValueError, match=r"^infos\['final_obs'\]: expected values .*rounded"):
            transitions(states, states, step, mode=AutoresetMode.SAME_STEP, ended=None)
