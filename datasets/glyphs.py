"""Glyph digits, for machines without the real data: the digits of matplotlib's fonts with random distortions.

Each digit of each font is drawn once at high resolution and converted to a signed distance field. Each image samples
this field with a random slant, rotation, scale, shift and smooth warp, then applies a random stroke width and blur.
The fixed seed always gives the same images. They resemble MNIST but must not be reported as MNIST.
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F

from datasets.download import cache_folder, read_cache, write_cache
from datasets.files import UserError, show

FONTS = [
    "DejaVuSans", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono",
    "STIXGeneral", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10",
]  # fmt: skip
SIZES = [50000, 10000, 10000]  # training, validation, test
SEED = 1998
FIELD = 64  # side of a distance field; the digit is in the centre
CHUNK = 2000  # images drawn at once


def distance_fields():
    """Signed distances to the outlines [fonts, 10, FIELD, FIELD], and the heights of the digits [fonts, 10].

    Distances are positive inside and in units of the digit's height. Heights are fractions of the field's side."""
    from matplotlib.ft2font import FT2Font
    from scipy.ndimage import distance_transform_edt

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fine = 4 * FIELD
    fields, heights = torch.empty(len(FONTS), 10, FIELD, FIELD), torch.empty(len(FONTS), 10)
    for f, name in enumerate(FONTS):
        font = FT2Font(str(folder / f"{name}.ttf"))
        for digit in range(10):
            font.set_size(160, 72)
            font.set_text(str(digit))
            font.draw_glyphs_to_bitmap(antialiased=False)
            ink = np.asarray(font.get_image()) > 127
            rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
            ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            height, width = ink.shape
            canvas = np.zeros((fine, fine), bool)
            top, left = (fine - height) // 2, (fine - width) // 2
            canvas[top : top + height, left : left + width] = ink
            distance = distance_transform_edt(canvas) - distance_transform_edt(~canvas)
            fields[f, digit] = F.avg_pool2d(torch.from_numpy(distance / height).float()[None], 4)[0]
            heights[f, digit] = height / fine
    return fields, heights


def draw(fields, heights, digits, generator):
    """One random image for each digit: [N] -> [N, 784] uint8."""
    n = len(digits)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    def normal(std, *shape):
        return std * torch.randn(n, *shape, generator=generator)

    fonts = torch.randint(len(FONTS), (n,), generator=generator)
    field = fields[fonts, digits].unsqueeze(1)
    # The inverse transformation maps each of the 28 x 28 pixels to a position in the field.
    size = heights[fonts, digits] * 28 / 20 / uniform(0.85, 1.1)  # a digit is about 20 pixels high
    stretch = uniform(0.75, 1.1)
    angle, slant = normal(0.12).clamp(-0.35, 0.35), normal(0.22).clamp(-0.5, 0.5)
    cos, sin = angle.cos(), angle.sin()
    width = size / stretch
    entries = [width * (cos + slant * sin), width * (slant * cos - sin), size * sin, size * cos]
    matrix = torch.stack(entries, 1).reshape(n, 2, 2)
    shift = normal(0.045, 2).clamp(-0.12, 0.12)
    grid = F.affine_grid(torch.cat([matrix, shift.unsqueeze(2)], 2), (n, 1, 28, 28), align_corners=False)
    # a smooth warp: 4 x 4 random displacements, interpolated
    warp = F.interpolate(normal(0.045, 2, 4, 4), size=28, mode="bicubic", align_corners=True)
    grid = grid + (warp * size.reshape(n, 1, 1, 1)).permute(0, 2, 3, 1)
    distance = F.grid_sample(field, grid, padding_mode="border", align_corners=False).squeeze(1)  # [N, 28, 28]
    thicker, blur = uniform(-0.005, 0.045, 1, 1), uniform(0.03, 0.06, 1, 1)
    image = ((distance + thicker) / blur + 0.5).clamp(0, 1) * uniform(0.85, 1.0, 1, 1)
    return (image * 255).round().to(torch.uint8).flatten(1)


def make():
    """Images [70000, 784] and labels [70000], both uint8, with balanced classes in random order."""
    fields, heights = distance_fields()
    generator = torch.Generator().manual_seed(SEED)
    images, labels = [], []
    for _ in range(0, sum(SIZES), CHUNK):
        labels.append(torch.arange(CHUNK).remainder(10)[torch.randperm(CHUNK, generator=generator)])
        images.append(draw(fields, heights, labels[-1], generator))
    return torch.cat(images), torch.cat(labels).to(torch.uint8)


def load(roots=(), may_download=True):
    """(images [N, 784] of train, valid and test; their labels; a text that names the source)."""
    cached, source, images = cache_folder() / "glyphs.cache", "newly drawn", None
    if cached.is_file():
        try:
            images, labels = map(torch.from_numpy, read_cache(cached, ["images", "labels"]))
            source = f"from {show(cached)}"
        except UserError as error:
            source = f"drawn again, since {error}"
    if images is None:
        images, labels = make()
        problem = write_cache(cached, images=images.numpy(), labels=labels.numpy())
        source += f"; {problem}" if problem else ""
    return images.split(SIZES), labels.long().split(SIZES), source
