"""A loader for a CUDA device: a stream of its own draws, and the consumer's waits for it."""

from __future__ import annotations

import copy
import gc
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytest
import torch
from helpers import PARTS, filled, stamped, stamps_of
from torch import Tensor

from velora.buffer import BatchExperience, ReplayBuffer

LIMIT = 60  # seconds; a wait that lasts longer has failed


def assert_same(cpu: BatchExperience, other: BatchExperience) -> None:
    for name in PARTS:
        left, right = getattr(cpu, name), getattr(other, name).cpu()
        assert left.dtype == right.dtype
        assert torch.equal(left, right), name


# Without a GPU: what is called, on which stream, in which order


class Calls:
    """Stands in for torch's streams and events, and notes what is done with them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.noted: list[tuple[Any, ...]] = []
        self._local = threading.local()
        self._streams = 0
        empty = torch.empty

        def noted_empty(*size: Any, device: Any = None, **options: Any) -> Tensor:
            made = empty(*size, **options)
            if device is not None and torch.device(device).type == "cuda":
                self.note("empty", made.data_ptr(), torch.device(device))
            return made

        def record_stream(part: Tensor, stream: str) -> None:
            self.note("record_stream", part.data_ptr(), stream)

        monkeypatch.setattr(torch, "empty", noted_empty)
        monkeypatch.setattr(torch.Tensor, "record_stream", record_stream)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream(self, "side"))
        monkeypatch.setattr(torch.cuda, "Event", lambda: FakeEvent(self))
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current())
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0 if self.in_worker() else 3)

    def current(self) -> FakeStream:
        default = FakeStream(self, "default")
        return getattr(self._local, "stream", default)

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self._local.stream = self.current(), stream
        yield
        self._local.stream = before

    def in_worker(self) -> bool:
        return threading.current_thread() is not threading.main_thread()

    def note(self, name: str, *details: Any) -> None:
        place = "worker" if self.in_worker() else "consumer"
        self.noted.append((place, self.current().name, name, *details))


class FakeStream:
    def __init__(self, calls: Calls, name: str) -> None:
        self.calls, self.name = calls, name

    def wait_event(self, event: FakeEvent) -> None:
        self.calls.note("wait_event", id(event), self.name)

    def __eq__(self, other: object) -> bool:
        return other == self.name

    __hash__ = None  # type: ignore[assignment]


class FakeEvent:
    kept: list[FakeEvent] = []  # noqa: RUF012  # so that each has an id of its own

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.kept.append(self)

    def record(self, stream: FakeStream) -> None:
        self.calls.note("record", id(self), stream.name)


class FakeCore:
    """A core whose rows and draws are those of a buffer in host memory."""

    def __init__(self, host: ReplayBuffer, calls: Calls) -> None:
        self.host, self.calls = host, calls

    def __len__(self) -> int:
        return len(self.host)

    def batch_layout(self, batch_size: int) -> tuple[int, list[tuple[int, str, tuple[int, ...]]]]:
        batch = copy.deepcopy(self.host).sample(batch_size)
        layout, offset = [], 0
        for part in (getattr(batch, name) for name in PARTS):
            layout.append((offset, str(part.dtype).removeprefix("torch."), tuple(part.shape)))
            offset = math.ceil((offset + part.nbytes) / 64) * 64
        return offset, layout

    def sample_into(self, base: Tensor, batch_size: int) -> None:
        self.calls.note("sample_into", base.data_ptr(), batch_size)
        nbytes, layout = self.batch_layout(batch_size)
        assert (base.dtype, base.shape) == (torch.uint8, (nbytes,))
        batch = self.host.sample(batch_size)
        for name, (offset, _, _) in zip(PARTS, layout, strict=True):
            part = getattr(batch, name).flatten().view(torch.uint8)
            base[offset : offset + len(part)] = part

    def name_batch(self, tensors: list[Tensor]) -> BatchExperience:
        return BatchExperience(**dict(zip(PARTS, tensors, strict=True)))


class OnDevice(ReplayBuffer):
    """Says that it is on a CUDA device."""

    device = torch.device("cuda", 3)  # type: ignore[assignment]


def on_device(calls: Calls, size: int = 50, kind: type[OnDevice] = OnDevice) -> Any:
    buffer = kind(size, seed=3)
    host: ReplayBuffer = filled(ReplayBuffer, range(size), size, seed=3)
    vars(buffer)["_first"] = host._schema, FakeCore(host, calls)
    return buffer


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_loader_on_a_device_gives_the_batches_of_sample(calls: Calls, batch_size: int) -> None:
    expected: ReplayBuffer = filled(ReplayBuffer, range(50), 50, seed=3)
    with on_device(calls).loader(batch_size) as loader:
        for batch in islice(loader, 9):
            assert_same(expected.sample(batch_size), batch)


def test_loader_allocates_and_draws_on_its_side_stream_and_then_records_an_event(
    calls: Calls,
) -> None:
    with on_device(calls).loader(4) as loader:
        for _ in range(5):
            next(loader)
    made = [call for call in calls.noted if call[0] == "worker"]
    assert len(made) in (3 * 5, 3 * 6, 3 * 7)
    for empty, sample_into, record in zip(made[::3], made[1::3], made[2::3], strict=True):
        memory = empty[3]
        assert empty == ("worker", "side", "empty", memory, torch.device("cuda", 3))
        assert sample_into == ("worker", "side", "sample_into", memory, 4)
        assert record[:3] == ("worker", "side", "record")
        assert record[4] == "side"


def test_next_waits_for_the_event_of_its_batch_and_then_keeps_its_memory(calls: Calls) -> None:
    with on_device(calls).loader(4) as loader:
        batches = [next(loader) for _ in range(5)]
    made = [call for call in calls.noted if call[0] == "worker"]
    used = [call for call in calls.noted if call[0] == "consumer"]
    assert len(used) == 2 * 5
    for i, batch in enumerate(batches):
        (memory, event) = made[3 * i][3], made[3 * i + 2][3]
        assert batch.states.untyped_storage().data_ptr() == memory
        assert used[2 * i] == ("consumer", "default", "wait_event", event, "default")
        assert used[2 * i + 1] == ("consumer", "default", "record_stream", memory, "default")
        assert calls.noted.index(made[3 * i + 2]) < calls.noted.index(used[2 * i])


def test_next_on_another_stream_makes_that_one_wait(calls: Calls) -> None:
    with on_device(calls).loader(4) as loader:
        next(loader)
        with calls.stream(FakeStream(calls, "mine")):
            next(loader)
        next(loader)
    used = [call for call in calls.noted if call[0] == "consumer"]
    assert [call[2] for call in used] == ["wait_event", "record_stream"] * 3
    assert [call[4] for call in used] == ["default"] * 2 + ["mine"] * 2 + ["default"] * 2


def test_loader_of_a_subclass_that_samples_by_itself_copies_its_batches(calls: Calls) -> None:
    made: list[BatchExperience] = []

    class Own(OnDevice):
        def sample(self, batch_size: int, **options: Any) -> BatchExperience:
            calls.note("sample")
            made.append(self._core.host.sample(batch_size))  # type: ignore[union-attr]
            return made[-1]

    with on_device(calls, kind=Own).loader(4) as loader:
        batch = next(loader)
    assert_same(made[0], batch)
    assert calls.noted[0] == ("worker", "side", "sample")
    kept = {call[3] for call in calls.noted if call[2] == "record_stream"}
    assert kept == {getattr(batch, name).data_ptr() for name in PARTS}
    assert kept.isdisjoint(getattr(made[0], name).data_ptr() for name in PARTS)


def test_next_with_too_few_on_a_device_raises_the_error_of_sample_and_allocates_nothing(
    calls: Calls,
) -> None:
    empty = OnDevice(9)
    with empty.loader(4) as loader, pytest.raises(ValueError, match=r"at most 0, .* got 4$"):
        next(loader)
    assert not calls.noted


# On a machine with a GPU


def twins(size: int = 200) -> tuple[ReplayBuffer, ReplayBuffer]:
    cpu, cuda = (
        filled(ReplayBuffer, range(size), size, device=place, seed=7) for place in ("cpu", "cuda")
    )
    return cpu, cuda


def image_twins() -> tuple[ReplayBuffer, ReplayBuffer]:
    """With batches that take the device a while."""
    cpu, cuda = (ReplayBuffer(300, place, seed=7) for place in ("cpu", "cuda"))
    images = torch.arange(300).reshape(-1, 1, 1, 1).expand(-1, 4, 84, 84).to(torch.uint8)
    zeros = torch.zeros(300, 1)
    for buffer in (cpu, cuda):
        buffer.extend(
            states=images, actions=zeros, rewards=zeros, next_states=images + 1, dones=zeros
        )
    return cpu, cuda


@pytest.mark.cuda
@pytest.mark.parametrize("prefetch", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 33, 200])
def test_loader_on_cuda_gives_the_batches_of_the_cpu(batch_size: int, prefetch: int) -> None:
    cpu, cuda = twins()
    with cuda.loader(batch_size, prefetch) as loader:
        for batch in islice(loader, 20):
            assert batch.states.is_cuda
            assert_same(cpu.sample(batch_size), batch)


@pytest.mark.cuda
def test_batches_on_cuda_are_whole_on_whatever_stream_they_are_used() -> None:
    cpu, cuda = image_twins()
    streams = [torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Stream()]
    copies: list[Tensor] = []
    with cuda.loader(256) as loader:
        for i in range(60):
            with torch.cuda.stream(streams[i % 3]):
                batch = next(loader)
                copies.append(batch.states[:, 0, 0, 0] + batch.next_states[:, 3, 83, 83])
    torch.cuda.synchronize()
    for copied in copies:
        expected = cpu.sample(256)
        expected = expected.states[:, 0, 0, 0] + expected.next_states[:, 3, 83, 83]
        assert torch.equal(copied.cpu(), expected)


@pytest.mark.cuda
@pytest.mark.undisturbed
def test_memory_of_a_batch_on_cuda_is_not_used_again_before_its_consumer_is_done() -> None:
    cpu, cuda = image_twins()
    copies: list[Tensor] = []
    consumer = torch.cuda.Stream()
    with cuda.loader(256, prefetch=3) as loader, torch.cuda.stream(consumer):
        for _ in range(60):
            torch.cuda._sleep(5_000_000)  # what follows on this stream is late
            batch = next(loader)
            copies.append(batch.states.sum((1, 2, 3)))
            nbytes = batch.states.untyped_storage().nbytes()
            del batch
            with torch.cuda.stream(loader._draw._stream):  # whose memory it was
                torch.empty(nbytes, dtype=torch.uint8, device="cuda").fill_(255)
    torch.cuda.synchronize()
    for copied in copies:
        assert torch.equal(copied.cpu(), cpu.sample(256).states.sum((1, 2, 3)))


@pytest.mark.cuda
@pytest.mark.undisturbed
def test_next_on_cuda_waits_for_no_work_of_the_consumer() -> None:
    cpu, cuda = twins()
    with cuda.loader(64) as loader:
        for _ in range(5):  # what is made once is made now
            assert_same(cpu.sample(64), next(loader))
        torch.cuda.synchronize()
        busy = torch.cuda.Event()
        torch.cuda._sleep(2_000_000_000)  # about a second
        busy.record()
        batches = [next(loader) for _ in range(50)]
        assert not busy.query(), "next waited for the device"
        for batch in batches:
            assert_same(cpu.sample(64), batch)


@pytest.mark.cuda
def test_loader_on_cuda_while_rows_are_pushed_never_tears_one() -> None:
    _, cuda = twins()
    with cuda.loader(100) as loader:
        for i in range(300):
            for k in range(20):
                cuda.push(stamped(20 * i + k))
            stamps_of(next(loader).to("cpu"))


@pytest.mark.cuda
@pytest.mark.undisturbed
def test_close_loader_on_cuda_with_batches_under_way_gives_their_memory_back() -> None:
    gc.collect()  # buffers of other tests that nobody has freed yet
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        _, cuda = image_twins()
        loader = cuda.loader(256, prefetch=4)
        batch = next(loader)
        expected = batch.rewards.clone()
        loader.close()
        del cuda, loader
        assert torch.equal(batch.rewards, expected)
        del batch, expected
    torch.cuda.synchronize()
    torch.cuda.empty_cache()  # takes back what streams were done with
    assert torch.cuda.memory_allocated() == before


@pytest.mark.cuda
def test_drop_loader_on_cuda_ends_its_thread() -> None:
    _, cuda = twins()
    loader = cuda.loader(32)
    next(loader)
    thread = loader._thread
    assert thread is not None
    del loader
    thread.join(LIMIT)
    assert not thread.is_alive()


@pytest.mark.cuda
def test_exit_with_an_open_loader_on_cuda_is_quiet() -> None:
    program = """
import torch
from velora.buffer import Experience, ReplayBuffer
buffer = ReplayBuffer(1000, "cuda", seed=1)
for i in range(1000):
    buffer.push(Experience(torch.zeros(50), i, 0.0, torch.zeros(50), False))
loader = buffer.loader(500)
for _ in range(10): next(loader)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stderr) == (0, "")
