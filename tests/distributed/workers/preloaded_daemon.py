"""Spark's daemon, which forks its workers, with the modules that each of them would import."""

import preloaded  # type: ignore[import-not-found]  # noqa: F401
from pyspark.daemon import manager  # type: ignore[import-not-found]

if __name__ == "__main__":
    manager()
