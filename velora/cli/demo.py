"""The demo: random play, training, evaluation, report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console

from velora.buffer import ReplayBuffer
from velora.cli.monitor import Monitor
from velora.cli.report import buffer_costs, save_curve
from velora.cli.sac import SAC
from velora.cli.training import ENV_ID, evaluate, make_env, train
from velora.utils import set_seed

_GOAL = 900.0
_EPISODES = 10
# The rest of the budget is for the last evaluation and the report.
_TRAINING_SHARE = 0.9
_CAPACITY = 100_000
_GAMMA = 0.98


@dataclass(frozen=True)
class Settings:
    """Settings from the command line.

    Attributes:
        seconds: Wall-clock budget of the whole demo.
        steps: Maximum number of environment steps.
        seed: Seed of all random numbers.
        device: Device of networks and batches.
        out: Folder for the learning curve.
    """

    seconds: float
    steps: int
    seed: int
    device: torch.device
    out: Path


def run(settings: Settings) -> bool:
    """Trains an agent, then prints and saves the results.

    Returns:
        Whether the trained policy reached the goal.

    Raises:
        OSError: If the output folder cannot be created.
    """
    deadline = time.perf_counter() + _TRAINING_SHARE * settings.seconds
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # The networks are too small to share among threads.
    set_seed(settings.seed)
    console = Console(markup=False, highlight=False)

    env, eval_env = make_env(settings.device), make_env(settings.device)
    agent = SAC(env.observation_space.shape[0], env.action_space.shape[0], settings.device)
    buffer = ReplayBuffer(_CAPACITY, settings.device, gamma=_GAMMA)

    before = evaluate(agent.random_action, eval_env, _EPISODES, seed=20_000)
    console.print(f"SAC on {ENV_ID}, {settings.device}. Random play: mean {fmean(before):.1f}")
    with Monitor(console, settings.steps, settings.seconds) as monitor:
        history = train(
            agent,
            buffer,
            env,
            eval_env,
            steps=settings.steps,
            deadline=deadline,
            seed=settings.seed,
            watch=monitor.update,
        )
    after = evaluate(agent.greedy, eval_env, _EPISODES, seed=20_000)
    env.close()
    eval_env.close()

    curve = settings.out / "learning-curve.png"
    save_curve(history, _GOAL, curve)
    mean = fmean(after)
    console.print(buffer_costs(history))
    console.print(
        f"{history.steps:,} steps in {history.seconds:.1f} s. Learning curve: {curve}",
        soft_wrap=True,
    )
    console.print(
        f"Mean return of {_EPISODES} episodes: {fmean(before):.1f} at random, "
        f"{mean:.1f} of 1000 after training."
    )
    reached = mean >= _GOAL
    if not reached:
        console.print(
            f"The goal of {_GOAL:.0f} was not reached: try more --seconds or --steps.",
            style="bold red",
        )
    return reached
