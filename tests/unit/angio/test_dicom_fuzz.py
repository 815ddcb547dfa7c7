"""Damaged files are refused or read as they were; all of them: `python -m bench.fuzz_dicom`."""

from pathlib import Path

from bench.fuzz_dicom import SYNTAXES, Mutation, Seed, fuzz, judge, mutations, seeds


def test_damaged_files_neither_crash_nor_hang_nor_lie() -> None:
    outcomes, wrong = fuzz(400, seed=9)
    assert wrong == []
    assert sum(outcomes.values()) == 400
    assert outcomes["refused"] > 200


def test_mutations_touch_every_syntax_and_repeat_for_a_seed(tmp_path: Path) -> None:
    found = seeds(tmp_path)
    some = list(mutations(found, 300, seed=1))
    assert {mutation.seed.syntax for mutation in some} == set(SYNTAXES)
    assert len({mutation.kind for mutation in some}) >= 10
    assert [m.payload for m in mutations(found, 300, seed=1)] == [m.payload for m in some]


def test_a_lie_would_be_noticed(tmp_path: Path) -> None:
    (raw,) = (seed for seed in seeds(tmp_path) if seed.syntax == "raw")
    other = Seed(raw.syntax, raw.payload, raw.pixels[:2], raw.pixels_at)
    assert judge(Mutation(other, "none", raw.payload), tmp_path / "a.dcm") == "silent_wrong"
    cut = Mutation(raw, "truncated", raw.payload[:-20])
    assert judge(cut, tmp_path / "a.dcm") == "refused"
    assert judge(Mutation(raw, "none", raw.payload), tmp_path / "a.dcm") == "same"
    touched = raw.payload[:-2] + bytes([raw.payload[-2] ^ 1, raw.payload[-1]])
    assert judge(Mutation(raw, "pixels", touched), tmp_path / "a.dcm") == "pixels altered"
