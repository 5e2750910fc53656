"""Large batches: several threads gather them, without the GIL, while others wait for the buffer."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer

Array = NDArray[np.generic]

FEATURES = 64
# Of rows that wide: well above what makes a batch a large one.
LARGE = 3000


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


def rows_of(start: int, end: int) -> dict[str, Array]:
    """Rows of which each part says which one it is."""
    stamps = np.arange(start, end)
    column = stamps.astype(np.float32).reshape(-1, 1)
    return {
        "states": column.repeat(FEATURES, 1),
        "actions": stamps,
        "rewards": column,
        "next_states": column.repeat(FEATURES, 1) + 0.5,
        "dones": stamps % 50 == 49,
    }


def large(capacity: int = 2 * LARGE, **options: object) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, seed=7, **options)  # type: ignore[arg-type]
    buffer.extend(**rows_of(0, capacity))
    return buffer


def require_true(batch: BatchExperience) -> None:
    """Every row must be one that was stored, all of it.

    Numpy compares: torch's own threads would hang in a child of fork.
    """
    actions = batch.actions.numpy()
    assert (batch.states.numpy() == actions).all()
    assert (batch.rewards.numpy() == actions).all()
    assert (batch.next_states.numpy() == actions + 0.5).all()
    assert (batch.dones.numpy() == (actions % 50 == 49)).all()


def steps_of(sequences: BatchExperience) -> BatchExperience:
    """The steps of all sequences one after the other."""
    parts = ("states", "actions", "rewards", "next_states", "dones")
    return BatchExperience(*(getattr(sequences, part).flatten(0, 1) for part in parts))


def require_equal(one: BatchExperience, other: BatchExperience) -> None:
    for field in fields(BatchExperience):
        first, second = getattr(one, field.name), getattr(other, field.name)
        if isinstance(first, Tensor):
            np.testing.assert_array_equal(first.numpy(), second.numpy(), field.name)
        else:
            assert first == second, field.name


def run_all(*targets: Callable[[], None]) -> None:
    """Runs all at once and passes on what they raise."""
    raised: list[BaseException] = []

    def guarded(target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:  # handed to the test
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def vectors(**options: object) -> ReplayBuffer:
    return large(10_000, **options)


def images(**options: object) -> ReplayBuffer:
    buffer = ReplayBuffer(100, seed=1, **options)  # type: ignore[arg-type]
    frames = torch.randint(0, 256, (124, 64, 64), dtype=torch.uint8)
    for start in range(0, 120, 40):  # three episodes, so that stacks begin anew
        stacks = torch.stack([frames[start + i : start + i + 40] for i in range(4)], 1)
        buffer.extend(
            states=stacks,
            actions=torch.arange(40),
            rewards=torch.zeros(40),
            next_states=stacks.roll(-1, 0),
            dones=torch.arange(40) == 39,
        )
    return buffer


def rollout() -> RolloutBuffer:
    buffer = RolloutBuffer(10_000, num_envs=4)
    buffer.extend(**rows_of(0, 10_000))
    return buffer


@pytest.mark.parametrize(
    ("make", "draw"),
    [
        (vectors, lambda buffer: buffer.sample(7777)),
        (lambda: vectors(num_envs=4), lambda buffer: buffer.sample(7777)),
        (lambda: vectors(n_step=5), lambda buffer: buffer.sample(7777)),
        (lambda: vectors(compact=True), lambda buffer: buffer.sample(7777)),
        (vectors, lambda buffer: buffer.sample_sequences(333, 20, 5)),
        (vectors, lambda buffer: buffer.sample_sequences(333, 20, 5, boundary="cross")),
        (lambda: vectors(compact=True), lambda buffer: buffer.sample_sequences(333, 20)),
        (lambda: images(compact=False), lambda buffer: buffer.sample(99)),
        (lambda: images(compact=True), lambda buffer: buffer.sample(99)),
        (lambda: images(frame_stack=4), lambda buffer: buffer.sample(99)),
        (lambda: images(frame_stack=4), lambda buffer: buffer.sample_sequences(20, 8)),
        (rollout, lambda buffer: buffer.sample()),
    ],
)
def test_batch_is_the_same_for_any_number_of_threads(
    make: Callable[[], ReplayBuffer], draw: Callable[[ReplayBuffer], BatchExperience]
) -> None:
    torch.set_num_threads(1)
    saved = pickle.dumps(make())
    expected = draw(pickle.loads(saved))
    for threads in (2, 3, 16):
        torch.set_num_threads(threads)
        require_equal(draw(pickle.loads(saved)), expected)


def test_sample_large_batches_while_others_write_never_tears_a_row() -> None:
    buffer = large()
    written = threading.Event()

    def push() -> None:
        for i in range(1500):
            buffer.push(Experience(*(part[0] for part in rows_of(i, i + 1).values())))

    def extend() -> None:
        for i in range(300):
            buffer.extend(**rows_of(100 * i, 100 * i + 100))

    def write() -> None:
        try:
            run_all(push, push, extend)
        finally:
            written.set()

    def sample() -> None:
        while not written.is_set():
            require_true(buffer.sample(LARGE))

    def read_all_ways() -> None:
        while not written.is_set():
            require_true(buffer.sample(5))
            sequences = buffer.sample_sequences(400, 8, boundary="cross")
            require_true(steps_of(sequences))
            assert buffer[0].state.shape == (FEATURES,)
            assert len(buffer) == 2 * LARGE
            buffer.end_episodes()
            copy = pickle.loads(pickle.dumps(buffer))
            require_true(copy.sample(LARGE))

    run_all(write, sample, read_all_ways)
    require_true(buffer.sample(2 * LARGE))


def test_sample_large_batches_from_many_threads_makes_each_draw_once() -> None:
    calls, threads = 25, 4
    buffer, alone = large(), large()
    drawn: list[BatchExperience] = []

    def sample() -> None:
        for _ in range(calls):
            batch = buffer.sample(LARGE)
            require_true(batch)
            drawn.append(batch)

    run_all(*[sample] * threads)
    expected = {tuple(alone.sample(LARGE).indices.tolist()) for _ in range(calls * threads)}
    assert {tuple(batch.indices.tolist()) for batch in drawn} == expected


def test_clear_while_large_batches_are_taken_leaves_them_whole() -> None:
    buffer = RolloutBuffer(LARGE)
    rows = rows_of(0, LARGE)
    buffer.extend(**rows)
    filled = threading.Event()

    def refill() -> None:
        try:
            for _ in range(200):
                buffer.empty()
                buffer.extend(**rows)
        finally:
            filled.set()

    def sample() -> None:
        while not filled.is_set():
            try:
                batch = buffer.sample()
            except (BufferError, ValueError):  # between the two
                continue
            require_true(batch)
            assert batch.actions.flatten().tolist() == list(range(LARGE))

    run_all(refill, sample, sample)


@pytest.mark.parametrize("threads", [1, 3])
def test_sample_lets_other_threads_run_while_it_gathers_a_large_batch(threads: int) -> None:
    torch.set_num_threads(threads)
    buffer = large(50_000)
    core = buffer._core
    assert core is not None
    progress = 0
    done = False

    def count() -> None:
        nonlocal progress
        while not done:
            progress += 1
            time.sleep(0)

    def progresses(batch_size: int, tries: int) -> bool:
        for _ in range(tries):
            before = progress
            batch = core.sample(batch_size)
            if progress != before:
                return True
            del batch
        return False

    interval = sys.getswitchinterval()
    counter = threading.Thread(target=count)
    counter.start()
    while progress == 0:
        time.sleep(0.001)
    sys.setswitchinterval(1000.0)  # from here on threads run when another lets them
    try:
        assert not progresses(100, 100)
        assert progresses(50_000, 1000)
    finally:
        sys.setswitchinterval(interval)
        done = True
        counter.join()


def test_fork_while_another_thread_samples_leaves_the_child_a_buffer_that_works() -> None:
    buffer = large()
    stop = threading.Event()
    freeing = threading.Lock()
    kept: list[BatchExperience] = []

    def sample() -> None:
        while not stop.is_set():
            kept.append(buffer.sample(LARGE))
            if len(kept) == 50:
                with freeing:
                    kept.clear()

    def use() -> None:
        for _ in range(3):
            require_true(buffer.sample(LARGE))
        buffer.extend(**rows_of(0, 100))
        run_all(*[lambda: require_true(buffer.sample(LARGE))] * 3)

    def use_in_child() -> int:
        with freeing, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks among threads
            child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)  # a child that hangs fails
            try:
                use()
            except BaseException:
                os._exit(1)
            os._exit(0)
        return os.waitpid(child, 0)[1]

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        assert [use_in_child() for _ in range(15)] == [0] * 15
    finally:
        stop.set()
        sampler.join()
    use()


def test_exit_while_daemons_use_a_buffer_is_quiet() -> None:
    # Batches are kept, and rows are numpy's: a daemon that needs torch at that moment, if only to
    # free a tensor, makes torch abort.
    program = f"""
import threading, numpy, torch
from velora.buffer import ReplayBuffer
torch.set_num_threads(3)
buffer = ReplayBuffer(5000)
zeros = numpy.zeros((5000, {FEATURES}), dtype=numpy.float32)
rows = dict(states=zeros, actions=zeros, rewards=zeros[:, 0], next_states=zeros, dones=zeros[:, 0])
buffer.extend(**rows)
kept = []
begun = threading.Semaphore(0)
def use(call):
    while True:
        kept.append(call())
        begun.release()
for call in [lambda: buffer.sample(5000)] * 2 + [lambda: buffer.extend(**rows)]:
    threading.Thread(target=use, args=(call,), daemon=True).start()
for _ in range(10):
    begun.acquire()
"""
    for _ in range(3):
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
        )
        assert (result.returncode, result.stderr) == (0, "")
