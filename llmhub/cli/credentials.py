"""``llmhub credentials``: store credentials in an encrypted file, list, remove or rotate them.

Values are read from a prompt, or from standard input if that is no terminal; never from the command line, which other
users of the computer can read. They are never written.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from dataclasses import asdict

from llmhub.cli.console import print_json, print_message, print_result
from llmhub.config import PASSPHRASE_VARIABLE, endpoint_variables, secret_from_variable
from llmhub.core.errors import invalid
from llmhub.core.provider import CREDENTIAL_FIELDS
from llmhub.core.secret import Secret
from llmhub.engine.model_resolver import unknown_provider_message
from llmhub.formatting.text_tables import text_table
from llmhub.hub import load_enabled_plugins
from llmhub.providers.registry import PROVIDERS
from llmhub.security.credentials.encrypted_file import EncryptedFileCredentials


def run(args: argparse.Namespace) -> int:
    """Run the requested action, and return the exit code."""
    file = EncryptedFileCredentials(args.file)
    if args.action == "list":
        return _list(file, json=args.json)
    if args.action == "rotate" and not args.provider:
        return _rotate_key(file, with_passphrase=args.passphrase)
    if not args.provider:
        raise invalid("provider", f"is missing; {args.action} takes one, such as openai")
    file = _unlocked(file, make_passphrase=args.passphrase)
    if args.action == "rm":
        file.remove(args.provider)
        print_message("credentials", f"removed {args.provider} from {file.path}")
        return 0
    return _set(file, args)


def _list(file: EncryptedFileCredentials, *, json: bool) -> int:
    stored = file.list()
    if json:
        print_json([asdict(item) for item in stored])
    elif stored:
        rows = [(item.name, ", ".join(item.fields), item.updated_at) for item in stored]
        print_result(text_table(("provider", "fields", "updated"), rows, left_columns=3, rule=True))
    else:
        print_result(f"{file.path}: no credentials; `llmhub credentials set PROVIDER` stores some")
    return 0


def _set(file: EncryptedFileCredentials, args: argparse.Namespace) -> int:
    """Store one field of a provider; ``rotate`` replaces one that is there."""
    plugins = load_enabled_plugins()
    known = {**PROVIDERS, **plugins.providers}
    if args.provider not in known:
        raise invalid("provider", unknown_provider_message(args.provider, known))
    if args.action == "rotate" and args.provider not in {item.name for item in file.list()}:
        raise invalid("provider", f"{file.path} has no credentials of {args.provider!r}; `credentials set` stores them")
    provider = known[args.provider]
    fields = {name for name, _ in endpoint_variables(args.provider, provider) if name in CREDENTIAL_FIELDS} | {
        "api_key"
    }
    if args.field not in fields | {"access_token"}:
        raise invalid("field", f"{args.provider} has none named {args.field!r}; it has {', '.join(sorted(fields))}")
    file.set(args.provider, **{args.field: _read_secret(f"{args.provider} {args.field}: ")})
    done = "replaced" if args.action == "rotate" else "stored"
    print_message("credentials", f"{done} {args.field} of {args.provider} in {file.path}")
    return 0


def _rotate_key(file: EncryptedFileCredentials, *, with_passphrase: bool) -> int:
    file = _unlocked(file, make_passphrase=False)
    file.rotate(_new_passphrase() if with_passphrase else None)
    place = "a new passphrase" if with_passphrase else "a new key in the operating system's keyring"
    print_message("credentials", f"{file.path} is encrypted with {place}")
    return 0


def _unlocked(file: EncryptedFileCredentials, *, make_passphrase: bool) -> EncryptedFileCredentials:
    """Return the file with its passphrase, if it has one or is to get one."""
    if file.passphrase or secret_from_variable(PASSPHRASE_VARIABLE):
        return file
    if file.needs_passphrase:
        if not sys.stdin.isatty():
            raise invalid("passphrase", f"{file.path} is encrypted with a passphrase; set {PASSPHRASE_VARIABLE}")
        return EncryptedFileCredentials(file.path, getpass.getpass("passphrase: "))
    if make_passphrase and not file.path.exists():
        if not sys.stdin.isatty():
            # Standard input holds the value to store.
            raise invalid("passphrase", f"cannot be asked for without a terminal; set {PASSPHRASE_VARIABLE}")
        return EncryptedFileCredentials(file.path, _new_passphrase())
    return file


def _new_passphrase() -> Secret:
    """Return a passphrase that was typed twice, or the one on standard input."""
    passphrase = _read_secret("new passphrase: ")
    if sys.stdin.isatty() and passphrase != _read_secret("once more: "):
        raise invalid("passphrase", "the two differ; nothing was changed")
    return passphrase


def _read_secret(prompt: str) -> Secret:
    """Return a value from a prompt without echo, or from standard input if that is no terminal."""
    secret = Secret((getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline()).strip())
    if not secret:
        raise invalid("value", "is empty; nothing was changed")
    return secret
