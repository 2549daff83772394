"""How jobs without a graph were found for a catalog: thousands differ in nothing but their prompts and seeds."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

    from app.domain.catalog import Catalog
    from app.domain.job import NewJob
    from app.services.graph_faults import HeldAgainst

MOST_KEPT: Final = 256


class SimpleForms:
    """What was found for the last of them.

    A prompt and a seed are checked before a graph is built of them; nothing in the graph depends on what they say.
    """

    def __init__(self) -> None:
        self._found: OrderedDict[Hashable, tuple[Catalog, HeldAgainst]] = OrderedDict()
        """The last used comes last. The catalog is kept, so that no other gets its identity."""

    def __len__(self) -> int:
        return len(self._found)

    def find(self, job: NewJob, catalog: Catalog) -> HeldAgainst | None:
        """Return what was found for such a job; None when none came lately, and for a job with a graph or a picture."""
        key = _key_of(job, catalog)
        found = self._found.get(key) if key is not None else None
        if found is None:
            return None
        self._found.move_to_end(key)
        return found[1]

    def keep(self, job: NewJob, catalog: Catalog, found: HeldAgainst) -> None:
        """Remember what was found for such a job, unless there are faults: those may be in what differs."""
        key = _key_of(job, catalog)
        if key is None or found.checked.faults:
            return
        self._found[key] = catalog, found
        if len(self._found) > MOST_KEPT:
            self._found.popitem(last=False)


def _key_of(job: NewJob, catalog: Catalog) -> Hashable:
    """Return what a job's graph is built of, but for prompts and seed; None of one that is not remembered."""
    if job.workflow is not None or job.image is not None or job.mask is not None:
        return None
    loras = tuple((each["name"], each["strength_model"], each["strength_clip"]) for each in job.lora_models)
    sampler = tuple((name, value) for name, value in job.sampler_params.items() if name != "seed")
    sizes = job.width, job.height, job.batch_size
    return id(catalog), job.checkpoint_model, job.upscale_model, sizes, loras, sampler
