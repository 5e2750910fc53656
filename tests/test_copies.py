"""Copies in other processes draw others; copies in this one, and what is loaded, the same."""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import AnyBuffer, assert_same_future, filled, stamped
from torch.utils.data import DataLoader, IterableDataset

from velora.buffer import ReplayBuffer, RolloutBuffer

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of forks among threads
    pytest.mark.timeout(120),
]

ROWS = 1000
COUNT = 16  # two draws of so many of the rows agree by chance once in 10**40

Draw = Callable[[Any], list[Any]]


def full(**options: Any) -> ReplayBuffer:
    return filled(ReplayBuffer, range(ROWS), ROWS, seed=9, **options)


def draw(buffer: ReplayBuffer) -> list[int]:
    return buffer.sample(COUNT).indices.tolist()


def draw_starts(buffer: ReplayBuffer) -> list[int]:
    return buffer.sample_sequences(COUNT, 2).indices[:, 0].tolist()


def draw_loaded(buffer: ReplayBuffer) -> list[int]:
    with buffer.loader(COUNT) as loader:
        return next(loader).indices.tolist()


def push_and_draw(buffer: ReplayBuffer) -> list[int]:
    buffer.push(stamped(0))
    return draw(buffer)


def minibatch(buffer: RolloutBuffer) -> list[int]:
    return next(buffer.minibatches(COUNT)).actions.flatten().tolist()


def in_child(draw: Callable[[], Any]) -> Any:
    """Returns the result of `draw` in a forked child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)  # a child that hangs fails
        with contextlib.suppress(BaseException):
            os.write(writing, json.dumps(draw()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        answer = file.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def all_differ(draws: list[list[int]]) -> bool:
    return len({tuple(each) for each in draws}) == len(draws)


# Children of fork


REPLAY_DRAWS = [draw, draw_starts, draw_loaded, push_and_draw]


@pytest.mark.parametrize("by", REPLAY_DRAWS, ids=lambda by: by.__name__)
def test_draw_in_children_of_fork_differs_from_the_parent_and_each_other(by: Draw) -> None:
    buffer = full()
    children = [in_child(lambda: by(buffer)) for _ in range(3)]
    assert all_differ([*children, by(buffer)])


def test_draw_in_children_of_children_differs_from_all_others() -> None:
    buffer = full()

    def family() -> list[list[int]]:
        before = [in_child(lambda: draw(buffer)) for _ in range(2)]
        own = draw(buffer)
        return [*before, own, *(in_child(lambda: draw(buffer)) for _ in range(2))]

    assert all_differ([*in_child(family), *in_child(family), draw(buffer)])


def test_draw_in_children_that_several_threads_fork_differs() -> None:
    buffer = full()
    drawn: list[list[int]] = []

    def fork() -> None:
        drawn.append(in_child(lambda: draw(buffer)))

    threads = [threading.Thread(target=fork) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == 6
    assert all_differ(drawn)


def test_draw_in_a_child_that_makes_the_first_push_differs() -> None:
    buffer = ReplayBuffer(ROWS, seed=9)

    def fill_and_draw() -> list[int]:
        for i in range(ROWS):
            buffer.push(stamped(i))
        return draw(buffer)

    assert all_differ([in_child(fill_and_draw), in_child(fill_and_draw), draw(full())])


def test_fork_leaves_the_draws_of_the_parent_alone() -> None:
    buffer, alone = full(), full()
    in_child(lambda: draw(buffer))
    assert draw(buffer) == draw(alone)
    in_child(lambda: None)
    assert draw(buffer) == draw(alone)


def test_copy_made_in_a_child_goes_on_as_the_childs_buffer() -> None:
    buffer = full()

    def compare() -> bool:
        again = pickle.loads(pickle.dumps(buffer))
        return draw(again) == draw(buffer)

    assert in_child(compare)


def test_pickle_of_a_child_goes_on_in_the_parent_as_in_the_child() -> None:
    buffer = full()

    def give() -> tuple[str, list[int]]:
        return pickle.dumps(buffer).hex(), draw(buffer)

    pickled, drawn = in_child(give)
    assert draw(pickle.loads(bytes.fromhex(pickled))) == drawn


def test_draw_in_children_of_a_program_repeats_with_the_program() -> None:
    program = f"""
import sys, os, json
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_copies import *
buffer = full()
draw(buffer)
print(json.dumps([in_child(lambda: draw(buffer)) for _ in range(2)]))
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    runs = [subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2)]
    assert runs[0] == runs[1]


def test_minibatches_in_children_of_fork_differ() -> None:
    buffer = filled(RolloutBuffer, range(ROWS), ROWS)
    assert all_differ([*(in_child(lambda: minibatch(buffer)) for _ in range(3)), minibatch(buffer)])


def test_minibatches_in_a_child_repeat_with_torchs_generator() -> None:
    buffer = filled(RolloutBuffer, range(ROWS), ROWS)

    def twice() -> list[list[int]]:
        drawn = []
        for _ in range(2):
            torch.manual_seed(5)
            drawn.append(minibatch(buffer))
        return drawn

    first, second = in_child(twice)
    assert first == second


def test_minibatches_of_the_parent_are_those_of_torchs_generator() -> None:
    buffer = filled(RolloutBuffer, range(ROWS), ROWS)
    in_child(lambda: minibatch(buffer))
    torch.manual_seed(3)
    drawn = minibatch(buffer)
    torch.manual_seed(3)
    assert drawn == torch.randperm(ROWS)[:COUNT].tolist()


# Processes that multiprocessing starts


def report(queue: Any, by: Draw, buffer: AnyBuffer) -> None:
    queue.put(by(buffer))


def in_processes(context: Any, by: Draw, buffer: AnyBuffer, count: int) -> list[list[int]]:
    queue = context.SimpleQueue()
    processes = [context.Process(target=report, args=(queue, by, buffer)) for _ in range(count)]
    for process in processes:
        process.start()
    drawn = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    return drawn


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_draw_in_processes_differs_from_the_parent_and_each_other(method: str) -> None:
    buffer = full()
    drawn = in_processes(multiprocessing.get_context(method), draw, buffer, 2)
    assert all_differ([*drawn, draw(buffer)])
    assert all_differ([*drawn, *in_processes(multiprocessing.get_context(method), draw, buffer, 1)])


def test_draw_in_a_spawned_process_that_makes_the_first_push_differs() -> None:
    buffer = ReplayBuffer(ROWS, seed=9)
    drawn = in_processes(torch.multiprocessing.get_context("spawn"), fill_and_draw, buffer, 2)
    assert all_differ([*drawn, fill_and_draw(buffer)])


def fill_and_draw(buffer: ReplayBuffer) -> list[int]:
    for i in range(ROWS):
        buffer.push(stamped(i))
    return draw(buffer)


def test_minibatches_in_spawned_processes_differ() -> None:
    buffer = filled(RolloutBuffer, range(ROWS), ROWS)
    drawn = in_processes(multiprocessing.get_context("spawn"), minibatch, buffer, 2)
    assert all_differ([*drawn, minibatch(buffer)])


_held: list[ReplayBuffer] = []


def hold(buffer: ReplayBuffer) -> None:
    _held.append(buffer)


def draw_held(_: int) -> tuple[int, list[int]]:
    return os.getpid(), draw(_held[-1])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_draw_in_an_executor_that_begins_with_a_buffer_differs(method: str) -> None:
    buffer = full()
    context = multiprocessing.get_context(method)
    executor = concurrent.futures.ProcessPoolExecutor(
        2, mp_context=context, initializer=hold, initargs=(buffer,)
    )
    with executor:
        drawn = [each for _, each in executor.map(draw_held, range(6))]
    assert all_differ([*drawn, draw(buffer)])


def test_copy_for_a_process_that_is_copied_there_draws_as_it() -> None:
    buffer = full()
    drawn = in_processes(multiprocessing.get_context("spawn"), draw_of_both, buffer, 1)[0]
    assert drawn[:COUNT] == drawn[COUNT:]
    assert drawn[:COUNT] != draw(buffer)


def draw_of_both(buffer: ReplayBuffer) -> list[int]:
    return draw(pickle.loads(pickle.dumps(buffer))) + draw(buffer)


# Workers of a DataLoader


class Draws(IterableDataset[Any]):
    """Some draws of a buffer, by each worker."""

    def __init__(self, buffer: Any, by: Draw, count: int = 1) -> None:
        self.buffer, self.by, self.count = buffer, by, count

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.count):
            yield self.by(self.buffer)


def epochs(buffer: Any, by: Draw, method: str, count: int = 2, **options: Any) -> list[list[int]]:
    """Returns the draws of two workers in some epochs."""
    loader = DataLoader(
        Draws(buffer, by), batch_size=None, num_workers=2, multiprocessing_context=method, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [list(each) for _ in range(count) for each in loader]


@pytest.mark.parametrize(
    ("method", "persistent"), [("fork", False), ("fork", True), ("spawn", False)]
)
def test_draw_in_two_workers_and_two_epochs_gives_four_batches(
    method: str, persistent: bool
) -> None:
    buffer = full()
    drawn = epochs(buffer, draw, method, persistent_workers=persistent)
    assert all_differ([*drawn, draw(buffer)])


@pytest.mark.parametrize("by", REPLAY_DRAWS[1:], ids=lambda by: by.__name__)
def test_draw_of_any_kind_in_workers_differs(by: Draw) -> None:
    buffer = full()
    assert all_differ([*epochs(buffer, by, "fork"), by(buffer)])


def test_minibatches_in_workers_differ() -> None:
    buffer = filled(RolloutBuffer, range(ROWS), ROWS)
    assert all_differ([*epochs(buffer, minibatch, "fork"), minibatch(buffer)])


def test_draw_in_workers_repeats_with_torchs_generator_however_they_start() -> None:
    runs = []
    for method in ("fork", "fork", "spawn"):
        torch.manual_seed(4)
        runs.append(epochs(full(), draw, method, 1))
    assert runs[0] == runs[1] == runs[2]


def test_draw_in_children_of_workers_differs() -> None:
    drawn = epochs(full(), draw_in_two_children, "fork", 1)
    assert all_differ([part for each in drawn for part in (each[:COUNT], each[COUNT:])])


def draw_in_two_children(buffer: ReplayBuffer) -> list[int]:
    return in_child(lambda: draw(buffer)) + in_child(lambda: draw(buffer))


def test_draw_in_the_main_process_beside_workers_repeats() -> None:
    buffer, alone = full(), full()
    for _ in range(2):
        epochs(buffer, draw, "fork", 1)
        assert draw(buffer) == draw(alone)


# Copies in this process, and seeds


def exact_copies(buffer: ReplayBuffer) -> list[ReplayBuffer]:
    return [pickle.loads(pickle.dumps(buffer)), copy.deepcopy(buffer), copy.copy(buffer)]


def test_copy_in_one_process_draws_the_same() -> None:
    buffer = full()
    draw(buffer)
    copies = exact_copies(buffer)
    for _ in range(3):
        expected = draw(buffer)
        assert [draw(each) for each in copies] == [expected] * 3


def test_send_buffer_through_a_queue_goes_on_exactly() -> None:
    buffer = full()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(draw, (buffer,)) == draw(buffer)


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_seed_begins_the_draws_of_a_new_buffer(device: str) -> None:
    buffer, fresh = full(device=device), full(device=device)
    draw(buffer)
    draw(buffer)
    buffer.seed(9)
    assert [draw(buffer), draw_starts(buffer)] == [draw(fresh), draw_starts(fresh)]
    buffer.seed(10)
    fresh.seed(9)
    assert draw(buffer) != draw(fresh)
    assert_same_future(buffer, pickle.loads(pickle.dumps(buffer)))


def test_seed_before_the_first_push_is_that_of_the_draws() -> None:
    buffer = ReplayBuffer(ROWS, seed=1)
    buffer.seed(9)
    assert fill_and_draw(buffer) == draw(full())


def test_seed_in_a_child_is_that_of_the_draws() -> None:
    buffer = full()

    def seeded() -> list[int]:
        buffer.seed(9)
        return draw(buffer)

    assert in_child(seeded) == draw(full())


def test_seed_without_a_number_takes_one_from_torchs_generator() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(2)
        buffer = full()
        buffer.seed(None)
        drawn.append(draw(buffer))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (2**64, ValueError), (1.5, TypeError)]
)
def test_seed_that_is_none_is_refused_and_changes_nothing(seed: Any, error: Any) -> None:
    buffer, alone = full(), full()
    with pytest.raises(error, match="seed: expected"):
        buffer.seed(seed)
    assert draw(buffer) == draw(alone)


def test_seed_while_another_thread_makes_the_first_push_is_kept() -> None:
    for _ in range(200):
        buffer = ReplayBuffer(4, seed=1)
        pushing = threading.Thread(target=lambda buffer=buffer: buffer.push(stamped(0)))
        pushing.start()
        buffer.seed(9)
        pushing.join()
        assert pickle.loads(pickle.dumps(buffer)).__getstate__()["seed"] == 9
