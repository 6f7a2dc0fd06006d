"""The distribution: small, alone, and for old Pythons."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.environments import install, makeEnvironment

HERE = Path(__file__).parent.parent.parent / "publisher"


def test_wheel(tmp_path):
    """The wheel is less than 60 kB, needs nothing, and works without any other package."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(HERE)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 60_000
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        about = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
        archive.extractall(tmp_path / "there")
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"twisted_ws_publisher"}
    assert "twisted_ws_publisher/py.typed" in names
    assert "Requires-Dist" not in about
    program = "import sys; sys.path.insert(0, sys.argv[1]); import twisted_ws_publisher as it; print(it.__file__, it.Publisher('http://h'))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(tmp_path / "there")], check=True, capture_output=True, text=True
    )
    assert done.stdout == f"{tmp_path / 'there' / 'twisted_ws_publisher' / '__init__.py'} <Publisher h>\n"


def test_alone(tmp_path):
    """Built as ``python -m build`` does, by way of the source distribution, it is all that an environment needs to have."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(HERE)]
    subprocess.run(command, check=True, capture_output=True)
    assert len([*tmp_path.glob("*.tar.gz")]) == 1
    (wheel,) = tmp_path.glob("*.whl")
    environment = makeEnvironment(tmp_path / "venv", isBare=True)
    install(environment, wheel)
    program = "import sys, twisted_ws_publisher as it; print(it.Publisher('http://h'), 'twisted' in sys.modules)"
    done = subprocess.run([environment / "python", "-I", "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "<Publisher h> False\n"


def test_grammar():
    """Each module is one that Python 3.9 reads, and evaluates no annotation."""
    for module in HERE.glob("twisted_ws_publisher/**/*.py"):
        source = module.read_text()
        tree = ast.parse(source, str(module), feature_version=(3, 9))
        assert "from __future__ import annotations" in source or not any(
            isinstance(each, ast.FunctionDef) for each in ast.walk(tree)
        )
