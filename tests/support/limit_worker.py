"""A judge worker reduced to its limiter, run as a script: greenlets that call a server for ever.

Argument: JSON with `redis_url`, `port`, `limiter` (keywords), `greenlets` and `estimated_tokens`.
Without a port it takes a permit per greenlet, prints `holding`, and keeps them.
"""

from gevent import monkey

monkey.patch_all()

import http.client
import json
import sys
import threading
import time

from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.adaptive import Evidence
from oyer.tasks.coordination.limiter import Limiter


def main() -> None:
    job = json.loads(sys.argv[1])
    limiter = Limiter(connect(job["redis_url"]), "judge", **job["limiter"])
    never_s = time.time() + 3600

    def call() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", job["port"])
        connection.connect()
        while permit := limiter.acquire(job["estimated_tokens"], never_s):
            connection.request("GET", "/")
            used_tokens = int(connection.getresponse().read())
            limiter.release(permit, used_tokens=used_tokens, evidence=Evidence(clean=1))

    if "port" in job:
        threads = [threading.Thread(target=call) for _ in range(job["greenlets"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        for _ in range(job["greenlets"]):
            assert limiter.acquire(job["estimated_tokens"], never_s)
        print("holding", flush=True)
        time.sleep(3600)


if __name__ == "__main__":
    main()
