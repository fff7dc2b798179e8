"""KondoEDCalculator on the 100 published labels of the 30×30 square Kondo lattice (see shared/data/README.md).

    python benchmarks/kondo_labels.py ../shared/data/kondo_square_30x30/train.npz

Prints the deviations of energies and fields over all configurations, and those of the configuration that deviates most
together with the deviation of an independent solver (NumPy's) from ours there. Three minutes on two cores.
"""

import sys

import numpy as np

from ase_klm import KondoEDCalculator, get_magnetic_forces, lattices, set_moments


def main():
    data = np.load(sys.argv[1])
    atoms = lattices.square((30, 30))
    atoms.calc = KondoEDCalculator(hopping={1: 1.0}, J=7.0, filling=0.48)
    energy, largest, rms, gap = [], [], [], []
    for spins, label, field in zip(data["spins"], data["energy"], data["field"], strict=True):
        set_moments(atoms, spins.reshape(-1, 3))
        energy.append(abs(atoms.get_potential_energy() - label) / 900)
        deviation = get_magnetic_forces(atoms) - field.reshape(-1, 3)
        largest.append(np.abs(deviation).max())
        rms.append(np.sqrt(np.mean(deviation**2)))
        gap.append(atoms.calc.results["gap"])
    worst = int(np.argmax(largest))
    print(f"energy a site: largest deviation {max(energy):.1e} eV")
    print(
        f"field: rms deviation {np.sqrt(np.mean(np.square(rms))):.1e}, largest of a component {max(largest):.2e} eV/μB"
    )
    print(f"configurations with a component beyond 2e-5: {np.flatnonzero(np.array(largest) > 2e-5).tolist()}")
    print(
        f"the worst is number {worst}: rms {rms[worst]:.1e}, gap {gap[worst]:.1e} eV (median {np.median(gap):.1e} eV)"
    )
    set_moments(atoms, data["spins"][worst].reshape(-1, 3))
    kondo = atoms.calc.bound(atoms).terms[0]
    H = kondo.hamiltonian(kondo.tensor(data["spins"][worst].reshape(-1, 3)), kondo.positions, kondo.cell)[0].numpy()
    for dtype in (np.complex128, np.complex64):
        states = np.linalg.eigh(H.astype(dtype))[1][:, :864].reshape(900, 2, -1).astype(complex)
        density = np.einsum("isn,itn->ist", states, states.conj())
        field = 3.5 * np.stack(
            [2 * density[:, 0, 1].real, -2 * density[:, 0, 1].imag, (density[:, 0, 0] - density[:, 1, 1]).real], axis=1
        )
        error = np.abs(field - get_magnetic_forces(atoms)).max()
        print(f"there NumPy's eigh in {np.dtype(dtype).name} differs from ours by {error:.1e}")


if __name__ == "__main__":
    main()
