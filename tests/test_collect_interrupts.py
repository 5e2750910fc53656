"""Whatever interrupts a collection: no step is lost, doubled or joined to another episode."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import torch
from gymnasium.vector import AutoresetMode
from interrupts import (
    LANE,
    AlarmError,
    Interrupter,
    SingleTicks,
    Step,
    VectorTicks,
    forget_step,
    policy,
    tick_of,
)

from velora.buffer import ReplayBuffer, RolloutBuffer
from velora.gym import Collector, CollectStatistics, collect

KINDS = [None, *AutoresetMode]  # None: a single environment
STEPS = 6


def name_of(kind: AutoresetMode | None) -> str:
    return "single" if kind is None else kind.value


def make_env(kind: AutoresetMode | None, random: Random, form: str = "flat") -> Any:
    return SingleTicks(random, form) if kind is None else VectorTicks(3, kind, random, form)


def stored(buffer: Any) -> list[list[Step]]:
    """Returns the contents of the buffer, lane by lane."""
    lanes: list[list[Step]] = [[] for _ in range(buffer.num_envs)]
    for x in buffer:
        state = tick_of(x.state)
        step = (state, tick_of(x.next_state), bool(x.done), bool(x.truncated))
        lanes[state // LANE].append(step)
    return lanes


def assert_right(got: list[Step], returned: list[Step], *, may_skip: bool = False) -> None:
    """The rows of a lane are the steps that were returned, and each break is marked."""
    steps = {step[:2]: step for step in returned}
    assert len(steps) == len(returned)
    names = [row[:2] for row in got]
    assert names == [step[:2] for step in returned if not may_skip or step[:2] in set(names)]
    for row, following in pairwise(got):
        ends = steps[row[:2]][2:]
        is_break = row[1] != following[0]
        assert is_break or ends == (False, False)
        # Steps of a waiting environment are left out, and the gap is marked.
        assert row[2:] == (ends if ends != (False, False) else (False, is_break))


def episodes_of(returned: list[Step]) -> Counter[tuple[float, int]]:
    """Return and length of each episode that ended, all of whose steps were returned."""
    found: Counter[tuple[float, int]] = Counter()
    rewards: list[float] = []
    previous: int | None = None
    for state, following, *ends in returned:
        if state != previous:
            rewards = []
        rewards.append(float(following))
        previous = following
        if any(ends):
            found[sum(rewards), len(rewards)] += 1
    return found


class Driver:
    """Calls that are interrupted at a random bytecode, one after the other."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.interrupter = Interrupter()
        self.statistics: list[CollectStatistics] = []

    def interrupt(self, call: Callable[[], CollectStatistics], *, twice: bool = True) -> None:
        second = self.random.randint(1, 40) if twice and self.random.random() < 0.3 else 0
        error = self.random.choice([KeyboardInterrupt, AlarmError])
        with self.interrupter.armed(int(1.5 ** self.random.uniform(1, 22)), error, second):
            self.statistics.append(call())

    def assert_statistics(self, returned: list[list[Step]], rows: int) -> None:
        """Each episode is reported once at most, and no row twice."""
        reported = Counter(
            pair
            for each in self.statistics
            for pair in zip(each.episode_returns, each.episode_lengths, strict=True)
        )
        there: Counter[tuple[float, int]] = Counter()
        for lane in returned:
            there += episodes_of(lane)
        assert reported <= there
        assert sum(each.transitions for each in self.statistics) <= rows


def check(buffer: Any, env: Any, **options: Any) -> None:
    for got, returned in zip(stored(buffer), env.returned.lanes, strict=True):
        assert_right(got, returned, **options)


@pytest.mark.parametrize(
    ("kind", "form"),
    [*((kind, "flat") for kind in KINDS), (AutoresetMode.SAME_STEP, "image")],
    ids=str,
)
def test_collect_interrupted_at_each_place_stores_each_returned_step_once(
    kind: AutoresetMode | None, form: str
) -> None:
    def begin() -> tuple[Any, ReplayBuffer, Collector]:
        env = make_env(kind, Random(5), form)
        buffer = ReplayBuffer(300, num_envs=env.num_envs, compact=form == "image")
        return env, buffer, Collector(env, policy, buffer, seed=0)

    interrupter = Interrupter()
    _, _, collector = begin()
    # A quarter of them each, others in each kind: much of the code is common to all.
    points = interrupter.points(lambda: collector.collect(4))[KINDS.index(kind) :: 4]
    for k in points:
        env, buffer, collector = begin()
        with interrupter.armed(k, KeyboardInterrupt if k % 2 else AlarmError):
            collector.collect(4)
        assert torch.is_grad_enabled()
        # At once, not at the next call alone.
        rows = stored(buffer)
        assert sum(map(len, rows)) == sum(map(len, env.returned.lanes))
        collector.collect(2)
        check(buffer, env)
        for before, after in zip(rows, stored(buffer), strict=True):
            assert after[: len(before)] == before
    assert interrupter.raised == len(points) == len(interrupter.where) > 500


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("form", ["flat", "image"])
@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_collect_interrupted_again_and_again_stores_each_returned_step_once(
    kind: AutoresetMode | None, form: str, seed: int
) -> None:
    driver = Driver(seed)
    for _ in range(4):
        env = make_env(kind, driver.random, form)
        buffer = ReplayBuffer(3000, num_envs=env.num_envs, compact=form == "image")
        collector = Collector(env, policy, buffer, seed=seed)
        for _ in range(20):
            truncate = driver.random.random() < 0.2
            driver.interrupt(lambda: collector.collect(STEPS, truncate=truncate))  # noqa: B023
        driver.statistics.append(collector.collect(STEPS))
        check(buffer, env)
        driver.assert_statistics(env.returned.lanes, len(buffer))
        driver.statistics = []
    assert driver.interrupter.raised > 60


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_collect_rollouts_interrupted_loses_no_returned_step(kind: AutoresetMode | None) -> None:
    driver = Driver(3)
    for _ in range(4):
        env = make_env(kind, driver.random)
        buffer = RolloutBuffer(3 * STEPS * env.num_envs, num_envs=env.num_envs)
        collector = Collector(env, policy, buffer)
        lanes: list[list[Step]] = [[] for _ in range(env.num_envs)]
        for _ in range(30):
            before = driver.interrupter.raised
            with suppress(BufferError):  # interrupted rollouts leave less room than one needs
                driver.interrupt(lambda: collector.collect(STEPS))  # noqa: B023
            if driver.interrupter.raised == before:
                drain(buffer, env, lanes)
        with suppress(BufferError):
            collector.collect(STEPS)
        drain(buffer, env, lanes)
        for got, returned in zip(lanes, env.returned.lanes, strict=True):
            if kind is not AutoresetMode.NEXT_STEP:  # in which some wait for others
                assert len(got) >= len(returned) - 1  # one step waits where the buffer was full
                assert [row[:2] for row in got] == [step[:2] for step in returned[: len(got)]]
    assert driver.interrupter.raised > 60


def drain(buffer: RolloutBuffer, env: Any, lanes: list[list[Step]]) -> None:
    for lane, rollout in enumerate(stored(buffer)):
        assert_right(rollout, env.returned.lanes[lane], may_skip=True)
        lanes[lane] += rollout
        assert len({row[:2] for row in lanes[lane]}) == len(lanes[lane])
    buffer.empty()


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_collect_in_one_go_interrupted_leaves_no_open_episode(kind: AutoresetMode | None) -> None:
    driver = Driver(4)
    for _ in range(4):
        env = make_env(kind, driver.random)
        buffer = ReplayBuffer(3000, num_envs=env.num_envs)
        for i in range(20):
            driver.interrupt(lambda: collect(env, policy, buffer, STEPS, seed=i), twice=False)  # noqa: B023
            for got, returned in zip(stored(buffer), env.returned.lanes, strict=True):
                assert_right(got, returned, may_skip=kind is AutoresetMode.NEXT_STEP)
                assert not got or got[-1][2] or got[-1][3]
    assert driver.interrupter.raised > 60


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_collect_interrupted_by_signals_stores_each_returned_step_once(
    kind: AutoresetMode | None,
) -> None:
    random = Random(6)
    env = make_env(kind, random)
    buffer = ReplayBuffer(60_000, num_envs=env.num_envs)

    def interrupt(_: int, frame: Any) -> None:
        if is_open:
            forget_step(frame)
            raise KeyboardInterrupt

    def act(observations: Any) -> Any:
        env.returned.newest = {}  # The step that comes now has not returned.
        return policy(observations)

    collector = Collector(env, act, buffer)
    is_open = False
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(60):
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.004))
            with suppress(KeyboardInterrupt):
                is_open = True
                collector.collect(10_000)
            is_open = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert torch.is_grad_enabled()
    collector.collect(STEPS)
    check(buffer, env)
    assert len(buffer) > 100


# Environments and policies that raise


class Failing:
    """Raises at some of its calls."""

    def __init__(self, function: Any, random: Random, *, after: bool) -> None:
        self.function, self.random, self.after = function, random, after

    def __call__(self, *args: Any, **options: Any) -> Any:
        if not self.after and self.random.random() < 0.4:
            raise ZeroDivisionError
        result = self.function(*args, **options)
        if self.after and self.random.random() < 0.4:
            raise ZeroDivisionError
        return result


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("what", ["step", "reset", "policy", "extend", "end_episodes"])
@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_collect_with_something_that_fails_joins_no_episodes(
    kind: AutoresetMode | None, what: str, after: bool
) -> None:
    random = Random(7)
    env = make_env(kind, random)
    buffer = ReplayBuffer(3000, num_envs=env.num_envs)
    collector = Collector(env, policy, buffer)
    collector.collect(1)
    owner: Any = {"policy": collector, "extend": buffer, "end_episodes": buffer}.get(what, env)
    working = getattr(owner, what)
    setattr(owner, what, Failing(working, random, after=after))
    errors = 80
    for _ in range(80):
        with suppress(ZeroDivisionError):
            collector.collect(STEPS, truncate=random.random() < 0.5)
            errors -= 1
    setattr(owner, what, working)
    collector.collect(STEPS)
    for got, returned in zip(stored(buffer), env.returned.lanes, strict=True):
        # A step that was made and raised then, was not received; and what `extend` refuses twice,
        # is refused for what it is.
        assert_right(got, returned, may_skip=(what, after) in [("extend", False), ("step", True)])
    assert errors >= 5


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_collect_into_device_buffer_interrupted_after_extend_stores_rows_once(
    kind: AutoresetMode | None,
) -> None:
    random = Random(8)
    env = make_env(kind, random)
    buffer = ReplayBuffer(300, "cuda", num_envs=env.num_envs)
    collector = Collector(env, policy, buffer)
    working = buffer.extend

    def extend(*args: Any, **options: Any) -> None:
        working(*args, **options)
        if random.random() < 0.5:
            raise KeyboardInterrupt

    for _ in range(10):
        buffer.extend = extend  # type: ignore[method-assign]
        with suppress(KeyboardInterrupt):
            collector.collect(3)
        buffer.extend = working  # type: ignore[method-assign]
    collector.collect(STEPS)
    check(buffer, env)
