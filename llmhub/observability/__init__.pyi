from . import logging as logging
from . import metrics as metrics
from . import tracing as tracing
from .dispatcher import flush as flush
