"""What each graph of a bundle takes and gives: names, dtypes, shapes. N and M are free, the rest is fixed.

N: particles. M: rows of tokens, 1 or N, where the bundle says that it takes as many (`Latent.own_tokens`).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from rssm_ros.bundle import Bundle, BundleError, Latent

Tensor = tuple[str, str, tuple[int | None, ...]]  # name, dtype, shape; None is free
F32, I64, BOOL, U8 = "float", "int64", "bool", "uint8"


class Described(Protocol):
    """How onnxruntime describes an input or output."""

    name: str
    type: str
    shape: list[int | str]


def signatures(bundle: Bundle) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """file -> (inputs, outputs), for every graph a bundle must hold."""
    latent = bundle.latent
    state: list[Tensor] = [
        ("deter", F32, (None, latent.deter)),
        ("stoch", _sample(latent), (None, latent.stoch)),
    ]
    noise: list[Tensor] = [("noise", F32, (None, latent.stoch))]
    driven = [*state, ("action", F32, (None, latent.action)), ("is_first", BOOL, (None,)), *noise]
    prior, posterior = _outcome(latent, False), _outcome(latent, True)
    seen: list[Tensor] = []
    m = None if latent.own_tokens else 1
    for name, size in latent.tokens.items():
        seen += [(f"tokens_{name}", F32, (m, size)), (f"presence_{name}", BOOL, (m,))]
    images = [spec for spec in bundle.contract.observations if spec.kind == "image"]
    table: dict[str, tuple[list[Tensor], list[Tensor]]] = {
        f"encode_{spec.name}.onnx": (
            [("value", U8 if spec.kind == "image" else F32, (1, *spec.shape))],
            [("tokens", F32, (1, latent.tokens[spec.name]))],
        )
        for spec in bundle.contract.observations
    }
    table["filter.onnx"] = ([*driven, *seen], posterior)
    table["predict.onnx"] = (driven, prior)
    table["actor.onnx"] = (state, [("mean", F32, (None, latent.action)), ("std", F32, (None, latent.action))])
    table["decoder.onnx"] = (state, [(spec.name, F32, (None, *spec.shape)) for spec in images])
    table["rollout.onnx"] = _rollout(latent, state)
    return table


def outputs_of(bundle: Bundle, graph: str) -> list[str]:
    """The names of what a graph gives, by its file's stem."""
    return [name for name, *_ in signatures(bundle)[f"{graph}.onnx"][1]]


def _sample(latent: Latent) -> str:
    return F32 if latent.kind == "gaussian" else I64


def _outcome(latent: Latent, corrected: bool) -> list[Tensor]:
    probs = (None, latent.stoch, latent.parameters)
    outputs: list[Tensor] = [
        ("next_deter", F32, (None, latent.deter)),
        ("next_stoch", _sample(latent), (None, latent.stoch)),
        ("prior", F32, probs),
        ("prior_entropy", F32, (None,)),
        ("reward", F32, (None,)),
        ("continue", F32, (None,)),
    ]
    if corrected:
        outputs += [
            ("posterior", F32, probs),
            ("surprise", F32, (None,)),
            ("posterior_entropy", F32, (None,)),
        ]
        outputs += [("log_weight", F32, (None,))] if latent.weighs else []
    for name, size in latent.targets.items():
        outputs += [(f"target_{name}_{part}", F32, (None, size)) for part in ("mean", "std")]
    return outputs


def _rollout(latent: Latent, state: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    h = latent.horizon
    inputs = [*state, ("actions", F32, (None, h, latent.action)), ("noise", F32, (None, h, latent.stoch))]
    outputs: list[Tensor] = [("returns", F32, (None,)), ("values", F32, (None,))]
    return inputs, [*outputs, *((f"target_{name}", F32, (None, h, d)) for name, d in latent.targets.items())]


def check_signature(path: Path, found: Iterable[Described], expected: list[Tensor], kind: str) -> None:
    """Raises BundleError naming file and tensor where a graph is not what the bundle says it is."""
    described = {item.name: item for item in found}
    for name, dtype, shape in expected:
        if name not in described:
            raise BundleError(
                f"{path}: {kind} {name!r} is missing; export the bundle again with this version"
            )
        item = described.pop(name)
        fixed = [size for size in item.shape if isinstance(size, int)]
        if (
            item.type != f"tensor({dtype})"
            or len(item.shape) != len(shape)
            or fixed != [s for s in shape if s]
        ):
            raise BundleError(
                f"{path}: {kind} {name!r} is {item.type} {item.shape}, expected tensor({dtype}) "
                f"{[size or 'N' for size in shape]}; export the bundle again with this version"
            )
    if described:
        raise BundleError(
            f"{path}: unexpected {kind} {sorted(described)}; export the bundle again with this version"
        )
