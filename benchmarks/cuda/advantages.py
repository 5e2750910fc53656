"""Generalised advantages of tensors on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.cuda import copies
from benchmarks.cuda.columns import poison
from benchmarks.cuda.work import Aim, Case, Setting, Sizes, Work
from benchmarks.rollouts import GAMMA, LAMBDA
from benchmarks.rows import MEAN_EPISODE
from velora.returns import gae

TOLERANCE = 1e-4


def works(sizes: Sizes) -> list[Work]:
    """All of this file."""
    wide, long = (sizes.steps, sizes.envs), (sizes.long_steps, 1)
    return [
        Work(
            f"advantages of {wide[0]} x {wide[1]}",
            {
                "velora": partial(_on_device, wide),
                "torch loop": partial(_loop, wide),
                copies.DEVICE: copies.on_device,
            },
            ("host", "device"),
            ceiling=copies.DEVICE,
            aims=(Aim("share", at_least=0.5),),
        ),
        Work(
            f"advantages of {long[0]} x {long[1]}",
            {"velora": partial(_on_device, long), "velora, CPU": partial(_on_cpu, long)},
            ("wall",),
            aims=(Aim("wall", at_least=100, contender="velora, CPU", times="velora"),),
        ),
    ]


@dataclass(frozen=True)
class Rollout:
    """T steps of N environments, `(T, N)`, float32, and bool flags."""

    rewards: Tensor
    values: Tensor
    next_values: Tensor
    dones: Tensor

    @property
    def nbytes(self) -> int:
        """What there is to read, and two results to write."""
        return 5 * self.rewards.nbytes + self.dones.nbytes

    def advantages(self) -> tuple[Tensor, Tensor]:
        """By velora, with the returns."""
        return gae(self.rewards, self.values, self.next_values, self.dones, gamma=GAMMA, lam=LAMBDA)


def _make(shape: tuple[int, int], device: torch.device) -> Rollout:
    made = torch.Generator().manual_seed(0)
    rewards, values, next_values = (torch.randn(shape, generator=made) for _ in range(3))
    dones = torch.rand(shape, generator=made) < 1 / MEAN_EPISODE
    return Rollout(*(tensor.to(device) for tensor in (rewards, values, next_values, dones)))


def _on_device(shape: tuple[int, int], setting: Setting) -> Case:
    rollout = _make(shape, setting.device)
    return _case(rollout, rollout.advantages, shape, setting)


def _on_cpu(shape: tuple[int, int], setting: Setting) -> Case:
    rollout = _make(shape, torch.device("cpu"))
    return _case(rollout, rollout.advantages, shape, setting)


def _loop(shape: tuple[int, int], setting: Setting) -> Case:
    """The textbook's loop over time, with a few kernels for each step."""
    rollout = _make(shape, setting.device)
    goes_on = (~rollout.dones).float()

    def run() -> tuple[Tensor, Tensor]:
        deltas = rollout.rewards + GAMMA * goes_on * rollout.next_values - rollout.values
        advantages = torch.empty_like(deltas)
        following = torch.zeros_like(deltas[0])
        for t in reversed(range(shape[0])):
            following = deltas[t] + GAMMA * LAMBDA * goes_on[t] * following
            advantages[t] = following
        return advantages, advantages + rollout.values

    return _case(rollout, run, shape, setting)


def _case(
    rollout: Rollout,
    run: Callable[[], tuple[Tensor, Tensor]],
    shape: tuple[int, int],
    setting: Setting,
) -> Case:
    """Checked against velora on the CPU, which has tests of its own."""

    def check() -> None:
        expected = _make(shape, torch.device("cpu")).advantages()
        poison(setting.device)
        for found, right in zip(run(), expected, strict=True):
            torch.testing.assert_close(found.cpu(), right, rtol=TOLERANCE, atol=TOLERANCE)

    return Case(run, check, nbytes=rollout.nbytes)
