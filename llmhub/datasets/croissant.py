"""What a frozen dataset says of itself to other tools: Croissant metadata, and the card that dataset hubs read.

Croissant is JSON-LD over schema.org: files, and record sets whose fields come from columns
(https://docs.mlcommons.org/croissant/docs/croissant-spec.html, read 2026-11-27).
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
"""The terms, as the specification wants them declared."""


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
"""What a column holds; whatever is not listed is read as text."""


ROLE_DESCRIPTIONS: Final[Mapping[str, str]] = {
    "input": "column of the rows that were asked",
    "score": "what a scorer gave",
}


UNNAMED: Final = "names the input row by what it says"


RECORD_SET: Final = "rows"


DEFAULT_DESCRIPTION: Final = (
    "Answers of language models to the same prompts, with what they cost and how long they took."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a dataset says of itself to people and to other tools.

    Parameters
    ----------
    name
        Of letters, digits, dots, dashes and underscores; the folder's unless given.
    description, license, creator, url
        As in a paper: what it is, under which terms (an SPDX id or address), whose, and where it will be found.
    version
        Of the dataset, ``major.minor.patch``.
    """

    name: str = ""
    description: str = ""
    license: str = ""
    creator: str = ""
    url: str = ""
    version: str = "1.0.0"


def metadata(about: About, lock: Mapping[str, Any]) -> dict[str, JSON]:
    """Give the Croissant metadata of a frozen dataset.

    Parameters
    ----------
    about
        What it says of itself.
    lock
        Its lock: files, columns, when it was asked.
    """
    data: str = lock["data"]
    day = (lock["asked_between"][1] or "1970-01-01")[:10]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": about.name,
        "description": about.description or DEFAULT_DESCRIPTION,
        "license": about.license or "https://choosealicense.com/no-permission/",
        "url": about.url or f"https://example.invalid/{about.name}",
        "creator": {"@type": "Person", "name": about.creator or "unknown"},
        "datePublished": day,
        "version": about.version,
        "citeAs": f"{about.creator or about.name}: {about.name} {about.version}, sha256 {lock['content_sha256']}",
        "isLiveDataset": False,
        "distribution": [_file(data, lock["files"][data])],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": RECORD_SET,
                "name": RECORD_SET,
                "description": "one row for each input row, model and sample; columns of nested values are left out",
                "field": [_field(column, data) for column in lock["columns"] if "struct<" not in column["type"]],
            }
        ],
    }


def card(about: About, lock: Mapping[str, Any]) -> str:
    """Write the card: what ``datasets.load_dataset`` reads, and what a person does."""
    front: dict[str, JSON] = {"configs": [{"config_name": "default", "data_files": lock["data"]}]}
    front |= {"pretty_name": about.name, **({"license": about.license} if about.license else {})}
    yaml = msgspec.json.encode(front, order="deterministic").decode()  # JSON is YAML
    first, last = lock["asked_between"]
    recipe = lock["recipe"]
    scorers = ", ".join(f"{one['name']} {one['version']}" for one in recipe["scorers"])
    facts = {
        "rows": f"{lock['rows']:,} ({lock['inputs']:,} inputs, {len(lock['models'])} models)",
        "content": f"`sha256 {lock['content_sha256']}`",
        "asked": f"{first} to {last}" if first else "",
        "prompt": f"`{_cell(recipe['prompt'])}`" if recipe["prompt"] else "",
        "system": f"`{_cell(recipe['system'])}`" if recipe["system"] else "",
        "scorers": _cell(scorers),
    }
    models = [
        f"| {_cell(one['asked'])} | {_listed(one['served'])} | {_listed(one['price_ids'])} |" for one in lock["models"]
    ]
    return "\n".join(
        [
            *("---", yaml, "---", "", f"# {about.name}", "", about.description or DEFAULT_DESCRIPTION, ""),
            *(f"- {what}: {said}" for what, said in facts.items() if said),
            *("", "| asked | served | price |", "|---|---|---|", *models, ""),
            "`llmhub.verify` says whether anything changed; `llmhub.replay` runs it again without a network.",
            "",
        ]
    )


def _listed(names: Sequence[str]) -> str:
    return _cell(", ".join(names) or "-")


def _file(name: str, sha256: str) -> dict[str, JSON]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "encodingFormat": ENCODING_FORMATS[name.rpartition(".")[2]],
        "sha256": sha256,
    }


def _field(column: Mapping[str, str], data: str) -> dict[str, JSON]:
    """Describe a column."""
    name, kind = column["name"], column["type"]
    known = RESULTS.field(name).metadata if name in RESULTS.names else None
    about = (
        known[b"description"].decode()
        if known
        else ROLE_DESCRIPTIONS.get(column["role"], "names the input row by what it says")
    )
    return {
        "@type": "cr:Field",
        "@id": f"{RECORD_SET}/{name}",
        "name": f"{RECORD_SET}/{name}",
        "description": about,
        "dataType": DATA_TYPES.get(kind, "sc:Text"),
        **({"repeated": True} if kind.startswith("list<") else {}),
        "source": {"fileObject": {"@id": data}, "extract": {"column": name}},
    }


def _cell(text: Any) -> str:
    """Keep a text within its cell of a table."""
    return str(text).replace("|", "\\|").replace("`", "'").replace("\n", " ")
