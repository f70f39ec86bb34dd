"""A short fuzz of damaged files; `scripts/fuzz.py --hours N` is a long one."""

from pathlib import Path

from dsprune.testing.forked import ForkedRanks

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fuzz.py"
FILES = ("run", "checkpoint", "model", "compact", "store")


def test_damaged_files_end_with_sense_or_with_one_line(tmp_path: Path) -> None:
    targets = [f"--target={name}" for name in FILES]
    process = ForkedRanks(["--inputs=4", "--seed=1", *targets], 1, tmp_path, script=SCRIPT)
    assert process.wait() == [0], process.said()
    assert "20 inputs in" in process.printed()
    assert ", 0 wrong" in process.printed()
