"""A sample of the fuzzing that `make fuzz` runs whole, and the proof that it would notice."""

import pytest
from tests.structures import fuzzing

CASES = 130
"""For each of twelve formats: 1,560 in all."""


@pytest.mark.parametrize("kind", sorted(fuzzing.targets()))
def test_a_damaged_file_is_data_or_one_line(kind):
    _, count = fuzzing.fuzz(kind, CASES)
    assert count >= CASES


def test_a_reader_that_fails_in_another_way_is_caught(monkeypatch):
    def careless(path):
        path.read_bytes().decode("ascii")

    monkeypatch.setattr(fuzzing, "targets", lambda: {"careless": (b"12 atoms", careless)})
    with pytest.raises(UnicodeDecodeError):
        fuzzing.fuzz("careless", 200)
