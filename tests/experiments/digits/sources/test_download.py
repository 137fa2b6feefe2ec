import gzip
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conjoin.errors import DataError
from conjoin.experiments.digits.sources import Mnist, download, fetch_mnist, fetch_svhn


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (folder := tmp_path / "served").mkdir()
    serving = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{serving.server_port}/"
    serving.shutdown()
    thread.join()
    serving.server_close()


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write stand-ins for all files and take their hashes for the published ones."""
    for table in ("_MNIST", "_SVHN"):
        files = []
        for file in getattr(download, table):
            content = file.name.encode() * 1000
            data = gzip.compress(content) if file.inner else content
            (folder / file.name).write_bytes(data)
            inner = hashlib.md5(content).hexdigest() if file.inner else None
            files.append(download._File(file.name, hashlib.md5(data).hexdigest(), inner))
        monkeypatch.setattr(download, table, tuple(files))


def test_files_are_fetched_to_where_they_are_looked_for(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server[0], monkeypatch)
    calls: list[tuple[int, int]] = []
    target = fetch_mnist(
        tmp_path / "data", mirrors=(server[1],), progress=lambda *call: calls.append(call)
    )
    found = Mnist(target)._find("t10k-labels-idx1-ubyte")
    assert found.read_bytes() == (server[0] / found.name).read_bytes()
    assert calls[-1] == (found.stat().st_size,) * 2
    fetch_svhn(tmp_path / "data", mirrors=(server[1],))
    assert (tmp_path / "data" / "train_32x32.mat").exists()


def test_next_mirror_is_tried(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server[0], monkeypatch)
    fetch_svhn(tmp_path, mirrors=(f"{server[1]}missing/", server[1]))
    assert (tmp_path / "test_32x32.mat").exists()


def test_wrong_hash_is_refused_and_nothing_kept(server: tuple[Path, str], tmp_path: Path) -> None:
    (server[0] / "train_32x32.mat").write_bytes(b"something else")
    with pytest.raises(DataError, match="e26dedcc434d2e4c54c9b2d4a06d8373") as caught:
        fetch_svhn(tmp_path / "data", mirrors=(server[1],))
    assert server[1] in str(caught.value)
    assert list((tmp_path / "data").iterdir()) == []


def test_missing_file_names_the_addresses_tried(server: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="404") as caught:
        fetch_mnist(tmp_path, mirrors=(f"{server[1]}a/", f"{server[1]}b/"))
    assert f"{server[1]}a/train-images-idx3-ubyte.gz" in str(caught.value)
    assert f"{server[1]}b/train-images-idx3-ubyte.gz" in str(caught.value)


def test_whole_files_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    publish(tmp_path / "MNIST" / "raw", monkeypatch)
    # Compressed anew: another file, the same images.
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    anew = gzip.compress(gzip.decompress(path.read_bytes()), 1, mtime=12345)
    assert anew != path.read_bytes()
    path.write_bytes(anew)
    fetch_mnist(tmp_path, mirrors=())
    assert path.read_bytes() == anew


# Names of their own: a packed file has the time in it, and all workers have to find the same tests.
@pytest.mark.parametrize(
    "content",
    [b"mine", gzip.compress(b"mine", mtime=0), gzip.compress(b"a" * 99, mtime=0)[:9]],
    ids=["plain", "packed", "cut"],
)
def test_files_of_the_user_are_not_overwritten(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="exists, but is not the published file"):
        fetch_mnist(tmp_path, mirrors=())
    assert path.read_bytes() == content


def test_known_hashes_are_those_of_the_real_files(real_mnist: Mnist) -> None:
    for file in download._MNIST:
        path = real_mnist._find(file.name.removesuffix(".gz"))
        content = path.read_bytes()
        inner = gzip.decompress(content) if path.suffix == ".gz" else content
        assert hashlib.md5(inner).hexdigest() == file.inner
