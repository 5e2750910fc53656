"""The programs in the users' description run as they stand there."""

import runpy
from pathlib import Path

import pytest
import torch

from velora.buffer import BatchExperience, Experience, ReplayBuffer

PROGRAMS = Path(__file__).parent / "spec"


def run(name, **given):
    return runpy.run_path(str(PROGRAMS / name), init_globals=given, run_name="__main__")


def test_replay_program_runs():
    end = run("replay.py")
    assert len(end["buffer"]) == 1
    assert end["batch"].states.shape == (1, 4)
    assert end["batch"].actions.shape == (1, 1)
    assert end["batch"].rewards.tolist() == [[2.0]]


def test_rollout_program_runs():
    end = run("rollout.py")
    assert end["batch"].next_states.shape == (1, 4)
    assert len(end["buffer"]) == 0


def test_rollout_program_push_when_full_raises():
    end = run("rollout.py")
    end["buffer"].push(end["exp"])
    with pytest.raises(BufferError):
        end["buffer"].push(end["exp"])


def test_rollout_program_sample_when_empty_raises():
    end = run("rollout.py")
    with pytest.raises(BufferError):
        end["buffer"].sample()


def test_gymnasium_program_runs(capsys):
    pytest.importorskip("mujoco")
    end = run("gymnasium_loop.py")
    printed = capsys.readouterr().out
    assert "Buffer warmed. Starting training..." in printed
    assert "Episode: 10/10" in printed
    assert end["batch"].states.shape == (10, 4)
    assert end["batch"].actions.shape == (10, 1)


@pytest.fixture
def buffer():
    buffer = ReplayBuffer(capacity=10, seed=0)
    for i in range(8):
        buffer.push(Experience(torch.full((1, 4), float(i)), i, 2.0 * i, torch.zeros(1, 4), i == 7))
    return buffer


def test_unpack_program_gives_a_tuple_for_each_field(buffer):
    end = run("unpack.py", buffer=buffer, batch_size=3)
    for column in ("states", "actions", "rewards", "next_states", "dones"):
        assert isinstance(end[column], tuple)
        assert len(end[column]) == 3
    assert list(end["rewards"]) == [2.0 * action for action in end["actions"]]


def test_target_program_stops_at_done(buffer):
    batch = buffer.sample(8)
    assert isinstance(batch, BatchExperience)
    end = run("target.py", batch=batch, gamma=0.5, target_q=torch.ones(8, 1))
    expected = [[r + (0.0 if r == 14.0 else 0.5)] for (r,) in batch.rewards.tolist()]
    assert end["target_q"].tolist() == expected
