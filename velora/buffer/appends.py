"""Appending experiences to a buffer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from velora import _core
from velora._core import BufferCore
from velora.buffer.columns import columns_of_call, lane_array
from velora.buffer.core_owner import CoreOwner
from velora.buffer.experience import BatchExperience
from velora.buffer.schema import Schema

if TYPE_CHECKING:
    from velora.buffer.base import Buffer


class Appends(CoreOwner):
    """The calls of both buffers that append experiences, and mark where episodes end.

    The first `push` or `extend` runs in Python: it fixes the schema and builds the native core,
    whose methods then replace these.
    """

    _num_envs: int

    def push(
        self, experience: Any, lane: int | None = None, *, priority: float | None = None
    ) -> None:
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
            priority: Its raw priority, a finite number of at least 0, for a buffer with a
                `Prioritized` sampler. By default a new experience gets the largest one.

        Raises:
            TypeError: If `experience` is not such a dataclass, `lane` is not an int, or `priority`
                is not a number.
            ValueError: If a field is missing, unknown, of another shape, or has a value that its
                dtype cannot hold, or if the lane does not exist; or if the priority is out of range
                or the sampler keeps none. The buffer is then unchanged.
            MemoryError: If `capacity` rows of the first experience do not fit into memory.
            BufferError: If a `RolloutBuffer` is full.
        """
        self._push(experience, lane, priority=priority)

    def _push(
        self, experience: Any, lane: int | None = None, *, priority: float | None = None
    ) -> None:
        # Runs only until there is a core: `_adopt` then replaces this method by the native one.
        schema = Schema.from_experience(experience)
        core = self._build(schema, (getattr(experience, name) for name in schema.trees))
        core.push(experience, lane, priority=priority)
        if not self._adopt(schema, core):
            self._push(experience, lane, priority=priority)

    def extend(
        self,
        batch: BatchExperience | Buffer | None = None,
        *,
        lanes: Any = None,
        priorities: Any = None,
        **arrays: Any,
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
            priorities: The raw priority of each row, `(rows,)` or `(rows, 1)`, as in `push`. Not
                with a buffer.
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
        self._extend(batch, lanes=lanes, priorities=priorities, **arrays)

    def _extend(
        self,
        batch: BatchExperience | Buffer | None = None,
        *,
        lanes: Any = None,
        priorities: Any = None,
        **arrays: Any,
    ) -> None:
        # Like `_push`, runs only until there is a core.
        schema: Schema | None
        first: Iterable[Any] = ()
        if isinstance(batch, Appends) and not arrays:
            schema = batch._schema if batch._core is not None and len(batch._core) > 0 else None
            if schema is None:
                return
        else:
            columns = columns_of_call(batch, arrays)
            lanes = lane_array(lanes)
            schema, first = Schema.from_columns(columns), columns.values()
        core = self._build(schema, first)
        core.extend(batch, lanes=lanes, priorities=priorities, **arrays)
        if not self._adopt(schema, core):
            self._extend(batch, lanes=lanes, priorities=priorities, **arrays)

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


def read_batch(
    schema: Schema, batch: Any = None, *, lanes: Any = None, priorities: Any = None, **arrays: Any
) -> tuple[dict[str, Any] | BufferCore | None, Any, Any]:
    """Converts the arguments of `extend` to attribute -> stacked arrays, lanes and priorities.

    If a buffer is to be copied, the first result is its core, or None if it has none.

    Raises:
        TypeError: If `batch` is neither a BatchExperience nor a buffer, or arrays are given as
            well.
        ValueError: If a part is missing or unknown, the batch was sampled from a buffer, or a
            buffer comes with priorities.
    """
    lanes = lane_array(lanes)
    if isinstance(batch, Appends) and not arrays:
        if priorities is not None:
            raise ValueError("priorities: expected None with a buffer, got some")
        return batch._core, lanes, None
    columns = columns_of_call(batch, arrays)
    schema.check_columns(columns)
    return columns, lanes, priorities
