"""The registries that configs are completed from."""

import fairseq.criterions
import fairseq.models
import fairseq.optim
import fairseq.tasks  # noqa: F401
