"""What builds a float model, and says how it can be built again."""

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Blueprint(Protocol):
    """`TimmModel`, and any other factory that a saved file is to rebuild its model by."""

    @property
    def called(self) -> str:
        """What a person calls the model."""

    def build(self) -> nn.Module:
        """The float model in eval mode, with `preprocessing`, `num_classes`, `licence` and `weights_from`."""

    def architecture(self, model: nn.Module) -> dict[str, object]:
        """What a saved file says builds the modules of `model`, made by `build`."""
