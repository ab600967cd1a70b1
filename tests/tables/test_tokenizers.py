"""Token counts: exact with a vocabulary, estimated without, and never waiting long for a download."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import threading
import warnings
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tiktoken
from tiktoken.model import MODEL_PREFIX_TO_ENCODING, MODEL_TO_ENCODING
from tiktoken_ext.openai_public import ENCODING_CONSTRUCTORS

from llmhub.core.token_estimate import estimate_tokens
from llmhub.tables import tokenizers as module
from llmhub.tables.tokenizers import (
    EstimateWarning,
    MissingVocabulary,
    TokenCounts,
    VocabularySource,
    count_tokens,
    encoding_name_of,
    load_encoding,
    parse_ranks,
    read_vocabulary,
    vocabulary_path,
)

MERGES = ("th", "he", "the", " t", "in", "ing")

WORDS = [bytes([byte]) for byte in range(256)] + [merge.encode() for merge in MERGES]

VOCABULARY = b"".join(b"%s %d\n" % (b64encode(word), rank) for rank, word in enumerate(WORDS))

DIGEST = hashlib.sha256(VOCABULARY).hexdigest()


@pytest.fixture(autouse=True)
def clear_caches() -> Iterator[None]:
    """Clear the process-wide caches before and after each test."""
    for cached in (load_encoding, module._warn_estimated):
        cached.cache_clear()
    yield
    for cached in (load_encoding, module._warn_estimated):
        cached.cache_clear()


@pytest.fixture
def tiny_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace every vocabulary by a tiny one."""
    monkeypatch.setattr(module, "read_vocabulary", lambda *_: VOCABULARY)


@contextmanager
def unresponsive_server() -> Iterator[int]:
    """Accept connections on a port and never respond."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextmanager
def serving(body: bytes, *, drip: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Serve ``body``, at once or byte by byte; yield the URL and the list of requested paths."""
    requested: list[str] = []
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not drip:
                self.wfile.write(body)
                return
            for byte in body:
                if stopped.wait(0.01):
                    return
                self.wfile.write(bytes([byte]))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/tiny.tiktoken", requested
    finally:
        stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()


class TestCount:
    def test_counts_with_a_vocabulary_are_exact(self, tiny_vocabulary: None) -> None:
        texts = ["the thing", "", "x" * 7]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            counted = count_tokens(texts, "openai/gpt-4o-mini")
        assert counted == TokenCounts([4, 0, 7], estimated=False, tokenizer="o200k_base")

    def test_the_encoding_is_tiktokens(self, tiny_vocabulary: None) -> None:
        encoding = load_encoding("o200k_base", VocabularySource())
        assert isinstance(encoding, tiktoken.Encoding)
        assert encoding.decode(encoding.encode_ordinary("in the thing")) == "in the thing"

    def test_special_tokens_in_a_text_are_counted_as_text(self, tiny_vocabulary: None) -> None:
        assert count_tokens(["<|endoftext|>"], "openai/gpt-4o").counts == [13]

    def test_counts_with_another_models_tokenizer_are_estimates(self, tiny_vocabulary: None) -> None:
        counted = count_tokens(["the"], "anthropic/claude-sonnet-4-5")
        assert counted == TokenCounts([1], estimated=True, tokenizer="o200k_base")

    def test_a_large_column_is_counted_in_order(self, tiny_vocabulary: None, monkeypatch: pytest.MonkeyPatch) -> None:
        texts = ["x" * (index % 17) for index in range(1000)]
        monkeypatch.setattr(module, "PARALLEL_FROM_CHARS", 100)
        assert count_tokens(texts, "openai/gpt-4o").counts == [index % 17 for index in range(1000)]

    def test_a_million_spaces_are_counted(self, tiny_vocabulary: None) -> None:
        assert count_tokens([" " * 1_000_001], "openai/gpt-4o").counts == [1_000_001]

    def test_without_a_vocabulary_counts_are_estimated_with_one_warning(self, tmp_path: Path) -> None:
        offline = VocabularySource(tmp_path, download=False)
        text = "Janet sells 16 eggs."
        with pytest.warns(EstimateWarning, match="o200k_base could not be loaded.*does not exist"):
            counted = count_tokens([text, ""], "openai/gpt-4o", offline)
        assert counted == TokenCounts([estimate_tokens(text), 0], estimated=True, tokenizer="estimate")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert count_tokens([text], "anthropic/claude-opus-4-5", offline).estimated

    def test_a_corrupt_file_is_not_used(self, tmp_path: Path) -> None:
        url = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
        vocabulary_path(url, tmp_path).write_bytes(VOCABULARY)
        with pytest.warns(EstimateWarning, match="is corrupt"):
            counted = count_tokens(["the"], "openai/gpt-4o", VocabularySource(tmp_path, download=False))
        assert counted.estimated

    def test_an_unresponsive_server_does_not_block_the_count(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with unresponsive_server() as port:
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
            impatient = VocabularySource(tmp_path, wait_s=0.1)
            with pytest.warns(EstimateWarning):
                assert count_tokens(["the"], "openai/gpt-4o", impatient).estimated
            # The failure is cached: no second attempt.
            assert isinstance(load_encoding("o200k_base", impatient), MissingVocabulary)
            assert load_encoding.cache_info().misses == 1

    @pytest.mark.parametrize("name", ["no_such_base", "o200k_harmony", "gpt2"])
    def test_an_unexpected_constructor_is_not_called(self, name: str, tmp_path: Path) -> None:
        assert isinstance(load_encoding(name, VocabularySource(tmp_path)), MissingVocabulary)

    @pytest.mark.parametrize(
        ("model", "expected"),
        [
            ("openai/gpt-4o-mini", ("o200k_base", True)),
            ("gpt-4", ("cl100k_base", True)),
            ("azure/gpt-35-turbo", ("cl100k_base", True)),
            ("openrouter/openai/gpt-4o-mini:free", ("o200k_base", True)),
            ("groq/openai/gpt-oss-120b", ("o200k_base", True)),
            ("openai/o3-mini", ("o200k_base", True)),
            ("azure/my-deployment", ("o200k_base", False)),
            ("bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", ("o200k_base", False)),
        ],
    )
    def test_the_encoding_of_a_model(self, model: str, expected: tuple[str, bool]) -> None:
        assert encoding_name_of(model) == expected

    def test_every_encoding_of_tiktoken_can_be_built(self, tiny_vocabulary: None) -> None:
        names = {encoding_name_of(model)[0] for model in (*MODEL_TO_ENCODING, *MODEL_PREFIX_TO_ENCODING)}
        loader = object()
        for name in names:
            constructor = module._with_loader(ENCODING_CONSTRUCTORS[name], loader)
            assert constructor is not None, name
            assert constructor.__globals__["load_tiktoken_bpe"] is loader

    def test_importing_the_module_does_not_import_tiktoken(self) -> None:
        code = "import sys, llmhub.tables.tokenizers; sys.exit('tiktoken' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


class TestVocabulary:
    def test_a_cached_file_needs_no_network(self, tmp_path: Path) -> None:
        url = "http://127.0.0.1:9/tiny"
        vocabulary_path(url, tmp_path).write_bytes(VOCABULARY)
        assert read_vocabulary(url, DIGEST, VocabularySource(tmp_path)) == VOCABULARY

    def test_a_file_is_downloaded_once_and_stored(self, tmp_path: Path) -> None:
        folder = tmp_path / "missing" / "folder"
        with serving(VOCABULARY) as (url, requested):
            assert read_vocabulary(url, DIGEST, VocabularySource(folder)) == VOCABULARY
            assert read_vocabulary(url, DIGEST, VocabularySource(folder)) == VOCABULARY
        assert len(requested) == 1
        assert [path.name for path in folder.iterdir()] == [hashlib.sha1(url.encode()).hexdigest()]

    def test_a_corrupt_file_is_replaced(self, tmp_path: Path) -> None:
        with serving(VOCABULARY) as (url, _):
            path = vocabulary_path(url, tmp_path)
            path.write_bytes(VOCABULARY[:-1])
            assert read_vocabulary(url, DIGEST, VocabularySource(tmp_path)) == VOCABULARY
            assert path.read_bytes() == VOCABULARY

    def test_a_corrupt_file_is_kept_if_downloads_are_disabled(self, tmp_path: Path) -> None:
        path = vocabulary_path("http://x/y", tmp_path)
        path.write_bytes(b"corrupt")
        found = read_vocabulary("http://x/y", DIGEST, VocabularySource(tmp_path, download=False))
        assert isinstance(found, MissingVocabulary)
        assert "corrupt" in found.reason
        assert path.read_bytes() == b"corrupt"

    def test_a_download_with_the_wrong_digest_is_discarded(self, tmp_path: Path) -> None:
        with serving(b"something else") as (url, _):
            found = read_vocabulary(url, DIGEST, VocabularySource(tmp_path))
        assert isinstance(found, MissingVocabulary)
        assert "SHA-256" in found.reason
        assert list(tmp_path.iterdir()) == []

    def test_a_slow_download_times_out(self, tmp_path: Path) -> None:
        with serving(VOCABULARY, drip=True) as (url, _):
            found = read_vocabulary(url, DIGEST, VocabularySource(tmp_path, wait_s=0.2))
        assert found == MissingVocabulary(f"{url} did not respond completely within 0.2 s")

    def test_an_unresponsive_server_times_out(self, tmp_path: Path) -> None:
        with unresponsive_server() as port:
            found = read_vocabulary(f"http://127.0.0.1:{port}/", DIGEST, VocabularySource(tmp_path, wait_s=0.1))
        assert isinstance(found, MissingVocabulary)

    def test_a_refused_connection_is_reported(self, tmp_path: Path) -> None:
        with unresponsive_server() as port:
            url = f"http://127.0.0.1:{port}/"
        found = read_vocabulary(url, DIGEST, VocabularySource(tmp_path))
        assert isinstance(found, MissingVocabulary)
        assert "refused" in found.reason

    def test_an_unwritable_folder_does_not_fail_the_download(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("not a folder")
        with serving(VOCABULARY) as (url, _):
            assert read_vocabulary(url, DIGEST, VocabularySource(tmp_path / "file")) == VOCABULARY

    def test_ranks_are_parsed(self) -> None:
        assert parse_ranks(VOCABULARY) == {word: rank for rank, word in enumerate(WORDS)}
