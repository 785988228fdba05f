"""Base class for encoders, also those of other projects."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class EncoderOut(NamedTuple):
    """Output of fairseq's text encoders."""

    encoder_out: Tensor  # T x B x C
    encoder_padding_mask: Optional[Tensor]  # B x T
    encoder_embedding: Optional[Tensor]  # B x T x C
    encoder_states: Optional[list[Tensor]]  # each T x B x C
    src_tokens: Optional[Tensor]  # B x T
    src_lengths: Optional[Tensor]  # B x 1


@runtime_checkable
class FollowsUpdates(Protocol):
    """A module that changes with the number of updates."""

    def set_num_updates(self, num_updates: int) -> None: ...


class FairseqEncoder(nn.Module):
    """An encoder; a subclass implements `forward`.

    Args:
        dictionary: the input symbols; None for audio.
    """

    def __init__(self, dictionary: Any) -> None:
        super().__init__()
        self.dictionary = dictionary

    def forward(self, src_tokens: Tensor, src_lengths: Tensor | None = None, **kwargs: Any) -> Any:
        """Encode a batch, B x T."""
        raise NotImplementedError(f"{type(self).__name__} does not implement forward.")

    def forward_torchscript(self, net_input: dict[str, Tensor]) -> Any:
        """Run `forward` on a batch's net_input, without the decoder's entries."""
        if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return self.forward(src_tokens=net_input["src_tokens"], src_lengths=net_input["src_lengths"])
        return self.forward_non_torchscript(net_input)

    @torch.jit.unused
    def forward_non_torchscript(self, net_input: dict[str, Tensor]) -> Any:
        return self.forward(**{name: value for name, value in net_input.items() if name != "prev_output_tokens"})

    def reorder_encoder_out(self, encoder_out: Any, new_order: Tensor) -> Any:
        """Reorder the utterances of the output."""
        raise NotImplementedError(f"{type(self).__name__} does not implement reorder_encoder_out.")

    def max_positions(self) -> Any:
        """Maximum input length."""
        return 1_000_000

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> dict[str, Any]:
        """Rename the parameters of an older checkpoint, in place; by default none."""
        return state_dict

    def set_num_updates(self, num_updates: int) -> None:
        """Pass the number of updates to every submodule that follows a schedule."""
        for module in self.modules():
            if module is not self and isinstance(module, FollowsUpdates):
                module.set_num_updates(num_updates)
