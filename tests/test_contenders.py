"""Contenders return true rows. Run with `build/peers/bin/python`, peers are tested too."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
CAPACITY = 500
CONTENDERS = (
    *("velora", "floor", "numpy_columns", "torch_columns", "stable_baselines3"),
    *("cpprb", "torchrl", "tianshou", "flashbax"),
)

pytestmark = [
    pytest.mark.skipif(
        not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of the wheel"
    ),
    # Those of peers are theirs.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


def set_up(name: str, rows: str = "VECTORS") -> tuple[Any, Any]:
    """A contender and the contents it is full of; skips where it cannot run."""
    package = importlib.import_module("benchmarks.contenders")
    kind = getattr(importlib.import_module("benchmarks.workloads"), rows)
    if kind.frame_stack > 1:
        kind = replace(kind, leaves=(replace(kind.state, shape=(kind.frame_stack, 8, 8)),))
    contents = replace(kind, capacity=CAPACITY).make_contents()
    try:
        contender = package.load(name)
        contender.setup(contents)
    except package.Unavailable as error:
        pytest.skip(str(error))
    return contender, contents


@pytest.mark.parametrize("rows", ["VECTORS", "DICTS", "IMAGES"])
@pytest.mark.parametrize("name", CONTENDERS)
def test_sample_of_full_memory_returns_rows_of_its_contents(name: str, rows: str) -> None:
    contender, contents = set_up(name, rows)
    run = contender.sample(256)
    for _ in range(3):
        assert len(contents.find(contender.as_tensors(run()))) == 256


@pytest.mark.parametrize("name", CONTENDERS)
def test_push_of_whole_capacity_leaves_nothing_else(name: str) -> None:
    contender, _ = set_up(name)
    if not hasattr(contender, "push"):
        pytest.skip("has no push")
    push = contender.push()
    for _ in range(CAPACITY):
        push()
    for column in contender.as_tensors(contender.sample(256)()):
        np.testing.assert_array_equal(column, np.broadcast_to(column[:1], column.shape))


@pytest.mark.parametrize("name", CONTENDERS)
def test_update_trains_on_batches(name: str) -> None:
    contender, _ = set_up(name)
    contender.update(32)()


@pytest.mark.parametrize("name", CONTENDERS)
def test_gae_of_a_rollout_is_the_textbooks(name: str) -> None:
    contender, _ = set_up(name)
    if not hasattr(contender, "gae"):
        pytest.skip("has no advantages")
    run = contender.gae(64, 4)
    rollouts = importlib.import_module("benchmarks.rows")
    rollout = rollouts.make_rollout(64, 4)
    assert rollout.dones.any()
    expected = np.zeros((65, 4))
    for t in reversed(range(64)):
        goes_on = rollouts.GAMMA * (1.0 - rollout.dones[t])
        delta = rollout.rewards[t] + goes_on * rollout.next_values[t] - rollout.values[t]
        expected[t] = delta + goes_on * rollouts.LAMBDA * expected[t + 1]
    for way in (run if isinstance(run, Mapping) else {"": run}).values():
        advantages = np.asarray(way()).reshape(64, 4)
        np.testing.assert_allclose(advantages, expected[:-1], rtol=1e-4, atol=1e-4)


def test_floor_on_all_threads_gathers_what_it_does_on_one() -> None:
    contender, contents = set_up("floor")
    for run in contender.sample_on_all_threads(101).values():
        contender.as_tensors(None)[0].fill_(0)
        run()
        contents.find(contender.as_tensors(None))
