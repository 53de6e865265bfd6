"""What the outputs of a model stand for."""

from timm.data import ImageNetInfo

IMAGENET = 1000  # outputs, in the order that timm's models have them in


def class_names(num_classes: int) -> list[str]:
    """Of ImageNet's classes the first of their names; other models' go by their numbers.

    >>> class_names(1000)[49], class_names(10)[3]
    ('African crocodile', 'class 3')
    """
    if num_classes != IMAGENET:
        return [f"class {index}" for index in range(num_classes)]
    info = ImageNetInfo()
    return [info.index_to_description(index).split(",")[0] for index in range(num_classes)]
