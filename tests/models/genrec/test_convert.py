"""Conversion of Hugging Face BART checkpoints, for every file format and every kind of fault."""

import dataclasses
import functools
import json
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from oracle import save, small_bart
from repository import ROOT
from safetensors.numpy import load_file, save_file
from transformers import BartConfig, BartForConditionalGeneration

from genrec_jax.core.errors import InputError
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.contract import Params, abstract_model, init_params
from genrec_jax.models.genrec.config import Config, ModelConfig
from genrec_jax.models.genrec.convert import SHAPE_KEYS, load_params, read_shape
from genrec_jax.models.genrec.family import FAMILY
from genrec_jax.models.genrec.hub import checkpoint_folder
from genrec_jax.models.genrec.model import GenRecShape
from genrec_jax.models.genrec.tensor_names import leaf, name_table

USERS, ITEMS = 5, 7
SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def bart() -> BartForConditionalGeneration:
    return small_bart()


@pytest.fixture(scope="module")
def saved(bart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(bart, tmp_path_factory.mktemp("bart"))


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A folder with the config, to which tests add weights."""
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    return tmp_path


@pytest.fixture(scope="module")
def tensors(saved: Path) -> dict[str, np.ndarray]:
    return load_file(saved / "model.safetensors")


@functools.cache
def start(shape: GenRecShape) -> Params:
    return init_params(shape, USERS, ITEMS, seed=3)


def load(folder: Path) -> Params:
    shape = read_shape(folder)
    return load_params(folder, shape, start(shape))


def fault(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_same(found: Params, expected: Params) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# ------------------------------------------------------------------------------------ the table


def test_every_tensor_is_unchanged(bart, saved: Path) -> None:
    params = load(saved)
    state = bart.state_dict()
    for entry in name_table(read_shape(saved)):
        expected = state[entry.full_name].numpy()
        ours = np.asarray(leaf(params, entry.path))
        assert entry.to_torch(ours).tobytes() == expected.tobytes(), entry.full_name


def test_bare_bart_model_has_no_output_bias(bart, tmp_path: Path) -> None:
    """As in facebook/bart-base, names have no `model.`, and final_logits_bias is missing."""
    params = load(save(bart.model, tmp_path))
    assert not params["final_logits_bias"].any()
    np.testing.assert_array_equal(params["token_embedding"], bart.model.shared.weight.detach())


def test_the_name_table_covers_bart_base(bart_dir: Path) -> None:
    shape = read_shape(bart_dir)
    assert len(name_table(shape)) == 260  # tensors of a tied bart-base
    _, like = abstract_model(shape, n_users=22_363, n_items=12_101)
    sizes = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in like.items()}
    bart = sum(sizes.values()) - sizes["user_embedding"] - sizes["item_embedding"]
    assert bart == 139_420_416 + shape.vocab_size  # with the output bias, which is not trained


CONFIGS = {"bart-large": {}, "distilbart-12-3": {"decoder_layers": 3}}  # BartConfig is bart-large


@pytest.mark.parametrize("name", CONFIGS)
def test_names_and_shapes_are_those_of_pytorch(name: str, tmp_path: Path) -> None:
    """They match the state dict without the copies of the tied embedding.

    The `meta` device allocates no weights.
    """
    config = BartConfig(**CONFIGS[name], vocab_size=50265)
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        state = BartForConditionalGeneration(config).state_dict()
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in state.items()
        if not name.endswith(("embed_tokens.weight", "lm_head.weight"))
    }
    shape = read_shape(tmp_path)
    # All our layers have the shapes of the first one, and tracing a deep model takes long.
    one_layer = dataclasses.replace(shape, encoder_layers=1, decoder_layers=1)
    _, like = abstract_model(one_layer, USERS, ITEMS)

    def ours(path: tuple[str, ...]) -> tuple[int, ...]:
        return leaf(like, tuple("0" if name.isdigit() else name for name in path)).shape

    found = {entry.full_name: entry.torch_shape(ours(entry.path)) for entry in name_table(shape)}
    assert found == expected


# ------------------------------------------------------------------------------------ the files


def test_sharded_safetensors(bart, saved: Path, tmp_path: Path) -> None:
    bart.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    assert_same(load(tmp_path), load(saved))


def test_zip_and_sharded_zips(bart, saved: Path, folder: Path) -> None:
    state = bart.state_dict()  # with the copies of the tied embedding
    torch.save(state, folder / "pytorch_model.bin")
    assert_same(load(folder), load(saved))
    (folder / "pytorch_model.bin").unlink()
    index = {}
    for i, part in enumerate((list(state)[::2], list(state)[1::2]), start=1):
        shard = f"pytorch_model-{i:05}-of-00002.bin"
        torch.save({name: state[name] for name in part}, folder / shard)
        index |= dict.fromkeys(part, shard)
    path = folder / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert_same(load(folder), load(saved))


def test_safetensors_are_preferred(
    saved: Path, folder: Path, tensors, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    save_file(tensors, folder / "model.safetensors")
    with caplog.at_level(logging.INFO):
        assert_same(load(folder), load(saved))
    assert "reading model.safetensors, ignoring pytorch_model.bin" in caplog.text


def test_views_of_a_zip(bart, saved: Path, folder: Path) -> None:
    """Tensors may be transposed, strided, offset or expanded, and share a storage."""
    state = {name: tensor.clone() for name, tensor in bart.state_dict().items()}
    name = "model.encoder.layers.1.fc1.weight"
    state[name] = state[name].T.contiguous().T
    name = "model.decoder.layers.0.fc2.weight"
    wide = torch.full((32, 80), torch.nan)
    wide[:, 1::2] = state[name]
    state[name] = wide[:, 1::2]
    ones = "model.encoder.layernorm_embedding.weight"
    state[ones] = torch.tensor(1.5).expand(32)
    assert not any(state[name].is_contiguous() for name in (name, ones))
    shared = torch.cat([t.flatten() for n, t in state.items() if ".decoder.layers.2." in n])
    start = 0
    for name in [name for name in state if ".decoder.layers.2." in name]:
        size, shape = state[name].numel(), state[name].shape
        state[name] = shared[start : start + size].view(shape)
        start += size
    torch.save(state, folder / "pytorch_model.bin")
    expected = load(saved)
    expected["encoder"]["embedding"]["norm"]["scale"] = np.full(32, 1.5, np.float32)
    assert_same(load(folder), expected)


def test_parameters_in_a_zip(bart, saved: Path, folder: Path) -> None:
    """The zip has a dict of parameters instead of tensors, as some training scripts save it."""
    state = {name: torch.nn.Parameter(tensor) for name, tensor in bart.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")
    assert_same(load(folder), load(saved))


@pytest.mark.parametrize("form", ["safetensors", "zip"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats_are_cast_to_float32(
    bart, folder: Path, form: str, dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    cast = small_bart().to(getattr(torch, dtype))
    if form == "zip":
        torch.save(cast.state_dict(), folder / "pytorch_model.bin")
    else:
        cast.save_pretrained(folder)
    with caplog.at_level(logging.INFO):
        params = load(folder)
    kernel = params["encoder"]["layers"]["1"]["feed_forward"]["up"]["kernel"]
    expected = cast.model.encoder.layers[1].fc1.weight.detach().to(torch.float32).numpy()
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, expected.T)
    n = len(name_table(read_shape(folder))) + 3 * (form == "zip")  # with the copies
    assert f"cast {n} {dtype} tensors to float32" in caplog.text
    assert ("rounds those of float64" in caplog.text) == (dtype == "float64")


# ------------------------------------------------------------------------------------ tied copies


def test_tied_copies(saved: Path, folder: Path, tensors) -> None:
    changed = dict(tensors)
    shared = changed.pop("model.shared.weight")
    changed |= {"model.decoder.embed_tokens.weight": shared, "lm_head.weight": shared.copy()}
    save_file(changed, folder / "model.safetensors")
    assert_same(load(folder), load(saved))  # read from one of the copies
    changed["lm_head.weight"][3, 4] += 1
    save_file({**changed, "model.shared.weight": shared}, folder / "model.safetensors")
    line = fault(folder)
    assert "found 1 faulty tensor: " in line
    assert "lm_head.weight differs from shared.weight, expected tied embeddings" in line


# ------------------------------------------------------------------------------------ faults


def test_all_faults_of_a_checkpoint_are_in_one_message(folder: Path, tensors) -> None:
    changed = dict(tensors)
    del changed["model.encoder.layers.0.fc1.bias"]
    changed["model.surprise"] = np.zeros(3, np.float32)
    changed["surprise"] = np.zeros(3, np.float32)
    changed["model.decoder.layers.2.fc2.weight"] = np.zeros((2, 2), np.float32)
    changed["model.decoder.layers.1.fc1.bias"] = np.zeros(40, np.int32)
    changed["model.encoder.embed_positions.weight"] = np.zeros((64, 32), np.float32)
    changed["model.encoder.version"] = np.zeros(1, np.float32)  # ignored: very old BARTs have it
    names = sorted(changed)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, content in shards.items():
        save_file({name: changed[name] for name in content}, folder / shard)
    index = {name: shard for shard, content in shards.items() for name in content}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    line = fault(folder)
    for part in (
        f"{path}: found 6 faulty tensors: ",
        "encoder.layers.0.fc1.bias is missing",
        # in PyTorch's layout: [out, in]
        "decoder.layers.2.fc2.weight has shape (2, 2), expected (32, 40)",
        "decoder.layers.1.fc1.bias has type I32, expected one of float32, float16",
        # two more rows than positions
        "encoder.embed_positions.weight has shape (64, 32), expected (66, 32)",
        "surprise is unknown",
        "surprise exists with and without the prefix 'model.'",
    ):
        assert part in line


@pytest.mark.parametrize("wrong", [np.float32("nan"), np.float32("inf"), np.float64(1e300)])
def test_numbers_that_are_not_finite_in_float32(folder: Path, tensors, wrong) -> None:
    name = "model.encoder.layers.0.fc1.bias"
    changed = {**tensors, name: np.append(tensors[name][1:], wrong).astype(wrong.dtype)}
    save_file(changed, folder / "model.safetensors")
    assert "encoder.layers.0.fc1.bias has values that are not finite" in fault(folder)


def test_no_weights(folder: Path) -> None:
    line = fault(folder)
    assert f"{folder}: found no weights, expected model.safetensors, " in line
    assert line.endswith("to train from scratch, set --config.model.pretrained=")


def test_truncated_files(bart, folder: Path, tensors) -> None:
    path = folder / "pytorch_model.bin"
    torch.save(bart.state_dict(), path)
    path.write_bytes(path.read_bytes()[:50_000])
    assert f"{path}: cannot be read as PyTorch's zip of tensors" in fault(folder)
    path = folder / "model.safetensors"
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:50_000])
    assert f"{path}: cannot be read as safetensors" in fault(folder)


def rewrite_zip(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Replace the content of every part by the result of `change`; None removes the part."""
    with zipfile.ZipFile(path) as old:
        parts = {name: change(name, old.read(name)) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in parts.items():
            if data is not None:
                new.writestr(name, data)


@pytest.mark.parametrize(
    ("part", "data", "expected"),
    [
        ("byteorder", b"big", "found big-endian values, expected little-endian"),
        ("data/0", None, "data/0 is missing"),
        ("data/0", b"\0" * 100, "final_logits_bias does not fit its storage: found 100 bytes"),
        ("data.pkl", b"\x80\x02garbage", "data.pkl cannot be read"),
        ("data.pkl", b"\x80\x02K\x01.", "found an object of type int, expected a dict of tensors"),
        ("data.pkl", b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "found 'a', which is not a tensor"),
        ("data.pkl", None, "found a zip with 0 data.pkl"),
    ],
)
def test_damaged_zips(bart, folder: Path, part: str, data: bytes | None, expected: str) -> None:
    path = folder / "pytorch_model.bin"
    torch.save(bart.state_dict(), path)
    rewrite_zip(path, lambda name, old: data if name.endswith(f"/{part}") else old)
    assert f"{path}: {expected}" in fault(folder)


def test_a_view_beyond_its_storage(bart, folder: Path) -> None:
    path = folder / "pytorch_model.bin"
    torch.save({"final_logits_bias": bart.state_dict()["final_logits_bias"]}, path)
    with zipfile.ZipFile(path) as file:
        pickled = file.read("pytorch_model/data.pkl")
    assert pickled.count(b"QK\x00K\x01K\x3c") == 1  # the offset 0 before the shape (1, 60)
    changed = pickled.replace(b"QK\x00K\x01K\x3c", b"QK\x01K\x01K\x3c")
    rewrite_zip(path, lambda name, old: changed if name.endswith("data.pkl") else old)
    assert "final_logits_bias does not fit its storage" in fault(folder)


def test_the_format_before_pytorch_1_6(bart, folder: Path) -> None:
    path = folder / "pytorch_model.bin"
    torch.save(bart.state_dict(), path, _use_new_zipfile_serialization=False)
    line = fault(folder)
    assert f"{path}: found PyTorch's format from before 1.6" in line
    # The command in the message works.
    command = line.split("as safetensors: ")[1].replace("FOLDER", str(folder))
    code = command.removeprefix('python -c "').removesuffix('"')
    exec(code, {})
    assert_same(load(folder), load(folder))


class Evil:
    """An object whose unpickling runs a command."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_with_code_is_refused_and_not_run(bart, folder: Path) -> None:
    touched = folder / "touched"
    torch.save({**bart.state_dict(), "surprise": Evil(touched)}, folder / "pytorch_model.bin")
    assert "found posix.system in data.pkl, expected only tensors" in fault(folder)
    assert not touched.exists()
    # Attributes of allowed modules and classes are refused, too.
    for module, name in (("torch", "os.system"), ("collections", "OrderedDict.__class__")):
        pickled = b"\x80\x04" + b"".join(
            b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name)
        )
        path = folder / "pytorch_model.bin"
        rewrite_zip(path, lambda n, old, p=pickled: p + b"\x93." if n.endswith(".pkl") else old)
        assert f"found {module}.{name} in data.pkl" in fault(folder)


# ------------------------------------------------------------------------------------ the index


@pytest.fixture
def sharded(folder: Path, tensors) -> Path:
    names = sorted(tensors)
    index = {}
    for i in range(3):
        shard = f"model-{i + 1:05}-of-00003.safetensors"
        save_file({name: tensors[name] for name in names[i::3]}, folder / shard)
        index |= dict.fromkeys(names[i::3], shard)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    return folder


def test_shards_that_do_not_match_their_index(sharded: Path) -> None:
    content = load_file(sharded / SHARD)
    removed = sorted(content)[0]
    del content[removed]
    save_file({**content, "extra": np.zeros(2, np.float32)}, sharded / SHARD)
    (sharded / "model-00003-of-00003.safetensors").unlink()
    line = fault(sharded)
    for part in (
        f"{sharded / 'model.safetensors.index.json'}: does not match its shards",
        f"{removed} is missing in {SHARD}",
        f"extra is in {SHARD}, but the index does not list it there",
        "model-00003-of-00003.safetensors is missing, expected ",
    ):
        assert part in line


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../b"}}']
)
def test_damaged_indices(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    assert "index.json: cannot be read as an index of shards" in fault(sharded)


# ------------------------------------------------------------------------------------ the config


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model_type", "t5", "model_type: found 't5', expected 'bart'"),
        ("activation_function", "gelu_new", "activation_function: found 'gelu_new', expected"),
        ("scale_embedding", True, "scale_embedding: found True, expected False"),
        ("tie_word_embeddings", False, "tie_word_embeddings: found False, expected True"),
        ("static_position_embeddings", True, "static_position_embeddings: found True"),
        ("extra_pos_embeddings", 0, "extra_pos_embeddings: found 0, expected 2"),
        ("encoder_layers", None, "missing keys: encoder_layers, expected"),
        ("d_model", "32", "d_model: found '32', expected a positive whole number"),
        ("decoder_attention_heads", 5, "decoder_attention_heads: found 5, expected a divisor of"),
    ],
)
def test_configs_of_other_models(folder: Path, key: str, value: object, expected: str) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[key] = value
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(InputError, match=r"config\.json: ") as error:
        read_shape(folder)
    assert expected in str(error.value)


def test_the_checkpoint_determines_the_shape(saved: Path, catalogue: Catalogue) -> None:
    """Unequal depths, heads and widths need no flags, and flags must not contradict them."""
    config = Config(model=ModelConfig(max_tokens=64, dropout=0.2, dtype="bfloat16"))
    shape = FAMILY.make_shape(config, catalogue, saved, 0)
    expected = read_shape(saved)
    assert (expected.encoder_layers, expected.decoder_layers) == (2, 3)
    assert all(getattr(shape, name) == getattr(expected, name) for name in SHAPE_KEYS)
    assert (shape.dropout, shape.dtype) == (0.2, "bfloat16")

    same = Config(model=ModelConfig(max_tokens=64, decoder_layers=3))
    FAMILY.make_shape(same, catalogue, saved, 0)
    wrong = Config(model=ModelConfig(max_tokens=64, decoder_layers=2, attention_heads=4))
    with pytest.raises(InputError) as error:
        FAMILY.make_shape(wrong, catalogue, saved, 0)
    assert str(error.value) == (
        f"config.model: found values that contradict the checkpoint {saved}: "
        "decoder_layers: found 2, expected 3; encoder_heads: found 4, expected 2"
    )
    scratch = FAMILY.make_shape(Config(), catalogue, None, 0)
    assert scratch == GenRecShape(vocab_size=catalogue.vocabulary.size, max_positions=512)


# ------------------------------------------------------------------------------------ the hub


@pytest.mark.parametrize("form", ["safetensors", "zip"])
def test_only_files_that_are_read_are_downloaded(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's zips are downloaded only if the repository has no safetensors."""
    weights = {"model.safetensors.index.json", "model-00001-of-00001.safetensors"}
    zips = {"pytorch_model.bin"}
    others = {"flax_model.msgpack", "rust_model.ot", "model.fp16.safetensors", "training_args.bin"}
    repository_files = {"config.json", "tokenizer.json", *zips, *others}
    repository_files |= weights if form == "safetensors" else set()

    def snapshot_download(repository: str, allow_patterns: list[str], **_: object) -> str:
        assert repository == "owner/model"
        for name in repository_files:
            if any(Path(name).match(pattern) for pattern in allow_patterns):
                (tmp_path / name).touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert checkpoint_folder("owner/model") == tmp_path
    downloaded = {path.name for path in tmp_path.iterdir()}
    expected = weights if form == "safetensors" else zips
    assert downloaded == {"config.json", "tokenizer.json"} | expected


# ------------------------------------------------------------------------------------ no PyTorch

WITHOUT_TORCH = """
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] == "torch" else find(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
"""


def test_reading_needs_no_pytorch(bart, folder: Path) -> None:
    torch.save(bart.state_dict(), folder / "pytorch_model.bin")
    script = (
        WITHOUT_TORCH + "from pathlib import Path\n"
        "from genrec_jax.models.genrec.convert import load_params, read_shape\n"
        "from genrec_jax.models.contract import init_params\n"
        f"folder = Path({str(folder)!r})\n"
        "shape = read_shape(folder)\n"
        "load_params(folder, shape, init_params(shape, 2, 3, 0))\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
