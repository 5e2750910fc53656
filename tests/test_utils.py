"""Devices and seeds."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from helpers import filled

from velora.buffer import ReplayBuffer
from velora.utils import set_device, set_seed

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_set_device_cpu_gives_the_cpu(device: Any) -> None:
    assert set_device(device) == torch.device("cpu")


def test_set_device_auto_gives_cuda_where_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert set_device().type == set_device("auto").type == expected


def test_set_device_auto_follows_what_torch_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert set_device().type == expected


def test_set_device_leaves_torchs_default_alone() -> None:
    before = torch.get_default_device()
    set_device()
    assert torch.get_default_device() == before


def test_set_device_result_makes_a_buffer() -> None:
    assert ReplayBuffer(capacity=3, device=set_device("cpu")).device.type == "cpu"


@pytest.mark.parametrize("device", ["nonsense", "", "cpu:x"], ids=repr)
def test_set_device_unknown_names_the_wish(device: str) -> None:
    with pytest.raises(ValueError, match=rf"^device: expected .* torch device, got '{device}'"):
        set_device(device)


@pytest.mark.parametrize("device", [1.5, None, []], ids=repr)
def test_set_device_to_something_else_is_a_type_error(device: Any) -> None:
    with pytest.raises(TypeError, match=r"^device: expected 'auto' or a torch device, got"):
        set_device(device)


@without_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_set_device_cuda_without_cuda_says_so(device: str) -> None:
    with pytest.raises(RuntimeError, match=rf"^device: .*0 CUDA devices.*{device}; pass"):
        set_device(device)


def draws() -> tuple[float, float, float, list[int]]:
    buffer = filled(ReplayBuffer, range(100), 100)
    numpy_draw = float(np.random.rand())  # noqa: NPY002
    indices = buffer.sample(20).indices.tolist()
    return random.random(), numpy_draw, float(torch.rand(())), indices


def test_set_seed_repeats_every_generator() -> None:
    set_seed(7)
    first = draws()
    set_seed(7)
    assert draws() == first


def test_set_seed_other_seeds_give_other_numbers() -> None:
    set_seed(7)
    first = draws()
    set_seed(8)
    second = draws()
    assert all(a != b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("seed", [0, 2**32 - 1, np.int64(5)])
def test_set_seed_at_the_ends_of_its_range_works(seed: int) -> None:
    set_seed(seed)
    assert torch.initial_seed() == int(seed)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_set_seed_out_of_range_changes_no_generator(seed: int) -> None:
    set_seed(7)
    before = draws()
    set_seed(7)
    with pytest.raises(ValueError, match=rf"^seed: .*got {seed}$"):
        set_seed(seed)
    assert draws() == before


@pytest.mark.parametrize("seed", [1.5, "1", None], ids=repr)
def test_set_seed_of_another_type_is_a_type_error(seed: Any) -> None:
    with pytest.raises(TypeError):
        set_seed(seed)
