"""Where the API server is, by a kubeconfig or by the Pod's ServiceAccount, and who the operator is to it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from evolving_operator.cluster.connection import Connection, ConnectionSettingsError
from evolving_operator.cluster.credentials import CredentialsError, ExecPlugin, Fixed, TokenFile
from support.cluster import eventually_async

Entry = dict[str, Any]
EXEC_API = "client.authentication.k8s.io/v1"


def kubeconfig(path: Path, cluster: Entry, user: Entry, *, name: str = "here") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {
                "current-context": name,
                "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
                "clusters": [{"name": name, "cluster": {"server": "https://api:6443/", **cluster}}],
                "users": [{"name": name, "user": user}],
            }
        )
    )
    return path


def plugin(path: Path, script: str) -> ExecPlugin:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return ExecPlugin((str(path),), EXEC_API)


@pytest.mark.parametrize(
    ("user", "header"),
    [
        ({}, None),
        ({"token": "t"}, "Bearer t"),
        ({"tokenFile": "renewed"}, "Bearer from-the-file"),
        ({"tokenFile": "renewed", "token": "t"}, "Bearer from-the-file"),
        ({"username": "ann", "password": "secret"}, f"Basic {base64.b64encode(b'ann:secret').decode()}"),
    ],
)
async def test_a_kubeconfig_says_who_we_are(tmp_path: Path, user: Entry, header: str | None) -> None:
    (tmp_path / "renewed").write_text("from-the-file\n")

    connection = Connection.from_kubeconfig(kubeconfig(tmp_path / "config", {}, user))

    assert connection.server == "https://api:6443"
    assert await connection.credentials.authorization() == header


def test_certificates_stand_in_the_kubeconfig_or_beside_it(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("ca")
    (tmp_path / "key.pem").write_text("key")
    user = {
        "client-certificate-data": base64.b64encode(b"certificate").decode(),
        "client-key": "key.pem",
    }

    connection = Connection.from_kubeconfig(
        kubeconfig(tmp_path / "config", {"certificate-authority": "ca.pem"}, user)
    )

    assert connection.authority == "ca"
    assert connection.certificate == b"certificate\nkey"


def test_of_several_kubeconfigs_the_first_word_counts(tmp_path: Path) -> None:
    first = kubeconfig(tmp_path / "first", {"server": "https://first"}, {})
    second = kubeconfig(tmp_path / "second", {"server": "https://second"}, {})

    assert Connection.load({"KUBECONFIG": f"{first}:{second}"}).server == "https://first"


def test_a_pod_finds_its_service_account(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("ca")
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}

    connection = Connection.of_service_account(environment, tmp_path)

    assert connection.server == "https://[fd00::1]:6443"
    assert connection.credentials == TokenFile(tmp_path / "token")


def test_verification_is_off_only_where_the_kubeconfig_says_so(tmp_path: Path) -> None:
    careful = Connection.from_kubeconfig(kubeconfig(tmp_path / "a", {}, {}))
    careless = Connection.from_kubeconfig(kubeconfig(tmp_path / "b", {"insecure-skip-tls-verify": True}, {}))

    assert careful.tls_context().verify_mode is ssl.CERT_REQUIRED
    assert careless.tls_context().verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("cluster", "user", "named"),
    [
        ({"server": ""}, {}, "names no server"),
        ({"certificate-authority": "gone.pem"}, {}, r"gone\.pem"),
        ({"proxy-url": "http://proxy"}, {}, "proxy-url"),
        ({}, {"as": "somebody"}, "as: not supported"),
        ({"certificate-authority-data": "a"}, {}, "certificate-authority-data is no base64"),
        ({}, {"exec": {"command": "login"}}, "exec has no apiVersion"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, cluster: Entry, user: Entry, named: str) -> None:
    with pytest.raises(ConnectionSettingsError, match=named):
        Connection.from_kubeconfig(kubeconfig(tmp_path / "config", cluster, user))


def test_a_missing_context_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConnectionSettingsError, match="config cannot be read"):
        Connection.load({"KUBECONFIG": str(tmp_path / "config")})
    (tmp_path / "config").write_text("current-context: there")
    with pytest.raises(ConnectionSettingsError, match="no context 'there'"):
        Connection.load({"KUBECONFIG": str(tmp_path / "config")})


async def test_a_plugin_is_asked_once_until_its_token_expires(tmp_path: Path) -> None:
    expires = datetime(2026, 1, 1, 12, tzinfo=UTC)
    status = {"token": "t", "expirationTimestamp": expires.isoformat().replace("+00:00", "Z")}
    asked = tmp_path / "asked"
    asking = plugin(tmp_path / "login", f"echo x >> {asked}; echo '{json.dumps({'status': status})}'")
    now = [expires - timedelta(hours=1)]
    asking.clock = lambda: now[0]

    assert [await asking.authorization(), await asking.authorization()] == ["Bearer t"] * 2
    assert asked.read_text().count("x") == 1
    now[0] = expires
    await asking.authorization()
    assert asked.read_text().count("x") == 2
    asking.refused()
    asking.clock = lambda: expires - timedelta(hours=1)
    await asking.authorization()
    assert asked.read_text().count("x") == 3


async def test_a_plugin_is_not_left_behind_by_who_has_given_up(tmp_path: Path) -> None:
    started = tmp_path / "started"
    asking = asyncio.create_task(
        plugin(tmp_path / "login", f"echo $$ > {started}; exec sleep 600").authorization()
    )
    text = await eventually_async(lambda: asyncio.to_thread(read, started), 20, "the plugin runs")

    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    with pytest.raises(ProcessLookupError):
        os.kill(int(text), 0)


def read(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


@pytest.mark.parametrize(
    ("script", "why"),
    [("exit 3", "ended with 3"), ("echo '{}'", "no ExecCredential"), ("echo no", "no Exec")],
)
async def test_a_plugin_that_fails_is_named(tmp_path: Path, script: str, why: str) -> None:
    with pytest.raises(CredentialsError, match=why):
        await plugin(tmp_path / "login", script).authorization()
    with pytest.raises(CredentialsError, match="does not start"):
        await ExecPlugin((str(tmp_path / "none"),), EXEC_API).authorization()


def test_a_kubeconfig_may_name_a_plugin(tmp_path: Path) -> None:
    user = {
        "exec": {
            "apiVersion": EXEC_API,
            "command": "login",
            "args": ["--quiet"],
            "env": [{"name": "REGION", "value": "north"}],
        }
    }

    found = Connection.from_kubeconfig(kubeconfig(tmp_path / "config", {}, user)).credentials

    assert isinstance(found, ExecPlugin)
    assert (found.command, found.environment) == (("login", "--quiet"), {"REGION": "north"})
    assert not isinstance(found, Fixed)


async def test_a_plugin_that_asks_for_it_is_told_of_the_cluster(tmp_path: Path) -> None:
    login = tmp_path / "login"
    login.write_text(
        """#!/bin/sh
printf %s "$KUBERNETES_EXEC_INFO" >> told
echo '{"status": {"token": "t"}}'
""".replace("told", str(tmp_path / "told"))
    )
    login.chmod(0o755)
    cluster = {
        "certificate-authority-data": base64.b64encode(b"authority").decode(),
        "extensions": [
            {"name": "minikube"},
            {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "there"}},
        ],
    }

    async def told(**more: bool) -> Entry:
        (tmp_path / "told").write_text("")
        user = {"exec": {"apiVersion": EXEC_API, "command": "./login", **more}}
        connection = Connection.from_kubeconfig(kubeconfig(tmp_path / "config", cluster, user))
        await connection.credentials.authorization()
        info: Entry = json.loads((tmp_path / "told").read_text())["spec"]
        return info

    assert await told() == {"interactive": False}
    assert await told(provideClusterInfo=True) == {
        "interactive": False,
        "cluster": {
            "server": "https://api:6443/",
            "certificate-authority-data": cluster["certificate-authority-data"],
            "config": {"audience": "there"},
        },
    }


@pytest.mark.parametrize(
    ("command", "run"), [("login", "login"), ("./login", "{}/login"), ("bin/login", "{}/bin/login")]
)
def test_a_plugin_may_lie_beside_the_kubeconfig(tmp_path: Path, command: str, run: str) -> None:
    user = {"exec": {"apiVersion": EXEC_API, "command": command}}

    found = Connection.from_kubeconfig(kubeconfig(tmp_path / "config", {}, user)).credentials

    assert isinstance(found, ExecPlugin)
    assert found.command == (run.format(tmp_path),)
