"""Experiences, and what to expect of them, for the tests of the buffers."""

from __future__ import annotations

import copy
import importlib.util
import io
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer

# Of a batch, in the order in which the native core makes its tensors.
PARTS = (
    "states",
    "actions",
    "rewards",
    "next_states",
    "dones",
    "truncations",
    "indices",
    "discounts",
)

AnyBuffer = ReplayBuffer | RolloutBuffer

BATCH_NAMES = {
    "state": "states",
    "action": "actions",
    "reward": "rewards",
    "next_state": "next_states",
    "done": "dones",
    "truncated": "truncations",
}


@dataclass
class PolicyExperience(Experience):
    """With what a policy adds to each step."""

    log_prob: float
    hidden: torch.Tensor


def step(**values: Any) -> Experience:
    """An experience of three features, with fields of choice."""
    state = values.pop("state", torch.zeros(3))
    defaults = {"action": 0.0, "reward": 0.0, "next_state": state, "done": False}
    return Experience(state, **(defaults | values))


def stamped(i: int, features: int = 4) -> Experience:
    """Each field says which experience it belongs to."""
    return Experience(
        state=torch.full((features,), float(i)),
        action=i,
        reward=float(i),
        next_state=torch.full((features,), i + 0.5),
        done=i % 3 == 0,
        truncated=i % 5 == 0,
    )


def policy_stamped(i: int) -> PolicyExperience:
    """With extra fields that say it, too."""
    return PolicyExperience(**vars(stamped(i)), log_prob=i / 4, hidden=torch.full((2,), float(i)))


def stamps_of(batch: BatchExperience) -> list[int]:
    """Which experiences a batch of stamped ones holds; fails where fields disagree."""
    stamps = batch.actions.flatten().tolist()
    expected = torch.tensor(stamps, dtype=torch.float32).reshape(-1, 1)
    assert torch.equal(batch.states, expected.expand_as(batch.states))
    assert torch.equal(batch.rewards, expected)
    assert torch.equal(batch.next_states, (expected + 0.5).expand_as(batch.next_states))
    assert batch.dones.flatten().tolist() == [i % 3 == 0 for i in stamps]
    assert batch.truncations.flatten().tolist() == [i % 5 == 0 for i in stamps]
    return [int(stamp) for stamp in stamps]


def filled(kind: type[AnyBuffer], stamps: Sequence[int], capacity: int, **options: Any) -> Any:
    """A buffer into which these stamped experiences were pushed."""
    buffer = kind(capacity, **options)
    for i in stamps:
        buffer.push(stamped(i))
    return buffer


def stored(experience: Any, attribute: str) -> Any:
    """Returns a field as it comes back in a batch of one."""
    buffer = RolloutBuffer(1)
    buffer.push(experience)
    batch = buffer.sample()
    if attribute in BATCH_NAMES:
        return getattr(batch, BATCH_NAMES[attribute])
    return batch.extras[attribute]


def leaves(value: Any) -> list[tuple[str, list[Any]]]:
    """The numbers in a nest, with where they are."""
    if isinstance(value, dict):
        found = [(f"[{key!r}]", child) for key, child in sorted(value.items())]
    elif isinstance(value, tuple):
        found = [(f"[{i}]", child) for i, child in enumerate(value)]
    else:
        array = value.detach() if isinstance(value, torch.Tensor) else np.asarray(value)
        return [("", array.reshape(-1).tolist())]
    return [(key + path, numbers) for key, child in found for path, numbers in leaves(child)]


def map_nest(function: Callable[..., Any], *nests: Any) -> Any:
    """The nest of `function` over the leaves of nests of one form."""
    first = nests[0]
    if isinstance(first, dict):
        return {key: map_nest(function, *(nest[key] for nest in nests)) for key in first}
    if isinstance(first, tuple):
        return tuple(map_nest(function, *children) for children in zip(*nests, strict=True))
    return function(*nests)


def stack(experiences: Sequence[Experience]) -> BatchExperience:
    """The batch that holds these experiences, oldest first."""

    def column(name: str) -> Any:
        values = [getattr(experience, name) for experience in experiences]
        return map_nest(lambda *leaf: torch.stack([torch.as_tensor(x) for x in leaf]), *values)

    names = [item.name for item in fields(experiences[0])]
    columns = {BATCH_NAMES[name]: column(name) for name in names if name in BATCH_NAMES}
    return BatchExperience(
        **columns, extras={name: column(name) for name in names if name not in BATCH_NAMES}
    )


def assert_rows(batch: BatchExperience, experiences: Sequence[Experience]) -> None:
    """The batch holds these experiences, in this order."""
    assert len(batch) == len(experiences)
    for i, experience in enumerate(experiences):
        for item in fields(experience):
            part = (
                getattr(batch, BATCH_NAMES[item.name])
                if item.name in BATCH_NAMES
                else batch.extras[item.name]
            )
            row = map_nest(lambda leaf, i=i: leaf[i], part)
            assert leaves(row) == leaves(getattr(experience, item.name)), item.name


def assert_same_future(left: AnyBuffer, right: AnyBuffer) -> None:
    """Both buffers hold the same and, for a replay buffer, draw the same from now on."""
    assert len(left) == len(right)
    assert list(left) == list(right)
    if isinstance(left, ReplayBuffer) and len(left) > 0:
        left, right = copy.deepcopy(left), copy.deepcopy(right)
        for _ in range(3):
            count = (len(left) + 1) // 2
            assert left.sample(count).indices.tolist() == right.sample(count).indices.tolist()


@contextmanager
def unchanged(buffer: AnyBuffer) -> Iterator[None]:
    """Within, nothing happens to the buffer: not to its contents, not to its draws."""
    before = copy.deepcopy(buffer)
    yield
    assert_same_future(buffer, before)


def load_example(name: str) -> ModuleType:
    """The module of a script in examples/."""
    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Meddler:
    """An array that calls a function when it is read."""

    def __init__(self, act: Callable[[], Any], array: Any = None) -> None:
        self.act = act
        self.array = torch.zeros(3) if array is None else array

    def __dlpack__(self, **_: Any) -> Any:
        self.act()
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def save_and_load(buffer: AnyBuffer) -> Any:
    file = io.BytesIO()
    torch.save(buffer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    **{
        f"protocol {protocol}": lambda buffer, protocol=protocol: pickle.loads(
            pickle.dumps(buffer, protocol=protocol)
        )
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    },
    "torch": save_and_load,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
