"""What both buffers have in common."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, overload

import torch

from velora import _core
from velora.buffer.experience import BatchExperience
from velora.buffer.schema import Schema, columns_of
from velora.utils import set_device

MAX_CAPACITY = 2**40
_NATIVE = ("_first", "_core", "_push")  # what a pickle has in another form


class Buffer(Sequence[Any]):
    """A sequence of experiences in the native core, oldest first.

    The first `push` or `extend` fixes the schema and allocates; pages become resident as they are
    written. One thread may use a buffer while others do too: each call is atomic.
    """

    def __init__(
        self,
        capacity: int,
        device: torch.device | str | None,
        *,
        seed: int,
        gamma: float | None,
        overwrite: bool,
    ) -> None:
        self._capacity = _check_capacity(capacity)
        self._device = _check_device(device)
        # Asked once: asking a torch.device takes longer than a push.
        self._comes_by_copy = self._device.type not in ("cpu", "cuda")
        self._seed = seed
        self._gamma = gamma
        self._overwrite = overwrite
        self._schema: Schema | None = None
        self._core: _core.Buffer | None = None

    @property
    def capacity(self) -> int:
        """How many experiences the buffer can hold."""
        return self._capacity

    @property
    def device(self) -> torch.device:
        """Where batches come back."""
        return self._device

    def push(self, experience: Any) -> None:
        """Appends one experience.

        Args:
            experience: An `Experience`, or a dataclass with its fields. The first one fixes
                shapes and dtypes: float64 and Python floats are stored as float32, Python ints
                as int64, everything else as it is. Rewards are always float32.

        Raises:
            TypeError: If `experience` is not such a dataclass.
            ValueError: If a field is missing, unknown, of another shape, or has a value that its
                dtype cannot hold. The buffer is then as before.
            MemoryError: If `capacity` rows of the first experience exceed this machine.
            BufferError: If a `RolloutBuffer` is full.
        """
        self._push(experience)

    def _push(self, experience: Any) -> None:
        # Only until there is a core: then `_adopt` puts its native push in this method's place.
        schema = Schema.from_experience(experience)
        core = self._build(schema)
        core.push(experience)
        if not self._adopt(schema, core):
            self._push(experience)

    def extend(self, batch: BatchExperience) -> None:
        """Appends the steps of a batch in their order, all or none.

        Args:
            batch: Arrays with a leading dimension of k steps, oldest first: states `(k, F)`,
                rewards and flags `(k,)` or `(k, 1)`. Extra fields come from `extras`. Of more
                steps than fit, a `ReplayBuffer` keeps the newest.

        Raises:
            TypeError: If `batch` is not a `BatchExperience`.
            ValueError: If the parts disagree in length, or as in `push`.
            BufferError: If a `RolloutBuffer` has less room.
        """
        columns = columns_of(batch)
        if self._core is None:
            schema = Schema.from_columns(columns)
            core = self._build(schema)
            core.extend(columns)
            if self._adopt(schema, core):
                return
        assert self._core is not None
        assert self._schema is not None
        self._schema.check_columns(columns)
        self._core.extend(columns)

    def __len__(self) -> int:
        return 0 if self._core is None else len(self._core)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """The experience at a place, oldest first, in the form in which it was pushed.

        Raises:
            IndexError: If there is no such place.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = operator.index(index)
        if place < 0:
            place += len(self)
        if not 0 <= place < len(self):
            raise IndexError(f"index: expected a place among {len(self)} experiences, got {index}")
        assert self._core is not None
        assert self._schema is not None
        return self._schema.experience(self._schema.batch(self._core.take(place, 1)), 0)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(capacity={self._capacity}, device='{self._device}', "
            f"len={len(self)})"
        )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)  # at once: another thread may make the first push
        core = state["_core"]
        state = {name: value for name, value in state.items() if name not in _NATIVE}
        return state | {"_saved": None if core is None else core.state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        saved = state.pop("_saved")
        for name in _NATIVE:
            self.__dict__.pop(name, None)
        self.__dict__.update(state)
        self._core = None
        if saved is not None:
            assert self._schema is not None
            core = self._build(self._schema)
            core.restore(*saved)
            self._adopt(self._schema, core)

    def _adopt(self, schema: Schema, core: _core.Buffer) -> bool:
        """Makes the first rows those of this buffer, unless others were first.

        Reading an experience can run its own code, and other threads, before the schema is there.
        One atomic step decides who was first, without a lock that such code could wait for.
        """
        first = self.__dict__.setdefault("_first", (schema, core))
        self._schema, self._core = first
        self._push = self._core.push  # type: ignore[method-assign]
        return self._core is core

    def _build(self, schema: Schema) -> _core.Buffer:
        return schema.build_core(
            capacity=self._capacity,
            seed=self._seed,
            gamma=self._gamma,
            overwrite=self._overwrite,
            device=_cuda_index(self._device) if self._device.type == "cuda" else None,
        )

    def _deliver(self, tensors: tuple[torch.Tensor, ...]) -> BatchExperience:
        assert self._schema is not None
        batch = self._schema.batch(tensors)
        return batch.to(self._device) if self._comes_by_copy else batch


def _check_device(device: torch.device | str | None) -> torch.device:
    try:
        chosen = set_device("cpu" if device is None else device)
    except RuntimeError as error:
        raise _missing_cuda(error) from None
    if chosen.type == "meta":
        raise ValueError("device: expected one with memory, got meta")
    if chosen.type == "cuda":
        _core.require_cuda(_cuda_index(chosen))
    return chosen


def _cuda_index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _missing_cuda(error: RuntimeError) -> RuntimeError:
    """What is missing and what to do about it, where that is more than torch's error says."""
    try:
        _core.require_cuda(0)
    except RuntimeError as reason:
        return reason
    if torch.cuda.is_available():
        return error
    return RuntimeError(
        f"device: cannot use cuda: torch {torch.__version__} has no CUDA; install a build of torch "
        "with CUDA, or pass device='cpu'"
    )


def _check_capacity(capacity: int) -> int:
    number = check_int("capacity", capacity)
    if not 1 <= number <= MAX_CAPACITY:
        raise ValueError(f"capacity: expected 1 to {MAX_CAPACITY} (2**40), got {number}")
    return number


def check_int(name: str, value: int) -> int:
    """An argument that must be an int, or what counts as one; a bool does not.

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    return operator.index(value)
