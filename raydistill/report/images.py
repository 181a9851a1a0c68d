"""Images inside the page, as data URIs."""

from __future__ import annotations

import base64
import io

from PIL import Image

DISPLAY_SIDE, SMALL_SIDE = 256, 48
_KINDS = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"RIFF", "webp"), (b"GIF8", "gif"))


def data_uri(image: bytes, kind: str | None = None) -> str:
    """Encoded image bytes -> data URI, untouched."""
    kind = kind or next((name for magic, name in _KINDS if image.startswith(magic)), "png")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def display_copy(image: bytes) -> str:
    """A lossy WebP copy of at most DISPLAY_SIDE pixels a side; the image itself if it cannot be decoded."""
    try:
        return data_uri(_copy(image, DISPLAY_SIDE, 85), "webp")
    except (OSError, ValueError):
        return data_uri(image)


def thumbnail(image: bytes) -> bytes:
    """A lossy WebP copy of at most SMALL_SIDE pixels a side, about a kilobyte."""
    return _copy(image, SMALL_SIDE, 70)


def _copy(image: bytes, side: int, quality: int) -> bytes:
    with Image.open(io.BytesIO(image)) as opened:
        out = io.BytesIO()
        copy = opened.convert("RGB")
        copy.thumbnail((side, side))
        copy.save(out, "WEBP", quality=quality, method=4)
    return out.getvalue()
