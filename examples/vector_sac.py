"""Soft actor-critic swings up Pendulum-v1 in 16 environments at once, in half a minute on one core.

    python examples/vector_sac.py --seed 0

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018), as in sac.py, with targets
that look some steps ahead (Sutton, 1988). The pendulum never falls: a time limit cuts each episode
off, so all values are learned through bootstrapping past it.
Shapes: N environments, B batch, F state features, A action features.
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

from velora.buffer import BatchExperience, ReplayBuffer
from velora.gym import Collector, add_core_env_wrappers
from velora.utils import set_device, set_seed


@dataclass(frozen=True)
class Config:
    """Hyper-parameters, tuned to solve the task within a few hundred steps of each environment."""

    env_id: str = "Pendulum-v1"
    num_envs: int = 16
    capacity: int = 100_000
    batch_size: int = 256
    hidden: int = 64
    learning_rate: float = 2e-3
    gamma: float = 0.98
    n_step: int = 3
    alpha: float = 0.2  # the temperature to start from
    tau: float = 0.02  # how far the target critics follow the critics at each update
    warmup: int = 100  # random steps of each environment before the first update
    updates: int = 4  # gradient steps for each step of all environments
    eval_every: int = 100
    eval_episodes: int = 16
    solved: float = -200.0  # stop once the mean return of the evaluation is this good


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

    def explore(self, states: Tensor) -> Tensor:
        """Draws actions (N, A) for states (N, F)."""
        actions: Tensor = self(states)[0]
        return actions

    def greedy(self, states: Tensor) -> Tensor:
        """Returns the squashed means (N, A) for states (N, F)."""
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
            # The rewards are sums over k steps: n, or fewer at the end of the episode. The
            # discount is gamma**k, and 0 after a terminal step only. The entropy bonus of the
            # steps in between is left out, as usual.
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


def make_envs(env_id: str, num_envs: int, device: torch.device) -> Any:
    """Makes environments with actions in [-1, 1] and tensors on `device`."""
    envs = gym.make_vec(env_id, num_envs, vectorization_mode="sync")
    envs = gym.wrappers.vector.RescaleAction(envs, np.float32(-1.0), np.float32(1.0))
    return add_core_env_wrappers(envs, device)


@torch.no_grad()
def evaluate(actor: Actor, envs: Any, seed: int) -> list[float]:
    """Returns what the greedy policy collects in the first episode of each environment."""
    states, _ = envs.reset(seed=seed)
    returns = torch.zeros(envs.num_envs)
    over = torch.zeros(envs.num_envs, dtype=torch.bool)
    while not over.all():
        states, rewards, terminated, truncated, _ = envs.step(actor.greedy(states))
        returns += rewards.cpu() * ~over
        over |= (terminated | truncated).cpu()
    return returns.tolist()


def train(
    steps: int = 3_000, seed: int = 0, device: str = "auto", config: Config | None = None
) -> list[float]:
    """Trains until the task is solved or each environment has taken its steps.

    Returns:
        The returns of a last evaluation, on start states that training never saw.
    """
    config = config or Config()
    chosen = set_device(device)
    set_seed(seed)
    envs = make_envs(config.env_id, config.num_envs, chosen)
    eval_envs = make_envs(config.env_id, config.eval_episodes, chosen)
    state_dim = envs.single_observation_space.shape[0]
    action_dim = envs.single_action_space.shape[0]
    agent = SAC(state_dim, action_dim, config, chosen)
    buffer = ReplayBuffer(
        config.capacity, chosen, num_envs=config.num_envs, n_step=config.n_step, gamma=config.gamma
    )

    # The collector stores the steps of each environment in its own lane, without resets.
    collector = Collector(envs, "random", buffer, seed=seed)
    collector.collect(config.warmup)
    collector.policy = agent.actor.explore
    for step in range(config.warmup + 1, steps + 1):
        collector.collect(1)
        for _ in range(config.updates):
            agent.update(buffer.sample(config.batch_size))

        if step % config.eval_every == 0:
            returns = evaluate(agent.actor, eval_envs, seed=10_000)
            print(f"step {step:5,} x {config.num_envs}  mean return {np.mean(returns):7.1f}")
            if np.mean(returns) >= config.solved:
                break

    returns = evaluate(agent.actor, eval_envs, seed=20_000)
    envs.close()
    eval_envs.close()
    return returns


def main() -> None:
    """Trains from the command line."""
    parser = argparse.ArgumentParser(description="Train SAC on 16 Pendulum-v1 side by side.")
    parser.add_argument("--steps", type=int, default=3_000, help="of each environment, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()

    torch.set_num_threads(1)  # These networks are too small to share among threads.
    returns = train(args.steps, args.seed, args.device)
    print(f"last {len(returns)} episodes: mean return {np.mean(returns):.1f}, at best about -150")


if __name__ == "__main__":
    main()
