"""The scripts for a machine with a GPU, with stand-ins for what is only there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
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

# Makes a program that answers as the environment says.
NVCC = """\
#!/bin/sh
while [ $# -gt 0 ]; do
  [ "$1" = -o ] && printf '#!/bin/sh\\nexit %s\\n' "${GRAPHS:-0}" > "$2" && chmod +x "$2"
  shift
done
"""

# Stands in for a Python with torch and pytest, and records its arguments. A smoke program or a
# test file that is named in the environment fails, hangs for good, or has a test that hangs.
PYTHON = """\
#!/bin/sh
echo "$* graphs=$VELORA_GRAPHS_WAIT path=$PYTHONPATH" >> "$SEEN"
for last; do :; done
case "$*" in
  *gpu_versions.py) echo "torch 1.2.3" ;;
  *"-m pip"*) mkdir -p build/cuda/site ;;
  *"-m pytest"*--deselect*) echo "==== 6 passed in 1s ====" ;;
  *)
    case $last in
      $FAILS) echo "FAILED $last::test_one - no"; exit 1 ;;
      $SLOW) echo "began"; sleep 30 ;;
      $HANGS)
        echo "$last::test_one[a b] PASSED"
        printf '%s\\n' "$last::test_two[c d] " "+++++++++ Timeout +++++++++"
        exit 1 ;;
      *) echo "==== 7 passed in 1s ====" ;;
    esac ;;
esac
"""


def write_program(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def run_script(
    name: str, *arguments: str, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a script in a separate clone, with `folder / bin` first in PATH."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(folder / "scripts" / name), *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, "OUT": str(folder / "out"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def clone(folder: Path) -> Path:
    """A clone with two test files for a GPU and one for none."""
    write_program(folder / "bin" / "nvidia-smi", "#!/bin/sh\nprintf '9.0\\n12.0\\n9.0\\n'\n")
    write_program(folder / "bin" / "gpu-python", PYTHON)
    for name in ("csrc", "velora", "tests"):
        (folder / name).mkdir()
    for name in ("CMakeLists.txt", "pyproject.toml"):
        (folder / name).touch()
    for name in ("cuda_graph", "cuda_other", "none"):
        mark = "" if name == "none" else "@" + "pytest.mark.cuda\n"
        (folder / "tests" / f"test_{name}.py").write_text(mark, encoding="utf-8")
    return folder


def gpu(clone: Path, stage: str, **environment: str) -> tuple[int, list[str], list[str]]:
    """Its exit code, the lines of its summary, and the commands that Python was given."""
    (clone / "seen").unlink(missing_ok=True)
    base = dict.fromkeys(("FAILS", "SLOW", "HANGS"), "-")
    base |= {"GPU_PYTHON": "gpu-python", "SEEN": str(clone / "seen")}
    run = run_script("gpu", stage, folder=clone, **{**base, **environment})
    assert not run.stderr, run.stderr
    summary = (clone / "out" / "summary.txt").read_text(encoding="utf-8")
    assert summary == run.stdout
    return run.returncode, summary.splitlines(), (clone / "seen").read_text().splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    write_program(tmp_path / "bin" / "compute-sanitizer", SANITIZER)
    write_program(tmp_path / "bin" / "nvcc", NVCC)
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


def commands_with(commands: list[str], *words: str) -> list[str]:
    return [command for command in commands if all(word in command for word in words)]


def verdicts(summary: list[str]) -> dict[str, str]:
    """Returns the outcome of each step."""
    found = [re.fullmatch(r"(\S.*?) +\d+ s  (.+)", line) for line in summary]
    return {match[2]: match[1] for match in found if match}


def test_gpu_test_builds_for_what_is_here_and_runs_graphs_last(clone: Path) -> None:
    code, summary, commands = gpu(clone, "test")
    assert code == 0
    assert set(verdicts(summary).values()) == {"passed"}
    assert list(verdicts(summary))[-2:] == ["test_cuda_other", "test_cuda_graph"]
    (build,) = commands_with(commands, "-m pip", "VELORA_CUDA=on")
    assert "VELORA_CUDA_ARCHITECTURES=90;120" in build
    assert "VELORA_GRAPHS_WAIT=ON" in build
    for command in commands_with(commands, "-m pytest"):
        assert "--timeout=60 --timeout-method=thread" in command
        assert f"path={clone / 'build/cuda/site'}:{clone}:" in command
    assert summary[-1].startswith("all passed after")


def test_gpu_test_goes_on_after_what_fails_and_shows_it(clone: Path) -> None:
    code, summary, _ = gpu(clone, "test", FAILS="samples")
    assert code == 1
    assert verdicts(summary)["smoke samples"] == "FAILED"
    assert verdicts(summary)["test_cuda_graph"] == "passed"
    assert summary[-1].startswith("NOT ALL PASSED")


def test_gpu_test_runs_a_file_again_without_the_test_that_hangs(clone: Path) -> None:
    file = "tests/test_cuda_other.py"
    code, summary, commands = gpu(clone, "test", HANGS=file)
    assert code == 1
    assert f"          hangs: {file}::test_two" in summary
    assert "          ==== 6 passed in 1s ====" in summary
    again = commands_with(commands, "-m pytest", f"--deselect {file}::test_two {file}")
    assert len(again) == 1


def test_gpu_bench_runs_what_failed_before_and_nothing_else_again(clone: Path) -> None:
    file = "tests/test_cuda_graph.py"
    assert gpu(clone, "test", FAILS=file)[0] == 1
    code, summary, commands = gpu(clone, "bench")
    assert code == 0
    (tests,) = commands_with(commands, "-m pytest")
    assert f" {file} " in tests
    assert not commands_with(commands, "VELORA_CUDA=on"), "built again, and nothing has changed"
    assert verdicts(summary)["benchmarks"] == "passed"
    assert not commands_with(gpu(clone, "bench")[2], "-m pytest")


def test_gpu_with_graphs_that_do_not_wait_for_graphs_builds_without(clone: Path) -> None:
    code, summary, commands = gpu(clone, "test", GRAPHS="3")
    assert code == 1
    assert verdicts(summary)["graph events"] == "FAILED"
    assert commands_with(commands, "-m pip", "VELORA_GRAPHS_WAIT=OFF")
    assert verdicts(summary)["test_cuda_graph"] == "passed"


def test_gpu_cuts_a_step_that_outlasts_the_call_and_says_what_did_not_run(clone: Path) -> None:
    code, summary, _ = gpu(clone, "test", SLOW="capture", VELORA_GPU_SECONDS="10")
    assert code == 1
    assert verdicts(summary)["smoke capture"] == "CUT"
    assert "          | began" in summary
    assert any(re.match(r"NOT RUN +tests/test_cuda_graph\.py: no time", line) for line in summary)


def test_gpu_that_is_cut_leaves_a_summary_that_says_what_ran(clone: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{clone / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "OUT": str(clone / "out"),
        "GPU_PYTHON": "gpu-python",
        "SEEN": str(clone / "seen"),
        "FAILS": "-",
        "HANGS": "-",
        "SLOW": "capture",
    }
    summary = clone / "out" / "summary.txt"
    with subprocess.Popen(
        [str(clone / "scripts" / "gpu"), "test"], env=environment, start_new_session=True
    ) as run:
        deadline = time.monotonic() + 50
        while not (summary.exists() and "running   smoke capture" in summary.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGKILL)
    text = summary.read_text(encoding="utf-8")
    assert re.search(r"^passed +\d+ s  smoke samples$", text, re.MULTILINE)
    assert text.splitlines()[-1].startswith("running   smoke capture since second")


def test_gpu_makes_carried_wheels_importable_before_what_is_installed(clone: Path) -> None:
    wheels = clone / "wheels"
    wheels.mkdir()
    (wheels / "made_up-1.0-py3-none-any.whl").touch()
    _, _, commands = gpu(clone, "inspect", VELORA_WHEELS=str(wheels), PYTHONPATH="/before")
    (install,) = commands_with(commands, "-m pip", "--no-index", "made_up-1.0-py3-none-any.whl")
    assert f"--target {clone / 'build/gpu/carried'}" in install
    assert f"path={clone / 'build/gpu/carried'}:/before" in install


def test_gpu_with_a_stage_that_is_none_does_nothing(clone: Path) -> None:
    run = run_script("gpu", "tset", folder=clone)
    assert run.returncode == 2
    assert "expected test, bench or inspect, got 'tset'" in run.stderr
    assert not (clone / "out").exists()


@pytest.mark.parametrize("stage", ["test", "bench", "inspect"])
def test_rehearsal_without_a_gpu_goes_through_each_stage(stage: str, clone: Path) -> None:
    code, summary, commands = gpu(clone, stage, VELORA_GPU_REHEARSAL="1")
    assert code == 0
    assert set(verdicts(summary).values()) <= {"passed", "left out"}
    assert any(
        "left out: a rehearsal uses the velora that is installed" in line for line in summary
    )
    assert not commands_with(commands, "-m pip")
    named = {"test": "smoke samples", "bench": "benchmarks", "inspect": "racecheck"}[stage]
    assert verdicts(summary)[named] == "passed"


def test_smoke_on_the_emulation_compares_a_buffer_with_the_cpu() -> None:
    command = [sys.executable, "scripts/gpu_smoke.py", "first_use"]
    environment = {**os.environ, "VELORA_GPU_REHEARSAL": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


HIDES_GYMNASIUM = """
import sys
import pytest


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "gymnasium":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hidden())
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_collect_without_gymnasium_finds_all_tests_for_a_gpu() -> None:
    options = ["--collect-only", "-q", "-m", "cuda", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-c", HIDES_GYMNASIUM, *options], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout
    found = {line.partition("::")[0] for line in run.stdout.splitlines() if "::" in line}
    marked = re.compile(r"^(?:@|pytestmark = \[?|.*marks=\[?)pytest\.mark\.cuda", re.MULTILINE)
    files = (path for path in (ROOT / "tests").glob("test_*.py") if marked.search(path.read_text()))
    collecting = {"tests/test_collect_interrupts.py"}  # from environments, without which it cannot
    assert found == {path.relative_to(ROOT).as_posix() for path in files} - collecting
