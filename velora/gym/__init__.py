"""Gymnasium environments and buffers, put together."""

from velora.gym.wrappers import add_core_env_wrappers

__all__ = ["add_core_env_wrappers"]
