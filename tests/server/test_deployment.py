"""The exported files: valid for their tools, consistent with the service, and without rights to spare."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from llmhub import __version__
from llmhub.cli import main
from llmhub.server.deployment import FILES, MANIFESTS, VERSION_MARK, export, read
from llmhub.server.groups import GROUPS
from llmhub.server.server_settings import ServerSettings, parse_server_settings

OBJECTS = [name for name in FILES if name.startswith("kubernetes/") and "kustomization" not in name]


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(read(name)))


def find(kind: str, name: str = "llmhub") -> dict[str, Any]:
    """Return the one object of a kind and name."""
    found = [each for file in OBJECTS for each in documents(file) if each["kind"] == kind]
    (chosen,) = [each for each in found if each["metadata"]["name"] == name]
    return chosen


def container(kind: str = "Deployment", name: str = "llmhub") -> dict[str, Any]:
    (only,) = find(kind, name)["spec"]["template"]["spec"]["containers"]
    result: dict[str, Any] = only
    return result


def settings() -> ServerSettings:
    variables = {each["name"]: each.get("value", "") for each in container()["env"]}
    server = {name: value for name, value in variables.items() if name.startswith("LLMHUB_SERVER_")}
    return parse_server_settings(find("ConfigMap")["data"]["llmhub.toml"], server)


class TestExport:
    def test_writes_every_file_for_the_installed_version(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["deploy", "export", str(tmp_path / "deployment")]) == 0
        written = {
            path.relative_to(tmp_path / "deployment").as_posix(): path.read_text()
            for path in tmp_path.rglob("*")
            if path.is_file()
        }
        assert set(written) == set(FILES)
        assert len(capsys.readouterr().out.splitlines()) == len(FILES)
        assert not any(VERSION_MARK in text for text in written.values())
        assert f"=={__version__}" in written["requirements.txt"]

    def test_no_file_of_the_package_is_left_out(self) -> None:
        folder = Path(sys.modules[export.__module__].__file__ or "").parent
        present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert {name for name in present if not name.endswith((".py", ".pyc"))} == set(FILES)

    def test_folder_that_cannot_be_written_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        assert main(["deploy", "export", str(tmp_path / "file")]) == 2


class TestContainer:
    def test_hadolint_accepts_the_container_file(self, tmp_path: Path) -> None:
        export(tmp_path)
        program = Path(sys.executable).parent / "hadolint"
        command = [program, "--failure-threshold", "info", tmp_path / "Containerfile"]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
        broken = read("Containerfile").replace("bookworm", "latest").replace("-slim-latest", ":latest")
        refused = subprocess.run([program, "-"], input=broken, capture_output=True, text=True, check=False)
        assert refused.returncode != 0

    def test_image_serves_as_a_user_without_rights(self) -> None:
        lines = read("Containerfile").splitlines()
        user = next(line for line in lines if line.startswith("USER "))
        assert lines.index(user) < lines.index('CMD ["serve", "--config", "/etc/llmhub/llmhub.toml"]')
        assert user.split()[1] == "{runAsUser}:{runAsGroup}".format(
            **find("Deployment")["spec"]["template"]["spec"]["securityContext"]
        )


class TestKubernetes:
    @pytest.mark.parametrize("name", OBJECTS)
    def test_manifests_are_valid(self, name: str) -> None:
        for document in documents(name):
            kubernetes_validate.validate(document, "1.31", strict=True)

    def test_validation_refuses_a_wrong_manifest(self) -> None:
        document = find("HorizontalPodAutoscaler")
        document["spec"]["maxReplicas"] = "eight"
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(document, "1.31", strict=True)

    def test_kustomization_lists_the_manifests(self) -> None:
        (kustomization,) = documents("kubernetes/kustomization.yaml")
        listed = {f"kubernetes/{name}" for name in kustomization["resources"]}
        assert listed == set(MANIFESTS) - {"kubernetes/kustomization.yaml"}
        assert kustomization["images"][0]["name"] == container()["image"]

    def test_selectors_find_the_pods(self) -> None:
        for pods in (find("Deployment"), find("StatefulSet", "llmhub-redis")):
            labels = pods["spec"]["template"]["metadata"]["labels"]
            name = pods["metadata"]["name"]
            assert pods["spec"]["selector"]["matchLabels"] == labels
            assert find("Service", name)["spec"]["selector"] == labels
            assert find("NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"] == labels
        assert find("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == "llmhub"
        assert find("PodDisruptionBudget")["spec"]["selector"] == find("Deployment")["spec"]["selector"]

    def test_probes_are_routes_without_a_key(self) -> None:
        free = {route.path for group in GROUPS for route in group.routes if not route.scope}
        probes = [container()[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")]
        assert {probe["httpGet"]["path"] for probe in probes} == {"/healthz", "/readyz"} <= free

    def test_pods_may_do_nothing_but_serve(self) -> None:
        for kind, name in (("Deployment", "llmhub"), ("StatefulSet", "llmhub-redis")):
            pod, only = find(kind, name)["spec"]["template"]["spec"], container(kind, name)
            assert pod["securityContext"]["runAsNonRoot"]
            assert not pod["automountServiceAccountToken"]
            assert only["securityContext"]["readOnlyRootFilesystem"]
            assert not only["securityContext"]["allowPrivilegeEscalation"]
            assert only["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert set(only["resources"]["limits"]) == {"cpu", "memory"}
        blocked = find("NetworkPolicy")["spec"]["egress"][2]["to"][0]["ipBlock"]["except"]
        assert "169.254.0.0/16" in blocked  # credentials of the machine

    def test_service_ends_before_it_is_killed(self) -> None:
        grace = find("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        pause = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert grace > pause + settings().drain_timeout_s


class TestSettings:
    def test_settings_are_those_of_the_service(self) -> None:
        given = settings()
        assert (given.host, given.port) == ("0.0.0.0", container()["ports"][0]["containerPort"])
        assert "llmhub-redis:" in given.cache
        assert given.access.keys
        assert (given.runs.folder, given.batches.folder) == ("", "")  # runs, files and batches are in Redis
        assert not [each for file in OBJECTS for each in documents(file) if each["kind"] == "PersistentVolumeClaim"]
        volumes = find("Deployment")["spec"]["template"]["spec"]["volumes"]
        assert {kind for each in volumes for kind in each} == {"name", "configMap", "emptyDir"}
        arguments = container("StatefulSet", "llmhub-redis")["args"]
        memory = int(arguments[arguments.index("--maxmemory") + 1].removesuffix("mb")) << 20
        assert given.batches.max_redis_bytes + given.runs.max_input_bytes < memory / 2
        assert find("ConfigMap")["data"]["llmhub.toml"] == read("llmhub.toml")

    def test_secrets_are_empty_and_complete(self) -> None:
        secret = find("Secret")["stringData"]
        assert set(secret.values()) == {""}
        lines = dict(line.split("=", 1) for line in read("example.env").splitlines() if line and line[0] != "#")
        assert {name for name, value in lines.items() if not value} == set(secret)

    def test_compose_file_has_the_same_rules(self) -> None:
        (compose,) = documents("compose.yaml")
        service = compose["services"]["llmhub"]
        assert service["image"] == f"llmhub:{__version__}"
        assert service["volumes"][0].startswith("./llmhub.toml:/etc/llmhub/llmhub.toml")
        assert service["user"] == read("Containerfile").split("USER ")[1].splitlines()[0]
        assert float(service["stop_grace_period"].removesuffix("s")) > settings().drain_timeout_s
        variables = {name: str(value) for name, value in service["environment"].items() if name.startswith("LLMHUB_S")}
        here = parse_server_settings(read("llmhub.toml"), variables)
        assert (here.runs.folder, here.batches.folder, set(compose["volumes"])) == ("", "", {"redis"})
        assert here.batches.max_redis_bytes + here.runs.max_input_bytes < (400 << 20) / 2
        for each in compose["services"].values():
            assert each["read_only"]
            assert each["cap_drop"] == ["ALL"]
            assert each["security_opt"] == ["no-new-privileges:true"]
            assert set(each["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
