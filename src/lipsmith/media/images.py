"""Still images as input: `read_image`."""

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.errors import InputError
from lipsmith.media.container import Clip, require_file


def read_image(path: Clip) -> NDArray[np.uint8]:
    """A still image (JPEG, PNG, WebP, BMP, TIFF, AVIF), uint8 BGR H×W×3, turned upright as its EXIF tag says.

    Transparency is dropped, 16 bits a channel become 8.

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
    return np.asarray(image, np.uint8)
