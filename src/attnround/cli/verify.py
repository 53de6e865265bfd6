"""Prove that the integers of a run compute what its simulation did: each quantized layer in exact integer arithmetic.

    python src/verify.py <run folder>
    python src/verify.py <run folder> data.limit=1000
    python src/verify.py <run folder> data=image_folder data.root=<folder>

It takes the images that the run was evaluated on, and writes verify.json, verify.csv and the model card.

With an exported file in the folder's place, what an execution provider of onnxruntime or a device of OpenVINO makes of
it is compared with the simulation on these images, and written into verify_<provider>.json beside it:

    python src/verify.py <run folder>/quantized.onnx
    python src/verify.py <run folder>/quantized.onnx provider=CUDAExecutionProvider session=written
    python src/verify.py <run folder>/quantized.xml provider=GPU
    python src/verify.py <file>.onnx folder=<run folder>
"""

import hydra
from omegaconf import DictConfig

from attnround.cli.entry import CONF
from attnround.cli.recorded import perform_on_run, start_on_run


@hydra.main(version_base="1.3", config_path=CONF, config_name="verify")
def run(cfg: DictConfig) -> float:
    """Agreement of integers and simulation."""
    return perform_on_run(cfg)


def main() -> None:
    """The entry."""
    start_on_run(run, takes=(".onnx", ".xml"))
