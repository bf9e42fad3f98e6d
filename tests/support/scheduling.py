"""Distributes test files over xdist workers, with `--dist loadfile`."""

import re

from xdist.scheduler import LoadFileScheduling

_SHARED_BACKENDS = {
    "cli": r"tests/cli/test_(batches|check|history|readme_program|rubric|score|up)",
    "both databases": r"tests/integration/test_(lengths|main_job|plain_celery|requests|tickets)",
    "judging": r"tests/integration/test_(judging|odd_endpoints|panels|reasoning_judges|secrets|turns)",
    "manager": r"tests/(manager/(streaming/test_(across|stream)|trl|verl|test_(closing|ms_swift"
    r"|openrlhf|own_tokens|slime|tracking|training))|server/test_(bodies|groups|server))",
}
"""Files that use one backend of the session, which takes 6 s of CPU to start and to stop."""


class BackendScheduling(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Runs the files that share a backend in one worker, so that the backend starts once."""

    def _split_scope(self, nodeid: str) -> str:
        for backend, pattern in _SHARED_BACKENDS.items():
            if re.match(pattern, nodeid):
                return backend
        return str(super()._split_scope(nodeid))
