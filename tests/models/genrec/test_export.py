"""Our parameters → a Hugging Face folder → PyTorch, and back: bit for bit, with every name."""

import dataclasses
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from oracle import save, small_bart
from repository import ROOT
from safetensors import safe_open
from test_convert import WITHOUT_TORCH
from transformers import AutoTokenizer, BartForConditionalGeneration, GenerationConfig

from genrec_jax.cli.export import main
from genrec_jax.core.errors import InputError
from genrec_jax.data.sequences import UserSequences
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.indexing import Indexing, make_indexing
from genrec_jax.identifiers.tokenizer import load_bart_tokenizer
from genrec_jax.main import main as train_main
from genrec_jax.models.contract import Params, abstract_model, init_params, merge
from genrec_jax.models.genrec import export
from genrec_jax.models.genrec.config import Config
from genrec_jax.models.genrec.convert import (
    POSITION_KEYS,
    Positions,
    load_params,
    read_positions,
    read_shape,
)
from genrec_jax.models.genrec.export import Origin, write_folder
from genrec_jax.models.genrec.family import FAMILY
from genrec_jax.models.genrec.id_tables import FILE
from genrec_jax.models.genrec.inputs import encoder_input
from genrec_jax.models.genrec.model import GenRecShape
from genrec_jax.models.masking import append_mask
from genrec_jax.models.tables import put_on_device
from genrec_jax.runs.checkpoint import Checkpoints
from genrec_jax.runs.run_folder import RunFolder

ORIGIN = Origin("test", 7, "synthetic")
CONFIG = f"--config={ROOT / 'configs' / 'quickstart.py'}"
SMALL_MODEL = [
    "--config.data.synthetic_users=30",
    "--config.data.synthetic_items=25",
    "--config.data.buckets=1",
    "--config.model.d_model=16",
    "--config.model.ffn_dim=32",
    "--config.model.encoder_layers=1",
    "--config.model.decoder_layers=1",
    "--config.model.attention_heads=2",
    "--config.model.vocab_size=40",
    "--config.pretrain.epochs=0",
    "--config.finetune.max_steps=2",
    "--config.finetune.validate_every_steps=1",
    "--config.evaluate.users=5",
    "--config.evaluate.batch_size=64",
]


def started(shape: GenRecShape, catalogue: Catalogue, folder: Path) -> Params:
    """The parameters that training starts from, of another seed than the folder's."""
    vectors = np.zeros((catalogue.n_items, 1))
    return FAMILY.start_params(Config(seed=9), shape, catalogue, folder, lambda *_: vectors)


def params_of(folder: Path, catalogue: Catalogue, seed: int = 3) -> tuple[GenRecShape, Params]:
    """A checkpoint's weights with random id tables of the catalogue."""
    shape = GenRecShape(**vars(read_shape(folder)))
    start = init_params(shape, catalogue.table.n_users, catalogue.table.n_items, seed)
    return shape, load_params(folder, shape, start)


@pytest.fixture(scope="module")
def bart(catalogue: Catalogue) -> BartForConditionalGeneration:
    return small_bart(vocab_size=catalogue.vocabulary.size)


@pytest.fixture(scope="module")
def ours(bart, catalogue: Catalogue, tmp_path_factory) -> tuple[GenRecShape, Params]:
    shape, params = params_of(save(bart, tmp_path_factory.mktemp("bart")), catalogue)
    return shape, {**params, "item_embedding": 20 * params["item_embedding"]}


@pytest.fixture(scope="module")
def exported(ours, catalogue: Catalogue, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "new" / "folder"
    write_folder(folder, catalogue, *ours, ORIGIN)
    return folder


def raw(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Name → type, shape and bytes of every tensor."""
    with safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}
        return {
            name: (str(tensor.dtype), tensor.shape, tensor.tobytes())
            for name in sorted(file.keys())
            for tensor in [file.get_tensor(name)]
        }


def same_bits(found: Params, expected: Params) -> bool:
    same = jax.tree.map(
        lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), found, expected
    )
    return all(jax.tree.leaves(same))


# ------------------------------------------------------------------------------------ to PyTorch


def test_the_round_trip_keeps_every_bit(bart, exported: Path, tmp_path: Path) -> None:
    """torch → ours → torch: the whole file is the same, not just each tensor."""
    save(bart, tmp_path)
    assert raw(exported / "model.safetensors") == raw(tmp_path / "model.safetensors")
    whole = [(folder / "model.safetensors").read_bytes() for folder in (exported, tmp_path)]
    assert whole[0] == whole[1]


def test_the_round_trip_at_the_shape_of_bart_base(catalogue: Catalogue, tmp_path: Path) -> None:
    bart = small_bart(
        vocab_size=50265,
        d_model=768,
        max_position_embeddings=1024,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=12,
        decoder_attention_heads=12,
        encoder_ffn_dim=3072,
        decoder_ffn_dim=3072,
    )
    folder = save(bart, tmp_path / "theirs")
    del bart
    shape, params = params_of(folder, catalogue)
    export._write_weights(tmp_path, shape, params)  # write_folder would read it back once more
    with safe_open(folder / "model.safetensors", "np") as theirs:
        names = sorted(theirs.keys())
        with safe_open(tmp_path / "model.safetensors", "np") as found:
            assert names == sorted(found.keys())
            assert len(names) == 260
            for name in names:
                one, other = found.get_tensor(name), theirs.get_tensor(name)
                assert one.shape == other.shape
                assert one.tobytes() == other.tobytes(), name


def test_pytorch_misses_nothing_and_finds_nothing_unknown(bart, exported: Path) -> None:
    model, report = BartForConditionalGeneration.from_pretrained(exported, output_loading_info=True)
    assert not any(report.values()), report
    state = model.state_dict()
    assert state.keys() == bart.state_dict().keys()
    for name, expected in bart.state_dict().items():
        assert torch.equal(state[name], expected), name


def test_the_config_is_that_of_our_model(bart, ours, exported: Path, tmp_path: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "README.md"),
        *("tokenizer.json", "tokenizer_config.json", FILE),
    }
    assert not list(exported.parent.glob("*.part"))
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1
    config = json.loads((exported / "config.json").read_text())
    bart.config.save_pretrained(tmp_path)
    theirs = json.loads((tmp_path / "config.json").read_text())
    differing = {name for name in config if config[name] != theirs.get(name)}
    # Of torch's models the rates and the scale are those of small_bart, and `</s>` is forced.
    assert differing == {
        *("attention_dropout", "activation_dropout", "init_std", "forced_eos_token_id"),
        *POSITION_KEYS.values(),
    }
    assert config["forced_eos_token_id"] is None
    assert (config["decoder_start_token_id"], config["attention_dropout"]) == (2, 0.1)
    generation = GenerationConfig.from_pretrained(exported)
    assert generation.forced_bos_token_id is generation.forced_eos_token_id is None
    assert (generation.decoder_start_token_id, generation.eos_token_id) == (2, 2)
    found = dataclasses.asdict(read_shape(exported))
    assert found.items() <= dataclasses.asdict(ours[0]).items()


@pytest.mark.parametrize("reversed_positions", [False, True])
def test_the_snippet_of_the_model_card(
    reversed_positions: bool,
    ours,
    catalogue: Catalogue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run as it is written; what it feeds to PyTorch gives the logits of our model."""
    shape = dataclasses.replace(ours[0], reversed_positions=reversed_positions, longest_input=48)
    params, folder = ours[1], tmp_path / "folder"
    write_folder(folder, catalogue, shape, params, ORIGIN)
    assert read_positions(folder) == Positions(reversed_positions, 48)
    card = (folder / "README.md").read_text()
    assert ("counted from the end" in card) == reversed_positions
    assert card.count("```python") == 1
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(compile(code[1], "README.md", "exec"), names)

    table = catalogue.table
    graph, _ = abstract_model(shape, table.n_users, table.n_items)
    assert (names["user"], names["history"]) == (
        str(catalogue.user_ids[0]),
        list(map(str, catalogue.item_ids[:3])),
    )
    device_table = put_on_device(table)
    rows = append_mask(jnp.arange(3)[None], table.mask_row)
    sentence = encoder_input(device_table, jnp.zeros(1, int), rows, len(names["tokens"]))
    assert sentence.tokens[0].tolist() == names["tokens"]
    decoder_tokens = np.array([[table.eos, *table.tokens[5][: table.lengths[5]]]])
    run = jax.jit(lambda p: merge(graph, p)(sentence, jnp.asarray(decoder_tokens)))
    found = np.asarray(run(params))
    with torch.no_grad():
        expected = names["model"](
            inputs_embeds=names["embedded"], decoder_input_ids=torch.tensor(decoder_tokens)
        ).logits
    np.testing.assert_allclose(found, expected, atol=2e-5)
    bare = names["model"](
        input_ids=torch.tensor([names["tokens"]]), decoder_input_ids=torch.tensor(decoder_tokens)
    ).logits
    assert np.abs(found - bare.detach().numpy()).max() > 0.1  # the id tables matter
    other = dataclasses.replace(shape, reversed_positions=not reversed_positions)
    graph, _ = abstract_model(other, table.n_users, table.n_items)
    assert np.abs(found - merge(graph, params)(sentence, jnp.asarray(decoder_tokens))).max() > 0.01
    assert len(names["names"]) == 20


# ------------------------------------------------------------------------------------ tokenizer


def assert_same_sentence(folder: Path, catalogue: Catalogue) -> None:
    """The whole text against the tokens that the encoder sees."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    table, indexing = catalogue.table, catalogue.indexing
    device_table = put_on_device(table)
    users, items = indexing.user_names(), indexing.item_names()
    for user in range(0, table.n_users, 7):
        history = np.random.default_rng(user).integers(0, table.n_items, 4)
        rows = np.append(history, table.mask_row)
        masked = jnp.asarray(np.roll(rows, user % 5))[None]  # the mask between items too
        tokens = encoder_input(device_table, jnp.array([user]), masked, 48)
        words = [items[row] if row < table.n_items else "<mask>" for row in masked[0].tolist()]
        found = tokenizer(" ".join([users[user], *words]))["input_ids"]
        assert found == tokens.tokens[0][tokens.mask[0]].tolist()
    special = (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id)
    assert special == (table.bos, table.pad, catalogue.vocabulary.mask)
    assert (tokenizer.eos_token_id, len(tokenizer)) == (table.eos, catalogue.vocabulary.size)


def test_the_tokenizer_of_a_run_from_scratch(exported: Path, catalogue: Catalogue) -> None:
    assert_same_sentence(exported, catalogue)


def test_the_tokenizer_of_bart(bart_dir: Path, sequences: UserSequences, tmp_path: Path) -> None:
    indexing = make_indexing("published", sequences, seed=0)
    grown = Indexing("published", indexing.user_numbers * 367, indexing.item_numbers * 263)
    catalogue = Catalogue.build(sequences, grown, load_bart_tokenizer(bart_dir))
    shape = GenRecShape(50265, 8, 1, 1, 2, 2, 8, 8, 64)
    params = init_params(shape, catalogue.table.n_users, catalogue.table.n_items, seed=0)
    write_folder(tmp_path / "folder", catalogue, shape, params, ORIGIN)
    assert_same_sentence(tmp_path / "folder", catalogue)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    words = tokenizer.convert_ids_to_tokens(tokenizer("user_22 item_1234 <mask>")["input_ids"])
    assert words == ["<s>", "Ġuser", "_", "22", "Ġitem", "_", "12", "34", "<mask>", "</s>"]


# ------------------------------------------------------------------------------------ reading back


def test_the_id_tables_come_back_for_the_same_catalogue(
    ours, exported: Path, catalogue: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    vocabulary = FAMILY.vocabulary(exported)
    names = catalogue.indexing.item_names()
    assert vocabulary.encode(names) == catalogue.vocabulary.encode(names)
    with caplog.at_level(logging.INFO):
        params = started(ours[0], catalogue, exported)
    assert same_bits(params, ours[1])
    for kind, rows in (("user", 60), ("item", 40)):
        assert f"{kind} table: {rows} of {rows} rows from {exported}, 0 start anew\n" in caplog.text


def test_a_folder_is_whole_or_not_there(
    ours, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "folder"
    write = export._write_weights

    def one_bit_wrong(folder: Path, shape: GenRecShape, params: Params) -> None:
        bias = params["final_logits_bias"]
        write(folder, shape, {**params, "final_logits_bias": bias.at[3].add(1e-3)})

    monkeypatch.setattr(export, "_write_weights", one_bit_wrong)
    with pytest.raises(InputError, match="final_logits_bias reads back differently"):
        write_folder(output, catalogue, *ours, ORIGIN)
    assert not list(tmp_path.iterdir())
    # What a killed command left is started over; what somebody else put there is not touched.
    monkeypatch.undo()
    draft = tmp_path / "folder.part"
    draft.mkdir()
    (draft / "mine.txt").touch()
    with pytest.raises(InputError, match=r"folder\.part is needed for the work"):
        write_folder(output, catalogue, *ours, ORIGIN)
    (draft / export.DRAFT).touch()
    write_folder(output, catalogue, *ours, ORIGIN)
    assert list(tmp_path.iterdir()) == [output]
    assert not (output / export.DRAFT).exists()


# ------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert train_main(["main", CONFIG, f"--workdir={folder}", *SMALL_MODEL]) == 0
    return folder


def command(*arguments: object) -> int:
    return main(["export", *map(str, arguments)])


def test_a_run_becomes_a_folder_and_a_run_again(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = Catalogue.load(RunFolder(run).identifiers)
    table = catalogue.table
    shape = RunFolder(run).read_shape()
    _, like = abstract_model(shape, table.n_users, table.n_items)
    with Checkpoints(RunFolder(run).checkpoints) as checkpoints:
        best, steps = checkpoints.best(), checkpoints.steps()
        saved = {step: checkpoints.params(step, like) for step in steps}
    for step in {best, steps[-1]}:
        output = tmp_path / str(step)
        flags = [] if step == best else [f"--step={step}"]
        capsys.readouterr()
        assert command(f"--workdir={run}", f"--output={output}", *flags) == 0
        printed = capsys.readouterr().out
        assert (
            f"the id tables of 30 users and 25 items, and the tokenizer, from step {step}"
            in printed
        )
        assert "read back, every bit is the same" in printed
        assert f"step {step} of the run\n`tiny`" in (output / "README.md").read_text()
        assert str(run) not in (output / "README.md").read_text()
        assert same_bits(started(shape, catalogue, output), saved[step])

    # Another run goes on from it, with the same catalogue.
    again = tmp_path / "again"
    pretrained = f"--config.model.pretrained={tmp_path / str(best)}"
    assert train_main(["main", CONFIG, f"--workdir={again}", pretrained, *SMALL_MODEL]) == 0
    printed = capsys.readouterr().out
    for kind, rows in (("user", 30), ("item", 25)):
        line = f"{kind} table: {rows} of {rows} rows from {tmp_path / str(best)}, 0 start anew\n"
        assert line in printed
    assert RunFolder(again).read_shape() == shape


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert command(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("error: ")
    return captured.err


def test_wrong_flags(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workdir, new = f"--workdir={run}", f"--output={tmp_path / 'new'}"
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").touch()
    for arguments, expected in (
        ([workdir], "--output: found none, expected --output=FOLDER"),
        ([new], "--workdir: found none, expected --workdir=RUN"),
        ([workdir, new, "--stpe=1"], "--stpe: no such flag; did you mean --step?"),
        ([workdir, new, "--step=x"], "--step=x: expected a whole number"),
        ([workdir, new, "--step=99"], "no checkpoint of step 99, found: "),
        ([f"--workdir={tmp_path / 'no'}", new], "found no run.json, expected a run's folder"),
        ([workdir, f"--output={full}"], f"{full}: the folder is not empty, expected a new one"),
        ([workdir, f"--output={full / 'thesis.tex'}"], "found a file, expected a folder to write"),
    ):
        assert expected in fails(capsys, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert command("--help") == 0
    assert "--output=FOLDER" in capsys.readouterr().out


def test_the_command_needs_no_pytorch(run: Path, tmp_path: Path) -> None:
    script = (
        WITHOUT_TORCH + "import runpy\n"
        "sys.argv.insert(1, 'export')\n"
        "try: runpy.run_module('genrec_jax', run_name='__main__')\n"
        "except SystemExit as stopped: assert stopped.code == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    flags = [f"--workdir={run}", f"--output={tmp_path / 'folder'}"]
    done = subprocess.run(
        [sys.executable, "-c", script, *flags],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1, done.stdout
    assert (tmp_path / "folder" / "model.safetensors").is_file()
