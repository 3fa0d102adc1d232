"""A Synapse on loopback, which keeps all it has in a temporary folder. ``make synapse`` installs it."""

from __future__ import annotations

import asyncio
import secrets
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import ClientError, ClientSession

PYTHON: Final = Path(__file__).parents[2] / ".venv" / "synapse" / "bin" / "python"
PATIENCE_SECONDS: Final = 120
UNLIMITED: Final = {"per_second": 1_000_000, "burst_count": 1_000_000}
PASSWORD: Final = "a password of a server that nobody else can reach"  # noqa: S105


class SynapseFailed(Exception):
    """Synapse did not start. The exception's text is what it wrote."""


@asynccontextmanager
async def synapse(folder: Path) -> AsyncIterator[str]:
    """Run a Synapse that keeps everything in ``folder``, and give its address."""
    if not PYTHON.exists():
        raise SynapseFailed("there is no Synapse here: make synapse")
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    (folder / "log.json").write_bytes(msgspec.json.encode(_logging(folder)))
    (folder / "homeserver.json").write_bytes(msgspec.json.encode(_configuration(folder, port)))
    with (folder / "output").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            PYTHON,
            *("-m", "synapse.app.homeserver", "--config-path", folder / "homeserver.json"),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await _answers(address, process, folder)
        yield address
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def register(http: ClientSession, name: str, device_id: str) -> tuple[str, str]:
    """Make a user with a device; return the user's id and the device's access token."""
    request: dict[str, object] = {
        "auth": {"type": "m.login.dummy"},
        "username": name,
        "password": PASSWORD,
        "device_id": device_id,
    }
    return await _signed_in(http, "register", request)


async def log_in(http: ClientSession, name: str, device_id: str) -> tuple[str, str]:
    """Sign a user in on another device; return the user's id and the device's access token."""
    request: dict[str, object] = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": name},
        "password": PASSWORD,
        "device_id": device_id,
    }
    return await _signed_in(http, "login", request)


class _SignedIn(msgspec.Struct):
    user_id: str
    access_token: str


async def _signed_in(http: ClientSession, how: str, request: dict[str, object]) -> tuple[str, str]:
    async with http.post(f"/_matrix/client/v3/{how}", json=request) as response:
        response.raise_for_status()
        answer = msgspec.json.decode(await response.read(), type=_SignedIn)
    return answer.user_id, answer.access_token


async def _answers(address: str, process: asyncio.subprocess.Process, folder: Path) -> None:
    """Wait until Synapse answers. Nothing else says that it has begun to listen."""
    async with ClientSession(address) as http:
        while True:
            try:
                async with http.get("/_matrix/client/versions") as response:
                    if response.status == 200:
                        return
            except ClientError:
                pass
            if process.returncode is not None:
                raise SynapseFailed((folder / "output").read_text()[-4000:])
            await asyncio.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _configuration(folder: Path, port: int) -> dict[str, object]:
    """Return a configuration without federation, and without limits of rates."""
    return {
        "server_name": "localhost",
        "report_stats": False,
        "listeners": [
            {"port": port, "type": "http", "bind_addresses": ["127.0.0.1"], "resources": [{"names": ["client"]}]}
        ],
        "database": {"name": "sqlite3", "args": {"database": str(folder / "homeserver.db")}},
        "media_store_path": str(folder / "media"),
        "log_config": str(folder / "log.json"),
        "signing_key": f"ed25519 auto {'A' * 43}",
        "macaroon_secret_key": secrets.token_hex(),
        "form_secret": secrets.token_hex(),
        "trusted_key_servers": [],
        "federation_domain_whitelist": [],
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "bcrypt_rounds": 4,
        "presence": {"enabled": False},
        "rc_message": UNLIMITED,
        "rc_registration": UNLIMITED,
        "rc_login": {"address": UNLIMITED, "account": UNLIMITED, "failed_attempts": UNLIMITED},
        "rc_joins": {"local": UNLIMITED, "remote": UNLIMITED},
        "rc_joins_per_room": UNLIMITED,
        "rc_key_requests": UNLIMITED,
        "rc_invites": {"per_room": UNLIMITED, "per_user": UNLIMITED, "per_issuer": UNLIMITED},
        "rc_room_creation": UNLIMITED,
    }


def _logging(folder: Path) -> dict[str, object]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
        "handlers": {
            "file": {"class": "logging.FileHandler", "filename": str(folder / "log"), "formatter": "line"},
        },
        "root": {"level": "WARNING", "handlers": ["file"]},
    }
