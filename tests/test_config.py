"""Every option of every group composes, and instantiates with the signature its class has."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf

from tests.conftest import ROOT

CONF = ROOT / "conf"
NOT_A_PART = {"paths", "hydra", "experiment", "trainer"}
NEEDS = {"model=timm": ["model.name=test_resnet"], "data=image_folder": ["data.root=/images"]}
OPTIONS = [f"{each.parent.name}={each.stem}" for each in sorted(CONF.glob("*/*.yaml")) if each.parent.name != "hydra"]


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_instantiates(option, tmp_path):
    group = option.split("=")[0]
    config = composed(option, *NEEDS.get(option, []))
    parts = list(config.logger) if group == "logger" else [group]
    get_method(config.task)
    for part in parts:
        node = config.logger[part] if group == "logger" else config.get(group)
        if group in ("paths", "experiment") or node is None:
            continue
        if group == "logger":
            OmegaConf.update(node, "save_dir", str(tmp_path))
        assert instantiate(node, _convert_="all") is not None


@pytest.mark.parametrize("name", [each.stem for each in sorted((CONF / "experiment").glob("*.yaml"))])
def test_an_experiment_says_how_to_run_it(name):
    head = (CONF / "experiment" / f"{name}.yaml").read_text().split("\n\n")[0]
    assert f"experiment={name}" in head


@pytest.mark.parametrize("name", [each.stem for each in sorted((CONF / "experiment").glob("*.yaml"))])
def test_the_parts_of_an_experiment_fit_its_task(name):
    config = composed(f"experiment={name}")
    import inspect

    wanted = set(inspect.signature(get_method(config.task)).parameters) - {"run"}
    assert wanted <= set(config)


def test_both_loggers_at_once():
    assert set(composed("logger=[csv,wandb]").logger) == {"csv", "wandb"}
    assert set(composed("logger=wandb").logger) == {"wandb"}
