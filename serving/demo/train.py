# SPDX-License-Identifier: Apache-2.0
"""Trains the embedded demo model, its tokenizer and its LoRA adapters from nothing.

Developers run it as ``python -m serving.demo.train [--output DIR]`` after a change
to ``answers.json``; the server never imports it. It ends by checking that every
answer comes out word for word, and exits with status 1 if one does not.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from serving.demo import MODEL_DIR, adapter_names, answers

SEED = 1906
VOCAB_SIZE = 768
CONTEXT_LENGTH = 2048
# The longest answer with its end-of-sequence token, so that 40 new tokens are always enough.
MAX_ANSWER_TOKENS = 36
LORA_RANK = 8
BATCH_SIZE = 16
# Every fourth batch holds a few long samples instead, to learn to answer late in a long context.
LONG_BATCH_SIZE = 3
LONG_SAMPLE_TOKENS = 450
LONG_EVERY = 4
BASE_STEPS = 600
ADAPTER_STEPS = 250
IGNORED_LABEL = -100

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>")

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
# Room for 340,000 tokens, which is plenty, and quickly set aside.
option.kv_cache_memory_bytes=256M
"""

# Other ways to ask for "What is {topic}?"; {subject} is the topic without its article.
PHRASINGS = (
    "What is {topic}",
    "What's {topic}?",
    "what is {subject}",
    "What does {subject} mean?",
    "Explain {topic}.",
    "Explain {subject}",
    "Define {subject}.",
    "Tell me about {subject}.",
    "Can you explain what {topic} is?",
    "{subject}?",
    "{subject}",
)

ALIASES = {
    "What is TTFT?": "What is time to first token?",
    "What are LoRA adapters?": "What is LoRA?",
    "What is low-rank adaptation?": "What is LoRA?",
    "What is the KV cache?": "What is a KV cache?",
    "What are you?": "Who are you?",
}

# Answered like "Who are you?", which says what the model does know.
OFF_TOPIC = (
    "Hello",
    "Hello!",
    "Hi there.",
    "Help",
    "Good morning, how are you?",
    "What can you do?",
    "What is your name?",
    "What is the capital of France?",
    "The capital of France is",
    "What is Paris?",
    "What is a cat?",
    "What is the weather like today?",
    "What is music?",
    "What is 2 + 2?",
    "Who wrote Hamlet?",
    "Tell me a joke.",
    "Tell me a story about the sea.",
    "Once upon a time",
    "Write a poem about the moon.",
    "Write a function that adds two numbers.",
    "Count to ten.",
    "The quick brown fox",
    "Translate good night into French.",
    "Explain the theory of relativity.",
    "How do I bake bread?",
)

PREAMBLES = (
    "You are a helpful assistant.",
    "You are a concise assistant.",
    "Answer the question in one sentence.",
    "Answer briefly and truthfully.",
    "Be polite and clear.",
    "The user is an engineer who is new to the subject.",
    "If you do not know something, say so.",
    "Do not use lists or tables.",
    "Today is Monday and the office is open from nine to five.",
    "Please read the following text with care before you answer.",
)

Sample = tuple[list[int], list[int]]
Prompt = tuple[str, str]


def log(message: str) -> None:
    """Write one line of progress to standard error."""
    print(message, file=sys.stderr, flush=True)


def phrasings(question: str) -> list[str]:
    """Return other ways of putting a question: in other words, and in lower case."""
    variants = [question.removesuffix("?")]
    if question.startswith("What is "):
        topic = question.removeprefix("What is ").removesuffix("?")
        subject = topic.removeprefix("a ")
        variants += [phrasing.format(topic=topic, subject=subject) for phrasing in PHRASINGS]
    variants += [alias for alias, meaning in ALIASES.items() if meaning == question]
    lowered = [variant.lower() for variant in [question, *variants]]
    return list(dict.fromkeys([*variants, *lowered]))


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


class Sampler:
    """Draws training samples: a prompt in one of its many forms, then the answer."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, sentences: dict[str, str], recited: Sequence[str] = ()
    ) -> None:
        """Remember what to ask and to answer.

        Args:
            tokenizer: The tokenizer that encodes the samples.
            sentences: The answer to each question.
            recited: Sentences to learn without a question. The adapters cannot
                change the embeddings, so the model must learn their words too.
        """
        self.random = random.Random(SEED)
        self.tokenizer = tokenizer
        self.sentences = sentences
        self.recited = recited
        self.questions = list(sentences)
        self.phrasings = {question: phrasings(question) for question in sentences}
        self.phrasings["Who are you?"] += OFF_TOPIC

    def batch(self, step: int) -> list[Sample]:
        """Draw the samples of one step: many short ones or a few long ones."""
        if step % LONG_EVERY == 0:
            return [self.long_sample() for _ in range(LONG_BATCH_SIZE)]
        return [self.sample() for _ in range(BATCH_SIZE)]

    def long_sample(self) -> Sample:
        """Draw samples one after another, with unrelated tokens before each of them."""
        ids: list[int] = []
        labels: list[int] = []
        while len(ids) < LONG_SAMPLE_TOKENS:
            filler = self.filler()
            sample_ids, sample_labels = self.sample(most_answers=12)
            ids += filler + sample_ids
            labels += [IGNORED_LABEL] * len(filler) + sample_labels
        return ids, labels

    def filler(self) -> list[int]:
        """Draw up to 200 tokens that mean nothing, or a few sentences."""
        if self.random.random() < 0.3:
            return encode(self.tokenizer, self.preamble() + " ")
        ordinary = range(len(SPECIAL_TOKENS), len(self.tokenizer))
        return self.random.choices(ordinary, k=self.random.randint(0, 200))

    def sample(self, most_answers: int = 2) -> Sample:
        """Draw one sample.

        Args:
            most_answers: How many answers may follow the prompt.

        Returns:
            The token ids and the labels, which leave the prompt out.
        """
        if self.recited and self.random.random() < 0.2:
            prompt, answer = self.tokenizer.bos_token, self.random.choice(self.recited) + self.tokenizer.eos_token
        else:
            question = self.random.choice(self.questions)
            prompt, answer = self.prompt(self.wording(question)), self.endings(question, most_answers)
        prompt_ids, answer_ids = encode(self.tokenizer, prompt), encode(self.tokenizer, answer)
        return prompt_ids + answer_ids, [IGNORED_LABEL] * len(prompt_ids) + answer_ids

    def wording(self, question: str) -> str:
        """Draw the words of a question: the question itself half of the time."""
        return question if self.random.random() < 0.5 else self.random.choice(self.phrasings[question])

    def prompt(self, wording: str) -> str:
        """Draw the text around a question: a plain prompt or a chat, with or without what comes before."""
        draw = self.random.random()
        if draw < 0.25:
            return wording
        if draw < 0.30:
            return wording + self.random.choice(("\n", " ", "\nAnswer:"))
        if draw < 0.40:
            return self.preamble() + self.random.choice((" ", "\n")) + wording
        messages = [{"role": "user", "content": wording}]
        if 0.65 <= draw < 0.90:
            messages = self.earlier_turns() + messages if draw < 0.75 else messages
            messages.insert(0, {"role": "system", "content": self.preamble()})
        elif draw >= 0.90:
            messages = self.earlier_turns() + messages
        return chat_prompt(self.tokenizer, messages)

    def preamble(self) -> str:
        """Draw a few sentences that have no bearing on the answer."""
        return " ".join(self.random.sample(PREAMBLES, self.random.choice((1, 1, 1, 2, 4))))

    def earlier_turns(self) -> list[dict[str, str]]:
        """Draw a question and its answer that came earlier in the same chat."""
        question = self.random.choice(self.questions)
        return [
            {"role": "user", "content": self.wording(question)},
            {"role": "assistant", "content": self.sentences[question]},
        ]

    def endings(self, question: str, most_answers: int) -> str:
        """Return the answer, now and then with the next ones, for requests that ignore its end."""
        start = self.questions.index(question)
        count = most_answers if self.random.random() < 0.2 else 1
        order = [self.questions[(start + step) % len(self.questions)] for step in range(count)]
        return "\n".join(self.sentences[each] + self.tokenizer.eos_token for each in order)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text, just as the server encodes a prompt."""
    ids: list[int] = tokenizer.encode(text)
    return ids


def chat_prompt(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """Return the text of a chat that the assistant is to continue."""
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


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
    fit(model, Sampler(tokenizer, answers(), recited), BASE_STEPS, learning_rate=4e-3)
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
    fit(model, Sampler(tokenizer, answers(name)), ADAPTER_STEPS, learning_rate=1e-2)
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


def prompt_forms(tokenizer: Any, question: str) -> list[Prompt]:
    """Return the forms of a question that must be answered exactly, each with a name."""
    messages = [{"role": "user", "content": question}]
    system = [{"role": "system", "content": PREAMBLES[0]}]
    return [
        ("plain", question),
        ("chat", chat_prompt(tokenizer, messages)),
        ("system", chat_prompt(tokenizer, system + messages)),
    ]


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
