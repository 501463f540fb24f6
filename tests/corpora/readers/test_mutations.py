"""A small part of the mutations that ``benchmarks.fuzz_readers`` makes of every kind of file."""

from pathlib import Path

from benchmarks.fuzz_readers import corpora, outcomes
from lantern.errors import UserError


def test_mutated_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    examples = corpora()
    for example in examples:
        path = tmp_path / example.name
        path.write_bytes(example.content)
        example.read(path)
    read = 0
    for seed, name, error in outcomes(tmp_path, files=500, seed=0, examples=examples):
        assert error is None or isinstance(error, UserError), (seed, name, error)
        assert "\n" not in str(error or ""), (seed, name)
        read += error is None
    assert 20 < read < 400
