"""Observations and actions that are dicts and tuples of arrays."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers import AnyBuffer, assert_rows, step, stored

from velora.buffer import Experience, ReplayBuffer, RolloutBuffer


class Pose(NamedTuple):
    position: Any
    angle: Any


def observation(i: int) -> dict[str, Any]:
    return {
        "camera": torch.full((3, 4, 5), i % 256, dtype=torch.uint8),
        "goal": (torch.full((1, 2), float(i)), np.int64(i)),
        "deep": {"deeper": {"deepest": torch.tensor(i / 4)}},
        "pose": Pose(np.full(3, i, dtype=np.float32), float(i)),
    }


def nested(i: int) -> Experience:
    action = {"move": torch.full((2,), i / 2), "jump": i % 2 == 0}
    return Experience(observation(i), action, float(i), observation(i + 1), i % 3 == 0)


@pytest.fixture(params=[ReplayBuffer, RolloutBuffer])
def buffer(request: pytest.FixtureRequest) -> AnyBuffer:
    kind: type[AnyBuffer] = request.param
    made = kind(6)
    for i in range(6):
        made.push(nested(i))
    return made


def test_sample_nested_keeps_form_shapes_and_dtypes(buffer: AnyBuffer) -> None:
    batch = buffer.sample(6) if isinstance(buffer, ReplayBuffer) else buffer.sample()
    for states in (batch.states, batch.next_states):
        assert list(states) == ["camera", "goal", "deep", "pose"]
        assert states["camera"].shape == (6, 3, 4, 5)
        assert states["camera"].dtype == torch.uint8
        assert states["goal"][0].shape == (6, 2)
        assert states["goal"][1].shape == (6, 1)
        assert states["goal"][1].dtype == torch.int64
        assert states["deep"]["deeper"]["deepest"].shape == (6, 1)
        assert isinstance(states["pose"], Pose)
        assert states["pose"].position.shape == (6, 3)
        assert states["pose"].angle.dtype == torch.float32
    assert batch.actions["jump"].dtype == torch.bool
    assert len(batch) == 6


def test_sample_nested_gives_the_pushed_values(buffer: AnyBuffer) -> None:
    batch = buffer.sample(4) if isinstance(buffer, ReplayBuffer) else buffer.sample()
    stamps = batch.rewards.flatten().long().tolist()
    assert_rows(batch, [nested(i) for i in stamps])


def test_index_nested_gives_the_pushed_form(buffer: AnyBuffer) -> None:
    got = buffer[2]
    assert list(got.state) == ["camera", "goal", "deep", "pose"]
    assert isinstance(got.state["pose"], Pose)
    assert got.state["goal"][0].shape == (1, 2)
    assert got.state["deep"]["deeper"]["deepest"].shape == ()
    assert type(got.state["pose"].angle) is float
    assert type(got.action["jump"]) is bool
    assert got.state["goal"][0].tolist() == [[2.0, 2.0]]


def test_search_nested_finds_what_is_there() -> None:
    def with_tensors(i: int) -> Experience:
        state = {"a": torch.full((2,), float(i)), "b": (torch.tensor(i),)}
        return Experience(state, i, 0.0, state, False)

    buffer = ReplayBuffer(3)
    for i in range(5):
        buffer.push(with_tensors(i))
    assert with_tensors(3) in buffer
    assert with_tensors(1) not in buffer


def test_push_dict_in_another_order_is_the_same() -> None:
    target = RolloutBuffer(2)
    target.push(nested(0))
    shuffled = nested(1)
    shuffled.state = OrderedDict(reversed(list(shuffled.state.items())))
    shuffled.action = dict(reversed(list(shuffled.action.items())))
    target.push(shuffled)
    assert_rows(target.sample(), [nested(0), nested(1)])


def test_push_plain_tuple_for_named_tuple_is_the_same() -> None:
    target = RolloutBuffer(2)
    target.push(nested(0))
    plain = nested(1)
    plain.state["pose"] = tuple(plain.state["pose"])
    target.push(plain)
    assert_rows(target.sample(), [nested(0), nested(1)])


def test_push_tuple_of_numbers_stores_each() -> None:
    states = stored(step(state=(1.0, 2, True)), "state")
    assert [part.dtype for part in states] == [torch.float32, torch.int64, torch.bool]
    assert [part.tolist() for part in states] == [[[1.0]], [[2]], [[True]]]


def test_push_dict_with_keys_of_other_types_keeps_them() -> None:
    states = stored(step(state={0: 1.0, ("a", 1): 2.0}), "state")
    assert states[0].item() == 1.0
    assert states["a", 1].item() == 2.0


def test_push_many_leaves_keeps_them_apart() -> None:
    state = {f"sensor {i}": torch.full((i % 5 + 1,), float(i)) for i in range(200)}
    states = stored(step(state=state), "state")
    for i in range(200):
        assert states[f"sensor {i}"].tolist() == [[float(i)] * (i % 5 + 1)]


def test_push_leaves_of_every_size_stay_aligned_and_apart() -> None:
    dtypes = [torch.uint8, torch.float32, torch.bool, torch.int64, torch.float16, torch.int16]
    state = tuple(torch.arange(size).to(dtype) for size in range(1, 20) for dtype in dtypes)
    states = stored(step(state=state), "state")
    assert all(torch.equal(got[0], value) for got, value in zip(states, state, strict=True))


def replaced(change: str) -> Experience:
    experience = nested(1)
    state = experience.state
    match change:
        case "leaf for dict":
            experience.state = torch.zeros(3)
        case "dict for leaf":
            experience.reward = {"a": 1.0}
        case "missing key":
            del state["camera"]
        case "extra key":
            state["more"] = 1.0
        case "renamed key":
            state["lens"] = state.pop("camera")
        case "deep wrong shape":
            state["deep"]["deeper"]["deepest"] = torch.zeros(2)
        case "short tuple":
            state["goal"] = state["goal"][:1]
        case "long tuple":
            state["goal"] = (*state["goal"], 1.0)
        case "list for tuple":
            state["goal"] = list(state["goal"])
        case "dict for tuple":
            state["goal"] = dict(enumerate(state["goal"]))
        case "tuple for dict":
            experience.action = tuple(experience.action.values())
        case "image of another dtype":
            state["camera"] = torch.full((3, 4, 5), 0.5)
        case "next state of another form":
            experience.next_state = experience.next_state["camera"]
    return experience


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("leaf for dict", r"state: expected a dict of \[.*'goal'.*float32 of shape \(3,\)"),
        ("dict for leaf", "reward: .*dict"),
        ("missing key", r"state: expected a dict of \[.*'camera'.*, got dict of \["),
        ("extra key", r"state: expected a dict of .*, got dict of \[.*'more'"),
        ("renamed key", r"state: expected a dict of .*'camera'.*, got dict of .*'lens'"),
        ("deep wrong shape", r"state\['deep'\]\['deeper'\]\['deepest'\]: .*\(1,\).*\(2,\)"),
        ("short tuple", r"state\['goal'\]: expected a tuple of 2"),
        ("long tuple", r"state\['goal'\]: expected a tuple of 2"),
        ("list for tuple", r"state\['goal'\]: expected a tuple of 2.*list"),
        ("dict for tuple", r"state\['goal'\]: expected a tuple of 2.*dict"),
        ("tuple for dict", r"action: expected a dict of \[.*got tuple of 2"),
        ("image of another dtype", r"state\['camera'\]: .*uint8.*float32"),
        ("next state of another form", r"next_state: expected a dict of \["),
    ],
)
def test_push_nest_of_another_form_names_the_place(change: str, message: str) -> None:
    buffer = ReplayBuffer(3, seed=1)
    buffer.push(nested(0))
    with pytest.raises(ValueError, match=message):
        buffer.push(replaced(change))
    assert len(buffer) == 1
    assert_rows(buffer.sample(1), [nested(0)])


@pytest.mark.parametrize("change", ["next state of another form", "dict for leaf"])
def test_push_bad_nest_first_fixes_no_schema(change: str) -> None:
    buffer = ReplayBuffer(3)
    with pytest.raises(ValueError, match=r"next_state|reward"):
        buffer.push(replaced(change))
    buffer.push(step())
    assert len(buffer) == 1


@pytest.mark.parametrize("empty", [{}, (), {"a": ()}], ids=str)
@pytest.mark.parametrize("attribute", ["state", "action"])
def test_push_nest_without_arrays_is_refused(attribute: str, empty: Any) -> None:
    buffer = ReplayBuffer(3)
    with pytest.raises(ValueError, match=attribute):
        buffer.push(step(**{attribute: empty}))
    assert len(buffer) == 0
