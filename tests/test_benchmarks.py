"""`python -m benchmarks` runs and reports. The figures themselves are not tested."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of the wheel"
)


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


def load(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name}")


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
    """Results of a run on this machine."""
    (path,) = results.glob(f"*/{name}")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Output and results of a quick run of everything."""
    folder = tmp_path_factory.mktemp("benchmarks")
    run = run_benchmarks("--quick", "--results", str(folder))
    assert run.returncode == 0, run.stderr
    return run.stdout, folder


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of a quick run of the suite for a GPU."""
    folder = tmp_path_factory.mktemp("cuda")
    run = run_benchmarks("--suite", "cuda", "--quick", "--results", str(folder))
    assert run.returncode == 0, run.stdout + run.stderr
    return document_in(folder, "cuda.json")


def assert_figures_are_sound(document: dict[str, Any]) -> None:
    assert {"date", "machine", "versions", "settings"} <= document.keys()
    for result in document["results"]:
        for contender in result["contenders"].values():
            for figures in contender["clocks"].values():
                low, high = figures["quartiles_us"]
                assert 0 < figures["min_us"] <= low <= figures["median_us"] <= high


def test_quick_run_times_each_workload_and_draws_charts(quick: tuple[str, Path]) -> None:
    document = document_in(quick[1])
    assert_figures_are_sound(document)
    by_hand = {"velora", "numpy columns", "torch columns"}
    timed = {result["work"]: set(result["contenders"]) for result in document["results"]}
    for work in ("push", "sample 32", "sample 256", "sample 256 dicts", "advantages of 2048 x 64"):
        assert by_hand <= timed[work]
    assert {"velora", "velora, arrays", "numpy columns"} <= timed["extend 256"]
    assert {"velora", "velora, one step"} <= timed["n-step 256 x 3"]
    assert {"velora", "velora, episodes of 10"} <= timed["sequences 32 x 64 cross"]
    assert {"velora", "velora, frame_stack=4"} <= timed["sample 32 images"]
    for chart in ("bars", "capacity", "batch", "row"):
        (path,) = quick[1].glob(f"*/{chart}.png")
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(importlib.util.find_spec("torchrl") is not None, reason="torchrl is installed")
def test_contender_whose_library_is_missing_is_listed_with_the_reason(
    quick: tuple[str, Path],
) -> None:
    output, folder = quick
    assert "torchrl is left out of everything: No module named" in output
    for result in document_in(folder)["results"]:
        assert "No module named" in result["left_out"]["torchrl"]


def test_contender_that_could_not_be_installed_gives_the_reason_of_pip(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "failed-peer.txt").write_text("ERROR: no wheel\n", encoding="utf-8")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setitem(load("contenders").NAMES, "peer", "no_such_file.Peer")
    with pytest.raises(load("contenders").Unavailable, match=r"No module named .*; ERROR: no wh"):
        load("contenders").load("peer")


def test_committed_results_are_drawn_without_measuring_again(tmp_path: Path) -> None:
    (path,) = (ROOT / "benchmarks" / "results").glob("intel*/results.json")
    run = run_benchmarks(str(path), "--charts", str(tmp_path), module="benchmarks.charts")
    assert run.returncode == 0, run.stderr
    assert {chart.stem for chart in tmp_path.iterdir()} == {"bars", "capacity", "batch", "row"}


def test_only_and_capacity_select_work_and_size(tmp_path: Path) -> None:
    run = run_benchmarks(
        *("--quick", "--only", "sample 32", "--capacity", "2000", "--results", str(tmp_path))
    )
    assert run.returncode == 0, run.stderr
    # Images get a hundredth of the rows, which is less than their batch.
    results = document_in(tmp_path)["results"]
    assert [(result["work"], result["capacity"]) for result in results] == [("sample 32", 2000)]


def test_only_without_a_match_fails(tmp_path: Path) -> None:
    run = run_benchmarks("--quick", "--only", "no such work", "--results", str(tmp_path))
    assert run.returncode == 1
    assert "nothing to time" in run.stderr


def test_stacks_of_one_episode_move_on_by_a_frame() -> None:
    images = load("workloads").IMAGES
    leaf = replace(images.state, shape=(4, 2, 2))
    contents = replace(images, leaves=(leaf,), capacity=2_000).make_contents()
    ends = (contents.dones + contents.truncations)[:, 0] > 0
    assert 0 < ends.sum() < 50
    follows = ~ends[:-1]
    np.testing.assert_array_equal(contents.states[1:][follows], contents.next_states[:-1][follows])
    np.testing.assert_array_equal(contents.states[:, 1:], contents.next_states[:, :-1])


class Fake:
    """A contender that fails in one way."""

    is_ceiling = False

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name

    def setup(self, contents: object) -> None:
        if self.name == "not set up":
            raise ValueError("cannot\ndo it")

    def push(self) -> Any:
        if self.name == "not prepared":
            raise load("contenders").Unavailable("needs more")
        return (lambda: 1 / 0) if self.name == "not called" else lambda: None

    def close(self) -> None:
        pass


def test_contender_that_fails_is_listed_with_the_reason_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workloads = load("workloads")
    names = ("velora", "not set up", "not prepared", "not called")
    monkeypatch.setattr(load("contenders"), "load", Fake)
    rows = replace(workloads.VECTORS, capacity=100)
    work = workloads.Workload("push", rows, "push", contenders=names)
    (result,) = load("runner").run([work], names, load("clocks").QUICK, CPU, lambda line: None)
    assert result.contenders == ["velora"]
    assert result.reasons == {
        "not set up": "ValueError: cannot do it",
        "not prepared": "needs more",
        "not called": "ZeroDivisionError: division by zero",
    }


def test_work_for_all_threads_is_timed_with_all_and_with_one(tmp_path: Path) -> None:
    run = run_benchmarks(
        *("--quick", "--only", "all threads", "--contenders", "velora", "--clock", "cpu"),
        *("--capacity", "70000", "--results", str(tmp_path)),
    )
    assert run.returncode == 0, run.stderr
    (result,) = document_in(tmp_path)["results"]
    assert result["contenders"].keys() == {"velora", "velora, one thread"}
    assert result["threads"] == load("machine").count_threads("all")
    # The clock of the process would count the threads one after another.
    assert result["clock"] == "wall"


def test_slow_first_call_does_not_decide_how_many_calls_fill_a_block() -> None:
    clocks = load("clocks")
    durations_us = iter([50_000])
    clock = clocks.Clock(
        lambda run, calls: sum(run() or 2 for _ in range(calls)) / calls  # two after the first
    )
    block = clocks.plan_block(lambda: next(durations_us, None), clock, clocks.QUICK)
    assert block.calls == clocks.QUICK.block_us / 2
    assert block.time() == 2


def test_block_holds_no_more_launches_than_the_queue() -> None:
    clocks = load("clocks")
    clock = clocks.Clock(lambda run, calls: 1.0, is_queued=True)
    for launches in (50, 10_000):
        block = clocks.plan_block(lambda: None, clock, clocks.FULL_CUDA, launches)
        assert block.calls == max(1, clocks.QUEUE // launches)


def test_contender_that_memory_does_not_suffice_for_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = load("machine")
    monkeypatch.setattr(machine, "free_nbytes", lambda: 5_000_000_000)
    assert machine.lack_of_memory(1_000_000_000) is None
    reason = machine.lack_of_memory(2_000_000_000)
    assert reason == "needs 5.4 GB of memory, 5.0 GB are free"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_stacked_frames_is_that_of_the_frames_and_little_more(tmp_path: Path) -> None:
    arguments = ("--rows", "2000", "--ways", "frame_stack=4", "--results", str(tmp_path))
    run = run_benchmarks(*arguments, module="benchmarks.memory")
    assert run.returncode == 0, run.stderr
    (result,) = document_in(tmp_path, "memory.json")["results"].values()
    assert result["rows"] == 2000
    # A few MB more or less are the process's own.
    assert 0.8 < result["full"] / (2000 * 84 * 84) < 1.5


def test_suite_for_a_gpu_runs_without_one(dry_run: dict[str, Any]) -> None:
    assert_figures_are_sound(dry_run)
    results = {result["work"]: result for result in dry_run["results"]}
    for work in ("sample 32", "sample 512", "extend 64 lanes", "advantages of 32 x 16"):
        assert {"velora", "torch columns"} <= results[work]["contenders"].keys()
    assert results["sample 512"]["contenders"]["copy, device"]["share_of_ceiling"] == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_suite_for_a_gpu_without_one_says_what_to_do(
    dry_run: dict[str, Any], tmp_path: Path
) -> None:
    replay = next(result for result in dry_run["results"] if "captured" in result["work"])
    assert replay["left_out"]["velora"] == "needs a GPU"
    run = run_benchmarks("--suite", "cuda", "--results", str(tmp_path))
    assert run.returncode == 1
    assert "--quick" in run.stderr


@pytest.mark.cuda
@pytest.mark.undisturbed
def test_quick_run_on_a_gpu_finds_no_fault_and_counts_launches(dry_run: dict[str, Any]) -> None:
    figures = dry_run["results"][0]["contenders"]
    assert figures["velora"]["counts"]["kernels"] >= 1
    assert figures["torch columns"]["counts"]["kernels"] >= 5


def result_of(*aims: Any, **options: Any) -> Any:
    """Of velora, which takes 2 us for 300 bytes, and a ceiling that takes 1 us for 200."""
    workloads, timing = load("workloads"), load("clocks").Timing
    work = workloads.Workload(
        *("w", workloads.VECTORS, "sample", (1,)),
        clocks=("host", "device"),
        ceiling="copy",
        aims=aims,
    )
    timings = {
        ("velora", "host"): timing(10, (9.0, 10.0, 11.0)),
        ("velora", "device"): timing(10, (2.0, 4.0, 2.0)),
        ("copy", "device"): timing(10, (1.0, 2.0, 1.0)),
        ("peer", "host"): timing(10, (90.0, 100.0, 110.0)),
    }
    return load("results").Result(work, timings, {}, nbytes={"velora": 300, "copy": 200}, **options)


def test_share_is_a_ratio_of_rates_in_the_same_rounds() -> None:
    result = result_of()
    assert result.share("velora") == 0.75
    assert result.share("peer") is None
    assert result.rate("velora") == pytest.approx(0.15)


def test_aims_are_met_missed_or_unknown() -> None:
    aim = load("workloads").Aim
    aims = (
        aim("velora", "share", at_least=0.75),
        aim("velora", "host", at_most=9),
        aim("peer", "host", at_least=10, times="velora"),
        aim("nobody", "host", at_least=10, times="velora"),
        aim("velora", "kernels", at_most=1),
    )
    counts = {"velora": load("trace").Counts(1, 0, 0, 3)}
    met = [met for _, _, met in result_of(*aims, counts=counts).aims()]
    assert met == [True, False, True, None, True]


@pytest.mark.parametrize(("error", "has_fault"), [("AssertionError", True), ("Unavailable", False)])
def test_velora_that_is_wrong_is_a_fault(error: str, has_fault: bool) -> None:
    kinds = {"AssertionError": AssertionError, "Unavailable": load("contenders").Unavailable}
    result = replace(result_of(), left_out={"velora, out=": kinds[error]("other rows")})
    assert result.has_fault == has_fault


def test_batches_that_are_not_rows_are_refused() -> None:
    contents = replace(load("workloads").VECTORS, capacity=100).make_contents()
    fields = [contents.states, contents.actions, contents.rewards]
    fields += [contents.next_states, contents.dones]
    batch = [torch.from_numpy(column[40:50].copy()) for column in fields]
    assert contents.find(batch).tolist() == list(range(40, 50))
    for i in range(4):
        wrong = [tensor.roll(1, 0) if i == j else tensor for j, tensor in enumerate(batch)]
        with pytest.raises(AssertionError):
            contents.find(wrong)


def trace_of(*events: dict[str, Any]) -> dict[str, Any]:
    whole = {"ph": "X", "tid": 1, "ts": 0, "dur": 0, "name": ""}
    return {"traceEvents": [{"ph": "M", "name": "process_name"}, *({**whole, **e} for e in events)]}


def test_read_trace_counts_launches_copies_and_waits_per_call() -> None:
    calls = {"cat": "user_annotation", "name": "velora benchmark calls", "ts": 100, "dur": 50}
    wait = {"cat": "cuda_runtime", "name": "cudaStreamSynchronize", "ts": 120, "dur": 1}
    trace = trace_of(
        {"cat": "kernel", "name": "sample", "ts": 5, "dur": 3},
        {"cat": "kernel", "name": "sample", "ts": 9, "dur": 2.5},
        {"cat": "gpu_memcpy", "name": "Memcpy DtoD", "dur": 1},
        {"cat": "cuda_runtime", "name": "cudaLaunchKernel"},
        calls,
        {**calls, "cat": "gpu_user_annotation", "tid": 7},
        wait,
        {**wait, "name": "cudaMemcpy"},
        {**wait, "name": "cudaMemcpyAsync"},
        {**wait, "tid": 2},
        {**wait, "name": "cudaDeviceSynchronize", "ts": 160},
    )
    counts = load("trace").read(trace, calls=2)
    assert (counts.kernels, counts.copies, counts.waits, counts.device_us) == (1, 0.5, 1, 3.25)
