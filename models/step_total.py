"""The table `step_totals`."""

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from oyer.models.base import Base

NO_STEP = -1
"""`step` of batches without a step, because key columns cannot be NULL."""


class StepTotal(Base):
    """Count, sum and sum of squares of one quantity over a run's ended batches of one step.

    Curves read these rows instead of millions of rewards. `tasks/rewards/totals.py` lists the
    quantities.
    """

    __tablename__ = "step_totals"
    __table_args__ = (
        {"comment": "Count, sum and sum of squares of one quantity by run, step and split."},
    )

    run_id: Mapped[int] = mapped_column(
        ForeignKey("runs.id"), primary_key=True, comment="The run, as `runs.id`."
    )
    step: Mapped[int] = mapped_column(
        primary_key=True, comment="Training step; -1 if the trainer gave none."
    )
    split: Mapped[str] = mapped_column(
        String(100), primary_key=True, comment="`batches.split`; empty if it is NULL."
    )
    name: Mapped[str] = mapped_column(
        String(200),
        primary_key=True,
        comment="`reward`, `component/NAME`, `status/STATUS`, `groups` (sum: those without spread),"
        " `cost_usd` (count: requests), `judge_ms` or `batch_s`.",
    )
    n: Mapped[int] = mapped_column(BigInteger, comment="Number of values.")
    total: Mapped[float] = mapped_column(comment="Sum of the values.")
    total_sq: Mapped[float] = mapped_column(comment="Sum of the squares of the values.")
