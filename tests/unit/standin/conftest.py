"""Fixtures of the stand-in's tests."""

from collections.abc import AsyncIterator

import pytest
from unit.standin.standin_client import Client, StartStandin, serve_standin


@pytest.fixture
def running_standin() -> StartStandin:
    """Start a stand-in with these options besides the fast ones."""
    return serve_standin


@pytest.fixture
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """A client of a fast stand-in, of the version that the test asks for."""
    version = getattr(request, "param", None)
    async with serve_standin(**({} if version is None else {"version": version})) as client:
        yield client
