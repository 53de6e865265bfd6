"""Sony's model-compression-toolkit, by its functions: plain quantization, and rounding by gradients (its GPTQ).

Set otherwise than its defaults, which are an IMX500's, with 8 bits on scales that are powers of two: the bits that are
asked for; results of operations on any scale and not symmetric, or float where only weights are quantized; 8 bits for
the weights of the first and the last layer, for their inputs and for the logits. Weights are symmetric with a scale a
channel, as there. Where inputs are quantized, the results of sums and activations are too, as its simulation does. GPTQ
takes 50 epochs in batches of 50, as in its tutorial of MobileNetV2; the rest is its default.
"""

from collections.abc import Callable, Iterator

import model_compression_toolkit as mct
from cell import Case
from mct_quantizers import QuantizationMethod
from model_compression_toolkit.core import BitWidthConfig, CoreConfig
from model_compression_toolkit.core.common import BaseNode
from model_compression_toolkit.core.common.matchers.node_matcher import BaseNodeMatcher
from model_compression_toolkit.core.common.network_editors import NodeTypeFilter
from model_compression_toolkit.core.pytorch.reader.node_holders import DummyPlaceHolder
from model_compression_toolkit.target_platform_capabilities.constants import KERNEL_ATTR, WEIGHTS_N_BITS
from model_compression_toolkit.target_platform_capabilities.schema import mct_current_schema as schema
from model_compression_toolkit.target_platform_capabilities.tpc_models.imx500_tpc.v1_0 import tpc as imx500
from torch import Tensor, nn

PACKAGE, BATCH, EPOCHS = "model-compression-toolkit", 50, 50
Settings = tuple[schema.TargetPlatformCapabilities, CoreConfig, Callable[[], Iterator[list[Tensor]]]]


class First(BaseNodeMatcher):
    """The convolution that reads the images."""

    def __init__(self, channels: int):
        self.channels = channels

    def apply(self, node: BaseNode) -> bool:
        return node.is_match_type(nn.Conv2d) and node.framework_attr["in_channels"] == self.channels


def settings(case: Case, weights: int, inputs: int | None) -> Settings:
    """The platform with these bits and 8 as a choice, that the ends take it, and the images."""
    layer, _, other = imx500.get_op_quantization_configs()

    def at(config: schema.OpQuantizationConfig, given: int | None, own: int | None) -> schema.OpQuantizationConfig:
        return config.clone_and_edit(
            attr_to_edit={KERNEL_ATTR: {WEIGHTS_N_BITS: own}} if own else {},
            activation_quantization_method=QuantizationMethod.UNIFORM,
            activation_n_bits=given or 8, enable_activation_quantization=given is not None,
        )  # fmt: skip

    givens = [inputs, *({8} - {inputs} if inputs else ())]
    layers = [at(layer, given, own) for given in givens for own in (weights, *({8} - {weights}))]
    others = tuple(at(other, given, None) for given in givens)
    platform = imx500.generate_tpc(others[0], layers[0], layers, "of these bits")
    free = schema.QuantizationConfigOptions(quantization_configurations=others, base_config=others[0])
    platform = platform.model_copy(update={"default_qco": free})

    ends = BitWidthConfig()
    ends.set_manual_weights_bit_width([First(case.images.shape[1]), NodeTypeFilter(nn.Linear)], 8, "weight")
    if inputs is not None:
        around = [NodeTypeFilter(kind) for kind in (DummyPlaceHolder, nn.AdaptiveAvgPool2d, nn.Linear)]
        ends.set_manual_activation_bit_width(around, 8)
    return platform, CoreConfig(bit_width_config=ends), lambda: ([each] for each in case.images.split(BATCH))


def ptq(case: Case, weights: int, inputs: int | None) -> nn.Module:
    platform, core, images = settings(case, weights, inputs)
    found, _ = mct.ptq.pytorch_post_training_quantization(
        case.plain(), images, core_config=core, target_platform_capabilities=platform
    )
    return found.eval()


def gptq(case: Case, weights: int, inputs: int | None) -> nn.Module:
    platform, core, images = settings(case, weights, inputs)
    found, _ = mct.gptq.pytorch_gradient_post_training_quantization(
        case.plain(), images, core_config=core, target_platform_capabilities=platform,
        gptq_config=mct.gptq.get_pytorch_gptq_config(n_epochs=case.iterations(EPOCHS)),
    )  # fmt: skip
    return found.eval()


METHODS = {"ptq": ptq, "gptq": gptq}
