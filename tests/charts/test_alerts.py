"""The alerts fire when they should, and not before: judged by promtool."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import yaml

from support.chart import CHART, render
from support.cluster import REPOSITORY, program

ALERTS = CHART / "files" / "alerts.yaml"


def test_the_scenes_raise_the_alerts_that_they_name(tmp_path: Path) -> None:
    shutil.copy(ALERTS, tmp_path)
    scenes = shutil.copy(REPOSITORY / "tests" / "data" / "alerts" / "scenes.yaml", tmp_path)
    done = subprocess.run(
        [program("promtool"), "test", "rules", scenes], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_chart_carries_the_alerts_as_they_were_judged() -> None:
    rendered = render({"metrics": {"rules": {"enabled": True}}})
    assert rendered.one("PrometheusRule")["spec"] == yaml.safe_load(ALERTS.read_text())
