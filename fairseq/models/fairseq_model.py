"""The base of all models."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from fairseq.models.fairseq_encoder import FairseqEncoder
from fairseq.modules.run_mode import RunMode, configure


class BaseFairseqModel(nn.Module):
    """A model that a registry builds from its config and a task.

    A subclass implements `build_model`, and `get_targets` and `get_normalized_probs` where a criterion asks for them.
    """

    @classmethod
    def build_model(cls, cfg: Any, task: Any = None) -> BaseFairseqModel:
        """A new model of this config; `task` brings what only it knows, such as a dictionary."""
        return cls(cfg)

    def get_targets(self, sample: Mapping[str, Any], net_output: Any) -> Tensor:
        """Targets of a batch; the base takes them from the batch itself."""
        return sample["target"]

    def get_normalized_probs(
        self, net_output: Tensor, log_probs: bool, sample: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Probabilities over the last dimension of the output, or their logarithms, in fp32."""
        logits = net_output.float()
        return F.log_softmax(logits, dim=-1) if log_probs else F.softmax(logits, dim=-1)

    def extract_features(self, *args: Any, **kwargs: Any) -> Any:
        """Features without the head of a task; the base runs the whole model."""
        return self(*args, **kwargs)

    def max_positions(self) -> Any:
        """Longest input, None for any."""
        return None

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,
        model_cfg: DictConfig | None = None,
        args: Namespace | None = None,
    ) -> Any:
        """Load parameters and buffers after `upgrade_state_dict` has brought an older checkpoint's names up to date.

        Args:
            strict: names missing from either side are an error.
            model_cfg, args: the config that the checkpoint was written with, for models that change themselves to fit
                it.
        """
        state_dict = dict(state_dict)
        self.upgrade_state_dict(state_dict)
        return super().load_state_dict(state_dict, strict)

    def upgrade_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Bring the names of an older checkpoint up to date, in place."""
        self.upgrade_state_dict_named(state_dict, "")

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """The same for this model at prefix `name`: every submodule that has this method brings its own names up to
        date.
        """
        assert state_dict is not None
        _upgrade_children(self, state_dict, name)

    def configure(self, mode: RunMode) -> None:
        """Choose how the model runs; see RunMode."""
        configure(self, mode)

    def set_num_updates(self, num_updates: int) -> None:
        """Tell every submodule that follows a schedule how many updates are done."""
        for module in self.modules():
            if module is not self and hasattr(module, "set_num_updates"):
                module.set_num_updates(num_updates)

    def frozen_parameters(self) -> list[Tensor]:
        """Parameters that no gradient can reach at this count of updates, of all submodules that tell theirs; some may
        come twice.

        The trainer leaves them, and what the optimizer keeps for them, as they are.
        """
        telling = [module for module in self.modules() if module is not self and hasattr(module, "frozen_parameters")]
        return [parameter for module in telling for parameter in module.frozen_parameters()]


class FairseqEncoderModel(BaseFairseqModel):
    """A model that is an encoder.

    Args:
        encoder: its output has the logits as `encoder_out`, where `get_normalized_probs` is asked for.
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


FairseqModel = BaseFairseqModel  # fairseq: the older name of an encoder-decoder, which some plug-ins still extend


def _upgrade_children(module: nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        if hasattr(child, "upgrade_state_dict_named"):
            child.upgrade_state_dict_named(state_dict, path)
        else:
            _upgrade_children(child, state_dict, path)
