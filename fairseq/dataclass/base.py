"""The base of all config dataclasses."""

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, fields
from typing import Any, Optional

from fairseq.dataclass.findings import Finding


class ConfigError(ValueError):
    """Everything that is wrong with a config, a line each, so that one more try is enough."""

    def __init__(self, problems: list[str]) -> None:
        number = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"the config has {number}:\n" + "\n".join(f"  - {problem}" for problem in problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type, tuple[object]]:
        return ConfigError, (self.problems,)  # a spawned process sends its errors pickled


class RunError(ConfigError):
    """What ended a run that had begun, as the sentence that the user reads: no traceback would add to it."""

    def __init__(self, sentence: str) -> None:
        ValueError.__init__(self, sentence)
        self.problems = [sentence]

    def __reduce__(self) -> tuple[type, tuple[object]]:
        return RunError, (self.problems[0],)


@dataclass
class FairseqDataclass:
    """A group of config fields. `_name` says which registered class the group configures (None for groups that have
    only one).

    A field's metadata may limit its value: `at_least` (a number), `share` (True: from 0 to 1), `choices` (texts);
    `refused` (True) is for a field of not_offered.py that constructors refuse as well.
    """

    _name: Optional[str] = None

    @staticmethod
    def name() -> Optional[str]:
        """The name that a plug-in's dataclass gives itself, where it overrides this."""
        return None

    def check(self) -> Iterable[Finding]:
        """What is wrong or odd between the fields of this group, wherever it is used.

        A subclass yields `fairseq.dataclass.wrong(text)` and `odd(text)`; a text names its keys as `group.field`. The
        values are plain, of the fields' types, and within the limits that the metadata sets or not.
        """
        return ()

    def check_files(self) -> Iterable[Finding]:
        """The same about files and folders, before a run; not asked of a config that comes out of a checkpoint."""
        return ()

    @classmethod
    def field_defaults(cls) -> dict[str, Any]:
        """Name -> default of every field but `_name`, in order; factories are called."""
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
        """An instance with the fields that old command-line arguments (or any dict) name; the others keep their
        defaults.
        """
        values = args if isinstance(args, dict) else vars(args)
        config = cls()
        for f in fields(cls):
            if f.name != "_name" and f.name in values:
                setattr(config, f.name, values[f.name])
        return config
