"""The command line. Results go to stdout (`--json`: JSON alone), everything else to stderr.

Exit codes: 0 ok, 1 failure, 2 usage, 3 budget infeasible, 4 guard failed, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mpqc.cli.budgets import over_help, with_budgets
from mpqc.cli.options import (
    TrainingTexts,
    existing,
    parse_channels,
    parse_fixed,
    parse_range,
    parse_shapes,
    parse_training,
    parse_values,
)
from mpqc.values.budget import Budget
from mpqc.values.version import __version__

app = typer.Typer(
    help="Compiles trained networks to mixed-precision integer programs that fit a budget on a chip.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
targets_app = typer.Typer(help="The chips that mpqc knows: list, show, check a file of your own.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(targets_app, name="targets")

Model = Annotated[Path, typer.Argument(help="network, an ONNX file", show_default=False)]
Target = Annotated[str, typer.Option("--target", "-t", help="a name of `mpqc targets list`, or a TOML file")]
Output = Annotated[Path, typer.Option("--output-dir", "-o", help="folder for all files written")]
Data = Annotated[Path | None, typer.Option(help="calibration samples: .npy, .npz (keys are input names), a folder of images or .npy")]
Samples = Annotated[int, typer.Option(min=1, help="calibration samples to take")]
Shape = Annotated[list[str], typer.Option(help="fixed shape of an input, NAME=1x3x224x224 (repeat for more)")]
Value = Annotated[list[str], typer.Option(help="an input that becomes a constant, NAME=NUMBER (repeat for more)")]
Mean = Annotated[str | None, typer.Option(help="subtracted from image channels in 0..255: 123.7,116.3,103.5")]
InputRange = Annotated[str | None, typer.Option(help="least and largest value of the inputs, where there is no --data: 0,255")]
Std = Annotated[str | None, typer.Option(help="divides image channels after the mean: 58.4,57.1,57.4")]
Ranges = Annotated[str, typer.Option(help="how ranges are chosen: mse, minmax or percentile")]
Strategy = Annotated[str, typer.Option(help="fit, distance or roundoff measure sensitivities; uniform gives all sites --bits")]
TrainedStrategy = Annotated[
    str | None,
    typer.Option(
        help="before training: fit (the default), distance or roundoff measure sensitivities, uniform gives all sites --bits; "
        "while training: auto (the default), qbitopt, dq, fracbits or mixquant change bits inside the budgets"
    ),
]
QatSteps = Annotated[int | None, typer.Option(min=1, help="optimizer steps of a training phase (quantization-aware training)")]
QatTime = Annotated[str | None, typer.Option(help="time that the training phase may take instead, for example 10m")]
QatBatch = Annotated[int | None, typer.Option(min=1, help="samples a training step, over all processes (128)")]
QatRate = Annotated[float | None, typer.Option(help="peak learning rate of the weights (0.005)")]
Augment = Annotated[
    str | None, typer.Option(help="none | flip_crop: pictures mirrored and shifted at random | flip_crop_mix: and half of them with a box of another")
]
TeacherCache = Annotated[
    Path | None, typer.Option(help="folder that keeps the float network's outputs while training: a second training on the same data is faster")
]
Prune = Annotated[
    str, typer.Option(help="channels that go before training: auto (the least that lets 2 bits and more fit), none, or a part of the weights (0.3)")
]
Bits = Annotated[str, typer.Option(help="weight/activation bits of the strategy uniform")]
Fix = Annotated[list[str], typer.Option(help="bits that you decide, SITE=BITS or SITE=float (repeat for more)")]
Seed = Annotated[int, typer.Option(min=0, help="seed of everything random")]
SolverTime = Annotated[float, typer.Option(min=0.1, help="seconds the allocator may take")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress lines")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="debug lines on stderr; log.txt has them always")]
AllowSlower = Annotated[bool, typer.Option("--allow-slower", help="accept a plan that is slower than all int8 (else exit code 4)")]
Price = Annotated[bool, typer.Option("--price", help="price the built program under the emulator; a latency budget then holds for that time")]
Pricer = Annotated[Path | None, typer.Option(help="pricing tool; without it $MPQC_PRICER, else a76time on PATH")]
Force = Annotated[bool, typer.Option("--force", help="write into a folder with other files")]


@app.command(epilog="Example: mpqc compile model.onnx --target cortex-a76 --budget-latency 20ms --data images/ -o out")
@with_budgets
def compile(
    model: Model,
    target: Target = "cortex-a76",
    output_dir: Output = Path("out"),
    data: Data = None,
    labels: Annotated[
        Path | None, typer.Option(help=".npy of class indices, one a sample of --data: accuracy goes into the report, training learns from them")
    ] = None,
    samples: Samples = 256,
    shape: Shape = [],  # noqa: B006
    value: Value = [],  # noqa: B006
    mean: Mean = None,
    std: Std = None,
    input_range: InputRange = None,
    ranges: Ranges = "mse",
    strategy: TrainedStrategy = None,
    qat_steps: QatSteps = None,
    qat_time: QatTime = None,
    qat_batch: QatBatch = None,
    qat_rate: QatRate = None,
    augment: Augment = None,
    teacher_cache: TeacherCache = None,
    prune: Prune = "",
    bits: Bits = "8/8",
    plan: Annotated[Path | None, typer.Option(help="plan.json to obey instead of solving for one")] = None,
    budgets: tuple[Budget, ...] = (),
    fix: Fix = [],  # noqa: B006
    price: Price = False,
    pricer: Pricer = None,
    allow_slower: AllowSlower = False,
    opset: Annotated[int | None, typer.Option(min=13, max=25, help="opset of the QDQ file; below 21 narrow integers are stored as int8")] = None,
    seed: Seed = 0,
    solver_time: SolverTime = 20.0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    force: Force = False,
) -> None:
    """Compiles a network inside budgets; writes QDQ ONNX, plan, report, module and bundle to the output folder."""
    from mpqc.cli.commands import Analyzing, Checking, Showing, compile_command

    channels = parse_channels(mean, "--mean"), parse_channels(std, "--std")
    reading = Analyzing(model, output_dir, data, samples, parse_shapes(shape), parse_values(value), *channels, parse_range(input_range), ranges)
    showing = Showing(as_json, quiet, verbose)
    training = parse_training(TrainingTexts(qat_steps, qat_time, qat_batch, qat_rate, augment), seed)
    method = strategy or ("auto" if training and plan is None else "fit")
    fixed, checks = parse_fixed(fix), Checking(price, pricer, allow_slower)
    compile_command(
        reading, target, budgets, method, bits, labels, plan, fixed, checks, opset, seed, solver_time, force, showing, training, teacher_cache, prune
    )


@app.command(epilog="Example: mpqc analyze model.onnx --data images/ -o out")
def analyze(
    model: Model,
    target: Target = "cortex-a76",
    output_dir: Output = Path("out"),
    data: Data = None,
    samples: Samples = 256,
    shape: Shape = [],  # noqa: B006
    value: Value = [],  # noqa: B006
    mean: Mean = None,
    std: Std = None,
    input_range: InputRange = None,
    ranges: Ranges = "mse",
    strategy: Strategy = "fit",
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    force: Force = False,
) -> None:
    """Measures the sensitivity of every weight and activation at every width; writes sensitivities.json and sites.json."""
    from mpqc.cli.commands import Analyzing, Showing, analyze_command

    channels = parse_channels(mean, "--mean"), parse_channels(std, "--std")
    reading = Analyzing(model, output_dir, data, samples, parse_shapes(shape), parse_values(value), *channels, parse_range(input_range), ranges)
    analyze_command(reading, target, strategy, seed, force, Showing(as_json, quiet, verbose))


@app.command(epilog="Example: mpqc allocate out --budget-size 100kB")
@with_budgets
def allocate(
    folder: Annotated[Path, typer.Argument(help="output folder of `mpqc analyze` or `mpqc compile`", show_default=False)],
    target: Target = "cortex-a76",
    budgets: tuple[Budget, ...] = (),
    fix: Fix = [],  # noqa: B006
    seed: Seed = 0,
    solver_time: SolverTime = 20.0,
    as_json: Json = False,
) -> None:
    """Solves for the best plan inside budgets from saved sensitivities; rewrites plan.json in the folder."""
    from mpqc.cli.commands import allocate_command

    allocate_command(existing(folder, "folder"), target, budgets, parse_fixed(fix), seed, solver_time, as_json)


@app.command(epilog="Example: mpqc pareto out --over size --points 8")
def pareto(
    folder: Annotated[Path, typer.Argument(help="output folder of `mpqc analyze` or `mpqc compile`", show_default=False)],
    over: Annotated[str, typer.Option(help=over_help())] = "size",
    points: Annotated[int, typer.Option(min=2, max=100, help="limits from the least possible to what the best plan uses")] = 8,
    target: Target = "cortex-a76",
    fix: Fix = [],  # noqa: B006
    seed: Seed = 0,
    solver_time: SolverTime = 20.0,
    as_json: Json = False,
) -> None:
    """Solves at many limits of one resource from saved sensitivities; writes pareto.json to the folder."""
    from mpqc.cli.commands import pareto_command

    pareto_command(existing(folder, "folder"), over, points, target, parse_fixed(fix), seed, solver_time, as_json)


@app.command(epilog="Example: mpqc report out")
def report(folder: Annotated[Path, typer.Argument(help="output folder of `mpqc compile`", show_default=False)], as_json: Json = False) -> None:
    """Shows the report of a finished compile again."""
    from mpqc.cli.commands import report_command

    report_command(existing(folder, "folder"), as_json)


@app.command(epilog="Example: mpqc lower model.qdq.onnx --target cortex-a76 -o out")
def lower(
    model: Annotated[Path, typer.Argument(help="QDQ ONNX file, of mpqc or another tool", show_default=False)],
    target: Target = "cortex-a76",
    output_dir: Output = Path("out"),
    shape: Shape = [],  # noqa: B006
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    force: Force = False,
) -> None:
    """Compiles a QDQ ONNX file to a module and a bundle for the target."""
    from mpqc.cli.commands import Showing, lower_command

    lower_command(existing(model, "model"), target, output_dir, parse_shapes(shape), force, Showing(as_json, quiet, verbose))


@app.command("run", epilog="Example: mpqc run out --emulate --input x.npy --output y.npy")
def run_program(
    folder: Annotated[Path, typer.Argument(help="output folder of `mpqc compile` or `mpqc lower`", show_default=False)],
    emulate: Annotated[bool, typer.Option("--emulate", help="run the bundle under qemu-aarch64")] = False,
    host: Annotated[bool, typer.Option("--host", help="run the same program compiled for this machine")] = False,
    inputs: Annotated[list[Path], typer.Option("--input", help=".npy for each input, in order; without it the bundle's own inputs")] = [],  # noqa: B006
    output: Annotated[Path | None, typer.Option(help="file for the first output (.npy) or all of them (.npz)")] = None,
    threads: Annotated[int, typer.Option(min=1, max=64)] = 1,
    as_json: Json = False,
) -> None:
    """Runs a compiled network in the emulator or on this machine."""
    from mpqc.cli.commands import run_command

    run_command(existing(folder, "folder"), emulate, host, inputs, output, threads, as_json)


@targets_app.command("list")
def targets_list(as_json: Json = False) -> None:
    """Lists the targets that come with mpqc."""
    from mpqc.cli.commands import targets_list_command

    targets_list_command(as_json)


@targets_app.command("show")
def targets_show(name: Annotated[str, typer.Argument(help="name or TOML file")], as_json: Json = False) -> None:
    """Shows what mpqc knows of a target, with sources."""
    from mpqc.cli.commands import targets_show_command

    targets_show_command(name, as_json)


@targets_app.command("check")
def targets_check(file: Annotated[Path, typer.Argument(help="TOML file of a target")]) -> None:
    """Checks a target file and its cost rows; lists every fault with file and key."""
    from mpqc.cli.commands import targets_check_command

    targets_check_command(existing(file, "target file"))


@app.command("calibrate-target", epilog="Example: mpqc calibrate-target cortex-a76 --emulator")
def calibrate_target(
    target: Annotated[str, typer.Argument(help="a name of `mpqc targets list`, or a TOML file")],
    output_dir: Output = Path("calibration"),
    emulator: Annotated[bool, typer.Option("--emulator", help="price the kernels with a pricing tool under the emulator: rows `modelled`")] = False,
    pricer: Pricer = None,
    rpc: Annotated[str | None, typer.Option(help="time the kernels on a board by ssh, [USER@]HOST[:PORT]: rows `measured on DEVICE`")] = None,
    times: Annotated[Path | None, typer.Option(help="what run.sh printed on the board: makes cost rows of it")] = None,
    device: Annotated[str | None, typer.Option(help="the board that times come from, for the rows' origin (--rpc: else its host name)")] = None,
    only: Annotated[list[str], typer.Option(help="a kernel of the grid (repeat for more); others keep their rows")] = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Makes cost rows from the target's kernels; without --emulator, --rpc or --times: a folder to run on a board."""
    from mpqc.cli.calibrate import Calibrating, calibrate_target_command

    given = times and existing(times, "times")
    calibrate_target_command(Calibrating(target, output_dir, emulator, pricer, rpc, given, device, tuple(only), quiet))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Says what this machine has of what mpqc needs, and how to get the rest."""
    from mpqc.cli.commands import doctor_command

    doctor_command(as_json)


@app.command()
def demo(output_dir: Output = Path("demo-out"), seed: Seed = 0, as_json: Json = False, quiet: Quiet = False, force: Force = False) -> None:
    """Trains a small network on real images, compiles it under a latency budget and runs it in the emulator."""
    from mpqc.flow.demo import run_demo

    run_demo(output_dir, seed=seed, quiet=quiet, force=force, as_json=as_json)


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
    sys.exit(guarded(lambda: app(args=arguments, prog_name="mpqc", standalone_mode=False)))
