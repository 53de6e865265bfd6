"""Every option of every group composes, and instantiates with the signature its class has."""

import functools
import inspect

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from attnround.cli.kinds import check_kinds
from attnround.errors import InputError
from attnround.experiment import task_of
from tests.conftest import ROOT

CONF = ROOT / "conf"
NEEDS = {
    "model=timm": ["model.name=test_resnet"],
    "data=image_folder": ["data.root=/images"],
    "data=imagenet": ["data.root=/images"],
    "data=photos": ["data.root=/images"],
    "bits=file": ["bits.path=allocation.json"],
    "model=module": ["model.factory=nets:small"],
    "data=module": ["data.factory=sets:labelled"],
}
OTHERS = ("hydra", "table")  # a table is a grid of runs
OPTIONS = [
    f"{each.parent.name}={each.stem}" for each in sorted(CONF.glob("*/*.yaml")) if each.parent.name not in OTHERS
]


def composed(*overrides: str) -> DictConfig:
    """A copy of what these make, composed once."""
    return _composed(*overrides).copy()


@functools.cache
def _composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_instantiates(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "allocation.json").write_text('{"a": 4}')
    group = option.split("=")[0]
    config = composed(option, *NEEDS.get(option, []))
    parts = list(config.logger) if group == "logger" else [group]
    task = task_of(config.task)
    for part in parts:
        node = config.logger[part] if group == "logger" else config.get(group)
        if group in ("paths", "experiment") or node is None:
            continue
        if group == "logger":
            OmegaConf.update(node, "save_dir", str(tmp_path))
        OmegaConf.resolve(node)
        check_kinds({group: OmegaConf.to_container(node)}, task)
        assert instantiate(node, _convert_="all") is not None


def dictionaries(node: DictConfig, path: str = "") -> list[str]:
    """Paths of the options below a node whose values are dictionaries of the user's own keys."""
    found = []
    for key, value in node.items_ex(resolve=False):
        if isinstance(value, DictConfig):
            inner = "_target_" in value
            found += dictionaries(value, f"{path}.{key}") if inner else [f"{path}.{key}"]
    return found


def test_an_empty_dictionary_is_empty_wherever_one_is_an_option():
    from attnround.cli.entry import keep_empty

    seen = set()
    for option in OPTIONS:
        group = option.split("=")[0]
        node = composed(option, *NEEDS.get(option, [])).get(group)
        if group in ("logger", "paths", "experiment") or node is None:
            continue
        for path in dictionaries(node, group):
            seen.add(path)
            given = [option, *NEEDS.get(option, []), f"{path}={{}}"]
            config = composed(*given)
            keep_empty(config, given)
            assert OmegaConf.select(config, path) == {}, given
    assert seen >= {
        "bits.pinned",
        "bits.allocator.pinned",
        "activation.pinned",
        "model.arguments",
        "model.preprocessing",
    }


def test_what_follows_an_empty_dictionary_fills_it():
    from attnround.cli.entry import keep_empty

    for given, pinned in (
        (["bits.pinned={}", "bits.pinned.last=4"], {"last": 4}),
        (["bits.pinned={}", "+bits.pinned={a: 3}"], {"a": 3}),
        (["bits.pinned.last=4", "bits.pinned={}"], {}),
        (["bits.pinned={last: 4}"], {"first": 8, "last": 4}),
        (["bits.pinned={last: null}"], {"first": 8, "last": None}),
        (["bits.pinned=none"], "none"),
        (["~bits.pinned"], None),
    ):
        config = composed("bits=uniform", *given)
        keep_empty(config, given)
        assert OmegaConf.select(config, "bits.pinned") == pinned, given


@pytest.mark.parametrize("name", [each.stem for each in sorted((CONF / "experiment").glob("*.yaml"))])
def test_an_experiment_says_how_to_run_it(name):
    head = (CONF / "experiment" / f"{name}.yaml").read_text().split("\n\n")[0]
    assert f"experiment={name}" in head


@pytest.mark.parametrize("name", [each.stem for each in sorted((CONF / "experiment").glob("*.yaml"))])
def test_the_parts_of_an_experiment_fit_its_task(name):
    config = composed(f"experiment={name}")
    wanted = set(inspect.signature(task_of(config.task)).parameters) - {"run", "seed", "logger"}
    assert wanted <= set(config)
    assert all(instantiate(config[part], _convert_="all") for part in wanted)


def test_other_data_takes_the_place_of_an_experiments():
    assert composed("experiment=pretrain").data.full_train
    config = composed("experiment=pretrain", "data=cifar10")
    assert instantiate(config.data, _convert_="all").batch_size == config.data.batch_size == 256


def test_both_loggers_at_once():
    assert set(composed("logger=[csv,wandb]").logger) == {"csv", "wandb"}
    assert set(composed("logger=wandb").logger) == {"wandb"}


WRONG = [
    "bits.budget=abc",
    "bits.eps=0",
    "bits.candidates=[]",
    "quantizer.lr=abc",
    "quantizer.sigma=-1",
    "quantizer.num_steps=1.5",
    "quantizer.sigma_end=0.9",
    "quantizer.estimator=soft",
    "data.num_calibration=0",
    "data.batch_size=0",
    "data.seed=abc",
    "data.limit=0",
    "reconstruction.batch_size=0",
    "reconstruction.burst=0",
    "reconstruction.ridge=0",
    "reconstruction.cache_mib=abc",
    "reconstruction.num_positions=0",
    "reconstruction.observer.norm=0",
    "reconstruction.observer.num_candidates=0",
    "activation.bit_width=9",
    "activation.pinned.first=1",
    "activation.drop=-0.1",
    "activation.percentile=50",
    "qat.start=int8",
    "qat.batch_norm=unfolded",
    "qat.num_epochs=0",
    "qat.lr=0",
    "qat.batch_size=0",
    "qat.distillation=-1",
    "qat.temperature=0",
    "qat.ema=1",
    "qat.held_out=0",
    "qat.patience=0",
]


@pytest.mark.parametrize("override", WRONG)
def test_a_value_out_of_bounds_names_its_option(override):
    path, _, value = override.partition("=")
    group, key = path.split(".", 1)
    config = composed("activation=percentile", "qat=lsq")
    OmegaConf.update(config, path, yaml.safe_load(value), merge=False)
    with pytest.raises(InstantiationException) as caught:
        instantiate(config[group], _convert_="all")
    assert isinstance(caught.value.__cause__, InputError) or isinstance(caught.value.__cause__.__cause__, InputError)
    assert key.split(".")[-1] in str(caught.value)


NONSENSE = [float("inf"), float("-inf"), float("nan"), -1, -1.5, "x", [1], True, None, 1e300, 10**18]
MEANT = {  # option -> what is no nonsense for it
    "reconstruction.num_steps": [None],  # the quantizer's own
    "data.num_calibration": [None],
    "trainer.devices": [-1],
    "model.num_classes": [None],  # the checkpoint's own
    **{f"{group}.pinned.{end}": [None] for group in ("bits", "activation") for end in ("first", "last")},
}
NOT_OURS = ("model.arguments", "model.preprocessing")  # timm's


def numbers(node: DictConfig, path: str) -> list[str]:
    """Paths of the options below a node whose values are numbers."""
    found = []
    for key, value in node.items():
        if isinstance(value, DictConfig):
            found += numbers(value, f"{path}.{key}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append(f"{path}.{key}")
    return [each for each in found if not each.startswith(NOT_OURS)]


@pytest.mark.parametrize("option", [each for each in OPTIONS if each not in ("bits=file", "data=module")])
def test_every_number_refuses_what_makes_no_sense_in_a_line(option):
    group = option.split("=")[0]
    config = composed(option, *NEEDS.get(option, []))
    if group in ("logger", "paths", "experiment") or config.get(group) is None:
        return
    OmegaConf.resolve(config[group])
    for path in numbers(config[group], group):
        for value in NONSENSE:
            if any(value is each or value == each for each in MEANT.get(path, [])):
                continue
            changed = config.copy()
            OmegaConf.update(changed, path, value, force_add=True, merge=False)
            error = raised(changed[group])
            assert isinstance(error, InputError), f"{path}={value}: {error}"
            assert "\n" not in str(error)


def raised(node: DictConfig) -> Exception | None:
    """What stands in the way of an option's object, and where it is a model, of building it."""
    try:
        made = instantiate(node, _convert_="all")
        if hasattr(made, "build"):
            made.build()
    except InstantiationException as error:
        return error.__cause__
    except InputError as error:
        return error
    return None
