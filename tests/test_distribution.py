"""The contents of wheels and source distributions."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import velora

ROOT = Path(__file__).parent.parent
NAME = f"velora-{velora.__version__}"

pytest.importorskip("scikit_build_core", reason="what builds velora is not installed here")
pytestmark = pytest.mark.skipif(
    not (ROOT / "velora").is_dir(), reason="the sources of the package are not beside the tests"
)


def build(call: str, folder: Path) -> Path:
    """The file that a call of the build backend leaves in the folder."""
    code = f"from scikit_build_core import build; build.{call}"
    arguments = [sys.executable, "-c", code, str(folder)]
    subprocess.run(arguments, cwd=ROOT, capture_output=True, timeout=300, check=True)
    (path,) = folder.iterdir()
    return path


def sources(folder: str) -> set[str]:
    """The files of the repository in a folder, without what Python and the compiler leave there."""
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    made = (".pyc", ".so")
    return {str(path.relative_to(ROOT)) for path in files if path.suffix not in made}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a wheel, but for the compiled modules: they would take minutes."""
    folder = tmp_path_factory.mktemp("wheel")
    call = "build_wheel(__import__('sys').argv[1], {'wheel.cmake': 'false'})"
    with zipfile.ZipFile(build(call, folder)) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a source distribution, below its one folder."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("build_sdist(__import__('sys').argv[1])", folder)) as archive:
        names = [Path(name).parts for name in archive.getnames()]
    assert {parts[0] for parts in names} == {NAME}
    return {str(Path(*parts[1:])) for parts in names}


def test_wheel_installs_one_package(wheel: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel} == {"velora", f"{NAME}.dist-info"}


def test_wheel_has_all_of_the_package_and_its_licence(wheel: set[str]) -> None:
    assert {name for name in wheel if name.startswith("velora/")} == sources("velora")
    assert {"velora/py.typed", "velora/_core.pyi"} <= wheel
    assert f"{NAME}.dist-info/licenses/LICENSE" in wheel


def test_sdist_has_what_a_wheel_is_built_from_and_nothing_that_was_built(sdist: set[str]) -> None:
    assert sources("velora") | sources("csrc") <= sdist
    assert {"CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", "PKG-INFO"} <= sdist
    assert not {name.split("/")[0] for name in sdist} & {"build", "dist", "site", ".git", ".venv"}
    assert not [name for name in sdist if name.endswith((".pyc", ".so", ".o"))]
