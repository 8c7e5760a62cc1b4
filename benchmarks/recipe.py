"""How the training phase's recipe was chosen: ResNet-20 at 70 kB / 8 kB under variants of it, judged by the 5,000 held-out training images alone.

    python benchmarks/recipe.py                                        # the variants below; an hour or two
    python benchmarks/recipe.py --steps 1000 learning_rate=0.02        # one of your own: fields of mpqc.Recipe
    python benchmarks/recipe.py --unseen                               # and how near each is to the float network on pictures that it never saw
    python benchmarks/recipe.py --rates                                # without labels, on two milder rows: the recipe's rates and lowered ones
    python benchmarks/recipe.py --mix                                  # half of the pictures with boxes of others, and none

The float network has learned the held-out images too, so they favour weights that stay near its own. `--unseen` is a check on that: ImageNet
pictures at 32x32, on which the compiled network is compared with the float one (no labels). Test images have no part in any of this.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from accuracy import copy_measured, model_of, options_of
from accuracy_table import BY_NAME, Run
from cifar10_data import load_raw, normalised
from PIL import Image
from provenance import RESULTS, WORK, shared, write_results

from mpqc.flow.pipeline import compile_network
from mpqc.frontend import load_network
from mpqc.frontend.reference import Reference
from mpqc.numerics.interpreter import Interpreter
from mpqc.qdq.read.program import read_qdq
from mpqc.quantize.sites import find_sites
from mpqc.workspace.folder import MARKER
from mpqc.workspace.progress import Progress

ROW = "weights 70 kB, largest activation 8 kB"
VARIANTS: tuple[dict[str, Any], ...] = (
    {"learning_rate": 0.01, "step_learning_rate": 0.002, "oscillation": "freeze"},
    {"learning_rate": 0.01, "step_learning_rate": 0.002},
    {"learning_rate": 0.005, "step_learning_rate": 0.001},
    {"learning_rate": 0.0025, "step_learning_rate": 0.0005},
)
RATES = tuple((row, adapt) for row in ("average 4/4 bits", "BOPs of 4 bits") for adapt in (False, True))
"""Row, and whether `auto` may lower the recipe's rates"""
RATE_STEPS = 1000
LOWERED = "learning rates at "
"""How `auto`'s note about them begins"""
MIX: tuple[dict[str, Any], ...] = ({"augment": "flip_crop"}, {"augment": "flip_crop_mix"})
BOXES = ((0, 0, 227, 227), (0, 0, 160, 160), (67, 67, 227, 227), (50, 50, 177, 177))
"""Parts of a picture of 227x227 that are scaled to 32x32"""


def trained(steps: int, fields: dict[str, Any], row: str = ROW, *, labelled: bool = True) -> Path:
    """The folder of a compile of `row` with `fields` of the recipe replaced, computed where it is not there yet."""
    run = Run("resnet20", BY_NAME[row], "auto", 0)
    text = "_".join(f"{name}{value}" for name, value in sorted(fields.items()))
    text += "" if labelled else "_unlabelled"
    folder = WORK / "recipe" / (f"{steps}_{text}" if row == ROW else f"{run.key}_{steps}_{text}")
    if not (folder / "report.json").exists():
        options = options_of(run, find_sites(load_network(model_of(run.network))), steps, quick=False)
        assert options.training is not None
        raw, measured = load_raw(), WORK / "accuracy" / "measured"
        copy_measured(measured, folder / MARKER)
        options = replace(options, training=replace(options.training, **fields))
        labels = raw.train_labels if labelled else None
        compile_network(model_of(run.network), options, raw.train, output=folder, labels=labels, progress=Progress())
        copy_measured(folder / MARKER, measured)
    return folder


def measured(steps: int, fields: dict[str, Any], folder: Path) -> dict[str, object]:
    """The row of a variant: the held-out part at its best state."""
    training = json.loads((folder / "report.json").read_text(encoding="utf-8"))["training"]
    best = max(training["evaluations"], key=lambda item: (item["accuracy"], -item["loss"]))
    facts = {"steps": steps, "learning rate": fields.get("learning_rate"), "of steps": fields.get("step_learning_rate")}
    others = {name: value for name, value in fields.items() if name not in ("learning_rate", "step_learning_rate")}
    return {**facts, "other": str(others or "-"), "held out %": best["accuracy"], "held-out loss": best["loss"]}


def rate_rows(pictures: np.ndarray, logits: np.ndarray) -> Iterator[dict[str, object]]:
    """What RATES give where the float network alone teaches."""
    for row, adapt in RATES:
        folder = trained(RATE_STEPS, {"adapt_rates": adapt}, row, labelled=False)
        training = json.loads((folder / "report.json").read_text(encoding="utf-8"))["training"]
        loss = min(item["loss"] for item in training["evaluations"])
        lowered = [note for note in training["notes"] if note.startswith(LOWERED)]
        rates = f"{lowered[0].removeprefix(LOWERED).split()[0]} of the recipe's" if lowered else "the recipe's"
        yield {"constraint": row, "steps": RATE_STEPS, "learning rates": rates, "held-out loss": loss, **nearness(folder, pictures, logits)}


def unseen() -> np.ndarray:
    """uint8 [3200, 3, 32, 32]: four parts of each of 800 ImageNet pictures."""
    views = []
    with tarfile.open(shared("data/imagenet_val800_227.tar")) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            if file is not None and member.name.lower().endswith((".jpg", ".jpeg")):
                picture = Image.open(io.BytesIO(file.read())).convert("RGB")
                views += [np.asarray(picture.crop(box).resize((32, 32), Image.Resampling.LANCZOS)) for box in BOXES]
    return np.stack(views).transpose(0, 3, 1, 2)


def taught(pictures: np.ndarray) -> np.ndarray:
    """Logits of the float network."""
    network = load_network(model_of("resnet20"))
    reference, key = Reference(network.model), network.inputs[0].name
    return np.concatenate([reference.run({key: normalised(picture[None])})[network.outputs[0].name] for picture in pictures])


def nearness(folder: Path, pictures: np.ndarray, logits: np.ndarray) -> dict[str, object]:
    """How often the compiled network agrees with the float one, and the mean KL divergence."""
    program = read_qdq(onnx.load(str(folder / "model.qdq.onnx")))
    ours = Interpreter(program).run({program.inputs[0]: normalised(pictures)})[program.outputs[0]].reshape(logits.shape)
    log_ours, log_theirs = _log_softmax(ours), _log_softmax(logits)
    divergence = (np.exp(log_theirs) * (log_theirs - log_ours)).sum(1).mean()
    return {"unseen, same class %": 100 * float(np.mean(ours.argmax(1) == logits.argmax(1))), "unseen, KL": float(divergence)}


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def parsed(texts: list[str]) -> dict[str, Any]:
    """`name=value` as fields of a recipe."""
    pairs = [text.split("=", 1) for text in texts]
    return {name: _value(value) for name, value in pairs}


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("fields", nargs="*", help="name=value of mpqc.Recipe, in place of the variants")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--unseen", action="store_true")
    parser.add_argument("--mix", action="store_true", help="two phases of --steps")
    parser.add_argument("--rates", action="store_true", help=f"{len(RATES)} phases of {RATE_STEPS} steps")
    given = parser.parse_args()
    pictures = unseen() if given.unseen or given.rates or given.mix else None
    logits = taught(pictures) if pictures is not None else None
    rows: list[dict[str, object]] = []
    if given.rates and pictures is not None and logits is not None:
        for row in rate_rows(pictures, logits):
            rows.append(row)
            print(row, flush=True)
            write_results("rates", "Learning rates without labels where bits are less scarce, auto, one seed", rows, [NOTE])
        return
    for fields in (parsed(given.fields),) if given.fields else MIX if given.mix else VARIANTS:
        folder = trained(given.steps, fields)
        near = nearness(folder, pictures, logits) if pictures is not None and logits is not None else {}
        rows.append({**measured(given.steps, fields, folder), **near})
        print(rows[-1], flush=True)
    if not given.fields:
        name = "mix" if given.mix else "recipe"
        write_results(name, f"{TITLES[name]}: {ROW}, auto, one seed", rows, [NOTE])
        print(f"written to {RESULTS / f'{name}.md'}")


TITLES = {"recipe": "The training recipe, by held-out images", "mix": "Pictures with boxes of others, by held-out images"}
NOTE = """Held-out images are 5,000 of the training images; the float network has learned them too. `unseen`: 3,200 parts of ImageNet pictures at
32x32, on which the compiled network is compared with the float one. Fields not named are the recipe's defaults (oscillation: none)."""


if __name__ == "__main__":
    main()
