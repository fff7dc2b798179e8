"""The potential of any trained network: what kind it is, its file says."""

from pathlib import Path

from ase_klm.models.atomic import AtomicNetwork
from ase_klm.models.files import load
from ase_klm.models.trained import TrainedNetwork
from ase_klm.potentials.atomistic import Atomistic
from ase_klm.potentials.base import Potential
from ase_klm.potentials.network import Network


def network_potential(model: str | Path | TrainedNetwork, dtype: str | None = None) -> Potential:
    """A network as a potential: `Network` for spins on a lattice, `Atomistic` for atoms and moments.

    Parameters
    ----------
    model : str, Path or network
        A packaged name, a ``.safetensors`` file, or a network; see `models.load`.
    dtype : str, optional
        "float32" or "float64"; default that of the weights.

    Raises
    ------
    KLMError
        As `models.load`.
    """
    network = load(model)
    if isinstance(network, AtomicNetwork):
        return Atomistic(network, dtype=dtype)
    return Network(network, dtype=dtype)
