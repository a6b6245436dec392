"""The training Job with the LoRA backend: what it reports where this pod cannot train."""

from __future__ import annotations

from pathlib import Path

from evolving_agent.contract import env
from evolving_agent.contract.learning import AdapterVolume, BackendType, LoRABackend, TrainingBackend
from evolving_agent.contract.report import Outcome
from evolving_agent.testing.jobs import JobBench
from evolving_agent.training import job
from evolving_agent.training.run_state import Phase, all_states
from support.learning import RunningProvider, learning_config


def test_a_missing_base_model_is_a_permanent_failure_that_uses_up_no_attempt(
    bench: JobBench, provider: RunningProvider, tmp_path: Path
) -> None:
    learning = learning_config(provider.base_url)
    assert learning.training is not None
    lora = LoRABackend(
        base_model_path=str(tmp_path / "missing.gguf"), adapter_volume=AdapterVolume(claim_name="adapters")
    )
    backend = TrainingBackend(type=BackendType.LORA, lora=lora)
    training = learning.training.model_copy(update={"backend": backend})
    bench.configure(learning.model_copy(update={"training": training}))

    for run_id in ("train-1", "train-2"):
        code, report = bench.run(job.run, run_id)
        assert (code, report.outcome, report.reason) == (
            env.EXIT_PERMANENT,
            Outcome.FAILED,
            "BaseModelMissing",
        )
        assert "baseModelPath" in report.message
    (state,) = all_states(bench.layout)
    assert (state.phase, state.attempt, state.backend) == (Phase.FAILED, 0, BackendType.LORA)
    assert provider.count("requests_jobs") == 0
