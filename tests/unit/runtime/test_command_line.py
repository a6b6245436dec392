from __future__ import annotations

import pytest

from evolving_agent.__main__ import main


@pytest.mark.parametrize("arguments", [[], ["dance"], ["serve", "now"]])
def test_an_unknown_command_is_refused_with_the_known_ones(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "serve|curate|finetune|evaluate|release|validate" in capsys.readouterr().err
