"""Names are data: markup, TeX, control characters, paths and devices as names of tensors, nodes, files and folders are carried and shown."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli_runs import Mpqc, samples, small_model
from tests.fuzz.odd import NAMES

USABLE = [name for name in NAMES if name]


def renamed(start: int) -> tuple[onnx.ModelProto, dict[str, str]]:
    """`small_model` with all names replaced by odd ones from the `start`-th on, and the new name of each tensor."""
    model, names, new = small_model(), itertools.cycle((*USABLE[start:], *USABLE[:start])), {}
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = new.setdefault(value.name, value.name if value.name in new else next(names))
    for node in model.graph.node:
        node.name = next(names)
        for part in (node.input, node.output):
            part[:] = [new[name] if name in new else new.setdefault(name, next(names)) for name in part]
    model.graph.name = next(names)
    return model, new


@pytest.mark.parametrize("start", range(0, len(USABLE), 24))
def test_every_name_is_carried_and_none_is_obeyed(mpqc: Mpqc, tmp_path: Path, start: int) -> None:
    model, new = renamed(start)
    onnx.save(model, tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", samples(2))
    done = mpqc("compile", tmp_path / "model.onnx", "--data", tmp_path / "x.npy", "--target", "abstract", "-q", "-o", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    assert set(done.out) - {"\n"} == {character for character in done.out if character.isprintable()}
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert new["w0"] in {choice["site"] for choice in plan["choices"]}
    page = (tmp_path / "out" / "report.html").read_text()
    assert (page.count("<script>"), page.count("</script>")) == (1, 2)  # the page's own, and its values
    assert all(character.isprintable() or character == "\n" for character in page + (tmp_path / "out" / "log.txt").read_text())
    again = onnx.load(tmp_path / "out" / "model.qdq.onnx")
    assert ([value.name for value in again.graph.input], [value.name for value in again.graph.output]) == ([new["x"]], [new["y"]])


def test_names_are_seen_whole_in_the_table(mpqc: Mpqc, tmp_path: Path) -> None:
    model, new = renamed(USABLE.index("[bold]"))
    onnx.save(model, tmp_path / "model.onnx")
    done = mpqc("analyze", tmp_path / "model.onnx", "-q", "-o", tmp_path / "out")
    assert done.code == 0
    assert (new["w0"], new["w2"]) == ("[/bold]", ":smile:")
    assert all(new[weight] in done.out for weight in ("w0", "w2"))


@pytest.mark.parametrize("name", [os.fsdecode(b"\xff"), "[bold]", "$x$", "a b\x1b[31m", "x" * 200, "=", "%s", "名"])
def test_files_and_folders_may_have_any_name(mpqc: Mpqc, tmp_path: Path, name: str) -> None:
    onnx.save(small_model(), str(tmp_path / "model.onnx"))
    (tmp_path / "model.onnx").rename(tmp_path / f"{name}.onnx")
    np.save(tmp_path / "x.npy", samples(2))
    (tmp_path / "x.npy").rename(tmp_path / f"{name}.npy")
    options = ("--data", tmp_path / f"{name}.npy", "--target", "abstract", "-q", "-o", tmp_path / name)
    done = mpqc("compile", tmp_path / f"{name}.onnx", *options)
    assert (done.code, done.err) == (0, "")
    assert all(character.isprintable() or character == "\n" for character in done.out)
    assert mpqc("report", tmp_path / name).code == 0
    assert json.loads((tmp_path / name / "report.json").read_text())["network"] == os.fsencode(name).decode("utf-8", "backslashreplace")
