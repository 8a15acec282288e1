"""A PostgreSQL server of its own on loopback, run by an unprivileged user, from the binaries that the system has."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ms_assets_tests.servers import eventually
from ms_assets_tests.workplace import free_port

INITDB = shutil.which("initdb") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
USER, PASSWORD = "ms_assets", "not told"


@dataclass(frozen=True)
class Postgres:
    """A running server; its databases are made as tests ask for them."""

    binaries: Path
    port: int

    def address(self, database: str) -> str:
        return f"postgresql://{USER}:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Create a database; gives its address."""
        self.ask("postgres", f'CREATE DATABASE "{database}"')
        return self.address(database)

    def ask(self, database: str, query: str) -> list[str]:
        """Rows of an answer, their columns separated by `|`."""
        command = [str(self.binaries / "psql"), self.address(database), "-Atc", query]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def of_sqlalchemy(address: str) -> str:
    """As MLflow hands an address to SQLAlchemy, with the driver that the extra installs."""
    return address.replace("postgresql://", "postgresql+psycopg2://")


def unprivileged() -> dict:
    """Whom PostgreSQL runs as, for it refuses root: arguments of a process."""
    if os.getuid():
        return {}
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL refuses root, and there is no other user here")


@contextmanager
def running() -> Iterator[Postgres]:
    """Run a server until the block ends; the test is skipped where no server is installed."""
    if not INITDB:
        pytest.skip("needs PostgreSQL's server (Debian's package `postgresql`)")
    binaries, port, who = Path(INITDB).resolve().parent, free_port(), unprivileged()
    with tempfile.TemporaryDirectory(
        prefix="postgres", ignore_cleanup_errors=True
    ) as folder:  # pytest's are closed to others
        if who:
            os.chown(folder, who["user"], who["group"])
        secret, data, log = Path(folder, "secret"), Path(folder, "data"), Path(folder, "log")
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        made = subprocess.run(
            [binaries / "initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", "--pwfile", secret, "-E", "UTF8",
             "--locale", "C", "--no-sync"],
            cwd=folder, capture_output=True, text=True, check=False, **who,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "max_connections=60")
        with log.open("w") as output:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", data, "-p", str(port), *(f"-c{setting}" for setting in settings)],
                cwd=folder, stdout=output, stderr=subprocess.STDOUT, **who,
            )  # fmt: skip
        is_ready = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        try:
            eventually(lambda: subprocess.run(is_ready, check=False).returncode == 0, log, server)
            yield Postgres(binaries, port)
        finally:
            server.send_signal(signal.SIGINT)  # "fast": does not wait for clients
            server.wait()
