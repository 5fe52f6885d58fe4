import gzip
import io
import socket
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rich.console import Console
from tiny_data import digest

from taut.data import get, load
from taut.data.describe import Download
from taut.errors import ConfigError, DataError


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.startswith("/cut/"):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"half of it")
            return
        super().do_GET()

    def log_message(self, *values):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    root = tmp_path / "served"
    root.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=root))
    httpd.asked, httpd.root = [], root
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def serve(server, tiny, folder="good"):
    (server.root / folder).mkdir()
    for name, packed in tiny.packed.items():
        (server.root / folder / name).write_bytes(packed)
    return f"{server.url}/{folder}"


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_download_can_be_loaded_and_is_not_fetched_twice(tiny, server, tmp_path):
    base = serve(server, tiny)
    home = tmp_path / "home"
    folder = get(tiny.dataset, home, base)
    assert folder == home / "TINY/raw"
    assert files_in(home) == sorted(tiny.packed)
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())
    assert len(load(tiny.dataset, "test", home)) == 9
    assert len(server.asked) == 4
    assert get(tiny.dataset, home, base) == folder
    assert len(server.asked) == 4


def test_a_download_goes_to_the_cache_or_where_the_variable_says(
    tiny, server, tmp_path, monkeypatch
):
    base = serve(server, tiny)
    assert get(tiny.dataset, base_url=base) == tmp_path / "cache/taut/data/TINY/raw"
    monkeypatch.setenv("TAUT_DATA", str(tmp_path / "variable"))
    assert get(tiny.dataset, base_url=base) == tmp_path / "variable/TINY/raw"


def test_only_damaged_files_are_replaced(tiny, server, tmp_path):
    base = serve(server, tiny)
    folder = tiny.write(tmp_path / "home")
    (folder / "test-labels.gz").write_bytes(b"\x1f\x8b rubbish")
    with pytest.raises(DataError, match=r"test-labels\.gz"):
        load(tiny.dataset, "test", tmp_path / "home")
    get(tiny.dataset, tmp_path / "home", base)
    assert server.asked == ["/good/test-labels.gz"]
    assert len(load(tiny.dataset, "test", tmp_path / "home")) == 9


def test_a_damaged_unpacked_file_does_not_shadow_the_download(tiny, server, tmp_path):
    base = serve(server, tiny)
    folder = tiny.write(tmp_path / "home", unpacked=True)
    get(tiny.dataset, tmp_path / "home", base)
    assert server.asked == []  # good as it is
    (folder / "test-images").write_bytes(b"rubbish")
    get(tiny.dataset, tmp_path / "home", base)
    assert len(load(tiny.dataset, "test", tmp_path / "home")) == 9


def test_mirrors_are_tried_in_order(tiny, server, tmp_path):
    good = serve(server, tiny)
    (server.root / "bad").mkdir()
    for name in tiny.packed:
        (server.root / "bad" / name).write_bytes(b"something else")
    mirrors = (f"{server.url}/nothing/", f"{server.url}/bad", good + "/")
    get(replace(tiny.dataset, mirrors=mirrors), tmp_path / "home")
    assert server.asked[:3] == [
        f"/{mirror}/train-images.gz" for mirror in ("nothing", "bad", "good")
    ]
    assert files_in(tmp_path / "home") == sorted(tiny.packed)


def test_a_wrong_file_is_refused_and_not_kept(tiny, server, tmp_path):
    (server.root / "bad").mkdir()
    wrong = gzip.compress(tiny.contents["train-images.gz"] + b"!")
    (server.root / "bad/train-images.gz").write_bytes(wrong)
    with pytest.raises(DataError, match="another checksum than the published one"):
        get(tiny.dataset, tmp_path / "home", f"{server.url}/bad")
    assert files_in(tmp_path / "home") == []


def test_a_file_cut_short_on_the_way_is_not_kept(tiny, server, tmp_path):
    with pytest.raises(DataError, match=r"could not download train-images.gz"):
        get(tiny.dataset, tmp_path / "home", f"{server.url}/cut")
    assert files_in(tmp_path / "home") == []


def test_what_each_mirror_answered_and_what_to_do(tiny, server, tmp_path):
    with socket.socket() as free:  # a port where nobody listens
        free.bind(("127.0.0.1", 0))
        silent = f"http://127.0.0.1:{free.getsockname()[1]}"
    dataset = replace(tiny.dataset, mirrors=(f"{server.url}/nothing", silent, "nowhere:"))
    with pytest.raises(DataError) as caught:
        get(dataset, tmp_path / "home")
    message = str(caught.value)
    assert f"{server.url}/nothing/train-images.gz: HTTP 404" in message
    assert f"{silent}/train-images.gz: no connection" in message
    assert "nowhere:/train-images.gz: " in message
    assert "Check the network" in message
    assert "--base-url" in message
    assert f"put train-images.gz into {tmp_path / 'home/TINY/raw'}" in message
    assert "\n" not in message


def test_a_folder_that_cannot_be_written(tiny, server, tmp_path):
    (tmp_path / "home").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=r"cannot write to .*--data-dir or TAUT_DATA"):
        get(tiny.dataset, tmp_path / "home", serve(server, tiny))


def test_progress_is_plain_lines_where_there_is_no_terminal(tiny, server, tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")  # rich moves no cursor on a dumb one
    out = io.StringIO()
    get(tiny.dataset, tmp_path / "a", serve(server, tiny), Console(file=out))
    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(f"{server.url}/good/train-images.gz -> ")
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=200)
    get(tiny.dataset, tmp_path / "b", f"{server.url}/good", terminal)
    assert "\x1b[" in out.getvalue()
    assert files_in(tmp_path / "b") == sorted(tiny.packed)


def archive(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def with_archive(tiny_cifar, server, members):
    content = archive(members)
    (server.root / "tiny.tar.gz").write_bytes(content)
    layout = tiny_cifar.dataset.layouts[0]
    files = (*layout.parts["train"], *layout.parts["test"])
    download = Download("tiny.tar.gz", digest(content), "py", files)
    return replace(tiny_cifar.dataset, downloads=(download,), mirrors=(server.url,))


def test_an_archive_gives_its_members_and_nothing_else(tiny_cifar, server, tmp_path):
    members = {f"py/{name}": content for name, content in tiny_cifar.python.items()}
    extra = {"py/readme.html": b"hello", "../outside": b"out", "py/../../outside": b"out"}
    dataset = with_archive(tiny_cifar, server, {**extra, **members})
    home = tmp_path / "home"
    assert get(dataset, home) == home / "py"
    assert files_in(home) == sorted(tiny_cifar.python)  # the archive is gone, too
    assert not (tmp_path / "outside").exists()
    assert len(load(dataset, "train", home)) == 24
    assert get(dataset, home) == home / "py"
    (home / "py/test_batch").write_bytes(b"rubbish")
    get(dataset, home)
    assert len(load(dataset, "test", home)) == 9
    assert server.asked == ["/tiny.tar.gz"] * 2


def test_an_archive_that_the_user_brought_is_used_and_kept(tiny_cifar, server, tmp_path):
    members = {f"py/{name}": content for name, content in tiny_cifar.python.items()}
    dataset = with_archive(tiny_cifar, server, members)
    (server.root / "tiny.tar.gz").rename(tmp_path / "tiny.tar.gz")
    get(dataset, tmp_path)
    assert server.asked == []
    assert (tmp_path / "tiny.tar.gz").exists()


def test_an_archive_without_the_right_members_is_refused(tiny_cifar, server, tmp_path):
    members = {f"py/{name}": content for name, content in tiny_cifar.python.items()}
    del members["py/test_batch"]
    with pytest.raises(DataError, match="lacks py/test_batch"):
        get(with_archive(tiny_cifar, server, members), tmp_path / "a")
    members["py/test_batch"] = b"rubbish"
    with pytest.raises(DataError, match="not the published test_batch"):
        get(with_archive(tiny_cifar, server, members), tmp_path / "b")
    assert "test_batch" not in files_in(tmp_path / "b")


def test_a_shipped_set_needs_no_download(monkeypatch):
    folder = get("mnist-5k")
    assert (folder / "mnist_5k.csv.gz").is_file()
    monkeypatch.setattr("taut.data.locate.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'taut\[digits\]'"):
        get("mnist-5k")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ConfigError, match="cifar10"):
        get("imagenet-21k")
