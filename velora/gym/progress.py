"""A progress bar for long loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Shows the progress of a loop on stderr.

    Args:
        total: Total number of iterations.
        shown: Whether to show the bar.

    Yields:
        A function to call with the number of iterations done.

    Raises:
        ImportError: If `shown` is set and rich is not installed.
    """
    if not shown:
        yield lambda _: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        raise ImportError(
            "progress: cannot import rich, which shows it; install it with: pip install rich"
        ) from None
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("collect", total=total)
        yield lambda done: progress.update(task, completed=done)
