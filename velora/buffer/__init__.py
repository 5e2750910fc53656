"""Storage for transitions: `ReplayBuffer` (off-policy) and `RolloutBuffer` (on-policy)."""

from velora.buffer.experience import BatchExperience, Experience
from velora.buffer.loader import Loader
from velora.buffer.mixture import Mixture
from velora.buffer.replay import ReplayBuffer
from velora.buffer.rollout import RolloutBuffer
from velora.buffer.samplers import Prioritized, Uniform

__all__ = [
    "BatchExperience",
    "Experience",
    "Loader",
    "Mixture",
    "Prioritized",
    "ReplayBuffer",
    "RolloutBuffer",
    "Uniform",
]
