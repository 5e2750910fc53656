"""Whatever is timed returns true rows. Run with `build/peers/bin/python`, peers are tested too."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
CAPACITY = 500
CONTENDERS = (
    "velora",
    "floor",
    "numpy_columns",
    "torch_columns",
    "stable_baselines3",
    "cpprb",
    "torchrl",
    "tianshou",
    "flashbax",
)

pytestmark = [
    pytest.mark.skipif(
        not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of the wheel"
    ),
    # Those of peers are theirs.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package's workloads, from which everything else is imported."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.workloads")


def set_up(name: str, rows: Any) -> tuple[Any, Any]:
    """A contender and the contents it is full of; skips where it cannot run."""
    package = importlib.import_module("benchmarks.contenders")
    contents = rows.make_contents()
    try:
        contender = package.load(name)
        contender.setup(contents)
    except package.Unavailable as error:
        pytest.skip(str(error))
    return contender, contents


def leaves(observations: Any) -> list[np.ndarray]:
    """The arrays of observations, whether tensors or arrays, in a dict or not."""
    found = observations.values() if isinstance(observations, Mapping) else [observations]
    return [np.asarray(leaf) for leaf in found]


def assert_rows_of(contents: Any, batch: Any) -> None:
    """Each row of the batch is a row of the contents, which its state identifies."""
    states, actions, rewards, next_states, dones = batch
    place_of = {row.tobytes(): i for i, row in enumerate(leaves(contents.states)[0])}
    places = [place_of[row.tobytes()] for row in leaves(states)[0]]
    for found, expected in ((states, contents.states), (next_states, contents.next_states)):
        if isinstance(expected, Mapping):
            assert list(found) == list(expected)
        for one, other in zip(leaves(found), leaves(expected), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other[places])
    np.testing.assert_array_equal(actions, contents.actions[places])
    for column, expected in ((rewards, contents.rewards), (dones, contents.dones)):
        assert tuple(column.shape) in {(len(places),), (len(places), 1)}
        np.testing.assert_array_equal(column.reshape(-1), expected[places, 0])


@pytest.mark.parametrize("rows", ["VECTORS", "DICTS", "IMAGES"])
@pytest.mark.parametrize("name", CONTENDERS)
def test_sample_of_full_memory_returns_rows_of_its_contents(
    benchmarks: ModuleType, name: str, rows: str
) -> None:
    contender, contents = set_up(name, small(getattr(benchmarks, rows)))
    run = contender.sample(256)
    for _ in range(3):
        assert_rows_of(contents, contender.as_tensors(run()))


@pytest.mark.parametrize("name", CONTENDERS)
def test_push_of_whole_capacity_leaves_nothing_else(benchmarks: ModuleType, name: str) -> None:
    contender, _ = set_up(name, small(benchmarks.VECTORS))
    push = contender.push()
    if push is None:
        pytest.skip("has no push")
    for _ in range(CAPACITY):
        push()
    states, actions, rewards, next_states, dones = contender.as_tensors(contender.sample(256)())
    for column in (states, actions, rewards, next_states, dones):
        np.testing.assert_array_equal(column, np.broadcast_to(column[:1], column.shape))


@pytest.mark.parametrize("name", CONTENDERS)
def test_update_trains_on_batches(benchmarks: ModuleType, name: str) -> None:
    contender, _ = set_up(name, small(benchmarks.VECTORS))
    run = contender.update(32)
    assert run is not None
    run()


@pytest.mark.parametrize("name", CONTENDERS)
def test_gae_of_a_rollout_is_the_textbooks(benchmarks: ModuleType, name: str) -> None:
    contender, _ = set_up(name, small(benchmarks.VECTORS))
    run = contender.gae(64, 4)
    if run is None:
        pytest.skip("has no advantages")
    ways = run if isinstance(run, Mapping) else {"": run}
    rollouts = importlib.import_module("benchmarks.rollouts")
    rollout = rollouts.make_rollout(64, 4)
    assert rollout.dones.any()
    expected = np.zeros((65, 4))
    for t in reversed(range(64)):
        goes_on = rollouts.GAMMA * (1.0 - rollout.dones[t])
        delta = rollout.rewards[t] + goes_on * rollout.next_values[t] - rollout.values[t]
        expected[t] = delta + goes_on * rollouts.LAMBDA * expected[t + 1]
    for way in ways.values():
        advantages = np.asarray(way()).reshape(64, 4)
        np.testing.assert_allclose(advantages, expected[:-1], rtol=1e-4, atol=1e-4)


def test_contenders_are_all_tested(benchmarks: ModuleType) -> None:
    package = importlib.import_module("benchmarks.contenders")
    assert set(CONTENDERS) == set(package.NAMES)


def test_floor_on_all_threads_gathers_what_it_does_on_one(benchmarks: ModuleType) -> None:
    contender, contents = set_up("floor", small(benchmarks.VECTORS))
    for run in contender.sample_on_all_threads(101).values():
        contender.as_tensors(None)[0].fill_(0)
        run()
        assert_rows_of(contents, contender.as_tensors(None))


def small(rows: Any) -> Any:
    """So few rows, and images of 8x8."""
    if rows.frame_stack > 1:
        rows = replace(rows, leaves=(replace(rows.state, shape=(rows.frame_stack, 8, 8)),))
    return replace(rows, capacity=CAPACITY)
