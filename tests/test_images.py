"""Decoding: every kind of image that occurs in real sets becomes an upright RGB square, or is broken for a reason."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from raydistill.errors import BrokenImage
from raydistill.sources.images import center_crop, decode, png

LIMIT = 1_000_000


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def plain(mode: str, colour: object, size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new(mode, size, colour)


def photo(width: int, height: int) -> Image.Image:
    """A smooth picture with structure in all directions."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9 + k) * np.cos(y / (7 + k)) for k in range(3)]
    return Image.fromarray((127 + 120 * np.stack(waves, -1)).astype(np.uint8))


def assert_colour(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 0) -> None:
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    assert np.abs(pixels.astype(int) - colour).max() <= tolerance


@pytest.mark.parametrize(
    ("image", "kind", "colour", "tolerance"),
    [
        (plain("RGB", (10, 200, 30)), "PNG", (10, 200, 30), 0),
        (plain("L", 99), "PNG", (99, 99, 99), 0),
        (plain("L", 99), "JPEG", (99, 99, 99), 2),
        (plain("1", 1), "PNG", (255, 255, 255), 0),
        (plain("CMYK", (0, 255, 255, 0)), "JPEG", (255, 0, 0), 6),
        (plain("RGBA", (255, 0, 0, 0)), "PNG", (255, 255, 255), 0),
        (plain("RGBA", (255, 0, 0, 255)), "PNG", (255, 0, 0), 0),
        (plain("RGBA", (0, 0, 0, 128)), "PNG", (127, 127, 127), 1),
        (plain("LA", (50, 0)), "PNG", (255, 255, 255), 0),
        (plain("I;16", 65535), "PNG", (255, 255, 255), 0),
        (plain("I;16", 32768), "PNG", (127, 127, 127), 1),
        (plain("I;16", 32768), "TIFF", (127, 127, 127), 1),
        (plain("I", 200), "TIFF", (200, 200, 200), 0),
        (plain("RGB", (1, 2, 3)), "BMP", (1, 2, 3), 0),
        (plain("RGB", (1, 2, 3)), "PPM", (1, 2, 3), 0),
        (plain("RGB", (9, 90, 200)), "WEBP", (9, 90, 200), 4),
        (plain("RGB", (0, 0, 255)), "GIF", (0, 0, 255), 0),
    ],
    ids=lambda v: v.mode if isinstance(v, Image.Image) else None,
)
def test_every_mode_becomes_rgb(image: Image.Image, kind: str, colour: tuple[int, int, int], tolerance: int) -> None:
    assert_colour(decode(encoded(image, kind), 16, LIMIT), colour, tolerance)


def levels(values: object, dtype: type = np.float32, **options: object) -> bytes:
    """A TIFF of one row of grey, repeated."""
    return encoded(Image.fromarray(np.tile(np.array(values, dtype), (4, 1))), "TIFF", **options)


def deep_png(values: list[int], transparent: int) -> bytes:
    """A PNG of 16 bits, of which one value is no colour."""
    return encoded(Image.fromarray(np.tile(np.array(values, np.uint16), (4, 1))), transparency=transparent)


FROM_WHITE = {262: 0}  # a TIFF's numbers count from white


@pytest.mark.parametrize(
    ("data", "grey"),
    [
        (levels([0, 0.2, 0.6, 1]), [0, 51, 153, 255]),
        (levels([0, 0.2, 0.6, 1], np.float64), [0, 51, 153, 255]),
        (levels([0.2] * 4), [51] * 4),
        (levels([0, 51, 153, 255]), [0, 51, 153, 255]),
        (levels([0, 51, 153, 255], np.int32), [0, 51, 153, 255]),
        (levels([0, 13107, 39321, 65535], np.int32), [0, 51, 153, 255]),
        (levels([0, 13107, 39321, 65535], np.uint16), [0, 51, 153, 255]),
        (levels([0, 1, 200, 250], np.uint16), [0, 0, 0, 0]),
        (levels([65535, 52428, 26214, 0], np.uint16, tiffinfo=FROM_WHITE), [0, 51, 153, 255]),
        (levels([1, 0.8, 0.4, 0], tiffinfo=FROM_WHITE), [0, 51, 153, 255]),
        (deep_png([0, 13107, 1000, 39321], transparent=1000), [0, 51, 255, 153]),
        (b"Pf 4 4 -1.0\n" + np.tile(np.float32([0, 0.2, 0.6, 1]), 4).tobytes(), [0, 51, 153, 255]),
        (b"P5 4 4 1000\n" + np.tile(np.array([0, 200, 600, 1000], ">u2"), 4).tobytes(), [0, 51, 153, 255]),
        (b"P5 4 4 60000\n" + np.tile(np.array([0, 60, 120, 180], ">u2"), 4).tobytes(), [0, 0, 0, 0]),
    ],
    ids=[
        "unit floats", "doubles", "a dark unit image", "floats to 255", "integers to 255", "integers to 65535",
        "16 bits", "16 bits, dark", "16 bits from white", "floats from white", "transparent",
        "PFM", "PGM to 1000", "16-bit PGM, dark",
    ],
)  # fmt: skip
def test_grey_beyond_8_bits_keeps_its_brightness(data: bytes, grey: list[int]) -> None:
    pixels = decode(data, 4, LIMIT).astype(int)
    assert np.abs(pixels - np.array(grey)[None, :, None]).max() <= 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (levels([-1, 0, 0.5, 1]), "from -1 to 1, which are no floats of 0 to 1"),
        (levels([0, 0.5, 1.2, 1]), "from 0 to 1.2"),
        (levels([0, 5, 300, 9]), "from 0 to 300"),
        (levels([0, np.nan, 0, 1]), "NaN"),
        (levels([0, np.inf, 0, 1]), "infinite"),
        (levels([-3, 0, 5, 9], np.int16), "from -3 to 9, which are no integers of 0 to 255"),
        (levels([0, 5, 9, 70000], np.int32), "from 0 to 70000"),
    ],
)
def test_grey_of_an_unknown_range_is_broken_with_its_range(data: bytes, why: str) -> None:
    with pytest.raises(BrokenImage, match=why):
        decode(data, 4, LIMIT)


def tiff(channels: int, bits: int, kind: int) -> bytes:
    """A TIFF of 2x2 zeros with so many channels, bits a channel and sample format (3: floats)."""
    shorts = {256: 2, 257: 2, 259: 1, 262: 2, 277: channels, 278: 2, 284: 1}
    size = 4 * channels * bits // 8
    entries = {tag: struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items()}
    start = 8 + 2 + 12 * (len(shorts) + 4) + 4
    for tag in (258, 339):  # of every channel: bits, and the sample format
        entries[tag] = struct.pack("<HHII", tag, 3, channels, start)
        start += 2 * channels
    entries[273] = struct.pack("<HHII", 273, 4, 1, start)
    entries[279] = struct.pack("<HHII", 279, 4, 1, size)
    lists = b"".join(struct.pack("<H", v) * channels for v in (bits, kind))
    head = b"II*\x00" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(entries[t] for t in sorted(entries)) + bytes(4) + lists + bytes(size)


def test_a_tiff_that_is_not_read_is_not_called_no_image() -> None:
    assert decode(tiff(3, 8, 1), 2, LIMIT).shape == (2, 2, 3)
    with pytest.raises(BrokenImage, match="floats in several channels"):
        decode(tiff(3, 32, 3), 2, LIMIT)


@pytest.mark.parametrize("kind", ["TIFF", "GIF"])
def test_the_first_page_is_the_image(kind: str) -> None:
    pages = [plain("L", v) for v in (200, 10)]
    assert_colour(decode(encoded(pages[0], kind, save_all=True, append_images=pages[1:]), 16, LIMIT), (200,) * 3)


def test_a_transparent_palette_colour_is_laid_on_white() -> None:
    image = Image.new("P", (20, 20), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.paste(1, (0, 0, 10, 20))
    pixels = decode(encoded(image, transparency=0), 20, LIMIT)
    assert_colour(pixels[:, 12:], (255, 255, 255))
    assert_colour(pixels[:, :8], (0, 255, 0))


def test_a_transparent_key_colour_is_laid_on_white() -> None:
    data = encoded(plain("RGB", (7, 8, 9)), transparency=(7, 8, 9))
    assert_colour(decode(data, 16, LIMIT), (255, 255, 255))


def test_the_first_frame_of_an_animation_is_used() -> None:
    frames = [plain("RGB", (255, 0, 0)), plain("RGB", (0, 255, 0))]
    assert_colour(decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), 16, LIMIT), (255, 0, 0))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_applied_to_the_pixels(kind: str) -> None:
    image = plain("RGB", (0, 0, 0), (32, 32))
    image.paste((255, 255, 255), (0, 0, 32, 16))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # shown correctly after a quarter turn clockwise: the upper half goes to the right
    pixels = decode(encoded(image, kind, exif=exif), 32, LIMIT).astype(int)
    assert pixels[:, 20:].mean() > 240 and pixels[:, :12].mean() < 15


def test_damaged_exif_does_not_cost_the_image() -> None:
    data = encoded(plain("RGB", (200, 10, 10)), "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12\x00")
    assert_colour(decode(data, 16, LIMIT), (200, 10, 10), 4)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty file"),
        (b"not an image at all, but some text", "not an image file"),
        (encoded(photo(64, 64))[:-200], ""),
        (encoded(photo(64, 64), "JPEG")[:-200], "truncated"),
        (encoded(photo(64, 64), "JPEG")[:20], ""),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image file"),
    ],
    ids=["empty", "text", "truncated PNG", "truncated JPEG", "JPEG header only", "a program (EPS)"],
)
def test_an_unusable_file_is_broken_with_one_line(data: bytes, why: str) -> None:
    with pytest.raises(BrokenImage) as caught:
        decode(data, 16, LIMIT)
    text = str(caught.value)
    assert why in text and text and "\n" not in text


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_are_pixels_or_a_broken_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kind = ("JPEG", "PNG", "WEBP", "GIF", "TIFF")[seed % 5]
    data = bytearray(encoded(photo(48, 40), kind))
    for at in rng.integers(0, len(data), 12):
        data[at] = rng.integers(256)
    try:
        assert decode(bytes(data), 16, LIMIT).shape == (16, 16, 3)
    except BrokenImage as e:
        assert "\n" not in str(e)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that claims to hold width x height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    tracemalloc.start()
    with pytest.raises(BrokenImage, match=r"60000x60000 pixels, more than .*=1000000"):
        decode(bomb(60000, 60000), 16, LIMIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_an_image_at_the_pixel_limit_is_accepted() -> None:
    assert decode(encoded(plain("RGB", 0, (100, 50))), 16, 5000).shape == (16, 16, 3)
    with pytest.raises(BrokenImage):
        decode(encoded(plain("RGB", 0, (100, 51))), 16, 5000)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("size", [(400_000, 1), (1, 400_000), (1, 1), (3, 2), (65, 2000)])
def test_extreme_shapes_cost_little_and_give_a_square(size: tuple[int, int]) -> None:
    assert_colour(decode(encoded(plain("RGB", (9, 99, 199), size)), 64, LIMIT), (9, 99, 199))


def reference_crop(image: Image.Image, size: int) -> np.ndarray:
    """center_crop_arr of guided-diffusion (ADM), restated."""
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.BOX)
    scale = size / min(*image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), resample=Image.BICUBIC)
    pixels = np.array(image)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


@pytest.mark.parametrize("shape", [(64, 64), (500, 375), (375, 500), (33, 47), (224, 224), (129, 640), (20, 31)])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_crop_is_that_of_adm(shape: tuple[int, int], size: int) -> None:
    image = photo(*shape)
    expected = reference_crop(image, size)
    assert np.array_equal(np.asarray(center_crop(image, size)), expected)
    assert np.array_equal(decode(encoded(image), size, LIMIT), expected)


def test_fast_decoding_of_large_jpegs_stays_close_to_adm() -> None:
    data = encoded(photo(800, 600), "JPEG", quality=95)
    exact = reference_crop(Image.open(io.BytesIO(data)).convert("RGB"), 32)
    error = decode(data, 32, LIMIT).astype(int) - exact
    assert np.abs(error).mean() < 2


def test_decoding_is_deterministic_and_png_is_lossless() -> None:
    pixels = np.asarray(photo(32, 32))
    assert png(pixels) == png(pixels.copy())
    assert np.array_equal(decode(png(pixels), 32, LIMIT), pixels)
