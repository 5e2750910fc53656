"""Batches of many histories, as hashes: what a change of the code's structure must not change.

`python tests/golden.py` writes tests/golden.json again. Do so only with a change that is meant to
give other batches, and name that change in the changelog.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from helpers import stack

from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer

HASHES = Path(__file__).with_name("golden.json")

PARTS = (
    *("states", "actions", "rewards", "next_states", "dones", "truncations"),
    *("indices", "discounts", "mask", "is_first", "extras"),
)


@dataclass
class Recurrent(Experience):
    """With what a recurrent policy keeps."""

    hidden: tuple[torch.Tensor, torch.Tensor]
    log_prob: float


@dataclass(frozen=True)
class Case:
    """A buffer, what it is given, and how often it is drawn from."""

    kind: str = "vectors"
    lanes: int = 1
    slots: int = 40
    seed: int = 7
    n_step: int = 1
    compact: bool = False
    frame_stack: int = 1
    rounds: int = 24

    @property
    def name(self) -> str:
        options = {key: value for key, value in vars(self).items() if value != getattr(Case, key)}
        return ",".join(f"{key}={value}" for key, value in options.items()) or "default"


def cases() -> list[Case]:
    found = [Case(seed=seed) for seed in (0, 7, 2**64 - 1)]
    for lanes in (1, 3, 70):
        found += [Case(lanes=lanes, n_step=n) for n in (2, 5, 60)]
        found += [Case("images", lanes=lanes, compact=compact) for compact in (False, True)]
        found += [Case("nested", lanes=lanes, compact=compact) for compact in (False, True)]
        found += [Case("recurrent", lanes=lanes, n_step=n) for n in (1, 3)]
        for n in (2, 4):
            found.append(Case("stacks", lanes=lanes, compact=True, frame_stack=n, n_step=n))
    found.append(Case("numbers", lanes=3, slots=2000, rounds=24))
    found.append(Case("numbers", lanes=1, slots=6000, rounds=24, n_step=3))
    return list(dict.fromkeys(found))


class History:
    """Environments that step side by side, by the numbers of one generator."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.random = random.Random(f"{case.name}")
        self.clock = 0
        self.frames = [[self._frame()] * case.frame_stack for _ in range(case.lanes)]
        self.now = [self._observation(lane) for lane in range(case.lanes)]

    def steps(self, lane: int, count: int) -> list[Experience]:
        return [self._step(lane) for _ in range(count)]

    def _step(self, lane: int) -> Experience:
        state = self.now[lane]
        self.clock += 1
        self.frames[lane] = [*self.frames[lane][1:], self._frame()]
        after = self._observation(lane)
        done, truncated = self.random.random() < 0.08, self.random.random() < 0.05
        self.now[lane] = after
        if done or truncated or self.random.random() < 0.02:  # the last: one who jumps
            self.frames[lane] = [self._frame()] * self.case.frame_stack
            self.now[lane] = self._observation(lane)
        reward = self.random.randint(-99, 99) / 8
        values = (state, self._action(), reward, after, done)
        if self.case.kind != "recurrent":
            return Experience(*values, truncated=truncated)
        hidden = (self._numbers(4), self._numbers(2, 3))
        log_prob = -self.random.random()
        return Recurrent(*values, hidden=hidden, log_prob=log_prob, truncated=truncated)

    def _observation(self, lane: int) -> Any:
        kind = self.case.kind
        if kind == "images":
            return self._frame()
        if kind == "stacks":
            return torch.stack(self.frames[lane])
        if kind == "numbers":
            return self._numbers(2)
        if kind == "nested":
            return {
                "half": self._numbers(3).to(torch.float16),
                "pair": (self._numbers(2, 5).to(torch.bfloat16), torch.tensor([self.clock])),
                "seen": self._frame(),
            }
        return self._numbers(5)

    def _action(self) -> Any:
        if self.case.kind == "nested":
            return self._numbers(3)
        return self.random.randrange(6)

    def _frame(self) -> torch.Tensor:
        return torch.frombuffer(bytearray(self.random.randbytes(63)), dtype=torch.uint8).view(7, 9)

    def _numbers(self, *shape: int) -> torch.Tensor:
        size = torch.Size(shape).numel()
        return torch.tensor([self.random.randint(-999, 999) / 16 for _ in range(size)]).view(shape)


def hash_of(batches: Iterator[BatchExperience]) -> str:
    sha = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key, child in value.items():
                sha.update(key.encode())
                add(child)
        elif isinstance(value, tuple):
            for child in value:
                add(child)
        elif value is not None:
            sha.update(f"{value.dtype}{tuple(value.shape)}".encode())
            sha.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())

    for batch in batches:
        for name in PARTS:
            add(getattr(batch, name))
    return sha.hexdigest()


def replay_batches(case: Case, device: str, storage: str) -> Iterator[BatchExperience]:
    """Yields the batches of a buffer during a history that overwrites rows."""
    buffer: Any = ReplayBuffer(
        case.slots * case.lanes,
        device,
        num_envs=case.lanes,
        n_step=case.n_step,
        gamma=0.97,
        frame_stack=case.frame_stack,
        compact=case.compact,
        storage=storage,
        seed=case.seed,
    )
    history, out = History(case), None
    for number in range(case.rounds):
        write(buffer, history)
        size = len(buffer)
        for share in (0.02, 0.4, 0.9, 1.0):
            yield buffer.sample(max(1, int(size * share)))
        if size >= 8:
            out = buffer.sample(8) if out is None else buffer.sample(8, out=out)
            yield out
        yield from sequences(buffer, history.random)
        if number % 5 == 2:
            buffer = copy.deepcopy(buffer)
        if number % 7 == 6:
            buffer.seed(number)
        if number == case.rounds // 2:
            other: Any = ReplayBuffer(buffer.capacity, device, num_envs=case.lanes, seed=number)
            other.extend(buffer)
            yield other.sample(len(other))


def write(buffer: Any, history: History) -> None:
    """Steps of some environments, by one of the ways there are."""
    case, draw = history.case, history.random
    lanes = sorted(draw.sample(range(case.lanes), draw.randint(1, case.lanes)))
    way = draw.randrange(4)
    count = draw.randint(1, max(3, case.slots // 3))
    if way == 0:
        for lane in lanes:
            for experience in history.steps(lane, min(count, 5)):
                if case.lanes == 1:
                    buffer.push(experience)
                else:
                    buffer.extend(stack([experience]), lanes=[lane])
    elif way == 1:
        for lane in lanes[:3]:
            buffer.extend(stack(history.steps(lane, count)), lanes=[lane] * count)
    else:
        numbers = [lane for lane in lanes for _ in range(draw.randint(1, max(2, count // 4)))]
        draw.shuffle(numbers)
        buffer.extend(stack([history.steps(lane, 1)[0] for lane in numbers]), lanes=numbers)
    if way == 3:
        ends = draw.sample(lanes, draw.randint(1, len(lanes)))
        buffer.end_episodes(ends)
        for lane in ends:
            history.now[lane] = history._observation(lane)


def sequences(buffer: Any, draw: random.Random) -> Iterator[BatchExperience]:
    """Of each boundary, with the names of fields of which the first is enough."""
    longest = min(12, buffer.capacity // buffer.num_envs)
    for boundary in ("pad", "within", "cross"):
        length, burn_in = draw.randint(1, longest), draw.choice([0, 0, 2, longest])
        first_only = draw.choice([("hidden",), ("log_prob",), ()])
        try:
            yield buffer.sample_sequences(
                draw.randint(1, 6), length, burn_in, boundary=boundary, first_only=first_only
            )
        except ValueError:  # so many starts there are not
            continue


def rollout_batches(case: Case, device: str, storage: str) -> Iterator[BatchExperience]:
    """Yields the batches of a rollout that is filled, sampled and cleared repeatedly."""
    buffer: Any = RolloutBuffer(case.slots * case.lanes, device, num_envs=case.lanes)
    history = History(case)
    for _ in range(case.rounds):
        for _ in range(history.random.randint(1, case.slots - 1)):
            steps = [history.steps(lane, 1)[0] for lane in range(case.lanes)]
            buffer.extend(stack(steps))
        yield buffer.sample()
        lane = history.random.randrange(case.lanes)
        buffer.end_episodes([lane])
        room = case.slots - len(buffer) // case.lanes
        buffer.extend(stack(history.steps(lane, room)), lanes=[lane] * room)
        yield buffer.sample()
        buffer.empty()


ROLLOUTS = [Case(lanes=1), Case("nested", lanes=3), Case("recurrent", lanes=70, slots=5)]
Batches = Callable[[Case, str, str], Iterator[BatchExperience]]
HISTORIES: dict[str, tuple[Batches, Case]] = {
    **{f"replay {case.name}": (replay_batches, case) for case in cases()},
    **{f"rollout {case.name}": (rollout_batches, case) for case in ROLLOUTS},
}


def hashes(device: str, storage: str) -> dict[str, str]:
    return {
        name: hash_of(batches(case, device, storage)) for name, (batches, case) in HISTORIES.items()
    }


if __name__ == "__main__":
    HASHES.write_text(json.dumps(hashes("cpu", "auto"), indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"wrote {HASHES}\n")
