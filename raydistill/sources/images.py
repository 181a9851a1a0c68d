"""Encoded bytes -> pixels. Real sets hold grey-scale, CMYK, alpha, rotated, truncated and hostile files."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from raydistill.errors import BrokenImage, one_line

# Pillow's own limit warns or raises depending on size; ours is explicit and per run.
Image.MAX_IMAGE_PIXELS = None

# What may be opened: of the many more formats that Pillow knows, some run other programs (EPS) on the bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_ASPECT = 32  # a longer strip loses its ends before it is enlarged, which would multiply its pixels
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a TIFF's tag of what its numbers mean
TIFF = (b"II*\x00", b"MM\x00*")
DARK = 8.0  # floats whose brightest pixel lies between 1 and this may be of 0 to 255, or of 0 to 1 and overshot


def decode(data: bytes, size: int, max_pixels: int) -> np.ndarray:
    """Decodes, turns upright (EXIF), flattens alpha on white, converts to RGB, crops the centre as in ADM and resizes.

    Returns uint8 (size, size, 3). Raises BrokenImage with the reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > max_pixels:
                raise BrokenImage(f"{image.width}x{image.height} pixels, more than source.max_pixels={max_pixels}")
            image.draft("RGB", (2 * size, 2 * size))
            image.load()
            return np.asarray(center_crop(upright_rgb(image), size))
    except BrokenImage:
        raise
    except UnidentifiedImageError:
        raise BrokenImage(_unknown(data)) from None
    except Exception as e:  # Pillow's decoders raise many kinds on hostile bytes; every one means: broken
        raise BrokenImage(one_line(e) or type(e).__name__) from None


def _unknown(data: bytes) -> str:
    """Why Pillow does not know what these bytes are."""
    if data.startswith(TIFF):
        return "a TIFF of a kind that is not read, such as floats in several channels; store it with 8 or 16 bits"
    return "not an image file" if data else "empty file"


def upright_rgb(image: Image.Image) -> Image.Image:
    """RGB, upright, alpha laid on white; grey of more than 8 bits is scaled rather than clipped, and
    turned round where 0 is white.

    Raises BrokenImage for grey whose range says neither what is black nor what is white.
    """
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")  # Pillow scales the latter
    negative = image.format == "TIFF" and vars(image).get("tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image, dtype=np.float64)
        white = 65535.0 if sixteen else _white(grey, image.mode == "F")
        grey = white - grey if negative else grey  # which Pillow does for 8 bits alone
        grey[grey == image.info.get("transparency")] = white
        image = Image.fromarray((grey / white * 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        base = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(base, image)
    return image.convert("RGB")


def _white(grey: np.ndarray, floats: bool) -> float:
    """The value of white, by the range of the pixels (H, W): floats of 0 to 1, or numbers of 8 or 16 bits."""
    if not np.isfinite(grey).all():
        raise BrokenImage("pixels that are NaN or infinite")
    low, high = float(grey.min()), float(grey.max())
    if floats and low >= 0 and (high <= 1 or DARK <= high <= 255):
        return 1.0 if high <= 1 else 255.0
    if not floats and low >= 0 and high <= 65535:
        return 255.0 if high <= 255 else 65535.0
    expected = "floats of 0 to 1 or 0 to 255" if floats else "integers of 0 to 255 or 0 to 65535"
    raise BrokenImage(f"pixels from {low:g} to {high:g}, which are no {expected}; scale them")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the pixels: the image is taken as it lies
        return image


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """ADM's centre crop: halve with a box filter while at least twice too large, bicubic to the short side, crop."""
    image = _shorten(image)
    while min(image.size) >= 2 * size:
        image = image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.BOX)
    scale = size / min(image.size)
    if scale != 1:
        shape = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
        image = image.resize(shape, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _shorten(image: Image.Image) -> Image.Image:
    """Cuts the ends off a strip longer than MAX_ASPECT times its width; other images stay as they are."""
    width, height = (min(side, MAX_ASPECT * min(image.size)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image if (width, height) == image.size else image.crop((left, top, left + width, top + height))


def png(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, 3) -> PNG bytes, the same bytes for the same pixels."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG", compress_level=6)
    return sink.getvalue()
