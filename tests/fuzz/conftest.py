"""Number of inputs per fuzz test: few fixed ones by default, many new ones by `make test-fuzz`."""

import os

from hypothesis import HealthCheck, Phase, settings

INPUTS = int(os.environ.get("OYER_FUZZ_INPUTS", "0"))
"""Inputs per test; 0 is the short run of `make test`."""

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
