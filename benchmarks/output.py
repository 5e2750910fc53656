"""Where results are kept: a folder for each machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.compiler import BUILD_DIR

DEFAULT = BUILD_DIR / "results"


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--results`."""
    parser.add_argument(
        "--results",
        type=Path,
        default=DEFAULT,
        metavar="DIR",
        help="where to make a folder for this machine (default: build/benchmarks/results)",
    )


def folder(options: argparse.Namespace) -> Path:
    """The one of this machine."""
    results: Path = options.results
    return results / machine.slug()


def write_json(document: dict[str, Any], path: Path) -> None:
    """Writes what `json.loads` reads back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
