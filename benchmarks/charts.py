"""Draws saved results, without measuring again: `python -m benchmarks.charts results.json`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks import machine

# Parts of results.json, which may be of an older run.
Document = dict[str, Any]
Entry = dict[str, Any]

COLOURS = {
    "velora": "#d1495b",
    "floor": "#222222",
    "numpy columns": "#8d99ae",
    "torch columns": "#bcc4d2",
    "stable-baselines3": "#2a9d8f",
    "cpprb": "#457b9d",
    "torchrl": "#e09f3e",
    "tianshou": "#7b5ea7",
    "flashbax": "#6a994e",
}
OTHER_COLOUR = "#999999"
BAR_COLUMNS = 3
DPI = 120

# Chart -> title, label of the axis, position on it.
SWEEPS: dict[str, tuple[str, str, Callable[[Entry], float]]] = {
    "capacity": ("A batch of 256 from memories of many sizes", "rows", itemgetter("capacity")),
    "batch": ("Batches of different sizes", "batch size", lambda entry: entry["arguments"][0]),
    "row": ("A batch of 256 rows of different sizes", "bytes of a row", itemgetter("row_nbytes")),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws saved results and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.charts", description="Draw results without measuring again."
    )
    parser.add_argument("json", type=Path, help="a results.json")
    parser.add_argument("--charts", type=Path, metavar="DIR", help="where to (default: beside it)")
    options = parser.parse_args(arguments)
    document = json.loads(options.json.read_text(encoding="utf-8"))
    for path in draw_all(document, options.charts or options.json.parent):
        print(f"written to {path}")
    return 0


def draw_all(document: Document, folder: Path) -> list[Path]:
    """Draws each chart that there are results for, and returns the paths of the PNGs."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chart in ("bars", *SWEEPS):
        entries = [entry for entry in document["results"] if chart in entry["charts"]]
        if not entries:
            continue
        title, figure = _draw_bars(entries) if chart == "bars" else _draw_sweep(chart, entries)
        torch, name = document["versions"]["torch"], machine.name(document["machine"])
        figure.suptitle(f"{title}\n{name}, torch {torch}, {document['date'][:10]}", fontsize=11)
        written.append(folder / f"{chart}.png")
        figure.savefig(written[-1], dpi=DPI)
    return written


def costs(entry: Entry) -> dict[str, Entry]:
    """Figures of each contender: of its native way, or of the fastest of several."""
    ways: dict[str, dict[str, Entry]] = {}
    for name, figures in entry["contenders"].items():
        contender, _, way = name.partition(", ")
        ways.setdefault(contender, {})[way] = figures
    return {
        contender: found.get("") or min(found.values(), key=lambda figures: figures["median_us"])
        for contender, found in ways.items()
    }


def _draw_bars(entries: Sequence[Entry]) -> tuple[str, Figure]:
    """A panel for each workload, a bar for each contender."""
    lines = math.ceil(len(entries) / BAR_COLUMNS)
    figure = Figure(figsize=(4 * BAR_COLUMNS, 0.6 + 2.4 * lines), layout="constrained")
    panels = figure.subplots(lines, BAR_COLUMNS, squeeze=False).ravel()
    for panel, entry in zip(panels, entries, strict=False):
        _draw_panel(panel, entry)
    for panel in panels[len(entries) :]:
        panel.set_axis_off()
    return "Microseconds a call, log scale; how many times velora's", figure


def _draw_panel(axes: Axes, entry: Entry) -> None:
    ranked = sorted(costs(entry).items(), key=lambda item: item[1]["median_us"], reverse=True)
    medians = [figures["median_us"] for _, figures in ranked]
    colours = [COLOURS.get(name, OTHER_COLOUR) for name, _ in ranked]
    bars = axes.barh([name for name, _ in ranked], medians, color=colours)
    axes.bar_label(bars, [_label(*item) for item in ranked], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    # Room for the labels, on a log scale.
    axes.set_xlim(min(medians) / 3, max(medians) * 8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    threads = "" if entry["threads"] == 1 else f" ({entry['threads']})"
    axes.set_title(f"{entry['work']}{threads}", fontsize=10)


def _label(name: str, figures: Entry) -> str:
    median, times = figures["median_us"], figures["times_velora"]
    microseconds = f"{median:,.0f}" if median >= 100 else f"{median:.3g}"
    if name == "velora" or times is None:
        return microseconds
    return f"{microseconds}   x {times:,.0f}" if times >= 10 else f"{microseconds}   x {times:.1f}"


def _draw_sweep(chart: str, entries: Sequence[Entry]) -> tuple[str, Figure]:
    """A line for each contender, with as many points as it was timed at."""
    title, label, position_of = SWEEPS[chart]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    points: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        for name, figures in costs(entry).items():
            points.setdefault(name, []).append((position_of(entry), figures["median_us"]))
    for name, found in points.items():
        axes.plot(
            *zip(*sorted(found), strict=True),
            marker="o",
            markersize=4,
            label=name if len(found) == len(entries) else f"{name} (not everywhere)",
            color=COLOURS.get(name, OTHER_COLOUR),
            linewidth=2.5 if name == "velora" else 1.2,
            linestyle="--" if name == "floor" else "-",
        )
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="microseconds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return title, figure


if __name__ == "__main__":
    sys.exit(main())
