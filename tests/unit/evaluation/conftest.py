"""Commands put a handler on standard error, which is the test's own."""

from tests.small_speech import own_log_handlers

__all__ = ["own_log_handlers"]
