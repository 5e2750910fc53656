"""Generalised advantage estimation against closed forms, an oracle and torch's own op checks."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from velora.returns import gae

FLAG_DTYPES = (torch.bool, torch.uint8, torch.float32, torch.float64)
REAL_DTYPES = (torch.float32, torch.float64)
HALF_DTYPES = (torch.float16, torch.bfloat16)


class Rollout(NamedTuple):
    """The tensor arguments of `gae`, in its order."""

    rewards: Tensor
    values: Tensor
    next_values: Tensor
    dones: Tensor
    truncations: Tensor


def random_rollout(
    *shape: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    flag_dtype: torch.dtype = torch.bool,
    ends: float = 0.2,
) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    reals = (torch.randn(shape, dtype=dtype, generator=generator) for _ in range(3))
    flags = ((torch.rand(shape, generator=generator) < ends).to(flag_dtype) for _ in range(2))
    return Rollout(*reals, *flags)


def assert_matches_reference(rollout: Rollout, gamma: float, lam: float) -> None:
    """Holds the result to a rounding error bound: the same sums over absolute values."""
    advantages, returns = gae(*rollout, gamma=gamma, lam=lam)
    rewards, values, next_values, dones, truncations = (tensor.numpy() for tensor in rollout)
    expected, expected_returns = reference.gae(
        rewards, values, next_values, dones, truncations, gamma, lam
    )
    magnitude, _ = reference.gae(
        abs(rewards), -abs(values), abs(next_values), dones, truncations, gamma, lam
    )
    bound = 6 * len(rewards) * torch.finfo(rollout.rewards.dtype).eps * (magnitude + abs(values))
    assert np.all(abs(advantages.numpy() - expected) <= bound)
    assert np.all(abs(returns.numpy() - expected_returns) <= bound)


def noncontiguous(tensor: Tensor, how: str) -> Tensor:
    """The same elements behind other strides."""
    if how == "transposed":
        return tensor.T.contiguous().T
    if how == "strided":
        return torch.stack([tensor, tensor], dim=-1)[..., 0]
    if how == "offset":
        return torch.cat([tensor[:1], tensor])[1:]
    return tensor


class TestKnownAnswers:
    @pytest.mark.parametrize("value", [0.0, 1.0])
    @pytest.mark.parametrize("episodes", [1, 3])
    @pytest.mark.parametrize("gamma", [1.0, 0.99])
    @pytest.mark.parametrize("lam", [1.0, 0.9])
    def test_gae_constant_value_equals_closed_form(
        self, value: float, episodes: int, gamma: float, lam: float
    ) -> None:
        length = 64
        to_end = np.arange(length)[::-1]
        decay = gamma * lam
        powers = to_end if decay == 1 else (1 - decay**to_end) / (1 - decay)
        episode = (gamma - 1) * value * powers + decay**to_end * (1 - value)
        expected = torch.from_numpy(np.tile(episode, episodes))

        rewards = torch.zeros(episodes * length, dtype=torch.float64)
        rewards[length - 1 :: length] = 1
        values = torch.full_like(rewards, value)
        advantages, returns = gae(rewards, values, values, rewards != 0, gamma=gamma, lam=lam)

        torch.testing.assert_close(advantages, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(returns, expected + value, rtol=1e-12, atol=1e-12)

    def test_gae_hand_computed_episode_gives_known_numbers(self) -> None:
        advantages, returns = gae(
            torch.tensor([1.0, 2.0, 3.0]),
            torch.tensor([0.5, 1.0, 1.5]),
            torch.tensor([1.0, 1.5, 2.0]),
            torch.tensor([False, False, True]),
            gamma=0.5,
            lam=0.5,
        )
        # Deltas 1, 1.75 and 1.5; each advantage adds a quarter of the next.
        torch.testing.assert_close(advantages, torch.tensor([1.53125, 2.125, 1.5]))
        torch.testing.assert_close(returns, torch.tensor([2.03125, 3.125, 3.0]))

    def test_gae_last_step_bootstraps_from_its_next_value(self) -> None:
        one = torch.ones(1)
        advantages, _ = gae(one, 2 * one, 4 * one, torch.tensor([False]), gamma=0.5)
        torch.testing.assert_close(advantages, torch.tensor([1 + 0.5 * 4 - 2]))

    def test_gae_done_ignores_the_next_value(self) -> None:
        one = torch.ones(1)
        advantages, _ = gae(one, 2 * one, 4 * one, torch.tensor([True]), gamma=0.5)
        torch.testing.assert_close(advantages, torch.tensor([1.0 - 2]))

    def test_gae_lam_zero_gives_the_deltas(self) -> None:
        rollout = random_rollout(20, 3, ends=0.0)
        advantages, _ = gae(*rollout, gamma=0.9, lam=0.0)
        deltas = rollout.rewards + 0.9 * rollout.next_values - rollout.values
        torch.testing.assert_close(advantages, deltas)

    def test_gae_defaults_are_099_and_095(self) -> None:
        rollout = random_rollout(20, 3)
        explicit = gae(*rollout, gamma=0.99, lam=0.95)
        for result, expected in zip(gae(*rollout), explicit, strict=True):
            assert torch.equal(result, expected)


class TestBoundaries:
    @pytest.mark.parametrize("ending", ["done", "truncated", "both"])
    @pytest.mark.parametrize("envs", [1, 3, 16])
    def test_gae_after_an_end_equals_the_episode_alone(self, ending: str, envs: int) -> None:
        first = random_rollout(9, envs, seed=1, ends=0.0)
        second = random_rollout(7, envs, seed=2)
        if ending != "truncated":
            first.dones[-1] = True
        if ending != "done":
            first.truncations[-1] = True
        joined = [torch.cat(pair) for pair in zip(first, second, strict=True)]

        for whole, alone in zip(gae(*joined), gae(*first), strict=True):
            assert torch.equal(whole[:9], alone)

    @pytest.mark.parametrize("envs", [1, 3, 16])
    @pytest.mark.parametrize("poison", [float("nan"), float("inf")])
    def test_gae_poisoned_next_episode_leaves_the_previous_finite(
        self, envs: int, poison: float
    ) -> None:
        rollout = random_rollout(10, envs, ends=0.0)
        rollout.truncations[4] = True
        for tensor in rollout[:3]:
            tensor[5:] = poison
        advantages, returns = gae(*rollout)
        assert advantages[:5].isfinite().all()
        assert returns[:5].isfinite().all()
        assert not advantages[5:].isfinite().any()

    @pytest.mark.parametrize("envs", [1, 3, 16])
    def test_gae_done_with_poisoned_next_value_stays_finite(self, envs: int) -> None:
        rollout = random_rollout(10, envs, ends=0.0)
        rollout.dones[4] = True
        rollout.next_values[4] = float("nan")
        advantages, _ = gae(*rollout)
        assert advantages.isfinite().all()

    def test_gae_environment_in_a_batch_equals_it_alone(self) -> None:
        rollout = random_rollout(30, 19)
        batched = gae(*rollout)
        for env in range(19):
            alone = gae(*(tensor[:, env] for tensor in rollout))
            for whole, single in zip(batched, alone, strict=True):
                torch.testing.assert_close(whole[:, env], single)

    def test_gae_without_truncations_equals_none_set(self) -> None:
        rollout = random_rollout(30, 4)
        none_set = rollout._replace(truncations=torch.zeros_like(rollout.truncations))
        for result, expected in zip(gae(*rollout[:4]), gae(*none_set), strict=True):
            assert torch.equal(result, expected)


class TestAgainstReference:
    @settings(max_examples=300)
    @given(data=st.data())
    def test_gae_any_rollout_equals_reference(self, data: st.DataObject) -> None:
        steps = data.draw(st.integers(1, 50), "T")
        envs = data.draw(st.integers(1, 8), "N")
        dtype = data.draw(st.sampled_from(REAL_DTYPES), "dtype")
        flag_dtype = data.draw(st.sampled_from(FLAG_DTYPES), "flag dtype")
        seed = data.draw(st.integers(0, 2**32 - 1), "seed")
        ends = data.draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]), "share of ends")
        layouts = data.draw(
            st.tuples(*[st.sampled_from(["plain", "transposed", "strided", "offset"])] * 5),
            "layouts",
        )
        gamma = data.draw(st.floats(0, 1, allow_subnormal=False), "gamma")
        lam = data.draw(st.floats(0, 1, allow_subnormal=False), "lam")

        rollout = random_rollout(
            steps, envs, seed=seed, dtype=dtype, flag_dtype=flag_dtype, ends=ends
        )
        rollout = Rollout(*map(noncontiguous, rollout, layouts))
        assert_matches_reference(rollout, gamma, lam)

    @pytest.mark.parametrize("envs", [*range(1, 34), 63, 64, 65])
    @pytest.mark.parametrize("dtype", REAL_DTYPES)
    def test_gae_any_vector_width_equals_reference(self, envs: int, dtype: torch.dtype) -> None:
        assert_matches_reference(random_rollout(12, envs, seed=envs, dtype=dtype), 0.99, 0.95)

    @pytest.mark.parametrize(
        ("dones", "truncations"), list(itertools.product(FLAG_DTYPES, FLAG_DTYPES))
    )
    def test_gae_any_pair_of_flag_dtypes_agrees_with_bool(
        self, dones: torch.dtype, truncations: torch.dtype
    ) -> None:
        rollout = random_rollout(20, 5)
        converted = rollout._replace(
            dones=rollout.dones.to(dones), truncations=rollout.truncations.to(truncations)
        )
        for result, expected in zip(gae(*converted), gae(*rollout), strict=True):
            assert torch.equal(result, expected)

    @pytest.mark.parametrize("flag", [2, 255])
    @pytest.mark.parametrize("envs", [1, 5])
    def test_gae_flag_other_than_one_counts_as_set(self, flag: int, envs: int) -> None:
        rollout = random_rollout(20, envs)
        raised = rollout._replace(
            dones=rollout.dones.to(torch.uint8) * flag,
            truncations=rollout.truncations.to(torch.uint8) * flag,
        )
        for result, expected in zip(gae(*raised), gae(*rollout), strict=True):
            assert torch.equal(result, expected)


class TestHalves:
    """Tensors of 16 bits are computed in 32, and come back in theirs."""

    @pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
    @pytest.mark.parametrize("flag_dtype", [*FLAG_DTYPES, *HALF_DTYPES], ids=str)
    @pytest.mark.parametrize("shape", [(300,), (40, 3), (0, 4)], ids=str)
    def test_gae_of_halves_rounds_the_estimate_of_float32(
        self, dtype: torch.dtype, flag_dtype: torch.dtype, shape: tuple[int, ...]
    ) -> None:
        rollout = random_rollout(*shape)
        halves = Rollout(
            *(t.to(dtype) for t in rollout[:3]), *(t.to(flag_dtype) for t in rollout[3:])
        )
        exact = gae(*(t.float() for t in halves[:3]), *rollout[3:])
        for result, expected in zip(gae(*halves), exact, strict=True):
            assert result.dtype == dtype
            assert result.is_contiguous()
            assert torch.equal(result, expected.to(dtype))

    @pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
    def test_gae_with_flags_of_halves_beside_other_floats_counts_them(
        self, dtype: torch.dtype
    ) -> None:
        rollout = random_rollout(20, 3, dtype=torch.float64)
        flags = [t.to(dtype) * 0.5 for t in rollout[3:]]
        for result, expected in zip(gae(*rollout[:3], *flags), gae(*rollout), strict=True):
            assert torch.equal(result, expected)

    def test_gae_of_long_rewards_in_bfloat16_loses_no_step(self) -> None:
        ones = torch.ones(1000, dtype=torch.bfloat16)
        zeros = torch.zeros_like(ones)
        advantages, _ = gae(ones, zeros, zeros, zeros.bool(), gamma=1.0, lam=1.0)
        # A sum in bfloat16 stops at 256, where 1 more is rounded off.
        assert advantages[0].item() == torch.tensor(1000.0).bfloat16().item()

    @pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
    def test_compile_fullgraph_of_halves_equals_eager(self, dtype: torch.dtype) -> None:
        compiled = torch.compile(gae, fullgraph=True, backend="aot_eager")
        for shape in ((7, 3), (9, 4)):
            rollout = random_rollout(*shape, dtype=torch.float32)
            halves = [*(t.to(dtype) for t in rollout[:3]), *rollout[3:]]
            for result, expected in zip(compiled(*halves), gae(*halves), strict=True):
                assert result.dtype == dtype
                assert torch.equal(result, expected)

    @pytest.mark.parametrize("device", ["cpu", "cuda:0"])
    def test_gae_of_fake_halves_is_like_rewards(self, device: str) -> None:
        with FakeTensorMode():
            rollout = [torch.zeros(5, 2, dtype=torch.bfloat16, device=device) for _ in range(5)]
            for result in gae(*rollout):
                assert (result.dtype, result.shape) == (torch.bfloat16, (5, 2))
                assert result.device == torch.device(device)

    def test_gae_of_halves_requiring_grad_gives_targets_without_grad(self) -> None:
        rollout = [t.bfloat16().requires_grad_() for t in random_rollout(7, 3)[:3]]
        for result in gae(*rollout, torch.zeros(7, 3)):
            assert not result.requires_grad

    def test_gae_of_two_kinds_of_halves_names_the_other(self) -> None:
        reals = [t.bfloat16() for t in random_rollout(5, 2)[:3]]
        with pytest.raises(ValueError, match=r"^values: .*torch\.bfloat16, got torch\.float16"):
            gae(reals[0], reals[1].half(), reals[2], torch.zeros(5, 2))


class TestShapes:
    @pytest.mark.parametrize(
        "shape", [(1,), (7,), (0,), (7, 1), (1, 4), (0, 4), (7, 0), (0, 0), (6, 2, 3), (6, 2, 0)]
    )
    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_gae_any_shape_returns_contiguous_tensors_like_rewards(
        self, shape: tuple[int, ...], device: str
    ) -> None:
        rollout = random_rollout(*shape)
        results = gae(*(tensor.to(device) for tensor in rollout))
        for result in results:
            assert result.shape == shape
            assert result.dtype == torch.float32
            assert result.device.type == device
            assert result.is_contiguous()

    def test_gae_trailing_dimensions_equal_flattened_ones(self) -> None:
        rollout = random_rollout(6, 2, 3)
        flat = gae(*(tensor.reshape(6, 6) for tensor in rollout))
        for result, expected in zip(gae(*rollout), flat, strict=True):
            assert torch.equal(result.reshape(6, 6), expected)

    @pytest.mark.parametrize("layout", ["transposed", "strided", "offset"])
    def test_gae_noncontiguous_inputs_equal_contiguous_ones(self, layout: str) -> None:
        rollout = random_rollout(11, 5)
        other = (noncontiguous(tensor, layout) for tensor in rollout)
        for result, expected in zip(gae(*other), gae(*rollout), strict=True):
            assert torch.equal(result, expected)
            assert result.is_contiguous()

    def test_gae_inputs_stay_unchanged(self) -> None:
        rollout = random_rollout(11, 5)
        before = [tensor.clone() for tensor in rollout]
        gae(*rollout)
        for tensor, original in zip(rollout, before, strict=True):
            assert torch.equal(tensor, original)


class TestTorchIntegration:
    # From torch 2.15 on, opcheck itself looks at the .grad of its views of the inputs.
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
    @pytest.mark.parametrize("flag_dtype", [torch.bool, torch.float32])
    @pytest.mark.parametrize("requires_grad", [False, True])
    @pytest.mark.parametrize("layout", ["plain", "transposed"])
    def test_opcheck_finds_nothing(
        self, flag_dtype: torch.dtype, requires_grad: bool, layout: str
    ) -> None:
        rollout = random_rollout(7, 3, flag_dtype=flag_dtype)
        rollout = Rollout(*(noncontiguous(tensor, layout) for tensor in rollout))
        for tensor in rollout[:3]:
            tensor.requires_grad_(requires_grad)
        torch.library.opcheck(torch.ops.velora.gae.default, (*rollout, 0.99, 0.95))

    def test_compile_fullgraph_equals_eager(self) -> None:
        @torch.compile(fullgraph=True, backend="aot_eager")
        def compiled(rollout: Rollout, gamma: float) -> tuple[Tensor, Tensor]:
            advantages, returns = gae(*rollout, gamma=gamma)
            return advantages * 2, returns

        # More than one shape and gamma, so that symbolic ones are traced too.
        for shape, gamma in (((7, 3), 0.99), ((9, 4), 0.9), ((12, 5), 0.8), ((1, 1), 0.7)):
            rollout = random_rollout(*shape)
            advantages, returns = gae(*rollout, gamma=gamma)
            twice, same = compiled(rollout, gamma)
            assert torch.equal(twice, 2 * advantages)
            assert torch.equal(same, returns)

    def test_compile_without_truncations_equals_eager(self) -> None:
        rollout = random_rollout(7, 3)[:4]
        compiled = torch.compile(gae, fullgraph=True, backend="aot_eager")
        for result, expected in zip(compiled(*rollout), gae(*rollout), strict=True):
            assert torch.equal(result, expected)

    def test_gae_inputs_requiring_grad_give_targets_without_grad(self) -> None:
        rollout = random_rollout(7, 3)
        expected = gae(*rollout)
        for tensor in rollout[:3]:
            tensor.requires_grad_()
        for result, target in zip(gae(*rollout), expected, strict=True):
            assert not result.requires_grad
            assert torch.equal(result, target)


def call_gae(rollout: Rollout) -> Any:
    return gae(*rollout)


def call_op(rollout: Rollout) -> Any:
    return torch.ops.velora.gae(*rollout, 0.99, 0.95)


# The operator can be called past the wrapper, and must refuse what the wrapper refuses; which type
# its exception has in Python is up to the version of torch.
CALLS = [
    pytest.param(call_gae, ValueError, id="gae"),
    pytest.param(call_op, (ValueError, RuntimeError), id="op"),
]


class TestErrors:
    @pytest.mark.parametrize(("call", "error"), CALLS)
    @pytest.mark.parametrize(
        ("name", "argument", "message"),
        [
            ("values", torch.zeros(6, 2), r"^values: .*shape of rewards, \(5, 2\), got \(6, 2\)"),
            ("next_values", torch.zeros(5), r"^next_values: .*\(5, 2\), got \(5"),
            ("dones", torch.zeros(5, 1, dtype=torch.bool), r"^dones: .*\(5, 2\), got \(5, 1\)"),
            ("truncations", torch.zeros(2, 5), r"^truncations: .*\(5, 2\), got \(2, 5\)"),
            ("rewards", torch.zeros(5, 2, dtype=torch.int64), r"^rewards: .*float32 or .*float64"),
            ("rewards", torch.zeros(5, 2, dtype=torch.complex64), r"^rewards: .*float32 or .*"),
            ("values", torch.zeros(5, 2, dtype=torch.bfloat16), r"^values: expected .*, got .*"),
            ("values", torch.zeros(5, 2, dtype=torch.float64), r"^values: expected .*, got .*"),
            ("next_values", torch.zeros(5, 2, dtype=torch.int32), r"^next_values: expected .*"),
            ("dones", torch.zeros(5, 2, dtype=torch.int64), r"^dones: expected .*bool.*, got .*"),
            ("truncations", torch.zeros(5, 2, dtype=torch.complex64), r"^truncations: expected"),
        ],
    )
    def test_gae_unfit_tensor_raises_error_naming_it(
        self, call: Any, error: Any, name: str, argument: Tensor, message: str
    ) -> None:
        rollout = random_rollout(5, 2)._replace(**{name: argument})
        with pytest.raises(error, match=message):
            call(rollout)

    @pytest.mark.parametrize(("call", "error"), CALLS)
    def test_gae_scalars_raise_error(self, call: Any, error: Any) -> None:
        with pytest.raises(error, match=r"^rewards: expected a time axis, \(T, \.\.\.\)"):
            call(random_rollout())

    @pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
    def test_operator_of_halves_is_an_error_that_names_rewards(self, dtype: torch.dtype) -> None:
        halves = Rollout(*(t.to(dtype) for t in random_rollout(5, 2)))
        with pytest.raises((ValueError, RuntimeError), match=r"^rewards: .*float32 or .*float64"):
            call_op(halves)

    @pytest.mark.parametrize("name", Rollout._fields)
    @pytest.mark.parametrize("value", [np.zeros((5, 2), np.float32), [0.0], 1.0], ids=repr)
    def test_gae_of_what_is_no_tensor_names_it(self, name: str, value: Any) -> None:
        rollout = random_rollout(5, 2)._replace(**{name: value})
        got = type(value).__name__
        with pytest.raises(TypeError, match=rf"^{name}: expected a tensor, got {got}"):
            gae(*rollout)

    @pytest.mark.parametrize("name", Rollout._fields[:-1])
    def test_gae_of_none_names_it(self, name: str) -> None:
        rollout = random_rollout(5, 2)._replace(**{name: None})
        with pytest.raises(TypeError, match=rf"^{name}: expected a tensor, got NoneType"):
            gae(*rollout)

    @pytest.mark.parametrize("name", ["gamma", "lam"])
    @pytest.mark.parametrize("number", [None, "0.9", [0.9]], ids=repr)
    def test_gae_of_what_is_no_number_names_it(self, name: str, number: Any) -> None:
        with pytest.raises(TypeError, match=rf"^{name}: expected a number in \[0, 1\], got"):
            gae(*random_rollout(5, 2), **{name: number})

    @pytest.mark.parametrize("name", ["gamma", "lam"])
    @pytest.mark.parametrize("number", [-0.01, 1.01, float("nan"), float("inf")])
    def test_gae_discount_outside_unit_interval_raises_value_error(
        self, name: str, number: float
    ) -> None:
        discounts = {"gamma": 0.99, "lam": 0.95, name: number}
        with pytest.raises(ValueError, match=rf"^{name}: expected a number in \[0, 1\], got"):
            gae(*random_rollout(5, 2), gamma=discounts["gamma"], lam=discounts["lam"])

    @pytest.mark.parametrize("name", Rollout._fields[1:])
    def test_gae_mixed_devices_raise_value_error_naming_the_tensor(self, name: str) -> None:
        rollout = random_rollout(5, 2)
        moved = rollout._replace(**{name: getattr(rollout, name).to("meta")})
        with pytest.raises(ValueError, match=rf"^{name}: expected the device of rewards, cpu"):
            gae(*moved)

    def test_gae_other_device_raises_one_error_that_says_what_to_do(self) -> None:
        # Fake tensors stand in for the device, so that this runs on any machine.
        with FakeTensorMode():
            rollout = [torch.zeros(5, 2, device="xpu:0") for _ in range(5)]
        with pytest.raises(NotImplementedError, match=r"rewards is on xpu:0.*\.cpu\(\)"):
            gae(*rollout)
