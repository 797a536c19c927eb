"""The registry of data sets and the way their files reach this machine, checked.

A file is looked for in the folders of KARPA_DATA_MIRROR, then in the cache (KARPA_CACHE, by default
~/.cache/karpa), then at its public address. Whatever is found is compared with its sha256 before
anybody reads it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import tomllib
import zipfile
import zlib
from importlib.resources import files
from pathlib import Path, PureWindowsPath
from typing import Any

from karpa_utils.errors import BadInput

TIMEOUT_S = (10, 30)  # seconds to connect, seconds without a byte
RETRIES = 2  # after the first attempt, with pauses of one and two seconds

_verified: set[tuple[str, str, int, int]] = set()  # (path, sha256, bytes, mtime_ns) seen good


def registry() -> dict[str, dict[str, Any]]:
    """Return every data set of the book: name → its table in sources.toml.

    Each table has title, modality, license, citation, harms, rows, embedded (part of the
    installation, no network needed), notes and, for sets that are fetched, files: file name →
    bytes, sha256, url. The data-sheets page is written from it.
    """
    text = files("karpa_utils.data").joinpath("sources.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def source(name: str) -> dict[str, Any]:
    """Return the registry's table of one data set.

    Raises BadInput, listing the known names, when there is none of this name.
    """
    known = registry()
    if name not in known:
        raise BadInput(f"There is no data set {name!r}: the known ones are {', '.join(known)}.")
    return known[name]


def cache_folder() -> Path:
    """Return the folder that downloads are kept in (it need not exist yet)."""
    return Path(os.environ.get("KARPA_CACHE") or "~/.cache/karpa").expanduser()


def mirrors() -> list[Path]:
    """Return the folders named in KARPA_DATA_MIRROR, in order.

    Raises BadInput when one of them does not exist: a misspelled mirror must not become a download.
    """
    named = os.environ.get("KARPA_DATA_MIRROR", "").split(os.pathsep)
    folders = [Path(part).expanduser() for part in named if part.strip()]
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"KARPA_DATA_MIRROR names the folder {folder}, which does not exist.")
    return folders


def fetch(name: str, file: str) -> Path:
    """Return the path of one verified file of a data set: from a mirror, the cache or the network.

    name, file: as in sources.toml. A download goes to a temporary name in the cache, is checked and
    then renamed, so a file under its own name is whole, also when two processes ask at once.
    Raises BadInput, in one sentence, for an unknown name, a missing mirror folder, a wrong checksum
    (nothing is deleted), a cache that cannot be written, or a network that cannot be reached.
    """
    entry = source(name)
    known = entry.get("files", {})
    if file not in known:
        raise BadInput(
            f"The data set {name!r} has no file {file!r}: "
            f"it has {', '.join(known) or 'none, it is part of the installation'}."
        )
    want, folder = known[file], entry.get("folder", name)
    for mirror in mirrors():
        path = mirror / folder / file
        if path.is_file():
            if found := _fault(path, want):
                raise BadInput(f"{path} in the data mirror is not the file of {name!r}: {found}.")
            return path
    path = cache_folder() / folder / file
    found = _fault(path, want) if path.is_file() else ""
    if not path.is_file() or found:
        _download(name, path, want, found)
    return path


def _fault(path: Path, want: dict[str, Any]) -> str:
    """Return what is wrong with a file, as a clause, or "" when size and sha256 are as expected."""
    stat = path.stat()
    key = (str(path.resolve()), want["sha256"], stat.st_size, stat.st_mtime_ns)
    if key in _verified:
        return ""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest == want["sha256"]:
        _verified.add(key)
        return ""
    short = "" if stat.st_size == want["bytes"] else f"{stat.st_size} bytes of {want['bytes']}, "
    return f"{short}sha256 expected {want['sha256']}, found {digest}"


def _download(name: str, path: Path, want: dict[str, Any], damaged: str) -> None:
    """Downloads one file into the cache, replacing a damaged copy only by a good one."""
    remedy = f"put {path.parent.name}/{path.name} into a folder named in KARPA_DATA_MIRROR"
    before = f"the copy in the cache, {path}, is damaged ({damaged}) and " if damaged else ""
    if not want["url"]:
        raise BadInput(
            f"The data set {name!r} cannot be had: {before}it has no public address; {remedy}."
        )
    import pooch  # here, not above: it takes a while and the laptop profile never needs it
    import requests

    pooch.get_logger().setLevel("WARNING")  # "Downloading ..." would stand in notebooks
    http = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(), chunk_size=1 << 16, timeout=TIMEOUT_S
    )

    def download_and_check(url: str, output_file: str, caller: pooch.Pooch) -> None:
        http(url, output_file, caller)
        if found := _fault(Path(output_file), want):  # before pooch renames it
            raise BadInput(f"{url} did not give the file {path.name!r} of {name!r}: {found}.")

    store = pooch.create(
        path.parent,
        base_url="",
        registry={path.name: f"sha256:{want['sha256']}"},
        urls={path.name: want["url"]},
        retry_if_failed=RETRIES,
    )
    try:
        store.fetch(path.name, downloader=download_and_check)
    except requests.exceptions.RequestException as error:  # an OSError too, so it comes first
        raise BadInput(
            f"The data set {name!r} cannot be had: {before}{want['url']} could not be "
            f"downloaded ({type(error).__name__}); run with a network, or {remedy}."
        ) from error
    except OSError as error:
        raise BadInput(
            f"The data set {name!r} cannot be kept: the cache folder {path.parent} cannot be "
            f"written ({error.strerror or error}); set KARPA_CACHE to a folder that can."
        ) from error


def unpack(archive: Path) -> Path:
    """Return a folder in the cache that holds the files of a verified tar or zip archive.

    It is unpacked under a temporary name and renamed when complete; a second call finds it there.
    Raises BadInput, and leaves nothing behind, when a member would land outside the folder, is a
    device or a link that leads outside, or when the archive cannot be read.
    """
    with archive.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    target = cache_folder() / "unpacked" / f"{archive.name}-{digest[:16]}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=archive.name, dir=target.parent))
    except OSError as error:
        raise BadInput(
            f"{archive} cannot be unpacked: the cache folder {target.parent} cannot be written "
            f"({error.strerror or error}); set KARPA_CACHE to a folder that can."
        ) from error
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                for member in opened.namelist():  # extractall would bend such a name, silently
                    parts = PureWindowsPath(member)  # knows both slashes and drive letters
                    if parts.anchor or ".." in parts.parts:
                        raise BadInput(f"{archive} is refused: its member {member!r} climbs out.")
                opened.extractall(partial)
        else:
            with tarfile.open(archive) as opened:
                opened.extractall(partial, filter="data")
        partial.rename(target)
    except tarfile.FilterError as error:
        member = error.tarinfo.name
        raise BadInput(f"{archive} is refused: its member {member!r} climbs out.") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise BadInput(f"{archive} cannot be unpacked: {error}.") from error
    except OSError as error:
        if not target.is_dir():  # otherwise another process was faster, and its copy is as good
            raise BadInput(f"{archive} cannot be unpacked: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target
