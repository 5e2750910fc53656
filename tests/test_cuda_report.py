"""The report about CUDA kernels, from recorded words of the compiler. None of it needs nvcc."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of the wheel"
)

# Of nvcc 13.0: a kernel that spills and calls a function, and an instance of a template.
LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN6velora4cuda4sumsEPfPKfi' for 'sm_80'
ptxas info    : Function properties for _ZN6velora4cuda4sumsEPfPKfi
    624 bytes stack frame, 588 bytes spill stores, 580 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 624 bytes cumulative stack size
ptxas info    : Compile time = 40.552 ms
ptxas info    : Function properties for _ZN6velora4cuda6helperEPKfi
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Compiling entry function '_ZN6velora4cuda4scanIfEEvPT_PKS2_i' for 'sm_80'
ptxas info    : Function properties for _ZN6velora4cuda4scanIfEEvPT_PKS2_i
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 1 barriers, 1024 bytes smem
ptxas info    : Compile time = 1.602 ms
"""
SECTIONS = """\
  [14] .nv.info._ZN6velora4cuda4sumsEPfPKfi LOPROC+0 0000 0016bc 000134 00   I  3  24  4
  [15] .text._ZN6velora4cuda4sumsEPfPKfi PROGBITS 0000 001700 003880 00  AX  3 5 128
  [16] .text._ZN6velora4cuda4scanIfEEvPT_PKS2_i PROGBITS 0000 004f80 000180 00  AX  3 6 128
"""


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


def load() -> Any:
    return importlib.import_module("benchmarks.cuda_report")


def test_kernels_of_a_recorded_log_have_their_resources_and_those_of_called_functions() -> None:
    sums, scan = load().read_kernels(LOG, SECTIONS)
    assert list(sums.values())[1:] == ["sm_80", 32, 0, 640, 592, 588, 0x3880]
    assert list(scan.values())[1:] == ["sm_80", 12, 1024, 0, 0, 0, 0x180]


def test_compilations_of_a_command_are_one_for_each_architecture() -> None:
    command = (
        'nvcc -I/src -O3 "--generate-code=arch=compute_75,code=[sm_75]" '
        '"--generate-code=arch=compute_120,code=[compute_120,sm_120]" --threads=2 -fmad=false '
        "-x cu -c /src/a.cu -o a.cu.o"
    )
    first, second = load().compilations_of({"command": command, "file": "/src/a.cu"})
    words = ["nvcc", "-I/src", "-O3", "-fmad=false", "-x", "cu", "/src/a.cu"]
    assert first == [*words, "-cubin", "-arch=sm_75", "-Xptxas=-v"]
    assert second == [*words, "-cubin", "-arch=sm_120", "-Xptxas=-v"]


def test_report_of_the_committed_figures_is_the_committed_one() -> None:
    folder = ROOT / "benchmarks" / "results" / "cuda-kernels"
    document = json.loads((folder / "kernels.json").read_text(encoding="utf-8"))
    text = load().as_markdown(document)
    assert text == (folder / "kernels.md").read_text(encoding="utf-8")


def test_report_of_a_build_without_cuda_fails_with_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load().main([str(tmp_path)]) == 1
    assert "has no CUDA sources" in capsys.readouterr().err
