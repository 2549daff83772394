"""What /openapi.json allows, and what it does not, sent by the thousand in each one's name.

`FUZZ_CASES` says how many requests of each operation go out in each one's name; `make fuzz` sends many.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from integration.access_world import NOBODY, rows_of
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.web.openapi import document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from integration.access_world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CASES = int(os.environ.get("FUZZ_CASES", "6"))
_OF_KEYS = ("authorization", "x-api-key", "cookie")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
WHO = (NOBODY, "bob", "eve", "otto", "ada")


def faults_of(fault: BaseException) -> str:
    """Return in words what a check found."""
    found = fault.exceptions if isinstance(fault, BaseExceptionGroup) else [fault]
    return "; ".join(f"{each} {getattr(each, 'message', '')}" for each in found)


class Fuzz:
    """Sends what the document describes, and keeps what should not have been answered."""

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        self._address = address
        self._headers = dict(headers)
        self.sent = 0
        self.wrong: dict[str, str] = {}

    def run(self) -> None:
        """Send requests of every operation; in a thread, for it waits for each answer."""
        schema = schemathesis.openapi.from_dict(document())
        for each in schema.get_all_operations():
            self._of_one(each.ok())

    def _of_one(self, operation: Any) -> None:
        @settings(
            max_examples=CASES,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize="FUZZ_CASES" not in os.environ,
        )
        @given(case=operation.as_strategy())
        def send(case: Any) -> None:
            # Whose request it is is not for chance to say.
            case.headers = {name: value for name, value in (case.headers or {}).items() if name.lower() not in _OF_KEYS}
            case.cookies = {}
            response = case.call(base_url=self._address, headers=self._headers, timeout=60)
            self.sent += 1
            # Without workers it is not ready, which the document says in its own way.
            if operation.path == "/health/ready" and response.status_code == 503:
                return
            try:
                case.validate_response(response, checks=CHECKS)
            except (Failure, FailureGroup) as fault:
                told = f"{response.request.url} {str(response.request.body)[:200]}\n{faults_of(fault)}"
                self.wrong.setdefault(
                    f"{operation.method.upper()} {operation.path} {response.status_code}", told[:1500]
                )

        send()


@pytest.mark.parametrize("who", WHO)
async def test_whatever_is_sent_is_answered_as_the_document_says(world: World, who: str) -> None:
    credentials = world.credentials(who, of_page=False)
    fuzz = Fuzz(str(world.client.make_url("/")).rstrip("/"), credentials)
    before = await rows_of(world, "ann")
    await asyncio.to_thread(fuzz.run)
    print(f"{fuzz.sent} requests in the name of {who}")
    assert not fuzz.wrong, "\n\n".join(f"{name}: {told}" for name, told in fuzz.wrong.items())
    # Of some operations there are few different requests.
    assert fuzz.sent >= 25 * min(CASES, 8)
    if who not in ("otto", "ada"):
        assert await rows_of(world, "ann") == before
