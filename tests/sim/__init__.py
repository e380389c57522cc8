"""The simulator (world.py is its top).  Importing it puts the simulated core into place first."""

from sim import core as core
from sim import stalls as stalls
