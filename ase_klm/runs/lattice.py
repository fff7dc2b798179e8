"""On which lattice the bonds of moving atoms are found: that of their calculator, or the structure at the start."""

from collections.abc import Callable

from ase import Atoms

from ase_klm.calculators import on_lattice
from ase_klm.potentials.base import Potential, terms_of
from ase_klm.potentials.foreign import potential_of
from ase_klm.supercells import checked_lattice, repetitions_of


def keep_lattice(atoms: Atoms, earlier: Callable[[], list[Atoms]] = list) -> str:
    """See to it that the bonds of these atoms stay while a tool moves them, and tell on which lattice they are.

    A calculator that counts shells on the structure it is given is replaced, on these atoms only, by a copy that counts
    them on the structure as it is now. So the atoms have the same energy for the tool and for everybody else.

    Parameters
    ----------
    earlier : callable
        Gives the lattices of the run that is continued; one that the calculator lacks is taken instead.

    Returns
    -------
    str
        A line for a log; empty where no bonds are kept.
    """
    potential = potential_of(atoms)
    own = lattices_of(potential)
    taken = "the calculator's"
    if potential.counts_shells:
        missing = [
            lattice for lattice in earlier() if lattice not in own and repetitions_of(lattice, atoms) is not None
        ]
        if not missing:
            potential.bind(atoms)  # refuses shells that are ambiguous
        taken = "of the restart file" if missing else "the structure at the start"
        atoms.calc = on_lattice(atoms.calc, missing[0] if missing else checked_lattice(atoms))
        own = lattices_of(potential_of(atoms))
    if not own:
        return ""
    return f"bonds are found on {' and '.join(lattice.get_chemical_formula() for lattice in own)}, {taken}"


def lattices_of(potential: Potential) -> list[Atoms]:
    """The different lattices on which terms find their bonds."""
    found: list[Atoms] = []
    for term in terms_of(potential):
        lattice = getattr(term, "lattice", None) if term.uses_lattice else None
        if lattice is not None and lattice not in found:
            found.append(lattice)
    return found
