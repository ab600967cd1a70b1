"""The server's half of the providers' APIs, one module an API. Pure: payloads and values, no I/O.

A dialect parses a request's payload into a `CompletionRequest`, and encodes responses, streams and errors as that API
sends them. It shares no code with the wire of the same API, which is the client's half.
"""
