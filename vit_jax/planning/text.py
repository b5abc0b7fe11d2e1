"""A plan as text for people."""

import textwrap
from typing import Any

from vit_jax.planning.estimate import Memory, in_gib


def describe(plan: dict[str, Any]) -> str:
    """The plan of `run_plan.plan_run` in paragraphs."""
    mesh = ", ".join(f"{name} {size}" for name, size in plan["mesh"].items())
    seconds = plan["trace_seconds"], plan["compile_seconds"]
    lines = [
        f"{plan['config']}, {plan['parameters']:,} parameters, {plan['dtype']}",
        f"on {plan['devices']} x {plan['device_kind']} ({plan['target']}), mesh {mesh}",
        f"batch {plan['batch_size']}, {plan['steps']:,} steps; traced in "
        f"{seconds[0]:.0f} s, compiled in {seconds[1]:.0f} s",
        "",
        *memory_lines(plan),
        *(beside_line(row) for row in plan.get("beside", ())),
    ]
    if plan["program"]:
        lines += ["", *program_lines(plan)]
    lines += [
        "",
        f"the whole run: {plan['total_flops'] / 1e18:.4g} exaFLOPs (6 a multiply-add, "
        f"as arXiv 2010.11929 counts), {plan['paper_core_days']:,.4g} TPUv3-core-days "
        "at the utilisation of its Table 2",
    ]
    return "\n".join(lines)


def memory_lines(plan: dict[str, Any]) -> list[str]:
    """The memory of a device, and whether the run fits."""
    memory = plan["memory"]
    lines = ["memory of a device"]
    for name in Memory._fields[:-1]:
        lines.append(f"  {name:12} {in_gib(memory[name]):>10}")
    if memory["available"]:
        lines[-1] += f" of {in_gib(memory['available'])}"
    if memory["share"] < 1:
        lines.append(
            f"  of the card's memory jax takes {memory['share']:.0%}; "
            "XLA_CLIENT_MEM_FRACTION changes that"
        )
    if memory["fits"] is not None:
        lines.append("  fits" if memory["fits"] else "  does not fit")
    if plan["advice"]:
        lines += ["  what helps, the cheapest first:"]
        lines += [f"    {option}" for option in plan["advice"]]
    return lines


def beside_line(row: dict[str, Any]) -> str:
    """The peak memory of another program than the step, and whether it fits."""
    verdict = {True: ", fits", False: ", does not fit", None: ""}[row["fits"]]
    return f"  at most {in_gib(row['peak'])} {row['program']}{verdict}"


def program_lines(plan: dict[str, Any]) -> list[str]:
    """The costs of a step on a device: arithmetic, bytes, communication, time."""
    program = plan["program"]
    lines = [
        "a step of a device",
        f"  {program['flops'] / 1e12:.4g} TFLOP, of which the model's are "
        f"{plan['model_flops'] / 1e12:.4g}",
        f"  {in_gib(program['bytes_accessed'])} moved as XLA counts, on the chip too; "
        f"{in_gib(program['hbm_bytes'])} from and to HBM, caches not considered",
        *kernel_lines(program),
    ]
    least = sum(row["sent"] for row in program["collectives"]) / 1000
    shown = [row for row in program["collectives"] if row["sent"] >= least]
    for row in shown:
        axes = "+".join(row["axes"]) or "-"
        lines.append(
            f"  {row['count']:4} {row['kind']:18} over {axes:12} {row['dtype']:5} "
            f"{in_gib(row['size']):>10}, {in_gib(row['sent'])} sent"
            + (f", {in_gib(row['network'])} by network" if row["network"] else "")
        )
    if others := len(program["collectives"]) - len(shown):
        lines.append(f"       and {others} kinds of less than a thousandth")
    if program["unknown_loops"]:
        lines.append(
            f"  {program['unknown_loops']} loops are counted once: the program does "
            "not say how often they run"
        )
    if least := plan.get("roofline"):
        times = [
            f"{name} {1e3 * least[name]:.4g} ms"
            for name in ("compute", "memory", "links", "network")
            if least[name] or name != "network"
        ]
        lines += [
            "",
            f"at best {1e3 * least['step']:.4g} ms a step, bound by {least['bound']} "
            f"({', '.join(times)}): {least['images/s']:,.0f} images/s",
            f"at best {least['hours']:,.4g} hours, {least['device_days']:,.4g} "
            "device-days",
        ]
        if least["network"] is None:
            lines.append(
                "not in these times: what is sent between slices, over a network whose "
                "speed is not known"
            )
        if speed := least["network_speed"]:
            lines.append(
                f"between hosts at {speed / 1e9:.4g} GB/s a GPU, the network of "
                "NVIDIA's DGX; others are slower"
            )
    return lines


def kernel_lines(program: dict[str, Any]) -> list[str]:
    """Library calls and generated kernels, the most frequent first."""
    kernels = [f"{count:,} {kind}" for kind, count in program["kernels"].items()]
    lines = textwrap.wrap(
        "kernels: " + ", ".join(kernels),
        width=88,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
    )
    if program["uncounted"]:
        lines.append(f"  arithmetic not counted of {', '.join(program['uncounted'])}")
    return lines
