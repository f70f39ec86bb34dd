import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from dsprune.recipe import Span

spans = st.one_of(
    st.builds(Span, st.integers(0, 10**6).map(float), st.just("steps")),
    st.builds(Span, st.floats(0, 1e6), st.sampled_from(["epochs", "%"])),
)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("2 epochs", 200),
        ("1 epoch", 100),
        ("0.25 epochs", 25),
        ("10 %", 30),
        ("10%", 30),
        ("12.5 %", 38),  # 37.5, to the even one
        ("500 steps", 500),
        ("1 step", 1),
        (" 7steps ", 7),
        (7, 7),
        (0, 0),
    ],
)
def test_a_span_in_steps_of_a_run_of_three_epochs_of_100(text: str | int, steps: int) -> None:
    assert Span.parse(text).to_steps(steps_per_epoch=100, total_steps=300) == steps


@pytest.mark.parametrize(
    "wrong", ["2", "2 days", "epochs", "-1 epochs", "1.5 steps", "1.2.3 %", -3, 2.0, True, None, []]
)
def test_anything_else_is_refused_with_the_ways_to_write_it(wrong: object) -> None:
    with pytest.raises(
        ValueError, match="write '500 steps', '2 epochs', '10 %' or a bare whole number of steps"
    ):
        Span.parse(wrong)


def test_a_length_is_not_rounded() -> None:
    assert Span.parse("0.01 epochs").length(steps_per_epoch=250, total_steps=1) == 2.5


@given(spans)
def test_a_span_is_read_back_as_it_was_written(span: Span) -> None:
    assert Span.parse(str(span)) == span


def test_in_a_schema_a_span_is_text_or_a_number_of_steps() -> None:
    number, text = TypeAdapter(Span).json_schema()["anyOf"]
    assert number == {"type": "integer", "minimum": 0}
    assert text["type"] == "string"
