"""What the runner asks of whatever is timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from benchmarks.workloads import Contents

Operation = Callable[[], object]


class Unavailable(Exception):  # noqa: N818  # a state of this machine, not a fault
    """Raised by `setup` when what it needs is not on this machine."""


class Contender:
    """One way to remember experiences. Subclasses do what they can; None is "cannot".

    The methods below `setup` each prepare one operation of `workloads.py` and return it as a
    function without arguments: what happens inside it is what is timed.
    """

    name: ClassVar[str]

    def setup(self, contents: Contents) -> None:
        """Fills a memory of `contents.rows.capacity` rows.

        Raises:
            Unavailable: If it cannot run on this machine.
        """
        raise NotImplementedError

    def push(self) -> Operation | None:
        """Stores one step whose values are there already."""
        return None

    def construct_and_push(self) -> Operation | None:
        """The same, with making the object that `push` takes. Most take the values as they are."""
        return self.push()

    def sample(self, batch_size: int) -> Operation | None:
        """Draws a batch of torch tensors, `(B, ...)` for each field."""
        del batch_size
        return None
