"""Imports every module of the wheel in the folder given, unpacked into an empty one: nothing may be missing from the package list."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys
import mpqc
root = pathlib.Path(sys.argv[1]).resolve()
assert root in pathlib.Path(mpqc.__file__).resolve().parents, f"mpqc came from {mpqc.__file__}"
names = sorted(module.name for module in pkgutil.walk_packages(mpqc.__path__, "mpqc.") if module.name != "mpqc.__main__")
missing = sorted({path for path in sys.argv[2:]} - {"mpqc", *names})
assert not missing, f"not in the wheel: {missing}"
for name in names:
    importlib.import_module(name)
print(f"{len(names)} modules of the wheel import")
"""
DATA = ("targets/README.md", "targets/cortex-a76.csv", "report/report.html.j2", "report/page.css", "report/page.js", "runtime/README.txt")
"""Files beside the modules: some of each kind"""


def source_modules(repo: Path) -> list[str]:
    """Dotted names of every module that the sources hold, but for `__main__`."""
    folders = {"mpqc": repo / "mpqc", "mpqc.passes": repo / "passes", "mpqc.targets": repo / "targets"}
    names = set()
    for package, folder in folders.items():
        for file in folder.rglob("*.py"):
            parts = [package, *file.relative_to(folder).with_suffix("").parts]
            names.add(".".join(parts).removesuffix(".__init__"))
    return sorted(name for name in names if not name.endswith("__main__"))


def main() -> int:
    repo = Path(__file__).resolve().parent.parent
    wheels = sorted((repo / sys.argv[1]).glob("mpqc-*.whl"))
    assert len(wheels) == 1, f"expected one wheel in {sys.argv[1]}, found {wheels}"
    with tempfile.TemporaryDirectory() as folder:
        site, empty = Path(folder, "site"), Path(folder, "empty")
        empty.mkdir()
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheels[0])], check=True)
        missing = [name for name in DATA if not (site / "mpqc" / name).is_file()]
        assert not missing, f"not in the wheel: {missing}"
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r})\n{IMPORT_ALL}", str(site), *source_modules(repo)]
        return subprocess.run(command, cwd=empty, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
