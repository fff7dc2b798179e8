"""Force calls of SpinMinimizer on Spirit's 96×96 skyrmion, beside Spirit 2.2.0's methods (its figures are quoted).

python benchmarks/minimizer.py
"""

import time

from llg_accuracy import chiral_magnet

from ase_klm import SpinMinimizer, analysis, textures

SPIRIT = {"LBFGS_OSO": 108, "LBFGS_Atlas": 180, "VP_OSO": 594, "VP": 884}
SPIRIT_ENERGY = -21.07345581  # meV a site


def main():
    for helicity in (0, 90):
        atoms = chiral_magnet(96)
        textures.skyrmion(atoms, radius=8, helicity=helicity, length=2.0)
        minimizer = SpinMinimizer(atoms)
        start = time.perf_counter()
        converged = minimizer.run(fmax=1e-9, steps=300)
        seconds, ratio = time.perf_counter() - start, minimizer.force_calls / SPIRIT["LBFGS_OSO"]
        print(
            f"helicity {helicity:2d}°: converged {converged}, {minimizer.force_calls} force calls "
            f"({ratio:.2f} of Spirit's best), {seconds:.2f} s, "
            f"{minimizer.energy / len(atoms) * 1e3:.8f} meV a site (Spirit {SPIRIT_ENERGY}), "
            f"charge {analysis.topological_charge(atoms):.3f}"
        )
    print("Spirit: " + ", ".join(f"{method} {calls}" for method, calls in SPIRIT.items()))


if __name__ == "__main__":
    main()
