"""Judges for cases about configs and command lines."""

from __future__ import annotations

from collections.abc import Iterator

from tests.drills.cases import Case, Ended, Finding, judges


def _refused(label: str, ended: Ended, *parts: str, without: str = "\0") -> Finding:
    """Pass if the command ended with a message that has these parts, without errors that follow from the mistake."""
    right = (
        ended.code == 1
        and not ended.has_traceback
        and all(part in ended.output for part in parts)
        and without not in ended.output
    )
    return Finding(label, right, ended.last_line.strip())


def _trained(label: str, ended: Ended, updates: int) -> Finding:
    right = ended.code == 0 and f"num_updates {updates} reached" in ended.output and "done training" in ended.output
    return Finding(label, right, f"status {ended.code}, {ended.last_line.strip()[-90:]}")


@judges("training/command-line")
def command_line(case: Case) -> Iterator[Finding]:
    common = case.cases / "training/common"
    data, mini = f"task.data={common / 'base'}", ("--config-dir", common, "--config-name", "mini")

    def typed(*words: str, **variables: str) -> Ended:
        return case.run("fairseq-hydra-train", *mini, data, *words, **variables)

    yield _refused(
        "--restore-file x.pt (the part `names`)", typed("--restore-file", "x.pt"), "checkpoint.restore_file=x.pt"
    )
    yield _refused("max_update=100", typed("max_update=100"), "optimization.max_update")
    yield _refused("optimization.batch_size=4", typed("optimization.batch_size=4"), "dataset.batch_size")
    shown = typed("optimization.max_update=1e6", "--cfg", "job", "--resolve", "--package", "optimization.max_update")
    yield Finding("optimization.max_update=1e6", shown.code == 0 and shown.last_line == "1000000", shown.last_line)
    yield _trained("dataset.max_tokens=1.28e5", typed("dataset.max_tokens=1.28e5"), 8)
    yield _refused(
        "dataset.batch_size=None", typed("dataset.batch_size=None"), "dataset.batch_size=null", without="neither"
    )
    yield _refused(
        "optimization.update_freq=[2",
        typed("optimization.update_freq=[2"),
        "A bracket is not closed",
        without="AnyNode",
    )
    yield _trained(
        "--config-name /abs/mini.yaml", case.run("fairseq-hydra-train", data, "--config-name", common / "mini.yaml"), 8
    )

    yield _trained(
        "own: optimization.max_update=4e0", typed("optimization.max_update=4e0", "checkpoint.save_dir=own1"), 4
    )
    yield _refused(
        "own: a fraction, without follow-on",
        typed("optimization.max_update=2.5"),
        "a whole number",
        without="polynomial_decay",
    )
    reference = "optimization.max_update=${oc.env:STEPS}"
    yield _trained("own: ${oc.env:STEPS} with STEPS=2", typed(reference, "checkpoint.save_dir=own2", STEPS="2"), 2)
    yield _refused(
        "own: ${oc.env:STEPS} without STEPS",
        typed(reference),
        "the environment variable STEPS is not set",
        "1 problem:",
    )
    yield _refused(
        "own: model.encoder_layers=${model}",
        typed("model.encoder_layers=${model}"),
        "model.encoder_layers",
        "refers to itself",
    )
    yield _refused("own: task.multi_corpus_keys=/abs", typed("task.multi_corpus_keys=/abs"), "task.multi_corpus_keys")
    yield _refused("own: warmup_updates=3", typed("warmup_updates=3"), "'lr_scheduler.warmup_updates'")
    yield _refused(
        "own: --config-name minni", case.run("fairseq-hydra-train", data, *mini[:3], "minni"), "Did you mean 'mini'?"
    )
    levels = [
        f"{level}: &{level} [{','.join([f'*{below}'] * 9)}]"
        for below, level in zip("abcdefghijk", "bcdefghijkl", strict=True)
    ]
    (case.work / "bomb.yaml").write_text("\n".join(["a: &a [1,2,3,4,5,6,7,8,9]", *levels]))
    bomb = case.run("fairseq-hydra-train", "--config-name", "bomb", "--config-dir", ".")
    yield _refused("own: nested aliases", bomb, "bomb.yaml", "aliases")


@judges("downstream/groups")
def groups_of_ones_own(case: Case) -> Iterator[Finding]:
    def layers(*words: str) -> Finding:
        ended = case.run(
            "fairseq-hydra-train",
            "--config-dir",
            case.folder,
            *words,
            "--cfg",
            "job",
            "--package",
            "model.encoder_layers",
        )
        return Finding(
            " ".join(words), ended.code == 0 and ended.last_line == "3", f"encoder_layers: {ended.last_line}"
        )

    yield layers("--config-name", "top", "+mygroup=small")
    yield layers("--config-name", "top", "mygroup=small")._replace(label="own: without the plus")
    (case.folder / "run_config").mkdir()
    (case.folder / "run_config/slurm_1.yaml").write_text(
        "# @package _global_\nhydra: {launcher: {partition: devlab, name: '${env:PREFIX}_x'}, sweep: {subdir: ''}}\n"
        "model: {encoder_layers: 3}\n"
    )
    launcher = "hydra/launcher=dependency_submitit_slurm"
    yield layers("--config-name", "top", "+run_config=slurm_1", launcher)._replace(label="own: +run_config=slurm_1")
    ended = case.run("fairseq-hydra-train", "--config-name", "wav2vec2_base_librispeech", "+run_config=slurm_1")
    yield _refused("own: +run_config without its folder", ended, "No config folder has run_config/slurm_1.yaml")


@judges("using/wer_args")
def wer_args(case: Case) -> Iterator[Finding]:
    def fine_tune(value: str) -> Ended:
        source = case.shared / "reference/checkpoints/fairseq_pretrained_tiny.pt"
        return case.run(
            "fairseq-hydra-train",
            f"task.data={case.cases / 'using/data/ft_ok'}",
            f"model.w2v_path={source}",
            "--config-dir",
            case.tree / "examples/wav2vec/config/finetuning",
            "--config-name",
            "base_10h",
            "distributed_training.distributed_world_size=1",
            f"+criterion.wer_args={value}",
        )

    ended = fine_tune("[/path/to/kenlm,/path/to/lexicon,2,-1]")
    yield _refused(
        "", ended, "criterion.wer_args names /path/to/kenlm and /path/to/lexicon: validation decodes greedily"
    )
    yield _refused(
        "own: a tuple as text", fine_tune("('/lm',null,2,-1)".replace("null", "None")), "criterion.wer_args names /lm"
    )
    yield _refused(
        "own: three values",
        fine_tune("[/lm,/lexicon,2]"),
        "criterion.wer_args is",
        "it must be a list of language model",
    )
