"""The same call on joblib, Spark, Ray, Dask, DuckDB, polars and Daft: one picklable job, and an adapter for each.

- `job` describes the call. Its pickle has no key: workers read their own (``keys="carry"`` includes them).
- `spark`, `ray`, `dask`, `joblib`, `duckdb`, `polars` and `daft` apply it to a frame of that engine; `duckdb_function`
  makes it a function of SQL.
- Engines evaluate again: every action of a lazy frame, every retried or speculated task. So they need a cache that all
  workers reach (`RedisCache`, or `DiskCache` on one host), in which each request is paid once; a call without one is
  refused unless ``pay_again=True``. The same cache holds the rate limits, the budget, the progress and the stop signal
  of all workers.
"""

from llmhub.distributed.adapters import daft, dask, duckdb, duckdb_function, joblib, polars, ray, spark
from llmhub.distributed.distributed_job import DistributedJob, JobModelProgress, JobProgress, job
from llmhub.distributed.local_frames import complete_on

__all__ = [
    "DistributedJob",
    "JobModelProgress",
    "JobProgress",
    "complete_on",
    "daft",
    "dask",
    "duckdb",
    "duckdb_function",
    "job",
    "joblib",
    "polars",
    "ray",
    "spark",
]
