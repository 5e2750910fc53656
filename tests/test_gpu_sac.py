"""The example whose environments are tensors: its episodes end as they should, and it learns."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

import pytest
import torch
from helpers import load_example

SMALL = {"num_envs": 8, "batch_size": 32, "warmup": 10, "report_every": 20, "eval_episodes": 3}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_envs(num_envs: int) -> Any:
    return load_example("gpu_sac").CartPoles(num_envs, torch.device("cpu"))


def test_step_off_the_track_terminates_with_the_state_that_followed() -> None:
    envs = make_envs(2)
    envs.physics[1, :2] = torch.tensor([2.39, 1.0])
    next_states, _, terminated, truncated = envs.step(torch.zeros(2, 1))
    assert terminated.tolist() == [False, True]
    assert truncated.tolist() == [False, False]
    assert next_states[1, 0] > 1
    assert envs.observe()[1, 0].abs() < 0.05
    assert torch.equal(envs.observe()[0], next_states[0])
    assert envs.ages.tolist() == [1, 0]


def test_step_at_the_horizon_truncates_and_begins_again() -> None:
    envs = make_envs(2)
    envs.ages[0] = envs.horizon - 1
    envs.physics[0] = torch.tensor([0.0, 0.0, 0.1, 0.0])
    next_states, rewards, terminated, truncated = envs.step(torch.zeros(2, 1))
    assert not terminated.any()
    assert truncated.tolist() == [True, False]
    assert next_states[0, 2] > 0.9
    assert envs.observe()[0, 2] < -0.9
    assert rewards[0] > 0.9
    assert rewards[1] < 0.1


def test_step_off_the_track_at_the_horizon_is_not_truncated() -> None:
    envs = make_envs(1)
    envs.ages[0] = envs.horizon - 1
    envs.physics[0, :2] = torch.tensor([2.39, 1.0])
    _, _, terminated, truncated = envs.step(torch.zeros(1, 1))
    assert terminated.item()
    assert not truncated.item()


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, pytest.mark.undisturbed])],
)
def test_train_for_few_steps_returns_an_evaluation_of_each_episode(device: str) -> None:
    module = load_example("gpu_sac")
    returns = module.train(steps=40, seed=0, device=device, config=module.Config(**SMALL))
    assert len(returns) == 3
    assert all(0 <= value <= module.CartPoles.horizon for value in returns)


@pytest.mark.slow
def test_train_swings_up_the_cart_poles() -> None:
    assert fmean(load_example("gpu_sac").train(seed=0, device="cpu")) >= 150.0
