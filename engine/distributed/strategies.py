"""The strategies by name: who speaks with whom, and how a step is shared."""

from engine.config.options import ConfigError, StrategyConfig
from engine.distributed.communicator import Communicator
from engine.distributed.cores import divide_cores
from engine.distributed.device import choose_device
from engine.distributed.parallelism import Parallelism
from launch.environment import Environment

# What ranks of a run with a watchdog wait for each other beyond its limit: it ends those that hang, and knows those that
# were suspended, which connections do not [seconds].
SUSPENSION = 86_400.0


def join(
    environment: Environment, options: StrategyConfig, device: str = "auto", *, watched: bool = False
) -> Communicator:
    """This rank's communicator, on its `device` (auto, cpu or cuda), once all ranks have met; one alone has nobody to meet.

    `watched`: a watchdog ends ranks that hang, so that the connections need not.

    Raises ConfigError when `options` do not fit how the run was started.
    """
    name = resolve(options.name, environment)
    chosen = choose_device(environment, device)
    if name == "single":
        return Communicator(environment, chosen)
    from engine.distributed.process_group import ProcessGroup

    communicator = ProcessGroup(environment, chosen, options.timeout + (SUSPENSION if watched else 0.0))
    divide_cores(communicator)
    return communicator


def create_parallelism(communicator: Communicator, options: StrategyConfig) -> Parallelism:
    """How the ranks of `communicator` share a step, as `options` name it."""
    name = resolve(options.name, communicator.environment)
    if name == "ddp":
        from engine.distributed.ddp import DataParallelism

        return DataParallelism(communicator, options)
    if name == "deepspeed":
        from engine.distributed.deepspeed import DeepSpeedParallelism

        return DeepSpeedParallelism(communicator, options)
    return Parallelism(communicator, options)


def resolve(name: str, environment: Environment) -> str:
    """single, ddp or deepspeed. Raises ConfigError when it does not fit how the run was started."""
    if name == "auto":
        name = "ddp" if environment.distributed else "single"
    if name == "single" and environment.world_size > 1:
        raise ConfigError(
            f"--strategy.name single cannot use {environment.world_size} processes: start one, or use ddp"
        )
    if name != "single" and not environment.distributed:
        raise ConfigError(f"--strategy.name {name} needs a launcher: torchrun --nproc_per_node=N engine/train.py")
    return name
