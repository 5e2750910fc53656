"""velora: replay and rollout buffers for PyTorch on a native C++/CUDA core."""

__version__ = "0.1.0"
