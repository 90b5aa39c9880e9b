"""The servers of a team, really started: PostgreSQL, an S3-compatible store, MLflow and Prefect, with passwords.

Without the containers of `.deploy/compose.yaml`, with the files that it puts into them.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from urllib.parse import quote

import boto3
import httpx
import psutil
import psycopg
import pytest

from rlhf.common.yaml import read_yaml
from tests.source_tree import ROOT
from tests.waiting import wait_until

USER = "ann"
# Made up anew: what is looked for must not stand in a file of the project. What an address needs
# escaped is in it.
PASSWORD = f"{token_hex(8)}@of/a-team"
# of the database and the store, which no client has
DATABASE_PASSWORD = token_hex(8)
STORE_KEY, STORE_SECRET = "key-of-the-store", token_hex(8)
# as it is, in an address, and in a header
_FORMS = (PASSWORD, quote(PASSWORD, safe=""), b64encode(f"{USER}:{PASSWORD}".encode()).decode())
SECRETS = (*_FORMS, DATABASE_PASSWORD, STORE_SECRET)
MLFLOW_BUCKET, DVC_BUCKET = "mlflow", "dvc"
_ROLE = "rlhf"
COMPOSE = ROOT / ".deploy" / "compose.yaml"


def _file(name: str) -> str:
    """A file that the compose file puts into a container."""
    return str(read_yaml(COMPOSE)["configs"][name]["content"])


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs: that of the path, or Debian's newest."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return debian[-1].parent if debian else None


@dataclass(frozen=True)
class Store:
    """An S3-compatible server and the environment in which a client may use it."""

    address: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": STORE_KEY,
            "AWS_SECRET_ACCESS_KEY": STORE_SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def keys(self, bucket: str) -> list[str]:
        """Names of the objects in a bucket."""
        pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def make(self, *buckets: str) -> None:
        program = [sys.executable, "-c", _file("make_buckets"), *buckets]
        address = {"MLFLOW_S3_ENDPOINT_URL": self.address}
        # the second time there is nothing to do
        for _ in range(2):
            subprocess.run(program, env=os.environ | self.environment | address, check=True)

    def _client(self):  # type: ignore[no-untyped-def] # boto3 makes its classes as it runs
        return boto3.client(
            "s3",
            endpoint_url=self.address,
            aws_access_key_id=STORE_KEY,
            aws_secret_access_key=STORE_SECRET,
            region_name="us-east-1",
        )


@dataclass(frozen=True)
class Team:
    """The addresses that members of a team have, and the servers' processes."""

    mlflow: str
    prefect: str
    store: Store
    database: str
    processes: tuple[subprocess.Popen[bytes], ...]
    logs: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a member exports: nothing of the database or the store is in it."""
        scheme, _, host = self.mlflow.partition("://")
        return {
            "MLFLOW_TRACKING_URI": f"{scheme}://{USER}:{quote(PASSWORD, safe='')}@{host}",
            "PREFECT_API_URL": self.prefect,
            "PREFECT_API_AUTH_STRING": f"{USER}:{PASSWORD}",
        }

    def rows(self, database: str, query: str) -> list[tuple]:
        """What a query finds in one of PostgreSQL's databases."""
        address = f"{self.database}/{database}"
        with psycopg.connect(address) as connection:
            return connection.execute(query.encode()).fetchall()

    def titles(self) -> list[str]:
        """The command lines of all their processes, which anybody on the machine can read."""
        found = []
        for process in self.processes:
            first = psutil.Process(process.pid)
            for one in (first, *first.children(recursive=True)):
                with suppress(psutil.Error):
                    found.append(" ".join(one.cmdline()))
        return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def started(
    log: Path, command: list[str], user: str | None = None, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the block, which then ends with all that it started."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            cwd=log.parent,
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def postgres() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A PostgreSQL cluster on loopback for the block; gives its address, without a database."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    # it refuses to run as root
    user = "postgres" if os.getuid() == 0 else None
    # not below pytest's folder, which only its owner may enter
    with tempfile.TemporaryDirectory(prefix="rlhf-postgres-") as name:
        folder, port = Path(name), free_port()
        secret = folder / "password"
        secret.write_text(DATABASE_PASSWORD)
        if user:
            for path in (folder, secret):
                shutil.chown(path, user, user)
        words = ["-D", name + "/data", "-U", _ROLE, "-A", "scram-sha-256", "--pwfile", str(secret)]
        with started(
            folder / "initdb.log",
            [str(programs / "initdb"), *words, "--no-sync", "-E", "UTF8", "--locale", "C"],
            user,
        ) as making:
            assert making.wait() == 0, (folder / "initdb.log").read_text()
        words = ["-D", name + "/data", "-p", str(port), "-c", "listen_addresses=127.0.0.1"]
        words += ["-c", "unix_socket_directories=", "-c", "fsync=off"]
        with started(folder / "log", [str(programs / "postgres"), *words], user) as server:
            address = f"postgresql://{_ROLE}:{DATABASE_PASSWORD}@127.0.0.1:{port}"
            wait_for(server, lambda: _accepts(address), "PostgreSQL")
            with _connected(address) as connection:
                for statement in _file("databases").splitlines():
                    connection.execute(statement.encode())
            yield address, server


def _accepts(address: str) -> bool:
    with suppress(psycopg.OperationalError), _connected(address):
        return True
    return False


@contextmanager
def _connected(address: str) -> Iterator[psycopg.Connection]:
    # no database is made in a transaction
    with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
        yield connection


@contextmanager
def object_store(folder: Path, *buckets: str) -> Iterator[tuple[Store, subprocess.Popen[bytes]]]:
    """An S3-compatible server with these buckets for the block."""
    port = free_port()
    program = "import sys; from moto.server import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "-H", "127.0.0.1", "-p", str(port)]
    with started(folder / "store.log", command) as server:
        store = Store(f"http://127.0.0.1:{port}")
        wait_for(server, lambda: _answers(f"{store.address}/moto-api/"), "the store")
        store.make(*buckets)
        yield store, server


def wait_for(server: subprocess.Popen[bytes], answers: Callable[[], bool], name: str) -> None:
    """Wait until a server answers; one that has ended never will."""
    wait_until(lambda: server.poll() is not None or answers(), f"{name} does not answer")
    assert server.poll() is None, f"{name} has ended"


def _answers(address: str, auth: tuple[str, str] | None = None) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(address, timeout=5, trust_env=False, auth=auth).is_success
    return False


@contextmanager
def mlflow_server(
    folder: Path, port: int, *words: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """An MLflow server for the block; whoever needs it waits for it."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", *words]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with started(folder / "mlflow.log", command, **quiet, **environment) as server:
        yield server


def wait_for_mlflow(server: subprocess.Popen[bytes], port: int) -> None:
    wait_for(server, lambda: _answers(f"http://127.0.0.1:{port}/health"), "MLflow")


@contextmanager
def team_servers(folder: Path) -> Iterator[Team]:
    """All of them, as the page of tasks has them: whoever is asked for nothing has no password."""
    with ExitStack() as stack:
        database, postgres_process = stack.enter_context(postgres())
        store, store_process = stack.enter_context(object_store(folder, MLFLOW_BUCKET, DVC_BUCKET))
        mlflow_port, prefect_port = free_port(), free_port()
        mlflow_process = stack.enter_context(
            mlflow_server(
                folder,
                mlflow_port,
                *("--app-name", "basic-auth"),
                *("--artifacts-destination", f"s3://{MLFLOW_BUCKET}/artifacts"),
                MLFLOW_S3_ENDPOINT_URL=store.address,
                **_mlflow_secrets(folder, database),
                **store.environment,
            )
        )
        prefect = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        prefect_process = stack.enter_context(
            started(
                folder / "prefect.log",
                [*prefect, "--port", str(prefect_port)],
                PREFECT_HOME=str(folder / "prefect"),
                PREFECT_API_DATABASE_CONNECTION_URL=(
                    database.replace("postgresql", "postgresql+asyncpg") + "/prefect"
                ),
                PREFECT_SERVER_API_AUTH_STRING=f"{USER}:{PASSWORD}",
                PREFECT_SERVER_ANALYTICS_ENABLED="false",
            )
        )
        team = Team(
            mlflow=f"http://127.0.0.1:{mlflow_port}",
            prefect=f"http://127.0.0.1:{prefect_port}/api",
            store=store,
            database=database,
            processes=(postgres_process, store_process, mlflow_process, prefect_process),
            logs=folder,
        )
        wait_for_mlflow(mlflow_process, mlflow_port)
        member = (USER, PASSWORD)
        wait_for(prefect_process, lambda: _answers(f"{team.prefect}/version", member), "Prefect")
        yield team


def _mlflow_secrets(folder: Path, database: str) -> Mapping[str, str]:
    """MLflow's addresses and passwords by way of its environment, which others cannot read."""
    users = folder / "basic_auth.ini"
    users.touch(mode=0o600)
    written = _file("mlflow_users").replace("${POSTGRES_PASSWORD:?}", DATABASE_PASSWORD)
    users.write_text(written.replace("@postgres/", f"@{database.partition('@')[2]}/"))
    return {
        # by the driver that is installed: SQLAlchemy would take psycopg2
        "MLFLOW_BACKEND_STORE_URI": database.replace("postgresql", "postgresql+psycopg")
        + "/mlflow",
        "MLFLOW_AUTH_CONFIG_PATH": str(users),
        "MLFLOW_AUTH_ADMIN_USERNAME": USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-its-forms",
    }
