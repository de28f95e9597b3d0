"""Exports can be loaded by PyTorch and read back by us, with every name and every bit the same."""

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
    """Return the initial parameters of a training from the folder, with another seed."""
    vectors = np.zeros((catalogue.n_items, 1))
    return FAMILY.start_params(Config(seed=9), shape, catalogue, folder, lambda *_: vectors)


def params_of(folder: Path, catalogue: Catalogue, seed: int = 3) -> tuple[GenRecShape, Params]:
    """Return a checkpoint's shape and weights, with random id tables for the catalogue."""
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
    """Read the type, shape and bytes of every tensor, by name."""
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
    """After PyTorch → ours → PyTorch, the whole file is the same, not only each tensor."""
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
    export._write_weights(tmp_path, shape, params)  # write_folder would also read it back
    with safe_open(folder / "model.safetensors", "np") as theirs:
        names = sorted(theirs.keys())
        with safe_open(tmp_path / "model.safetensors", "np") as found:
            assert names == sorted(found.keys())
            assert len(names) == 260
            for name in names:
                one, other = found.get_tensor(name), theirs.get_tensor(name)
                assert one.shape == other.shape
                assert one.tobytes() == other.tobytes(), name


def test_pytorch_finds_no_missing_and_no_unexpected_tensor(bart, exported: Path) -> None:
    model, report = BartForConditionalGeneration.from_pretrained(exported, output_loading_info=True)
    assert not any(report.values()), report
    state = model.state_dict()
    assert state.keys() == bart.state_dict().keys()
    for name, expected in bart.state_dict().items():
        assert torch.equal(state[name], expected), name


def test_the_exported_config_describes_our_model(
    bart, ours, exported: Path, tmp_path: Path
) -> None:
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
    # small_bart has other dropout rates and another init_std, and forces `</s>` at the end.
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
def test_the_example_of_the_model_card(
    reversed_positions: bool,
    ours,
    catalogue: Catalogue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The example runs unchanged, and PyTorch has the logits of our model for its input."""
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
    variables: dict[str, object] = {}
    exec(compile(code[1], "README.md", "exec"), variables)

    table = catalogue.table
    graph, _ = abstract_model(shape, table.n_users, table.n_items)
    assert (variables["user"], variables["history"]) == (
        str(catalogue.user_ids[0]),
        list(map(str, catalogue.item_ids[:3])),
    )
    device_table = put_on_device(table)
    rows = append_mask(jnp.arange(3)[None], table.mask_row)
    sequence = encoder_input(device_table, jnp.zeros(1, int), rows, len(variables["tokens"]))
    assert sequence.tokens[0].tolist() == variables["tokens"]
    decoder_tokens = np.array([[table.eos, *table.tokens[5][: table.lengths[5]]]])
    run = jax.jit(lambda p: merge(graph, p)(sequence, jnp.asarray(decoder_tokens)))
    logits = np.asarray(run(params))
    with torch.no_grad():
        expected = variables["model"](
            inputs_embeds=variables["embedded"], decoder_input_ids=torch.tensor(decoder_tokens)
        ).logits
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    without_ids = variables["model"](
        input_ids=torch.tensor([variables["tokens"]]),
        decoder_input_ids=torch.tensor(decoder_tokens),
    ).logits
    assert np.abs(logits - without_ids.detach().numpy()).max() > 0.1  # the id tables matter
    other = dataclasses.replace(shape, reversed_positions=not reversed_positions)
    graph, _ = abstract_model(other, table.n_users, table.n_items)
    assert np.abs(logits - merge(graph, params)(sequence, jnp.asarray(decoder_tokens))).max() > 0.01
    assert len(variables["identifiers"]) == 20


def test_the_tables_of_the_model_card(exported: Path) -> None:
    """The card is Markdown with one table, of one line per row."""
    lines = (exported / "README.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 6
    assert all(line.count("|") == 5 for line in rows)
    assert not [line for line in lines if "|" in line and line not in rows]
    assert "from step 7 of the run `test`" in "\n".join(lines)


# ------------------------------------------------------------------------------------ tokenizer


def check_tokenizer(folder: Path, catalogue: Catalogue) -> None:
    """Check that the exported tokenizer turns whole texts into the encoder's input tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    table, indexing = catalogue.table, catalogue.indexing
    device_table = put_on_device(table)
    users, items = indexing.user_identifiers(), indexing.item_identifiers()
    for user in range(0, table.n_users, 7):
        history = np.random.default_rng(user).integers(0, table.n_items, 4)
        rows = np.append(history, table.mask_row)
        masked = jnp.asarray(np.roll(rows, user % 5))[None]  # also with the mask between items
        expected = encoder_input(device_table, jnp.array([user]), masked, 48)
        texts = [items[row] if row < table.n_items else "<mask>" for row in masked[0].tolist()]
        tokens = tokenizer(" ".join([users[user], *texts]))["input_ids"]
        assert tokens == expected.tokens[0][expected.mask[0]].tolist()
    special = (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id)
    assert special == (table.bos, table.pad, catalogue.vocabulary.mask)
    assert (tokenizer.eos_token_id, len(tokenizer)) == (table.eos, catalogue.vocabulary.size)


def test_the_tokenizer_of_a_run_from_scratch(exported: Path, catalogue: Catalogue) -> None:
    check_tokenizer(exported, catalogue)


def test_the_tokenizer_of_bart(bart_dir: Path, sequences: UserSequences, tmp_path: Path) -> None:
    indexing = make_indexing("published", sequences, seed=0)
    large = Indexing("published", indexing.user_numbers * 367, indexing.item_numbers * 263)
    catalogue = Catalogue.build(sequences, large, load_bart_tokenizer(bart_dir))
    shape = GenRecShape(50265, 8, 1, 1, 2, 2, 8, 8, 64)
    params = init_params(shape, catalogue.table.n_users, catalogue.table.n_items, seed=0)
    write_folder(tmp_path / "folder", catalogue, shape, params, ORIGIN)
    check_tokenizer(tmp_path / "folder", catalogue)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("user_22 item_1234 <mask>")["input_ids"])
    assert tokens == ["<s>", "Ġuser", "_", "22", "Ġitem", "_", "12", "34", "<mask>", "</s>"]


# ------------------------------------------------------------------------------------ reading back


def test_the_same_catalogue_takes_all_rows_of_the_id_tables(
    ours, exported: Path, catalogue: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    vocabulary = FAMILY.vocabulary(exported)
    identifiers = catalogue.indexing.item_identifiers()
    assert vocabulary.encode(identifiers) == catalogue.vocabulary.encode(identifiers)
    with caplog.at_level(logging.INFO):
        params = started(ours[0], catalogue, exported)
    assert same_bits(params, ours[1])
    for kind, rows in (("user", 60), ("item", 40)):
        line = (
            f"{kind} table: {rows} of {rows} rows taken from {exported}, 0 initialised randomly\n"
        )
        assert line in caplog.text


def test_a_failed_export_leaves_no_folder(
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
    # The files of a killed command are deleted, but no others.
    monkeypatch.undo()
    draft = tmp_path / "folder.part"
    draft.mkdir()
    (draft / "mine.txt").touch()
    with pytest.raises(InputError, match=r"found .*folder\.part, expected that name to be free"):
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


def test_export_a_run_and_train_from_the_folder(
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
        assert f"exported step {step} to {output}: " in printed
        assert "the id tables of 30 users and 25 items, and the tokenizer" in printed
        assert "verified bit for bit" in printed
        assert f"step {step} of the run `tiny`" in (output / "README.md").read_text()
        assert str(run) not in (output / "README.md").read_text()
        assert same_bits(started(shape, catalogue, output), saved[step])

    # Another run with the same catalogue starts from the folder.
    new = tmp_path / "new"
    pretrained = f"--config.model.pretrained={tmp_path / str(best)}"
    assert train_main(["main", CONFIG, f"--workdir={new}", pretrained, *SMALL_MODEL]) == 0
    printed = capsys.readouterr().out
    for kind, rows in (("user", 30), ("item", 25)):
        line = (
            f"{kind} table: {rows} of {rows} rows taken from {tmp_path / str(best)}, 0 initialised"
        )
        assert f"{line} randomly\n" in printed
    assert RunFolder(new).read_shape() == shape


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
        ([f"--workdir={tmp_path / 'no'}", new], "found no run.json, expected "),
        ([workdir, f"--output={full}"], f"--output={full}: found a folder with files, expected"),
        ([workdir, f"--output={full / 'thesis.tex'}"], "found a file, expected a new folder"),
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
