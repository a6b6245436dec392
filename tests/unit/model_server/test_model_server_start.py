"""What the server does before it serves."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from evolving_agent.contract.cpus import usable_cpus
from evolving_model_server.__main__ import main


def test_a_missing_model_is_named_together_with_the_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        code = main(["--model", str(tmp_path / "no.gguf")])

    assert code == 2
    assert str(tmp_path / "no.gguf") in caplog.text
    assert "EVOLVING_MODEL" in caplog.text


def test_an_option_comes_from_the_environment_and_is_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVOLVING_PORT", "many")

    with pytest.raises(SystemExit):
        main([])
    assert "--port: invalid int value: 'many'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limit", "cpus"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)]
)
def test_the_containers_cpu_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cpus: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    (tmp_path / "cpu.max").write_text(f"{limit}\n")

    assert usable_cpus(tmp_path / "cpu.max") == cpus
    assert usable_cpus(tmp_path / "absent") == 4
