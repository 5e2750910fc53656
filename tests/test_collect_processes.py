"""Collecting from environments in separate processes, when a call to them is interrupted."""

from __future__ import annotations

import _thread
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from counting import MODES, TERMINATED, TRUNCATED, CountingEnv, policy
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from velora.buffer import ReplayBuffer
from velora.gym import Collector, collect

pytestmark = pytest.mark.timeout(120)

KINDS = [(5, TERMINATED), (3, TRUNCATED), (7, TERMINATED)]


class SlowEnv(CountingEnv):
    """Takes its time, and a long time if it is asked to."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(0.02 if action[0] < LONG else 1000)
        return super().step(action)


LONG = 50.0  # an action


@contextmanager
def processes(mode: AutoresetMode, kind: Any = CountingEnv, **options: Any) -> Iterator[Any]:
    env = AsyncVectorEnv(
        [lambda limit=limit, end=end: kind(limit, end) for limit, end in KINDS],
        autoreset_mode=mode,
        **options,
    )
    try:
        yield env
    finally:
        env.close()


class Interrupted:
    """A pipe whose first call of some method raises, before or after it has done its work."""

    def __init__(self, pipe: Any, method: str, *, after: bool = False) -> None:
        self.pipe, self.method, self.after = pipe, method, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.pipe, name)
        if name != self.method:
            return method

        def interrupted(*args: Any) -> Any:
            self.method = ""
            if self.after:
                method(*args)
            raise KeyboardInterrupt

        return interrupted


def assert_breaks_are_marked(buffer: ReplayBuffer) -> None:
    lanes: list[list[Any]] = [[] for _ in KINDS]
    for x, lane in zip(buffer, lanes_of(buffer), strict=True):
        lanes[lane].append(x)
    for rows, (limit, end) in zip(lanes, KINDS, strict=True):
        for row, following in pairwise(rows):
            step = int(row.state[0])
            assert row.next_state[0] == step + 1
            is_end = step + 1 == limit
            assert bool(row.done) == (is_end and end == TERMINATED)
            is_break = following.state[0] != step + 1
            is_truncated = end == TRUNCATED if is_end else is_break
            assert bool(row.truncated) == is_truncated


def lanes_of(buffer: ReplayBuffer) -> list[int]:
    # The reward tells environments apart, by the limit of their episodes.
    limits = [limit for limit, _ in KINDS]
    return [limits.index(int(x.reward) // 10) for x in buffer]


@pytest.mark.parametrize("options", [{}, {"shared_memory": False}], ids=["shared", "apart"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_collect_after_interrupted_step_of_processes_begins_new_episodes(
    mode: AutoresetMode, options: Any
) -> None:
    with processes(mode, **options) as env:
        buffer = ReplayBuffer(3000, num_envs=3)
        collector = Collector(env, policy, buffer, seed=0)
        collector.collect(4)
        pipes = list(env.parent_pipes)
        for lane, method, after in product([0, 1, 2], ["send", "recv"], [False, True]):
            env.parent_pipes[lane] = Interrupted(pipes[lane], method, after=after)
            with pytest.raises(KeyboardInterrupt):
                collector.collect(4)
            env.parent_pipes = list(pipes)
            before = len(buffer)
            statistics = collector.collect(9)
            assert len(buffer) == before + statistics.transitions
        assert_breaks_are_marked(buffer)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_collect_anew_while_a_call_is_pending_drops_its_answers(mode: AutoresetMode) -> None:
    with processes(mode) as env:
        buffer = ReplayBuffer(300, num_envs=3)
        collect(env, policy, buffer, 4)
        env.reset()
        env.step_async(np.zeros((3, 1), np.float32))
        collect(env, policy, buffer, 4)
        env.reset_async()
        collect(env, policy, buffer, 4)
        assert len(buffer) == 36
        assert_breaks_are_marked(buffer)


def test_collect_after_interrupted_partial_reset_begins_new_episodes() -> None:
    with processes(AutoresetMode.DISABLED) as env:
        buffer = ReplayBuffer(300, num_envs=3)
        collector = Collector(env, policy, buffer)
        collector.collect(3)  # environment 1 is over
        pipes = list(env.parent_pipes)
        env.parent_pipes[1] = Interrupted(pipes[1], "recv")
        with pytest.raises(KeyboardInterrupt):
            collector.collect(1)
        env.parent_pipes = pipes
        collector.collect(9)
        assert len(buffer) == 36
        assert_breaks_are_marked(buffer)


def test_collect_interrupted_in_this_process_alone_goes_on() -> None:
    with processes(AutoresetMode.NEXT_STEP, SlowEnv) as env:
        buffer = ReplayBuffer(3000, num_envs=3)
        collector = Collector(env, policy, buffer)
        for i in range(6):
            timer = threading.Timer(0.1 + 0.007 * i, _thread.interrupt_main)
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                collector.collect(1000)
            timer.join()
        collector.collect(12)
        assert len(buffer) > 36
        assert_breaks_are_marked(buffer)


def test_collect_after_processes_were_ended_says_so_and_closes_the_environment() -> None:
    buffer = ReplayBuffer(300, num_envs=3)
    with processes(AutoresetMode.NEXT_STEP) as env:
        collector = Collector(env, policy, buffer)
        collector.collect(4)
        workers = list(env.processes)
        env.parent_pipes[0] = Interrupted(env.parent_pipes[0], "recv")
        with pytest.raises(KeyboardInterrupt):
            collector.collect(4)
        env.parent_pipes[0] = env.parent_pipes[0].pipe
        for worker in workers:  # as Ctrl-C in a terminal does
            os.kill(worker.pid, signal.SIGINT)
            worker.join()
        with pytest.raises(RuntimeError, match=r"^env: expected an answer .* make a new one$"):
            collector.collect(4)
        with pytest.raises(ClosedEnvironmentError):
            collector.collect(4)
        assert env.closed
    assert not set(workers) & set(multiprocessing.active_children())
    with processes(AutoresetMode.NEXT_STEP) as env:
        Collector(env, policy, buffer).collect(9)
    assert_breaks_are_marked(buffer)


def test_collect_while_a_process_does_not_answer_raises_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("velora.gym.processes.LONGEST_CALL", 0.2)
    with processes(AutoresetMode.NEXT_STEP, SlowEnv) as env:
        buffer = ReplayBuffer(300, num_envs=3)
        collector = Collector(env, policy, buffer)
        collector.collect(4)
        collector.policy = lambda _: np.full((3, 1), LONG, np.float32)
        env.parent_pipes[1] = Interrupted(env.parent_pipes[1], "send", after=True)
        with pytest.raises(KeyboardInterrupt):
            collector.collect(4)
        env.parent_pipes[1] = env.parent_pipes[1].pipe
        begin = time.monotonic()
        with pytest.raises(RuntimeError, match="no answer in"):
            collector.collect(4)
        assert time.monotonic() - begin < 60
        assert env.closed


@pytest.mark.filterwarnings("ignore:.*(ERROR|WARN)")  # Gymnasium's
def test_collect_step_of_process_that_raises_names_the_processes_afterwards() -> None:
    def fail(limit: int, end: Any) -> Any:
        env = CountingEnv(limit, end)
        if limit == 3:
            env.limit = 10**9

            def step(action: Any) -> Any:
                raise ZeroDivisionError

            env.step = step  # type: ignore[method-assign]
        return env

    with processes(AutoresetMode.NEXT_STEP, fail) as env:
        collector = Collector(env, policy, ReplayBuffer(300, num_envs=3))
        with pytest.raises(ZeroDivisionError):
            collector.collect(4)
        with pytest.raises(RuntimeError, match=r"^env: expected an answer"):
            collector.collect(4)
