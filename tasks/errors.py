"""Import path of earlier releases; the errors are defined in `oyer.protocol.errors`."""

from oyer.protocol.errors import *
