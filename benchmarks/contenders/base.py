"""What the runner asks of whatever is timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from benchmarks.workloads import Boundary, Contents

Operation = Callable[[], object]
# One way to do it, or several by name; "" is the one that the contender itself stands for.
Operations = Operation | Mapping[str, Operation]


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

    def extend(self, num_envs: int) -> Operations | None:
        """Stores one step of each environment, with `truncations`, in the ring of each."""
        del num_envs
        return None

    def sample(self, batch_size: int) -> Operation | None:
        """Draws a batch of torch tensors, `(B, ...)` for each field."""
        del batch_size
        return None

    def sample_images(self, batch_size: int) -> Operations | None:
        """The same of stacked frames, which some can store in more than one way."""
        return self.sample(batch_size)

    def sample_n_step(self, batch_size: int, n_step: int) -> Operations | None:
        """Draws a batch that looks `n_step` steps ahead."""
        del batch_size, n_step
        return None

    def sample_sequences(
        self, batch_size: int, length: int, boundary: Boundary
    ) -> Operations | None:
        """Draws sequences of consecutive steps: "within" episodes, "pad" where they end early."""
        del batch_size, length, boundary
        return None

    def sample_of_episodes(
        self, batch_size: int, length: int, boundary: Boundary
    ) -> Operations | None:
        """The same from memories that differ in how long their episodes are."""
        del batch_size, length, boundary
        return None
