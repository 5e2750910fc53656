"""The `repr` of buffers and loaders: their arguments and contents."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import stamped

from velora.buffer import Loader, ReplayBuffer, RolloutBuffer


def test_print_buffer_shows_the_options_that_are_not_as_ever() -> None:
    buffer = ReplayBuffer(100, num_envs=4, n_step=3, gamma=0.9, frame_stack=2)
    assert repr(buffer) == (
        "ReplayBuffer(capacity=100, device='cpu', num_envs=4, n_step=3, gamma=0.9, frame_stack=2, "
        "len=0)"
    )
    rollout = RolloutBuffer(7, num_envs=2)
    rollout.push(stamped(1), lane=1)
    assert repr(rollout) == (
        f"RolloutBuffer(capacity=6, device='cpu', num_envs=2, len=1, nbytes={rollout.nbytes})"
    )


def test_print_buffer_shows_that_observations_are_stored_once() -> None:
    buffer = ReplayBuffer(10, compact=True)
    assert "compact=True, len=0" in repr(buffer)
    automatic = ReplayBuffer(10)
    assert "compact" not in repr(automatic)
    automatic.push(stamped(1, features=2000))
    assert "compact=True" in repr(automatic)


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("storage", ["auto", "cpu", "cuda", "pinned"])
def test_print_buffer_of_a_device_shows_where_the_rows_are(storage: Any) -> None:
    buffer = ReplayBuffer(10, "cuda", storage=storage)
    assert ("storage" in repr(buffer)) == (storage != "auto")
    buffer.push(stamped(1))
    chosen = "cuda" if storage == "auto" else storage
    assert f"storage='{chosen}', len=1, nbytes={buffer.nbytes}" in repr(buffer)


class Broken(ReplayBuffer):
    """Whose length cannot be told, as after a failure of its device."""

    def __len__(self) -> int:
        raise RuntimeError("CUDA error: device-side assert triggered")


def test_print_broken_or_half_made_buffer_never_raises() -> None:
    for kind in (ReplayBuffer, RolloutBuffer):
        half_made = kind.__new__(kind)
        assert repr(half_made) == f"<{kind.__name__}, which cannot be described: AttributeError>"
    broken = Broken(4)
    assert repr(broken) == "<Broken, which cannot be described: RuntimeError>"
    assert repr(broken.loader(2)).startswith("Loader(<Broken, ")


def test_print_loader_shows_its_buffer_and_whether_it_is_closed() -> None:
    buffer = ReplayBuffer(4)
    loader = buffer.loader(32, prefetch=3)
    assert repr(loader) == f"Loader({buffer!r}, batch_size=32, prefetch=3)"
    loader.close()
    assert repr(loader) == f"Loader({buffer!r}, batch_size=32, prefetch=3, closed)"
    assert repr(Loader.__new__(Loader)) == "<Loader, which is not made yet>"


@pytest.mark.parametrize("kind", [ReplayBuffer, RolloutBuffer])
@pytest.mark.parametrize("capacity", [7.0, torch.tensor(7), 1e6], ids=repr)
def test_make_buffer_with_a_whole_capacity_in_any_form_has_it(kind: Any, capacity: Any) -> None:
    buffer = kind(capacity)
    assert buffer.capacity == int(capacity)
    assert type(buffer.capacity) is int
    buffer.push(stamped(1))
    assert len(buffer) == 1


@pytest.mark.parametrize("capacity", [1.5, 1e6 + 0.5, float("nan"), float("inf")], ids=repr)
def test_make_buffer_with_a_capacity_that_is_not_whole_says_so(capacity: float) -> None:
    with pytest.raises(TypeError, match="capacity: expected a whole number, got"):
        ReplayBuffer(capacity)


@pytest.mark.parametrize("capacity", [0.0, -1.0, 1e13, 1e300], ids=repr)
def test_make_buffer_with_a_whole_capacity_out_of_range_names_the_range(capacity: float) -> None:
    with pytest.raises(ValueError, match=r"capacity: expected 1 to .*2\*\*40"):
        ReplayBuffer(capacity)


def test_make_buffer_with_a_tensor_of_floats_names_the_argument() -> None:
    with pytest.raises(TypeError, match="capacity: expected an int, got Tensor"):
        ReplayBuffer(torch.tensor(7.0))  # type: ignore[arg-type]
