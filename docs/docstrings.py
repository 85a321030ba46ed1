"""Docstrings of this project as reStructuredText.

They are plain text, in which Sphinx would read `*event` or `|x|` as markup. Their blocks, which
blank lines separate, are paragraphs, indented formulas and examples, lists of fields ("name: what
it is"), lists with dashes, and the sections "Args:", "Returns:" and "Raises:".
"""

import itertools
import re
import textwrap

SECTIONS = ("Args:", "Returns:", "Raises:")
FIELD = re.compile(r"(\*?[a-zA-Z_]\w*(?:, \w+)*): (.*)", re.DOTALL)


def process(app, what, name, obj, options, lines):
    """Sphinx's event "autodoc-process-docstring": replaces the lines."""
    lines[:] = to_rst(lines)


def process_signature(app, what, name, obj, options, signature, returns):
    """Sphinx's event "autodoc-process-signature": without the fields that Flax adds to a module."""
    if signature:
        return re.sub(r", parent=<.*", ")", signature), returns
    return None


def skip(app, what, name, obj, skipped, options):
    """Sphinx's event "autodoc-skip-member": True for the fields of a NamedTuple."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field") else None


def to_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring, without its own indentation, as lines of reStructuredText."""
    rst: list[str] = []
    for has_text, group in itertools.groupby(lines, key=lambda line: bool(line.strip())):
        if has_text:
            rst += [*_block(list(group)), ""]
    return rst


def _block(lines: list[str]) -> list[str]:
    if lines[0] in SECTIONS:
        heading = f"**{lines[0].removesuffix(':')}**"
        return [heading, "", *_block(textwrap.dedent("\n".join(lines[1:])).splitlines())]
    if all(line.startswith(" ") for line in lines):
        return ["::", "", *(f"    {line}" for line in lines)]
    items = _items(lines)
    if all(item.startswith("- ") for item in items):
        return [f"- {escape(item[2:])}" for item in items]
    fields = [FIELD.fullmatch(item) for item in items]
    if all(fields):
        return [f"- ``{field[1]}``: {escape(field[2])}" for field in fields if field]
    return [escape(line.strip()) for line in lines]


def _items(lines: list[str]) -> list[str]:
    """A line for each line that is not indented, with the indented ones that follow it."""
    items: list[str] = []
    for line in lines:
        if line.startswith(" ") and items:
            items[-1] += f" {line.strip()}"
        else:
            items.append(line)
    return items


def escape(text: str) -> str:
    """A line of prose in which `code` is literal and nothing else is markup."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        f"`{part}`" if part.startswith("`") else re.sub(r"([*_|\\`])", r"\\\1", part)
        for part in parts
    )
