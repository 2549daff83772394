"""What is asked and answered about keys, as models: they check bodies and queries, and make the OpenAPI document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, Field

from app.domain.access import Role
from app.domain.key_format import MOST_NAME_CHARS, name_fault, owner_fault
from app.domain.limits import NAMES
from app.web.payloads import Time
from app.web.request_model import RequestModel
from app.web.requests import GivenTime, NoQuery

MOST_LISTED: Final = 1000


def _name(value: str) -> str:
    if (fault := name_fault(value)) is not None:
        raise ValueError(fault)
    return value


def _owner(value: str) -> str:
    if (fault := owner_fault(value)) is not None:
        raise ValueError(fault)
    return value


def _in_time_to_come(value: datetime) -> datetime:
    # What ends a key at once is its revocation, which keeps the last one of an admin.
    if value <= datetime.now(UTC):
        raise ValueError("must lie in the future")
    return value


_Expiry = Annotated[GivenTime, AfterValidator(_in_time_to_come)]
_Limits = Annotated[
    dict[str, Any],
    Field(
        max_length=len(NAMES),
        description=f"Limits that are not the defaults, each a number, or null for none: {', '.join(NAMES)}.",
    ),
]


class KeyRequest(RequestModel):
    """A key to be made."""

    name: Annotated[str, AfterValidator(_name)] = Field(min_length=1, max_length=MOST_NAME_CHARS)
    role: Annotated[Role, Field(strict=False)] = Role.USER
    owner: Annotated[str, AfterValidator(_owner)] | None = Field(
        None, min_length=1, max_length=MOST_NAME_CHARS, description="The `user_id` of its jobs; its name unless given."
    )
    expires_at: _Expiry | None = Field(None, description="Null: it does not expire.")
    limits: _Limits = Field({})


class KeyChangeRequest(RequestModel):
    """What is to be changed of a key; what is not named stays as it is."""

    limits: _Limits = Field({})
    expires_at: _Expiry | None = Field(None, description="Null: it does not expire.")
    revoked: Literal[False] = Field(False, description="false takes a revocation back. DELETE revokes.")


class KeyListQuery(NoQuery):
    """The query of the list of keys."""

    name: str | None = Field(None, min_length=1, max_length=MOST_NAME_CHARS)
    owner: str | None = Field(None, min_length=1, max_length=MOST_NAME_CHARS)
    limit: int = Field(100, ge=1, le=MOST_LISTED)
    cursor: str | None = Field(None, max_length=1000, description="next_cursor of the page before.")


class KeyRevokeQuery(NoQuery):
    """The query of a revocation."""

    force: bool = Field(False, description="true: also the last key of an admin. Then only commands make keys.")


class KeyAnswer(BaseModel):
    """A key, without what opens anything."""

    key_id: int
    name: str
    role: Role
    owner: str = Field(description="The `user_id` of its jobs.")
    limits: dict[str, float | int | None] = Field(description="Those that are not the defaults; null is no limit.")
    state: Literal["active", "expired", "revoked"]
    created_at: Time
    expires_at: Time | None
    last_used_at: Time | None = Field(description="To within a minute.")
    last_used_from: str | None = Field(description="The address.")
    revoked_at: Time | None


class MadeKeyAnswer(KeyAnswer):
    """A key that was made."""

    key: str = Field(description="What opens the service. It is shown only here.")


class KeyListAnswer(BaseModel):
    """A page of the list of keys, the newest first."""

    items: list[KeyAnswer]
    next_cursor: str | None = Field(description="Leads to the keys that follow; null at the end of the list.")
