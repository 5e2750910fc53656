# Written by `make stubs`.
# mypy: disable-error-code="type-arg"
"""The native core of velora's buffers. Private: use velora.buffer."""

from __future__ import annotations

import collections.abc
import typing

__all__: list[str] = [
    "BufferCore",
    "BufferOptions",
    "DrawSeed",
    "Field",
    "Prioritized",
    "Sampler",
    "byte_tensor",
    "check_lanes",
    "form_of",
    "gae_cuda",
    "gae_scratch_words",
    "inspect",
    "leaves",
    "map_leaves",
    "map_named_leaves",
    "require_cuda",
    "rows_nbytes",
    "use_cuda_library",
]

class Sampler:
    """How a buffer chooses rows."""

class Prioritized(Sampler):
    """The sampler of a buffer with priorities."""
    def __init__(
        self,
        *,
        alpha: typing.SupportsFloat | typing.SupportsIndex,
        beta: typing.SupportsFloat | typing.SupportsIndex,
        eps: typing.SupportsFloat | typing.SupportsIndex,
        normalise: str,
        draws: str,
        maximum: str,
    ) -> None: ...
    @property
    def alpha(self) -> float:
        """Takes effect at the next draw."""
    @alpha.setter
    def alpha(self, arg1: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def beta(self) -> float:
        """Takes effect at the next draw."""
    @beta.setter
    def beta(self, arg1: typing.SupportsFloat | typing.SupportsIndex) -> None: ...

class Field:
    """One array of a row: name, role, dtype and shape."""
    def __init__(
        self,
        name: str,
        role: str,
        dtype: str,
        shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    ) -> None: ...

class DrawSeed:
    """The seed of a buffer's draws: another in each process that has a copy of it."""
    @staticmethod
    def of_copy(
        value: typing.SupportsInt | typing.SupportsIndex,
        worker: typing.SupportsInt | typing.SupportsIndex | None,
        number: typing.SupportsInt | typing.SupportsIndex,
    ) -> DrawSeed:
        """For a process that is being started with a copy, by one that has this worker's seed."""
    def __init__(self, value: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def set(self, value: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def value(self) -> int:
        """That of this process."""
    @property
    def worker(self) -> int | None:
        """The seed of the DataLoader's worker that it is for, if any."""

class BufferOptions:
    """Configuration of a buffer, besides the fields of its rows."""
    def __init__(
        self,
        *,
        lane_capacity: typing.SupportsInt | typing.SupportsIndex,
        num_lanes: typing.SupportsInt | typing.SupportsIndex,
        seed: DrawSeed,
        sampler: Sampler | None,
        n_step: typing.SupportsInt | typing.SupportsIndex,
        gamma: typing.SupportsFloat | typing.SupportsIndex | None,
        overwrite: bool,
        compact: bool,
        frame_stack: typing.SupportsInt | typing.SupportsIndex,
        storage: str,
        device: typing.SupportsInt | typing.SupportsIndex | None,
    ) -> None: ...

class BufferCore:
    """The rows of one buffer and what is drawn from them."""
    def __init__(
        self,
        *,
        fields: collections.abc.Sequence[Field],
        trees: dict,
        options: BufferOptions,
        check_type: typing.Any,
        batch_names: collections.abc.Sequence[str],
        read_batch: typing.Any,
        batch_type: typing.Any,
    ) -> None: ...
    def __len__(self) -> int: ...
    def batch_layout(self, batch_size: typing.Any) -> tuple: ...
    def clear(self) -> None: ...
    def count_pushed(self) -> int: ...
    def end_episodes(self, lanes: typing.Any) -> None: ...
    def gather(self, indices: typing.Any) -> typing.Any: ...
    def is_even(self) -> bool: ...
    def lane_lengths(self) -> list[int]: ...
    def name_batch(self, tensors: collections.abc.Sequence[typing.Any]) -> typing.Any: ...
    def restore(
        self,
        lanes: typing.Any,
        draws: typing.SupportsInt | typing.SupportsIndex,
        rows: typing.Any,
        blocks: typing.Any,
        sampler: typing.Any,
    ) -> None: ...
    def sample_into(self, base: typing.Any, batch_size: typing.Any) -> None: ...
    def sample_sequences(
        self,
        batch_size: typing.Any,
        length: typing.SupportsInt | typing.SupportsIndex,
        burn_in: typing.SupportsInt | typing.SupportsIndex,
        boundary: str,
        first_fields: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    ) -> typing.Any: ...
    def seed(self, value: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def state(self) -> tuple: ...
    def take(
        self,
        start: typing.SupportsInt | typing.SupportsIndex,
        count: typing.SupportsInt | typing.SupportsIndex,
    ) -> typing.Any: ...
    def update(self, indices: typing.Any, fields: dict) -> typing.Any: ...
    def update_priorities(self, indices: typing.Any, priorities: typing.Any) -> typing.Any: ...
    @property
    def extend(self) -> typing.Any:
        """Appends steps."""
    @property
    def is_compact(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def push(self) -> typing.Any:
        """Appends one experience."""
    @property
    def sample(self) -> typing.Any:
        """Draws experiences."""
    @property
    def storage(self) -> str: ...

def byte_tensor(data: bytes) -> typing.Any:
    """A uint8 tensor that looks into `data`: for readers only."""

def check_lanes(lanes: typing.Any, num_lanes: typing.SupportsInt | typing.SupportsIndex) -> None:
    """Raises ValueError for what is neither an array of lanes nor None."""

def form_of(nest: typing.Any) -> str:
    """The form of a nest at its top: "a dict with keys ['a', 'b']"."""

def gae_cuda(
    rewards: typing.Any,
    values: typing.Any,
    next_values: typing.Any,
    dones: typing.Any,
    truncations: typing.Any,
    gamma: typing.SupportsFloat | typing.SupportsIndex,
    lam: typing.SupportsFloat | typing.SupportsIndex,
    advantages: typing.Any,
    returns: typing.Any,
    scratch: typing.Any,
) -> None:
    """Fills advantages and returns, on torch's current stream. All are contiguous CUDA tensors."""

def gae_scratch_words(
    steps: typing.SupportsInt | typing.SupportsIndex,
    width: typing.SupportsInt | typing.SupportsIndex,
    itemsize: typing.SupportsInt | typing.SupportsIndex,
) -> int:
    """How many int64 `gae_cuda` needs for scratch."""

def inspect(value: typing.Any, field: str) -> tuple[str, tuple]:
    """The dtype and shape that a value is read with. Raises ValueError for what is no array."""

def leaves(nest: typing.Any) -> list:
    """All leaves of a nest of dicts and tuples in their order, but None."""

def map_leaves(function: typing.Any, nest: typing.Any) -> typing.Any:
    """The same nest with `function` applied to each leaf; None stays None."""

def map_named_leaves(
    function: typing.Any, nest: typing.Any, name: str, others: tuple = ()
) -> typing.Any:
    """The nest of `function(path, leaf, *leaves of others)`. Raises ValueError for other forms."""

def require_cuda(device: typing.SupportsInt | typing.SupportsIndex) -> None:
    """Raises RuntimeError, which says what to do, when a CUDA device cannot hold rows."""

def rows_nbytes(fields: collections.abc.Sequence[Field], options: BufferOptions) -> int:
    """Bytes that rows of these fields take, without blocks beside them."""

def use_cuda_library(path: str) -> None:
    """Loads the CUDA runtime from there and not from beside this module: for tests."""
