"""`python -m benchmarks` runs and says what it found. What it measures is nobody's promise here."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of the wheel"
)


def run_benchmarks(*arguments: str, module: str = "benchmarks") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    path = tmp_path_factory.mktemp("benchmarks") / "results" / "quick.json"
    run = run_benchmarks("--quick", "--json", str(path))
    assert run.returncode == 0, run.stderr
    return run.stdout, json.loads(path.read_text(encoding="utf-8"))


def test_quick_run_prints_a_table_with_ratios_and_aims(quick: tuple[str, dict[str, Any]]) -> None:
    table, _ = quick
    for text in ("median", "x velora", "push", "sample 256", "torch columns", "numpy columns"):
        assert text in table
    assert "velora at most 25 us" in table


def test_quick_run_writes_what_was_measured_and_on_what(
    quick: tuple[str, dict[str, Any]],
) -> None:
    _, document = quick
    assert document["settings"]["threads"] == 1
    assert {"date", "machine", "versions"} <= document.keys()
    assert document["versions"]["torch"]
    results = {result["work"]: result["contenders"] for result in document["results"]}
    for work in ("push", "construct and push", "sample 32", "sample 256", "sample 4096"):
        assert {"velora", "torch columns", "numpy columns"} <= results[work].keys()
    for contenders in results.values():
        assert len(contenders) > 1
        for figures in contenders.values():
            low, high = figures["quartiles_us"]
            assert 0 < figures["min_us"] <= low <= figures["median_us"] <= high
            assert figures["times_velora"] > 0


def test_quick_run_times_each_capability_in_all_its_ways(
    quick: tuple[str, dict[str, Any]],
) -> None:
    table, document = quick
    results = {result["work"]: result["contenders"].keys() for result in document["results"]}
    assert {"velora", "velora, one step"} <= results["n-step 256 x 3"]
    assert "velora" in results["sequences 32 x 64 within"]
    assert "velora" in results["sequences 32 x 64 pad"]
    episodes = {"velora, episodes of 10", "velora, episodes of 10,000"}
    assert episodes <= results["sequences 32 x 64 cross"]
    assert {"velora", "velora, arrays", "numpy columns"} <= results["extend 256"]
    ways = {"velora, frame_stack=4", "velora, compact=False"}
    assert ways <= results["sample 32 images"]
    assert "velora at most 2 x velora, one step" in table


def test_contender_whose_library_is_missing_is_listed_with_the_reason(
    quick: tuple[str, dict[str, Any]],
) -> None:
    table, document = quick
    if importlib.util.find_spec("torchrl") is not None:
        pytest.skip("torchrl is installed")
    assert "torchrl is left out: No module named" in table
    assert document["left_out"].keys() <= {"torchrl", "floor"}
    assert "No module named" in document["left_out"]["torchrl"]


def test_stacks_of_one_episode_move_on_by_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    workloads = importlib.import_module("benchmarks.workloads")
    leaf = replace(workloads.IMAGES.state, shape=(4, 2, 2))
    rows = replace(workloads.IMAGES, leaves=(leaf,), capacity=2_000)
    contents = rows.make_contents()
    ends = (contents.dones + contents.truncations)[:, 0] > 0
    assert 0 < ends.sum() < 50
    follows = ~ends[:-1]
    np.testing.assert_array_equal(contents.states[1:][follows], contents.next_states[:-1][follows])
    np.testing.assert_array_equal(contents.states[:, 1:], contents.next_states[:, :-1])
    firsts = contents.states[1:][~follows]
    np.testing.assert_array_equal(firsts, np.repeat(firsts[:, :1], 4, axis=1))


def test_slow_first_call_does_not_decide_how_many_calls_fill_a_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    timing = importlib.import_module("benchmarks.timing")
    now_ns = 0
    durations_us = chain([50_000], repeat(2))

    def run() -> None:
        nonlocal now_ns
        now_ns += next(durations_us) * 1000

    monkeypatch.setattr(timing, "perf_counter_ns", lambda: now_ns)
    timings = timing.time_in_turns({"a": run}, timing.QUICK)
    assert timings["a"].calls_per_block == timing.QUICK.block_us / 2
    assert timings["a"].median_us == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_stacked_frames_is_that_of_the_frames_and_little_more(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    run = run_benchmarks(
        "--rows", "2000", "--ways", "frame_stack=4", "--json", str(path), module="benchmarks.memory"
    )
    assert run.returncode == 0, run.stderr
    assert "frame_stack=4 at most 7.3 GB" in run.stdout
    (result,) = json.loads(path.read_text(encoding="utf-8"))["results"].values()
    assert result["rows"] == 2000
    # A few MB more or less are the process's own.
    assert 0.8 < result["full"] / (2000 * 84 * 84) < 1.5


def test_only_and_capacity_select_work_and_size(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    run = run_benchmarks(
        "--quick", "--only", "sample 32", "--capacity", "2000", "--json", str(path)
    )
    assert run.returncode == 0, run.stderr
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    # Images get a hundredth of the rows: too few for their batch.
    assert [(result["work"], result["capacity"]) for result in results] == [("sample 32", 2000)]


def test_only_without_a_match_fails(tmp_path: Path) -> None:
    run = run_benchmarks("--quick", "--only", "no such work", "--json", str(tmp_path / "x.json"))
    assert run.returncode == 1
    assert "nothing to time" in run.stdout
