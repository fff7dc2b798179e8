"""Readers: files in the layout of each code, written here; and real output of shared/data/dft_outputs, where it is."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write as ase_write
from ase.units import Bohr
from conftest import REFERENCE_DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bad_input import attempt, quick

from ase_klm import KLMError, KLMWarning, data
from ase_klm.cli import main
from ase_klm.data import readers

OUTPUTS = REFERENCE_DATA / "dft_outputs"


def output(name):
    path = OUTPUTS / name
    if not path.exists():
        pytest.skip(f"reference data {path} is not on this machine")
    return path


def row(*numbers):
    return " ".join(f"{number:18.10f}" for number in numbers)


# Extended xyz --------------------------------------------------------------------------------------------------------

MOMENTS = ["magmoms", "REF_magmom", "dft_magmom", "spin", "spins", "magnetic_moment", "magnetic_moments"]
FIELDS = ["magnetic_force", "magnetic_forces", "REF_magforces", "force_mag", "mag_forces", "mforce", "spin_forces",
          "effective_field"]  # fmt: skip


def xyz(path, columns, comment="", frames=1):
    """Two iron atoms; `columns` gives the vectors of the first atom, the second has their negatives."""
    properties = ":".join(["species:S:1:pos:R:3", *(f"{name}:R:3" for name in columns)])
    header = f'2\nLattice="3 0 0 0 3 0 0 0 3" Properties={properties} pbc="T T T" {comment}\n'
    numbers = [sign * np.concatenate(list(columns.values())) for sign in (1, -1)]
    text = "".join(f"Fe {x} {x} {x} {row(*values)}\n" for x, values in zip((0, 1.5), numbers, strict=True))
    path.write_text((header + text) * frames)
    return path


@pytest.mark.parametrize("name", MOMENTS)
def test_names_of_moments(tmp_path, name):
    (frame,) = frames = data.read(xyz(tmp_path / "set.extxyz", {name: [0, 1, 2.0]}))
    assert frame.moments.tolist() == [[0, 1, 2], [0, -1, -2]]
    assert name in frames.about.moments
    assert name in frame.atoms.info["source"]


@pytest.mark.parametrize("name", FIELDS)
def test_names_of_magnetic_forces(tmp_path, name):
    path = xyz(tmp_path / "set.xyz", {"initial_magmoms": [0, 0, 2], name: [0, 0.5, 0]})
    (frame,) = frames = data.read(path)
    assert frame.magnetic_forces.tolist() == [[0, 0.5, 0], [0, -0.5, 0]]
    if name != "magnetic_forces":
        assert "-∂E/∂m" in frames.about.magnetic_forces


@pytest.mark.parametrize("energy", ["energy", "REF_energy", "dft_energy"])
@pytest.mark.parametrize("forces", ["forces", "REF_forces", "force"])
def test_names_of_energies_and_forces(tmp_path, energy, forces):
    path = xyz(tmp_path / "set.xyz", {"magmoms": [0, 0, 2], forces: [0.1, 0, 0]}, f"{energy}=-3.5")
    (frame,) = data.read(path)
    assert frame.energy == -3.5
    assert frame.forces.tolist() == [[0.1, 0, 0], [-0.1, 0, 0]]
    data.write(tmp_path / "again.extxyz", frame)  # in our names, and only in them
    assert "initial_magmoms:R:3" in (tmp_path / "again.extxyz").read_text()
    (again,) = data.read(tmp_path / "again.extxyz")
    assert (again.energy, again.forces.tolist()) == (frame.energy, frame.forces.tolist())
    assert again.atoms.info["source"] == frame.atoms.info["source"]


def test_names_that_disagree(tmp_path):
    path = xyz(tmp_path / "set.xyz", {"magmoms": [0, 0, 2], "REF_magmom": [0, 0, 1]})
    with pytest.raises(KLMError, match="magmoms and REF_magmom are both there, and differ"):
        data.read(path)
    path = xyz(tmp_path / "set.xyz", {"magmoms": [0, 0, 2], "REF_magmom": [0, 0, 2]})
    assert data.read(path)[0].moments[0].tolist() == [0, 0, 2]


def test_labels_with_holes(tmp_path):
    path = xyz(tmp_path / "set.xyz", {"magmoms": [0, 0, 2], "mforce": [np.nan, 0, 0]})
    with pytest.raises(KLMError, match="mforce holds NaN"):
        data.read(path)
    path = xyz(tmp_path / "set.xyz", {"initial_magmoms": [0, 0, 2], "magnetic_forces": [np.nan, 0, 0]})
    with pytest.raises(KLMError, match=r"magnetic_forces of frame 0 .* hold NaN"):
        data.read(path)
    columns = {"magmoms": [0, 0, 2], "mforce": [np.nan] * 3, "forces": [np.nan] * 3}
    (frame,) = data.read(xyz(tmp_path / "set.xyz", columns, "energy=nan"))
    assert (frame.energy, frame.forces, frame.magnetic_forces) == (None,) * 3


# DeePMD-kit ----------------------------------------------------------------------------------------------------------


def deepmd(folder, sets=2, **leave):
    """Two frames a set of Fe O Fe."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True)
    (folder / "type.raw").write_text("0\n1\n0\n")
    (folder / "type_map.raw").write_text("Fe\nO\n")
    for number in range(sets):
        place = folder / f"set.{number:03d}"
        place.mkdir()
        arrays = {name: rng.normal(size=(2, 9)) for name in ("coord", "force", "force_mag", "spin")}
        arrays |= {"box": np.tile(4 * np.eye(3).ravel(), (2, 1)), "energy": rng.normal(size=2)} | leave
        for name, values in arrays.items():
            if values is not None:
                np.save(place / f"{name}.npy", values)
    return folder


def test_deepmd(tmp_path):
    path = deepmd(tmp_path / "Fe2O")
    frames = data.read(path)
    assert len(frames) == 4
    assert frames[0].atoms.get_chemical_formula() == "Fe2O"
    assert frames[0].atoms.symbols[1] == "O"
    assert frames.about.format == "deepmd"
    folder = path / "set.001"
    for name, value in (("coord", frames[3].atoms.positions), ("spin", frames[3].moments),
                        ("force_mag", frames[3].magnetic_forces), ("force", frames[3].forces)):  # fmt: skip
        assert np.array_equal(np.load(folder / f"{name}.npy")[1].reshape(3, 3), value)
    assert frames[3].energy == np.load(folder / "energy.npy")[1]
    deepmd(tmp_path / "other", sets=1)
    assert len(data.read(tmp_path)) == 6  # a folder above several


def test_deepmd_of_mixed_types(tmp_path):
    kinds = np.array([[0, 1, 0], [1, 0, -1]])
    path = deepmd(tmp_path / "mixed", sets=1, real_atom_types=kinds, energy=None, force_mag=None)
    first, second = data.read(path)
    assert first.atoms.numbers.tolist() == [26, 8, 26]
    assert second.atoms.numbers.tolist() == [8, 26]
    assert (second.energy, second.magnetic_forces) == (None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / "type_map.raw").unlink(), "no type_map.raw"),
        (lambda path: (path / "type.raw").write_text("0\n1\n2\n"), "other types"),
        (lambda path: (path / "type.raw").write_text("0\n1\n"), "shape"),
        (lambda path: (path / "set.000" / "spin.npy").unlink(), "cannot be read"),
        (lambda path: (path / "set.000" / "box.npy").unlink(), "no box.npy"),
        (lambda path: (path / "set.001" / "energy.npy").write_bytes(b"\x93NUMPY"), "cannot be read"),
        (lambda path: np.save(path / "set.000" / "force_mag.npy", np.full((2, 9), np.nan)), "NaN"),
    ],
)
def test_damaged_deepmd(tmp_path, change, message):
    path = deepmd(tmp_path / "system")
    change(path)
    with pytest.raises(KLMError, match=message):
        data.read(path)


def test_deepmd_as_text(tmp_path):
    """What `raw_to_set.sh` has not been run on is named, not "no format known"."""
    for name in ("type", "type_map", "box", "coord", "spin"):
        (tmp_path / f"{name}.raw").write_text("0\n")
    with pytest.raises(KLMError, match=r"as text(.|\n)*raw_to_set"):
        data.read(tmp_path)


@pytest.mark.parametrize(
    ("energy", "dtype", "told"),
    [(-54546.234016, "f4", True), (-54546.234016, "f8", False), (-30.25, "f4", False), (-540, "i8", False)],
)
def test_energies_in_single_precision(tmp_path, recwarn, energy, dtype, told):
    """Seven digits of a total energy with core electrons end before the labels begin."""
    path = deepmd(tmp_path / "system", sets=1, energy=np.full(2, energy, dtype))
    assert data.read(path)[0].energy == pytest.approx(energy, abs=4e-3)
    assert [str(w.message).splitlines()[0].endswith("is known to 0.0039 eV only") for w in recwarn] == [True] * told


# VASP 6 with DeltaSpin -----------------------------------------------------------------------------------------------


def outcar6(steps=({},), n_atoms=2):
    text = " vasp.6.6.0 complex\n POTCAR:    PAW_PBE Fe_pv 06Sep2000\n POTCAR:    PAW_PBE O 06Sep2000\n"
    text += f"   ions per type =               1   {n_atoms - 1}\n DeltaSpin constraint setup\n"
    text += "   Moment definition : DEF0 - PAW projector moment (LORBIT=11)\n"
    for number, step in enumerate(steps):
        settings = {"scf": "reached", "constraint": "reached", "convention": "L=E+lambda.(M-M_target)"} | step
        table = "   ion elem cx cy cz    {0}x   {0}y  {0}z\n-----------\n     1  Fe  1  1  1 {1}\n\n"
        text += (
            f"---- Ionic step {number + 1} ----\n"
            f" DeltaSpin final status\n SCF convergence        : {settings['scf']}\n"
            f" Moment constraint      : {settings['constraint']}\n\n"
            + table.format("M", row(0.1, 0, 2.5))
            + " Magnetic force (eV/uB)\n"
            + table.format("MF", row(0.01, 0, -0.02 - number))
            + f" magnetic force = spin_lambda for {settings['convention']}\n"
            "      direct lattice vectors                 reciprocal lattice vectors\n"
            + "".join(row(*line, *(line / 16)) + "\n" for line in 4 * np.eye(3))
            + " POSITION                                       TOTAL-FORCE (eV/Angst)\n -------\n"
            + row(0, 0, 0, 0.3, 0, -0.1) + "\n" + row(2, 2, 2, -0.3, 0, 0.1) + "\n -------\n"
            f"  free  energy   TOTEN  =       {-12.25 - number} eV\n"
        )  # fmt: skip
    return text


def test_vasp6_deltaspin(tmp_path):
    path = tmp_path / "OUTCAR"
    path.write_text(outcar6([{}, {"constraint": "NOT reached"}, {"scf": "not reached"}, {}]))
    with pytest.warns(KLMWarning, match="2 of 4 frames are left out"):
        frames = data.read(path)
    assert len(frames) == 2
    assert frames.about.number_dropped == 2
    assert list(frames.about.dropped.values()) == [1, 1]
    assert "DEF0" in frames.about.moments
    first, last = frames
    assert first.atoms.symbols.get_chemical_formula() == "FeO"
    assert first.moments.tolist() == [[0.1, 0, 2.5], [0, 0, 0]]
    assert last.magnetic_forces.tolist() == [[0.01, 0, -3.02], [0, 0, 0]]  # as printed: L = E + λ·(M - M_target)
    assert first.forces.tolist() == [[0.3, 0, -0.1], [-0.3, 0, 0.1]]
    assert (first.energy, last.energy) == (-12.25, -15.25)
    assert first.atoms.cell.lengths().tolist() == [4, 4, 4]
    assert not first.transverse_only
    with pytest.warns(KLMWarning):
        assert len(data.read(tmp_path)) == 2  # the folder


def test_vasp6_deltaspin_of_another_convention(tmp_path):
    (tmp_path / "OUTCAR").write_text(outcar6([{"convention": "L=E-lambda.(M-M_target)"}]))
    with pytest.raises(KLMError, match="another convention"):
        data.read(tmp_path / "OUTCAR")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (outcar6([{"constraint": "not reached"}]), "no usable frame"),
        (outcar6().replace("POTCAR", "POT"), "which atoms"),
        (outcar6()[:900], "no usable frame"),
        ("nothing of the kind\n", "in no format known"),
        ("", "in no format known"),
    ],
)
def test_damaged_vasp6_deltaspin(tmp_path, text, message):
    (tmp_path / "OUTCAR").write_text(text)
    with pytest.raises(KLMError, match=message):
        data.read(tmp_path / "OUTCAR")


def test_real_vasp6_deltaspin():
    (frame,) = data.read(output("vasp6_deltaspin_OUTCAR"))
    assert frame.atoms.get_chemical_formula() == "Fe2"
    assert frame.energy == pytest.approx(-14.386334256146520)
    assert frame.moments[1] == pytest.approx([-0.3500000098, 0, 2.6770000828], abs=1e-12)
    assert frame.magnetic_forces[0] == pytest.approx([0.0072761923, 0.0000003343, 0.0518581897], abs=1e-12)
    assert frame.forces[0] == pytest.approx([0.018706, -0.016027, -0.005289])
    assert frame.atoms.cell.lengths() == pytest.approx([2.87] * 3)


# VASP 5 with DeltaSpin -----------------------------------------------------------------------------------------------


def log5(frames=({},)):
    text = ""
    for number, frame in enumerate(frames):
        end = "Meet convergence criterion ( < 1.000E-06 ), exit.\n" if frame.get("met", True) else ""
        moments = [0, 0.6, 0.8 + number, 0.001, 0.002, 0]
        text += f"Step (Outer -- Inner) =  9 -- 6   RMS = 1E-7\n{end} Inner optimization for lambda ends.\n"
        text += (
            f"DAV:  40  -0.1\nRMS:\n2E-04\nEnergy:\n{-7.5 - number}\nCartesian Coordinates:\n{row(0, 0, 0, 2, 2, 6)}\n"
        )
        text += f"Magnetization:\n{row(*moments)}\nMagnetization Difference from Target:\n{row(*[0] * 6)}\n"
        text += f"Atomic Force:\n{row(0.1, 0, 0, -0.1, 0, 0)}\n"
        text += f"Magnetic Force:\n{row(0.01, 0.02, 0.03, 0, 0, 0)}\nTime Cost:\n0 DAYS\n"
    return text


@pytest.fixture
def nickel_oxide(tmp_path):
    atoms = Atoms("NiO", [(0, 0, 0), (2, 2, 2)], cell=[4, 4, 4], pbc=True)
    ase_write(tmp_path / "POSCAR", atoms, format="vasp")
    return atoms


def test_vasp5_deltaspin(tmp_path, nickel_oxide):
    path = tmp_path / "log"
    path.write_text(log5([{}, {"met": False}, {}]))
    with pytest.warns(KLMWarning, match="1 of 3 frames"):
        first, last = frames = data.read(path)
    assert first.atoms.numbers.tolist() == [28, 8]
    assert last.moments.tolist() == [[0, 0.6, 2.8], [0, 0, 0]]  # what is induced on oxygen is left out
    assert first.magnetic_forces.tolist() == [[0.01, 0.02, 0.03], [0, 0, 0]]
    assert first.forces[0].tolist() == [0.1, 0, 0]
    assert last.energy == -9.5
    assert "-λ = -∂E/∂m" in frames.about.magnetic_forces


def test_vasp5_deltaspin_needs_its_structure(tmp_path, nickel_oxide):
    path = tmp_path / "log"
    path.write_text(log5())
    far = nickel_oxide.copy()
    far.positions[1] = 0.5
    for structure, message in (
        (far, "Å from those of the structure"),
        (nickel_oxide.repeat(2), "16 atoms"),
        (tmp_path / "nowhere", "cannot be read"),
        (3, "not Atoms"),
    ):
        with pytest.raises(KLMError, match=message):
            data.read(path, structure=structure)
    (tmp_path / "POSCAR").unlink()
    with pytest.raises(KLMError, match="does not say which atoms"):
        data.read(path)
    assert data.read(path, structure=nickel_oxide)[0].energy == -7.5


@pytest.mark.parametrize("cut", ["Time Cost", "Atomic Force", "Magnetic Force"])
def test_cut_vasp5_deltaspin(tmp_path, nickel_oxide, cut):
    path = tmp_path / "log"
    whole = log5([{}, {}])
    path.write_text(whole[: whole.rindex(cut) - 5])
    with pytest.warns(KLMWarning, match="cut short"):
        assert len(data.read(path)) == 1


def test_real_vasp5_deltaspin():
    (frame,) = data.read(output("vasp5_deltaspin_log_NiO.txt"), structure=output("vasp5_deltaspin_POSCAR"))
    assert frame.atoms.get_chemical_formula() == "Ni16O16"
    assert frame.energy == -166.30788168
    assert frame.moments[0] == pytest.approx([0.791471276, -0.804859626, 0.588898430])
    assert frame.magnetic_forces[1] == pytest.approx([0.010677482, -0.0081819987, 0.010706272])
    assert not frame.moments[16:].any()
    assert not frame.magnetic_forces[16:].any()
    assert frame.forces[0] == pytest.approx([0.0005133880, -0.0000443229, -0.0002058553])


# VASP with I_CONSTRAINED_M -------------------------------------------------------------------------------------------


def oszicar(steps=1, penalty=0.5):
    text = "       N       E                     dE             d eps       ncg     rms          rms(c)\n"
    for step in range(steps):
        moment = " ion        MW_int                 M_int\n"
        for scale in (0.5, 1.0):  # two electronic steps
            text += f"\n E_p =  {9 * penalty:.5E}  lambda =  0.200E+01\n<lVp>=  0.1E+00\n DBL = -0.1E+00\n" + moment
            text += f"  1  0.000  0.600 {scale + step:6.3f}    0.000  0.800  2.500\n"
            text += "  2  0.000 -1.000-1.000    0.000  0.000  1.000\n"
            text += f"DAV:   2    {-20.123456789 - step:.12E}   -0.1E+00   -0.1E+00  1200   0.291E+02\n"
        text += f"   {step + 1} F= {-20.123457 - step:.7E} E0= -.20E+02  d E =-.2E-01  mag=     0.0     0.0     1.0\n\n"
        text += f" E_p =  {penalty:.5E}  lambda =  0.200E+01\n ion             lambda*MW_perp\n"
        text += "  1   0.31212E-01  -0.15469E-01   0.00000E+00\n  2  -0.1E-02   0.96932E-03   0.00000E+00\n"
    return text


def outcar5(steps=1, converged=True):
    text = " POTCAR:    PAW_PBE Fe 06Sep2000\n   ions per type =               2\n"
    for step in range(steps):
        reached = "EDIFF is reached" if converged or step else "NELM"
        text += "".join(f"--------- Iteration      {step + 1}(   {i})  ---------\n" for i in (1, 2))
        text += f"--- aborting loop because {reached} ---\n"
        text += "      direct lattice vectors                 reciprocal lattice vectors\n"
        text += "".join(row(*line, *(line / 16)) + "\n" for line in 4 * np.eye(3))
        text += " POSITION                                       TOTAL-FORCE (eV/Angst)\n -------\n"
        text += row(0, 0, 0.1 * step, 0.3, 0, -0.1) + "\n" + row(2, 2, 2, -0.3, 0, 0.1) + "\n -------\n"
        text += f"  free  energy   TOTEN  =       {-20.12345678 - step} eV\n"
    return text


def test_vasp_constrained_moments(tmp_path):
    path = tmp_path / "OSZICAR"
    path.write_text(oszicar(3))
    (tmp_path / "OUTCAR").write_text(outcar5(3, converged=False))
    with pytest.warns(KLMWarning, match="1 of 3 frames"):
        first, last = frames = data.read(path)
    assert last.moments.tolist() == [[0, 0.6, 3.0], [0, -1, -1]]  # MW_int of the last electronic step
    assert last.magnetic_forces.tolist() == [[0.031212, -0.015469, 0], [-0.001, 0.00096932, 0]]
    assert last.transverse_only
    assert first.energy == pytest.approx(-21.12345678 - 0.5, abs=1e-12)  # less the penalty
    assert last.atoms.positions[0].tolist() == [0, 0, 0.2]
    assert last.forces[0].tolist() == [0.3, 0, -0.1]
    assert "MW_int" in frames.about.moments
    with pytest.warns(KLMWarning):
        assert len(data.read(tmp_path / "OUTCAR")) == 2  # the OSZICAR beside it is what has the moments


def test_vasp_constrained_moments_without_outcar(tmp_path):
    path = tmp_path / "OSZICAR"
    path.write_text(oszicar())
    with pytest.raises(KLMError, match="where the atoms are"):
        data.read(path)
    atoms = Atoms("Fe2", [(0, 0, 0), (2, 2, 2)], cell=[4, 4, 4], pbc=True)
    ase_write(tmp_path / "POSCAR", atoms, format="vasp")
    (frame,) = data.read(path)
    assert frame.energy == pytest.approx(-20.123456789 - 0.5, abs=1e-9)  # digits of the electronic step
    assert frame.forces is None
    path.write_text(oszicar(2))
    with pytest.raises(KLMError, match="2 ionic steps"):
        data.read(path)
    path.write_text(oszicar())
    (tmp_path / "INCAR").write_text("SAXIS = 1 0 0\n")
    with pytest.raises(KLMError, match="SAXIS"):
        data.read(path)


@pytest.mark.parametrize("cut", ["lambda*MW_perp", "   1 F=", "0.96932E-03"])
def test_cut_vasp_constrained_moments(tmp_path, cut):
    text = oszicar()
    (tmp_path / "OSZICAR").write_text(text[: text.rindex(cut)])
    with pytest.raises(KLMError, match="no usable frame"):
        data.read(tmp_path / "OSZICAR", structure=Atoms("Fe2", [(0, 0, 0), (2, 2, 2)], cell=[4, 4, 4]))


def test_real_vasp_constrained_moments():
    path = output("vasp_i_constrained_m_OSZICAR_FeRh")
    atoms = Atoms("CsCl", [(0, 0, 0), (1.5, 1.5, 1.5)], cell=[3, 3, 3], pbc=True).repeat(2)
    atoms.symbols = ["Fe"] * 8 + ["Rh"] * 8
    (frame,) = data.read(path, structure=atoms)
    assert frame.transverse_only
    assert frame.energy == pytest.approx(-124.804557292, abs=1e-9)
    assert frame.moments[:8] == pytest.approx(np.tile([0, 0, 2.189], (8, 1)))
    assert frame.moments[8:, 2] == pytest.approx(0.663)
    assert np.abs(frame.magnetic_forces).max() < 1e-17


# ABACUS --------------------------------------------------------------------------------------------------------------


def abacus(folder, converged=True, columns=3, kind="Direct"):
    rule = "-" * 60
    position = {"Direct": 0.5, "Cartesian": 2.0, "Cartesian_angstrom": 2.0, "Cartesian_au": 2.0 / Bohr}[kind]
    (folder / "STRU").write_text(
        "ATOMIC_SPECIES\nFe 55.845 Fe.upf\nO 16 O.upf\n\nNUMERICAL_ORBITAL\nFe.orb\nO.orb\n\n"
        f"LATTICE_CONSTANT\n{1 / Bohr}\n"
        f"LATTICE_VECTORS\n 4.0 0 0 #a\n 0 4.0 0 // b\n 0 0 4.0\n\nATOMIC_POSITIONS\n{kind}\n\n"
        "Fe #label\n1 #magnetism\n"
        f"1 #number\n 0 0 0 mag 0 0 2.4 sc 1 1 1\nO\n0\n1\n {position} {position} {position} m 1 1 1\n"
    )
    vectors = ([row(0, 0.1, 2.4), row(0, 0, 0.03)], [row(-0.1, 0, -0.3), row(0, 0, 0)])
    if columns == 1:
        vectors = ([row(2.4), row(0.03)], [row(-0.3), row(0)])
    text = "   ABACUS v3.7.1\n READING GENERAL INFORMATION\n"
    for title, (iron, oxygen) in zip(("Total Magnetism (uB)", "Magnetic force (eV/uB)"), vectors, strict=True):
        text += f"{rule}\n {title}    \n{rule}\n        Fe  {iron}\n        O  {oxygen}\n{rule}\n\n"
    text += " charge density convergence is achieved\n" if converged else " convergence has NOT been achieved!\n"
    text += f" final etot is -6818.7 eV\n{rule}\n TOTAL-FORCE (eV/Angstrom)\n{rule}\n"
    text += f"   Fe1 {row(0.1, 0, 0)}\n   O1 {row(-0.1, 0, 0)}\n{rule}\n !FINAL_ETOT_IS -6818.719409466637 eV\n"
    (folder / "running_scf.log").write_text(text)
    return folder / "running_scf.log"


@pytest.mark.parametrize("kind", ["Direct", "Cartesian", "Cartesian_angstrom", "Cartesian_au"])
def test_abacus(tmp_path, kind):
    (frame,) = frames = data.read(abacus(tmp_path, kind=kind))
    assert frame.atoms.get_chemical_formula() == "FeO"
    assert frame.atoms.cell.lengths() == pytest.approx([4, 4, 4])
    assert frame.atoms.positions[1] == pytest.approx([2, 2, 2])
    assert frame.moments.tolist() == [[0, 0.1, 2.4], [0, 0, 0]]
    assert frame.magnetic_forces.tolist() == [[-0.1, 0, -0.3], [0, 0, 0]]
    assert frame.forces.tolist() == [[0.1, 0, 0], [-0.1, 0, 0]]
    assert frame.energy == -6818.719409466637
    assert "-λ = -∂E/∂m" in frames.about.magnetic_forces
    assert len(data.read(tmp_path)) == 1


def test_collinear_abacus(tmp_path):
    (frame,) = frames = data.read(abacus(tmp_path, columns=1))
    assert frame.moments.tolist() == [[0, 0, 2.4], [0, 0, 0]]
    assert frame.magnetic_forces.tolist() == [[0, 0, -0.3], [0, 0, 0]]
    assert any("nspin 2" in note for note in frames.about.notes)


def test_damaged_abacus(tmp_path):
    path = abacus(tmp_path, converged=False)
    with pytest.raises(KLMError, match="1 with electrons that did not converge"):
        data.read(path)
    whole = abacus(tmp_path).read_text()
    path.write_text(whole[: whole.index("final etot")])
    with pytest.raises(KLMError, match="cut short"):
        data.read(path)
    path.write_text(whole)
    stru = (tmp_path / "STRU").read_text()
    for text, message in (
        (stru.replace("Fe #label", "Co #label"), "not those of the structure"),
        (stru.replace("Direct", "Somehow"), "given as Somehow"),
        (stru[: stru.index("1 #number")], "cannot be read as a STRU"),
    ):
        (tmp_path / "STRU").write_text(text)
        with pytest.raises(KLMError, match=message):
            data.read(path)
    (tmp_path / "STRU").unlink()
    with pytest.raises(KLMError, match="no STRU"):
        data.read(path)


def test_real_abacus():
    (frame,) = data.read(output("abacus_running_scf.log"), structure=output("abacus_STRU"))
    assert frame.atoms.get_chemical_formula() == "Fe2"
    assert frame.atoms.get_volume() == pytest.approx(22.266, abs=1e-3)  # the log says so
    assert frame.energy == -6818.719409466637
    assert frame.moments[0] == pytest.approx([-2.724e-7, -1.728e-7, 2.4000001004])
    assert frame.magnetic_forces[1] == pytest.approx([-0.0000161517, -0.0000195198, -0.3669821632])
    assert frame.atoms.positions[0] == pytest.approx(np.array([0.05, 0.1, 0.15]) * 2.8274254848 * 1.880277359 * Bohr)


# All of them ---------------------------------------------------------------------------------------------------------

TEXTS = {"OUTCAR": outcar6([{}, {}]), "log.txt": log5([{}]), "OSZICAR": oszicar(), "running_scf.log": None}


@quick
@given(st.sampled_from(sorted(TEXTS)), st.integers(0, 4000), st.integers(0, 255))
def test_damaged_texts(tmp_path, name, position, byte):
    abacus(tmp_path)
    path = Path(tmp_path, name)
    whole = (path.read_text() if TEXTS[name] is None else TEXTS[name]).encode()
    structure = Atoms("FeO", [(0, 0, 0), (2, 2, 2)], cell=[4, 4, 4], pbc=True)
    for damaged in (whole[:position], whole[:position] + bytes([byte]) + whole[position + 1 :]):
        path.write_bytes(damaged)
        attempt(lambda: data.read(path, structure=structure))


@settings(quick, max_examples=40)
@given(st.sampled_from(sorted(readers.FORMATS)), st.text(max_size=300))
def test_formats_that_are_named_wrongly(tmp_path, name, text):
    path = Path(tmp_path, "file.dat")
    path.write_text(text)
    with pytest.raises(KLMError):
        data.read(path, format=name)


def test_unknown_formats(tmp_path):
    with pytest.raises(KLMError, match="'abinit' is no format"):
        data.read(tmp_path / "any", format="abinit")
    with pytest.raises(KLMError, match="no such file"):
        data.read(tmp_path / "any")
    with pytest.raises(KLMError, match="in no format known"):
        data.read(tmp_path)
    (tmp_path / "any").write_bytes(bytes(range(256)))
    with pytest.raises(KLMError, match="in no format known"):
        data.read(tmp_path / "any")


@pytest.mark.parametrize("name", ["set.npz", "set.extxyz", "set.traj"])
def test_converted_files_keep_labels_and_where_they_come_from(tmp_path, name, capsys):
    for number in range(2):
        (tmp_path / f"run{number}").mkdir()
        (tmp_path / f"run{number}" / "OSZICAR").write_text(oszicar())
        (tmp_path / f"run{number}" / "OUTCAR").write_text(outcar5())
    out = tmp_path / name
    assert main(["data", "convert", str(tmp_path / "run0"), str(tmp_path / "run1" / "OSZICAR"), str(out)]) == 0
    said = capsys.readouterr().out
    assert "MW_int" in said
    assert "2 frames" in said
    (given_frame,) = data.read(tmp_path / "run0")
    for frame in data.read(out):
        assert frame.transverse_only
        assert frame.moments == pytest.approx(given_frame.moments)
        assert frame.magnetic_forces == pytest.approx(given_frame.magnetic_forces, abs=1e-8)
        assert frame.forces == pytest.approx(given_frame.forces)
        assert frame.energy == pytest.approx(given_frame.energy)
        assert frame.atoms.info["source"] == given_frame.atoms.info["source"]
