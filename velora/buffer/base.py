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
from velora.buffer.appends import Appends, read_batch
from velora.buffer.checks import check_count, check_int
from velora.buffer.contents import Contents
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


class Buffer(Appends, Contents):
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
        if sampler._native is not None:
            if self._storage in ("cuda", "pinned"):
                raise ValueError(
                    f"storage: expected 'cpu' or 'auto' with sampler={type(sampler).__name__}"
                    f"(...), which chooses on the host, got {self._storage!r}"
                )
            self._storage = "cpu"
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
        self._put_native("push", Appends.push, self._push)
        self._put_native("extend", Appends.extend, self._extend)
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
            read_batch=partial(read_batch, schema),
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


def _any_on_cuda(values: Iterable[Any]) -> bool:
    arrays = tree.leaves(tuple(values))
    return any(isinstance(array, torch.Tensor) and array.is_cuda for array in arrays)
