"""The short ways of `push` and `extend`: what they take must come out as it does by the long ones.

An experience whose attributes are plain is read without running code; one that intercepts them is
read with every check. Arrays by their names are found by the native core; a batch goes through
Python.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import pickle
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Meddler, PolicyExperience, filled, stack, stamped, stamps_of, step, unchanged
from torch import Tensor

from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer, tree

NUMPY_SCALARS = (
    *("bool_", "int8", "int16", "int32", "int64", "longlong"),
    *("uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "longdouble", "complex64"),
)
PARTS = ("states", "actions", "rewards", "next_states", "dones")
VALUES: dict[str, Callable[[], Any]] = {
    "tensor": lambda: torch.arange(4.0),
    "one row": lambda: torch.arange(4.0).reshape(1, 4),
    "column": lambda: torch.arange(8.0).reshape(4, 2)[:, 1],
    "expanded": lambda: torch.tensor(2.0).expand(4),
    "float64": lambda: torch.arange(4.0, dtype=torch.float64),
    "float16": lambda: torch.arange(4.0).half(),
    "int64": lambda: torch.arange(4),
    "int64 that float32 rounds": lambda: torch.full((4,), 2**24 + 1),
    "bool": lambda: torch.tensor([True, False, True, False]),
    "complex": lambda: torch.zeros(4, dtype=torch.complex64),
    "requires grad": lambda: torch.ones(4, requires_grad=True),
    "parameter": lambda: torch.nn.Parameter(torch.ones(4)),
    "negated": lambda: torch.complex(torch.ones(4), torch.ones(4)).conj().imag,
    "one negated": lambda: torch.complex(torch.ones(4), torch.ones(4)).conj().imag[1],
    "sparse": lambda: torch.ones(4).to_sparse(),
    "meta": lambda: torch.zeros(4, device="meta"),
    "given up": lambda: given_up(),
    "other shape": lambda: torch.zeros(5),
    "no elements": lambda: torch.zeros(0),
    "number tensor": lambda: torch.tensor(1.5),
    "int tensor": lambda: torch.tensor(3),
    "array": lambda: np.arange(4, dtype=np.float32),
    "reversed": lambda: np.arange(4, dtype=np.float32)[::-1],
    "every second": lambda: np.arange(8, dtype=np.float32)[::2],
    "float64 array": lambda: np.arange(4) / 3,
    "beyond float32": lambda: np.full(4, 1e300),
    "big-endian": lambda: np.arange(4, dtype=">f4"),
    "big-endian doubles": lambda: np.arange(4, dtype=">f8"),
    "unaligned": lambda: np.frombuffer(b"x" + np.arange(4.0).tobytes(), np.uint8)[1:].view("f8"),
    "longlong array": lambda: np.arange(4, dtype=np.longlong),
    "long double array": lambda: np.arange(4, dtype=np.longdouble),
    "strings": lambda: np.array(["a", "b", "c", "d"]),
    "dates": lambda: np.zeros(4, "M8[s]"),
    "objects": lambda: np.zeros(4, object),
    "masked": lambda: np.ma.masked_array([1.0, 2.0, 3.0, 4.0], [1, 0, 0, 0]),
    "matrix": lambda: np.zeros((2, 2), np.float32),
    "subclass": lambda: np.arange(4, dtype=np.float32).view(np.recarray),
    "float": lambda: 1.5,
    "float beyond float32": lambda: 1e300,
    "nan": lambda: float("nan"),
    "int": lambda: 3,
    "int that float32 rounds": lambda: 2**24 + 1,
    "unsigned": lambda: 2**64 - 1,
    "huge": lambda: 2**64,
    "true": lambda: True,
    "none": lambda: None,
    "list": lambda: [0.0] * 4,
    "string": lambda: "x",
    **{f"numpy {name}": partial(getattr(np, name), 1) for name in NUMPY_SCALARS},
    "numpy fraction": lambda: np.float32(0.5),
    "numpy overflow": lambda: np.int64(2**40 + 1),
}


def given_up() -> Tensor:
    tensor = torch.ones(4)
    tensor.untyped_storage().resize_(0)
    return tensor


class Intercepted(Experience):
    """Looks up its attributes by code, so that nothing about them is taken for granted."""

    def __getattribute__(self, name: str) -> Any:
        return super().__getattribute__(name)


def outcome(push: Callable[[], None], buffer: ReplayBuffer) -> Any:
    """Returns the outcome of a push: the error, or all bits of the newest row."""
    try:
        push()
    except Exception as error:
        return type(error), str(error)
    batch = buffer._core.take(len(buffer) - 1, 1)  # type: ignore[union-attr]
    parts = tree.leaves({**vars(batch), "extras": tuple(batch.extras.values())})
    return [
        (part.dtype, part.shape, part.contiguous().view(torch.uint8).tolist()) for part in parts
    ]


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("attribute", ["state", "action", "reward", "next_state", "done"])
@pytest.mark.parametrize("first", [torch.zeros(4), torch.zeros(4, dtype=torch.int64), 0.0, 0, True])
def test_push_of_plain_attributes_equals_push_of_intercepted_ones(
    attribute: str, name: str, first: Any
) -> None:
    values: dict[str, Any] = {"state": first, "action": first, "next_state": first}
    plain, checked = (filled_by(Experience(reward=0.0, done=False, **values)) for _ in range(2))
    values |= {"reward": 0.5, "done": True, "truncated": True, attribute: VALUES[name]()}
    got = outcome(lambda: plain.push(Experience(**values)), plain)
    expected = outcome(lambda: checked.push(Intercepted(**values)), checked)
    assert got == expected
    assert len(plain) == len(checked)


def pickled(buffer: Any) -> Any:
    return pickle.loads(pickle.dumps(buffer))


def filled_by(experience: Experience) -> ReplayBuffer:
    buffer = ReplayBuffer(4, seed=1)
    buffer.push(experience)
    return buffer


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("part", PARTS)
def test_extend_by_names_equals_extend_by_batch(part: str, name: str) -> None:
    zeros = torch.zeros(4)
    parts = dict.fromkeys(PARTS, zeros)
    by_name, by_batch = ReplayBuffer(8, seed=1), ReplayBuffer(8, seed=1)
    for buffer in (by_name, by_batch):
        buffer.extend(**parts)
    parts[part] = VALUES[name]()
    got = outcome(lambda: by_name.extend(**parts), by_name)
    assert got == outcome(lambda: by_batch.extend(BatchExperience(**parts)), by_batch)


# Types of experiences


@dataclass(slots=True)
class Slotted(Experience):
    log_prob: float = 0.0


class Doubled:
    """A descriptor that looks like a number from the class."""

    def __get__(self, instance: Any, owner: Any) -> float:
        return 0.0 if instance is None else instance.reward * 2

    def __set__(self, instance: Any, value: Any) -> None:
        pass


@dataclass
class Described(Experience):
    log_prob: Any = Doubled()


@dataclass
class Defaulted(Experience):
    log_prob: float = 0.75


@dataclass
class Answering(Experience):
    log_prob: float = 0.0

    def __getattribute__(self, name: str) -> Any:
        return self.reward * 2 if name == "log_prob" else super().__getattribute__(name)


def log_probs(kind: type[Any], pushes: int = 3) -> list[float]:
    buffer = RolloutBuffer(pushes)
    for i in range(pushes):
        experience = kind(torch.zeros(3), 0, float(i), torch.zeros(3), False)
        if kind is Slotted:
            experience.log_prob = experience.reward * 2
        buffer.push(experience)
    return buffer.sample().extras["log_prob"].flatten().tolist()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Slotted, [0.0, 2.0, 4.0]),
        (Described, [0.0, 2.0, 4.0]),
        (Answering, [0.0, 2.0, 4.0]),
        (Defaulted, [0.75] * 3),
    ],
)
def test_push_finds_fields_wherever_a_type_keeps_them(
    kind: type[Any], expected: list[float]
) -> None:
    assert log_probs(kind) == expected


def test_push_field_that_only_the_class_has_is_that() -> None:
    buffer = RolloutBuffer(2)
    for _ in range(2):
        experience = Defaulted(torch.zeros(3), 0, 0.0, torch.zeros(3), False)
        del experience.log_prob
        buffer.push(experience)
    assert buffer.sample().extras["log_prob"].tolist() == [[0.75], [0.75]]


@pytest.mark.parametrize("kind", [Experience, dataclass(slots=True)(type("S", (Experience,), {}))])
@pytest.mark.parametrize("name", ["state", "reward", "done"])
def test_push_without_an_attribute_raises_what_reading_it_raises(
    kind: type[Any], name: str
) -> None:
    buffer = ReplayBuffer(4, seed=1)
    buffer.push(kind(torch.zeros(3), 0, 0.0, torch.zeros(3), False))
    bare = kind(torch.zeros(3), 0, 0.0, torch.zeros(3), False)
    delattr(bare, name)
    with pytest.raises(AttributeError) as expected:
        getattr(bare, name)
    with unchanged(buffer), pytest.raises(AttributeError) as got:
        buffer.push(bare)
    assert str(got.value) == str(expected.value)


def test_push_of_a_type_without_truncated_means_never() -> None:
    names = ("state", "action", "reward", "next_state", "done")
    bare = make_dataclass("Bare", [(name, Any) for name in names])
    buffer = RolloutBuffer(4)
    for _ in range(2):
        buffer.push(Experience(0.0, 0, 0.0, 0.0, False, truncated=True))
        buffer.push(bare(0.0, 0, 0.0, 0.0, False))
    assert buffer.sample().truncations.tolist() == [[1.0], [0.0], [1.0], [0.0]]


def test_push_types_in_turn_reads_each_in_its_own_way() -> None:
    buffer = RolloutBuffer(6)
    for i in range(3):
        buffer.push(Defaulted(torch.zeros(3), 0, float(i), torch.zeros(3), False))
        buffer.push(Described(torch.zeros(3), 0, float(i), torch.zeros(3), False))
    assert buffer.sample().extras["log_prob"].flatten().tolist() == [0.75, 0, 0.75, 2, 0.75, 4]


def test_push_after_the_class_has_changed_reads_it_anew() -> None:
    @dataclass
    class Changing(Experience):
        pass

    buffer = RolloutBuffer(3)

    def push() -> None:
        buffer.push(Changing(torch.zeros(3), 0, 1.0, torch.zeros(3), False))

    push()
    Changing.reward = property(lambda self: 5.0, lambda self, value: None)  # type: ignore[assignment]
    push()
    del Changing.reward
    push()
    assert buffer.sample().rewards.tolist() == [[1.0], [5.0], [1.0]]


def test_push_after_the_class_got_code_that_takes_memory_away_is_refused() -> None:
    @dataclass
    class Changing(Experience):
        pass

    state = torch.ones(3)

    def next_state(self: Changing) -> Tensor:
        state.untyped_storage().resize_(0)
        return torch.zeros(3)

    buffer = ReplayBuffer(3, seed=1)
    buffer.push(Changing(torch.zeros(3), 0, 1.0, torch.zeros(3), False))
    bad = Changing(state, 0, 1.0, torch.zeros(3), False)
    Changing.next_state = property(next_state)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"^state: .* memory was given up"):
        buffer.push(bad)
    assert len(buffer) == 1


def test_push_stores_what_a_key_with_code_of_its_own_drops_meanwhile() -> None:
    class Key(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            if experience is not None and experience.__dict__.get("state") is not None:
                experience.__dict__["state"] = None
                kept.extend(torch.full((3,), -99.0) for _ in range(64))  # where it was
            return str.__eq__(self, other)

    kept: list[Tensor] = []
    experience: Experience | None = None
    buffer = RolloutBuffer(2)
    buffer.push(Experience(torch.zeros(3), 0, 1.0, torch.zeros(3), False))
    dropped = Experience(torch.full((3,), 2.0), 0, 1.0, torch.zeros(3), False)
    values = dict(dropped.__dict__)
    dropped.__dict__ = {Key(name) if name == "action" else name: values[name] for name in values}
    del values
    experience = dropped
    buffer.push(dropped)
    assert kept
    assert buffer.sample().states[1].tolist() == [2.0] * 3


def test_push_stores_each_value_of_defaults_that_became_descriptors() -> None:
    class Boxed(float):
        pass

    boxed = Boxed(0.0)

    @dataclass
    class Marked(Experience):
        first: Any = boxed
        second: Any = boxed

    def bare() -> Marked:
        experience = Marked(torch.zeros(3), 0, 1.0, torch.zeros(3), False)
        del experience.first, experience.second
        return experience

    buffer = RolloutBuffer(2)
    buffer.push(bare())
    count = itertools.count(1)
    Boxed.__get__ = lambda *_: torch.full((1,), float(next(count)))  # type: ignore[attr-defined]
    buffer.push(bare())
    extras = buffer.sample().extras
    assert extras["first"][1] + 1 == extras["second"][1]


@pytest.mark.parametrize("name", ["push", "extend"])
def test_write_methods_that_an_object_was_given_stay(name: str) -> None:
    buffer = ReplayBuffer(4, seed=1)
    write = getattr(buffer, name)
    calls = []

    def spy(*arguments: Any, **named: Any) -> None:
        calls.append(name)
        write(*arguments, **named)

    setattr(buffer, name, spy)
    for _ in range(3):
        if name == "push":
            buffer.push(Experience(torch.zeros(3), 0, 1.0, torch.zeros(3), False))
        else:
            buffer.extend(**dict.fromkeys(PARTS, torch.zeros(3)))
    assert len(calls) == 3
    assert len(buffer) == (3 if name == "push" else 4)


@pytest.mark.parametrize("by_name", [True, False])
def test_extend_whose_array_gets_another_shape_meanwhile_is_refused(by_name: bool) -> None:
    parts: dict[str, Any] = dict.fromkeys(PARTS, torch.zeros(3))
    buffer = ReplayBuffer(8, seed=1)
    buffer.extend(**parts)
    parts["states"] = np.ones(3, np.float32)
    parts["dones"] = Meddler(lambda: parts["states"].resize(9999, refcheck=False))
    with unchanged(buffer), pytest.raises(ValueError, match=r"^actions: expected 9999 rows"):
        buffer.extend(**parts) if by_name else buffer.extend(BatchExperience(**parts))


def test_push_array_that_gets_another_shape_meanwhile_is_refused() -> None:
    buffer = ReplayBuffer(3, seed=1)
    buffer.push(Experience(torch.zeros(3), 0, 0.0, torch.zeros(3), False))
    state = np.ones(3, np.float32)
    meddler = Meddler(lambda: state.resize(9999, refcheck=False))
    with unchanged(buffer), pytest.raises(ValueError, match=r"^state: expected shape \(3,\)"):
        buffer.push(Experience(state, 0, 0.0, meddler, False))


def test_push_within_the_reading_of_a_plain_experience_stores_both_whole() -> None:
    buffer = ReplayBuffer(5, seed=1)
    inner = Experience(torch.full((3,), 7.0), 7, 7.0, torch.full((3,), 7.0), False)
    buffer.push(inner)
    outer = Experience(torch.ones(3), 1, 1.0, Meddler(lambda: buffer.push(inner)), True)
    buffer.push(outer)
    assert [experience.action for experience in buffer] == [7, 7, 1]
    assert [experience.state.tolist() for experience in buffer] == [[7.0] * 3, [7.0] * 3, [1.0] * 3]


# Names of parts


def test_extend_by_names_that_are_equal_and_not_the_same_stores_the_rows() -> None:
    batch = stack([stamped(i) for i in range(2, 5)])
    buffer = filled(ReplayBuffer, range(2), 8, seed=1)
    names = (bytes(name, "ascii").decode() for name in (*PARTS, "truncations"))
    buffer.extend(**{name: getattr(batch, name) for name in names})
    assert [experience.action for experience in buffer] == [0, 1, 2, 3, 4]


def test_extend_with_extras_by_name_after_pickling_stores_them() -> None:
    steps = [PolicyExperience(*stamped(i), i / 4, torch.full((2,), float(i))) for i in range(3)]
    buffer = RolloutBuffer(9)
    batch = stack(steps)
    parts = {name: getattr(batch, name) for name in (*PARTS, "truncations")} | batch.extras
    buffer.extend(**parts)
    again = pickled(buffer)
    for _ in range(2):
        again.extend(**parts)
    assert again.sample().extras["log_prob"].flatten().tolist() == [0.0, 0.25, 0.5] * 3


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"obs": 0}, "obs: expected states for this, got obs"),
        ({"state": 0}, "states: expected a batch of this field, got none"),
        ({"indices": 0}, "indices: expected parts of steps, got one that sampling adds"),
        (
            {"log_prob": 0},
            (
                "log_prob: expected no such field, since the first experience had none, "
                "got a batch with it"
            ),
        ),
        ({"lane": 0}, "lane: expected lanes for this, got lane"),
        ({"states": None}, "states: expected a dense tensor, an array or a number, got NoneType"),
    ],
)
def test_extend_by_other_names_says_what_is_wrong(parts: dict[str, Any], message: str) -> None:
    buffer = ReplayBuffer(8, seed=1)
    good = dict.fromkeys(PARTS, torch.zeros(2))
    buffer.extend(**good)
    with unchanged(buffer), pytest.raises(ValueError, match=f"^{message}$"):
        buffer.extend(**(good | parts))


def test_extend_by_place_and_name_at_once_is_a_type_error() -> None:
    buffer = filled(ReplayBuffer, range(2), 8, seed=1)
    batch = stack([stamped(3)])
    with unchanged(buffer), pytest.raises(TypeError, match="states: expected a batch or arrays"):
        buffer.extend(batch, states=batch.states)
    with unchanged(buffer), pytest.raises(TypeError, match="batch: expected a BatchExperience"):
        buffer.extend()
    buffer.extend(batch=batch)
    buffer.extend(
        None,
        **{n: getattr(batch, n) for n in (*PARTS, "truncations")},
    )
    assert [experience.action for experience in buffer] == [0, 1, 3, 3]


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_extend_by_names_with_lanes_of_any_kind_is_the_same(kind: Any) -> None:
    lanes = kind([1, 0, 1])
    parts = dict.fromkeys(("states", "rewards", "next_states", "dones"), torch.zeros(3))
    buffer = ReplayBuffer(8, num_envs=2, seed=1)
    for _ in range(2):
        buffer.extend(lanes=lanes, actions=torch.arange(3), **parts)
    assert [int(row.action) for row in buffer] == [1, 0, 1, 2, 0, 2]


# Methods of a buffer


class Counting(ReplayBuffer):
    """Overrides methods of the buffer and calls them."""

    pushes = 0
    extends = 0

    def push(self, experience: Any, lane: int | None = None) -> None:
        self.pushes += 1
        super().push(experience, lane)

    def extend(self, batch: Any = None, *, lanes: Any = None, **arrays: Any) -> None:
        self.extends += 1
        super().extend(batch, lanes=lanes, **arrays)


def test_push_and_extend_of_a_subclass_are_its_own() -> None:
    buffer = Counting(9, seed=1)
    for i in range(3):
        buffer.push(stamped(i))
        buffer.extend(stack([stamped(i)]))
    assert (buffer.pushes, buffer.extends, len(buffer)) == (3, 3, 6)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_push_into_a_copy_leaves_the_buffer_alone(again: Callable[[Any], Any]) -> None:
    buffer = filled(ReplayBuffer, range(3), 5, seed=1)
    other = again(buffer)
    other.push(stamped(7))
    other.extend(stack([stamped(8)]))
    assert len(buffer) == 3
    assert [experience.action for experience in other] == [0, 1, 2, 7, 8]


def test_show_signature_of_methods_is_the_same_before_and_after_the_first_push() -> None:
    buffer = ReplayBuffer(3, seed=1)
    names = ("push", "extend", "sample")
    before = [list(inspect.signature(getattr(buffer, name)).parameters) for name in names]
    buffer.push(stamped(1))
    assert [list(inspect.signature(getattr(buffer, n)).parameters) for n in names] == before


@pytest.mark.parametrize("arguments", [(), (1, 2, 3)])
def test_push_with_other_arguments_is_a_type_error(arguments: Any) -> None:
    buffer = filled(ReplayBuffer, range(2), 5, seed=1)
    with unchanged(buffer), pytest.raises(TypeError, match=r"push"):
        buffer.push(*arguments)
    with unchanged(buffer), pytest.raises(TypeError, match=r"push"):
        buffer.push(step(), experience=step())  # type: ignore[misc]


def test_push_by_name_stores_the_experience() -> None:
    buffer = filled(ReplayBuffer, range(2), 5, seed=1)
    buffer.push(experience=stamped(2), lane=0)
    assert sorted(stamps_of(buffer.sample(3))) == [0, 1, 2]
