"""What is chosen by name, and defaults that the command line tells of: here, so that its help loads nothing heavy."""

METHODS = ("auto", "exact", "autograd", "differences")
"""Of second derivatives; see `ase_klm.magnons.Magnons`."""

KINDS = ("random", "theta-uniform", "textures", "quench")
"""Of spin configurations to label; see `ase_klm.data.configurations`."""

SNAPSHOTS, SPACING, DAMPING = 10, 4, 1.0
"""Of a quench; see `ase_klm.data.configurations.Quench`."""

OWN_FORMATS = {".npz": "npz", ".traj": "traj", ".extxyz": "extxyz", ".xyz": "extxyz"}
"""Formats of frames that `ase_klm.data.frames` reads itself, by the ending of the name."""

FORMATS = ("deepmd", "vasp6-deltaspin", "vasp5-deltaspin", "vasp-constrained", "abacus-deltaspin", "ase-db")
"""Formats that have a reader in `ase_klm.data.readers`; a test compares the two."""

CHECKPOINT = "checkpoint.safetensors"
"""In the directory of a training; see `ase_klm.training.Trainer`."""
