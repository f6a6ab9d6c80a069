"""Choices: parameters of a search that are no numbers, beside the block weights of the same study."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, field_validator

from scoring.errors import InputError

Choices = dict[str, str]
"""Name of a choice, such as `text_encoder` -> the option taken; {} in a search without choices."""

TEXT_ENCODER = "text_encoder"
OF_A, OF_B, UNIFORM = "a", "b", "uniform"
OF_PARENTS = (OF_A, OF_B, UNIFORM)
"""Options that name no model: those of A and B, and the mean of both."""


class ChoiceSettings(BaseModel):
    """What a search chooses among, each with its options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text_encoder: list[str] | None = Field(
        default=None,
        description="Text encoders that a merge may be rendered and written with: a, b (those of A and B), "
        "uniform (the mean of both), and names of models: [a, b, uniform, other]. A's, if not given.",
    )

    @field_validator("text_encoder")
    @classmethod
    def _several(cls, options: list[str] | None) -> list[str] | None:
        for place, option in enumerate(options or ()):
            if option in (options or ())[:place]:
                raise InputError(f"{option!r} is named twice; name it once")
        if options is not None and len(options) < 2:
            raise InputError(
                f"{', '.join(options) or 'nothing'} alone is no choice; name two or more, or take the text "
                "encoder of all leaves with `components`"
            )
        return options

    @property
    def options(self) -> dict[str, list[str]]:
        """Name of a choice -> what it is among; {} where there is nothing to choose."""
        return {} if self.text_encoder is None else {TEXT_ENCODER: self.text_encoder}

    @property
    def options_of_trials(self) -> dict[str, list[str]]:
        """What a trial may have: the options, and what the baselines have."""
        return {name: list(dict.fromkeys((*OF_PARENTS, *among))) for name, among in self.options.items()}

    def contain(self, choices: Mapping[str, str]) -> bool:
        """Whether a search may take these."""
        return all(choices.get(name) in among for name, among in self.options.items())

    def nearest(self, choices: Mapping[str, str]) -> Choices:
        """These where a search may take them, and the first option in the place of others."""
        return {
            name: choices[name] if choices.get(name) in among else among[0]
            for name, among in self.options.items()
        }

    def of_parents(self, option: str) -> Choices:
        """Every choice as A, B or their uniform merge has it. option: one of OF_PARENTS."""
        return dict.fromkeys(self.options, option)
