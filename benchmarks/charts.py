"""Draws saved results, without measuring again: `python -m benchmarks.charts results.json`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks import machine

# What of a document of results.json is looked at is read by these names.
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


class Sweep(NamedTuple):
    """A curve of the cost over something."""

    title: str
    axis: str
    place: Callable[[Entry], float]


SWEEPS = {
    "capacity": Sweep(
        "A batch of 256, from memories of different sizes", "rows", lambda e: float(e["capacity"])
    ),
    "batch": Sweep("Batches of different sizes", "batch size", lambda e: float(e["arguments"][0])),
    "row": Sweep(
        "A batch of 256 rows of different sizes", "bytes of a row", lambda e: float(e["row_nbytes"])
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws what the arguments name and returns the exit code."""
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
    """Draws each chart that there are results for.

    Args:
        document: As `report.as_document` makes it.
        folder: Where the PNGs go.

    Returns:
        What was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chart in ("bars", *SWEEPS):
        entries = [entry for entry in document["results"] if chart in entry["charts"]]
        if not entries:
            continue
        if chart == "bars":
            figure = _draw_bars(entries, document)
        else:
            figure = _draw_sweep(SWEEPS[chart], entries, document)
        written.append(folder / f"{chart}.png")
        figure.savefig(written[-1], dpi=DPI)
    return written


def costs(entry: Entry) -> dict[str, Entry]:
    """What each contender took: in its own way, or in the fastest of several."""
    ways: dict[str, dict[str, Entry]] = {}
    for name, figures in entry["contenders"].items():
        contender, _, way = name.partition(", ")
        ways.setdefault(contender, {})[way] = figures
    return {
        contender: found.get("") or min(found.values(), key=lambda figures: figures["median_us"])
        for contender, found in ways.items()
    }


def _draw_bars(entries: Sequence[Entry], document: Document) -> Figure:
    """A panel for each piece of work, a bar for each contender."""
    lines = math.ceil(len(entries) / BAR_COLUMNS)
    figure = Figure(figsize=(4 * BAR_COLUMNS, 0.6 + 2.4 * lines), layout="constrained")
    panels = figure.subplots(lines, BAR_COLUMNS, squeeze=False).ravel()
    for panel, entry in zip(panels, entries, strict=False):
        _draw_panel(panel, entry)
    for panel in panels[len(entries) :]:
        panel.set_axis_off()
    _sign(figure, "Microseconds a call, log scale; how many times velora's", document)
    return figure


def _draw_panel(axes: Axes, entry: Entry) -> None:
    ranked = sorted(costs(entry).items(), key=lambda item: item[1]["median_us"], reverse=True)
    names = [name for name, _ in ranked]
    medians = [figures["median_us"] for _, figures in ranked]
    bars = axes.barh(names, medians, color=[COLOURS.get(name, OTHER_COLOUR) for name in names])
    axes.bar_label(bars, [_label(*item) for item in ranked], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    # Room for the labels, on an axis where room is a factor.
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


def _draw_sweep(sweep: Sweep, entries: Sequence[Entry], document: Document) -> Figure:
    """A line for each contender, with as many points as it was timed at."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    points: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        for name, figures in costs(entry).items():
            points.setdefault(name, []).append((sweep.place(entry), figures["median_us"]))
    for name, found in points.items():
        places, medians = zip(*sorted(found), strict=True)
        axes.plot(
            places,
            medians,
            marker="o",
            markersize=4,
            label=name if len(found) == len(entries) else f"{name} (not everywhere)",
            color=COLOURS.get(name, OTHER_COLOUR),
            linewidth=2.5 if name == "velora" else 1.2,
            linestyle="--" if name == "floor" else "-",
        )
    axes.set(xscale="log", yscale="log", xlabel=sweep.axis, ylabel="microseconds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _sign(figure, sweep.title, document)
    return figure


def _sign(figure: Figure, title: str, document: Document) -> None:
    """A title, and below it what this was measured on."""
    torch = document["versions"]["torch"]
    where = f"{machine.name(document['machine'])}, torch {torch}, {document['date'][:10]}"
    figure.suptitle(f"{title}\n{where}", fontsize=11)


if __name__ == "__main__":
    sys.exit(main())
