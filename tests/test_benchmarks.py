"""`python -m benchmarks` runs and says what it found. What it measures is nobody's promise here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of the wheel"
)


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
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
    work = {result["work"] for result in document["results"]}
    assert {"push", "construct and push", "sample 32", "sample 256", "sample 4096"} <= work
    for result in document["results"]:
        contenders = result["contenders"]
        assert {"velora", "torch columns", "numpy columns"} <= contenders.keys()
        for figures in contenders.values():
            low, high = figures["quartiles_us"]
            assert 0 < figures["min_us"] <= low <= figures["median_us"] <= high
            assert figures["times_velora"] > 0


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
