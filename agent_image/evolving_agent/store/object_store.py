"""The door to an S3-compatible object store: whole objects under one prefix, written conditionally."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from evolving_agent.contract import env
from evolving_agent.store.durable import StoreBusyError, StoreUnavailableError

ATTEMPT_SECONDS = 30
MAX_RETRIES = 4
RETRY_SECONDS = 60
MAX_DETAIL_CHARS = 300

Value = TypeVar("Value")


@dataclass(frozen=True)
class ObjectInfo:
    """`key` is relative to the store's prefix; `tag` changes with the content."""

    key: str
    size: int
    modified: datetime
    tag: str


class ObjectStore:
    """One agent's part of a bucket. Calls block; each is retried for at most a minute."""

    def __init__(self, url: str, variables: Mapping[str, str]) -> None:
        """`url`: `s3://bucket/prefix`. Endpoint, region and credentials are in AWS's usual variables; what
        they lack comes from the identity of the pod.
        """
        parts = urlsplit(url)
        self.url = url
        endpoint = variables.get(env.AWS_ENDPOINT)
        given = {
            "endpoint": endpoint,
            "region": variables.get(env.AWS_REGION),
            "access_key_id": variables.get(env.AWS_ACCESS_KEY_ID),
            "secret_access_key": variables.get(env.AWS_SECRET_ACCESS_KEY),
        }
        self._store = S3Store(
            parts.netloc,
            prefix=parts.path.strip("/"),
            config={key: value for key, value in given.items() if value},  # type: ignore[arg-type]
            virtual_hosted_style_request=not endpoint,  # other servers seldom answer to the bucket's own name
            client_options={
                "allow_http": bool(endpoint and endpoint.startswith("http://")),
                "timeout": timedelta(seconds=ATTEMPT_SECONDS),
            },
            retry_config={"max_retries": MAX_RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
        )

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Everything below the folder `prefix`, in the order of keys."""

        def listed() -> list[ObjectInfo]:
            return [
                ObjectInfo(meta["path"], meta["size"], meta["last_modified"], meta["e_tag"] or "")
                for page in obstore.list(self._store, prefix)
                for meta in page
            ]

        return sorted(self._asked("list", prefix, listed), key=lambda info: info.key)

    def get(self, key: str) -> tuple[bytes, str] | None:
        """Content and tag; None where there is no such object."""

        def got() -> tuple[bytes, str] | None:
            try:
                found = obstore.get(self._store, key)
            except FileNotFoundError:
                return None
            return bytes(found.bytes()), found.meta["e_tag"] or ""

        return self._asked("read", key, got)

    def put(self, key: str, content: bytes) -> str:
        """Writes, whatever was there; the new tag."""
        return self._asked("write", key, lambda: obstore.put(self._store, key, content)["e_tag"] or "")

    def put_if(self, key: str, content: bytes, tag: str | None) -> str:
        """Writes where the object's tag is still `tag` (None: where there is no object yet); the new tag.

        Raises StoreBusyError.
        """

        def written() -> str:
            mode = {"e_tag": tag} if tag is not None else "create"
            try:
                return obstore.put(self._store, key, content, mode=mode)["e_tag"] or ""  # type: ignore[arg-type]
            except (AlreadyExistsError, PreconditionError) as changed:
                there = self.get(key)
                if there is not None and there[0] == content:
                    return there[1]  # an attempt of ours got through, and only its answer was lost
                raise StoreBusyError(f"{self.url}/{key} was changed by another run") from changed

        return self._asked("write", key, written)

    def delete(self, key: str) -> None:
        self._asked("delete", key, lambda: obstore.delete(self._store, key))

    def _asked(self, act: str, key: str, call: Callable[[], Value]) -> Value:
        try:
            return call()
        except (BaseError, OSError) as error:
            raise StoreUnavailableError(
                f"cannot {act} {self.url}/{key}: {_told_by(error)}; check storage.objectStore, its Secret, "
                "and that the store is reachable from the agent's pods"
            ) from error


def _told_by(error: Exception) -> str:
    """The server's own code and message where it sent them; else what the client says, at its shortest."""
    text = str(error)
    code, message = (re.search(f"<{tag}>(.*?)</{tag}>", text) for tag in ("Code", "Message"))
    if code is not None:
        return f"{code[1]}: {message[1]}" if message is not None else code[1]
    return text.partition("\n\n")[0][:MAX_DETAIL_CHARS]
