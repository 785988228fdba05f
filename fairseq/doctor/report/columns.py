"""What the values of a run's rows mean: titles, units, and the section of the report that shows them."""

from __future__ import annotations

from typing import NamedTuple

LEARNING, CODEBOOK, OPTIMIZATION, SPEED, MEMORY, OTHER = (
    "Learning",
    "Codebook",
    "Optimization",
    "Speed",
    "Memory and graphs",
    "Other values",
)
SECTIONS = (LEARNING, CODEBOOK, OPTIMIZATION, SPEED, MEMORY, OTHER)


class Column(NamedTuple):
    """A value of a run's rows.

    Args:
        name: as in metrics.jsonl.
        about: a sentence, for the plot's summary.
    """

    name: str
    title: str
    unit: str
    section: str
    about: str = ""
    log: bool = False


COLUMNS = (
    Column("loss", "Loss", "loss", LEARNING, "All parts of the loss together.", log=True),
    Column("loss_0", "Contrastive loss", "bits", LEARNING, "log2(101) = 6.658 bits is chance with 100 negatives."),
    Column("accuracy", "Accuracy", "share", LEARNING, "Share of masked frames whose codeword is found."),
    Column("nll_loss", "Loss per symbol", "bits", LEARNING, "CTC loss per symbol of the references.", log=True),
    Column("wer", "Word error rate", "%", LEARNING, "Word errors of the best symbols of each frame."),
    Column("uer", "Symbol error rate", "%", LEARNING, "Errors in symbols, such as letters."),
    Column("symbols_used", "Symbols used", "symbols", LEARNING, "Different symbols in the hypotheses."),
    Column("blank_share", "Blanks", "% of frames", LEARNING, "Frames whose best symbol is the blank."),
    Column("loss_1", "Diversity loss", "loss", LEARNING, "0 means that all codewords are used equally.", log=True),
    Column("loss_2", "Feature penalty", "loss", LEARNING, "Mean square of the features, weighted.", log=True),
    Column("code_perplexity", "Codewords in use", "perplexity", CODEBOOK, "Perplexity of the codewords chosen."),
    Column("prob_perplexity", "Codewords, soft", "perplexity", CODEBOOK, "Perplexity of the mean probabilities."),
    Column("temp", "Gumbel temperature", "temperature", CODEBOOK, "It falls from the first to the second value."),
    Column("logit_temp", "Logit temperature", "temperature", CODEBOOK),
    Column("lr", "Learning rate", "learning rate", OPTIMIZATION, "It rises in the warm-up, then falls.", log=True),
    Column("gnorm", "Gradient norm", "norm", OPTIMIZATION, "Before clipping.", log=True),
    Column("clip", "Clipped updates", "%", OPTIMIZATION, "Share of updates whose gradient was clipped."),
    Column("loss_scale", "Loss scale", "factor", OPTIMIZATION, "fp16: it halves at each overflow.", log=True),
    Column("skipped", "Skipped updates", "updates", OPTIMIZATION, "Updates that were skipped so far."),
    Column("masked_share", "Masked frames", "% of frames", OPTIMIZATION, "Share of the real frames that are masked."),
    Column("few_masked", "Rows with few masks", "rows", OPTIMIZATION),
    Column("audio_s_per_s", "Audio per second", "s of audio per s", SPEED, "Seconds of audio trained on per second."),
    Column("audio_s_per_update", "Audio per update", "s of audio", SPEED, "Seconds of audio in an update."),
    Column("ups", "Updates per second", "updates per s", SPEED),
    Column("wps", "Frames or symbols per second", "per s", SPEED, "What the loss counts, per second."),
    Column("data_wait", "Waiting for data", "% of the time", SPEED),
    Column("padding", "Padding", "% of the samples", SPEED, "Share of the samples sent that are padding."),
    Column("rank_wait", "Waiting for the slowest process", "% of the time", SPEED),
    Column("bsz", "Utterances per update", "utterances", SPEED),
    Column("host_gb", "Memory of the host", "GB", MEMORY, "Main process and its workers."),
    Column("device_gb", "Memory of the device", "GB", MEMORY, "The most that was allocated."),
    Column("graphs", "Graphs compiled", "graphs", MEMORY, "So far; it should stop rising."),
    Column("cpu_fallbacks", "Operators run on the CPU", "calls", MEMORY, "So far."),
)
NAMED = {column.name: column for column in COLUMNS}
# shares of the wall time, from the bottom of their plot to its top
TIMES = {
    "time_forward": "forward",
    "time_backward": "backward",
    "time_exchange": "exchange",
    "time_optimizer": "optimizer",
    "data_wait": "waiting for data",
    "time_validate": "validation",
    "time_save": "saving",
}
NOT_SHOWN = frozenset(
    {"split", "num_updates", "epoch", "wall", "train_wall", "ntokens", "nsentences", "wpb", "slowest_rank", *TIMES}
) - {"data_wait"}
