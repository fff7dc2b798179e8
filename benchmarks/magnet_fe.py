"""MagNet beside a fitted Heisenberg model on paramagnetic bcc iron (16 atoms, 70 structures to train, 20 to judge).

    OMP_NUM_THREADS=1 python benchmarks/magnet_fe.py DATA.npz FOLDER

DATA.npz holds 90 non-collinear structures on a rigid lattice with energies and the part of magnetic forces across the
moments (VASP with constrained moments, from Magesty.jl, in the format of this package). Prints root mean square errors
on the same 20 structures of

    the mean       of energies; no magnetic forces
    Heisenberg     E = E₀ + Σ_bonds J_n e_i·e_j
    with lengths   E = E₀ + Σ_bonds J_n m_i·m_j + Σ_i (a m_i² + b m_i⁴)
    MagNet

the linear models fitted by least squares to the same 70 structures, energies and magnetic forces in units of their
spread as in the loss of MagNet. Nothing is chosen by the 20 but the step at which the weights of MagNet are taken. The
cutoff is 6 Å: the fifth shell, at 4.9 Å, carries half of the torques.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from ase_klm import data
from ase_klm.graphs import bonds_within
from ase_klm.models.magnet import MagNet
from ase_klm.moments import directions
from ase_klm.training import Loss, Modern, Trainer, split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path, help="for weights and curves")
    parser.add_argument("--epochs", type=int, default=100, help="of 18 steps (%(default)s)")
    parser.add_argument("--energy", type=float, default=0.5, help="weight of energies in the fits (%(default)s)")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the weights")
    options = parser.parse_args()

    frames = data.read(options.data, transverse_only=True)
    training, validation = split(frames, 20, options.seed)
    print("                 energy, meV/atom   magnetic force across the moment, meV/μB")
    for name, with_lengths in (("Heisenberg", False), ("with lengths", True)):
        print(f"  {name:14s} {_row(*_heisenberg(training, validation, options.energy, with_lengths))}")
    energies, fields = _labels(validation)
    print(f"  {'the mean':14s} {_row(energies - _labels(training)[0].mean(), fields)}")
    model = MagNet.seeded(options.seed, ("Fe",), cutoff=6.0, channels=options.channels, sent=4, spin_orbit=False)
    recipe = Modern(learning_rate=5e-3, batch=4, ema=0.99)
    loss = Loss(energy=options.energy, forces=0.0, magnetic_forces=0.0)
    length = {"epochs": options.epochs, "seed": options.seed}
    found = Trainer(model, training, validation, options.folder, recipe, loss, **length).run()
    print(f"  {'MagNet':14s} {1e3 * found.energy:12.3f} {1e3 * found.transverse:20.3f}")


def _labels(frames):
    """Energies, eV an atom, (frames,), and magnetic forces, eV/μB, (frames, N, 3)."""
    energies = np.array([frame.energy / len(frame.atoms) for frame in frames])
    return energies, np.array([frame.magnetic_forces for frame in frames])


def _row(energies, fields):
    return f"{1e3 * np.sqrt(np.mean(energies**2)):12.3f} {1e3 * np.sqrt(np.mean(fields**2)):20.3f}"


def _heisenberg(training, validation, weight, with_lengths):
    """Errors of the least-squares fit on the validation part, as in `_labels`."""
    rows = [_design(frame, with_lengths) for frame in training]
    energies, fields = _labels(training)
    units = energies.std() * np.sqrt(len(rows) / weight), np.sqrt(np.mean(fields**2)) * np.sqrt(fields.size)
    matrix = np.concatenate(
        [np.array([e for e, _ in rows]) / units[0], np.concatenate([f for _, f in rows]) / units[1]]
    )
    wanted = np.concatenate([energies / units[0], fields.ravel() / units[1]])
    strengths = np.linalg.lstsq(matrix, wanted, rcond=1e-10)[0]
    energies, fields = _labels(validation)
    rows = [_design(frame, with_lengths) for frame in validation]
    found = np.array([f @ strengths for _, f in rows]).reshape(fields.shape)
    return np.array([e @ strengths for e, _ in rows]) - energies, found - fields


def _design(frame, with_lengths):
    """Energy an atom and magnetic forces across the moments for unit strength of each term."""
    atoms, n = frame.atoms, len(frame.atoms)
    bonds = bonds_within(atoms, 5.1)  # five shells of bcc iron
    distance = np.linalg.norm(bonds.vectors, axis=1)
    shells = np.unique(distance.round(2))
    m = frame.moments
    length = np.linalg.norm(m, axis=1, keepdims=True)
    e, unit = directions(m), np.ones_like(length) if with_lengths else length
    spins = m if with_lengths else e
    terms, fields = [1.0], [np.zeros_like(m)]
    for shell in shells:
        chosen = distance.round(2) == shell
        neighbours = np.zeros((n, n))
        np.add.at(neighbours, (bonds.i[chosen], bonds.j[chosen]), 1.0)
        sums = (neighbours + neighbours.T) @ spins
        terms.append(0.5 * np.sum(spins * sums) / n)
        fields.append(-sums / unit)
    if with_lengths:
        terms += [np.mean(length**2), np.mean(length**4)]  # their forces are along the moments
        fields += [np.zeros_like(m)] * 2
    across = [f - np.sum(f * e, axis=1, keepdims=True) * e for f in fields]
    return np.array(terms), np.array(across).reshape(len(terms), -1).T


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
