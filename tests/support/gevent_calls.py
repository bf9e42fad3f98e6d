"""Run by a test in a process of its own: N judge calls at once on gevent's greenlets.

The patch comes before every other import, as in a worker.
"""

from gevent import monkey

monkey.patch_all()

import json
import sys
from collections import Counter

from gevent.pool import Pool

from oyer.config.reward import EndpointConfig
from oyer.tasks.endpoint.client import EndpointClient
from oyer.tasks.endpoint.types import ChatRequest, Reply

base_url, count = sys.argv[1], int(sys.argv[2])
config = EndpointConfig(base_url=base_url, max_in_flight=count)
client = EndpointClient("judge", config, {})
request = ChatRequest(model="judge-1", messages=[{"role": "user", "content": "Score this."}])


def text_of_call(_: int) -> str:
    """The reply's text, or what went wrong."""
    outcome = client.complete(request, timeout_s=60.0)
    return outcome.text if isinstance(outcome, Reply) else outcome.message


print(json.dumps(Counter(Pool(count).imap_unordered(text_of_call, range(count)))))
