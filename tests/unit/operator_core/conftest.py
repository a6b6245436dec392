"""One agent on a cluster in memory, and the smallest specs that learn."""

from __future__ import annotations

from typing import Any

import pytest

from evolving_operator.testing.simulation import Simulation


@pytest.fixture
def world() -> Simulation:
    return Simulation()


@pytest.fixture
def spec() -> dict[str, Any]:
    """An agent that curates, trains, and promotes what has passed."""
    return {
        "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
        "agent": {"instructions": "You route requests.", "replicas": 2},
        "curation": {"schedule": "0 1 * * *"},
        "training": {
            "schedule": "0 3 * * *",
            "backend": {"type": "LoRA", "lora": {"adapterVolume": {"claimName": "adapters"}}},
        },
    }
