"""YAML and JSON have one meaning for all readers, or are refused with the place."""

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import RootModel

from dsprune.errors import UserError
from dsprune.utils.documents import MOST_BYTES, read_document, read_json, read_yaml, write_yaml
from dsprune.utils.records import parse_record


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1e0", 1), ("5e-1", 0.5), ("1.5e3", 1500), ("8.0", 8.0), ("-3", -3), (".5", 0.5),
        ("true", True), ("null", None), ("", None), ("2024-01-01", "2024-01-01"), ("y", "y"), ("=", "="),
        ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}), ("{<<: {a: 1}, b: 2}", {"a": 1, "b": 2}),
    ],
)  # fmt: skip
def test_what_all_readers_agree_on(text: str, value: Any) -> None:
    found = read_yaml(text, "file")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        *(
            (text, f"found '{text}', which YAML readers interpret differently")
            for text in (
                "010",
                "08",
                "0o10",
                "0x1F",
                "0b1",
                "1_000",
                "1:30",
                "12:30:45.5",
                "yes",
                "No",
                "ON",
                "off",
            )
        ),
        ("!!int ''", "found the tag tag:yaml.org,2002:int"),
        ("!!python/object/apply:os.system [ls]", "found the tag tag:yaml.org,2002:python"),
        ("[!own 1]", "found the tag !own"),
        ("{a: 1, a: 2}", "found the key 'a' twice"),
        ("{? [a] : 1}", "found a key that is not text"),
        ("&a [*a]", r"found \*a inside &a"),
        (1000 * "[", "found more than 50 levels of nesting"),
        (5000 * "9", "found a number of 5000 digits"),
        ("a\0b", "unacceptable character"),
        ("a: 1\n---\nb: 2", "expected a single document"),
    ],
)
def test_what_readers_disagree_on_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=f"^file: not valid YAML: .*{problem}") as caught:
        read_yaml(text, "file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["yes", "010", "1e3", "1e-4", "2024-01-01", "1:30", "null", "~", "true", "a: b", "", "!!x", "<<", "y"],
)
def test_a_written_text_is_read_back_as_text(text: str) -> None:
    assert read_yaml(write_yaml({"key": text}), "file") == {"key": text}


def test_a_written_number_is_read_back_equal() -> None:
    numbers = [1e-8, 1e22, 0.1, 3, -1.5, 1e300]
    assert read_yaml(write_yaml(numbers), "file") == numbers


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"a": 1, "a": 2}', "the key 'a' appears twice"),
        (b'{"a": {"b": 1, "b": 2}}', "the key 'b' appears twice"),
        (b'{"a": 1e999}', "the number 1e999 is not finite"),
        (b'{"a": NaN}', "the number NaN is not finite"),
        (b'{"a": ' + 5000 * b"9" + b"}", "a number of 5000 digits"),
        (b'{"a": ' + 60 * b"[" + 60 * b"]" + b"}", "more than 50 levels of nesting"),
        (b'{"a": ' + 100_000 * b"[", "more than 50 levels of nesting"),
        (b"3", "holds a int: give a JSON object"),
        (b"{", "line 1 is not JSON"),
        (b"\xff\xfe", "is not text"),
    ],
)
def test_json_that_means_nothing_or_two_things_is_refused(text: bytes, problem: str) -> None:
    with pytest.raises(UserError, match=f"^file: {problem}"):
        read_json(text, "file")


def test_a_file_of_transformers_may_hold_infinities() -> None:
    assert (
        read_json(b'{"time_step_limit": [0.0, Infinity]}', "file", finite=False)["time_step_limit"][1]
        == math.inf
    )


def test_a_record_in_which_a_key_appears_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"^summary\.json: the key 'a' appears twice: leave one of them out"):
        parse_record('{"a": 1, "a": 2}', RootModel[dict[str, int]], "summary.json", "a summary", "copy it")


def test_a_file_that_nobody_would_write_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "recipe.yaml").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(
        UserError, match=r"recipe\.yaml: 16,777,217 bytes, and 16,777,216 are read: give another file"
    ):
        read_document(tmp_path / "recipe.yaml")
