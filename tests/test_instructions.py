"""The guard over instruction counts fails when it should. Nothing is counted here."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of the wheel"
)

EXPECTED = {"push": {"total": 5000, "_core": 1000}, "sample 32": {"total": 40_000, "_core": 9000}}


@pytest.fixture
def instructions(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, as it is imported from the repository's root."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.instructions")


def with_push(**parts: int) -> dict[str, dict[str, int]]:
    """EXPECTED, with other counts for a push."""
    return {**EXPECTED, "push": {**EXPECTED["push"], **parts}}


@pytest.fixture
def guard(instructions: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The module where EXPECTED is committed, valgrind is there, and EXPECTED is counted."""
    path = tmp_path / "instructions.json"
    instructions.Figures({"torch": "1.0"}, EXPECTED).write(path)
    monkeypatch.setattr(instructions, "PATH", path)
    monkeypatch.setattr(instructions.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(instructions, "_describe_environment", lambda: {"torch": "1.0"})
    monkeypatch.setattr(instructions, "_count", lambda hash_seed: EXPECTED)
    return instructions


def test_compare_finds_nothing_within_the_tolerance(instructions: Any) -> None:
    for parts in ({}, {"total": 5500}, {"total": 4500}, {"_core": 1100}, {"_core": 900}):
        found = instructions.compare(EXPECTED, with_push(**parts))
        assert (found.failures, found.gains) == ([], [])


@pytest.mark.parametrize(
    ("where", "count", "line"),
    [
        ("total", 5505, "push, total: 5,505 instructions a call, 5,000 expected: +10.1%"),
        ("_core", 1101, "push, _core: 1,101 instructions a call, 1,000 expected: +10.1%"),
    ],
)
def test_compare_fails_what_costs_more(
    instructions: Any, where: str, count: int, line: str
) -> None:
    found = instructions.compare(EXPECTED, with_push(**{where: count}))
    assert (found.failures, found.gains) == ([line], [])


def test_compare_reports_what_costs_less_as_a_gain(instructions: Any) -> None:
    found = instructions.compare(EXPECTED, with_push(total=4495))
    line = "push, total: 4,495 instructions a call, 5,000 expected: -10.1%"
    assert (found.failures, found.gains) == ([], [line])


def test_compare_fails_what_only_one_side_has(instructions: Any) -> None:
    without = {"sample 32": EXPECTED["sample 32"]}
    assert instructions.compare(EXPECTED, without).failures == [
        "push, total: 5,000 instructions a call expected, not counted",
        "push, _core: 1,000 instructions a call expected, not counted",
    ]
    assert instructions.compare(without, EXPECTED).failures == [
        "push, total: 5,000 instructions a call, no figure to compare with",
        "push, _core: 1,000 instructions a call, no figure to compare with",
    ]


def test_count_that_misses_the_extension_fails(instructions: Any) -> None:
    callgrind = importlib.import_module("benchmarks.callgrind")
    own = {("f", "libpython3.so"): 30_000, ("g", "_core.cpython-311.so"): 10_000}
    parts = instructions.a_call(callgrind.Counts(Counter(own)), 10)
    assert parts == {"total": 4000, "_core": 1000}
    del own["g", "_core.cpython-311.so"]
    parts = instructions.a_call(callgrind.Counts(Counter(own)), 10)
    assert instructions.compare({"push": {"total": 3000, "_core": 1000}}, {"push": parts}).failures


def test_mismatches_name_what_differs_on_either_side(instructions: Any) -> None:
    figures = {"torch": "2.13.0", "python": "3.11", "libc": "glibc 2.36"}
    assert instructions.mismatches(figures, dict(figures)) == []
    assert instructions.mismatches(figures, {"torch": "2.14.0", "python": "3.11", "cpu": "x"}) == [
        "torch is 2.14.0, the figures hold for 2.13.0",
        "libc is unknown, the figures hold for glibc 2.36",
        "cpu is x, the figures hold for unknown",
    ]


def test_compiler_is_read_from_what_it_left_in_the_library(instructions: Any) -> None:
    gcc, clang = b"\0GCC: (Debian 12.2.0-14) 12.2.0\0", b"\0Debian clang version 19.1.7\0"
    assert instructions._compiler_of(gcc + gcc) == "GCC 12.2.0"
    assert instructions._compiler_of(clang + gcc) == "GCC 12.2.0, clang 19.1.7"
    assert instructions._compiler_of(b"") == "unknown"


def test_guard_passes_what_is_as_expected(guard: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert guard.main([]) == 0
    assert "2 operations" in capsys.readouterr().out


def test_guard_passes_gains_and_says_so(
    guard: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard, "_count", lambda hash_seed: with_push(total=4000))
    assert guard.main([]) == 0
    out = capsys.readouterr().out
    assert "push, total: 4,000 instructions a call, 5,000 expected: -20.0%" in out
    assert "make counts" in out


def test_guard_fails_where_its_figures_do_not_hold(
    guard: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard, "_describe_environment", lambda: {"torch": "1.1"})
    assert guard.main([]) == 1
    err = capsys.readouterr().err
    assert "torch is 1.1, the figures hold for 1.0" in err
    assert "make counts" in err


def test_guard_fails_without_valgrind(
    guard: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard.shutil, "which", lambda name: None)
    assert guard.main([]) == 1
    assert "valgrind is not installed" in capsys.readouterr().err


def test_guard_passes_what_only_some_processes_pay(
    guard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []

    def count(hash_seed: int) -> dict[str, dict[str, int]]:
        seeds.append(hash_seed)
        return with_push(total=5600 if hash_seed == 0 else 5000)

    monkeypatch.setattr(guard, "_count", count)
    assert guard.main([]) == 0
    assert seeds == [0, 1]


def test_guard_fails_what_every_process_pays(
    guard: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard, "_count", lambda hash_seed: with_push(total=5600 - hash_seed))
    assert guard.main([]) == 1
    err = capsys.readouterr().err
    assert "push, total: 5,598 instructions a call, 5,000 expected: +12.0%" in err
    assert "make counts" in err


def test_write_keeps_the_least_for_the_guard_to_read(
    guard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_count", lambda hash_seed: with_push(total=9000 - hash_seed))
    assert guard.main(["--write"]) == 0
    assert guard.Figures.read(guard.PATH).instructions == with_push(total=8998)
    assert guard.main([]) == 0


def test_committed_figures_have_both_counts_of_each_operation(instructions: Any) -> None:
    committed = json.loads((ROOT / "benchmarks" / "instructions.json").read_text(encoding="utf-8"))
    assert {"python", "torch", "numpy", "compiler"} <= committed["hold_for"].keys()
    assert {"push", "sample 1", "sample 256", "n-step 256 x 3"} <= committed["instructions"].keys()
    for parts in committed["instructions"].values():
        assert 0 < parts["_core"] < parts["total"]
