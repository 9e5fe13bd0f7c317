"""The reference has every variable and every public name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import opentelemetry.sdk.environment_variables as standard
import pytest

import _rocketry_otel_pydantic
import rocketry_otel
from rocketry_otel import Settings
from tests.support.settings_reference import (
    EXAMPLES,
    PAGE,
    default_of,
    described,
    reference,
    standard_names_in,
    with_reference,
)

ROOT = Path(__file__).parents[2]
SETTINGS = PAGE.read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
SOURCE = "".join(
    file.read_text(encoding="utf-8")
    for file in sorted((ROOT / "src" / "rocketry_otel").rglob("*.py"))
)


def test_reference_of_settings_is_that_of_the_code() -> None:
    """If not: ``python -m tests.support.settings_reference``."""
    assert with_reference(SETTINGS) == SETTINGS
    assert reference() in SETTINGS


def test_every_setting_is_described_in_the_docstring() -> None:
    """The reference takes its texts from there."""
    assert list(described()) == list(Settings.__fields__)


@pytest.mark.parametrize("name", list(Settings.__fields__))
def test_example_of_a_setting_is_another_value_than_the_default(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example is allowed, and the documented default is what an empty environment gives."""
    variable = f"ROCKETRY_OTEL_{name.upper()}"
    monkeypatch.setenv(variable, default_of(name))
    unset = getattr(Settings(), name)
    monkeypatch.delenv(variable)
    assert getattr(Settings(), name) == unset
    monkeypatch.setenv(variable, EXAMPLES[name])
    assert getattr(Settings(), name) != unset


def test_every_standard_variable_of_the_code_is_in_the_reference() -> None:
    """The table names each variable that the code reads by its whole name."""
    assert standard_names_in(SOURCE) - standard_names_in(SETTINGS) == set()


def test_reference_names_no_standard_variable_that_does_not_exist() -> None:
    """Each is a variable of the SDK, or is read by the code."""
    known = set(vars(standard)) | standard_names_in(SOURCE)
    known |= {f"OTEL_{signal}_EXPORTER" for signal in ("TRACES", "LOGS", "METRICS")}
    assert standard_names_in(SETTINGS) - known == set()


def test_every_public_name_is_in_the_reference() -> None:
    """The page has the names of ``__all__`` and no others."""
    found = re.findall(r"^\.\. auto(?:function|class|exception):: ([\w.]+)", API, re.MULTILINE)
    public = {f"rocketry_otel.{name}" for name in rocketry_otel.__all__}
    # The instrumentor needs a package that not every environment has.
    for module in ("testing", "instrumentor"):
        text = (ROOT / "src" / "rocketry_otel" / f"{module}.py").read_text(encoding="utf-8")
        (listed,) = re.findall(r"^__all__ = (\[.*?\])", text, re.MULTILINE | re.DOTALL)
        public |= {f"rocketry_otel.{module}.{name}" for name in ast.literal_eval(listed)}
    assert sorted(found) == sorted(public)


def test_switch_of_pydantic_is_in_the_reference() -> None:
    """Though it is no setting of the class."""
    assert f"### {_rocketry_otel_pydantic.VARIABLE}\n" in SETTINGS
