"""Makes rollouts of the rows of a call of TRL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oyer.manager.adapters import NeededFields, as_number, response_of
from oyer.manager.trl.columns import (
    Texts,
    metadata_rows,
    own_token_ids,
    row_columns,
    tools_of,
    truncated_rows,
)
from oyer.manager.trl.groups import RowGroups
from oyer.protocol.content import as_messages, reference_text
from oyer.protocol.errors import InvalidConfig
from oyer.protocol.rollout import Rollout


@dataclass(frozen=True)
class RowReader:
    """What is read of each row."""

    needed: NeededFields
    reference: str | None
    """The column with the reference answer."""
    eos_token_ids: frozenset[int]
    """End and padding tokens where no trainer is known."""

    def rollouts(
        self,
        prompts: Texts,
        completions: Texts,
        bases: Sequence[float | None],
        columns: Mapping[str, Any],
        groups: RowGroups,
    ) -> list[Rollout]:
        """Return the rows as rollouts.

        Raises:
            InvalidConfig: the configuration reads which rows were truncated, and that is not known.
        """
        count, images = len(prompts), self.needed.images
        truncated = truncated_rows(columns, count, self.eos_token_ids)
        if truncated is None and self.needed.truncated:
            raise InvalidConfig(
                "length: the configuration reads which rollouts hit the length limit, and no trainer"
                " says it here; pass eos_token_ids=[…] (end and padding tokens) and completion_ids"
            )
        references = columns.get(self.reference) if self.reference else None
        metadata = self._metadata(columns, count)
        tools = tools_of(columns, count)
        ids = [own_token_ids(columns, completions, i) for i in range(count)]
        return [
            Rollout(
                prompt=as_messages(prompts[i], images=images),
                response=response_of(completions[i], images=images),
                group_id=groups.ids[i],
                base_score=as_number(bases[i]),
                response_tokens=None if (own := ids[i]) is None else len(own),
                token_ids=ids[i],
                truncated=truncated is not None and truncated[i],
                reference=None if references is None else reference_text(references[i]),
                tools=tools[i],
                metadata=metadata[i],
            )
            for i in range(count)
        ]

    def _metadata(self, columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
        """Return the row's own small values, and what judges and length methods read."""
        return [
            row | self.needed.metadata_of(values)
            for row, values in zip(
                metadata_rows(columns, count, self.reference),
                row_columns(columns, count),
                strict=True,
            )
        ]
