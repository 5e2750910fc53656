"""Return and advantage estimators on plain tensors."""

from velora.returns.advantage import gae

__all__ = ["gae"]
