"""The names that are said to be OpenTelemetry's are OpenTelemetry's."""

from __future__ import annotations

import importlib
import pkgutil
import re
from enum import Enum
from pathlib import Path
from types import ModuleType

import opentelemetry.semconv._incubating.attributes as draft_attributes
import opentelemetry.semconv._incubating.metrics as draft_metrics
import opentelemetry.semconv.attributes as stable
from opentelemetry.semconv._incubating.attributes.cicd_attributes import CicdPipelineResultValues
from opentelemetry.semconv.schemas import Schemas

from rocketry_otel._runtime.scope import SCHEMA_URL

PAGE = (Path(__file__).parents[2] / "docs" / "semantic-conventions.md").read_text(encoding="utf-8")
_DRAFT = re.compile(r"`((?:cicd|faas)\.[a-z_.]+)`")
_OTHER = re.compile(r"`((?:error|exception|code|host|process|service)\.[a-z_.]+)`")


def names_in(package: ModuleType) -> set[str]:
    """Return the names that the modules of a package define."""
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    ]
    return {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, str) and not isinstance(value, Enum)
    }


def test_schema_url_is_one_of_opentelemetrys() -> None:
    """The oldest supported package knows it, and so does the newest."""
    assert SCHEMA_URL in [schema.value for schema in Schemas]
    assert f"`{SCHEMA_URL}`" in PAGE


def test_names_of_the_page_are_in_the_conventions() -> None:
    """Stable names and drafts are those of the installed package."""
    known = names_in(stable) | names_in(draft_attributes) | names_in(draft_metrics)
    named = set(_DRAFT.findall(PAGE)) | set(_OTHER.findall(PAGE))
    assert len(named) > 20
    assert named - known == set()


def test_outcomes_of_the_page_are_those_of_the_draft() -> None:
    """Each row has a result that exists, and each result has a row."""
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| `(\w+)` \|$", PAGE, re.MULTILINE)
    assert {action for action, _ in rows} == {"success", "fail", "terminate", "crash", "inaction"}
    assert {result for _, result in rows} == {one.value for one in CicdPipelineResultValues}
