import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.scripts import load

fetch = load("fetch_demo_data")
demo_table = load("demo_table")


def test_a_rating_above_zero_is_positive_and_white_space_is_all_that_is_cleaned() -> None:
    text = "1\t2.5\t A  good\x85film. \r\n2\t0.0\tmeh\r\n3\t-0.1\tbad"
    assert list(fetch.parse_ratings(text)) == [("A good film.", 1), ("meh", 0), ("bad", 0)]


def test_about_fifteen_percent_of_sentences_are_for_validation_and_the_choice_is_fixed() -> None:
    chosen = [fetch.in_validation(f"sentence {number}") for number in range(10_000)]
    assert 1_400 < sum(chosen) < 1_600
    assert chosen == [fetch.in_validation(f"sentence {number}") for number in range(10_000)]


def test_a_folder_that_could_not_be_filled_is_not_there(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fetch.make(tmp_path / "data", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_kept(tmp_path: Path) -> None:
    fetch.make(tmp_path / "data", lambda folder: (folder / "first").touch())
    fetch.make(tmp_path / "data", lambda folder: (folder / "second").touch())
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["first"]


def test_content_that_is_not_the_pinned_one_ends_the_program() -> None:
    with pytest.raises(SystemExit, match=r"file\.whl: abc instead of def: remove .*downloads and run"):
        fetch.expect("file.whl", "abc", "def")


def test_a_member_is_found_by_the_end_of_its_path() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in (("a/not-wanted.txt", b"no"), ("a/wanted.txt", b"yes")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        assert fetch.read_member(archive, "wanted.txt") == b"yes"
        with pytest.raises(SystemExit, match=r"absent\.txt: not in the archive"):
            fetch.read_member(archive, "absent.txt")


def test_the_table_tells_accuracy_and_both_sparsities_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(bytes(3_000_000))
    sparsity = {"prunable": 0.9, "model": 0.42}
    (tmp_path / "summary.json").write_text(json.dumps({"sparsity": sparsity, "steps": 7, "seconds": 3.2}))
    (tmp_path / "eval.json").write_text(json.dumps({"accuracy": 0.875}))
    demo_table.main([tmp_path])
    printed = capsys.readouterr().out
    for cell in ("87.50%", "90.00%", "42.00%", "3.0 MB", "0.0 MB", " 7 ", " 3 "):
        assert cell in printed


def test_the_gzip_size_is_what_gzip_writes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 5_000)
    assert demo_table.gzip_size(path) == len(gzip.compress(path.read_bytes(), compresslevel=6))
