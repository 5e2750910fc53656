"""Recovery of an AsyncVectorEnv after an interrupted call."""

from __future__ import annotations

import multiprocessing
import os
import time
from contextlib import suppress
from typing import Any

from gymnasium.error import NoAsyncCallError
from gymnasium.vector import AsyncVectorEnv

# Timeout for a worker process to finish its current call, in seconds.
LONGEST_CALL = 60.0

# A call that every sub-environment answers with True, unlike any step or reset.
_QUESTION: Any = ("_call", ("has_wrapper_attr", ("action_space",), {}))


def settle(env: AsyncVectorEnv) -> None:
    """Receives and drops the pending answers to an interrupted call.

    Some answers may already have been received, and some calls may not have been sent. So each
    process gets one more call, and everything before its answer is dropped.

    Raises:
        RuntimeError: If a process does not answer, for example because Ctrl-C in a terminal has
            ended it. The environment is then closed, as after an interrupt of this function.
    """
    try:
        for pipe in env.parent_pipes:
            pipe.send(_QUESTION)
        answer = _bytes_of((True, True))  # (result, success)
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
        _close(env)  # It is unknown which processes still have to answer.
        raise


def _receive_answer(pipe: Any, answer: bytes, end: float) -> None:
    # Compare bytes, since the interrupt may have come in the middle of a message.
    newest = b""
    while newest != answer:
        if not pipe.poll(max(end - time.monotonic(), 0.0)):
            raise TimeoutError(f"no answer in {LONGEST_CALL} s")
        received = os.read(pipe.fileno(), 65536)
        if not received:
            raise EOFError("the process has ended")
        newest = (newest + received)[-len(answer) :]


def _bytes_of(message: Any) -> bytes:
    """Returns the bytes that a pipe transmits for a message."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with receiver, sender:
        sender.send(message)
        return os.read(receiver.fileno(), 65536)


def _forget_calls(env: AsyncVectorEnv) -> None:
    """Clears the environment's pending call; there is nothing left to receive."""
    for wait in (env.step_wait, env.reset_wait, env.call_wait):
        with suppress(NoAsyncCallError, multiprocessing.TimeoutError):
            wait(timeout=0)


def _close(env: AsyncVectorEnv) -> None:
    for pipe in env.parent_pipes:
        if pipe is not None:
            pipe.close()
    _forget_calls(env)  # `close` would wait for answers
    env.close(terminate=True)
