"""Which models keep a waiting job from running: those that no backend has that may run it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.domain.scheduling.fleet import lacking

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Mapping, Sequence

    Offers = Mapping[str, Container[str] | None]
    """Backend that takes jobs → its model files, None where they are not known."""

MOST_NAMED: Final = 3


def missing(models: Collection[str], only: str | None, offers: Offers) -> list[str]:
    """Return the models that a job needs and its backends lack; none as long as one may have all of them.

    If no model is missing everywhere, but each backend lacks one, it is what is missing where the least is. `only` is
    the backend that alone may run the job. While no backend takes jobs nothing is said to be missing.
    """
    wanted, lacks = sorted(models), []
    for name, files in offers.items():
        if only in (None, name):
            lacks.append(lacking(wanted, files) if files is not None else [])
            if not lacks[-1]:
                return []
    if not lacks:
        return []
    everywhere = [model for model in lacks[0] if all(model in each for each in lacks)]
    return everywhere or min(lacks, key=len)


def cannot_run(models: Collection[str], only: str | None, offers: Offers) -> str | None:
    """Return in words why a job cannot run now; None if a backend can run it, or none takes jobs at all."""
    found = missing(models, only, offers)
    if not found:
        return None
    where = f"backend {only} does not have" if only is not None else "no live backend has"
    return f"It cannot run now, because {where} {named(found)}."


def named(models: Sequence[str]) -> str:
    """Return models without their folders, as a part of a sentence; of many the first."""
    first = [model.partition("/")[2] or model for model in models[:MOST_NAMED]]
    more = len(models) - len(first)
    return f"{', '.join(first)}{f' and {more} more' if more else ''}"
