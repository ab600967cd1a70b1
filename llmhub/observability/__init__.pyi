from . import logging as logging
from . import metrics as metrics
from .dispatcher import flush as flush
