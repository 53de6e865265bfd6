"""Write the model of a run as ONNX (quantized.onnx), as OpenVINO's IR (quantized.xml, quantized.bin) or as a
torch.export program (quantized.pt2).

    python src/export.py <run folder> format=onnx
    python src/export.py <run folder> format=onnx opset=13
    python src/export.py <run folder> format=onnx weights=literal
    python src/export.py <run folder> format=onnx preprocessing=graph
    python src/export.py <run folder> format=onnx compare_with=onnxruntime model=<the float model>
    python src/export.py <run folder> format=openvino
    python src/export.py <run folder> format=openvino compare_with=nncf model=<the float model>
    python src/export.py <run folder> format=torch

ONNX has packed INT4 and INT2 weights, which onnxruntime unpacks when it loads the file, or with weights=literal
whenever it runs. Either is compared with the simulation on the images of the run's evaluation.
"""

import hydra
from omegaconf import DictConfig

from attnround.cli.entry import CONF
from attnround.cli.recorded import perform_on_run, start_on_run


@hydra.main(version_base="1.3", config_path=CONF, config_name="export")
def run(cfg: DictConfig) -> float:
    """Agreement of the exported model with the simulation."""
    return perform_on_run(cfg)


def main() -> None:
    """The entry."""
    start_on_run(run)
