import copy
import json

import pytest

from attnround.errors import InputError
from attnround.experiment.schema import RECORD, read_record
from attnround.typed import Count, FileName, Number, Percent, Plain, check

LEAVES = {
    Number: 1.5, Percent: 99.5, Count: 2, FileName: "a.safetensors", Plain: [1, "x", None, True], int: 3, str: "text",
    float: 2.5, bool: True, dict: {},
}  # fmt: skip


def example(shape: object) -> object:
    if isinstance(shape, dict):
        return {"any" if key is str else key.removesuffix("?"): example(inner) for key, inner in shape.items()}
    if isinstance(shape, list):
        return [example(shape[0])]
    return LEAVES[shape[0] if isinstance(shape, tuple) else shape]


def places(value: object, path: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else ()
    return [path] * bool(path) + [each for key, below in inner for each in places(below, (*path, key))]


GOOD = example(RECORD)


def changed(path: tuple, value: object) -> dict:
    record = copy.deepcopy(GOOD)
    node = record
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return record


def test_a_record_as_it_should_be():
    check(GOOD, RECORD)
    check(GOOD | {"more": float("inf")}, RECORD)


@pytest.mark.parametrize("path", places(GOOD), ids=".".join)
def test_each_field_of_another_kind_is_named(path):
    plain = path[:2] == ("config", "data") and path[2:] not in ((), ("arguments",))
    with pytest.raises(ValueError, match=".".join(path)):
        check(changed(path, {"deep": [{}]} if plain else ["_target_", {}]), RECORD)


def optional(shape: object, path: tuple = ()) -> list[tuple]:
    found = [(*path, key[:-1]) for key in shape if key is not str and key.endswith("?")]
    inner = [(key, each) for key, each in shape.items() if key is not str and isinstance(each, dict)]
    return found + [each for key, below in inner for each in optional(below, (*path, key.removesuffix("?")))]


MAY_BE_MISSING = optional(RECORD)


def without(path: tuple) -> dict:
    record = copy.deepcopy(GOOD)
    node = record
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    return record


@pytest.mark.parametrize(
    "path", [each for each in places(GOOD) if each[-1] != "any" and each not in MAY_BE_MISSING], ids=".".join
)
def test_each_missing_field_is_named(path):
    with pytest.raises(ValueError, match=rf"^{'.'.join(path)} is missing"):
        check(without(path), RECORD)


def test_a_record_of_images_without_labels_has_no_top1():
    assert ("metrics", "quantized/top1") in MAY_BE_MISSING
    for path in MAY_BE_MISSING:
        check(without(path), RECORD)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("deployed", "file"), "../a.safetensors"),
        (("deployed", "file"), "/etc/a.safetensors"),
        (("deployed", "file"), "record.json"),
        (("deployed", "bytes"), True),
        (("metrics", "bits/mean"), float("inf")),
        (("metrics", "bits/mean"), [1]),
        (("config", "data", "any"), "${oc.env:HOME}"),
        (("config", "data", "any"), "???"),
        (("config", "data", "any"), [["nested"]]),
        (("config", "paths", "root"), 7),
    ],
)
def test_values_that_would_do_something_are_refused(path, value):
    with pytest.raises(ValueError, match=".".join(path)):
        check(changed(path, value), RECORD)


def test_numbers_that_json_does_not_have_come_as_text():
    check(changed(("metrics", "quantized/sqnr_db"), "NaN"), RECORD)


@pytest.mark.parametrize("text", ['{"seed": Infinity}', "[", "[]", "null", "[" * 100_000, "\udcff"])
def test_what_is_no_json_is_one_line(tmp_path, text):
    (tmp_path / "record.json").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=r"record\.json is no record") as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_record_is_read(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps(GOOD))
    assert read_record(tmp_path) == GOOD
    nameless = changed(("config", "model", "name"), None)
    (tmp_path / "record.json").write_text(
        json.dumps(nameless | {"config": nameless["config"] | {"model": {"name": None}}})
    )
    with pytest.raises(InputError, match="there is no factory"):
        read_record(tmp_path)
    with pytest.raises(InputError, match="No such file"):
        read_record(tmp_path / "none")
