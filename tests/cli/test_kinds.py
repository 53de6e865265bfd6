from collections.abc import Sequence
from fractions import Fraction

import pytest

from attnround.cli.kinds import check_kinds
from attnround.errors import InputError


def task(
    *,
    name: str,
    size: int | None = None,
    deep: bool = False,
    layers: Sequence[Sequence[str]] | str = (),
    given: dict | None = None,
    model: object = None,
    part: Fraction | None = None,
) -> None:
    pass


@pytest.mark.parametrize(
    "options",
    [
        {"name": "a", "size": 3, "deep": True, "layers": [["a"], []], "given": {"a": 1}},
        {"part": {"_target_": "fractions.Fraction", "numerator": 1}},
        {"part": None},
        {"size": None, "layers": "blocks", "given": None, "model": 3, "other": []},
        {"size": "x", "model": {"_target_": "fractions.Fraction", "numerator": "x"}},  # for its class to say
    ],
)
def test_what_fits_its_signature_passes(options):
    check_kinds(options, task)


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("deep", 1, "deep=1: give true or false"),
        ("deep", None, "deep=null: give true or false"),
        ("deep", "no", "deep=no: give true or false"),
        ("name", 7, "name=7: give text; what looks like a number is quoted twice, as in \"name='7'\""),
        ("name", True, "name=true: give text"),
        ("size", [3], r"size=\[3\]: give a number or null"),
        ("layers", float("inf"), "layers=inf: give a list or text"),
        ("layers", ["a"], r"layers=\['a'\]: give a list of a list"),
        ("layers", [[1]], r"layers=\[\[1\]\]: give a list of a list of text"),
        ("part", 3, "part=3: give options of a part, with its _target_ or null"),
        ("given", "x", "given=x: give names and values or null"),
    ],
)
def test_what_does_not_is_said_in_a_line(option, value, line):
    with pytest.raises(InputError, match=f"^{line}") as caught:
        check_kinds({option: value}, task)
    assert "\n" not in str(caught.value)


def test_an_option_of_a_part_has_its_whole_path():
    part = {"_target_": "attnround.quantization.observer.ClipSearch", "symmetric": "yes"}
    with pytest.raises(InputError, match=r"^reconstruction\.observer\.symmetric=yes: give true or false"):
        check_kinds(
            {"reconstruction": {"_target_": "attnround.reconstruction.LayerReconstruction", "observer": part}}, task
        )
