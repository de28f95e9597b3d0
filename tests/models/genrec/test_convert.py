"""A Hugging Face BART checkpoint → our parameters: every form of file, and every fault of one."""

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
from genrec_jax.models.genrec.names import leaf, name_table

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
    """A folder with the config and, so far, no weights."""
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


def test_every_tensor_arrives_as_it_was(bart, saved: Path) -> None:
    params = load(saved)
    state = bart.state_dict()
    for entry in name_table(read_shape(saved)):
        expected = state[entry.full_name].numpy()
        ours = np.asarray(leaf(params, entry.path))
        assert entry.to_torch(ours).tobytes() == expected.tobytes(), entry.full_name


def test_bare_bart_model_has_no_output_bias(bart, tmp_path: Path) -> None:
    """facebook/bart-base is saved so: names without `model.`, no final_logits_bias."""
    params = load(save(bart.model, tmp_path))
    assert not params["final_logits_bias"].any()
    np.testing.assert_array_equal(params["token_embedding"], bart.model.shared.weight.detach())


def test_the_name_table_covers_bart_base(bart_dir: Path) -> None:
    shape = read_shape(bart_dir)
    assert len(name_table(shape)) == 260  # tensors of a tied bart-base
    _, like = abstract_model(shape, n_users=22_363, n_items=12_101)
    sizes = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in like.items()}
    bart = sum(sizes.values()) - sizes["user_embedding"] - sizes["item_embedding"]
    assert bart == 139_420_416 + shape.vocab_size  # and the constant output bias


CONFIGS = {"bart-large": {}, "distilbart-12-3": {"decoder_layers": 3}}  # BartConfig is bart-large


@pytest.mark.parametrize("name", CONFIGS)
def test_names_and_shapes_are_those_of_pytorch(name: str, tmp_path: Path) -> None:
    """Of the state dict, but the copies of the tied embedding; nothing is allocated."""
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
    # Every layer of ours is like its first: the trace of a deep model would take long.
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
    state = bart.state_dict()  # with its copies of the tied embedding
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
    assert "reading model.safetensors, leaving pytorch_model.bin aside" in caplog.text


def test_views_of_a_zip(bart, saved: Path, folder: Path) -> None:
    """Transposed, strided, offset and expanded tensors, and one storage under all of them."""
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
    together = torch.cat([t.flatten() for n, t in state.items() if ".decoder.layers.2." in n])
    start = 0
    for name in [name for name in state if ".decoder.layers.2." in name]:
        size, shape = state[name].numel(), state[name].shape
        state[name] = together[start : start + size].view(shape)
        start += size
    torch.save(state, folder / "pytorch_model.bin")
    expected = load(saved)
    expected["encoder"]["embedding"]["norm"]["scale"] = np.full(32, 1.5, np.float32)
    assert_same(load(folder), expected)


def test_parameters_in_a_zip(bart, saved: Path, folder: Path) -> None:
    """A dict of parameters instead of tensors, as some training scripts leave behind."""
    state = {name: torch.nn.Parameter(tensor) for name, tensor in bart.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")
    assert_same(load(folder), load(saved))


@pytest.mark.parametrize("form", ["safetensors", "zip"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats_become_float32(
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
    assert f"{n} tensors of {dtype} became float32" in caplog.text
    assert ("is rounded" in caplog.text) == (dtype == "float64")


# ------------------------------------------------------------------------------------ tied copies


def test_tied_copies(saved: Path, folder: Path, tensors) -> None:
    changed = dict(tensors)
    shared = changed.pop("model.shared.weight")
    changed |= {"model.decoder.embed_tokens.weight": shared, "lm_head.weight": shared.copy()}
    save_file(changed, folder / "model.safetensors")
    assert_same(load(folder), load(saved))  # one of the copies serves instead
    changed["lm_head.weight"][3, 4] += 1
    save_file({**changed, "model.shared.weight": shared}, folder / "model.safetensors")
    line = fault(folder)
    assert "1 tensor does not fit: " in line
    assert "lm_head.weight differs from shared.weight: the model is not tied" in line


# ------------------------------------------------------------------------------------ faults


def test_faults_of_a_checkpoint_are_told_together(folder: Path, tensors) -> None:
    changed = dict(tensors)
    del changed["model.encoder.layers.0.fc1.bias"]
    changed["model.surprise"] = np.zeros(3, np.float32)
    changed["surprise"] = np.zeros(3, np.float32)
    changed["model.decoder.layers.2.fc2.weight"] = np.zeros((2, 2), np.float32)
    changed["model.decoder.layers.1.fc1.bias"] = np.zeros(40, np.int32)
    changed["model.encoder.embed_positions.weight"] = np.zeros((64, 32), np.float32)
    changed["model.encoder.version"] = np.zeros(1, np.float32)  # of BARTs of long ago
    names = sorted(changed)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: changed[name] for name in held}, folder / shard)
    index = {name: shard for shard, held in shards.items() for name in held}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    line = fault(folder)
    for part in (
        f"{path}: 6 tensors do not fit",
        "encoder.layers.0.fc1.bias is missing",
        # as PyTorch has it: [out, in]
        "decoder.layers.2.fc2.weight has shape (2, 2), expected (32, 40)",
        "decoder.layers.1.fc1.bias is of type I32, expected one of float32, float16",
        # two more rows than positions
        "encoder.embed_positions.weight has shape (64, 32), expected (66, 32)",
        "surprise is unknown",
        "surprise is there with and without 'model.' before it",
    ):
        assert part in line


@pytest.mark.parametrize("wrong", [np.float32("nan"), np.float32("inf"), np.float64(1e300)])
def test_numbers_that_are_not_finite_in_float32(folder: Path, tensors, wrong) -> None:
    name = "model.encoder.layers.0.fc1.bias"
    changed = {**tensors, name: np.append(tensors[name][1:], wrong).astype(wrong.dtype)}
    save_file(changed, folder / "model.safetensors")
    assert "encoder.layers.0.fc1.bias holds numbers that are not finite" in fault(folder)


def test_no_weights(folder: Path) -> None:
    line = fault(folder)
    assert f"{folder}: no weights here, expected model.safetensors, " in line
    assert line.endswith("to train from scratch set --config.model.pretrained=")


def test_files_cut_short(bart, folder: Path, tensors) -> None:
    path = folder / "pytorch_model.bin"
    torch.save(bart.state_dict(), path)
    path.write_bytes(path.read_bytes()[:50_000])
    assert f"{path}: cannot be read as PyTorch's zip of tensors" in fault(folder)
    path = folder / "model.safetensors"
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:50_000])
    assert f"{path}: cannot be read as safetensors" in fault(folder)


def rewrite_zip(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Every part as `change` gives it; None leaves it out."""
    with zipfile.ZipFile(path) as old:
        parts = {name: change(name, old.read(name)) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in parts.items():
            if data is not None:
                new.writestr(name, data)


@pytest.mark.parametrize(
    ("part", "data", "expected"),
    [
        ("byteorder", b"big", "its numbers are big-endian, expected little-endian"),
        ("data/0", None, "its part data/0 is missing"),
        ("data/0", b"\0" * 100, "final_logits_bias does not fit its storage: 100 bytes for 60"),
        ("data.pkl", b"\x80\x02garbage", "its pickle cannot be read"),
        ("data.pkl", b"\x80\x02K\x01.", "holds a int, expected a dict of tensors"),
        ("data.pkl", b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "its entry 'a' is no tensor"),
        ("data.pkl", None, "a zip without data.pkl"),
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
    assert f"{path}: is in PyTorch's format from before 1.6" in line
    # The way out that the line shows works.
    command = line.split("as safetensors: ")[1].replace("FOLDER", str(folder))
    code = command.removeprefix('python -c "').removesuffix('"')
    exec(code, {})
    assert_same(load(folder), load(folder))


class Evil:
    """Unpickling it runs a command."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_runs_code_is_refused_unrun(bart, folder: Path) -> None:
    touched = folder / "touched"
    torch.save({**bart.state_dict(), "surprise": Evil(touched)}, folder / "pytorch_model.bin")
    assert "its pickle asks for posix.system, which no dict of tensors needs" in fault(folder)
    assert not touched.exists()
    # The name of what is allowed does not open a way to what hangs on it.
    for module, name in (("torch", "os.system"), ("collections", "OrderedDict.__class__")):
        pickled = b"\x80\x04" + b"".join(
            b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)
        )
        path = folder / "pytorch_model.bin"
        rewrite_zip(path, lambda n, old, p=pickled: p + b"\x93." if n.endswith(".pkl") else old)
        assert f"its pickle asks for {module}.{name}" in fault(folder)


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


def test_shards_that_do_not_fit_their_index(sharded: Path) -> None:
    held = load_file(sharded / SHARD)
    gone = sorted(held)[0]
    del held[gone]
    save_file({**held, "extra": np.zeros(2, np.float32)}, sharded / SHARD)
    (sharded / "model-00003-of-00003.safetensors").unlink()
    line = fault(sharded)
    for part in (
        f"{sharded / 'model.safetensors.index.json'}: does not fit its shards",
        f"{gone} is missing in {SHARD}",
        f"extra is in {SHARD}, but the index does not place it there",
        "model-00003-of-00003.safetensors, with ",
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
        ("model_type", "t5", "model_type is 't5', expected 'bart'"),
        ("activation_function", "gelu_new", "activation_function is 'gelu_new', expected 'gelu'"),
        ("scale_embedding", True, "scale_embedding is True, expected False"),
        ("tie_word_embeddings", False, "tie_word_embeddings is False, expected True"),
        ("static_position_embeddings", True, "static_position_embeddings is True"),
        ("extra_pos_embeddings", 0, "extra_pos_embeddings is 0, expected 2"),
        ("encoder_layers", None, "the keys encoder_layers are missing"),
        ("d_model", "32", "d_model is '32', expected a whole number from 1"),
        ("decoder_attention_heads", 5, "decoder_attention_heads is 5, expected a divisor of"),
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


def test_the_shape_is_the_checkpoints(saved: Path, catalogue: Catalogue) -> None:
    """Unequal depths, heads and widths, without a flag; what the flags say must be true."""
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
        f"config.model: {saved} is a checkpoint of another shape: "
        "decoder_layers is 3 there and 2 here; encoder_heads is 2 there and 4 here"
    )
    scratch = FAMILY.make_shape(Config(), catalogue, None, 0)
    assert scratch == GenRecShape(vocab_size=catalogue.vocabulary.size, max_positions=512)


# ------------------------------------------------------------------------------------ the hub


@pytest.mark.parametrize("form", ["safetensors", "zip"])
def test_the_hub_is_asked_for_what_is_read(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's zips only where there are no safetensors; nothing else at all."""
    weights = {"model.safetensors.index.json", "model-00001-of-00001.safetensors"}
    zips = {"pytorch_model.bin"}
    others = {"flax_model.msgpack", "rust_model.ot", "model.fp16.safetensors", "training_args.bin"}
    there = {"config.json", "tokenizer.json", *zips, *others}
    there |= weights if form == "safetensors" else set()

    def snapshot_download(repository: str, allow_patterns: list[str], **_: object) -> str:
        assert repository == "owner/model"
        for name in there:
            if any(Path(name).match(pattern) for pattern in allow_patterns):
                (tmp_path / name).touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert checkpoint_folder("owner/model") == tmp_path
    fetched = {path.name for path in tmp_path.iterdir()}
    assert fetched == {"config.json", "tokenizer.json"} | (weights if weights <= there else zips)


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
