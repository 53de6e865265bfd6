"""What a pixel is: every image file that is calibrated on, evaluated or trained on is opened here, by the same rules.

16 bits are scaled to 8 by their range. Floats, 32-bit integers and LAB are refused: no file says what their range is.
Pictures are turned upright by their EXIF orientation, transparent pixels show white, and of a moving picture the first
frame counts. A JPEG that is twice as large as any model needs is decoded at a half, a quarter or an eighth of its size,
as the format allows, which bounds the memory: 108 megapixels take 26 MiB and not 413.
"""

import contextlib
import enum
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from attnround.errors import InputError, reason

# Suffix -> Pillow's reader. Others that Pillow has, such as PostScript's, start programs.
READERS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".apng": "PNG", ".bmp": "BMP",
    ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP",
    ".gif": "GIF", ".avif": "AVIF", ".avifs": "AVIF", ".jp2": "JPEG2000", ".j2k": "JPEG2000", ".jpx": "JPEG2000",
    ".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF",
}  # fmt: skip
EXTENSIONS = tuple(READERS)
with contextlib.suppress(ImportError):  # HEIC, where its reader is installed
    import pillow_heif

    pillow_heif.register_heif_opener()
Image.init()
READ_HERE = tuple(each for each in EXTENSIONS if each in Image.registered_extensions())
FORMATS = sorted({reader for suffix, reader in READERS.items() if suffix in READ_HERE})
EIGHT_BITS = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LA", "La", "PA", "RGBA", "RGBa")
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
ORIENTATION = 0x0112  # EXIF 2.32, section 4.6.4: where the first row and column of the picture are
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0, sections 4 and 8
SHORT_SIDE = 2048  # pixels of the shorter side that a reduced JPEG has at least


class UnreadableError(InputError):
    """The file is damaged, or no image at all."""


class Remark(enum.IntFlag):
    """What was done to an image, or was not to be done."""

    UNREADABLE = 1
    TRANSPARENT = 2
    TURNED = 4
    FIRST_FRAME = 8


SAID = {
    Remark.UNREADABLE: "could not be read and were left out",
    Remark.TRANSPARENT: "have transparent pixels, which show white",
    Remark.TURNED: "were turned upright by their EXIF orientation",
    Remark.FIRST_FRAME: "have several frames, of which the first counts",
}


def open_image(path: Path, mode: str, least: int = SHORT_SIDE) -> tuple[Image.Image, Remark]:
    """The decoded image in Pillow's mode L or RGB, and what was done to it.

    least: pixels that the shorter side of a JPEG must keep; where it has twice as many, fewer are decoded. Raises
    UnreadableError for a damaged file, InputError for one whose values have no known range or that asks for more memory
    than an image may; both name it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # half of what is refused
            # Not by its name: then Pillow maps raw TIFFs into memory, and scrambles those that lie on their side.
            with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
                _check_mode(image, path)
                image.draft(None, (least, least))  # does nothing but to a JPEG
                image.load()
                return _converted(image, mode)
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is not opened: {reason(error)} Remove it or make it smaller") from error
    except InputError:
        raise
    except Exception as error:  # the readers' kinds are many
        raise UnreadableError(f"{path} is not a readable image ({reason(error)})") from error


def of_known_range(image: Image.Image, mode: str, what: str) -> Image.Image:
    """An image that somebody else opened, in Pillow's mode L or RGB; Pillow itself shows all above 255 white.

    what: named in the InputError for one whose values have no known range.
    """
    if not _has_range(image):
        raise InputError(
            f"{what} gives an image of Pillow's mode {image.mode}, whose range nobody states: convert it to 8 bits"
        )
    return (image if image.mode in EIGHT_BITS else _eight_bits(image)).convert(mode)


def _check_mode(image: Image.Image, path: Path) -> None:
    if not _has_range(image):
        raise InputError(
            f"{path} holds {image.format} values of mode {image.mode}, whose range no file states: convert it to 8 or "
            "16 bits, grey or RGB"
        )


def _has_range(image: Image.Image) -> bool:
    """Whether the range of the values is known. Of a PPM Pillow scales them to 16 bits, in 32-bit integers."""
    return image.mode in (*EIGHT_BITS, *SIXTEEN_BITS) or (image.mode == "I" and image.format == "PPM")


def _converted(image: Image.Image, mode: str) -> tuple[Image.Image, Remark]:
    remarks = Remark(0)
    if getattr(image, "is_animated", False) and image.format != "MPO":  # whose further frames are previews
        remarks |= Remark.FIRST_FRAME
    turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    if image.mode not in EIGHT_BITS:
        image = _eight_bits(image)
    if turn is not None:
        remarks |= Remark.TURNED
        image = image.transpose(turn)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:  # type: ignore[operator]  # of one channel: two numbers
            remarks |= Remark.TRANSPARENT
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode), remarks


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits, or of as many as its file says, in 8."""
    values = np.asarray(image).astype(np.int64)
    most = 65535
    if image.format == "TIFF" and isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(BITS_PER_SAMPLE, (16,))
        most = 2 ** (bits[0] if isinstance(bits, tuple) else bits) - 1
        if image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts 8 bits, not these
            values = most - values
    grey = (values * 255 + most // 2) // most
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey.astype(np.uint8))
