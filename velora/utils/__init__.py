"""Helpers for training scripts."""

from velora.utils.device import set_device
from velora.utils.seed import set_seed

__all__ = ["set_device", "set_seed"]
