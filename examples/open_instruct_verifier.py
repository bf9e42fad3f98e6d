"""open-instruct: a verifier that asks `oyer serve`; `OYER_URL` names it.

Import this module before `build_all_verifiers` runs, and give the data set's rows the verifier `oyer`
(`--remap_verifier general=oyer` replaces the built-in judge's).
"""

import os

import httpx
from open_instruct.ground_truth_utils import VerificationResult, VerifierConfig, VerifierFunction


class OyerVerifier(VerifierFunction):
    """Scores one prediction; its reward is the judges' and the length terms'."""

    def __init__(self, verifier_config: VerifierConfig | None = None) -> None:
        super().__init__("oyer", verifier_config=verifier_config, weight=1.0)

    async def async_call(
        self, tokenized_prediction, prediction, label, query=None, rollout_state=None
    ) -> VerificationResult:
        """Raise if there is no score: open-instruct would train on a number."""
        rollout = {
            "prompt": query or "",
            "response": prediction,
            "response_tokens": len(tokenized_prediction),
            "reference": None if label is None else str(label),
        }
        url = os.environ["OYER_URL"] + "/v1/score"
        async with httpx.AsyncClient(timeout=300) as client:
            response = await client.post(url, json={"rollouts": [rollout]})
        response.raise_for_status()
        answer = response.json()
        (reward,) = answer["rewards"]
        if reward is None:
            raise RuntimeError(f"no score: {answer['errors']}")
        return VerificationResult(score=reward)

    def __call__(
        self, tokenized_prediction, prediction, label, query=None, rollout_state=None
    ) -> VerificationResult:
        """open-instruct awaits `async_call`."""
        raise NotImplementedError("use async_call")
