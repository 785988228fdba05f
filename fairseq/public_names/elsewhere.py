"""Names of fairseq that live in another module here. `lookup` imports them on first use."""

from __future__ import annotations

# fairseq's module -> the module with its contents here
MODULES: dict[str, str] = {
    "fairseq.distributed_utils": "fairseq.distributed.utils",
    "fairseq.meters": "fairseq.logging.meters",
    "fairseq.models.wav2vec.wav2vec2_classification": "fairseq.models.wav2vec.classification",
    "fairseq.metrics": "fairseq.logging.metrics",
    "fairseq.progress_bar": "fairseq.logging.progress_bar",
    "fairseq.modules.fairseq_dropout": "fairseq.modules.dropout",
    "fairseq.modules.grad_multiply": "fairseq.modules.gradients",
    "fairseq.modules.positional_encoding": "fairseq.modules.rel_positional_encoding",
    "fairseq.distributed.fully_sharded_data_parallel": "fairseq.distributed",
}

# modules of fairseq's repository outside its package, with and without "fairseq." in front -> the module here
EXAMPLES: dict[str, str] = {
    f"{prefix}data2vec.models.data2vec_audio": "fairseq.models.data2vec.data2vec_audio"
    for prefix in ("examples.", "fairseq.examples.")
}

# fairseq's module -> {the module that defines them here: names}
_NAMES: dict[str, dict[str, str]] = {
    "fairseq": {"fairseq.inference.transcribe": "transcribe"},
    "fairseq.models": {
        "fairseq.models.fairseq_encoder": "FairseqEncoder",
        "omegaconf": "OmegaConf open_dict",
        "contextlib": "ExitStack",
        "hydra.core.config_store": "ConfigStore",
    },
    "fairseq.models.wav2vec": {
        "fairseq.models.wav2vec.wav2vec2": (
            "ConformerEncoder ConvFeatureExtractionModel EXTRACTOR_MODE_CHOICES LAYER_TYPE_CHOICES "
            "MASKING_DISTRIBUTION_CHOICES TransformerEncoder TransformerSentenceEncoderLayer make_conv_pos "
            "AdapterFast TransformerSentenceEncoderWithAdapterLayer "
            "BaseFairseqModel ChoiceEnum ConformerWav2Vec2EncoderLayer FairseqDataclass Fp32GroupNorm Fp32LayerNorm "
            "GradMultiply GumbelVectorQuantizer LayerNorm MultiheadAttention RelPositionalEncoding SamePad "
            "TransposeLast buffered_arange checkpoint_wrapper compute_mask_indices fsdp_wrap index_put "
            "init_bert_params is_xla_tensor pad_to_multiple register_model"
        ),
        "fairseq.models.wav2vec.wav2vec2_asr": (
            "Embedding FairseqEncoder FairseqTask II Linear MISSING Namespace Wav2Vec2AsrConfig Wav2VecEncoder "
            "base_architecture convert_namespace_to_omegaconf open_dict"
        ),
    },
    "fairseq.models.hubert": {
        "fairseq.models.hubert.hubert": "EXTRACTOR_MODE_CHOICES LAYER_TYPE_CHOICES MASKING_DISTRIBUTION_CHOICES"
    },
    "fairseq.models.hubert.hubert": {
        "fairseq": "utils",
        "fairseq.data.data_utils": "compute_mask_indices",
        "fairseq.data.dictionary": "Dictionary",
        "fairseq.dataclass": "ChoiceEnum FairseqDataclass",
        "fairseq.models.fairseq_model": "BaseFairseqModel",
        "fairseq.models.wav2vec.wav2vec2": "ConvFeatureExtractionModel",
        "fairseq.modules": "LayerNorm",
        "fairseq.tasks.hubert_pretraining": "HubertPretrainingConfig HubertPretrainingTask",
        "omegaconf": "II",
    },
    "fairseq.models.hubert.hubert_asr": {
        "fairseq": "checkpoint_utils tasks utils",
        "fairseq.dataclass": "FairseqDataclass",
        "fairseq.dataclass.utils": "convert_namespace_to_omegaconf",
        "fairseq.models.fairseq_encoder": "FairseqEncoder",
        "fairseq.models.fairseq_model": "BaseFairseqModel",
        "fairseq.models.wav2vec.config": "MASKING_DISTRIBUTION_CHOICES",
        "fairseq.models.wav2vec.wav2vec2_asr": "Embedding Linear",
        "fairseq.modules": "LayerNorm",
        "fairseq.tasks": "FairseqTask",
        "omegaconf": "II MISSING open_dict",
    },
    "fairseq.models.wav2vec.wav2vec2": {
        "fairseq.data.data_utils": "compute_mask_indices",
        "fairseq.dataclass": "ChoiceEnum FairseqDataclass",
        "fairseq.distributed": "fsdp_wrap",
        "fairseq.models.wav2vec.utils": "pad_to_multiple",
        "fairseq.modules": (
            "ConformerWav2Vec2EncoderLayer Fp32GroupNorm Fp32LayerNorm MultiheadAttention RelPositionalEncoding "
            "SamePad TransposeLast checkpoint_wrapper init_bert_params FairseqDropout GradMultiply LayerNorm"
        ),
        "fairseq.models.fairseq_model": "BaseFairseqModel",
        "fairseq.utils": "buffered_arange index_put is_xla_tensor",
    },
    "fairseq.models.wav2vec.wav2vec2_asr": {
        "fairseq": "checkpoint_utils tasks utils",
        "fairseq.dataclass": "FairseqDataclass",
        "fairseq.dataclass.utils": "convert_namespace_to_omegaconf",
        "fairseq.models.fairseq_encoder": "FairseqEncoder",
        "fairseq.models.wav2vec.adapters": "AdapterFast",
        "fairseq.models.wav2vec.config": "LAYER_TYPE_CHOICES MASKING_DISTRIBUTION_CHOICES",
        "fairseq.modules": "LayerNorm",
        "fairseq.tasks": "FairseqTask",
        "omegaconf": "II MISSING open_dict",
    },
    "fairseq.dataclass.utils": {"fairseq.dataclass.arguments": "gen_parser_from_dataclass interpret_dc_type"},
    "fairseq.criterions": {"omegaconf": "DictConfig"},
    "fairseq.optim": {"omegaconf": "DictConfig"},
    "fairseq.optim.lr_scheduler": {"omegaconf": "DictConfig"},
    "fairseq.tasks": {"fairseq.dataclass": "FairseqDataclass", "hydra.core.config_store": "ConfigStore"},
    "fairseq.distributed.utils": {"fairseq.distributed.launch": "call_main"},
    "fairseq.data.audio.audio_utils": {"fairseq.data.audio.filter_bank": "get_fbank"},
}

NAMES: dict[str, tuple[str, str]] = {  # fairseq's full name -> (module, name in it)
    f"{module}.{name}": (home, name)
    for module, homes in _NAMES.items()
    for home, names in homes.items()
    for name in names.split()
}
