"""Files of weights: one ``.safetensors`` file with a card, JSON that says what the network is and how good it is.

Nothing is ever unpickled. A file is written under another name and renamed, so that a crash leaves the old one whole.
The packaged networks lie in ``ase_klm/pretrained`` and go by their names.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module, resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.files import written_atomically
from ase_klm.models.atomic import AtomicNetwork
from ase_klm.models.base import NetworkOnLattice
from ase_klm.models.trained import Origin, TrainedNetwork
from ase_klm.nn.lattice import LatticeStars, Star

FORMAT = "ase_klm network 1"
SUFFIX = ".safetensors"
UNITS = {"energy": "eV", "moments": "μB", "magnetic_forces": "eV/μB"}
ATOMIC_UNITS = UNITS | {"positions": "Å", "forces": "eV/Å", "stress": "eV/Å³"}

ARCHITECTURES: dict[str, str | type[Any]] = {
    "ECNN": "ase_klm.models.ecnn",
    "ChebyshevNetwork": "ase_klm.models.chebyshev",
    "InvariantNetwork": "ase_klm.models.invariant",
    "MagNet": "ase_klm.models.magnet",
    "PublishedMagNet": "ase_klm.models.magnet_published",
}
"""Networks by the names of their classes: the class, or the module to import when it is asked for."""

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_UNREADABLE = (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)

Network = TypeVar("Network", bound=type[TrainedNetwork])


def register(network: Network) -> Network:
    """Make a network known to `load`; a decorator of its class."""
    ARCHITECTURES[network.__name__] = network
    return network


def architecture(name: str) -> type[Any]:
    """The class of a network by its name.

    Raises
    ------
    KLMError
        When there is none.
    """
    known = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if isinstance(known, type):
        return known
    try:
        found = None if known is None else getattr(import_module(known), name)
    except (ImportError, AttributeError):
        found = None
    if found is None:
        raise KLMError(
            f"{name!r} is no network that this version knows",
            f"there are {', '.join(sorted(ARCHITECTURES))}",
            f"{_nearest(name, ARCHITECTURES)}import the module that registers it, or a newer version of ase_klm",
        )
    return found


def available() -> list[str]:
    """Names of the packaged networks."""
    folder = resources.files("ase_klm") / "pretrained"
    if not folder.is_dir():
        return []
    return sorted(file.name.removesuffix(SUFFIX) for file in folder.iterdir() if file.name.endswith(SUFFIX))


def save(path: str | Path, model: TrainedNetwork, card: Mapping[str, Any] | None = None) -> None:
    """Write a network.

    Parameters
    ----------
    path : str or Path
        Ends in ``.safetensors``; an existing file is replaced.
    model : LatticeNetwork or AtomicNetwork
        Its class must be known by `register`.
    card : mapping, optional
        What else the card says, JSON: `training`, `errors` on data held apart, `hamiltonian`.

    Raises
    ------
    KLMError
        When the network cannot be rebuilt from the file, or the file cannot be written.
    """
    from ase_klm import __version__

    file = _checked_ending(path)
    name = type(model).__name__
    if architecture(name) is not type(model):
        raise KLMError(f"another network is called {name}", "the card names the class only", "give yours another name")
    tensors = _on_cpu(model)
    full = dict(card or {}) | {
        "architecture": name,
        "hyperparameters": model.hyperparameters,
        **_home(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "version": __version__,
        "sha256": _checksum(tensors),
    }
    try:
        text = json.dumps(full)
    except (TypeError, ValueError) as error:
        raise KLMError("the card cannot be written", str(error), "keep to numbers, texts, lists and dicts") from None
    write_tensors(file, tensors, {"format": FORMAT, "card": text})


def load(model: str | Path | TrainedNetwork) -> Any:
    """A network from a file of weights, or a packaged one by its name; a network is returned as it is.

    Parameters
    ----------
    model : str, Path, LatticeNetwork or AtomicNetwork
        ``"kondo-square"`` (see `available`), or a path that ends in ``.safetensors``.

    Raises
    ------
    KLMError
        When there is no such file, it is damaged or of another kind, its architecture is unknown, or weights are
        missing.
    """
    if isinstance(model, TrainedNetwork):
        return model
    path = _path(model)
    tensors, found = _read(path)
    network = architecture(found["architecture"])
    try:
        places = [lattice_from_json(found["lattice"])] if issubclass(network, NetworkOnLattice) else []
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and the user's random numbers stay
            built = network(*places, **found["hyperparameters"]).to(_DTYPES[found["dtype"]])
        built.load_state_dict(tensors)
    except KLMError:
        raise
    except _UNREADABLE as error:
        raise KLMError(
            f"the weights of {path} do not fit the network {found['architecture']} of its card",
            " ".join(str(error).split())[:400],
            "the file is damaged, or of a version of ase_klm whose network was another "
            f"({found.get('version', 'unknown')})",
        ) from None
    name = str(model) if str(model) in available() else str(path.absolute())
    built.origin = Origin(name, found, _checksum(_on_cpu(built)))
    return built.eval()


def verified_origin(model: TrainedNetwork) -> Origin | None:
    """The file that a network was loaded from, where its weights are still those of the file; else None."""
    if model.origin is None or _checksum(_on_cpu(model)) != model.origin.weights:
        return None
    return model.origin


def _on_cpu(model: TrainedNetwork) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}


def card(model: str | Path) -> dict[str, Any]:
    """What a file of weights says of itself: architecture, units, training, errors, version; lattice and Hamiltonian,
    or species and cutoff.

    Raises
    ------
    KLMError
        As `load`.
    """
    return _read(_path(model))[1]


def _home(model: TrainedNetwork) -> dict[str, Any]:
    """What the card says of the structures that a network is for."""
    if isinstance(model, NetworkOnLattice):
        return {"lattice": asdict(model.lattice), "units": UNITS}
    assert isinstance(model, AtomicNetwork)
    return {"species": list(model.species), "cutoff": model.cutoff, "units": ATOMIC_UNITS}


def lattice_from_json(table: Mapping[str, Any]) -> LatticeStars:
    """The lattice from ``dataclasses.asdict`` of it, after a way through JSON."""
    return LatticeStars(
        tuple(
            Star(
                str(star["species"]),
                tuple(tuple(float(x) for x in vector) for vector in star["displacements"]),  # type: ignore[misc]
                tuple(int(shell) for shell in star["shells"]),
                tuple(int(end) for end in star["ends"]),
            )
            for star in table["stars"]
        )
    )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a ``.safetensors`` file, replacing an older one in one go.

    Raises
    ------
    KLMError
        When the place cannot be written.
    """
    try:
        content = serialised(dict(tensors), metadata)
    except SafetensorError as error:
        raise KLMError(f"{path} cannot be written", str(error), "mend the tensors") from None
    with written_atomically(path) as temporary:
        temporary.write_bytes(content)  # save_file would leave a file that nobody else may read


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a ``.safetensors`` file; what can be wrong with it is in `_UNREADABLE`."""
    with safe_open(path, framework="pt") as file:
        # copies: a tensor may be a view of the file, and change with it
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118, it is no dict
        return tensors, file.metadata() or {}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        tensors, metadata = read_tensors(path)
        if metadata.get("format") != FORMAT:
            raise KeyError(f"it is a .safetensors file, but not of the format {FORMAT!r}")
        found = json.loads(metadata["card"])
        if found["sha256"] != _checksum(tensors):
            raise ValueError("its checksum is wrong: weights were changed or damaged")
        _ = found["architecture"], found["hyperparameters"], found["dtype"]
    except _UNREADABLE as error:
        raise KLMError(
            f"{path} cannot be read as a network of this package",
            f"{type(error).__name__}: {error}",
            "it may have been cut short or be of another program: copy it again, or train it anew",
        ) from None
    return tensors, found


def _path(model: Any) -> Path:
    if not isinstance(model, str | Path) or "\0" in str(model):
        raise KLMError(
            f"{type(model).__name__} is no network",
            "a name, a file or a network of ase_klm.models is needed",
            f"the names are {', '.join(available()) or 'none so far'}",
        )
    if str(model).endswith(SUFFIX):
        if not Path(model).is_file():
            raise KLMError(f"{model} cannot be read", "there is no such file", "check the name and the folder")
        return Path(model)
    if str(model) in available():
        return Path(str(resources.files("ase_klm") / "pretrained" / f"{model}{SUFFIX}"))
    raise KLMError(
        f"there is no network called {str(model)!r}",
        f"the packaged ones are {', '.join(available()) or 'none so far'}",
        f"{_nearest(model, available())}give one of these names, or the path of a {SUFFIX} file",
    )


def _checked_ending(path: Any) -> Path:
    if not isinstance(path, str | Path) or not str(path).endswith(SUFFIX) or "\0" in str(path):
        raise KLMError(f"{path!r} is no name for weights", f"they go into one {SUFFIX} file", f"e.g. 'mine{SUFFIX}'")
    return Path(path)


def _nearest(name: Any, known: Any) -> str:
    close = difflib.get_close_matches(str(name), list(known), 1)
    return f"did you mean {close[0]!r}? If not, " if close else ""


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
