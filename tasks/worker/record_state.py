"""Checks at a worker's start that the record has the schema of this release."""

from celery.utils.log import get_logger

from oyer import migrations
from oyer.models.engine import redacted_url
from oyer.protocol.errors import InvalidConfig
from oyer.tasks.worker import context
from oyer.tasks.worker.patience import patiently

log = get_logger(__name__)


def check_record() -> None:
    """Compare the record's revision with the newest one of this release.

    A newer record is used, with a warning: a rolling upgrade migrates before it restarts every host.

    Raises:
        InvalidConfig: the record has no schema, or an older one.
    """
    url = context.config().store.url
    revision, newest = patiently(lambda: migrations.current(url)), migrations.head()
    if revision == newest:
        return
    if revision is not None and revision not in migrations.known():
        log.warning("the record is at revision %s, newer than %s of this release", revision, newest)
        return
    state = "has no schema" if revision is None else f"is at revision {revision}, not {newest}"
    raise InvalidConfig(
        f"store.url: the record {redacted_url(url)} {state}; run `oyer db upgrade` with this"
        " configuration, then start the workers"
    )
