"""Requests, responses, errors, wire and provider records, streams, cache keys and prices; without I/O or a clock."""
