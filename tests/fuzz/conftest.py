"""How many inputs a fuzz tries: few and always the same by default, many and new by `make test-fuzz`."""

import os

from hypothesis import HealthCheck, Phase, settings

INPUTS = int(os.environ.get("OYER_FUZZ_INPUTS", "0"))
"""Inputs for each surface; 0 is the short run of `make test`."""

_SHORT = 150

settings.register_profile(
    "oyer-fuzz",
    max_examples=INPUTS or _SHORT,
    derandomize=not INPUTS,
    database=None,
    deadline=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
        HealthCheck.large_base_example,
    ],
)

fuzz = settings.get_profile("oyer-fuzz")
"""Decorates a property: `@fuzz` above `@given`."""
