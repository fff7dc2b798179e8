"""Put trained weights into the package, with their errors on a test set on the card.

    python benchmarks/package_network.py WEIGHTS.safetensors NAME TEST.npz

NAME is what users say, e.g. kondo-square; the file goes to ase_klm/pretrained. TEST.npz is that of published_square.py.
"""

import argparse
from pathlib import Path

from ase_klm import data
from ase_klm.models import files
from ase_klm.training import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("name")
    parser.add_argument("test", type=Path)
    options = parser.parse_args()
    model, card = files.load(options.weights), files.card(options.weights)
    frames = data.read(options.test)
    found = evaluate(model, frames)
    known = {name: card[name] for name in ("hamiltonian", "training", "errors") if name in card}
    known["test"] = {"configurations": len(frames), "sites": len(frames[0].atoms), **found.numbers}
    target = Path(files.__file__).parents[1] / "pretrained" / f"{options.name}.safetensors"
    files.save(target, model, known)
    target.chmod(0o644)
    print(f"{target}: {found}")


if __name__ == "__main__":
    main()
