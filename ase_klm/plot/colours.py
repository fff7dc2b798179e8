"""Colours of directions: the in-plane angle as hue, e_z as lightness.

Hue and lightness are those of the Oklab space (B. Ottosson, https://bottosson.github.io/posts/oklab), in which equal
steps look equal: +z is white, -z nearly black, and all in-plane directions are equally light.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ase_klm.validate import Array

DARKEST, IN_PLANE, LIGHTEST = 0.15, 0.7, 0.985
"""Oklab lightness of -z, of in-plane directions, and of +z."""
CHROMA = 0.24
"""Of in-plane directions before it is fitted into the colours that a screen has."""
HUE_OF_X = 0.5
"""Hue angle of +x, rad: red."""


def spin_colours(unit_vectors: ArrayLike) -> Array:
    """Colours of directions, shape (..., 3) → red, green, blue in 0...1, shape (..., 3)."""
    x, y, z = np.moveaxis(np.asarray(unit_vectors, dtype=np.float64), -1, 0)
    z = np.clip(z, -1, 1)
    lightness = IN_PLANE + (LIGHTEST - DARKEST) / 2 * z + ((LIGHTEST + DARKEST) / 2 - IN_PLANE) * z**2
    hue = np.arctan2(y, x) + HUE_OF_X
    chroma = CHROMA * np.sqrt(1 - z**2)
    low, high = np.zeros_like(chroma), np.ones_like(chroma)
    for _ in range(12):  # largest share of the chroma that the screen can show, by bisection
        middle = (low + high) / 2
        shown = _linear_rgb(lightness, middle * chroma, hue)
        fits = ((shown >= 0) & (shown <= 1)).all(axis=-1)
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    rgb = np.clip(_linear_rgb(lightness, low * chroma, hue), 0, 1)
    return np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * np.maximum(rgb, 1e-12) ** (1 / 2.4) - 0.055)


def _linear_rgb(lightness: Array, chroma: Array, hue: Array) -> Array:
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    return np.asarray((lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T)


_LAB_TO_LMS = np.array(
    [
        (1.0, 0.3963377774, 0.2158037573),
        (1.0, -0.1055613458, -0.0638541728),
        (1.0, -0.0894841775, -1.2914855480),
    ]
)
_LMS_TO_RGB = np.array(
    [
        (4.0767416621, -3.3077115913, 0.2309699292),
        (-1.2684380046, 2.6097574011, -0.3413193965),
        (-0.0041960863, -0.7034186147, 1.7076147010),
    ]
)


def colour_wheel(ax: Any, bounds: tuple[float, float, float, float], names: tuple[str, str] = ("x", "y")) -> Any:
    """Inset that maps the sphere onto a disc: +z in the centre, in-plane directions half-way, -z at the rim.

    Parameters
    ----------
    bounds : tuple
        Left, bottom, width and height of the inset as fractions of the axes.
    """
    inset = ax.inset_axes(bounds)
    n = 301
    x, y = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n))
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    theta = np.pi * np.clip(radius, 0, 1)
    directions = np.stack([np.sin(theta) * np.cos(angle), np.sin(theta) * np.sin(angle), np.cos(theta)], axis=-1)
    edge = np.clip((1 - radius) * n / 3, 0, 1)  # a soft rim
    inset.imshow(
        np.concatenate([spin_colours(directions), edge[..., None]], axis=-1), origin="lower", extent=(-1, 1, -1, 1)
    )
    inset.set(xlim=(-1.45, 1.45), ylim=(-1.45, 1.45), aspect="equal", anchor="NW")
    inset.axis("off")
    for place, text in (((1.24, 0), names[0]), ((0, 1.26), names[1]), ((0, 0), "+z"), ((0.9, -0.9), "-z")):
        inset.text(*place, f"${text}$", ha="center", va="center", fontsize="small" if len(text) == 1 else "x-small")
    return inset
