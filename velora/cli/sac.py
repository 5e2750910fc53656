"""Soft actor-critic, small enough for a demo.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018). Shapes: B batch, F state
features, A action features.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from velora.buffer import BatchExperience

_HIDDEN = 64
_LEARNING_RATE = 3e-3
_INITIAL_ALPHA = 0.2
_TAU = 0.02
_LOG_STD_RANGE = (-5.0, 2.0)


class Actor(nn.Module):
    """A Gaussian policy squashed by tanh into (-1, 1)."""

    def __init__(self, state_dim: int, action_dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(state_dim, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, 2 * action_dim),
        )

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Draws actions `(B, A)` with their log-probabilities `(B, 1)` for states `(B, F)`."""
        mean, log_std = self.net(states).chunk(2, dim=-1)
        log_std = log_std.clamp(*_LOG_STD_RANGE)
        noise = torch.randn_like(mean)
        raw = mean + log_std.exp() * noise
        log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
        # The density of tanh(raw): log(1 - tanh(raw)^2) in a form that cannot overflow.
        log_prob = log_prob - 2.0 * (math.log(2.0) - raw - nn.functional.softplus(-2.0 * raw))
        return raw.tanh(), log_prob.sum(dim=-1, keepdim=True)

    def mode(self, states: Tensor) -> Tensor:
        """Returns the squashed means `(B, A)` for states `(B, F)`."""
        mean: Tensor = self.net(states).chunk(2, dim=-1)[0]
        return mean.tanh()


class PairedLinear(nn.Module):
    """Two linear layers side by side, in one batched product: half the calls of two modules."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(2, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(2, 1, outputs).uniform_(-bound, bound))

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps `(2, B, inputs)` to `(2, B, outputs)`."""
        return torch.baddbmm(self.bias, inputs, self.weight)


class TwinCritic(nn.Module):
    """Two action values; the smaller one counters overestimation."""

    def __init__(self, state_dim: int, action_dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            PairedLinear(state_dim + action_dim, _HIDDEN),
            nn.ReLU(),
            PairedLinear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            PairedLinear(_HIDDEN, 1),
        )

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """Returns both values `(2, B, 1)` of actions `(B, A)` in states `(B, F)`."""
        values: Tensor = self.net(torch.cat((states, actions), dim=-1).expand(2, -1, -1))
        return values


class SAC:
    """The networks, their optimizers and the update rule."""

    def __init__(self, state_dim: int, action_dim: int, device: torch.device) -> None:
        self._action_dim = action_dim
        self._actor = Actor(state_dim, action_dim).to(device)
        self._critic = TwinCritic(state_dim, action_dim).to(device)
        self._target_critic = copy.deepcopy(self._critic).requires_grad_(False)
        self._log_alpha = nn.Parameter(torch.full((1,), math.log(_INITIAL_ALPHA), device=device))
        self._policy_parameters = [*self._actor.parameters(), self._log_alpha]
        self._critic_optimizer = torch.optim.Adam(
            self._critic.parameters(), lr=_LEARNING_RATE, fused=True
        )
        self._policy_optimizer = torch.optim.Adam(
            self._policy_parameters, lr=_LEARNING_RATE, fused=True
        )

    @torch.no_grad()
    def act(self, state: Tensor) -> Tensor:
        """Draws an action `(A,)` for a state `(F,)`."""
        action: Tensor = self._actor(state.float())[0]
        return action

    @torch.no_grad()
    def greedy(self, state: Tensor) -> Tensor:
        """Returns the most likely action `(A,)` for a state `(F,)`."""
        return self._actor.mode(state.float())

    def random_action(self, state: Tensor) -> Tensor:
        """Draws an action `(A,)` uniformly, whatever the state `(F,)`."""
        return torch.empty(self._action_dim, device=state.device).uniform_(-1.0, 1.0)

    def update(self, batch: BatchExperience) -> tuple[Tensor, Tensor]:
        """Takes one gradient step on the critics, then on the policy and its temperature.

        Returns:
            The critics' loss and the entropy temperature, one number each, on the device.
        """
        alpha = self._log_alpha.detach().exp()
        critic_loss = self._update_critic(batch, alpha)
        self._update_policy(batch, alpha)
        with torch.no_grad():
            for slow, fast in zip(
                self._target_critic.parameters(), self._critic.parameters(), strict=True
            ):
                slow.lerp_(fast, _TAU)
        return critic_loss, alpha

    def _update_critic(self, batch: BatchExperience, alpha: Tensor) -> Tensor:
        with torch.no_grad():
            next_actions, next_log_prob = self._actor(batch.next_states)
            next_q = self._target_critic(batch.next_states, next_actions).amin(dim=0)
            # The discount is 0 after a terminal step only: a truncated one still bootstraps.
            target = batch.rewards + batch.discounts * (next_q - alpha * next_log_prob)
        errors: Tensor = self._critic(batch.states, batch.actions) - target
        loss = errors.square().mean()
        self._critic_optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._critic_optimizer.step()
        return loss.detach()

    def _update_policy(self, batch: BatchExperience, alpha: Tensor) -> None:
        actions, log_prob = self._actor(batch.states)
        q = self._critic(batch.states, actions).amin(dim=0)
        actor_loss = (alpha * log_prob - q).mean()
        # The temperature rises while the policy's entropy is below the target of -A.
        alpha_loss = -(self._log_alpha * (log_prob.detach() - self._action_dim)).mean()
        self._policy_optimizer.zero_grad()
        (actor_loss + alpha_loss).backward(inputs=self._policy_parameters)
        self._policy_optimizer.step()
