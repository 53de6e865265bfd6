import json
from pathlib import Path

import pytest

from attnround.data.classes import class_places, read_class_map
from attnround.errors import InputError

VAL = Path("val")


def test_wordnet_ids_map_to_imagenet_classes():
    places = class_places(["n01440764", "n02979186", "n03888257"], 1000, VAL)
    assert places == {"n01440764": 0, "n03888257": 701, "n02979186": 482}  # tench, parachute, cassette player


def test_numbers_are_indices_so_that_a_part_is_enough():
    assert class_places(["10", "2", "007"], 1000, VAL) == {"10": 10, "2": 2, "007": 7}


@pytest.mark.parametrize(
    "names",
    [
        ["cat", "dog", "emu"],
        ["2019", "2020", "2021"],
        ["1", "2", "3"],  # counted from 1, as many as there are outputs
        ["n01440764", "n02979186", "n03888257"],  # of a model for just these
        ["00", "01", "02"],
        ["n00000001", "cat", "dog"],
    ],
)
def test_as_many_names_as_outputs_stand_for_them_in_order(names):
    assert class_places(names, 3, VAL) == {name: place for place, name in enumerate(sorted(names))}


@pytest.mark.parametrize(
    ("names", "torchvision", "timm"),
    [
        ([f"class {i}" for i in range(1, 11)], "class 10", "class 2"),
        ([str(i) for i in range(11)], "10", "2"),
        (["Cherry", "apple"], "Cherry", "apple"),
    ],
)
def test_where_the_orders_differ_one_is_asked_for(names, torchvision, timm):
    wanted = rf"folder {torchvision} in torchvision's order and {timm} in timm's: give data\.class_order=torchvision or"
    with pytest.raises(InputError, match=wanted):
        class_places(sorted(names), len(names), VAL)
    plain, natural = (class_places(sorted(names), len(names), VAL, order) for order in ("torchvision", "timm"))
    assert list(plain) == sorted(names)
    assert plain != natural
    assert sorted(plain.values()) == sorted(natural.values()) == list(range(len(names)))


def test_timms_order_is_timms(tmp_path):
    from timm.data.readers.reader_image_folder import find_images_and_targets

    names = ["B2", "b10", "a", "C", "class 1", "class 10", "class 2", "07", "6"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").touch()
    assert class_places(sorted(names), len(names), VAL, "timm") == find_images_and_targets(str(tmp_path))[1]


@pytest.mark.parametrize(
    ("names", "num_classes", "fault"),
    [
        (["cat", "dog"], 10, "cat, dog map to none"),
        (["0", "12"], 10, "12 map to none: numbers are indices from 0 to 9; rename them"),
        (["1", "10", "3"], 10, r"10 map to none: .*counted from 1\?"),
        (["n01440764", "n99999999"], 1000, "n99999999 map to none"),
        (["n01440764", "extra"], 1000, "classes, extra map"),
        (["n01440764"], 10, "n01440764 map to none"),
        ([], 10, "no folder"),
        (["0", "00", "1"], 10, "0, 00 are the same number"),
        (["A", "a"], 2, "differs from another folder in capitals"),
    ],
)
def test_folders_that_stand_for_nothing_or_twice_are_named(names, num_classes, fault):
    with pytest.raises(InputError, match=fault) as caught:
        class_places(names, num_classes, VAL)
    assert "data.class_map" in str(caught.value) or not names


def test_an_order_says_nothing_of_a_part_of_the_classes():
    with pytest.raises(InputError, match="class_order=timm: val has 2 class folders and the model 10 outputs"):
        class_places(["a", "b"], 10, VAL, "timm")
    with pytest.raises(InputError, match="class_order=keras: give torchvision or timm"):
        class_places(["a", "b"], 2, VAL, "keras")


def write(tmp_path, text):
    (tmp_path / "map").write_text(text, encoding="utf-8")
    return str(tmp_path / "map")


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"cat": 1, "x/1.png": [0, 2]}),
        "cat,1\nx/1.png,0,2\n",
        "\ufefffolder,index\r\ncat,1\r\nx/1.png, 0, 2\r\n",
        'name,classes,\n"cat",1,\nx/1.png,0,2\n',
        "folder;index\n./cat/;1\n  \nx\\1.png;0;2\n",
        "\ncat\t1\nx/1.png\t0\t2\n",
    ],
)
def test_a_map_in_each_of_its_forms(tmp_path, text):
    assert read_class_map(write(tmp_path, text), 3) == {"cat": (1,), "x/1.png": (0, 2)}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cat,3\n", r"cat -> \[3\]: give an index from 0 to 2"),
        ("cat,1\ndog,one\n", r"dog -> \['one'\]"),
        ("cat,1\ncat,2\n", "cat is there twice"),
        ("cat,1\n./cat/,2\n", "cat/ is there twice"),
        ('{"cat": 1, "cat": 2}', "cat"),
        ("x/1.png,cat\ndog,1\n", r"x/1.png -> \['cat'\]"),
        ("cat,-1\ndog,1\n", r"cat -> \['-1'\]"),
        (",1\ndog,1\n", "a line has no name, but 1"),
        ('{"cat": 1', "cannot be read"),
        ('{"cat": true}', "cat -> True"),
        ('{"cat": []}', r"cat -> \[\]"),
        ('{"cat": {"_target_": "os.system"}}', "cat -> "),
        ("", "is empty"),
    ],
)
def test_what_is_wrong_with_a_map_is_named(tmp_path, text, fault):
    with pytest.raises(InputError, match=fault):
        read_class_map(write(tmp_path, text), 3)


def test_a_map_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"data\.class_map=.*none cannot be read"):
        read_class_map(str(tmp_path / "none"), 3)
