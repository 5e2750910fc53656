"""Batches from several buffers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from velora.buffer import tree
from velora.buffer.checks import check_int
from velora.buffer.experience import BatchExperience
from velora.buffer.loader import Loader
from velora.buffer.replay import ReplayBuffer
from velora.buffer.samplers import Prioritized
from velora.buffer.updates import check_priorities


class Mixture:
    """Draws each batch from several buffers in fixed shares.

    For example half online and half offline data, as RLPD does (Ball et al. 2023):

        mixture = Mixture({online: 0.5, offline: 0.5})
        batch = mixture.sample(256)
        mixture.update_priorities(batch, td_error.abs())

    Shares are exact: of a batch of B, a buffer with share s gets s * B experiences rounded down,
    and the experiences that are left go one each to the buffers with the largest remainders, the
    earlier one of equal ones. Each buffer draws its part as its own `sample` does, with its own
    seed and sampler. The mixture has no state of its own, so it is saved by saving its buffers.

    Args:
        shares: Buffer -> share, positive numbers with the sum 1. All buffers have the same device.

    Raises:
        TypeError: If a key is not a `ReplayBuffer`, or a share is not a number.
        ValueError: If there is no buffer, shares do not sum to 1, or devices differ.

    Paper:
        Ball et al. 2023, Efficient Online Reinforcement Learning with Offline Data,
        https://arxiv.org/abs/2302.02948.
    """

    def __init__(self, shares: Mapping[ReplayBuffer, float]) -> None:
        if not isinstance(shares, Mapping) or len(shares) == 0:
            raise ValueError(f"shares: expected buffers and their shares, got {shares!r}")
        for buffer, share in shares.items():
            if not isinstance(buffer, ReplayBuffer):
                raise TypeError(f"shares: expected a ReplayBuffer, got {type(buffer).__name__}")
            if isinstance(share, bool) or not isinstance(share, (int, float)):
                raise TypeError(f"shares: expected a number, got {type(share).__name__}")
            if not 0 < share <= 1:
                raise ValueError(f"shares: expected numbers above 0 and up to 1, got {share}")
        total = math.fsum(shares.values())
        if abs(total - 1) > 1e-9:
            raise ValueError(f"shares: expected numbers with the sum 1, got the sum {total}")
        self._buffers = tuple(shares)
        self._shares = tuple(float(share) for share in shares.values())
        devices = {str(buffer.device) for buffer in self._buffers}
        if len(devices) > 1:
            raise ValueError(f"shares: expected buffers on one device, got {sorted(devices)}")

    @property
    def buffers(self) -> tuple[ReplayBuffer, ...]:
        """The buffers, in the order of `batch.source`."""
        return self._buffers

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self._buffers[0].device

    def __len__(self) -> int:
        """Number of experiences in all buffers."""
        return sum(map(len, self._buffers))

    def __repr__(self) -> str:
        """Shows the shares."""
        parts = zip(self._shares, self._buffers, strict=True)
        return f"Mixture({', '.join(f'{share:g} of {buffer!r}' for share, buffer in parts)})"

    def counts(self, batch_size: int) -> tuple[int, ...]:
        """Returns how many experiences of a batch come from each buffer.

        Raises:
            TypeError: If `batch_size` is not an int.
            ValueError: If it is less than 1.
        """
        batch_size = check_int("batch_size", batch_size, 1)
        exact = [share * batch_size for share in self._shares]
        counts = [math.floor(part + 1e-9) for part in exact]
        by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
        for i in by_remainder[: batch_size - sum(counts)]:
            counts[i] += 1
        return tuple(counts)

    def sample(self, batch_size: int) -> BatchExperience:
        """Draws a batch from all buffers.

        Args:
            batch_size: Number of experiences B.

        Returns:
            A batch like those of the buffers, sorted by buffer, with `source`: which of the buffers
            each experience comes from. If any buffer has `weights` or `steps`, those of the others
            are 1.

        Raises:
            TypeError: If `batch_size` is not an int.
            ValueError: If it is less than 1, a buffer has too few experiences for its part, or the
                buffers' experiences have other fields, dtypes or shapes. Nothing is drawn then.
        """
        parts = list(enumerate(self.counts(batch_size)))
        self._check_schemas()
        for i, count in parts:
            buffer = self._buffers[i]
            most = math.inf if isinstance(buffer.sampler, Prioritized) else len(buffer)
            if count > 0 and (len(buffer) == 0 or count > most):
                raise ValueError(
                    f"batch_size: expected a batch that takes at most {len(buffer)} experiences "
                    f"from buffer {i}, got {batch_size}, of which it has {count}"
                )
        return _join([(i, self._buffers[i].sample(count)) for i, count in parts if count > 0])

    def _sample_recorded(self, batch_size: int) -> tuple[BatchExperience, tuple[Tensor, ...]]:
        batch = self.sample(batch_size)._map(torch.clone)
        return batch, tuple(tree.leaves(vars(batch)))

    def loader(self, batch_size: int, prefetch: int = 2) -> Loader:
        """Returns an iterator that prefetches batches, like `ReplayBuffer.loader`.

        Raises:
            TypeError: If a number is not an int.
            ValueError: If it is less than 1.
        """
        return Loader(self, batch_size, prefetch)

    def update_priorities(self, batch: BatchExperience, priorities: Tensor) -> Tensor:
        """Gives the experiences of a batch other priorities, each in its buffer.

        Args:
            batch: A batch of this mixture.
            priorities: One for each, `(B,)` or `(B, 1)`, as in `ReplayBuffer.update_priorities`.

        Returns:
            A bool tensor `(B,)` on the CPU: which experiences were still in a buffer with
            priorities. All others are skipped.

        Raises:
            ValueError: If the batch is not from a mixture of so many buffers, or as in
                `ReplayBuffer.update_priorities`, which checks the priorities of all buffers first.
        """
        source = self._source_of(batch)
        if priorities.shape not in ((len(source),), (len(source), 1)):
            raise ValueError(
                f"priorities: expected one for each of {len(source)} experiences, got shape "
                f"{tuple(priorities.shape)}"
            )
        values = priorities.detach().reshape(-1)
        check_priorities(values)

        def update(buffer: ReplayBuffer, rows: Tensor) -> Tensor | None:
            if not isinstance(buffer.sampler, Prioritized):
                return None
            return buffer.update_priorities(batch.indices[rows], values[rows.to(values.device)])

        return self._route(source, update)

    def update(self, batch: BatchExperience, **fields: Any) -> Tensor:
        """Writes fields of the experiences of a batch back, each into its buffer.

        Args:
            batch: A batch of this mixture.
            **fields: As in `ReplayBuffer.update`, tensors `(B, ...)`.

        Returns:
            A bool tensor `(B,)` on the CPU: which experiences were still in their buffer.

        Raises:
            ValueError: If the batch is not from a mixture of so many buffers, or as in
                `ReplayBuffer.update`. Nothing is written then.
        """
        source = self._source_of(batch)
        self._check_schemas()  # so that what does not fit is refused by the first buffer
        for name, nest in fields.items():
            for values in tree.leaves(nest):
                if not isinstance(values, Tensor) or values.shape[:1] != source.shape:
                    got = tuple(values.shape) if isinstance(values, Tensor) else type(values)
                    raise ValueError(f"{name}: expected a tensor ({len(source)}, ...), got {got}")

        def update(buffer: ReplayBuffer, rows: Tensor) -> Tensor:
            part = tree.map_leaves(lambda values: values[rows.to(values.device)], fields)
            return buffer.update(batch.indices[rows], **part)

        return self._route(source, update)

    def _route(
        self, source: Tensor, update: Callable[[ReplayBuffer, Tensor], Tensor | None]
    ) -> Tensor:
        """Calls `update(buffer, rows)` for each buffer that has rows; joins the masks it returns.

        `rows` is the bool mask of the buffer's rows. None stands for a mask that is all False.
        """
        mask = torch.zeros(len(source), dtype=torch.bool)
        for i, buffer in enumerate(self._buffers):
            rows = source == i
            updated = update(buffer, rows) if bool(rows.any()) else None
            if updated is not None:
                mask[rows.cpu()] = updated
        return mask

    def _source_of(self, batch: BatchExperience) -> Tensor:
        source = batch.source
        if source is None or len(source) == 0 or int(source.max()) >= len(self._buffers):
            raise ValueError(
                f"batch: expected one of this mixture of {len(self._buffers)} buffers, got another"
            )
        return source  # type: ignore[no-any-return]

    def _check_schemas(self) -> None:
        """Checks that all buffers that have a schema have the same fields."""
        first: dict[str, tuple[str, tuple[int, ...]]] | None = None
        for i, buffer in enumerate(self._buffers):
            if buffer._schema is None:
                continue
            leaves = tree.leaves(buffer._schema.trees)
            fields = {leaf.name: (leaf.dtype, leaf.shape) for leaf in leaves}
            first = fields if first is None else first
            if first == fields:
                continue
            name = next(name for name in first | fields if first.get(name) != fields.get(name))
            expected, got = (
                f"{known[name][0]} of shape {known[name][1]}" if name in known else none
                for known, none in ((first, "no such field"), (fields, "none"))
            )
            raise ValueError(
                f"{name}: expected {expected} in buffer {i}, as in the first one, got {got}"
            )


def _join(parts: list[tuple[int, BatchExperience]]) -> BatchExperience:
    """Joins the parts of a batch; `i` is the number of the buffer of each."""
    first = parts[0][1]
    rewards = [part.rewards for _, part in parts]
    named: dict[str, Any] = {
        item.name: [getattr(part, item.name) for _, part in parts]
        for item in dataclasses.fields(BatchExperience)
    }
    for name in ("weights", "steps"):  # 1 where a buffer has none of its own
        if any(column is not None for column in named[name]):
            named[name] = [
                torch.ones_like(ones) if column is None else column
                for column, ones in zip(named[name], rewards, strict=True)
            ]
    joined: dict[str, Any] = {
        name: None
        if values[0] is None
        else tree.map_named_leaves(
            lambda _, *tensors: torch.cat(tensors), values[0], name, tuple(values[1:])
        )
        for name, values in named.items()
    }
    joined["source"] = torch.cat(
        [torch.full((len(part),), i, device=first.rewards.device) for i, part in parts]
    )
    return BatchExperience(**joined)
