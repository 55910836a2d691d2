# SPDX-License-Identifier: Apache-2.0
"""The pydantic classes behind `chat_properties`; importing this module loads pydantic."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator


class TextInput(BaseModel):
    """A piece of text in a message."""

    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    """Where an image is."""

    url: str
    detail: str | None = "auto"


class ImageInput(BaseModel):
    """An image in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


_Part = Annotated[TextInput | ImageInput, Field(discriminator="type")]


class Message(BaseModel):
    """One message of a conversation."""

    role: str
    content: str | list[_Part] | None = None

    def get_tokenizer_inputs(self, image_token: str = "<image>") -> dict[str, str]:
        """The message for a chat template: its pieces on a line each, with a mark in place of an image."""
        content = self.content or ""
        if isinstance(content, list):
            content = "\n".join(part.text if isinstance(part, TextInput) else image_token for part in content)
        return {"role": self.role, "content": content}

    def get_images(self) -> list[Any]:
        """The message's images, in order, as Pillow images; those behind an address are downloaded."""
        from djl_python.multimodal.utils import fetch_image

        parts = self.content if isinstance(self.content, list) else []
        return [fetch_image(part.image_url.url) for part in parts if isinstance(part, ImageInput)]


class ChatProperties(BaseModel):
    """A chat request; dumped by alias, its names are those that LMI generates with."""

    messages: list[Message]
    model: str | None = None
    frequency_penalty: float | None = Field(default=0.0, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    logprobs: bool | None = Field(default=False, exclude=True)
    top_logprobs: int | None = Field(default=None, ge=0, le=20, serialization_alias="logprobs")
    max_tokens: int | None = Field(default=None, serialization_alias="max_new_tokens")
    n: int | None = 1
    presence_penalty: float | None = Field(default=0.0, ge=-2, le=2)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    temperature: float | None = Field(default=1.0, ge=0, le=2)
    top_p: float | None = 1.0
    user: str | None = None
    ignore_eos: bool | None = False

    @model_validator(mode="after")
    def _no_logprobs_unless_asked(self) -> "ChatProperties":
        if not self.logprobs:
            self.top_logprobs = None
        return self
