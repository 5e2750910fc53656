"""Classes travel by name, and have a stand-in where they are not."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import (
    COPIES,
    PolicyExperience,
    assert_same_future,
    filled,
    save_and_load,
    stack,
    stamped,
)

from velora.buffer import Experience, ReplayBuffer


def policy(i: int) -> Experience:
    return PolicyExperience(*stamped(i), i / 4, torch.full((2,), float(i)))


def define(source: str, name: str = "elsewhere") -> ModuleType:
    """A module that was loaded from source, as a notebook's `__main__` is."""
    module = sys.modules.get(name) or ModuleType(name)
    sys.modules[name] = module
    exec(textwrap.dedent(source), vars(module))
    return module


@pytest.fixture(autouse=True)
def _forget_modules() -> Iterator[None]:
    yield
    sys.modules.pop("elsewhere", None)


STEP = "torch.zeros(2), 1, 1.0, torch.ones(2), False"
CLASSES = {
    "plain": f"""
        @dataclass
        class Policy(Experience):
            log_prob: float
        made = Policy({STEP}, 0.5)
        """,
    "slots": f"""
        @dataclass(slots=True, eq=False)
        class Policy(Experience):
            log_prob: float
        made = Policy({STEP}, 0.5)
        """,
    "keyword": f"""
        @dataclass(kw_only=True)
        class Policy(Experience):
            log_prob: float
        made = Policy({STEP}, log_prob=0.5)
        """,
    "not in init": f"""
        @dataclass
        class Policy(Experience):
            log_prob: float = field(init=False)
        made = Policy({STEP})
        made.log_prob = 0.5
        """,
    "after init": f"""
        @dataclass
        class Policy(Experience):
            log_prob: float = None
            def __post_init__(self):
                self.log_prob = 0.5
        made = Policy({STEP})
        """,
    "nested": f"""
        class Outer:
            @dataclass
            class Policy(Experience):
                log_prob: float
        Policy = Outer.Policy
        made = Policy({STEP}, 0.5)
        """,
    "own": f"""
        @dataclass
        class Policy:
            state: object
            action: object
            reward: object
            next_state: object
            done: object
            log_prob: float
        made = Policy({STEP}, 0.5)
        """,
}
IMPORTS = """
import enum
from dataclasses import dataclass, field
from typing import NamedTuple
import torch
from velora.buffer import Experience
"""


def holding(module: ModuleType) -> ReplayBuffer:
    buffer = ReplayBuffer(4)
    buffer.push(module.made)
    return buffer


@pytest.mark.parametrize("source", CLASSES.values(), ids=list(CLASSES))
@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
def test_load_finds_the_class_that_is_defined(source: str, copied: Callable[[Any], Any]) -> None:
    module = define(IMPORTS + textwrap.dedent(source))
    again = copied(holding(module))
    assert type(again[0]) is module.Policy
    assert again[0].log_prob == 0.5
    again.push(module.made)


@pytest.mark.parametrize("source", CLASSES.values(), ids=list(CLASSES))
def test_load_where_the_class_is_not_gives_a_stand_in(source: str) -> None:
    module = define(IMPORTS + textwrap.dedent(source))
    pickled = pickle.dumps(holding(module))
    del sys.modules["elsewhere"]
    again = pickle.loads(pickle.dumps(pickle.loads(pickled)))  # also once more
    stand_in = again[0]
    assert type(stand_in) is not module.Policy
    assert (type(stand_in).__name__, stand_in.log_prob, stand_in.action) == ("Policy", 0.5, 1)
    assert isinstance(stand_in, Experience)
    again.push(module.made)
    again.push(stand_in)
    assert len(again) == 3


def test_load_after_the_class_was_defined_again_gives_the_new_one() -> None:
    source = IMPORTS + textwrap.dedent(CLASSES["plain"])
    buffer = holding(define(source))
    module = define(source)
    assert type(buffer[0]) is not module.Policy
    for copied in (COPIES["protocol 5"], save_and_load):
        assert type(copied(buffer)[0]) is module.Policy
    assert type(copy.deepcopy(buffer)[0]) is type(buffer[0])


def test_load_after_the_class_was_defined_with_other_fields_gives_a_stand_in() -> None:
    source = IMPORTS + textwrap.dedent(CLASSES["plain"])
    pickled = pickle.dumps(holding(define(source)))
    define(source.replace("log_prob: float", "other: float"))
    again = pickle.loads(pickled)
    assert again[0].log_prob == 0.5
    define("Policy = 5")
    assert pickle.loads(pickled)[0].log_prob == 0.5


def test_load_class_of_a_function_or_of_main_works_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    save = IMPORTS + textwrap.dedent(f"""
        import pickle, torch
        from velora.buffer import ReplayBuffer
        def make():
            class Pose(NamedTuple):
                x: float
                y: float
            class Key(enum.Enum):
                POSE = "pose"
            @dataclass
            class Policy(Experience):
                log_prob: float
            state = {{Key.POSE: Pose(1.0, 2.0)}}
            return Policy(state, 1, 1.0, state, False, 0.5)
        buffer = ReplayBuffer(4)
        buffer.push(make())
        torch.save(buffer, {str(path)!r})
        """)
    subprocess.run([sys.executable, "-c", save], check=True)
    buffer = torch.load(path, weights_only=False)
    experience = buffer[0]
    ((key, pose),) = experience.state.items()
    assert (type(experience).__name__, experience.log_prob) == ("Policy", 0.5)
    assert (key.name, key.value, pose.x, pose.y) == ("POSE", "pose", 1.0, 2.0)
    batch = buffer.sample(1)
    assert batch.states[key].y.item() == 2.0
    again = pickle.loads(pickle.dumps(experience))
    assert (again == experience, type(again) is type(experience)) == (True, True)
    assert pickle.loads(pickle.dumps(key)) is key
    buffer.push(again)


def test_load_never_imports_a_module(tmp_path: Path) -> None:
    module = define(IMPORTS + textwrap.dedent(CLASSES["plain"]), "fractions_of_it")
    pickled = pickle.dumps(holding(module))
    del sys.modules["fractions_of_it"]
    (tmp_path / "fractions_of_it.py").write_text("raise SystemExit('imported')")
    sys.path.insert(0, str(tmp_path))
    try:
        assert pickle.loads(pickled)[0].log_prob == 0.5
    finally:
        sys.path.remove(str(tmp_path))
    assert "fractions_of_it" not in sys.modules


OBSERVATIONS = """
class Pose(NamedTuple):
    x: float
    y: float
class Key(enum.Enum):
    POSE = "pose"
    OTHER = object()
class Number(enum.IntEnum):
    ONE = 1
class Word(str, enum.Enum):
    A = "a"
state = {Key.POSE: Pose(1.0, 2.0), Number.ONE: 3, Word.A: 4, 7: 5, (1, "x"): 6, None: Pose(7, 8)}
made = Experience(state, Pose(1, 2), 1.0, state, False)
"""


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
def test_load_finds_types_of_observations(copied: Callable[[Any], Any]) -> None:
    module = define(IMPORTS + OBSERVATIONS)
    again = copied(holding(module))
    batch = again.sample(1)
    assert type(batch.actions) is module.Pose
    assert list(batch.states) == list(module.state)
    assert type(batch.states[module.Key.POSE]) is module.Pose
    assert any(key is module.Key.POSE for key in batch.states)
    assert any(key is module.Number.ONE for key in batch.states)


def test_load_where_types_of_observations_are_not_gives_stand_ins() -> None:
    module = define(IMPORTS + OBSERVATIONS)
    pickled = pickle.dumps(holding(module))
    del sys.modules["elsewhere"]
    again = pickle.loads(pickled)
    batch = again.sample(1)
    assert (batch.actions.x.item(), batch.actions._fields) == (1, ("x", "y"))
    assert (batch.states[1].item(), batch.states["a"].item(), batch.states[7].item()) == (3, 4, 5)
    pose = again[0].action
    assert pickle.loads(pickle.dumps(pose)) == copy.deepcopy(pose) == (1, 2)
    assert type(pickle.loads(pickle.dumps(pose))) is type(pose) is type(batch.actions)
    assert_same_future(again, pickle.loads(pickle.dumps(again)))


def test_load_after_a_named_tuple_was_defined_with_other_fields_gives_a_stand_in() -> None:
    source = IMPORTS + OBSERVATIONS
    pickled = pickle.dumps(holding(define(source)))
    define(source.replace("y: float", "z: float"))
    assert pickle.loads(pickled).sample(1).actions._fields == ("x", "y")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_experience_of_extended_rows(protocol: int) -> None:
    buffer = ReplayBuffer(9)
    buffer.extend(stack([policy(i) for i in range(4)]))
    experience = buffer[2]
    again = pickle.loads(pickle.dumps(experience, protocol=protocol))
    assert again == experience
    assert type(again) is type(experience)
    assert copy.deepcopy(experience) == experience
    buffer.push(again)


def test_pickle_experience_of_a_class_that_extends_a_stand_in_is_by_that_class() -> None:
    buffer = ReplayBuffer(9)
    buffer.extend(stack([policy(i) for i in range(4)]))
    module = define("")
    module.Mine = type("Mine", (type(buffer[0]),), {"__module__": "elsewhere"})
    mine = module.Mine(**vars(buffer[0]))
    assert type(pickle.loads(pickle.dumps(mine))) is module.Mine


def test_load_with_bytes_out_of_band_works() -> None:
    buffer = filled(ReplayBuffer, range(8), 5, seed=9)
    parts: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(buffer, protocol=5, buffer_callback=parts.append)
    assert_same_future(buffer, pickle.loads(pickled, buffers=parts))
