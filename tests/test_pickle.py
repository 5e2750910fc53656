"""Copies of a buffer go on just as it does, and apart from it."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import (
    AnyBuffer,
    PolicyExperience,
    assert_same_future,
    filled,
    stack,
    stamped,
    stamps_of,
    step,
    unchanged,
)

from velora.buffer import Experience, ReplayBuffer, RolloutBuffer


def save_and_load(buffer: AnyBuffer) -> Any:
    file = io.BytesIO()
    torch.save(buffer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    **{
        f"protocol {protocol}": lambda buffer, protocol=protocol: pickle.loads(
            pickle.dumps(buffer, protocol=protocol)
        )
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    },
    "torch": save_and_load,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


def nested(i: int) -> Experience:
    observation = {"camera": torch.full((3, 2), i % 256, dtype=torch.uint8), "pose": (i / 4, i)}
    return Experience(observation, (i, torch.ones(2) * i), i, observation, i % 3 == 0)


def policy(i: int) -> Experience:
    return PolicyExperience(*stamped(i), i / 4, torch.full((2,), float(i)))


MAKERS = {"plain": stamped, "nested": nested, "subclass": policy}


def made(kind: type[AnyBuffer], make: Callable[[int], Experience], pushes: int) -> Any:
    buffer = ReplayBuffer(5, seed=9) if kind is ReplayBuffer else RolloutBuffer(5)
    for i in range(pushes):
        if isinstance(buffer, RolloutBuffer) and len(buffer) == 5:
            buffer.empty()
        buffer.push(make(i))
    return buffer


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
@pytest.mark.parametrize("kind", [ReplayBuffer, RolloutBuffer])
@pytest.mark.parametrize("pushes", [0, 1, 4, 5, 8, 13])
def test_copy_buffer_continues_identically(
    kind: type[AnyBuffer],
    make: Callable[[int], Experience],
    pushes: int,
    copied: Callable[[Any], Any],
) -> None:
    buffer = made(kind, make, pushes)
    if isinstance(buffer, ReplayBuffer) and pushes:
        buffer.sample(1)
    again = copied(buffer)
    assert type(again) is kind
    assert (again.capacity, again.device) == (5, buffer.device)
    assert_same_future(buffer, again)
    for i in range(pushes, pushes + 7):
        for each in (buffer, again):
            if isinstance(each, RolloutBuffer) and len(each) == 5:
                each.empty()
            each.push(make(i))
        if isinstance(buffer, ReplayBuffer):
            count = (len(buffer) + 1) // 2
            assert buffer.sample(count).indices.tolist() == again.sample(count).indices.tolist()
    assert_same_future(buffer, again)


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
def test_copy_buffer_shares_nothing(copied: Callable[[Any], Any]) -> None:
    buffer = filled(ReplayBuffer, range(8), 5, seed=9)
    again = copied(buffer)
    with unchanged(buffer):
        again.push(stamped(8))
        again.sample(3)
    with unchanged(again):
        buffer.push(stamped(9))
        buffer.sample(3)


def test_copy_emptied_rollout_keeps_its_schema() -> None:
    buffer = filled(RolloutBuffer, range(5), 5)
    buffer.empty()
    again = pickle.loads(pickle.dumps(buffer))
    with pytest.raises(ValueError, match="state"):
        again.push(stamped(0, features=9))
    again.push(stamped(7))
    assert stamps_of(again.sample()) == [7]


def test_copy_new_buffer_without_seed_keeps_the_seed_it_took() -> None:
    buffer = ReplayBuffer(20)
    again = pickle.loads(pickle.dumps(buffer))
    for i in range(20):
        buffer.push(stamped(i))
        again.push(stamped(i))
    assert_same_future(buffer, again)


def test_copy_keeps_gamma() -> None:
    buffer = ReplayBuffer(2, gamma=0.25)
    buffer.push(step())
    assert pickle.loads(pickle.dumps(buffer)).sample(1).discounts.item() == 0.25


def test_copy_keeps_the_form_of_extended_rows() -> None:
    buffer = ReplayBuffer(9, seed=1)
    buffer.extend(stack([policy(i) for i in range(4)]))
    again = pickle.loads(pickle.dumps(buffer))
    assert torch.equal(again[2].hidden, policy(2).hidden)
    assert buffer.sample(3).indices.tolist() == again.sample(3).indices.tolist()
    again.extend(stack([policy(i) for i in range(4)]))
    assert len(again) == 8


def test_copy_buffer_with_observation_of_many_bytes_is_about_as_long_as_its_rows() -> None:
    buffer = ReplayBuffer(1_000_000)
    buffer.push(stamped(1))
    assert len(pickle.dumps(buffer)) < 10_000


def _describe(buffer: ReplayBuffer) -> tuple[list[int], list[int]]:
    return [experience.action for experience in buffer], buffer.sample(3).indices.tolist()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:multiprocessing")
def test_send_buffer_to_another_process_continues_identically() -> None:
    buffer = filled(ReplayBuffer, range(8), 5, seed=9)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(_describe, (buffer,))
    assert there == _describe(buffer)


def test_restore_part_of_a_row_is_refused() -> None:
    state = filled(ReplayBuffer, range(8), 5, seed=9).__getstate__()
    lanes, draws, rows, blocks = state["_saved"]
    state["_saved"] = (lanes, draws, rows[:-1], blocks)
    with pytest.raises(ValueError, match="rows: expected 5 whole rows"):
        ReplayBuffer.__new__(ReplayBuffer).__setstate__(state)


def test_restore_more_rows_than_were_pushed_is_refused() -> None:
    state = filled(ReplayBuffer, range(8), 5, seed=9).__getstate__()
    _, draws, rows, blocks = state["_saved"]
    lanes = struct.pack("QQQ", 0, 6, 6)  # first, pushed, episode
    state["_saved"] = (lanes, draws, rows, blocks)
    with pytest.raises(ValueError, match="lanes: expected at most 5 rows"):
        ReplayBuffer.__new__(ReplayBuffer).__setstate__(state)
