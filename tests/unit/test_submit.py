"""Holding a job against what backends offer: once for each catalog, however often it is asked for."""

from __future__ import annotations

import pytest
from samples import new_job, standin_catalog

from app.domain.catalog import Catalog
from app.runtime.side_thread import SideThread
from app.services.graph_faults import held_against
from app.services.simple_forms import SimpleForms
from app.services.submit import Held


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return standin_catalog()


async def test_a_job_is_held_against_a_catalog_once_for_each_checkpoint(catalog: Catalog) -> None:
    held = Held({}, 0, SideThread(), SimpleForms())
    job = new_job(checkpoint_model=catalog.checkpoints[0])
    first = await held.against(job, catalog)
    assert first == held_against(job, catalog, {})
    assert (await held.against(job, catalog))[0] is first[0]
    other = await held.against(new_job(checkpoint_model="nowhere.safetensors"), catalog)
    assert other[0].faults, "another checkpoint is another question"
    assert not first[0].faults


async def test_another_catalog_is_another_question() -> None:
    held, job = Held({}, 0, SideThread(), SimpleForms()), new_job(checkpoint_model="a.safetensors")
    # Each is forgotten at once, and the next may come to lie in its place.
    found = [(await held.against(job, Catalog({})))[0] for _ in range(20)]
    assert len({id(each) for each in found}) == 20
