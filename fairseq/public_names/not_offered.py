"""fairseq's public names that this package does not have, each with what to use instead. Add names here, not stubs.

A module in EMPTY_MODULES can be imported, since it is an attribute after `import fairseq` in fairseq itself; nothing in
it is offered. Any other name raises AttributeError or ImportError at once.
"""

from __future__ import annotations

_CTC = "use wav2vec_ctc models, and fairseq.transcribe or fairseq-infer to decode"
_GENERATION = f"this package has no models that generate text; {_CTC}"
_TRANSFORMER = (
    f"this package has no text transformers; the speech encoder's layers are in fairseq.models.wav2vec.wav2vec2; {_CTC}"
)
_LANGUAGE = (
    "this package has no language models in PyTorch; fairseq-infer --lm-model reads n-gram models (.arpa, KenLM .bin)"
)
_TEXT_DATA = "this package reads audio and its labels only; use FileAudioDataset and AddTargetDataset"
_TEXT_TASK = "this package has tasks for audio only, such as audio_pretraining and audio_finetuning"
_TEXT_LOSS = "this package has the criterions wav2vec and ctc only"
_SYNTHESIS = "this package recognises speech; it does not produce or translate it"
_HUBERT = "HuBERT is not pre-trained here; its models open, give features, and are fine-tuned with wav2vec_ctc"
_SEQ2SEQ = "fine-tune wav2vec_ctc instead of wav2vec_seq2seq"
_OTHER_SPEECH = "this package has wav2vec2 and wav2vec_ctc models; build other heads on Wav2Vec2Model.extract_features"
_LAYERS = "no wav2vec 2.0 model uses it; take it from torch.nn or keep a copy in your project"
_ATTENTION = "use fairseq.modules.MultiheadAttention or torch.nn.MultiheadAttention"
_KMEANS = "use GumbelVectorQuantizer (model.quantizer of wav2vec 2.0)"
_OPTIMIZER = "this package has the optimizers adam and composite only"
_SCHEDULE = (
    "this package has the schedules fixed, cosine, inverse_sqrt, polynomial_decay, tri_stage and pass_through only"
)
_PRECISION = "use common.bf16=true, fp16=true or amp=true; the trainer keeps parameters and optimizer state in fp32"
_DATA_PARALLEL = "models are trained data parallel: use distributed_training.ddp_backend=pytorch_ddp or fully_sharded"
_START = "use fairseq-hydra-train or torchrun to start processes, and fairseq.distributed.launch.call_main in Python"
_TPU = "train on CPU, CUDA or HPU"
_TRACKER = (
    "use TensorboardProgressBarWrapper, or common.tensorboard_logdir, common.wandb_project or common.mlflow_experiment"
)
_MASKS = "use compute_mask_indices"
_FEATURES = "use get_waveform and get_fbank"
_AUDIO_CHANGES = "use task.augment, or change the waveform that get_waveform returns"
_MANIFESTS = "use task.data with manifests of audio files, also of members of a .zip (path.zip:offset:length)"
_ITERATORS = "use EpochBatchIterator, which makes, shards, buffers and resumes batches"
_CHECKPOINTING = "use checkpoint_wrapper, or torch.utils.checkpoint"
_SHARDED = "use load_model_ensemble_and_task: a checkpoint is one file"
_HUB = "download the checkpoint, then use checkpoint_utils.load_model_ensemble_and_task"
_FILES = "use open and os, or fairseq.file_io.PathManager for local files"
_ARGPARSE = "use fairseq-infer, fairseq-validate or fairseq-hydra-train, and FairseqConfig for settings in Python"
_IMPORTS = "use common.user_dir (fairseq.utils.import_user_module) to import your own classes"
_UNITS = (
    "use fairseq.data.data_utils.post_process to turn units into words, and fairseq-prepare-labels to turn text into "
    "units"
)
_SCORES = "use fairseq.scoring.wer"
_DEBUGGER = "use Python's own pdb"
_QUANTISED = "use fairseq.inference.int8 (fairseq-transcribe --int8) for a trained model"
_INTERNAL = "it is internal to fairseq; use the public function of the same name without the underscore"
_NAN = "a run stops by itself if losses are not finite (optimization.max_nonfinite_updates)"
_ALIGNMENT = "use fairseq.transcribe, whose segments have times"
_PROFILING = "use torch.profiler"

EMPTY_MODULES: dict[str, str] = {
    "fairseq.benchmark": _PROFILING,
    "fairseq.binarizer": _TEXT_DATA,
    "fairseq.file_chunker_utils": _FILES,
    "fairseq.file_utils": _FILES,
    "fairseq.incremental_decoding_utils": _GENERATION,
    "fairseq.iterative_refinement_generator": _GENERATION,
    "fairseq.model_parallel": _DATA_PARALLEL,
    "fairseq.nan_detector": _NAN,
    "fairseq.ngram_repeat_block": _GENERATION,
    "fairseq.options": _ARGPARSE,
    "fairseq.pdb": _DEBUGGER,
    "fairseq.quantization_utils": _QUANTISED,
    "fairseq.search": _GENERATION,
    "fairseq.sequence_generator": _GENERATION,
    "fairseq.sequence_scorer": _GENERATION,
    "fairseq.speech_generator": _SYNTHESIS,
    "fairseq.token_generation_constraints": _GENERATION,
}

# fairseq's module -> {what to use instead: names in it, including its submodules}
_NAMES: dict[str, dict[str, str]] = {
    "fairseq": {_INTERNAL: "clib examples"},
    "fairseq.checkpoint_utils": {
        _SHARDED: "get_maybe_sharded_checkpoint_filename",
        _HUB: "load_model_ensemble_and_task_from_hf_hub",
        "use load_checkpoint_to_cpu and your module's load_state_dict": "load_pretrained_component_from_model",
    },
    "fairseq.criterions": {
        _INTERNAL: "build_criterion_",
        _HUBERT: "hubert_criterion",
        _SYNTHESIS: """
            fastspeech2_loss speech_dlm_criterion speech_to_speech_criterion speech_ulm_criterion tacotron2_loss""",
        _TEXT_LOSS: """
            adaptive_loss composite_loss cross_entropy label_smoothed_cross_entropy
            label_smoothed_cross_entropy_latency_augmented label_smoothed_cross_entropy_with_alignment
            label_smoothed_cross_entropy_with_ctc label_smoothed_cross_entropy_with_rdrop legacy_masked_lm masked_lm
            model_criterion nat_loss sentence_prediction sentence_prediction_adapters sentence_ranking""",
    },
    "fairseq.data": {
        _HUBERT: "HubertDataset",
        _MANIFESTS: """
            BinarizedAudioDataset ResamplingDataset MultiCorpusSampledDataset multi_corpus_sampled_dataset
            resampling_dataset SampledMultiDataset SampledMultiEpochDataset plasma_utils codedataset""",
        _UNITS: "encoders huffman",
        _ITERATORS: "CountingIterator GroupedIterator ShardedIterator FairseqIterableDataset",
        _OTHER_SPEECH: "add_class_target_dataset",
        _TEXT_DATA: """
            AppendTokenDataset BacktranslationDataset BucketPadLengthDataset ColorizeDataset ConcatSentencesDataset
            DenoisingDataset EncodedFastaDataset FastaDataset IdDataset IndexedCachedDataset IndexedDataset
            IndexedRawTextDataset LMContextWindowDataset LRUCacheDataset LanguagePairDataset LeftPadDataset
            LeftPaddingMaskDataset ListDataset MMapIndexedDataset MaskTokensDataset MonolingualDataset
            NestedDictionaryDataset NoisingDataset NumSamplesDataset NumelDataset OffsetTokensDataset PadDataset
            PaddingMaskDataset PrependDataset PrependTokenDataset RandomCropDataset RawLabelDataset ReplaceDataset
            RightPadDataset RightPaddingMaskDataset RollDataset RoundRobinZipDatasets SortDataset SpeechDLMDataset
            StripTokenDataset TokenBlockDataset TransformEosConcatLangPairDataset TransformEosDataset
            TransformEosLangPairDataset TruncateDataset TruncatedDictionary append_token_dataset
            backtranslation_dataset bucket_pad_length_dataset colorize_dataset concat_sentences_dataset
            denoising_dataset fasta_dataset id_dataset indexed_dataset language_pair_dataset legacy list_dataset
            lm_context_window_dataset lru_cache_dataset mask_tokens_dataset monolingual_dataset multilingual
            nested_dictionary_dataset noising num_samples_dataset numel_dataset offset_tokens_dataset pad_dataset
            padding_mask_dataset prepend_dataset prepend_token_dataset raw_label_dataset replace_dataset roll_dataset
            round_robin_zip_datasets shorten_dataset sort_dataset span_mask_tokens_dataset speech_dlm_dataset
            strip_token_dataset token_block_dataset transform_eos_concat_langpair_dataset transform_eos_dataset
            transform_eos_lang_pair_dataset""",
    },
    "fairseq.data.audio": {
        _HUBERT: "hubert_dataset",
        _AUDIO_CHANGES: "dataset_transforms feature_transforms waveform_transforms",
        _SYNTHESIS: """
            data_cfg frm_text_to_speech_dataset multi_modality_dataset speech_to_speech_dataset speech_to_text_dataset
            speech_to_text_joint_dataset text_to_speech_dataset""",
    },
    "fairseq.data.audio.audio_utils": {
        _SYNTHESIS: "TTSMelScale TTSSpectrogram",
        _FEATURES: """
            get_features_from_npy_or_audio get_features_or_waveform get_features_or_waveform_from_stored_zip
            get_fourier_basis get_mel_filters get_window""",
    },
    "fairseq.data.audio.raw_audio_dataset": {_MANIFESTS: "BinarizedAudioDataset"},
    "fairseq.data.data_utils": {
        _MASKS: """
            compute_block_mask_1d compute_block_mask_2d compute_mask_indices_for_one compute_mask_indices_v2
            compute_mask_indices_v3""",
        "use filter_by_size": "collect_filtered filter_paired_dataset_indices_by_size",
        _TEXT_DATA: "infer_language_pair load_indexed_dataset",
        "use psutil": "get_mem_usage",
    },
    "fairseq.data.dictionary": {_TEXT_DATA: "TruncatedDictionary"},
    "fairseq.data.fairseq_dataset": {_ITERATORS: "FairseqIterableDataset"},
    "fairseq.data.iterators": {
        _ITERATORS: """
            BackgroundConsumer BufferedIterator CountingIterator EpochBatchIterating FrozenBatchSampler
            GroupedEpochBatchIterator GroupedIterator ShardedIterator StreamingEpochBatchIterator"""
    },
    "fairseq.dataclass.utils": {
        "use convert_namespace_to_omegaconf or hydra's overrides": "override_module_args migrate_registry",
        "use OmegaConf.create(..., flags={'allow_objects': True})": "omegaconf_no_object_check",
    },
    "fairseq.distributed": {
        _DATA_PARALLEL: """
            DistributedTimeoutWrapper FullyShardedDataParallel LegacyDistributedDataParallel ModuleProxyWrapper
            TPUDistributedDataParallel distributed_timeout_wrapper fsdp_enable_wrap legacy_distributed_data_parallel
            module_proxy_wrapper tpu_distributed_data_parallel"""
    },
    "fairseq.distributed.utils": {
        _START: "distributed_init distributed_main infer_init_method",
        _DATA_PARALLEL: """
            get_global_group get_model_parallel_group get_model_parallel_rank get_model_parallel_world_size
            new_groups""",
        _TPU: "use_xla",
        "use torch.distributed, or all_reduce, all_gather_list and broadcast_object": """
            all_gather all_reduce_dict all_to_all broadcast broadcast_tensors""",
    },
    "fairseq.hub_utils": {_GENERATION: "BPEHubInterface GeneratorHubInterface TokenizerHubInterface"},
    "fairseq.logging.metrics": {_TPU: "xla_metrics_report"},
    "fairseq.logging.progress_bar": {
        _TRACKER: "AimProgressBarWrapper AzureMLProgressBarWrapper WandBProgressBarWrapper get_aim_run"
    },
    "fairseq.models": {
        _HUBERT: "multires_hubert",
        _GENERATION: """
            CompositeEncoder FairseqDecoder FairseqEncoderDecoderModel FairseqIncrementalDecoder FairseqMultiModel
            composite_encoder fairseq_decoder fairseq_incremental_decoder""",
        _LANGUAGE: "FairseqLanguageModel fconv_lm lightconv_lm lstm_lm masked_lm transformer_lm transformer_ulm",
        _TRANSFORMER: """
            bart fconv fconv_self_att huggingface lightconv lstm model_utils multilingual_transformer nat roberta
            transformer transformer_align transformer_from_pretrained_xlm xmod""",
        _SYNTHESIS: "speech_dlm speech_to_speech speech_to_text text_to_speech",
        _DATA_PARALLEL: "DistributedFairseqModel distributed_fairseq_model",
        "set ema.store_ema=true for a running average; load_ema_from_checkpoint reads it": "ema",
        _IMPORTS: "import_models models_dir",
    },
    "fairseq.models.fairseq_model": {
        _GENERATION: "FairseqEncoderDecoderModel FairseqMultiModel",
        _LANGUAGE: "FairseqLanguageModel",
        "use isinstance": "check_type",
    },
    "fairseq.models.hubert": {_SEQ2SEQ: "HubertSeq2SeqConfig HubertSeq2SeqModel"},
    "fairseq.models.hubert.hubert_asr": {
        _SEQ2SEQ: """
            FairseqEncoderDecoderModel FairseqIncrementalDecoder HubertSeq2SeqConfig HubertSeq2SeqModel
            PositionalEmbedding TransformerDecoder TransformerDecoderLayer"""
    },
    "fairseq.models.wav2vec": {
        "use Wav2Vec2Model: this package has wav2vec 2.0, not the first wav2vec": "wav2vec Wav2VecConfig Wav2VecModel",
        _OTHER_SPEECH: """
            wav2vec2_laser Wav2Vec2LaserEncoder Wav2VecLaser""",
        _SEQ2SEQ: "TransformerDecoder Wav2Vec2Seq2SeqConfig Wav2Vec2Seq2SeqModel",
    },
    "fairseq.models.wav2vec.wav2vec2": {
        _DATA_PARALLEL: "FullyShardedDataParallel",
    },
    "fairseq.models.wav2vec.wav2vec2_asr": {
        _SEQ2SEQ: """
            FairseqEncoderDecoderModel FairseqIncrementalDecoder PositionalEmbedding TransformerDecoder
            TransformerDecoderLayer Wav2Vec2Seq2SeqConfig Wav2Vec2Seq2SeqModel""",
    },
    "fairseq.modules": {
        _TRANSFORMER: """
            LearnedPositionalEmbedding PositionalEmbedding SinusoidalPositionalEmbedding TransformerDecoderLayer
            TransformerEncoderLayer TransformerSentenceEncoder TransformerSentenceEncoderLayer
            learned_positional_embedding positional_embedding sinusoidal_positional_embedding
            sparse_transformer_sentence_encoder sparse_transformer_sentence_encoder_layer transformer_layer
            transformer_layer_aug transformer_sentence_encoder_layer""",
        _ATTENTION: """
            DownsampledMultiHeadAttention downsampled_multihead_attention kmeans_attention sparse_multihead_attention
            LocationAttention location_attention""",
        _KMEANS: "KmeansVectorQuantizer kmeans_vector_quantizer",
        "set ema.store_ema=true for a running average": "EMAModule EMAModuleConfig ema_module",
        _QUANTISED: "quantization",
        _LAYERS: """
            AdaptiveInput AdaptiveSoftmax BaseLayer BeamableMM CharacterTokenEmbedder ConvTBC DynamicCRF DynamicConv
            DynamicConv1dTBC DynamicConv_scripatable Fp32BatchNorm LSTMCellWithZoneOut LightweightConv
            LightweightConv1dTBC LinearizedConvolution SamePad2d ScalarBias VGGBlock adaptive_input adaptive_softmax
            base_layer beamable_mm character_token_embedder conv_tbc cross_entropy dynamic_convolution
            dynamic_crf_layer dynamicconv_layer fp32_batch_norm lightconv_layer lightweight_convolution
            linearized_convolution lstm_cell_with_zoneout scalar_bias unfold unfold1d vggblock""",
    },
    "fairseq.modules.checkpoint_activations": {
        _CHECKPOINTING: "CheckpointFunction pack_kwargs split_non_tensors unpack_kwargs unpack_non_tensors"
    },
    "fairseq.modules.layer_norm": {"use LayerNorm": "FusedLayerNorm"},
    "fairseq.modules.transformer_sentence_encoder": {_TRANSFORMER: "TransformerSentenceEncoder"},
    "fairseq.optim": {
        _PRECISION: """
            AMPOptimizer FP16Optimizer MemoryEfficientFP16Optimizer amp_optimizer dynamic_loss_scaler fp16_optimizer""",
        _DATA_PARALLEL: "FairseqBMUF bmuf shard shard_",
        _OPTIMIZER: "adadelta adafactor adagrad adamax cpu_adam fused_adam fused_lamb nag sgd",
    },
    "fairseq.optim.lr_scheduler": {
        _SCHEDULE: "manual_lr_scheduler reduce_lr_on_plateau step_lr_scheduler triangular_lr_scheduler",
    },
    "fairseq.scoring": {_SCORES: "bertscore bleu chrf meteor tokenizer"},
    "fairseq.tasks": {
        _HUBERT: "multires_hubert_pretraining",
        _SYNTHESIS: "frm_text_to_speech speech_dlm_task speech_to_speech speech_to_text speech_ulm_task text_to_speech",
        _TEXT_TASK: """
            cross_lingual_lm denoising language_modeling legacy_masked_lm masked_lm multilingual_denoising
            multilingual_language_modeling multilingual_masked_lm multilingual_translation nlu_finetuning
            online_backtranslation semisupervised_translation sentence_prediction sentence_prediction_adapters
            sentence_ranking simultaneous_translation span_masked_lm translation translation_from_pretrained_bart
            translation_from_pretrained_xlm translation_lev translation_multi_simple_epoch""",
        _IMPORTS: "import_tasks tasks_dir",
        "use TASK_REGISTRY": "TASK_CLASS_NAMES",
    },
    "fairseq.tasks.audio_finetuning": {
        "use the dictionary's encode_line and AddTargetDataset": "LabelEncoder label_len_fn"
    },
    "fairseq.tasks.hubert_pretraining": {_HUBERT: "HubertDataset LabelEncoder"},
    "fairseq.tasks.audio_pretraining": {
        "use InferredW2vConfig, fairseq's name for it until 0.12": "AudioMaskingConfig"
    },
    "fairseq.utils": {
        _TPU: "get_tpu_device move_to_tpu tpu_data_loader xla_device_to_cpu",
        _ALIGNMENT: "extract_hard_alignment extract_soft_alignment load_align_dict parse_alignment",
        _GENERATION: """
            get_incremental_state load_ensemble_for_inference post_process_prediction replace_unk
            set_incremental_state""",
        _TEXT_DATA: "get_token_to_word_mapping load_embedding parse_embedding print_embed_overlap",
        "use clip_grad_norm_ and total_norm": "multi_tensor_l2norm_available multi_tensor_total_norm",
        "use torch.cuda.get_device_properties": "CudaEnvironment",
        "use importlib.reload": "hotreload_function",
    },
}

ADVICE: dict[str, str] = {
    f"{module}.{name}": advice
    for module, offers in _NAMES.items()
    for advice, names in offers.items()
    for name in names.split()
}
_OPTIONS: dict[str, str] = {  # functions of fairseq.options that belong to one command
    "get_eval_lm_parser": _LANGUAGE,
    "get_generation_parser": "use fairseq-infer, or fairseq.inference in Python",
    "get_interactive_generation_parser": "use fairseq-transcribe, or fairseq.transcribe in Python",
    "get_preprocessing_parser": "use the commands fairseq-manifest, fairseq-libri-labels, fairseq-prepare-labels",
    "get_speech_generation_parser": _SYNTHESIS,
    "get_training_parser": "use fairseq-hydra-train",
    "get_validation_parser": "use fairseq-validate",
}
ADVICE.update({f"fairseq.options.{name}": advice for name, advice in _OPTIONS.items()})


def sentence(name: str) -> str | None:
    """The message for a full name of fairseq that is not offered here; None for every other name."""
    advice = ADVICE.get(name) or EMPTY_MODULES.get(name.rpartition(".")[0])
    if advice is None:
        return None
    return f"{name} is not offered here: {advice}."
