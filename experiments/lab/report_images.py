"""Figures as the report embeds them: as small as they can be with sharp text."""

import base64
import io
from pathlib import Path

from PIL import Image

# A drawing of curves has some thousand colours, nearly all of them from smoothed edges;
# a figure with photographs has several ten thousand.
_MOST_OF_A_DRAWING = 20_000
_PALETTE = 128


def data_uri(path: Path) -> str:
    """The picture as a WebP within the page.

    A drawing keeps 128 colours and every pixel: a fifth of its PNG's bytes, and no halo
    around letters. Photographs lose what JPEG would lose.
    """
    with Image.open(path) as picture:
        image = picture.convert("RGB")
    file = io.BytesIO()
    if image.getcolors(_MOST_OF_A_DRAWING):
        # The colours are spread over those that occur, not over the pixels, of which
        # most are white: a thin curve keeps its colour.
        few = image.quantize(
            _PALETTE, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
        few.convert("RGB").save(file, format="WEBP", lossless=True)
    else:
        image.save(file, format="WEBP", quality=75)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
