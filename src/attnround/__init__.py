"""Post-training quantization experiments: Attention Round against its rivals, bits by lossy coding length."""

__version__ = "0.1.0"
