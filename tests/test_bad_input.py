"""Each mistake gets one clear error, and the buffer is exactly as it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    AnyBuffer,
    PolicyExperience,
    filled,
    stack,
    stamped,
    stamps_of,
    step,
    unchanged,
)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from velora.buffer import Experience, ReplayBuffer, RolloutBuffer

KINDS = [ReplayBuffer, RolloutBuffer]


@pytest.fixture(params=KINDS)
def buffer(request: pytest.FixtureRequest) -> AnyBuffer:
    """Holds five steps of four features, in a replay buffer that has wrapped."""
    made: AnyBuffer
    if request.param is ReplayBuffer:
        made = filled(ReplayBuffer, range(8), 5, seed=2)
        made.sample(2)
    else:
        made = filled(RolloutBuffer, range(5), 9)
    return made


def changed(**values: Any) -> Experience:
    """A good experience for `buffer` but for these fields."""
    experience = stamped(9)
    for name, value in values.items():
        setattr(experience, name, value)
    return experience


# Shapes


@pytest.mark.parametrize("attribute", ["state", "next_state"])
@pytest.mark.parametrize(
    "shape", [(), (1,), (3,), (5,), (2, 4), (4, 1), (1, 1, 4), (1, 5), (2, 2), (0,), (4, 0), (0, 4)]
)
def test_push_observation_of_another_shape_changes_nothing(
    buffer: AnyBuffer, attribute: str, shape: tuple[int, ...]
) -> None:
    got = str(shape).replace("(", r"\(").replace(")", r"\)")
    message = rf"^{attribute}: expected shape \(4,\), got float32 of shape {got}"
    with unchanged(buffer), pytest.raises(ValueError, match=message):
        buffer.push(changed(**{attribute: torch.zeros(shape)}))


@pytest.mark.parametrize("attribute", ["action", "reward", "done", "truncated"])
@pytest.mark.parametrize("shape", [(2,), (1, 2), (2, 1), (1, 1, 1), (0,)], ids=str)
def test_push_vector_for_a_number_changes_nothing(
    buffer: AnyBuffer, attribute: str, shape: tuple[int, ...]
) -> None:
    got = str(shape).replace("(", r"\(").replace(")", r"\)")
    message = rf"^{attribute}: expected shape \(1,\), got int64 of shape {got}"
    with unchanged(buffer), pytest.raises(ValueError, match=message):
        buffer.push(changed(**{attribute: torch.zeros(shape, dtype=torch.int64)}))


@pytest.mark.parametrize("shape", [(4, 5, 3), (3, 5, 4), (1, 3, 4, 5), (60,), (3, 20)], ids=str)
def test_push_image_of_another_shape_changes_nothing(shape: tuple[int, ...]) -> None:
    buffer = ReplayBuffer(3, seed=2)
    buffer.push(step(state=torch.zeros(3, 4, 5, dtype=torch.uint8)))
    with unchanged(buffer), pytest.raises(ValueError, match=r"state: .*\(3, 4, 5\).*uint8"):
        buffer.push(step(state=torch.zeros(shape, dtype=torch.uint8)))


@pytest.mark.parametrize("next_state", [torch.zeros(2), torch.zeros(3, 3), 0.0], ids=str)
def test_push_first_with_unlike_observations_fixes_no_schema(next_state: Any) -> None:
    buffer = ReplayBuffer(3)
    with pytest.raises(ValueError, match=r"^next_state: expected shape \(3,\)"):
        buffer.push(step(next_state=next_state))
    buffer.push(stamped(1))
    assert stamps_of(buffer.sample(1)) == [1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attribute", ["state", "action", "reward"])
@pytest.mark.parametrize("shape", [(0,), (1, 0), (3, 0, 2)], ids=str)
def test_push_first_without_elements_is_refused(
    kind: type[AnyBuffer], attribute: str, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=rf"^{attribute}: expected at least one element"):
        kind(3).push(step(**{attribute: torch.zeros(shape)}))


@pytest.mark.parametrize("value", [torch.zeros([1] * 9), np.zeros([1] * 9)], ids=["torch", "numpy"])
@pytest.mark.parametrize("started", [True, False])
def test_push_more_than_eight_dimensions_is_refused(value: Any, started: bool) -> None:
    buffer = ReplayBuffer(3)
    if started:
        buffer.push(step(state=torch.zeros([1] * 8)))
    message = "shape .* got .*" if started else "at most 8 dimensions, got 9"
    with pytest.raises(ValueError, match=rf"^state: expected {message}"):
        buffer.push(step(state=value))


# Values


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (0, 0.5, "fraction"),
        (0, float("nan"), "range"),
        (0, float("inf"), "range"),
        (0, 2**63, "range"),
        (0, 1e19, "range"),
        (True, 2, "range"),
        (True, 0.5, "fraction"),
        (True, -1, "range"),
        (0.0, 1e39, "range"),
        (0.0, -1e39, "range"),
        (torch.tensor(0, dtype=torch.uint8), 256, "range"),
        (torch.tensor(0, dtype=torch.uint8), -1, "range"),
        (torch.tensor(0, dtype=torch.uint8), 0.5, "fraction"),
        (torch.tensor(0, dtype=torch.int8), 128, "range"),
        (torch.tensor(0, dtype=torch.int8), -129.0, "range"),
        (torch.tensor(0, dtype=torch.int32), 2**31, "range"),
        (torch.tensor(0, dtype=torch.int32), float(2**31), "range"),
        (torch.tensor(0.0).half(), 65520.0, "range"),
        (torch.tensor(0.0).half(), 70_000, "range"),
        (torch.tensor(0.0).bfloat16(), 3.4e38, "range"),
    ],
    ids=str,
)
def test_push_value_that_does_not_fit_changes_nothing(first: Any, second: Any, reason: str) -> None:
    buffer = ReplayBuffer(3, seed=2)
    buffer.push(step(action=first))
    dtype = buffer.sample(1).actions.dtype
    message = f"^action: expected a value that {str(dtype)[6:]} holds, got .*{reason}"
    with unchanged(buffer), pytest.raises(ValueError, match=message):
        buffer.push(step(action=second))


def test_push_number_that_does_not_fit_is_named_in_the_message(buffer: AnyBuffer) -> None:
    with pytest.raises(ValueError, match=r"action: .*int64.*float 0\.25"):
        buffer.push(changed(action=0.25))


@pytest.mark.parametrize("position", [0, 1, 3])
def test_push_array_with_one_bad_element_changes_nothing(buffer: AnyBuffer, position: int) -> None:
    state = np.zeros(4)
    state[position] = 1e39
    with unchanged(buffer), pytest.raises(ValueError, match=r"^state: .*float32.*float64.*range"):
        buffer.push(changed(state=state))


@pytest.mark.parametrize("flag", [2, -1, 0.5, float("nan"), np.uint8(255), torch.tensor(2.0)])
@pytest.mark.parametrize("attribute", ["done", "truncated"])
def test_push_flag_that_is_neither_true_nor_false_changes_nothing(
    buffer: AnyBuffer, attribute: str, flag: Any
) -> None:
    with unchanged(buffer), pytest.raises(ValueError, match=rf"^{attribute}: expected .*bool"):
        buffer.push(changed(**{attribute: flag}))


@pytest.mark.parametrize("reward", [1e39, -1e39, 2**80])
@pytest.mark.parametrize("kind", KINDS)
def test_push_first_with_reward_beyond_float32_fixes_no_schema(
    kind: type[AnyBuffer], reward: float
) -> None:
    buffer = kind(3)
    with pytest.raises(ValueError, match=r"^reward: "):
        buffer.push(step(reward=reward))
    assert len(buffer) == 0
    buffer.push(stamped(1))


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**400], ids=["2**64", "low", "huge"])
def test_push_int_of_more_than_64_bits_changes_nothing(buffer: AnyBuffer, value: int) -> None:
    with unchanged(buffer), pytest.raises(ValueError, match=r"^action: .*64 bits"):
        buffer.push(changed(action=value))


# Things that are no arrays


NOT_ARRAYS = {
    "none": None,
    "str": "1.0",
    "numpy str": np.str_("1.0"),
    "bytes": b"1234",
    "bytearray": bytearray(4),
    "list": [0.0, 0.0, 0.0, 0.0],
    "set": {1.0},
    "object": object(),
    "type": float,
    "complex": 1j,
    "numpy complex": np.zeros(4, np.complex64),
    "object array": np.array([None] * 4, dtype=object),
    "str array": np.array(["a"] * 4),
    "bytes array": np.array([b"a"] * 4),
    "big-endian array": np.zeros(4, dtype=">f4"),
    "dates": np.zeros(4, dtype="datetime64[s]"),
    "durations": np.zeros(4, dtype="timedelta64[s]"),
    "date": np.datetime64("2020-01-01"),
    "duration": np.timedelta64(1, "s"),
    "record array": np.zeros(4, dtype=[("a", "f4")]),
    "void": np.void(b"abcd"),
}


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
@pytest.mark.parametrize("attribute", ["state", "action", "reward", "next_state", "done"])
@pytest.mark.parametrize("name", [name for name in NOT_ARRAYS if name not in ("date", "duration")])
def test_push_what_is_no_array_changes_nothing(name: str, attribute: str, started: bool) -> None:
    buffer = filled(ReplayBuffer, range(8 if started else 0), 5, seed=2)
    message = rf"^{attribute}: expected a dense tensor, an array or a number, got \S"
    with unchanged(buffer), pytest.raises(ValueError, match=message):
        buffer.push(changed(**{attribute: NOT_ARRAYS[name]}))


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code that could take the interpreter with it."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )


def test_push_numpy_date_is_refused_and_does_not_crash() -> None:
    code = """
import numpy as np
from velora.buffer import Experience, ReplayBuffer
for date in (np.datetime64("2020-01-01"), np.timedelta64(1, "s")):
    for started in (True, False):
        buffer = ReplayBuffer(3)
        if started:
            buffer.push(Experience(0.0, 0.0, 0.0, 0.0, False))
        try:
            buffer.push(Experience(date, 0.0, 0.0, date, False))
        except ValueError as error:
            assert str(error).startswith("state: "), error
        else:
            raise AssertionError("a date was stored")
        assert len(buffer) == started
"""
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, "")


# Tensors without plain memory


class Wrapper(Tensor):
    """A tensor without memory."""

    @staticmethod
    def __new__(cls, like: Tensor) -> Wrapper:
        made: Wrapper = Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype)  # type: ignore[attr-defined]
        return made

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError("nothing can be done with it")


def fake() -> Tensor:
    with FakeTensorMode():
        return torch.zeros(4)


def freed() -> Tensor:
    tensor = torch.zeros(4)
    tensor.untyped_storage().resize_(0)
    return tensor


SPECIAL: dict[str, Callable[[], Tensor]] = {
    "meta": lambda: torch.zeros(4, device="meta"),
    "complex": lambda: torch.zeros(4, dtype=torch.complex64),
    "conjugate": lambda: torch.zeros(4, dtype=torch.complex64).conj(),
    "short complex": lambda: torch.zeros(4, dtype=torch.complex32),
    "sparse": lambda: torch.zeros(4).to_sparse(),
    "compressed sparse": lambda: torch.zeros(4, 4).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "jagged": lambda: torch.nested.nested_tensor(
        [torch.zeros(2), torch.zeros(3)], layout=torch.jagged
    ),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.quint8),
    "8-bit float": lambda: torch.zeros(4).to(torch.float8_e4m3fn),
    "fake": fake,
    "functional": lambda: torch._to_functional_tensor(torch.zeros(4)),
    "wrapper subclass": lambda: Wrapper(torch.zeros(4)),
    "given-up memory": freed,
    "uninitialized parameter": lambda: torch.nn.UninitializedParameter(),
}


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.filterwarnings("ignore:.*Sparse.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantize.*:UserWarning")
@pytest.mark.filterwarnings("ignore:ComplexHalf:UserWarning")
@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
@pytest.mark.parametrize("attribute", ["state", "action", "reward", "next_state", "done"])
@pytest.mark.parametrize("name", SPECIAL)
def test_push_tensor_without_plain_memory_changes_nothing(
    name: str, attribute: str, started: bool
) -> None:
    buffer = filled(ReplayBuffer, range(8 if started else 0), 5, seed=2)
    value = SPECIAL[name]()
    with unchanged(buffer), pytest.raises(ValueError, match=rf"^{attribute}: expected .*, got "):
        buffer.push(changed(**{attribute: value}))


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize("name", ["meta", "sparse", "complex", "fake", "given-up memory"])
def test_push_tensor_without_plain_memory_is_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=r"^state: ") as error:
        ReplayBuffer(3).push(step(state=SPECIAL[name]()))
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
@pytest.mark.parametrize(
    "transform",
    [
        lambda function: torch.vmap(function)(torch.zeros(2, 4)),
        lambda function: torch.func.grad(lambda x: function(x).sum())(torch.zeros(4)),
        lambda function: torch.func.jvp(function, (torch.zeros(4),), (torch.ones(4),)),
        lambda function: torch.func.functionalize(function)(torch.zeros(4)),
    ],
    ids=["vmap", "grad", "jvp", "functionalize"],
)
def test_push_within_a_function_transform_changes_nothing(
    transform: Callable[[Callable[[Tensor], Tensor]], Any], started: bool
) -> None:
    buffer = filled(ReplayBuffer, range(8 if started else 0), 5, seed=2)

    def function(state: Tensor) -> Tensor:
        buffer.push(changed(state=state))
        return state * 2

    with unchanged(buffer), pytest.raises(ValueError, match=r"^state: expected a dense tensor"):
        transform(function)


# Fields


@pytest.mark.parametrize(
    "thing",
    [None, 1, "x", (1, 2, 3, 4, 5), [1], {"state": 1}, Experience, object(), stack([stamped(1)])],
    ids=lambda thing: type(thing).__name__,
)
def test_push_what_is_no_experience_is_a_type_error(buffer: AnyBuffer, thing: Any) -> None:
    with unchanged(buffer), pytest.raises(TypeError, match=r"^experience: expected an Experience"):
        buffer.push(thing)
    with pytest.raises(TypeError, match=r"^experience: expected an Experience"):
        type(buffer)(3).push(thing)


@pytest.mark.parametrize("missing", ["state", "action", "reward", "next_state", "done"])
def test_push_dataclass_without_a_field_names_it(buffer: AnyBuffer, missing: str) -> None:
    names = [n for n in ("state", "action", "reward", "next_state", "done") if n != missing]
    kind = make_dataclass("Partial", names)
    with unchanged(buffer), pytest.raises(TypeError, match=rf"Partial without {missing}$"):
        buffer.push(kind(0.0, 0.0, 0.0, 0.0))


def test_push_subclass_with_unknown_field_changes_nothing(buffer: AnyBuffer) -> None:
    with unchanged(buffer), pytest.raises(ValueError, match=r"log_prob: expected no such field"):
        buffer.push(PolicyExperience(*stamped(9), 0.5, torch.zeros(2)))


def test_push_without_a_known_extra_field_changes_nothing() -> None:
    buffer = ReplayBuffer(3, seed=2)
    buffer.push(PolicyExperience(*stamped(1), 0.5, torch.zeros(2)))
    with unchanged(buffer), pytest.raises(ValueError, match=r"log_prob: expected this field"):
        buffer.push(stamped(2))


def test_push_deleted_attribute_changes_nothing(buffer: AnyBuffer) -> None:
    experience = stamped(9)
    del experience.reward
    with unchanged(buffer), pytest.raises(AttributeError, match="reward"):
        buffer.push(experience)


@pytest.mark.parametrize("value", [None, "x", [0.0], torch.zeros(3), torch.zeros(2, 2)], ids=str)
def test_push_bad_extra_field_changes_nothing(value: Any) -> None:
    buffer = ReplayBuffer(3, seed=2)
    buffer.push(PolicyExperience(*stamped(1), 0.5, torch.zeros(2)))
    with unchanged(buffer), pytest.raises(ValueError, match=r"^hidden: expected"):
        buffer.push(PolicyExperience(*stamped(2), 0.5, value))


@dataclass(eq=False)
class Exploding(Experience):
    """Raises when one of its fields is read."""

    def __getattribute__(self, name: str) -> Any:
        if name == "next_state":
            raise ZeroDivisionError("read next_state")
        return super().__getattribute__(name)


@pytest.mark.parametrize("kind", KINDS)
def test_push_experience_that_raises_passes_the_error_on(kind: type[AnyBuffer]) -> None:
    buffer = kind(5)
    with pytest.raises(ZeroDivisionError):
        buffer.push(Exploding(*[torch.zeros(4), 1, 1.0, torch.zeros(4), False]))
    buffer.push(stamped(1))
    with unchanged(buffer), pytest.raises(ZeroDivisionError):
        buffer.push(Exploding(*[torch.zeros(4), 1, 1.0, torch.zeros(4), False]))


# Arguments


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capacity", [0, -1, 2**40 + 1, 2**63, 2**64, 2**70, -(2**70)])
def test_construct_with_capacity_out_of_range_is_a_value_error(
    kind: type[AnyBuffer], capacity: int
) -> None:
    with pytest.raises(ValueError, match=rf"^capacity: .*{2**40}.*got {capacity}$"):
        kind(capacity)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capacity", [1.5, -0.5, True, "10", None, [10], float("nan")], ids=repr)
def test_construct_with_capacity_of_another_type_is_a_type_error(
    kind: type[AnyBuffer], capacity: Any
) -> None:
    with pytest.raises(TypeError, match=rf"^capacity: .*{type(capacity).__name__}"):
        kind(capacity)


@pytest.mark.parametrize("kind", KINDS)
def test_push_first_into_more_than_the_machine_has_is_a_memory_error(
    kind: type[AnyBuffer],
) -> None:
    buffer = kind(2**40)
    for _ in range(2):
        with pytest.raises(MemoryError, match=rf"capacity {2**40}.*bytes"):
            buffer.push(stamped(1))
        with pytest.raises(MemoryError, match=rf"capacity {2**40}.*bytes"):
            buffer.extend(stack([stamped(1)]))
        assert len(buffer) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_push_row_of_more_bytes_than_can_be_counted_is_refused(kind: type[AnyBuffer]) -> None:
    state = torch.zeros(1, dtype=torch.uint8).expand(2**20, 2**20, 2**20)
    with pytest.raises(ValueError, match=r"^state: expected a row of at most"):
        kind(1).push(step(state=state))


@pytest.mark.parametrize("size", [0, -1, 6, 2**31, 2**32, 2**63 - 1, 2**63, 2**70, -(2**70)])
def test_sample_batch_size_out_of_range_names_both_numbers(size: int) -> None:
    buffer = filled(ReplayBuffer, range(8), 5, seed=2)
    with unchanged(buffer), pytest.raises(ValueError, match=rf"^batch_size: expected .*{size}"):
        buffer.sample(size)


def test_sample_more_than_there_is_says_how_many_there_are() -> None:
    buffer = filled(ReplayBuffer, range(3), 5)
    with pytest.raises(ValueError, match=r"^batch_size: .*at most 3.*got 4$"):
        buffer.sample(4)


@pytest.mark.parametrize("filled_with", [0, 3], ids=["new", "started"])
@pytest.mark.parametrize("size", [1.0, True, "1", None, [1], float("nan"), 1j], ids=repr)
def test_sample_batch_size_of_another_type_is_a_type_error(size: Any, filled_with: int) -> None:
    buffer = filled(ReplayBuffer, range(filled_with), 5, seed=2)
    with unchanged(buffer), pytest.raises(TypeError, match=r"^batch_size: expected an int, got"):
        buffer.sample(size)


@pytest.mark.parametrize("size", [1, 2**70])
def test_sample_new_replay_buffer_says_that_there_is_nothing(size: int) -> None:
    with pytest.raises(ValueError, match=rf"^batch_size: .*at most 0.*got {size}$"):
        ReplayBuffer(3).sample(size)


@pytest.mark.parametrize("size", [0, -1])
def test_sample_less_than_one_from_new_replay_buffer_is_refused_for_that(size: int) -> None:
    with pytest.raises(ValueError, match=rf"^batch_size: expected at least 1, got {size}"):
        ReplayBuffer(3).sample(size)


HUGE = [2**31, 2**32, 2**63 - 1, 2**63, 2**64, 2**70]
NUMBERS: dict[str, Callable[[ReplayBuffer, int], Any]] = {
    "batch_size": lambda buffer, n: buffer.sample_sequences(n, 1),
    "length": lambda buffer, n: buffer.sample_sequences(1, n),
    "burn_in": lambda buffer, n: buffer.sample_sequences(1, 1, n),
    "lane": lambda buffer, n: buffer.push(stamped(1), lane=n),
    "lanes": lambda buffer, n: buffer.extend(stack([stamped(1)]), lanes=[n]),
    "n_step": lambda _, n: ReplayBuffer(5, n_step=n),
    "num_envs": lambda _, n: ReplayBuffer(5, num_envs=n),
    "frame_stack": lambda _, n: ReplayBuffer(5, frame_stack=n),
}


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("name", NUMBERS)
def test_pass_number_of_any_size_that_is_too_large_names_it(
    name: str, number: int, started: bool
) -> None:
    buffer = filled(ReplayBuffer, range(8 if started else 0), 5, seed=2)
    with unchanged(buffer), pytest.raises(ValueError, match=rf"^{name}: expected "):
        NUMBERS[name](buffer, number)


@pytest.mark.parametrize("number", [-(2**63), -(2**64), -(2**70), -1])
@pytest.mark.parametrize("name", NUMBERS)
def test_pass_number_of_any_size_that_is_too_small_names_it(name: str, number: int) -> None:
    buffer = filled(ReplayBuffer, range(8), 5, seed=2)
    with unchanged(buffer), pytest.raises(ValueError, match=rf"^{name}: expected "):
        NUMBERS[name](buffer, number)


@pytest.mark.parametrize("number", [2**63, 2**64, 2**70])
def test_take_minibatches_of_more_than_there_is_gives_all_at_once(number: int) -> None:
    buffer = filled(RolloutBuffer, range(4), 4)
    batches = list(buffer.minibatches(number))
    assert [len(batch) for batch in batches] == [4]


@pytest.mark.parametrize("number", [2**63, 2**64, 2**70])
def test_load_batches_of_more_than_there_is_names_both_numbers(number: int) -> None:
    buffer = filled(ReplayBuffer, range(4), 4)
    with buffer.loader(number) as loader, pytest.raises(ValueError, match=r"^batch_size: expected"):
        next(loader)


@pytest.mark.parametrize("seed", [-1, 2**64, 2**70])
def test_construct_with_seed_out_of_range_is_a_value_error(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"^seed: .*2\*\*64 - 1, got {seed}$"):
        ReplayBuffer(1, seed=seed)


@pytest.mark.parametrize("seed", [1.0, True, "1", [1]], ids=repr)
def test_construct_with_seed_of_another_type_is_a_type_error(seed: Any) -> None:
    with pytest.raises(TypeError, match=r"^seed: expected an int"):
        ReplayBuffer(1, seed=seed)


@pytest.mark.parametrize("gamma", [-0.01, 1.01, float("nan"), float("inf"), -float("inf")])
def test_construct_with_gamma_out_of_range_is_a_value_error(gamma: float) -> None:
    with pytest.raises(ValueError, match=rf"^gamma: .*0 to 1, got {gamma}$"):
        ReplayBuffer(1, gamma=gamma)


@pytest.mark.parametrize("gamma", [None, "0.9", [0.9], 1j], ids=repr)
def test_construct_with_gamma_of_another_type_is_a_type_error(gamma: Any) -> None:
    with pytest.raises(TypeError, match=r"^gamma: expected a number"):
        ReplayBuffer(1, gamma=gamma)


@pytest.mark.parametrize("kind", KINDS)
def test_construct_on_meta_device_is_a_value_error(kind: type[AnyBuffer]) -> None:
    with pytest.raises(ValueError, match=r"^device: .*meta"):
        kind(1, "meta")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", ["nonsense", "cpu:x", ""], ids=repr)
def test_construct_on_unknown_device_is_a_value_error(kind: type[AnyBuffer], device: str) -> None:
    with pytest.raises(ValueError, match=r"^device: "):
        kind(1, device)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", [1.5, [], object()], ids=repr)
def test_construct_on_what_is_no_device_is_a_type_error(kind: type[AnyBuffer], device: Any) -> None:
    with pytest.raises(TypeError, match="device"):
        kind(1, device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("kind", KINDS)
def test_construct_on_a_device_that_is_not_there_raises_at_once(kind: type[AnyBuffer]) -> None:
    with pytest.raises(RuntimeError, match=r"device: .*cuda"):
        kind(1, "cuda")


@pytest.mark.parametrize("kind", KINDS)
def test_construct_with_unknown_argument_is_a_type_error(kind: Any) -> None:
    with pytest.raises(TypeError):
        kind(3, None, 0.9)
    with pytest.raises(TypeError):
        kind(3, size=3)


def test_use_buffer_after_many_errors_works(buffer: AnyBuffer) -> None:
    with unchanged(buffer):
        for _ in range(200):
            for bad in (changed(state=torch.zeros(9)), changed(action="x"), changed(done=None)):
                with pytest.raises(ValueError, match="expected"):
                    buffer.push(bad)
    buffer.push(stamped(11))
    assert buffer[-1] == stamped(11)


@pytest.mark.parametrize("reward", [torch.zeros(8), np.zeros((2, 2)), torch.zeros(1, 3)], ids=str)
def test_push_first_with_several_rewards_is_refused(reward: Any) -> None:
    buffer = ReplayBuffer(3)
    with pytest.raises(ValueError, match=r"^reward: expected a single number, got float"):
        buffer.push(step(reward=reward))
    assert len(buffer) == 0


def test_push_subclass_without_the_decorator_says_what_to_write() -> None:
    class Forgetful(Experience):
        log_prob: float = 0.0

    with pytest.raises(TypeError, match=r"^log_prob: .* put @dataclass above class Forgetful"):
        ReplayBuffer(3).push(Forgetful(0.0, 0.0, 0.0, 0.0, False))


def test_push_a_list_says_how_to_make_a_tensor_of_it() -> None:
    with pytest.raises(ValueError, match=r"^state: .* got list; use torch\.tensor"):
        ReplayBuffer(3).push(step(state=[0.0, 1.0]))
