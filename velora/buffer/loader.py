"""Batches that are made ahead of the training step."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import NamedTuple, NoReturn, Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from velora.buffer.checks import check_int
from velora.buffer.experience import BatchExperience


class Source(Protocol):
    """What a loader needs of the buffer that it draws from."""

    @property
    def device(self) -> torch.device:
        """Where batches come back."""
        ...

    def sample(self, batch_size: int) -> BatchExperience:
        """Draws a batch."""
        ...

    def _sample_recorded(self, batch_size: int) -> tuple[BatchExperience, tuple[Tensor, ...]]:
        """Draws a batch into memory that `record_stream` can keep, and gives that memory, too."""
        ...


class Loader(Iterator[BatchExperience]):
    """Goes on drawing batches, of which a thread makes the next ones while you use one.

    `ReplayBuffer.loader` makes it. It has no end: leave the loop, and `close` it or let it go. As a
    context manager it closes itself. Several threads may take batches from one loader, and a buffer
    may have several.

        with buffer.loader(256) as loader:
            for batch in loader:
                ...

    The thread begins with the first batch that is asked for, and from then on keeps up to
    `prefetch` batches ready. Without pushes in between they are those that `sample` would have
    given, in the same order, if nobody else draws.

    What went wrong in a draw, such as too few experiences, is raised by the `next` whose batch it
    would have been. The `next` after that draws again.
    """

    def __init__(self, buffer: Source, batch_size: int, prefetch: int = 2) -> None:
        batch_size = check_int("batch_size", batch_size, 1)
        prefetch = check_int("prefetch", prefetch, 1)
        self._channel = _Channel(prefetch)
        self._description = f"batch_size={batch_size}, prefetch={prefetch}"
        self._buffer = buffer
        self._draw: Callable[[], _Drawn]
        if buffer.device.type == "cuda":
            self._draw = _SideStreamDraw(buffer, batch_size)
        else:
            self._draw = lambda: _Drawn(buffer.sample(batch_size))
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._taking = threading.Lock()
        weakref.finalize(self, self._channel.stop).atexit = False  # then _end_threads does it

    def __next__(self) -> BatchExperience:
        """The next batch, as soon as it is there.

        Raises:
            StopIteration: If the loader is closed.
            RuntimeError: If the loader was made by a parent of this process.
            Exception: What `sample` raised when it drew this batch.
        """
        self._require_own_process()  # before the lock, which a thread of the parent may have held
        channel = self._channel
        with self._taking:
            if channel.stopped:
                raise StopIteration
            if not channel.running and channel.results.empty():
                self._begin()
            try:
                result = channel.results.get()
            finally:
                channel.wake()
        if result is None:
            raise StopIteration
        if isinstance(result, BaseException):
            try:
                raise result
            finally:
                del result  # which its own traceback would keep, and this loader with it
        return result.deliver()

    def close(self) -> None:
        """Ends the thread, lets go of what it made ahead, and ends the iteration.

        Waits for a draw that is under way. To close twice does no harm.
        """
        self._channel.stop()
        if os.getpid() != self._process:
            return
        try:
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join()
        finally:
            with contextlib.suppress(Empty):
                while True:
                    self._channel.results.get_nowait()
            self._channel.results.put(None)  # for another thread that waits for a batch

    def __repr__(self) -> str:
        """The buffer, what is drawn from it, and whether that is over."""
        name = type(self).__name__
        try:
            closed = ", closed" if self._channel.stopped else ""
            return f"{name}({self._buffer!r}, {self._description}{closed})"
        except AttributeError:  # a debugger prints what is half made
            return f"<{name}, which is not made yet>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("loader: cannot be copied or pickled; pickle its buffer, and make another")

    def _begin(self) -> None:
        for known in list(_threads):
            if known.ident is not None and not known.is_alive():  # it did begin
                _threads.pop(known, None)
        # A daemon, as the interpreter would wait for any other before it lets us end it.
        thread = threading.Thread(
            target=self._channel.run, args=(self._draw,), name="velora-loader", daemon=True
        )
        _threads[thread] = weakref.ref(self._channel)
        self._thread, self._channel.running = thread, True
        try:
            thread.start()
        except Exception:  # not an interrupt: the thread is there then
            self._thread, self._channel.running = None, False
            _threads.pop(thread, None)
            raise

    def _require_own_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"loader: expected to be used in process {self._process}, whose thread makes the "
                f"batches, got its child {os.getpid()}; make another there by buffer.loader()"
            )


class _Drawn(NamedTuple):
    """A batch and, where a CUDA stream of its own makes it, when and in what memory."""

    batch: BatchExperience
    ready: torch.cuda.Event | None = None
    memory: tuple[Tensor, ...] = ()

    def deliver(self) -> BatchExperience:
        """The batch, for work on the current stream, which waits for it without the host."""
        if self.ready is not None:
            stream = torch.cuda.current_stream(self.memory[0].device)
            stream.wait_event(self.ready)
            for part in self.memory:
                part.record_stream(stream)
        return self.batch


class _Channel:
    """What a loader and its thread have in common, so that neither keeps the other.

    A garbage collection may call `stop` in the middle of anything, in whatever thread. So there is
    no lock in it, but for those in the queues, which allow for that.
    """

    def __init__(self, prefetch: int) -> None:
        self.results: SimpleQueue[_Drawn | BaseException | None] = SimpleQueue()
        self.running = False
        self.stopped = False
        self._prefetch = prefetch
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def run(self, draw: Callable[[], _Drawn]) -> None:
        """Keeps as many results ready as may be, until it is stopped or a draw fails."""
        try:
            while not self.stopped:
                if self.results.qsize() < self._prefetch:
                    self.results.put(draw())
                else:
                    self._wakes.get()
        except BaseException as error:
            self.running = False  # first: who has seen the error must not wait for more
            self.results.put(error)

    def wake(self) -> None:
        """Has the thread look again at how many results there are."""
        if self._wakes.empty():  # one is enough, and more would pile up
            self._wakes.put(None)

    def stop(self) -> None:
        """Has the thread end. Does not wait for that."""
        self.stopped = True
        self._wakes.put(None)


class _SideStreamDraw:
    """Draws on a CUDA stream of its own, so that gather and copy run beside the training step.

    Memory that comes through DLPack would be used again as soon as the consumer lets go of it,
    whatever its stream has still to do: torch's allocator takes no `record_stream` for it. So the
    buffer draws into memory from that allocator.
    """

    def __init__(self, buffer: Source, batch_size: int) -> None:
        self._buffer = buffer
        self._batch_size = batch_size
        self._stream = torch.cuda.Stream(buffer.device)  # type: ignore[no-untyped-call]

    def __call__(self) -> _Drawn:
        with torch.cuda.stream(self._stream):
            batch, memory = self._buffer._sample_recorded(self._batch_size)
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record(self._stream)
        return _Drawn(batch, ready, memory)


# All threads that may be running. They keep neither their buffers nor their batches.
_threads: dict[threading.Thread, weakref.ref[_Channel]] = {}


@atexit.register
def _end_threads() -> None:
    """Ends them while torch works: a thread that frees a tensor later has torch abort."""
    for reference in list(_threads.values()):
        channel = reference()
        if channel is not None:
            channel.stop()
    for thread in list(_threads):
        if thread.is_alive():
            thread.join()
