import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from attnround.data.pixels import Remark, UnreadableError, of_known_range, open_image
from attnround.errors import InputError

GREY = (np.arange(48)[:, None] * 4 + np.arange(32)).astype(np.uint8)  # [48, 32]
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def opened(path: Path, mode: str = "L") -> np.ndarray:
    return np.asarray(open_image(path, mode)[0])


@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
def test_sixteen_bits_are_the_same_picture_as_eight(tmp_path, kind):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / f"a.{kind}")
    assert np.array_equal(opened(tmp_path / f"a.{kind}"), GREY)
    assert np.array_equal(opened(tmp_path / f"a.{kind}", "RGB")[..., 1], GREY)


@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
def test_what_somebody_else_opened_is_the_same_picture(tmp_path, kind):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / f"a.{kind}")
    with Image.open(tmp_path / f"a.{kind}") as image:
        assert np.array_equal(np.asarray(of_known_range(image, "RGB", "data.factory"))[..., 1], GREY)
    with pytest.raises(InputError, match=r"data.factory gives an image of Pillow's mode F, whose range nobody states"):
        of_known_range(Image.fromarray(GREY.astype(np.float32)), "RGB", "data.factory")


def test_big_endian_and_inverted_sixteen_bit_tiffs(tmp_path):
    Image.fromarray(GREY.astype(">u2") * 257).save(tmp_path / "big.tif")
    assert np.array_equal(opened(tmp_path / "big.tif"), GREY)
    raw = bytearray((tmp_path / "big.tif").read_bytes())
    order = "<" if raw[:2] == b"II" else ">"
    entry = raw.index(struct.pack(f"{order}HHI", 262, 3, 1))  # PhotometricInterpretation: black is zero
    raw[entry + 8 : entry + 10] = struct.pack(f"{order}H", 0)  # white is
    (tmp_path / "inverted.tif").write_bytes(raw)
    assert np.array_equal(opened(tmp_path / "inverted.tif"), 255 - GREY)


def test_a_grey_map_is_scaled_by_its_own_maximum(tmp_path):
    values = np.array([[0, 500, 1000]], dtype=">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 1000\n" + values.tobytes())
    assert opened(tmp_path / "a.pgm").tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_values_without_a_range_are_refused_by_name_and_mode(tmp_path, mode):
    Image.new(mode, (4, 3)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=rf"a\.tif holds TIFF values of mode {mode}, .*convert it") as caught:
        open_image(tmp_path / "a.tif", "RGB")
    assert not isinstance(caught.value, UnreadableError)  # a set of such is not evaluated without them


OLD_PILLOW = int(PIL.__version__.split(".")[0]) < 13
YCBCR = pytest.param(
    "YCbCr", marks=pytest.mark.skipif(OLD_PILLOW, reason="Pillow 13 is the first to read what it wrote")
)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", YCBCR])
def test_every_other_mode_becomes_the_models(tmp_path, mode):
    Image.new(mode, (4, 3)).save(tmp_path / "a.tif")
    assert open_image(tmp_path / "a.tif", "RGB")[0].mode == "RGB"
    assert open_image(tmp_path / "a.tif", "L")[0].size == (4, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "deep"), [("png", False), ("tif", False), ("png", True)])
def test_a_picture_is_turned_upright(tmp_path, orientation, kind, deep):
    stored = GREY.astype(np.uint16) * 257 if deep else GREY
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"a.{kind}", exif=exif)
    upright = {
        1: GREY, 2: np.fliplr(GREY), 3: np.rot90(GREY, 2), 4: np.flipud(GREY), 5: GREY.T, 6: np.rot90(GREY, -1),
        7: np.rot90(GREY, 2).T, 8: np.rot90(GREY),
    }[orientation]  # fmt: skip
    image, remark = open_image(tmp_path / f"a.{kind}", "L")
    assert np.array_equal(np.asarray(image), upright)
    assert bool(remark & Remark.TURNED) == (orientation > 1 and kind == "png")  # Pillow turns a TIFF itself


def test_transparent_pixels_show_white_and_are_said(tmp_path):
    half = np.dstack([COLOUR, np.full_like(GREY, 128)])
    Image.fromarray(half).save(tmp_path / "half.png")
    image, remark = open_image(tmp_path / "half.png", "RGB")
    assert np.abs(np.asarray(image) - (COLOUR * (128 / 255) + 127)).max() <= 1
    assert remark == Remark.TRANSPARENT
    half[..., 3] = 255
    Image.fromarray(half).save(tmp_path / "opaque.png")
    image, remark = open_image(tmp_path / "opaque.png", "RGB")
    assert np.array_equal(np.asarray(image), COLOUR)
    assert remark == Remark(0)


def test_a_colour_that_means_transparent_shows_white(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png", transparency=int(GREY[5, 7]))
    assert np.array_equal(opened(tmp_path / "a.png"), np.where(GREY[5, 7] == GREY, 255, GREY))


def test_a_palette_is_a_palette(tmp_path):
    image = Image.fromarray(COLOUR).quantize(16)
    image.save(tmp_path / "a.png")
    assert np.array_equal(opened(tmp_path / "a.png", "RGB"), np.asarray(image.convert("RGB")))
    image.save(tmp_path / "b.png", transparency=bytes([255, 0] + [255] * 14))
    shown = np.where(np.asarray(image)[..., None] == 1, 255, np.asarray(image.convert("RGB")))
    assert np.array_equal(opened(tmp_path / "b.png", "RGB"), shown)


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tif"])
def test_the_first_frame_of_a_moving_picture_counts_and_is_said(tmp_path, kind):
    frames = [Image.fromarray(np.roll(COLOUR, 16 * i, 0)) for i in range(3)]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], lossless=True)
    image, remark = open_image(tmp_path / f"a.{kind}", "RGB")
    assert np.abs(np.asarray(image).astype(int) - COLOUR).mean() < 8  # a GIF has 256 colours
    assert remark == Remark.FIRST_FRAME


def test_avif_is_read_where_pillow_can(tmp_path):
    from PIL import features

    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    Image.fromarray(COLOUR).save(tmp_path / "a.avif", quality=100)
    assert np.abs(opened(tmp_path / "a.avif", "RGB").astype(int) - COLOUR).mean() < 8


def test_a_damaged_file_is_named(tmp_path):
    Image.fromarray(np.tile(COLOUR, (8, 8, 1))).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:3000])
    with pytest.raises(UnreadableError, match=r"a\.jpg is not a readable image \(.*truncated"):
        open_image(tmp_path / "a.jpg", "RGB")


def test_a_header_that_claims_gigabytes_is_refused_before_memory_is_taken(tmp_path):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(InputError, match=r"bomb\.png is not opened: Image size \(3600000000 pixels\)"):
        open_image(tmp_path / "bomb.png", "RGB")


def test_what_would_start_a_program_is_no_image(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(UnreadableError, match=r"a\.png is not a readable image"):
        open_image(tmp_path / "a.png", "RGB")
