"""Batches are what they were, bit for bit, on the host and on an emulated device."""

from __future__ import annotations

import json

import pytest
from golden import HASHES, HISTORIES, hash_of

EXPECTED = json.loads(HASHES.read_text(encoding="utf-8"))


def test_golden_file_is_of_these_histories() -> None:
    assert EXPECTED.keys() == HISTORIES.keys()


@pytest.mark.parametrize("name", HISTORIES)
def test_batches_on_the_host_are_what_they_were(name: str) -> None:
    batches, case = HISTORIES[name]
    assert hash_of(batches(case, "cpu", "auto")) == EXPECTED[name]


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("name", HISTORIES)
def test_batches_on_a_device_are_what_they_were(name: str) -> None:
    batches, case = HISTORIES[name]
    assert hash_of(batches(case, "cuda", "cuda")) == EXPECTED[name]


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("name", [name for name in HISTORIES if "lanes=3" in name])
def test_batches_of_pinned_rows_are_what_they_were(name: str) -> None:
    batches, case = HISTORIES[name]
    assert hash_of(batches(case, "cuda", "pinned")) == EXPECTED[name]
