"""One step of a vector environment at a time."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from counting import (
    MIXED,
    MODES,
    CountingEnv,
    Recorder,
    plain_loop,
    policy,
    vector_env,
)
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from velora.gym import (
    add_core_env_wrappers,
    autoreset_mode,
    transitions,
)


def step_of(observations: Any, ends: Any, infos: Any = None) -> Any:
    terminations = np.asarray(ends)
    count = len(terminations)
    return (
        np.asarray(observations, np.float32),
        np.ones(count),
        terminations,
        np.zeros(count, np.bool_),
        infos or {},
    )


def test_transitions_of_next_step_env_leave_out_lanes_that_ended_before() -> None:
    states = np.zeros((3, 1), np.float32)
    step = step_of([[1], [2], [3]], [False, False, True])
    ended = np.array([True, False, False])
    rows = transitions(states, states, step, mode=AutoresetMode.NEXT_STEP, ended=ended)
    assert rows.lanes.tolist() == [1, 2]
    assert rows.ended.tolist() == [False, True]
    assert rows.batch.next_states.tolist() == [[2], [3]]
    assert len(rows) == 2


def test_transitions_of_all_lanes_resetting_are_none() -> None:
    states = np.zeros((2, 1), np.float32)
    step = step_of([[0], [0]], [False, False])
    rows = transitions(
        states, states, step, mode=AutoresetMode.NEXT_STEP, ended=np.array([True, True])
    )
    assert len(rows) == 0
    assert len(rows.batch) == 0


@pytest.mark.parametrize("kind", ["objects", "array", "no mask", "list"])
def test_transitions_of_same_step_env_have_final_observations(kind: str) -> None:
    final: Any = np.array([[7.0], [0.0]], np.float32)
    infos: dict[str, Any] = {"_final_obs": np.array([True, False])}
    if kind == "objects":
        final = np.array([None, None], object)
        final[0] = np.array([7.0], np.float32)
    elif kind == "no mask":
        infos = {}
    elif kind == "list":
        final = [np.array([7.0]), None]
    states = np.zeros((2, 1), np.float32)
    step = step_of([[0], [1]], [True, False], infos | {"final_obs": final})
    rows = transitions(states, states, step, mode=AutoresetMode.SAME_STEP, ended=None)
    assert rows.batch.next_states.tolist() == [[7], [1]]
    assert rows.lanes.tolist() == [0, 1]
    assert step[0].tolist() == [[0], [1]]


@pytest.mark.parametrize(
    "infos", [{}, {"final_obs": np.zeros((2, 1)), "_final_obs": np.array([False, True])}, []]
)
def test_transitions_of_same_step_env_without_final_observation_are_refused(infos: Any) -> None:
    states = np.zeros((2, 1), np.float32)
    step = (*step_of([[0], [1]], [True, False])[:4], infos)
    with pytest.raises(ValueError, match=r"^infos\['final_obs'\]: expected .* environment 0"):
        transitions(states, states, step, mode=AutoresetMode.SAME_STEP, ended=None)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_transitions_in_a_loop_of_ones_own_store_what_a_plain_loop_does(
    mode: AutoresetMode,
) -> None:
    buffer = Recorder(len(MIXED))
    with vector_env(SyncVectorEnv, MIXED, mode) as env:
        observations, _ = env.reset()
        ended = None
        for _ in range(15):
            actions = policy(observations)
            step = env.step(actions)
            rows = transitions(observations, actions, step, mode=autoreset_mode(env), ended=ended)
            buffer.extend(rows.batch, lanes=rows.lanes)
            observations, ended = step[0], step[2] | step[3]
    for kind, lane in zip(MIXED, buffer.lanes, strict=True):
        assert lane == plain_loop(kind, len(lane))


# The autoreset mode


class UndeclaredEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """A third-party vector environment."""

    num_envs = 2

    def __init__(self, **metadata: Any) -> None:
        self.metadata = metadata


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_autoreset_mode_is_what_the_metadata_say(mode: AutoresetMode) -> None:
    assert autoreset_mode(UndeclaredEnv(autoreset_mode=mode)) is mode
    assert autoreset_mode(UndeclaredEnv(autoreset_mode=mode.value)) is mode


@pytest.mark.parametrize("metadata", [{}, {"autoreset_mode": "Sometimes"}], ids=str)
def test_autoreset_mode_of_env_that_does_not_say_is_refused(metadata: Any) -> None:
    with pytest.raises(ValueError, match=r"^env: expected an AutoresetMode in env\.metadata"):
        autoreset_mode(UndeclaredEnv(**metadata))


def test_autoreset_mode_is_the_envs_own_where_a_class_shares_its_metadata() -> None:
    env: Any = UndeclaredEnv(autoreset_mode=AutoresetMode.SAME_STEP, ended=None)
    env.autoreset_mode = AutoresetMode.DISABLED
    assert autoreset_mode(env) is AutoresetMode.DISABLED
    assert autoreset_mode(gym.vector.VectorWrapper(env)) is AutoresetMode.DISABLED


def test_autoreset_mode_of_two_envs_of_one_class_is_each_ones_own() -> None:
    envs = [SyncVectorEnv([CountingEnv], autoreset_mode=mode) for mode in MODES]
    assert [autoreset_mode(env) for env in envs] == MODES
    assert [autoreset_mode(add_core_env_wrappers(env)) for env in envs] == MODES


def test_autoreset_mode_of_wrapper_that_resets_is_the_wrappers() -> None:
    env = gym.vector.VectorWrapper(SyncVectorEnv([CountingEnv], autoreset_mode=MODES[2]))
    env.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    assert autoreset_mode(env) is AutoresetMode.SAME_STEP


@pytest.mark.parametrize("mode", ["SameStep", "NEXT_STEP", None, True], ids=repr)
def test_transitions_in_a_mode_that_is_none_are_refused(mode: Any) -> None:
    states = np.zeros((1, 1), np.float32)
    step = step_of([[1]], [True])
    if mode == "SameStep":  # the value of the mode, which wants a final observation
        with pytest.raises(ValueError, match="final_obs"):
            transitions(states, states, step, mode=mode, ended=None)
    else:
        with pytest.raises(ValueError, match="AutoresetMode"):
            transitions(states, states, step, mode=mode, ended=None)
