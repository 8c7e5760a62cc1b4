"""Network and data -> sites, calibration and sensitivities, each from its checkpoint where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpqc.data.batches import Split
from mpqc.errors import UsageError
from mpqc.flow.agreement import MOST
from mpqc.flow.phases import CALIBRATION, SENSITIVITIES, CalibrationInputs, SensitivityInputs
from mpqc.flow.results import Analysis
from mpqc.pruning import fit as pruning
from mpqc.values.request import AUTO, Options, Reading
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site_file import write_sites
from mpqc.workspace.job import Job
from mpqc.workspace.log_file import LOG

if TYPE_CHECKING:
    from mpqc.data.batches import Batches
    from mpqc.training.samples import Samples
    from mpqc.values.network import Network
    from mpqc.values.plan import Plan
    from mpqc.values.preprocessing import Preprocessing
    from mpqc.values.recipe import Recipe
    from mpqc.values.site import SiteTable

ALL = 1 << 40
"""Samples to take where all are wanted"""


@dataclass(frozen=True, eq=False)
class Material:
    """What a run works on."""

    source: Any
    """Path, ModelProto or Module"""
    data: Any = None
    labels: np.ndarray | None = None
    """One a sample of the data: class indices, or what the metric takes"""
    classes: bool = True
    """Whether they have to be class indices"""
    solved: Plan | None = None
    """The plan that the allocator found before, for the same network and data"""

    @property
    def name(self) -> str:
        """What log.txt calls the network before it is read."""
        return str(self.source) if isinstance(self.source, (str, Path)) else type(self.source).__name__


@dataclass(frozen=True, eq=False)
class _Read:
    """What the sources hold."""

    network: Network
    table: SiteTable
    whole: Batches
    """All samples that were opened, with their labels"""
    split: Split
    samples: Samples | None
    labels: np.ndarray | None
    """Of `whole`"""
    notes: tuple[str, ...] = ()


def analyze_network(material: Material, options: Options, job: Job) -> Analysis:
    """Imports the network, finds its sites, calibrates and measures sensitivities (from checkpoints where they are).

    Raises, before any of the slow phases, LoweringError where a node cannot be in a program and DataError where data or labels do not fit.
    """
    from mpqc.data.batches import notes_on_scale
    from mpqc.flow.float_check import warnings_on
    from mpqc.flow.lowerable import check_lowerable
    from mpqc.flow.plan_choice import check_fixed
    from mpqc.quantize.byte_sites import byte_sites
    from mpqc.quantize.winograd import with_forms
    from mpqc.targets import load_target

    with job.progress.phase("import"):
        read = _read(material, options.reading, options.training)
        target = load_target(options.target)
        check_fixed(options.fixed, read.table, target)
        check_lowerable(read.network, read.table, target)
    with job.progress.phase("float network"):
        suspicions = warnings_on(read.network, read.whole, read.labels)
    for note in (*read.network.notes, *read.notes, *read.whole.notes, *notes_on_scale(read.whole), *suspicions):
        job.progress.warn(note)
    pruned = pruning.pruned_to_fit(_pruning(read, options), job)
    network, table, batches, target = pruned.network, pruned.table, read.split.calibrated, load_target(options.target)
    LOG.debug("network %s", network.digest)
    with job.progress.phase("calibrate"):
        calibration = CALIBRATION.run(job.workspace, CalibrationInputs(network, table, batches, range_method(options.ranges, batches)))
        if options.fold_preprocessing:
            calibration = calibration.with_bytes(byte_sites(table, network.inputs[0].name))
        if options.weight_grid == AUTO:
            calibration = calibration.with_half(target.choices.half_integer_weights)
    with job.progress.phase("sensitivities"):
        sensitivities = _measured(Analysis(network, table, batches, calibration, None), options.method, options.seed, job)
    if not options.training:  # which changes weights
        table = with_forms(table, calibration, is_rounding_open=options.repairing.steps > 0)
    job.workspace.write_text("sites.json", write_sites(table))
    original = read.network if pruned.removed else None
    return Analysis(network, table, batches, calibration, sensitivities, read.samples, original, read.whole, read.split.held_out, doubts=suspicions)


def range_method(asked: str, batches: Batches) -> str:
    """One of calibration's METHODS. Made-up inputs have no frequent values that rare ones could be clipped for."""
    if asked != AUTO:
        return asked
    return "minmax" if batches.origin == "noise" else "mse"


def _read(material: Material, reading: Reading, recipe: Recipe | None) -> _Read:
    from mpqc.data.batches import beside, check_bytes, open_data, split
    from mpqc.data.sources import rereadable
    from mpqc.frontend import load_network
    from mpqc.quantize.sites import find_sites

    _check_reading(reading, material.data)
    fold = reading.preprocessing if reading.fold_preprocessing else None
    network = load_network(material.source, shapes=reading.shapes, values=reading.values, example_inputs=reading.example_inputs, fold=fold)
    table = find_sites(network)
    data = material.data if recipe is None else rereadable(material.data)
    notes = notes_on_classes(data, network)
    opening = partial(open_data, data, network.inputs, preprocessing=reading.preprocessing, seed=reading.seed, noise=reading.input_range)
    _check_declared(reading.preprocessing, data, network)
    if recipe is not None:
        whole = opening(limit=reading.samples)
        samples = _samples(opening(limit=ALL, labels=not notes), material.labels, recipe)
        return _Read(network, table, whole, Split(whole, None), samples, None)
    opened = opening(limit=reading.samples if data is None else beside(reading.samples), labels=not notes)
    whole = opened if material.labels is None else _labelled(opened, material)
    if fold is not None:
        check_bytes(whole)
    return _Read(network, table, whole, split(whole, reading.samples, MOST), None, labels_of(whole), notes)


def _labelled(batches: Batches, material: Material) -> Batches:
    """`batches` with the labels that were given beside the data."""
    from mpqc.data.batches import check_labels, labelled_by
    from mpqc.data.sources import labels_taken

    assert material.labels is not None
    taken = labels_taken(material.labels, material.data, batches.limit)
    check_labels(taken, batches, classes=material.classes)
    return labelled_by(batches, taken)


def labels_of(batches: Batches) -> np.ndarray | None:
    """The labels of all samples; None where one has none."""
    found = []
    for _, label in batches.labelled():
        if label is None:
            return None
        found.append(label)
    return np.concatenate(found)


def notes_on_classes(data: Any, network: Network) -> tuple[str, ...]:
    """A warning where folders are named like classes and are not the network's: then they are no labels."""
    from mpqc.data.sources import class_names

    names, shape = class_names(data), network.outputs[0].shape if network.outputs else ()
    classes = shape[1] if len(shape) > 1 else 0
    if not names or len(names) == classes:
        return ()
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    found = f"{len(names)} folders ({some}) are no labels: the network has {classes} classes"
    return (f"{found}; name each folder by the number of its class, or give --labels",)


def _check_declared(asked: Preprocessing, data: Any, network: Network) -> None:
    """Raises UsageError for pictures whose pixels nobody said how to prepare: at the wrong scale a network knows nothing, and nobody would see it."""
    from mpqc.data.batches import open_data
    from mpqc.data.sources import holds_pictures
    from mpqc.flow.float_check import SAMPLES, describe_fits, rank_presets

    if asked.declared or not holds_pictures(data):
        return
    fits = rank_presets(network, lambda form: open_data(data, network.inputs, limit=SAMPLES, preprocessing=form))
    hint = "add --preset NAME, or --mean and --std (raw takes pixels as they are, 0 to 255)"
    raise UsageError("nobody said how these pictures become what the network takes", where=str(data), why=describe_fits(fits), hint=hint)


def _check_reading(reading: Reading, data: Any) -> None:
    if data is None and reading.preprocessing.declared:
        raise UsageError("there are no images to normalise", where="--preset, --mean, --std", hint="give --data, or leave them out")
    if data is not None and reading.input_range is not None:
        raise UsageError("the range is for noise, and there is data", where="--input-range", hint="leave it out")


def _samples(batches: Batches, labels: np.ndarray | None, recipe: Recipe) -> Samples:
    from mpqc.training.samples import collect

    return collect(batches, labels, recipe)


def _pruning(read: _Read, options: Options) -> pruning.Inputs:
    from mpqc.targets import load_target

    return pruning.Inputs(
        network=read.network,
        table=read.table,
        batches=read.split.calibrated,
        asked=options.pruning,
        target=load_target(options.target),
        budgets=options.budgets,
        fixed=options.fixed,
        planned=() if options.plan is None else options.plan.pruned,
        seed=options.seed,
    )


def _measured(known: Analysis, wanted: str | None, seed: int, job: Job) -> Sensitivities | None:
    """Sensitivities at every width that any target offers; None for plans that need none. Without data, round-off alone."""
    if wanted is None:
        return None
    method = "roundoff" if known.batches.origin == "noise" else wanted
    found = SENSITIVITIES.run(job.workspace, SensitivityInputs(known.network, known.table, known.calibration, known.batches, method, seed))
    job.workspace.write_text("sensitivities.json", found.to_json())
    return found
