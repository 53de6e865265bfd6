"""The Trainer in the environments that programs are started in."""

import pytest
from pytorch_lightning.plugins.environments import LightningEnvironment

from attnround.errors import InputError
from attnround.trainer import TrainerSettings

SLURM = {"JOB_ID": "1", "JOB_NAME": "x", "NTASKS": "4", "NTASKS_PER_NODE": "4", "PROCID": "0", "LOCALID": "0"}


def test_one_device_asks_for_no_cluster(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    trainer = TrainerSettings().make()
    assert trainer.world_size == 1
    assert isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment)


@pytest.mark.parametrize("devices", [0, -1, -2, 1.5, "two", None])  # -1: all GPUs there are
def test_devices_are_a_number(devices):
    with pytest.raises(InputError, match=r"trainer\.devices"):
        TrainerSettings(devices=devices)


def test_a_precision_that_no_stage_but_lightning_knows_is_refused():
    with pytest.raises(InputError, match=r"trainer\.precision=16-mixed: give one of 32-true, bf16-mixed"):
        TrainerSettings(precision="16-mixed")
