"""The virtual environment of every make command: made once, renewed when it must be, refused in one sentence."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.live_server import REPOSITORY

SCRIPT = Path("capecontrol") / "operations" / "local_environment.py"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a checkout whose requirements are empty."""
    (tmp_path / SCRIPT).parent.mkdir(parents=True)
    shutil.copy(REPOSITORY / SCRIPT, tmp_path / SCRIPT)
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / "requirements-dev.txt").write_text("-r requirements.txt\n")
    return tmp_path


def make_environment(checkout: Path) -> "subprocess.CompletedProcess[str]":
    without_index = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_USER": "1"}
    command = [sys.executable, "-I", SCRIPT]
    return subprocess.run(command, cwd=checkout, env=without_index, capture_output=True, text=True, check=False)


def test_it_is_made_once_and_again_when_the_requirements_change(checkout):
    first = make_environment(checkout)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith("Installing 0 packages into .venv")
    assert "Requirement" not in first.stdout

    again = make_environment(checkout)
    assert (again.returncode, again.stdout) == (0, "")

    (checkout / "requirements.txt").write_text("does-not-exist==1.0  # a reason\n")
    refused = make_environment(checkout)
    assert refused.returncode == 1
    (sentence,) = refused.stderr.splitlines()
    assert sentence.startswith("Cape Control: There is no ready-made package of does-not-exist==1.0 for Python 3.")
    assert sentence.endswith("Details are in instance/install.log.")
    assert "No matching distribution" in (checkout / "instance" / "install.log").read_text()


def test_every_pin_can_be_installed_on_the_oldest_python():
    pins = {
        found[1]: found[2]
        for name in ("requirements.txt", "requirements-dev.txt")
        for line in (REPOSITORY / name).read_text().splitlines()
        if (found := re.match(r"([\w.-]+)(?:\[\w+\])?==(\S+)", line))
    }
    assert len(pins) > 50
    for name, version in pins.items():
        installed = importlib.metadata.metadata(name)
        assert installed["Version"] == version, f"{name} {version} is pinned: run `make environment`"
        wanted = installed["Requires-Python"] or ""
        assert SpecifierSet(wanted).contains("3.11.0"), f"{name} {version} needs Python {wanted}: pin an older one"
