"""A config as an entry composes it, outside of that entry's own job."""

from collections.abc import Sequence

from omegaconf import DictConfig

from attnround.cli.options import FOLDER, FOLDERS
from attnround.files import quoted


def composed(overrides: Sequence[str], entry: str = "train") -> DictConfig:
    """The config that an entry makes of these, with Hydra's own part; the folders of --config-dir are looked in too.

    Raises HydraException or OmegaConfBaseException where it does not compose.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    own = ", ".join(quoted(f"file://{folder}") for folder in FOLDERS[1:])
    overrides = [*overrides, *([f"hydra.searchpath=[{own}]"] if own else [])]
    outer = GlobalHydra.instance().hydra  # of the entry that asks
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(FOLDER), version_base="1.3"):
            return hydra.compose(entry, overrides, return_hydra_config=True)
    finally:
        if outer is not None:
            GlobalHydra.instance().initialize(outer)
