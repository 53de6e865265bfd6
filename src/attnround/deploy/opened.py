"""What the models of all exported files have in common, whatever runs them."""

from torch import nn

from attnround.deploy.seal import preprocessing_of


class Opened(nn.Module):
    """A file as a module, images [N, C, H, W] -> logits, with what it says of itself.

    num_classes: None where it is not known; logits_at: which of several outputs are the logits, as `class_logits` takes
    it.
    """

    def __init__(self, about: dict):
        super().__init__()
        self.about = about
        self.preprocessing = preprocessing_of(about)
        self.num_classes, self.logits_at = about["model"].get("num_classes"), about["model"].get("output")
