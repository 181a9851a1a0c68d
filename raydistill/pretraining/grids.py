"""Images side by side as one picture, each with the name of its class below it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raydistill.errors import printable

GAP = 2  # pixels between images
LEGIBLE, STRIP, FONT = (
    96,
    16,
    11,
)  # pixels: least width of a captioned image, height of its caption, size of its letters
WHITE = 255


def captioned(images: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """uint8 (B, H, W, 3) -> uint8 (B, H', W', 3): enlarged to a legible width, a name in a strip below each."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), FONT)
    times = max(1, math.ceil(LEGIBLE / images.shape[2]))
    large = images.repeat(times, axis=1).repeat(times, axis=2)
    strips = []
    for name in names:
        strip, text = Image.new("RGB", (large.shape[2], STRIP), "white"), printable(name)
        while font.getlength(text) > strip.width and len(text) > 1:
            text = f"{text.removesuffix('…')[:-1]}…"
        ImageDraw.Draw(strip).text((strip.width / 2, STRIP / 2), text, "black", font, anchor="mm")
        strips.append(np.asarray(strip))
    return np.concatenate([large, np.stack(strips)], axis=1)


def tiled(images: np.ndarray) -> np.ndarray:
    """uint8 (B, H, W, 3) -> uint8 (H', W', 3): nearly square, row by row, white between them."""
    count, height, width, _ = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    page = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), WHITE, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        page[top : top + height, left : left + width] = image
    return page
