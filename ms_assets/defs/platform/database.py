"""PostgreSQL of MS_ASSETS_DATABASE, which holds Dagster's history and the trials of studies in place of SQLite."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from ms_assets.defs.platform.extras import missing
from ms_assets.tracking import AT_ONCE, without_password

KIND = "postgresql://"
OF_SQLALCHEMY = "postgresql+psycopg2://"
"""Beginning of an address for SQLAlchemy, which takes another driver of PostgreSQL unless it is told."""


class DatabaseError(RuntimeError):
    """The database cannot be used as it is; the message names the setting and the next step."""


@contextmanager
def opening(address: str) -> Iterator[Any]:
    """Connect to the database with psycopg2 until the end of the block.

    Raises:
        DatabaseError: the address is of another kind, the extra `postgres` is not installed, or the database refuses or
            does not answer within AT_ONCE seconds.
    """
    found = f"MS_ASSETS_DATABASE: found {without_password(address)}"
    if not address.startswith(KIND):
        raise DatabaseError(f"{found}, expected an address such as postgresql://user:password@host:5432/name")
    try:
        import dagster_postgres  # noqa: F401  (what is missing is told at once)
        import psycopg2
    except ModuleNotFoundError as error:
        raise DatabaseError(missing(found, "postgres", error)) from error
    try:
        with closing(psycopg2.connect(address, connect_timeout=AT_ONCE)) as connection:
            yield connection
    except psycopg2.Error as error:
        reason = str(error).strip().partition("\n")[0]
        raise DatabaseError(
            f"{found}, a database that cannot be used ({reason}); start it, or correct or unset the variable"
        ) from error


def history(storage: str, address: str, inst_data: Any) -> Any:
    """Open Dagster's storage of this name (`dagster_postgres.PostgresRunStorage`) in the database."""
    with opening(address):
        import dagster_postgres
    return getattr(dagster_postgres, storage).from_config_value(inst_data, {"postgres_url": _of_sqlalchemy(address)})


def schema(address: str, name: str, *tables: str) -> str:
    """Address, for SQLAlchemy, of a schema of the database, made if it is new; tables: statements that make them.

    Tables of Optuna have names that those of Dagster have, too.
    """
    with opening(address) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [name])  # two may not make it at once
        for statement in (f'CREATE SCHEMA IF NOT EXISTS "{name}"', *tables):
            cursor.execute(statement)
    return f"{_of_sqlalchemy(address)}{'&' if '?' in address else '?'}options=-csearch_path%3D{name}"


def _of_sqlalchemy(address: str) -> str:
    return OF_SQLALCHEMY + address.removeprefix(KIND)
