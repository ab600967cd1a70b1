"""Send generated requests to every route of a service before the simulator, and fail at any status from 500.

``python tests/fuzz/fuzz_service.py SCHEMATHESIS`` reads the routes from ``/openapi.json``. Schemathesis has dozens of
dependencies of its own, so it is run as a command from an environment of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from tempfile import TemporaryDirectory

from llmhub.sim import Simulator, serving

ADMIN_KEY = "admin-key-of-generated-requests-0123"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("schemathesis", help="path of the command")
    parser.add_argument("--max-examples", default="25")
    options = parser.parse_args()
    with ExitStack() as stack:
        simulator = stack.enter_context(serving(Simulator(seed=7)))
        command = [sys.executable, "-m", "llmhub", "serve", "--keys", "--port", "0", "--cache", "none"]
        folder = stack.enter_context(TemporaryDirectory())
        variables = {"ADMIN_KEY": ADMIN_KEY, "SIGNING_SECRET": ADMIN_KEY[::-1], "STORE": f"{folder}/keys.db"}
        service = subprocess.Popen(
            [*command, "--simulator", simulator.url],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **{f"LLMHUB_SERVER_ACCESS_{name}": value for name, value in variables.items()}},
        )
        try:
            assert service.stderr is not None
            found = None
            while found is None:
                line = service.stderr.readline()
                assert line, f"llmhub serve ended with {service.wait()}"
                found = re.search(r"listening on (\S+)", line)
            return subprocess.run(
                [
                    *(options.schemathesis, "run", f"{found[1]}/openapi.json", "--no-color"),
                    *("--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing"),
                    *("--max-examples", options.max_examples, "--request-timeout", "20"),
                    # How easily examples are drawn says nothing of the service.
                    *("--suppress-health-check", "all"),
                    *("--header", f"authorization: Bearer {ADMIN_KEY}"),
                    *("--exclude-path", "/drain"),  # it would refuse everything after it
                ],
                check=False,
            ).returncode
        finally:
            service.terminate()
            service.wait()


if __name__ == "__main__":
    sys.exit(main())
