"""Render the book to _build/html: `python -m tools.build`. A warning is an error."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Build the HTML and say which page to open."""
    start = "from jupyter_book.cli.main import main; main()"  # the script's path may hold a space
    command = [sys.executable, "-c", start, "build", ".", "-W", "-n", "--keep-going", "-q"]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        raise SystemExit(code)
    print(f"The book is ready: open {ROOT / '_build' / 'html' / 'index.html'}")


if __name__ == "__main__":
    main()
