"""What a worker imports: a process that is forked from one that has imported it starts in no time."""

import importlib

for module in (
    "aiohttp",
    "genai_prices.data",
    "pandas",
    "pyarrow.compute",
    "redis",
    "llmhub.api",
    "llmhub.distributed",
    "llmhub.engine.client",
    "llmhub.tables.pandas_types",
    "llmhub.tables.streaming_io",
):
    importlib.import_module(module)
