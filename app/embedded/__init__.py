"""Real servers for a machine that has none running: PostgreSQL, Redis, and the stand-in for ComfyUI.

They are started on demand, shared by all processes that name the same data folder, and stopped by the last one.
"""

from app.embedded.errors import EmbeddedError
from app.embedded.ports import free_port
from app.embedded.services import Running, Services, Wanted, embedded_services, start
from app.embedded.temporary import temporary_data_dir

__all__ = [
    "EmbeddedError",
    "Running",
    "Services",
    "Wanted",
    "embedded_services",
    "free_port",
    "start",
    "temporary_data_dir",
]
