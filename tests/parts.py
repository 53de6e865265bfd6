"""What a task is given, as the entry makes it."""

import inspect

from hydra.utils import instantiate
from omegaconf import DictConfig

from attnround.experiment import task_of

OTHERWISE = ("seed", "run", "logger")  # what is given that no group of options makes


def parts_of(config: DictConfig) -> dict[str, object]:
    """What is made of the groups that the signature of the config's task names."""
    names = [name for name in inspect.signature(task_of(config.task)).parameters if name not in OTHERWISE]
    return {name: instantiate(config[name], _convert_="all") for name in names}
