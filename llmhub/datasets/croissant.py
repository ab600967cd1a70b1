"""Descriptions of a frozen dataset for other tools: Croissant metadata, and the dataset card.

Croissant is JSON-LD over schema.org: files, and record sets whose fields are columns
(https://docs.mlcommons.org/croissant/docs/croissant-spec.html, read 2026-11-27). The card is a README whose YAML header
``datasets.load_dataset`` reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
import pyarrow as pa

from llmhub.core.types import JSON
from llmhub.datasets.dataset import recorded_types
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
SCALAR_TYPES: Final = (
    (pa.types.is_integer, "sc:Integer"),
    (pa.types.is_floating, "sc:Float"),
    (pa.types.is_decimal, "sc:Float"),
    (pa.types.is_boolean, "sc:Boolean"),
    (pa.types.is_date, "sc:Date"),
    (pa.types.is_timestamp, "sc:DateTime"),
)
"""Croissant types by predicates of Arrow types; other scalar columns are ``sc:Text``."""
ROW_COUNT_BOUNDS: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""Upper bounds of the size categories of dataset cards, and their names."""
LARGEST_CATEGORY: Final = "1M<n<10M"
ROLE_DESCRIPTIONS: Final[Mapping[str, str]] = {"input": "column of the input rows", "score": "score given by a scorer"}
ROW_ID_DESCRIPTION: Final = "id of the input row, from its content"
RECORD_SET: Final = "rows"
DEFAULT_DESCRIPTION: Final = "Responses of language models to the same prompts, with costs and latencies."
MAX_SETTING_CHARS: Final = 200
DEFAULT_LICENSE: Final = "https://choosealicense.com/no-permission/"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Description of a dataset for people and other tools.

    Parameters
    ----------
    name
        Name of letters, digits, dots, dashes and underscores; by default that of the folder.
    description, license, creator, url
        Summary, licence (an SPDX id such as ``CC-BY-4.0``, or a URL), author, and the address where the dataset is
        published.
    version
        Version of the dataset, ``major.minor.patch``.
    languages
        Languages of the texts, as ISO 639 codes: ``("en",)``.
    tags, task_categories
        Of the dataset card, such as ``("question-answering",)``.
    citation
        How to cite the dataset, as text or BibTeX; by default creator, name, version and content hash.
    """

    name: str = ""
    description: str = ""
    license: str = ""
    creator: str = ""
    url: str = ""
    version: str = "1.0.0"
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    task_categories: tuple[str, ...] = ()
    citation: str = ""

    @property
    def license_url(self) -> str:
        """Address of the licence; of an SPDX id, its page at spdx.org."""
        if not self.license:
            return DEFAULT_LICENSE
        return self.license if "://" in self.license else f"https://spdx.org/licenses/{self.license}.html"

    def cite(self, content_sha256: str) -> str:
        """Return how to cite the dataset."""
        own = f"{self.creator or self.name}: {self.name} {self.version}, sha256 {content_sha256}"
        return self.citation or own


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
    types = recorded_types(Path(), lock)
    fields = [_field(column, data, types[column["name"]]) for column in lock["columns"]]
    left_out = [column["name"] for column, field in zip(lock["columns"], fields, strict=True) if field is None]
    about_nested = f"; without the columns of nested values {', '.join(left_out)}" if left_out else ""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": about.name,
        "description": about.description or DEFAULT_DESCRIPTION,
        "license": about.license_url,
        "url": about.url or f"https://example.invalid/{about.name}",
        "creator": {"@type": "Person", "name": about.creator or "unknown"},
        "datePublished": (lock["asked_between"][1] or "1970-01-01")[:10],
        "version": about.version,
        "citeAs": about.cite(lock["content_sha256"]),
        **({"inLanguage": [*about.languages]} if about.languages else {}),
        **({"keywords": [*about.tags]} if about.tags else {}),
        "isLiveDataset": False,
        "distribution": [_file_object(data, lock["files"][data])],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": RECORD_SET,
                "name": RECORD_SET,
                "description": f"one row per input row, model and sample{about_nested}",
                "field": [field for field in fields if field is not None],
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


def _field(column: Mapping[str, str], data: str, kind: pa.DataType) -> dict[str, JSON] | None:
    """Return the description of one column, or ``None`` for values that Croissant has no type for."""
    name = column["name"]
    is_list = hasattr(kind, "value_field") and not pa.types.is_map(kind)
    data_type = _data_type(kind.value_type if is_list else kind, data)
    if data_type is None:
        return None
    # An @id holds no spaces; percent-encoding keeps names apart.
    identifier = f"{RECORD_SET}/{quote(name, safe='')}"
    return {
        "@type": "cr:Field",
        "@id": identifier,
        "name": identifier,
        "description": column_description(column),
        "dataType": data_type,
        **({"repeated": True} if is_list else {}),
        "source": {"fileObject": {"@id": data}, "extract": {"column": name}},
    }


def _data_type(kind: pa.DataType, data: str) -> str | None:
    """Return the Croissant type of scalar values; ``None`` for nested values, and durations in Parquet."""
    in_parquet = data.endswith(".parquet")
    if pa.types.is_nested(kind) or (pa.types.is_duration(kind) and in_parquet):
        return None
    if pa.types.is_time(kind) and in_parquet:
        return "sc:Time"
    return next((name for is_member, name in SCALAR_TYPES if is_member(kind)), "sc:Text")


def column_description(column: Mapping[str, str]) -> str:
    """Return what a column holds."""
    name, role = column["name"], column["role"]
    if role in ROLE_DESCRIPTIONS:
        source = column.get("source")
        return ROLE_DESCRIPTIONS[role] + (f", called {source!r} there" if source else "")
    result_metadata = RESULTS.field(name).metadata if name in RESULTS.names else None
    return result_metadata[b"description"].decode() if result_metadata else ROW_ID_DESCRIPTION


def card(about: About, lock: Mapping[str, Any], summary: str = "") -> str:
    """Return the dataset card: a YAML header for ``datasets.load_dataset``, and a summary for people.

    Parameters
    ----------
    about, lock
        As for `metadata`.
    summary
        Results in Markdown.
    """
    first, last = lock["asked_between"]
    recipe = lock["recipe"]
    facts = {
        "rows": f"{lock['rows']:,} ({lock['inputs']:,} inputs, {len(lock['models'])} models)",
        "content": f"`sha256 {lock['content_sha256']}`",
        "licence": about.license_url if about.license else "none stated",
        "requested": f"{first} to {last}" if first else "",
        "prompt": f"`{_cell(recipe['prompt'])}`" if recipe["prompt"] else "",
        "system": f"`{_cell(recipe['system'])}`" if recipe["system"] else "",
        "parameters": _settings(recipe["parameters"]),
        "samples per row": str(recipe["samples"]),
        "scorers": "; ".join(_scorer(scorer) for scorer in recipe["scorers"]),
        "analysis": _settings(recipe["design"]),
    }
    models = [
        f"| {_cell(model['asked'])} | {_list_cell(model['served'])} | {_list_cell(model['price_ids'])} |"
        for model in lock["models"]
    ]
    described = [
        (column["name"], column["role"], column["type"], column_description(column)) for column in lock["columns"]
    ]
    columns = [f"| {' | '.join(map(_cell, cells))} |" for cells in described]
    return "\n".join(
        [
            *("---", *_card_header(about, lock), "---", "", f"# {about.name}", ""),
            *(about.description or DEFAULT_DESCRIPTION, ""),
            *(f"- {name}: {fact}" for name, fact in facts.items() if fact),
            *("", "## Models", "", "| requested | served | price |", "|---|---|---|", *models, ""),
            *(("## Results", "", summary, "") if summary else ()),
            *("## Columns", "", "| name | role | type | description |", "|---|---|---|---|", *columns, ""),
            *("## Citation", "", "```", about.cite(lock["content_sha256"]).replace("```", "''"), "```", ""),
            "`llmhub.verify` checks whether anything changed; `llmhub.replay` runs it again without network access.",
            "",
        ]
    )


def _card_header(about: About, lock: Mapping[str, Any]) -> list[str]:
    """Return the lines of the YAML header; each value is JSON, which is YAML."""
    size = next((name for bound, name in ROW_COUNT_BOUNDS if lock["rows"] < bound), LARGEST_CATEGORY)
    header: dict[str, Any] = {
        "configs": [{"config_name": "default", "data_files": lock["data"]}],
        "pretty_name": about.name,
        "size_categories": [size],
        "tags": ["llmhub", "evaluation", *about.tags],
    }
    header |= {"language": about.languages} if about.languages else {}
    header |= {"task_categories": about.task_categories} if about.task_categories else {}
    if "://" in about.license:
        header |= {"license": "other", "license_name": "other", "license_link": about.license}
    elif about.license:
        header["license"] = about.license.lower()
    return [f"{name}: {msgspec.json.encode(value, order='deterministic').decode()}" for name, value in header.items()]


def _settings(settings: Mapping[str, Any]) -> str:
    """Return named values in a line."""
    return _cell(", ".join(f"{name} {_short(value)}" for name, value in settings.items()))


def _scorer(scorer: Mapping[str, Any]) -> str:
    parameters = _settings(scorer["parameters"])
    version = f" {scorer['version']}" if scorer["version"] else ""
    return _cell(f"{scorer['name']}{version}") + (f" ({parameters})" if parameters else "")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value, order="deterministic").decode()
    return text if len(text) <= MAX_SETTING_CHARS else f"{text[: MAX_SETTING_CHARS - 1]}…"


def _list_cell(names: Sequence[str]) -> str:
    return _cell(", ".join(names) or "-")


def _cell(text: Any) -> str:
    """Return a text that does not end its Markdown table cell or code span."""
    return str(text).replace("|", "\\|").replace("`", "'").replace("\n", " ")
