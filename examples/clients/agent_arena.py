# SPDX-License-Identifier: Apache-2.0
"""A game agent's backend as Agent Arena has it. `python agent_arena.py CONFIG.yaml [URL]`

It asks for native tool calls, and only if that fails for a JSON object in plain words.
"""

import json
import sys

import openai
import yaml

MOVE_TO = {
    "name": "move_to",
    "description": "Moves the agent to coordinates.",
    "parameters": {
        "type": "object",
        "properties": {"target": {"type": "array", "items": {"enum": [0, 5, 10]}, "minItems": 3, "maxItems": 3}},
        "required": ["target"],
        "additionalProperties": False,
    },
}


class Backend:
    """A model behind OpenAI's API, with the settings of the configuration's block `backend`."""

    def __init__(self, config: dict, base_url: str) -> None:
        self.config = config
        self.client = openai.OpenAI(base_url=base_url, api_key="EMPTY", max_retries=0)
        self.model = config["model"]

    def is_available(self) -> bool:
        """The server is there, and ready."""
        try:
            self.model = self.client.models.list().data[0].id
        except openai.APIError:
            return False
        return True

    def generate(self, prompt: str, **parameters: object) -> openai.types.Completion:
        """The model's text for a prompt."""
        sampling = {name: self.config[name] for name in ("temperature", "top_p", "max_tokens")}
        return self.client.completions.create(
            model=self.model, prompt=prompt, extra_body={"top_k": 40}, **sampling | parameters
        )

    def generate_with_tools(self, prompt: str, tools: list[dict]) -> tuple[str, dict | str, dict | None]:
        """Which way it went, and the name and arguments of the tool to use, or a text and None."""
        try:
            answer = self.client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": prompt}],
                tools=[{"type": "function", "function": tool} for tool in tools],
                tool_choice="auto",
                temperature=self.config["temperature"],
                max_tokens=self.config["max_tokens"],
            )
            message = answer.choices[0].message
            if not message.tool_calls:
                return "native", message.content, None
            call = message.tool_calls[0].function
            return "native", call.name, json.loads(call.arguments)
        except (openai.APIError, json.JSONDecodeError):
            asked = f'{prompt}\nTools: {json.dumps(tools)}\nAnswer with a JSON object {{"tool": ..., "params": ...}}.'
            return "fallback", self.generate(asked, max_tokens=64).choices[0].text, None


with open(sys.argv[1], encoding="utf-8") as file:
    settings = yaml.safe_load(file)["backend"]
backend = Backend(settings, f"{sys.argv[2]}/v1" if sys.argv[2:] else settings["api_base"])
is_available = backend.is_available()
print("available:", is_available)
if not is_available:
    sys.exit()
completion = backend.generate("What is LoRA?")
print("text:", completion.choices[0].text, completion.choices[0].finish_reason, completion.usage.total_tokens)
print("tools:", *backend.generate_with_tools("Who are you?", [MOVE_TO]))
print("tools in words:", backend.generate_with_tools("Who are you?", [MOVE_TO | {"parameters": "x, y, z"}])[0])
