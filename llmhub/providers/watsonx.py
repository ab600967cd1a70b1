"""IBM watsonx.ai: the OpenAI-compatible endpoint of its model gateway, in Dallas.

Other regions have addresses of their own, which go into ``base_url``. The key is an IAM bearer token, which expires
after an hour. No price table of it is known.

Source: https://www.ibm.com/docs/en/watsonx/saas?topic=generation-inferencing-gateway-models (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.providers.openai_compatible import openai_compatible

ENTRIES: Final = (
    openai_compatible(
        "watsonx",
        "https://us-south.ml.cloud.ibm.com/ml/gateway/v1",
        "WATSONX_TOKEN",
        environment_variables=(("api_key", "WATSONX_TOKEN"), ("base_url", "WATSONX_GATEWAY_URL")),
    ),
)
