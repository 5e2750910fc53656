"""Environments in processes of their own, after a call to them was interrupted."""

from __future__ import annotations

import multiprocessing
import os
import time
from contextlib import suppress
from typing import Any

from gymnasium.error import NoAsyncCallError
from gymnasium.vector import AsyncVectorEnv

# The longest that a process may take for the call under way, in seconds.
LONGEST_CALL = 60.0

# A call that every sub-environment answers with True, which no step and no reset does.
_QUESTION: Any = ("_call", ("has_wrapper_attr", ("action_space",), {}))


def settle(env: AsyncVectorEnv) -> None:
    """Receives what processes still answer to a call that was interrupted, and drops it.

    Some of the answers may have been received already, or some of the calls not have been sent. So
    each process is asked one more thing: what comes before the answer to that, is dropped.

    Raises:
        RuntimeError: If a process does not answer. Ctrl-C in a terminal, for one, reaches all
            processes and ends them. The environment is closed then, as after an interrupt here.
    """
    try:
        for pipe in env.parent_pipes:
            pipe.send(_QUESTION)
        answer = _bytes_of((True, True))  # with: nothing went wrong
        end = time.monotonic() + LONGEST_CALL
        for pipe in env.parent_pipes:
            _receive_answer(pipe, answer, end)
        _forget_calls(env)
    except Exception as error:
        _close(env)
        raise RuntimeError(
            "env: expected an answer from the process of each sub-environment, got none from one "
            f"after an interrupt or an error ({error!r}); env is closed now: make a new one"
        ) from error
    except BaseException:
        _close(env)  # Who was asked and has not been heard is not known any more.
        raise


def _receive_answer(pipe: Any, answer: bytes, end: float) -> None:
    # Bytes, since the interrupt may have come when a part of a message was read.
    newest = b""
    while newest != answer:
        if not pipe.poll(max(end - time.monotonic(), 0.0)):
            raise TimeoutError(f"no answer in {LONGEST_CALL} s")
        received = os.read(pipe.fileno(), 65536)
        if not received:
            raise EOFError("the process has ended")
        newest = (newest + received)[-len(answer) :]


def _bytes_of(message: Any) -> bytes:
    """What a pipe transmits for a message."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with receiver, sender:
        sender.send(message)
        return os.read(receiver.fileno(), 65536)


def _forget_calls(env: AsyncVectorEnv) -> None:
    """Lets the environment know that no call is under way; nothing is left to be received."""
    for wait in (env.step_wait, env.reset_wait, env.call_wait):
        with suppress(NoAsyncCallError, multiprocessing.TimeoutError):
            wait(timeout=0)


def _close(env: AsyncVectorEnv) -> None:
    for pipe in env.parent_pipes:
        if pipe is not None:
            pipe.close()
    _forget_calls(env)  # `close` would wait for answers
    env.close(terminate=True)
