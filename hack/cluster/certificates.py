"""The cluster's certificate authorities, component certificates and kubeconfigs, made with openssl."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
from pathlib import Path

from cluster.layout import NODE, NODE_IP, SERVICE_IP, Cluster

DAYS = "3650"
KUBECONFIG_USERS = ("admin", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _key(folder: Path, name: str) -> None:
    _openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", str(folder / f"{name}.key"))


def _authority(folder: Path, name: str, common_name: str) -> None:
    _key(folder, name)
    _openssl(
        *("req", "-x509", "-new", "-sha256", "-days", DAYS, "-subj", f"/CN={common_name}"),
        *("-key", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.crt")),
        *("-addext", "basicConstraints=critical,CA:TRUE"),
        *("-addext", "keyUsage=critical,keyCertSign,digitalSignature,cRLSign"),
    )


def _certificate(
    folder: Path, name: str, authority: str, *, subject: str, usage: str, names: str = ""
) -> None:
    _key(folder, name)
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    lines = ["basicConstraints=CA:FALSE", "keyUsage=critical,digitalSignature", f"extendedKeyUsage={usage}"]
    if names:
        lines.append(f"subjectAltName={names}")
    extensions.write_text("\n".join(lines) + "\n")
    _openssl("req", "-new", "-key", str(folder / f"{name}.key"), "-subj", subject, "-out", str(request))
    _openssl(
        *("x509", "-req", "-sha256", "-days", DAYS, "-in", str(request), "-extfile", str(extensions)),
        *("-CA", str(folder / f"{authority}.crt"), "-CAkey", str(folder / f"{authority}.key")),
        *("-set_serial", f"0x{secrets.token_hex(8)}", "-out", str(folder / f"{name}.crt")),
    )
    request.unlink()
    extensions.unlink()


def write_kubeconfig(cluster: Cluster, user: str, port: int, target: Path) -> None:
    """A kubeconfig (JSON is YAML) for `user` at 127.0.0.1:`port`, readable by its owner only."""
    folder = cluster.certificates

    def embedded(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    name = cluster.full_name
    server = {
        "server": f"https://127.0.0.1:{port}",
        "certificate-authority-data": embedded(folder / "ca.crt"),
    }
    credentials = {
        "client-certificate-data": embedded(folder / f"{user}.crt"),
        "client-key-data": embedded(folder / f"{user}.key"),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": server}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
    }
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)
        file.write("\n")


def make_certificates(cluster: Cluster, api_port: int) -> None:
    """Everything the components need; made once per cluster."""
    folder = cluster.certificates
    done = folder / ".done"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    _authority(folder, "ca", "kubernetes-ca")
    _authority(folder, "front-proxy-ca", "front-proxy-ca")
    _key(folder, "service-accounts")
    _openssl(
        *("ec", "-in", str(folder / "service-accounts.key"), "-pubout"),
        *("-out", str(folder / "service-accounts.pub")),
    )
    service = "kubernetes.default.svc"
    dns = ["localhost", "kubernetes", "kubernetes.default", service, f"{service}.cluster.local"]
    api_names = ",".join(
        [f"DNS:{name}" for name in dns] + [f"IP:{ip}" for ip in ("127.0.0.1", NODE_IP, SERVICE_IP)]
    )
    masters, node = "/O=system:masters", f"/O=system:nodes/CN=system:node:{NODE}"
    node_names = f"DNS:{NODE},IP:{NODE_IP}"
    _certificate(folder, "apiserver", "ca", subject="/CN=kube-apiserver", usage="serverAuth", names=api_names)
    _certificate(folder, "kubelet-serving", "ca", subject=node, usage="serverAuth", names=node_names)
    clients = {
        "apiserver-kubelet-client": f"{masters}/CN=apiserver-kubelet-client",
        "admin": f"{masters}/CN=kubernetes-admin",
        "kube-controller-manager": "/CN=system:kube-controller-manager",
        "kube-scheduler": "/CN=system:kube-scheduler",
        "kube-proxy": "/CN=system:kube-proxy",
        "kubelet": node,
    }
    for name, subject in clients.items():
        _certificate(folder, name, "ca", subject=subject, usage="clientAuth")
    front = "front-proxy-client"
    _certificate(folder, front, "front-proxy-ca", subject=f"/CN={front}", usage="clientAuth")
    for user in KUBECONFIG_USERS:
        write_kubeconfig(cluster, user, api_port, folder / f"{user}.kubeconfig")
    done.touch()
