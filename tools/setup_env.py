"""Make or mend the virtual environment: `python tools/setup_env.py FOLDER [pip arguments]`.

A stamp inside the folder says that everything was installed. Without it the environment is
half-made (or new) and is built from nothing; with an older one only what changed is installed.
This file runs before anything is installed, so it uses the standard library alone and must
parse on an old Python, to be able to say that it is too old.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11, 4)  # tarfile's safe filter


def run(*command):
    """Run a step; if it fails, stop with its exit code after its own message."""
    code = subprocess.call([str(part) for part in command])
    if code:
        print("Set-up stopped here: the message above is the step's own.", file=sys.stderr)
        sys.exit(code)


def main():
    """Bring the environment to the state that requirements.txt and pyproject.toml describe."""
    if sys.version_info < OLDEST:
        print(
            "Python 3.11.4 or newer is needed, this is %d.%d.%d: name another one, for example "
            "`make book PYTHON=python3.11`." % sys.version_info[:3],
            file=sys.stderr,
        )
        sys.exit(2)
    folder, pip_arguments = Path(sys.argv[1]), sys.argv[2:]
    root = Path(__file__).resolve().parent.parent
    pins = b"".join((root / f).read_bytes() for f in ("requirements.txt", "pyproject.toml"))
    wanted = hashlib.sha256(pins + str(root).encode()).hexdigest()
    stamp, python = folder / "installed", folder / "bin" / "python"
    if stamp.exists() and stamp.read_text() == wanted:
        stamp.touch()
        return
    if not stamp.exists():
        print("Making the environment %s ..." % folder)
        run(sys.executable, "-m", "venv", "--clear", folder)
    stamp.unlink(missing_ok=True)
    print("Installing the pinned packages (a few minutes the first time) ...", flush=True)
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install")
    run(*pip, *pip_arguments, "-r", root / "requirements.txt")
    run(*pip, *pip_arguments, "--no-deps", "-e", root)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
