"""Settings of a service whose database or Redis is away from the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

if TYPE_CHECKING:
    from app.settings import Settings


def closed(settings: Settings, *names: str) -> Settings:
    """Return the settings with a port behind which nobody listens in these URLs, and short times."""
    changes: dict[str, Any] = {"database_timeout_seconds": 2.0, "redis_timeout_seconds": 1.0}
    for name in names:
        url = urlsplit(getattr(settings, name).get_secret_value())
        account, at, _ = url.netloc.rpartition("@")
        changes[name] = SecretStr(url._replace(netloc=f"{account}{at}127.0.0.1:1").geturl())
    return settings.model_copy(update=changes)
