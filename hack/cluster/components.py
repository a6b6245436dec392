"""What runs in a built cluster: the command line of every component, and the files they read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.layout import API_PORT, DNS_IP, NODE, NODE_IP, POD_CIDR, SERVICE_CIDR, Admission, Cluster

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
ETCD_URL = "http://127.0.0.1:2379"
READY_URL = f"https://127.0.0.1:{API_PORT}/readyz"
PAUSE_IMAGE = "localhost/evolving-agents/pause:1"


@dataclass(frozen=True)
class Component:
    """One supervised process. `after` is a URL or a path that must answer or exist before it starts."""

    name: str
    command: list[str]
    after: str = ""


def _flags(**values: str | Path) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]


def _client_flags(cluster: Cluster, name: str) -> list[str]:
    config = cluster.certificates / f"{name}.kubeconfig"
    return _flags(kubeconfig=config, authentication_kubeconfig=config, authorization_kubeconfig=config)


def _etcd(cluster: Cluster) -> Component:
    peer = "http://127.0.0.1:2380"
    flags = _flags(
        name="etcd",
        data_dir=cluster.state / "etcd",
        listen_client_urls=ETCD_URL,
        advertise_client_urls=ETCD_URL,
        listen_peer_urls=peer,
        initial_advertise_peer_urls=peer,
        initial_cluster=f"etcd={peer}",
        log_level="warn",
    )
    # A test cluster need not survive a power cut; without fsync a write costs microseconds.
    return Component("etcd", ["etcd", *flags, "--unsafe-no-fsync"])


def _api_server(cluster: Cluster, admission: Admission) -> Component:
    certificates = cluster.certificates
    flags = _flags(
        etcd_servers=ETCD_URL,
        advertise_address=NODE_IP,
        bind_address="0.0.0.0",
        secure_port=str(API_PORT),
        service_cluster_ip_range=SERVICE_CIDR,
        allow_privileged="true",
        authorization_mode="Node,RBAC",
        enable_admission_plugins=",".join(filter(None, ("NodeRestriction", admission.plugin))),
        client_ca_file=certificates / "ca.crt",
        tls_cert_file=certificates / "apiserver.crt",
        tls_private_key_file=certificates / "apiserver.key",
        kubelet_certificate_authority=certificates / "ca.crt",
        kubelet_client_certificate=certificates / "apiserver-kubelet-client.crt",
        kubelet_client_key=certificates / "apiserver-kubelet-client.key",
        kubelet_preferred_address_types="InternalIP",
        service_account_issuer="https://kubernetes.default.svc.cluster.local",
        service_account_key_file=certificates / "service-accounts.pub",
        service_account_signing_key_file=certificates / "service-accounts.key",
        requestheader_client_ca_file=certificates / "front-proxy-ca.crt",
        requestheader_allowed_names="front-proxy-client",
        requestheader_username_headers="X-Remote-User",
        requestheader_group_headers="X-Remote-Group",
        requestheader_extra_headers_prefix="X-Remote-Extra-",
        proxy_client_cert_file=certificates / "front-proxy-client.crt",
        proxy_client_key_file=certificates / "front-proxy-client.key",
        audit_policy_file=cluster.state / "audit-policy.json",
        audit_log_path=cluster.audit_log,
        audit_log_maxsize="200",
        audit_log_maxbackup="1",
    )
    if admission.pod_security:
        flags += _flags(admission_control_config_file=cluster.state / "admission.json")
    return Component("kube-apiserver", ["kube-apiserver", *flags], after=f"{ETCD_URL}/health")


def _controller_manager(cluster: Cluster, tier: str) -> Component:
    certificates = cluster.certificates
    flags = _flags(
        bind_address="127.0.0.1",
        leader_elect="false",
        use_service_account_credentials="true",
        root_ca_file=certificates / "ca.crt",
        service_account_private_key_file=certificates / "service-accounts.key",
        cluster_signing_cert_file=certificates / "ca.crt",
        cluster_signing_key_file=certificates / "ca.key",
        client_ca_file=certificates / "ca.crt",
        requestheader_client_ca_file=certificates / "front-proxy-ca.crt",
        enable_hostpath_provisioner="true",
        # The default of 20 requests a second makes thousands of objects take minutes.
        kube_api_qps="300",
        kube_api_burst="600",
    )
    if tier == "control-plane":
        # Without a node no claim is ever bound; every 15 seconds, each would be told so in an Event.
        flags += _flags(pvclaimbinder_sync_period="10m")
    name = "kube-controller-manager"
    return Component(name, [name, *flags, *_client_flags(cluster, name)], after=READY_URL)


def _scheduler(cluster: Cluster) -> Component:
    name = "kube-scheduler"
    flags = _flags(bind_address="127.0.0.1", leader_elect="false")
    return Component(name, [name, *flags, *_client_flags(cluster, name)], after=READY_URL)


def _node_components(cluster: Cluster) -> list[Component]:
    kubelet = _flags(
        config=cluster.state / "kubelet.json",
        kubeconfig=cluster.certificates / "kubelet.kubeconfig",
        root_dir=cluster.state / "kubelet",
        hostname_override=NODE,
        node_ip=NODE_IP,
    )
    proxy = _flags(config=cluster.state / "kube-proxy.json", hostname_override=NODE)
    return [
        Component("containerd", ["containerd", "--config", str(cluster.state / "containerd.toml")]),
        Component("kubelet", ["kubelet", *kubelet], after=READY_URL),
        Component("kube-proxy", ["kube-proxy", *proxy], after=READY_URL),
    ]


def components(cluster: Cluster, tier: str, admission: Admission) -> list[Component]:
    """Everything that `tier` needs, in the order in which it may start."""
    control_plane = [
        _etcd(cluster),
        _api_server(cluster, admission),
        _controller_manager(cluster, tier),
        _scheduler(cluster),
    ]
    return control_plane + (_node_components(cluster) if tier == "node" else [])


def _audit_policy() -> dict[str, Any]:
    """Who asked for what. Kubernetes' own controllers, which make half of all requests, are left out."""
    own = ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "users": own},
            {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
            {"level": "Metadata"},
        ],
    }


def _pod_security(standard: str) -> dict[str, Any]:
    """Pod Security admission for namespaces that carry no label of their own."""
    modes = dict.fromkeys(("enforce", "audit", "warn"), standard)
    versions = {f"{mode}-version": "latest" for mode in modes}
    configuration = {
        "apiVersion": "pod-security.admission.config.k8s.io/v1",
        "kind": "PodSecurityConfiguration",
        "defaults": {**modes, **versions},
        "exemptions": {"namespaces": ["kube-system"]},
    }
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [{"name": "PodSecurity", "configuration": configuration}],
    }


def _kubelet_configuration(cluster: Cluster) -> dict[str, Any]:
    certificates = cluster.certificates
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,  # a machine with the old hierarchy is good enough for tests
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cluster.full_name}",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(certificates / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(certificates / "kubelet-serving.crt"),
        "tlsPrivateKeyFile": str(certificates / "kubelet-serving.key"),
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_IP],
        "resolvConf": str(cluster.state / "resolv.conf"),
        "failSwapOn": False,
        "oomScoreAdj": 0,  # lowering it needs CAP_SYS_RESOURCE, which a container or small VM may lack
        "makeIPTablesUtilChains": False,
        "volumePluginDir": str(cluster.state / "volume-plugins"),
        "podLogsDir": str(cluster.state / "pod-logs"),
        "maxPods": 250,
        "registryPullQPS": 0,
        "syncFrequency": "10s",  # a changed ConfigMap reaches its volume in seconds, not in a minute
        # A build that fills the disk for a moment must not keep pods away for the default five minutes.
        "evictionPressureTransitionPeriod": "10s",
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,  # images cannot be pulled again: never collect them
        "imageGCLowThresholdPercent": 99,
    }


def _proxy_configuration(cluster: Cluster) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "bindAddress": "0.0.0.0",
        "oomScoreAdj": 0,
        "clusterCIDR": POD_CIDR,
        "clientConnection": {"kubeconfig": str(cluster.certificates / "kube-proxy.kubeconfig")},
        "conntrack": {"maxPerCore": 0, "min": 0},
    }


def _pod_network() -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "dataDir": "/run/pod-addresses",
        "ranges": [[{"subnet": POD_CIDR}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": addresses,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}


def _containerd_configuration(cluster: Cluster, binaries: Path) -> str:
    unused = (
        "snapshotter.v1.devmapper",
        "snapshotter.v1.btrfs",
        "snapshotter.v1.zfs",
        "snapshotter.v1.blockfile",
    )
    disabled = json.dumps(["io.containerd.nri.v1.nri", *(f"io.containerd.{name}" for name in unused)])
    return f"""\
version = 3
root = "{cluster.state / "containerd"}"
state = "/run/containerd"
disabled_plugins = {disabled}
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
  enable_selinux = false
  disable_apparmor = true
  restrict_oom_score_adj = true  # lowering it needs CAP_SYS_RESOURCE, which a container or small VM may lack
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{binaries / "cni"}"]
    conf_dir = "{cluster.state / "cni"}"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "{binaries / "runc"}"
      SystemdCgroup = false
"""


def write_files(
    cluster: Cluster, binaries: Path, tier: str, admission: Admission, *, restarted: bool
) -> None:
    """Write every file that the components read, and the supervisor's own instructions."""
    state = cluster.state
    for name in ("logs", "pids", "etcd", "kubelet", "cni", "volume-plugins", "pod-logs", "volumes"):
        (state / name).mkdir(parents=True, exist_ok=True)
    if restarted:
        for stale in cluster.pids.iterdir():
            stale.unlink()

    def write_json(name: str, value: object) -> None:
        (state / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

    write_json("audit-policy.json", _audit_policy())
    if admission.pod_security:
        write_json("admission.json", _pod_security(admission.pod_security))
    write_json("kubelet.json", _kubelet_configuration(cluster))
    write_json("kube-proxy.json", _proxy_configuration(cluster))
    write_json("cni/10-pods.conflist", _pod_network())
    (state / "resolv.conf").write_text("nameserver 127.0.0.1\n", encoding="utf-8")
    (state / "containerd.toml").write_text(_containerd_configuration(cluster, binaries), encoding="utf-8")
    write_json(
        "supervisor.json",
        {
            "binaries": str(binaries),
            "logs": str(cluster.logs),
            "pids": str(cluster.pids),
            "volumes": str(cluster.volumes),
            "target_port": API_PORT,
            "components": [asdict(component) for component in components(cluster, tier, admission)],
        },
    )
