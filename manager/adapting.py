"""Import path of earlier releases; the functions are defined in `oyer.manager.adapters`."""

from oyer.manager.adapters import *
