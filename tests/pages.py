"""What pages of the documentation tell their readers to type."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def page(name):
    """The text of a page, e.g. ``docs/magnet.md``."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text, language):
    """Blocks of code of a language; "" for those without a name."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def section(text, title):
    """What stands under a heading of the second level."""
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return found
