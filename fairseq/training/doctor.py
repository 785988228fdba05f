"""The live doctor of a run: what it may stop, and which checkpoint it keeps."""

from __future__ import annotations

import logging

from fairseq.checkpoint import snapshot
from fairseq.dataclass.utils import config_to_container
from fairseq.doctor.findings import Finding
from fairseq.doctor.live import LiveDoctor
from fairseq.logging.sinks import Sinks, Start
from fairseq.training.trainer import Trainer

logger = logging.getLogger(__name__)


def open_doctor(trainer: Trainer, start: Start, sinks: Sinks) -> None:
    """Add the doctor that `common.doctor` asks for to the sinks of a run's first process."""
    cfg = trainer.cfg
    if cfg.common.doctor == "off":
        return

    def keep(finding: Finding) -> None:
        if not cfg.checkpoint.no_save:
            logger.warning("%s: %s", finding.name, snapshot.keep_before(cfg.checkpoint, finding.begin))

    doctor = LiveDoctor(
        config_to_container(cfg),
        start.save_dir,
        start.update,
        start.continues,
        sinks.finding,
        trainer.stopping.has_collapsed if cfg.common.doctor == "stop" else None,
        keep,
    )
    sinks.add("the doctor's findings", doctor)
