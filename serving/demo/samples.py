# SPDX-License-Identifier: Apache-2.0
"""What the demo model is trained on: the questions in their many forms, each with its answer.

Used by `train.py` alone. Knows the tokenizer, not the model.
"""

import random
from collections.abc import Sequence
from typing import Any

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>")
IGNORED_LABEL = -100
BATCH_SIZE = 16
# Every fourth batch holds a few long samples instead, to learn to answer late in a long context.
LONG_BATCH_SIZE = 3
LONG_SAMPLE_TOKENS = 450
LONG_EVERY = 4

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


class Sampler:
    """Draws training samples: a prompt in one of its many forms, then the answer."""

    def __init__(self, tokenizer: Any, sentences: dict[str, str], seed: int, recited: Sequence[str] = ()) -> None:
        """Remember what to ask and to answer.

        Args:
            tokenizer: The tokenizer that encodes the samples.
            sentences: The answer to each question.
            seed: What the draws begin with.
            recited: Sentences to learn without a question. The adapters cannot
                change the embeddings, so the model must learn their words too.
        """
        self.random = random.Random(seed)
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


def prompt_forms(tokenizer: Any, question: str) -> list[Prompt]:
    """Return the forms of a question that must be answered exactly, each with a name."""
    messages = [{"role": "user", "content": question}]
    system = [{"role": "system", "content": PREAMBLES[0]}]
    return [
        ("plain", question),
        ("chat", chat_prompt(tokenizer, messages)),
        ("system", chat_prompt(tokenizer, system + messages)),
    ]
