import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from corpora import release_row

from data_builders import source
from esc import paths
from esc.files import EscError

CORPUS = json.dumps([release_row(number) for number in range(12)]).encode()


class Handler(BaseHTTPRequestHandler):
    """Answers by the path: whole, cut short, not JSON, or an error."""

    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        body = {"/page": b"<html>sign in</html>", "/other": b'{"a": 1}'}.get(self.path, CORPUS)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_the_download_is_kept_with_its_checksum_shown(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(source.URL_VARIABLE, f"{server}/ESConv.json")
    found = source.locate(None, tmp_path)
    assert found.files[0].read_bytes() == CORPUS
    assert "SHA-256" in capsys.readouterr().out
    monkeypatch.setenv(source.URL_VARIABLE, f"{server}/missing")
    assert source.locate(None, tmp_path) == found


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("cut", "download failed .* ESCONV=path .* connect this machine to the network"),
        ("page", "no corpus"),
        ("other", "no corpus"),
        ("missing", "download failed"),
    ],
)
def test_a_bad_download_is_one_error_and_leaves_no_file(
    server, tmp_path, monkeypatch, answer, message
):
    monkeypatch.setenv(source.URL_VARIABLE, f"{server}/{answer}")
    with pytest.raises(EscError, match=message):
        source.locate(None, tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_the_hub_layout_loads_through_the_datasets_library(tmp_path, monkeypatch):
    # A folder stands in for the hub's repository: the library reads its text files the same way.
    repository = tmp_path / "thu-coai" / "esconv"
    repository.mkdir(parents=True)
    said = [{"text": "hi", "speaker": "usr"}]
    said.append({"text": "hello", "speaker": "sys", "strategy": "Others"})
    for name in ("train", "validation", "test"):
        row = {"situation": name, "dialog": said}
        (repository / f"{name}.txt").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = source._from_hub("thu-coai/esconv", tmp_path / "work", None)
    rows = [json.loads(path.read_text()) for path in found.files]
    assert [row["situation"] for row in rows] == ["train", "validation", "test"]


def test_a_folder_means_the_official_file_or_the_hubs_in_their_order(tmp_path):
    for name in ("test.txt", "train.txt", "valid.txt"):
        (tmp_path / name).write_bytes(CORPUS)
    found = [path.name for path in source.locate(str(tmp_path), tmp_path).files]
    assert found == ["train.txt", "valid.txt", "test.txt"]
    (tmp_path / "train.jsonl").write_bytes(CORPUS)
    with pytest.raises(EscError, match="one file each for train, valid and test"):
        source.locate(str(tmp_path), tmp_path)
    (tmp_path / "ESConv.json").write_bytes(CORPUS)
    assert source.locate(str(tmp_path), tmp_path).files == (tmp_path / "ESConv.json",)


def test_the_corpus_kept_is_the_last_and_one_that_lost_its_file_is_not_replaced(
    tmp_path, small_corpus
):
    first = tmp_path / "first.json"
    first.write_bytes(CORPUS)
    for path in (first, small_corpus):
        source.keep(source.locate(str(path), tmp_path), tmp_path)
    assert {p.name for p in (tmp_path / paths.CORPUS).iterdir()} == {"small.json", "source.json"}
    (tmp_path / paths.CORPUS / "small.json").unlink()
    with pytest.raises(EscError, match=r"kept from small\.json, is gone; give the corpus"):
        source.locate(None, tmp_path)


# A mistyped path is not looked up on the hub, which no test can reach.
@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("corpora/ESConv.json", "no such file or folder"),
        ("nobody/nothing-of-that-name", "could not be loaded"),
    ],
)
def test_a_corpus_that_is_nowhere_is_one_error_with_the_ways_out(tmp_path, named, message):
    with pytest.raises(EscError, match=f"{message}.* give the corpus with ESCONV=path"):
        source.locate(named, tmp_path)
