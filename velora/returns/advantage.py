"""Generalised advantage estimation."""

import torch
from torch import Tensor

from velora import _core
from velora.returns._library import library

_gae = torch.ops.velora.gae.default

_REAL_DTYPES = (torch.float32, torch.float64)
_BYTE_DTYPES = (torch.bool, torch.uint8)
_FLAG_DTYPES = (*_BYTE_DTYPES, *_REAL_DTYPES)


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

    The results are targets: no gradient flows through them, whether or not an input requires one.
    Works under ``torch.compile(fullgraph=True)``.

    On a CUDA device it is queued on the current stream and waits for nothing, so a CUDA graph can
    capture it. The same inputs give the same bits each time there. They differ from those of the
    CPU by rounding, as sums over time are taken in another order.

    Args:
        rewards: Rewards, time first, of shape (T,) or (T, N), or (T, ...) in general; float32 or
            float64.
        values: Value estimates of the states; shape and dtype of ``rewards``.
        next_values: Value estimates of the next states, of the state that an episode really ended
            in where it was truncated; shape and dtype of ``rewards``. Ignored where ``dones``.
        dones: Where the episode terminated; shape of ``rewards``; bool, uint8, float32 or float64,
            set where not zero.
        truncations: Where the episode was cut short; like ``dones``. None: nowhere.
        gamma: Discount, in [0, 1].
        lam: Decay of the estimator, in [0, 1]: 0 is the one-step advantage, 1 the Monte Carlo one.

    Returns:
        ``(advantages, returns)``, contiguous tensors of the shape and dtype of ``rewards``, with
        ``returns = advantages + values``.

    Raises:
        ValueError: A shape, dtype, device, ``gamma`` or ``lam`` does not fit.
        NotImplementedError: The tensors are on a device that has no kernel: neither CPU nor CUDA.
        RuntimeError: They are on a CUDA device, and velora was built without its CUDA kernels.

    Paper:
        Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage
        Estimation, https://arxiv.org/abs/1506.02438.
    """
    for name, number in (("gamma", gamma), ("lam", lam)):
        if not 0 <= number <= 1:
            raise ValueError(f"{name}: expected a number in [0, 1], got {number}")
    # Without truncations `dones` are the only ends, and an end may be marked twice.
    ends = dones if truncations is None else truncations
    if not rewards.is_cuda:  # where the operator checks them, in the same words
        _check(rewards, values, next_values, dones, ends)
    advantages, returns = _gae(rewards, values, next_values, dones, ends, gamma, lam)
    return advantages, returns


def _check(
    rewards: Tensor, values: Tensor, next_values: Tensor, dones: Tensor, truncations: Tensor
) -> None:
    if rewards.ndim == 0:
        raise ValueError("rewards: expected a time axis, (T, ...), got a scalar")
    if rewards.dtype not in _REAL_DTYPES:
        raise ValueError(f"rewards: expected torch.float32 or torch.float64, got {rewards.dtype}")
    for name, tensor, dtypes in (
        ("values", values, (rewards.dtype,)),
        ("next_values", next_values, (rewards.dtype,)),
        ("dones", dones, _FLAG_DTYPES),
        ("truncations", truncations, _FLAG_DTYPES),
    ):
        if tensor.shape != rewards.shape:
            raise ValueError(
                f"{name}: expected the shape of rewards, {tuple(rewards.shape)}, "
                f"got {tuple(tensor.shape)}"
            )
        if tensor.dtype not in dtypes:
            expected = " or ".join(str(dtype) for dtype in dtypes)
            raise ValueError(f"{name}: expected {expected}, got {tensor.dtype}")
        if tensor.device != rewards.device:
            raise ValueError(
                f"{name}: expected the device of rewards, {rewards.device}, got {tensor.device}"
            )
    if rewards.device.type not in ("cpu", "cuda", "meta"):
        raise NotImplementedError(
            f"gae runs on CPU and CUDA tensors, and rewards is on {rewards.device}. "
            "Move the inputs with .cpu() and the results back with .to(device)."
        )


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
