"""Launches, copies and waits of a call, read from a trace of torch's profiler."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

_CALLS = "velora benchmark calls"


@dataclass(frozen=True)
class Counts:
    """Figures of one call.

    Attributes:
        kernels: Kernels launched.
        copies: Copies and fills by the device.
        waits: Waits for the device in the calling thread.
        device_us: Duration of all kernels and copies, one after another.
    """

    kernels: float
    copies: float
    waits: float
    device_us: float


def count(run: Callable[[], object], calls: int) -> Counts:
    """Profiles some calls of a warm operation. Needs a GPU."""
    profile = torch.profiler
    activities = [profile.ProfilerActivity.CPU, profile.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with profile.profile(activities=activities) as profiler:
        with profile.record_function(_CALLS):
            for _ in range(calls):
                run()
        torch.cuda.synchronize()  # otherwise work that is still queued would be missing
    with TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        return read(json.loads(path.read_text(encoding="utf-8")), calls)


def read(trace: dict[str, Any], calls: int) -> Counts:
    """Counts the events in a chrome trace of so many calls."""
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    kernels = [event for event in events if event.get("cat") == "kernel"]
    copies = [event for event in events if event.get("cat") in ("gpu_memcpy", "gpu_memset")]
    spans = [e for e in events if e["name"] == _CALLS and e.get("cat") == "user_annotation"]
    # Those during the calls and in their thread: the profiler itself waits afterwards.
    waits = [
        event
        for span in spans
        for event in filter(_is_wait, events)
        if event.get("tid") == span.get("tid") and 0 <= event["ts"] - span["ts"] <= span["dur"]
    ]
    busy_us = sum(float(event["dur"]) for event in (*kernels, *copies))
    return Counts(len(kernels) / calls, len(copies) / calls, len(waits) / calls, busy_us / calls)


def _is_wait(event: dict[str, Any]) -> bool:
    name = event["name"]
    return event.get("cat") in ("cuda_runtime", "cuda_driver") and (
        name.partition("_")[0].endswith("Synchronize") or name == "cudaMemcpy"
    )
