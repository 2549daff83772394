"""Settings: process environment over `env/.env.local` over `env/.env.{environment}` over `env/.env`."""

from __future__ import annotations

import ipaddress
import os
import re
from functools import cache, cached_property, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.domain.access import Role
from app.domain.errors import GenonautError
from app.domain.forwarded import checked_prefix
from app.domain.limits import Limits, limits_of
from app.domain.public_addresses import Network, parse_networks

ROOT: Final = Path(__file__).resolve().parent.parent
"""The checkout."""

Environment = Literal["dev", "demo", "test"]


class WrongSettings(GenonautError):
    """Settings that make no sense. The message names each one, and never shows a secret's value."""

    code = "wrong_settings"


class Settings(BaseSettings):
    """Everything that can be set. The manual's table (`app/manual/settings.md`) is made from these docstrings."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        env_ignore_empty=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    genonaut_env: Environment = "dev"
    """Name of the environment: `dev`, `demo` or `test`."""

    api_host: str = "127.0.0.1"
    """Address that the server listens on. Another than a loopback address takes a key of an admin."""
    allowed_hosts: str = ""
    """Host names, separated by commas, that the server answers to besides this machine's own, such as a proxy's."""
    allowed_origins: str = ""
    """Origins such as `https://app.example`, separated by commas, whose pages may use REST and sockets by a key."""
    link_seconds: int = Field(3600, ge=60, le=30 * 86400)
    """Time for which a link to an output (`signed_url`) works, rounded up to a full minute of the clock."""
    metrics_open: bool = False
    """`true`: `/metrics` and `/health/ready` need no key."""
    trusted_proxies: str = ""
    """Networks such as `127.0.0.1, 10.0.0.0/8` of proxies that are believed: client, scheme, host, prefix of paths."""
    root_path: str = ""
    """Path such as `/images` under which a proxy shows the service. It may pass it on or strip it. Empty: none."""
    limits_user: str = "requests_per_second=50 burst=200 sockets=100 waiting=1000 upload_bytes=10GiB"
    """What a key of role `user` may use (`production.md`, "Limits"). What is not named is not limited."""
    limits_viewer: str = "sockets=100"
    """The same of role `viewer`."""
    limits_operator: str = "sockets=100"
    """The same of role `operator`."""
    limits_admin: str = "sockets=100"
    """The same of role `admin`."""
    fairness: Literal["tenant", "off"] = "tenant"
    """`tenant`: users who wait share the backends by their weights; `off`: jobs go in the order in which they came."""
    prefer_loaded_models: bool = True
    """Whether jobs whose models a backend has loaded go before others there, within bounds."""
    api_port: int = Field(8001, ge=1, le=65535)
    """Port of the server."""
    monitor_port: int = Field(5555, ge=1, le=65535)
    """Port of the monitor page when it runs alone."""
    standin_port: int = Field(8189, ge=1, le=65535)
    """Port of the stand-in."""
    monitor_read_only: bool = False
    """`true`: the page changes nothing, whatever the role."""

    database_url: SecretStr = SecretStr("")
    """`postgresql://user:password@host:5432/name`. Empty: an embedded server is started."""
    redis_url: SecretStr = SecretStr("")
    """`redis://:password@host:6379`. Empty: an embedded server, its password in `{DATA_DIR}/redis/password`."""
    redis_db: int = Field(4, ge=0, le=15)
    """Number of the Redis database."""
    redis_namespace: str = Field("genonaut_dev", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Prefix of every key and channel in Redis."""
    redis_port: int = Field(6379, ge=1, le=65535)
    """Preferred port of the embedded Redis. If it is taken, another port is used and printed at the start."""
    database_pool_size: int = Field(10, ge=1, le=200)
    """Maximum database connections of each process."""
    database_timeout_seconds: float = Field(10, gt=0, le=300)
    """Maximum time to connect to PostgreSQL, and for one statement."""
    redis_timeout_seconds: float = Field(5, gt=0, le=300)
    """Maximum time to connect to Redis, and for one answer."""

    data_dir: Path | None = None
    """Folder of the embedded servers' data. Empty: `env/data/{environment}`."""
    storage_dir: Path | None = None
    """Folder of the stored outputs. Empty: `{DATA_DIR}/storage`."""

    comfyui_urls: str = ""
    """URLs of the ComfyUI servers, separated by commas, each optionally `name=URL`. Empty: the stand-in is started."""
    default_checkpoint: str = Field("", max_length=255)
    """Checkpoint of jobs that name none. Empty: the first one that the backends offer."""
    backend_slots: int = Field(2, ge=1, le=16)
    """Maximum prompts given to a backend at once: one runs, the others wait behind it."""
    comfyui_timeout_seconds: float = Field(30, gt=0, le=600)
    """Maximum time to wait for an answer of ComfyUI."""
    comfyui_poll_seconds: float = Field(5, gt=0, le=600)
    """Silence on the event socket after which a run is looked up."""
    comfyui_stall_seconds: float = Field(600, gt=0, le=86400)
    """Time without progress, while no node runs, after which a backend counts as stuck and its jobs move."""
    comfyui_max_message_bytes: int = Field(64 * 2**20, ge=2**20, le=2**30)
    """Maximum size of a frame from ComfyUI. A larger one closes the socket; its run is looked up instead."""
    max_output_bytes: int = Field(2 * 2**30, ge=1024)
    """Maximum size of an output that is kept."""

    input_networks: str = ""
    """Networks such as `10.0.0.0/8, fd00::/8` that URLs of a job may lead to, besides public addresses."""

    lease_seconds: float = Field(15, ge=0.5, le=3600)
    """Time after which another worker takes over from a silent one."""
    heartbeat_seconds: float = Field(5, ge=0.1, le=1200)
    """Time between two heartbeats. At most half of `LEASE_SECONDS`."""
    retry_base_seconds: float = Field(2, ge=0, le=3600)
    """Wait before the second attempt. It doubles with each further attempt."""
    retry_max_seconds: float = Field(600, ge=0, le=86400)
    """Maximum wait between two attempts."""
    orphan_seconds: float = Field(3600, ge=1, le=86400)
    """Age at which a stored file that belongs to no job is deleted."""
    shutdown_grace_seconds: float = Field(10, ge=0, le=3600)
    """Time that a stopping worker has to save what has ended."""
    model_wait_seconds: int = Field(0, ge=0, le=365 * 86400)
    """Time after which a waiting job fails whose models no live backend has. 0: it waits for ever."""
    reconcile_seconds: int = Field(15, ge=1, le=60)
    """Time between two searches for jobs that lost their turn."""

    max_connections: int = Field(0, ge=0, le=10**9)
    """Maximum open connections of a server. 0: as many as it may open files, less 256."""
    max_connections_per_address: int = Field(200, ge=1, le=10**9)
    """Maximum open connections from one address, or IPv6 network of 64 bits. This machine's own are not counted."""
    header_seconds: float = Field(15, gt=0, le=3600)
    """Maximum time for the whole head of a request, from the begin of the connection or of the head."""
    body_seconds: float = Field(30, gt=0, le=3600)
    """Maximum time for a request body, plus the time that what has come takes at 32 KiB a second."""
    keep_alive_seconds: float = Field(130, gt=0, le=86400)
    """Time after which a connection without a request is closed. A proxy in front must close its own sooner."""
    unread_seconds: float = Field(30, gt=0, le=3600)
    """Time after which a client is cut off that reads less than 4 KiB a second of what waits for it."""
    max_body_bytes: int = Field(8 * 2**20, ge=65536, le=2**30)
    """Maximum size of a request body after decompression."""
    max_upload_bytes: int = Field(64 * 2**20, ge=1024, le=2**40)
    """Maximum size of an uploaded file, and of one that is fetched from a URL."""
    keep_uploads_days: float = Field(7, gt=0, le=36500)
    """Days after which an upload that no job needs is deleted, counted from its last use."""
    keep_audit_days: float = Field(400, gt=0, le=36500)
    """Days after which an entry of the audit is deleted, and forgotten who sent a job."""
    max_workflow_bytes: int = Field(2 * 2**20, ge=65536, le=2**28)
    """Maximum size of a workflow as JSON, overrides included."""
    ws_linger_seconds: float = Field(30, ge=0, le=3600)
    """Time between the end of the last watched job and the close of the socket."""
    ws_heartbeat_seconds: float = Field(20, gt=0, le=3600)
    """Time between two pings to a WebSocket client."""
    ws_outbox_bytes: int = Field(4 * 2**20, ge=65536, le=2**30)
    """Maximum size of what waits for a slow WebSocket client before it is closed. The present state comes on top."""
    cancel_wait_seconds: float = Field(5, ge=0, le=60)
    """Maximum time that a cancel waits for ComfyUI's confirmation before it answers 202."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged: `DEBUG`, `INFO`, `WARNING` or `ERROR`."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave out secret files; the order of the rest is the rule in this module's first line."""
        del settings_cls, file_secret_settings
        return init_settings, env_settings, dotenv_settings

    @field_validator("data_dir", "storage_dir", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("database_url")
    @classmethod
    def _postgresql(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url and not re.match(r"^postgres(ql)?(\+asyncpg)?://", url):
            raise ValueError("is no PostgreSQL URL, such as postgresql://user:password@host:5432/genonaut")
        _check_address(url)
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url and not re.match(r"^(rediss?://[^/]|unix://)", url):
            raise ValueError("is no Redis URL, such as redis://:password@host:6379")
        _check_address(url)
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: str) -> str:
        for name in filter(None, (part.strip() for part in value.split(","))):
            if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:]+", name):
                raise ValueError(f"has {name!r}, which is no host name: names only, no scheme, no port, no *")
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: str) -> str:
        for origin in filter(None, (part.strip() for part in value.split(","))):
            if not re.fullmatch(r"https?://[a-z0-9._-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?", origin):
                raise ValueError(f"has {origin!r}, which is no origin: https://app.example, no path, no *, lower case")
        return value

    @field_validator("limits_user", "limits_viewer", "limits_operator", "limits_admin")
    @classmethod
    def _limits(cls, value: str) -> str:
        limits_of(value)
        return value

    @field_validator("comfyui_urls")
    @classmethod
    def _backends(cls, value: str) -> str:
        named = parse_backends(value)
        if len(named) != len(set(named.values())):
            raise ValueError("names the same server twice")
        return value

    @field_validator("input_networks")
    @classmethod
    def _networks(cls, value: str) -> str:
        parse_networks(value)
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, value: str) -> str:
        if everybody := [network for network in parse_networks(value) if network.prefixlen == 0]:
            raise ValueError(f"has {everybody[0]}: so everybody could claim any address. Name the proxies")
        return value

    @field_validator("root_path")
    @classmethod
    def _root(cls, value: str) -> str:
        return checked_prefix(value.strip())

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                "HEARTBEAT_SECONDS must be at most half of LEASE_SECONDS, or leases end while workers live"
            )
        if self.api_host != "localhost" and not _is_address(self.api_host):
            raise ValueError(f"API_HOST {self.api_host!r} is neither an address, such as 0.0.0.0, nor localhost")
        if self.retry_base_seconds > self.retry_max_seconds:
            raise ValueError("RETRY_BASE_SECONDS must not be greater than RETRY_MAX_SECONDS")
        return self

    @cached_property
    def host_names(self) -> frozenset[str]:
        """The names besides this machine's own by which the server may be asked for, in lower case."""
        return frozenset(filter(None, (name.strip().lower() for name in self.allowed_hosts.split(","))))

    @cached_property
    def origins(self) -> frozenset[str]:
        """`ALLOWED_ORIGINS`: the sites whose pages may use REST and sockets."""
        return frozenset(filter(None, (origin.strip() for origin in self.allowed_origins.split(","))))

    @cached_property
    def limits(self) -> dict[Role, Limits]:
        """What a key of each role may use, where it has no limits of its own."""
        return {role: limits_of(getattr(self, f"limits_{role}")) for role in Role}

    @property
    def users_share(self) -> bool:
        """Whether users share the backends: `FAIRNESS`."""
        return self.fairness == "tenant"

    @property
    def is_for_this_machine(self) -> bool:
        """Whether the server listens where only this machine reaches it."""
        return is_loopback(self.api_host)

    def goes_by(self, name: str) -> bool:
        """Whether the server is called by this name, one that is not this machine's own.

        An address in place of a name is no danger where keys are needed: only a name can be made to lead elsewhere.
        """
        return name in self.host_names or (not self.is_for_this_machine and _is_address(name))

    @property
    def allowed_networks(self) -> tuple[Network, ...]:
        """`INPUT_NETWORKS`: what URLs of a job may lead to besides public addresses."""
        return parse_networks(self.input_networks)

    @property
    def proxy_networks(self) -> tuple[Network, ...]:
        """`TRUSTED_PROXIES`: who is believed about the client."""
        return parse_networks(self.trusted_proxies)

    @property
    def data_path(self) -> Path:
        """Where embedded servers keep their data."""
        return (self.data_dir or ROOT / "env" / "data" / self.genonaut_env).absolute()

    @property
    def storage_path(self) -> Path:
        """The store of files."""
        return (self.storage_dir or self.data_path / "storage").absolute()

    @property
    def sqlalchemy_url(self) -> str:
        """The database's URL with SQLAlchemy's name of the driver."""
        url = re.sub(r"^postgres(ql)?(\+asyncpg)?://", "postgresql+asyncpg://", self.database_url.get_secret_value())
        # libpq's name of the option, which everybody copies; the driver has another.
        return re.sub(r"([?&])sslmode=", r"\1ssl=", url)

    @property
    def redis_url_with_db(self) -> str:
        """The Redis URL with this environment's database number; a number in the URL itself is overruled."""
        plain = self.redis_url.get_secret_value()
        if plain.startswith("unix:"):
            # Put together by hand: urlunsplit loses the empty host. Of two numbers redis-py takes the first.
            path, _, query = plain.partition("?")
            return f"{path}?{'&'.join(filter(None, [f'db={self.redis_db}', query]))}"
        return urlunsplit(urlsplit(plain)._replace(path=f"/{self.redis_db}"))

    @property
    def stale_seconds(self) -> float:
        """The age at which a heartbeat means that its writer is gone: three were missed."""
        return self.heartbeat_seconds * 3

    @property
    def backends(self) -> dict[str, str]:
        """Backend name → base URL."""
        return parse_backends(self.comfyui_urls)


def parse_backends(value: str) -> dict[str, str]:
    """Read `COMFYUI_URLS`: URLs separated by commas, each optionally `name=URL`; a nameless one is called host:port.

    Raises
    ------
    ValueError
        A URL that is none, or a name given twice.
    """
    named: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in value.split(","))):
        match = re.match(r"^([A-Za-z0-9_.-]{1,64})=(.*)$", entry)
        name, url = (match[1], match[2]) if match else ("", entry)
        # A password in the URL must not be shown.
        shown = re.sub(r"//.*@", "//…@", entry)
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError(f"has an entry with a wrong address or port: {shown}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"has an entry that is no http URL: {shown}")
        name = name or (f"{parts.hostname}:{port}" if port else parts.hostname)
        if name in named:
            raise ValueError(f"has two backends called {name}")
        named[name] = url.rstrip("/")
    return named


def load_settings(environment: str | None = None, **overrides: Any) -> Settings:
    """Read the settings of an environment: `environment`, else `GENONAUT_ENV`, else dev.

    Raises
    ------
    WrongSettings
        Naming every setting that is wrong.
    """
    chosen = environment or os.environ.get("GENONAUT_ENV") or "dev"
    if chosen not in ("dev", "demo", "test"):
        raise WrongSettings(f"GENONAUT_ENV is {chosen!r}; it can be dev, demo or test.")
    folder = ROOT / "env"
    files = (folder / ".env", folder / f".env.{chosen}", folder / ".env.local")
    try:
        return Settings(_env_file=files, **{"genonaut_env": chosen} | overrides)
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            name = ".".join(map(str, fault["loc"])).upper()
            faults.append(f"{name}: {fault['msg'].removeprefix('Value error, ')}" if name else fault["msg"])
        listed = "; ".join(text.removeprefix("Value error, ") for text in faults)
        raise WrongSettings(f"Settings that make no sense: {listed}.") from None


@cache
def package_version() -> str:
    """Return this version of Genonaut; it is read from files, and asked for with each heartbeat."""
    try:
        return version("genonaut")
    except PackageNotFoundError:
        return "unknown"


def _check_address(url: str) -> None:
    try:
        # Of a password with an unescaped @ or / a part would be taken for the port: so it is not shown.
        _ = urlsplit(url).port
    except ValueError:
        raise ValueError(
            "has an address or a port that is none; is each of /, @ and : in the password escaped?"
        ) from None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# Each request brings an address and a name, and few of them are new.
@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether only this machine is meant."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
