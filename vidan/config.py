"""Settings, built once at the edge and passed down.

The first of these that has a value wins: option, environment, `.env` in the current directory, the
embedded stack that runs. An empty variable hides the one in `.env` and counts as not set. Every
command builds its settings when it starts, so this module imports nothing slow.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from vidan.errors import DatabaseUnavailable, UsageError
from vidan.stack_state import broker_address, running_stack

KAFKA_PREFIX = "VIDAN_KAFKA_"
BOOTSTRAP = "bootstrap.servers"
DIRECT = "VIDAN_DIRECT_DATABASE_URL"
DOTENV = "VIDAN_DOTENV"
"""Set to 0 in child processes, which then read no `.env`: their settings were built before."""

_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("", "0", "false", "no", "off")
_LEVELS = ("debug", "info", "warning", "error")
_URL_HINT = "it looks like postgresql://user:password@host:5432/database"


@dataclass(frozen=True)
class Settings:
    """Everything that is configured from outside, as one value."""

    home: Path
    """Folder of the embedded stack: VIDAN_HOME, or the platform's data folder."""
    database_url: str | None = field(default=None, repr=False)
    """`postgresql://…`, if given explicitly (option, DATABASE_URL, .env)."""
    kafka: Mapping[str, str] = field(default_factory=dict)
    """librdkafka settings that were given explicitly, by librdkafka's names."""
    app: str | None = None
    """VIDAN_APP: `module:app` with the user's own tasks."""
    source_roots: tuple[Path, ...] = ()
    """VIDAN_SOURCE_ROOTS: folders from which the HTTP interface accepts sources."""
    api_token: str | None = field(default=None, repr=False)
    """VIDAN_API_TOKEN: the bearer token of the HTTP interface."""
    log_json: bool = False
    """VIDAN_LOG_JSON: log lines are JSON objects."""
    log_level: str = "info"
    """VIDAN_LOG_LEVEL: the lowest level that is logged: debug, info, warning or error."""
    direct_database_url: str | None = field(default=None, repr=False)
    """VIDAN_DIRECT_DATABASE_URL: the same database without a connection pooler, for workers,
    supervisors and orchestrators."""

    def require_database(self, *, reads: bool = False, direct: bool = False) -> str:
        """Return the explicit database URL, or that of the running embedded stack.

        `direct` prefers the URL without a connection pooler.
        A stack that was started only for a reading command ends with it, so only other reading
        commands (`reads`) use it. Raises DatabaseUnavailable without a database.
        """
        if direct and self.direct_database_url is not None:
            return self.direct_database_url
        if self.database_url is not None:
            return self.database_url
        stack = running_stack(self.home)
        if stack is None or not (reads or stack.for_all):
            raise DatabaseUnavailable(
                "no database: DATABASE_URL is not set and no embedded stack is running",
                hint="start one with `vidan up`, or set DATABASE_URL=postgresql://…",
            )
        return stack.database_url

    def bootstrap_servers(self) -> str | None:
        """Return Kafka's address (`host:port[,…]`), None while no address is known.

        It is read at each call, because the embedded broker restarts on another port. With an
        explicit database the embedded broker is not used: the stack is used whole or not at all.
        """
        explicit = self.kafka.get(BOOTSTRAP)
        if explicit is not None or self.database_url is not None:
            return explicit
        stack = running_stack(self.home)
        return None if stack is None else broker_address(stack)

    def embedded(self) -> bool:
        """Tell whether the embedded stack is used: it runs, and no database was given."""
        return self.database_url is None and running_stack(self.home) is not None

    def environment(self, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment for a child process, in which `load` builds the same settings.

        It is `environ` (by default this process's environment) with the variables of these
        settings replaced; the child does not read `.env`.
        """
        own = os.environ if environ is None else environ
        given = {
            "VIDAN_HOME": str(self.home),
            "DATABASE_URL": self.database_url,
            DIRECT: self.direct_database_url,
            "VIDAN_APP": self.app,
            "VIDAN_SOURCE_ROOTS": os.pathsep.join(map(str, self.source_roots)),
            "VIDAN_API_TOKEN": self.api_token,
            "VIDAN_LOG_JSON": "1" if self.log_json else None,
            "VIDAN_LOG_LEVEL": self.log_level,
            "KAFKA_BOOTSTRAP_SERVERS": None,
            DOTENV: "0",
            **{_kafka_variable(name): value for name, value in self.kafka.items()},
        }
        kept = {
            name: value
            for name, value in own.items()
            if name not in given and not name.startswith(KAFKA_PREFIX)
        }
        return kept | {name: value for name, value in given.items() if value}


def load(
    *,
    database_url: str | None = None,
    bootstrap_servers: str | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Settings:
    """Build the settings from the options, `environ` and the `.env` in `cwd`.

    `environ` and `cwd` are the process's own by default. A direct URL that is given less directly
    than the database's URL is passed over: it may be another database's. Raises UsageError if a
    value can't be understood.
    """
    own = os.environ if environ is None else environ
    folder = Path.cwd() if cwd is None else cwd
    file = _read_dotenv(folder / ".env") if _boolean(DOTENV, own.get(DOTENV, "1")) else {}
    merged = {**file, **own}
    kafka = {**_kafka(file), **_kafka(own)}
    if bootstrap_servers:
        kafka[BOOTSTRAP] = bootstrap_servers
    direct = None if database_url else _direct(own, file)
    url = database_url or merged.get("DATABASE_URL") or direct
    return Settings(
        home=_home(merged.get("VIDAN_HOME"), folder),
        database_url=plain_url(url) if url else None,
        direct_database_url=plain_url(direct) if direct else None,
        kafka={name: value for name, value in kafka.items() if value},
        app=merged.get("VIDAN_APP") or None,
        source_roots=_roots(merged.get("VIDAN_SOURCE_ROOTS", ""), folder),
        api_token=merged.get("VIDAN_API_TOKEN") or None,
        log_json=_boolean("VIDAN_LOG_JSON", merged.get("VIDAN_LOG_JSON", "")),
        log_level=_level(merged.get("VIDAN_LOG_LEVEL") or "info"),
    )


def _direct(own: Mapping[str, str], file: Mapping[str, str]) -> str | None:
    """Return the direct URL; the file's only if the URL that it belongs to is the file's, too."""
    return own.get(DIRECT) if DIRECT in own or "DATABASE_URL" in own else file.get(DIRECT)


def plain_url(url: str) -> str:
    """Return the URL as libpq, psql and psycopg take it: `postgresql://…`. Raises UsageError."""
    return f"postgresql://{_checked(url)}"


def sqlalchemy_url(url: str) -> str:
    """Return the URL as SQLAlchemy takes it, with the driver: `postgresql+psycopg://…`.

    Takes `postgresql://`, `postgres://` and `postgresql+psycopg://`; raises UsageError otherwise.
    """
    return f"postgresql+psycopg://{_checked(url)}"


def shown_url(url: str) -> str:
    """Return the URL as it is shown to people: without its password and parameters."""
    try:
        parts = urlsplit(url)
        user, at, host = parts.netloc.rpartition("@")
    except ValueError:
        return "(not a URL)"
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}"


def _checked(url: str) -> str:
    """Return what follows `://` in a database URL. Raises UsageError, which shows no password."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme not in _SCHEMES:
        raise UsageError(
            "the database URL has to begin with postgresql://"
            + (f", not {scheme}://" if separator and scheme.isalpha() else ""),
            hint=_URL_HINT,
        )
    authority, _, path = rest.partition("?")[0].partition("/")
    if not (authority or path or "?" in rest):
        raise UsageError("the database URL names neither host nor database", hint=_URL_HINT)
    _check_marks(rest, authority, path)
    try:
        _ = urlsplit(f"postgresql://{rest}").port
    except ValueError:  # its text would show what is in place of the port, maybe a password
        raise UsageError(
            "the database URL is malformed: the host or port is wrong", hint=_URL_HINT
        ) from None
    return rest


def _check_marks(rest: str, authority: str, path: str) -> None:
    """Refuse marks that would make a part of the password something else, which messages show."""
    if "#" in rest or "/" in path:
        raise UsageError(
            "the database URL is malformed: a # or / in user, password or name has to be "
            "written as %23 or %2F",
            hint=_URL_HINT,
        )
    query = rest.partition("?")[2]
    misplaced = "@" in path or ("@" in query and "@" not in authority)
    if authority.count("@") > 1 or misplaced:
        raise UsageError(
            "the database URL is malformed: a @ or ? in user, password or name has to be "
            "written as %40 or %3F",
            hint=_URL_HINT,
        )
    if re.search(r"%(?![0-9A-Fa-f]{2})", rest) or re.search(r"[\s\x00-\x1f]", rest):
        raise UsageError(
            "the database URL is malformed: a % or a space in user, password or name has to be "
            "written as %25 or %20",
            hint=_URL_HINT,
        )
    host = authority.rpartition("@")[2]
    if not re.fullmatch(r"[\w.,:%-]*(\[[0-9A-Fa-f:.%\w]+\][\w.,:%-]*)*", host):
        raise UsageError("the database URL is malformed: the host is wrong", hint=_URL_HINT)
    if query and not all(
        re.fullmatch(r"[A-Za-z_]+=[^=]*(=[^=]*)*", one) for one in query.split("&")
    ):
        raise UsageError(
            "the database URL is malformed: what follows the ? is no list of name=value",
            hint=_URL_HINT,
        )


def _read_dotenv(path: Path) -> dict[str, str]:
    """Return the variables of a `.env` file, none if there is no such file. Raises UsageError."""
    if not path.is_file():
        return {}
    from dotenv import dotenv_values  # slow to import, and needed only if there is a file

    try:
        values = dotenv_values(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} can't be read: {error}", hint="fix or remove it") from None
    return {name: value for name, value in values.items() if value is not None}


def _kafka(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables' librdkafka settings: VIDAN_KAFKA_SASL_USERNAME is `sasl.username`."""
    found = {}
    if "KAFKA_BOOTSTRAP_SERVERS" in variables:
        found[BOOTSTRAP] = variables["KAFKA_BOOTSTRAP_SERVERS"]
    for name, value in variables.items():
        if name.startswith(KAFKA_PREFIX) and name != KAFKA_PREFIX:
            found[name.removeprefix(KAFKA_PREFIX).lower().replace("_", ".")] = value
    return found


def _kafka_variable(name: str) -> str:
    return KAFKA_PREFIX + name.upper().replace(".", "_")


def _home(value: str | None, cwd: Path) -> Path:
    if value:
        return cwd / Path(value).expanduser()
    from platformdirs import user_data_path

    return user_data_path("vidan")


def _roots(value: str, cwd: Path) -> tuple[Path, ...]:
    return tuple(cwd / Path(root).expanduser() for root in value.split(os.pathsep) if root)


def _boolean(name: str, value: str) -> bool:
    if value.strip().lower() in _TRUE:
        return True
    if value.strip().lower() in _FALSE:
        return False
    raise UsageError(f"{name} is {value!r}", hint=f"one of {', '.join(_TRUE + _FALSE[1:])}")


def _level(value: str) -> str:
    if value.strip().lower() in _LEVELS:
        return value.strip().lower()
    raise UsageError(f"VIDAN_LOG_LEVEL is {value!r}", hint=f"one of {', '.join(_LEVELS)}")
