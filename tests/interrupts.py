"""Interrupts at chosen bytecodes, and environments that know which of their steps were returned."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import CodeType, FrameType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from torch.autograd import grad_mode

import velora

_ROOT = str(Path(velora.__file__).parent)
# Code with an effect beyond a call.
_GRAD_MODE = grad_mode.__file__


class AlarmError(Exception):
    """An error that a signal handler may raise instead of KeyboardInterrupt."""


class Interrupter:
    """Raises at the k-th bytecode of velora, or of an environment or a policy of this file."""

    def __init__(self) -> None:
        self.left = 0
        self.second = 0  # events of calls from the first to the second interrupt; 0: there is none
        self.error: type[BaseException] = KeyboardInterrupt
        self.raised = 0
        self.seen: dict[tuple[CodeType, int], int] = {}
        self.where: set[tuple[CodeType, int]] = set()

    @contextmanager
    def armed(self, k: int, error: type[BaseException], second: int = 0) -> Iterator[None]:
        """Interrupts what is in the block at its k-th bytecode, if it has so many."""
        self.left, self.error, self.second = k, error, second
        before = self.raised
        sys.settrace(self._trace)
        try:
            yield
        except (KeyboardInterrupt, AlarmError):
            assert self.raised > before
        finally:
            sys.settrace(None)
            sys.setprofile(None)

    def points(self, call: Callable[[], Any]) -> list[int]:
        """Returns the numbers at which each bytecode of a call first runs."""
        self.left, self.seen = 0, {}
        sys.settrace(self._trace)
        try:
            call()
        finally:
            sys.settrace(None)
        return sorted(self.seen.values())

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(_ROOT) and name not in (__file__, _GRAD_MODE):
            return None
        if frame.f_code in _UNTRACED:
            return None
        if frame.f_code in _STEPS:
            frame.f_locals["self"].returned.newest = {}
        frame.f_trace_opcodes = True
        return self._local

    def _local(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                self._interrupt(frame)
            if self.left < 0:
                self.seen.setdefault((frame.f_code, frame.f_lasti), -self.left)
        return self._local

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if frame.f_code.co_filename.startswith(_ROOT):
            self.second -= 1
            if self.second == 0:
                self.raised += 1
                raise KeyboardInterrupt  # and Python drops the profile function

    def _interrupt(self, frame: FrameType) -> None:
        self.raised += 1
        self.where.add((frame.f_code, frame.f_lasti))
        forget_step(frame)
        if self.second > 0:
            sys.setprofile(self._profile)
        raise self.error


# The first observation of each lane is so many above that of the lane before.
LANE = 100_000


def forget_step(frame: FrameType | None) -> None:
    """Removes the step that an interrupt of this frame keeps from being returned, if any."""
    while frame is not None:
        if frame.f_code in _STEPS:
            frame.f_locals["self"].returned.forget()
        frame = frame.f_back


class Lane:
    """An environment that counts its resets and steps: no two observations are equal."""

    def __init__(self, number: int, random: Random) -> None:
        self.random = random
        self.tick = number * LANE
        self.left = 0

    def reset(self) -> int:
        self.tick += 1
        self.left = self.random.randint(1, 5)
        return self.tick

    def step(self) -> tuple[int, bool, bool]:
        assert self.left > 0
        self.tick += 1
        self.left -= 1
        terminated = self.left == 0 and self.random.random() < 0.5
        return self.tick, terminated, self.left == 0 and not terminated


# Of a step: (state, next state, terminated, truncated).
Step = tuple[int, int, bool, bool]


class Returned:
    """The steps that were returned, lane by lane."""

    def __init__(self, num_lanes: int) -> None:
        self.lanes: list[list[Step]] = [[] for _ in range(num_lanes)]
        self.newest: dict[int, Step] = {}

    def add(self, steps: dict[int, Step]) -> None:
        self.newest = steps
        for lane, step in steps.items():
            self.lanes[lane].append(step)

    def forget(self) -> None:
        """Removes the newest steps: they are under way, and do not return."""
        for lane, step in self.newest.items():
            if self.lanes[lane] and self.lanes[lane][-1] is step:
                self.lanes[lane].pop()
        self.newest = {}


def observe(tick: int, form: str) -> Any:
    if form == "image":
        return np.frombuffer(np.array([tick, tick], np.int32).tobytes(), np.uint8).reshape(1, 2, 4)
    return np.full(2, tick, np.float32)


def tick_of(observation: Any) -> int:
    array = np.asarray(observation)
    if array.dtype == np.uint8:
        return int(np.frombuffer(array.tobytes(), np.int32)[0])
    return int(array[0])


class Ticks:
    """Base of the single and the vector environment of lanes."""

    def __init__(self, num_lanes: int, random: Random, form: str) -> None:
        self.ticking = [Lane(i, random) for i in range(num_lanes)]
        self.form = form
        self.returned = Returned(num_lanes)
        self.states = [0] * num_lanes

    def begin(self, lane: int) -> None:
        self.states[lane] = self.ticking[lane].reset()


def _space(form: str) -> Any:
    if form == "image":
        return gym.spaces.Box(0, 255, (1, 2, 4), np.uint8)
    return gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)


class SingleTicks(Ticks, gym.Env[Any, Any]):
    """One of them."""

    def __init__(self, random: Random, form: str = "flat") -> None:
        Ticks.__init__(self, 1, random, form)
        self.num_envs = 1
        self.observation_space = _space(form)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.begin(0)
        return observe(self.states[0], self.form), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        before = self.states[0]
        tick, terminated, truncated = self.ticking[0].step()
        self.states[0] = tick
        result = observe(tick, self.form), float(tick), terminated, truncated, {}
        self.returned.add({0: (before, tick, terminated, truncated)})
        return result


class VectorTicks(Ticks, gym.vector.VectorEnv[Any, Any, Any]):
    """Several side by side, with any autoreset mode."""

    def __init__(
        self, num_envs: int, mode: AutoresetMode, random: Random, form: str = "flat"
    ) -> None:
        Ticks.__init__(self, num_envs, random, form)
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": mode}
        self.mode = mode
        self.single_observation_space = _space(form)
        self.single_action_space = gym.spaces.Discrete(3)
        self.observation_space = gym.vector.utils.batch_space(_space(form), num_envs)
        self.action_space = gym.spaces.MultiDiscrete([3] * num_envs)
        self.is_over = np.zeros(num_envs, np.bool_)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, np.bool_))
        for lane in np.flatnonzero(mask):
            self.begin(int(lane))
            self.is_over[lane] = False
        return self.observe(), {}

    def observe(self) -> Any:
        return np.stack([observe(state, self.form) for state in self.states])

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        steps: dict[int, Step] = {}
        rewards = np.zeros(self.num_envs)
        terminations = np.zeros(self.num_envs, np.bool_)
        truncations = np.zeros(self.num_envs, np.bool_)
        final: Any = np.full(self.num_envs, None, object)
        for lane, ticking in enumerate(self.ticking):
            if self.mode is AutoresetMode.NEXT_STEP and self.is_over[lane]:
                self.begin(lane)
                continue
            before = self.states[lane]
            tick, terminations[lane], truncations[lane] = ticking.step()
            rewards[lane] = self.states[lane] = tick
            steps[lane] = (before, tick, bool(terminations[lane]), bool(truncations[lane]))
            if self.mode is AutoresetMode.SAME_STEP and ticking.left == 0:
                final[lane] = observe(tick, self.form)
                self.begin(lane)
        self.is_over = terminations | truncations
        infos = {"final_obs": final, "_final_obs": self.is_over.copy()}
        result = self.observe(), rewards, terminations, truncations, infos
        self.returned.add(steps)
        return result


def policy(observations: Any) -> Any:
    """Some action."""
    batch = np.asarray(observations)
    first = batch.reshape(len(batch), -1)[:, 0] if batch.ndim in (2, 4) else batch.reshape(-1)[0]
    return np.asarray(first).astype(np.int64) % 3


_UNTRACED = {Interrupter.armed.__wrapped__.__code__, Returned.add.__code__}
_STEPS = {SingleTicks.step.__code__, VectorTicks.step.__code__}
