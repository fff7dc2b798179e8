"""How things with parameters show, explain and write them: `repr`, `describe` and `todict` of potentials and the
functions in them, from the fields of their dataclass and from their docstring.
"""

import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from ase import Atoms

from ase_klm.models.trained import TrainedNetwork

FEW = 4
"""Entries of a list or mapping that are shown one by one."""

WIDTH = 100
"""Columns of a description."""


class Parametrised:
    """Something whose parameters are the fields of a dataclass and are explained by the docstring of the class."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__repr__" not in cls.__dict__:  # without one in the class itself, @dataclass adds its own
            cls.__repr__ = _repr  # type: ignore[method-assign]

    def todict(self) -> dict[str, Any]:
        """Class and parameters in numbers, texts, lists and dictionaries; ``potentials.from_dict`` reads them again."""
        from ase_klm.potentials.serialisation import written  # which knows the classes derived from this one

        return written(self)

    def describe(self) -> str:
        """What it is, its formula, and its parameters with their units, as text to print."""
        return described(self, parameters_of(self))


def _repr(self: Any) -> str:
    return call(type(self).__name__, parameters_of(self), defaults_of(type(self)))


def parameters_of(thing: Any) -> dict[str, Any]:
    """The arguments that rebuild a dataclass; none of other objects."""
    if not is_dataclass(thing):
        return {}
    return {entry.name: getattr(thing, entry.name) for entry in fields(thing) if entry.init}


def defaults_of(kind: type) -> dict[str, Any]:
    """The arguments of a class that have a default value."""
    arguments = inspect.signature(kind).parameters.values()
    return {argument.name: argument.default for argument in arguments if argument.default is not argument.empty}


def call(name: str, parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The call that would make it, without arguments that have their default; long values are abbreviated."""
    words = []
    for key, value in parameters.items():
        text = shown(value)
        nothing = text in ("()", "{}", "[]") and defaults.get(key, 0) is None
        if key not in defaults or not (nothing or text == shown(defaults[key])):
            words.append(f"{key}={text}")
    return f"{name}({', '.join(words)})"


def shown(value: Any) -> str:
    """A parameter in a few words: numbers to ten digits, J for J times the unit matrix, shapes of large arrays."""
    if isinstance(value, np.ndarray):
        return _shown_array(value)
    if isinstance(value, list | tuple):
        return _shown_array(np.array(value)) if _is_matrix(value) else _shown_list(value)
    if isinstance(value, Mapping):
        words = [f"{shown(key)}: {shown(entry)}" for key, entry in list(value.items())[:FEW]]
        return "{" + ", ".join(words + ["..."] * (len(value) > FEW)) + "}"
    return _shown_single(value)


def _shown_single(value: Any) -> str:
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return f"{value:.10g}"
    if inspect.isroutine(value):
        return str(value.__qualname__)
    if isinstance(value, TrainedNetwork):
        return f"<{type(value).__name__}{'' if value.origin is None else f' {value.origin.name}'}>"
    if isinstance(value, Atoms):
        return f"<Atoms {value.get_chemical_formula()}>"
    text = repr(value)
    return f"<{type(value).__name__}>" if " object at 0x" in text else text


def _is_matrix(value: Any) -> bool:
    """Whether lists in lists are an array of numbers."""
    try:
        array = np.array(value)
    except (ValueError, TypeError):
        return False  # ragged
    return array.ndim > 1 and array.dtype.kind in "iuf"


def _shown_list(value: list[Any] | tuple[Any, ...]) -> str:
    if len(value) > FEW:
        return f"[{shown(value[0])}, ... {len(value)} entries]"
    words = ", ".join(map(shown, value))
    return f"[{words}]" if isinstance(value, list) or len(value) == 1 else f"({words})"


def _shown_array(array: np.ndarray) -> str:
    if array.ndim == 0 and array.dtype != object:
        return shown(array.item())
    if array.shape == (3, 3) and np.array_equal(array, array[0, 0] * np.eye(3)):
        return shown(array[0, 0])
    if array.size > 9 or array.dtype == object:
        return f"<array {array.shape}>"
    return shown(tuple(array)) if array.ndim == 1 else f"[{', '.join(map(_shown_array, array))}]"


def described(thing: Any, parameters: Mapping[str, Any]) -> str:
    """Name, the words of the docstring, and each parameter with what the docstring says of it."""
    words, meanings = explained(type(thing))
    lines = [f"{type(thing).__name__}: {words[0]}", *(f"  {word}" for word in words[1:])]
    for name, value in parameters.items():
        if value is not None:
            lines.append(f"  {name} = {shown(value)}{f'    # {meanings[name]}' if name in meanings else ''}")
    kinds = {type(part): None for value in parameters.values() for part in _parts(value)}
    lines += [f"  {kind.__name__}: {explained(kind)[0][0]}" for kind in kinds]
    lines = [textwrap.fill(line, WIDTH, subsequent_indent=" " * 6, replace_whitespace=False) for line in lines]
    networks = [value for value in parameters.values() if isinstance(value, TrainedNetwork)]
    return "\n".join(lines + [textwrap.indent(network.describe(), "  ") for network in networks])


def _parts(value: Any) -> Iterator[Parametrised]:
    """Things with parameters inside a parameter."""
    if isinstance(value, Parametrised):
        yield value
        value = list(parameters_of(value).values())
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _parts(entry)


def explained(kind: type) -> tuple[list[str], dict[str, str]]:
    """Paragraphs of a docstring in numpydoc's form, and the first sentence on each parameter."""
    text = inspect.cleandoc(kind.__doc__ or "")
    introduction, _, rest = text.partition("\nParameters\n----------\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in introduction.split("\n\n") if paragraph.strip()]
    listed = re.split(r"\n\n\S+\n-{3,}\n", rest)[0]
    meanings = {}
    for names, kinds, meaning in re.findall(
        r"^(\w[\w, ]*?)(?: : (.*))?\n((?:[ \t]+.*\n?)*)", f"{listed}\n", re.MULTILINE
    ):
        sentence = re.split(r"(?<=[.])(?<!e\.g\.)\s+(?=[A-Z`])", " ".join(meaning.split()) or kinds)[0]
        meanings.update(dict.fromkeys(names.split(", "), sentence))
    return paragraphs or [""], meanings
