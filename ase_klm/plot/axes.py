"""Axes to draw into."""

from typing import Any

from ase_klm.errors import KLMError


def axes(ax: Any, size: tuple[float, float] = (5.0, 4.2)) -> Any:
    """The given axes, or those of a new figure of this size (inches).

    Raises
    ------
    KLMError
        When `ax` is not a Matplotlib Axes.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(figsize=size, layout="constrained")[1]
    if not hasattr(ax, "add_collection"):
        raise KLMError(
            f"ax is a {type(ax).__name__}, not Matplotlib axes",
            "pictures are drawn into one Axes",
            "make it by fig, ax = plt.subplots(), or leave it out",
        )
    return ax
