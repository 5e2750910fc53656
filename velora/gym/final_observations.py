"""Final observations in a form that converts to tensors."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from velora.gym.nests import replaced
from velora.gym.vector_step import final_rows


class StackFinalObservations(gym.vector.VectorWrapper):
    """Makes `infos["final_obs"]` one array `(N, ...)`, or a nest, instead of an array of objects.

    Gymnasium's `NumpyToTorch` cannot convert objects, so that without this a step that ends an
    episode in the mode SAME_STEP raises. Rows where `infos["_final_obs"]` is False are zeros. The
    dtype is the observation space's, or one that holds the values of observations of another.
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
