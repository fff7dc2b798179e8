"""Models by name: a network, or a TOML file with the terms of an energy, which add up.

A file with all terms that there are:

    [exchange]                            # E = Σ e_i·M·e_j + Σ e_i·A_i·e_i - Σ f_i·e_i, every bond once, eV
    shells = {1 = -0.0045, 2 = -0.0004}   # by neighbour shell: a number, or a symmetric matrix of three rows
    bonds = [[0, 0, [1, 0, 0], 0.0, [0, 0, 0.0007]]]  # [i, j, cell of j, M], and D of D·(e_i × e_j) if there is one
    onsite = [[[0, 0, 0], [0, 0, 0], [0, 0, -0.0005]]]  # A, one matrix a site
    site_fields = [[0, 0, 0.001]]         # f

    [anisotropy]                          # E = -Σ K (e·n)², eV
    constant = 0.0005
    axis = [0, 0, 1]

    [zeeman]                              # E = -B·Σ m, eV/μB
    field = [0, 0, 1e-4]

    [kondo]                               # itinerant electrons, eV; keywords of KondoEDCalculator
    hopping = {1 = 1.0, 3 = -0.85}
    J = 1.0
    mu = -3.5                             # or filling
    temperature = 0.005
    kpts = [12, 12, 1]

    [network]
    model = "kondo-square"                # a packaged name, or a file of weights beside this one; of spins or of atoms
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_klm.cli.configuration import check_keys, read_toml, section_of
from ase_klm.errors import KLMError

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


def calculator_from(name: str, device: str = "cpu") -> "tuple[Calculator, dict[str, Any]]":
    """The calculator, in double precision, and what JSON keeps of it.

    Parameters
    ----------
    name : str
        A file of terms, ``.toml``; a packaged network; or a file of weights, ``.safetensors``: of spins, or of atoms
        and moments.

    Raises
    ------
    KLMError
        When there is no such file or network, a key is unknown, or a value cannot be used.
    """
    from ase_klm.calculators import SpinCalculator
    from ase_klm.cli.terms import TERMS, network, term

    if not name.endswith(".toml"):
        return SpinCalculator(network(Path(), name), device=device), {"network": name}
    path = Path(name)
    table = read_toml(path, "give a TOML file of terms; `ase-klm magnons -h` shows one")
    check_keys(table, TERMS, f"the sections of {path}")
    if not table:
        raise KLMError(f"{path} is empty", "a model has one term at least", "`ase-klm magnons -h` shows them all")
    terms = [term(section_of(table, key), key, path) for key in table]
    return SpinCalculator(sum(terms[1:], start=terms[0]), device=device), table
