"""Soft actor-critic swings up cart-poles: 4,096 at once on a GPU, 64 on a CPU in about a minute.

    python examples/gpu_sac.py --seed 0

The agent of sac.py, with environments, buffer and networks on one device, so that no data leaves
it. The loop only synchronises for its reports. On a GPU an update is a CUDA graph, which draws a
new batch at each replay.
Shapes: N environments, B batch, F state features, A action features.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from velora.buffer import BatchExperience, ReplayBuffer
from velora.utils import set_device, set_seed


@dataclass(frozen=True)
class Config:
    """Hyper-parameters, tuned for the number of environments used on a CPU."""

    num_envs: int = 64
    capacity: int = 1_000_000
    batch_size: int = 256
    hidden: int = 64
    learning_rate: float = 2e-3
    gamma: float = 0.98
    alpha: float = 0.1  # the temperature to start from
    tau: float = 0.01  # how far the target critics follow the critics at each update
    warmup: int = 50  # random steps of each environment before the first update
    updates: int = 4  # gradient steps for each step of all environments
    report_every: int = 250
    eval_episodes: int = 64
    solved: float = 165.0  # stop once the mean return of a report is this good


class CartPoles:
    """Carts with hanging poles, to be swung up and held there: N environments as one tensor.

    An episode terminates where the cart leaves its track, and is cut off after `horizon` steps. The
    reward is 1 for a pole that stands, 0 for one that hangs.
    """

    state_dim, action_dim, horizon = 5, 1, 200
    force, track, seconds = 10.0, 2.4, 0.04
    cart, pole, length, gravity = 1.0, 0.1, 0.5, 9.8  # kg, kg, m to the middle of the pole, m/s^2

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.ages = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self.physics = torch.empty(num_envs, 4, device=device)  # x, its speed, angle, its speed
        self.physics = self.hanging()

    def hanging(self) -> Tensor:
        """Draws initial states, (N, 4)."""
        physics = torch.empty_like(self.physics).uniform_(-0.1, 0.1)
        physics[:, 2] += math.pi
        return physics

    def observe(self) -> Tensor:
        """The states (N, F) to act on."""
        x, speed, angle, spin = self.physics.unbind(1)
        return torch.stack((x / self.track, speed / 3, angle.cos(), angle.sin(), spin / 5), dim=1)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pushes the carts by actions (N, 1) in [-1, 1]; episodes that are over begin again.

        Returns:
            The states (N, F) that really followed, rewards, terminated and truncated (N,).
        """
        x, speed, angle, spin = self.physics.unbind(1)
        sin, cos, total = angle.sin(), angle.cos(), self.cart + self.pole
        push = (self.force * actions[:, 0] + self.pole * self.length * spin.square() * sin) / total
        spin_change = (self.gravity * sin - cos * push) / (
            self.length * (4 / 3 - self.pole * cos.square() / total)
        )
        speed = speed + self.seconds * (push - self.pole * self.length * spin_change * cos / total)
        spin = spin + self.seconds * spin_change
        x, angle = x + self.seconds * speed, angle + self.seconds * spin
        self.physics = torch.stack((x, speed, angle, spin), dim=1)
        self.ages += 1

        next_states, rewards = self.observe(), (1 + angle.cos()) / 2
        terminated = x.abs() > self.track
        truncated = (self.ages >= self.horizon) & ~terminated
        over = terminated | truncated
        self.physics = torch.where(over.unsqueeze(1), self.hanging(), self.physics)
        self.ages.masked_fill_(over, 0)
        return next_states, rewards, terminated, truncated


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """A network of two hidden layers."""
    first, second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(hidden, outputs))


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
        # On a GPU, the optimizers count steps there, so that a graph can increment them.
        adam = partial(
            torch.optim.Adam, lr=config.learning_rate, fused=True, capturable=device.type == "cuda"
        )
        self.critic_optimizer = adam(self.critic.parameters())
        self.policy_optimizer = adam(self.policy_parameters)

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


def capture(update: Callable[[], BatchExperience]) -> Callable[[], BatchExperience]:
    """Captures an update in a CUDA graph: one launch for the host instead of hundreds."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # warm up: torch's lazy initialisation cannot be captured
        for _ in range(3):
            update()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        batch = update()

    def run() -> BatchExperience:
        graph.replay()
        return batch  # the graph has filled it with new steps

    return run


@torch.no_grad()
def evaluate(actor: Actor, episodes: int, device: torch.device) -> Tensor:
    """Returns the greedy policy's returns of some episodes, (episodes,), on the device."""
    envs = CartPoles(episodes, device)
    returns, going = torch.zeros(episodes, device=device), torch.ones(episodes, device=device)
    for _ in range(envs.horizon):
        _, rewards, terminated, _ = envs.step(actor.greedy(envs.observe()))
        returns += rewards * going
        going *= ~terminated
    return returns


def train(
    steps: int = 10_000, seed: int = 0, device: str = "auto", config: Config | None = None
) -> list[float]:
    """Trains until the task is solved or each environment has taken its steps.

    Returns:
        The returns of a last evaluation.
    """
    config = config or Config()
    chosen = set_device(device)
    set_seed(seed)
    envs = CartPoles(config.num_envs, chosen)
    envs.ages.random_(envs.horizon)  # so that episodes do not all end at once
    agent = SAC(envs.state_dim, envs.action_dim, config, chosen)
    buffer = ReplayBuffer(config.capacity, chosen, num_envs=config.num_envs, gamma=config.gamma)

    def update() -> BatchExperience:
        batch = buffer.sample(config.batch_size)
        agent.update(batch)
        return batch

    start = time.perf_counter()
    for step in range(1, steps + 1):
        states = envs.observe()
        with torch.no_grad():
            actions, _ = agent.actor(states)
        if step <= config.warmup:
            actions = actions.uniform_(-1.0, 1.0)
        next_states, rewards, terminated, truncated = envs.step(actions)
        buffer.extend(
            states=states,
            actions=actions,
            rewards=rewards,
            next_states=next_states,
            dones=terminated,
            truncations=truncated,
        )

        if step == config.warmup and chosen.type == "cuda":
            update = capture(update)
        if step > config.warmup:
            for _ in range(config.updates):
                update()

        if step % config.report_every == 0:
            mean = evaluate(agent.actor, config.eval_episodes, chosen).mean().item()
            rate = config.num_envs * config.report_every / (time.perf_counter() - start)
            print(f"step {step:6,} x {config.num_envs:,}  {rate:11,.0f}/s  mean return {mean:5.1f}")
            if mean >= config.solved:
                break
            start = time.perf_counter()

    returns: list[float] = evaluate(agent.actor, config.eval_episodes, chosen).tolist()
    return returns


def main() -> None:
    """Trains from the command line."""
    parser = argparse.ArgumentParser(description="Train SAC on cart-poles that are tensors.")
    parser.add_argument("--steps", type=int, default=10_000, help="of each environment, at most")
    parser.add_argument("--num-envs", type=int, help="4,096 on a GPU, 64 on a CPU if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()

    config = Config()
    if set_device(args.device).type == "cuda":
        config = Config(num_envs=4_096, batch_size=4_096)
    if args.num_envs is not None:
        config = replace(config, num_envs=args.num_envs)

    torch.set_num_threads(1)  # These networks are too small to share among threads.
    returns = train(args.steps, args.seed, args.device, config)
    print(f"last {len(returns)} episodes: mean return {sum(returns) / len(returns):.1f}")


if __name__ == "__main__":
    main()
