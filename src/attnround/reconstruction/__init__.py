"""Reconstruction: calibration images carried through the network, objectives, and the loop that runs them."""

from attnround.reconstruction.activations import activation_columns, attach_activations, calibrate_activations
from attnround.reconstruction.block import BlockReconstruction
from attnround.reconstruction.checkpoint import Checkpoint
from attnround.reconstruction.layer import LayerReconstruction
from attnround.reconstruction.loop import Callback, ReconstructionLoop
from attnround.reconstruction.plan import Reconstruction
from attnround.reconstruction.problem import bit_problem
from attnround.reconstruction.report import LayerReport, UnitReport, report_layer
from attnround.reconstruction.run import reconstruct

__all__ = [
    "BlockReconstruction",
    "Callback",
    "Checkpoint",
    "LayerReconstruction",
    "LayerReport",
    "Reconstruction",
    "ReconstructionLoop",
    "UnitReport",
    "activation_columns",
    "attach_activations",
    "bit_problem",
    "calibrate_activations",
    "reconstruct",
    "report_layer",
]
