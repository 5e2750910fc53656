"""What a piece of work is made of: who does it, on what, and what it is to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch

Clock = Literal["host", "device", "wall"]
Figure = Literal["host", "device", "wall", "kernels", "share"]


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        rows: Of vectors in memory.
        batch: The batch whose cost is what surrounds it.
        medium: A batch between the others.
        large: The batch whose cost is its bytes.
        lanes: Environments that push one step each.
        image_rows: Of images in memory.
        image_batch: Of images.
        steps: T of a rollout.
        envs: N of a rollout.
        long_steps: T of a rollout of one environment.
        copied: Bytes of the copy that others are compared with: more than any cache holds.
    """

    rows: int = 1_000_000
    batch: int = 256
    medium: int = 4_096
    large: int = 65_536
    lanes: int = 4_096
    image_rows: int = 20_000
    image_batch: int = 256
    steps: int = 2_048
    envs: int = 4_096
    long_steps: int = 1_000_000
    copied: int = 2**30


FULL = Sizes()
SMALL = Sizes(2_000, 32, 128, 512, 64, 200, 16, 32, 16, 500, 2**16)


@dataclass(frozen=True)
class Setting:
    """Where to run, and how large.

    Attributes:
        device: The one that batches come back on.
        sizes: Of all that is made.
    """

    device: torch.device
    sizes: Sizes

    @property
    def on_cuda(self) -> bool:
        """Whether there is a GPU; without one the same code runs, to see that it does."""
        return self.device.type == "cuda"


@dataclass(frozen=True)
class Case:
    """One contender's way to do a piece of work, ready to be timed.

    Attributes:
        run: What is timed.
        check: Raises where `run` does something wrong. Called once, before it is timed.
        nbytes: What one call reads and writes, for rates; zero where that is not the point.
        close: Called when it is not needed any more.
        keeps: What must live as long, and `run` does not refer to.
    """

    run: Callable[[], object]
    check: Callable[[], None]
    _: KW_ONLY
    nbytes: int = 0
    close: Callable[[], None] = lambda: None
    keeps: object = None


@dataclass(frozen=True)
class Aim:
    """What a figure of a contender is to be.

    Attributes:
        figure: Microseconds by one of the clocks, "kernels" for launches a call, or "share" for
            the rate of its bytes in units of the work's ceiling.
        at_most: How much it may be.
        at_least: How much it should be.
        contender: Whose figure.
        times: The contender whose figure is the unit; None for microseconds and launches.
    """

    figure: Figure
    _: KW_ONLY
    at_most: float | None = None
    at_least: float | None = None
    contender: str = "velora"
    times: str | None = None


@dataclass(frozen=True)
class Work:
    """One piece of work.

    Attributes:
        name: For the report.
        contenders: Name -> what makes it ready. It may raise `Unavailable`.
        clocks: What each is timed with; the last is the one of rates.
        ceiling: The contender that moves bytes as fast as they can be moved here.
        aims: What is to come out.
    """

    name: str
    contenders: Mapping[str, Callable[[Setting], Case]]
    clocks: tuple[Clock, ...]
    _: KW_ONLY
    ceiling: str | None = None
    aims: tuple[Aim, ...] = ()
