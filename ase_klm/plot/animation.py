"""Animated GIF of a trajectory of textures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_klm.analysis.planes import magnetic_plane
from ase_klm.data.frames import checked_path
from ase_klm.errors import KLMError
from ase_klm.plot.colours import spin_colours
from ase_klm.plot.texture import draw_arrows, in_plane_directions, texture
from ase_klm.plot.time_series import charges, read_frames, stored_energy
from ase_klm.validate import checked_number

DPI = 90


def animate(
    source: Any,
    path: str | Path,
    fps: float = 10.0,
    max_frames: int = 100,
    title: Callable[[Atoms], str] | None = None,
) -> Path:
    """Write the textures of a trajectory as an animated GIF that repeats for ever.

    Longer trajectories are thinned evenly to `max_frames`, the first and the last frame included, which keeps the file
    to a few megabytes.

    Parameters
    ----------
    source : str, Path, or sequence of frames
        A trajectory, or its frames: one planar lattice whose moments change.
    path : str or Path
        File to write, ending in ``.gif``.
    fps : float
        Frames a second.
    max_frames : int
        At most so many frames.
    title : callable, optional
        What stands above a frame. Default: the name of the file, time or step, energy a site and topological charge,
        as far as they are known.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    KLMError
        As :func:`texture`, and when the file is not named ``.gif``, or frames have different atoms.
    """
    import matplotlib.pyplot as plt
    from PIL import Image

    path = checked_path(path)
    if path.suffix.lower() != ".gif":
        raise KLMError(f"{path} is not named .gif", "an animated GIF is written", "give a name such as 'run.gif'")
    duration = round(1000 / checked_number(fps, "fps", "frames a second", minimum=0.01))
    if isinstance(max_frames, bool) or not isinstance(max_frames, int | np.integer) or max_frames < 1:
        raise KLMError(
            f"max_frames = {max_frames!r} is no number of frames", "it must be a positive integer", "use 100"
        )
    frames = read_frames(source)
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(max_frames, len(frames))).round().astype(int))
    headings = [
        _title(source, frames[number], int(number)) if title is None else title(frames[number]) for number in chosen
    ]
    ax = texture(frames[0])
    fig = ax.figure
    try:
        ax.set_title(headings[0], fontsize="medium")
        fig.set_dpi(DPI)
        for _ in range(2):  # the first layout does not know yet how wide the tick labels are
            fig.canvas.draw()
        fig.set_layout_engine("none")  # nothing moves from frame to frame
        background = _without(fig, [*ax.collections, ax.title])
        pictures = []
        for number, heading in zip(chosen, headings, strict=True):
            _repaint(ax, frames[0], frames[number])
            ax.title.set_text(heading)
            fig.canvas.restore_region(background)
            for artist in (*sorted(ax.collections, key=lambda one: one.get_zorder()), ax.title):
                ax.draw_artist(artist)
            pictures.append(Image.fromarray(np.asarray(fig.canvas.buffer_rgba())[..., :3].copy()))
    finally:
        plt.close(fig)
    palette = _palette(pictures)
    indexed = [_indexed(picture, palette) for picture in pictures]
    indexed[0].save(path, save_all=True, append_images=indexed[1:], duration=duration, loop=0, optimize=False)
    return path


def _without(fig: Any, artists: list[Any]) -> Any:
    """The picture without what changes from frame to frame: drawn once."""
    for artist in artists:
        artist.set_animated(True)
    fig.canvas.draw()
    return fig.canvas.copy_from_bbox(fig.bbox)


def _repaint(ax: Any, first: Atoms, atoms: Atoms) -> None:
    from matplotlib.quiver import Quiver

    plane, reference = magnetic_plane(atoms), magnetic_plane(first)
    if not np.array_equal(plane.sites, reference.sites):
        raise KLMError(
            "the frames do not show the same magnetic atoms",
            "an animation is one lattice whose moments change",
            "animate the frames of one run",
        )
    spins = in_plane_directions(atoms, plane)
    cells = ax.collections[0]
    cells.set_facecolor(spin_colours(spins))
    cells.set_edgecolor(spin_colours(spins))
    for collection in list(ax.collections):
        if isinstance(collection, Quiver):
            collection.remove()
    draw_arrows(ax, reference, spins)


def _title(source: Any, atoms: Atoms, number: int) -> str:
    known = [Path(source).stem] if isinstance(source, str | Path) else []
    for key, text in (("time", "t = {:.5g}"), ("step", "step {:.0f}")):
        if key in atoms.info:
            known.append(text.format(float(atoms.info[key])))
            break
    else:
        known.append(f"frame {number}")
    energy, charge = stored_energy(atoms), charges([atoms])
    if np.isfinite(energy):
        known.append(f"E/N = {energy:.5g} eV")
    if charge is not None:
        known.append(f"Q = {charge[0] + 0.0:.2f}")
    return ", ".join(known)


def _palette(pictures: list[Any]) -> Any:
    """Image whose palette serves a sample of all pictures, so that unchanged cells do not flicker."""
    from PIL import Image

    sample = pictures[:: max(1, len(pictures) // 8)]
    width, height = sample[0].size
    strip = Image.new("RGB", (width, height * len(sample)))
    for row, picture in enumerate(sample):
        strip.paste(picture, (0, row * height))
    found = strip.quantize(colors=255, method=Image.Quantize.MEDIANCUT)
    colours = np.full((256, 3), 255, dtype=int)  # the last one is the white of the background
    colours[:255] = np.array(found.getpalette()).reshape(-1, 3)[:255]
    found.putpalette(colours.ravel().tolist())
    return found


def _indexed(picture: Any, palette: Any) -> Any:
    from PIL import Image

    numbers = np.array(picture.quantize(palette=palette, dither=Image.Dither.NONE))
    numbers[(np.asarray(picture) == 255).all(axis=2)] = 255  # Pillow's search is approximate
    indexed = Image.fromarray(numbers)
    indexed.putpalette(palette.getpalette())
    return indexed
