"""The training loop, with a stopwatch on the buffer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from velora.buffer import Experience, ReplayBuffer
from velora.cli.sac import SAC
from velora.gym import add_core_env_wrappers

ENV_ID = "InvertedPendulum-v5"
BATCH_SIZE = 128

_WARMUP = 500
_EVAL_EVERY = 500
_EVAL_EPISODES = 10
_SOLVED = 1000.0


@dataclass
class History:
    """History of a training run.

    Attributes:
        steps: Environment steps so far.
        seconds: Wall time so far, evaluations included.
        episodes: The step at which each training episode ended, and its return.
        evaluations: The step of each evaluation, and the mean return of its episodes.
        push_ns: Duration of each push in nanoseconds.
        sample_ns: Duration of each sample in nanoseconds.
        critic_loss: Loss of the last update; None before the first.
        alpha: Entropy temperature after the last update; None before the first.
    """

    steps: int = 0
    seconds: float = 0.0
    episodes: list[tuple[int, float]] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    push_ns: list[int] = field(default_factory=list)
    sample_ns: list[int] = field(default_factory=list)
    critic_loss: Tensor | None = None
    alpha: Tensor | None = None


def make_env(device: torch.device) -> Any:
    """Creates the environment with actions in [-1, 1] and tensors on `device`."""
    env = gym.wrappers.RescaleAction(gym.make(ENV_ID), np.float32(-1.0), np.float32(1.0))
    return add_core_env_wrappers(env, device)


def evaluate(policy: Callable[[Tensor], Tensor], env: Any, episodes: int, seed: int) -> list[float]:
    """Plays some episodes.

    Args:
        policy: State `(F,)` to action `(A,)`.
        env: The environment to play in.
        episodes: How many to play.
        seed: Of the first episode's start state; each further one adds 1.

    Returns:
        The return of each episode.
    """
    returns = []
    for episode in range(episodes):
        state, _ = env.reset(seed=seed + episode)
        total, over = 0.0, False
        while not over:
            state, reward, terminated, truncated, _ = env.step(policy(state))
            total += float(reward)
            over = terminated or truncated
        returns.append(total)
    return returns


def train(
    agent: SAC,
    buffer: ReplayBuffer,
    env: Any,
    eval_env: Any,
    *,
    steps: int,
    deadline: float,
    seed: int,
    watch: Callable[[History], None],
) -> History:
    """Trains until every evaluation episode is perfect, or steps or time are spent.

    Args:
        agent: The learner; it is trained in place.
        buffer: An empty buffer with the discount factor to learn for.
        env: The environment to learn in.
        eval_env: The environment to evaluate in.
        steps: Environment steps at most.
        deadline: When to stop, by `time.perf_counter`.
        seed: Of the first start state.
        watch: Called with the history after each step.
    """
    history = History()
    started = time.perf_counter()
    state, _ = env.reset(seed=seed)
    episode_return = 0.0
    while history.steps < steps and time.perf_counter() < deadline:
        warm = history.steps >= _WARMUP
        action = agent.act(state) if warm else agent.random_action(state)
        next_state, reward, terminated, truncated, _ = env.step(action)
        experience = Experience(state, action, reward, next_state, terminated, truncated=truncated)
        begin = time.perf_counter_ns()
        buffer.push(experience)
        history.push_ns.append(time.perf_counter_ns() - begin)
        history.steps += 1
        episode_return += float(reward)
        state = next_state
        if terminated or truncated:
            history.episodes.append((history.steps, episode_return))
            state, _ = env.reset()
            episode_return = 0.0

        if warm:
            begin = time.perf_counter_ns()
            batch = buffer.sample(BATCH_SIZE)
            history.sample_ns.append(time.perf_counter_ns() - begin)
            history.critic_loss, history.alpha = agent.update(batch)

        solved = False
        if history.steps % _EVAL_EVERY == 0:
            returns = evaluate(agent.greedy, eval_env, _EVAL_EPISODES, seed=10_000)
            history.evaluations.append((history.steps, fmean(returns)))
            solved = min(returns) >= _SOLVED
        history.seconds = time.perf_counter() - started
        watch(history)
        if solved:
            break
    return history
