"""Adapters of a job to engines, a few lines each. Frames go in and come out as they are."""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from llmhub.core.errors import invalid
from llmhub.distributed.distributed_job import DistributedJob

if TYPE_CHECKING:
    import pyarrow as pa

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1", ""})
BLOCK_ROWS: Final = 4096
"""Rows of a block of a frame that is in this process."""
MAX_PARTITIONS: Final = 1 << 30


def engine_module(module: str, extra: str) -> Any:
    """Import an engine, or raise with the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise invalid("engine", f"{module} is not installed; run pip install 'llmhub[{extra}]'") from error


# Spark


def spark(frame: Any, job: DistributedJob) -> Any:
    """Return a Spark DataFrame of the results of a job for every row (``mapInArrow``; Spark Connect as well).

    Types are checked before anything is sent. Spark evaluates at each action: the cache answers the later ones.

    Parameters
    ----------
    frame
        A Spark DataFrame.
    job
        See `job`.

    Raises
    ------
    BadRequestError
        The job does not fit the frame, or its cache is not one that all executors reach.
    """
    types = engine_module("pyspark.sql.pandas.types", "spark")
    job.require_store("Spark", one_host=_is_local_spark(frame))
    schema = types.from_arrow_schema(job.schema(types.to_arrow_schema(frame.schema)))
    return frame.mapInArrow(partial(_map_spark_partition, job.with_workers(_spark_workers(frame))), schema)


def _map_spark_partition(job: DistributedJob, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    context = engine_module("pyspark", "spark").TaskContext.get()
    return job(batches, partition=context.partitionId() if context is not None else 0)


def _is_local_spark(frame: Any) -> bool:
    """Return whether the executors of a frame's session are on this host."""
    session = frame.sparkSession
    try:
        return str(session.sparkContext.master).startswith("local")
    except Exception:  # noqa: BLE001 - Spark Connect has no context and raises one of several exceptions
        client = getattr(session, "client", None)
        return getattr(client, "host", None) in LOOPBACK


def _spark_workers(frame: Any) -> int:
    """Return how many tasks the executors run at once; 1 if they do not say, as with Spark Connect."""
    try:
        return int(frame.sparkSession.sparkContext.defaultParallelism)
    except Exception:  # noqa: BLE001 - Spark Connect raises one of several exceptions
        return 1


# Ray


def ray(dataset: Any, job: DistributedJob, *, workers: int = 2, batch_rows: int | None = None) -> Any:
    """Return a Ray Dataset of the results of a job for every row, from a fixed pool of actors.

    Parameters
    ----------
    dataset
        A Ray Dataset.
    job
        See `job`.
    workers
        Number of actors; ``concurrency`` of the job is that of each.
    batch_rows
        Rows that an actor takes at a time; whole blocks by default, so that small ones do not starve the pool.

    Raises
    ------
    BadRequestError
        The job does not fit the dataset, or its cache is not one that all nodes reach.
    """
    data = engine_module("ray.data", "ray")
    nodes = [node for node in engine_module("ray", "ray").nodes() if node["Alive"]]
    job.require_store("Ray", one_host=len(nodes) == 1)
    job.schema(_arrow_schema(dataset.schema()))
    return dataset.map_batches(
        _RayWorker,
        fn_constructor_args=(job.with_workers(workers),),
        batch_format="pyarrow",
        batch_size=batch_rows,
        compute=data.ActorPoolStrategy(size=workers),
    )


def _arrow_schema(schema: Any) -> pa.Schema:
    """Return the Arrow schema of a Ray dataset."""
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    base = getattr(schema, "base_schema", schema)
    return base if isinstance(base, pa.Schema) else pa.schema(list(zip(schema.names, schema.types, strict=True)))


class _RayWorker:
    """An actor of the pool."""

    def __init__(self, job: DistributedJob) -> None:
        self._job = job

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the results for the rows of a block; numbers of rows are unique with near certainty."""
        import pyarrow as pa  # noqa: PLC0415 - slow to import

        partition = int.from_bytes(os.urandom(4), "big") % MAX_PARTITIONS
        return pa.Table.from_batches(self._job(_blocks(table), partition=partition))


# Dask


def dask(frame: Any, job: DistributedJob, rows: Any = None) -> Any:
    """Return the results of a job for every row, computed by Dask.

    Parameters
    ----------
    frame
        A Dask DataFrame, for a Dask DataFrame of results; or a ``distributed.Client``, for an Arrow table.
    job
        See `job`.
    rows
        With a client, the frame of this process whose rows are sent: its parts go to the workers as record batches.

    Raises
    ------
    BadRequestError
        The job does not fit the frame, or its cache is not one that all workers reach.
    """
    if hasattr(frame, "map_partitions"):
        return _dask_frame(frame, job)
    return _dask_client(frame, job, rows)


def _dask_frame(frame: Any, job: DistributedJob) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    job.require_store("Dask", one_host=_is_local_dask())
    columns = pa.Schema.from_pandas(frame._meta, preserve_index=False)  # noqa: SLF001 - how Dask names it
    meta = _to_pandas(job.schema(columns).empty_table())
    return frame.map_partitions(_map_dask_partition, job.with_workers(len(_dask_workers())), meta=meta)


def _map_dask_partition(frame: Any, job: DistributedJob, partition_info: Any = None) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    number = partition_info["number"] if partition_info else 0
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return _to_pandas(pa.Table.from_batches(job(_blocks(table), partition=number)))


def _dask_client(client: Any, job: DistributedJob, rows: Any) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    from llmhub.tables import frames  # noqa: PLC0415 - imports Arrow

    if not hasattr(client, "scheduler_info"):
        raise invalid("frame", f"must be a Dask DataFrame or a distributed.Client, not {type(client).__name__}")
    job.require_store("Dask", one_host=_are_local(client.scheduler_info()["workers"]))
    table = frames.to_table(rows)
    schema = job.schema(table.schema)
    # Record batches and pure=False: Dask takes slices of one table for equal values.
    parts = [(number, batch) for number, batch in enumerate(_blocks(table)) if batch.num_rows]
    job = job.with_workers(len(client.scheduler_info()["workers"]))
    done = client.map(partial(_map_dask_batch, job), parts, pure=False)
    results = [batch for part in client.gather(done) for batch in part]
    return pa.Table.from_batches(results, schema=schema)


def _map_dask_batch(job: DistributedJob, part: tuple[int, pa.RecordBatch]) -> list[pa.RecordBatch]:
    number, batch = part
    return list(job([batch], partition=number))


def _is_local_dask() -> bool:
    """Return whether the workers of the current Dask client are on this host; without one they are threads of it."""
    return _are_local(_dask_workers())


def _dask_workers() -> list[str]:
    """Return the addresses of the workers of the current Dask client."""
    try:
        client = importlib.import_module("distributed").default_client()
    except (ImportError, ValueError):
        return []
    return list(client.scheduler_info()["workers"])


def _are_local(addresses: Iterable[str]) -> bool:
    """Return whether worker addresses such as ``tcp://127.0.0.1:4000`` are all of this host."""
    return all(urlsplit(address).hostname in LOOPBACK or address.startswith("inproc://") for address in addresses)


def _to_pandas(table: pa.Table) -> Any:
    """Return a pandas frame whose types Dask can shuffle: text in place of lists."""
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    from llmhub.tables import pandas_types  # noqa: PLC0415 - imports Arrow

    for index, column in enumerate(table.schema):
        if pa.types.is_nested(column.type):
            texts = [None if value is None else _to_json(value) for value in table.column(index).to_pylist()]
            table = table.set_column(index, column.name, pa.array(texts, pa.string()))
    return pandas_types.to_pandas(table)


def _to_json(value: Any) -> str:
    import msgspec  # noqa: PLC0415 - with pandas alone it is not needed

    return msgspec.json.encode(value).decode()


# In processes of this host, and in this process


def joblib(frame: Any, job: DistributedJob, *, n_jobs: int = -1) -> pa.Table:
    """Return the results of a job for every row of a frame, from several processes (any backend of joblib).

    Parameters
    ----------
    frame
        A pandas or polars DataFrame, an Arrow table, or any frame with ``__arrow_c_stream__``.
    job
        See `job`.
    n_jobs
        Number of processes, as in joblib.
    """
    import joblib as library  # noqa: PLC0415 - a third of a second
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    from llmhub.tables import frames  # noqa: PLC0415 - imports Arrow
    from llmhub.tables.streaming_io import SLICES_PER_JOB, effective_jobs, split_frame  # noqa: PLC0415 - imports Arrow

    table = frames.to_table(frame)
    schema = job.schema(table.schema)
    workers = effective_jobs(n_jobs)
    # Workers under one limit end together, and each part ends with a lease that is not full.
    parts = split_frame(table, workers, 1 if job.hub.limits else SLICES_PER_JOB)
    calls = (library.delayed(_map_part)(job.with_workers(workers), first, part) for first, part in parts)
    done = library.Parallel(n_jobs=n_jobs, batch_size=1)(calls)
    return pa.Table.from_batches([batch for part in done for batch in part], schema=schema)


def _map_part(job: DistributedJob, first: int, part: pa.Table) -> list[pa.RecordBatch]:
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    from llmhub.tables.streaming_io import offset_rows  # noqa: PLC0415 - imports Arrow

    table = pa.Table.from_batches(job(_blocks(part)))
    return offset_rows(table, first).to_batches()  # type: ignore[no-any-return]


def duckdb(relation: Any, job: DistributedJob) -> Any:
    """Return a DuckDB relation of the results of a job for every row of a relation.

    The rows are read first, then sent, in this process; filter and aggregate the result, which is a table in memory.
    """
    library = engine_module("duckdb", "duckdb")
    results = _complete_table(_as_table(relation), job)
    return library.from_arrow(results)


def duckdb_function(con: Any, name: str, job: DistributedJob, columns: Mapping[str, str]) -> Any:
    """Register a job as a SQL function of a DuckDB connection: columns of the prompt in, a struct of the results out.

    DuckDB calls the function for each vector of 2,048 rows, from several threads where a table is large. All calls
    share the ``concurrency`` of the job, but each returns once its slowest row is answered; `duckdb` has no such
    pauses. NULL in a column of the prompt gives ``status = 'skipped'``, and a call that fails gives ``error``. The
    function is volatile: DuckDB neither evaluates it while it plans, nor takes two calls for one, and what it
    evaluates again, the cache answers.

    Parameters
    ----------
    con
        A ``duckdb.DuckDBPyConnection``.
    name
        Name of the function; one of the same name is replaced.
    job
        See `job`. The columns of its ``keep`` are fields of the struct, too.
    columns
        Names of the columns that the job needs, in the order of the function's arguments, with their SQL types.

    Returns
    -------
    duckdb.DuckDBPyConnection
        The connection.

    Raises
    ------
    BadRequestError
        The job needs other columns or has several results for a row, a type is unknown, DuckDB has a function of its
        own of that name, or the job has no cache that processes of this host reach.

    Examples
    --------
    >>> duckdb_function(con, "summarise", job, {"text": "VARCHAR"})                          # doctest: +SKIP
    >>> con.sql("SELECT id, r.response, r.cost_usd "
    ...         "FROM (SELECT id, summarise(text) AS r FROM articles)")                      # doctest: +SKIP
    """
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    library = engine_module("duckdb", "duckdb")
    if not isinstance(con, library.DuckDBPyConnection):
        raise invalid("con", f"must be a DuckDB connection, not {type(con).__name__}")
    if not columns:
        raise invalid("columns", "must name at least one column with its SQL type, such as {'text': 'VARCHAR'}")
    from llmhub.notebook.duckdb_functions import RecentVectors, with_parameters  # noqa: PLC0415 - imports Arrow

    if len(job.model_names) > 1 or job.options.get("n", 1) != 1:
        raise invalid("job", "must have one result for each row, for a function of SQL: one model, and n=1")
    job.require_store("DuckDB", one_host=True)
    try:
        nulls = ", ".join(f"NULL::{con.sqltype(kind)}" for kind in columns.values())
        arguments = con.sql(f"SELECT {nulls}")
    except library.Error as error:
        raise invalid("columns", f"must have SQL types: {error}") from error
    empty = _as_table(arguments).rename_columns(list(columns)).slice(0, 0)
    schema = job.schema(empty.schema)
    results = con.from_arrow(schema.empty_table())
    slots, vectors, recent = job.new_slots(), itertools.count(), RecentVectors(len(schema))

    def complete(*arguments: pa.ChunkedArray) -> pa.Array:
        def compute() -> pa.Array:
            table = pa.table(list(arguments), names=list(columns))
            done = job.run(_blocks(table), partition=next(vectors) % MAX_PARTITIONS, slots=slots)
            return pa.Table.from_batches(done, schema=schema).to_struct_array().combine_chunks()

        return recent.evaluate(arguments, compute)

    with suppress(library.Error):
        con.remove_function(name)
    own = "SELECT 1 FROM duckdb_functions() WHERE function_name = lower(?) AND internal LIMIT 1"
    if con.cursor().execute(own, [name]).fetchall():
        raise invalid("name", f"{name!r} already exists: it is a function of DuckDB's own")
    returns = con.struct_type(dict(zip(results.columns, results.types, strict=True)))
    # Side effects: DuckDB neither folds a call of constants while it plans nor takes equal calls for one.
    options: dict[str, Any] = {"type": "arrow", "null_handling": "special", "side_effects": True}
    try:
        con.create_function(name, with_parameters(complete, list(columns)), arguments.types, returns, **options)
    except library.Error as error:
        raise invalid("name", f"{name!r} is no name for a function: {error}") from error
    return con


def polars(frame: Any, job: DistributedJob) -> Any:
    """Return a polars frame of the results of a job for every row: lazy if ``frame`` is lazy.

    A LazyFrame sends its rows when it is collected; collecting it again needs the cache.
    """
    library = engine_module("polars", "polars")
    if not isinstance(frame, library.LazyFrame):
        return library.from_arrow(_complete_table(frame.to_arrow(), job))
    empty = frame.collect_schema().to_frame().to_arrow()
    schema = library.from_arrow(job.schema(empty.schema).empty_table()).schema
    return frame.map_batches(lambda whole: polars(whole, job), schema=schema)


def daft(frame: Any, job: DistributedJob, *, batch_rows: int = BLOCK_ROWS) -> Any:
    """Return a Daft DataFrame of the results of a job for every row, from a batch function.

    Parameters
    ----------
    frame
        A Daft DataFrame.
    job
        See `job`.
    batch_rows
        Rows that the function takes at a time.
    """
    library = engine_module("daft", "daft")
    job.require_store("Daft", one_host=library.get_or_create_runner().name != "ray")
    schema = job.schema(frame.schema().to_pyarrow_schema())
    fields = {column.name: library.DataType.from_arrow_type(column.type) for column in schema}
    names = frame.column_names

    def complete(*columns: Any) -> Any:
        import pyarrow as pa  # noqa: PLC0415 - slow to import

        table = pa.table([column.to_arrow() for column in columns], names=names)
        partition = int.from_bytes(os.urandom(4), "big") % MAX_PARTITIONS
        return pa.Table.from_batches(job(_blocks(table), partition=partition), schema=schema).to_struct_array()

    as_function = library.func.batch(return_dtype=library.DataType.struct(fields), unnest=True, batch_size=batch_rows)
    return frame.select(as_function(complete)(*(library.col(name) for name in names)))


def _complete_table(table: pa.Table, job: DistributedJob) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    schema = job.schema(table.schema)
    return pa.Table.from_batches(job(_blocks(table)), schema=schema)


def _as_table(relation: Any) -> pa.Table:
    for name in ("to_arrow_table", "fetch_arrow_table", "arrow"):
        if hasattr(relation, name):
            table = getattr(relation, name)()
            return table.read_all() if hasattr(table, "read_all") else table
    raise invalid("relation", f"must be a DuckDB relation, not {type(relation).__name__}")


def _blocks(table: pa.Table) -> list[pa.RecordBatch]:
    """Return the rows of a table in blocks; one empty block for a table without rows."""
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    batches = table.combine_chunks().to_batches(max_chunksize=BLOCK_ROWS)
    return batches or [pa.RecordBatch.from_pylist([], schema=table.schema)]
