"""A plan as text."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sde_diffusion.cli.say import counted

ESTIMATES = (
    "These are the estimates of {compiler} and the chip's peak figures; nothing was run. The body "
    "of a loop counts as often as it runs."
)
PROGRAMS = {"training": "The training step", "sampling": "The sampler's step"}


def table(path: str, found: dict[str, Any]) -> str:
    """The text that `plan` prints."""
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
        ESTIMATES.format(compiler=found["compiler"]),
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
    if any(_that_compute(column.get("kernels", ())) for column in columns):
        row("kernels beside them", _kernels)
    row("roofline floor", _floor)
    row("estimated time", value("estimate_seconds", _seconds))
    row("images a second", value("images_per_second", _number))
    row("compile time", value("compile_seconds", lambda seconds: f"{seconds:.1f} s"))
    return _aligned(rows, "<>>")


def _warnings(found: dict[str, Any]) -> list[str]:
    lines = []
    for name in ("training", "sampling"):
        if found[name]["fits"] is False:
            reason = found[name].get("reason", "")
            lines.append(
                f"DOES NOT FIT: {name} needs more memory than a device has. {reason}".rstrip()
            )
    if found["training"]["fits"] is False and "search" not in found:
        lines.append(
            "These take less memory: --config.network.remat=pointwise or blocks, "
            "--config.network.dtype=bfloat16, "
            f"--config.mesh.fsdp={found['devices'] // found['slices']}, "
            "--config.optim.accumulate=2, a smaller --config.training.batch_size. "
            "--search tries them."
        )
    if found["sampling"]["fits"] is False:
        lines.append("Sampling takes less memory with a smaller --config.sampling.batch_size.")
    return lines


def _notes(found: dict[str, Any]) -> list[str]:
    sampling, lines = found["sampling"], []
    if sampling["steps"] is None:
        lines.append("The solver chooses its steps; the costs of a step are those of one attempt.")
    else:
        lines.append(
            f"A sample takes {counted(sampling['steps'], 'step')} and "
            f"{counted(sampling['evaluations'], 'evaluation')} of the network, "
            f"{sampling['evaluations_a_step']} a step; images a second are whole samples."
        )
    for name, program in PROGRAMS.items():
        lines += _attention(program, found[name].get("attention", ()))
        lines += _loops(program, found[name].get("loops", ()))
        lines += _unestimated(program, found[name].get("kernels", ()))
    return lines


def _attention(program: str, chosen: Sequence[dict[str, Any]]) -> list[str]:
    sizes: dict[str, list[str]] = {}
    for each in chosen:
        size = f"{each['queries']:,} x {each['keys']:,}"
        sizes.setdefault(each["implementation"], []).append(size)
    listed = "; ".join(f"{name} for {', '.join(found)}" for name, found in sizes.items())
    return [f"{program} computes attention by {listed} (queries x keys)."] if sizes else []


def _loops(program: str, loops: Sequence[int | None]) -> list[str]:
    found, lines = Counter(loops), []
    unknown = found.pop(None, 0)
    if loops:
        each = ", ".join(f"{count} of {rounds} rounds" for rounds, count in found.items())
        lines.append(f"{program} has {len(loops)} loops{': ' * bool(found)}{each}.")
    if unknown:
        lines.append(
            f"Of its loops, {unknown} have a number of rounds that is not known; each counts once."
        )
    return lines


def _that_compute(kernels: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kernels that do more than move bytes, or may; the time of the others counts as well."""
    return [each for each in kernels if each["flops"] != 0]


def _unestimated(program: str, kernels: Sequence[dict[str, Any]]) -> list[str]:
    kernels = _that_compute(kernels)
    if not kernels:
        return []
    listed = ", ".join(
        f"{each['count']} x {each['name']} ({_flops(each)}, {_bytes(each['bytes'])})"
        for each in kernels
    )
    bound = any(each["flops"] is None for each in kernels)
    return [
        f"{program} has kernels that the compiler gives no cycles for: {listed}. Their time is the "
        "longer of their operations and their bytes at the chip's peak rates"
        + (", a lower bound where the operations are not known." if bound else ".")
    ]


def _flops(kernel: dict[str, Any]) -> str:
    return "operations not known" if kernel["flops"] is None else _operations(kernel["flops"])


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


def _kernels(column: dict[str, Any]) -> str:
    if "kernels" not in column:
        return "-"
    count = sum(each["count"] for each in _that_compute(column["kernels"]))
    return f"{count} ({_seconds(column['kernels_seconds'])})" if count else "none"


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
    bound = next(word for name, word in bounds.items() if column[f"{name}_seconds"] == floor)
    return f"{_seconds(floor)} ({bound})"


def _cycles(cycles: int | None) -> str:
    return "not given by this compiler" if cycles is None else f"{cycles:,}"


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
