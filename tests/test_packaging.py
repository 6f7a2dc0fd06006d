from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.environments import install, makeEnvironment

ROOT = Path(__file__).parents[1]
STATIC = (
    *("demo.css", "demo.html", "demo.js", "favicon.svg", "page.js", "playground.js"),
    *("twisted-ws.d.ts", "twisted-ws.mjs"),
)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution from a copy of this checkout, in which twistd has been run."""
    place = tmp_path_factory.mktemp("dist")
    source = place / "source"
    left = (".git", ".venv*", ".*_cache", ".hypothesis", ".coverage*", "__pycache__", "*.so", "build", "dist", "_build")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*left))
    (source / "twisted/plugins/dropin.cache").write_bytes(b"stale")
    return _build("--sdist", source, place)


@pytest.fixture(scope="module")
def unpacked(sdist: Path) -> Path:
    """The directory that the source distribution is unpacked to."""
    place = sdist.parent / "unpacked"
    place.mkdir()
    subprocess.run(["tar", "--extract", "--file", sdist, "--directory", place], check=True)  # Python's way differs from 3.11.4 on
    (found,) = place.iterdir()
    return found


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the source distribution, as ``python -m build`` and pip do."""
    return _build("--wheel", unpacked, tmp_path_factory.mktemp("wheel"))


def _build(what: str, source: Path, place: Path, **more: str) -> Path:
    """Build a distribution, with more in the environment, and return its file."""
    command = [sys.executable, "-m", "build", what, "--no-isolation", "--outdir", str(place), str(source)]
    done = subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = place.glob("*.tar.gz" if what == "--sdist" else "*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin directory of a new environment that has the wheel and what it needs, and not this checkout."""
    environment = makeEnvironment(tmp_path_factory.mktemp("venv"))
    install(environment, wheel)
    return environment


def _run(installed: Path, program: str, *arguments: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    command = [str(installed / "python"), *arguments] if program == "python" else [str(installed / program), *arguments]
    done = subprocess.run(command, cwd="/", env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_sdist(sdist: Path) -> None:
    """The source distribution has what the wheel is built from, the tests and the documentation, and nothing that was built."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "hatch_build.py", "LICENSE", "twisted_ws/wire/speedups/_speedups.c", "docs/index.md"} <= names
    assert {"tests/conftest.py", "twisted_ws/outbox/table.sql", "contrib/container/Containerfile"} <= names
    assert [name for name in names if name.endswith((".so", ".pyc", ".whl")) or "dropin" in name or ".venv" in name] == []


def test_withAndWithoutCompiler(wheel: Path, unpacked: Path, tmp_path: Path) -> None:
    """With a compiler, the wheel is for this Python and machine; without one, for all, and it works and says so."""
    assert re.search(r"-cp3\d+-cp3\d+-linux_\w+\.whl$", wheel.name)
    pure = _build("--wheel", unpacked, tmp_path, CC="/nonexistent")
    assert pure.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(pure) as archive:
        assert [name for name in archive.namelist() if name.endswith(".so")] == []
    environment = makeEnvironment(tmp_path / "venv")
    install(environment, pure)
    code = "from twisted_ws.wire import speedups; from twisted_ws.testing import serve; print(speedups.compiled)"
    assert _run(environment, "python", "-c", code) == "False\n"


def test_cibuildwheel() -> None:
    """The wheels that a release has are those of each Python that is tested, for glibc and musl."""
    command = [
        sys.executable,
        "-m",
        "cibuildwheel",
        "--print-build-identifiers",
        "--platform",
        "linux",
        "--archs",
        "x86_64,aarch64",
        ".",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    versions = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    pythons = [f"cp{version[1].replace('.', '')}" for each in versions if (version := re.fullmatch(r".* :: (3\.\d+)", each))]
    kinds = [f"{libc}_{machine}" for libc in ("manylinux", "musllinux") for machine in ("x86_64", "aarch64")]
    assert sorted(done.stdout.split()) == sorted(f"{python}-{kind}" for python in pythons for kind in kinds)


def test_theWheelHasWhatItNeedsAndNothingElse(wheel: Path) -> None:
    """The plugin, the page and the type marker are in; caches, tests and another package's __init__ are not."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "twisted/plugins/wsservice_plugin.py" in names
    assert {f"twisted_ws/web/static/{name}" for name in STATIC} < set(names)
    assert "twisted_ws/py.typed" in names
    assert [name for name in names if name.startswith("twisted/")] == ["twisted/plugins/wsservice_plugin.py"]
    assert not [name for name in names if "dropin" in name or "__pycache__" in name or name.startswith("tests/")]
    shared, others = ([name for name in names if (".data/" in name) is wanted] for wanted in (True, False))
    assert {name.partition("/")[0] for name in others if ".dist-info/" not in name} == {"twisted", "twisted_ws"}
    assert all(name.partition(".data/")[2].startswith("data/share/") for name in shared)


def test_aCompilerThatKnowsFewOptions(tmp_path: Path) -> None:
    """The compiled part has every option that the compiler knows, and is made also by one that refuses some of them."""
    compiler = sysconfig.get_config_var("CC") or "cc"
    strange = tmp_path / "cc"
    lines = [
        "#!/bin/sh",
        'case "$*" in *-clash-*|*-Wl,-z,relro*) exit 1;;',
        f'*_speedups.c*) echo "$*" >> {tmp_path}/made;; esac',
        f'exec {compiler} "$@"',
    ]
    strange.write_text("\n".join(lines) + "\n")
    strange.chmod(0o755)
    source = tmp_path / "source"
    (source / "twisted_ws/wire/speedups").mkdir(parents=True)
    for name in ("hatch_build.py", *(f"twisted_ws/wire/speedups/{name}" for name in ("_speedups.c", "_head.c", "_head.h"))):
        shutil.copy(ROOT / name, source / name)
    program = (
        "from hatch_build import CompiledPart; data = {'artifacts': []};"
        "CompiledPart('.', {}, None, None, '.', 'wheel').initialize('', data); print(*data['artifacts'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=source,
        env={**os.environ, "CC": str(strange)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (source / done.stdout.strip()).is_file(), done.stderr
    (made,) = (tmp_path / "made").read_text().splitlines()
    assert "-fno-strict-aliasing" in made
    assert "-D_FORTIFY_SOURCE=2" in made


def test_theWheelSaysWhatItIs(wheel: Path) -> None:
    """Its metadata names the licence, the oldest Python and the description for people."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        about = Parser().parsestr(archive.read(name).decode())
    assert about["Name"] == "twisted-ws"
    assert about["License-Expression"] == "MIT"
    assert about["Requires-Python"] == ">=3.11"
    assert "# twisted_ws" in about.get_payload()


def test_itIsTheInstalledPackage(installed: Path) -> None:
    """What runs here is the wheel, not the checkout."""
    where = _run(installed, "python", "-c", "import twisted_ws; print(twisted_ws.__file__)").strip()
    assert Path(where).is_relative_to(installed.parent)


def test_twistdKnowsTheServiceAfterAnInstall(installed: Path) -> None:
    """The drop-in is found: twistd lists wsservice and shows its options."""
    assert "wsservice" in _run(installed, "python", "-m", "twisted", "--help")
    twistd = ("python", "-c", "from twisted.scripts.twistd import run; run()")
    assert "A WebSocket service server" in _run(installed, *twistd, "--help")
    assert "--broadcast-port" in _run(installed, *twistd, "wsservice", "--help")
    assert "wsservice" not in _run(installed, "python", "-c", "import sys, twisted_ws; print(*sys.modules)")


def test_theManualPageAndCompletionAreInstalled(installed: Path) -> None:
    """The manual page and what the shells need are where the systems look for them; what Prometheus and Grafana need is there."""
    share = installed.parent / "share"
    for name in (
        "man/man1/twisted-ws.1",
        "bash-completion/completions/twisted-ws",
        "zsh/site-functions/_twisted-ws",
        "fish/vendor_completions.d/twisted-ws.fish",
        "twisted-ws/prometheus/prometheus.yml",
        "twisted-ws/prometheus/twisted-ws.rules.yml",
        "twisted-ws/grafana/twisted-ws.json",
    ):
        assert (share / name).is_file(), name


def test_theCommandWorksAfterAnInstall(installed: Path) -> None:
    """The command twisted-ws is there, also as a module, and the demo service is among the installed ones."""
    assert _run(installed, "twisted-ws", "--version").startswith("twisted_ws ")
    assert _run(installed, "python", "-m", "twisted_ws", "--version").startswith("twisted_ws ")
    listed = _run(installed, "twisted-ws", "--help-services")
    assert "demo" in listed
    assert "twisted_ws.services.demo:Demo" in listed
    assert "cannot be imported" not in listed


def test_theTestingRoomWorksAfterAnInstall(installed: Path) -> None:
    """Whoever has the package can test a service with it, with no plugin and no checkout."""
    code = (
        "from twisted_ws.services.demo import Demo; from twisted_ws.testing import serve\n"
        "with serve({'/ws': Demo()}) as server:\n"
        "    client = server.connect('/ws'); client.writeTextMessage('hi'); print(client.readTextMessage())"
    )
    assert _run(installed, "python", "-c", code) == "Echo: hi\n"
