"""open-instruct: a verifier that asks `oyer serve`; `OYER_URL` names it.

Import this module before `build_all_verifiers` runs, and give the data set's rows the verifier `oyer`
(`--remap_verifier general=oyer` replaces the built-in judge's).

open-instruct does not say which predictions were cut: length methods need `truncated: as_is`.
"""

import json
import os
from typing import Any
from urllib.request import Request, urlopen

from open_instruct.ground_truth_utils import (  # type: ignore[import-not-found]
    VerificationResult,
    VerifierConfig,
    VerifierFunction,
)


class OyerVerifier(VerifierFunction):
    """Scores one prediction; its reward is the judges' and the length terms'."""

    def __init__(self, verifier_config: VerifierConfig | None = None) -> None:
        super().__init__("oyer", verifier_config=verifier_config, weight=1.0)

    def __call__(
        self,
        tokenized_prediction: list[int],
        prediction: str,
        label: Any,
        query: str | None = None,
        rollout_state: Any = None,
    ) -> VerificationResult:
        """Score a prediction; open-instruct calls this in threads, by `async_call`.

        Raises:
            RuntimeError: there is no score, and open-instruct would train on a number.
        """
        rollout = {
            "prompt": query or "",
            "response": prediction,
            "response_tokens": len(tokenized_prediction),
            "reference": None if label is None else str(label) or None,
        }
        answer = _scored({"rollouts": [rollout]})
        (reward,) = answer["rewards"]
        if reward is None:
            raise RuntimeError(f"no score: {answer['errors']}")
        return VerificationResult(score=reward)


def _scored(body: dict[str, Any]) -> Any:
    url, headers = os.environ["OYER_URL"] + "/v1/score", {"Content-Type": "application/json"}
    with urlopen(Request(url, json.dumps(body).encode(), headers), timeout=300) as response:
        return json.load(response)
