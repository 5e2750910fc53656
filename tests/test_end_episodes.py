"""An episode that is stopped from outside ends there, for everything that looks beyond one step."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import stack, stamped, step, unchanged

from velora.buffer import Experience, ReplayBuffer, RolloutBuffer
from velora.gym import Collector, collect


def going_on(i: int) -> Experience:
    return step(state=torch.full((3,), float(i)), action=i, reward=1.0)


def pushed(stamps: range, **options: Any) -> ReplayBuffer:
    buffer = ReplayBuffer(20, gamma=0.5, seed=0, **options)
    for i in stamps:
        buffer.push(going_on(i), lane=0)
    return buffer


def rewards_of(buffer: ReplayBuffer) -> dict[int, float]:
    batch = buffer.sample(len(buffer))
    return dict(
        zip(batch.actions.flatten().tolist(), batch.rewards.flatten().tolist(), strict=True)
    )


@pytest.mark.parametrize("compact", [False, True])
def test_end_episodes_stops_what_looks_ahead(compact: bool) -> None:
    buffer = pushed(range(3), n_step=3, compact=compact)
    buffer.end_episodes()
    for i in range(3, 6):
        buffer.push(going_on(i))
    assert rewards_of(buffer) == {0: 1.75, 1: 1.5, 2: 1.0, 3: 1.75, 4: 1.5, 5: 1.0}
    assert [experience.truncated for experience in buffer] == [False, False, True] + 3 * [False]
    firsts = buffer.sample_sequences(1, 6, boundary="cross").is_first.flatten().tolist()
    assert firsts == [1, 0, 0, 1, 0, 0]


def test_end_episodes_keeps_the_value_of_what_would_have_followed() -> None:
    buffer = pushed(range(1))
    buffer.end_episodes()
    batch = buffer.sample(1)
    assert (batch.discounts.item(), batch.dones.item(), batch.truncations.item()) == (0.5, 0, 1)


@pytest.mark.parametrize("ended", [{"done": True}, {"truncated": True}], ids=str)
def test_end_episodes_that_ended_changes_nothing(ended: dict[str, bool]) -> None:
    buffer = ReplayBuffer(4, seed=0)
    buffer.push(step(**ended))
    with unchanged(buffer):
        buffer.end_episodes()
        buffer.end_episodes([0])


def test_end_episodes_of_some_lanes_leaves_the_others() -> None:
    buffer = ReplayBuffer(12, num_envs=3, n_step=2, gamma=1.0, seed=0)
    for i in range(2):
        buffer.extend(stack([going_on(3 * i + e) for e in range(3)]))
        if i == 0:
            buffer.end_episodes(np.array([0, 2]))
    assert rewards_of(buffer) == {0: 1.0, 1: 2.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}


@pytest.mark.parametrize("lanes", [[3], [-1], [0, 99], torch.tensor([2, 3])], ids=str)
def test_end_episodes_of_an_unknown_lane_changes_nothing(lanes: Any) -> None:
    buffer = ReplayBuffer(12, num_envs=3)
    buffer.extend(stack([going_on(e) for e in range(3)]))
    with unchanged(buffer), pytest.raises(ValueError, match="lanes: expected numbers from 0 to 2"):
        buffer.end_episodes(lanes)


def test_end_episodes_of_a_new_buffer_is_nothing() -> None:
    buffer = ReplayBuffer(4)
    buffer.end_episodes()
    assert len(buffer) == 0


def test_end_episodes_after_empty_lets_the_next_step_begin_one() -> None:
    buffer = RolloutBuffer(4)
    buffer.push(going_on(0))
    buffer.empty()
    buffer.end_episodes()
    buffer.push(going_on(1))
    assert not buffer[0].truncated


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_copy_after_end_episodes_begins_a_new_one(copied: Any) -> None:
    buffer = pushed(range(3), n_step=3)
    buffer.end_episodes()
    buffer = copied(buffer)
    buffer.push(going_on(3))
    assert rewards_of(buffer) == {0: 1.75, 1: 1.5, 2: 1.0, 3: 1.0}


class Failing(gym.Env[Any, Any]):
    """Counts up from a hundred for each episode, and fails at some steps."""

    observation_space = gym.spaces.Box(-1e6, 1e6, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fails_at: set[int]) -> None:
        self.fails_at = fails_at
        self.calls = self.episode = self.count = 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        self.episode, self.count = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.calls += 1
        if self.calls in self.fails_at:
            raise RuntimeError("the simulator crashed")
        self.count += 1
        return self.observe(), 1.0, False, False, {}

    def observe(self) -> Any:
        return np.array([100.0 * self.episode + self.count], np.float32)


def steps_of(buffer: Any) -> list[tuple[int, bool]]:
    return [(int(experience.state[0]), experience.truncated) for experience in buffer]


def test_collect_after_the_environment_failed_begins_a_new_episode() -> None:
    buffer = ReplayBuffer(20, n_step=3, gamma=1.0, seed=0)
    collector = Collector(Failing({4}), "random", buffer, seed=0)
    with pytest.raises(RuntimeError, match="crashed"):
        collector.collect(6)
    collector.collect(2)
    assert steps_of(buffer) == [
        (100, False),
        (101, False),
        (102, True),
        (200, False),
        (201, False),
    ]
    batch = buffer.sample(5)
    by_state = dict(
        zip(batch.states.flatten().tolist(), batch.rewards.flatten().tolist(), strict=True)
    )
    assert by_state == {100: 3, 101: 2, 102: 1, 200: 2, 201: 1}


def test_collect_into_a_buffer_that_is_full_truncates_what_it_stored() -> None:
    buffer = RolloutBuffer(3)
    with pytest.raises(BufferError, match="full"):
        collect(Failing(set()), "random", buffer, 5, seed=0)
    assert steps_of(buffer) == [(100, False), (101, False), (102, True)]


def test_push_whose_lane_pushes_another_type_reads_its_own_with_care() -> None:
    class Plain(Experience):
        pass

    class Freeing(Experience):
        @property
        def reward(self) -> float:
            freed.resize_(0)
            freed.set_(torch.zeros(0))
            return 1.0

        @reward.setter
        def reward(self, value: float) -> None:
            pass

    class Lane:
        def __index__(self) -> int:
            buffer.push(stamped(7), lane=0)
            return 0

    freed = torch.full((4,), 7.0)
    buffer = ReplayBuffer(9)
    buffer.push(stamped(0))
    before = len(buffer)
    with pytest.raises(ValueError, match=r"^state: expected .*shape \(4,\), got .*\(0,\)"):
        buffer.push(Freeing(freed, 1, 0.0, torch.zeros(4), False), lane=Lane())
    assert len(buffer) == before + 1


def test_collect_after_rows_that_do_not_fit_begins_a_new_episode() -> None:
    buffer = ReplayBuffer(20, seed=0)
    collector = Collector(Failing(set()), lambda _: np.int64(1), buffer, seed=0)
    collector.collect(2)
    collector.policy = lambda _: np.array([1, 2])
    with pytest.raises(ValueError, match="action"):
        collector.collect(1)
    collector.policy = lambda _: np.int64(1)
    collector.collect(1)
    assert steps_of(buffer) == [(100, False), (101, True), (200, False)]


def test_collect_with_a_policy_that_works_in_place_stores_what_it_saw() -> None:
    def policy(observation: Any) -> Any:
        observation /= 100
        return np.int64(0)

    buffer = ReplayBuffer(20, seed=0)
    collect(Failing(set()), policy, buffer, 3, seed=0)
    assert steps_of(buffer) == [(100, False), (101, False), (102, True)]


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
@pytest.mark.parametrize(
    "lanes",
    [
        [7],
        [-1],
        [0, 2],
        [True],
        [0.0],
        [[0], [1]],
        [[0], [1, 1]],
        [2**70],
        ["0"],
        [None],
        0,
        "0",
        {0},
        np.zeros((1, 1), dtype=np.int64),
        np.zeros(1),
        np.array([2**63], dtype=np.uint64),
        torch.tensor([2]),
        torch.tensor(0),
        torch.tensor([False]),
    ],
    ids=repr,
)
def test_end_episodes_of_lanes_that_are_none_changes_nothing(lanes: Any, started: bool) -> None:
    buffer = ReplayBuffer(8, num_envs=2, seed=0)
    if started:
        buffer.extend(stack([stamped(1), stamped(2)]))
    with unchanged(buffer), pytest.raises(ValueError, match=r"^lanes: expected"):
        buffer.end_episodes(lanes)


@pytest.mark.parametrize("lanes", [None, [], [0], (1, 0), range(2), torch.tensor([1])], ids=repr)
def test_end_episodes_before_the_first_push_changes_nothing(lanes: Any) -> None:
    buffer = ReplayBuffer(8, num_envs=2, seed=0)
    with unchanged(buffer):
        buffer.end_episodes(lanes)
