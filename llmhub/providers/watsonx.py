"""IBM watsonx.ai: the OpenAI-compatible endpoint of its model gateway, in Dallas.

Other regions have addresses of their own, which go into ``base_url``. The key is an IAM bearer token, which expires
after an hour.

Source: https://www.ibm.com/docs/en/watsonx/saas?topic=generation-inferencing-gateway-models (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing, PriceSheet, per_million

RATES: Final = {
    "bigscience/mt0-xxl-13b": per_million("1.908", "1.908"),
    "bigscience/mt0-xxl": per_million("1.908", "1.908"),
    "ibm/granite-4-h-small": per_million("0.0636", "0.265"),
    "meta-llama/llama-3-3-70b-instruct": per_million("0.7526", "0.7526"),
    "meta-llama/llama-4-maverick-17b": per_million("0.371", "1.484"),
    "meta-llama/llama-4-maverick-17b-128e-instruct-fp8": per_million("0.371", "1.484"),
    "mistralai/mistral-small-3-1-24b-instruct-2503": per_million("0.106", "0.318"),
    "openai/gpt-oss-120b": per_million("0.159", "0.636"),
}
"""Published prices in USD per million tokens.

Source: https://dataplatform.cloud.ibm.com/docs/content/wsj/analyze-data/fm-models.html?context=wx, as listed in
LiteLLM 1.110.2 (read 2026-11-30).
"""

ENTRIES: Final = (
    openai_compatible(
        "watsonx",
        "https://us-south.ml.cloud.ibm.com/ml/gateway/v1",
        "WATSONX_TOKEN",
        price_listing=PriceListing("watsonx", sheet=PriceSheet("2026-11-30", RATES)),
        environment_variables=(("api_key", "WATSONX_TOKEN"), ("base_url", "WATSONX_GATEWAY_URL")),
    ),
)
