"""The base class of both buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from typing_extensions import Self

from velora import _core
from velora._core import BufferCore
from velora.buffer import tree
from velora.buffer.checks import check_count, check_int
from velora.buffer.columns import columns_of_call, lane_array
from velora.buffer.contents import Contents
from velora.buffer.experience import BatchExperience
from velora.buffer.placement import (
    Storage,
    check_device,
    check_storage,
    choose_storage,
    cuda_index,
)
from velora.buffer.samplers import Sampler, Uniform
from velora.buffer.schema import Schema

MAX_CAPACITY = 2**40
MAX_ENVS = 2**16
# With compact="auto", observations of at least this size are stored once.
COMPACT_BYTES = 4096
# Default values of options, which `repr` leaves out.
_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "num_envs": (1,),
    "n_step": (1,),
    "gamma": (0.99,),
    "frame_stack": (1,),
    "compact": (False, "auto"),
    "sampler": (Uniform(),),
}


class Buffer(Contents):
    """A sequence of experiences in the native core, oldest first.

    Each environment has its own lane: a ring of `capacity // num_envs` experiences in time order.
    As a sequence, the buffer lists the oldest experience of each lane, then the second oldest of
    each, and so on. If all lanes hold equally many, this is step by step.

    The first `push` or `extend` fixes the schema and allocates; pages become resident as they are
    written. Thread-safe: each call is atomic.
    """

    def __init__(
        self,
        capacity: int | float,
        device: torch.device | str | None,
        *,
        num_envs: int,
        overwrite: bool,
        seed: _core.DrawSeed,
        sampler: Sampler = Uniform(),
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
        # Cached: reading `torch.device.type` takes longer than a push.
        self._comes_by_copy = self._device.type not in ("cpu", "cuda")
        self._overwrite = overwrite
        self._seed = seed
        self._sampler = sampler
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
        """Creates a buffer with the `num_envs` and the spaces of an environment.

        Memory is reserved immediately, so a buffer that does not fit fails before the first step.
        As in `push`, a space of shape `(1, F)` is stored as `(F,)`: batches have `(B, F)`, and
        experiences may have either shape.

        Args:
            env: A Gymnasium environment or vector environment.
            capacity: As for the class.
            device: As for the class.
            extras: An example value, for one environment, of each extra field that experiences
                will have: `{"log_prob": 0.0}`.
            **options: Other arguments of the class, except `num_envs`.

        Raises:
            TypeError: If `env` is not a Gymnasium environment, if a space does not contain arrays
                (Text, Sequence and Graph do not), or as for the class.
            ValueError: If a space has an unsupported dtype or no elements, if an extra field has
                the name of another field, or as for the class.
            MemoryError: If `capacity` experiences do not fit into memory.
        """
        from velora.buffer import spaces  # needs gymnasium, which buffers do not

        num_envs, observation_space, action_space = spaces.spaces_of_env(env)
        return cls.from_spaces(
            observation_space,
            action_space,
            capacity,
            device,
            num_envs=num_envs,
            extras=extras,
            **options,
        )

    @classmethod
    def from_spaces(
        cls,
        observation_space: Any,
        action_space: Any,
        capacity: int | float,
        device: torch.device | str | None = None,
        *,
        num_envs: int = 1,
        extras: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Creates a buffer for experiences of these spaces; otherwise like `from_env`.

        Args:
            observation_space: The Gymnasium space of the observations of one environment: a
                vector environment's `single_observation_space`.
            action_space: The space of its actions.
            capacity: As for the class.
            device: As for the class.
            num_envs: As for the class.
            extras: As for `from_env`.
            **options: Other arguments of the class.

        Raises:
            TypeError: If a space does not contain arrays (Text, Sequence and Graph do not) or is
                none, or as for the class.
            ValueError: As for `from_env`.
            MemoryError: If `capacity` experiences do not fit into memory.
        """
        from velora.buffer import spaces

        schema = spaces.schema_of_spaces(observation_space, action_space, extras)
        buffer = cls(capacity, device, num_envs=num_envs, **options)
        buffer._adopt(schema, buffer._build(schema))
        return buffer

    def push(self, experience: Any, lane: int | None = None) -> None:
        """Appends one experience.

        The experience is the successor of the last one pushed to the same lane, unless that one
        ended an episode. Do not push experiences selected from a buffer, or read from one with
        several environments: they are not consecutive. `extend(buffer)` copies a whole buffer.

        Args:
            experience: An `Experience`, or a dataclass with its fields. The first one fixes
                shapes and dtypes: float64 and Python floats are stored as float32, Python ints
                as int64, everything else unchanged. Rewards are always float32. Later values are
                rounded in float fields; integer fields store them exactly or raise. No array is
                read until all user code that reading may run has run. A tensor's storage must
                not be smaller than the tensor: one shrunk by `untyped_storage().resize_` is only
                detected if it has no bytes left.
            lane: Index of the environment, 0 to `num_envs - 1`. Required if there are several.

        Raises:
            TypeError: If `experience` is not such a dataclass, or `lane` is not an int.
            ValueError: If a field is missing, unknown, of another shape, or has a value that its
                dtype cannot hold, or if the lane does not exist. The buffer is then unchanged.
            MemoryError: If `capacity` rows of the first experience do not fit into memory.
            BufferError: If a `RolloutBuffer` is full.
        """
        self._push(experience, lane)

    def _push(self, experience: Any, lane: int | None = None) -> None:
        # Runs only until there is a core: `_adopt` then replaces this method by the native one.
        schema = Schema.from_experience(experience)
        core = self._build(schema, (getattr(experience, name) for name in schema.trees))
        core.push(experience, lane)
        if not self._adopt(schema, core):
            self._push(experience, lane)

    def extend(
        self, batch: BatchExperience | Buffer | None = None, *, lanes: Any = None, **arrays: Any
    ) -> None:
        """Appends steps, all or none: one or k per environment, or all steps of another buffer.

            buffer.extend(
                states=obs, actions=actions, rewards=rewards, next_states=next_obs, dones=dones
            )
            buffer.extend(other_buffer)

        Another buffer is copied in the order in which its steps were pushed, each environment into
        the lane of the same index. The copied steps are never joined to those before or after
        them: an unfinished episode at either boundary is marked as truncated. Both buffers need the
        same fields, dtypes and shapes; everything else may differ. A buffer can extend itself.
        Extending by an empty buffer does nothing.

        Args:
            batch: Arrays with a leading dimension of k * num_envs rows, ordered by step: row
                `t * num_envs + e` is step t of environment e. States `(k * num_envs, F)`, rewards
                and flags `(k * num_envs,)` or `(k * num_envs, 1)`. Extra fields come from
                `extras`. If there are more steps than fit, a `ReplayBuffer` keeps the newest.
                Tensors as in `push`. Or a `ReplayBuffer` or `RolloutBuffer` to copy.
            lanes: The environment of each row, ints `(rows,)`, for environments that do not step
                together: any number of rows, in time order per environment. With a buffer: the
                target lane of each of its environments, ints `(batch.num_envs,)`; environments
                that share a lane are copied one after the other.
            **arrays: The fields by name instead of a batch: `states`, `actions`, `rewards`,
                `next_states`, `dones`, optionally `truncations`, and extra fields by name.

        Raises:
            TypeError: If `batch` is neither a `BatchExperience` nor a buffer, or if both a batch
                and arrays are given.
            ValueError: If the batch, or part of it, was sampled from a buffer; if the arrays
                differ in length, the rows do not fill the lanes evenly, a lane does not exist, or
                the other buffer has other fields, dtypes or shapes; or as in `push`.
            BufferError: If the steps do not fit into a `RolloutBuffer`.
        """
        self._extend(batch, lanes=lanes, **arrays)

    def _extend(
        self, batch: BatchExperience | Buffer | None = None, *, lanes: Any = None, **arrays: Any
    ) -> None:
        # Like `_push`, runs only until there is a core.
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

        For loops that cut an episode off after its last step was pushed without a flag. The next
        experience of these environments begins a new episode. An experience that already ended its
        episode is unchanged.

        Args:
            lanes: Indices of the environments, ints `(k,)`; None for all.

        Raises:
            ValueError: If an environment does not exist. The buffer is then unchanged.
        """
        lanes = lane_array(lanes)
        core = self._core
        if core is not None:
            core.end_episodes(lanes)
        else:
            _core.check_lanes(lanes, self._num_envs)

    def __repr__(self) -> str:
        """Shows the arguments that are not defaults, the length and the memory."""
        name = type(self).__name__
        try:
            return f"{name}({', '.join(self._describe())})"
        except Exception as error:
            # A debugger may print a half-initialised or broken object; do not hide its error.
            return f"<{name}, which cannot be described: {type(error).__name__}>"

    def _describe(self) -> list[str]:
        """Returns the parts of `repr`."""
        options = self._options(self._core)
        parts = [f"{name}={options.pop(name)!r}" for name in ("capacity", "device")]
        is_on_host = self._device.type == "cpu"
        defaults = _DEFAULTS | {"storage": ("auto", "cpu") if is_on_host else ("auto",)}
        parts += [f"{name}={x!r}" for name, x in options.items() if x not in defaults[name]]
        return parts + [f"len={len(self)}"] + [f"nbytes={self.nbytes}"] * (self.nbytes > 0)

    def _options(self, core: BufferCore | None) -> dict[str, Any]:  # noqa: ARG002
        """Returns the constructor arguments of an equal buffer, whose native core is `core`."""
        return {
            "capacity": self._lane_capacity * self._num_envs,
            "device": str(self._device),
            "num_envs": self._num_envs,
        }

    def _adopt(self, schema: Schema, core: BufferCore) -> bool:
        """Installs the schema and the core of the first rows, unless others came first.

        Reading an experience can run user code and other threads before the schema is set. One
        atomic step decides who was first, without a lock on which such code could deadlock.
        """
        _, first = self.__dict__.setdefault("_first", (schema, core))
        # After an interrupt from here on, the next call runs this again.
        self._push = first.push  # type: ignore[method-assign]
        self._extend = first.extend  # type: ignore[method-assign]
        self._put_native("push", Buffer.push, self._push)
        self._put_native("extend", Buffer.extend, self._extend)
        return first is core

    def _put_native(self, name: str, method: Callable[..., Any], native: Any) -> None:
        """Shadows `method`, whose Python frame costs as much as a push, by a native one.

        Does nothing if a subclass overrides the method, or an attribute of this object does.
        """
        if getattr(type(self), name) is method and name not in self.__dict__:
            self.__dict__[name] = native

    def _build(self, schema: Schema, first: Iterable[Any] = ()) -> BufferCore:
        """Builds a native buffer; `first` are the values of the first experience, if any."""
        options = partial(
            _core.BufferOptions,
            lane_capacity=self._lane_capacity,
            num_lanes=self._num_envs,
            seed=self._seed,
            sampler=self._sampler._native,
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
        # The device can store whole rows by itself; compact rows need the host.
        if self._device.type == "cuda" and self._storage != "cpu" and _any_on_cuda(first):
            return False
        return schema.observation_bytes >= COMPACT_BYTES


def _read_batch(
    schema: Schema, batch: Any = None, *, lanes: Any = None, **arrays: Any
) -> tuple[dict[str, Any] | BufferCore | None, Any]:
    """Converts the arguments of `extend` to attribute -> stacked arrays, and lanes.

    If a buffer is to be copied, the first result is its core, or None if it has none.

    Raises:
        TypeError: If `batch` is neither a BatchExperience nor a buffer, or arrays are given as
            well.
        ValueError: If a part is missing or unknown, or the batch was sampled from a buffer.
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
