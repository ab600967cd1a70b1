"""The hub as a service: HTTP routes in the formats of the providers' SDKs, before one hub for a whole team.

How it is put together
----------------------
``server_settings``  ``[server]`` of ``llmhub.toml`` with the environment over it, as one frozen value
``access``           who a request comes from: the `Access` protocol, and the `Caller` it returns
``context``          what is known of one request: id, caller, lane, deadline
``routes``           the records `HttpRoute`, `Parameter` and `RouteGroup`
``groups``           the list of all route groups: the one place where a group is added
``service``          `Service`: hub, settings, access and state; `Service.send` answers one completion for a caller
``lanes``            the queue of waiting calls: interactive before bulk, weights per key
``app``              the aiohttp application: authentication, limits, deadlines, errors in the shape of a route's API
``error_replies``    HTTP status and headers of error values
``running``          start, drain and stop: on the engine's loop of this process, or until SIGTERM (``llmhub serve``)
``dialects``         pure, one module an API: request payload -> request; response, stream, error -> payload
``..._routes``       route groups, one module each
``virtual_keys``     records of keys, and `KeyRegistry`, which makes and changes them
``key_access``       `KeyAccess`: callers by keys or signatures, and their limits; ``jupyterhub_access``: by tokens
``rpc``              gRPC and Arrow Flight: other protocols before the same service

``table_request``, ``table_upload``, ``table_work``
    tables: what is asked of their rows, how they are received, and how they are sent
``runs``, ``active_run``, ``run_resumption``, ``run_store``, ``redis_run_store``, ``open_run_store``, ``result_log``,
``run_status``, ``run_forecast``
    jobs over a table that outlive client and process: execution, files and counts
``batch_jobs``, ``active_batch``, ``batch_rows``, ``batch_provider``, ``batch_storage``, ``batch_folder``,
``redis_batch_store``
    files and batches in OpenAI's format: execution, and where they are kept; ``redis_keyspace``: what they and runs
    have in common on a Redis server

How to add routes
-----------------
1. Write a module with handlers ``async def handler(service, request, context) -> web.StreamResponse``. ``request`` is
   an `aiohttp.web.Request` (``match_info``, ``query``, ``headers``); read its body with `app.read_body` or
   `app.read_json`, which apply the size and time limits. An error is raised as everywhere in llmhub:
   ``raise invalid(path, message)`` or ``raise to_exception(NotFound(message=...))``; its status, its headers and its
   shape in the route's API are made by `app`. A client that leaves cancels the handler.
2. End it with ``GROUP = RouteGroup(name, routes=(HttpRoute("POST", "/v1/things", create, scope="things", ...),))``. A
   route without ``scope`` needs no key. ``lifespan=`` opens what the group needs before the first request and closes it
   after the last; a group that works in the background registers ``service.on_drain(function)`` there, to stop taking
   work when the service is about to end.
   What it opens for its handlers goes into ``service.resources``, by its type.
3. Add ``GROUP`` to `groups.GROUPS`, and the group's settings as a `msgspec.Struct` with defaults in a field of
   `server_settings.ServerSettings`: its keys, types and bounds are then checked and readable from the environment.

Completions of any kind (gRPC, Flight, rows of a table) go through ``service.send(request, context)``, which keeps the
caller's models, budgets, cache scope and lane.
"""
