"""Still images as input: `read_image`."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.errors import InputError
from lipsmith.geometry import resize
from lipsmith.media.container import Clip, require_file

# Of level 5.1 of H.264, the last that decoders in hardware know, in whole blocks of 16 × 16.
_LONGEST_SIDE, _MOST_PIXELS = 4096, 36_000 * 256


def read_image(path: Clip) -> NDArray[np.uint8]:
    """A still image (JPEG, PNG, WebP, BMP, TIFF, AVIF), uint8 BGR H×W×3, turned upright as its EXIF tag says.

    Transparency is dropped, 16 bits a channel become 8. A picture larger than what players show as a video, as every
    phone takes them, is reduced to 4096 pixels a side and nine megapixels at most.

    Raises:
        InputError: no such file, not an image, or one of a kind that cannot be read, such as a phone's HEIC.
    """
    path = require_file(path)
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InputError(f"{path} cannot be decoded as an image: it is damaged or too large.") from error
    if image is None:
        with path.open("rb") as file:
            if file.read(8)[4:] == b"ftyp":
                raise InputError(
                    f"{path} is a HEIC photo, which cannot be read here; save it as JPEG or PNG."
                )
        raise InputError(f"{path} cannot be decoded as an image; give a JPEG, PNG, WebP, BMP or TIFF file.")
    height, width = image.shape[:2]
    factor = min(_LONGEST_SIDE / max(width, height), math.sqrt(_MOST_PIXELS / (width * height)))
    if factor < 1:
        image = resize(image, *(max(int(side * factor) // 2 * 2, 2) for side in (width, height)))
    return np.asarray(image, np.uint8)
