"""Times velora on a GPU: `python -m benchmarks.cuda`. Needs no more than torch and numpy."""
