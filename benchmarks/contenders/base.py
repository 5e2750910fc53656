"""What the runner asks of whatever is timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from benchmarks.learner import Batch, Learner
from benchmarks.rows import Boundary, Contents

Operation = Callable[[], object]
# One way to do it, or several by name; "" is the one that the contender itself stands for.
Operations = Operation | Mapping[str, Operation]


class Unavailable(Exception):  # noqa: N818  # a state of this machine, not a fault
    """Raised by a contender that cannot do something here; the message says why."""


class Contender:
    """One way to remember experiences. Subclasses do what they can; None is "has no such thing".

    The methods below `setup` each prepare one operation of `workloads.py` and return it as a
    function without arguments: what happens inside it is what is timed. Any of them may raise
    `Unavailable`, and the report says so for that piece of work.
    """

    name: ClassVar[str]

    def setup(self, contents: Contents) -> None:
        """Fills a memory of `contents.rows.capacity` rows.

        Raises:
            Unavailable: If it cannot run on this machine, or cannot store such rows.
        """
        raise NotImplementedError

    def as_tensors(self, batch: Any) -> Batch:
        """The rows in what an operation of `sample` returned, at once.

        Raises:
            Unavailable: If there is no way to torch tensors.
        """
        del batch
        raise Unavailable("its batches are no torch tensors")

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

    def sample_on_all_threads(self, batch_size: int) -> Operations | None:
        """The same where torch may use all cores, which some may leave unused."""
        return self.sample(batch_size)

    def sample_beside_tenth(self, batch_size: int) -> Operations | None:
        """The same, for some beside a memory of a tenth of the rows."""
        return self.sample(batch_size)

    def sample_images(self, batch_size: int) -> Operations | None:
        """The same of stacked frames, which some can store in more than one way."""
        return self.sample(batch_size)

    def update(self, batch_size: int) -> Operation | None:
        """Draws a batch and trains a small network on it."""
        sample = self.sample(batch_size)
        if sample is None:
            return None
        as_tensors = self.as_tensors
        learner = Learner(as_tensors(sample()))

        def run() -> None:
            learner.update(as_tensors(sample()))

        return run

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

    def gae(self, num_steps: int, num_envs: int) -> Operations | None:
        """Computes the advantages of a `rollouts.make_rollout(num_steps, num_envs)`.

        With `rollouts.GAMMA` and `rollouts.LAMBDA`. Returns them as `(T, N)`, a tensor or whatever
        numpy can read.
        """
        del num_steps, num_envs
        return None
