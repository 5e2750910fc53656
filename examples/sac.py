"""Soft actor-critic balances InvertedPendulum-v5, in about half a minute on one core.

    python examples/sac.py --seed 0

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018): twin critics, a Gaussian
policy squashed into the action range, and an entropy temperature that tunes itself.
Shapes: B batch, F state features, A action features.
"""

import argparse
import copy
import math
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

    env_id: str = "InvertedPendulum-v5"
    capacity: int = 100_000
    batch_size: int = 128
    hidden: int = 64
    learning_rate: float = 3e-3
    gamma: float = 0.98
    alpha: float = 0.2  # the temperature to start from
    tau: float = 0.02  # how far the target critics follow the critics at each update
    warmup: int = 500  # random steps before the first update
    eval_every: int = 500
    eval_episodes: int = 10
    solved: float = 1000.0  # stop once every evaluation episode returns this much


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """A network of two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )


class Actor(nn.Module):
    """A Gaussian policy squashed by tanh into (-1, 1)."""

    def __init__(self, state_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.net = mlp(state_dim, hidden, 2 * action_dim)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Draws actions (B, A) with their log-probabilities (B, 1) for states (B, F)."""
        mean, log_std = self.net(states).chunk(2, dim=-1)
        log_std = log_std.clamp(-5.0, 2.0)
        noise = torch.randn_like(mean)
        raw = mean + log_std.exp() * noise
        log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
        # The density of tanh(raw): log(1 - tanh(raw)^2) in a form that cannot overflow.
        log_prob = log_prob - 2.0 * (math.log(2.0) - raw - nn.functional.softplus(-2.0 * raw))
        return raw.tanh(), log_prob.sum(dim=-1, keepdim=True)

    def greedy(self, states: Tensor) -> Tensor:
        """Returns the squashed means (B, A) for states (B, F)."""
        mean: Tensor = self.net(states).chunk(2, dim=-1)[0]
        return mean.tanh()


class TwinCritic(nn.Module):
    """Two action values; the smaller one counters overestimation."""

    def __init__(self, state_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.q1 = mlp(state_dim + action_dim, hidden, 1)
        self.q2 = mlp(state_dim + action_dim, hidden, 1)

    def forward(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns both values, (B, 1) each, of actions (B, A) in states (B, F)."""
        inputs = torch.cat((states, actions), dim=-1)
        return self.q1(inputs), self.q2(inputs)


class SAC:
    """The networks, their optimizers and the update rule."""

    def __init__(
        self, state_dim: int, action_dim: int, config: Config, device: torch.device
    ) -> None:
        self.tau = config.tau
        self.target_entropy = -float(action_dim)
        self.actor = Actor(state_dim, action_dim, config.hidden).to(device)
        self.critic = TwinCritic(state_dim, action_dim, config.hidden).to(device)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.full((1,), math.log(config.alpha), device=device))

        self.policy_parameters = [*self.actor.parameters(), self.log_alpha]
        lr = config.learning_rate
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=lr, fused=True)
        self.policy_optimizer = torch.optim.Adam(self.policy_parameters, lr=lr, fused=True)

    def update(self, batch: BatchExperience) -> None:
        """Takes one gradient step on the critics, then on the policy and its temperature."""
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            next_actions, next_log_prob = self.actor(batch.next_states)
            next_q = torch.min(*self.target_critic(batch.next_states, next_actions))
            # The discount is 0 after a terminal step only: a truncated one still bootstraps.
            target = batch.rewards + batch.discounts * (next_q - alpha * next_log_prob)
        q1, q2 = self.critic(batch.states, batch.actions)
        critic_loss = (q1 - target).square().mean() + (q2 - target).square().mean()
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()

        actions, log_prob = self.actor(batch.states)
        q = torch.min(*self.critic(batch.states, actions))
        actor_loss = (alpha * log_prob - q).mean()
        # The temperature rises while the policy's entropy is below the target.
        alpha_loss = -(self.log_alpha * (log_prob.detach() + self.target_entropy)).mean()
        self.policy_optimizer.zero_grad()
        (actor_loss + alpha_loss).backward(inputs=self.policy_parameters)
        self.policy_optimizer.step()

        with torch.no_grad():
            for slow, fast in zip(
                self.target_critic.parameters(), self.critic.parameters(), strict=True
            ):
                slow.lerp_(fast, self.tau)


def make_env(env_id: str, device: torch.device) -> Any:
    """Makes the environment with actions in [-1, 1] and tensors on `device`."""
    env = gym.wrappers.RescaleAction(gym.make(env_id), np.float32(-1.0), np.float32(1.0))
    return add_core_env_wrappers(env, device)


@torch.no_grad()
def evaluate(actor: Actor, env: Any, episodes: int, seed: int) -> list[float]:
    """Returns what the greedy policy collects in each of some episodes."""
    returns = []
    for episode in range(episodes):
        state, _ = env.reset(seed=seed + episode)
        total, over = 0.0, False
        while not over:
            state, reward, terminated, truncated, _ = env.step(actor.greedy(state.float()))
            total += float(reward)
            over = terminated or truncated
        returns.append(total)
    return returns


def train(
    steps: int = 20_000, seed: int = 0, device: str = "auto", config: Config | None = None
) -> list[float]:
    """Trains until the task is solved or the steps are spent.

    Returns:
        The returns of a last evaluation, on start states that training never saw.
    """
    config = config or Config()
    chosen = set_device(device)
    set_seed(seed)
    env, eval_env = make_env(config.env_id, chosen), make_env(config.env_id, chosen)
    state_dim, action_dim = env.observation_space.shape[0], env.action_space.shape[0]
    agent = SAC(state_dim, action_dim, config, chosen)
    buffer = ReplayBuffer(config.capacity, chosen, gamma=config.gamma)

    state, _ = env.reset(seed=seed)
    for step in range(1, steps + 1):
        if step <= config.warmup:
            action = torch.empty(action_dim, device=chosen).uniform_(-1.0, 1.0)
        else:
            with torch.no_grad():
                action, _ = agent.actor(state.float())

        next_state, reward, terminated, truncated, _ = env.step(action)
        buffer.push(Experience(state, action, reward, next_state, terminated, truncated=truncated))
        state = next_state
        if terminated or truncated:
            state, _ = env.reset()

        if step > config.warmup:
            agent.update(buffer.sample(config.batch_size))

        if step % config.eval_every == 0:
            returns = evaluate(agent.actor, eval_env, config.eval_episodes, seed=10_000)
            print(f"step {step:6,}  mean return {np.mean(returns):7.1f}")
            if min(returns) >= config.solved:
                break

    returns = evaluate(agent.actor, eval_env, config.eval_episodes, seed=20_000)
    env.close()
    eval_env.close()
    return returns


def main() -> None:
    """Trains from the command line."""
    parser = argparse.ArgumentParser(description="Train SAC on InvertedPendulum-v5.")
    parser.add_argument("--steps", type=int, default=20_000, help="environment steps at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()

    torch.set_num_threads(1)  # These networks are too small to share among threads.
    returns = train(args.steps, args.seed, args.device)
    print(f"last {len(returns)} episodes: mean return {np.mean(returns):.1f} of 1000")


if __name__ == "__main__":
    main()
