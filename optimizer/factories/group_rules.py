"""Rules about parameters by name: the names that they match, and the options that they change."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from ..config.fields import NonNegativeNumber
from ..config.messages import nearest
from ..config.validation import Config

_MOST_NAMES = 20


class GroupRule(Config):
    """The names of some parameters, and the options that are different for them: any of the optimizer's."""

    model_config = ConfigDict(extra="allow")

    match: list[str] = Field(default_factory=list)
    """Names with * and ?, as in "encoder.*.bias"; one or a list."""
    regex: str | None = None
    """Or a regular expression that is found somewhere in the name."""
    lr: NonNegativeNumber | None = None
    """The lr of these parameters, in place of the optimizer's."""
    lr_multiplier: NonNegativeNumber = 1.0
    """Factor on the lr."""

    @field_validator("match", mode="before", json_schema_input_type=str | list[str])
    @classmethod
    def _read_match(cls, match: object) -> object:
        return [match] if isinstance(match, str) else match

    @field_validator("regex")
    @classmethod
    def _check_regex(cls, regex: str | None) -> str | None:
        try:
            re.compile(regex or "")
        except re.error as problem:
            raise ValueError(f"is not a regular expression: {problem}; got {regex!r}") from None
        return regex

    @model_validator(mode="after")
    def _check_match_or_regex(self) -> Self:
        if bool(self.match) == (self.regex is not None):
            self.refuse("match", f"give match or regex, one of them; got {self.match} and {self.regex}")
        return self

    @property
    def options(self) -> dict[str, object]:
        """The options that are different, without `lr_multiplier`."""
        return {**(self.model_extra or {}), **({} if self.lr is None else {"lr": self.lr})}

    def matches(self, name: str) -> bool:
        """Return whether the rule applies to the parameter of this name."""
        if self.regex is not None:
            return re.search(self.regex, name) is not None
        return any(fnmatchcase(name, pattern) for pattern in self.match)

    def text(self) -> str:
        """Return the patterns for a message."""
        return f"regex {self.regex!r}" if self.regex is not None else " or ".join(map(repr, self.match))


def matching_names(names: Sequence[str], patterns: Sequence[str], path: str) -> set[str]:
    """Return those of `names` that match one of `patterns`, names with * and ?.

    Raises:
        ValueError: A pattern matches no name. The message begins with `path`.
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            raise no_match(path, repr(pattern), names)
        found |= matched
    return found


def no_match(path: str, patterns: str, names: Sequence[str]) -> ValueError:
    """Return the error that `patterns`, as a message shows them, match none of `names`."""
    shown = ", ".join(names[:_MOST_NAMES])
    more = f" … ({len(names)} in all)" if len(names) > _MOST_NAMES else ""
    suggestion = nearest(patterns.strip("'"), names)
    return ValueError(f"{path}: no parameter's name matches {patterns}{suggestion} Names: {shown}{more}")
