"""TorchRL's TensorDictReplayBuffer with its rows on the device."""

from __future__ import annotations

import logging
from functools import partial
from types import SimpleNamespace
from typing import Any

from benchmarks.contenders.base import Unavailable
from benchmarks.cuda.columns import Columns, check_batches, make_vectors
from benchmarks.cuda.work import Case, Setting


def sample(batch_size: int, setting: Setting) -> Case:
    """`sample` with a RandomSampler, with replacement."""
    columns = make_vectors(setting.sizes.rows, setting.device)
    buffer = _make_buffer(setting, len(columns))
    buffer.extend(_as_tensordict(columns))
    run = partial(buffer.sample, batch_size)
    check = partial(
        check_batches, columns, lambda: _as_batch(run()), setting.device, distinct=False
    )
    return Case(run, check)


def extend(num_rows: int, setting: Setting) -> Case:
    """`extend` by a TensorDict that is there already, into one ring."""
    columns = make_vectors(setting.sizes.rows, setting.device)
    buffer = _make_buffer(setting, len(columns))
    step = _as_tensordict(columns.first(num_rows))
    run = partial(buffer.extend, step)

    def check() -> None:
        run()
        columns.check(_as_batch(buffer.sample(num_rows)), distinct=False)

    return Case(run, check)


def _make_buffer(setting: Setting, rows: int) -> Any:
    try:
        from torchrl.data import LazyTensorStorage, RandomSampler, TensorDictReplayBuffer
    except ImportError as error:
        raise Unavailable(f"not installed here: {error}") from error
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    storage = LazyTensorStorage(rows, device=setting.device)
    return TensorDictReplayBuffer(storage=storage, sampler=RandomSampler())


def _as_tensordict(columns: Columns) -> Any:
    from tensordict import TensorDict

    following = {
        "observation": columns.next_states,
        "reward": columns.rewards[:, None],
        "terminated": columns.dones[:, None],
        "truncated": columns.truncations[:, None],
        "done": (columns.dones | columns.truncations)[:, None],
    }
    return TensorDict(
        {"observation": columns.states, "action": columns.actions, "next": following},
        batch_size=[len(columns)],
        device=columns.states.device,
    )


def _as_batch(batch: Any) -> SimpleNamespace:
    return SimpleNamespace(
        states=batch["observation"],
        actions=batch["action"],
        rewards=batch["next", "reward"],
        next_states=batch["next", "observation"],
        dones=batch["next", "terminated"],
        truncations=batch["next", "truncated"],
    )
