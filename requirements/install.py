"""Make `.venv` and install the package into it: `python3 requirements/install.py local|dev`.

Needs nothing but the standard library of Python 3.11. Everything installed is pinned by hash.
May be run by several processes at once, again at any time, and after the checkout was moved.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS = ROOT / "requirements"
STAMP = VENV / "installed"


def main() -> None:
    wanted = sys.argv[1]
    lock = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # of the checkout itself: two `make up` may start at once
    if _is_done(wanted):
        return
    if not _venv_works():
        _say(f"making {VENV.name} with Python {sys.version.split()[0]}")
        _make_venv()
    _say(f"installing {wanted} requirements")
    STAMP.unlink(missing_ok=True)
    _install(wanted)
    STAMP.write_text(f"{wanted}\n{_fingerprint(wanted)}\n")


def _is_done(wanted: str) -> bool:
    """Whether these requirements, or more, were installed for this very place."""
    try:
        installed, fingerprint = STAMP.read_text().split()
    except (OSError, ValueError):
        return False
    enough = installed == wanted or installed == "dev"
    return enough and fingerprint == _fingerprint(installed) and _venv_works()


def _fingerprint(name: str) -> str:
    files = [REQUIREMENTS / "setup.txt", REQUIREMENTS / f"{name}.txt", ROOT / "pyproject.toml"]
    parts = [str(VENV).encode(), *(file.read_bytes() for file in files)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _venv_works() -> bool:
    """Whether there is a usable environment, made for this place."""
    check = "import sys; print(sys.prefix); sys.exit(sys.version_info < (3, 11))"
    try:
        answer = subprocess.run([PYTHON, "-c", check], capture_output=True, text=True, check=True)
        wrapper = (VENV / "bin" / "pip").read_bytes()
    except (OSError, subprocess.CalledProcessError):
        return False
    return Path(answer.stdout.strip()) == VENV and os.fsencode(VENV) in wrapper


def _make_venv() -> None:
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode == 0:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    uv = shutil.which("uv")
    if uv is not None:
        _run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, str(VENV)])
        return
    version = ".".join(map(str, sys.version_info[:2]))
    sys.exit(
        f"{outcome.stdout}{outcome.stderr}\n"
        "This Python cannot make virtual environments. On Debian and Ubuntu:\n"
        f"    apt install python{version}-venv\n"
        "Or name another Python: make PYTHON=/path/to/python3 …"
    )


def _install(wanted: str) -> None:
    """By uv, which takes seconds; by pip where uv cannot, since it does not read pip's settings."""
    _pip("--require-hashes", "-r", str(REQUIREMENTS / "setup.txt"))
    file = str(REQUIREMENTS / f"{wanted}.txt")
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--quiet", "--python", str(PYTHON)]
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    arguments = ["--no-config", "--compile-bytecode", "--require-hashes", "-r", file]
    if subprocess.run([*uv, *arguments], env=environment, check=False).returncode != 0:
        _say("uv could not; trying pip")
        _pip("--require-hashes", "-r", file)
    _pip("--no-deps", "--no-build-isolation", "--editable", str(ROOT))


def _pip(*arguments: str) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-input"]
    _run([str(PYTHON), "-m", "pip", "install", *options, *arguments])


def _run(command: list[str]) -> None:
    outcome = subprocess.run(command, check=False)
    if outcome.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
