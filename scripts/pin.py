"""Write requirements.txt and requirements-dev.txt: the installed versions of all that is needed.

What is needed stands in pyproject.toml. To upgrade, install the newer version into `.venv`, let
`make check` pass, then run `make pins`.
"""

import re
from importlib.metadata import distribution
from pathlib import Path

import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

# The part of the `dev` extra without which the tests do not run; `make demo` installs no more.
FOR_TESTS = {"cmake", "hypothesis", "ninja", "pytest", "pytest-timeout"}
# A CUDA build of torch brings these, and names their exact versions itself.
FROM_TORCH = re.compile(r"nvidia-.*|cuda-.*|triton")
NOTES = {
    "pymdown-extensions": "13.0 and later want Python 3.11.5; Debian 12 has 3.11.2",
    "torch": "any build of this version will do, for the CPU or for CUDA",
}


def read_needs() -> tuple[list[Requirement], list[Requirement]]:
    """Return what building, testing and the demo need, and what the other checks need."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]

    def expand(lines: list[str]) -> list[Requirement]:
        needs = []
        for need in map(Requirement, lines):
            if need.name == project["name"]:
                for extra in need.extras:
                    needs += expand(project["optional-dependencies"][extra])
            else:
                needs.append(need)
        return needs

    run = expand([*project["dependencies"], "velora[demo]", *pyproject["build-system"]["requires"]])
    dev = expand(["velora[dev]"])
    return [*run, *(need for need in dev if need.name in FOR_TESTS)], dev


def closure(queue: list[Requirement]) -> set[str]:
    """Return the names of all distributions that `queue` needs, its own included."""
    seen: set[tuple[str, frozenset[str]]] = set()
    while queue:
        need, *queue = queue
        key = (canonicalize_name(need.name), frozenset(need.extras))
        if key in seen or FROM_TORCH.fullmatch(key[0]):
            continue
        seen.add(key)
        for line in distribution(need.name).requires or []:
            next_need = Requirement(line)
            marker = next_need.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *need.extras)):
                queue.append(next_need)
    return {name for name, _ in seen}


def write(path: Path, head: str, names: set[str]) -> None:
    """Write one requirements file, without the part of a version that tells builds apart."""
    lines = [f"# {head} Written by `make pins`."]
    if path.stem.endswith("-dev"):
        lines.append("-r requirements.txt")
    for name in sorted(names):
        if name in NOTES:
            lines.append(f"# {NOTES[name]}")
        lines.append(f"{name}=={distribution(name).version.partition('+')[0]}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Write both files."""
    run, dev = map(closure, read_needs())
    write(ROOT / "requirements.txt", "What building, testing and the demo need.", run)
    write(ROOT / "requirements-dev.txt", "What linting, types, docs and wheels need.", dev - run)


if __name__ == "__main__":
    main()
