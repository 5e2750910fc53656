"""Collecting transitions from Gymnasium environments into buffers."""

from velora.gym.collector import Collector, collect
from velora.gym.statistics import CollectStatistics
from velora.gym.vector_step import Transitions, autoreset_mode, transitions
from velora.gym.wrappers import add_core_env_wrappers

__all__ = [
    "CollectStatistics",
    "Collector",
    "Transitions",
    "add_core_env_wrappers",
    "autoreset_mode",
    "collect",
    "transitions",
]
