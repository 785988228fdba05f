"""SIGKILLs in the middle of an asynchronous save: is the last good checkpoint used, and the end that of an unbroken run?

    python -m tests.drills.async_kills [--tries N] [--seed S] [--setups NAME ...]

As `tests.drills.kills --writing`, with `checkpoint.async_save=true` and a disk so slow that a write lasts several
updates. The kill comes at a random moment of a write, while training continues.
"""

from __future__ import annotations

from tests.drills.kills import SLOW_DISK, STORE, TWO, Setup, drill, parser_of

ASYNC = ("checkpoint.async_save=true", f"common.user_dir=CORPUS/{SLOW_DISK}")
SHARDED = "distributed_training.ddp_backend=fully_sharded"
SETUPS = {
    "plain": Setup("pretraining", ASYNC),
    "ema": Setup(
        "pretraining",
        (
            *ASYNC,
            "ema.store_ema=true",
            "ema.ema_decay=0.9",
            "optimization.update_freq=[2]",
            "optimization.max_update=8",
        ),
    ),
    "finetuning": Setup("finetuning", ASYNC),
    "spawn": Setup("pretraining", (*ASYNC, TWO, "optimization.max_update=8")),
    "fully_sharded": Setup("pretraining", (*ASYNC, TWO, SHARDED, "optimization.max_update=8")),
    # a slow store instead of a slow disk
    "store": Setup("pretraining", (ASYNC[0], *STORE), store=True),
    "store-sharded": Setup("pretraining", (ASYNC[0], *STORE, TWO, SHARDED, "optimization.max_update=8"), store=True),
}


def main() -> None:
    arguments = parser_of(str(__doc__).splitlines()[0], SETUPS).parse_args()
    arguments.writing, arguments.signals = True, False
    drill("kills in an asynchronous save", arguments, SETUPS)


if __name__ == "__main__":
    main()
