"""A training step on a batch, which shows a buffer's speed end to end."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

# A batch of observations: a tensor `(B, ...)`, or one for each key of dict observations.
Tensors = Tensor | dict[str, Tensor]
# States, actions, rewards, next states, dones: `(B, ...)`. Rewards are `(B, 1)` or `(B,)`, of any
# dtype, and so are dones, not zero where the episode terminated.
Batch = tuple[Tensors, Tensor, Tensor, Tensors, Tensor]

GAMMA = 0.99
HIDDEN = 64


class Learner:
    """A critic Q(s, a) of two hidden layers, with a target network and Adam.

    Next actions are those of a fixed policy, so that an update is one network's and no more.

    Args:
        batch: One like those to come: observations `(B, F)`, actions `(B, A)`.
    """

    def __init__(self, batch: Batch) -> None:
        state_size, action_size = (_vectors(column).shape[1] for column in batch[:2])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._critic = nn.Sequential(
                nn.Linear(state_size + action_size, HIDDEN),
                nn.ReLU(),
                nn.Linear(HIDDEN, HIDDEN),
                nn.ReLU(),
                nn.Linear(HIDDEN, 1),
            )
            self._policy = nn.Sequential(nn.Linear(state_size, action_size), nn.Tanh())
        self._target = deepcopy(self._critic).requires_grad_(False)
        self._policy.requires_grad_(False)
        self._optimizer = torch.optim.Adam(self._critic.parameters(), lr=3e-4)

    def update(self, batch: Batch) -> None:
        """One step of temporal-difference learning."""
        states, actions, rewards, next_states, dones = map(_vectors, batch)
        next_pairs = torch.cat([next_states, self._policy(next_states)], dim=1)
        targets = rewards + GAMMA * (1 - dones) * self._target(next_pairs)
        values = self._critic(torch.cat([states, actions], dim=1))
        loss = nn.functional.mse_loss(values, targets)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


def _vectors(column: Tensors) -> Tensor:
    """Float32 `(B, F)`, with F = 1 for numbers."""
    if isinstance(column, dict):
        raise TypeError("the learner takes vectors, not dicts")
    return column.reshape(len(column), -1).float()
