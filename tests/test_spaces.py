"""The schema from an environment's spaces is the one that its first transition would fix."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer
from velora.buffer.columns import columns_of
from velora.buffer.schema import Schema
from velora.buffer.spaces import schema_of_spaces, spaces_of_env
from velora.gym import add_core_env_wrappers, collect

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
SPACES = [
    BOX,
    spaces.Box(-1.0, 1.0, (3,), np.float64),
    spaces.Box(-1.0, 1.0, (), np.float32),
    spaces.Box(-1.0, 1.0, (1, 4), np.float32),
    spaces.Box(-1.0, 1.0, (2, 4), np.float16),
    spaces.Box(0, 255, (3, 8, 8), np.uint8),
    spaces.Box(-5, 5, (2,), np.int32),
    spaces.Discrete(5),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([3, 4]),
    spaces.MultiDiscrete(np.array([[3, 4], [2, 2]])),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 3)),
    spaces.Dict(
        camera=spaces.Box(0, 255, (3, 8, 8), np.uint8), joints=BOX, room=spaces.Discrete(3)
    ),
    spaces.Tuple([BOX, spaces.Discrete(3)]),
    spaces.Dict(b=spaces.Tuple([BOX, spaces.Dict(x=BOX)]), a=spaces.MultiBinary(2)),
]
KNOWN = [*SPACES[:2], SPACES[6], SPACES[7], SPACES[9], SPACES[11], *SPACES[13:]]


class SampleEnv(gym.Env[Any, Any]):
    """Observes elements of a space."""

    def __init__(self, observation_space: Any = BOX, action_space: Any = BOX) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.5, False, False, {}


def vector_env(env: SampleEnv) -> Any:
    return gym.vector.SyncVectorEnv([lambda: env, lambda: env])


def schema_of_env(env: Any, extras: Any = None) -> Schema:
    return schema_of_spaces(*spaces_of_env(env)[1:], extras)


def first_batch(env: Any) -> Schema:
    """The schema that the first step of a vector environment fixes."""
    states, _ = env.reset()
    actions = env.action_space.sample()
    next_states, rewards, terminated, truncated, _ = env.step(actions)
    batch = BatchExperience(states, actions, rewards, next_states, terminated, truncated)
    return Schema.from_columns(columns_of(batch))


def first_push(env: Any) -> Schema:
    """The schema that the first step of a single environment fixes."""
    state, _ = env.reset()
    action = env.action_space.sample()
    next_state, reward, terminated, truncated, _ = env.step(action)
    return Schema.from_experience(
        Experience(state, action, reward, next_state, terminated, truncated=truncated)
    )


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_schema_of_vector_env_is_that_of_its_first_step(space: Any) -> None:
    for env in (SampleEnv(observation_space=space), SampleEnv(action_space=space)):
        assert schema_of_env(vector_env(env)) == first_batch(vector_env(env))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_schema_of_single_env_is_that_of_its_first_step(space: Any) -> None:
    for env in (SampleEnv(observation_space=space), SampleEnv(action_space=space)):
        assert schema_of_env(env) == first_push(env)


@pytest.mark.parametrize("space", KNOWN, ids=str)
def test_schema_of_wrapped_env_is_that_of_its_tensors(space: Any) -> None:
    for env in (SampleEnv(observation_space=space), SampleEnv(action_space=space)):
        wrapped = add_core_env_wrappers(vector_env(env))
        assert schema_of_env(wrapped) == first_batch(wrapped)


def test_schema_of_env_has_float32_numbers_and_int64_actions() -> None:
    schema = schema_of_env(SampleEnv(SPACES[1], spaces.Discrete(4)))
    kinds = {name: (leaf.dtype, leaf.shape) for name, leaf in schema.trees.items()}
    assert kinds == {
        "state": ("float32", (3,)),
        "action": ("int64", (1,)),
        "reward": ("float32", (1,)),
        "next_state": ("float32", (3,)),
    }


def test_schema_of_env_with_extras_has_them_too() -> None:
    extras = {"log_prob": 0.0, "hidden": (torch.zeros(8), np.zeros((1, 4), np.float16))}
    schema = schema_of_env(SampleEnv(), extras)
    assert schema.extra_names == ["log_prob", "hidden"]
    log_prob, hidden = schema.trees["log_prob"], schema.trees["hidden"]
    assert (log_prob.dtype, log_prob.shape) == ("float32", (1,))
    assert [(leaf.dtype, leaf.shape) for leaf in hidden] == [("float32", (8,)), ("float16", (4,))]


@pytest.mark.parametrize(
    "space",
    [spaces.Text(5), spaces.Sequence(BOX), spaces.Graph(BOX, None), spaces.OneOf([BOX, BOX])],
    ids=str,
)
def test_schema_of_env_with_space_of_no_arrays_is_a_type_error(space: Any) -> None:
    with pytest.raises(TypeError, match=r"^observation_space: expected a Box, .*, got \w+\("):
        schema_of_env(SampleEnv(observation_space=space))
    nest = spaces.Dict(deep=spaces.Tuple([BOX, space]))
    with pytest.raises(TypeError, match=r"^action_space\['deep'\]\[1\]: expected a Box"):
        schema_of_env(SampleEnv(action_space=nest))


def test_schema_of_env_with_empty_space_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^states: expected at least one array"):
        schema_of_env(SampleEnv(observation_space=spaces.Dict()))


def test_schema_of_env_with_extra_of_taken_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^extras: expected names of extra fields, got 'reward'"):
        schema_of_env(SampleEnv(), {"reward": 0.0})


def test_spaces_of_env_say_how_many_environments_there_are() -> None:
    assert spaces_of_env(SampleEnv())[0] == 1
    assert spaces_of_env(vector_env(SampleEnv()))[0] == 2


@pytest.mark.parametrize("thing", [None, "CartPole-v1", SampleEnv], ids=repr)
def test_schema_of_what_is_no_env_is_a_type_error(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"^env: expected a Gymnasium Env or VectorEnv, got"):
        schema_of_env(thing)


@pytest.mark.parametrize("kind", [ReplayBuffer, RolloutBuffer])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_buffer_from_env_takes_its_transitions(kind: Any, space: Any) -> None:
    env = vector_env(SampleEnv(observation_space=space, action_space=space))
    buffer = kind.from_env(env, 21)
    assert (len(buffer), buffer.num_envs, buffer.capacity) == (0, 2, 20)
    reference = kind(21, num_envs=2)
    for into in (buffer, reference):
        env.observation_space.seed(0)
        env.envs[0].observation_space.seed(0)
        collect(env, None, into, 10, seed=0)
    assert list(buffer) == list(reference)


ONE_ROW = spaces.Box(-1.0, 1.0, (1, 4), np.float32)


@pytest.mark.parametrize("wrap", [lambda env: env, add_core_env_wrappers], ids=["plain", "wrapped"])
@pytest.mark.parametrize("num_envs", [None, 1, 3])
def test_buffer_from_env_of_one_row_spaces_takes_rows_of_either_shape(
    wrap: Any, num_envs: int | None
) -> None:
    def make() -> SampleEnv:
        return SampleEnv(observation_space=ONE_ROW, action_space=ONE_ROW)

    env = wrap(make() if num_envs is None else gym.vector.SyncVectorEnv([make] * num_envs))
    rows = num_envs or 1
    buffer = ReplayBuffer.from_env(env, 20 * rows)
    collect(env, None, buffer, 4)
    flags = torch.ones(rows)
    for shape in ((rows, 1, 4), (rows, 4)):
        x = torch.rand(shape)
        buffer.extend(states=x, actions=x, rewards=flags, next_states=x, dones=flags)
        buffer.push(Experience(x[0], x[0], 1.0, x[0], True), lane=0)
        assert torch.equal(buffer[-1].state.flatten(), x[0].flatten())
        assert buffer[-1].state.shape == (1, 4)
    batch = buffer.sample(len(buffer))
    assert len(batch) == 4 * rows + 2 * (rows + 1)
    assert batch.states.shape == batch.actions.shape == batch.next_states.shape == (len(batch), 4)


def test_buffer_from_env_takes_options_and_extras() -> None:
    env = vector_env(SampleEnv())
    buffer = ReplayBuffer.from_env(env, 20, "cpu", extras={"log_prob": 0.0}, gamma=0.5, seed=1)
    collect(env, lambda s: (s, {"log_prob": np.zeros(2)}), buffer, 10)
    batch = buffer.sample(20)
    assert batch.extras["log_prob"].shape == (20, 1)
    assert batch.discounts.tolist() == [[0.5]] * 20


def test_buffer_from_env_refuses_what_its_spaces_do_not_hold() -> None:
    buffer = ReplayBuffer.from_env(SampleEnv(), 20)
    with pytest.raises(ValueError, match=r"^state: expected"):
        buffer.push(Experience(np.zeros(4), np.zeros(3), 0.0, np.zeros(4), False))
    with pytest.raises(ValueError, match=r"^log_prob: expected no such field"):
        collect(SampleEnv(), lambda s: (s, {"log_prob": 0.0}), buffer, 3)
    assert len(buffer) == 0


@pytest.mark.parametrize("kind", [ReplayBuffer, RolloutBuffer])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_buffer_from_spaces_is_that_from_their_env(kind: Any, space: Any) -> None:
    env = vector_env(SampleEnv(observation_space=space, action_space=BOX))
    buffer = kind.from_spaces(space, BOX, 21, num_envs=2, extras={"log_prob": 0.0})
    expected = kind.from_env(env, 21, extras={"log_prob": 0.0})
    assert buffer._schema == expected._schema
    assert repr(buffer) == repr(expected)
    assert buffer.nbytes > 0


def test_buffer_from_spaces_takes_options() -> None:
    buffer = ReplayBuffer.from_spaces(BOX, spaces.Discrete(2), 20, "cpu", gamma=0.5, seed=1)
    buffer.push(Experience(np.zeros(3), 1, 0.0, np.zeros(3), False))
    assert (buffer.num_envs, buffer.sample(1).discounts.item()) == (1, 0.5)


@pytest.mark.parametrize("thing", [None, 3, "Box", (3,)], ids=repr)
def test_buffer_from_what_is_no_space_is_a_type_error(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"^observation_space: expected a Box, .*, got "):
        ReplayBuffer.from_spaces(thing, BOX, 20)
    with pytest.raises(TypeError, match=r"^action_space: expected a Box, .*, got "):
        ReplayBuffer.from_spaces(BOX, thing, 20)


def test_buffer_from_spaces_with_wrong_num_envs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^num_envs: expected"):
        ReplayBuffer.from_spaces(BOX, BOX, 20, num_envs=0)
    with pytest.raises(TypeError, match=r"num_envs"):
        ReplayBuffer.from_env(SampleEnv(), 20, num_envs=2)
