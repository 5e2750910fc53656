"""The scripts for a machine with a GPU, with stand-ins for what is only there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    not (ROOT / "scripts").is_dir(), reason="the scripts are not part of the wheel"
)

# It finds what is planted, unless it is blind, and what the environment says of the other command.
SANITIZER = """\
#!/bin/sh
case "$*" in
  --help) echo "--kernel-name --padding --launch-timeout" ;;
  --version) echo "Version 1.0" ;;
  *planted*) exit "${PLANTED:-87}" ;;
  *)
    echo "$@ caching=$PYTORCH_NO_CUDA_MEMORY_CACHING" >> "$SEEN"
    echo "========= $SUMMARY"
    exit "${CODE:-0}" ;;
esac
"""
CLEAN = "ERROR SUMMARY: 0 errors"


def write_program(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def run_script(
    name: str, *arguments: str, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """In a folder of its own, with the programs of `folder / bin` before all others."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(ROOT / "scripts" / name), *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    write_program(tmp_path / "bin" / "compute-sanitizer", SANITIZER)
    write_program(tmp_path / "bin" / "nvcc", "#!/bin/sh\n")
    return tmp_path


def sanitize(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {"SUMMARY": CLEAN, "SEEN": str(folder / "seen"), **environment}
    return run_script("sanitize-cuda", "true", folder=folder, **environment)


def test_sanitize_without_findings_passes_after_each_tool(folder: Path) -> None:
    run = sanitize(folder)
    assert run.returncode == 0, run.stdout + run.stderr
    for tool in ("memcheck", "racecheck", "synccheck"):
        assert f"{tool}: nothing found" in run.stdout
    memcheck, *_ = (folder / "seen").read_text(encoding="utf-8").splitlines()
    for option in ("--tool memcheck", "--kernel-name kns=velora", "--padding 256", "caching=1"):
        assert option in memcheck


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"CODE": "87", "SUMMARY": "ERROR SUMMARY: 3 errors"}, "exit code 87; "),
        ({"CODE": "1"}, "exit code 1"),
        ({"SUMMARY": "RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)"}, "1 hazard"),
        ({"SUMMARY": ""}, "it never looked"),
    ],
    ids=["errors", "failing tests", "warnings", "silence"],
)
def test_sanitize_with_findings_fails(
    folder: Path, environment: dict[str, str], words: str
) -> None:
    run = sanitize(folder, **environment)
    assert run.returncode == 1
    assert words in run.stdout


def test_sanitize_with_a_blind_sanitizer_fails(folder: Path) -> None:
    run = sanitize(folder, PLANTED="0")
    assert run.returncode == 1
    assert "memcheck does not find an error that is there" in run.stderr
    assert not (folder / "seen").exists()


def test_gpu_goes_on_after_a_failing_stage_and_says_so_last(folder: Path) -> None:
    make = 'echo "made $1"; test "$1" != test-cuda'
    write_program(folder / "bin" / "make", f"#!/bin/sh\n{make}\n")
    write_program(folder / "bin" / "nvidia-smi", "#!/bin/sh\nprintf '9.0\\n12.0\\n9.0\\n'\n")
    run = run_script("gpu", "build", "test", "sanitize", folder=folder, OUT=str(folder / "out"))
    assert run.returncode == 1
    *_, head, build, test, sanitizers = run.stdout.splitlines()
    assert head == "velora on 90;120:"
    assert build.split()[:2] == ["build", "passed"]
    assert test.split()[:2] == ["test", "FAILED"]
    assert sanitizers.split()[:2] == ["sanitize", "passed"]
    assert "made test-cuda" in (folder / "out" / "test.log").read_text(encoding="utf-8")


def test_gpu_with_a_stage_that_is_none_does_nothing(folder: Path) -> None:
    run = run_script("gpu", "build", "tset", folder=folder, OUT=str(folder / "out"))
    assert run.returncode == 2
    assert "no stage tset" in run.stderr
    assert not list((folder / "out").iterdir())
