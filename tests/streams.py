"""Streams of experiences over several lanes, and what the batches of them must be."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import reference
import torch
from helpers import AnyBuffer, PolicyExperience, map_nest, stack
from reference_time import Boundary, Id, LanesModel
from torch import Tensor

from velora.buffer import BatchExperience, Experience, ReplayBuffer

Model = LanesModel[Experience]

# One chi-square test of fair draws in a million is beyond these, on either side.
TAIL = 4.75

SERIAL_BITS = 47  # of an index; the rest is the lane

COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


def reward_of(i: int) -> float:
    """Has 24 bits, so that every sum of some has to round."""
    return float(np.float32(3 * math.sin(i)))


def numbered(i: int, *, done: bool = False, truncated: bool = False) -> Experience:
    """Says in each field which it is; the next state is no other's state."""
    return Experience(
        torch.full((3,), float(i)),
        i,
        reward_of(i),
        torch.full((3,), i + 0.5),
        done,
        truncated=truncated,
    )


def policy_step(step: Experience, hidden: Tensor) -> Experience:
    """The step with what a policy adds to it."""
    return PolicyExperience(**vars(step), log_prob=step.action / 4, hidden=hidden)


def episode(start: int, length: int, end: str = "done") -> list[Experience]:
    """Steps numbered from `start`; the last is `done`, `truncated` or goes on ("open")."""
    steps = [numbered(start + i) for i in range(length)]
    if end != "open":
        steps[-1] = replace(steps[-1], **{end: True})
    return steps


def pattern(text: str, start: int = 0) -> list[Experience]:
    """A step for each letter: "d" is done, "t" truncated, "b" both, any other goes on."""
    return [
        numbered(start + i, done=letter in "db", truncated=letter in "tb")
        for i, letter in enumerate(text)
    ]


def steps(*stamps: int) -> list[Experience]:
    return [numbered(i) for i in stamps]


# Environments


def image_frame(random: Random) -> Tensor:
    """Of few values, so that frames that do not belong together are sometimes equal."""
    if random.random() < 0.3:
        return torch.full((1, 2, 2), random.randrange(2), dtype=torch.uint8)
    return torch.tensor([random.randrange(3) for _ in range(4)], dtype=torch.uint8).view(1, 2, 2)


def colour_frame(random: Random) -> Tensor:
    return torch.cat([image_frame(random) for _ in range(3)])


# Infinities, zeros of both signs, quiet and signalling NaNs with payloads, a denormal.
ODD_WORDS = (0x7F800000, 0xFF800000, 0, 0x80000000, 0x7FC00123, 0xFFC00001, 0x7F800ABC, 1)


def odd_vector(random: Random) -> Tensor:
    words = [random.choice(ODD_WORDS) for _ in range(2)]
    signed = [word - (word >> 31 << 32) for word in words]
    return torch.tensor(signed, dtype=torch.int32).view(torch.float32)


def odd_frame(random: Random) -> Tensor:
    return odd_vector(random).view(1, 2)


def mixed_frame(random: Random) -> dict[str, Any]:
    """Frames of two leaves, and a leaf that is not stacked."""
    return {"camera": image_frame(random), "body": (odd_frame(random), odd_vector(random))}


class Environment:
    """An environment whose observations are the newest `k` frames of it, one after the other.

    A vector is no stack: of these, an observation has the newest.

    Args:
        frame: Makes one frame, or a nest of them.
        k: How many frames there are to an observation.
        pad: What comes before the first frame of an episode: "repeat" (of it) or "zero".
        ends: How likely a step is the last of its episode.
        breaks: How likely frames are replaced between a next state and the state after it, or in
            a next state alone, or an end is not followed by a reset.
    """

    def __init__(
        self,
        random: Random,
        frame: Callable[[Random], Any],
        k: int = 1,
        *,
        pad: str = "repeat",
        ends: float = 0.2,
        breaks: float = 0.0,
    ) -> None:
        self.random = random
        self.frame = frame
        self.k = k
        self.pad = pad
        self.ends = ends
        self.breaks = breaks
        self.frames: list[Any] = []
        self.reset()

    def reset(self) -> None:
        first = self.frame(self.random)
        filler = first if self.pad == "repeat" else map_nest(torch.zeros_like, first)
        self.frames = [filler] * (self.k - 1) + [first]

    def step(self, i: int, end: str | None = None) -> Experience:
        """The `i`-th step; `end` is "open", "done", "truncated" or "both", or left to chance."""
        if end is None:
            ending = self.random.random() < self.ends
            end = self.random.choice(["done", "truncated", "both"]) if ending else "open"
        state = self.observe(self.frames)
        self.frames = [*self.frames[1:], self.frame(self.random)]
        next_state = self.observe(self.broken(self.frames))
        if end == "open" or self.random.random() < self.breaks:
            self.frames = self.broken(self.frames)
        else:
            self.reset()
        return Experience(
            state,
            i,
            reward_of(i),
            next_state,
            end in ("done", "both"),
            truncated=end in ("truncated", "both"),
        )

    def broken(self, frames: list[Any]) -> list[Any]:
        if self.random.random() >= self.breaks:
            return frames
        return [self.frame(self.random) if self.random.random() < 0.5 else x for x in frames]

    @staticmethod
    def observe(frames: list[Any]) -> Any:
        return map_nest(lambda *leaf: torch.cat(leaf) if leaf[0].ndim > 1 else leaf[-1], *frames)


class Plain(Environment):
    """Numbered steps: each field says which it is."""

    def __init__(self, random: Random, *, ends: float = 0.2) -> None:
        super().__init__(random, lambda _: torch.zeros(1), ends=ends)

    def step(self, i: int, end: str | None = None) -> Experience:
        step = super().step(i, end)
        return numbered(i, done=step.done, truncated=step.truncated)


class Recording:
    """Buffers that all get the same rows, and the model that says what must be in them."""

    def __init__(
        self,
        buffers: Sequence[Any],
        environments: Sequence[Environment],
    ) -> None:
        self.buffers = list(buffers)
        self.environments = environments
        first = buffers[0]
        self.model: Model = LanesModel(first.capacity, first.num_envs)
        self.count = 0

    def steps(self, lanes: Sequence[int], ends: Sequence[str] | None = None) -> list[Experience]:
        """The next step of the environment of each lane."""
        made = [
            self.environments[lane].step(self.count + i, ends[i] if ends else None)
            for i, lane in enumerate(lanes)
        ]
        self.count += len(lanes)
        return made

    def push(self, lane: int, end: str | None = None) -> None:
        (step,) = self.steps([lane], [end] if end else None)
        self.model.push(step, lane)
        for buffer in self.buffers:
            buffer.push(step, lane=lane)

    def extend(self, rows: int, ends: Sequence[str] | None = None) -> None:
        """That many rows for each lane, time-major."""
        steps = self.steps(list(range(len(self.environments))) * rows, ends)
        self.model.extend(steps)
        for buffer in self.buffers:
            buffer.extend(stack(steps))

    def extend_lanes(self, lanes: Sequence[int], ends: Sequence[str] | None = None) -> None:
        steps = self.steps(lanes, ends)
        self.model.extend(steps, lanes)
        for buffer in self.buffers:
            buffer.extend(stack(steps), lanes=lanes)

    def play(self, random: Random, rows: int) -> None:
        """About that many rows more, by whatever call."""
        goal, lanes = self.count + rows, range(len(self.environments))
        while self.count < goal:
            call = random.choice(["push", "extend", "lanes"])
            if call == "push":
                self.push(random.choice(lanes))
            elif call == "extend":
                self.extend(random.randint(1, 3))
            else:
                self.extend_lanes(random.choices(lanes, k=random.randint(1, 6)))


def record(
    capacity: int,
    num_envs: int = 1,
    *,
    seed: int = 0,
    make: Callable[[Random], Environment] = Plain,
    variants: Sequence[dict[str, Any]] = ({},),
    **options: Any,
) -> Recording:
    """One buffer for each of the variants, which have the rest of the options in common."""
    random = Random(seed)
    buffers = [
        ReplayBuffer(capacity, num_envs=num_envs, seed=seed, **(options | variant))
        for variant in variants
    ]
    return Recording(buffers, [make(Random(random.random())) for _ in range(num_envs)])


# Buffers with something in them


def actions(buffer: AnyBuffer) -> list[int]:
    return [int(experience.action) for experience in buffer]


def unequal(seed: int = 0) -> tuple[ReplayBuffer, Model]:
    """Five lanes of ten: full and wrapped, of three rows, empty, of one, full."""
    buffer = ReplayBuffer(50, num_envs=5, seed=seed)
    model: Model = LanesModel(50, 5)
    stamps = itertools.count()
    for lane, count in enumerate([23, 3, 0, 1, 10]):
        for i in itertools.islice(stamps, count):
            buffer.push(numbered(i), lane=lane)
            model.push(numbered(i), lane)
    return buffer, model


def buffer_of(text: str, capacity: int | None = None, **options: Any) -> tuple[ReplayBuffer, Model]:
    """One lane with this pattern of ends in it, rows numbered from 0."""
    buffer = ReplayBuffer(capacity or len(text), seed=1, **options)
    model: Model = LanesModel(capacity or len(text), 1)
    for step in pattern(text):
        buffer.push(step)
        model.push(step)
    return buffer, model


# How often: everything that can be drawn is equally likely


def assert_uniform(outcomes: Iterable[Hashable], cells: int) -> None:
    """Holds the counts of outcomes between the two tails of chi-square."""
    counts = Counter(outcomes)
    assert len(counts) <= cells
    statistic = reference.chi_square(counts.values(), cells)
    assert statistic < reference.chi_square_quantile(cells - 1, TAIL)
    assert cells < 50 or statistic > reference.chi_square_quantile(cells - 1, -TAIL)


# Expected batches


def pack(id_: Id) -> int:
    lane, serial = id_
    return lane << SERIAL_BITS | serial


def unpack(index: int) -> Id:
    return index >> SERIAL_BITS, index & (1 << SERIAL_BITS) - 1


def ids_of(batch: BatchExperience) -> list[Id]:
    """Lane and serial of each row of a flat batch."""
    return [unpack(index) for index in batch.indices.tolist()]


def parts_of(thing: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a batch, an experience or a nest, with where they are."""
    if isinstance(thing, (BatchExperience, Experience)):
        thing = vars(thing)
    if isinstance(thing, dict):
        for key in sorted(thing):
            yield from parts_of(thing[key], f"{name}[{key!r}]")
    elif isinstance(thing, tuple):
        for i, child in enumerate(thing):
            yield from parts_of(child, f"{name}[{i}]")
    else:
        yield name, thing


def bits(thing: Any) -> list[tuple[str, Any]]:
    """All that can be told apart in it: dtypes, shapes and bytes, so NaN equals the same NaN."""
    return [
        (name, (str(part.dtype), tuple(part.shape), part.contiguous().numpy().tobytes()))
        if isinstance(part, Tensor)
        else (name, part)
        for name, part in parts_of(thing)
    ]


def assert_same_bits(left: Any, right: Any) -> None:
    for (name, got), (other, expected) in zip(bits(left), bits(right), strict=True):
        assert name == other
        assert got == expected, name


def assert_part(got: Any, expected: Any) -> None:
    """The batch's part has these values, bit for bit, in the dtypes and shapes of the batch."""
    assert_same_bits(
        got, map_nest(lambda leaf, like: leaf.to(like.dtype).reshape(like.shape), expected, got)
    )


def assert_flat(
    batch: BatchExperience, model: Model, *, n_step: int = 1, gamma: float = 0.99
) -> list[Id]:
    """Each row of the batch is what the model has under its index; gives lanes and serials."""
    ids = assert_rows_of(batch, model, n_step=n_step, gamma=gamma)
    assert len(set(ids)) == len(ids)
    return ids


def assert_rows_of(
    batch: BatchExperience, model: Model, *, n_step: int = 1, gamma: float = 0.99
) -> list[Id]:
    """As `assert_flat`, of rows that need not be distinct."""
    ids = ids_of(batch)
    assert set(ids) <= set(model.alive())
    walks = [model.lanes[lane].walk(serial, n_step, gamma) for lane, serial in ids]
    starts, lasts = stack([model.row(id_) for id_ in ids]), stack([walk.last for walk in walks])
    assert_part(batch.states, starts.states)
    assert_part(batch.actions, starts.actions)
    assert_part(batch.extras, starts.extras)
    assert_part(batch.rewards, torch.tensor([float(walk.reward) for walk in walks]))
    assert_part(batch.discounts, torch.tensor([float(walk.discount) for walk in walks]))
    assert_part(batch.next_states, lasts.next_states)
    assert_part(batch.dones, lasts.dones)
    assert_part(batch.truncations, lasts.truncations)
    assert batch.rewards.shape == batch.discounts.shape == (len(ids), 1)
    if n_step == 1:
        assert batch.steps is None
    else:
        assert_part(batch.steps, torch.tensor([float(walk.steps) for walk in walks]))
        assert batch.steps.shape == (len(ids), 1)
    assert batch.mask is None
    assert batch.is_first is None
    return ids


def assert_sequences(
    batch: BatchExperience,
    model: Model,
    length: int,
    burn_in: int = 0,
    boundary: Boundary = "pad",
    *,
    gamma: float = 0.99,
    first_only: Sequence[str] = ("hidden",),
) -> list[Id]:
    """Each sequence is the model's from its start, and zeros; gives the starts."""
    steps = burn_in + length
    indices = batch.indices.tolist()
    flags = (batch.rewards, batch.dones, batch.truncations, batch.discounts)
    for part in (*flags, batch.mask, batch.is_first):
        assert part.shape == (len(indices), steps, 1)
        assert part.dtype == torch.float32
    assert batch.indices.shape == (len(indices), steps)
    assert batch.indices.dtype == torch.int64

    assert batch.steps is None

    starts = []
    for i, row in enumerate(indices):
        burned = batch.mask[i].flatten().tolist().index(1.0)
        lane, serial = unpack(row[burned])
        ring = model.lanes[lane]
        assert ring.is_start(serial, length, boundary)
        window = ring.window(serial, length, burn_in, boundary)
        assert row == [pack((lane, t)) for t in window] + [-1] * (steps - len(window))
        starts.append((lane, serial))

        there = [ring.rows[t] for t in window]
        expected = stack(there)
        assert_time(batch.states, i, expected.states)
        assert_time(batch.actions, i, expected.actions)
        assert_time(batch.rewards, i, expected.rewards)
        assert_time(batch.next_states, i, expected.next_states)
        assert_time(batch.dones, i, expected.dones)
        assert_time(batch.truncations, i, expected.truncations)
        assert_time(batch.discounts, i, torch.tensor([0.0 if x.done else gamma for x in there]))
        assert_time(batch.mask, i, torch.tensor([float(t >= serial) for t in window]))
        assert_time(batch.is_first, i, torch.tensor([float(ring.is_first(t)) for t in window]))
        for name, part in expected.extras.items():
            if name in first_only:
                assert_part(
                    map_nest(lambda leaf, i=i: leaf[i], batch.extras[name]),
                    map_nest(lambda leaf: leaf[0], part),
                )
            else:
                assert_time(batch.extras[name], i, part)
    assert len(set(starts)) == len(starts)
    return starts


def assert_time(got: Any, i: int, expected: Any) -> None:
    """Sequence `i` of a batch's part is this, and zeros from there on."""

    def padded(leaf: Tensor, like: Tensor) -> Tensor:
        full = torch.zeros_like(like[i])
        full[: len(leaf)] = leaf.to(like.dtype).reshape(len(leaf), *like.shape[2:])
        return full

    assert_same_bits(
        map_nest(lambda leaf: leaf[i], got),
        map_nest(lambda leaf, like: padded(leaf, like), expected, got),
    )
