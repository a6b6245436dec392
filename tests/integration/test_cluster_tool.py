"""The built cluster itself: it comes up, heals, takes images, runs pods, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster import REPOSITORY, RunningCluster, eventually, image, run_tool, running_cluster

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="the built cluster makes namespaces, which needs root"
)

BUILT = ("--provider", "built")
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
PLAIN_USER = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture
def disposable() -> Iterator[RunningCluster]:
    """A control plane of the test's own, to be killed and removed."""
    with running_cluster("tool-test", "control-plane") as cluster:
        yield cluster


def running_record(cluster: RunningCluster) -> dict[str, Any]:
    """What the tool wrote down about the cluster's processes, beside its kubeconfig."""
    record: dict[str, Any] = json.loads(cluster.kubeconfig.with_name("running.json").read_text())
    return record


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def cgroups_of(name: str) -> list[Path]:
    """The cluster's groups, in whichever hierarchies the machine has."""
    return [path for path in Path("/sys/fs/cgroup").glob(f"**/evolving-{name}") if path.is_dir()]


def has_ended(pid: int) -> bool:
    """Gone, or dead and waiting only for its adoptive parent to ask for its exit status."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def config_map(name: str, **data: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


@pytest.mark.cluster
def test_up_again_changes_nothing_and_down_leaves_nothing(control_plane: RunningCluster) -> None:
    # Given a second cluster beside the one that the other tests use
    with running_cluster("tool-test", "control-plane") as cluster:
        first = running_record(cluster)
        # When it is brought up once more
        again = run_tool("cluster", "up", "--name", cluster.name, "--tier", "control-plane", *BUILT)
        # Then the tool says so, and the same processes run on
        assert "already up" in again.stdout
        assert running_record(cluster) == first
        assert "healthy" in run_tool("cluster", "status", "--name", cluster.name).stdout
        assert cluster.kubeconfig != control_plane.kubeconfig
        assert "evolving-tool-test" in namespaces()

        # When it is taken down
        run_tool("cluster", "down", "--name", cluster.name)

        # Then its processes, namespace, cgroups and state are gone, and the other cluster is untouched
        eventually(lambda: has_ended(first["pid"]), timeout=30, message="the end of its first process")
        assert "evolving-tool-test" not in namespaces()
        assert not cgroups_of("tool-test")
        assert not cluster.kubeconfig.parent.exists()
        assert run_tool("cluster", "status", "--name", cluster.name, check=False).returncode == 1
        assert control_plane.kubectl("get", "--raw", "/readyz") == "ok"


@pytest.mark.cluster
def test_a_killed_cluster_comes_back_with_what_it_stored(disposable: RunningCluster) -> None:
    disposable.apply(config_map("kept", key="value"))
    os.kill(running_record(disposable)["pid"], signal.SIGKILL)

    def is_down() -> bool:
        return run_tool("cluster", "status", "--name", disposable.name, check=False).returncode == 1

    eventually(is_down, 10, "the killed cluster counts as down")

    run_tool("cluster", "up", "--name", disposable.name, "--tier", "control-plane")

    assert disposable.get("configmap", "kept", "-n", "default")["data"] == {"key": "value"}


@pytest.mark.cluster
@pytest.mark.parametrize("component", ["kube-apiserver", "etcd"])
def test_a_crashed_component_is_started_again(disposable: RunningCluster, component: str) -> None:
    disposable.crash(component)

    def answers() -> bool:
        return disposable.kubectl("get", "--raw", "/readyz", check=False) == "ok"

    log = disposable.kubeconfig.with_name("logs") / "supervisor.log"
    eventually(lambda: f"{component} ended with status -9" in log.read_text(), 10, "the crash is noticed")
    eventually(answers, 60, f"the API server is ready after {component} crashed")


@pytest.mark.cluster
def test_a_custom_resource_makes_the_round_trip_and_is_audited(control_plane: RunningCluster) -> None:
    spec = {
        "type": "object",
        "properties": {"size": {"type": "integer", "minimum": 1}},
        "x-kubernetes-validations": [{"rule": "self.size != 13", "message": "13 is not a size"}],
    }
    schema = {"type": "object", "properties": {"spec": spec}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "gadgets", "singular": "gadget", "kind": "Gadget"}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.tool.test"},
        "spec": {"group": "tool.test", "scope": "Namespaced", "names": names, "versions": [version]},
    }

    def gadget(size: int) -> dict[str, Any]:
        metadata = {"name": "one", "namespace": "default"}
        return {"apiVersion": "tool.test/v1", "kind": "Gadget", "metadata": metadata, "spec": {"size": size}}

    control_plane.apply(definition)
    try:
        control_plane.kubectl("wait", "--for=condition=Established", "crd/gadgets.tool.test", "--timeout=30s")
        control_plane.apply(gadget(3))
        assert control_plane.get("gadget", "one", "-n", "default")["spec"] == {"size": 3}
        with pytest.raises(AssertionError, match="13 is not a size"):
            control_plane.apply(gadget(13))
    finally:
        control_plane.kubectl("delete", "crd", "gadgets.tool.test")

    audit = control_plane.kubeconfig.with_name("logs") / "audit.jsonl"
    lines = [json.loads(line) for line in audit.read_text().splitlines() if "gadgets" in line]
    patches = [line["responseStatus"]["code"] for line in lines if line["verb"] == "patch"]
    assert 201 in patches
    assert 422 in patches


@pytest.mark.cluster
def test_pod_security_is_enforced_where_a_namespace_says_nothing() -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "careless", "namespace": "default"},
        "spec": {"containers": [{"name": "it", "image": "localhost/none:1"}]},
    }
    with (
        running_cluster("tool-test", "control-plane", "--pod-security", "restricted") as cluster,
        pytest.raises(AssertionError, match="violates PodSecurity"),
    ):
        cluster.apply(pod)


@pytest.mark.pods
def test_a_loaded_image_runs_and_is_not_loaded_twice(
    bare_node: RunningCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an image that no other test knows, with one static program in it
    monkeypatch.syspath_prepend(REPOSITORY / "hack")
    from cluster import build, node_image  # noqa: PLC0415 (a folder of tools, on the path for this test only)

    programs = build.binaries_for("node")
    archive = tmp_path / "tiny.tar"
    name = f"localhost/tool-test/tiny:{os.getpid()}"
    node_image.write_archive(
        node_image.ProgramImage(name, "pause", "65532:65532"), programs / "pause", archive
    )

    # When it is loaded twice
    load = ("load-image", "--name", bare_node.name, str(archive))
    first, second = run_tool("cluster", *load), run_tool("cluster", *load)

    # Then only the first call has work, and a restricted pod of it runs
    assert "load tiny.tar" in first.stderr
    assert "load tiny.tar" not in second.stderr
    container = {"name": "it", "image": name, "imagePullPolicy": "Never", "securityContext": RESTRICTED}
    with bare_node.namespace("tool-test-tiny") as namespace:
        bare_node.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        bare_node.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "tiny", "namespace": namespace},
                "spec": {"securityContext": PLAIN_USER, "containers": [container]},
            }
        )
        bare_node.kubectl("wait", "--for=condition=Ready", "pod/tiny", "-n", namespace, "--timeout=60s")


@pytest.mark.pods
def test_a_plain_user_writes_to_a_volume_and_the_next_pod_reads_it(node_cluster: RunningCluster) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    }

    def pod(name: str, code: str) -> dict[str, Any]:
        container = {
            "name": "python",
            "image": image("agent"),
            "command": ["python", "-c", code],
            "securityContext": RESTRICTED,
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }
        volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
        spec = {
            "restartPolicy": "Never",
            "securityContext": PLAIN_USER,
            "containers": [container],
            "volumes": [volume],
        }
        metadata = {"name": name, "namespace": "tool-test-volume"}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    with node_cluster.namespace("tool-test-volume") as namespace:
        node_cluster.apply({**claim, "metadata": {"name": "data", "namespace": namespace}})
        node_cluster.apply(pod("writer", "open('/data/note', 'w').write('kept')"))
        done = "--for=jsonpath={.status.phase}=Succeeded"
        node_cluster.kubectl("wait", done, "pod/writer", "-n", namespace, "--timeout=90s")
        report = "open('/dev/termination-log', 'w').write(open('/data/note').read())"
        node_cluster.apply(pod("reader", report))
        node_cluster.kubectl("wait", done, "pod/reader", "-n", namespace, "--timeout=90s")
        (status,) = node_cluster.get("pod", "reader", "-n", namespace)["status"]["containerStatuses"]

    assert status["state"]["terminated"]["message"] == "kept"


@pytest.mark.pods
def test_unchanged_images_are_not_built_again() -> None:
    run_tool("images", "build", "operator")
    again = run_tool("images", "build", "operator")

    assert image("operator") in again.stdout
    assert "image operator:" not in again.stderr


@pytest.mark.cluster
def test_the_kubeconfig_is_its_owners_alone(control_plane: RunningCluster) -> None:
    assert stat.S_IMODE(control_plane.kubeconfig.stat().st_mode) == 0o600


def test_what_is_missing_is_said_with_what_to_do() -> None:
    absent = run_tool("cluster", "kubeconfig", "--name", "nobody", *BUILT, check=False)
    assert absent.returncode == 2
    assert "up --name nobody" in absent.stderr

    bad = run_tool("cluster", "up", "--name", "Not_A_Name", check=False)
    assert bad.returncode == 2
    assert "lower-case" in bad.stderr

    no_context = run_tool("cluster", "up", "--name", "nobody", "--provider", "context", check=False)
    assert no_context.returncode == 2
    assert "EVOLVING_CONTEXT" in no_context.stderr


def test_a_docker_client_without_an_engine_is_no_docker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given kind, and a docker client that says what it says when no engine answers
    for name, script in {"kind": "exit 0", "docker": "echo; exit 1"}.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    refused = run_tool("cluster", "status", "--name", "nobody", "--provider", "kind", check=False)
    chosen = run_tool("cluster", "status", "--name", "nobody", check=False)

    assert refused.returncode == 2
    assert "no Docker engine answers" in refused.stderr
    assert "built" in chosen.stdout
