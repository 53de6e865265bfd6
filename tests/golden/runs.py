"""Small runs whose numbers are kept, so that a change of structure shows that it changed none.

python -m tests.golden.runs      writes tests/golden/golden.json anew: only with a reason, which the commit says
"""

import json
import tempfile
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from tests.clothes import few_clothes
from tests.parts import parts_of

from attnround.cli.rows import compose
from attnround.experiment import task_of
from attnround.experiment.record import Run
from attnround.machine import processor

FILE = Path(__file__).with_name("golden.json")
SMALL = (
    "data.num_calibration=64", "data.limit=200", "reconstruction.burst=10", "logger=[]", "data.batch_size=100",
)  # fmt: skip
W3, W4A8 = ("bits=uniform", "bits.bit_width=3"), ("activation=mse", "bits=uniform")
FEW = "data.root=few"  # clothes, of which a run with labels takes all
SMALL_NET = "model=mobilenetv2_050"
RUNS = {
    "nearest": ("quantizer=nearest", *W3),
    "nearest_calibrated": ("quantizer=nearest_calibrated", *W3),
    "stochastic": ("quantizer=stochastic", *W3),
    "gptq": ("quantizer=gptq", *W3),
    "coordinate_descent": ("quantizer=coordinate_descent", "quantizer.max_sweeps=2", *W3),
    "adaround": ("quantizer=adaround", "quantizer.num_steps=20", *W3),
    "flexround": ("quantizer=flexround", "quantizer.num_steps=20", *W3),
    "attention_round": ("quantizer.num_steps=20", *W3),
    "sampled": ("quantizer.num_steps=20", "quantizer.estimator=sampled", *W3),
    "gated": ("quantizer.num_steps=20", "quantizer.estimator=gated", *W3),
    "asymmetric": ("quantizer=gptq", "reconstruction.observer.symmetric=false", *W3),
    "block": ("reconstruction=block", "reconstruction.num_steps=10", *W3),
    "layer_then_block": (
        "reconstruction=layer_then_block", "quantizer.num_steps=10", "reconstruction.num_steps=5",
        "reconstruction.layer_first.burst=5", *W3,
    ),
    "activations": ("quantizer=gptq", SMALL_NET, *W4A8),
    "block with learned steps": (
        "reconstruction=block", "reconstruction.num_steps=5", "activation=lsq", "activation.bit_width=4", *W3,
    ),
    "mixed": ("quantizer=gptq", SMALL_NET, "bits=mixed"),
    "fisher": ("quantizer=gptq", "bits=fisher", "bits.budget=3"),
    "sensitivity": ("quantizer=gptq", "bits=sensitivity", "bits.budget=3"),
    "qat": ("quantizer=gptq", "qat=lsq", "qat.num_epochs=1", "qat.held_out=0.5", "qat.batch_size=50", FEW, *W3),
}  # fmt: skip
SLOW = {  # whose parts have others beside them, or whose numbers follow from tests of their own
    "nearest_calibrated", "coordinate_descent", "flexround", "sampled", "gated", "asymmetric", "layer_then_block",
    "fisher", "sensitivity", "qat",
}  # fmt: skip
METRICS = ("nearest/sqnr_db", "quantized/sqnr_db", "quantized/agreement", "bits/mean")


def outcome(name: str, folder: Path) -> dict[str, object]:
    """The metrics of a run and the fingerprint of its quantized model, to the bit."""
    torch.set_num_threads(1)
    config, choices = compose([*SMALL, *RUNS[name]])
    if FEW in RUNS[name]:
        config.data.root = str(few_clothes(folder / "few", 400))
    source = OmegaConf.to_container(config, resolve=False)
    OmegaConf.resolve(config)
    run = Run.of(OmegaConf.to_container(config), source, choices, folder)
    parts = parts_of(config)
    pl.seed_everything(0, verbose=False)
    task_of(config.task)(**parts, logger={}, seed=0, run=run)
    record = json.loads((folder / "record.json").read_text())
    return {key: record["metrics"][key] for key in METRICS} | {"fingerprint": record["deployed"]["fingerprint"]}


def machine() -> dict[str, str]:
    """What the last bit of a sum depends on."""
    return {"processor": processor().rpartition(",")[0], "torch": torch.__version__}


if __name__ == "__main__":
    found = {}
    for name in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = outcome(name, Path(folder))
    FILE.write_text(json.dumps({"machine": machine(), "runs": found}, indent=1) + "\n")
