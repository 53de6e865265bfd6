"""Reconstruction: objectives, and the loop over the units that they are minimised for."""

from attnround.reconstruction.block import BlockReconstruction
from attnround.reconstruction.checkpoint import Checkpoint
from attnround.reconstruction.layer import LayerReconstruction
from attnround.reconstruction.loop import Callback, ReconstructionLoop
from attnround.reconstruction.plan import Reconstruction
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
    "reconstruct",
    "report_layer",
]
