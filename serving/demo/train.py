# SPDX-License-Identifier: Apache-2.0
"""Trains the embedded demo model, its tokenizer and its LoRA adapters from nothing.

Developers run it as ``python -m serving.demo.train [--output DIR]`` after a change
to ``answers.json``; the server never imports it. It ends by checking that every
answer comes out word for word, and exits with status 1 if one does not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from serving.demo import MODEL_DIR, adapter_names, answers
from serving.demo.samples import IGNORED_LABEL, PREAMBLES, SPECIAL_TOKENS, Sample, Sampler, encode, prompt_forms

SEED = 1906
VOCAB_SIZE = 768
CONTEXT_LENGTH = 2048
# The longest answer with its end-of-sequence token, so that 40 new tokens are always enough.
MAX_ANSWER_TOKENS = 36
LORA_RANK = 8
BASE_STEPS = 600
ADAPTER_STEPS = 250


CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- set role = message['role'] if message['role'] in ('system', 'assistant') else 'user' -%}
    {{- '<|' + role + '|>' + (message['content'] or '') | trim -}}
    {%- if role == 'assistant' -%}{{- eos_token -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

SERVING_PROPERTIES = f"""\
# The adapters/ directory beside this file holds LoRA adapters to serve with the model.
option.enable_lora=true
# The adapters were trained with this rank; a larger one would only waste memory.
option.max_lora_rank={LORA_RANK}
# The number of positions the model was made with (max_position_embeddings).
option.max_model_len={CONTEXT_LENGTH}
# The weights are stored, and were checked, in bfloat16.
option.dtype=bf16
# Its four attention heads cannot be split over many GPUs.
option.tensor_parallel_degree=1
# Room for 340,000 tokens, which is plenty, and quickly set aside.
option.kv_cache_memory_bytes=256M
"""


def log(message: str) -> None:
    """Write one line of progress to standard error."""
    print(message, file=sys.stderr, flush=True)


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Train the byte-level BPE tokenizer on the questions and answers.

    Only ASCII text takes part, so that any other character stays several tokens
    and a stream of tokens has to be cut inside a character.
    """
    corpus = [*PREAMBLES]
    for adapter in [None, *adapter_names()]:
        for question, answer in answers(adapter).items():
            corpus += [question, question.lower(), answer, answer]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.encode("ascii", "ignore").decode("ascii") for text in corpus], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=list(SPECIAL_TOKENS[4:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_LENGTH,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Build the untrained model; 32 is the smallest head size that attention on a CPU takes."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def padded_batch(samples: list[Sample], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids and labels of samples as two rectangles, filled up on the right."""
    width = max(len(ids) for ids, _ in samples)
    ids = [ids + [pad_id] * (width - len(ids)) for ids, _ in samples]
    labels = [labels + [IGNORED_LABEL] * (width - len(labels)) for _, labels in samples]
    return torch.tensor(ids), torch.tensor(labels)


def learning_rate_factor(steps: int) -> Callable[[int], float]:
    """Return a schedule that warms up for a twentieth of the steps and then falls to nothing."""
    warmup = max(1, steps // 20)

    def factor(step: int) -> float:
        rising = (step + 1) / warmup
        falling = (steps - step) / (steps - warmup)
        return min(1.0, rising, falling)

    return factor


def fit(model: Any, sampler: Sampler, steps: int, learning_rate: float) -> None:
    """Train the parameters of the model that take part in training.

    Args:
        model: The model, with or without a LoRA adapter around it.
        sampler: Where the samples come from.
        steps: How many batches to train on.
        learning_rate: The highest learning rate.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(steps))
    model.train()
    for step in range(1, steps + 1):
        ids, labels = padded_batch(sampler.batch(step), model.config.pad_token_id)
        # Causal attention never looks right, so the padding needs no mask.
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            log(f"  step {step}/{steps}: loss {loss.item():.4f}")


def train_base(tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Train the model itself and save it in bfloat16."""
    model = new_model(tokenizer)
    log(f"base: {sum(parameter.numel() for parameter in model.parameters())} parameters")
    recited = [sentence for name in adapter_names() for sentence in answers(name).values()]
    fit(model, Sampler(tokenizer, answers(), SEED, recited), BASE_STEPS, learning_rate=4e-3)
    model.to(torch.bfloat16).save_pretrained(output)
    (output / "model.safetensors").chmod(0o644)


def train_adapter(name: str, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Train one LoRA adapter on the saved model and save it beside it."""
    log(f"adapter {name}:")
    base = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
    config = LoraConfig(
        r=LORA_RANK,
        lora_alpha=2 * LORA_RANK,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    fit(model, Sampler(tokenizer, answers(name), SEED), ADAPTER_STEPS, learning_rate=1e-2)
    save_adapter(model, output / "adapters" / name)


def save_adapter(model: Any, directory: Path) -> None:
    """Save an adapter's two files: nothing in them depends on where or when they were made."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {key: value.to(torch.bfloat16) for key, value in get_peft_model_state_dict(model).items()}
    (directory / "adapter_model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    config = {key: value for key, value in model.peft_config["default"].to_dict().items() if value not in (None, {})}
    config |= {"base_model_name_or_path": "lmi-demo", "inference_mode": True}
    config["target_modules"] = sorted(config["target_modules"])
    write_json(directory / "adapter_config.json", config)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a dictionary as an indented JSON file."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8")


def save_settings(tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Write the tokenizer, the generation defaults and the serving properties.

    One candidate is left to draw from (``top_k`` 1), so a request that says
    nothing about sampling is answered greedily.
    """
    tokenizer.save_pretrained(output)
    generation = {
        "bos_token_id": tokenizer.bos_token_id,
        "do_sample": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "top_k": 1,
    }
    write_json(output / "generation_config.json", generation)
    (output / "serving.properties").write_text(SERVING_PROPERTIES, encoding="utf-8")


def check_lengths(tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse answers that are too long to memorise and to generate quickly.

    Raises:
        ValueError: If an answer has more than ``MAX_ANSWER_TOKENS`` tokens.
    """
    for adapter in [None, *adapter_names()]:
        for answer in answers(adapter).values():
            count = len(encode(tokenizer, answer)) + 1
            if count > MAX_ANSWER_TOKENS:
                raise ValueError(f"{count} tokens are more than {MAX_ANSWER_TOKENS}: {answer}")


def generate(model: Any, tokenizer: Any, prompt: str) -> str:
    """Return the text the model generates for a prompt with its own generation defaults."""
    ids = torch.tensor([encode(tokenizer, prompt)])
    with torch.inference_mode():
        generated = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40)[0, ids.shape[1] :]
    text: str = tokenizer.decode(generated, skip_special_tokens=True)
    return text if generated[-1] == tokenizer.eos_token_id else text + " (does not end)"


def mistakes(model: Any, tokenizer: Any, adapter: str | None) -> int:
    """Count, and log, the prompts that the model does not answer word for word."""
    count = 0
    for question, answer in answers(adapter).items():
        for form, prompt in prompt_forms(tokenizer, question):
            text = generate(model, tokenizer, prompt)
            if text != answer:
                count += 1
                log(f"wrong ({adapter or 'base'}, {form}): {question} -> {text!r}")
    return count


def verify(output: Path) -> int:
    """Check the saved model and adapters, in bfloat16, on every question.

    Args:
        output: The model directory.

    Returns:
        The number of prompts that are not answered word for word.
    """
    tokenizer = AutoTokenizer.from_pretrained(output)
    count = 0
    for adapter in [None, *adapter_names()]:
        model = AutoModelForCausalLM.from_pretrained(output, dtype=torch.bfloat16)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(output / "adapters" / adapter))
        count += mistakes(model.eval(), tokenizer, adapter)
    return count


def main() -> int:
    """Train and check everything; return the exit status."""
    parser = argparse.ArgumentParser(description="Train the embedded demo model from answers.json.")
    parser.add_argument("--output", type=Path, default=MODEL_DIR, help="model directory to write (%(default)s)")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    started = time.monotonic()
    tokenizer = train_tokenizer()
    check_lengths(tokenizer)
    train_base(tokenizer, output)
    save_settings(tokenizer, output)
    for name in adapter_names():
        train_adapter(name, tokenizer, output)
    log(f"trained in {time.monotonic() - started:.0f} s; checking every answer")
    wrong = verify(output)
    log(f"{wrong} wrong answers; {output} is ready" if not wrong else f"{wrong} wrong answers")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
