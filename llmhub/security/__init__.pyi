from . import credentials as credentials
