"""Settings from the environment, and the words for those that make no sense."""

from __future__ import annotations

import pytest

from evolving_operator.__main__ import main
from evolving_operator.settings import Settings, SettingsError


def test_an_empty_environment_is_enough() -> None:
    settings = Settings.from_environment({})

    assert settings.namespaces == ()
    assert settings.metrics_port == 9090
    assert settings.lease_namespace == "default"


def test_variables_are_read_and_empty_ones_are_as_good_as_none() -> None:
    settings = Settings.from_environment(
        {
            "POD_NAMESPACE": "system",
            "POD_NAME": "operator-0",
            "EVOLVING_OPERATOR_NAMESPACES": "a, b,,a",
            "EVOLVING_OPERATOR_AGENT_IMAGE": "registry/agent:2",
            "EVOLVING_OPERATOR_LABEL_SELECTOR": "shard in (a,b)",
            "EVOLVING_OPERATOR_WORKERS": "",
        }
    )

    assert settings.namespaces == ("a", "b")
    assert settings.label_selector == "shard in (a,b)"
    assert settings.images.agent == "registry/agent:2"
    assert settings.workers == 8
    assert (settings.lease_namespace, settings.pod) == ("system", "operator-0")


@pytest.mark.parametrize(
    ("name", "value"),
    [("WORKERS", "many"), ("WORKERS", "0"), ("LEASE_SECONDS", "-1"), ("WORKERS", "²"), ("LOG_LEVEL", "loud")],
)
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"EVOLVING_OPERATOR_{name} is '{value}'"):
        Settings.from_environment({f"EVOLVING_OPERATOR_{name}": value})


def test_the_program_explains_wrong_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVOLVING_OPERATOR_WORKERS", "many")

    assert main(["run"]) == 2
    assert "EVOLVING_OPERATOR_WORKERS is 'many'" in capsys.readouterr().err
