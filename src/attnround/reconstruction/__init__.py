"""Reconstruction: calibration images carried through the network, objectives, and the module that runs them."""

from attnround.reconstruction.module import LayerReconstruction, LayerReport, reconstruct

__all__ = ["LayerReconstruction", "LayerReport", "reconstruct"]
