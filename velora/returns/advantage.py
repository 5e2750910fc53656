"""Generalised advantage estimation."""

from numbers import Real

import torch
from torch import Tensor

from velora import _core
from velora.returns._library import library

_gae = torch.ops.velora.gae.default

_REAL_DTYPES = (torch.float32, torch.float64)
_BYTE_DTYPES = (torch.bool, torch.uint8)
_FLAG_DTYPES = (*_BYTE_DTYPES, *_REAL_DTYPES)
# Dtypes that are computed in float32.
_HALF_DTYPES = (torch.float16, torch.bfloat16)
_NAMES = ("rewards", "values", "next_values", "dones", "truncations")


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    dones: Tensor,
    truncations: Tensor | None = None,
    *,
    gamma: float = 0.99,
    lam: float = 0.95,
) -> tuple[Tensor, Tensor]:
    """Computes generalised advantage estimates and the returns they imply.

    Runs backwards over time, independently for each environment::

        delta_t = rewards_t + gamma * (1 - dones_t) * next_values_t - values_t
        A_t     = delta_t + gamma * lam * (1 - ends_t) * A_{t+1}

    where an episode ends by ``dones`` (terminated: no bootstrap) or by ``truncations`` (cut short:
    ``next_values`` still bootstraps). Nothing leaks from one episode into another. The T
    transitions have T next values, so the last advantage is its delta, bootstrapped like any other.

    The results are targets without gradients, whether or not an input requires one. Works under
    ``torch.compile(fullgraph=True)``.

    On a CUDA device the work is queued on the current stream without synchronisation, so a CUDA
    graph can capture it. Results there are deterministic, but differ from those of the CPU by
    rounding, since sums over time are computed in another order.

    Args:
        rewards: Rewards, time first, of shape (T,) or (T, N), or (T, ...) in general; float32,
            float64, or float16 or bfloat16, which are summed in float32.
        values: Value estimates of the states; shape and dtype of ``rewards``.
        next_values: Value estimates of the true next states, also at the end of truncated
            episodes; shape and dtype of ``rewards``. Ignored where ``dones`` is set.
        dones: Whether the episode terminated; shape of ``rewards``; bool, uint8 or one of these
            floats, set if not zero.
        truncations: Whether the episode was truncated; like ``dones``. None: never.
        gamma: Discount factor in [0, 1].
        lam: Decay of the estimator in [0, 1]: 0 is the one-step advantage, 1 the Monte Carlo one.

    Returns:
        ``(advantages, returns)``, contiguous tensors of the shape and dtype of ``rewards``, with
        ``returns = advantages + values``, each rounded once for float16 and bfloat16.

    Raises:
        TypeError: An argument is not a tensor, or ``gamma`` or ``lam`` is not a number.
        ValueError: A shape, dtype or device differs, or ``gamma`` or ``lam`` is out of range.
        NotImplementedError: The tensors are on a device that has no kernel: neither CPU nor CUDA.
        RuntimeError: They are on a CUDA device, and velora was built without its CUDA kernels.

    Paper:
        Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage
        Estimation, https://arxiv.org/abs/1506.02438.
    """
    _check_number("gamma", gamma)
    _check_number("lam", lam)
    # Without truncations `dones` are the only ends, and an end may be marked twice.
    tensors = (rewards, values, next_values, dones, dones if truncations is None else truncations)
    for name, tensor in zip(_NAMES, tensors, strict=True):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if any(tensor.dtype in _HALF_DTYPES for tensor in tensors):
        _check(*tensors, more_dtypes=_HALF_DTYPES)
        advantages, returns = _gae(*map(_as_single, tensors), gamma, lam)
        return advantages.to(rewards.dtype), returns.to(rewards.dtype)
    if not rewards.is_cuda:  # where the operator checks them, in the same words
        _check(*tensors, more_dtypes=_HALF_DTYPES)
    advantages, returns = _gae(*tensors, gamma, lam)
    return advantages, returns


def _check_number(name: str, number: float) -> None:
    if not isinstance(number, Real | Tensor):
        raise TypeError(f"{name}: expected a number in [0, 1], got {type(number).__name__}")
    if not 0 <= number <= 1:
        raise ValueError(f"{name}: expected a number in [0, 1], got {number}")


def _as_single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in _HALF_DTYPES else tensor


def _check(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    dones: Tensor,
    truncations: Tensor,
    *,
    more_dtypes: tuple[torch.dtype, ...] = (),
) -> None:
    """Checks tensors; `more_dtypes` are accepted besides those of the operator."""
    real_dtypes = (*more_dtypes, *_REAL_DTYPES)
    if rewards.ndim == 0:
        raise ValueError("rewards: expected a time axis, (T, ...), got a scalar")
    if rewards.dtype not in real_dtypes:
        raise ValueError(f"rewards: expected {_any_of(real_dtypes)}, got {rewards.dtype}")
    for name, tensor, dtypes in (
        ("values", values, (rewards.dtype,)),
        ("next_values", next_values, (rewards.dtype,)),
        ("dones", dones, (*more_dtypes, *_FLAG_DTYPES)),
        ("truncations", truncations, (*more_dtypes, *_FLAG_DTYPES)),
    ):
        if tensor.shape != rewards.shape:
            raise ValueError(
                f"{name}: expected the shape of rewards, {tuple(rewards.shape)}, "
                f"got {tuple(tensor.shape)}"
            )
        if tensor.dtype not in dtypes:
            raise ValueError(f"{name}: expected {_any_of(dtypes)}, got {tensor.dtype}")
        if tensor.device != rewards.device:
            raise ValueError(
                f"{name}: expected the device of rewards, {rewards.device}, got {tensor.device}"
            )
    if rewards.device.type not in ("cpu", "cuda", "meta"):
        raise NotImplementedError(
            f"gae runs on CPU and CUDA tensors, and rewards is on {rewards.device}. "
            "Move the inputs with .cpu() and the results back with .to(device)."
        )


def _any_of(dtypes: tuple[torch.dtype, ...]) -> str:
    return " or ".join(str(dtype) for dtype in dtypes)


def _gae_fake(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    dones: Tensor,
    truncations: Tensor,
    _gamma: float,
    _lam: float,
) -> tuple[Tensor, Tensor]:
    _check(rewards, values, next_values, dones, truncations)
    return rewards.new_empty(rewards.shape), rewards.new_empty(rewards.shape)


def _gae_cuda(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    dones: Tensor,
    truncations: Tensor,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    _check(rewards, values, next_values, dones, truncations)
    if not dones.dtype == truncations.dtype == rewards.dtype:
        dones, truncations = _as_bytes(dones), _as_bytes(truncations)
    rewards = rewards.contiguous()
    advantages, returns = (
        torch.empty_like(rewards, memory_format=torch.contiguous_format) for _ in range(2)
    )
    steps = rewards.shape[0]
    width = rewards.numel() // steps if steps else 0
    words = _core.gae_scratch_words(steps, width, rewards.itemsize)
    _core.gae_cuda(
        rewards,
        values.contiguous(),
        next_values.contiguous(),
        dones.contiguous(),
        truncations.contiguous(),
        gamma,
        lam,
        advantages,
        returns,
        rewards.new_empty(words, dtype=torch.int64),
    )
    return advantages, returns


def _as_bytes(flags: Tensor) -> Tensor:
    return flags if flags.dtype in _BYTE_DTYPES else flags.to(torch.bool)


torch.library.register_fake("velora::gae", _gae_fake, lib=library)
library.impl("gae", _gae_cuda, "CUDA")  # type: ignore[no-untyped-call]
# Not differentiable: autograd passes the operator by, and its outputs require no gradient.
library.impl("gae", torch.library.fallthrough_kernel, "Autograd")  # type: ignore[no-untyped-call]
