# SPDX-License-Identifier: Apache-2.0
"""The options that reading a request needs.

The server's own configuration is another matter; these objects are made by hand, for `djl_python.input_parser`.
"""

from typing import Any

_FLAGS = ("enable_lora", "tgi_compat", "bedrock_compat")


class Properties:
    """A model's options by their names without `option.`, as attributes; any name may be given.

    Attributes:
        model_id: the model.
        output_formatter: the name of a format, or a function, for requests that name none.
        enable_lora: requests can name adapters.
        tgi_compat: answers look as TGI's do.
        bedrock_compat: requests can be Bedrock's.
    """

    output_formatter: Any = None
    enable_lora = False
    tgi_compat = False
    bedrock_compat = False

    def __init__(self, model_id: str, **options: Any):
        self.model_id = model_id
        for name, value in options.items():
            setattr(self, name, str(value).lower() == "true" if name in _FLAGS else value)
