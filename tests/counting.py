"""An environment that counts its steps, and what to expect of collecting from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from helpers import leaves, map_nest

from velora.buffer import BatchExperience

MODES = list(AutoresetMode)
TERMINATED, TRUNCATED, BOTH = (True, False), (False, True), (True, True)
ALIKE = [(4, TERMINATED)] * 3
MIXED = [(4, TERMINATED), (3, TRUNCATED), (1, TERMINATED), (6, BOTH), (1, TRUNCATED)]


class CountingEnv(gym.Env[Any, Any]):
    """Observes how many steps it took, ends after `limit`, and pays what tells environments apart.

    `form` says what an observation is: an array, the same array at each step, or a nest.
    """

    def __init__(
        self, limit: int = 4, end: tuple[bool, bool] = TERMINATED, form: str = "flat"
    ) -> None:
        flat = gym.spaces.Box(0.0, 100.0, (2,), np.float32)
        nest = gym.spaces.Dict(
            step=gym.spaces.Discrete(100), pair=gym.spaces.Tuple([flat, gym.spaces.MultiBinary(1)])
        )
        self.observation_space = nest if form == "nested" else flat
        self.action_space = gym.spaces.Box(-100.0, 100.0, (1,), np.float32)
        self.limit, self.end, self.form = limit, end, form
        self.steps = 0
        self.is_over = True
        self.array = np.zeros(2, np.float32)
        self.actions: list[Any] = []

    def observe(self) -> Any:
        if self.form == "in place":
            self.array[:] = self.steps
            return self.array
        array = np.full(2, self.steps, np.float32)
        if self.form == "flat":
            return array
        return {"pair": (array, np.array([self.steps % 2], np.int8)), "step": np.int64(self.steps)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.is_over = 0, False
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert not self.is_over
        assert isinstance(action, np.ndarray)
        self.actions.append(action)
        self.steps += 1
        self.is_over = self.steps == self.limit
        terminated, truncated = self.end if self.is_over else (False, False)
        return self.observe(), 10.0 * self.limit + self.steps, terminated, truncated, {}


def factories(kinds: Any, form: str = "flat") -> list[Callable[[], Any]]:
    return [partial(CountingEnv, limit, end, form) for limit, end in kinds]


@contextmanager
def vector_env(kind: Any, kinds: Any, mode: AutoresetMode, **options: Any) -> Iterator[Any]:
    form = options.pop("form", "flat")
    env = kind(factories(kinds, form), autoreset_mode=mode, **options)
    yield env
    env.close()


def policy(observations: Any) -> Any:
    """An action that says for which step it was chosen."""
    if isinstance(observations, dict):
        observations = observations["pair"][0]
    return observations[..., :1] * 2 + 0.5


Row = tuple[Any, ...]


TRUE = str(leaves(True))


class Recorder:
    """A buffer that only writes down what it is given."""

    def __init__(self, num_envs: int, capacity: int = 10**6) -> None:
        self.num_envs = num_envs
        self.capacity = capacity
        self.lanes: list[list[Row]] = [[] for _ in range(num_envs)]
        self.extras: list[list[Any]] = [[] for _ in range(num_envs)]
        self.batches: list[BatchExperience] = []

    def extend(self, batch: BatchExperience, *, lanes: Any = None) -> None:
        rows = range(self.num_envs) if lanes is None else lanes
        if len(self) + len(rows) > self.capacity:
            raise BufferError("full")
        self.batches.append(batch)
        parts = (
            *(batch.states, batch.actions, batch.rewards, batch.next_states),
            *(batch.dones, batch.truncations),
        )
        for i, lane in enumerate(rows):
            self.lanes[lane].append(as_row(map_nest(lambda leaf, i=i: leaf[i], parts)))
            self.extras[lane].append({name: part[i] for name, part in batch.extras.items()})

    def end_episodes(self, lanes: Any = None) -> None:
        for lane in range(self.num_envs) if lanes is None else lanes:
            if self.lanes[lane]:
                *step, done, truncated = self.lanes[lane][-1]
                goes_on = "[False]" in done
                cut = truncated.replace("False", "True") if goes_on else truncated
                self.lanes[lane][-1] = (*step, done, cut)

    def __len__(self) -> int:
        return sum(map(len, self.lanes))

    def _count_pushed(self) -> int:
        return len(self)


def as_row(parts: Any) -> Row:
    """Numbers that compare, of (s, a, r, s', done, truncated)."""
    return tuple(str(leaves(part)) for part in parts)


def plain_loop(kind: Any, steps: int, *, form: str = "flat", is_cut: bool = False) -> list[Row]:
    """Returns the rows that a loop over one environment stores in so many steps."""
    limit, end = kind
    env = CountingEnv(limit, end, form)
    state, _ = env.reset()
    rows = []
    for i in range(steps):
        action = policy(state)
        next_state, reward, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
        stored = truncated or (is_cut and i == steps - 1 and not over)
        rows.append(as_row((state, action, reward, next_state, terminated, stored)))
        state = env.reset()[0] if over else next_state
    return rows


def expected(kinds: Any, steps: int, **options: Any) -> list[list[Row]]:
    return [plain_loop(kind, steps, **options) for kind in kinds]
