"""Sets contenders up and times them; one that fails does not keep the others from running."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import torch

from benchmarks import contenders, machine, trace
from benchmarks.clocks import Block, Key, Plan, attempt, clocks_of, plan_block, time_in_turns
from benchmarks.contenders import Contender, Operation, Unavailable
from benchmarks.results import Result
from benchmarks.rows import GAMMA, LAMBDA, Contents, make_rollout
from benchmarks.trace import Counts
from benchmarks.workloads import Workload
from velora.returns import gae

# Contenders without a special way to do these use `sample`.
SAMPLES = {
    *("sample_on_all_threads", "sample_beside_tenth", "sample_images"),
    *("sample_on_device", "sample_large"),
}
PROFILED_CALLS = 5
# A longer call may launch thousands of kernels: one of them is enough to profile.
LONG_US = 20_000
TOLERANCE = 1e-4


def run(
    workloads: Iterable[Workload],
    names: Sequence[str],
    plan: Plan,
    device: torch.device,
    say: Callable[[str], None],
) -> Iterator[Result]:
    """Times workloads; memories are filled once for neighbours that are on the same rows.

    Memory is given to contenders in the order of `names`; `say` takes a line about the progress.
    """
    machine.keep_jax_on_one_thread()
    for rows, group in groupby(workloads, key=lambda workload: workload.rows):
        same_rows = list(group)
        say(f"{rows.capacity:,} rows of {rows.name}")
        machine.use_threads(1)
        wanted = {name for workload in same_rows for name in workload.contenders}
        contents = rows.make_contents()
        ready, absent = _set_up([n for n in names if n in wanted], contents, device)
        for workload in same_rows:
            say(f"  {workload.name}")
            yield _Measurement(workload, plan, device).run(ready, absent, contents)
        # Before the next rows are made.
        del ready, contents
        gc.collect()


def _set_up(
    names: Iterable[str], contents: Contents, device: torch.device
) -> tuple[dict[str, Contender], dict[str, tuple[str, Exception]]]:
    """The contenders that can run here, and labels of others with the reason."""
    ready: dict[str, Contender] = {}
    absent: dict[str, tuple[str, Exception]] = {}
    for name in names:
        label = name
        try:
            contender = contenders.load(name, device)
            label = contender.name
            if reason := machine.lack_of_memory(contents.nbytes):
                raise Unavailable(reason)
            contender.setup(contents)
            ready[name] = contender
        except Exception as error:
            absent[name] = (label, error)
    return ready, absent


@dataclass
class _Measurement:
    """One workload while it is measured; contenders are by label, such as "velora, one step"."""

    workload: Workload
    plan: Plan
    device: torch.device
    blocks: dict[Key, Block] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)
    nbytes: dict[str, int] = field(default_factory=dict)

    def run(
        self,
        ready: Mapping[str, Contender],
        absent: Mapping[str, tuple[str, Exception]],
        contents: Contents,
    ) -> Result:
        workload = self.workload
        machine.use_threads(workload.threads)
        competing = [ready[name] for name in ready if name in workload.contenders]
        left_out = {
            label: error for name, (label, error) in absent.items() if name in workload.contenders
        }
        operations: dict[str, tuple[Contender, Operation]] = {}
        for contender in competing:
            prepare = partial(_prepare, contender, workload)
            operations |= attempt(prepare, contender.name, left_out) or {}
        gc.collect()
        for label, (contender, operation) in operations.items():
            look = partial(self._look_at, label, contender, operation, contents)
            attempt(look, label, left_out)
        blocks = {key: block for key, block in self.blocks.items() if key[0] not in left_out}
        timings, failures = time_in_turns(blocks, self.plan)
        for contender in competing:
            contender.close()
        return Result(workload, timings, left_out | failures, self.counts, self.nbytes)

    def _look_at(
        self, label: str, contender: Contender, operation: Operation, contents: Contents
    ) -> None:
        """Checks an operation, counts what it launches, and plans its blocks."""
        workload, clocks = self.workload, clocks_of(self.device)
        if workload.check == "rows" and not contender.is_ceiling:
            check_batches(contender, operation, contents, self.device)
        elif workload.check == "advantages" and not contender.is_ceiling:
            _check_advantages(operation, workload)
        if workload.traffic:
            traffic = 1 if contender.is_ceiling else workload.traffic
            self.nbytes[label] = round(traffic * _nbytes_of(operation()))
        if workload.keeps:
            operation = _keeping(operation, workload.keeps)
        launches = 0.0
        if self.device.type == "cuda":
            operation()
            is_long = Block(operation, clocks["wall"], 1).time() > LONG_US
            counts = trace.count(operation, 1 if is_long else PROFILED_CALLS)
            self.counts[label] = counts
            launches = counts.kernels + counts.copies
        for clock in workload.clocks:
            self.blocks[label, clock] = plan_block(operation, clocks[clock], self.plan, launches)


def _prepare(contender: Contender, workload: Workload) -> dict[str, tuple[Contender, Operation]]:
    """The ways in which a contender does it, by label: none, one or several."""
    fallback = contender.sample if workload.operation in SAMPLES else None
    prepare: Any = getattr(contender, workload.operation, fallback)
    operations = prepare and prepare(*workload.arguments)
    if operations is None:
        return {}
    if not isinstance(operations, Mapping):
        operations = {"": operations}
    return {
        f"{contender.name}, {way}" if way else contender.name: (contender, operation)
        for way, operation in operations.items()
    }


def _keeping(operation: Operation, count: int) -> Operation:
    kept = deque[object](maxlen=count)

    def run() -> None:
        kept.append(operation())

    return run


def check_batches(
    contender: Contender, draw: Operation, contents: Contents, device: torch.device
) -> None:
    """Draws two batches, which must be rows of the contents and not the same.

    Memory that the batches may lie in is filled with NaN first: an element that is not written
    would show.

    Raises:
        AssertionError: If they are wrong.
    """
    _poison(device)
    first = contender.as_tensors(draw())
    found = contents.find(first)
    for tensor in _tensors_in(first):
        tensor.reshape(-1).view(torch.uint8).fill_(255)
    again = contents.find(contender.as_tensors(draw()))
    assert (found != again).any(), "the same rows again"


def _poison(device: torch.device) -> None:
    """Large and small blocks of torch's allocator come from different pools."""
    for count, nbytes in ((2, 2**26), (64, 2**18)):
        blocks = [torch.empty(nbytes, dtype=torch.uint8, device=device) for _ in range(count)]
        for block in blocks:
            block.fill_(255)


def _check_advantages(operation: Operation, workload: Workload) -> None:
    """Compares advantages with those of velora on the CPU, which has separate tests."""
    shape: Any = workload.arguments
    rollout = make_rollout(*shape)
    expected, _ = gae(*map(torch.from_numpy, rollout.arrays()), gamma=GAMMA, lam=LAMBDA)
    found: Any = operation()
    torch.testing.assert_close(found.cpu(), expected, rtol=TOLERANCE, atol=TOLERANCE)


def _tensors_in(result: Any) -> Iterator[torch.Tensor]:
    """The tensors of a result: itself, or those of a tuple, a dict or a batch object."""
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, (tuple, list)):
        for item in result:
            yield from _tensors_in(item)
    elif isinstance(result, Mapping) or hasattr(result, "__dict__"):
        yield from _tensors_in(
            [*(result if isinstance(result, Mapping) else vars(result)).values()]
        )


def _nbytes_of(result: object) -> int:
    return sum(tensor.nbytes for tensor in _tensors_in(result))
