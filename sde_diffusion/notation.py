"""How a value with fields is written on a command line: name, or name(field=value, ...)."""

import ast
from typing import Any


def read(what: str, text: str) -> tuple[str, dict[str, Any]]:
    """("ddim", {"eta": 0.5}) of "ddim(eta=0.5)"; ValueError for anything but literal values.

    The text is read as a name and literals: nothing is executed. `what` says in the error what the
    text stands for, such as a solver.
    """
    try:
        node: Any = ast.parse(text.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        if call.args or not isinstance(call.func, ast.Name):
            raise ValueError
        return call.func.id, {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(
            f"a {what} is written as name or name(field=value, ...), got {text!r}"
        ) from None


def split(text: str) -> list[str]:
    """The parts of "a,b(c=1,d=2),e" between commas outside parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]
