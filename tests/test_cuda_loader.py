"""A loader for a CUDA device draws on a side stream, for which the consumer's stream waits."""

from __future__ import annotations

import copy
import gc
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
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


# Without a GPU: streams whose work is done only when something waits for it


class FakeCuda:
    """Replaces torch's streams and events by ones that defer work.

    Work queued on a stream is executed when the current stream waits for an event recorded after
    it. Until then memory holds garbage, so a batch that is used without waiting is wrong.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allocated = 0
        self._local = threading.local()
        self._default = FakeStream(self)
        empty = torch.empty

        def garbage(*size: Any, device: Any = None, **options: Any) -> Tensor:
            made = empty(*size, **options)
            if device is not None and torch.device(device).type == "cuda":
                self.allocated += 1
                made.fill_(255)
            return made

        monkeypatch.setattr(torch, "empty", garbage)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda part, stream: None)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream(self))
        monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current())

    def current(self) -> FakeStream:
        return getattr(self._local, "stream", self._default)

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self._local.stream = self.current(), stream
        yield
        self._local.stream = before


class FakeStream:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.queued: list[Callable[[], None]] = []

    def wait_event(self, event: FakeEvent) -> None:
        if self is self.cuda.current():
            for work in event.work:
                work()
            event.work = []


class FakeEvent:
    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def record(self, stream: FakeStream) -> None:
        self.work, stream.queued = stream.queued, []


class FakeCore:
    """A core whose rows and draws are those of a buffer in host memory."""

    def __init__(self, host: ReplayBuffer, cuda: FakeCuda) -> None:
        self.host, self.cuda = host, cuda

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
        batch = self.host.sample(batch_size)
        _, layout = self.batch_layout(batch_size)

        def write() -> None:
            for name, (offset, _, _) in zip(PARTS, layout, strict=True):
                part = getattr(batch, name).flatten().view(torch.uint8)
                base[offset : offset + len(part)] = part

        self.cuda.current().queued.append(write)

    def name_batch(self, tensors: list[Tensor]) -> BatchExperience:
        return BatchExperience(**dict(zip(PARTS, tensors, strict=True)))


class OnDevice(ReplayBuffer):
    """Pretends to be on a CUDA device."""

    device = torch.device("cuda", 3)  # type: ignore[assignment]


def on_device(cuda: FakeCuda, size: int = 50, kind: type[OnDevice] = OnDevice) -> Any:
    buffer = kind(size, seed=3)
    host: ReplayBuffer = filled(ReplayBuffer, range(size), size, seed=3)
    vars(buffer)["_first"] = host._schema, FakeCore(host, cuda)
    return buffer


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_loader_on_a_device_gives_the_batches_of_sample(
    fake_cuda: FakeCuda, batch_size: int
) -> None:
    expected: ReplayBuffer = filled(ReplayBuffer, range(50), 50, seed=3)
    with on_device(fake_cuda).loader(batch_size) as loader:
        for batch in islice(loader, 9):
            assert_same(expected.sample(batch_size), batch)


def test_next_on_another_stream_gives_the_batches_of_sample(fake_cuda: FakeCuda) -> None:
    expected: ReplayBuffer = filled(ReplayBuffer, range(50), 50, seed=3)
    with on_device(fake_cuda).loader(4) as loader:
        assert_same(expected.sample(4), next(loader))
        with fake_cuda.stream(FakeStream(fake_cuda)):
            assert_same(expected.sample(4), next(loader))
        assert_same(expected.sample(4), next(loader))


def test_loader_of_a_subclass_that_samples_by_itself_copies_its_batches(
    fake_cuda: FakeCuda,
) -> None:
    made: list[BatchExperience] = []

    class Own(OnDevice):
        def sample(self, batch_size: int, **options: Any) -> BatchExperience:
            made.append(self._core.host.sample(batch_size))  # type: ignore[union-attr]
            return made[-1]

    with on_device(fake_cuda, kind=Own).loader(4) as loader:
        batch = next(loader)
    assert_same(made[0], batch)
    for name in PARTS:
        assert getattr(batch, name).data_ptr() != getattr(made[0], name).data_ptr()


def test_next_with_too_few_on_a_device_raises_the_error_of_sample_and_allocates_nothing(
    fake_cuda: FakeCuda,
) -> None:
    empty = OnDevice(9)
    with empty.loader(4) as loader, pytest.raises(ValueError, match=r"at most 0, .* got 4$"):
        next(loader)
    assert fake_cuda.allocated == 0


# On a machine with a GPU


def twins(size: int = 200) -> tuple[ReplayBuffer, ReplayBuffer]:
    cpu, cuda = (
        filled(ReplayBuffer, range(size), size, device=device, seed=7) for device in ("cpu", "cuda")
    )
    return cpu, cuda


def image_twins() -> tuple[ReplayBuffer, ReplayBuffer]:
    """With batches that take the device a while."""
    cpu, cuda = (ReplayBuffer(300, device, seed=7) for device in ("cpu", "cuda"))
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
    gc.collect()  # buffers of other tests that are not freed yet
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
