"""Fixtures of the stand-in's tests."""

from collections.abc import AsyncIterator

import pytest
from unit.standin.standin_client import Client, StartStandin, serve_standin


@pytest.fixture
def running_standin() -> StartStandin:
    """Start a stand-in with these options besides the fast ones."""
    return serve_standin


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """A client of a fast stand-in."""
    async with serve_standin() as client:
        yield client
