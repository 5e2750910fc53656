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
    document = {"hold_for": {"torch": "1.0"}, "instructions": EXPECTED}
    path.write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setattr(instructions, "PATH", path)
    monkeypatch.setattr(instructions.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(instructions, "_describe_environment", lambda: {"torch": "1.0"})
    monkeypatch.setattr(instructions, "_count", lambda hash_seed: EXPECTED)
    return instructions


def test_compare_fails_what_only_one_side_has(instructions: Any) -> None:
    without = {"sample 32": EXPECTED["sample 32"]}
    for sides in ((EXPECTED, without), (without, EXPECTED)):
        failures, gains = instructions.compare(*sides)
        assert len(failures) == 2
        assert not gains


def test_count_that_misses_the_extension_fails(instructions: Any) -> None:
    own = {("f", "libpython3.so"): 30_000, ("g", "_core.cpython-311.so"): 10_000}
    parts = instructions.a_call(Counter(own), 10)
    assert parts == {"total": 4000, "_core": 1000}
    del own["g", "_core.cpython-311.so"]
    parts = instructions.a_call(Counter(own), 10)
    assert instructions.compare({"push": {"total": 3000, "_core": 1000}}, {"push": parts})[0]


@pytest.mark.parametrize("parts", [{}, {"total": 5500}, {"_core": 1100}, {"_core": 900}])
def test_guard_passes_what_is_within_the_tolerance(
    guard: Any, monkeypatch: pytest.MonkeyPatch, parts: dict[str, int]
) -> None:
    monkeypatch.setattr(guard, "_count", lambda hash_seed: with_push(**parts))
    assert guard.main([]) == 0


def test_guard_passes_what_only_some_processes_pay(
    guard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        guard, "_count", lambda hash_seed: with_push(total=5600 if hash_seed == 0 else 5000)
    )
    assert guard.main([]) == 0


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
    written = json.loads(guard.PATH.read_text(encoding="utf-8"))
    assert written["instructions"] == with_push(total=8998)
    assert guard.main([]) == 0


def test_committed_figures_have_both_counts_of_each_operation(instructions: Any) -> None:
    committed = json.loads((ROOT / "benchmarks" / "instructions.json").read_text(encoding="utf-8"))
    assert {"python", "torch", "numpy", "compiler"} <= committed["hold_for"].keys()
    assert {"push", "sample 1", "sample 256", "n-step 256 x 3"} <= committed["instructions"].keys()
    for parts in committed["instructions"].values():
        assert 0 < parts["_core"] < parts["total"]
