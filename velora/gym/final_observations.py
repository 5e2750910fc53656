"""Stacking of final observations, so that they convert to tensors."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from velora.gym.nests import replaced
from velora.gym.vector_step import final_rows


class StackFinalObservations(gym.vector.VectorWrapper):
    """Converts `infos["final_obs"]` from an object array to an array `(N, ...)`, or a nest of them.

    Gymnasium's `NumpyToTorch` cannot convert object arrays, so without this wrapper a step that
    ends an episode in mode SAME_STEP raises. Rows where `infos["_final_obs"]` is False are zeros.
    The dtype is the observation space's, promoted if observations have another.
    """

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps the environment."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        final = infos.get("final_obs")
        if isinstance(final, np.ndarray) and final.dtype == object:
            stack: Any = gym.vector.utils.create_empty_array(
                self.single_observation_space, self.num_envs
            )
            lanes = np.flatnonzero(infos["_final_obs"])
            if len(lanes) > 0:
                stack = replaced(stack, lanes, final_rows(final, lanes), "infos['final_obs']")
            infos = infos | {"final_obs": stack}
        return observations, rewards, terminations, truncations, infos
