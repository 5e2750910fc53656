"""`python -m benchmarks` runs and says what it found. What it measures is nobody's promise here."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of the wheel"
)


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the package is, which can then be imported."""
    monkeypatch.syspath_prepend(ROOT)
    return ROOT / "benchmarks"


def run_benchmarks(*arguments: str, module: str = "benchmarks") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def document_in(results: Path, name: str = "results.json") -> dict[str, Any]:
    """What a run wrote for this machine."""
    (path,) = results.glob(f"*/{name}")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a quick run of everything printed, and where it left its results."""
    folder = tmp_path_factory.mktemp("benchmarks") / "results"
    run = run_benchmarks("--quick", "--results", str(folder))
    assert run.returncode == 0, run.stderr
    return run.stdout, folder


def test_quick_run_prints_a_table_with_ratios_and_aims(quick: tuple[str, Path]) -> None:
    table, _ = quick
    for text in ("threads", "median", "x velora", "x floor", "push", "sample 256", "numpy columns"):
        assert text in table
    assert "n-step 256 x 3: velora at most 2 x velora, one step" in table


def test_quick_run_writes_what_was_measured_and_on_what(quick: tuple[str, Path]) -> None:
    document = document_in(quick[1])
    assert {"date", "machine", "versions", "settings"} <= document.keys()
    assert document["versions"]["torch"]
    results = {result["work"]: result for result in document["results"]}
    for work in ("push", "construct and push", "sample 32", "sample 256 dicts", "sample 256"):
        assert {"velora", "torch columns", "numpy columns"} <= results[work]["contenders"].keys()
    for result in results.values():
        assert result["threads"] >= 1
        assert len(result["contenders"]) > 1
        for figures in result["contenders"].values():
            low, high = figures["quartiles_us"]
            assert 0 < figures["min_us"] <= low <= figures["median_us"] <= high
            assert figures["times_velora"] > 0


def test_quick_run_times_each_capability_in_all_its_ways(quick: tuple[str, Path]) -> None:
    document = document_in(quick[1])
    results = {result["work"]: result["contenders"].keys() for result in document["results"]}
    assert {"velora", "velora, one step"} <= results["n-step 256 x 3"]
    assert "velora" in results["sequences 32 x 64 within"]
    assert "velora" in results["sequences 32 x 64 pad"]
    episodes = {"velora, episodes of 10", "velora, episodes of 10,000"}
    assert episodes <= results["sequences 32 x 64 cross"]
    assert {"velora", "velora, arrays", "numpy columns"} <= results["extend 256"]
    ways = {"velora, frame_stack=4", "velora, compact=False"}
    assert ways <= results["sample 32 images"]
    assert {"velora", "velora, a tenth of the rows"} <= results["sample 256, 10 x the rows"]
    assert {"velora", "torch columns", "numpy columns"} <= results["advantages of 2048 x 64"]


def test_contender_whose_library_is_missing_is_listed_with_the_reason(
    quick: tuple[str, Path],
) -> None:
    if importlib.util.find_spec("torchrl") is not None:
        pytest.skip("torchrl is installed")
    table, folder = quick
    assert "torchrl is left out of everything: No module named" in table
    document = document_in(folder)
    (entry,) = (entry for entry in document["left_out"] if entry["contender"] == "torchrl")
    assert "No module named" in entry["reason"]
    for result in document["results"]:
        assert result["left_out"]["torchrl"] == entry["reason"]


def test_contender_that_could_not_be_installed_says_what_pip_said(
    benchmarks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = importlib.import_module("benchmarks.contenders")
    (tmp_path / "failed-no_such_peer.txt").write_text("ERROR: no wheel\n", encoding="utf-8")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(package.Unavailable, match=r"^No module named .*; ERROR: no wheel$"):
        package.load("no_such_peer")


def test_quick_run_draws_charts(quick: tuple[str, Path]) -> None:
    for chart in ("bars", "capacity", "batch", "row"):
        (path,) = quick[1].glob(f"*/{chart}.png")
        assert path.read_bytes().startswith(b"\x89PNG")


def test_saved_results_are_drawn_without_measuring_again(
    quick: tuple[str, Path], tmp_path: Path
) -> None:
    (path,) = quick[1].glob("*/results.json")
    run = run_benchmarks(str(path), "--charts", str(tmp_path), module="benchmarks.charts")
    assert run.returncode == 0, run.stderr
    assert {chart.stem for chart in tmp_path.iterdir()} == {"bars", "capacity", "batch", "row"}


def test_results_of_an_older_run_are_drawn_by_what_they_name(
    benchmarks: Path, tmp_path: Path
) -> None:
    charts = importlib.import_module("benchmarks.charts")
    figures = {"median_us": 2.0, "times_velora": None}
    entry = {
        "work": "work that is gone",
        "threads": 2,
        "arguments": [32],
        "charts": ["bars", "batch", "a chart that is gone"],
        "contenders": {"a peer that is gone, slow": {**figures, "median_us": 9.0}},
    }
    entry["contenders"]["a peer that is gone, fast"] = figures
    document = {
        "date": "2020-01-01T00:00:00+00:00",
        "machine": {"processor": "An abacus", "cores": 1},
        "versions": {"torch": "0.1"},
        "results": [entry],
    }
    written = charts.draw_all(document, tmp_path)
    assert [path.name for path in written] == ["bars.png", "batch.png"]
    assert charts.costs(entry) == {"a peer that is gone": figures}


def test_stacks_of_one_episode_move_on_by_a_frame(benchmarks: Path) -> None:
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
    benchmarks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timing = importlib.import_module("benchmarks.timing")
    now_ns = 0
    durations_us = chain([50_000], repeat(2))

    def run() -> None:
        nonlocal now_ns
        now_ns += next(durations_us) * 1000

    monkeypatch.setattr(timing, "perf_counter_ns", lambda: now_ns)
    timings, _ = timing.time_in_turns({"a": run}, timing.QUICK)
    assert timings["a"].calls_per_block == timing.QUICK.block_us / 2
    assert timings["a"].median_us == 2


def test_contender_that_fails_is_listed_with_the_reason_and_others_go_on(
    benchmarks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = importlib.import_module("benchmarks.contenders")
    runner = importlib.import_module("benchmarks.runner")
    report = importlib.import_module("benchmarks.report")
    workloads = importlib.import_module("benchmarks.workloads")
    timing = importlib.import_module("benchmarks.timing")
    now_ns = 0

    def tick(calls_left: float = math.inf) -> Callable[[], None]:
        def run() -> None:
            nonlocal now_ns, calls_left
            now_ns += 1000
            calls_left -= 1
            if calls_left < 0:
                raise RuntimeError("worn\nout")

        return run

    class Fake(package.Contender):  # type: ignore[name-defined, misc]
        def __init__(self, name: str) -> None:
            self.name = name

        def setup(self, contents: object) -> None:
            if self.name == "not set up":
                raise ValueError("cannot")

        def push(self) -> Callable[[], None]:
            if self.name == "not prepared":
                raise package.Unavailable("needs more")
            return tick({"not called": 0, "not for long": 600}.get(self.name, math.inf))

    monkeypatch.setattr(timing, "perf_counter_ns", lambda: now_ns)
    monkeypatch.setattr(package, "load", Fake)
    names = ("velora", "not set up", "not prepared", "not called", "not for long", "other")
    rows = replace(workloads.VECTORS, capacity=100)
    work = workloads.Workload("push", rows, "push")
    (result,) = runner.run([work], names, timing.QUICK, lambda line: None)
    assert {name: timed.median_us for name, timed in result.timings.items()} == {
        "velora": 1,
        "other": 1,
    }
    assert result.left_out == {
        "not set up": "ValueError: cannot",
        "not prepared": "needs more",
        "not called": "RuntimeError: worn out",
        "not for long": "RuntimeError: worn out",
    }
    assert ("not prepared", "everything", "needs more") in report.missing([result])


def test_work_for_all_threads_is_timed_with_all_and_with_one(benchmarks: Path) -> None:
    runner = importlib.import_module("benchmarks.runner")
    threads = importlib.import_module("benchmarks.threads")
    timing = importlib.import_module("benchmarks.timing")
    workloads = importlib.import_module("benchmarks.workloads")
    work = next(work for work in workloads.WORKLOADS if work.threads == "all")
    work = replace(work, rows=replace(work.rows, capacity=1000), arguments=(64,))
    plan = replace(timing.QUICK, clock="cpu")
    before = torch.get_num_threads()
    try:
        (result,) = runner.run([work], ["velora"], plan, lambda line: None)
        assert torch.get_num_threads() == threads.count("all")
    finally:
        torch.set_num_threads(before)
    assert result.timings.keys() == {"velora", "velora, one thread"}
    assert result.as_json()["threads"] == threads.count("all")
    # The clock of the process would count the threads one after another.
    assert result.clock == "wall"


def test_contender_that_memory_does_not_suffice_for_is_left_out(
    benchmarks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = importlib.import_module("benchmarks.room")
    monkeypatch.setattr(room, "free_nbytes", lambda: 5_000_000_000)
    assert room.lack_of_room(1_000_000_000) is None
    assert room.lack_of_room(2_000_000_000) == "needs 5.4 GB of memory, 5.0 GB are free"
    monkeypatch.setattr(room, "free_nbytes", lambda: None)
    assert room.lack_of_room(2_000_000_000) is None


def test_long_blocks_have_fewer_rounds(benchmarks: Path) -> None:
    timing = importlib.import_module("benchmarks.timing")
    plan = timing.Plan(rounds=100, block_us=10, seconds=1, least_rounds=7)
    assert plan.rounds_of(round_us=100) == 100
    assert plan.rounds_of(round_us=50_000) == 20
    assert plan.rounds_of(round_us=500_000) == 7


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_stacked_frames_is_that_of_the_frames_and_little_more(tmp_path: Path) -> None:
    arguments = ("--rows", "2000", "--ways", "frame_stack=4", "--results", str(tmp_path))
    run = run_benchmarks(*arguments, module="benchmarks.memory")
    assert run.returncode == 0, run.stderr
    assert "frame_stack=4 at most 7.3 GB" in run.stdout
    (result,) = document_in(tmp_path, "memory.json")["results"].values()
    assert result["rows"] == 2000
    # A few MB more or less are the process's own.
    assert 0.8 < result["full"] / (2000 * 84 * 84) < 1.5


def test_only_and_capacity_select_work_and_size(tmp_path: Path) -> None:
    run = run_benchmarks(
        "--quick", "--only", "sample 32", "--capacity", "2000", "--results", str(tmp_path)
    )
    assert run.returncode == 0, run.stderr
    results = document_in(tmp_path)["results"]
    # Images get a hundredth of the rows: too few for their batch.
    assert [(result["work"], result["capacity"]) for result in results] == [("sample 32", 2000)]


def test_only_without_a_match_fails(tmp_path: Path) -> None:
    run = run_benchmarks("--quick", "--only", "no such work", "--results", str(tmp_path))
    assert run.returncode == 1
    assert "nothing to time" in run.stdout
