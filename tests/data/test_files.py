from pathlib import Path

import pytest

from attnround.data.files import list_folders, list_images
from attnround.data.pixels import open_image
from attnround.errors import InputError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_images_at_any_depth_in_the_order_of_their_names(tmp_path):
    touch(tmp_path, "b/2.JPEG", "b/10.jpeg", "a.png", "b/deep/er/1.jpg", "b/notes.txt", "archive.tar")
    assert list_images(tmp_path)[0] == ["a.png", "b/10.jpeg", "b/2.JPEG", "b/deep/er/1.jpg"]


def test_hidden_files_and_folders_are_left_out(tmp_path):
    touch(tmp_path, "a/1.jpg", "a/._1.jpg", ".cache/2.jpg")
    assert list_images(tmp_path)[0] == ["a/1.jpg"]
    assert list_folders(tmp_path) == ["a"]


def test_links_are_followed_and_a_circle_ends(tmp_path):
    touch(tmp_path / "elsewhere", "n01440764/1.jpg")
    root = touch(tmp_path / "root", "n02979186/2.jpg")
    (root / "n01440764").symlink_to(tmp_path / "elsewhere/n01440764")
    (root / "n02979186" / "up").symlink_to(root)
    assert list_images(root)[0] == ["n01440764/1.jpg", "n02979186/2.jpg"]
    assert list_folders(root) == ["n01440764", "n02979186"]


def test_a_link_to_nowhere_is_an_unreadable_image(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    assert list_images(tmp_path)[0] == ["gone.jpg"]
    with pytest.raises(InputError, match=r"gone\.jpg is not a readable image"):
        open_image(tmp_path / "gone.jpg", "RGB")
