"""The parameters of a request as the record gives them back."""

from collections.abc import Mapping
from typing import Any

from oyer.tasks.judging.request_record import Parameters, parameters_text, read_parameters
from oyer.tasks.judging.requests import JudgeRequest


def parameters_of(job: JudgeRequest, sent: Mapping[str, Any] | None = None) -> Parameters:
    read = read_parameters(parameters_text(job, sent))
    assert isinstance(read, Parameters), read
    return read
