"""The shipped weights and tokenizer: what they are, and that they do what their profile says."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from nfilter import wilson
from nfilter_tiny import MODEL_DIR
from nfilter_tiny.formats import draw_example
from nfilter_tiny.world import problems
from nfilter_tiny.world.words import WORDS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from nfilter_tiny.profile import is_right, measure  # noqa: E402 (needs torch)
from nfilter_tiny.train import render  # noqa: E402

TEXTS = (
    "",
    " two  spaces and a tab\t",
    "line\r\nline\n\n",
    "héllo naïve Ünïcode",
    "漢字かな交じり文 한국어 العربية हिन्दी",
    "🙂👩‍👩‍👧 e\u0301 \u200b\ufeff \x00\x07",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff",
    "1234567890 3.14 -5 ½ ٣",
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The shipped tokenizer, as a user loads it."""
    return transformers.AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_round_trips(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_random_unicode_round_trips(tokenizer: Any) -> None:
    rng = random.Random(8)
    for _ in range(200):
        text = "".join(
            chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000))))
            for _ in range(20)
        )
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_digits_and_words_are_one_token_each(tokenizer: Any) -> None:
    assert len(tokenizer.encode("9071", add_special_tokens=False)) == 4
    for word in WORDS:
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1


def test_special_tokens_differ(tokenizer: Any) -> None:
    ids = [
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
    ]
    assert None not in ids
    assert len(set(ids)) == 4


def test_chat_template_renders_as_trained(tokenizer: Any) -> None:
    """Ids of the template are the ids that training saw, and its mask is the reply with its end."""
    rng = random.Random(9)
    for _ in range(100):
        example = draw_example(rng)
        asked = [{"role": role, "content": content} for role, content in example.turns]
        trained_prompt = tokenizer.encode(render(example.turns), add_special_tokens=False)
        trained_reply = tokenizer.encode(example.reply + "</s>", add_special_tokens=False)
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)
        whole = tokenizer.apply_chat_template(
            [*asked, {"role": "assistant", "content": example.reply}],
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        assert prompt["input_ids"] == trained_prompt
        assert whole["input_ids"] == trained_prompt + trained_reply
        assert whole["assistant_masks"] == [0] * len(trained_prompt) + [1] * len(trained_reply)


def test_template_takes_a_system_turn(tokenizer: Any) -> None:
    turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "<s><|system|>a<|user|>b"


def test_the_weights_are_small_and_plain() -> None:
    config = json.loads((MODEL_DIR / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "llama"
    assert config["max_position_embeddings"] == 1024
    assert not [
        path for path in MODEL_DIR.iterdir() if path.suffix in {".bin", ".pt", ".pkl", ".py"}
    ]
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) < 10_000_000
    generation = transformers.GenerationConfig.from_pretrained(MODEL_DIR)
    assert not generation.do_sample


def test_it_loads_in_single_precision_by_itself() -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_vocabulary_is_of_subwords(tokenizer: Any) -> None:
    """A thousand pieces and more, every byte among them, no number of two digits, and at most three million weights."""
    pieces = tokenizer.get_vocab()
    assert len(pieces) >= 1000
    assert not [piece for piece in pieces if sum(c.isdigit() for c in piece) > 1]
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    assert sum(p.numel() for p in model.parameters()) <= 3_000_000
    assert len(tokenizer) == model.config.vocab_size


def test_a_sentence_is_right_in_either_wording_alone() -> None:
    problem = problems("dev", "say")[0]
    first = problem.answer.rstrip(".").split(" on ", 1)
    turned = (
        f"on {first[1]} {first[0]}."
        if len(first) == 2
        else " ".join([*problem.answer.rstrip(".").split()[2:], *problem.answer.split()[:2]]) + "."
    )
    assert turned != problem.answer
    assert is_right(problem, turned)
    assert not is_right(problem, problem.answer.replace("day", "days"))


def test_profile_holds_on_a_sample() -> None:
    """The recorded profile, measured anew on fewer questions, lies within sampling error of itself."""
    recorded = json.loads((MODEL_DIR / "profile.json").read_text(encoding="utf-8"))
    sample = measure(MODEL_DIR, limit=40)
    for skill in ("direct", "reason", "neighbors", "review"):
        for family, figure in sample[skill].items():
            low, high = wilson(round(figure["right"] * figure["n"]), figure["n"], z=3.5) or (0, 0)
            assert low <= recorded[skill][family]["right"] <= high, (skill, family)
    assert sample["reason"]["shift reasoned"]["right"] > sample["direct"]["shift reasoned"]["right"]
    assert sample["neighbors"]["hue new"]["right"] > sample["direct"]["hue new"]["right"]
