"""Weights of users: how much of the backends each gets while others wait too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.commands.keys import WrongCommand
from app.commands.noting import note
from app.commands.terminal import show, table
from app.domain.fair_tags import parse_weight
from app.domain.key_format import owner_fault
from app.environment import with_servers
from app.storage.audit import Audit
from app.storage.database import Database, make_engine
from app.storage.tenants import Tenants

if TYPE_CHECKING:
    from app.settings import Settings


async def weights(settings: Settings, name: str = "", weight: str = "") -> int:
    """Set a user's weight, if one is named, and show those that are not 1."""
    if bool(name) != bool(weight):
        raise WrongCommand("A user and its weight belong together: NAME=ann WEIGHT=2.")
    if name and (fault := owner_fault(name)) is not None:
        raise WrongCommand(f"NAME {fault}.")
    try:
        share = parse_weight(weight) if weight else None
    except ValueError as error:
        raise WrongCommand(f"WEIGHT {error}.") from None
    async with with_servers(settings, redis=False) as complete:
        database = Database(make_engine(complete))
        try:
            await database.check_schema(f"make migrate-{settings.genonaut_env}")
            tenants = Tenants(database)
            if share is not None:
                await tenants.set_weight(name, share)
                await note(Audit(database), "weight_set", f"user {name}", weight=share)
            found = await tenants.weights()
        finally:
            await database.close()
    if share is not None:
        show(f"Jobs that {name} sends from now on count with the weight {share:g}.")
    if found:
        show(table(("USER", "WEIGHT"), [(user, f"{each:g}") for user, each in found.items()]))
    else:
        show("All users have the weight 1.")
    return 0
