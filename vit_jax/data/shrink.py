"""Smaller copies of images, which take less time to decode at every reading."""

from __future__ import annotations

import logging
import os

import numpy as np
import simplejpeg

from vit_jax.data.augment import resize
from vit_jax.data.decode import ImageError, decode_image

QUALITY = 95
_LONGEST = 65_500  # pixels of a JPEG's side, for libjpeg
_JPEG = frozenset((".jpg", ".jpeg", ".jfif"))


def shrunk(name: str, data: bytes, side: int) -> tuple[str, bytes]:
    """Makes a JPEG of an image whose shorter side is above `side` pixels.

    It is resized with Pillow's antialiased bicubic filter, keeps its aspect to a pixel,
    and is as `decode_image` gives it: turned as its EXIF says, RGB, without metadata.
    All others stay as they are, byte by byte, also damaged ones, of which a warning is
    logged: the training reports them as it does without a copy.

    Args:
        name: name or path of the file, also for the warning.
        data: its content.
        side: the most pixels of the shorter side.

    Returns:
        The name, which ends in .jpg unless it was that of a JPEG, and the content.
    """
    try:
        image = decode_image(data, name)
    except ImageError as error:
        logging.getLogger("vit_jax").warning("%s; it is packed as it is", error)
        return name, data
    shorter = min(image.shape[:2])
    height, width = (max(side, round(n * side / shorter)) for n in image.shape[:2])
    if shorter <= side or max(height, width) > _LONGEST:
        return name, data
    small = resize(image, (height, width), antialias="bicubic")
    stem, ending = os.path.splitext(name)
    return stem + (ending if ending.lower() in _JPEG else ".jpg"), encode(small)


def encode(image: np.ndarray) -> bytes:
    """A JPEG of quality 95 with halved colours (4:2:0) of a uint8 (h, w, 3) RGB image.

    Full colours cost more time to decode, and cameras' files have them halved as well.
    """
    pixels = np.ascontiguousarray(image)
    return simplejpeg.encode_jpeg(pixels, QUALITY, "RGB", colorsubsampling="420")
