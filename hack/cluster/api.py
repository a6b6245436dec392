"""A few requests to a cluster's API server, as its administrator."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


class Api:
    """Reads the JSON kubeconfig that `up` writes. An answer is (HTTP status, body); status 0: no answer."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text(encoding="utf-8"))
        server, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server = str(server["server"])
        authority = base64.b64decode(server["certificate-authority-data"]).decode()
        self.context = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile(prefix="client-", suffix=".pem") as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]))
            pair.write(base64.b64decode(user["client-key-data"]))
            pair.flush()
            self.context.load_cert_chain(pair.name)

    def get(self, path: str, timeout: float = 5.0) -> tuple[int, Any]:
        """GET `path`; the body is parsed when it is JSON, else text."""
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.context)
        )
        try:
            with opener.open(f"{self.server}{path}", timeout=timeout) as response:
                body, status = response.read().decode(), response.status
        except urllib.error.HTTPError as error:
            return error.code, str(error)
        except OSError as error:
            return 0, str(error)
        return status, json.loads(body) if body.startswith(("{", "[")) else body

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200
