"""Run one experiment: compose the config, run its task, return its metric.

python src/train.py quantizer=attention_round bits=mixed
python src/train.py -m quantizer=nearest,adaround,attention_round seed=0,1,2
"""

import os
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("ATTNROUND_ROOT", str(ROOT))


@hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="train")
def main(cfg: DictConfig) -> float:
    """Run the config's task with the groups that its signature names; return the metric that a sweep optimises."""
    from attnround.errors import InputError  # the heavy imports wait until help and completion are out of the way

    try:
        return _run(cfg)[cfg.metric]
    except InputError as error:
        if cfg.debug:
            raise
        sys.exit(f"error: {error}")


def _run(cfg: DictConfig) -> dict[str, float]:
    import inspect

    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import get_method, instantiate

    source = OmegaConf.to_container(cfg, resolve=False)
    OmegaConf.resolve(cfg)
    task = get_method(cfg.task)
    named = [name for name in inspect.signature(task).parameters if name in cfg]
    return task(
        **instantiate(OmegaConf.masked_copy(cfg, named), _convert_="all"),
        config=OmegaConf.to_container(cfg),
        config_source=source,
        output_dir=Path(HydraConfig.get().runtime.output_dir),
    )


def run() -> int:
    """`main`, with one clear line where the config does not compose or the output folder cannot be written."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints half a traceback itself
    try:
        main()
    except (hydra.errors.HydraException, OmegaConfBaseException, OSError) as error:
        if "debug=true" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
