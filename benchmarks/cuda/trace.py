"""What a call gives the device to do, read from a trace of torch's profiler."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

_CALLS = "velora benchmark calls"
_COPIES = ("gpu_memcpy", "gpu_memset")
_RUNTIME = ("cuda_runtime", "cuda_driver")


@dataclass(frozen=True)
class Counts:
    """Per call.

    Attributes:
        kernels: Launched.
        copies: Of memory, and fills, by the device.
        waits: For the device, in the thread that calls.
        device_us: All kernels and copies, one after another.
    """

    kernels: float
    copies: float
    waits: float
    device_us: float


def count(run: Callable[[], object], calls: int) -> Counts:
    """Profiles some calls. They must have been warmed up; needs a GPU."""
    profile = torch.profiler
    activities = [profile.ProfilerActivity.CPU, profile.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with profile.profile(activities=activities) as profiler:
        with profile.record_function(_CALLS):
            for _ in range(calls):
                run()
        torch.cuda.synchronize()  # or what is still to run would be missing
    with TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        return read(json.loads(path.read_text(encoding="utf-8")), calls)


def read(trace: dict[str, Any], calls: int) -> Counts:
    """Counts what is in a chrome trace of so many calls."""
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    kernels = [event for event in events if event.get("cat") == "kernel"]
    copies = [event for event in events if event.get("cat") in _COPIES]
    busy = sum(float(event["dur"]) for event in (*kernels, *copies))
    waits = sum(1 for _ in _waits(events))
    return Counts(len(kernels) / calls, len(copies) / calls, waits / calls, busy / calls)


def _waits(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those during the calls and in their thread: the profiler itself waits afterwards."""
    for span in events:
        if span["name"] != _CALLS or span.get("cat") != "user_annotation":
            continue
        start, end = span["ts"], span["ts"] + span["dur"]
        for event in events:
            name = event["name"]
            is_wait = name.startswith("cu") and (
                name.partition("_")[0].endswith("Synchronize") or name == "cudaMemcpy"
            )
            inside = event.get("tid") == span.get("tid") and start <= event["ts"] <= end
            if event.get("cat") in _RUNTIME and is_wait and inside:
                yield event
