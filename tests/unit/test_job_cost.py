"""What a job will probably cost: from the nearest runs that it can be compared with, and within bounds."""

from __future__ import annotations

import math
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import SAMPLER, new_job, standin_catalog, text_to_image

from app.domain.job_cost import LEAST_S, MOST_S, UNKNOWN_S, Comparable, ModelRunTime, cost_s, work_of
from app.domain.job_facts import facts_of
from app.domain.run_times import RunTime
from app.domain.workflow import build_graph
from app.domain.workflow_key import workflow_key
from app.services.graph_faults import held_against

SAME: Final = RunTime(1, 2, 3, 4)
LATELY: Final = RunTime(5, 6, 7, 8)
MODELS: Final = ModelRunTime(30, 0.001)


@pytest.mark.parametrize(
    ("comparable", "work", "cost"),
    [
        (Comparable(SAME, MODELS, LATELY), 5_000, 2),
        (Comparable(None, MODELS, LATELY), 5_000, 5),
        (Comparable(None, MODELS, LATELY), None, 30),
        (Comparable(None, ModelRunTime(30), LATELY), 5_000, 30),
        (Comparable(None, None, LATELY), 5_000, 6),
        (Comparable(), 5_000, UNKNOWN_S),
    ],
)
def test_the_nearest_runs_tell(comparable: Comparable, work: float | None, cost: float) -> None:
    assert cost_s(comparable, work) == pytest.approx(cost)


@given(st.floats(0, 1e12), st.floats(0, 1e6), st.none() | st.floats(0, 1e45))
def test_a_cost_is_within_bounds(p50: float, per_work_s: float, work: float | None) -> None:
    run = RunTime(p50, p50, p50, 1)
    for comparable in (Comparable(run), Comparable(None, ModelRunTime(p50, per_work_s)), Comparable(None, None, run)):
        assert LEAST_S <= cost_s(comparable, work) <= MOST_S


def test_work_is_pixels_by_pictures_by_steps() -> None:
    assert work_of(text_to_image(width=512, height=768, batch_size=3)) == 512 * 768 * 3 * SAMPLER["steps"]
    picture = build_graph(
        checkpoint="a", loras=[], prompt="", negative_prompt="", width=64, height=32, batch_size=2,
        sampler=SAMPLER | {"steps": 10}, image="a.png",
    )  # fmt: skip
    assert work_of(picture) == 64 * 32 * 2 * 10


def test_work_of_several_samplers_and_of_films() -> None:
    nodes: dict[str, dict[str, Any]] = {
        "film": {"width": 64, "height": 64, "length": 81, "batch_size": 1},
        "scale": {"width": 16, "height": 16},
        "high": {"steps": 20},
        "low": {"steps": 4},
    }
    assert work_of({name: {"inputs": inputs} for name, inputs in nodes.items()}) == 64 * 64 * 81 * 24


@pytest.mark.parametrize("odd", [True, -1, 0, 10**400, math.inf, math.nan, "64", None, ["a", 0], {}])
def test_numbers_that_cannot_be_meant_are_none(odd: Any) -> None:
    graph = {"a": {"inputs": {"width": odd, "height": 64, "steps": 20}}}
    assert work_of(graph) is None
    graph = {"a": {"inputs": {"width": 64, "height": 64, "steps": 20, "batch_size": odd, "length": odd}}}
    assert work_of(graph) == 64 * 64 * 20


def test_a_job_is_known_by_its_graph_as_it_is_run() -> None:
    catalog = standin_catalog()
    job = new_job(checkpoint_model=catalog.checkpoints[0])
    facts = held_against(job, catalog, {}).facts
    assert facts is not None
    assert facts.loaded.models == (f"checkpoints/{catalog.checkpoints[0]}",)
    assert facts.work == job.width * job.height * SAMPLER["steps"]
    graph = text_to_image()
    assert facts_of(graph, catalog).workflow_key == workflow_key(graph)
    assert held_against(new_job(checkpoint_model="nowhere.safetensors"), catalog, {}).facts is None
