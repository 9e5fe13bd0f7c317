"""The files of the stack fit together: no program is needed to see that."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rocketry_otel._demo import report

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
PINNED = {
    "collector": "otel/opentelemetry-collector-contrib:0.159.0",
    "jaeger": "jaegertracing/jaeger:2.20.0",
    "loki": "grafana/loki:3.7.6",
    "prometheus": "prom/prometheus:v3.14.0",
    "grafana": "grafana/grafana:13.2.0",
    "postgresql": "postgres:17.6",
}
# The ports inside, by the defaults of the configurations.
LISTENS = {
    "collector": {"4317", "4318", "13133", "8888", "8889"},
    "jaeger": {"4317", "16685", "16686", "13133"},
    "loki": {"3100"},
    "prometheus": {"9090"},
    "grafana": {"3000"},
    "postgresql": {"5432"},
}


def text_of(name: str) -> str:
    """Return the text of a file of this repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def mounts(service: dict) -> dict[str, str]:
    """Return the files of this repository by their places in the container."""
    found = {}
    for volume in service["volumes"]:
        source, target, *mode = volume.split(":")
        if source.startswith("./"):
            assert mode == ["ro"], volume
            found[target] = source
    return found


def test_images_are_pinned_to_versions_that_fit_together():
    """And the collector of the tests is of the same version."""
    assert {name: service["image"] for name, service in SERVICES.items()} == PINNED
    manifest = yaml.safe_load(text_of("tests/stack/collector-builder.yaml"))
    assert PINNED["collector"].endswith(f":{manifest['dist']['version']}")
    modules = [
        it["gomod"]
        for kind, its in manifest.items()
        if kind != "dist"
        for it in its
        if isinstance(it, dict)
    ]
    assert {it.rpartition(" ")[2] for it in modules} == {"v0.159.0", "v1.65.0"}


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_the_loopback_interface_alone(name):
    """And each leads to one that is listened to."""
    for port in SERVICES[name].get("ports", []):
        address, outside, inside = port.split(":")
        assert address == "127.0.0.1"
        assert outside == inside
        assert inside in LISTENS[name]


def test_no_port_is_published_twice():
    """All services can run side by side."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(set(ports)) == len(ports)


@pytest.mark.parametrize("name", SERVICES)
def test_mounted_files_exist(name):
    """Docker would create an empty directory for a missing file."""
    for source in mounts(SERVICES[name]).values():
        assert (ROOT / source).exists(), source


@pytest.mark.parametrize("name", SERVICES)
def test_files_that_commands_name_are_mounted(name):
    """Each path in a command is that of a mounted file, or of a volume."""
    service = SERVICES[name]
    places = set(mounts(service)) | {
        volume.split(":")[1] for volume in service["volumes"] if not volume.startswith("./")
    }
    for argument in service.get("command", []):
        if "=/" in argument:
            assert argument.partition("=")[2] in places


def test_volumes_are_all_used():
    """Each has the name of its service."""
    used = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service["volumes"]
        if not volume.startswith("./")
    }
    assert used == set(COMPOSE["volumes"]) == set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_memory_is_limited(name):
    """And every service has the same surroundings."""
    assert re.fullmatch(r"\d+[mg]", SERVICES[name]["mem_limit"])
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_data_is_where_the_volumes_are():
    """Data that must survive goes into a volume, by the default of each configuration."""
    for service, name, pattern, target in (
        ("collector", "collector-config.yaml", r"QUEUE_DIRECTORY:-([^}]+)", "/var/lib/otelcol"),
        ("jaeger", "stack/jaeger.yaml", r"DATA_DIRECTORY:-([^}]+)", "/var/lib/jaeger"),
        ("loki", "stack/loki.yaml", r"(?:path_prefix|_directory): (\S+)", "/loki"),
    ):
        assert f"{service}:{target}" in SERVICES[service]["volumes"]
        directories = re.findall(pattern, text_of(name))
        assert directories
        assert all(Path(it).is_relative_to(target) for it in directories)


@pytest.mark.parametrize(
    "name",
    [
        "collector-config.yaml",
        "stack/jaeger.yaml",
        "stack/prometheus.yaml",
        "stack/grafana/datasources.yaml",
    ],
)
def test_addresses_are_those_of_services(name):
    """Each service is spoken to where it listens."""
    found = re.findall(rf"\b({'|'.join(SERVICES)}):(\d+)\b", text_of(name))
    assert found
    for service, port in found:
        assert port in LISTENS[service]


def test_pages_name_the_published_addresses():
    """The addresses lead to Grafana and Jaeger, and the image has the version of this stack."""
    published = {
        name: [f"http://localhost:{port.split(':')[1]}" for port in SERVICES[name]["ports"]]
        for name in ("grafana", "jaeger", "prometheus")
    }
    assert (*published["grafana"], *published["jaeger"]) == (report._GRAFANA, report._JAEGER)
    pages = [text_of("README.md"), text_of("docs/stack.md"), text_of("docs/demo.md")]
    named = set(re.findall(r"http://localhost:(?:3000|9090|16686)", " ".join(pages)))
    assert named == {url for urls in published.values() for url in urls}
    for page in (*pages, text_of("src/rocketry_otel/_demo/report.py")):
        for image in re.findall(r"\bjaegertracing/jaeger:\S+?(?=[\"\s])", page):
            assert image == PINNED["jaeger"]


def test_nobody_has_a_password():
    """Grafana knows a viewer without a name, and no administrator; the database asks the user."""
    grafana = SERVICES["grafana"]["environment"]
    assert grafana["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert grafana["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert grafana["GF_AUTH_BASIC_ENABLED"] == "false"
    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    passwords = re.findall(r"\w*PASSWORD\w*: *(.*)", text_of("docker-compose.yml"))
    assert passwords == ["${POSTGRES_PASSWORD:-}"]


def test_nothing_that_waits_is_given_up():
    """Every exporter that sends keeps its queue on the disk, and tries without end."""
    files = ("collector-config.yaml", "stack/collector/agent.yaml")
    files += ("stack/collector/agent-kafka.yaml",)
    exporters = {
        name: exporter
        for file in files
        for name, exporter in yaml.safe_load(text_of(file))["exporters"].items()
        if name != "prometheus"
    }
    assert len(exporters) == 6
    for exporter in exporters.values():
        assert exporter["retry_on_failure"]["max_elapsed_time"] == "0s"
        assert exporter["sending_queue"]["storage"] == "file_storage"
        assert exporter["sending_queue"]["block_on_overflow"] is True
        assert exporter["sending_queue"]["sizer"] == "items"


# --------------------------------------------------------------------------- Grafana


DATASOURCES = {
    it["uid"]: it for it in yaml.safe_load(text_of("stack/grafana/datasources.yaml"))["datasources"]
}
DASHBOARD = json.loads(text_of("stack/grafana/rocketry-tasks.json"))


def uids_in(value: object) -> set[str]:
    """Return every data source that is named anywhere in there."""
    if isinstance(value, dict):
        own = {value["datasourceUid"]} if "datasourceUid" in value else set()
        if isinstance(value.get("datasource"), dict):
            its = value["datasource"]
            assert DATASOURCES[its["uid"]]["type"] == its["type"]
            own.add(its["uid"])
        return own.union(*map(uids_in, value.values()))
    return set().union(*map(uids_in, value)) if isinstance(value, list) else set()


def test_data_sources_lead_to_one_another():
    """Metric to trace, log to trace, trace to log and to metric."""
    links = {uid: uids_in(it["jsonData"]) for uid, it in DATASOURCES.items()}
    assert links == {"prometheus": {"jaeger"}, "loki": {"jaeger"}, "jaeger": {"loki", "prometheus"}}


def test_dollars_are_escaped():
    """Grafana would replace a single dollar by an environment variable."""
    text = text_of("stack/grafana/datasources.yaml")
    assert re.findall(r"(?<!\$)\$(?:\$\$)*(?!\$)[{\w]", text.split("\n", 2)[2]) == []


def test_dashboard_uses_data_sources_that_there_are():
    """All three data sources have the right kind."""
    assert uids_in(DASHBOARD) == set(DATASOURCES)


def test_dashboard_is_where_links_lead():
    """Its uid is fixed, and every variable that a link sets is one of its."""
    assert DASHBOARD["uid"] == "rocketry-tasks"
    variables = {it["name"] for it in DASHBOARD["templating"]["list"]}
    links = text_of("stack/grafana/rocketry-tasks.json") + text_of("stack/grafana/datasources.yaml")
    assert set(re.findall(r"/d/([\w-]+)/", links)) == {"rocketry-tasks"}
    assert set(re.findall(r"var-(\w+)=", links)) == {"task", "trace"}
    used = set(re.findall(r"\$\{?(\w+)", text_of("stack/grafana/rocketry-tasks.json")))
    built_in = {
        *("__all", "__data", "__interval", "__range", "__rate_interval", "__url_time_range"),
        "__value",
    }
    assert used - variables == built_in


def test_panels_do_not_overlap_and_have_names():
    """Each panel has its own place, number, title and description."""
    taken, numbers, titles = set(), set(), set()
    for panel in DASHBOARD["panels"]:
        where = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(where["x"], where["x"] + where["w"])
            for y in range(where["y"], where["y"] + where["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["id"] not in numbers
        numbers.add(panel["id"])
        if panel["type"] != "row":
            assert panel["title"] not in titles
            titles.add(panel["title"])
            assert panel["description"].endswith(".")


def test_dashboard_is_provisioned_from_where_it_is_mounted():
    """And is the page that Grafana opens with."""
    (provider,) = yaml.safe_load(text_of("stack/grafana/dashboards.yaml"))["providers"]
    grafana = SERVICES["grafana"]
    file = f"{provider['options']['path']}/rocketry-tasks.json"
    assert mounts(grafana)[file] == "./stack/grafana/rocketry-tasks.json"
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == file


# From Grafana's documentation: "Provision Grafana", and the pages that configure the data sources
# of Prometheus, Loki and Jaeger. Grafana ignores a key that it does not know, in silence.
_LINK = {"name": str, "url": str, "datasourceUid": str, "urlDisplayLabel": str}
_TAGS = [{"key": str, "value": str}]
_SHIFTS = {"spanStartTimeShift": str, "spanEndTimeShift": str}
_JSON_DATA = {
    "prometheus": {
        "httpMethod": str,
        "timeInterval": str,
        "queryTimeout": str,
        "prometheusType": str,
        "manageAlerts": bool,
        "exemplarTraceIdDestinations": [_LINK],
    },
    "loki": {
        "maxLines": int,
        "manageAlerts": bool,
        "derivedFields": [{**_LINK, "matcherType": str, "matcherRegex": str}],
    },
    "jaeger": {
        "tracesToLogsV2": {
            **_SHIFTS,
            "datasourceUid": str,
            "tags": _TAGS,
            "filterByTraceID": bool,
            "filterBySpanID": bool,
            "customQuery": bool,
            "query": str,
        },
        "tracesToMetrics": {
            **_SHIFTS,
            "datasourceUid": str,
            "tags": _TAGS,
            "queries": [{"name": str, "query": str}],
        },
        "nodeGraph": {"enabled": bool},
    },
}
_DATA_SOURCE = {
    **dict.fromkeys(("name", "uid", "type", "access", "url"), str),
    **dict.fromkeys(("isDefault", "editable"), bool),
}
_PROVIDER = {
    **dict.fromkeys(("name", "type", "folder", "folderUid"), str),
    **dict.fromkeys(("disableDeletion", "allowUiUpdates"), bool),
    "updateIntervalSeconds": int,
    "options": {"path": str, "foldersFromFilesStructure": bool},
}


def unknown_keys(value: Any, known: Any, place: str = "") -> list[str]:
    """Return the keys that are not documented, or whose value is of another type."""
    if isinstance(known, dict) and isinstance(value, dict):
        found = [f"{place}.{key}" for key in value if key not in known]
        for key in value.keys() & known.keys():
            found += unknown_keys(value[key], known[key], f"{place}.{key}")
        return found
    if isinstance(known, list) and isinstance(value, list):
        return [key for one in value for key in unknown_keys(one, known[0], f"{place}[]")]
    return [] if isinstance(known, type) and type(value) is known else [place]


def test_grafana_documents_every_key_of_its_files():
    """Each kind of data source has its own keys, and so have the dashboards."""
    file = yaml.safe_load(text_of("stack/grafana/datasources.yaml"))
    assert (set(file), file["apiVersion"]) == ({"apiVersion", "datasources"}, 1)
    for source in file["datasources"]:
        known = {**_DATA_SOURCE, "jsonData": _JSON_DATA[source["type"]]}
        assert unknown_keys(source, known) == []
    file = yaml.safe_load(text_of("stack/grafana/dashboards.yaml"))
    assert (set(file), file["apiVersion"]) == ({"apiVersion", "providers"}, 1)
    assert unknown_keys(file["providers"], [_PROVIDER]) == []


def test_key_that_grafana_does_not_know_is_found():
    """Also one deep inside, and a value of another type."""
    known = {"jsonData": _JSON_DATA["loki"]}
    wrong = {"jsonData": {"maxLines": "1000", "derivedFields": [{"matcher": "label"}]}, "adress": 1}
    assert sorted(unknown_keys(wrong, known)) == [
        ".adress",
        ".jsonData.derivedFields[].matcher",
        ".jsonData.maxLines",
    ]
