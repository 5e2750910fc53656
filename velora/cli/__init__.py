"""The command line, `python -m velora`. Its dependencies are the extra `velora[demo]`."""

from __future__ import annotations

import importlib.util
import sys

_EXTRAS = ("matplotlib", "mujoco", "rich", "typer")


def main() -> None:
    """Runs the command given by the arguments.

    Raises:
        SystemExit: Always; with installation instructions if a dependency is missing.
    """
    missing = [name for name in _EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"missing: {', '.join(missing)}. "
            'Install with: pip install "velora[demo]" (in a clone: pip install ".[demo]")'
        )

    from velora.cli.app import app

    app(prog_name="python -m velora")
