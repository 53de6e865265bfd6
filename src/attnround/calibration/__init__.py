"""Calibration images carried through the float and the quantized model, and what is measured of them on the way."""

from attnround.calibration.activations import activation_columns, attach_activations, calibrate_activations

__all__ = ["activation_columns", "attach_activations", "calibrate_activations"]
