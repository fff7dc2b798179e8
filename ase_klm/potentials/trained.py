"""The potential of any trained network: what kind it is, its file says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase_klm.errors import KLMError
from ase_klm.models.atomic import AtomicNetwork
from ase_klm.models.files import load
from ase_klm.models.trained import TrainedNetwork
from ase_klm.potentials.atomistic import Atomistic
from ase_klm.potentials.base import Potential
from ase_klm.potentials.network import Network


def network_potential(
    model: str | Path | TrainedNetwork,
    dtype: str | None = None,
    compile: bool = False,  # noqa: A002, the name that torch gives it
    hamiltonian: Mapping[str, Any] | None = None,
) -> Potential:
    """A network as a potential: `Network` for spins on a lattice, `Atomistic` for atoms and moments.

    Parameters
    ----------
    model : str, Path or network
        A packaged name, a ``.safetensors`` file, or a network; see `models.load`.
    dtype : str, optional
        "float32" or "float64"; default that of the weights.
    compile : bool
        Whether torch compiles the network.
    hamiltonian : mapping, optional
        Other values of the parameters that a network of spins knows.

    Raises
    ------
    KLMError
        As `models.load`, and when a network does not know a parameter.
    """
    network = load(model)
    if isinstance(network, AtomicNetwork):
        if hamiltonian:
            raise KLMError(
                f"this network does not know {', '.join(hamiltonian)}",
                "it is one of atoms and moments, and takes nothing but these",
                "leave them out",
            )
        return Atomistic(network, dtype=dtype, compile=compile)
    return Network(network, hamiltonian, dtype=dtype, compile=compile)
