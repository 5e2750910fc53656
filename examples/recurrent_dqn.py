"""Recurrent double DQN learns to balance CartPole-v1 without seeing a velocity.

    python examples/recurrent_dqn.py --seed 0

The agent sees where the cart and the pole are, not how fast they move, so it has to remember: a
GRU carries a memory from step to step. Hausknecht & Stone, "Deep Recurrent Q-Learning for Partially
Observable MDPs" (2015), trained on sequences with stored states and burn-in as in Kapturowski et
al., "Recurrent Experience Replay in Distributed Reinforcement Learning" (2019).
Shapes: B batch, L steps of a sequence, F state features, A actions, H memory.
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
    """Hyper-parameters, for a few minutes on one core."""

    env_id: str = "CartPole-v1"
    capacity: int = 50_000
    batch_size: int = 64  # sequences
    length: int = 8  # steps of a sequence to train on
    burn_in: int = 4  # steps before them that only warm up the memory
    hidden: int = 64
    learning_rate: float = 1e-3
    max_gradient: float = 100.0
    gamma: float = 0.99
    trace: float = 0.9  # lambda: how much the targets trust the steps that follow
    tau: float = 0.02  # how far the target network follows the network at each update
    epsilon: float = 0.05  # random actions once exploration has cooled down
    epsilon_steps: int = 3_000  # steps to cool down from 1.0
    warmup: int = 1_000  # random steps before the first update
    update_every: int = 2
    eval_every: int = 500
    eval_episodes: int = 10
    solved: float = 450.0  # stop once evaluation episodes return this much on average


@dataclass
class RecurrentExperience(Experience):
    """A step, with the agent's memory (H,) before it saw the state."""

    hidden: Tensor


class RecurrentQ(nn.Module):
    """Action values given all observations of an episode so far."""

    def __init__(self, state_dim: int, n_actions: int, hidden: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(state_dim, hidden)
        self.values = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, n_actions)
        )

    def unroll(self, states: Tensor, is_first: Tensor, memory: Tensor) -> Tensor:
        """Returns the memory (B, L, H) after each of the states (B, L, F), from one (B, H)."""
        memories = []
        for state, first in zip(states.unbind(1), is_first.unbind(1), strict=True):
            memory = self.cell(state, memory * (1 - first))  # Reset at the start of an episode.
            memories.append(memory)
        return torch.stack(memories, dim=1)

    def next_values(self, states: Tensor, memory: Tensor) -> Tensor:
        """Returns action values (B, L, A) of states (B, L, F) that follow memories (B, L, H)."""
        after = self.cell(states.flatten(0, 1), memory.flatten(0, 1))
        return self.values(after).unflatten(0, memory.shape[:2])


def lambda_returns(batch: BatchExperience, next_q: Tensor, trace: float) -> Tensor:
    """Returns targets (B, L, 1): Peng's Q(lambda), a mean of those that look 1, 2, ... steps ahead.

    They look ahead to the end of the sequence or of the episode, whichever comes first.
    """
    goes_on = nn.functional.pad(batch.mask[:, 1:], (0, 0, 0, 1)) * (1 - batch.truncations)
    traces = trace * goes_on
    targets = torch.empty_like(next_q)
    ahead = next_q[:, -1]
    for t in reversed(range(next_q.shape[1])):
        # The discount is 0 after a terminal step only: a truncated one still bootstraps.
        value = torch.lerp(next_q[:, t], ahead, traces[:, t])
        ahead = targets[:, t] = batch.rewards[:, t] + batch.discounts[:, t] * value
    return targets


class RecurrentDQN:
    """The network, its slow target, the optimizer and the update rule."""

    def __init__(
        self, state_dim: int, n_actions: int, config: Config, device: torch.device
    ) -> None:
        self.config = config
        self.no_memory = torch.zeros(config.hidden, device=device)
        self.network = RecurrentQ(state_dim, n_actions, config.hidden).to(device)
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.learning_rate, fused=True
        )

    @torch.no_grad()
    def greedy(self, state: Tensor, memory: Tensor) -> tuple[int, Tensor]:
        """Returns the best action in a state (F,) and the memory (H,) to go on with."""
        memory = self.network.cell(state, memory)
        return int(self.network.values(memory).argmax()), memory

    def update(self, batch: BatchExperience) -> None:
        """Takes one gradient step towards the double Q-learning target."""
        past = batch.states, batch.is_first, batch.extras["hidden"]
        memory = self.network.unroll(*past)
        with torch.no_grad():
            target_memory = self.target.unroll(*past)
            # The network picks the action and its target values it, each with its own memory.
            next_values = self.network.next_values(batch.next_states, memory)
            best = next_values.argmax(dim=-1, keepdim=True)
            next_values = self.target.next_values(batch.next_states, target_memory)
            next_q = next_values.gather(-1, best)
            target = lambda_returns(batch, next_q, self.config.trace)
        q = self.network.values(memory).gather(-1, batch.actions)
        # The mask leaves out the burn-in and the padding behind the end of an episode.
        errors = (q - target).square()
        loss = (errors * batch.mask).sum() / batch.mask.sum()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_gradient)
        self.optimizer.step()

        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(fast, self.config.tau)


def make_env(env_id: str, device: torch.device) -> Any:
    """Makes the environment with position and angle only, as fractions of their limits."""
    env = gym.make(env_id)
    seen = gym.spaces.Box(-2.0, 2.0, (2,), np.float32)
    limits = np.array([2.4, 0.21], np.float32)
    env = gym.wrappers.TransformObservation(env, lambda state: state[[0, 2]] / limits, seen)
    return add_core_env_wrappers(env, device)


def evaluate(agent: RecurrentDQN, env: Any, episodes: int, seed: int) -> list[float]:
    """Returns what the greedy policy collects in each of some episodes."""
    returns = []
    for episode in range(episodes):
        state, _ = env.reset(seed=seed + episode)
        memory, total, over = agent.no_memory, 0.0, False
        while not over:
            action, memory = agent.greedy(state, memory)
            state, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            over = terminated or truncated
        returns.append(total)
    return returns


def train(
    steps: int = 12_000, seed: int = 0, device: str = "auto", config: Config | None = None
) -> list[float]:
    """Trains until the task is solved or the steps are spent.

    Learning is unsteady: for thousands of steps some agents balance the pole, but let the cart
    drift off after a hundred steps or two. So the network that did best in evaluation is kept.
    Without a memory a linear policy stays below 50.

    Returns:
        The returns of that network in a last evaluation, on start states that it never saw.
    """
    config = config or Config()
    chosen = set_device(device)
    set_seed(seed)
    env, eval_env = make_env(config.env_id, chosen), make_env(config.env_id, chosen)
    state_dim, n_actions = env.observation_space.shape[0], int(env.action_space.n)
    agent = RecurrentDQN(state_dim, n_actions, config, chosen)
    buffer = ReplayBuffer(config.capacity, chosen, gamma=config.gamma)

    state, _ = env.reset(seed=seed)
    memory = agent.no_memory
    best_score, best = -np.inf, agent.network.state_dict()
    for step in range(1, steps + 1):
        epsilon = max(config.epsilon, 1.0 - step / config.epsilon_steps)
        action, next_memory = agent.greedy(
            state, memory
        )  # The memory is updated for random actions, too.
        if random.random() < epsilon:
            action = random.randrange(n_actions)

        next_state, reward, terminated, truncated, _ = env.step(action)
        buffer.push(
            RecurrentExperience(
                state, action, reward, next_state, terminated, truncated=truncated, hidden=memory
            )
        )
        state, memory = next_state, next_memory
        if terminated or truncated:
            state, _ = env.reset()
            memory = agent.no_memory

        if step > config.warmup and step % config.update_every == 0:
            # Sequences continue into the next episode, so that short episodes need no padding.
            batch = buffer.sample_sequences(
                config.batch_size, config.length, config.burn_in, boundary="cross"
            )
            agent.update(batch)

        if step % config.eval_every == 0:
            score = float(np.mean(evaluate(agent, eval_env, config.eval_episodes, seed=10_000)))
            print(f"step {step:6,}  mean return {score:6.1f}")
            if score > best_score:
                best_score, best = score, copy.deepcopy(agent.network.state_dict())
            if score >= config.solved:
                break

    agent.network.load_state_dict(best)
    returns = evaluate(agent, eval_env, config.eval_episodes, seed=20_000)
    env.close()
    eval_env.close()
    return returns


def main() -> None:
    """Trains from the command line."""
    parser = argparse.ArgumentParser(description="Train recurrent DQN on CartPole-v1, masked.")
    parser.add_argument("--steps", type=int, default=12_000, help="environment steps at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()

    torch.set_num_threads(1)  # This network is too small to share among threads.
    returns = train(args.steps, args.seed, args.device)
    print(f"last {len(returns)} episodes: mean return {np.mean(returns):.1f} of 500")


if __name__ == "__main__":
    main()
