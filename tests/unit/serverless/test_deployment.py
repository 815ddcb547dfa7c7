"""Every path, command, image and variable of the deployment files is checked on the repository."""

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from cvat_sync.cli import main as cvatsync
from serverless import shared

ROOT = Path(__file__).resolve().parents[3]
OVERRIDE = ROOT / "docker-compose.override.yml"
FUNCTIONS = sorted((ROOT / "serverless").glob("*/function*.yaml"))
EXACT = re.compile(r"^[a-z0-9./_-]+:\d+\.\d+(\.\d+)?(-[a-z0-9]+)*(@sha256:[0-9a-f]{64})?$")
CVAT_COMPOSE = {
    "services": {
        "cvat_server": {"image": "cvat/server:v2.73.0", "networks": {"cvat": None}},
        "cvat_db": {"image": "postgres:15-alpine", "networks": ["cvat"]},
        "cvat_redis_inmem": {"image": "redis:7.2.11-alpine", "networks": ["cvat"]},
        "cvat_redis_ondisk": {"image": "apache/kvrocks:2.12.1", "networks": ["cvat"]},
        "traefik": {"image": "traefik:v3.6", "networks": ["cvat"], "ports": ["8080:8080"]},
        "nuclio": {"image": "quay.io/nuclio/dashboard:1.16.3-amd64", "ports": ["8070:8070"]},
    },
    "volumes": {"cvat_db": None, "cvat_data": None},
    "networks": {"cvat": None},
}
"""The names our override may meet in CVAT 2.73's compose and its serverless compose."""


def override() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(OVERRIDE.read_text())
    return found


def example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in pairs}


def test_every_variable_of_the_override_is_in_the_example() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", OVERRIDE.read_text()))
    assert {"ANGIOLOOP_DIR", "ANGIOLOOP_DATA"} <= used
    assert used <= set(example())


def test_every_place_of_the_override_must_be_given_by_whoever_starts_it() -> None:
    text = OVERRIDE.read_text()
    for name in ("ANGIOLOOP_DIR", "ANGIOLOOP_DATA"):
        assert not re.findall(rf"\$\{{{name}(?!:\?)", text)
    assert "context: ${ANGIOLOOP_DIR:?" in text


def test_no_secret_is_in_the_deployment_files() -> None:
    for path in (OVERRIDE, ROOT / ".env.example", *FUNCTIONS):
        given = re.findall(r"(?i)(?:password|token|secret)[ \t]*[:=][ \t]*(\S+)", path.read_text())
        assert [value for value in given if not re.fullmatch(r"\$\{[A-Z_]+:-\}", value)] == [], path


def test_services_meet_cvats_in_its_network_and_never_replace_one() -> None:
    document = override()
    assert not set(CVAT_COMPOSE["services"]) & set(document["services"])
    assert not set(CVAT_COMPOSE["volumes"]) & set(document["volumes"])
    merged = {
        part: {**CVAT_COMPOSE[part], **document.get(part, {})}
        for part in ("services", "volumes", "networks")
    }
    assert len(merged["services"]) == len(CVAT_COMPOSE["services"]) + len(document["services"])
    for name, service in document["services"].items():
        assert set(service["networks"]) <= set(merged["networks"]), name
        assert set(service.get("depends_on", ())) <= set(merged["services"]), name
        for mount in service.get("volumes", ()):
            source = re.sub(r"\$\{[^}]*\}", "/given", mount).split(":")[0]
            assert source.startswith("/") or source in merged["volumes"], (name, mount)
        for place in re.findall(r"(?:redis|http)://(\w+):", json.dumps(service)):
            assert place in {*merged["services"], "localhost"}, (name, place)
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["deploy"]["resources"]["limits"]["memory"], name


def test_every_image_has_an_exact_tag() -> None:
    services = override()["services"].values()
    images = [service["image"] for service in services]
    for path in (ROOT / "docker").glob("*.Dockerfile"):
        images += re.findall(r"^FROM (\S+)", path.read_text(), re.MULTILINE)
    for path in FUNCTIONS:
        build = yaml.safe_load(path.read_text())["spec"]["build"]
        images += [build["image"], build["baseImage"]]
    assert len(images) > 10
    assert [image for image in images if not EXACT.match(image)] == []


def test_ports_are_open_on_this_machine_only_and_no_two_are_the_same() -> None:
    text = re.sub(r"\$\{\w+:-(\d+)\}", r"\1", OVERRIDE.read_text())
    taken = [
        port for service in CVAT_COMPOSE["services"].values() for port in service.get("ports", ())
    ]
    for service in yaml.safe_load(text)["services"].values():
        for port in service.get("ports", ()):
            address, outside, _ = port.split(":")
            assert address == "127.0.0.1"
            taken.append(f"{outside}:")
    outer = [port.split(":")[0] for port in taken]
    assert len(set(outer)) == len(outer) == 4


def test_a_health_check_asks_the_port_its_service_listens_on() -> None:
    found = 0
    for name, service in override()["services"].items():
        asked = re.findall(r"localhost:(\d+)", " ".join(service["healthcheck"]["test"]))
        if asked:
            found += 1
            listens = re.findall(r"--port[ =](\d+)", " ".join(service["command"]))
            assert listens == asked, name
    assert found == 4


def test_optional_services_start_only_when_asked_for() -> None:
    script = (ROOT / "docker" / "compose.sh").read_text()
    services = override()["services"].values()
    profiles = {name for service in services for name in service.get("profiles", ())}
    assert set(re.findall(r"--profile (\w+)", script)) == profiles == {"shared", "watch"}


def test_every_module_a_container_runs_exists() -> None:
    modules = []
    for service in override()["services"].values():
        command = service.get("command", [])
        if command[:2] == ["python", "-m"]:
            modules.append(command[2])
    text = (ROOT / "docker" / "worker.Dockerfile").read_text()
    modules += re.findall(r'CMD \["python", "-m", "([\w.]+)"', text)
    assert sorted(modules) == ["serverless.shared", "trainer.worker", "trainer.worker"]
    assert all(importlib.util.find_spec(module) is not None for module in modules)
    worker = (ROOT / "trainer" / "worker.py").read_text()
    assert '"--home"' in worker


def options_of(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def test_the_services_commands_know_the_options_they_are_given() -> None:
    services = override()["services"]
    (program, verb, *given) = services["angioloop_watch"]["command"]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts[program] == "cvat_sync.cli:main"
    assert {word for word in given if word.startswith("--")} <= options_of(cvatsync.commands[verb])
    given = services["angioloop_model"]["command"][3:]
    assert {word for word in given if word.startswith("--")} <= options_of(shared.main)


def test_the_worker_image_has_what_its_services_run() -> None:
    text = (ROOT / "docker" / "worker.Dockerfile").read_text()
    (extras,) = re.findall(r'"\.\[([\w,-]+)\]"', text)
    assert {"train", "worker", "cvat"} <= set(extras.split(","))


def test_dockerfiles_copy_what_is_there_and_install_extras_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = sorted((ROOT / "docker").glob("*.Dockerfile"))
    assert len(found) == 2
    for path in found:
        text = path.read_text()
        for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
            sources = [part for part in line.split()[:-1] if not part.startswith("--")]
            assert all((ROOT / source).exists() for source in sources), line
        extras = re.findall(r"EXTRAS=([\w,-]+)", text) + re.findall(r'"\.\[([\w,-]+)\]"', text)
        assert extras
        for extra in ",".join(extras).split(","):
            assert extra in project["optional-dependencies"], extra
        assert "USER angioloop" in text
    deploy = (ROOT / "docker" / "deploy.sh").read_text()
    for extras_of_variant in re.findall(r"extras=([\w,-]+)", deploy):
        assert set(extras_of_variant.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("path", FUNCTIONS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_function_is_described_as_cvat_and_nuclio_read_it(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    kind = path.parent.name
    notes, spec = document["metadata"]["annotations"], document["spec"]
    assert document["metadata"]["name"] == f"angioloop-{kind}"
    assert document["metadata"]["namespace"] == "cvat"
    assert notes["type"] == kind
    assert all(isinstance(value, str) for value in notes.values())
    assert "startswith_box" not in notes
    assert spec["handler"] == "main:handler"
    assert (path.parent / "main.py").is_file()
    trigger = spec["triggers"]["myHttpTrigger"]
    assert trigger["numWorkers"] == 1
    assert trigger["attributes"]["maxRequestBodySize"] == 32 * 1024 * 1024
    (volume,) = spec["volumes"]
    assert volume["volume"]["name"] == volume["volumeMount"]["name"]
    assert volume["volumeMount"]["readOnly"] is True
    attributes = spec["platform"]["attributes"]
    assert attributes["restartPolicy"]["name"] == "always"
    assert re.fullmatch(r"\d+s", attributes["healthCheckInterval"])
    environment = {entry["name"]: entry["value"] for entry in spec["env"]}
    assert volume["volumeMount"]["mountPath"] == f"{environment['ANGIOLOOP_HOME']}/models"
    gpu = path.name == "function-gpu.yaml"
    assert environment["ANGIOLOOP_MODEL"] == ("teacher" if gpu else "student")
    assert ("resources" in spec) is gpu
    variant = "gpu" if gpu else "cpu"
    assert spec["build"]["baseImage"] == f"angioloop/function:0.1.0-{variant}"
    if kind == "interactor":
        assert int(notes["version"]) >= 2
    if kind == "tracker":
        assert "rectangle" in notes["supported_shape_types"].split(",")


def test_the_functions_read_only_variables_that_their_yaml_sets() -> None:
    used: set[str] = set()
    for path in (ROOT / "serverless").rglob("*.py"):
        used |= set(re.findall(r'environ(?:\.get\(|\[)"(\w+)"', path.read_text()))
    for path in FUNCTIONS:
        spec = yaml.safe_load(path.read_text())["spec"]
        assert used <= {entry["name"] for entry in spec["env"]}
    assert used


def test_deploying_replaces_the_place_of_the_models_in_every_yaml() -> None:
    script = (ROOT / "docker" / "deploy.sh").read_text()
    (pattern,) = re.findall(r"s\|(path: [^|]+)\|", script)
    assert len(FUNCTIONS) == 6
    for path in FUNCTIONS:
        assert path.read_text().count(pattern) == 1
    assert example()["ANGIOLOOP_DATA"] == "/srv/angioloop"


def test_the_start_line_names_the_override_last() -> None:
    script = (ROOT / "docker" / "compose.sh").read_text()
    files = re.findall(r"^  -f (\S+)", script, re.MULTILINE)
    assert files[-1].strip('"').endswith("docker-compose.override.yml")
    assert len(files) == 3
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert "docker-compose.override.yml" in page
