"""A progress bar for long loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Shows on stderr how much of a loop is done.

    Args:
        total: What there is to do.
        shown: False shows nothing.

    Yields:
        What to call with how much is done by now.

    Raises:
        ImportError: If it is to be shown and rich is not installed.
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
