"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The tests import each other's helpers; pytest's importlib mode leaves the path alone.
sys.path.insert(0, str(Path(__file__).parent))

# Examples are the same in each run, and a slow machine is no failure.
settings.register_profile("velora", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("velora")


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    """Each test starts from one state of torch's generator, in whatever order they run."""
    import torch

    torch.manual_seed(0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs tests that need only the CUDA calls of buffers on an emulation if there is no GPU."""
    import torch

    marker = metafunc.definition.get_closest_marker("cuda")
    if marker is not None and marker.kwargs.get("emulated"):
        here = ["gpu"] if torch.cuda.is_available() else ["gpu", "emulated"]
        metafunc.parametrize("cuda_device", here, indirect=True)


@pytest.fixture(autouse=True)
def cuda_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Which of the two it is, in tests that run on both."""
    device = getattr(request, "param", None)
    if device == "gpu":
        _require_gpu()
    if device != "emulated":
        yield
        return
    from emulation import emulated_cuda

    with emulated_cuda(monkeypatch):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skips files that need gymnasium where it is not installed, and goes on with the others.

    A machine that lends its GPU often has torch and little else, and what needs a GPU needs no
    more.
    """
    report = yield
    if report.failed and "No module named 'gymnasium'" in report.longreprtext:
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, "Skipped: gymnasium is not installed")
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where CUDA cannot be used, its tests are skipped, or fail if VELORA_REQUIRE_CUDA=1."""
    marker = item.get_closest_marker("cuda")
    if marker is not None and not marker.kwargs.get("emulated"):
        _require_gpu()


def _require_gpu() -> None:
    from velora.buffer import ReplayBuffer

    try:
        ReplayBuffer(1, "cuda")
    except RuntimeError as error:
        if os.environ.get("VELORA_REQUIRE_CUDA") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
