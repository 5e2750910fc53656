"""`ReplayBuffer.loader` gives the batches of `sample`, which a thread draws ahead of their use."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PolicyExperience, filled, stamped
from torch import Tensor

from velora.buffer import BatchExperience, Experience, Loader, ReplayBuffer, tree

# A wait that lasts longer has failed.
LIMIT = 60


class Watched(ReplayBuffer):
    """Counts its draws, and lets a test hold them up."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.changed = threading.Condition()
        self.allowed = sys.maxsize
        self.begun = 0
        self.drawn = 0

    def sample(self, batch_size: int, **options: Any) -> BatchExperience:
        with self.changed:
            self.begun += 1
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.begun <= self.allowed, LIMIT)
        batch = super().sample(batch_size, **options)
        with self.changed:
            self.drawn += 1
            self.changed.notify_all()
        return batch

    def allow(self, draws: int) -> None:
        with self.changed:
            self.allowed = draws
            self.changed.notify_all()

    def wait_for_draws(self, begun: int = 0, drawn: int = 0) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.begun >= begun and self.drawn >= drawn, LIMIT)


class Failing(ReplayBuffer):
    """Fails in its third draw."""

    draws = 0

    def sample(self, batch_size: int, **options: Any) -> BatchExperience:
        self.draws += 1
        if self.draws == 3:
            raise OSError("the disk is gone")
        return super().sample(batch_size, **options)


def watched(size: int = 50) -> Any:
    return filled(Watched, range(size), size, seed=3)  # type: ignore[type-var]


def plain(size: int = 50, **options: Any) -> ReplayBuffer:
    buffer: ReplayBuffer = filled(ReplayBuffer, range(size), size, seed=3, **options)
    return buffer


def assert_equal(batch: BatchExperience, expected: BatchExperience) -> None:
    assert vars(batch).keys() == vars(expected).keys()
    parts: tuple[list[Tensor], list[Tensor]]
    parts = tree.leaves(vars(batch)), tree.leaves(vars(expected))
    for part, wanted in zip(*parts, strict=True):
        assert part.dtype == wanted.dtype
        assert torch.equal(part, wanted)


def thread_of(loader: Loader) -> threading.Thread:
    assert loader._thread is not None
    return loader._thread


def require_end(thread: threading.Thread) -> None:
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert thread not in threading.enumerate()


def start(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target)
    thread.start()
    return thread


# The batches


@pytest.mark.parametrize("prefetch", [1, 2, 7])
@pytest.mark.parametrize("batch_size", [1, 16, 50])
@pytest.mark.parametrize("options", [{}, {"n_step": 3}, {"compact": True}], ids=str)
def test_loader_gives_the_batches_of_sample(
    options: dict[str, Any], batch_size: int, prefetch: int
) -> None:
    expected = plain(**options)
    with plain(**options).loader(batch_size, prefetch) as loader:
        for batch in islice(loader, 20):
            assert_equal(batch, expected.sample(batch_size))


def test_loader_of_nests_and_extra_fields_gives_the_batches_of_sample() -> None:
    def made() -> ReplayBuffer:
        buffer = ReplayBuffer(20, seed=1)
        for i in range(20):
            state = {"image": torch.full((2, 3), i, dtype=torch.uint8), "pose": (float(i), i)}
            hidden = torch.full((4,), float(i))
            buffer.push(PolicyExperience(state, i, float(i), state, False, float(i), hidden))
        return buffer

    expected = made()
    with made().loader(7) as loader:
        for batch in islice(loader, 5):
            assert_equal(batch, expected.sample(7))


def test_loader_of_large_batches_gives_the_batches_of_sample() -> None:
    def made() -> ReplayBuffer:
        buffer = ReplayBuffer(200, seed=1)
        images = np.arange(200 * 84 * 84, dtype=np.uint32).astype(np.uint8).reshape(200, 84, 84)
        zeros = np.zeros(200, np.float32)
        buffer.extend(
            states=images, actions=zeros, rewards=zeros, next_states=images[::-1], dones=zeros
        )
        return buffer

    expected = made()
    with made().loader(128) as loader:
        for batch in islice(loader, 10):
            assert_equal(batch, expected.sample(128))


def test_loader_calls_the_sample_of_a_subclass() -> None:
    class Scaled(ReplayBuffer):
        def sample(self, batch_size: int, **options: Any) -> BatchExperience:
            batch = super().sample(batch_size, **options)
            batch.rewards = batch.rewards * 10
            return batch

    buffer: Any = filled(Scaled, range(9), 9)  # type: ignore[type-var]
    with buffer.loader(4) as loader:
        batch = next(loader)
    assert torch.equal(batch.rewards, batch.actions * 10.0)


def test_batch_of_a_loader_keeps_its_values_while_later_ones_are_drawn() -> None:
    expected = plain()
    with plain().loader(8) as loader:
        kept = [next(loader) for _ in range(30)]
    for batch in kept:
        assert_equal(batch, expected.sample(8))


# How far ahead


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_loader_draws_prefetch_batches_ahead_and_no_more(prefetch: int) -> None:
    buffer = watched()
    with buffer.loader(4, prefetch) as loader:
        for taken in range(1, 10):
            buffer.allow(taken + prefetch)
            next(loader)
            buffer.wait_for_draws(drawn=taken + prefetch)
            assert buffer.begun == taken + prefetch


@pytest.mark.parametrize("prefetch", [1, 3])
def test_loader_of_a_hasty_consumer_never_is_further_ahead(prefetch: int) -> None:
    class Bounded(ReplayBuffer):
        asked = 0
        ahead: list[int] = []  # noqa: RUF012

        def sample(self, batch_size: int, **options: Any) -> BatchExperience:
            self.ahead.append(len(self.ahead) + 1 - self.asked)
            return super().sample(batch_size, **options)

    buffer: Any = filled(Bounded, range(9), 9)  # type: ignore[type-var]
    buffer.ahead = []
    with buffer.loader(2, prefetch) as loader:
        for _ in range(500):
            buffer.asked += 1
            next(loader)
    assert max(buffer.ahead) <= prefetch


def test_loader_draws_nothing_before_the_first_next() -> None:
    buffer = watched()
    with buffer.loader(4) as loader:
        assert loader._thread is None
    assert buffer.begun == 0


def test_loader_counts_what_it_drew_ahead_as_draws() -> None:
    buffer, alone = watched(), plain()
    with buffer.loader(4, prefetch=3) as loader:
        for _ in range(5):
            next(loader)
        buffer.wait_for_draws(drawn=8)
    for _ in range(8):
        alone.sample(4)
    assert_equal(buffer.sample(9), alone.sample(9))


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "^batch_size: expected at least 1, got 0$"),
        ((2.5,), TypeError, "^batch_size: expected an int, got float$"),
        ((True,), TypeError, "^batch_size: expected an int, got bool$"),
        ((2, 0), ValueError, "^prefetch: expected at least 1, got 0$"),
        ((2, None), TypeError, "^prefetch: expected an int, got NoneType$"),
    ],
)
def test_loader_with_a_bad_argument_says_so_at_once(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plain().loader(*arguments)


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError, match="batch_size") as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("size", [0, 3])
def test_next_with_too_few_experiences_raises_the_error_of_sample(size: int) -> None:
    buffer = ReplayBuffer(10)
    for i in range(size):
        buffer.push(stamped(i))
    with buffer.loader(4) as loader:
        assert error_of(lambda: next(loader)) == error_of(lambda: buffer.sample(4))


def test_next_after_the_buffer_was_filled_gives_the_batches_of_sample() -> None:
    buffer, expected = (ReplayBuffer(10, seed=1) for _ in range(2))
    with buffer.loader(4) as loader:
        for i in range(10):
            if i < 4:
                error_of(lambda: next(loader))
            for each in (buffer, expected):
                each.push(stamped(i))
        for batch in islice(loader, 5):
            assert_equal(batch, expected.sample(4))


def test_next_raises_after_the_batches_that_were_drawn_before_and_then_goes_on() -> None:
    expected = plain()
    buffer: Any = filled(Failing, range(50), 50, seed=3)  # type: ignore[type-var]
    with buffer.loader(4, prefetch=5) as loader:
        for _ in range(2):
            assert_equal(next(loader), expected.sample(4))
        with pytest.raises(OSError, match="the disk is gone"):
            next(loader)
        for _ in range(10):
            assert_equal(next(loader), expected.sample(4))


def test_error_of_a_draw_shows_where_it_was_raised() -> None:
    buffer: Any = filled(Failing, range(50), 50)  # type: ignore[type-var]
    buffer.draws = 2
    with buffer.loader(4) as loader, pytest.raises(OSError, match="disk") as caught:
        next(loader)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "__next__" in frames
    assert frames[-1] == "sample"


def test_next_without_room_for_a_thread_raises_and_the_one_after_begins_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    expected = plain()
    with plain().loader(4) as loader:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start"):
                next(loader)
        assert_equal(next(loader), expected.sample(4))


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_copy_loader_is_a_type_error_that_says_what_to_do(copied: Callable[[Any], Any]) -> None:
    with (
        plain().loader(4) as loader,
        pytest.raises(TypeError, match=r"^loader: cannot be copied or pickled; pickle its buffer"),
    ):
        copied(loader)


# The end


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_close_loader_ends_its_thread_and_the_iteration(taken: int) -> None:
    loader = plain().loader(4)
    for _ in range(taken):
        next(loader)
    thread = loader._thread
    loader.close()
    loader.close()
    assert list(loader) == []
    assert next(loader, None) is None
    assert thread is None or not thread.is_alive()


def test_leave_the_context_of_a_loader_by_an_error_closes_it() -> None:
    loader = plain().loader(4)

    def fail() -> None:
        with loader:
            next(loader)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not thread_of(loader).is_alive()
    assert list(loader) == []


def test_close_loader_lets_go_of_the_batches_that_were_drawn_ahead() -> None:
    drawn: list[weakref.ref[BatchExperience]] = []

    class Kept(Watched):
        def sample(self, batch_size: int, **options: Any) -> BatchExperience:
            batch = super().sample(batch_size, **options)
            drawn.append(weakref.ref(batch))
            return batch

    buffer: Any = filled(Kept, range(50), 50)  # type: ignore[type-var]
    loader = buffer.loader(4, prefetch=5)
    mine = next(loader)
    buffer.wait_for_draws(drawn=6)
    loader.close()
    assert [reference() for reference in drawn] == [mine] + [None] * 5


def test_close_loader_after_an_error_lets_go_of_the_buffer() -> None:
    buffer: Any = filled(Failing, range(50), 50)  # type: ignore[type-var]
    reference = weakref.ref(buffer)
    loader = buffer.loader(4)
    gc.disable()  # it must not take a search for cycles
    try:
        with pytest.raises(OSError, match="disk"):
            list(loader)
        loader.close()
        require_end(thread_of(loader))
        del buffer, loader
        assert reference() is None
    finally:
        gc.enable()


def test_close_loader_while_another_thread_waits_for_a_batch_ends_its_iteration() -> None:
    buffer = watched()
    buffer.allow(0)
    loader = buffer.loader(4)
    taken: list[BatchExperience] = []
    consumer = start(lambda: taken.extend(loader))
    buffer.wait_for_draws(begun=1)
    closer = start(loader.close)
    while not loader._channel.stopped:  # close() has begun
        closer.join(0.001)
    buffer.allow(sys.maxsize)
    require_end(closer)
    require_end(consumer)
    assert len(taken) <= 1


def test_close_loader_just_before_its_thread_begins_ends_the_iteration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loader = plain().loader(4)
    begin = loader._begin

    def close_and_begin() -> None:
        loader.close()
        begin()

    monkeypatch.setattr(loader, "_begin", close_and_begin)
    assert list(loader) == []
    require_end(thread_of(loader))


def test_close_loader_within_a_draw_ends_it() -> None:
    class Closing(ReplayBuffer):
        loaders: list[Loader] = []  # noqa: RUF012

        def sample(self, batch_size: int, **options: Any) -> BatchExperience:
            self.loaders[0].close()
            return super().sample(batch_size, **options)

    buffer: Any = filled(Closing, range(50), 50)  # type: ignore[type-var]
    buffer.loaders = [buffer.loader(4)]
    assert len(list(buffer.loaders[0])) <= 1
    require_end(thread_of(buffer.loaders[0]))


@pytest.mark.parametrize("state", ["full", "drawing", "failed", "cyclic"])
def test_drop_loader_that_was_not_closed_ends_its_thread(state: str) -> None:
    buffer = watched()
    loader: Any = buffer.loader(4)
    next(loader)
    buffer.wait_for_draws(drawn=3)
    if state == "drawing":
        buffer.allow(3)
        next(loader)
        buffer.wait_for_draws(begun=4)
    if state == "failed":
        loader = ReplayBuffer(4).loader(4)
        with pytest.raises(ValueError, match="batch_size"):
            next(loader)
    thread = thread_of(loader)
    if state == "cyclic":
        loader.itself = loader
    del loader
    gc.collect()
    buffer.allow(sys.maxsize)
    require_end(thread)


def test_drop_loader_and_buffer_frees_the_buffer() -> None:
    buffer = watched()
    loader = buffer.loader(4)
    next(loader)
    thread = thread_of(loader)
    reference = weakref.ref(buffer)
    del buffer, loader
    require_end(thread)
    assert reference() is None


def test_collect_a_dropped_loader_within_its_own_thread_ends_it() -> None:
    class Collecting(Watched):
        def sample(self, batch_size: int, **options: Any) -> BatchExperience:
            batch = super().sample(batch_size, **options)
            gc.collect()
            return batch

    buffer: Any = filled(Collecting, range(50), 50)  # type: ignore[type-var]
    buffer.allow(1)
    loader: Any = buffer.loader(4)
    loader.itself = loader
    next(loader)
    buffer.wait_for_draws(begun=2)
    thread = thread_of(loader)
    gc.disable()
    try:
        del loader
        buffer.allow(sys.maxsize)
        require_end(thread)
    finally:
        gc.enable()


def test_interrupt_next_that_waits_raises_and_loses_no_batch() -> None:
    interrupted = threading.Event()

    def raise_once(*_: Any) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def interrupt() -> None:
        buffer.wait_for_draws(begun=1)
        while not interrupted.is_set():  # a signal just before the wait begins does not end it
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            interrupted.wait(0.01)

    buffer, expected = watched(), plain()
    buffer.allow(0)
    before = signal.signal(signal.SIGUSR1, raise_once)
    try:
        with buffer.loader(4) as loader:
            interrupter = start(interrupt)
            with pytest.raises(KeyboardInterrupt):
                next(loader)
            interrupter.join()
            buffer.allow(sys.maxsize)
            for batch in islice(loader, 5):
                assert_equal(batch, expected.sample(4))
    finally:
        signal.signal(signal.SIGUSR1, before)


PROGRAM = """
import sys, numpy
from velora.buffer import ReplayBuffer
buffer = ReplayBuffer(2000, seed=1)
zeros = numpy.zeros((2000, 100), dtype=numpy.float32)
buffer.extend(
    states=zeros, actions=zeros, rewards=zeros[:, 0], next_states=zeros, dones=zeros[:, 0]
)
loader = buffer.loader(2000, prefetch=3)
"""
ENDS = {
    "open": "loaders = [buffer.loader(n) for n in (1, 500, 2000)]\nfor each in loaders: next(each)",
    "dropped with its buffer": "next(loader)\ndel loader, buffer",
    "after an error": "loader = ReplayBuffer(9).loader(2)\ntry: next(loader)\nexcept ValueError: 0",
    "used at exit": "import atexit\natexit.register(lambda: print(len(next(loader)), end=''))",
}


@pytest.mark.parametrize("end", ENDS)
def test_exit_with_a_loader_is_quiet(end: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM + ENDS[end]], capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == ("2000" if end == "used at exit" else "")


def test_exit_while_a_loader_draws_waits_for_that() -> None:
    program = """
import threading, torch
from velora.buffer import Experience, ReplayBuffer
begun = threading.Semaphore(0)
class Slow(ReplayBuffer):
    def sample(self, batch_size):
        begun.release()
        for _ in range(100_000):
            torch.zeros(3)
        print("drawn", end="")
        return super().sample(batch_size)
buffer = Slow(9)
buffer.push(Experience(0.0, 0, 0.0, 0.0, False))
loader = buffer.loader(1, prefetch=1)
next(loader)
for _ in range(2):
    begun.acquire()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "drawn" * 2


# Among other threads and processes


def status_of_child(work: Callable[[], None]) -> int:
    """Runs `work` in a child of fork and returns its status, which is 0 if all went well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks among threads
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LIMIT)  # a child that hangs fails
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("taken", [0, 1])
def test_use_loader_in_a_child_of_fork_raises_and_a_new_one_works(taken: int) -> None:
    buffer, expected = plain(), plain()
    loader = buffer.loader(4)
    for _ in range(taken):
        next(loader)

    def use() -> None:
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"^loader: expected to be used in process "):
                next(loader)
        loader.close()
        loader.close()
        with buffer.loader(4) as another:
            for batch in islice(another, 5):
                stamps = batch.actions.numpy()
                assert (batch.rewards.numpy() == stamps).all()

    assert [status_of_child(use) for _ in range(5)] == [0] * 5
    for _ in range(taken):
        expected.sample(4)
    with loader:
        assert_equal(next(loader), expected.sample(4))


def test_exit_of_a_child_of_fork_with_the_loader_of_its_parent_is_quiet() -> None:
    program = PROGRAM + "import os\nnext(loader)\nif os.fork() > 0: sys.exit(os.wait()[1])"
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")


def run_all(*targets: Callable[[], None]) -> None:
    """Runs all at once and passes on what they raise."""
    raised: list[BaseException] = []

    def guarded(target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:  # handed to the test
            raised.append(error)

    for thread in [start(lambda target=target: guarded(target)) for target in targets]:
        thread.join()
    if raised:
        raise raised[0]


FEATURES = 64
# Of rows that wide: well above what is gathered without the GIL.
LARGE = 2000


def rows_of(begin: int, end: int) -> dict[str, Any]:
    """Rows of which each part says which one it is."""
    column = np.arange(begin, end, dtype=np.float32).reshape(-1, 1)
    return {
        "states": column.repeat(FEATURES, 1),
        "actions": column,
        "rewards": column,
        "next_states": column.repeat(FEATURES, 1) + 0.5,
        "dones": column % 50 == 49,
    }


def test_loaders_of_one_buffer_never_tear_a_row_that_others_push() -> None:
    buffer = ReplayBuffer(2 * LARGE, seed=7)
    buffer.extend(**rows_of(0, 2 * LARGE))
    written = threading.Event()

    def write() -> None:
        try:
            for i in range(300):
                buffer.extend(**rows_of(100 * i, 100 * i + 100))
                buffer.push(Experience(*(part[0] for part in rows_of(i, i + 1).values())))
        finally:
            written.set()

    def read(batch_size: int) -> None:
        with buffer.loader(batch_size) as loader:
            while not written.is_set():
                batch = next(loader)
                stamps = batch.actions.numpy()
                assert (batch.states.numpy() == stamps).all()
                assert (batch.rewards.numpy() == stamps).all()
                assert (batch.next_states.numpy() == stamps + 0.5).all()
                assert (batch.dones.numpy() == (stamps % 50 == 49)).all()

    run_all(write, *[lambda size=size: read(size) for size in (3, LARGE, LARGE)])


@pytest.mark.parametrize("loaders", [1, 3])
def test_loaders_whose_batches_many_threads_take_make_each_draw_once(loaders: int) -> None:
    buffer, alone = watched(), plain()
    made = [buffer.loader(8) for _ in range(loaders)]
    taken: list[tuple[int, ...]] = []

    def take(loader: Iterator[BatchExperience]) -> None:
        taken.extend(tuple(batch.indices.tolist()) for batch in islice(loader, 50))

    run_all(*[lambda loader=loader: take(loader) for loader in made * 3])
    for loader in made:
        loader.close()
    expected = {tuple(alone.sample(8).indices.tolist()) for _ in range(buffer.drawn)}
    assert len(taken) == len(set(taken)) == 150 * loaders
    assert set(taken) <= expected
    assert_equal(buffer.sample(9), alone.sample(9))
