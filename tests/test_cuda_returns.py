"""Generalised advantage estimation of CUDA tensors, beside that of the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from cuda_helpers import waiting_is_an_error
from test_returns import (
    FLAG_DTYPES,
    HALF_DTYPES,
    REAL_DTYPES,
    Rollout,
    noncontiguous,
    random_rollout,
)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from velora import _core
from velora.buffer import Experience, RolloutBuffer
from velora.returns import advantage, gae

# Discounts that a float32 holds, and so does their product.
GAMMA = 15 / 16
LAM = 31 / 32


def on_cuda(rollout: Iterable[Tensor]) -> Rollout:
    return Rollout(*(tensor.cuda() for tensor in rollout))


def assert_estimates(rollout: Rollout, results: tuple[Tensor, Tensor]) -> None:
    """Holds results to a rounding error bound, beside what the CPU finds in double precision."""
    cpu = Rollout(*(tensor.cpu() for tensor in rollout))
    rewards, values, next_values = (tensor.double() for tensor in cpu[:3])
    flags = cpu[3:]
    expected, _ = gae(rewards, values, next_values, *flags, gamma=GAMMA, lam=LAM)
    magnitude, _ = gae(
        rewards.abs(), -values.abs(), next_values.abs(), *flags, gamma=GAMMA, lam=LAM
    )
    magnitude += 2 * values.abs()
    advantages, returns = (result.cpu() for result in results)
    dtype = cpu.rewards.dtype
    # The scan rounds a fixed number of times for each chunk, the oracle for each step.
    width = max(cpu.rewards[:1].numel(), 1)
    chunks = _core.gae_scratch_words(len(rewards), width, 4) // width + 1
    roundings = 64 + 3 * chunks + (2 * len(rewards) if dtype == torch.float64 else 0)
    bound = roundings * torch.finfo(dtype).eps * magnitude
    assert advantages.dtype == returns.dtype == dtype
    assert ((advantages - expected).abs() <= bound).all()
    assert torch.equal(returns, advantages + cpu.values)


def assert_runs(rollout: Rollout) -> None:
    assert_estimates(rollout, gae(*rollout, gamma=GAMMA, lam=LAM))


# On a machine with a GPU

# One chunk of time and several, whole tiles and odd ones, of one column and many.
SHAPES = [
    (1,),
    (7,),
    (2048,),
    (2049,),
    (1_000_000,),
    (1, 5),
    (8, 3000),
    (9, 257),
    (128, 65536),
    (1000, 2),
    (2048, 64),
    (2048, 4096),
    (3001, 33),
    (20_000, 3),
    (60, 7, 5),
]


@pytest.mark.cuda
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ends", [0.0, 0.01, 0.5])
def test_gae_on_cuda_of_any_shape_agrees_with_the_cpu(shape: tuple[int, ...], ends: float) -> None:
    assert_runs(on_cuda(random_rollout(*shape, ends=ends)))


@pytest.mark.cuda
@pytest.mark.parametrize("shape", [(5000,), (300, 600), (60, 7, 5)], ids=str)
@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize("flag_dtype", FLAG_DTYPES)
def test_gae_on_cuda_of_any_dtype_agrees_with_the_cpu(
    shape: tuple[int, ...], dtype: torch.dtype, flag_dtype: torch.dtype
) -> None:
    assert_runs(on_cuda(random_rollout(*shape, dtype=dtype, flag_dtype=flag_dtype, ends=0.01)))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_gae_on_cuda_of_halves_rounds_the_estimate_of_float32(dtype: torch.dtype) -> None:
    reals = on_cuda(random_rollout(300, 5))
    halves = Rollout(*(t.to(dtype) for t in reals[:3]), *reals[3:])
    exact = gae(*(t.float() for t in halves[:3]), *reals[3:])
    for result, expected in zip(gae(*halves), exact, strict=True):
        assert torch.equal(result, expected.to(dtype))


@pytest.mark.cuda
@pytest.mark.parametrize("layout", ["transposed", "strided", "offset"])
def test_gae_on_cuda_of_noncontiguous_tensors_equals_contiguous_ones(layout: str) -> None:
    rollout = on_cuda(random_rollout(300, 70))
    other = (noncontiguous(tensor, layout) for tensor in rollout)
    for result, expected in zip(gae(*other), gae(*rollout), strict=True):
        assert torch.equal(result, expected)
        assert result.is_contiguous()


@pytest.mark.cuda
@pytest.mark.parametrize("shape", [(0,), (0, 4), (7, 0), (0, 0), (6, 2, 0)], ids=str)
def test_gae_on_cuda_of_nothing_is_empty(shape: tuple[int, ...]) -> None:
    for result in gae(*on_cuda(random_rollout(*shape))):
        assert result.shape == shape
        assert result.is_cuda


@pytest.mark.cuda
@pytest.mark.parametrize("shape", [(1_000_000,), (20_000, 3), (2048, 530)], ids=str)
def test_gae_on_cuda_gives_the_same_bits_each_time(shape: tuple[int, ...]) -> None:
    rollout = on_cuda(random_rollout(*shape, ends=0.0))
    first = gae(*rollout)
    for _ in range(20):
        for result, expected in zip(gae(*rollout), first, strict=True):
            assert torch.equal(result, expected)


@pytest.mark.cuda
@pytest.mark.parametrize("shape", [(9000, 1), (700, 9), (200, 530)], ids=str)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_gae_on_cuda_lets_nothing_through_an_end(shape: tuple[int, int], poison: float) -> None:
    rollout = random_rollout(*shape, ends=0.0)
    last = torch.arange(shape[1]) * 13 % (shape[0] - 1)
    rollout.truncations[last, torch.arange(shape[1])] = True
    beyond = torch.arange(shape[0])[:, None] > last
    rollout.rewards[beyond] = poison
    advantages, returns = gae(*on_cuda(rollout))
    assert torch.equal(advantages.isfinite().cpu(), ~beyond)
    assert torch.equal(returns.isfinite().cpu(), ~beyond)


@pytest.mark.cuda
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("layout", ["plain", "transposed"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_opcheck_on_cuda_finds_nothing(requires_grad: bool, layout: str) -> None:
    rollout = Rollout(*(noncontiguous(t, layout) for t in on_cuda(random_rollout(70, 3))))
    for tensor in rollout[:3]:
        tensor.requires_grad_(requires_grad)
    torch.library.opcheck(torch.ops.velora.gae.default, (*rollout, 0.99, 0.95))


@pytest.mark.cuda
def test_compile_fullgraph_on_cuda_equals_eager() -> None:
    compiled = torch.compile(gae, fullgraph=True, backend="aot_eager")
    for shape in ((7, 3), (5000, 4), (12, 500)):
        rollout = on_cuda(random_rollout(*shape))
        for result, expected in zip(compiled(*rollout), gae(*rollout), strict=True):
            assert torch.equal(result, expected)


@pytest.mark.cuda
@pytest.mark.undisturbed
@pytest.mark.parametrize("shape", [(100, 8), (9000, 3)], ids=["one chunk", "chunks"])
def test_gae_in_a_cuda_graph_estimates_what_is_there_at_replay(shape: tuple[int, int]) -> None:
    rollout = on_cuda(random_rollout(*shape))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is loaded once is loaded now
        gae(*rollout)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = gae(*rollout, gamma=GAMMA, lam=LAM)
    for seed in (1, 2, 3):
        for tensor, fresh in zip(rollout, random_rollout(*shape, seed=seed), strict=True):
            tensor.copy_(fresh)
        graph.replay()
        assert_estimates(rollout, results)


@pytest.mark.cuda
@pytest.mark.undisturbed
def test_gae_runs_on_the_current_stream_and_waits_for_nothing() -> None:
    rollout = on_cuda(random_rollout(9000, 3))
    gae(*rollout)
    late = on_cuda(random_rollout(9000, 3, seed=1))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with waiting_is_an_error(), torch.cuda.stream(stream):
        torch.cuda._sleep(1_000_000_000)
        for tensor, fresh in zip(rollout, late, strict=True):
            tensor.copy_(fresh)
        results = gae(*rollout, gamma=GAMMA, lam=LAM)
        assert not stream.query(), "gae waited for the device"
    stream.synchronize()
    assert_estimates(late, results)


@pytest.mark.cuda
@pytest.mark.parametrize("name", Rollout._fields[1:])
def test_gae_with_a_tensor_on_the_cpu_among_cuda_ones_names_it(name: str) -> None:
    rollout = on_cuda(random_rollout(5, 2))
    mixed = rollout._replace(**{name: getattr(rollout, name).cpu()})
    with pytest.raises(ValueError, match=rf"^{name}: expected the device of rewards, cuda:0"):
        gae(*mixed)


def filled(device: str) -> RolloutBuffer:
    buffer = RolloutBuffer(12, device, num_envs=2)
    for i in range(12):
        state = torch.full((3,), float(i))
        experience = Experience(state, i, i / 3, state + 1, i % 5 == 4, truncated=i % 7 == 6)
        buffer.push(experience, lane=i % 2)
    return buffer


@pytest.mark.cuda
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("values_device", ["cpu", "cuda"])
def test_compute_returns_comes_where_the_values_are(device: str, values_device: str) -> None:
    values, next_values = torch.randn(12, 1), torch.randn(12, 1)
    expected = filled("cpu").compute_returns(values, next_values)
    values, next_values = values.to(values_device), next_values.to(values_device)
    results = filled(device).compute_returns(values, next_values)
    for result, right in zip(results, expected, strict=True):
        assert result.device.type == values_device
        torch.testing.assert_close(result.cpu(), right)


@pytest.mark.cuda
def test_compute_returns_on_cuda_moves_nothing_to_the_host() -> None:
    buffer = filled("cuda")
    values = torch.randn(12, 1, device="cuda")
    buffer.compute_returns(values, values)
    with waiting_is_an_error():
        buffer.compute_returns(values, values)


# On any machine


@pytest.mark.parametrize("fails", [False, True])
def test_waiting_is_an_error_while_it_is_open_and_not_afterwards(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    modes: list[int | str] = [0]

    def set_mode(mode: int | str) -> None:
        if len(modes) == 1:  # as torch does, once
            warnings.warn("a prototype", UserWarning, stacklevel=1)
        modes.append(mode)

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    expected = pytest.raises(ValueError, match="within") if fails else nullcontext()
    with expected, waiting_is_an_error():
        assert modes[-1] == "error"
        if fails:
            raise ValueError("within")
    assert modes[-1] == 0


@pytest.mark.parametrize("shape", [(5, 2), (5000,), (0, 3)], ids=str)
def test_gae_of_fake_cuda_tensors_is_like_rewards(shape: tuple[int, ...]) -> None:
    with FakeTensorMode():
        rollout = [torch.zeros(shape, device="cuda:0") for _ in range(5)]
        for result in gae(*rollout):
            assert result.shape == shape
            assert result.device == torch.device("cuda:0")


class StandIn:
    """Stands in for the native module: does its work on the CPU instead of the device."""

    def gae_scratch_words(self, steps: int, width: int, itemsize: int) -> int:
        return _core.gae_scratch_words(steps, width, itemsize)

    def gae_cuda(self, *arguments: Any) -> None:
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        assert all(tensor.is_contiguous() for tensor in tensors)
        *inputs, advantages, returns, scratch = tensors
        bytes_or_reals = {tensor.dtype in (torch.bool, torch.uint8) for tensor in inputs[3:]}
        assert len(bytes_or_reals) == 1
        assert scratch.dtype == torch.int64
        for result, found in zip((advantages, returns), gae(*inputs), strict=True):
            result.copy_(found)


@pytest.mark.parametrize("layout", ["plain", "transposed", "strided", "offset"])
@pytest.mark.parametrize("dones", FLAG_DTYPES)
@pytest.mark.parametrize("truncations", FLAG_DTYPES)
def test_launch_is_handed_contiguous_tensors_with_flags_of_one_kind(
    monkeypatch: pytest.MonkeyPatch, layout: str, dones: torch.dtype, truncations: torch.dtype
) -> None:
    monkeypatch.setattr(advantage, "_core", StandIn())
    rollout = random_rollout(2100, 2)
    mixed = rollout._replace(
        dones=rollout.dones.to(dones), truncations=rollout.truncations.to(truncations)
    )
    arguments = [noncontiguous(tensor, layout) for tensor in mixed]
    results = advantage._gae_cuda(*arguments, 0.99, 0.95)  # type: ignore[arg-type]
    for result, expected in zip(results, gae(*rollout), strict=True):
        assert torch.equal(result, expected)
        assert result.is_contiguous()


def test_native_launch_of_cpu_tensors_is_a_value_error() -> None:
    rollout = random_rollout(5, 2)
    with pytest.raises(ValueError, match=r"^rewards: expected a contiguous tensor on a CUDA"):
        _core.gae_cuda(*rollout, 0.99, 0.95, *rollout[:2], torch.zeros(1, dtype=torch.int64))


def test_scratch_is_needed_for_several_chunks_of_time_alone() -> None:
    assert _core.gae_scratch_words(2048, 1, 4) == 0
    assert _core.gae_scratch_words(8, 65536, 4) == 0
    assert _core.gae_scratch_words(1_000_000, 1, 4) == 1 + 489
    assert _core.gae_scratch_words(2048, 4096, 4) == 1 + 32 * 4096
    assert _core.gae_scratch_words(2048, 4096, 8) == 1 + 2 * 32 * 4096
