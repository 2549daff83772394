"""What is remembered of jobs without a graph: of those that differ in prompt and seed alone, and of no others."""

from __future__ import annotations

from typing import Any

import pytest
from samples import SAMPLER, new_job

from app.domain.catalog import Catalog
from app.domain.errors import Fault
from app.domain.graph_check import Checked
from app.services.graph_faults import HeldAgainst
from app.services.simple_forms import MOST_KEPT, SimpleForms

CATALOG = Catalog({})
FOUND = HeldAgainst(Checked([], ["a warning"]), frozenset())
LORA = {"name": "a.safetensors", "strength_model": 1.0, "strength_clip": 1.0}


def simple(**changes: Any) -> Any:
    return new_job(workflow=None, **changes)


@pytest.fixture
def forms() -> SimpleForms:
    forms = SimpleForms()
    forms.keep(simple(checkpoint_model="a"), CATALOG, FOUND)
    return forms


def test_another_prompt_seed_or_user_is_the_same(forms):
    other = simple(
        checkpoint_model="a",
        prompt="other",
        negative_prompt="x",
        user_id="else",
        priority=3,
        sampler_params=SAMPLER | {"seed": 2**64 - 1},
    )
    assert forms.find(other, CATALOG) is FOUND


@pytest.mark.parametrize(
    "changes",
    [
        {"checkpoint_model": "b"},
        {"checkpoint_model": "a", "width": 640},
        {"checkpoint_model": "a", "height": 640},
        {"checkpoint_model": "a", "batch_size": 3},
        {"checkpoint_model": "a", "lora_models": [LORA]},
        {"checkpoint_model": "a", "upscale_model": "up"},
        {"checkpoint_model": "a", "sampler_params": SAMPLER | {"sampler_name": "other"}},
        {"checkpoint_model": "a", "sampler_params": SAMPLER | {"steps": 3}},
        {"checkpoint_model": "a", "image": {"upload": "x"}},
    ],
)
def test_whatever_else_differs_is_looked_at_anew(forms, changes):
    assert forms.find(simple(**changes), CATALOG) is None


def test_another_catalog_is_looked_at_anew(forms):
    assert forms.find(simple(checkpoint_model="a"), Catalog({})) is None


def test_a_graph_a_picture_and_faults_are_not_remembered(forms):
    kept = len(forms)
    for job in (new_job(workflow={"1": {}}), simple(image={"upload": "x"}), simple(mask={"upload": "x"})):
        forms.keep(job, CATALOG, FOUND)
        assert forms.find(job, CATALOG) is None
    wrong = HeldAgainst(Checked([Fault("/steps", "too_large", "x")]), frozenset())
    forms.keep(simple(checkpoint_model="c"), CATALOG, wrong)
    assert len(forms) == kept


def test_the_last_used_ones_are_kept(forms):
    for number in range(MOST_KEPT + 5):
        assert forms.find(simple(checkpoint_model="a"), CATALOG) is FOUND
        forms.keep(simple(checkpoint_model=f"n{number}"), CATALOG, FOUND)
    assert len(forms) == MOST_KEPT
    assert forms.find(simple(checkpoint_model="n0"), CATALOG) is None
