"""A plan as text."""

from collections.abc import Sequence
from typing import Any

ESTIMATES = (
    "These are the compiler's estimates and the chip's peak figures; nothing was run. The body of "
    "a loop counts once."
)


def table(path: str, found: dict[str, Any]) -> str:
    """What `plan` prints."""
    chip, mesh = found["chip"], found["mesh"]
    lines = [
        f"{path} on {found['topology']}: {found['devices']} x {chip['name']} "
        f"({', '.join(f'{axis} {size}' for axis, size in mesh.items())}), "
        f"{found['parameters']:,} parameters",
        "",
        *_rows(found["training"], found["sampling"], chip["memory"]),
        "",
        *_warnings(found),
        *_notes(found),
        ESTIMATES,
        *([f"Chip's figures: {chip['source']}"] if chip["source"] else []),
    ]
    if "search" in found:
        lines += ["", *_search(found)]
    return "\n".join(lines)


def _rows(training: dict[str, Any], sampling: dict[str, Any], memory: float | None) -> list[str]:
    rows = [("", "training step", f"{sampling['solver']} step")]
    columns = (training, sampling)

    def row(name: str, show: Any) -> None:
        rows.append((name, *(show(column) for column in columns)))

    def value(key: str, show: Any) -> Any:
        return lambda column: show(column[key]) if key in column else "-"

    row("batch", value("batch_size", str))
    row("arguments, a device", value("arguments", _bytes))
    row("temporaries, a device", value("temporaries", _bytes))
    row("peak, a device", lambda column: _peak(column, memory))
    row("operations, a device", value("flops", _operations))
    row("bytes of all operands", value("bytes_accessed", _bytes))
    row("bytes to and from memory", value("bytes_moved", _bytes))
    kinds = {_kind(each) for column in columns for each in column.get("collectives", ())}
    for kind in sorted(kinds):
        row(kind, lambda column, kind=kind: _collective(column, kind))
    if not kinds:
        row("collectives", lambda column: "none")
    row("compiler's cycles", value("cycles", _cycles))
    row("roofline floor", _floor)
    row("estimated time", value("estimate_seconds", _seconds))
    row("images a second", value("images_per_second", _number))
    row("compile time", value("compile_seconds", lambda seconds: f"{seconds:.1f} s"))
    return _aligned(rows, "<>>")


def _warnings(found: dict[str, Any]) -> list[str]:
    lines = []
    for name in ("training", "sampling"):
        if found[name]["fits"] is False:
            told = found[name].get("told", "")
            lines.append(
                f"DOES NOT FIT: {name} needs more than a device has. {told or ''}".rstrip()
            )
    if found["training"]["fits"] is False and "search" not in found:
        lines.append(
            "What takes less memory: --config.network.remat=pointwise or blocks, "
            "--config.network.dtype=bfloat16, "
            f"--config.mesh.fsdp={found['devices']}, --config.optim.accumulate=2, a smaller "
            "--config.training.batch_size. --search tries them."
        )
    if found["sampling"]["fits"] is False:
        lines.append("Sampling takes less memory with a smaller --config.sampling.batch_size.")
    return lines


def _notes(found: dict[str, Any]) -> list[str]:
    sampling, lines = found["sampling"], []
    if found["training"]["accumulate"] > 1:
        lines.append(
            f"The training step is {found['training']['accumulate']} parts in a loop: its costs "
            "are of one part and the update, its times of as many of these."
        )
    if sampling["steps"] is None:
        lines.append("The solver chooses its steps: what is told of a step is one that it tries.")
    else:
        lines.append(
            f"A sample takes {sampling['steps']} steps, {sampling['evaluations']} evaluations of "
            f"the network, {sampling['evaluations_a_step']} a step; images a second are whole ones."
        )
    return lines


def _search(found: dict[str, Any]) -> list[str]:
    rows = [("fits", "peak", "estimated time", "images a second", "with")]
    for each in found["search"]:
        fields = [f"--config.{field}={value}" for field, value in each["changes"].items()]
        rows.append(
            (
                {True: "yes", False: "no", None: "not known"}[each["fits"]],
                _bytes(each["peak"]) if "peak" in each else "-",
                _seconds(each["estimate_seconds"]) if "peak" in each else "-",
                _number(each["images_per_second"]) if "peak" in each else "-",
                " ".join(fields) or "(as it is)",
            )
        )
    return _aligned(rows, "<>>><")


def _aligned(rows: Sequence[tuple[str, ...]], sides: str) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _peak(column: dict[str, Any], memory: float | None) -> str:
    if "peak" not in column:
        return "does not fit"
    share = "" if memory is None else f" ({100 * column['peak'] / memory:.2g} % of the chip's)"
    return _bytes(column["peak"]) + share


def _kind(collective: dict[str, Any]) -> str:
    return collective["kind"] + " between slices" * collective["between_slices"]


def _collective(column: dict[str, Any], kind: str) -> str:
    for each in column.get("collectives", ()):
        if _kind(each) == kind:
            return f"{each['count']} of {_bytes(each['bytes'])}"
    return "none" if "collectives" in column else "-"


def _floor(column: dict[str, Any]) -> str:
    if column.get("floor_seconds") is None:
        return "chip not known" if "floor_seconds" in column else "-"
    floor = column["floor_seconds"]
    bounds = {
        "compute": "compute",
        "memory": "memory",
        "network": "network",
        "between_slices": "network between slices",
    }
    bound = next(told for name, told in bounds.items() if column[f"{name}_seconds"] == floor)
    return f"{_seconds(floor)} ({bound})"


def _cycles(cycles: int | None) -> str:
    return "not told by this compiler" if cycles is None else f"{cycles:,}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _bytes(num: float) -> str:
    return _scaled(num, ("B", "kB", "MB", "GB", "TB"))


def _operations(num: float) -> str:
    return _scaled(num, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"))


def _scaled(num: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if num < 999.5:
            return f"{num:.3g} {unit}"
        num /= 1000
    return f"{num:.3g} {units[-1]}"
