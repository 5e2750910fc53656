"""Standard wrappers of training environments."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import NumpyToTorch, RecordEpisodeStatistics
from gymnasium.wrappers.vector import NumpyToTorch as VectorNumpyToTorch
from gymnasium.wrappers.vector import RecordEpisodeStatistics as VectorRecordEpisodeStatistics

from velora.gym.final_observations import StackFinalObservations
from velora.gym.vector_step import autoreset_mode
from velora.utils import set_device


def add_core_env_wrappers(
    env: gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any],
    device: torch.device | str = "cpu",
) -> Any:
    """Adds episode statistics and conversion to torch tensors, if they are missing.

    `info["episode"]` then holds the return, length and time of each finished episode; if the
    sub-environments of a vector environment already record statistics, theirs are reported.
    Observations are tensors on `device`; actions may be tensors. Rewards and flags are tensors for
    a vector environment and Python numbers for a single one. In mode SAME_STEP,
    `info["final_obs"]` is one tensor `(N, ...)` or a nest of them.

    Args:
        env: A Gymnasium environment or vector environment, wrapped or not.
        device: Device of the tensors.

    Returns:
        The wrapped environment; `env` itself if nothing is missing.

    Raises:
        TypeError: If `env` is not a Gymnasium environment.
        ValueError: If torch does not know the device, `env` already converts to tensors on another
            device, or only some sub-environments of a vector environment record statistics.
        RuntimeError: If the device is not available.
    """
    statistics: Any
    conversion: Any
    if isinstance(env, gym.Env):
        statistics, conversion = RecordEpisodeStatistics, NumpyToTorch
    elif isinstance(env, gym.vector.VectorEnv):
        statistics, conversion = VectorRecordEpisodeStatistics, VectorNumpyToTorch
    else:
        raise TypeError(f"env: expected a Gymnasium Env or VectorEnv, got {type(env).__name__}")
    device = set_device(device)
    converter = _find(env, conversion)
    if converter is not None:
        present = torch.device(converter.device or "cpu")
        if present != device:
            raise ValueError(
                f"device: expected {present}, which env converts to already, got {device}"
            )
    # Statistics work on numpy arrays, so they go below the conversion where possible.
    wrapped: Any = env
    if _find(env, statistics) is None and not _members_record(env):
        wrapped = statistics(wrapped)
    if converter is None:
        if isinstance(env, gym.vector.VectorEnv) and _resets_at_once(env):
            wrapped = StackFinalObservations(wrapped)
        wrapped = conversion(wrapped, device=device)
    return wrapped


def _resets_at_once(env: gym.vector.VectorEnv[Any, Any, Any]) -> bool:
    declares = "autoreset_mode" in env.metadata
    return declares and autoreset_mode(env) is AutoresetMode.SAME_STEP


def _members_record(env: Any) -> bool:
    """Whether the sub-environments of a vector environment record episode statistics."""
    base = env.unwrapped
    kinds = gym.vector.SyncVectorEnv | gym.vector.AsyncVectorEnv
    if not isinstance(base, kinds) or _resets_at_once(env):
        return False  # In mode SAME_STEP, sub-environments report in `infos["final_info"]`.
    recording = base.call("has_wrapper_attr", "_stats_key")
    if any(recording) and not all(recording):
        raise ValueError(
            "env: expected all of its members or none to record episode statistics, got "
            f"{sum(recording)} of {len(recording)}"
        )
    return all(recording) and "episode" in base.get_attr("_stats_key")


def _find(env: Any, kind: type[Any]) -> Any:
    """Returns the wrapper of type `kind` around `env`, or None."""
    wrappers = (gym.Wrapper, gym.vector.VectorWrapper)
    while isinstance(env, wrappers):
        if isinstance(env, kind):
            return env
        env = env.env
    return None
