"""By what networks are judged: errors on labelled structures, made from the terms that losses are made of."""

import math
from dataclasses import dataclass

from ase_klm.training.terms import TERMS, root_mean_square
from ase_klm.training.values import Values
from ase_klm.vectors import transverse

REPORTED = tuple(term for term in TERMS if term.name != "electrons")
"""What errors are told of."""

UNITS = {term.name: term.unit for term in REPORTED} | {"correlation": ""}


@dataclass(frozen=True)
class Errors:
    """Root mean square errors of a network on labelled structures, a component.

    Each is an attribute, NaN where no labels are known: `energy` (of E/N, eV/atom), `forces` (eV/Å), `stress` (eV/Å³),
    `magnetic_forces` (eV/μB, over atoms whose whole magnetic force is known), `transverse` and `longitudinal` (of its
    part across the moment, which is what turns it, and along it), and `correlation` (Pearson's coefficient of predicted
    and labelled components across the moment).

    Attributes
    ----------
    numbers : dict
        Those of which labels are known, by name.
    """

    numbers: dict[str, float]

    def __getattr__(self, name: str) -> float:
        if name in UNITS:
            return self.numbers.get(name, math.nan)
        raise AttributeError(f"errors of networks have no {name!r}; they are {', '.join(UNITS)}")

    @property
    def watched(self) -> dict[str, float]:
        """Those that a progress bar shows."""
        return {name: value for name, value in self.numbers.items() if name not in ("longitudinal", "correlation")}

    @property
    def note(self) -> str:
        """What a card says of units."""
        told = [f"{_words(name)} {UNITS[name]}" for name in self.numbers if UNITS[name]]
        return f"{', '.join(told)}; root mean square, of a component"

    @property
    def report(self) -> str:
        """A line for each."""
        lines = []
        for name, value in self.numbers.items():
            unit = UNITS[name]
            lines.append(f"  {_words(name):<16} " + (f"{value:.3e} {unit}" if unit else f"{value:.5f}"))
        return "\n".join(lines)

    def __str__(self) -> str:
        told = [
            f"{_words(name)} {1e3 * value:.4g} m{UNITS[name]}" if UNITS[name] else f"{_words(name)} {value:.5f}"
            for name, value in self.numbers.items()
        ]
        return ", ".join(told)


def errors_of(predicted: Values, labels: Values) -> Errors:
    """Errors of predictions, over all labels that are known, in double precision."""
    predicted, labels = predicted.double(), labels.double()
    found = {}
    for term in REPORTED:
        known = term.fully_known(labels)
        if bool(known.any()):
            found[term.name] = root_mean_square(term.error(predicted, labels)[0], known)
    if "transverse" in found:
        found["correlation"] = _correlation(predicted, labels)
    return Errors(found)


def _correlation(predicted: Values, labels: Values) -> float:
    known = labels.magnetic_forces.isfinite().all(-1)
    parts = (transverse(values.magnetic_forces, labels.directions)[known] for values in (predicted, labels))
    x, y = (part - part.mean() for part in parts)
    spread = float(x.norm() * y.norm())
    return float((x * y).sum()) / spread if spread > 0 else 0.0


def _words(name: str) -> str:
    return name.replace("_", " ")
