"""The command line and the examples: they start, they report, they learn."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest
import torch

for package in ("matplotlib", "mujoco", "rich", "typer"):
    pytest.importorskip(package)

from helpers import load_example  # noqa: E402
from rich.console import Console  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from velora import cli  # noqa: E402
from velora.cli.app import app  # noqa: E402
from velora.cli.monitor import Monitor  # noqa: E402
from velora.cli.report import buffer_costs, save_curve  # noqa: E402
from velora.cli.training import History  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As the examples' own `main` does: threads that wait for each other only slow them down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run_velora(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "velora", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def some_history() -> History:
    return History(
        steps=1_500,
        seconds=2.0,
        episodes=[(700, 12.0), (1_500, 80.0)],
        evaluations=[(500, 9.5), (1_000, 75.5)],
        push_ns=[2_000] * 1_500,
        sample_ns=[10_000] * 1_000,
        critic_loss=torch.tensor(0.25),
        alpha=torch.tensor([0.125]),
    )


def shown_by(console: Console, history: History) -> str:
    with Monitor(console, steps=2_000, seconds=90.0) as monitor:
        monitor.update(history)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_run_with_help_lists_the_options() -> None:
    result = run_velora("demo", "--help")
    assert result.returncode == 0, result.stderr
    for option in ("--seconds", "--steps", "--seed", "--device", "--out"):
        assert option in result.stdout


def test_run_without_a_command_shows_the_commands() -> None:
    assert "demo" in CliRunner().invoke(app, []).output


def test_demo_with_few_steps_reports_and_exits_with_one(tmp_path: Path) -> None:
    result = run_velora("demo", "--steps", "550", "--seconds", "20", "--out", str(tmp_path / "new"))
    assert result.returncode == 1, result.stderr
    assert result.stderr == ""
    for phrase in ("Random play: mean", "sample(128)", "share of the run", "was not reached"):
        assert phrase in result.stdout
    assert (tmp_path / "new" / "learning-curve.png").read_bytes().startswith(b"\x89PNG")


def test_demo_out_of_time_stops_early(tmp_path: Path) -> None:
    result = run_velora("demo", "--seconds", "1", "--steps", "1000000", "--out", str(tmp_path))
    assert result.returncode == 1, result.stderr
    assert "Mean return of 10 episodes" in result.stdout


def test_demo_on_unknown_device_exits_with_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--device", "abacus", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "--device" in result.output


def test_main_without_the_extras_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(SystemExit, match=r'missing: rich\. .*pip install "velora\[demo\]"'):
        cli.main()


def test_monitor_off_a_terminal_prints_one_plain_line() -> None:
    shown = shown_by(Console(file=io.StringIO()), some_history())
    assert shown == (
        "steps 1,500 of 2,000  steps/s 750  returns 12 80  evaluation 75.5  "
        "critic loss 0.250  alpha 0.125  elapsed 00:02 of 01:30\n"
    )


def test_monitor_on_a_terminal_shows_a_live_table() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={})
    shown = shown_by(console, some_history())
    assert "\x1b[" in shown
    assert "1,500 of 2,000" in shown


def test_monitor_before_the_first_update_shows_dashes() -> None:
    shown = shown_by(Console(file=io.StringIO()), History())
    assert "steps/s -  returns -  evaluation -  critic loss -  alpha -" in shown


def test_buffer_costs_of_a_run_gives_microseconds_and_shares() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(buffer_costs(some_history()))
    assert isinstance(console.file, io.StringIO)
    push, sample = (line for line in console.file.getvalue().splitlines() if "│" in line)
    assert [cell.strip() for cell in push.split("│")[1:-1]] == [
        "push", "1,500", "2.00", "2.00", "0.15%",
    ]  # fmt: skip
    assert [cell.strip() for cell in sample.split("│")[1:-1]] == [
        "sample(128)", "1,000", "10.00", "10.00", "0.50%",
    ]  # fmt: skip


@pytest.mark.parametrize("history", [History(), some_history()], ids=["empty", "full"])
def test_save_curve_of_any_history_writes_a_png(history: History, tmp_path: Path) -> None:
    save_curve(history, goal=900.0, path=tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["sac", "dqn", "recurrent_dqn"])
def test_train_for_few_steps_returns_ten_evaluations(name: str) -> None:
    module = load_example(name)
    config = module.Config(warmup=130, eval_every=100)
    returns = module.train(steps=200, seed=0, device="cpu", config=config)
    assert len(returns) == 10


def test_train_vector_sac_for_few_steps_returns_an_evaluation_of_each_environment() -> None:
    module = load_example("vector_sac")
    config = module.Config(num_envs=3, eval_episodes=2, batch_size=32, warmup=20, eval_every=10)
    assert len(module.train(steps=40, seed=0, device="cpu", config=config)) == 2


@pytest.mark.slow
def test_train_sac_solves_inverted_pendulum() -> None:
    assert fmean(load_example("sac").train(seed=0, device="cpu")) >= 900.0


@pytest.mark.slow
def test_train_dqn_solves_cart_pole() -> None:
    assert fmean(load_example("dqn").train(seed=0, device="cpu")) >= 450.0


@pytest.mark.slow
def test_train_recurrent_dqn_learns_what_needs_a_memory() -> None:
    # Linear policies that see position and angle alone stay below 50. Whether an agent also learns
    # to keep the cart from drifting off, for 500 steps, depends on the seed.
    assert fmean(load_example("recurrent_dqn").train(6_000, seed=1, device="cpu")) >= 150.0


@pytest.mark.slow
def test_train_vector_sac_swings_up_the_pendulum() -> None:
    assert fmean(load_example("vector_sac").train(seed=0, device="cpu")) >= -250.0


@pytest.mark.slow
def test_demo_with_defaults_reaches_the_goal(tmp_path: Path) -> None:
    result = run_velora("demo", "--out", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
