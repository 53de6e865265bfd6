"""Rounding by methods that need no data: no image is run through the network."""

import torch

from attnround.graph import Captured, find_layers
from attnround.quantization.grid import dequantize, per_channel, quantize, steps
from attnround.quantization.layers import quantized_layers
from attnround.quantization.observer import sqnr_db
from attnround.quantization.rounding import RoundingMethod
from attnround.reconstruction.report import UnitReport, report_layer


@torch.no_grad()
def round_data_free(teacher: Captured, student: Captured, quantizer: RoundingMethod, seed: int) -> list[UnitReport]:
    """Round the student's layers in place, on the scales that they have; return a report for each."""
    reports, layers = [], quantized_layers(student)
    for index, (name, weight) in enumerate(find_layers(teacher).items()):
        layer = layers[name]
        nearest = quantize(weight, layer.scale, layer.zero_point, layer.grid)
        u = steps(weight, layer.scale, layer.zero_point)
        generator = torch.Generator(u.device).manual_seed(seed + index)
        zero_point = per_channel(layer.zero_point, u)
        layer.bake(quantizer.start(u, layer.grid, None, generator, zero_point).decide())
        report = report_layer(name, layer, weight, nearest)
        start = sqnr_db(weight, dequantize(nearest, layer.scale, layer.zero_point))
        reports.append(UnitReport(name, "weights", [report], start, report.weight_sqnr_db, kept=True, losses=[]))
    return reports
