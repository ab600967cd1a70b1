from .credential_store import CredentialContext as CredentialContext
from .credential_store import Credentials as Credentials
from .credential_store import CredentialSource as CredentialSource
from .credential_store import CredentialStore as CredentialStore
from .credential_store import DotenvCredentials as DotenvCredentials
from .credential_store import EnvironmentCredentials as EnvironmentCredentials
from .credential_store import FunctionCredentials as FunctionCredentials
from .credential_store import SettingsCredentials as SettingsCredentials
