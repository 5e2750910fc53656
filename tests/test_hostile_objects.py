"""Objects that run code while a buffer reads them, and what that code may do meanwhile.

Nothing here may read memory that is gone or that belongs to something else: `make test-py-asan`
runs these tests with the extension under AddressSanitizer.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Meddler, filled, stack, stamped, stamps_of, unchanged
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer

NAMES = ("state", "action", "reward", "next_state", "done", "truncated")


@dataclass(slots=True)
class Slotted(Experience):
    """Has each of its fields in a slot as well as in the dict that its base gives it."""


Bare: Any = make_dataclass("Bare", [(name, Any) for name in NAMES[:5]], slots=True)


class Key(str):
    """The name of an attribute that does something, once, when it is compared."""

    act: Callable[[], Any] | None = None

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        act, self.act = self.act, None
        if act is not None:
            act()
        return str.__eq__(self, other)


def keyed(experience: Any, name: str, act: Callable[[], Any]) -> Any:
    """The experience, with a key of its dict that acts when it is looked up."""
    values = dict(experience.__dict__)
    experience.__dict__.clear()
    for key, value in values.items():
        found = Key(key) if key == name else key
        if isinstance(found, Key):
            found.act = act
        experience.__dict__[found] = value
    return experience


def ones(**values: Any) -> Experience:
    """An experience of three features and ones."""
    fields = {"state": torch.ones(3), "action": 1, "reward": 1.0, "next_state": torch.ones(3)}
    return Experience(**(fields | {"done": False} | values))


# Other types of experiences


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [Slotted, Bare], ids=lambda kind: kind.__name__)
def test_push_whose_key_pushes_another_type_stores_both(kind: type[Any], name: str) -> None:
    buffer = RolloutBuffer(9)
    buffer.push(ones())
    other = kind(torch.full((3,), 7.0), 7, 7.0, torch.full((3,), 7.0), False)
    outer = keyed(ones(action=2), name, lambda: buffer.push(other))
    buffer.push(outer)
    batch = buffer.sample()
    assert sorted(batch.actions.flatten().tolist()) == [1, 2, 7]
    assert sorted(batch.rewards.flatten().tolist()) == [1.0, 1.0, 7.0]


@pytest.mark.parametrize("kind", [Slotted, Bare], ids=lambda kind: kind.__name__)
def test_push_of_slots_whose_lane_pushes_a_plain_type_stores_both(kind: type[Any]) -> None:
    class Lane:
        def __index__(self) -> int:
            buffer.push(ones(), lane=0)
            return 0

    buffer = RolloutBuffer(9)
    outer = kind(torch.full((3,), 7.0), 7, 7.0, torch.full((3,), 7.0), False)
    buffer.push(outer)
    buffer.push(outer, lane=Lane())  # type: ignore[arg-type]
    assert buffer.sample().actions.flatten().tolist() == [7, 1, 7]


def test_push_whose_key_gives_the_experience_another_type_stores_its_values() -> None:
    @dataclass
    class Doubled(Experience):
        pass

    Doubled.reward = property(lambda self: 2.0, lambda self, value: None)  # type: ignore[assignment]
    buffer = RolloutBuffer(9)
    buffer.push(ones())
    outer = ones(state=torch.full((3,), 3.0))

    def act() -> None:
        outer.__class__ = Doubled

    buffer.push(keyed(outer, "state", act))
    assert buffer.sample().states[1].tolist() == [3.0] * 3


def test_push_whose_type_goes_while_it_is_checked_stores_the_values() -> None:
    class Watching(type):
        """Gives the experience another type when a buffer asks for its fields."""

        def __getattribute__(cls, name: str) -> Any:
            act = type.__getattribute__(cls, "__dict__").get("act")
            if act is not None and name == "__dataclass_fields__":
                act.__func__()
            return super().__getattribute__(name)

    def experience_of_a_type_that_goes() -> tuple[Any, weakref.ref[Any]]:
        kind: Any = Watching("Going", (Experience,), {})
        experience = kind(torch.ones(3), 1, 1.0, torch.ones(3), False)

        def act() -> None:
            experience.__class__ = Experience
            gc.collect()

        kind.act = staticmethod(act)
        return experience, weakref.ref(kind)

    buffer = RolloutBuffer(9)
    buffer.push(ones())
    experience, kind = experience_of_a_type_that_goes()
    buffer.push(experience)
    assert type(experience) is Experience
    assert kind() is not Experience
    assert buffer.sample().actions.flatten().tolist() == [1, 1]


def test_push_whose_type_changes_while_it_is_examined_reads_it_anew() -> None:
    """A key of the type's own dict runs code, which gives the type a property."""
    key = Key("reward")
    kind: Any = type("Changing", (Experience,), {key: 1.0})

    def act() -> None:
        kind.reward = property(lambda self: 5.0, lambda self, value: None)

    buffer = RolloutBuffer(9)
    buffer.push(ones())
    experience = kind(torch.ones(3), 1, 1.0, torch.ones(3), False)
    key.act = act
    kind.other = 1  # what Python remembers of the type's attributes is no longer good
    buffer.push(experience)
    assert key.act is None
    assert buffer.sample().rewards.flatten().tolist() == [1.0, 5.0]


# Memory that goes while other fields are read


def shrink(tensor: Tensor) -> None:
    tensor.untyped_storage().resize_(0)


class Acting(Tensor):
    """A tensor that acts when torch's functions are called on it."""

    act: Callable[[], Any] | None = None

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        for argument in arguments:
            if isinstance(argument, Acting) and argument.act is not None:
                act, argument.act = argument.act, None
                act()
        return super().__torch_function__(function, types, arguments, keywords or {})


def acting(tensor: Tensor, act: Callable[[], Any]) -> Acting:
    made = tensor.as_subclass(Acting)
    made.act = act
    return made


class AlwaysNegated(Tensor):
    """Says of itself and of all that comes of it that it is negated."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        if getattr(function, "__name__", "") == "is_neg":
            return True
        return super().__torch_function__(function, types, arguments, keywords or {})


class AttributesAct(Tensor):
    """Acts when one of its attributes is looked up."""

    def __getattribute__(self, name: str) -> Any:
        act = super().__getattribute__("__dict__").pop("act", None)
        if act is not None:
            act()
        return super().__getattribute__(name)


def strided(value: float = 2.0) -> Tensor:
    """Every second number: what could be the imaginary part of a conjugate."""
    return torch.full((6,), value)[::2]


@pytest.mark.parametrize("kind", [Acting, AttributesAct], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("way", ["push", "extend"])
def test_write_tensor_that_drops_its_own_memory_changes_nothing(kind: type[Any], way: str) -> None:
    buffer = ReplayBuffer(5, seed=1)
    buffer.push(ones())
    tensor = strided() if way == "push" else torch.full((2, 6), 2.0)[:, ::2]
    state = tensor.as_subclass(kind)
    state.__dict__["act"] = lambda: Tensor.untyped_storage(tensor).resize_(0)
    with unchanged(buffer), pytest.raises(ValueError, match=r"^states?: .*memory was given up"):
        write(buffer, way, state=state)


def write(buffer: ReplayBuffer, way: str, **values: Any) -> None:
    """One step by push, or two by extend."""
    if way == "push":
        buffer.push(ones(**values))
        return
    batch = stack([ones(), ones()])
    for name, value in values.items():
        setattr(batch, name + "s", value)
    buffer.extend(batch)


def test_push_tensor_that_always_says_that_it_is_negated_stores_its_memory() -> None:
    buffer = RolloutBuffer(5)
    buffer.push(ones())
    buffer.push(ones(state=strided().as_subclass(AlwaysNegated)))
    assert buffer.sample().states[1].tolist() == [2.0] * 3


@pytest.mark.parametrize("negated", [False, True])
@pytest.mark.parametrize("kind", [Tensor, Acting, AlwaysNegated, torch.nn.Parameter])
def test_push_negated_tensor_stores_what_it_shows(kind: type[Any], negated: bool) -> None:
    number = torch.complex(torch.ones(3), torch.full((3,), 4.0))
    shown = (number.conj() if negated else number).imag
    state = torch.nn.Parameter(shown) if kind is torch.nn.Parameter else shown.as_subclass(kind)
    buffer = RolloutBuffer(5)
    buffer.push(ones())
    buffer.push(ones(state=state, reward=shown[0].as_subclass(kind if kind is Acting else Tensor)))
    expected = -4.0 if negated else 4.0
    assert buffer.sample().states[1].tolist() == [expected] * 3
    assert buffer.sample().rewards[1].tolist() == [expected]


class FunctionsAct(TorchFunctionMode):
    """Acts whenever one of torch's functions is called."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__()
        self.act: Callable[[], Any] | None = act

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        act, self.act = self.act, None
        if act is not None:
            act()
        return function(*arguments, **(keywords or {}))


class SaysNegated(TorchFunctionMode):
    """Says of every tensor that it is negated."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        if getattr(function, "__name__", "") == "is_neg":
            return True
        return function(*arguments, **(keywords or {}))


class OperatorsAct(TorchDispatchMode):
    """Acts whenever one of torch's operators runs."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__()
        self.act: Callable[[], Any] | None = act

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        act, self.act = self.act, None
        if act is not None:
            act()
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("mode", [FunctionsAct, OperatorsAct], ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("negated", [False, True])
@pytest.mark.parametrize("inference", [False, True])
def test_push_under_a_mode_that_drops_memory_stores_or_refuses(
    mode: Any, negated: bool, inference: bool
) -> None:
    buffer = ReplayBuffer(5, seed=1)
    buffer.push(ones())
    first = torch.full((3,), 2.0)
    with torch.inference_mode(inference):
        number = torch.complex(torch.ones(3), torch.full((3,), 4.0))
        next_state = (number.conj() if negated else number).imag
        with mode(lambda: shrink(first)):
            try:
                buffer.push(ones(state=first, next_state=next_state))
            except ValueError as error:
                assert "memory was given up" in str(error)  # noqa: PT017
                assert len(buffer) == 1
    if len(buffer) == 2:
        assert buffer[1].state.tolist() == [2.0] * 3
        assert buffer[1].next_state.tolist() == [-4.0 if negated else 4.0] * 3


def test_push_under_a_mode_that_says_that_all_is_negated_stores_what_there_is() -> None:
    buffer = RolloutBuffer(5)
    buffer.push(ones())
    with SaysNegated():
        buffer.push(ones(state=strided()))
    assert buffer.sample().states[1].tolist() == [2.0] * 3


@pytest.mark.parametrize("way", ["push", "extend"])
def test_write_under_fake_tensor_mode_stores_real_tensors(way: str) -> None:
    buffer = ReplayBuffer(5, seed=1)
    buffer.push(ones())
    rows = [ones(state=torch.full((3,), 2.0)) for _ in range(2)]
    batch = stack(rows)
    with FakeTensorMode():
        buffer.push(rows[0]) if way == "push" else buffer.extend(batch)
        batch = buffer.sample(2)
    assert type(batch.states) is Tensor
    assert buffer[1].state.tolist() == [2.0] * 3


@pytest.mark.parametrize("field", ["state", "action", "reward", "done"])
def test_push_whose_last_field_drops_memory_of_another_changes_nothing(field: str) -> None:
    """Borrowed memory is read after all foreign code has run."""
    shape = (3,) if field == "state" else (1,)
    tensor = torch.full(shape, 0.0)
    buffer = ReplayBuffer(5, seed=1)
    buffer.push(ones())
    last = Meddler(lambda: shrink(tensor))
    with unchanged(buffer), pytest.raises(ValueError, match=rf"^{field}: .*memory was given up"):
        buffer.push(ones(**{field: tensor, "next_state": last}))


def test_push_whose_last_field_gives_another_other_memory_stores_it_as_it_is_then() -> None:
    buffer = RolloutBuffer(5)
    buffer.push(ones())
    state = torch.ones(3)

    def act() -> None:
        state.data = torch.full((3,), 2.0)

    buffer.push(ones(state=state, next_state=Meddler(act)))
    assert buffer.sample().states[1].tolist() == [2.0] * 3


def test_push_whose_last_field_makes_another_negated_is_refused() -> None:
    """Whether it is one had to be asked before."""
    buffer = ReplayBuffer(5, seed=1)
    buffer.push(ones())
    state = torch.ones(3)
    conjugate = torch.complex(torch.ones(3), torch.ones(3)).conj().imag

    def act() -> None:
        state.data = conjugate

    with unchanged(buffer), pytest.raises(ValueError, match=r"^state: .*stays as it is"):
        buffer.push(ones(state=state, next_state=Meddler(act)))


def test_push_of_a_nest_whose_entries_go_meanwhile_stores_them() -> None:
    def nest(value: float) -> dict[str, Any]:
        return {name: torch.full((3,), value) for name in "abc"}

    buffer = RolloutBuffer(5)
    buffer.push(Experience(nest(0.0), 0, 0.0, nest(0.0), False))
    state = nest(1.0)

    def act() -> None:
        state.clear()
        state.update(nest(9.0))
        gc.collect()

    buffer.push(Experience(state, 0, 0.0, nest(1.0) | {"b": Meddler(act)}, False))
    assert buffer.sample().states["a"][1].tolist() == [1.0] * 3


def test_push_of_a_nest_whose_key_drops_its_siblings_is_refused() -> None:
    names = ("a", "b", "c")
    buffer = ReplayBuffer(5, seed=1)
    first = {name: torch.zeros(3) for name in names}
    buffer.push(Experience(first, 0, 0.0, first, False))
    key = Key("b")
    state: dict[Any, Any] = {"a": torch.ones(3), key: torch.ones(3), "c": torch.ones(3)}
    key.act = state.clear
    with unchanged(buffer), pytest.raises(ValueError, match=r"^state: expected a dict of"):
        buffer.push(Experience(state, 0, 0.0, first, False))


def test_extend_whose_arrays_are_let_go_meanwhile_stores_them() -> None:
    """The arrays are in a dict made for the call, which other code can find and empty."""
    buffer = ReplayBuffer(9, seed=1)
    buffer.push(ones())

    class Emptying:
        def __dlpack__(self, **_: Any) -> Any:
            for found in gc.get_referrers(self):
                if isinstance(found, dict) and "next_state" in found:
                    found.clear()
            gc.collect()
            return torch.ones(2, 3).__dlpack__()

        def __dlpack_device__(self) -> Any:
            return torch.ones(2, 3).__dlpack_device__()

    def columns() -> BatchExperience:
        twos = torch.full((2, 3), 2.0)
        flags = torch.zeros(2, dtype=torch.bool)
        return BatchExperience(Emptying(), torch.ones(2), torch.ones(2), twos.clone(), flags)

    batch = columns()
    array = batch.next_states
    batch.__dict__["next_states"] = array
    del array
    buffer.extend(batch)
    assert buffer[2].next_state.tolist() == [2.0] * 3


def test_extend_whose_arrays_push_stores_both_whole() -> None:
    buffer = filled(ReplayBuffer, range(2), 9, seed=1)
    batch = stack([stamped(3), stamped(4)])
    tensor = torch.stack([batch.states, batch.states], 2)[:, :, 0]
    batch.states = acting(tensor, lambda: buffer.push(stamped(9)))
    batch.rewards = batch.rewards.double()
    buffer.extend(batch)
    assert [experience.action for experience in buffer] == [0, 1, 9, 3, 4]
    stamps_of(buffer.sample(5))


# torch's allocator under modes


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("compact", [False, True])
def test_use_device_under_fake_tensor_mode_moves_real_memory(compact: bool) -> None:
    steps = [ones(action=i) for i in range(4)]
    with FakeTensorMode():
        buffer = ReplayBuffer(5, "cuda", seed=1, storage="cuda", compact=compact)
        for step in steps:
            buffer.push(step)
        batch = buffer.sample(4)
        sequences = buffer.sample_sequences(2, 2)
    assert sorted(batch.actions.flatten().tolist()) == [0, 1, 2, 3]
    assert sequences.actions.shape == (2, 2, 1)
    assert [experience.action for experience in buffer] == [0, 1, 2, 3]


class Allocates(TorchDispatchMode):
    """Answers with another tensor where memory is asked for."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        super().__init__()
        self.answer = answer
        self.calls = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        if "empty" in str(function):
            self.calls += 1
            return self.answer()
        return function(*arguments, **(keywords or {}))


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize(
    "answer",
    [
        lambda: torch.zeros(1, dtype=torch.uint8),
        lambda: torch.zeros(4, device="meta"),
        lambda: torch.zeros(1 << 20)[::2],
    ],
    ids=["short", "meta", "strided"],
)
def test_use_device_under_a_mode_that_answers_for_the_allocator_uses_its_own(
    answer: Callable[[], Any],
) -> None:
    with Allocates(answer) as mode:
        buffer = ReplayBuffer(64, "cuda", seed=1, storage="cuda", compact=True)
        for i in range(64):
            buffer.push(ones(action=i))
        batch = buffer.sample(64)
    assert mode.calls == 0
    assert sorted(batch.actions.flatten().tolist()) == list(range(64))


@pytest.mark.cuda(emulated=True)
def test_push_whose_memory_is_made_under_a_mode_that_pushes_stores_each_once() -> None:
    buffer = ReplayBuffer(64, "cuda", seed=1, storage="cuda", compact=True)
    buffer.push(ones(action=0))
    with OperatorsAct(lambda: buffer.push(ones(action=100))):
        for i in range(1, 32):
            buffer.push(ones(action=i, state=torch.full((3,), float(i))))
    actions = [experience.action for experience in buffer]
    assert [action for action in actions if action != 100] == list(range(32))


def test_read_lanes_from_an_array_of_another_kind_is_the_same() -> None:
    buffer = ReplayBuffer(8, seed=1, num_envs=2)
    buffer.extend(stack([stamped(1), stamped(2)]))
    lanes = acting(torch.tensor([0, 9, 1, 9])[::2], lambda: None)
    buffer.extend(stack([stamped(3), stamped(4)]), lanes=lanes)
    assert [experience.action for experience in buffer] == [1, 2, 3, 4]
    assert np.array_equal(buffer.sample(4).actions.sort(0).values.flatten(), [1, 2, 3, 4])
