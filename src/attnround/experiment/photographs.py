"""Which of the evaluation images a run shows, with what its models say of them."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from attnround.data import ImageData
from attnround.evaluation import Outputs
from attnround.experiment.pictures import Answer, Photograph
from attnround.zoo import class_names

MOST = 24  # images of a sheet


def chosen(reference: Tensor, quantized: Tensor, most: int = MOST) -> list[int]:
    """Places of the images to show, of logits [N, classes]: first those where the first classes differ.

    Of these the ones of which the reference is the surest come first; of the others those whose probability of the
    reference's class falls the most.
    """
    before, after = (each.double().softmax(1) for each in (reference, quantized))
    confidence, top = before.max(1)
    differ = after.argmax(1) != top
    fall = confidence - after.gather(1, top[:, None])[:, 0]
    order = torch.where(differ, 1 + confidence, fall)  # a fall is below 1
    return order.argsort(descending=True, stable=True)[:most].tolist()


def photographs(data: ImageData, reference: Outputs, quantized: Outputs) -> list[Photograph]:
    """Those of the evaluation images, which both outputs are of, that a run shows."""
    places = chosen(reference.logits, quantized.logits)
    answers = _answers(reference), _answers(quantized)
    images = _images(data.val_dataloader(), set(places))
    mean, std = (torch.tensor(data.preprocessing[name])[:, None, None] for name in ("mean", "std"))
    return [
        Photograph(
            (images[place] * std + mean).clamp(0, 1).permute(1, 2, 0).numpy(),
            *(answer(place) for answer in answers),
        )
        for place in places
    ]


def _images(batches: Iterable, wanted: set[int]) -> dict[int, Tensor]:
    """place -> image, for as many batches as it takes. A batch is None where none of its images could be read."""
    found, begin = {}, 0
    for batch in batches:
        if len(found) == len(wanted):
            break
        if batch is not None:
            found |= {begin + i: image for i, image in enumerate(batch[0]) if begin + i in wanted}
            begin += len(batch[0])
    return found


def _answers(outputs: Outputs) -> Callable[[int], Answer]:
    confidence, top = outputs.logits.double().softmax(1).max(1)
    names, right = class_names(outputs.logits.shape[1]), outputs.correct

    def answer(place: int) -> Answer:
        index = int(top[place])
        return Answer(
            index, names[index], 100 * confidence[place].item(), None if right is None else bool(right[place])
        )

    return answer
