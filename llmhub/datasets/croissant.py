"""Descriptions of a frozen dataset for other tools: Croissant metadata, and the dataset card.

Croissant is JSON-LD over schema.org: files, and record sets whose fields are columns
(https://docs.mlcommons.org/croissant/docs/croissant-spec.html, read 2026-11-27). The card is a README whose YAML header
``datasets.load_dataset`` reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from llmhub.core.types import JSON
from llmhub.tables.schema import RESULTS

CONFORMS_TO: Final = "http://mlcommons.org/croissant/1.0"
CONTEXT: Final[dict[str, JSON]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""Terms, declared as the specification requires."""
ENCODING_FORMATS: Final[Mapping[str, str]] = {"parquet": "application/x-parquet", "jsonl": "application/jsonlines"}
DATA_TYPES: Final[Mapping[str, str]] = {
    "int64": "sc:Integer",
    "int32": "sc:Integer",
    "uint64": "sc:Integer",
    "double": "sc:Float",
    "decimal128(18, 9)": "sc:Float",
    "bool": "sc:Boolean",
    "date32[day]": "sc:Date",
    "timestamp[us, tz=UTC]": "sc:DateTime",
}
"""Croissant types by Arrow type; all other columns are ``sc:Text``."""
ROLE_DESCRIPTIONS: Final[Mapping[str, str]] = {"input": "column of the input rows", "score": "score given by a scorer"}
ROW_ID_DESCRIPTION: Final = "id of the input row, from its content"
RECORD_SET: Final = "rows"
DEFAULT_DESCRIPTION: Final = "Responses of language models to the same prompts, with costs and latencies."
DEFAULT_LICENSE: Final = "https://choosealicense.com/no-permission/"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Description of a dataset for people and other tools.

    Parameters
    ----------
    name
        Name of letters, digits, dots, dashes and underscores; by default that of the folder.
    description, license, creator, url
        Summary, licence (an SPDX id or URL), author, and the address where the dataset is published.
    version
        Version of the dataset, ``major.minor.patch``.
    """

    name: str = ""
    description: str = ""
    license: str = ""
    creator: str = ""
    url: str = ""
    version: str = "1.0.0"


def metadata(about: About, lock: Mapping[str, Any]) -> dict[str, JSON]:
    """Return the Croissant metadata of a frozen dataset.

    Parameters
    ----------
    about
        Description of the dataset.
    lock
        Content of its ``lock.json``: files, columns, period of the requests.
    """
    data: str = lock["data"]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": about.name,
        "description": about.description or DEFAULT_DESCRIPTION,
        "license": about.license or DEFAULT_LICENSE,
        "url": about.url or f"https://example.invalid/{about.name}",
        "creator": {"@type": "Person", "name": about.creator or "unknown"},
        "datePublished": (lock["asked_between"][1] or "1970-01-01")[:10],
        "version": about.version,
        "citeAs": f"{about.creator or about.name}: {about.name} {about.version}, sha256 {lock['content_sha256']}",
        "isLiveDataset": False,
        "distribution": [_file_object(data, lock["files"][data])],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": RECORD_SET,
                "name": RECORD_SET,
                "description": "one row per input row, model and sample; columns of nested values are left out",
                "field": [_field(column, data) for column in lock["columns"] if "struct<" not in column["type"]],
            }
        ],
    }


def _file_object(name: str, sha256: str) -> dict[str, JSON]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "encodingFormat": ENCODING_FORMATS[name.rpartition(".")[2]],
        "sha256": sha256,
    }


def _field(column: Mapping[str, str], data: str) -> dict[str, JSON]:
    """Return the description of one column."""
    name, kind = column["name"], column["type"]
    result_metadata = RESULTS.field(name).metadata if name in RESULTS.names else None
    if result_metadata:
        description = result_metadata[b"description"].decode()
    else:
        description = ROLE_DESCRIPTIONS.get(column["role"], ROW_ID_DESCRIPTION)
    return {
        "@type": "cr:Field",
        "@id": f"{RECORD_SET}/{name}",
        "name": f"{RECORD_SET}/{name}",
        "description": description,
        "dataType": DATA_TYPES.get(kind, "sc:Text"),
        **({"repeated": True} if kind.startswith("list<") else {}),
        "source": {"fileObject": {"@id": data}, "extract": {"column": name}},
    }


def card(about: About, lock: Mapping[str, Any]) -> str:
    """Return the dataset card: a YAML header for ``datasets.load_dataset``, and a summary for people."""
    header: dict[str, JSON] = {"configs": [{"config_name": "default", "data_files": lock["data"]}]}
    header |= {"pretty_name": about.name, **({"license": about.license} if about.license else {})}
    yaml = msgspec.json.encode(header, order="deterministic").decode()  # JSON is YAML
    first, last = lock["asked_between"]
    recipe = lock["recipe"]
    facts = {
        "rows": f"{lock['rows']:,} ({lock['inputs']:,} inputs, {len(lock['models'])} models)",
        "content": f"`sha256 {lock['content_sha256']}`",
        "requested": f"{first} to {last}" if first else "",
        "prompt": f"`{_cell(recipe['prompt'])}`" if recipe["prompt"] else "",
        "system": f"`{_cell(recipe['system'])}`" if recipe["system"] else "",
        "scorers": _cell(", ".join(f"{scorer['name']} {scorer['version']}" for scorer in recipe["scorers"])),
    }
    models = [
        f"| {_cell(model['asked'])} | {_list_cell(model['served'])} | {_list_cell(model['price_ids'])} |"
        for model in lock["models"]
    ]
    return "\n".join(
        [
            *("---", yaml, "---", "", f"# {about.name}", "", about.description or DEFAULT_DESCRIPTION, ""),
            *(f"- {name}: {fact}" for name, fact in facts.items() if fact),
            *("", "| requested | served | price |", "|---|---|---|", *models, ""),
            "`llmhub.verify` checks whether anything changed; `llmhub.replay` runs it again without network access.",
            "",
        ]
    )


def _list_cell(names: Sequence[str]) -> str:
    return _cell(", ".join(names) or "-")


def _cell(text: Any) -> str:
    """Return a text that does not end its Markdown table cell or code span."""
    return str(text).replace("|", "\\|").replace("`", "'").replace("\n", " ")
