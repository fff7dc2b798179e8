"""Occupation of single-electron levels, and the thermodynamic potential whose exact gradient the forces are.

Fixed chemical potential μ:  Ω = -kT Σ ln(1 + e^{-(ε-μ)/kT}), at T = 0 Σ_{ε<μ} (ε - μ).
Fixed number of electrons n: F = E - TS = Ω + μ n.
All sums are averages over k-points, so that they belong to one cell.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from ase_klm.errors import KLMError, warn

NEGLIGIBLE = 40.0
"""Levels this many kT above μ are empty: e^-40 = 4e-18."""


@dataclass(frozen=True)
class Occupation:
    """How levels are filled: exactly one of `filling` and `mu`, at a temperature kT (eV).

    Raises
    ------
    KLMError
        When neither or both are given, or a value is out of range.
    """

    filling: float | None = None
    mu: float | None = None
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if (self.filling is None) == (self.mu is None):
            given = "neither of filling and mu is" if self.mu is None else "both filling and mu are"
            raise KLMError(
                f"{given} given",
                "the number of electrons follows from exactly one of them",
                "give filling=0.5 (electrons per state, 0 to 1) or mu=-3.5 (eV)",
            )
        for name in ("filling", "mu", "temperature"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, float | int | np.number) and np.isfinite(value)):
                raise KLMError(f"{name} = {value!r} is not a number", "it must be finite", f"give a number for {name}")
        if self.filling is not None and not 0 <= self.filling <= 1:
            raise KLMError(
                f"filling = {self.filling} is outside 0 to 1",
                "it counts electrons per state, and a site has two states",
                "divide the electrons per site by two",
            )
        if self.temperature is None or self.temperature < 0:
            raise KLMError(
                f"temperature = {self.temperature} is " + ("missing" if self.temperature is None else "negative"),
                "the electronic temperature is kT in eV",
                "use 0 for a hard step, or a positive kT",
            )

    def fill(self, levels: Tensor) -> "FilledLevels":
        """Fill levels of shape (..., N_k, n), eV."""
        flat = levels.flatten(-2)  # (..., level)
        n_k, total = levels.shape[-2], flat.shape[-1]
        ordered = flat.sort(dim=-1).values
        tolerance = 300 * torch.finfo(flat.dtype).eps * (1 + ordered.abs().amax().item())
        flat, ordered = flat.double(), ordered.double()
        if self.filling is not None:
            electrons = round(self.filling * total)
            mu = self._chemical_potential(ordered, electrons)
        else:
            electrons = None
            mu = torch.full(flat.shape[:-1], float(self.mu), dtype=flat.dtype, device=flat.device)  # type: ignore[arg-type]
        distance = flat - mu[..., None]
        if self.temperature > 0:
            f = torch.sigmoid(-distance / self.temperature)
            grand = -self.temperature * torch.nn.functional.softplus(-distance / self.temperature).sum(-1)
            entropy = torch.special.entr(f).sum(-1) + torch.special.entr(1 - f).sum(-1)
        else:
            f = self._step(ordered, distance, electrons, tolerance)
            grand = (f * distance).sum(-1)
            entropy = torch.zeros_like(mu)
        number = f.sum(-1) if electrons is None else torch.full_like(mu, electrons)
        energy = grand if electrons is None else grand + mu * number
        below = (ordered <= mu[..., None] + tolerance).sum(-1) if electrons is None else number.long()
        return FilledLevels(
            occupations=f.unflatten(-1, levels.shape[-2:]),
            energy=energy / n_k,
            chemical_potential=mu,
            number_of_electrons=number / n_k,
            entropy=entropy / n_k,
            band_energy=(f * flat).sum(-1) / n_k,
            gap=_gap(ordered, below),
        )

    def _chemical_potential(self, ordered: Tensor, electrons: int) -> Tensor:
        """Inside the gap at T = 0, else where the Fermi functions add up to the electrons."""
        total = ordered.shape[-1]
        highest = ordered[..., max(electrons - 1, 0)]
        lowest = ordered[..., min(electrons, total - 1)]
        middle = (highest + lowest) / 2
        if self.temperature == 0 or electrons in (0, total):
            if electrons in (0, total):  # nothing or everything filled: any mu beyond the band
                shift = NEGLIGIBLE * self.temperature + 1e-9
                return middle + (shift if electrons else -shift)
            return middle
        kT = self.temperature
        mus = []
        for levels in ordered.reshape(-1, total).cpu().numpy():
            low, high = levels[0] - NEGLIGIBLE * kT, levels[-1] + NEGLIGIBLE * kT

            def excess(mu: float, levels: np.ndarray = levels) -> float:
                with np.errstate(over="ignore"):  # at tiny kT
                    x = np.clip((levels - mu) / kT, -700, 700)
                return float(np.sum(1 / (1 + np.exp(x)))) - electrons

            mus.append(brentq(excess, low, high, xtol=1e-15, rtol=4 * np.finfo(float).eps, maxiter=500))
        return torch.tensor(mus, dtype=ordered.dtype, device=ordered.device).reshape(ordered.shape[:-1])

    def _step(self, ordered: Tensor, distance: Tensor, electrons: int | None, tolerance: float) -> Tensor:
        """Hard step; a degenerate shell at the step shares its electrons equally, and that is reported."""
        if electrons in (0, ordered.shape[-1]):
            return torch.full_like(distance, float(electrons != 0))
        at_step = distance.abs() <= tolerance
        f = ((distance < 0) & ~at_step).to(distance.dtype)
        shell = at_step.sum(-1, keepdim=True)
        if not shell.any():
            return f
        share = 0.5 if electrons is None else (electrons - f.sum(-1, keepdim=True)) / shell.clamp_min(1)
        warn(
            "the highest occupied level is degenerate with the lowest empty one at T = 0",
            f"up to {int(shell.max())} levels lie within {tolerance:.0e} eV of the step, so that the energy has a kink"
            " and the forces, averaged over the shell, are not its gradient",
            "use temperature > 0 (kT in eV), another filling or mu, or another k-mesh",
        )
        return torch.where(at_step, share, f)


@dataclass(frozen=True)
class FilledLevels:
    """Result of filling levels, per cell; leading axes are replicas.

    Attributes
    ----------
    occupations : Tensor
        f, shape (..., N_k, n).
    energy : Tensor
        Ω, or F = E - TS at fixed number of electrons, eV.
    chemical_potential, band_energy : Tensor
        μ (the middle of the gap at T = 0 and fixed filling) and Σ f ε, eV.
    number_of_electrons, entropy : Tensor
        Σ f, and S in units of k.
    gap : Tensor
        Distance of the levels on either side of the step, eV; NaN when there are none on one side.
    """

    occupations: Tensor
    energy: Tensor
    chemical_potential: Tensor
    number_of_electrons: Tensor
    entropy: Tensor
    band_energy: Tensor
    gap: Tensor

    @property
    def n_occupied(self) -> Tensor:
        """Number of levels that are not empty, for each k-point (energies ascending), shape (..., N_k)."""
        return (self.occupations > np.exp(-NEGLIGIBLE)).sum(-1)


def _gap(ordered: Tensor, below: Tensor) -> Tensor:
    total = ordered.shape[-1]
    highest = ordered.gather(-1, (below - 1).clamp(0, total - 1)[..., None])[..., 0]
    lowest = ordered.gather(-1, below.clamp(0, total - 1)[..., None])[..., 0]
    inside = (below > 0) & (below < total)
    return torch.where(inside, lowest - highest, torch.nan)
