"""Tampering: every file and field of a frozen dataset that is edited is found and named, forgeries by digest or key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pyarrow import parquet

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.datasets import Recipe, freeze, read, verify

GOLDEN = Path(__file__).parents[1] / "goldens" / "files" / "frozen"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value without values of its own."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    if not items:
        yield path
    for key, child in items:
        yield from leaves(child, (*path, key))


def edited(value: Any) -> Any:
    """Return another value of the same type."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value[:-1] + ("0" if value[-1:] != "0" else "1")
        case list():
            return ["new"]
        case dict():
            return {"new": 1}
        case _:
            return "new"


@pytest.mark.parametrize("name", ["lock.json", "croissant.json", "manifest.json"])
def test_every_edited_field_is_found_and_named(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    document = json.loads(content)
    digest = read(folder).digest
    for path in leaves(document):
        changed = json.loads(content)
        parent = changed
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = edited(parent[path[-1]])
        (folder / name).write_text(json.dumps(changed))
        dotted = ".".join(map(str, path))
        try:
            verification = verify(folder, expect=digest)
        except BadRequestError as error:
            assert name in str(error), dotted  # noqa: PT017 - the file is named, as it is no longer a lock
            continue
        assert not verification, dotted
        report = "\n".join(verification.problems)
        assert dotted in report if name != "manifest.json" else name in report, dotted
    (folder / name).write_bytes(content)
    assert verify(folder, expect=digest)


def test_every_file_edited_removed_or_added_is_named(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    digest = read(folder).digest
    assert names == ["README.md", "croissant.json", "data.parquet", "lock.json", "manifest.json", "rows.lock"]
    for name in names:
        content = (folder / name).read_bytes()
        for changed in (content + b" ", None):
            if changed is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(changed)
            try:
                report = str(verify(folder, expect=digest))
                assert not report.startswith("intact")
            except BadRequestError as error:
                report = str(error)
            assert name in report
            (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("mine")
    assert "notes.txt: is not part of the dataset" in verify(folder).problems


def column_values(table: pa.Table, name: str) -> list[Any]:
    return list(table.column(name).to_pylist())


def test_every_edited_column_names_its_row(folder: Path) -> None:
    path = folder / "data.parquet"
    content, table = path.read_bytes(), parquet.read_table(path)
    columns = {column.name: column for column in read(folder).columns}
    for name in table.column_names:
        kind = table.schema.field(name).type
        values = column_values(table, name)
        values[4] = None if values[4] is not None else pa.scalar(_some_value(kind), kind).as_py()
        index = table.schema.get_field_index(name)
        changed = table.set_column(index, table.schema.field(name), pa.array(values, kind))
        parquet.write_table(changed, path, compression="zstd")
        verification = verify(folder)
        assert [change.position for change in verification.changes] == [4], name
        role = "row_id" if name == "row_id" else columns[name].role
        expected = {
            "asked": "answer",
            "answer": "answer",
            "input": "input",
            "measure": "measurement",
            "score": "answer",
        }
        assert verification.changes[0].kind == expected.get(role, role), name
    path.write_bytes(content)
    assert verify(folder)


def _some_value(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return []
    if pa.types.is_string(kind):
        return "new"
    return 7


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table], **options: Any) -> None:
    table = parquet.read_table(folder / "data.parquet")
    parquet.write_table(change(table), folder / "data.parquet", **{"compression": "zstd", **options})


def test_reordered_rows_are_told_as_reordered(folder: Path) -> None:
    rewrite(folder, lambda table: table.take(pa.array(range(len(table) - 1, -1, -1))))
    verification = verify(folder)
    assert (verification.ok, verification.changed) == (False, 0)
    assert "data.parquet: the rows are in another order; each of them is intact" in verification.problems


def test_inserted_row_is_one_row(folder: Path) -> None:
    rewrite(folder, lambda table: pa.concat_tables([table.slice(0, 3), table.slice(9, 1), table.slice(3)]))
    (change,) = verify(folder).changes
    assert change.kind == "added"


def test_one_removed_and_one_added_row_are_two_changes(folder: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        added = table.slice(7, 1)
        index = table.schema.get_field_index("label")
        added = added.set_column(index, table.schema.field("label"), pa.array([77], pa.int64()))
        return pa.concat_tables([table.slice(0, 3), table.slice(4), added])

    rewrite(folder, change)
    assert sorted(change.kind for change in verify(folder).changes) == ["added", "missing"]


def test_encoded_anew_is_told_from_edited(folder: Path) -> None:
    rewrite(folder, lambda table: table, compression="snappy")
    verification = verify(folder)
    assert not verification
    assert verification.changed == 0
    assert any("every value is intact: the file was re-encoded" in problem for problem in verification.problems)


# Digest and signature


def test_forged_folder_is_found_by_its_digest(folder: Path, tmp_path: Path, complete: Any, frame: Any) -> None:
    frozen = read(folder)
    assert frozen.digest.startswith("sha256:")
    assert frozen.digest in repr(frozen)
    assert verify(folder, expect=frozen.digest)
    assert verify(folder, expect=frozen.digest.removeprefix("sha256:")).checked == ("the expected digest",)
    forged = freeze(complete(frame.assign(label=[3, 2, 1, 2, 4])), tmp_path / "forged")
    assert verify(tmp_path / "forged")
    assert forged.digest != frozen.digest
    verification = verify(tmp_path / "forged", expect=frozen.digest)
    assert not verification
    assert verification.problems[0].startswith(f"manifest.json: its digest is {forged.digest}, not {frozen.digest}")
    with pytest.raises(BadRequestError, match=r"expect: '123' is not a digest"):
        verify(folder, expect="123")


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.mark.parametrize("form", ["key", "bytes", "path"])
def test_signature_names_the_signer(
    complete: Any, frame: Any, tmp_path: Path, key: Ed25519PrivateKey, form: str
) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "private.pem").write_bytes(private)
    (tmp_path / "public.pem").write_bytes(public)
    forms: dict[str, tuple[Any, Any]] = {
        "key": (key, key.public_key()),
        "bytes": (private, public),
        "path": (tmp_path / "private.pem", str(tmp_path / "public.pem")),
    }
    signing_key, public_key = forms[form]
    freeze(complete(frame), tmp_path / "set", signing_key=signing_key)
    assert verify(tmp_path / "set")
    assert verify(tmp_path / "set", public_key=public_key).checked == ("the signature",)
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    assert verify(tmp_path / "set", public_key=other).problems == ("manifest.sig: was made with another key",)
    freeze(complete(frame), tmp_path / "forged", signing_key=Ed25519PrivateKey.from_private_bytes(bytes(32)))
    shutil.copy(tmp_path / "set" / "manifest.sig", tmp_path / "forged" / "manifest.sig")
    (tmp_path / "forged" / "README.md").unlink()
    shutil.copy(tmp_path / "set" / "README.md", tmp_path / "forged" / "README.md")
    assert any("manifest.sig: is no signature" in one for one in verify(tmp_path / "forged").problems)
    (tmp_path / "set" / "manifest.sig").unlink()
    assert verify(tmp_path / "set", public_key=public_key).problems == (
        "manifest.sig: No such file or directory; the dataset is not signed",
    )


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"algorithm": "none", "public_key": "", "signature": ""}'])
def test_damaged_signature_is_named(folder: Path, content: bytes) -> None:
    (folder / "manifest.sig").write_bytes(content)
    assert any(problem.startswith("manifest.sig: ") for problem in verify(folder).problems)


def test_keys_of_another_kind_are_refused(folder: Path, complete: Any, frame: Any, tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match="public_key: the key cannot be read"):
        verify(folder, public_key=b"ssh-ed25519 AAAA")
    with pytest.raises(BadRequestError, match="signing_key: int is not an Ed25519PrivateKey"):
        freeze(complete(frame), tmp_path / "new", signing_key=7)
    assert not (tmp_path / "new").exists()


# Overwriting and earlier versions


def test_frozen_dataset_is_replaced_only_when_told(
    complete: Any, frame: Any, folder: Path, hub: llmhub.Hub, recipe: Recipe
) -> None:
    digest = read(folder).digest
    with pytest.raises(BadRequestError, match="pass overwrite=True to replace it"):
        freeze(complete(frame), folder, recipe=recipe, hub=hub)
    assert verify(folder, expect=digest)
    assert freeze(complete(frame), folder, recipe=recipe, hub=hub, overwrite=True).digest == digest


def test_dataset_of_version_1_is_verified_row_by_row(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "old")
    verification = verify(tmp_path / "old")
    assert verification
    assert "no manifest" in str(verification)
    assert read(tmp_path / "old").digest == ""
    table = parquet.read_table(tmp_path / "old" / "data.parquet")
    index = table.schema.get_field_index("b")
    changed = pc.if_else(pc.equal(pa.array(range(len(table))), 5), 99, table.column("b"))
    rewrite(tmp_path / "old", lambda table: table.set_column(index, table.schema.field("b"), changed))
    assert [(change.position, change.kind) for change in verify(tmp_path / "old").changes] == [(5, "input")]
