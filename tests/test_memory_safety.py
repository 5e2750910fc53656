"""Memory that comes and goes while the buffer looks at it."""

from __future__ import annotations

import gc
import random
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import AnyBuffer, Meddler, filled, stack, stamped, stamps_of, step, unchanged

from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer

STATM = Path("/proc/self/statm")


@dataclass(eq=False)
class Fresh(Experience):
    """Makes a new tensor each time that a field is read: nothing else keeps it alive."""

    stamp: int = 0

    def __getattribute__(self, name: str) -> Any:
        stamp = super().__getattribute__("__dict__").get("stamp", 0)
        if name == "state":
            return torch.full((50,), float(stamp))
        if name == "action":
            return np.full((20,), stamp, dtype=np.int64)[::-1]
        if name == "reward":
            return torch.tensor(float(stamp), dtype=torch.float64)
        if name == "next_state":
            return torch.full((100,), stamp + 0.5, dtype=torch.float64)[::2]
        return super().__getattribute__(name)


def test_push_fields_made_on_reading_stores_their_values() -> None:
    buffer = RolloutBuffer(300)
    for i in range(300):
        buffer.push(Fresh(None, None, None, None, i % 2 == 0, stamp=i))
    batch = buffer.sample()
    column = torch.arange(300.0).reshape(300, 1)
    assert torch.equal(batch.states, column.expand(300, 50))
    assert torch.equal(batch.actions, column.long().expand(300, 20))
    assert torch.equal(batch.rewards, column)
    assert torch.equal(batch.next_states, (column + 0.5).expand(300, 50))


def test_push_temporaries_stores_their_values() -> None:
    buffer = ReplayBuffer(50)
    for i in range(500):
        buffer.push(Experience(torch.full((500,), float(i)), i, i, torch.full((500,), i + 0.5), 0))
        torch.full((500,), -1.0)
    batch = buffer.sample(50)
    assert torch.equal(batch.states, batch.actions.float().expand(50, 500))
    assert torch.equal(batch.next_states, batch.actions.float().expand(50, 500) + 0.5)


def test_push_keeps_no_reference_to_what_was_pushed() -> None:
    buffer = ReplayBuffer(5)
    state, action = torch.zeros(3), np.zeros(3)
    experience = step(state=state, action=action)
    before = [sys.getrefcount(thing) for thing in (state, action, experience)]
    for _ in range(10):
        buffer.push(experience)
    assert [sys.getrefcount(thing) for thing in (state, action, experience)] == before


def test_push_that_fails_keeps_no_reference_to_what_was_pushed() -> None:
    buffer = filled(ReplayBuffer, range(3), 5)
    state, action = torch.zeros(4), np.zeros(3)
    experience = step(state=state, action=action)
    before = [sys.getrefcount(thing) for thing in (state, action, experience)]
    for _ in range(10):
        with pytest.raises(ValueError, match=r"^action: "):
            buffer.push(experience)
    assert [sys.getrefcount(thing) for thing in (state, action, experience)] == before


def test_extend_keeps_no_reference_to_the_batch() -> None:
    buffer = ReplayBuffer(5)
    batch = stack([stamped(i) for i in range(3)])
    before = sys.getrefcount(batch.states)
    for _ in range(10):
        buffer.extend(batch)
    after = sys.getrefcount(batch.states)
    assert after == before


def test_push_numpy_array_leaves_it_resizable() -> None:
    array = np.zeros(3)
    buffer = ReplayBuffer(5)
    buffer.push(step(action=array))
    array.resize(5, refcheck=False)  # refused while a buffer of it is exported
    assert array.shape == (5,)


@pytest.mark.parametrize("kind", [ReplayBuffer, RolloutBuffer])
def test_delete_buffer_releases_it_and_its_core(kind: type[AnyBuffer]) -> None:
    buffer = filled(kind, range(3), 5)
    buffer_reference = weakref.ref(buffer)
    batch = buffer.sample(2) if isinstance(buffer, ReplayBuffer) else buffer.sample()
    del buffer
    gc.collect()
    assert buffer_reference() is None
    assert len(set(stamps_of(batch))) == len(batch)


@dataclass(eq=False)
class Reentrant(Experience):
    """Does something to the buffer while the buffer reads its action."""

    act: Any = None

    def __getattribute__(self, name: str) -> Any:
        if name == "action":
            act = super().__getattribute__("__dict__").pop("callback", None)
            if act is not None:
                act()
        if name == "act":
            return 0
        return super().__getattribute__(name)


def reentrant(i: int, callback: Callable[[], Any]) -> Experience:
    source = stamped(i)
    made = Reentrant(*source, truncated=source.truncated)
    made.__dict__["callback"] = callback
    return made


def quiet(i: int) -> Experience:
    return reentrant(i, lambda: None)


def test_push_within_a_push_stores_both_whole() -> None:
    buffer = ReplayBuffer(5, seed=1)
    buffer.push(quiet(1))
    buffer.push(reentrant(2, lambda: buffer.push(quiet(3))))
    assert [experience.action for experience in buffer] == [1, 3, 2]
    assert sorted(stamps_of(buffer.sample(3))) == [1, 2, 3]


def test_push_within_the_first_push_stores_both_whole() -> None:
    buffer = ReplayBuffer(5, seed=1)
    buffer.push(reentrant(2, lambda: buffer.push(quiet(3))))
    assert [experience.action for experience in buffer] == [3, 2]
    assert sorted(stamps_of(buffer.sample(2))) == [2, 3]


def test_push_within_an_extend_stores_both_whole() -> None:
    class Late:
        """An array whose reading pushes."""

        def __dlpack__(self, **options: Any) -> Any:
            buffer.push(stamped(9))
            return torch.zeros(2).__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return torch.zeros(2).__dlpack_device__()

    buffer = filled(ReplayBuffer, range(2), 8)
    batch = stack([stamped(3), stamped(4)])
    batch.rewards = Late()
    buffer.extend(batch)
    assert [experience.action for experience in buffer] == [0, 1, 9, 3, 4]


def test_push_deep_within_pushes_stores_all() -> None:
    buffer = ReplayBuffer(50, seed=1)
    buffer.push(quiet(0))

    def nest(depth: int) -> None:
        if depth < 20:
            buffer.push(reentrant(depth, lambda: nest(depth + 1)))

    nest(1)
    assert [experience.action for experience in buffer] == [0, *range(19, 0, -1)]


def test_push_that_fills_the_rollout_on_the_way_refuses_the_outer_one() -> None:
    buffer = RolloutBuffer(2)
    buffer.push(quiet(1))
    with pytest.raises(BufferError, match="full"):
        buffer.push(reentrant(2, lambda: buffer.push(quiet(3))))
    assert stamps_of(buffer.sample()) == [1, 3]


def test_empty_within_a_push_keeps_the_pushed_row() -> None:
    buffer = RolloutBuffer(2)
    buffer.push(quiet(1))
    buffer.push(reentrant(2, buffer.empty))
    assert stamps_of(buffer.sample()) == [2]


def test_sample_within_a_push_sees_only_whole_rows() -> None:
    buffer = ReplayBuffer(2, seed=1)
    seen: list[int] = []
    for i in range(1, 4):
        buffer.push(quiet(i))
    buffer.push(reentrant(4, lambda: seen.extend(stamps_of(buffer.sample(2)))))
    assert sorted(seen) == [2, 3]
    assert sorted(stamps_of(buffer.sample(2))) == [3, 4]


def test_pickle_within_a_push_holds_whole_rows() -> None:
    buffer = ReplayBuffer(2, seed=1)
    states: list[Any] = []
    for i in range(1, 4):
        buffer.push(quiet(i))
    buffer.push(reentrant(4, lambda: states.append(buffer.__getstate__())))
    again = ReplayBuffer.__new__(ReplayBuffer)
    again.__setstate__(states[0])
    assert [experience.action for experience in again] == [2, 3]


class Resizing:
    """A batch size whose reading changes the buffer."""

    def __init__(self, buffer: RolloutBuffer | ReplayBuffer, count: int) -> None:
        self.buffer, self.count = buffer, count

    def __index__(self) -> int:
        for i in range(20, 30):
            self.buffer.push(stamped(i))
        return self.count


def test_sample_size_that_pushes_when_read_draws_from_what_there_is_then() -> None:
    buffer = filled(ReplayBuffer, range(3), 5, seed=1)
    assert set(stamps_of(buffer.sample(Resizing(buffer, 5)))) == {25, 26, 27, 28, 29}  # type: ignore[arg-type]


def run_threads(*targets: Callable[[], None]) -> None:
    """Runs all at once, with switches as often as Python allows, and passes on what they raise."""
    raised: list[BaseException] = []

    def guarded(target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:  # handed to the test
            raised.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if raised:
        raise raised[0]


def test_push_and_sample_from_threads_never_tears_a_row() -> None:
    buffer = filled(ReplayBuffer, range(64), 64, seed=1)
    finished = threading.Event()

    def write(offset: int) -> None:
        for i in range(offset, offset + 3000):
            buffer.push(stamped(i))

    def write_batches() -> None:
        for i in range(300):
            buffer.extend(stack([stamped(10_000 + 7 * i + j) for j in range(7)]))

    def read() -> None:
        while not finished.is_set():
            batch = buffer.sample(32)
            assert len(set(batch.indices.tolist())) == 32
            stamps_of(batch)

    def write_all() -> None:
        try:
            run_writers()
        finally:
            finished.set()

    def run_writers() -> None:
        run_threads(lambda: write(0), lambda: write(5000), write_batches)

    run_threads(write_all, read, read)
    assert len(buffer) == 64
    assert buffer.sample(1).indices.item() >= 64 + 6000 + 2100 - 64


def test_push_from_threads_stores_each_once() -> None:
    buffer = ReplayBuffer(4000, seed=1)

    def write(offset: int) -> None:
        for i in range(offset, offset + 1000):
            buffer.push(stamped(i))

    buffer.push(stamped(0))
    run_threads(*(lambda offset=offset: write(offset) for offset in (1, 1001, 2001)))
    assert len(buffer) == 3001
    assert sorted(stamps_of(buffer.sample(3001))) == list(range(3001))


def test_fill_rollout_from_threads_stores_no_more_than_fits() -> None:
    buffer = RolloutBuffer(500)
    buffer.push(stamped(0))
    refused: list[int] = []

    def write() -> None:
        for i in range(300):
            try:
                buffer.push(stamped(i))
            except BufferError:  # noqa: PERF203
                refused.append(i)

    run_threads(write, write, write)
    assert len(buffer) == 500
    assert len(refused) == 900 - 499


def test_draw_from_threads_gives_each_draw_once() -> None:
    buffer = filled(ReplayBuffer, range(50), 50, seed=3)
    alone = filled(ReplayBuffer, range(50), 50, seed=3)
    drawn: list[tuple[int, ...]] = []

    def read() -> None:
        for _ in range(300):
            drawn.append(tuple(buffer.sample(5).indices.tolist()))  # noqa: PERF401

    run_threads(read, read, read)
    expected = [tuple(alone.sample(5).indices.tolist()) for _ in range(900)]
    assert sorted(drawn) == sorted(expected)


def resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * 4096


@pytest.mark.undisturbed
@pytest.mark.skipif(not STATM.exists(), reason="needs /proc")
def test_release_batches_in_any_order_gives_their_memory_back() -> None:
    buffer = filled(ReplayBuffer, range(2000), 2000, seed=1)
    generator = random.Random(0)
    held: list[tuple[BatchExperience, list[int]]] = []

    def churn(rounds: int) -> None:
        for _ in range(rounds):
            batch = buffer.sample(generator.choice([1, 64, 700, 1500]))
            held.append((batch, batch.indices.tolist()))
            while len(held) > 100 or (held and generator.random() < 0.45):
                kept, indices = held.pop(generator.randrange(len(held)))
                assert kept.indices.tolist() == indices
        held.clear()

    churn(500)
    gc.collect()
    before = resident_bytes()
    churn(5000)
    gc.collect()
    # 5000 batches are about 300 MB; what may stay are idle slabs and the allocator's slack.
    assert resident_bytes() - before < 32 << 20


@pytest.mark.undisturbed
@pytest.mark.skipif(not STATM.exists(), reason="needs /proc")
def test_create_and_delete_buffers_gives_their_memory_back() -> None:
    def fill() -> None:
        buffer = ReplayBuffer(20_000)
        column = torch.zeros(20_000, 16)
        buffer.extend(BatchExperience(column, column, column[:, 0], column, column[:, 0]))
        buffer.sample(5000)

    for _ in range(5):
        fill()
    before = resident_bytes()
    for _ in range(60):
        fill()
    assert resident_bytes() - before < 32 << 20  # 60 of them are about 300 MB


@pytest.mark.undisturbed
@pytest.mark.skipif(not STATM.exists(), reason="needs /proc")
def test_fail_many_pushes_leaks_nothing() -> None:
    buffer = ReplayBuffer(5)
    buffer.push(step(state=torch.zeros(1000)))

    def fail() -> None:
        for _ in range(300):
            with pytest.raises(ValueError, match=r"^action"):
                buffer.push(step(state=torch.zeros(1000), action=np.ones(50_000)))

    fail()
    before = resident_bytes()
    for _ in range(3):
        fail()
    assert resident_bytes() - before < 32 << 20  # 900 of them are 360 MB


def test_collect_garbage_during_push_and_sample_changes_nothing() -> None:
    buffer = ReplayBuffer(20, seed=1)
    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for i in range(200):
            buffer.push(stamped(i))
            assert len(set(stamps_of(buffer.sample(min(i + 1, 20))))) == min(i + 1, 20)
    finally:
        gc.set_threshold(*thresholds)


def test_run_garbage_that_uses_the_buffer_changes_no_batch() -> None:
    buffer = filled(ReplayBuffer, range(20), 20, seed=1)

    class Garbage:
        """In a cycle, so that it goes when the collector comes."""

        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            stamps_of(buffer.sample(7))
            buffer.push(stamped(3))

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(200):
            Garbage()
            assert len(stamps_of(buffer.sample(11))) == 11
    finally:
        gc.set_threshold(*thresholds)
        gc.collect()


# Code that runs while a push reads


def test_push_of_a_nest_that_shrinks_meanwhile_is_refused() -> None:
    buffer = ReplayBuffer(5)
    buffer.push(
        Experience(
            {"a": torch.zeros(3), "b": torch.zeros(3)},
            0.0,
            0.0,
            {"a": torch.zeros(3), "b": torch.zeros(3)},
            False,
        )
    )
    state: dict[str, Any] = {}
    state |= {"a": Meddler(lambda: state.pop("b")), "b": torch.ones(3)}
    other = {"a": torch.zeros(3), "b": torch.zeros(3)}
    with unchanged(buffer), pytest.raises(ValueError, match=r"^state: expected a dict of"):
        buffer.push(Experience(state, 0.0, 0.0, other, False))


def test_extend_of_more_rows_than_memory_has_names_the_field() -> None:
    endless = torch.zeros(1, 1).expand(2**62, 1)
    buffer = ReplayBuffer(8)
    with pytest.raises(MemoryError, match=r"^states: 4611686018427387904 rows"):
        buffer.extend(BatchExperience(endless, endless, endless, endless, endless))
    assert len(buffer) == 0


def test_sample_from_a_finalizer_of_a_sample_draws_anew() -> None:
    buffer = filled(ReplayBuffer, range(1000), 1000, seed=1)
    drawn: list[list[int]] = []

    class Sampler:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            drawn.append(buffer.sample(8).indices.tolist())

    thresholds = gc.get_threshold()
    try:
        for threshold in range(1, 60):
            Sampler()
            gc.set_threshold(threshold)
            drawn.append(buffer.sample(8).indices.tolist())
            gc.set_threshold(*thresholds)
    finally:
        gc.set_threshold(*thresholds)
        gc.collect()
    assert len({tuple(draw) for draw in drawn}) == len(drawn)


def test_push_masked_array_is_refused() -> None:
    masked = np.ma.masked_array([1.0, 2.0], [True, False])
    with pytest.raises(ValueError, match=r"^state: .* got MaskedArray, .* \(2,\); use \.filled"):
        ReplayBuffer(3).push(Experience(masked, 0.0, 0.0, masked, False))
