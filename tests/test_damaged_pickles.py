"""A pickle that was damaged is an error or a buffer that works, never a crash.

`VELORA_DAMAGED_PICKLES` says how many; `make fuzz-pickles` runs 200,000 under AddressSanitizer.
"""

from __future__ import annotations

import enum
import io
import os
import pickle
import random
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from damage import Unpickler, damage_bytes, damage_value, nodes
from helpers import PolicyExperience, stack, stamped

import velora
from velora import _core
from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer
from velora.buffer.type_names import MemberName, TypeName

NUMBER = int(os.environ.get("VELORA_DAMAGED_PICKLES", "3000"))
PARTS = 10
PACKAGE = str(Path(velora.__file__).parent)

ALLOWED = frozenset(
    {
        ("velora.buffer.replay", "ReplayBuffer"),
        ("velora.buffer.rollout", "RolloutBuffer"),
        ("velora.buffer.type_names", "TypeName"),
        ("velora.buffer.type_names", "MemberName"),
        ("_codecs", "encode"),
        ("__builtin__", "bytes"),
        ("copyreg", "__newobj__"),
    }
)
# Errors that a buffer raises for foreign values.
ERRORS = (TypeError, ValueError, MemoryError, RuntimeError, RecursionError, OverflowError)


class Pose(NamedTuple):
    """Of a robot."""

    x: float
    flags: torch.Tensor


class Part(enum.Enum):
    """Of an observation."""

    POSE = "pose"
    CAMERA = 1


def nested(i: int) -> Experience:
    flags = torch.tensor([i % 2 == 0, True])
    camera = torch.full((3, 2), i % 256, dtype=torch.uint8)
    observation = {Part.POSE: Pose(i / 4, flags), Part.CAMERA: camera, "n": (i, {"x": i})}
    return Experience(observation, (i, torch.ones(2)), i, observation, i % 3 == 0)


def policy(i: int) -> Experience:
    return PolicyExperience(*stamped(i), i / 4, torch.full((2,), float(i)))


def image(i: int) -> Experience:
    frames = [torch.full((1, 2, 2), (i + k) % 256, dtype=torch.uint8) for k in range(4)]
    return Experience(torch.cat(frames[:3]), i, 1.0, torch.cat(frames[1:]), i % 5 == 4)


def made_replay_buffers() -> Iterator[ReplayBuffer]:
    yield ReplayBuffer(4)
    for make, options in [
        (stamped, {"capacity": 5, "n_step": 3}),
        (nested, {"capacity": 4}),
        (nested, {"capacity": 4, "compact": True}),
        (policy, {"capacity": 6}),
        (image, {"capacity": 5, "frame_stack": 3}),
        (image, {"capacity": 5, "compact": True, "num_envs": 2}),
    ]:
        buffer = ReplayBuffer(seed=3, **options)  # type: ignore[arg-type]
        for i in range(8):
            if options.get("num_envs", 1) == 1 or i % 3 == 0:
                buffer.push(make(i), 0)
            if options.get("num_envs", 1) > 1:
                buffer.push(make(i), 1)
        buffer.sample(2)
        yield buffer
    extended = ReplayBuffer(6, num_envs=3)
    extended.extend(stack([policy(i) for i in range(9)]))
    extended.end_episodes([1])
    yield extended


def made_rollout_buffers() -> Iterator[RolloutBuffer]:
    for make in (stamped, nested):
        rollout = RolloutBuffer(6, num_envs=2)
        for i in range(4):
            rollout.push(make(i), i % 2)
        yield rollout


def states() -> list[tuple[type[Any], dict[str, Any]]]:
    buffers = [*made_replay_buffers(), *made_rollout_buffers()]
    return [(type(buffer), buffer.__getstate__()) for buffer in buffers]


# A right buffer: all its calls work, and what it gives is in range


def use(buffer: Any) -> None:
    assert len(buffer) <= buffer.capacity
    assert repr(buffer)
    assert buffer.nbytes >= 0
    if len(buffer) == 0:
        return
    rows = row_of(buffer)
    experiences = [buffer[i] for i in range(min(len(buffer), 4))]
    check(buffer.sample(len(buffer)) if isinstance(buffer, ReplayBuffer) else buffer.sample())
    if isinstance(buffer, ReplayBuffer):
        use_replay(buffer)
    else:
        list(buffer.minibatches(2))
        if buffer._core.is_even():
            values = torch.zeros(len(buffer), 1)
            buffer.compute_returns(values, values)
    again = pickle.loads(pickle.dumps(buffer))
    assert len(again) == len(buffer)
    if isinstance(buffer, RolloutBuffer):
        buffer.empty()
    for lane in range(min(buffer.num_envs, 3)):
        buffer.push(experiences[-1], lane)
    buffer.extend(rows, lanes=np.zeros(1, np.int64))
    buffer.end_episodes()


def use_replay(buffer: ReplayBuffer) -> None:
    indices = buffer.sample(len(buffer)).indices
    assert indices.unique().numel() == len(buffer)
    check(buffer.sample_sequences(1, 1, 0))
    burn_in = min(1, buffer._lane_capacity - 1)
    check(buffer.sample_sequences(1, 1, burn_in, boundary="within"))
    check(buffer.sample_sequences(1, 1, burn_in, boundary="cross"))
    buffer.seed(5)
    buffer.sample(1)


def row_of(buffer: Any) -> BatchExperience:
    """One of its rows, as a batch to extend it with."""
    rows = buffer.sample(1) if isinstance(buffer, ReplayBuffer) else buffer.sample()[0:1]
    return BatchExperience(
        rows.states, rows.actions, rows.rewards, rows.next_states, rows.dones, extras=rows.extras
    )


def check(batch: BatchExperience) -> None:
    for part in nodes(vars(batch)):
        if isinstance(part, torch.Tensor) and part.dtype == torch.bool:
            assert bool((part.view(torch.uint8) <= 1).all())
    for flags in (batch.dones, batch.truncations, batch.mask, batch.is_first):
        assert flags is None or bool(((flags == 0) | (flags == 1)).all())


# Damage


class Outcome(enum.Enum):
    """Of one damaged pickle."""

    ERROR = enum.auto()
    BUFFER = enum.auto()
    OTHER = enum.auto()  # not a buffer, and not mistakable for one


def try_state(kind: type[Any], state: Any) -> Outcome:
    buffer = kind.__new__(kind)
    try:
        buffer.__setstate__(state)
    except ERRORS:
        assert not vars(buffer)
        return Outcome.ERROR
    use(buffer)
    return Outcome.BUFFER


def try_bytes(data: bytes) -> Outcome:
    return try_load(lambda: Unpickler(io.BytesIO(data), ALLOWED).load())


def try_load(load: Callable[[], Any]) -> Outcome:
    try:
        buffer = load()
    except ERRORS:
        return Outcome.ERROR
    except Exception as error:
        # The unpickler's own, or torch's, of bytes that are no pickle.
        frames = traceback.extract_tb(error.__traceback__)
        assert not any(frame.filename.startswith(PACKAGE) for frame in frames)
        return Outcome.ERROR
    if not isinstance(buffer, (ReplayBuffer, RolloutBuffer)) or not vars(buffer):
        return Outcome.OTHER
    use(buffer)
    return Outcome.BUFFER


def pickled(kind: type[Any], state: dict[str, Any], protocol: int) -> bytes:
    buffer = kind.__new__(kind)
    buffer.__setstate__(state)
    file = io.BytesIO()
    BytesPickler(file, protocol).dump(buffer)
    return file.getvalue()


class BytesPickler(pickle._Pickler):
    """One that writes bytes as such, whatever the protocol."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, (ReplayBuffer, RolloutBuffer)):
            return value.__reduce_ex__(4)
        return NotImplemented


class TorchUnpickler(Unpickler):
    """As `torch.load` makes one."""

    def __init__(self, file: Any, **options: Any) -> None:
        names = {("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict")}
        super().__init__(file, ALLOWED | names | {("torch", "ByteStorage")}, **options)


def damaged_file(saved: bytes, rng: random.Random) -> bytes:
    """Output of `torch.save` with damage in one of its files that no checksum detects."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved)) as files, zipfile.ZipFile(out, "w") as damaged:
        names = [name for name in files.namelist() if "/data" in name]
        chosen = rng.choice(names)
        for name in files.namelist():
            data = files.read(name)
            damaged.writestr(name, damage_bytes(data, rng) if name == chosen else data)
    return out.getvalue()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("part", range(PARTS))
def test_load_state_that_was_damaged_is_an_error_or_a_buffer_that_works(part: int) -> None:
    rng = random.Random(part)
    saved = states()
    known = [node for _, state in saved for node in nodes(state)]
    seen = dict.fromkeys(Outcome, 0)
    for _ in range(NUMBER * 2 // 3 // PARTS):
        kind, state = rng.choice(saved)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            state = damage_value(state, rng, known)
        if rng.random() < 0.02:
            kind = rng.choice((ReplayBuffer, RolloutBuffer))
        seen[try_state(kind, state)] += 1
    tell("values", seen)


@pytest.mark.parametrize("part", range(PARTS))
def test_load_bytes_that_were_damaged_is_an_error_or_a_buffer_that_works(part: int) -> None:
    rng = random.Random(1000 + part)
    files = [pickled(kind, state, protocol) for kind, state in states() for protocol in (2, 4)]
    seen = dict.fromkeys(Outcome, 0)
    for _ in range(NUMBER // 3 // PARTS):
        seen[try_bytes(damage_bytes(rng.choice(files), rng))] += 1
    tell("bytes", seen)


def test_load_files_of_torch_that_were_damaged_is_an_error_or_a_buffer_that_works() -> None:
    rng = random.Random(8)
    files = []
    for kind, state in states():
        buffer = kind.__new__(kind)
        buffer.__setstate__(state)
        file = io.BytesIO()
        torch.save(buffer, file)
        files.append(file.getvalue())
    torch_pickle: Any = SimpleNamespace(Unpickler=TorchUnpickler, __name__="")

    def load(data: bytes) -> Any:
        return torch.load(io.BytesIO(data), pickle_module=torch_pickle, weights_only=False)

    assert {try_load(lambda data=data: load(data)) for data in files} == {Outcome.BUFFER}
    seen = dict.fromkeys(Outcome, 0)
    for _ in range(NUMBER // 30):
        data = damaged_file(rng.choice(files), rng)
        seen[try_load(lambda data=data: load(data))] += 1
    tell("files of torch", seen)


def tell(what: str, seen: dict[Outcome, int]) -> None:
    assert seen[Outcome.ERROR] > 0
    assert seen[Outcome.BUFFER] > 0
    counts = ", ".join(f"{count} {outcome.name.lower()}" for outcome, count in seen.items())
    sys.stderr.write(f"damaged {what}: {counts}\n")


@pytest.mark.parametrize("protocol", [2, 4])
def test_load_bytes_that_were_not_damaged_gives_the_buffer(protocol: int) -> None:
    for kind, state in states():
        assert try_bytes(pickled(kind, state, protocol)) is Outcome.BUFFER
        assert try_state(kind, state) is Outcome.BUFFER


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("storage", ["cuda", "pinned"])
def test_load_rows_that_were_damaged_for_a_device_is_an_error_or_a_buffer_that_works(
    storage: str,
) -> None:
    rng = random.Random(7)
    saved = [state for kind, state in states() if kind is ReplayBuffer and state["schema"]]
    seen = dict.fromkeys(Outcome, 0)
    for _ in range(NUMBER // 60):
        state = dict(rng.choice(saved))
        state["options"] = state["options"] | {"device": "cuda", "storage": storage}
        for _ in range(rng.choice((0, 1, 2))):
            name = rng.choice(("lanes", "rows", "blocks"))
            state[name] = damage_bytes(state[name], rng)
        seen[try_state(ReplayBuffer, state)] += 1
    tell("rows for a device", seen)


def test_load_value_that_is_a_buffer_which_is_not_made_yet_is_refused() -> None:
    state = ReplayBuffer(4).__getstate__() | {"seed": ReplayBuffer.__new__(ReplayBuffer)}
    with pytest.raises(ValueError, match="seed: expected int"):
        ReplayBuffer.__new__(ReplayBuffer).__setstate__(state)
    state = states()[1][1]
    schema = {"trees": [("state", {ReplayBuffer.__new__(ReplayBuffer): 1})], "experience": None}
    with pytest.raises(ValueError, match="state: expected a dict, a tuple or a leaf"):
        ReplayBuffer.__new__(ReplayBuffer).__setstate__(state | {"schema": schema})
    assert repr(ReplayBuffer.__new__(ReplayBuffer)).startswith("<ReplayBuffer, which cannot be")


def test_load_names_of_types_that_are_no_names_is_refused() -> None:
    for name in (TypeName("m", "q", ("a", 1)), TypeName("m", 5, ()), TypeName("m", "q", ["a"])):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="expected a type's name"):
            name.check("state")
    pairs: tuple[Any, ...] = ((("A", 1),), (("B", 1), 2), [("A", 1)], (("A", object()),), ())
    for members in pairs[1:]:
        with pytest.raises(ValueError, match="expected a member of an enum"):
            MemberName(TypeName("m", "q", members), "A", "").find()
    assert MemberName(TypeName("m", "q", pairs[0]), "A", "int").find() == 1


def test_construct_core_with_trees_of_more_or_fewer_fields_is_refused() -> None:
    leaf = object()
    trees: Any = {
        "state": {"a": leaf, "b": (leaf, leaf)},
        "action": leaf,
        "reward": leaf,
        "next_state": (leaf, leaf, leaf),
    }
    fields = [_core.Field(f"f{i}", "extra", "float32", [1]) for i in range(8)]
    options: Any = {
        "fields": fields,
        "options": _core.BufferOptions(
            lane_capacity=3,
            num_lanes=1,
            seed=_core.DrawSeed(0),
            sampler=None,
            n_step=1,
            gamma=None,
            overwrite=True,
            compact=False,
            frame_stack=1,
            storage="cpu",
            device=None,
        ),
        "check_type": None,
        "read_batch": None,
        "batch_type": BatchExperience,
        "batch_names": ["states", "actions", "rewards", "next_states", "dones", "truncations"],
    }
    assert len(_core.BufferCore(trees=trees, **options)) == 0
    for other, count in (((leaf, leaf), 7), ((leaf,) * 4, 9), ((), 5)):
        with pytest.raises(ValueError, match=f"a leaf for each of 8 fields, got {count}"):
            _core.BufferCore(trees=trees | {"next_state": other}, **options)


def test_draw_sequences_with_first_fields_that_are_none_is_refused() -> None:
    buffer = ReplayBuffer(4)
    buffer.push(stamped(1))
    core: Any = buffer._core
    with pytest.raises(ValueError, match="first_fields: expected numbers of fields, less than 4"):
        core.sample_sequences(1, 1, 0, "pad", [4])
