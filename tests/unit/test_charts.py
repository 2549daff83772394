"""Charts as data: heights that follow the values, lines with gaps, axes with round labels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.monitor.charts import LEAST_PX, PLOT_PX, SPARK_PX, TOP_PX, Part, columns, lines, spark
from app.monitor.words import exact

FOOT = TOP_PX + PLOT_PX
COUNTS = st.lists(st.lists(st.integers(0, 10**6), min_size=3, max_size=3), min_size=1, max_size=40)


def column(*values: float) -> list[Part]:
    return [Part(f"kind{number}", value, f"{value} of kind{number}") for number, value in enumerate(values)]


@given(COUNTS)
def test_columns_stay_in_the_plot_and_say_their_values(values: list[list[int]]) -> None:
    chart = columns([column(*each) for each in values], [])
    assert len(chart.blocks) == sum(value > 0 for each in values for value in each)
    for block in chart.blocks:
        assert block.y >= 0
        assert block.x >= 0
        assert block.x + block.width <= 100.01
        assert block.height >= LEAST_PX
        assert block.part.title == f"{block.part.value} of {block.part.kind}"


def test_parts_of_a_column_stand_on_each_other_to_scale() -> None:
    chart = columns([column(60, 30, 10), column(0, 0, 0)], [])
    assert [tick.label for tick in chart.down] == ["0", "50", "100"]
    assert [(block.y, block.height) for block in chart.blocks] == [
        (FOOT - 90, 90),
        (FOOT - 135, 45),
        (FOOT - 150, 15),
    ]


def test_one_among_many_is_still_to_be_seen() -> None:
    few = columns([column(100_000, 1)], []).blocks[1]
    assert few.height == LEAST_PX


def test_a_line_has_a_gap_where_nothing_is_known() -> None:
    points = [Part("p95", value, "") for value in (1, 2, None, 3, None)]
    (line,) = lines([points], [], seconds=exact).lines
    assert [len(stretch.split()) for stretch in line.stretches] == [2, 1]
    assert [dot.x for dot in line.dots] == [10, 30, 70]
    assert line.dots[2].y == pytest.approx(TOP_PX)


@pytest.mark.parametrize(
    ("highest", "labels"),
    [
        (0.0004, ["0", "1 ms"]),
        (0.002, ["0", "1 ms", "2 ms"]),
        (0.03, ["0", "10 ms", "20 ms", "30 ms"]),
        (5.9, ["0", "2 s", "4 s", "6 s"]),
        (100, ["0", "30 s", "60 s", "90 s", "2 min"]),
        (3 * 3600, ["0", "60 min", "2 h", "3 h"]),
    ],
)
def test_lengths_of_time_have_round_labels(highest: float, labels: list[str]) -> None:
    chart = lines([[Part("p50", highest, "")]], [], seconds=exact)
    assert [tick.label for tick in chart.down] == labels


@pytest.mark.parametrize(
    ("highest", "labels"), [(0, ["0", "1"]), (3, ["0", "1", "2", "3"]), (7, ["0", "2", "4", "6", "8"])]
)
def test_things_are_counted_in_whole_numbers(highest: int, labels: list[str]) -> None:
    assert [tick.label for tick in columns([column(highest)], []).down] == labels


def test_a_chart_without_anything_says_so() -> None:
    assert columns([column(0, 0)], []).empty
    assert lines([[Part("p50", None, "")]], [], seconds=exact).empty
    assert not columns([column(1)], []).empty


def test_a_spark_goes_from_edge_to_edge() -> None:
    drawn = spark([0, 2, 4, None, 4])
    assert drawn.stretches == [f"0,{SPARK_PX - 1:g} 25,{SPARK_PX / 2:g} 50,1"]
    assert drawn.dots == [(100, 1)]


@pytest.mark.parametrize("points", [[], [None, None], [0, 0], [5]])
def test_a_spark_of_nothing_is_drawn_too(points: list[float | None]) -> None:
    drawn = spark(points)
    assert len(drawn.stretches) + len(drawn.dots) <= 1
