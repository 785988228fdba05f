"""Planted faults of what a model learns; see planted_runs.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.drills.planted_runs import Fault, Scene
from tests.planted import RATE, Utterance

FEW_MASKS = '''
"""A stand-in for a fault in masking: a quarter of the spans are drawn."""
import fairseq.masks.spans as spans

draw = spans.draw_span_count
spans.draw_span_count = lambda size, cfg, rng: max(1, draw(size, cfg, rng) // 4)
'''


JUMP = """
\"""A stand-in for an instability: the learning rate is 30 times as high from update 150 on.\"""
from fairseq.optim.lr_scheduler.polynomial_decay_schedule import PolynomialDecayLRSchedule

planned = PolynomialDecayLRSchedule.step_update
PolynomialDecayLRSchedule.step_update = lambda self, update: self._set(
    planned(self, update) * (30 if update > 150 else 1)
)
"""


GROW = """
\"""A stand-in for features that drift: from update 120 on, each update makes them 6 % larger.\"""
import itertools
from fairseq.models.wav2vec.feature_extractor import ConvFeatureExtractionModel

forward, count = ConvFeatureExtractionModel.forward, itertools.count(1)

def growing(self, *args, **options):
    over = max(0, next(count) - 120) if self.training else 0
    return forward(self, *args, **options) * 1.06**over

ConvFeatureExtractionModel.forward = growing
"""


def pretrained(scene: Scene, updates: int, *overrides: str) -> Path:
    """Pre-train on healthy speech."""
    return scene.train(scene.pretraining(scene.healthy_corpus(), updates, *overrides))


def of_waves(scene: Scene, train: Sequence[np.ndarray], valid: Sequence[np.ndarray]) -> Path:
    return scene.corpus([Utterance(wave, "A") for wave in train], [Utterance(wave, "A") for wave in valid])


def silence(scene: Scene) -> Path:
    waves = [np.zeros(3 * RATE)] * 60
    return scene.train(scene.pretraining(of_waves(scene, waves, waves[:6]), 120))


def duplicates(scene: Scene) -> Path:
    """Every file of training and validation is the same one."""
    wave = scene.speech(1)[0].wave
    return scene.train(scene.pretraining(of_waves(scene, [wave] * 60, [wave] * 6), 300, "optimization.lr=[0.003]"))


def overfit(scene: Scene) -> Path:
    data = scene.corpus(scene.speech(6), scene.speech(12, skip=120))
    return scene.train(scene.pretraining(data, 400, "optimization.lr=[0.003]", "model.encoder_embed_dim=128"))


def other_level(scene: Scene) -> Path:
    """Validation is 40 dB quieter than training, and audio is not normalised."""
    quiet = [Utterance(0.01 * one.wave, one.text) for one in scene.speech(12, skip=120)]
    return scene.train(scene.pretraining(scene.corpus(scene.speech(120), quiet), 150, "task.normalize=false"))


def with_plug_in(scene: Scene, source: str, updates: int, *overrides: str) -> Path:
    """Pre-train on healthy speech with a package of the user's own."""
    folder = scene.folder / "plug_in"
    folder.mkdir()
    (folder / "__init__.py").write_text(source)
    return pretrained(scene, updates, f"common.user_dir={folder}", *overrides)


def little_audio(scene: Scene) -> Path:
    """One second of audio per update, at a rate for much more."""
    return pretrained(scene, 200, "dataset.max_tokens=16000", "task.max_sample_size=16000", "optimization.lr=[0.01]")


def other_labels(scene: Scene) -> Path:
    """Fine-tuning to the transcripts of other utterances."""
    spoken = scene.speech(132)
    texts = [one.text for one in (*spoken[66:], *spoken[:66])]
    moved = [Utterance(one.wave, text) for one, text in zip(spoken, texts, strict=True)]
    data = scene.corpus(moved[:120], moved[120:])
    scene.train(scene.pretraining(data, 20, f"checkpoint.save_dir={scene.folder / 'pretrained'}"))
    return scene.train(scene.fine_tuning(data, scene.folder / "pretrained/checkpoint_last.pt", 160))


TRIAL = ("common.log_interval=1", "dataset.validate_interval_updates=2", "lr_scheduler.warmup_updates=1")


def fine_tuning_trial(scene: Scene) -> Path:
    data = scene.healthy_corpus()
    scene.train(scene.pretraining(data, 20, f"checkpoint.save_dir={scene.folder / 'pretrained'}"))
    frozen = "model.freeze_finetune_updates=10000"
    return scene.train(scene.fine_tuning(data, scene.folder / "pretrained/checkpoint_last.pt", 20, *TRIAL[:2], frozen))


FAULTS: list[Fault] = [
    Fault("healthy", "", 0, lambda s: pretrained(s, 200)),
    Fault("healthy with a line per update", "", 0, lambda s: pretrained(s, 120, "common.log_interval=1")),
    Fault("trial of 6 updates", "", 0, lambda s: pretrained(s, 6, *TRIAL)),
    Fault("trial of 20 updates of fine-tuning", "", 0, fine_tuning_trial),
    Fault("one second per update", "plateau", 199, little_audio, ("codebook-collapse",)),
    Fault("labels of other utterances", "blanks-only or few-symbols", 100, other_labels),
    Fault(
        "diversity weight 0", "codebook-collapse", 200, lambda s: pretrained(s, 200, "criterion.loss_weights=[0,10]")
    ),
    Fault(
        "huge learning rate",
        "codebook-collapse",
        200,
        lambda s: pretrained(s, 200, "optimization.lr=[0.1]"),
        ("plateau",),
    ),
    Fault("learning rate near 0", "plateau", 199, lambda s: pretrained(s, 100, "optimization.lr=[1e-7]")),
    Fault("silence", "codebook-collapse", 100, silence),
    Fault("duplicated files", "accuracy-near-1", 200, duplicates),
    Fault("feature_grad_mult 0", "frozen", 100, lambda s: pretrained(s, 100, "model.feature_grad_mult=0")),
    Fault(
        "temperature at its floor at once",
        "temperature-too-fast",
        100,
        lambda s: pretrained(s, 100, "model.latent_temp=[2.0,0.5,0.9]"),
    ),
    Fault("a quarter of the masks", "masked-share", 40, lambda s: with_plug_in(s, FEW_MASKS, 40)),
    Fault("six files", "overfit", 250, overfit),
    Fault("validation at another level", "validation-unlike-training", 150, other_level),
    Fault(
        "rate jumps at update 150",
        "plateau",  # the gradient falls with it: everything that was learned is lost within 20 updates
        220,
        lambda s: with_plug_in(s, JUMP, 260, "optimization.lr=[0.003]"),
        ("codebook-collapse", "gradient-drift", "feature-penalty-drift", "frozen"),
    ),
    Fault("features that grow", "feature-penalty-drift", 199, lambda s: with_plug_in(s, GROW, 190)),
    Fault(
        "schedule ends before the run",
        "learning-rate-over",
        100,
        lambda s: pretrained(s, 120, "lr_scheduler.total_num_update=60"),
    ),
]
