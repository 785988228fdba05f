"""Building blocks under fairseq's names, one class per file."""

from fairseq.modules.checkpoint_activations import checkpoint_wrapper, unwrap_checkpoint
from fairseq.modules.conformer_layer import ConformerEncoderLayer, ConformerWav2Vec2EncoderLayer
from fairseq.modules.dropout import FairseqDropout
from fairseq.modules.espnet_multihead_attention import (
    ESPNETMultiHeadedAttention,
    RelPositionMultiHeadedAttention,
    RotaryPositionMultiHeadedAttention,
)
from fairseq.modules.fp32_group_norm import Fp32GroupNorm
from fairseq.modules.fp32_instance_norm import Fp32InstanceNorm
from fairseq.modules.gelu import gelu, gelu_accurate
from fairseq.modules.gradients import GradMultiply
from fairseq.modules.gumbel_vector_quantizer import GumbelVectorQuantizer
from fairseq.modules.layer_drop import LayerDropModuleList
from fairseq.modules.layer_norm import Fp32LayerNorm, LayerNorm
from fairseq.modules.multihead_attention import MultiheadAttention
from fairseq.modules.rel_positional_encoding import RelPositionalEncoding
from fairseq.modules.rotary_positional_embedding import RotaryPositionalEmbedding
from fairseq.modules.same_pad import SamePad
from fairseq.modules.transformer_sentence_encoder import init_bert_params
from fairseq.modules.transpose_last import TransposeLast

__all__ = [
    "ConformerEncoderLayer",
    "ConformerWav2Vec2EncoderLayer",
    "ESPNETMultiHeadedAttention",
    "FairseqDropout",
    "Fp32GroupNorm",
    "Fp32InstanceNorm",
    "Fp32LayerNorm",
    "GradMultiply",
    "GumbelVectorQuantizer",
    "LayerDropModuleList",
    "LayerNorm",
    "MultiheadAttention",
    "RelPositionMultiHeadedAttention",
    "RelPositionalEncoding",
    "RotaryPositionMultiHeadedAttention",
    "RotaryPositionalEmbedding",
    "SamePad",
    "TransposeLast",
    "checkpoint_wrapper",
    "gelu",
    "gelu_accurate",
    "init_bert_params",
    "unwrap_checkpoint",
]
