"""The commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from velora.cli.demo import Settings, run
from velora.utils import set_device

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _velora() -> None:
    """Replay and rollout buffers for PyTorch."""


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=1.0, help="Wall-clock budget in seconds.")] = 180.0,
    steps: Annotated[int, typer.Option(min=1, help="Maximum environment steps.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Seed of the run.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[
        Path, typer.Option(file_okay=False, writable=True, help="Folder for the learning curve.")
    ] = Path("demo-results"),
) -> None:
    """Trains SAC on InvertedPendulum-v5 and shows the cost of the replay buffer."""
    try:
        chosen = set_device(device)
    except (RuntimeError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--device") from None
    reached = run(Settings(seconds=seconds, steps=steps, seed=seed, device=chosen, out=out))
    raise typer.Exit(0 if reached else 1)
