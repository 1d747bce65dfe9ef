"""One hypothesis profile for the properties: no deadline, for a slow machine proves nothing."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "properties",
    parent=settings.get_profile("default"),
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
