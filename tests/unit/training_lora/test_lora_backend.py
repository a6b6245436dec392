"""The LoRA backend's refusals, and that finished work is not done twice. Training itself needs the image."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from evolving_agent.contract.learning import AdapterVolume, BackendType, Hyperparameters, LoRABackend
from evolving_agent.contract.report import DatasetRef
from evolving_agent.reporting import JobError
from evolving_agent.store.layout import StoreLayout
from evolving_agent.training.backends import Order
from evolving_agent.training.lora.backend import LoRAError, LoRAResult, train_and_publish
from evolving_agent.training.lora.train import Progress
from evolving_agent.training.lora_backend import LoRATraining
from evolving_agent.training.run_state import Identity, RunFile, TrainingState

RECORD = {
    "examples": 240,
    "dropped_too_long": 3,
    "steps": 90,
    "loss": 0.25,
    "trained_tokens": 90_000,
    "seconds": 200.5,
}


def settings(**fields: str) -> LoRABackend:
    return LoRABackend(adapter_volume=AdapterVolume(claim_name="adapters"), adapter_format="PEFT", **fields)


def run(root: Path, lora: LoRABackend, endpoint: str | None = None) -> LoRAResult:
    return train_and_publish(
        root / "dataset",
        work_dir=root / "work",
        adapters=root / "adapters",
        model_id="support:v1",
        settings=lora,
        hyperparameters=Hyperparameters(),
        endpoint=endpoint,
        on_progress=lambda progress: pytest.fail("nothing may be trained"),
    )


def add_base(root: Path) -> str:
    base = root / "base"
    base.mkdir()
    return str(base)


def test_a_finished_adapter_is_not_trained_again(tmp_path: Path) -> None:
    place = tmp_path / "adapters" / "support:v1"
    place.mkdir(parents=True)
    (place / "training.json").write_text(json.dumps(RECORD))

    result = run(tmp_path, settings(base_model_path="/nowhere"))

    assert result.reused
    assert (result.model_id, result.examples, result.trained_tokens) == ("support:v1", 240, 90_000)


def test_a_finished_adapter_that_nobody_serves_is_worth_another_try(tmp_path: Path) -> None:
    place = tmp_path / "adapters" / "support:v1"
    place.mkdir(parents=True)
    (place / "training.json").write_text(json.dumps(RECORD))

    with pytest.raises(LoRAError, match="does not answer") as refused:
        run(tmp_path, settings(), endpoint="http://127.0.0.1:9/v1")

    assert (refused.value.reason, refused.value.permanent) == ("ModelServerUnavailable", False)


def test_a_missing_base_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoRAError, match=r"/nowhere: correct .*baseModelPath") as refused:
        run(tmp_path, settings(base_model_path="/nowhere"))

    assert (refused.value.reason, refused.value.permanent) == ("BaseModelMissing", True)


@pytest.mark.parametrize("suffix", [".acme", "-acme", "_acme"])
def test_an_impossible_name_is_a_fault_of_the_settings_that_uses_up_no_attempt(
    tmp_path: Path, suffix: str
) -> None:
    """An older operator let such a suffix through. Only TrainingFailedError would use an attempt up."""
    dataset = DatasetRef(version="ds-1", digest="d", examples=10)
    identity = Identity("base", dataset, BackendType.LORA, "digest")
    begun = TrainingState.begin(identity, str(tmp_path), attempt=1)
    order = Order("support", suffix, tmp_path, dataset.format, Hyperparameters(), deadline_seconds=60)
    backend = LoRATraining(settings(), tmp_path, tmp_path / "work", "http://127.0.0.1:9/v1")

    with pytest.raises(JobError, match=r"cannot name an adapter.*training\.suffix") as refused:
        backend.train(order, RunFile(StoreLayout(tmp_path / "store"), begun))

    assert (refused.value.reason, refused.value.permanent) == ("InvalidAdapterName", True)


def test_a_missing_volume_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(LoRAError, match=r"adapters: mount the adapter volume") as refused:
        run(tmp_path, settings(base_model_path=add_base(tmp_path)))

    assert (refused.value.reason, refused.value.permanent) == ("AdapterVolumeNotWritable", False)


def test_an_image_without_the_libraries_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "adapters").mkdir()

    with pytest.raises(LoRAError, match="needs the trainer image") as refused:
        run(tmp_path, settings(base_model_path=add_base(tmp_path)))

    assert (refused.value.reason, refused.value.permanent) == ("TrainerLibrariesMissing", True)
    assert list((tmp_path / "adapters").iterdir()) == []


def test_progress_can_be_followed_in_the_log() -> None:
    line = str(Progress(step=30, steps=120, loss=0.51234, seconds=60.2))

    assert line == "step 30/120 (25 %), loss 0.5123, 60 s elapsed, about 181 s left"
