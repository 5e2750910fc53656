"""Times velora beside its peers: `python -m benchmarks`."""
