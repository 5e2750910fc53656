"""Prioritized sampling with lanes, other storage, loaders, threads and pickles."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from helpers import COPIES, filled, stamped, stamps_of
from reference_priorities import LANE_SHIFT
from test_prioritized import close, prioritized, set_priorities, shares

from velora.buffer import Experience, Prioritized, ReplayBuffer

# Sequences are counted while another thread gathers a large batch without the GIL.
COUNT_WHILE_GATHERING = """
import threading, torch
from velora.buffer import Experience, Prioritized, ReplayBuffer
buffer = ReplayBuffer(4096, sampler=Prioritized(1.0, 1.0, 0.0, "none"), seed=0)
for i in range(4096):
    buffer.push(Experience(torch.zeros(128), i, 0.0, torch.zeros(128), False))
stop = threading.Event()
def count():
    while not stop.is_set():
        buffer.sample_sequences(1, 1)
threads = [threading.Thread(target=count)]
for thread in threads: thread.start()
try:
    assert all((buffer.sample(4096).weights == 1).all() for _ in range(8))
finally:
    stop.set()
    for thread in threads: thread.join()
"""


def lanes_of(counts: list[int], **options: Any) -> ReplayBuffer:
    """Lanes of 8 rows into which so many were pushed."""
    sampler = Prioritized(**{"alpha": 1.0, "beta": 1.0, "eps": 0.0} | options)
    buffer = ReplayBuffer(8 * len(counts), num_envs=len(counts), sampler=sampler, seed=0)
    for lane, count in enumerate(counts):
        for i in range(count):
            buffer.push(stamped(i), lane=lane)
    return buffer


def chi_square(buffer: ReplayBuffer, indices: torch.Tensor, weights: list[float]) -> float:
    """Of 200,000 draws."""
    order = {int(index): i for i, index in enumerate(indices)}
    drawn = torch.cat([buffer.sample(1000).indices for _ in range(200)])  # type: ignore[misc]
    found, counts = drawn.unique(return_counts=True)
    observed = torch.zeros(len(weights), dtype=torch.float64)
    observed[[order[i] for i in found.tolist()]] = counts.double()
    expected = torch.tensor(weights, dtype=torch.float64)
    expected *= len(drawn) / expected.sum()
    return float(((observed - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("draws", ["stratified", "independent"])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_draws_of_uneven_lanes_pass_chi_square(alpha: float, draws: Any) -> None:
    counts = [3, 0, 20, 8]
    buffer = lanes_of(counts, alpha=alpha, draws=draws)
    indices = torch.tensor(
        [
            lane << LANE_SHIFT | serial
            for lane, end in enumerate(counts)
            for serial in range(max(0, end - 8), end)
        ]
    )
    raw = torch.arange(1.0, len(indices) + 1)
    buffer.update_priorities(indices, raw)
    # 18 degrees of freedom: 99.9 % are below 42.3. Stratified draws vary less.
    assert chi_square(buffer, indices, (raw**alpha).tolist()) < 42.3


def test_starts_of_sequences_pass_chi_square() -> None:
    buffer = prioritized(8, 8, alpha=0.6, draws="independent")
    raw = torch.arange(1.0, 9)
    set_priorities(buffer, *raw.tolist())
    starts = torch.cat(
        [buffer.sample_sequences(1000, 3).indices[:, 0] for _ in range(100)]  # type: ignore[index]
    )
    expected = raw.double() ** 0.6
    expected *= len(starts) / expected.sum()
    observed = starts.bincount(minlength=8).double()
    assert ((observed - expected) ** 2 / expected).sum() < 24.3  # 7 degrees: 99.9 %


def test_update_after_another_lane_wraps_reaches_own_lane() -> None:
    buffer = lanes_of([2, 30])
    indices = torch.tensor([0, 1, 1 << LANE_SHIFT | 29, 1 << LANE_SHIFT | 21])
    updated = buffer.update_priorities(indices, torch.tensor([1e9, 0.0, 1e9, 1.0]))
    assert updated.tolist() == [True, True, True, False]
    assert shares(buffer) == close({0: 0.5, 1 << LANE_SHIFT | 29: 0.5})


def test_draws_after_journal_overrun_know_all_rows() -> None:
    buffer = lanes_of([8, 8])
    buffer.sample(1)
    for i in range(500):
        buffer.push(stamped(i), lane=i % 2)
    assert len(shares(buffer)) == 16


@pytest.mark.parametrize("options", [{"n_step": 3}, {"compact": True}, {"n_step": 2, "gamma": 1.0}])
def test_sample_with_options_draws_by_priority(options: dict[str, Any]) -> None:
    sampler = Prioritized(1.0, 1.0, 0.0)
    buffer = filled(ReplayBuffer, range(6), 4, sampler=sampler, seed=0, **options)
    buffer.update_priorities(torch.arange(2, 6), torch.tensor([1.0, 3.0, 0.0, 0.0]))
    assert shares(buffer) == close({2: 0.25, 3: 0.75})


def test_sample_of_frame_stacks_draws_by_priority() -> None:
    sampler = Prioritized(1.0, 1.0, 0.0)
    buffer = ReplayBuffer(8, frame_stack=2, sampler=sampler, seed=0)
    frames = [torch.full((2, 3, 3), i, dtype=torch.uint8) for i in range(13)]
    for i in range(12):
        state = torch.stack([frames[max(i - 1, 0)][0], frames[i][0]])
        next_state = torch.stack([frames[i][0], frames[i + 1][0]])
        buffer.push(Experience(state, i, 0.0, next_state, False))
    buffer.update_priorities(torch.arange(4, 12), torch.tensor([0.0] * 6 + [1.0, 3.0]))
    batch = buffer.sample(8)
    assert batch.actions.flatten().tolist() == [10, 10] + [11] * 6
    assert batch.states[:, 1, 0, 0].tolist() == [10, 10] + [11] * 6


@pytest.mark.parametrize("boundary", ["within", "cross"])
def test_sample_sequences_with_other_boundary_is_refused(boundary: Any) -> None:
    with pytest.raises(ValueError, match="boundary"):
        prioritized().sample_sequences(1, 1, boundary=boundary)


def test_loader_draws_by_priority_with_weights() -> None:
    buffer = prioritized(4, 4)
    set_priorities(buffer, 1.0, 3.0, 0.0, 0.0)
    with buffer.loader(8) as loader:
        batch = next(iter(loader))
        assert stamps_of(batch) == [0, 0, 1, 1, 1, 1, 1, 1]
        assert batch.weights.flatten().tolist() == pytest.approx([1.0] * 2 + [1 / 3] * 6)


@pytest.mark.parametrize("save", COPIES.values(), ids=COPIES)
def test_copy_after_updates_draws_the_same(save: Any) -> None:
    buffer = prioritized(7, 5, alpha=0.6, beta=0.4)
    buffer.update_priorities(torch.arange(2, 7), torch.rand(5))
    buffer.sample(3)
    buffer.push(stamped(7))
    buffer.sampler.alpha = 0.9  # type: ignore[attr-defined]
    saved = save(buffer)
    for i in range(100):
        left, right = buffer.sample(4), saved.sample(4)
        assert torch.equal(left.indices, right.indices)
        assert torch.equal(left.weights, right.weights)
        for each in (buffer, saved):
            each.update_priorities(left, left.weights * i)
            each.push(stamped(i))


def damaged(part: bytes) -> list[bytes]:
    """Header: lanes, given, largest key, 0; then the end of the lane and its priorities."""
    nan, minus = b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xbf"
    cuts = [part[:size] for size in range(len(part))]
    wrong = [
        part + b"\x00",
        (2).to_bytes(8, "little") + part[8:],
        (2**64 - 1).to_bytes(8, "little") + part[8:],
        *(part[:8] + count.to_bytes(8, "little") + part[16:] for count in (1, 2, 2**64 - 1)),
        part[:16] + b"\xff\xff\xff\xff" + part[20:],
        part[:16] + b"\xff\xff\xff\x7f" + part[20:],
        part[:20] + b"\x01" + part[21:],
        *(part[:24] + end.to_bytes(8, "little") + part[32:] for end in (0, 1, 5, 7, 2**64 - 1)),
        part[:32] + nan + part[36:],
        part[:-4] + minus,
        part[:-4] + b"\x00\x00\x80\x7f",
    ]
    return cuts + wrong


def test_load_of_damaged_sampler_is_refused() -> None:
    buffer = prioritized(6, 4)
    buffer.sample(1)
    state = pickle.loads(pickle.dumps(buffer.__reduce_ex__(4)[2:3]))[0]
    part = bytes(state["sampler"])
    assert len(part) == 24 + 8 + 4 * 4
    for bad in damaged(part):
        with pytest.raises(ValueError, match="sampler"):
            ReplayBuffer.__new__(ReplayBuffer).__setstate__(state | {"sampler": bad})


def test_threads_that_sample_update_and_push_find_whole_rows() -> None:
    buffer = prioritized(64, 64, eps=1e-6)
    errors: list[BaseException] = []

    def learn() -> None:
        try:
            for i in range(200):
                batch = buffer.sample(32)
                stamps_of(batch)
                buffer.update_priorities(batch, torch.full((32,), float(i)))
        except BaseException as error:
            errors.append(error)

    def push() -> None:
        for i in range(2000):
            buffer.push(stamped(i))

    threads = [threading.Thread(target=target) for target in (learn, learn, push)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_sample_sequences_beside_a_large_gather_leaves_weights_alone() -> None:
    run = subprocess.run(
        [sys.executable, "-c", COUNT_WHILE_GATHERING], capture_output=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(("name", "value"), [("alpha", -1.0), ("beta", 4.1), ("alpha", 1e999)])
def test_set_exponent_out_of_range_changes_nothing(name: str, value: float) -> None:
    buffer = prioritized()
    with pytest.raises(ValueError, match=name):
        setattr(buffer.sampler, name, value)
    assert getattr(buffer.sampler, name) == 1.0


def test_set_fixed_attribute_is_refused() -> None:
    with pytest.raises(AttributeError, match="eps"):
        prioritized().sampler.eps = 1.0  # type: ignore[attr-defined]
