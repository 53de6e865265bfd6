"""Lists of jobs through Hydra's launchers, real processes among them."""

import os

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig

import launching
from attnround.errors import InputError
from tests.conftest import ROOT
from tests.launched import DIES, EXITS, FAILS, MEET, task

JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def launch(folder, seeds, launcher=()):
    jobs = {f"seed={seed}, a/b": [f"seed={seed}"] for seed in seeds}
    faults = launching.launch(jobs, task, folder, launcher)
    done = [(folder / name / "done").read_text().split() for name in jobs if (folder / name / "done").exists()]
    return {int(name.split(",")[0][5:]): line for name, line in faults.items()}, done


@pytest.mark.parametrize("launcher", [[], JOBLIB], ids=["basic", "joblib"])
def test_a_job_that_fails_stops_no_other(tmp_path, launcher):
    faults, done = launch(tmp_path, [0, FAILS, EXITS, 4], launcher)
    assert faults == {FAILS: "ValueError: one and a half", EXITS: "two"}
    assert [int(seed) for seed, _, _ in done] == [0, 4]
    assert HydraConfig.instance().cfg is None


def test_joblib_keeps_two_processes_of_one_thread(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    faults, done = launch(tmp_path, [0, *MEET, 4, 5], JOBLIB)
    assert not faults
    assert len({process for _, process, _ in done} - {str(os.getpid())}) == 2
    assert {threads for _, _, threads in done} == {"1"}


def test_a_process_that_dies_takes_no_other_job_along(tmp_path):
    faults, done = launch(tmp_path, [0, DIES, 4, FAILS, 5, 6], JOBLIB)
    assert set(faults) == {DIES, FAILS}
    assert "its process died" in faults[DIES]
    assert [int(seed) for seed, _, _ in done] == [0, 4, 5, 6]


@pytest.mark.slow
def test_submitit_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}{os.pathsep}{ROOT}")
    faults, done = launch(tmp_path, [DIES, 0, FAILS, EXITS, 4], ["hydra/launcher=submitit_local"])
    assert faults[FAILS] == "ValueError: one and a half"
    assert faults[EXITS] == "two"
    assert "its process died" in faults[DIES]
    assert [int(seed) for seed, _, _ in done] == [0, 4]
    assert len({process for _, process, _ in done} - {str(os.getpid())}) == 2


def test_no_jobs_are_no_launch(tmp_path):
    assert launching.launch({}, task, tmp_path / "none") == {}


def test_a_launcher_that_is_not_installed_says_how_to_get_it(tmp_path, monkeypatch):
    launching.compose([])  # the plugins have entered the store
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "submitit_slurm.yaml")
    with pytest.raises(InputError, match=r"submitit_slurm is not installed: pip install 'attnround\[cluster\]'"):
        launch(tmp_path, [0], ["hydra/launcher=submitit_slurm"])


def test_composing_a_job_tells_its_choices():
    config, choices = launching.compose(["quantizer=gptq", "seed=3"])
    assert config.seed == 3
    assert "hydra" not in config
    assert choices["quantizer"] == "gptq"
