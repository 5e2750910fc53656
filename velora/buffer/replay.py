"""The off-policy buffer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from velora import _core
from velora.buffer import tree
from velora.buffer.base import Buffer
from velora.buffer.checks import check_int
from velora.buffer.experience import BatchExperience
from velora.buffer.loader import Loader
from velora.buffer.placement import Storage
from velora.buffer.samplers import Sampler, Uniform, bind_sampler, sampler_of
from velora.buffer.schema import Schema
from velora.buffer.state import check_options
from velora.buffer.updates import Updates

MAX_N_STEP = 2**31 - 1
MAX_FRAME_STACK = 64
_OPTIONS = (
    *("capacity", "device", "num_envs", "n_step", "gamma"),
    *("frame_stack", "compact", "storage", "sampler"),
)


class ReplayBuffer(Updates, Buffer):
    """Keeps the newest experiences of each environment and samples random batches from them.

    By default draws are uniform, without replacement; with a `Prioritized` sampler they follow
    priorities, with replacement. Draws are reproducible: the same seed and the same calls give the
    same batches, on every device.

    Args:
        capacity: Maximum number of experiences, 1 to 2**40; `capacity // num_envs` per environment.
            A whole number; `1e6` is accepted. A full buffer overwrites its oldest experiences.
        device: Device of the batches; None is the CPU.
        num_envs: Number of parallel environments, 1 to 65,536. Each has its own lane, so that
            episodes never mix.
        n_step: Number of steps of an n-step return (Sutton 1988): `rewards` are then
            `r_0 + gamma * r_1 + ...` over n steps, or up to the end of the episode, and
            `next_states`, `dones`, `truncations` and `discounts` are those after the last step.
        gamma: Discount factor in [0, 1] of `batch.discounts` and n-step rewards.
        frame_stack: Number of frames, at most 64, stacked along the first dimension of a state, as
            Atari wrappers do. Each frame is stored once. In a nest, all parts with at least two
            dimensions, the first divisible by `frame_stack`, are treated as stacks.
        compact: Store each observation once: a next state that is byte-equal to the next pushed
            state is not stored again, and any other is stored separately. Batches are bit for bit
            the same. "auto" enables it for stacked frames, and for observations of 4 KB or more
            unless the first comes as CUDA tensors, since the host has to compare them.
        storage: Where experiences are stored. "cpu": host memory; a batch for a CUDA device is
            gathered there and copied in one transfer. "cuda": device memory. "pinned": page-locked
            host memory, which the device reads in place. "auto": for a CUDA device, "cuda" if the
            rows need at most three quarters of its free memory, otherwise "pinned"; "cpu" with a
            `Prioritized` sampler.
        sampler: How experiences are chosen: `Uniform()`, or `Prioritized(alpha=0.6, beta=0.4)`,
            which needs rows in host memory.
        seed: Seed of the draws, 0 to 2**64 - 1. None draws one from torch's global generator, so
            that `torch.manual_seed` makes a run reproducible. A copy of the buffer in another
            process uses a different seed.

    Raises:
        TypeError: If `gamma` is not a number, or another number is not a whole one.
        RuntimeError: If the device is not available.
        ValueError: If an argument is out of range or conflicts with another.
    """

    def __init__(
        self,
        capacity: int | float,
        device: torch.device | str | None = None,
        *,
        num_envs: int = 1,
        n_step: int = 1,
        gamma: float = 0.99,
        frame_stack: int = 1,
        compact: bool | Literal["auto"] = "auto",
        storage: Storage = "auto",
        sampler: Sampler = Uniform(),
        seed: int | None = None,
    ) -> None:
        if not isinstance(gamma, Real):
            raise TypeError(f"gamma: expected a number, got {type(gamma).__name__}")
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma: expected a number from 0 to 1, got {gamma}")
        if not isinstance(compact, bool) and compact != "auto":
            raise ValueError(f"compact: expected True, False or 'auto', got {compact!r}")
        frame_stack = check_int("frame_stack", frame_stack, 1, MAX_FRAME_STACK)
        if frame_stack > 1 and compact is False:
            raise ValueError(
                f"compact: expected True or 'auto' with frame_stack={frame_stack}, got False"
            )
        super().__init__(
            capacity,
            device,
            num_envs=num_envs,
            overwrite=True,
            seed=_core.DrawSeed(_check_seed(seed)),
            gamma=float(gamma),
            n_step=check_int("n_step", n_step, 1, MAX_N_STEP),
            compact=compact,
            frame_stack=frame_stack,
            storage=storage,
            sampler=bind_sampler(sampler),
        )

    def _options(self, core: _core.BufferCore | None) -> dict[str, Any]:
        return super()._options(core) | {
            "n_step": self._n_step,
            "gamma": self._gamma,
            "frame_stack": self._frame_stack,
            "compact": self._compact if core is None else core.is_compact,
            "storage": self._storage if core is None else core.storage,
            "sampler": self._sampler,
        }

    def _init(self, options: dict[str, Any], seed: _core.DrawSeed) -> None:
        check_options(options, _OPTIONS)
        sampler = sampler_of(options["sampler"])
        ReplayBuffer.__init__(self, **options | {"sampler": sampler}, seed=0)
        self._seed = seed

    def seed(self, seed: int | None) -> None:
        """Seeds the draws again.

        The buffer then draws like a new buffer with that seed and the same experiences. This also
        holds for CUDA graphs captured earlier.

        Args:
            seed: 0 to 2**64 - 1. None draws one from torch's global generator.

        Raises:
            TypeError: If `seed` is not an int.
            ValueError: If it is out of range. The draws are then unchanged.
        """
        number = _check_seed(seed)
        if self._core is None:
            self._seed.set(number)
        else:
            self._core.seed(number)

    @property
    def n_step(self) -> int:
        """Number of steps of an n-step return."""
        return self._n_step

    @property
    def gamma(self) -> float:
        """The discount factor."""
        assert self._gamma is not None
        return self._gamma

    @property
    def frame_stack(self) -> int:
        """Number of frames stacked in a state."""
        return self._frame_stack

    @property
    def compact(self) -> bool | Literal["auto"]:
        """Whether each observation is stored once; "auto" until the first experience decides it."""
        return self._compact if self._core is None else self._core.is_compact

    @property
    def sampler(self) -> Sampler:
        """The buffer's own sampler; `buffer.sampler.beta = 0.5` takes effect at the next draw."""
        return self._sampler

    def sample(
        self, batch_size: int, *, out: BatchExperience | None = None, replace: bool | None = None
    ) -> BatchExperience:
        """Samples a batch of experiences.

        With `Uniform()`, the experiences are distinct, and all subsets of that size are equally
        likely. With `Prioritized`, an experience may occur several times, and `batch.weights`
        contains importance weights.

        Args:
            batch_size: Number of experiences. Without replacement, at most `len(self)`.
            out: A batch from an earlier `sample(batch_size)`, whose tensors are overwritten instead
                of allocating new ones. Nothing may still need its old values, such as a pending
                backward pass.
            replace: Whether to draw with replacement: each experience independently, any number of
                them from a buffer that is not empty. None leaves it to the sampler: `Uniform` draws
                without; `Prioritized` draws with it, and refuses False.

        Returns:
            A batch of `batch_size` steps on the buffer's device, with `truncations`, `indices`
            and `discounts`, for `n_step > 1` also `steps`, and `weights` if prioritized; `out` if
            given.

        Raises:
            TypeError: If `batch_size` is not an int, `replace` not a bool, or `out` not a batch.
            ValueError: If the buffer is empty, `batch_size` is less than 1, more than `len(self)`
                without replacement or more than 2**28, if the sampler refuses `replace`, or if a
                tensor of `out` is not contiguous or differs from a new batch in dtype, shape or
                device. `out` is then unchanged.
            RuntimeError: If captured in a CUDA graph with rows in host memory.

        In a CUDA graph, each replay draws a new batch. The graph reads the buffer and writes the
        batch, so keep both alive, and do not replay graphs of one buffer concurrently.
        """
        if self._core is None:
            number = check_int("batch_size", batch_size, 1)
            raise ValueError(
                "batch_size: expected at most 0, the number of experiences in the buffer, got "
                f"{number}"
            )
        if out is not None and self._comes_by_copy:
            raise ValueError(f"out: expected None for a buffer on {self._device}, got a batch")
        return self._deliver(self._core.sample(batch_size, out=out, replace=replace))

    def _sample_recorded(self, batch_size: int) -> tuple[BatchExperience, tuple[Tensor, ...]]:
        """Like `sample`, but in memory from torch's allocator, which it also returns."""
        core = self._core
        is_plain = type(self).sample is ReplayBuffer.sample
        if not is_plain or core is None or batch_size > len(core):
            # A subclass's own batch, or an error that sample() reports better.
            batch = self.sample(batch_size)._map(torch.clone)
            return batch, tuple(tree.leaves(vars(batch)))
        nbytes, layout = core.batch_layout(batch_size)
        base = torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        core.sample_into(base, batch_size)
        return core.name_batch([_view(base, *part) for part in layout]), (base,)

    def _adopt(self, schema: Schema, core: _core.BufferCore) -> bool:
        is_first = super()._adopt(schema, core)
        if not self._comes_by_copy:
            assert self._core is not None
            self._put_native("sample", ReplayBuffer.sample, self._core.sample)
        return is_first

    def sample_sequences(
        self,
        batch_size: int,
        length: int,
        burn_in: int = 0,
        *,
        boundary: Literal["pad", "within", "cross"] = "pad",
        first_only: Sequence[str] = ("hidden",),
    ) -> BatchExperience:
        """Samples sequences of consecutive steps for recurrent networks.

        With `Uniform()`, sequences start at distinct steps, and all sets of starts are equally
        likely. With `Prioritized`, the priority of a step is that of the sequence that starts
        there, several sequences may start at one step, and `batch.weights` is `(B, 1)`. The start
        is the first step to train on; burn-in comes before it.

        Sequences have L = burn_in + length steps. Shorter ones begin at time 0 and are zero-padded
        at the end.
        `batch.mask` is 1 for the steps to train on; `batch.is_first` is 1 for the first step of an
        episode, where a recurrent state must be reset.

        Args:
            batch_size: Number of sequences B.
            length: Number of steps to train on.
            burn_in: Number of steps before them that warm up the recurrent state (Kapturowski et
                al. 2019), as far as the buffer holds them. With "pad" and "within" they belong to
                the same episode. With "cross" they may reach back into earlier episodes;
                `is_first` tells where to reset.
            boundary: Handling of the end of an episode. "pad": a sequence stops there, and may
                start at any step. "within": it starts only where at least `length` steps of the
                episode remain. "cross": it continues into the next episode of the same
                environment, and starts only where at least `length` steps of that remain.
                `Prioritized` supports "pad" only.
            first_only: Extra fields returned for the first step only, `(B, ...)`, such as the
                stored recurrent state. Names that experiences lack are ignored.

        Returns:
            A batch of `(B, L, F)` tensors on the buffer's device, with `truncations`, `indices`
            (-1 for padding), `discounts`, `mask` and `is_first`, and `weights` if prioritized.
            Rewards and discounts are those of single steps, regardless of `n_step`.

        Raises:
            TypeError: If a number is not an int.
            ValueError: If a number is out of range, `length` or `burn_in` exceeds the capacity of
                a lane, `boundary` is unknown or not supported by the sampler, or there are no
                starts or, with `Uniform()`, fewer than `batch_size`.
            RuntimeError: If captured in a CUDA graph with another `boundary` than "pad" or with
                rows in host memory.
        """
        batch_size = check_int("batch_size", batch_size, 1)
        length = check_int("length", length, 1)
        burn_in = check_int("burn_in", burn_in, 0)
        for name, steps in (("length", length), ("burn_in", burn_in)):
            if steps > self._lane_capacity:
                raise ValueError(
                    f"{name}: expected at most {self._lane_capacity} steps, which is what the "
                    f"buffer holds of an environment, got {steps}"
                )
        if boundary not in ("pad", "within", "cross"):
            raise ValueError(f"boundary: expected 'pad', 'within' or 'cross', got {boundary!r}")
        _check_names(first_only)
        if self._core is None:
            raise ValueError(
                "batch_size: expected at most 0, the number of sequences in the buffer, got "
                f"{batch_size}"
            )
        assert self._schema is not None
        first_fields = [
            field
            for name, fields in self._schema.extra_fields.items()
            if name in first_only
            for field in fields
        ]
        return self._deliver(
            self._core.sample_sequences(batch_size, length, burn_in, boundary, first_fields)
        )

    def loader(self, batch_size: int, prefetch: int = 2) -> Loader:
        """Returns an iterator that prefetches batches while you train.

        A background thread gathers up to `prefetch` batches ahead and, for a CUDA device, copies
        them there on a separate stream. This pays off for large batches, such as images, if the
        training step leaves the host idle: on a GPU, or with a spare core. Handing a small batch
        from thread to thread takes longer than drawing it, so call `sample` for those.

        Batches are stale: each was drawn up to `prefetch` batches earlier and misses the pushes
        and updates of priorities since then. How many depends on timing, so runs that push or
        update meanwhile are not bit-for-bit reproducible. Prefetched batches count as draws even if
        they are never used: a buffer saved then continues after them.

        While a loader for a CUDA device is open, capture graphs with
        `capture_error_mode="thread_local"`, and do not call `next` during a capture.

        Args:
            batch_size: As for `sample`.
            prefetch: Number of batches to keep ready, besides the one in use.

        Returns:
            An infinite iterator over batches like those of `sample`. Close it when done, or use it
            as a context manager. Drawing starts with the first `next`.

        Raises:
            TypeError: If a number is not an int.
            ValueError: If it is less than 1.
        """
        return Loader(self, batch_size, prefetch)


def _view(base: Tensor, offset: int, dtype_name: str, shape: tuple[int, ...]) -> Tensor:
    dtype = getattr(torch, dtype_name)
    return base[offset : offset + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)


def _check_names(names: Sequence[str]) -> None:
    if not isinstance(names, (tuple, list)):
        raise TypeError(
            f"first_only: expected a tuple or list of field names, got {type(names).__name__}"
        )
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"first_only: expected field names, got {type(name).__name__}")


def _check_seed(seed: int | None) -> int:
    if seed is None:
        return int(torch.randint(2**63 - 1, (), device="cpu").item())
    return check_int("seed", seed, 0, 2**64 - 1)
