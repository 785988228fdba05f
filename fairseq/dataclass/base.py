"""The base of all config dataclasses."""

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, fields
from typing import Any, Optional

from fairseq.dataclass.findings import Finding


class ConfigError(ValueError):
    """All problems of a config, one per line, so that the user can fix them in one go."""

    def __init__(self, problems: list[str]) -> None:
        number = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"the config has {number}:\n" + "\n".join(f"  - {problem}" for problem in problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type, tuple[object]]:
        return ConfigError, (self.problems,)  # a spawned process sends its errors pickled


class RunError(ConfigError):
    """An error that ends a run after it started; the user sees this sentence, without a traceback."""

    def __init__(self, sentence: str) -> None:
        ValueError.__init__(self, sentence)
        self.problems = [sentence]

    def __reduce__(self) -> tuple[type, tuple[object]]:
        return RunError, (self.problems[0],)


@dataclass
class FairseqDataclass:
    """A group of config fields. `_name` is the registered class that the group configures (None if it has only one).

    A field's metadata may limit its value: `at_least` (a number), `share` (True: from 0 to 1), `choices` (texts);
    `refused` (True) marks a field of not_offered.py that constructors refuse too.
    """

    _name: Optional[str] = None

    @staticmethod
    def name() -> Optional[str]:
        """The name of a plug-in's dataclass, if it overrides this."""
        return None

    @staticmethod
    def only_opens() -> Optional[str]:
        """What to do instead of training with this group, if it only exists to open files; None: it trains."""
        return None

    def check(self) -> Iterable[Finding]:
        """Yield errors and warnings about the fields of this group.

        A subclass yields `fairseq.dataclass.wrong(text)` and `odd(text)`; a text names its keys as `group.field`. The
        values are plain and have the fields' types, but may be outside the limits in the metadata.
        """
        return ()

    def check_files(self) -> Iterable[Finding]:
        """Yield errors and warnings about files and folders; not called for a checkpoint's config."""
        return ()

    @classmethod
    def field_defaults(cls) -> dict[str, Any]:
        """Name -> default of every field except `_name`, in order; factories are called."""
        found = {}
        for f in fields(cls):
            if f.name != "_name":
                found[f.name] = f.default_factory() if f.default_factory is not NO_DEFAULT else f.default
        return found

    def _get_all_attributes(self) -> list[str]:
        return [f.name for f in fields(self)]

    def _get_default(self, attribute: str) -> Any:
        return self.field_defaults()[attribute]

    def _get_help(self, attribute: str) -> Optional[str]:
        return self.__dataclass_fields__[attribute].metadata.get("help")

    @classmethod
    def from_namespace(cls, args: Namespace | dict[str, Any]) -> "FairseqDataclass":
        """An instance with the values of old command-line arguments (or any dict); other fields keep their defaults."""
        values = args if isinstance(args, dict) else vars(args)
        config = cls()
        for f in fields(cls):
            if f.name != "_name" and f.name in values:
                setattr(config, f.name, values[f.name])
        return config
