import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import safetensors.torch
import torch

from conjoin.checkpoints import Kind, open_reference
from conjoin.checkpoints.hub import fetch_model, files_to_fetch, is_hub_id, remote_specs
from conjoin.errors import CheckpointError, InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class RepositoryNotFoundError(Exception):
    pass


class GatedRepoError(RepositoryNotFoundError):
    pass


class RevisionNotFoundError(Exception):
    pass


class FakeHub(ModuleType):
    """huggingface_hub as far as it is used, with one model in it."""

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        super().__init__("huggingface_hub")
        self.folder, self.error = folder, error
        self.calls: list[tuple[str, str, str | None]] = []
        self.patterns: list[str] = []
        self.in_cache: list[str] = []
        self.utils = ModuleType("huggingface_hub.utils")
        for kind in (RepositoryNotFoundError, GatedRepoError, RevisionNotFoundError):
            setattr(self.utils, kind.__name__, kind)

    def _call(self, what: str, name: str, revision: str | None) -> None:
        self.calls.append((what, name, revision))
        if self.error is not None:
            raise self.error

    def model_info(self, name: str, *, revision: str | None) -> object:
        self._call("info", name, revision)
        return SimpleNamespace(
            siblings=[SimpleNamespace(rfilename=path.name) for path in self.folder.iterdir()]
        )

    def snapshot_download(
        self, name: str, *, revision: str | None, allow_patterns: Sequence[str]
    ) -> str:
        self._call("download", name, revision)
        self.patterns = list(allow_patterns)
        return str(self.folder)

    def try_to_load_from_cache(self, name: str, file: str, *, revision: str | None) -> object:
        return str(self.folder / file) if file in self.in_cache else object()

    def get_safetensors_metadata(self, name: str, *, revision: str | None) -> object:
        self._call("headers", name, revision)
        info = SimpleNamespace(dtype="BF16", shape=[2, 3])
        odd = SimpleNamespace(dtype="F4", shape=[1])
        tensors = {"odd": odd} if name == "org/odd" else {"a.running_mean": info, "a": info}
        return SimpleNamespace(
            files_metadata={"model.safetensors": SimpleNamespace(tensors=tensors)}
        )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    folder = tmp_path / "remote"
    folder.mkdir()
    safetensors.torch.save_file({"w": torch.ones(2)}, folder / "model.safetensors")
    for name in ("README.md", "config.json", "pytorch_model.bin", "odd[1].json", "modeling_x.py"):
        (folder / name).write_text("{}")
    fake = FakeHub(folder)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", fake.utils)
    return fake


@pytest.mark.parametrize("text", ["org/name", "a-b/c.d_e", "0/1"])
def test_ids(text: str) -> None:
    assert is_hub_id(text)


@pytest.mark.parametrize(
    "text",
    ["name", "a/b/c", "./b", "../b", "/a/b", "~/b", "a/", "/b", "a/.b", "a b/c", "a/b--c", "a/b..c",
     "a/b.git", "a/b.", "a\\b", "é/b", "a/" + "b" * 95, "a/b\n", ""],
)  # fmt: skip
def test_what_is_no_id(text: str) -> None:
    assert not is_hub_id(text)


def test_only_what_is_needed_is_downloaded(hub: FakeHub) -> None:
    assert fetch_model("org/name", "v1") == hub.folder
    assert hub.calls == [("info", "org/name", "v1"), ("download", "org/name", "v1")]
    # A pattern with brackets would mean something else.
    assert hub.patterns == ["config.json", "model.safetensors", "modeling_x.py", "odd[[]1].json"]


def test_files_of_sharded_models_and_adapters() -> None:
    shards = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    index = "model.safetensors.index.json"
    others = ["original/consolidated.00.pth", "onnx/model.onnx", "runs/x.json", "a.gguf"]
    assert files_to_fetch([*shards, index, *others], "it") == sorted([*shards, index])
    adapter = ["adapter_config.json", "adapter_model.safetensors"]
    assert files_to_fetch([*adapter, "checkpoint-3/adapter_model.safetensors"], "it") == adapter
    assert files_to_fetch([*adapter, "model.safetensors"], "it") == [*adapter, "model.safetensors"]
    parts = ["1_Pooling/config.json", "model.safetensors", "modules.json"]
    assert files_to_fetch(parts, "it") == parts
    with pytest.raises(CheckpointError, match="it has no weights"):
        files_to_fetch(["a.gguf", "model.onnx"], "it")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RepositoryNotFoundError("404"), r"'org/name' of the Hub at 'v1' cannot.*check the name"),
        (GatedRepoError("403"), "ask for access"),
        (RevisionNotFoundError("404"), "a branch, a tag or a full commit"),
        (ConnectionError("no route\nlong advice"), r"not in the cache.*ConnectionError: no route$"),
        (ValueError(), r"ValueError$"),
    ],
)
def test_failures(hub: FakeHub, error: Exception, message: str) -> None:
    hub.error = error
    with pytest.raises(CheckpointError, match=message):
        fetch_model("org/name", "v1")


def test_the_cache_serves_when_the_hub_is_out_of_reach(hub: FakeHub) -> None:
    hub.error = ConnectionError("no route")
    hub.in_cache = ["model.safetensors"]
    assert fetch_model("org/name") == hub.folder
    hub.error = RepositoryNotFoundError("withdrawn")
    with pytest.raises(CheckpointError, match="withdrawn"):
        fetch_model("org/name")


def test_headers_before_the_download(hub: FakeHub) -> None:
    specs = remote_specs("org/name", "v1")
    assert list(specs) == ["a.running_mean", "a"]
    assert (specs["a"].shape, specs["a"].dtype) == ((2, 3), torch.bfloat16)
    assert specs["a.running_mean"].kind is Kind.STATISTIC
    assert hub.calls == [("headers", "org/name", "v1")]
    with pytest.raises(CheckpointError, match="'odd' .* has the dtype 'F4'"):
        remote_specs("org/odd")
    hub.error = ConnectionError("no route")
    with pytest.raises(CheckpointError, match="cannot be read without a download: .*no route"):
        remote_specs("org/name")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for function in (fetch_model, remote_specs):
        with pytest.raises(InputError, match=r'pip install "conjoin\[hub\]"'):
            function("org/name")


def test_a_reference_to_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    for text in ("org/name@v1", "hf://org/name@v1"):
        assert open_reference(text, relative_to=tmp_path)["w"].tolist() == [1, 1]
    hub.error = RepositoryNotFoundError("404 there")
    with pytest.raises(CheckpointError, match=r"no file .*org/name, and no folder; .*404 there"):
        open_reference("org/name", relative_to=tmp_path)
    count = len(hub.calls)
    (tmp_path / "org").mkdir()
    for text, message in (
        ("./other/name", "has not the form"),
        ("org/name", "there is a folder .*for the Hub, write hf://org/name"),
        ("other/name.safetensors", "its suffix is a file's"),
    ):
        with pytest.raises(CheckpointError, match=f"and no folder; .*{message}"):
            open_reference(text, relative_to=tmp_path)
    assert len(hub.calls) == count  # it was not asked


def test_the_real_cache_offline(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (repository / "refs", repository / "blobs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    safetensors.torch.save_file({"w": torch.ones(2)}, repository / "blobs" / "1")
    (repository / "blobs" / "2").write_text("{}")
    for digest, name in (("1", "model.safetensors"), ("2", "config.json")):
        (snapshot / name).symlink_to(Path("..", "..", "blobs", digest))
    code = (
        "import json\n"
        "from conjoin.checkpoints import open_reference\n"
        "found = [open_reference(text)['w'].tolist()\n"
        f"         for text in ('org/name', 'org/name@main', 'org/name@{COMMIT}')]\n"
        "try:\n"
        "    open_reference('org/absent')\n"
        "except Exception as error:\n"
        "    found.append(type(error).__name__ + ': ' + str(error))\n"
        "print(json.dumps(found))\n"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    run = [sys.executable, "-c", code]
    done = subprocess.run(
        run, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    *values, refused = json.loads(done.stdout)
    assert values == [[1, 1]] * 3
    assert refused.startswith("CheckpointError: there is no file org/absent, and no folder; ")
    assert "not in the cache" in refused
    assert "Offline" in refused
