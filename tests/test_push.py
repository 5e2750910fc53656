"""Conversion of one experience: shapes, dtypes and values, from every kind of array."""

from __future__ import annotations

import array
import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PolicyExperience, stamped, stamps_of, step, stored
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from velora.buffer import Experience, ReplayBuffer, RolloutBuffer

STORED_DTYPES = [
    torch.bool,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
]
NUMPY_DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4"]


def stored_state(state: Any) -> Tensor:
    tensor = stored(step(state=state), "state")
    assert isinstance(tensor, Tensor)
    return tensor


def second_state(first: Any, second: Any) -> Tensor:
    """Returns `second` as stored where `first` has fixed the schema."""
    buffer = RolloutBuffer(2)
    buffer.push(step(state=first))
    buffer.push(step(state=second))
    tensor = buffer.sample().states[1]
    assert isinstance(tensor, Tensor)
    return tensor


# Shapes


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), (1, 1)),
        ((1,), (1, 1)),
        ((4,), (1, 4)),
        ((1, 4), (1, 4)),
        ((1, 1), (1, 1)),
        ((2, 4), (1, 2, 4)),
        ((3, 8, 6), (1, 3, 8, 6)),
        ((1, 8, 6), (1, 1, 8, 6)),
        ((1, 1, 4), (1, 1, 1, 4)),
        ((1, 2, 1, 2, 1, 2, 1, 2), (1, 1, 2, 1, 2, 1, 2, 1, 2)),
    ],
    ids=str,
)
def test_push_shape_comes_back_with_batch_dimension(
    shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    state = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    got = stored_state(state)
    assert got.shape == expected
    assert torch.equal(got.reshape(shape), state)


@pytest.mark.parametrize("attribute", ["state", "action", "reward", "next_state", "done"])
def test_push_one_row_in_any_field_is_that_row(attribute: str) -> None:
    values = {"state": torch.zeros(1, 1), "next_state": torch.zeros(1, 1)}
    values[attribute] = torch.ones(1, 1)
    assert stored(step(**values), attribute).tolist() == [[1.0]]


def test_push_matrix_action_of_one_row_is_a_vector() -> None:
    assert stored(step(action=torch.ones(1, 6)), "action").shape == (1, 6)


@pytest.mark.parametrize("first", [(4,), (1, 4)], ids=str)
@pytest.mark.parametrize("second", [(4,), (1, 4)], ids=str)
def test_push_vector_and_one_row_are_the_same_schema(
    first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    assert second_state(torch.zeros(first), torch.arange(4.0).reshape(second)).tolist() == [
        0,
        1,
        2,
        3,
    ]


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations([(), (1,), (1, 1)], 2)))
def test_push_scalar_and_vector_of_one_are_the_same_schema(
    first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    assert second_state(torch.zeros(first), torch.full(second, 7.0)).tolist() == [7.0]


def test_sample_rows_of_every_field_have_batch_and_feature_dimension() -> None:
    buffer = ReplayBuffer(8)
    for i in range(8):
        buffer.push(PolicyExperience(*stamped(i, features=17), 0.5, torch.zeros(9)))
    batch = buffer.sample(5)
    assert batch.states.shape == batch.next_states.shape == (5, 17)
    for part in (batch.actions, batch.rewards, batch.dones, batch.truncations, batch.discounts):
        assert part.shape == (5, 1)
    assert batch.indices.shape == (5,)
    assert batch.extras["log_prob"].shape == (5, 1)
    assert batch.extras["hidden"].shape == (5, 9)


# Dtypes


@pytest.mark.parametrize("dtype", STORED_DTYPES, ids=str)
@pytest.mark.parametrize("attribute", ["state", "next_state", "action", "hidden"])
def test_push_tensor_keeps_its_dtype(attribute: str, dtype: torch.dtype) -> None:
    value = torch.tensor([0, 1, 1]).to(dtype)
    values: dict[str, Any] = {
        "state": torch.zeros(3),
        "action": 0.0,
        "reward": 0.0,
        "next_state": torch.zeros(3),
        "done": False,
        "log_prob": 0.0,
        "hidden": torch.zeros(3),
    } | {attribute: value}
    if attribute == "next_state":
        values["state"] = value
    got = stored(PolicyExperience(**values), attribute)
    assert got.dtype == dtype
    assert torch.equal(got, value.reshape(1, 3))


@pytest.mark.parametrize("code", NUMPY_DTYPES)
def test_push_numpy_array_keeps_its_dtype(code: str) -> None:
    value = np.array([0, 1, 1], dtype=code)
    got = stored_state(value)
    assert got.dtype == torch.from_numpy(value).dtype
    assert got.numpy().tolist() == [value.tolist()]


@pytest.mark.parametrize("code", NUMPY_DTYPES)
def test_push_numpy_scalar_keeps_its_dtype(code: str) -> None:
    got = stored_state(np.dtype(code).type(1))
    assert got.shape == (1, 1)
    assert got.numpy().dtype == np.dtype(code)
    assert got.item() == 1


@pytest.mark.parametrize(
    "value",
    [1.5, np.float64(1.5), np.array(1.5), np.array([1.5]), torch.tensor([1.5]).double()],
    ids=["float", "numpy scalar", "array of no dimension", "array", "tensor"],
)
@pytest.mark.parametrize("attribute", ["state", "action", "next_state", "reward"])
def test_push_float64_becomes_float32(attribute: str, value: Any) -> None:
    values = {"state": 0.0, "next_state": 0.0} | {attribute: value}
    got = stored(step(**values), attribute)
    assert got.dtype == torch.float32
    assert got.tolist() == [[1.5]]


def test_push_float64_value_is_rounded_to_nearest() -> None:
    assert stored_state(np.array([0.1, 1 / 3])).tolist() == [
        [float(np.float32(0.1)), float(np.float32(1 / 3))]
    ]


def test_push_int_action_becomes_int64_that_gathers() -> None:
    buffer = RolloutBuffer(3)
    for action in (2, 0, 1):
        buffer.push(step(action=action))
    actions = buffer.sample().actions
    assert actions.dtype == torch.int64
    values = torch.arange(9.0).reshape(3, 3)
    assert values.gather(1, actions).tolist() == [[2.0], [3.0], [7.0]]


def test_push_bool_action_stays_bool() -> None:
    got = stored(step(action=True), "action")
    assert got.dtype == torch.bool
    assert got.tolist() == [[True]]


@pytest.mark.parametrize("one", [1, 1.0, True, np.int64(1), np.float16(1), np.bool_(True)])
@pytest.mark.parametrize("as_tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("attribute", ["reward", "done", "truncated"])
def test_push_reward_or_flag_of_any_type_is_float32(
    attribute: str, one: Any, as_tensor: bool
) -> None:
    got = stored(step(**{attribute: torch.tensor(one) if as_tensor else one}), attribute)
    assert got.dtype == torch.float32
    assert got.tolist() == [[1.0]]


def test_sample_dones_work_in_the_target_formula() -> None:
    buffer = RolloutBuffer(2)
    buffer.push(step(reward=1, done=True))
    buffer.push(step(reward=2, done=False))
    batch = buffer.sample()
    target = batch.rewards + (1 - batch.dones) * 0.5 * torch.full((2, 1), 4.0)
    assert target.tolist() == [[1.0], [4.0]]


def test_push_done_and_truncated_are_kept_apart() -> None:
    buffer = RolloutBuffer(4)
    flags = list(itertools.product([False, True], repeat=2))
    for done, truncated in flags:
        buffer.push(step(done=done, truncated=truncated))
    batch = buffer.sample()
    assert list(zip(batch.dones.bool(), batch.truncations.bool(), strict=True)) == flags


def test_push_extreme_values_come_back_exactly() -> None:
    info = torch.iinfo(torch.int64)
    assert stored(step(action=info.max), "action").item() == info.max
    assert stored(step(action=info.min), "action").item() == info.min
    assert stored(step(action=2**64 - 1), "action").item() == 2**64 - 1
    largest = torch.finfo(torch.float32).max
    assert stored_state(torch.tensor([largest, -largest])).tolist() == [[largest, -largest]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_push_special_floats_come_back(dtype: torch.dtype) -> None:
    special = torch.tensor([float("inf"), float("-inf"), float("nan"), -0.0], dtype=dtype)
    got = stored_state(special)[0]
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(got.view(bits), special.view(bits))


def test_push_special_float64_become_float32() -> None:
    got = stored_state(np.array([np.inf, -np.inf, np.nan, -0.0])).flatten().tolist()
    assert got[:2] == [float("inf"), float("-inf")]
    assert got[2] != got[2]
    assert str(got[3]) == "-0.0"


@given(st.floats(width=32), st.sampled_from([torch.float16, torch.bfloat16]))
def test_push_float_into_short_float_rounds_as_torch_does(value: float, dtype: torch.dtype) -> None:
    expected = torch.tensor(value).to(dtype)
    if expected.isinf() and abs(value) != float("inf"):
        with pytest.raises(ValueError, match="out of range"):
            second_state(torch.zeros(1, dtype=dtype), torch.tensor([value]))
    else:
        got = second_state(torch.zeros(1, dtype=dtype), torch.tensor([value]))
        assert torch.equal(got[0], expected) or (got[0].isnan() and expected.isnan())


def nearest(dtype: torch.dtype, value: int) -> int | None:
    """Returns an int as `dtype` stores it, by the definition of the format; None out of range."""
    if dtype == torch.bool:
        return value if value in (0, 1) else None
    if not dtype.is_floating_point:
        return value if torch.iinfo(dtype).min <= value <= torch.iinfo(dtype).max else None
    precision = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24}[dtype]
    unit = 1 << max(0, abs(value).bit_length() - precision)
    rounded = round(Fraction(value, unit)) * unit  # ties to even, as the formats do
    return rounded if abs(rounded) <= torch.finfo(dtype).max else None


near_powers = st.builds(
    lambda sign, power, offset: sign * 2**power + offset,
    st.sampled_from([1, -1]),
    st.integers(0, 62),
    st.integers(-2, 2),
)


near_ties = st.builds(
    lambda power, bits, offset: (1 << power) + (1 << power - bits) + offset,
    st.integers(25, 63),
    st.sampled_from([8, 11, 24]),
    st.sampled_from([-1, 0, 1]),
)


@given(
    st.integers(-(2**63), 2**64 - 1) | near_powers | near_ties,
    st.sampled_from(STORED_DTYPES),
    st.sampled_from(["number", "tensor", "array"]),
)
def test_push_int_where_another_dtype_is_stored_is_rounded_by_floats_alone(
    value: int, dtype: torch.dtype, kind: str
) -> None:
    expected = nearest(dtype, value)
    action: Any = value
    if kind != "number":
        array = np.array([value], np.int64 if value < 2**63 else np.uint64)
        action = array if kind == "array" else torch.from_numpy(array)
    buffer = RolloutBuffer(2)
    buffer.push(step(action=torch.zeros(1, dtype=dtype)))
    if expected is not None:
        buffer.push(step(action=action))
        assert int(buffer.sample().actions[1].item()) == expected
    else:
        with pytest.raises(ValueError, match=rf"action.*{str(dtype)[6:]}.*out of range"):
            buffer.push(step(action=action))
        assert len(buffer) == 1


@pytest.mark.parametrize("reward", [2**24 + 1, 2**53 + 1, -(2**63), 2**64 - 1, 10**18 + 7])
@pytest.mark.parametrize("kind", ["number", "tensor", "array", "batch"])
def test_push_int_reward_beyond_float32_is_rounded_as_a_float_is(kind: str, reward: int) -> None:
    array = np.array([reward], np.int64 if reward < 2**63 else np.uint64)
    given: Any = {"number": reward, "tensor": torch.from_numpy(array)}.get(kind, array)
    buffer = RolloutBuffer(3)
    for _ in range(2):  # the first and one after it
        if kind == "batch":
            flag = np.zeros(1, bool)
            buffer.extend(states=array, actions=array, rewards=given, next_states=array, dones=flag)
        else:
            buffer.push(step(reward=given))
    assert buffer.sample().rewards.flatten().tolist() == [float(np.float32(reward))] * 2


@pytest.mark.parametrize(
    "second", [1, 1.0, True, np.uint8(1), np.float16(1), torch.tensor(1), torch.tensor([True])]
)
@pytest.mark.parametrize("dtype", STORED_DTYPES, ids=str)
def test_push_value_that_fits_takes_the_first_dtype(dtype: torch.dtype, second: Any) -> None:
    got = second_state(torch.zeros(1, dtype=dtype), second)
    assert got.dtype == dtype
    assert got.tolist() == [1]


# Layouts of memory


def grid() -> Tensor:
    return torch.arange(24.0).reshape(4, 6)


class PlainSubclass(Tensor):
    """Adds nothing."""


VIEWS = {
    "transposed": lambda: grid().t(),
    "column": lambda: grid()[:, 2],
    "steps": lambda: grid()[::2, ::3],
    "storage offset": lambda: grid()[2],
    "narrow": lambda: grid().narrow(1, 1, 3),
    "expanded number": lambda: torch.tensor(3.0).expand(5),
    "expanded rows": lambda: torch.arange(3.0).reshape(3, 1).expand(3, 4),
    "odd stride of extent one": lambda: torch.arange(8.0).as_strided((1, 4), (999, 1)),
    "odd strides, all of extent one": lambda: torch.arange(8.0).as_strided((1, 1, 1), (7, 5, 3)),
    "overlapping": lambda: torch.arange(8.0).as_strided((3, 4), (1, 1)),
    "channels last": lambda: (
        torch.arange(48.0).reshape(1, 3, 4, 4).to(memory_format=torch.channels_last)[0]
    ),
    "requires grad": lambda: grid().requires_grad_(),
    "part of a graph": lambda: (grid().requires_grad_() * 2)[1],
    "parameter": lambda: torch.nn.Parameter(grid()),
    "subclass": lambda: grid().as_subclass(PlainSubclass),
    "reinterpreted": lambda: torch.arange(6, dtype=torch.int32).view(torch.float32),
    "real part": lambda: torch.complex(grid()[0], grid()[1]).real,
    "imaginary part": lambda: torch.complex(grid()[0], grid()[1]).imag,
    "imaginary part of a conjugate": lambda: torch.complex(grid()[0], grid()[1]).conj().imag,
    "one imaginary part of a conjugate": lambda: torch.complex(grid()[0], grid()[1]).conj().imag[3],
    "negated view": lambda: torch._neg_view(grid().t()),
    "negated number": lambda: torch._neg_view(torch.tensor(3.0)),
    "lazy clone": lambda: torch._lazy_clone(grid()),
    "shared memory": lambda: grid().share_memory_(),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("where", ["first", "later"])
def test_push_view_stores_what_the_tensor_shows(name: str, where: str) -> None:
    view = VIEWS[name]()
    with torch.no_grad():
        expected = view.clone().as_subclass(Tensor)
    got = stored_state(view)[0] if where == "first" else second_state(expected, view)
    assert got.reshape(expected.shape).tolist() == expected.tolist()


@pytest.mark.parametrize("name", VIEWS)
def test_push_view_as_action_of_another_dtype_stores_what_it_shows(name: str) -> None:
    view = VIEWS[name]()
    with torch.no_grad():
        expected = view.clone().as_subclass(Tensor)
    buffer = RolloutBuffer(2)
    buffer.push(step(action=torch.zeros(expected.shape, dtype=torch.bfloat16)))
    buffer.push(step(action=view))
    got = buffer.sample().actions[1]
    assert got.reshape(expected.shape).tolist() == expected.bfloat16().tolist()


PACKED = np.array(
    [(1, 2.5, 3), (4, 5.5, 6)], dtype=[("flag", "i1"), ("real", "f8"), ("short", "i2")]
)
READ_ONLY = np.arange(3.0, dtype=np.float32)
READ_ONLY.flags.writeable = False
ARRAYS = {
    "reversed": np.arange(5.0, dtype=np.float32)[::-1],
    "reversed rows": np.arange(6, dtype=np.int32).reshape(2, 3)[::-1, ::-1],
    "fortran order": np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
    "broadcast": np.broadcast_to(np.float32(2), (3, 2)),
    "read only": READ_ONLY,
    "unaligned doubles": PACKED["real"],
    "unaligned shorts": PACKED["short"],
    "field": PACKED["flag"],
    "matrix with gaps": np.arange(24, dtype=np.int64).reshape(4, 6)[1::2, ::2],
    "array module": array.array("f", [1.0, 2.0]),
    "memoryview": memoryview(np.arange(6, dtype=np.int16).reshape(2, 3)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_push_array_stores_what_it_shows(name: str) -> None:
    got = stored_state(ARRAYS[name])[0]
    assert got.tolist() == np.asarray(ARRAYS[name]).tolist()


class DLPackOnly:
    """An array of another library."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


def test_push_object_with_dlpack_is_read() -> None:
    assert stored_state(DLPackOnly(torch.arange(3.0))).tolist() == [[0.0, 1.0, 2.0]]


def test_push_requires_grad_stores_no_graph() -> None:
    assert not stored_state(torch.ones(3, requires_grad=True)).requires_grad


def test_push_leaves_the_pushed_tensor_alone() -> None:
    state = torch.arange(4.0, dtype=torch.float64)
    step_pushed = step(state=state)
    stored(step_pushed, "state")
    assert step_pushed.state is state
    assert state.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_push_copies_so_that_later_writes_do_not_matter() -> None:
    state = torch.zeros(3)
    buffer = RolloutBuffer(2)
    for value in (1.0, 2.0):
        state.fill_(value)
        buffer.push(step(state=state))
    assert buffer.sample().states.tolist() == [[1.0] * 3, [2.0] * 3]


def test_push_in_inference_mode_gives_usable_batches() -> None:
    buffer = RolloutBuffer(1)
    with torch.inference_mode():
        buffer.push(step(state=torch.ones(3)))
    weight = torch.ones(3, requires_grad=True)
    (buffer.sample().states * weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [1.0, 1.0, 1.0]


# The ring


@pytest.mark.parametrize("capacity", [1, 2, 3, 10])
def test_push_beyond_capacity_keeps_the_newest_oldest_first(capacity: int) -> None:
    buffer = ReplayBuffer(capacity)
    for i in range(3 * capacity + 2):
        buffer.push(stamped(i))
        alive = range(max(0, i + 1 - capacity), i + 1)
        assert len(buffer) == len(alive)
        assert [experience.action for experience in buffer] == list(alive)


def test_push_twelve_into_ten_leaves_two_to_eleven() -> None:
    buffer = ReplayBuffer(10)
    for i in range(12):
        buffer.push(Experience(float(i), i, float(i), i + 1.0, False))
    assert [experience.action for experience in buffer] == list(range(2, 12))


def test_push_into_new_buffer_of_huge_capacity_uses_little_memory() -> None:
    buffer = ReplayBuffer(10_000_000)
    buffer.push(stamped(1))
    assert stamps_of(buffer.sample(1)) == [1]


def test_read_capacity_and_device_gives_what_was_asked_for() -> None:
    buffer = ReplayBuffer(capacity=7, device="cpu")
    assert buffer.capacity == 7
    assert buffer.device == torch.device("cpu")
    assert ReplayBuffer(np.int64(3)).capacity == 3  # type: ignore[arg-type]
    assert RolloutBuffer(2, torch.device("cpu")).device == torch.device("cpu")


def test_show_buffer_says_what_it_is() -> None:
    buffer = ReplayBuffer(7)
    assert repr(buffer) == "ReplayBuffer(capacity=7, device='cpu', len=0)"
    buffer.push(stamped(1))
    shown = f"ReplayBuffer(capacity=7, device='cpu', len=1, nbytes={buffer.nbytes})"
    assert repr(buffer) == shown
