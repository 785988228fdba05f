"""The base of all models."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from fairseq.models.fairseq_encoder import FairseqEncoder, FollowsUpdates
from fairseq.modules.run_mode import RunMode, configure


@runtime_checkable
class HasEncoderConfig(Protocol):
    """An encoder used in fine-tuning, such as Wav2VecEncoder."""

    def encoder_config(self) -> Any: ...


@runtime_checkable
class Freezes(Protocol):
    """A module with parameters that receive no gradient."""

    def frozen_parameters(self) -> list[Tensor]: ...


@runtime_checkable
class UpgradesNames(Protocol):
    """A module that renames parameters of older checkpoints."""

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> Any: ...


class Outputs(NamedTuple):
    """What trains the output layer of a fine-tuned model, where a checkpoint does not say it."""

    task: str
    criterion: str


class BaseFairseqModel(nn.Module):
    """A model that the registry builds from a config and a task.

    A subclass implements `build_model`, and `get_targets` and `get_normalized_probs` if its criterion calls them.
    """

    cfg: Any  # the config group the model was built from; a subclass sets it
    outputs: ClassVar[Outputs | None] = None  # of an encoder, `w2v_encoder`, with an output layer

    @classmethod
    def build_model(cls, cfg: Any, task: Any = None) -> BaseFairseqModel:
        """Build a model from this config; `task` provides the rest, such as a dictionary."""
        return cls(cfg)

    def get_targets(self, sample: Mapping[str, Any], net_output: Any) -> Tensor:
        """Targets of a batch; by default `sample["target"]`."""
        return sample["target"]

    def get_normalized_probs(self, net_output: Any, log_probs: bool, sample: Mapping[str, Any] | None = None) -> Tensor:
        """Probabilities over the last dimension of the output, or their logarithms, in fp32."""
        logits = net_output.float()
        return F.log_softmax(logits, dim=-1) if log_probs else F.softmax(logits, dim=-1)

    def extract_features(self, *args: Any, **kwargs: Any) -> Any:
        """Features without the task's head; by default the whole model."""
        return self(*args, **kwargs)

    def max_positions(self) -> Any:
        """Maximum input length; None: no limit."""
        return None

    def load_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride] - fairseq's signature
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,
        model_cfg: DictConfig | None = None,
        args: Namespace | None = None,
    ) -> Any:
        """Load parameters and buffers, after `upgrade_state_dict` has renamed those of older checkpoints.

        Args:
            strict: raise an error if names are missing on either side.
            model_cfg, args: the config in the checkpoint, for models that adapt themselves to it.
        """
        state_dict = dict(state_dict)
        self.upgrade_state_dict(state_dict)
        return super().load_state_dict(state_dict, strict)

    def upgrade_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Rename the parameters of an older checkpoint, in place."""
        self.upgrade_state_dict_named(state_dict, "")

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """`upgrade_state_dict` at prefix `name`: calls this method of every submodule that has it."""
        assert state_dict is not None
        _upgrade_children(self, state_dict, name)

    def make_generation_fast_(self, **kwargs: Any) -> None:
        """Switch to evaluation; for scripts that call it before they transcribe.

        fairseq also folds weight norms into weights, which renames parameters; here they keep their names.
        """
        self.eval()

    def prepare_for_inference_(self, cfg: Any) -> None:
        """As `make_generation_fast_`; fairseq's settings in `cfg` are those of models that generate text."""
        self.make_generation_fast_()

    def encoder_config(self) -> Any | None:
        """The config of the pre-trained encoder, from which data-loading workers draw fine-tuning's masks.

        None without such an encoder. Models that have one call it `w2v_encoder`, as in fairseq.
        """
        encoder = self._modules.get("w2v_encoder")
        return encoder.encoder_config() if isinstance(encoder, HasEncoderConfig) else None

    def configure(self, mode: RunMode) -> None:
        """Set how the model runs; see RunMode."""
        configure(self, mode)

    def set_num_updates(self, num_updates: int) -> None:
        """Pass the number of updates to every submodule that follows a schedule."""
        for module in self.modules():
            if module is not self and isinstance(module, FollowsUpdates):
                module.set_num_updates(num_updates)

    def frozen_parameters(self) -> list[Tensor]:
        """Parameters that receive no gradient at this update, from all submodules that report theirs.

        A parameter can be listed twice. The trainer changes neither these parameters nor their optimizer state.
        """
        freezing = [module for module in self.modules() if module is not self and isinstance(module, Freezes)]
        return [parameter for module in freezing for parameter in module.frozen_parameters()]


class FairseqEncoderModel(BaseFairseqModel):
    """A model that consists of an encoder.

    Args:
        encoder: `get_normalized_probs` needs its output to have the logits as `encoder_out`.
    """

    def __init__(self, encoder: FairseqEncoder) -> None:
        super().__init__()
        assert isinstance(encoder, FairseqEncoder)
        self.encoder = encoder

    def forward(self, src_tokens: Tensor, src_lengths: Tensor | None, **kwargs: Any) -> Any:
        return self.encoder(src_tokens, src_lengths, **kwargs)

    def get_normalized_probs(
        self, net_output: Mapping[str, Any], log_probs: bool, sample: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Probabilities over the last dimension of `encoder_out`, or their logarithms, in fp32."""
        return super().get_normalized_probs(net_output["encoder_out"], log_probs, sample)

    def max_positions(self) -> Any:
        return self.encoder.max_positions()


FairseqModel = BaseFairseqModel  # fairseq: the older name of an encoder-decoder; some plug-ins still extend it


def _upgrade_children(module: nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(child, UpgradesNames):
            child.upgrade_state_dict_named(state_dict, path)
        else:
            _upgrade_children(child, state_dict, path)
