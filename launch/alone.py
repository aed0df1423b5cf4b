"""Programs that one process can run by itself, in the middle of a cluster that has set variables for others."""

import os
import sys
from collections.abc import Mapping

from launch.environment import Environment, LaunchError, detect

_SIZES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")  # of what srun or mpirun started


def rank_or_alone(variables: Mapping[str, str] = os.environ) -> Environment:
    """This process's place among the ranks that a launcher started; a run of its own, with a line that says so, where none did.

    A shell of a SLURM allocation knows of its tasks (SLURM_NTASKS=8), a pod of Kubernetes' operators of the other pods (RANK,
    WORLD_SIZE, MASTER_ADDR), though nobody started this program there more than once. Raises LaunchError for a rank of several
    whose variables make no sense.
    """
    try:
        environment = detect(variables)
    except LaunchError as error:
        if "LOCAL_RANK" in variables or any(variables.get(size, "1") != "1" for size in _SIZES):
            raise
        print(f"note: this process works alone, as no launcher started it ({error})", file=sys.stderr)
        return Environment()
    return environment
