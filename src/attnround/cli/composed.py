"""A config as an entry composes it, outside of that entry's own job."""

from collections.abc import Sequence

from omegaconf import DictConfig

from attnround.files import SHIPPED


def composed(overrides: Sequence[str], entry: str = "train") -> DictConfig:
    """The config that an entry makes of these, with Hydra's own part.

    Raises HydraException or OmegaConfBaseException where it does not compose.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    outer = GlobalHydra.instance().hydra  # of the entry that asks
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(SHIPPED / "conf"), version_base="1.3"):
            return hydra.compose(entry, list(overrides), return_hydra_config=True)
    finally:
        if outer is not None:
            GlobalHydra.instance().initialize(outer)
