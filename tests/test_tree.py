"""Nests of dicts and tuples, as all of velora walks them."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers import unchanged

from velora.buffer import Experience, ReplayBuffer, RolloutBuffer, tree


class Pose(NamedTuple):
    position: Any
    angle: Any


NEST = {"a": 1, "b": (2, {"c": 3, 4: None}), "pose": Pose(5, ())}


def test_leaves_of_a_nest_come_in_its_order_without_none() -> None:
    assert tree.leaves(NEST) == [1, 2, 3, 5]
    assert tree.leaves(7) == [7]
    assert tree.leaves(None) == []


def test_map_leaves_keeps_the_form_and_named_tuples() -> None:
    mapped = tree.map_leaves(lambda leaf: leaf * 10, NEST)
    assert mapped == {"a": 10, "b": (20, {"c": 30, 4: None}), "pose": Pose(50, ())}
    assert type(mapped["pose"]) is Pose
    assert list(mapped) == list(NEST)


def test_map_leaves_of_subclasses_makes_plain_dicts_and_tuples() -> None:
    class Pair(tuple[Any, ...]):
        pass

    mapped = tree.map_leaves(str, OrderedDict(a=Pair((1, 2))))
    assert type(mapped) is dict
    assert type(mapped["a"]) is tuple
    assert mapped == {"a": ("1", "2")}


def test_map_named_leaves_says_where_each_leaf_is() -> None:
    names = tree.map_named_leaves(lambda name, leaf: (name, leaf), NEST, "x")
    assert tree.leaves(tree.map_leaves(str, NEST)) == ["1", "2", "3", "5"]
    assert names["a"] == ("x['a']", 1)
    assert names["b"][1] == {"c": ("x['b'][1]['c']", 3), 4: ("x['b'][1][4]", None)}
    assert names["pose"] == Pose(("x['pose'][0]", 5), ())


def test_map_named_leaves_of_several_nests_passes_their_leaves_together() -> None:
    other = {"pose": (50, ()), "b": (20, {4: 40, "c": 30}), "a": {"any": "leaf"}}
    found = tree.map_named_leaves(lambda _, *leaves: list(leaves), NEST, "x", (other, NEST))
    assert found == {
        "a": [1, {"any": "leaf"}, 1],
        "b": ([2, 20, 2], {"c": [3, 30, 3], 4: [None, 40, None]}),
        "pose": Pose([5, 50, 5], ()),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": (2, 3)}, r"^x\['b'\]\[1\]: expected a dict with keys \[4, 'c'\], got int$"),
        ({"b": (2, {"c": 3, "d": 4})}, r"^x\['b'\]\[1\]: expected .*, got .* \['c', 'd'\]$"),
        ({"b": (2,)}, r"^x\['b'\]: expected a tuple of 2, got a tuple of 1$"),
        ({"b": {}}, r"^x\['b'\]: expected a tuple of 2, got a dict with keys \[\]$"),
        ({"more": 1}, r"^x: expected a dict with keys \['a', 'b', 'pose'\], got .*'more'"),
    ],
)
def test_map_named_leaves_of_another_form_says_where_it_differs(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tree.map_named_leaves(lambda *_: None, NEST, "x", (NEST | change,))


def test_map_leaves_passes_on_what_the_function_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        tree.map_leaves(lambda leaf: 1 / (leaf - 3), NEST)
    with pytest.raises(ZeroDivisionError):
        tree.map_named_leaves(lambda _, leaf: 1 / (leaf - 3), {"a": 3}, "x")


def test_walk_a_nest_without_end_raises() -> None:
    nest: dict[str, Any] = {}
    nest["again"] = nest
    with pytest.raises(RecursionError):
        tree.leaves(nest)
    deep: Any = 1
    for _ in range(10 * sys.getrecursionlimit()):
        deep = (deep,)
    with pytest.raises(RecursionError):
        tree.map_leaves(str, deep)


# Nests that a push only looks at


def observation(value: float) -> dict[str, Any]:
    return {
        "a": torch.full((2,), value),
        "b": (np.full(3, value, np.float32), {"c": value}),
    }


def step(state: Any, value: float) -> Experience:
    return Experience(state, 0, 0.0, observation(value), False)


class Name(str):
    """A key that is equal to a plain one, and runs code to say so."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other)


@pytest.mark.parametrize(
    "arrange",
    [
        dict,
        OrderedDict,
        lambda nest: dict(reversed(list(nest.items()))),
        lambda nest: {bytes(key, "ascii").decode(): value for key, value in nest.items()},
        lambda nest: {Name(key): value for key, value in nest.items()},
        lambda nest: nest | {"b": Pose(*nest["b"])},
        lambda nest: nest | {"a": nest["a"].double()},
        lambda nest: nest | {"a": torch.complex(nest["a"], -nest["a"]).conj().imag},
    ],
    ids=[
        "as it was",
        "ordered",
        "reversed",
        "other strings",
        "names",
        "named",
        "double",
        "negated",
    ],
)
def test_push_nest_that_is_arranged_otherwise_stores_the_same(arrange: Any) -> None:
    buffer = RolloutBuffer(4)
    buffer.push(step(observation(0.0), 0.0))
    buffer.push(step(arrange(observation(2.0)), 2.0))
    batch = buffer.sample()
    for states in (batch.states, batch.next_states):
        assert states["a"].tolist() == [[0.0] * 2, [2.0] * 2]
        assert states["b"][0].tolist() == [[0.0] * 3, [2.0] * 3]
        assert states["b"][1]["c"].tolist() == [[0.0], [2.0]]


@pytest.mark.parametrize("key", ["a", "b"])
def test_push_nest_with_an_entry_that_does_not_fit_changes_nothing(key: str) -> None:
    buffer = ReplayBuffer(4, seed=1)
    buffer.push(step(observation(0.0), 0.0))
    wrong = {"a": torch.ones(3), "b": (np.ones(2), {"c": 1.0})}
    with (
        unchanged(buffer),
        pytest.raises(ValueError, match=rf"^state\['{key}'\].*: expected shape"),
    ):
        buffer.push(step(observation(1.0) | {key: wrong[key]}, 1.0))


def test_push_nest_of_many_entries_stores_all() -> None:
    names = [str(i) for i in range(100)]
    buffer = RolloutBuffer(4)
    for value in (0.0, 1.0):
        state = {name: torch.full((2,), value) for name in names}
        buffer.push(Experience(state, 0, 0.0, dict(state), False))
    batch = buffer.sample()
    assert all(batch.states[name].tolist() == [[0.0] * 2, [1.0] * 2] for name in names)
    assert list(batch.next_states) == names
