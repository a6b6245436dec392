"""Where the API server is: said by the Pod's ServiceAccount or, outside a cluster, by a kubeconfig."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from yarl import URL

from evolving_operator.api import names
from evolving_operator.cluster.credentials import Credentials, ExecPlugin, Fixed, TokenFile

Entry = dict[str, Any]
AnswerObserver = Callable[[str, bool, int], None]  # path, whether it is a watch's, HTTP code

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# Entries that change who is asked, or as whom. To overlook one would be worse than to stop.
_NOT_UNDERSTOOD = (
    "proxy-url",
    "tls-server-name",
    "as",
    "as-uid",
    "as-groups",
    "as-user-extra",
    "auth-provider",
)
# What a kubeconfig says of a cluster to a credential plugin alone.
_PLUGINS_EXTENSION = "client.authentication.k8s.io/exec"
_UNAUTHORIZED = 401
_TOO_MANY_REQUESTS = 429
_REDIRECTIONS = range(300, 400)
CONNECT_SECONDS = 5
_WATCH_INTERVAL_SECONDS = 0.5
_PROBE_SECONDS, _PROBES = 10, 3


class ConnectionSettingsError(Exception):
    """Where the API server is is not said, or not so that it is understood. The message names the place."""


@dataclass(frozen=True)
class Connection:
    """The API server, and who we are to it, whoever of us asks: the gateway, or the watches."""

    server: str  # URL, no slash at its end
    credentials: Credentials = field(default_factory=Fixed)
    authority: str | None = None  # PEM of the cluster's CA; None: the system's
    certificate: bytes | None = None  # PEM of the client's certificate and key
    is_insecure: bool = False

    @staticmethod
    def load(environment: Mapping[str, str] = os.environ) -> Connection:
        """$KUBECONFIG, else the Pod's ServiceAccount, else ~/.kube/config.

        Raises ConnectionSettingsError.
        """
        if paths := environment.get("KUBECONFIG"):
            return Connection.from_kubeconfig(*map(Path, filter(None, paths.split(os.pathsep))))
        if environment.get("KUBERNETES_SERVICE_HOST"):
            return Connection.of_service_account(environment)
        return Connection.from_kubeconfig(Path("~/.kube/config").expanduser())

    @staticmethod
    def of_service_account(environment: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> Connection:
        """As kubelet mounts it."""
        host, port = environment["KUBERNETES_SERVICE_HOST"], environment.get("KUBERNETES_SERVICE_PORT", "443")
        return Connection(
            server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
            credentials=TokenFile(directory / "token"),
            authority=_file(directory / "ca.crt", "the Pod's ServiceAccount").decode(),
        )

    @staticmethod
    def from_kubeconfig(*paths: Path) -> Connection:
        """The current context. Of several files, the first that has an entry of a name wins, as for kubectl.

        Raises ConnectionSettingsError.
        """
        config = _Kubeconfig.read(paths)
        context = config.entry("contexts", config.current_context)
        cluster = config.entry("clusters", context.get("cluster", ""))
        user = config.entry("users", context.get("user", ""))
        if unknown := [key for key in _NOT_UNDERSTOOD if cluster.get(key) or user.get(key)]:
            raise ConnectionSettingsError(f"{config.where}: {', '.join(unknown)}: not supported here")
        if not cluster.get("server"):
            raise ConnectionSettingsError(
                f"{config.where}: the cluster of the current context names no server"
            )
        authority = config.content(cluster, "certificate-authority")
        certificate, key = config.content(user, "client-certificate"), config.content(user, "client-key")
        return Connection(
            server=cluster["server"].rstrip("/"),
            credentials=_credentials(user, cluster, authority),
            authority=authority.decode() if authority else None,
            certificate=b"\n".join((certificate, key)) if certificate and key else None,
            is_insecure=bool(cluster.get("insecure-skip-tls-verify")),
        )

    def tls_context(self) -> ssl.SSLContext:
        """Trusts the cluster's CA, and shows the client certificate where the kubeconfig has one."""
        context = ssl.create_default_context(cadata=self.authority)
        if self.certificate is not None:
            with tempfile.NamedTemporaryFile() as file:  # OpenSSL reads certificates from files only
                file.write(self.certificate)
                file.flush()
                context.load_cert_chain(file.name)
        if self.is_insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def session(self, kopfs: AnswerObserver | None = None) -> aiohttp.ClientSession:
        """Each request carries the credentials of its moment, and may last as long as it says itself.

        kopf repeats a request whose connection breaks, ever less often. A wish of the server's to be left
        alone it would heed whatever it is: for a day, or for what is no number. And where credentials are
        refused it would ask for others, without pause. So both are broken connections to it, and so is a
        redirection, which it would follow to wherever it leads. Nor does it pause where the server ends each
        watch as soon as it begins. What it is answered, it does not tell us where that is nothing: `kopfs`
        is told, of a session for kopf.
        """
        is_tls = self.server.startswith("https")
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ssl=self.tls_context() if is_tls else False, socket_factory=_socket
            ),
            timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS),
            # No compression: to compress costs the API server more than a cluster's network does.
            headers={"User-Agent": names.FIELD_MANAGER, "Accept-Encoding": "identity"},
            middlewares=(self._authorize,) if kopfs is None else (_ForKopf(kopfs), self._authorize),
        )

    @cached_property
    def _origin(self) -> URL:
        return URL(self.server).origin()

    async def _authorize(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        is_the_servers = request.url.origin() == self._origin
        if is_the_servers and (header := await self.credentials.authorization()) is not None:
            request.headers["Authorization"] = header
        response = await handler(request)
        if response.status == _UNAUTHORIZED:
            self.credentials.refused()
        return response


@dataclass
class _ForKopf:
    """A middleware, for what kopf does not do: see `Connection.session`."""

    on_answer: AnswerObserver
    begun: dict[str, float] = field(default_factory=dict)  # when the last watch was asked for, by path

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if "watch" in request.url.query:
            now, path = time.monotonic(), request.url.path
            due = max(now, self.begun.get(path, 0.0) + _WATCH_INTERVAL_SECONDS)
            self.begun[path] = due
            await asyncio.sleep(due - now)
        response = await handler(request)
        if response.status in (_UNAUTHORIZED, _TOO_MANY_REQUESTS, *_REDIRECTIONS):
            response.close()
            raise aiohttp.ClientConnectionError(f"the API server answers {response.status}")
        self.on_answer(request.url.path, "watch" in request.url.query, response.status)
        return response


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """What went without a word (a node, a load balancer's memory of the connection) is found out in seconds:
    by probes while nothing is said, by what nobody acknowledges otherwise."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_SECONDS)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _PROBE_SECONDS * _PROBES)
    return made


def _credentials(user: Entry, cluster: Entry, authority: bytes | None) -> Credentials:
    if user.get("tokenFile"):  # counts before a token, as it does for kubectl
        return TokenFile(user["directory"] / user["tokenFile"])
    if user.get("token"):
        return Fixed.bearer(user["token"])
    if user.get("username"):
        return Fixed.basic(user["username"], user.get("password", ""))
    if plugin := user.get("exec"):
        if missing := [key for key in ("apiVersion", "command") if not plugin.get(key)]:
            raise ConnectionSettingsError(f"the kubeconfig's exec has no {', '.join(missing)}")
        command = plugin["command"]
        if os.sep in command:  # beside the kubeconfig; else it is looked for in $PATH
            command = str(user["directory"].absolute() / command)
        return ExecPlugin(
            command=(command, *(plugin.get("args") or ())),
            api_version=plugin["apiVersion"],
            environment={item["name"]: item["value"] for item in plugin.get("env") or ()},
            cluster=_cluster_info(cluster, authority) if plugin.get("provideClusterInfo") else None,
        )
    return Fixed()


def _cluster_info(cluster: Entry, authority: bytes | None) -> Entry:
    """The Cluster of an ExecCredential (client.authentication.k8s.io)."""
    extensions = {item.get("name"): item.get("extension") for item in cluster.get("extensions") or ()}
    told = {
        "server": cluster["server"],
        "insecure-skip-tls-verify": cluster.get("insecure-skip-tls-verify"),
        "certificate-authority-data": authority and base64.b64encode(authority).decode(),
        "config": extensions.get(_PLUGINS_EXTENSION),
    }
    return {key: value for key, value in told.items() if value}


@dataclass(frozen=True)
class _Kubeconfig:
    where: str  # the files, for messages
    current_context: str
    entries: Mapping[tuple[str, str], Entry]  # by section and name

    @staticmethod
    def read(paths: tuple[Path, ...]) -> _Kubeconfig:
        where, current = ", ".join(map(str, paths)), ""
        entries: dict[tuple[str, str], Entry] = {}
        for path in paths:
            try:
                config = yaml.safe_load(_file(path, "the kubeconfig")) or {}
                current = current or config.get("current-context") or ""
                for section in ("contexts", "clusters", "users"):
                    for item in config.get(section) or ():
                        entry = {**(item.get(section[:-1]) or {}), "directory": path.parent}
                        entries.setdefault((section, item["name"]), entry)
            except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
                raise ConnectionSettingsError(f"{path} is no kubeconfig: {error}") from error
        return _Kubeconfig(where, current, entries)

    def entry(self, section: str, name: str) -> Entry:
        found = self.entries.get((section, name))
        if found is None:
            raise ConnectionSettingsError(
                f"{self.where}: there is no {section[:-1]} {name!r}; "
                "`kubectl config get-contexts` shows what there is"
            )
        return found

    def content(self, entry: Entry, key: str) -> bytes | None:
        """Of the file that the entry names (relative to its kubeconfig), or what stands there in base64."""
        if entry.get(f"{key}-data"):
            try:
                return base64.b64decode(entry[f"{key}-data"])
            except ValueError as error:
                raise ConnectionSettingsError(f"{self.where}: {key}-data is no base64: {error}") from error
        return _file(entry["directory"] / entry[key], self.where) if entry.get(key) else None


def _file(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConnectionSettingsError(f"{what}: {path} cannot be read: {error.strerror}") from error
