"""Report of a training run: the cost of the buffer and the learning curve."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, median

from matplotlib.figure import Figure
from rich.table import Table

from velora.cli.training import BATCH_SIZE, ENV_ID, History


def buffer_costs(history: History) -> Table:
    """Returns a table of the time spent in pushes and samples."""
    table = Table(title="What the replay buffer cost")
    for heading in ("call", "calls", "median us", "mean us", "share of the run"):
        table.add_column(heading, justify="left" if heading == "call" else "right")
    timings = {"push": history.push_ns, f"sample({BATCH_SIZE})": history.sample_ns}
    for call, nanoseconds in timings.items():
        if nanoseconds:
            table.add_row(
                call,
                f"{len(nanoseconds):,}",
                f"{median(nanoseconds) / 1e3:.2f}",
                f"{fmean(nanoseconds) / 1e3:.2f}",
                f"{sum(nanoseconds) / 1e9 / history.seconds:.2%}",
            )
    return table


def save_curve(history: History, goal: float, path: Path) -> None:
    """Draws the returns of training episodes and evaluations over steps into a PNG."""
    # A Figure without pyplot needs no display and leaves no global state.
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    if history.episodes:
        steps, returns = zip(*history.episodes, strict=True)
        axes.scatter(steps, returns, s=8, color="0.6", label="training episode")
    if history.evaluations:
        steps, returns = zip(*history.evaluations, strict=True)
        axes.plot(steps, returns, marker="o", color="C0", label="evaluation, greedy, mean")
    axes.axhline(goal, color="C2", linestyle="--", linewidth=1, label=f"goal, {goal:.0f}")
    axes.set(xlabel="environment steps", ylabel="return", title=f"SAC on {ENV_ID}")
    axes.legend(loc="upper left")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
