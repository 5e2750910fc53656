"""`python -m benchmarks.cuda` runs and says what it found, as far as it goes without a GPU."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of the wheel"
)


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


def load(name: str) -> Any:
    return importlib.import_module(f"benchmarks.cuda.{name}")


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.cuda", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What a small run on the CPU printed, and what it wrote."""
    folder = tmp_path_factory.mktemp("cuda")
    run = run_benchmarks("--device", "cpu", "--small", "--results", str(folder))
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = folder.glob("*/cuda.json")
    (text,) = folder.glob("*/cuda.md")
    assert text.read_text(encoding="utf-8") in run.stdout
    return run.stdout, json.loads(path.read_text(encoding="utf-8"))


def test_dry_run_prints_aims_and_figures(dry_run: tuple[str, dict[str, Any]]) -> None:
    text, _ = dry_run
    for words in ("| aim ", "| host us ", "velora: at most 15 us host", "of device copy"):
        assert words in text
    assert "Without a GPU the figures mean nothing" in text


def test_dry_run_measures_each_work_and_checks_it(dry_run: tuple[str, dict[str, Any]]) -> None:
    _, document = dry_run
    assert {"date", "device", "machine", "versions", "sizes", "settings"} <= document.keys()
    results = {result["work"]: result for result in document["results"]}
    for work in ("sample 32", "sample 512", "extend 64 lanes", "advantages of 32 x 16"):
        figures = results[work]["contenders"]["velora"]
        assert figures["counts"] is None
        for clock in figures["clocks"].values():
            low, high = clock["quartiles_us"]
            assert 0 < clock["min_us"] <= low <= clock["median_us"] <= high
    assert results["sample 512"]["contenders"]["device copy"]["share_of_ceiling"] == 1
    assert results["advantages of 32 x 16"]["contenders"]["torch loop"]["nbytes"] > 0


def test_dry_run_says_what_needs_a_gpu(dry_run: tuple[str, dict[str, Any]]) -> None:
    text, document = dry_run
    assert "velora is left out of replay of a captured sample 32: needs a GPU" in text
    for result in document["results"]:
        for name, why in result["left_out"].items():
            assert not (name.startswith("velora") and why["is_fault"])


@pytest.mark.skipif(
    importlib.util.find_spec("torchrl") is not None, reason="torchrl is installed here"
)
def test_dry_run_without_torchrl_says_it_is_not_installed(
    dry_run: tuple[str, dict[str, Any]],
) -> None:
    assert "torchrl is left out of sample 32: not installed here" in dry_run[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_run_without_a_gpu_says_what_to_do(tmp_path: Path) -> None:
    run = run_benchmarks("--results", str(tmp_path))
    assert run.returncode == 1
    assert "--device cpu --small" in run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.cuda
@pytest.mark.undisturbed
def test_small_run_on_a_gpu_finds_no_fault_and_counts_launches(tmp_path: Path) -> None:
    run = run_benchmarks("--small", "--results", str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = tmp_path.glob("*/cuda.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    figures = document["results"][0]["contenders"]
    assert figures["velora"]["counts"]["kernels"] >= 1
    assert figures["torch columns"]["counts"]["kernels"] >= 5


def trace_of(*events: dict[str, Any]) -> dict[str, Any]:
    whole = {"ph": "X", "tid": 1, "ts": 0, "dur": 0, "name": ""}
    return {"traceEvents": [{"ph": "M", "name": "process_name"}, *({**whole, **e} for e in events)]}


def test_read_trace_counts_launches_and_copies_per_call() -> None:
    counts = load("trace").read(
        trace_of(
            {"cat": "kernel", "name": "sample", "ts": 5, "dur": 3},
            {"cat": "kernel", "name": "sample", "ts": 9, "dur": 2.5},
            {"cat": "gpu_memcpy", "name": "Memcpy DtoD", "dur": 1},
            {"cat": "cuda_runtime", "name": "cudaLaunchKernel"},
            {"cat": "cpu_op", "name": "aten::empty"},
        ),
        calls=2,
    )
    assert (counts.kernels, counts.copies, counts.device_us) == (1, 0.5, 3.25)


def test_read_trace_counts_waits_of_the_calling_thread_alone() -> None:
    calls = {"cat": "user_annotation", "name": "velora benchmark calls", "ts": 100, "dur": 50}
    wait = {"cat": "cuda_runtime", "name": "cudaStreamSynchronize", "ts": 120, "dur": 1}
    counts = load("trace").read(
        trace_of(
            calls,
            {**calls, "cat": "gpu_user_annotation", "tid": 7},
            wait,
            {**wait, "name": "cudaEventSynchronize"},
            {**wait, "name": "cudaMemcpy"},
            {**wait, "name": "cudaMemcpyAsync"},
            {**wait, "tid": 2},
            {**wait, "name": "cudaDeviceSynchronize", "ts": 160},
        ),
        calls=1,
    )
    assert counts.waits == 3


def result_of(aims: tuple[Any, ...], counts: dict[str, Any] | None = None) -> Any:
    """Of velora, which takes 2 us for 300 bytes, and a ceiling that takes 1 us for 200."""
    work = load("work").Work("w", {}, ("host", "device"), ceiling="copy", aims=aims)
    timing = importlib.import_module("benchmarks.timing").Timing
    timings = {
        ("velora", "host"): timing(10, (9.0, 10.0, 11.0)),
        ("velora", "device"): timing(10, (2.0, 4.0, 2.0)),
        ("copy", "device"): timing(10, (1.0, 2.0, 1.0)),
        ("peer", "host"): timing(10, (90.0, 100.0, 110.0)),
    }
    nbytes = {"velora": 300, "copy": 200, "peer": 0}
    return load("results").Result(work, timings, counts or {}, nbytes, {})


def test_share_is_a_ratio_of_rates_in_the_same_rounds() -> None:
    result = result_of(())
    assert result.share("velora") == 0.75
    assert result.share("copy") == 1
    assert result.share("peer") is None
    assert result.gigabytes_per_second("velora") == pytest.approx(0.15)


def test_aims_are_met_missed_or_unknown() -> None:
    aim = load("work").Aim
    aims = (
        aim("share", at_least=0.75),
        aim("host", at_most=9),
        aim("host", at_least=10, contender="peer", times="velora"),
        aim("host", at_least=10, contender="nobody", times="velora"),
        aim("kernels", at_most=1),
    )
    verdicts = result_of(aims, {"velora": load("trace").Counts(1, 0, 0, 3)}).verdicts()
    assert [verdict.met for verdict in verdicts] == [True, False, True, None, True]
    assert verdicts[1].aim == "velora: at most 9 us host"
    assert verdicts[2].aim == "peer: at least 10 x velora, host"
    assert result_of(aims).verdicts()[4].measured == "not measured"


def test_contender_that_is_wrong_is_a_fault_and_others_go_on() -> None:
    work, runner, clocks = load("work"), load("runner"), load("clocks")
    unavailable = importlib.import_module("benchmarks.contenders").Unavailable
    closed = []

    def fail(text: str, error: type[Exception]) -> None:
        raise error(text)

    def good(setting: object) -> Any:
        return work.Case(lambda: None, lambda: None)

    def wrong(setting: object) -> Any:
        check = lambda: fail("other\nrows", AssertionError)  # noqa: E731
        return work.Case(lambda: None, check, close=lambda: closed.append(True))

    contenders = {
        "good": good,
        "wrong": wrong,
        "absent": lambda setting: fail("needs more", unavailable),
    }
    setting = work.Setting(torch.device("cpu"), work.SMALL)
    wanted = [work.Work("w", contenders, ("host",))]
    (result,) = runner.run(wanted, setting, clocks.QUICK, lambda line: None)
    assert result.contenders == ["good"]
    assert result.left_out["wrong"].reason == "AssertionError: other rows"
    assert result.left_out["wrong"].is_fault
    assert not result.left_out["absent"].is_fault
    assert closed


def test_check_refuses_batches_that_are_not_rows() -> None:
    columns = load("columns").make_vectors(100, torch.device("cpu"))
    batch = SimpleNamespace(**columns.first(10).by_name())
    assert columns.check(batch).tolist() == list(range(10))
    batch.actions = batch.actions.roll(1, 0)
    with pytest.raises(AssertionError, match="actions of other rows"):
        columns.check(batch)
    twice = SimpleNamespace(states=columns.states[[1, 1]])
    assert columns.check(twice, distinct=False).tolist() == [1, 1]
    with pytest.raises(AssertionError, match="a row twice"):
        columns.check(twice)
    load("columns").overwrite(twice)
    with pytest.raises(AssertionError, match="nobody wrote"):
        columns.check(twice)


def test_images_carry_their_numbers_from_state_to_next_state() -> None:
    columns = load("columns").make_images(300)
    numbers = load("columns").row_numbers
    assert numbers(columns.states).tolist() == list(range(300))
    assert numbers(columns.next_states).tolist() == list(range(1, 301))


def test_blocks_hold_no_more_launches_than_the_queue() -> None:
    clocks = load("clocks")
    plan = replace(clocks.QUICK, block_us=1e9)

    def block(clock: str, launches: float) -> Any:
        return clocks.plan_block(lambda: None, clock, plan, launches, on_cuda=False)

    assert block("host", 50).calls == clocks.QUEUE // 50
    assert block("host", 10_000).calls == 1
    assert block("wall", 50).calls == clocks.MOST_CALLS
