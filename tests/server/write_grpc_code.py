"""Write ``llmhub/server/rpc/connector_pb2*`` from ``connector.proto``: ``python -m tests.server.write_grpc_code``."""

from __future__ import annotations

from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).parents[2]
PROTO = "llmhub/server/rpc/connector.proto"
OUTPUTS = ("python_out", "pyi_out", "grpc_python_out")


def write_code(folder: Path) -> None:
    """Write the code below ``folder``."""
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    options = [f"--{option}={folder}" for option in OUTPUTS]
    status = protoc.main(["protoc", f"-I{ROOT}", f"-I{well_known}", *options, PROTO])
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    write_code(ROOT)
