"""Write a run as a Hugging Face folder.

PyTorch's BART loads the folder, and --config.model.pretrained=FOLDER trains on from it. It holds
weights, config, tokenizer, the id tables, and a README that says how they are used.
"""

from pathlib import Path
from types import SimpleNamespace

from genrec_jax.cli.command import Command
from genrec_jax.cli.runs import FINISHED, STEP
from genrec_jax.core.flags import Flag


def run(given: SimpleNamespace) -> None:
    from genrec_jax.models.contract import StoredRun
    from genrec_jax.runs.checkpoint import Checkpoints
    from genrec_jax.runs.model import ModelSetup
    from genrec_jax.runs.run_folder import RunFolder

    folder = RunFolder(given.workdir)
    config = folder.read_config()
    setup = ModelSetup.load(folder, config)
    catalogue = setup.catalogue
    _, like = setup.graph_and_like
    with Checkpoints(folder.checkpoints) as checkpoints:
        step = checkpoints.best() if given.step is None else given.step
        params = checkpoints.params(step, like)
    name = folder.path.resolve().name
    stored = StoredRun(name, step, config.data.name, catalogue, setup.shape, params)
    setup.family.export(stored, given.output)


main = Command(
    "export",
    "--workdir=RUN --output=FOLDER [--step=N]",
    __doc__ or "",
    run,
    (
        FINISHED,
        Flag(
            "output", "The folder to write, new or empty.", Path, expected="FOLDER", required=True
        ),
        STEP,
    ),
)
