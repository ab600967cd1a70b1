"""Response caches: in memory, in an SQLite file, on a Redis server, or tiered."""
