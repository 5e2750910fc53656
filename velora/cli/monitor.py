"""Progress display of a training run."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from velora.cli.training import History

_LIVE_INTERVAL = 0.25
_LINE_INTERVAL = 5.0
_LAST_RETURNS = 6


class Monitor:
    """Shows a live table on a terminal, and prints a line from time to time elsewhere.

    Args:
        console: The console to print to.
        steps: Maximum number of steps of the run.
        seconds: Maximum duration of the run in seconds.
    """

    def __init__(self, console: Console, steps: int, seconds: float) -> None:
        self._console = console
        self._steps = steps
        self._seconds = seconds
        self._live: Live | None = None
        self._interval = _LINE_INTERVAL
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(console=console, auto_refresh=False)
            self._interval = _LIVE_INTERVAL
        self._history = History()
        self._shown_at = time.perf_counter()
        self._shown_steps = -1

    def __enter__(self) -> Monitor:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._history.steps != self._shown_steps:
            self._show()
        if self._live is not None:
            self._live.stop()

    def update(self, history: History) -> None:
        """Shows the history if an interval has passed; cheap enough to call at each step."""
        self._history = history
        if time.perf_counter() - self._shown_at >= self._interval:
            self._show()

    def _show(self) -> None:
        self._shown_at, self._shown_steps = time.perf_counter(), self._history.steps
        facts = self._facts()
        if self._live is None:
            line = "  ".join(f"{name} {value}" for name, value in facts.items())
            self._console.print(line, soft_wrap=True)
            return
        table = Table.grid(padding=(0, 2))
        table.add_row("", ProgressBar(total=self._steps, completed=self._history.steps, width=40))
        for name, value in facts.items():
            table.add_row(name, value)
        self._live.update(table, refresh=True)

    def _facts(self) -> dict[str, str]:
        history = self._history
        rate = f"{history.steps / history.seconds:.0f}" if history.seconds else "-"
        last = [f"{value:.0f}" for _, value in history.episodes[-_LAST_RETURNS:]]
        evaluation = f"{history.evaluations[-1][1]:.1f}" if history.evaluations else "-"
        loss = "-" if history.critic_loss is None else f"{float(history.critic_loss):.3f}"
        alpha = "-" if history.alpha is None else f"{float(history.alpha):.3f}"
        return {
            "steps": f"{history.steps:,} of {self._steps:,}",
            "steps/s": rate,
            "returns": " ".join(last) or "-",
            "evaluation": evaluation,
            "critic loss": loss,
            "alpha": alpha,
            "elapsed": f"{_clock(history.seconds)} of {_clock(self._seconds)}",
        }


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))[2:]
