"""The off-policy memory."""

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
from velora.buffer.schema import Schema
from velora.buffer.state import check_options

MAX_N_STEP = 2**31 - 1
MAX_FRAME_STACK = 64
_OPTIONS = (
    *("capacity", "device", "num_envs", "n_step", "gamma"),
    *("frame_stack", "compact", "storage"),
)


class ReplayBuffer(Buffer):
    """Keeps the newest experiences of each environment and draws uniform batches from them.

    Draws are without replacement and repeatable: the same seed, pushes and draws give the same
    batches on every device.

    Args:
        capacity: How many experiences to hold, 1 to 2**40, `capacity // num_envs` for each
            environment. A whole number, which may be written `1e6`. When full, the oldest go first.
        device: Where batches come back; None is the CPU.
        num_envs: How many environments step side by side, 1 to 65,536. Each has a lane of its own,
            so that episodes never mix.
        n_step: How many steps a sampled experience sums up (Sutton 1988): `rewards` are then
            `r_0 + gamma * r_1 + ...` over n steps, or as many as the episode has from there on,
            and `next_states`, `dones`, `truncations` and `discounts` are those after the last.
        gamma: The discount factor in [0, 1] behind `batch.discounts` and n-step rewards.
        frame_stack: States are stacks of so many frames along their first dimension, as Atari
            wrappers make them, and each frame is to be stored once. At most 64. In a nest, all
            parts of two and more dimensions whose first divides by it count as stacks.
        compact: Store each observation once: a next state with the very bytes of the state pushed
            after it is found there. Batches are the same, bit for bit: any other is stored beside
            the rows. "auto" does so for stacked frames, and for observations of 4 KB and more
            unless the first comes as CUDA tensors: the host has to look at what is stored so.
        storage: Where experiences are. "cpu": in the host's memory; a batch for a CUDA device is
            gathered there and goes over in one copy. "cuda": in the device's memory. "pinned": in
            page-locked memory of the host, which the device reads in place. "auto": with batches on
            a CUDA device "cuda" where the rows take at most three quarters of its free memory, and
            else "pinned".
        seed: Seed of the draws, 0 to 2**64 - 1. None takes one from torch's global generator, so
            that `torch.manual_seed` makes a run repeatable. A copy of the buffer in another process
            draws by another seed.

    Raises:
        TypeError: If `gamma` is not a number, or another number not a whole one.
        RuntimeError: If this machine has no such device.
        ValueError: If an argument is out of range or does not fit the others.
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
        )

    def _options(self, core: _core.BufferCore | None) -> dict[str, Any]:
        return super()._options(core) | {
            "n_step": self._n_step,
            "gamma": self._gamma,
            "frame_stack": self._frame_stack,
            "compact": self._compact if core is None else core.is_compact,
            "storage": self._storage if core is None else core.storage,
        }

    def _init(self, options: dict[str, Any], seed: _core.DrawSeed) -> None:
        check_options(options, _OPTIONS)
        ReplayBuffer.__init__(self, **options, seed=0)
        self._seed = seed

    def seed(self, seed: int | None) -> None:
        """Gives the draws another seed, and begins them again.

        A buffer that is seeded draws as a new one of that seed with the same experiences: also in
        CUDA graphs that were captured before.

        Args:
            seed: 0 to 2**64 - 1. None takes one from torch's global generator.

        Raises:
            TypeError: If `seed` is not an int.
            ValueError: If it is out of range. The draws are then as before.
        """
        number = _check_seed(seed)
        if self._core is None:
            self._seed.set(number)
        else:
            self._core.seed(number)

    @property
    def n_step(self) -> int:
        """How many steps a sampled experience sums up."""
        return self._n_step

    @property
    def gamma(self) -> float:
        """The discount factor."""
        assert self._gamma is not None
        return self._gamma

    @property
    def frame_stack(self) -> int:
        """How many frames a state is a stack of."""
        return self._frame_stack

    @property
    def compact(self) -> bool | Literal["auto"]:
        """Whether observations are stored once; "auto" until the first experience decides it."""
        return self._compact if self._core is None else self._core.is_compact

    def sample(self, batch_size: int, *, out: BatchExperience | None = None) -> BatchExperience:
        """Draws distinct experiences, each set of them equally likely.

        Args:
            batch_size: How many, at most `len(self)`.
            out: A batch of an earlier `sample(batch_size)` whose tensors are to be written again,
                in place of new ones: for loops that are done with a batch before they draw the
                next. Nothing else may still need what it held, a gradient included.

        Returns:
            A batch of `batch_size` steps on the buffer's device, with `truncations`, `indices`
            and `discounts`; `out` where that was given.

        Raises:
            TypeError: If `batch_size` is not an int, or `out` not a batch.
            ValueError: If `batch_size` is less than 1 or more than there is, or a tensor of `out`
                is not a contiguous one of the dtype, shape and device that a new batch would have.
                `out` is then as before.
            RuntimeError: If a CUDA graph captures it from rows in the host's memory.

        A CUDA graph that captures it draws anew each time that it runs. It reads the buffer and
        writes the batch: keep both as long, and run graphs of one buffer one after the other.
        """
        if self._core is None:
            number = check_int("batch_size", batch_size, 1)
            raise ValueError(
                "batch_size: expected at most 0, the number of experiences in the buffer, got "
                f"{number}"
            )
        if out is not None and self._comes_by_copy:
            raise ValueError(f"out: expected None for a buffer on {self._device}, got a batch")
        return self._deliver(self._core.sample(batch_size, out=out))

    def _sample_recorded(self, batch_size: int) -> tuple[BatchExperience, tuple[Tensor, ...]]:
        """As `sample`, in memory from torch's allocator, which it gives, too."""
        core = self._core
        is_plain = type(self).sample is ReplayBuffer.sample
        if not is_plain or core is None or batch_size > len(core):
            # A subclass's own batch, or an error that sample() has the words for.
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
        """Draws sequences of consecutive steps for recurrent networks.

        Sequences start at distinct steps, each set of starts equally likely. They are L = burn_in +
        length steps long. Those that have fewer begin at time 0 and are padded with zeros at their
        end. `batch.mask` is 1 for the steps to train on, `batch.is_first` for the first step of an
        episode, where a recurrent state is to be reset.

        Args:
            batch_size: How many sequences B.
            length: How many steps to train on.
            burn_in: How many steps before them to warm up the recurrent state (Kapturowski et al.
                2019), as far as they are in the buffer. With "pad" and "within" they are of the
                same episode. With "cross" they reach back into the episodes before, as the
                sequence reaches into those after: `is_first` says where to reset.
            boundary: What happens at the end of an episode. "pad": a sequence stops there, and may
                start at any step. "within": it starts only where the episode has `length` steps
                from there on. "cross": it goes on with the next episode of the same environment,
                and starts only where that has `length` steps from there on.
            first_only: Extra fields to return for the first step alone, `(B, ...)`: the recurrent
                state that the experience was made with. Names that experiences lack are ignored.

        Returns:
            A batch of `(B, L, F)` tensors on the buffer's device, with `truncations`, `indices`
            (-1 for padding), `discounts`, `mask` and `is_first`. Rewards and discounts are those of
            single steps, whatever `n_step` is.

        Raises:
            TypeError: If a number is not an int.
            ValueError: If a number is out of range, `length` or `burn_in` exceeds what an
                environment's lane holds, `boundary` is none of these, or there are fewer than
                `batch_size` starts.
            RuntimeError: If a CUDA graph captures it with another `boundary` than "pad", or from
                rows in the host's memory.
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
        """Goes on drawing batches, the next ones while you train on one.

        A thread gathers up to `prefetch` batches ahead and, for a CUDA device, copies them there on
        a stream of its own. It pays where a batch is large, images say, and the training step
        leaves the host time: on a GPU, or with a core to spare. Small batches take longer to hand
        over from thread to thread than to draw: call `sample` for them.

        A batch lags behind: it was drawn up to `prefetch` batches before it is handed out, and has
        seen no push since. How many it has seen depends on timing, so a run that pushes meanwhile
        does not repeat bit by bit. Batches that were drawn ahead count as draws also when nobody
        takes them: a buffer that is saved then goes on after them.

        While a loader for a CUDA device is open, capture graphs with
        `capture_error_mode="thread_local"`, and call `next` outside of them.

        Args:
            batch_size: As for `sample`.
            prefetch: How many batches to keep ready; one more is in your hands.

        Returns:
            An endless iterator over batches as `sample` gives them, to be closed in the end: use it
            as a context manager. Drawing begins with the first `next`.

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
