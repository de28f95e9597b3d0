"""Write a run as a Hugging Face folder.

The folder contains the weights, the config, the tokenizer, the id tables, and a README that
explains their use. PyTorch's BART can load it, and --config.model.pretrained=FOLDER starts training
from it.
"""

from pathlib import Path
from types import SimpleNamespace

from genrec_jax.cli.command import Command
from genrec_jax.cli.runs import REQUIRED_WORKDIR, STEP
from genrec_jax.core.flags import Flag


def run(arguments: SimpleNamespace) -> None:
    """Run the command."""
    from genrec_jax.models.contract import StoredRun
    from genrec_jax.runs.checkpoint import Checkpoints
    from genrec_jax.runs.model import ModelSetup
    from genrec_jax.runs.run_folder import RunFolder

    folder = RunFolder(arguments.workdir)
    config = folder.read_config()
    setup = ModelSetup.load(folder, config)
    catalogue = setup.catalogue
    _, like = setup.graph_and_like
    with Checkpoints(folder.checkpoints) as checkpoints:
        step = checkpoints.best() if arguments.step is None else arguments.step
        params = checkpoints.params(step, like)
    name = folder.path.resolve().name
    stored = StoredRun(name, step, config.data.name, catalogue, setup.shape, params)
    setup.family.export(stored, arguments.output)


main = Command(
    "export",
    "--workdir=RUN --output=FOLDER [--step=N]",
    __doc__ or "",
    run,
    (
        REQUIRED_WORKDIR,
        Flag(
            "output",
            "The folder to write, which must be new or empty.",
            Path,
            expected="FOLDER",
            required=True,
        ),
        STEP,
    ),
)
