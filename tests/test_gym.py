"""Wrapping environments, single and side by side."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import NumpyToTorch, RecordEpisodeStatistics, TimeLimit
from gymnasium.wrappers.vector import NumpyToTorch as VectorNumpyToTorch
from gymnasium.wrappers.vector import RecordEpisodeStatistics as VectorRecordEpisodeStatistics

from velora.buffer import BatchExperience, Experience, ReplayBuffer
from velora.gym import add_core_env_wrappers

SINGLE = (RecordEpisodeStatistics, NumpyToTorch)
VECTOR = (VectorRecordEpisodeStatistics, VectorNumpyToTorch)


class CountingEnv(gym.Env[Any, Any]):
    """Observes the step number, pays 1 a step and terminates after four."""

    observation_space = gym.spaces.Box(-1.0, 100.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        self.steps = 0
        self.actions: list[Any] = []

    def observe(self) -> Any:
        return np.full(2, self.steps, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        self.steps += 1
        return self.observe(), 1.0, self.steps == 4, False, {}


def vector_env(count: int = 3) -> Any:
    return gym.vector.SyncVectorEnv([CountingEnv] * count)


def wrappers_of(env: Any) -> list[type]:
    """Outermost first."""
    found = []
    while isinstance(env, gym.Wrapper | gym.vector.VectorWrapper):
        found.append(type(env))
        env = env.env
    return found


def counts(env: Any) -> list[int]:
    kinds = SINGLE if isinstance(env, gym.Env) else VECTOR
    return [sum(issubclass(wrapper, kind) for wrapper in wrappers_of(env)) for kind in kinds]


def test_wrap_env_adds_both_wrappers_conversion_outermost() -> None:
    env = CountingEnv()
    wrapped = add_core_env_wrappers(env)
    assert wrappers_of(wrapped) == [NumpyToTorch, RecordEpisodeStatistics]
    assert wrapped.unwrapped is env


def test_wrap_vector_env_adds_both_wrappers_conversion_outermost() -> None:
    env = vector_env()
    wrapped = add_core_env_wrappers(env)
    assert wrappers_of(wrapped) == [VectorNumpyToTorch, VectorRecordEpisodeStatistics]
    assert wrapped.unwrapped is env


@pytest.mark.parametrize("make", [CountingEnv, vector_env], ids=["single", "vector"])
def test_wrap_wrapped_env_gives_it_back(make: Any) -> None:
    wrapped = add_core_env_wrappers(make())
    assert add_core_env_wrappers(wrapped) is wrapped


@pytest.mark.parametrize(
    ("kind", "below"),
    [
        (RecordEpisodeStatistics, CountingEnv),
        (NumpyToTorch, CountingEnv),
        (VectorRecordEpisodeStatistics, vector_env),
        (VectorNumpyToTorch, vector_env),
    ],
)
def test_wrap_env_that_has_one_wrapper_doubles_neither(kind: Any, below: Any) -> None:
    assert counts(add_core_env_wrappers(kind(below()))) == [1, 1]


def test_wrap_env_with_wrappers_further_down_doubles_neither() -> None:
    env = TimeLimit(NumpyToTorch(TimeLimit(RecordEpisodeStatistics(CountingEnv()), 9)), 9)
    assert add_core_env_wrappers(env) is env


def recording(key: str = "episode") -> Any:
    return RecordEpisodeStatistics(CountingEnv(), stats_key=key)


@pytest.mark.parametrize("kind", [gym.vector.SyncVectorEnv, gym.vector.AsyncVectorEnv])
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
def test_wrap_vector_env_whose_members_record_reports_each_episode(mode: Any, kind: Any) -> None:
    env = add_core_env_wrappers(kind([recording] * 2, autoreset_mode=mode))
    env.reset()
    for _ in range(4):
        *_, infos = env.step(np.zeros((2, 1), np.float32))
    assert np.asarray(infos["episode"]["r"]).tolist() == [4.0, 4.0]
    assert np.asarray(infos["episode"]["l"]).tolist() == [4, 4]
    assert np.asarray(infos["_episode"]).tolist() == [True, True]
    env.close()


def test_wrap_vector_env_whose_members_record_under_another_name_adds_statistics() -> None:
    env = gym.vector.SyncVectorEnv([lambda: recording("mine")] * 2)
    assert counts(add_core_env_wrappers(env)) == [1, 1]


def test_wrap_vector_env_of_which_some_members_record_is_refused() -> None:
    env = gym.vector.SyncVectorEnv([CountingEnv, recording, CountingEnv])
    with pytest.raises(ValueError, match=r"^env: expected all of its members or none.* 1 of 3$"):
        add_core_env_wrappers(env)


def run_episode(env: Any) -> tuple[list[Any], dict[str, Any]]:
    observation, _ = env.reset(seed=1)
    observations, info = [observation], {}
    done = False
    while not done:
        action = torch.zeros(env.action_space.shape)
        observation, _, terminated, truncated, info = env.step(action)
        observations.append(observation)
        done = bool(np.all(terminated) or np.all(truncated))
    return observations, info


@pytest.mark.parametrize("below", [None, NumpyToTorch], ids=["bare", "with conversion"])
def test_step_wrapped_env_gives_tensors_and_statistics(below: Any) -> None:
    env = add_core_env_wrappers(CountingEnv() if below is None else below(CountingEnv()))
    observations, info = run_episode(env)
    assert all(isinstance(observation, torch.Tensor) for observation in observations)
    assert [observation.tolist() for observation in observations] == [[i, i] for i in range(5)]
    assert observations[0].dtype == torch.float32
    assert float(info["episode"]["r"]) == 4.0
    assert int(info["episode"]["l"]) == 4


def test_step_wrapped_vector_env_gives_tensors_and_statistics() -> None:
    env = add_core_env_wrappers(vector_env())
    env.reset(seed=1)
    for i in range(1, 5):
        observation, reward, terminated, truncated, info = env.step(torch.zeros(3, 1))
        assert observation.tolist() == [[i, i]] * 3
        assert torch.as_tensor(reward).tolist() == [1.0] * 3
        assert terminated.tolist() == [i == 4] * 3
        assert truncated.tolist() == [False] * 3
    assert np.asarray(info["episode"]["r"]).tolist() == [4.0] * 3
    assert np.asarray(info["episode"]["l"]).tolist() == [4] * 3


def test_step_wrapped_env_that_resets_at_once_gives_final_observations_as_tensors() -> None:
    mode = gym.vector.AutoresetMode.SAME_STEP
    env = add_core_env_wrappers(gym.vector.SyncVectorEnv([CountingEnv] * 2, autoreset_mode=mode))
    env.reset(seed=1)
    for _ in range(4):
        observation, _, _, _, info = env.step(torch.zeros(2, 1))
    assert observation.tolist() == [[0.0, 0.0]] * 2
    assert info["final_obs"].tolist() == [[4.0, 4.0]] * 2
    assert isinstance(info["final_obs"], torch.Tensor)


def test_step_wrapped_env_passes_numpy_actions_down() -> None:
    env = add_core_env_wrappers(CountingEnv())
    env.reset()
    env.step(torch.tensor([0.5]))
    (action,) = env.unwrapped.actions
    assert isinstance(action, np.ndarray)
    assert action.tolist() == [0.5]


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
@pytest.mark.parametrize("make", [CountingEnv, vector_env], ids=["single", "vector"])
def test_wrap_env_for_device_puts_tensors_there(make: Any, device: Any) -> None:
    observation, _ = add_core_env_wrappers(make(), device=device).reset()
    assert observation.device == torch.device("cpu")


@pytest.mark.parametrize("make", [CountingEnv, vector_env], ids=["single", "vector"])
def test_wrap_env_that_converts_to_another_device_is_refused(make: Any) -> None:
    env = add_core_env_wrappers(make(), device="cpu")
    with pytest.raises(ValueError, match=r"^device: expected cpu.*got meta$"):
        add_core_env_wrappers(env, device="meta")


def test_wrap_env_that_converts_to_no_stated_device_counts_as_cpu() -> None:
    env = RecordEpisodeStatistics(NumpyToTorch(CountingEnv()))
    assert add_core_env_wrappers(env, device="cpu") is env


@pytest.mark.parametrize("thing", [None, "CartPole-v1", CountingEnv, 3, [CountingEnv()]], ids=repr)
def test_wrap_what_is_no_env_is_a_type_error(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"^env: expected a Gymnasium Env or VectorEnv, got"):
        add_core_env_wrappers(thing)


def test_push_steps_of_wrapped_env_stores_the_episode() -> None:
    env = add_core_env_wrappers(CountingEnv())
    buffer = ReplayBuffer(10)
    state, _ = env.reset()
    done = False
    while not done:
        action = torch.tensor([0.25])
        next_state, reward, terminated, truncated, _ = env.step(action)
        buffer.push(
            Experience(state, action.item(), reward, next_state, terminated, truncated=truncated)
        )
        state, done = next_state, terminated or truncated
    assert [experience.state.tolist() for experience in buffer] == [[i, i] for i in range(4)]
    assert [experience.next_state[0].item() for experience in buffer] == [1, 2, 3, 4]
    assert [experience.done for experience in buffer] == [False, False, False, True]
    assert buffer.sample(4).actions.tolist() == [[0.25]] * 4


def test_extend_with_step_of_wrapped_vector_env_stores_a_row_each() -> None:
    env = add_core_env_wrappers(vector_env())
    buffer = ReplayBuffer(10)
    states, _ = env.reset()
    actions = torch.full((3, 1), 0.5)
    next_states, rewards, terminated, truncated, _ = env.step(actions)
    buffer.extend(BatchExperience(states, actions, rewards, next_states, terminated, truncated))
    batch = buffer.sample(3)
    assert batch.states.tolist() == [[0.0, 0.0]] * 3
    assert batch.next_states.tolist() == [[1.0, 1.0]] * 3
    assert batch.rewards.tolist() == [[1.0]] * 3
