"""How much of some modules their tests hold fast: how many changes of one operator, comparison, condition or number no test notices.

    python benchmarks/mutate.py                          # 40 changes of each of MODULES, drawn with a seed
    python benchmarks/mutate.py --all mpqc/cost/fit.py   # every change of one
    python benchmarks/mutate.py --all --write MODULE ... # into benchmarks/results/mutation.md, beside the modules of earlier runs

Per module: one pytest session collects its tests, a first run notes which tests run which of its functions, and every change (mutants.py) is
tried in a process of its own that runs the tests of its line, fastest first, until one fails. A change survives where none does. Changes that
alter no result, named with the reason in mutated.py, are counted apart. Exits with 1 where LIMIT or more of a module's changes survive.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import pickle
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mutants import Mutant, apply_to, functions_of, mutants
from mutated import EQUIVALENT, MODULES
from provenance import REPO, RESULTS, SMOKE, provenance

LIMIT = 0.10
SECONDS = 3.0
"""Of CPU that a change may take beyond five times the tests' own: what hangs is noticed"""
LONGEST = 600.0
"""Seconds after which a process is ended that waits without computing"""
ALIVE, BROKEN = 0, 255
QUIET = ("-o", "addopts=", "-x", "-p", "no:cacheprovider", "-p", "no:terminal", "-m", "not emulator")


@dataclass(frozen=True)
class Survivor:
    """A change that no test notices."""

    line: int
    change: str
    why: str


@dataclass(frozen=True)
class Outcome:
    """Of one module."""

    changes: int
    survivors: tuple[Survivor, ...]
    equivalent: tuple[Survivor, ...]
    seconds: float

    @property
    def share(self) -> float:
        """Of changes that survive though they alter a result."""
        return len(self.survivors) / max(self.changes, 1)


@dataclass(frozen=True)
class Reach:
    """What a test needs and runs."""

    seconds: float
    lines: frozenset[int]
    """Of the module, by whole functions"""


@dataclass(eq=False)
class Trial:
    """A running process that tries a change."""

    descriptor: int
    end: float
    mutant: Mutant
    tests: list[str]


@dataclass(eq=False)
class Mutation:
    """The pytest plugin: instead of running the tests once it runs them for each change of `module`."""

    path: str
    workers: int
    sample: int | None
    seed: int
    changes: int = 0
    alive: list[tuple[Mutant, str]] = field(default_factory=list)
    reach: dict[str, Reach] = field(default_factory=dict)
    killers: list[str] = field(default_factory=list)
    """Node ids of tests that noticed a change, the latest last"""
    running: dict[int, Trial] = field(default_factory=dict)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """The whole run. Raises RuntimeError where the tests fail without a change."""
        module = importlib.import_module(self.path.removesuffix(".py").replace("/", "."))
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # one folder for all children
        self.reach, loaded = _in_child(lambda: _traced(session.items, str(module.__file__)))
        for name in loaded:  # once, here, instead of in each child
            _import(name)
        functions = functions_of(module)
        gc.freeze()  # what is there stays: no child has to look at it
        todo = self._drawn(list(mutants(Path(str(module.__file__)).read_text(encoding="utf-8"))))
        self.changes = len(todo)
        for mutant in todo:
            while len(self.running) >= self.workers:
                self._collect()
            self._start(session, lambda mutant=mutant: apply_to(module, functions, mutant), mutant)
        while self.running:
            self._collect()
        return True

    def _drawn(self, found: list[Mutant]) -> list[Mutant]:
        if self.sample is None or self.sample >= len(found):
            return found
        return sorted(random.Random(self.seed).sample(found, self.sample), key=lambda mutant: mutant.line)

    def _start(self, session: pytest.Session, change: Callable[[], None], mutant: Mutant) -> None:
        tests = [item for item in session.items if mutant.statement is not None or mutant.line in self.reach[item.nodeid].lines]
        if not tests:
            self.alive.append((mutant, "no test runs it"))
            return
        latest = {name: place for place, name in enumerate(self.killers)}
        tests.sort(key=lambda item: (self.reach[item.nodeid].seconds > 1, -latest.get(item.nodeid, -1), self.reach[item.nodeid].seconds))
        allowed = 5 * sum(self.reach[item.nodeid].seconds for item in tests) + SECONDS
        child = os.fork()
        if child == 0:
            os._exit(_try(change, tests, allowed))
        self.running[child] = Trial(os.pidfd_open(child), time.monotonic() + LONGEST, mutant, [item.nodeid for item in tests])

    def _collect(self) -> None:
        first = min(trial.end for trial in self.running.values())
        ready, _, _ = select.select([trial.descriptor for trial in self.running.values()], [], [], max(0.0, first - time.monotonic()))
        for child, trial in list(self.running.items()):
            if trial.descriptor not in ready:
                if time.monotonic() <= trial.end:
                    continue
                os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            os.close(trial.descriptor)
            del self.running[child]
            self._judge(trial, os.WEXITSTATUS(status) if os.WIFEXITED(status) else BROKEN)

    def _judge(self, trial: Trial, code: int) -> None:
        if code == ALIVE:
            self.alive.append((trial.mutant, "no test notices"))
            print(f"  {self.path}, {trial.mutant}", flush=True)
        elif code < BROKEN:
            killer = trial.tests[code - 1]
            self.killers = [*(name for name in self.killers if name != killer), killer]

    def outcome(self, seconds: float) -> Outcome:
        """What the run found."""
        found = [(self._reason(mutant), Survivor(mutant.line, f"{mutant.old}  >  {mutant.new}", why)) for mutant, why in self.alive]
        same = tuple(Survivor(one.line, one.change, reason) for reason, one in found if reason)
        return Outcome(self.changes, tuple(one for reason, one in found if not reason), same, seconds)

    def _reason(self, mutant: Mutant) -> str:
        """Why it alters no result; empty where it does."""
        line = (REPO / self.path).read_text(encoding="utf-8").splitlines()[mutant.line - 1]
        known = EQUIVALENT.get(self.path, {})
        return next((why for (part, change), why in known.items() if part in line and change == f"{mutant.old}  >  {mutant.new}"), "")


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception:
        return  # a module of another name's making


def _try(change: Callable[[], None], tests: list[pytest.Item], seconds: float) -> int:
    """ALIVE where no test notices, else the place of the one that does, from 1, or BROKEN."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(spent.ru_utime + spent.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    _mute()
    try:
        change()
    except KeyError:
        raise  # the fault of this script, not of the change
    except Exception:
        return BROKEN  # a module that cannot be imported is noticed
    for index, item in enumerate(tests):
        if not _passes(item, tests[index + 1] if index + 1 < len(tests) else None):
            return min(index + 1, BROKEN)
    return ALIVE


def _mute() -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)


def _in_child(work: Callable[[], object]) -> tuple[dict[str, Reach], tuple[str, ...]]:
    """What `work` returns in a process of its own, so that nothing stays of it here."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _mute()
        with os.fdopen(write, "wb") as pipe:
            pipe.write(pickle.dumps(work()))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    if not data:
        raise RuntimeError("the tests fail without a change: run them by themselves first")
    return pickle.loads(data)  # type: ignore[no-any-return]  # what the child above wrote


def _traced(items: list[pytest.Item], file: str) -> tuple[dict[str, Reach], tuple[str, ...]]:
    found: dict[str, Reach] = {}
    before = set(sys.modules)
    for index, item in enumerate(items):
        lines: set[int] = set()
        sys.settrace(_tracer(file, lines))
        start = time.process_time()
        ok = _passes(item, items[index + 1] if index + 1 < len(items) else None)
        sys.settrace(None)
        if not ok:
            raise RuntimeError(item.nodeid)
        found[item.nodeid] = Reach(time.process_time() - start, frozenset(lines))
    return found, tuple(sorted(set(sys.modules) - before))


def _tracer(file: str, lines: set[int]) -> Callable[[types.FrameType, str, object], None]:
    def called(frame: types.FrameType, event: str, _: object) -> None:
        if frame.f_code.co_filename == file:
            lines.update(range(frame.f_code.co_firstlineno, max(line or 0 for _, _, line in frame.f_code.co_lines()) + 1))

    return called


def _passes(item: pytest.Item, after: pytest.Item | None) -> bool:
    before = item.session.testsfailed
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
    return item.session.testsfailed == before


def run(path: str, workers: int, sample: int | None, seed: int) -> Outcome:
    """Tries the changes of one module, in a process of its own. Exits by name where its tests cannot be run."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(write, "wb") as pipe:
            pipe.write(pickle.dumps(_here(path, workers, sample, seed)))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    if not data:
        sys.exit(f"{path}: its tests cannot be run")
    found: Outcome = pickle.loads(data)  # what the child above wrote
    print(_line(path, found), flush=True)
    for one in found.survivors:
        print(f"  {path}:{one.line}: {one.change}   ({one.why})", flush=True)
    return found


def _here(path: str, workers: int, sample: int | None, seed: int) -> Outcome:
    from hypothesis import HealthCheck, Phase, settings

    quiet = {"deadline": None, "database": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
    settings.register_profile("mutate", phases=(Phase.explicit, Phase.generate), **quiet)  # a failure is enough, its smallest form is not asked for
    settings.load_profile("mutate")
    sys.path.insert(0, str(REPO))
    plugin, start = Mutation(path, workers, sample, seed), time.monotonic()
    folder = tempfile.mkdtemp()
    tests = [test for test in MODULES[path] if (REPO / test).exists()]
    pytest.main([*QUIET, f"--basetemp={folder}/tests", *tests], plugins=[plugin])
    shutil.rmtree(folder, ignore_errors=True)
    if not plugin.changes:
        os._exit(1)
    return plugin.outcome(time.monotonic() - start)


def _line(path: str, found: Outcome) -> str:
    alive, same = len(found.survivors), len(found.equivalent)
    return f"{path}: {alive} of {found.changes} changes survive ({found.share:.1%}), {same} more alter nothing, {found.seconds:.0f} s"


def main() -> None:
    """Runs the modules that are named, or all; exits with 1 where too many changes survive."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", default=list(MODULES), help=", ".join(MODULES))
    parser.add_argument("--all", action="store_true", help="every change instead of a sample")
    parser.add_argument("--sample", type=int, default=40, help="changes of each module")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", action="store_true", help="into benchmarks/results/mutation.md")
    asked = parser.parse_args()
    unknown = [path for path in asked.modules if path not in MODULES]
    if unknown:
        parser.error(f"no tests are named for {', '.join(unknown)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(REPO)
    if SMOKE:  # two changes, nothing is judged
        run("mpqc/numerics/overflow.py", asked.workers, 2, asked.seed)
        return
    found = {path: run(path, asked.workers, None if asked.all else asked.sample, asked.seed) for path in asked.modules}
    if asked.write:
        write(found)
    over = [path for path, outcome in found.items() if outcome.share >= LIMIT]
    if over:
        sys.exit(f"{LIMIT:.0%} or more survive in {', '.join(over)}")


def write(found: dict[str, Outcome]) -> None:
    """Puts what was found into results/mutation.json, beside the modules of earlier runs, and makes mutation.md from all of them."""
    file = RESULTS / "mutation.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    known |= {path: {**provenance(), **asdict(one)} for path, one in found.items()}
    kept = {path: known[path] for path in MODULES if path in known}
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "mutation.md").write_text("\n".join(_page(kept)) + "\n", encoding="utf-8")


def _page(kept: dict[str, Any]) -> list[str]:
    lines = ["# Changes of a module that its tests do not notice", ""]
    lines += ["| module | changes | noticed | survive | % | alter nothing | command, date, commit |", "|---|---|---|---|---|---|---|"]
    for path, one in kept.items():
        alive, same = len(one["survivors"]), len(one["equivalent"])
        figures = [one["changes"], one["changes"] - alive - same, alive, f"{100 * alive / one['changes']:.1f}", same]
        lines.append(f"| {path} | {' | '.join(map(str, figures))} | `{one['command']}`, {one['date']}, {one['commit']} |")
    for path, one in kept.items():
        lines += _listed(f"## {path}", one["survivors"]) + _listed(f"### {path}: alter nothing", one["equivalent"])
    return lines


def _listed(head: str, survivors: list[dict[str, Any]]) -> list[str]:
    lines = [f"- line {one['line']}: `{one['change']}` ({one['why']})" for one in sorted(survivors, key=lambda one: one["line"])]
    return ["", head, "", *lines] if lines else []


if __name__ == "__main__":
    main()
