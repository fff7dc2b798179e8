"""A training from its configuration in TOML; `ase_klm.cli.train` shows one."""

import inspect
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from ase.data import chemical_symbols

from ase_klm import data
from ase_klm.cli.configuration import check_keys, did_you_mean, read_toml, section_of
from ase_klm.data.frames import Frame
from ase_klm.errors import KLMError
from ase_klm.models import files
from ase_klm.models.atomic import AtomicNetwork
from ase_klm.models.trained import TrainedNetwork
from ase_klm.training import RECIPES, Loss, Recipe, Trainer, split
from ase_klm.training.dataset import common_hamiltonian
from ase_klm.validate import checked_number

SECTIONS = ("data", "model", "loss", "recipe", "run")
DTYPES = {"float32": torch.float32, "float64": torch.float64}
RENAMED = {"field": "magnetic_forces", "torque": "transverse"}
"""Keys of [loss] that had other names once."""

RUN = ("directory", "epochs", "minutes", "seed", "device", "checkpoint_every")


def trainer_from(path: Path, progress: bool = True) -> Trainer:
    """The training that a configuration describes.

    Raises
    ------
    KLMError
        When the file is no TOML, a key is unknown or missing, or a value cannot be used.
    """
    table = read_toml(path, "give a TOML file; `ase-klm train -h` shows one")
    check_keys(table, SECTIONS, "sections of the configuration")
    sections = {name: section_of(table, name) for name in SECTIONS}
    settings = sections["run"]
    check_keys(settings, RUN, "[run]")
    settings["directory"] = path.parent / _text(settings, "directory", "[run]", "my-network")
    settings.setdefault("seed", 0)
    checked_number(settings["seed"], "seed of [run]", minimum=0)
    recipe = _recipe(sections["recipe"])
    training, validation = _frames(sections["data"], path.parent, int(settings["seed"]))
    model, initial = _model(sections["model"], training, path.parent, int(settings["seed"]))
    loss = _loss(sections["loss"])
    return Trainer(
        model, training, validation, recipe=recipe, loss=loss, initial=initial, progress=progress, **settings
    )


def _frames(section: dict[str, Any], folder: Path, seed: int) -> tuple[list[Frame], list[Frame]]:
    check_keys(section, ("files", "validation"), "[data]")
    if "files" not in section:
        raise _missing("files", "[data]", 'files = ["train.npz"]')
    frames = _read(section["files"], folder)
    validation = section.get("validation", 0.1)
    if isinstance(validation, str | list):
        return frames, _read(validation, folder)
    return split(frames, validation, seed)


def _read(names: Any, folder: Path) -> list[Frame]:
    several = [names] if isinstance(names, str) else names
    if not isinstance(several, list) or not several or not all(isinstance(name, str) for name in several):
        raise KLMError(f"{names!r} of [data] are no files", "a list of names is needed", 'e.g. files = ["train.npz"]')
    return [frame for name in several for frame in data.read(folder / name)]


def _model(
    section: dict[str, Any], frames: list[Frame], folder: Path, seed: int
) -> tuple[TrainedNetwork | None, str | Path | None]:
    """A network with random weights, or where the weights to start from are."""
    if "start" in section:
        check_keys(section, ("start",), "[model] with a start")
        start = _text(section, "start", "[model]", "kondo-square")
        return None, folder / start if start.endswith(files.SUFFIX) else start
    network = files.architecture(_text(section, "architecture", "[model]", "ECNN"))
    atomic = issubclass(network, AtomicNetwork)
    known = [name for name in inspect.signature(network).parameters if name != "lattice"]
    own = () if atomic else ("shells",)
    check_keys(section, ("architecture", *own, "dtype", "start", *known), f"[model] {network.__name__}")
    hyperparameters = {name: section[name] for name in (*known, *own) if name in section}
    dtype = section.get("dtype", "float32")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise KLMError(f"dtype = {dtype!r} of [model] is unknown", f"there are {' and '.join(DTYPES)}", "leave it out")
    defaults = _of_atoms(frames) if atomic else _of_lattice(frames)
    arguments = {name: value for name, value in defaults.items() if name in known} | hyperparameters
    try:
        model: TrainedNetwork = (
            network.seeded(seed, **arguments) if atomic else network.for_atoms(frames[0].atoms, seed=seed, **arguments)
        )
    except KLMError:
        raise
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise KLMError(
            f"{network.__name__} cannot be made of [model]", f"{error}", f"it takes {', '.join(known)}"
        ) from None
    return model.to(DTYPES[dtype]), None


def _of_lattice(frames: list[Frame]) -> dict[str, Any]:
    """What a network of spins takes from its frames: the Hamiltonian that all of them share."""
    hamiltonian = common_hamiltonian([frame.hamiltonian for frame in frames])
    return {} if hamiltonian is None else {"hamiltonian": hamiltonian}


def _of_atoms(frames: list[Frame]) -> dict[str, Any]:
    """What a network of atoms takes from its frames: their species, by atomic number."""
    numbers = sorted({int(number) for frame in frames for number in frame.atoms.numbers})
    return {"species": [chemical_symbols[number] for number in numbers]}


def _loss(section: dict[str, Any]) -> Loss:
    for old, new in RENAMED.items():
        if old in section:
            raise KLMError(f"{old} is unknown in [loss]", f"it is called {new} now", f"write {new} = {section[old]}")
    loss: Loss = _dataclass(Loss, section, "[loss]")
    return loss


def _recipe(section: dict[str, Any]) -> Recipe:
    name = section.pop("name", "modern")
    if not isinstance(name, str) or name not in RECIPES:
        raise KLMError(
            f"the recipe {name!r} is unknown", f"there are {', '.join(RECIPES)}", f"{did_you_mean(name, RECIPES)}"
        )
    recipe: Recipe = _dataclass(RECIPES[name], section, f"[recipe] {name}")
    return recipe


def _dataclass(kind: Any, section: dict[str, Any], where: str) -> Any:
    """A frozen dataclass of numbers with the overrides of a section."""
    check_keys(section, [part.name for part in fields(kind)], where)
    defaults, hints = {part.name: part.default for part in fields(kind)}, get_type_hints(kind)
    values = {}
    for key, value in section.items():
        hint = hints[key]
        wanted = get_args(hint) if isinstance(hint, UnionType) else (get_origin(hint) or hint,)
        given = tuple(value) if isinstance(value, list) else value
        if float in wanted and isinstance(given, int) and not isinstance(given, bool):
            given = float(given)
        if type(given) not in wanted:
            raise KLMError(
                f"{key} = {value!r} of {where} cannot be used",
                f"it must be of type {' or '.join(one.__name__ for one in wanted)}",
                f"the default is {defaults[key]!r}",
            )
        values[key] = given
    return kind(**values)


def _text(section: dict[str, Any], key: str, where: str, example: str) -> str:
    if key not in section:
        raise _missing(key, where, f'{key} = "{example}"')
    if not isinstance(section[key], str) or not section[key]:
        raise KLMError(f"{key} = {section[key]!r} of {where} cannot be used", "it is a text", f'e.g. "{example}"')
    return str(section[key])


def _missing(key: str, where: str, example: str) -> KLMError:
    return KLMError(f"{where} has no {key}", "there is no default for it", f"for instance {example}")
