"""The command line. Results go to stdout (`--json`: JSON alone), everything else to stderr.

Exit codes: mpqc.errors.EXIT_CODES.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpqc.cli.listing import Commands, Grouped, later
from mpqc.errors import EXIT_CODES
from mpqc.values.version import __version__

if TYPE_CHECKING:
    from mpqc.cli.requests import (
        Benching,
        Board,
        Calibrating,
        DemoFolder,
        Files,
        Fixed,
        Folder,
        Json,
        LabelledFiles,
        Measuring,
        Quiet,
        Running,
        Showing,
        Sweeping,
    )
    from mpqc.values.request import Forced, Judging, Options, Seeded, Shaped, Solving, Targeted

CODES = "Exit codes: " + ", ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."

app = typer.Typer(
    cls=Commands,
    epilog=CODES,
    help="Compiles trained networks to mixed-precision integer programs that fit a budget on a chip.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
targets_app = typer.Typer(
    cls=Commands, help="The chips that mpqc knows: list, show, check a file of your own.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(targets_app, name="targets")

Model = Annotated[Path, typer.Argument(help="network, an ONNX file", show_default=False)]
Analyzed = Annotated[Path, typer.Argument(help="output folder of `mpqc analyze` or `mpqc compile`", show_default=False)]


EXAMPLE = "Example: mpqc compile model.onnx --target cortex-a76 --budget-latency 20ms --data images/ --preset imagenet -o out"


@app.command(cls=Grouped, epilog=f"{EXAMPLE}\n\n{CODES}")
@later
def compile(model: Model, files: LabelledFiles, options: Options, showing: Showing) -> None:
    """Compiles a network inside budgets; writes QDQ ONNX, plan, report, module and bundle to the output folder."""
    from mpqc.cli.commands import compile_command

    compile_command(model, files, options, showing)


@app.command(cls=Grouped, epilog="Example: mpqc analyze model.onnx --data images/ --preset imagenet -o out")
@later
def analyze(model: Model, files: Files, reading: Measuring, targeted: Targeted, forced: Forced, showing: Showing) -> None:
    """Measures the sensitivity of every weight and activation at every width; writes sensitivities.json and sites.json."""
    from mpqc.cli.commands import analyze_command

    analyze_command(model, files, reading, targeted, forced, showing)


@app.command(cls=Grouped, epilog="Example: mpqc allocate out --budget-size 100kB")
@later
def allocate(folder: Analyzed, solving: Solving, showing: Json) -> None:
    """Solves for the best plan inside budgets from saved sensitivities; rewrites plan.json in the folder."""
    from mpqc.cli.commands import allocate_command

    allocate_command(folder, solving, showing)


@app.command(cls=Grouped, epilog="Example: mpqc build out")
@later
def build(folder: Analyzed, judging: Judging, showing: Showing) -> None:
    """Makes program, bundle and report of the plan.json that lies in the folder, edited or allocated anew."""
    from mpqc.cli.commands import build_command

    build_command(folder, judging, showing)


@app.command(cls=Grouped, epilog="Example: mpqc pareto out --over size --points 8")
@later
def pareto(folder: Analyzed, sweeping: Sweeping, solving: Solving, showing: Json) -> None:
    """Solves at many limits of one resource from saved sensitivities; writes pareto.json to the folder."""
    from mpqc.cli.commands import pareto_command

    pareto_command(folder, sweeping, solving, showing)


@app.command(cls=Grouped, epilog="Example: mpqc report out")
@later
def report(folder: Annotated[Path, typer.Argument(help="output folder of `mpqc compile`", show_default=False)], showing: Json) -> None:
    """Shows the report of a finished compile again."""
    from mpqc.cli.commands import report_command

    report_command(folder, showing)


@app.command(cls=Grouped, epilog="Example: mpqc explain out conv1")
@later
def explain(
    folder: Annotated[Path, typer.Argument(help="output folder of `mpqc compile`", show_default=False)],
    layer: Annotated[str, typer.Argument(help="name of a layer or tensor, or a part of it that no other has", show_default=False)],
    showing: Json,
) -> None:
    """Says why a layer runs as it does: its bits, range and histogram, and what its other widths would lose, take and store."""
    from mpqc.cli.commands import explain_command

    explain_command(folder, layer, showing)


@app.command(cls=Grouped, epilog="Example: mpqc check model.onnx --target cortex-a76")
@later
def check(model: Model, targeted: Targeted, fixed: Fixed, showing: Json) -> None:
    """Says of every operator what becomes of it: integer (with its time at 8 bits), float, or refused and why. Takes seconds, needs no data."""
    from mpqc.cli.commands import check_command

    check_command(model, targeted, fixed, showing)


@app.command(cls=Grouped, epilog="Example: mpqc lower model.qdq.onnx --target cortex-a76 -o out")
@later
def lower(
    model: Annotated[Path, typer.Argument(help="QDQ ONNX file, of mpqc or another tool", show_default=False)],
    chip: Board,
    folder: Folder,
    shaped: Shaped,
    forced: Forced,
    showing: Showing,
) -> None:
    """Compiles a QDQ ONNX file to a module and a bundle for the target."""
    from mpqc.cli.commands import lower_command

    lower_command(model, chip, folder, shaped, forced, showing)


@app.command("run", cls=Grouped, epilog="Example: mpqc run out --emulate --input x.npy --output y.npy")
@later
def run_program(
    folder: Annotated[Path, typer.Argument(help="output folder of `mpqc compile` or `mpqc lower`", show_default=False)],
    running: Running,
    showing: Json,
) -> None:
    """Runs a compiled network in the emulator, on this machine or on a board."""
    from mpqc.cli.commands import run_command

    run_command(folder, running, showing)


@app.command(cls=Grouped, epilog=f"Example: mpqc bench out --ssh pi@raspberrypi.local\n\n{CODES}")
@later
def bench(
    folder: Annotated[Path, typer.Argument(help="output folder of `mpqc compile` or `mpqc lower`", show_default=False)],
    benching: Benching,
    showing: Showing,
) -> None:
    """Times a compiled network on a board, beside all int8, float and other engines; writes bench.json and adds it to the report."""
    from mpqc.cli.bench import bench_command

    bench_command(folder, benching, showing)


@targets_app.command("list", cls=Grouped)
@later
def targets_list(showing: Json) -> None:
    """Lists the targets that come with mpqc."""
    from mpqc.cli.commands import targets_list_command

    targets_list_command(showing)


@targets_app.command("show", cls=Grouped)
@later
def targets_show(name: Annotated[str, typer.Argument(help="name or TOML file")], showing: Json) -> None:
    """Shows what mpqc knows of a target, with sources."""
    from mpqc.cli.commands import targets_show_command

    targets_show_command(name, showing)


@targets_app.command("check", cls=Grouped)
@later
def targets_check(file: Annotated[Path, typer.Argument(help="TOML file of a target, or the name of one that ships")]) -> None:
    """Checks a target file and its cost rows; lists every fault with file and key."""
    from mpqc.cli.commands import targets_check_command

    targets_check_command(file)


@app.command("calibrate-target", cls=Grouped, epilog="Example: mpqc calibrate-target cortex-a76 --emulator")
@later
def calibrate_target(
    target: Annotated[str, typer.Argument(help="a name of `mpqc targets list`, or a TOML file")], calibrating: Calibrating, showing: Quiet
) -> None:
    """Makes cost rows from the target's kernels; without --emulator, --ssh or --times: a folder to run on a board."""
    from mpqc.cli.calibrate import calibrate_target_command

    calibrate_target_command(target, calibrating, showing)


@app.command(cls=Grouped)
@later
def doctor(showing: Json) -> None:
    """Says what this machine has of what mpqc needs, and how to get the rest."""
    from mpqc.cli.commands import doctor_command

    doctor_command(showing)


@app.command(cls=Grouped)
@later
def demo(folder: DemoFolder, seeded: Seeded, forced: Forced, as_json: Json, quiet: Quiet) -> None:
    """Trains a small network on real images, compiles it under a latency budget and runs it in the emulator."""
    from mpqc.flow.demo import run_demo

    run_demo(folder.output_dir, seed=seeded.seed, quiet=quiet.quiet, force=forced.force, as_json=as_json.as_json)


def _version(asked: bool) -> None:
    if asked:
        print(f"mpqc {__version__}")
        raise typer.Exit


@app.callback()
def options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False) -> None:
    """Compiles trained networks to mixed-precision integer programs that fit a budget on a chip."""


def run(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with the documented code."""
    from mpqc.cli.errors import guarded
    from mpqc.cli.threads import bound_spinning

    bound_spinning()
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks is shown escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    sys.exit(guarded(lambda: app(args=arguments, prog_name="mpqc", standalone_mode=False), as_json=as_json))
