"""The service over other protocols than HTTP: gRPC (extra ``grpc``) and Arrow Flight (extra ``flight``).

``connector.proto``     the gRPC API; ``connector_pb2*`` is generated from it (see ``tests/server/write_grpc_code.py``)
``proto_messages``      pure: its messages to requests, and responses to messages
``error_status``        pure: gRPC status and details of error values
``foreign_request``     the request that `llmhub.server.access.Access` authenticates
``tls_files``           certificates and keys of the settings
``grpc_server``         the gRPC server, on the engine's loop
``flight_server``       the Arrow Flight server, whose threads hand over to the engine's loop
``servers``             the route group that starts and stops them with the service
"""
