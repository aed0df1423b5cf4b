"""Fine-tuning: which parts of a network stay as they are, how fast the others learn, and what there is to say about it."""

from collections.abc import Iterator

from engine.config.options import Config, ConfigError, OptimizerConfig
from inception.registry import nearest
from inception.vocabulary.network import Network


def stages_to_freeze(text: str, network: Network) -> list[str]:
    """The stages that `text` names: "stem", "stem..inception_b4" with all that lie between, or several, with commas.

    ConfigError, with the names of all stages, for one that the network does not have.
    """
    names = list(network.stages)
    chosen = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        first, dots, last = word.partition("..")
        ends = [first or names[0], (last or names[-1]) if dots else first]
        for name in ends:
            if name not in names:
                raise ConfigError(
                    f"option --network.freeze: {network.name} has no stage {name!r}{nearest(name, names)}; its stages are "
                    f"{', '.join(names)}"
                )
        begin, end = (names.index(name) for name in ends)
        if begin > end:
            raise ConfigError(
                f"option --network.freeze: {ends[0]} comes after {ends[1]} in {network.name}; write {ends[1]}..{ends[0]}"
            )
        chosen.update(names[begin : end + 1])
    return [name for name in names if name in chosen]


def learning_rate_scales(network: Network, options: OptimizerConfig) -> dict[str, float]:
    """By the name of a stage or head, what the run's learning rate is multiplied with for its weights.

    1 for all without `head_lr` and `layer_decay`. Stages without weights (poolings) are no step of the decay.
    """
    stages = [name for name in network.stages if any(True for _ in getattr(network, name).parameters())]
    head = 1.0 if options.head_lr is None else options.head_lr / options.lr
    scales = {name: head for name, _ in network.named_children()}
    return scales | {name: options.layer_decay ** (len(stages) - place) for place, name in enumerate(stages)}


def what_learns(network: Network, config: Config) -> Iterator[str]:
    """What is frozen and what learns at another rate, a line each."""
    optimizer = config.optimizer
    if network.frozen or network.frozen_batch_norm:
        parameters = list(network.parameters())
        kept = sum(p.numel() for p in parameters if not p.requires_grad) / 1e6
        parts = [*network.frozen, *(["every batch normalisation"] if network.frozen_batch_norm else [])]
        fresh = "" if config.network.weights else ", as drawn unless a checkpoint brings others: no --network.weights"
        total = sum(p.numel() for p in parameters) / 1e6
        yield f"frozen: {', '.join(parts)} ({kept:.2f} of {total:.2f} M parameters{fresh})"
    scales = learning_rate_scales(network, optimizer)
    if any(scale != 1 for scale in scales.values()):
        learning = {name: scales[name] for name in network.stages if name in scales and name not in network.frozen}
        slowest = min(learning, key=lambda name: learning[name], default="")
        stages = f", of {slowest} {learning[slowest]:.4g} times" if slowest and learning[slowest] != 1 else ""
        yield f"learning rates: of the heads {scales['classifier']:.4g} times the run's{stages}"
