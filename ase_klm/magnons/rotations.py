"""Uniform rotations of all moments: what they cost, and quadratic forms in which they cost nothing.

In an isotropic model H_0 Ψ = 0 for the deviations Ψ of a small rotation (Goldstone's theorem). Rounding, noise and a
finite supercell leave a residual, as for the acoustic sum rule of phonons.
"""

import numpy as np

from ase_klm.magnons.quadratic_form import QuadraticForm
from ase_klm.validate import Array


def deviations(form: QuadraticForm) -> np.ndarray:
    """Ψ = (a, a†) of rotations about the Cartesian axes, normalised, shape (3, 2, n); zero where none is possible."""
    m = form.moments[form.sites]
    turned = np.cross(np.eye(3)[:, None], m)  # n × m, (axis, site, 3)
    squares = np.sum(np.abs(form.amplitudes) ** 2, axis=1)
    a = np.einsum("sx,rsx->rs", form.amplitudes, turned) / squares
    psi = np.stack([a, a.conj()], axis=1)
    lengths = np.linalg.norm(psi, axis=(1, 2), keepdims=True)
    return np.where(lengths > 1e-9, psi / np.maximum(lengths, 1e-300), 0)


def rotation_residuals(form: QuadraticForm) -> Array:
    """abs(H_0 Ψ), eV, of rotations about x, y and z: zero where they cost no energy, shape (3,)."""
    psi = deviations(form).reshape(3, -1)
    return np.linalg.norm(psi @ form.at(np.zeros((1, 3)))[0].T, axis=1)


def sum_rule(form: QuadraticForm) -> QuadraticForm:
    """The form with the least changes of its on-site blocks for which rotations cost no energy.

    Blocks [[p, w], [w*, p]] with p real are asked for, three numbers a site. A state that is not collinear has three
    rotations, which they may satisfy in the sense of least squares only.
    """
    n = form.n_modes
    psi = deviations(form)
    residual = (psi.reshape(3, -1) @ form.at(np.zeros((1, 3)))[0].T).reshape(3, 2, n)[:, 0]
    a = psi[:, 0]  # p a + w a* = -residual, for Re p, Re w, Im w
    matrix = np.stack(
        [np.stack([a.real, a.real, a.imag], -1), np.stack([a.imag, -a.imag, a.real], -1)], axis=1
    )  # (rotation, part, site, unknown)
    right = -np.stack([residual.real, residual.imag], axis=1)
    inverse = np.linalg.pinv(matrix.transpose(2, 0, 1, 3).reshape(n, 6, 3), rcond=1e-6)
    p, re, im = np.einsum("sue,se->us", inverse, right.transpose(2, 0, 1).reshape(n, 6))
    return form.with_onsite(p, re + 1j * im)
