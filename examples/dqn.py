"""Double DQN balances CartPole-v1, in under a minute on one core.

    python examples/dqn.py --seed 0

Mnih et al., "Human-level control through deep reinforcement learning" (2015), with the target of
van Hasselt et al., "Deep Reinforcement Learning with Double Q-learning" (2016).
Shapes: B batch, F state features, A actions.
"""

import argparse
import copy
import random
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from velora.buffer import BatchExperience, Experience, ReplayBuffer
from velora.gym import add_core_env_wrappers
from velora.utils import set_device, set_seed


@dataclass(frozen=True)
class Config:
    """Hyper-parameters, tuned to solve the task within a few thousand steps."""

    env_id: str = "CartPole-v1"
    capacity: int = 100_000
    batch_size: int = 128
    hidden: int = 128
    learning_rate: float = 2e-3
    gamma: float = 0.99
    tau: float = 0.2  # how far the target network follows the network at each update
    epsilon: float = 0.05  # random actions once exploration has cooled down
    epsilon_steps: int = 3_000  # steps to cool down from 1.0
    warmup: int = 1_000  # random steps before the first update
    eval_every: int = 500
    eval_episodes: int = 10
    solved: float = 500.0  # stop once every evaluation episode returns this much


class DQN:
    """The network, its slow target, the optimizer and the update rule."""

    def __init__(
        self, state_dim: int, n_actions: int, config: Config, device: torch.device
    ) -> None:
        self.tau = config.tau
        self.network = nn.Sequential(
            nn.Linear(state_dim, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, n_actions),
        ).to(device)
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.learning_rate, fused=True
        )

    @torch.no_grad()
    def greedy(self, state: Tensor) -> int:
        """Returns the best action in a state (F,)."""
        return int(self.network(state.float()).argmax())

    def update(self, batch: BatchExperience) -> None:
        """Takes one gradient step towards the double Q-learning target."""
        with torch.no_grad():
            # The network picks the action and its target values it.
            best = self.network(batch.next_states).argmax(dim=1, keepdim=True)
            next_q = self.target(batch.next_states).gather(1, best)
            # The discount is 0 after a terminal step only: a truncated one still bootstraps.
            target = batch.rewards + batch.discounts * next_q
        q = self.network(batch.states).gather(1, batch.actions)
        loss = nn.functional.mse_loss(q, target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(fast, self.tau)


def evaluate(agent: DQN, env: Any, episodes: int, seed: int) -> list[float]:
    """Returns what the greedy policy collects in each of some episodes."""
    returns = []
    for episode in range(episodes):
        state, _ = env.reset(seed=seed + episode)
        total, over = 0.0, False
        while not over:
            state, reward, terminated, truncated, _ = env.step(agent.greedy(state))
            total += float(reward)
            over = terminated or truncated
        returns.append(total)
    return returns


def train(
    steps: int = 30_000, seed: int = 0, device: str = "auto", config: Config | None = None
) -> list[float]:
    """Trains until the task is solved or the steps are spent.

    Returns:
        The returns of a last evaluation, on start states that training never saw.
    """
    config = config or Config()
    chosen = set_device(device)
    set_seed(seed)
    env = add_core_env_wrappers(gym.make(config.env_id), chosen)
    eval_env = add_core_env_wrappers(gym.make(config.env_id), chosen)
    state_dim, n_actions = env.observation_space.shape[0], int(env.action_space.n)
    agent = DQN(state_dim, n_actions, config, chosen)
    buffer = ReplayBuffer(config.capacity, chosen, gamma=config.gamma)

    state, _ = env.reset(seed=seed)
    for step in range(1, steps + 1):
        epsilon = max(config.epsilon, 1.0 - step / config.epsilon_steps)
        explore = random.random() < epsilon
        action = random.randrange(n_actions) if explore else agent.greedy(state)

        next_state, reward, terminated, truncated, _ = env.step(action)
        buffer.push(Experience(state, action, reward, next_state, terminated, truncated=truncated))
        state = next_state
        if terminated or truncated:
            state, _ = env.reset()

        if step > config.warmup:
            agent.update(buffer.sample(config.batch_size))

        if step % config.eval_every == 0:
            returns = evaluate(agent, eval_env, config.eval_episodes, seed=10_000)
            print(f"step {step:6,}  mean return {np.mean(returns):6.1f}")
            if min(returns) >= config.solved:
                break

    returns = evaluate(agent, eval_env, config.eval_episodes, seed=20_000)
    env.close()
    eval_env.close()
    return returns


def main() -> None:
    """Trains from the command line."""
    parser = argparse.ArgumentParser(description="Train double DQN on CartPole-v1.")
    parser.add_argument("--steps", type=int, default=30_000, help="environment steps at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()

    torch.set_num_threads(1)  # This network is too small to share among threads.
    returns = train(args.steps, args.seed, args.device)
    print(f"last {len(returns)} episodes: mean return {np.mean(returns):.1f} of 500")


if __name__ == "__main__":
    main()
