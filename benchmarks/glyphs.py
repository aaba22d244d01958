"""Data set of the letters A to J in the fonts of matplotlib, without a download.

Every image shows one letter in one font, at a random size, angle and position. Training and test images share the fonts
but are drawn independently.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np

from wscore.io import atomic_folder

LETTERS = "ABCDEFGHIJ"
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
    "STIXGeneralBolIta", "cmr10", "cmb10", "cmss10", "cmtt10", "cmti10", "cmmi10",
)  # fmt: skip
SIZE, CANVAS = 28, 56


def write_glyphs(folder: Path, *, train: int = 1200, test: int = 500, seed: int = 0) -> Path:
    """Write glyphs.npz with uint8 images (N, 28, 28) and labels 0..9 into a folder, and return the folder."""
    random = np.random.default_rng(seed)
    arrays = {}
    for part, count in (("train", train), ("test", test)):
        labels = random.permutation(np.arange(count) % len(LETTERS))
        arrays[f"x_{part}"] = np.stack([glyph(LETTERS[label], random) for label in labels])
        arrays[f"y_{part}"] = labels.astype(np.int64)
    with atomic_folder(folder) as place:
        np.savez_compressed(place / "glyphs.npz", **arrays)
    return folder


def glyph(letter: str, random: np.random.Generator) -> np.ndarray:
    """Return one letter as white on black (28, 28), uint8: capitals of 14 to 20 pixels, turned by up to 15 degrees."""
    from PIL import Image, ImageDraw, ImageFont

    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    size = int(random.integers(40, 57))
    font = ImageFont.truetype(str(fonts / f"{FONTS[random.integers(len(FONTS))]}.ttf"), size)
    image = Image.new("L", (CANVAS, CANVAS))
    left, top, right, bottom = font.getbbox(letter)
    place = ((CANVAS - left - right) / 2, (CANVAS - top - bottom) / 2)
    ImageDraw.Draw(image).text(place, letter, fill=255, font=font)
    turned = image.rotate(float(random.uniform(-15, 15)), translate=tuple(random.integers(-4, 5, 2).tolist()))
    return np.asarray(turned.resize((SIZE, SIZE), Image.Resampling.BOX))
