"""How much memory a process has more after an operation than its rows take.

Each is measured in a separate process, where nothing else allocates.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Meddler, unchanged

from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer

MB = 1 << 20
ROLLUP = Path("/proc/self/smaps_rollup")
needs_proc = pytest.mark.skipif(not ROLLUP.exists(), reason="needs /proc/self/smaps_rollup")

SETUP = """
import gc
import sys
import numpy as np
import torch
from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer

def line(path, name):
    with open(path) as lines:
        return next(int(text.split()[1]) << 10 for text in lines if text.startswith(name))

def resident():
    gc.collect()
    return line("/proc/self/smaps_rollup", "Rss:")

def peak():
    return line("/proc/self/status", "VmHWM:")

def rows(count, dims, dtype=torch.float32):
    states = torch.rand(count, dims, dtype=dtype)
    return {
        "states": states,
        "actions": torch.rand(count, 6, dtype=dtype),
        "rewards": torch.rand(count, dtype=dtype),
        "next_states": torch.rand(count, dims, dtype=dtype),
        "dones": torch.zeros(count, dtype=torch.bool),
    }

def by_columns(columns):
    fortran = {name: np.asfortranarray(column.numpy()) for name, column in columns.items()}
    return {name: torch.from_numpy(column) for name, column in fortran.items()}

def images(count):
    frames = torch.zeros(count, 4, 84, 84, dtype=torch.uint8)
    return {
        "states": frames,
        "actions": torch.zeros(count, dtype=torch.int64),
        "rewards": torch.zeros(count),
        "next_states": frames,
        "dones": torch.zeros(count, dtype=torch.bool),
    }
"""


def measure(code: str) -> list[float]:
    """The numbers that a process prints."""
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [float(number) for number in done.stdout.split()]


# The rows that an import of 120,000 rows converts, and the buffer that they go to.
IMPORTS = {
    "float64": ("rows(120_000, 190, torch.float64)", ""),
    "float64 of many environments": ("rows(120_000, 190, torch.float64)", "num_envs=24"),
    "float64 by columns": ("by_columns(rows(120_000, 190, torch.float64))", ""),
    "every second float32": (
        "{name: column[::2] for name, column in rows(240_000, 190).items()}",
        "",
    ),
    "float64 to lanes": (
        "rows(120_000, 190, torch.float64) | {'lanes': np.arange(120_000) % 3}",
        "num_envs=3",
    ),
}


@needs_proc
@pytest.mark.parametrize("kind", IMPORTS)
def test_extend_by_what_is_converted_takes_no_more_than_its_rows(kind: str) -> None:
    columns, options = IMPORTS[kind]
    grown, at_most, taken = measure(f"""
columns = {columns}
buffer = ReplayBuffer(120_000, {options})
first = {{name: column[:24] for name, column in columns.items()}}
buffer.extend(**(first | {{"lanes": None}}))
before = resident()
base = peak()
buffer.extend(**columns)
print(resident() - before, peak() - max(base, before), buffer.nbytes)
""")
    assert taken > 170 * MB
    assert grown < 1.2 * taken
    assert at_most < 1.2 * taken


@needs_proc
@pytest.mark.parametrize("threads", [1, 2])
def test_sample_whole_buffer_once_leaves_nothing(threads: int) -> None:
    held, left = measure(f"""
torch.set_num_threads({threads})
buffer = ReplayBuffer(120_000)
buffer.extend(**rows(120_000, 190))
buffer.sample(32)
before = resident()
batch = buffer.sample(120_000)
held = resident() - before
del batch
print(held, resident() - before)
""")
    assert held > 170 * MB
    assert left < 20 * MB


@needs_proc
def test_sample_many_short_rows_once_leaves_nothing() -> None:
    """The working memory of a draw counts as well: here it is as large as the batch."""
    (left,) = measure("""
torch.set_num_threads(2)
buffer = ReplayBuffer(2_000_000)
ones = torch.ones(2_000_000)
buffer.extend(states=ones, actions=ones, rewards=ones, next_states=ones, dones=ones)
buffer.sample(32)
before = resident()
buffer.sample(2_000_000)
buffer.sample_sequences(1_000_000, 1)
print(resident() - before)
""")
    assert left < 20 * MB


@needs_proc
def test_sample_rollout_once_leaves_nothing() -> None:
    (left,) = measure("""
buffer = RolloutBuffer(200_000, num_envs=4)
buffer.extend(**rows(200_000, 60))
before = resident()
buffer.sample()
print(resident() - before)
""")
    assert left < 20 * MB


@needs_proc
def test_sample_large_batches_in_a_loop_uses_their_memory_again() -> None:
    """Pages that are new to the process would be counted as faults, a thousand for each batch."""
    (faults,) = measure("""
import resource
buffer = ReplayBuffer(600)
buffer.extend(**images(600))
for _ in range(4):
    batch = buffer.sample(512)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    batch = buffer.sample(512)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
""")
    assert faults < 400


@needs_proc
def test_keep_small_tensors_of_batches_keeps_no_images() -> None:
    rewards, states = measure("""
buffer = ReplayBuffer(200)
buffer.extend(**images(200))
buffer.sample(32)
before = resident()
kept = [buffer.sample(128).rewards for _ in range(40)]
rewards = resident() - before
del kept
before = resident()
kept = [buffer.sample(128).states for _ in range(40)]
print(rewards, resident() - before)
""")
    assert rewards < 20 * MB  # with the images, 275 MB
    assert states < 1.2 * 40 * 128 * 4 * 84 * 84


@needs_proc
def test_keep_small_tensors_of_sequences_keeps_no_images() -> None:
    (kept,) = measure("""
buffer = ReplayBuffer(200)
buffer.extend(**images(200))
buffer.sample_sequences(4, 4)
before = resident()
kept = [buffer.sample_sequences(8, 16).mask for _ in range(40)]
print(resident() - before)
""")
    assert kept < 20 * MB


@needs_proc
@pytest.mark.parametrize("num_envs", [17, 512])
def test_push_one_step_to_many_lanes_takes_little(num_envs: int) -> None:
    grown, expected = measure(f"""
buffer = ReplayBuffer({num_envs} * 20_000, num_envs={num_envs})
step = rows({num_envs}, 17)
before = resident()
buffer.extend(**step)
print(resident() - before, buffer.nbytes)
""")
    assert expected > 30 * MB * num_envs / 17
    assert grown < 50 * MB


@needs_proc
def test_fill_many_lanes_takes_what_their_rows_take() -> None:
    half, full, taken = measure("""
buffer = ReplayBuffer(64 * 20_000, num_envs=64)
steps = rows(64 * 500, 17)
before = resident()
for _ in range(20):
    buffer.extend(**steps)
half = resident() - before
for _ in range(60):
    buffer.extend(**steps)
print(half, resident() - before, buffer.nbytes)
""")
    assert half < 0.75 * taken + 20 * MB
    assert full < taken + 20 * MB


def float64_columns(count: int) -> dict[str, np.ndarray]:
    """Of which each is converted in many parts."""
    generator = np.random.default_rng(count)
    return {
        "states": generator.normal(size=(count, 100)),
        "actions": generator.normal(size=(count, 33)),
        "rewards": generator.normal(size=count),
        "next_states": generator.normal(size=(count, 100)),
        "dones": (generator.random(count) < 0.1).astype(np.float64),
    }


def like(columns: dict[str, np.ndarray], **options: object) -> ReplayBuffer:
    """A buffer with the dtypes that are stored, and a row in each lane."""
    count = options.pop("count", len(columns["states"]))
    buffer = ReplayBuffer(count, seed=3, **options)
    lanes = buffer.num_envs
    buffer.extend(
        states=torch.zeros(lanes, 100),
        actions=torch.zeros(lanes, 33),
        rewards=torch.zeros(lanes),
        next_states=torch.zeros(lanes, 100),
        dones=torch.ones(lanes, dtype=torch.bool),
    )
    return buffer


def as_float32(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(column, np.float32) for name, column in columns.items()}


def assert_equal_rows(buffer: ReplayBuffer, other: ReplayBuffer) -> None:
    assert len(buffer) == len(other)
    left, right = (each.sample(len(each)) for each in (buffer, other))
    for name in ("states", "actions", "rewards", "next_states", "dones", "indices", "discounts"):
        assert torch.equal(getattr(left, name), getattr(right, name)), name


# A part holds 2621 rows, which is no multiple of the lanes.
@pytest.mark.parametrize("num_envs", [1, 7])
@pytest.mark.parametrize("by_lanes", [False, True])
@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("compact", [False, True])
def test_extend_in_parts_stores_what_one_piece_does(
    num_envs: int, by_lanes: bool, short: bool, compact: bool
) -> None:
    columns = float64_columns(7 * 1500)
    lanes = np.arange(7 * 1500)[::-1] * 3 % num_envs if by_lanes else None
    count = 7 * 400 if short else 7 * 1500
    whole, parts = (
        like(columns, count=count, num_envs=num_envs, compact=compact) for _ in range(2)
    )
    parts.extend(**columns, lanes=lanes)
    for first in range(0, 7 * 1500, 700):
        some = {name: column[first : first + 700] for name, column in as_float32(columns).items()}
        whole.extend(**some, lanes=None if lanes is None else lanes[first : first + 700])
    assert_equal_rows(parts, whole)


@pytest.mark.parametrize("layout", ["strided", "reversed", "by columns", "float16 and int"])
def test_extend_in_parts_reads_any_layout(layout: str) -> None:
    columns = float64_columns(6000)
    if layout == "strided":
        given = {
            name: np.repeat(column, 2, axis=0)[::2] if column.ndim == 1 else column
            for name, column in columns.items()
        }
    elif layout == "reversed":
        given = {name: column[::-1].copy()[::-1] for name, column in columns.items()}
    elif layout == "by columns":
        given = {name: np.asfortranarray(column) for name, column in columns.items()}
    else:
        columns["states"] = columns["states"].astype(np.float16)
        columns["next_states"] = (columns["next_states"] * 100).astype(np.int64)
        given = columns
    whole, parts = like(columns), like(columns)
    parts.extend(**given)
    whole.extend(**as_float32(columns))
    assert_equal_rows(parts, whole)


@pytest.mark.parametrize("name", ["states", "actions", "next_states"])
@pytest.mark.parametrize("row", [0, 2621, 5999])
def test_extend_in_parts_by_a_value_out_of_range_changes_nothing(name: str, row: int) -> None:
    columns = float64_columns(6000)
    buffer = like(columns)
    buffer.extend(**columns)
    columns[name][row, -1] = 1e39
    with unchanged(buffer), pytest.raises(ValueError, match=rf"^{name}: .* out of range"):
        buffer.extend(**columns)


def test_extend_in_parts_that_change_while_others_are_read_changes_nothing() -> None:
    columns = float64_columns(6000)
    buffer = like(columns)
    buffer.extend(**columns)

    def spoil() -> None:
        columns["states"][-1] = 1e300

    meddler = Meddler(spoil, columns["next_states"])
    with unchanged(buffer), pytest.raises(ValueError, match=r"^states: .* out of range"):
        buffer.extend(**(columns | {"next_states": meddler}))


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("compact", [False, True])
def test_extend_a_device_in_parts_stores_what_the_host_does(compact: bool) -> None:
    columns = float64_columns(6000)
    host, device = (
        like(columns, device=target, compact=compact, num_envs=4) for target in ("cpu", "cuda")
    )
    host.extend(**columns)
    device.extend(**columns)
    left, right = host.sample(6000), device.sample(6000)
    assert torch.equal(left.states, right.states.cpu())
    assert torch.equal(left.next_states, right.next_states.cpu())


@pytest.mark.cuda(emulated=True)
def test_extend_a_device_by_columns_of_both_converts_those_of_the_host() -> None:
    columns = float64_columns(6000)
    host, device = (like(columns, device=target) for target in ("cpu", "cuda"))
    host.extend(**columns)
    rewards = torch.from_numpy(columns["rewards"]).float()
    if torch.cuda.is_available():
        rewards = rewards.cuda()
    device.extend(**(columns | {"rewards": rewards}))
    left, right = host.sample(6000), device.sample(6000)
    assert torch.equal(left.states, right.states.cpu())
    assert torch.equal(left.rewards, right.rewards.cpu())


@needs_proc
def test_make_buffer_in_a_small_address_space_names_that_limit() -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, resource.RLIM_INFINITY))
try:
    buffer = ReplayBuffer(20_000_000)
    buffer.push(Experience(torch.zeros(20), 0.0, 0.0, torch.zeros(20), False))
except MemoryError as error:
    print(error, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code], capture_output=True, text=True, check=True
    )
    assert "the address space of this process (ulimit -v) is limited to 3221225472" in done.stderr
    assert "this machine has" not in done.stderr


def test_make_buffers_that_do_not_fit_together_raises_what_others_have() -> None:
    row_bytes = 4096
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    capacity = machine * 3 // 5 // row_bytes
    step = Experience(torch.zeros(500), 0.0, 0.0, torch.zeros(500), False)
    first, second = ReplayBuffer(capacity), ReplayBuffer(capacity)
    first.push(step)
    message = r"needs \d+ bytes beside \d+ bytes that this process's buffers have, .* has \d+ bytes"
    with pytest.raises(MemoryError, match=message):
        second.push(step)
    assert (len(first), len(second)) == (1, 0)
    del first
    second.push(step)
    assert len(second) == 1


def test_sample_large_batch_gives_tensors_that_outlive_each_other() -> None:
    buffer = ReplayBuffer(3000)
    columns = {"states": torch.rand(3000, 200), "next_states": torch.rand(3000, 200)}
    numbers = torch.arange(3000.0)
    batch_fields = BatchExperience(
        columns["states"], numbers, numbers, columns["next_states"], numbers * 0
    )
    buffer.extend(batch_fields)
    kept = []
    for _ in range(5):
        batch = buffer.sample(2000)
        order = batch.rewards[:, 0].long()
        assert torch.equal(batch.states, columns["states"][order])
        assert torch.equal(batch.next_states, columns["next_states"][order])
        kept.append((order, batch.next_states, batch.indices))
        del batch
    for order, next_states, indices in kept:
        assert torch.equal(next_states, columns["next_states"][order])
        assert torch.equal(indices, order)


def test_sample_whole_rollout_gives_all_rows() -> None:
    buffer = RolloutBuffer(3000)
    states = torch.rand(3000, 200)
    numbers = torch.arange(3000.0)
    buffer.extend(BatchExperience(states, numbers, numbers, states, numbers * 0))
    batch = buffer.sample()
    assert torch.equal(batch.states, states)
    assert torch.equal(batch.rewards[:, 0], numbers)
