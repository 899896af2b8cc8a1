"""docker-compose.yml and the Dockerfile agree with the settings and extras of the project."""

import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from clickloop.plugin.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
REQUIRED = re.compile(r"\$\{\w+:\?[^}]+\}")


def is_setting(name: str) -> bool:
    models: list[type[BaseModel]] = [Settings]
    for part in name.removeprefix("CLICKLOOP_").lower().split("__"):
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if not fields:
            return False
        kinds = [kind for field in fields for kind in (field.annotation, *get_args(field.annotation))]
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return True


def extras_of(service: str) -> set[str]:
    return set(SERVICES[service]["build"]["args"]["EXTRAS"].split(","))


def test_the_services_are_the_two_servers_the_api_and_the_worker() -> None:
    assert COMPOSE["name"] == "clickloop"
    assert set(SERVICES) == {"qdrant", "postgres", "api", "worker"}
    assert SERVICES["api"]["command"][:2] == ["clickloop", "serve"]
    assert SERVICES["worker"]["command"] == ["clickloop", "worker"]


def test_every_service_comes_back_after_a_crash() -> None:
    assert {service["restart"] for service in SERVICES.values()} == {"unless-stopped"}


@pytest.mark.parametrize("name", ["qdrant", "postgres", "api"])
def test_a_service_that_others_wait_for_has_a_health_check(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_the_worker_does_not_inherit_the_check_of_a_port_it_never_opens() -> None:
    assert "HEALTHCHECK" in DOCKERFILE
    assert SERVICES["worker"]["healthcheck"] == {"disable": True}


def test_qdrants_health_check_needs_only_bash() -> None:
    command = SERVICES["qdrant"]["healthcheck"]["test"]
    assert command[:3] == ["CMD", "bash", "-c"]
    assert "/dev/tcp/127.0.0.1/6333" in command[3]
    assert not re.search(r"\b(curl|wget|nc|grep)\b", command[3])
    # Compose would take a single dollar for a variable of its own.
    assert "$" not in command[3].replace("$$", "")


@pytest.mark.parametrize(
    ("name", "needs"), [("api", {"qdrant", "postgres"}), ("worker", {"qdrant", "postgres", "api"})]
)
def test_a_service_waits_until_what_it_needs_is_healthy(name: str, needs: set[str]) -> None:
    assert SERVICES[name]["depends_on"] == {need: {"condition": "service_healthy"} for need in needs}


def test_state_lies_in_declared_volumes() -> None:
    used = {name: [volume.split(":") for volume in SERVICES[name]["volumes"]] for name in SERVICES}
    assert {source for volumes in used.values() for source, _ in volumes} == set(COMPOSE["volumes"])
    assert used["qdrant"] == [["qdrant", "/qdrant/storage"]]
    assert used["postgres"] == [["postgres", "/var/lib/postgresql/data"]]


def test_api_and_worker_share_the_folders_of_releases() -> None:
    assert SERVICES["api"]["volumes"] == SERVICES["worker"]["volumes"] == ["data:/data"]
    assert "CLICKLOOP_DATA_DIR=/data" in DOCKERFILE


def test_only_the_worker_reserves_a_gpu() -> None:
    devices = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert [(device["driver"], device["capabilities"]) for device in devices] == [("nvidia", ["gpu"])]
    assert [name for name in SERVICES if "deploy" in SERVICES[name]] == ["worker"]


def test_only_the_worker_runs_the_nights() -> None:
    assert SERVICES["api"]["environment"]["CLICKLOOP_SCHEDULE__ENABLED"] == "false"
    assert "CLICKLOOP_SCHEDULE__ENABLED" not in SERVICES["worker"]["environment"]


def test_secrets_are_taken_from_the_environment_or_refused() -> None:
    secrets = [
        value
        for service in SERVICES.values()
        for name, value in service["environment"].items()
        if re.search("PASSWORD|KEY|SECRET|TOKEN", name)
    ]
    assert len(secrets) >= 6
    assert [value for value in secrets if not REQUIRED.fullmatch(value)] == []


def test_a_url_holds_no_literal_password() -> None:
    values = [str(value) for service in SERVICES.values() for value in service["environment"].values()]
    passwords = [found[1] for value in values if (found := re.search(r"://[^:/@]+:(.+)@", value))]
    assert passwords
    assert [password for password in passwords if not REQUIRED.fullmatch(password)] == []


@pytest.mark.parametrize("name", ["api", "worker"])
def test_every_variable_is_a_setting(name: str) -> None:
    assert [variable for variable in SERVICES[name]["environment"] if not is_setting(variable)] == []


def test_every_variable_of_the_image_is_a_setting() -> None:
    variables = re.findall(r"\b(CLICKLOOP_\w+)=", DOCKERFILE)
    assert variables
    assert [variable for variable in variables if not is_setting(variable)] == []


def test_an_unknown_variable_is_no_setting() -> None:
    assert not is_setting("CLICKLOOP_NO_SUCH_SETTING")
    assert not is_setting("CLICKLOOP_QDRANT__NO_SUCH_SETTING")


def test_the_extras_of_the_images_exist() -> None:
    default = re.search(r'^ARG EXTRAS="([\w,]+)"$', DOCKERFILE, re.MULTILINE)
    assert default is not None
    assert set(default[1].split(",")) | extras_of("api") | extras_of("worker") <= EXTRAS


def test_an_image_has_one_faiss_and_the_database_driver() -> None:
    assert extras_of("api") & {"cpu", "gpu"} == {"cpu"}
    assert extras_of("worker") & {"cpu", "gpu"} == {"gpu"}
    assert "postgres" in extras_of("api") & extras_of("worker")


def test_the_qdrant_server_has_the_minor_version_of_the_client() -> None:
    client = re.search(r"^qdrant-client==(\d+\.\d+)\.", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert client is not None
    assert SERVICES["qdrant"]["image"].startswith(f"qdrant/qdrant:v{client[1]}.")


def test_the_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users
    assert users[-1] not in {"root", "0"}
