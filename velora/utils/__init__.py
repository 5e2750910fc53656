"""Small helpers that every training script needs."""

from velora.utils.device import set_device
from velora.utils.seed import set_seed

__all__ = ["set_device", "set_seed"]
