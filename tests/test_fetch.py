"""Fetching: every way a download, a mirror, a cache or an archive can go wrong, on 127.0.0.1."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from karpa_utils.data import sources
from karpa_utils.errors import BadInput

PACKAGE = Path(sources.__file__).parents[1]
GOOD = b"ten bytes!" * 1000
SHA = hashlib.sha256(GOOD).hexdigest()

# Imports karpa_utils.data without karpa_utils/__init__, that is, without torch.
WITHOUT_TORCH = f"""
import sys, types
package = types.ModuleType("karpa_utils")
package.__path__ = [{str(PACKAGE)!r}]
sys.modules["karpa_utils"] = package
from karpa_utils.data import sources
assert "torch" not in sys.modules
"""


class Server:
    """A web server whose answer the test sets: answer(handler) writes the whole response."""

    def __init__(self):
        self.asked = 0
        self.answer = lambda handler: body(handler, GOOD)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked += 1
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/numbers.bin"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


def body(handler, content, length=True):
    handler.send_response(200)
    if length:
        handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("KARPA_CACHE", str(folder))
    monkeypatch.delenv("KARPA_DATA_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(sources, "_verified", set())
    return folder


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between attempts, noted instead of slept."""
    noted: list[float] = []
    monkeypatch.setattr("pooch.core.time.sleep", noted.append)
    return noted


def register(monkeypatch, url, sha=SHA):
    entry = {"files": {"numbers.bin": {"bytes": len(GOOD), "sha256": sha, "url": url}}}
    monkeypatch.setattr(sources, "registry", lambda: {"numbers": entry})


def refused(*fragments):
    """Fetches, expects one sentence with these fragments, and returns it."""
    with pytest.raises(BadInput) as caught:
        sources.fetch("numbers", "numbers.bin")
    return one_sentence(caught, *fragments)


def one_sentence(caught, *fragments):
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    for fragment in fragments:
        assert fragment in sentence
    return sentence


def kept(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_download_is_verified_and_kept(server, cache, monkeypatch, capfd):
    register(monkeypatch, server.url)
    path = sources.fetch("numbers", "numbers.bin")
    assert path == cache / "numbers" / "numbers.bin"
    assert path.read_bytes() == GOOD
    assert sources.fetch("numbers", "numbers.bin") == path
    assert server.asked == 1
    assert kept(cache) == ["numbers.bin"]
    assert capfd.readouterr() == ("", "")  # nothing that a notebook would show


def test_progress_shows_on_a_terminal(server, cache, monkeypatch, capsys):
    register(monkeypatch, server.url)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    sources.fetch("numbers", "numbers.bin")
    assert "100%" in capsys.readouterr().err


def test_wrong_hash_from_the_network(server, cache, monkeypatch):
    register(monkeypatch, server.url)
    other = b"X" * len(GOOD)
    server.answer = lambda handler: body(handler, other)
    sentence = refused("numbers.bin", SHA, hashlib.sha256(other).hexdigest(), server.url)
    assert "bytes of" not in sentence
    assert server.asked == 1  # asking again would give the same bytes
    assert kept(cache) == []


def test_truncated_with_a_length(server, cache, monkeypatch, pauses):
    register(monkeypatch, server.url)

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(GOOD)))
        handler.end_headers()
        handler.wfile.write(GOOD[:777])

    server.answer = answer
    refused("numbers", server.url, "KARPA_DATA_MIRROR")
    assert server.asked == 3
    assert kept(cache) == []


def test_truncated_without_a_length(server, cache, monkeypatch):
    register(monkeypatch, server.url)
    server.answer = lambda handler: body(handler, GOOD[:777], length=False)
    refused("777 bytes of 10000", SHA, hashlib.sha256(GOOD[:777]).hexdigest())
    assert kept(cache) == []


def test_a_second_attempt_may_succeed(server, cache, monkeypatch, pauses):
    register(monkeypatch, server.url)

    def answer(handler):
        if server.asked == 1:
            handler.send_error(503)
        else:
            body(handler, GOOD)

    server.answer = answer
    assert sources.fetch("numbers", "numbers.bin").read_bytes() == GOOD
    assert pauses == [1]


def test_no_network_names_the_two_ways(server, cache, monkeypatch, pauses):
    server.http.shutdown()
    server.http.server_close()  # nobody listens on this port now
    register(monkeypatch, server.url)
    refused("'numbers'", server.url, "run with a network", "KARPA_DATA_MIRROR")
    assert pauses == [1, 2]  # two retries
    assert kept(cache) == []


def test_time_out(server, cache, monkeypatch, pauses):
    register(monkeypatch, server.url)
    monkeypatch.setattr(sources, "TIMEOUT_S", (0.2, 0.2))
    hang = threading.Event()
    server.answer = lambda handler: hang.wait(10)
    refused("ReadTimeout", server.url, "run with a network")
    hang.set()
    assert server.asked == 3


def test_not_found(server, cache, monkeypatch, pauses):
    register(monkeypatch, server.url)
    server.answer = lambda handler: handler.send_error(404)
    refused("HTTPError", server.url)


def test_two_processes_at_once(server, cache):
    both_asked = threading.Barrier(2, timeout=30)

    def answer(handler):  # neither is answered before both have asked
        both_asked.wait()
        body(handler, GOOD)

    server.answer = answer
    entry = {"files": {"numbers.bin": {"bytes": len(GOOD), "sha256": SHA, "url": server.url}}}
    code = (
        WITHOUT_TORCH
        + f"""
import json
sources.registry = lambda: {{"numbers": json.loads({json.dumps(entry)!r})}}
print(sources.fetch("numbers", "numbers.bin"))
"""
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for run in runs:
        out, err = run.communicate(timeout=60)
        assert (run.returncode, err) == (0, b"")
        assert out.decode().strip() == str(cache / "numbers" / "numbers.bin")
    assert server.asked == 2
    assert (cache / "numbers" / "numbers.bin").read_bytes() == GOOD
    assert kept(cache) == ["numbers.bin"]


def test_mirrors_come_first_and_in_order(server, cache, tmp_path, monkeypatch):
    register(monkeypatch, server.url)
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "numbers").mkdir(parents=True)
    (second / "numbers").mkdir(parents=True)
    (second / "numbers" / "numbers.bin").write_bytes(GOOD)
    monkeypatch.setenv("KARPA_DATA_MIRROR", f"{first}{sources.os.pathsep}{second}")
    assert sources.fetch("numbers", "numbers.bin") == second / "numbers" / "numbers.bin"
    assert server.asked == 0
    assert not cache.exists()


def test_missing_mirror_folder(server, cache, tmp_path, monkeypatch):
    register(monkeypatch, server.url)
    monkeypatch.setenv("KARPA_DATA_MIRROR", str(tmp_path / "mispelled"))
    refused("mispelled", "KARPA_DATA_MIRROR")
    assert server.asked == 0


def test_wrong_file_in_a_mirror_is_named_and_left(server, cache, tmp_path, monkeypatch):
    register(monkeypatch, server.url)
    wrong = tmp_path / "mirror" / "numbers" / "numbers.bin"
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(GOOD[:-1])
    monkeypatch.setenv("KARPA_DATA_MIRROR", str(tmp_path / "mirror"))
    refused(str(wrong), "9999 bytes of 10000", SHA, hashlib.sha256(GOOD[:-1]).hexdigest())
    assert wrong.read_bytes() == GOOD[:-1]
    assert server.asked == 0


def test_damaged_cache_is_replaced(server, cache, monkeypatch):
    register(monkeypatch, server.url)
    path = sources.fetch("numbers", "numbers.bin")
    path.write_bytes(b"bit rot")
    assert sources.fetch("numbers", "numbers.bin").read_bytes() == GOOD
    assert server.asked == 2


def test_damaged_cache_without_a_network_is_left(server, cache, monkeypatch, pauses):
    register(monkeypatch, server.url)
    path = sources.fetch("numbers", "numbers.bin")
    path.write_bytes(b"bit rot")
    server.http.shutdown()
    server.http.server_close()
    refused(str(path), SHA, hashlib.sha256(b"bit rot").hexdigest(), server.url)
    assert path.read_bytes() == b"bit rot"


def test_a_new_hash_leaves_the_good_old_file(server, cache, monkeypatch):
    register(monkeypatch, server.url)
    path = sources.fetch("numbers", "numbers.bin")
    register(monkeypatch, server.url, sha="0" * 64)
    refused("0" * 64, SHA)
    assert path.read_bytes() == GOOD


@pytest.mark.parametrize("where", ["cache", "folder in it"])
def test_unwritable_cache(server, cache, monkeypatch, where):
    register(monkeypatch, server.url)
    if where == "cache":  # a file in the folder's place: even root cannot write into it
        cache.write_text("not a folder")
    else:
        cache.mkdir()
        (cache / "numbers").write_text("not a folder")
    refused("'numbers'", str(cache), "KARPA_CACHE")


def test_full_disk(server, cache, monkeypatch):
    register(monkeypatch, server.url)

    def full(self, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", full)
    refused(str(cache), "No space left on device", "KARPA_CACHE")


def test_mirror_only(cache, monkeypatch):
    register(monkeypatch, "")
    refused("'numbers'", "no public address", "numbers/numbers.bin", "KARPA_DATA_MIRROR")


def test_unknown_names(cache, monkeypatch):
    register(monkeypatch, "")
    with pytest.raises(BadInput) as caught:
        sources.fetch("nubmers", "numbers.bin")
    one_sentence(caught, "'nubmers'", "numbers")
    with pytest.raises(BadInput) as caught:
        sources.fetch("numbers", "other.bin")
    one_sentence(caught, "'other.bin'", "numbers.bin")


def tar_with(path, *members):
    """Writes a .tar.gz of (name, content) files and (name, None, target) links."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content, *target in members:
            info = tarfile.TarInfo(name)
            if target:
                info.type, info.linkname = tarfile.SYMTYPE, target[0]
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def zip_with(path, *members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(("pack", "suffix"), [(tar_with, ".tar.gz"), (zip_with, ".zip")])
def test_unpack(cache, tmp_path, pack, suffix):
    archive = pack(tmp_path / f"set{suffix}", ("a/one.txt", b"1"), ("two.txt", b"2"))
    folder = sources.unpack(archive)
    assert (folder / "a/one.txt").read_bytes() == b"1"
    assert (folder / "two.txt").read_bytes() == b"2"
    assert cache in folder.parents
    (folder / "mark").touch()
    assert sources.unpack(archive) == folder
    assert (folder / "mark").exists()
    assert len(list(folder.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("pack", "member"),
    [
        (tar_with, ("../../evil.txt", b"!")),
        (tar_with, ("a/../../../evil.txt", b"!")),
        (tar_with, ("way_out", None, "../../..")),
        (tar_with, ("way_out", None, "/etc")),
        (zip_with, ("../../evil.txt", b"!")),
        (zip_with, ("/evil.txt", b"!")),
        (zip_with, ("..\\evil.txt", b"!")),
        (zip_with, ("C:\\evil.txt", b"!")),
    ],
)
def test_archive_that_climbs_is_refused_whole(cache, tmp_path, pack, member):
    archive = pack(tmp_path / "climber", ("good.txt", b"1"), member)
    with pytest.raises(BadInput) as caught:
        sources.unpack(archive)
    one_sentence(caught, str(archive), repr(member[0]), "climbs out")
    assert kept(tmp_path) == ["climber"]  # not even the good member was left


def test_archive_with_an_absolute_name_stays_inside(cache, tmp_path):
    """The standard library's data filter strips the leading slash instead of refusing."""
    archive = tar_with(tmp_path / "absolute.tar.gz", ("/evil.txt", b"!"))
    assert kept(sources.unpack(archive)) == ["evil.txt"]
    assert not Path("/evil.txt").exists()


def test_broken_archive(cache, tmp_path):
    archive = tar_with(tmp_path / "whole.tar.gz", ("one.txt", bytes(range(256)) * 99))
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(archive.read_bytes()[:-99])
    with pytest.raises(BadInput) as caught:
        sources.unpack(broken)
    one_sentence(caught, str(broken), "cannot be unpacked")
    assert kept(cache) == []


def test_unpack_into_an_unwritable_cache(cache, tmp_path):
    cache.write_text("not a folder")
    with pytest.raises(BadInput) as caught:
        sources.unpack(tar_with(tmp_path / "set.tar.gz", ("one.txt", b"1")))
    one_sentence(caught, str(cache), "KARPA_CACHE")


def test_registry_needs_no_torch_and_every_entry_is_complete():
    code = (
        WITHOUT_TORCH
        + """
import json
print(json.dumps(sources.registry()))
assert "torch" not in sys.modules
"""
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    registry = json.loads(out)
    assert registry == sources.registry()
    for name, entry in registry.items():
        for key in ("title", "modality", "license", "citation", "harms", "rows", "notes"):
            assert entry[key].strip(), (name, key)
            assert "\n" not in entry[key], (name, key)
        assert entry["embedded"] or entry["files"], name
        for file, want in entry.get("files", {}).items():
            assert re.fullmatch(r"[0-9a-f]{64}", want["sha256"]), file
            assert want["bytes"] > 0
            assert want["url"].startswith("https://") or (
                want["url"] == "" and "Mirror only" in entry["notes"]
            ), file
            assert want["url"].endswith(file) or want["url"] == ""
