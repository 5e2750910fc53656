"""The report about CUDA kernels, from recorded words of the compiler. None of it needs nvcc."""

from __future__ import annotations

import importlib
import shutil
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


def recorded() -> list[Any]:
    ptxas = importlib.import_module("benchmarks.ptxas")
    kernels: list[Any] = ptxas.with_code_sizes(
        ptxas.read_usage(LOG), ptxas.read_code_sizes(SECTIONS)
    )
    return kernels


def test_read_usage_of_a_recorded_log_finds_each_kernel() -> None:
    sums, scan = recorded()
    assert (sums.architecture, sums.registers, sums.shared_bytes) == ("sm_80", 32, 0)
    assert (scan.registers, scan.shared_bytes, scan.stack_bytes) == (12, 1024, 0)
    assert not scan.spills


def test_read_usage_of_a_called_function_adds_to_its_kernel() -> None:
    sums, _ = recorded()
    assert (sums.stack_bytes, sums.spill_store_bytes, sums.spill_load_bytes) == (640, 592, 588)
    assert sums.spills


def test_read_code_sizes_takes_text_sections_alone() -> None:
    sums, scan = recorded()
    assert (sums.code_bytes, scan.code_bytes) == (0x3880, 0x180)


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="needs binutils")
def test_with_plain_names_demangles_kernels() -> None:
    ptxas = importlib.import_module("benchmarks.ptxas")
    assert [kernel.name for kernel in ptxas.with_plain_names(recorded())] == ["sums", "scan<float>"]


def test_compilations_of_a_command_are_one_for_each_architecture() -> None:
    cuda_report = importlib.import_module("benchmarks.cuda_report")
    command = (
        'nvcc -I/src -O3 "--generate-code=arch=compute_75,code=[sm_75]" '
        '"--generate-code=arch=compute_120,code=[compute_120,sm_120]" --threads=2 -fmad=false '
        "-x cu -c /src/a.cu -o a.cu.o"
    )
    first, second = cuda_report.compilations_of({"command": command, "file": "/src/a.cu"})
    assert (first.architecture, second.architecture) == ("sm_75", "sm_120")
    words = ("nvcc", "-I/src", "-O3", "-fmad=false", "-x", "cu", "/src/a.cu")
    assert first.command == (*words, "-cubin", "-arch=sm_75", "-Xptxas=-v")


def test_report_names_each_spill() -> None:
    cuda_report = importlib.import_module("benchmarks.cuda_report")
    document = {
        "nvcc": "13.0",
        "shared_object_bytes": 1234567,
        "architectures": ["sm_80"],
        "ptx": True,
        "kernels": [kernel.as_json() for kernel in recorded()],
    }
    text = cuda_report.as_markdown(document)
    assert "for sm_80 and PTX" in text
    assert "`_cuda.so` has 1,234,567 bytes" in text
    assert "**1 of 2 spill registers:**" in text
    assert "SPILL: _ZN6velora4cuda4sumsEPfPKfi on sm_80: 592 bytes stored, 588 loaded" in text
    document["kernels"] = document["kernels"][1:]
    assert "No kernel spills registers." in cuda_report.as_markdown(document)


def test_report_of_a_build_without_cuda_fails_with_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cuda_report = importlib.import_module("benchmarks.cuda_report")
    assert cuda_report.main([str(tmp_path)]) == 1
    assert "has no CUDA sources" in capsys.readouterr().err
