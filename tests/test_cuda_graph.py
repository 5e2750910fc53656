"""A captured sample draws anew each time that its graph runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_helpers import assert_same, twins
from helpers import stack, stamped

from velora.buffer import BatchExperience, Experience, ReplayBuffer

pytestmark = [pytest.mark.cuda, pytest.mark.undisturbed]


def capture(draw: Any) -> tuple[torch.cuda.CUDAGraph, BatchExperience]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        batch = draw()
    return graph, batch


def capture_refused(call: Any) -> None:
    """Captures a call beside an operation of torch: it warns of a graph with nothing in it."""
    ones = torch.ones(4, device="cuda")

    def both() -> None:
        ones.add_(1)
        call()

    capture(both)


@pytest.mark.parametrize("batch_size", [16, 2000])
@pytest.mark.parametrize("storage", ["cuda", "pinned"])
def test_replay_draws_what_the_cpu_draws_next(batch_size: int, storage: str) -> None:
    cpu, _ = twins(map(stamped, range(3000)), 3000)
    cuda = ReplayBuffer(3000, "cuda", seed=7, storage=storage)  # type: ignore[arg-type]
    cuda.extend(stack([stamped(i) for i in range(3000)]))
    graph, batch = capture(lambda: cuda.sample(batch_size))
    for _ in range(4):
        graph.replay()
        assert_same(cpu.sample(batch_size), batch)


def test_replay_after_pushes_sees_what_was_pushed() -> None:
    cpu, cuda = twins(map(stamped, range(40)), 40, n_step=3)
    graph, batch = capture(lambda: cuda.sample(40))
    for i in range(40, 60):
        cpu.push(stamped(i))
        cuda.push(stamped(i))
        graph.replay()
        assert_same(cpu.sample(40), batch)
    assert_same(cpu.sample(9), cuda.sample(9))


def test_replay_of_sequences_draws_anew() -> None:
    cpu, cuda = twins(map(stamped, range(50)), 40)
    graph, batch = capture(lambda: cuda.sample_sequences(6, 4, 2))
    for i in range(50, 55):
        graph.replay()
        assert_same(cpu.sample_sequences(6, 4, 2), batch)
        cpu.push(stamped(i))
        cuda.push(stamped(i))


def test_replay_on_another_stream_comes_after_the_push_before_it() -> None:
    cpu, cuda = twins(map(stamped, range(40)), 40)
    graph, batch = capture(lambda: cuda.sample(40))
    writer, reader = torch.cuda.Stream(), torch.cuda.Stream()
    for i in range(40, 60):
        with torch.cuda.stream(writer):
            torch.cuda._sleep(1_000_000)
            cuda.push(stamped(i))
        cpu.push(stamped(i))
        with torch.cuda.stream(reader):
            graph.replay()
        reader.synchronize()
        assert_same(cpu.sample(40), batch)


def test_push_in_a_capture_is_an_error_that_changes_nothing() -> None:
    cpu, cuda = twins(map(stamped, range(20)), 20)
    with pytest.raises(RuntimeError, match=r"^push: expected a stream that runs"):
        capture_refused(lambda: cuda.push(stamped(99)))
    assert_same(cpu.sample(9), cuda.sample(9))


def test_capture_of_rows_on_the_host_says_where_to_keep_them() -> None:
    cuda = ReplayBuffer(20, "cuda", storage="cpu")
    for i in range(20):
        cuda.push(Experience(*stamped(i)))
    with pytest.raises(RuntimeError, match=r"use storage='cuda' or 'pinned'$"):
        capture_refused(lambda: cuda.sample(9))
    assert len(cuda.sample(9)) == 9
