"""What ASE knows of this package once it is installed: a file format, and calculators by name.

`ase.io.formats` imports this module whenever ASE's files are used (entry point ``ase.ioformats`` in pyproject.toml), so
nothing heavy is imported before it is needed: a calculator when it is made, NumPy archives when one is read.
"""

from collections.abc import Iterable
from typing import Any

from ase import Atoms
from ase.calculators.calculator import external_calculators, register_calculator_class
from ase.utils.plugins import ExternalIOFormat

KEYS = b"numbers|pbc|cell|positions|magmoms|mag_forces|energy|forces|hamiltonian|kind|mu"
"""Arrays of a data set, one of which is the first in its archive."""

FORMAT = ExternalIOFormat(
    desc="ase_klm: data sets of labels, and with format='ase-klm' all that ase_klm.data reads",
    code="+S",
    module="ase_klm.ase_plugin",
    magic_regex=rb"PK\x03\x04.{26}(" + KEYS + rb")\.npy",  # a zip file's first entry; other archives are not ours
)


def read_ase_klm(filename: str, index: int | slice | None = None, **options: Any) -> Any:
    """Structures of any file that `ase_klm.data.read` knows, magnetic forces in ``arrays["magnetic_forces"]``."""
    from ase_klm.data import read

    structures = [frame.atoms for frame in read(filename, **options)]
    return structures[slice(None) if index is None else index]


def write_ase_klm(filename: str, images: Atoms | Iterable[Atoms]) -> None:
    """Write structures by `ase_klm.data.write`, which says which endings there are."""
    from ase_klm.data import write

    write(filename, images)


class _Lazy(type):
    """The type of names that stand for a calculator's class until that is imported."""

    def _load(cls) -> Any:
        import ase_klm.calculators

        return getattr(ase_klm.calculators, cls.__name__)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._load()(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls._load(), name)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls._load())

    def __subclasscheck__(cls, subclass: Any) -> bool:
        return issubclass(subclass, cls._load())


CALCULATORS = {
    "exchange": "ExchangeCalculator",
    "kondoed": "KondoEDCalculator",
    "ecnn": "ECNNCalculator",
    "magnet": "MagNetCalculator",
}
"""Names by which `ase.calculators.calculator.get_calculator_class` finds classes: those that calculators call
themselves in files."""

for _name, _class in CALCULATORS.items():
    if _name not in external_calculators:
        register_calculator_class(_name, _Lazy(_class, (), {"__module__": "ase_klm.calculators"}))
