"""One image file as an array: decoded, resized, cropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rsc.data.source import Place

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # Pillow knows some that start other programs
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
MAX_PIXELS = 2**26  # 192 MiB decoded


def decode(place: Place, path: str, resize: int, size: int) -> np.ndarray:
    """float32 [3, size, size] in [0, 1]: RGB, shorter side to `resize`, the middle `size` x `size` of it.

    The numbers of torchvision's Resize (bilinear, antialiased), CenterCrop and ToTensor on PIL images.

    Raises:
        InputRefused: the file is gone or may not be read.
        MalformedFile: it is no image of a known format, truncated, or of more than 2**26 pixels.
    """
    from PIL import Image

    if not Path(path).is_file():
        raise place.missing(path)
    try:
        with Image.open(path, formats=FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"it has {opened.width} x {opened.height} pixels, more than {MAX_PIXELS:,}")
            image = opened.convert("RGB")
        short, long = sorted(image.size)
        scaled = int(resize * long / short)
        if scaled * resize > MAX_PIXELS:
            raise ValueError(f"it has {image.width} x {image.height} pixels, too narrow to be resized")
        wide = (resize, scaled) if image.width <= image.height else (scaled, resize)
        if image.size != wide:
            image = image.resize(wide, Image.Resampling.BILINEAR)
        left, top = (round((side - size) / 2) for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    # What Pillow raises for broken files depends on the format: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise place.unreadable(path, error) from error
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1)).astype(np.float32) / 255
