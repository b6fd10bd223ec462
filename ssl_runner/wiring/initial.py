"""Puts the weights of any run's or file's encoder into an encoder, before teachers are copied from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.config.hashing import setting_hash
from ssl_runner.config.schema import Config
from ssl_runner.config.signatures import SPECIAL_KEYS
from ssl_runner.config.stored import read_config, run_around
from ssl_runner.config.targets import locate
from ssl_runner.data.dataset import Splits
from ssl_runner.errors import ConfigError, InvalidValue
from ssl_runner.models.initial_weights import InitialWeights, load_weights, read_weights, timm_weights
from ssl_runner.models.network import Encoder
from ssl_runner.models.timm_encoder import Timm, refuse_unknown
from ssl_runner.runs import encoder_names, run_folder
from ssl_runner.runs.encoder_names import EncoderName
from ssl_runner.training.begun import Begun

NODE = "model.encoder"


def encoder_node(config: Config) -> Config:
    """The node of the encoder, which must not fetch weights of its own if others are given.

    Raises:
        ConfigError: It would.
    """
    node, word = config["model"]["encoder"], config["init"]["weights"]
    if word is not None and node.get("pretrained"):
        raise ConfigError(
            [f"{NODE}.pretrained=true, but the encoder begins from init={word}; set {NODE}.pretrained=false"]
        )
    return node


def begin(encoder: Encoder, config: Config) -> Begun | None:
    """Load the weights that a config names into the encoder, if it names some.

    A run that is resumed needs them no more: its checkpoint has its own.

    Args:
        encoder: Built, with its weights drawn.
        config: Checked; its ``init.weights`` are as `ssl_runner.cli.initial.settled` leaves them, or as typed.

    Raises:
        ConfigError: There are no such weights, they do not fit, or they have changed.
    """
    init, node = config["init"], config["model"]["encoder"]
    word = init["weights"]
    if word is None:
        if init["freeze"]:
            raise ConfigError(["init.freeze=true keeps the encoder as it is, which is random; give init=RUN, too"])
        return None
    facts = {"weights": word, "fingerprint": init["fingerprint"], "freeze": init["freeze"]}
    drawn = {name: value.clone() for name, value in encoder.state_dict().items()}
    if config["resume"] not in (None, "auto"):
        return Begun(facts | _earlier(Path(config["resume"])), drawn)
    try:
        name = encoder_names.parse_weights(word)
        weights = _read(name, encoder, node, init["fingerprint"])
    except InvalidValue as error:
        if config["resume"] == "auto":  # whether there is something to go on from is not known yet
            return Begun(facts, drawn, f"init: {error}")
        raise ConfigError([f"init: {error}"]) from None
    try:
        load_weights(encoder, weights)
    except InvalidValue as error:
        raise ConfigError([f"init: {word}: {error}; {_remedy(weights, encoder, node)}"]) from None
    facts |= {"kind": name.kind, "fingerprint": weights.fingerprint} | weights.facts
    differing = {} if weights.node is None else _differing(weights.node, node)
    return Begun(facts | ({"encoder": differing} if differing else {}), drawn)


def freeze(algorithm: Algorithm, frozen: bool) -> None:
    """Keep the encoder as it is, if wished."""
    if frozen:
        algorithm.freeze()


def cautions(begun: Begun | None, method: type[Algorithm], splits: Splits) -> tuple[str, ...]:
    """Sentences on what the encoder begins from that cast doubt on the result."""
    if begun is not None:
        seen = begun.caution(splits)
        return () if seen is None else (seen,)
    if not method.begins_from_weights:
        return ()
    return (
        f"{method.__name__} goes on from pre-trained weights, but this encoder begins from random ones; train it "
        "first, say by experiment=simclr_tiny_imagenet dataset.split=classes, and give that run: init=outputs/NAME/RUN",
    )


def _earlier(run: Path) -> dict[str, Any]:
    """What the result of a run that is resumed says already."""
    try:
        return json.loads((run / run_folder.RESULT).read_text(encoding="utf-8")).get("init") or {}
    except (OSError, ValueError, AttributeError):
        return {}


def _read(name: EncoderName, encoder: Encoder, node: Config, expected: str | None) -> InitialWeights:
    weights = None if name.file is None else read_weights(name.file, name.product)
    found = name.word if weights is None else weights.fingerprint
    if expected not in (None, found):
        raise InvalidValue(
            f"{name.word} has the fingerprint {found}, expected {expected}; restore the weights, or set "
            "init.fingerprint=null to begin from those that are there"
        )
    if name.kind != "timm":
        assert weights is not None
        return _with_run(weights, name)
    refuse_unknown(name.model, name.word)
    base = name.model.partition(".")[0] if ":" not in name.model else name.model
    chosen = str(node.get("name", ""))
    if locate(node["_target_"]) is not Timm or (chosen.partition(".")[0] != base and chosen != base):
        raise InvalidValue(
            f"{name.word} is not {NODE} ({type(encoder.backbone).__name__} {chosen}".rstrip()
            + f"); set model/encoder=timm {NODE}.name={name.model}"
        )
    return timm_weights(name.model, name.path, encoder, node["arguments"])


def _with_run(weights: InitialWeights, name: EncoderName) -> InitialWeights:
    """The weights with what the run says whose folder they are in, if they are in one."""
    folder = name.path if name.kind == "run" or name.path is None else run_around(name.path)
    if folder is None or name.kind == "timm":
        return weights
    config: Any = OmegaConf.to_container(read_config(folder / "config.yaml", name.word))
    run: dict[str, Any] = {"folder": str(folder), "name": config.get("name")}
    facts = weights.facts | {"run": run}
    try:
        result = json.loads((folder / run_folder.RESULT).read_text(encoding="utf-8"))
        data, earlier = result["dataset"], result.get("init", {"sources": []})
        run |= {"config_hash": result["config_hash"], "seed": result["seed"]}
        run["setting"] = setting_hash(config, earlier.get("run", {}).get("setting"))
        facts |= {"split_by": data["split_by"], "data": data["fingerprint"]}
        if earlier.get("sources") is not None:
            facts = {"sources": sorted({data["name"], *earlier["sources"]})} | facts  # what a file says is more exact
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # damaged, or of an earlier version
        pass
    return InitialWeights(weights.state, weights.node or config["model"]["encoder"], facts)


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The keys that two nodes have with different values."""
    keys = [key for key in theirs if key in ours and theirs[key] != ours[key] and key not in SPECIAL_KEYS]
    return {key: [theirs[key], ours[key]] for key in keys}


def _remedy(weights: InitialWeights, encoder: Encoder, node: Config) -> str:
    """What to set so that weights fit."""
    remedies = []
    theirs, shape = weights.node, weights.facts.get("input_shape")
    if theirs is not None and (theirs["_target_"] != node["_target_"] or _differing(theirs, node)):
        remedies.append(f"set {' '.join(_words(theirs))}")
    if shape is not None and tuple(shape) != encoder.input_shape:
        before, now = (" x ".join(map(str, one)) for one in (shape, encoder.input_shape))
        remedies.append(
            f"they were trained on images of {before}, these are {now}: set dataset.size={shape[1]} "
            f"dataset.channels={shape[0]}"
        )
    return " and ".join(remedies) or "choose the model/encoder that they belong to, and give names and shapes as it has"


def _words(node: Mapping[str, Any]) -> list[str]:
    """The words of a command line that select an encoder: the nearest option, and the values that it lacks."""
    from ssl_runner.cli.compose import spell
    from ssl_runner.cli.search_path import conf_folder, plugin_folders

    found = []
    for folder in (conf_folder(), *plugin_folders()):
        for path in sorted((folder / "model" / "encoder").glob("*.yaml")):
            option = yaml.safe_load(path.read_text(encoding="utf-8"))
            if option["_target_"] == node["_target_"]:
                values = {key: value for key, value in node.items() if key in option and option[key] != value}
                found.append([f"model/encoder={path.stem}", *(f"{NODE}.{k}={spell(v)}" for k, v in values.items())])
    return min(found, key=len, default=[f"{NODE} to {json.dumps(dict(node))}"])
