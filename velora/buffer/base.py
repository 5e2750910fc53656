"""What both buffers have in common."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast, overload

import torch
from typing_extensions import Self

from velora import _core
from velora._core import BufferCore
from velora.buffer import tree
from velora.buffer.checks import check_count, check_int
from velora.buffer.columns import columns_of_call, lane_array
from velora.buffer.core_owner import CoreOwner
from velora.buffer.experience import BatchExperience
from velora.buffer.placement import (
    Storage,
    check_device,
    check_storage,
    choose_storage,
    cuda_index,
)
from velora.buffer.schema import Schema

MAX_CAPACITY = 2**40
MAX_ENVS = 2**16
# Observations from this size on are stored once where the buffer may choose.
COMPACT_BYTES = 4096
# Values of options that `repr` leaves out.
_USUAL: dict[str, tuple[Any, ...]] = {
    "num_envs": (1,),
    "n_step": (1,),
    "gamma": (0.99,),
    "frame_stack": (1,),
    "compact": (False, "auto"),
}


class Buffer(CoreOwner, Sequence[Any]):
    """A sequence of experiences in the native core, oldest first.

    Each environment has a lane of its own: a ring of `capacity // num_envs` experiences in time
    order. As a sequence, the buffer begins with the oldest experience of each lane, goes on with
    the second of each, and so on: lanes that are filled evenly are read step by step.

    The first `push` or `extend` fixes the schema and allocates; pages become resident as they are
    written. One thread may use a buffer while others do too: each call is atomic.
    """

    def __init__(
        self,
        capacity: int | float,
        device: torch.device | str | None,
        *,
        num_envs: int,
        overwrite: bool,
        seed: _core.DrawSeed,
        gamma: float | None = None,
        n_step: int = 1,
        compact: bool | Literal["auto"] = False,
        frame_stack: int = 1,
        storage: Storage = "auto",
    ) -> None:
        capacity = check_count("capacity", capacity, 1, MAX_CAPACITY)
        self._num_envs = check_int("num_envs", num_envs, 1, MAX_ENVS)
        self._lane_capacity = capacity // self._num_envs
        if self._lane_capacity == 0:
            raise ValueError(
                f"capacity: expected at least one experience for each of {num_envs} environments, "
                f"got {capacity}"
            )
        self._device = check_device(device)
        # Asked once: asking a torch.device takes longer than a push.
        self._comes_by_copy = self._device.type not in ("cpu", "cuda")
        self._overwrite = overwrite
        self._seed = seed
        self._gamma = gamma
        self._n_step = n_step
        self._storage = check_storage(storage, self._device)
        self._compact = compact
        self._frame_stack = frame_stack

    @classmethod
    def from_env(
        cls,
        env: Any,
        capacity: int | float,
        device: torch.device | str | None = None,
        *,
        extras: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """A buffer for an environment: `num_envs` and the schema come from it.

        Memory is set aside at once, so that what does not fit shows before the first step. As in
        `push`, a space of shape `(1, F)` is one row of F: batches have `(B, F)`, and what is stored
        may have either shape.

        Args:
            env: A Gymnasium environment or vector environment.
            capacity: As for the class.
            device: As for the class.
            extras: An example, for one environment, of each extra field that experiences will
                have: `{"log_prob": 0.0}`.
            **options: Anything else that the class takes, but `num_envs`.

        Raises:
            TypeError: If `env` is not a Gymnasium environment, has a space of other things than
                arrays, which are Text, Sequence and Graph, or as the class does.
            ValueError: If a space has a dtype that no buffer stores, or no elements; if an extra
                field has the name of another; or as the class does.
            MemoryError: If `capacity` experiences exceed this machine.
        """
        from velora.buffer import spaces  # needs gymnasium, which buffers do not

        schema = spaces.schema_of_env(env, extras)
        buffer = cls(capacity, device, num_envs=spaces.num_envs_of(env), **options)
        buffer._adopt(schema, buffer._build(schema))
        return buffer

    @property
    def capacity(self) -> int:
        """How many experiences fit: `num_envs` times `capacity // num_envs`, as it was given."""
        return self._lane_capacity * self._num_envs

    @property
    def nbytes(self) -> int:
        """Bytes that are set aside for experiences; the system provides them as they are used."""
        return 0 if self._core is None else self._core.nbytes

    @property
    def num_envs(self) -> int:
        """How many environments the buffer keeps apart."""
        return self._num_envs

    @property
    def storage(self) -> Storage:
        """Where experiences are; "auto" until the first one decides it."""
        return self._storage if self._core is None else cast("Storage", self._core.storage)

    @property
    def device(self) -> torch.device:
        """Where batches come back."""
        return self._device

    def push(self, experience: Any, lane: int | None = None) -> None:
        """Appends one experience.

        It is the step after the one that was pushed to its lane before, unless that ended an
        episode. Experiences that were read from a buffer of several environments, or picked from
        one, do not follow each other: `extend(buffer)` copies a buffer as it is.

        Args:
            experience: An `Experience`, or a dataclass with its fields. The first one fixes
                shapes and dtypes: float64 and Python floats are stored as float32, Python ints
                as int64, everything else as it is. Rewards are always float32. Fields of floats
                round what comes later, those of integers store it exactly or refuse it. All
                arrays are read after the last code that reading any of them runs. A tensor's
                storage must be as large as the tensor: one that was made smaller
                (`untyped_storage().resize_`) is not recognised unless it has no bytes.
            lane: The environment that it comes from, 0 to `num_envs - 1`; needed where there are
                several.

        Raises:
            TypeError: If `experience` is not such a dataclass, or `lane` not an int.
            ValueError: If a field is missing, unknown, of another shape, or has a value that its
                dtype cannot hold; if there is no such lane. The buffer is then as before.
            MemoryError: If `capacity` rows of the first experience exceed this machine.
            BufferError: If a `RolloutBuffer` is full.
        """
        self._push(experience, lane)

    def _push(self, experience: Any, lane: int | None = None) -> None:
        # Only until there is a core: then `_adopt` puts its native push in this method's place.
        schema = Schema.from_experience(experience)
        core = self._build(schema, (getattr(experience, name) for name in schema.trees))
        core.push(experience, lane)
        if not self._adopt(schema, core):
            self._push(experience, lane)

    def extend(
        self, batch: BatchExperience | Buffer | None = None, *, lanes: Any = None, **arrays: Any
    ) -> None:
        """Appends steps, all or none: one of each environment, k of each, or those of a buffer.

            buffer.extend(
                states=obs, actions=actions, rewards=rewards, next_states=next_obs, dones=dones
            )
            buffer.extend(other_buffer)

        A buffer is copied step by step, as its steps were pushed: those of each environment into
        the lane of the same number. Where a copy begins in a lane and where it ends, an episode
        ends, as truncated unless it ended by itself: no step becomes another's successor that it
        was not. Both buffers have the same fields, dtypes and shapes; all else may differ. A buffer
        can be added to itself, one that holds nothing adds nothing.

        Args:
            batch: Arrays with a leading dimension of k * num_envs rows, step by step: row
                `t * num_envs + e` is step t of environment e. States `(k * num_envs, F)`, rewards
                and flags `(k * num_envs,)` or `(k * num_envs, 1)`. Extra fields come from
                `extras`. Of more steps than fit, a `ReplayBuffer` keeps the newest. Or a
                `ReplayBuffer` or `RolloutBuffer`, whose steps are to be copied. Tensors as
                in `push`.
            lanes: The environment of each row, ints `(rows,)`, where environments do not step
                together: any number of rows, in time order for each environment. With a buffer: the
                lane here for each of its environments, ints `(batch.num_envs,)`; those that share
                a lane are copied one after the other.
            **arrays: The same parts by name, in place of a batch: `states`, `actions`, `rewards`,
                `next_states`, `dones`, `truncations` if any, and extra fields by their names.

        Raises:
            TypeError: If `batch` is neither a `BatchExperience` nor a buffer, or there are arrays
                beside it.
            ValueError: If the batch is one that a buffer handed out, or part of one; the parts
                disagree in length, rows do not fill the lanes evenly, there is no such lane, the
                steps of the other buffer have another form, or as in `push`.
            BufferError: If a `RolloutBuffer` has less room.
        """
        self._extend(batch, lanes=lanes, **arrays)

    def _extend(
        self, batch: BatchExperience | Buffer | None = None, *, lanes: Any = None, **arrays: Any
    ) -> None:
        # As `_push`: until there is a core.
        schema: Schema | None
        first: Iterable[Any] = ()
        if isinstance(batch, Buffer) and not arrays:
            schema = batch._schema if len(batch) > 0 else None
            if schema is None:
                return
        else:
            columns = columns_of_call(batch, arrays)
            lanes = lane_array(lanes)
            schema, first = Schema.from_columns(columns), columns.values()
        core = self._build(schema, first)
        core.extend(batch, lanes=lanes, **arrays)
        if not self._adopt(schema, core):
            self._extend(batch, lanes=lanes, **arrays)

    def end_episodes(self, lanes: Any = None) -> None:
        """Marks the newest experience of environments as truncated.

        For loops that stop an episode themselves, when it was pushed already that it goes on: what
        comes next from these environments begins a new one. An experience that ended its episode
        stays as it is.

        Args:
            lanes: The environments, ints `(k,)`; None for all.

        Raises:
            ValueError: If there is no such environment. The buffer is then as before.
        """
        lanes = lane_array(lanes)
        core = self._core
        if core is not None:
            core.end_episodes(lanes)
        else:
            _core.check_lanes(lanes, self._num_envs)

    def __len__(self) -> int:
        core = self._core
        return 0 if core is None else len(core)

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
        return self._schema.experience(self._core.take(place, 1), 0)

    def __repr__(self) -> str:
        """How the buffer was made, as far as that is not as ever, and how much is in it."""
        name = type(self).__name__
        try:
            return f"{name}({', '.join(self._describe())})"
        except Exception as error:
            # Debuggers print what is half made or broken, and an error here would hide theirs.
            return f"<{name}, which cannot be described: {type(error).__name__}>"

    def _describe(self) -> list[str]:
        """The parts of `repr`."""
        options = self._options(self._core)
        parts = [f"{name}={options.pop(name)!r}" for name in ("capacity", "device")]
        is_on_host = self._device.type == "cpu"
        usual = _USUAL | {"storage": ("auto", "cpu") if is_on_host else ("auto",)}
        parts += [f"{name}={x!r}" for name, x in options.items() if x not in usual[name]]
        return parts + [f"len={len(self)}"] + [f"nbytes={self.nbytes}"] * (self.nbytes > 0)

    def _options(self, core: BufferCore | None) -> dict[str, Any]:  # noqa: ARG002
        """What the constructor takes to make one like this, whose native half is `core`."""
        return {
            "capacity": self._lane_capacity * self._num_envs,
            "device": str(self._device),
            "num_envs": self._num_envs,
        }

    def _adopt(self, schema: Schema, core: BufferCore) -> bool:
        """Makes the first rows those of this buffer, unless others were first.

        Reading an experience can run its own code, and other threads, before the schema is there.
        One atomic step decides who was first, without a lock that such code could wait for.
        """
        _, first = self.__dict__.setdefault("_first", (schema, core))
        # An interrupt from here on leaves methods that come here again.
        self._push = first.push  # type: ignore[method-assign]
        self._extend = first.extend  # type: ignore[method-assign]
        self._put_native("push", Buffer.push, self._push)
        self._put_native("extend", Buffer.extend, self._extend)
        return first is core

    def _put_native(self, name: str, method: Callable[..., Any], native: Any) -> None:
        """Puts a native method in the place of `method`, whose frame costs as much as a push.

        Not where a subclass has a method of its own, or where somebody gave one to this object.
        """
        if getattr(type(self), name) is method and name not in self.__dict__:
            self.__dict__[name] = native

    def _build(self, schema: Schema, first: Iterable[Any] = ()) -> BufferCore:
        """A native buffer; `first` are the values of the first experience, where there is one."""
        options = partial(
            _core.BufferOptions,
            lane_capacity=self._lane_capacity,
            num_lanes=self._num_envs,
            seed=self._seed,
            n_step=self._n_step,
            gamma=self._gamma,
            overwrite=self._overwrite,
            compact=self._is_compact(schema, first),
            frame_stack=self._frame_stack,
            device=cuda_index(self._device) if self._device.type == "cuda" else None,
        )
        storage = self._storage
        if storage == "auto" and self._device.type == "cuda":
            storage = choose_storage(self._device, schema.rows_nbytes(options(storage="cpu")))
        return schema.build_core(
            options(storage="cpu" if storage == "auto" else storage),
            read_batch=partial(_read_batch, schema),
        )

    def _is_compact(self, schema: Schema, first: Iterable[Any]) -> bool:
        if self._compact != "auto":
            return self._compact
        if self._frame_stack > 1:
            return True
        # Whole rows can be stored without the host, which compact ones cannot.
        if self._device.type == "cuda" and self._storage != "cpu" and _any_on_cuda(first):
            return False
        return schema.observation_bytes >= COMPACT_BYTES

    def _deliver(self, batch: BatchExperience) -> BatchExperience:
        return batch.to(self._device) if self._comes_by_copy else batch


def _read_batch(
    schema: Schema, batch: Any = None, *, lanes: Any = None, **arrays: Any
) -> tuple[dict[str, Any] | BufferCore | None, Any]:
    """Attribute -> stacked arrays, and lanes, from the arguments of `extend`.

    In place of arrays there is the core of a buffer whose steps are to be copied, None where it has
    none.

    Raises:
        TypeError: If `batch` is neither a BatchExperience nor a buffer, or there are arrays
            beside it.
        ValueError: If a part is missing or unknown, or the batch came out of a buffer.
    """
    lanes = lane_array(lanes)
    if isinstance(batch, Buffer) and not arrays:
        return batch._core, lanes
    columns = columns_of_call(batch, arrays)
    schema.check_columns(columns)
    return columns, lanes


def _any_on_cuda(values: Iterable[Any]) -> bool:
    arrays = tree.leaves(tuple(values))
    return any(isinstance(array, torch.Tensor) and array.is_cuda for array in arrays)
