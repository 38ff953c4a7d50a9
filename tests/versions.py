"""Run the core tests with the lowest versions that pyproject.toml declares, and with the newest ones.

usage: python tests/versions.py [lowest] [newest]

Each set is installed into a temporary environment of several gigabytes, which is removed afterwards. The exit code is 1
if a set cannot be installed or a test fails.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOOLS = ("pytest", "hypothesis")
CORE = (
    "checkpoint_directory",
    "checkpoint_tools",
    "cli",
    "compiled",
    "compiled_steps",
    "contract",
    "format",
    "kernels",
    "plot",
    "resuming",
    "scheduled_optimizer",
    "schedules",
    "sequences",
    "training",
)


def declared():
    """Return the requirements of the program and its extra `plot` in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *extras["plot"]]


def pinned(requirement):
    """Turn `name>=1.2` into `name==1.2`."""
    name, bound = re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", requirement).groups()
    return f"{name}=={bound}"


def passes(name, folder):
    """Install the set `name` into an environment in `folder`, run the tests in it, and return whether they pass."""
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(map(pinned, declared())) if name == "lowest" else "")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    wanted = [*TOOLS, "--editable", f"{ROOT}[plot]"]
    print(f"{name}: installing", flush=True)
    if subprocess.run([*pip, "install", "--quiet", "--constraint", str(constraints), *wanted]).returncode:
        return False
    packages = [re.split("[>=]", requirement)[0].lower() for requirement in declared()]
    listed = subprocess.run([*pip, "list", "--format=freeze"], capture_output=True, text=True, check=True).stdout
    chosen = [line for line in listed.splitlines() if line.split("==")[0].lower().replace("_", "-") in packages]
    print(f"{name}: Python {sys.version.split()[0]}, {', '.join(chosen)}", flush=True)
    files = [str(path) for each in CORE for path in (ROOT / "tests").rglob(f"test_{each}.py")]
    # Versions that constraints.txt does not pin may deprecate what others of them use.
    options = ["-p", "no:cacheprovider", "-m", "not slow", "-W", "ignore::DeprecationWarning", "-rs"]
    return subprocess.run([python, "-m", "pytest", *options, *files], cwd=ROOT).returncode == 0


def main():
    sets = sys.argv[1:] or ["lowest", "newest"]
    if not set(sets) <= {"lowest", "newest"}:
        sys.exit(__doc__)
    results = {}
    for name in sets:
        with tempfile.TemporaryDirectory(prefix=f"innerstep-{name}-") as folder:
            results[name] = passes(name, Path(folder))
    for name, passed in results.items():
        print(f"{name}: {'passed' if passed else 'FAILED'}")
    sys.exit(not all(results.values()))


if __name__ == "__main__":
    main()
