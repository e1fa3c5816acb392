"""Makes the virtual environment that every `make` command uses. Run by path, with nothing but the standard library."""

import fcntl
import hashlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
OLDEST = (3, 11)


class InstallationError(RuntimeError):
    """The environment cannot be made; the text is one sentence that says why and what to do."""


def make_environment(repository: Path) -> None:
    """Have `.venv` with the pinned requirements. Does nothing when they have not changed since the last time.

    Everything pip says goes to `instance/install.log`. Raises InstallationError.
    """
    instance = repository / "instance"
    instance.mkdir(mode=0o700, exist_ok=True)
    with (instance / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second `make` waits for the first one's installation
        environment = repository / ".venv"
        stamp = environment / "made-from"
        made_from, _, made_at = stamp.read_text().partition(" ") if stamp.exists() else ("", "", str(environment))
        works = made_at == str(environment) and _works(environment)  # its scripts name the folder they were made in
        if works and made_from == _checksum(repository):
            return
        log = instance / "install.log"
        log.write_text("")
        if not works:
            _create(environment, log)
        _install(repository, environment, log)
        stamp.write_text(f"{_checksum(repository)} {environment}")


def _checksum(repository: Path) -> str:
    contents = (path.read_bytes() for path in sorted(repository.glob("requirements*.txt")))
    return hashlib.sha256(b"\0".join(contents)).hexdigest()


def _works(environment: Path) -> bool:
    """Say whether the environment's Python starts, is new enough and has pip; an upgrade of the system can end it."""
    python = environment / "bin" / "python"
    if not python.exists():
        return False
    check = f"import sys, importlib.util as u; sys.exit(sys.version_info < {OLDEST} or not u.find_spec('pip'))"
    return subprocess.run([python, "-I", "-c", check], check=False, capture_output=True).returncode == 0


def _create(environment: Path, log: Path) -> None:
    with log.open("a") as output:
        created = subprocess.run(
            [sys.executable, "-m", "venv", "--clear", environment], check=False, stdout=output, stderr=output
        )
    if created.returncode == 0:
        return
    said = log.read_text(errors="replace")
    if "ensurepip is not available" in said or "No module named ensurepip" in said:
        raise InstallationError(
            "Python's venv module is not installed: on Debian and Ubuntu, run "
            f"`apt-get install python3-venv` (details in {_shown(log)})."
        )
    raise InstallationError(f"The virtual environment .venv could not be made (details in {_shown(log)}).")


def _install(repository: Path, environment: Path, log: Path) -> None:
    requirements = repository / "requirements-dev.txt"
    total = sum(_pins(repository / name) for name in ("requirements.txt", "requirements-dev.txt"))
    command: list[str | Path] = [environment / "bin" / "python", "-I", "-m", "pip", "install", "--only-binary=:all:"]
    command += ["--no-user", "--no-input", "--disable-pip-version-check", "--progress-bar=off", "-r", requirements]
    # A pip configured for its user alone (PIP_USER, PIP_TARGET ...) must not install elsewhere than in .venv.
    settings = {name: value for name, value in os.environ.items() if name not in _MISPLACING}
    seen = 0
    with (
        log.open("a") as output,
        subprocess.Popen(
            command, cwd=repository, env=settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as pip,
    ):
        _say(f"Installing {total} packages into .venv; the first time takes about a minute.")
        for line in pip.stdout or ():
            output.write(line)
            seen += line.startswith(("Collecting ", "Requirement already satisfied"))
            if sys.stdout.isatty():
                sys.stdout.write(f"\r  {min(seen, total)} of {total} ")
                sys.stdout.flush()
    if sys.stdout.isatty():
        sys.stdout.write("\r                    \r")
    if pip.returncode != 0:
        raise InstallationError(f"{_reason(log.read_text(errors='replace'))} Details are in {_shown(log)}.")


_MISPLACING = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_NO_BINARY")


def _reason(log: str) -> str:
    """Say in one sentence why pip failed."""
    unreachable = ("NewConnectionError", "ConnectTimeoutError", "NameResolutionError", "ReadTimeoutError", "ProxyError")
    if any(name in log for name in unreachable):
        return "The Python package index cannot be reached; check the network connection and try again."
    if "No space left on device" in log:
        return "The disk is full; .venv needs about 600 MB."
    missing = re.search(r"No matching distribution found for (\S+)", log)
    if missing:
        return (
            f"There is no ready-made package of {missing[1]} for Python {platform.python_version()} on "
            f"{platform.system()} {platform.machine()}, and nothing is compiled here: use another Python "
            "(from 3.11 to 3.14; make run PYTHON=python3.12) or another machine."
        )
    errors = [line for line in log.splitlines() if line.startswith("ERROR: ")]
    return f"Installing the requirements failed: {errors[-1][7:].rstrip('.') if errors else 'pip gave no reason'}."


def _pins(requirements: Path) -> int:
    return sum("==" in line for line in requirements.read_text().splitlines())


def _shown(path: Path) -> str:
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else str(path)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        make_environment(REPOSITORY)
    except InstallationError as error:
        sys.exit(f"Cape Control: {error}")
    except OSError as error:
        sys.exit(f"Cape Control cannot prepare its environment: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
