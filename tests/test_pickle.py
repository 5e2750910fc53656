"""Copies of a buffer go on just as it does, and apart from it."""

from __future__ import annotations

import copy
import functools
import io
import itertools
import multiprocessing
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    COPIES,
    AnyBuffer,
    PolicyExperience,
    assert_same_future,
    filled,
    stack,
    stamped,
    stamps_of,
    step,
    unchanged,
)

from velora.buffer import Experience, ReplayBuffer, RolloutBuffer
from velora.buffer.state import VERSION
from velora.buffer.type_names import TypeName


def nested(i: int) -> Experience:
    observation = {"camera": torch.full((3, 2), i % 256, dtype=torch.uint8), "pose": (i / 4, i)}
    return Experience(observation, (i, torch.ones(2) * i), i, observation, i % 3 == 0)


def policy(i: int) -> Experience:
    return PolicyExperience(*stamped(i), i / 4, torch.full((2,), float(i)))


MAKERS = {"plain": stamped, "nested": nested, "subclass": policy}


def made(kind: type[AnyBuffer], make: Callable[[int], Experience], pushes: int) -> Any:
    buffer = ReplayBuffer(5, seed=9) if kind is ReplayBuffer else RolloutBuffer(5)
    for i in range(pushes):
        if isinstance(buffer, RolloutBuffer) and len(buffer) == 5:
            buffer.empty()
        buffer.push(make(i))
    return buffer


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
@pytest.mark.parametrize("kind", [ReplayBuffer, RolloutBuffer])
@pytest.mark.parametrize("pushes", [0, 1, 4, 5, 8, 13])
def test_copy_buffer_continues_identically(
    kind: type[AnyBuffer],
    make: Callable[[int], Experience],
    pushes: int,
    copied: Callable[[Any], Any],
) -> None:
    buffer = made(kind, make, pushes)
    if isinstance(buffer, ReplayBuffer) and pushes:
        buffer.sample(1)
    again = copied(buffer)
    assert type(again) is kind
    assert (again.capacity, again.device) == (5, buffer.device)
    assert_same_future(buffer, again)
    for i in range(pushes, pushes + 7):
        for each in (buffer, again):
            if isinstance(each, RolloutBuffer) and len(each) == 5:
                each.empty()
            each.push(make(i))
        if isinstance(buffer, ReplayBuffer):
            count = (len(buffer) + 1) // 2
            assert buffer.sample(count).indices.tolist() == again.sample(count).indices.tolist()
    assert_same_future(buffer, again)


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
def test_copy_buffer_shares_nothing(copied: Callable[[Any], Any]) -> None:
    buffer = filled(ReplayBuffer, range(8), 5, seed=9)
    again = copied(buffer)
    with unchanged(buffer):
        again.push(stamped(8))
        again.sample(3)
    with unchanged(again):
        buffer.push(stamped(9))
        buffer.sample(3)


def test_copy_emptied_rollout_keeps_its_schema() -> None:
    buffer = filled(RolloutBuffer, range(5), 5)
    buffer.empty()
    again = pickle.loads(pickle.dumps(buffer))
    with pytest.raises(ValueError, match="state"):
        again.push(stamped(0, features=9))
    again.push(stamped(7))
    assert stamps_of(again.sample()) == [7]


def test_copy_new_buffer_without_seed_keeps_the_seed_it_took() -> None:
    buffer = ReplayBuffer(20)
    again = pickle.loads(pickle.dumps(buffer))
    for i in range(20):
        buffer.push(stamped(i))
        again.push(stamped(i))
    assert_same_future(buffer, again)


def test_copy_keeps_gamma() -> None:
    buffer = ReplayBuffer(2, gamma=0.25)
    buffer.push(step())
    assert pickle.loads(pickle.dumps(buffer)).sample(1).discounts.item() == 0.25


def test_copy_keeps_the_form_of_extended_rows() -> None:
    buffer = ReplayBuffer(9, seed=1)
    buffer.extend(stack([policy(i) for i in range(4)]))
    again = pickle.loads(pickle.dumps(buffer))
    assert torch.equal(again[2].hidden, policy(2).hidden)
    assert buffer.sample(3).indices.tolist() == again.sample(3).indices.tolist()
    again.extend(stack([policy(i) for i in range(4)]))
    assert len(again) == 8


def test_copy_buffer_with_observation_of_many_bytes_is_about_as_long_as_its_rows() -> None:
    buffer = ReplayBuffer(1_000_000)
    buffer.push(stamped(1))
    assert len(pickle.dumps(buffer)) < 10_000


def _describe(buffer: ReplayBuffer) -> tuple[list[int], list[int]]:
    return [experience.action for experience in buffer], buffer.sample(3).indices.tolist()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:multiprocessing")
def test_send_buffer_to_another_process_continues_identically() -> None:
    buffer = filled(ReplayBuffer, range(8), 5, seed=9)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(_describe, (buffer,))
    assert there == _describe(buffer)


# Pickled state


def saved(buffer: AnyBuffer) -> dict[str, Any]:
    return buffer.__getstate__()


def contents(state: Any) -> Iterator[Any]:
    """All objects in a nest of containers."""
    yield state
    if isinstance(state, dict):
        for key, value in state.items():
            yield from contents(key)
            yield from contents(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from contents(value)


PLAIN = (bool, int, float, str, bytes, dict, list, tuple, type(None), TypeName)


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
@pytest.mark.parametrize("kind", [ReplayBuffer, RolloutBuffer])
def test_save_buffer_travels_as_plain_values(
    kind: type[AnyBuffer], make: Callable[[int], Experience]
) -> None:
    buffer = made(kind, make, 4)
    if isinstance(buffer, ReplayBuffer):
        buffer.sample_sequences(2, 1)
    assert {type(each) for each in contents(saved(buffer))} <= set(PLAIN)


def test_save_buffer_with_attributes_of_a_subclass_keeps_them() -> None:
    buffer = Labelled(5)
    buffer.push(stamped(1))
    buffer.label, buffer.itself = ["a"], buffer
    for copied in (copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))):
        again = copied(buffer)
        assert (type(again), again.label, again.itself) == (Labelled, ["a"], again)
        assert again.label is not buffer.label


class Labelled(ReplayBuffer):
    """A subclass with additional attributes."""

    label: list[str]
    itself: ReplayBuffer


class Wrapped(ReplayBuffer):
    """That travels in another form."""

    def __getstate__(self) -> Any:
        return ("wrapped", super().__getstate__())

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[1])


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
def test_save_buffer_whose_subclass_has_another_form_goes_by_that(
    copied: Callable[[Any], Any],
) -> None:
    buffer = Wrapped(5)
    buffer.push(stamped(1))
    assert_same_future(buffer, copied(buffer))


def test_load_buffer_over_another_leaves_that_alone_where_it_fails() -> None:
    buffer = filled(ReplayBuffer, range(8), 5, seed=9)
    state = saved(filled(ReplayBuffer, range(3), 3))
    with unchanged(buffer), pytest.raises(ValueError, match="rows"):
        buffer.__setstate__(state | {"rows": state["rows"][:-1]})
    buffer.__setstate__(state)
    assert (len(buffer), buffer.capacity) == (3, 3)


def test_copy_while_other_threads_push_is_that_of_one_moment() -> None:
    buffer = ReplayBuffer(400, seed=3)
    stop = threading.Event()

    def push() -> None:
        for i in itertools.count():
            if stop.is_set():
                return
            buffer.push(Experience({"a": float(i), "b": i}, (i, i), i, {"a": i, "b": i}, False))

    pushing = threading.Thread(target=push)
    pushing.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(20):
            for again in (copy.deepcopy(buffer), pickle.loads(pickle.dumps(buffer))):
                stamps = [experience.state["b"] for experience in again]
                assert stamps == list(range(stamps[0], stamps[0] + len(stamps))) if stamps else True
                assert [experience.action[0] for experience in again] == stamps
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        pushing.join()


def test_copy_beside_the_first_use_of_another_thread_works() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(100):
            buffer = ReplayBuffer(8)
            buffer.extend(stack([policy(i) for i in range(4)]))

            def use(buffer: ReplayBuffer = buffer) -> None:
                buffer.sample_sequences(2, 1, first_only=("hidden",))
                buffer[0]

            using = threading.Thread(target=use)
            using.start()
            for _ in range(5):
                assert len(copy.deepcopy(buffer)) == 4
            using.join()
    finally:
        sys.setswitchinterval(interval)


def test_copy_that_is_interrupted_changes_nothing() -> None:
    buffer = filled(ReplayBuffer, range(8), 5, seed=9)
    events = events_of(lambda: pickle.dumps(buffer))
    assert events > 20
    for stop in range(events):
        with unchanged(buffer):
            events_of(lambda: pickle.dumps(buffer), stop)


def test_load_over_a_buffer_that_is_interrupted_is_all_or_nothing() -> None:
    old, new = filled(ReplayBuffer, range(8), 5, seed=9), filled(ReplayBuffer, range(3), 3)
    before, after = saved(old), saved(new)
    load = ReplayBuffer.__setstate__
    seen = []
    for stop in range(0, events_of(lambda: load(copy.deepcopy(old), after)), 3):
        buffer = copy.deepcopy(old)
        events_of(functools.partial(load, buffer, after), stop)
        seen.append(saved(buffer) == after)
        assert seen[-1] or saved(buffer) == before
    assert not seen[0]


def events_of(work: Callable[[], Any], stop: int | None = None) -> int:
    """How many calls and lines of Python `work` takes; it is interrupted at number `stop`."""
    events = itertools.count()

    def trace(*_: Any) -> Any:
        if next(events) == stop:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return next(events)


@pytest.mark.parametrize("name", ["seed", "_core", "push", "capacity", "__len__", 3])
def test_load_attribute_that_is_no_subclasss_own_is_refused(name: Any) -> None:
    state = saved(ReplayBuffer(3))
    with pytest.raises(ValueError, match="attributes: expected those of a subclass"):
        ReplayBuffer.__new__(ReplayBuffer).__setstate__(state | {"attributes": {name: 1}})


def test_load_what_is_no_format_of_this_version_says_so() -> None:
    for state in ({}, {"_saved": None}, {"version": VERSION + 1}, {"version": True}, None, [1]):
        with pytest.raises(ValueError, match="version: expected a buffer that was saved in format"):
            ReplayBuffer.__new__(ReplayBuffer).__setstate__(state)  # type: ignore[arg-type]


# Cost


def test_save_with_torch_takes_the_bytes_of_the_rows() -> None:
    buffer = filled(ReplayBuffer, range(500), 500)
    rows = len(saved(buffer)["rows"])
    file = io.BytesIO()
    torch.save(buffer, file)
    assert rows <= len(file.getvalue()) <= rows + 6_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", ["torch", "pickle", "compact"])
def test_save_takes_the_memory_of_one_copy_of_the_rows(how: str, tmp_path: Path) -> None:
    program = f"""
import sys, pickle, numpy, torch
from velora.buffer import ReplayBuffer
rows, size = 2000, 20_000
buffer = ReplayBuffer(rows, compact={how == "compact"})
for i in range(4):
    # Strangers to each other, so that compact rows have blocks.
    states = numpy.full((rows // 4, size), i, numpy.uint8)
    buffer.extend(states=states, next_states=states + 100, actions=states[:, :1],
                  rewards=states[:, 0], dones=states[:, 0] > 9)
def resident(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))
open("/proc/self/clear_refs", "w").write("5")
before = resident("VmRSS")
with open({str(tmp_path / "saved")!r}, "wb") as file:
    {"torch.save(buffer, file)" if how != "pickle" else "pickle.dump(buffer, file)"}
print(resident("VmHWM") - before, buffer.nbytes)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stderr == ""
    grown, nbytes = map(int, result.stdout.split())
    assert nbytes >= 75_000_000
    assert grown <= 1.2 * nbytes
    assert (tmp_path / "saved").stat().st_size <= 1.05 * nbytes
