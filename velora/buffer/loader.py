"""Prefetching of batches in a background thread."""

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
    """The interface that a loader needs of its buffer."""

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        ...

    def sample(self, batch_size: int) -> BatchExperience:
        """Draws a batch."""
        ...

    def _sample_recorded(self, batch_size: int) -> tuple[BatchExperience, tuple[Tensor, ...]]:
        """Draws a batch into memory that `record_stream` can keep; returns both."""
        ...


class Loader(Iterator[BatchExperience]):
    """Draws batches endlessly; a background thread prefetches the next ones.

    Created by `ReplayBuffer.loader`. The iterator is infinite: break out of the loop, then `close`
    it or drop it. As a context manager it closes itself. Several threads may iterate over one
    loader, and a buffer may have several loaders.

        with buffer.loader(256) as loader:
            for batch in loader:
                ...

    The thread starts with the first `next` and then keeps up to `prefetch` batches ready. As long
    as nothing is pushed and nothing else draws, these are the batches that `sample` would return,
    in the same order.

    An error in a draw, such as too few experiences, is raised by the `next` that would have
    returned its batch. The following `next` draws again.
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
        weakref.finalize(self, self._channel.stop).atexit = False  # at exit, _end_threads stops it

    def __next__(self) -> BatchExperience:
        """Returns the next batch, waiting for it if necessary.

        Raises:
            StopIteration: If the loader is closed.
            RuntimeError: If the loader was created by a parent of this process.
            Exception: The error that `sample` raised for this batch.
        """
        self._require_own_process()  # before the lock: a thread of the parent may have held it
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
                del result  # else its traceback would keep it and this loader alive
        return result.deliver()

    def close(self) -> None:
        """Stops the thread, drops prefetched batches and ends the iteration.

        Waits for a draw in progress. Closing twice is allowed.
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
            self._channel.results.put(None)  # wakes another thread that waits for a batch

    def __repr__(self) -> str:
        """Shows the buffer, the arguments, and whether the loader is closed."""
        name = type(self).__name__
        try:
            closed = ", closed" if self._channel.stopped else ""
            return f"{name}({self._buffer!r}, {self._description}{closed})"
        except AttributeError:  # a debugger may print a half-initialised object
            return f"<{name}, which is not made yet>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("loader: cannot be copied or pickled; pickle its buffer, and make another")

    def _begin(self) -> None:
        for known in list(_threads):
            if known.ident is not None and not known.is_alive():  # started and ended
                _threads.pop(known, None)
        # A daemon: the interpreter waits for other threads before atexit handlers run.
        thread = threading.Thread(
            target=self._channel.run, args=(self._draw,), name="velora-loader", daemon=True
        )
        _threads[thread] = weakref.ref(self._channel)
        self._thread, self._channel.running = thread, True
        try:
            thread.start()
        except Exception:  # not BaseException: after an interrupt the thread does run
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
    """A batch; if drawn on a side stream, also its event and its memory."""

    batch: BatchExperience
    ready: torch.cuda.Event | None = None
    memory: tuple[Tensor, ...] = ()

    def deliver(self) -> BatchExperience:
        """Returns the batch for the current stream, which waits without blocking the host."""
        if self.ready is not None:
            stream = torch.cuda.current_stream(self.memory[0].device)
            stream.wait_event(self.ready)
            for part in self.memory:
                part.record_stream(stream)
        return self.batch


class _Channel:
    """State shared by a loader and its thread, so that neither keeps the other alive.

    The garbage collector may call `stop` at any point in any thread. So there is no lock except
    those of the queues, which are reentrant.
    """

    def __init__(self, prefetch: int) -> None:
        self.results: SimpleQueue[_Drawn | BaseException | None] = SimpleQueue()
        self.running = False
        self.stopped = False
        self._prefetch = prefetch
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def run(self, draw: Callable[[], _Drawn]) -> None:
        """Keeps `prefetch` results ready until stopped or until a draw fails."""
        try:
            while not self.stopped:
                if self.results.qsize() < self._prefetch:
                    self.results.put(draw())
                else:
                    self._wakes.get()
        except BaseException as error:
            self.running = False  # first: a consumer that sees the error must not wait for more
            self.results.put(error)

    def wake(self) -> None:
        """Makes the thread check the number of results again."""
        if self._wakes.empty():  # one is enough; more would pile up
            self._wakes.put(None)

    def stop(self) -> None:
        """Asks the thread to end, without waiting."""
        self.stopped = True
        self._wakes.put(None)


class _SideStreamDraw:
    """Draws on a separate CUDA stream, so that gather and copy overlap the training step.

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


# All threads that may be running. This keeps neither their buffers nor their batches alive.
_threads: dict[threading.Thread, weakref.ref[_Channel]] = {}


@atexit.register
def _end_threads() -> None:
    """Stops all threads while torch is still alive: freeing a tensor later aborts the process."""
    for reference in list(_threads.values()):
        channel = reference()
        if channel is not None:
            channel.stop()
    for thread in list(_threads):
        if thread.is_alive():
            thread.join()
