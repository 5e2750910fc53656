"""The command line, `python -m velora`. Its packages come with `velora[demo]`."""

from __future__ import annotations

import importlib.util
import sys

_EXTRAS = ("matplotlib", "mujoco", "rich", "typer")


def main() -> None:
    """Runs the command that the arguments name.

    Raises:
        SystemExit: Always; with a line on how to install what is missing where something is.
    """
    missing = [name for name in _EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"missing: {', '.join(missing)}. "
            'Install with: pip install "velora[demo]" (in a clone: pip install ".[demo]")'
        )

    from velora.cli.app import app

    app(prog_name="python -m velora")
