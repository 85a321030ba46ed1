"""A solver as it is written on a command line: name, or name(field=value, ...)."""

import ast
from typing import Any


def read(text: str) -> tuple[str, dict[str, Any]]:
    """("ddim", {"eta": 0.5}) of "ddim(eta=0.5)"; ValueError for anything but literal values.

    Read as a name and literals: nothing is executed.
    """
    try:
        node: Any = ast.parse(text.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        if call.args or not isinstance(call.func, ast.Name):
            raise ValueError
        return call.func.id, {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(
            f"a solver is written as name or name(field=value, ...), got {text!r}"
        ) from None
