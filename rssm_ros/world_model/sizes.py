"""Sizes of a world model and the named presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from rssm_ros.contract import Contract
from rssm_ros.world_model.errors import WorldModelError

CHOICES = {
    "conv": ("strided", "exact", "map"),
    "latent": ("categorical", "gaussian"),
    "posterior": ("concat", "product"),
    "gru": ("standard", "normed"),
    "activation": ("silu", "relu", "elu"),
}


# Numbers that a grounded latent has for each number of the targets (`grounded`).
CODE = 5


@dataclass(frozen=True)
class Sizes:
    """Numbers that shape the network. Names follow DreamerV3; see `PRESETS` for the published
    combinations."""

    deter: int  # deterministic recurrent state
    hidden: int  # width of the layers inside the RSSM
    stoch: int  # groups of the latent
    classes: int  # classes per group; 1 for a Gaussian latent
    blocks: int  # blocks of the block-diagonal GRU; 0: the plain GRU of the generations before DreamerV3
    depth: int  # convolution channels before `multipliers`
    units: int  # width of the vector encoders and of every head
    # "strided"; "exact": DreamerV3's stride 1 + max-pool, nearest x2 + convolution; or "map", which halves a
    # picture only once: a feature map whose cells are places.
    conv: str = "strided"
    multipliers: tuple[int, ...] = (2, 3, 4, 4)
    kernel: int = 5
    encoder_layers: int = 3
    behavior_layers: int = 3
    target_layers: int = 2
    unimix: float = 0.01
    latent: str = "categorical"  # or "gaussian"
    posterior: str = "concat"  # Dreamer's, on concat[deter, tokens]; or "product": every modality an expert
    prior_layers: int = 2
    gru: str = "standard"  # of the plain core: or "normed", DreamerV2's with layer normalisation
    activation: str = "silu"  # inside the RSSM
    normed: bool = True  # RMSNorm inside the RSSM's layers
    grounded: bool = False  # the latent is the target itself and how it moves (`grounded`)

    def __post_init__(self) -> None:
        """Refuse combinations that no tensor could have."""
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise WorldModelError(f"sizes: {name} is {getattr(self, name)!r}, expected one of {known}")
        for name in ("deter", "hidden", "stoch", "classes", "depth", "units", "prior_layers"):
            if getattr(self, name) < 1:
                raise WorldModelError(f"sizes: {name} is {getattr(self, name)}, expected at least 1")
        if self.latent == "gaussian" and self.classes != 1:
            raise WorldModelError(f"sizes: a Gaussian latent has 1 class a group, not {self.classes}")
        if self.blocks < 0 or (self.blocks and self.deter % self.blocks):
            raise WorldModelError(f"sizes: deter {self.deter} is no multiple of blocks {self.blocks}")
        odd = self.latent != "gaussian" or self.blocks or self.stoch % CODE or self.deter <= self.stoch
        if self.grounded and odd:
            raise WorldModelError(
                f"sizes: a grounded latent is Gaussian, with {CODE} groups for each number of the targets, "
                "on a plain core (blocks 0) with deter > stoch"
            )
        if not 0.0 <= self.unimix < 1.0:
            raise WorldModelError(f"sizes: unimix is {self.unimix}, expected 0 <= unimix < 1")

    @property
    def stoch_flat(self) -> int:
        """Length of the flattened sample, S K."""
        return self.stoch * self.classes

    @property
    def stoch_raw(self) -> int:
        """Length S P of what a layer says to describe a distribution: K logits a group, or mean and std."""
        return self.stoch * (2 if self.latent == "gaussian" else self.classes)

    @property
    def features(self) -> int:
        """Length of concat[deter, stoch], what every head reads."""
        return self.deter + self.stoch_flat

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Sizes:
        """Inverse of `to_dict`; an unknown key is a WorldModelError."""
        known = {field.name for field in fields(Sizes)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise WorldModelError(f"sizes: unknown keys {unknown}, expected {sorted(known)}")
        values = dict(data)
        if "multipliers" in values:
            values["multipliers"] = tuple(int(m) for m in values["multipliers"])
        return Sizes(**values)


# The cores before DreamerV3; encoders, decoders and heads are DreamerV3's throughout.
_PLANET = Sizes(
    deter=200,
    hidden=200,
    stoch=30,
    classes=1,
    blocks=0,
    depth=32,
    units=200,
    multipliers=(1, 2, 4, 8),
    unimix=0.0,
    latent="gaussian",
    prior_layers=1,
    activation="relu",
    normed=False,
)
_DREAMER_V1 = replace(_PLANET, activation="elu", units=400)
_DREAMER_V2 = replace(
    _DREAMER_V1, deter=600, hidden=600, stoch=32, classes=32, latent="categorical", gru="normed", depth=48
)


def _published(deter: int, hidden: int, classes: int, depth: int) -> Sizes:
    return Sizes(deter, hidden, 32, classes, 8, depth, hidden, conv="exact")


PRESETS: dict[str, Sizes] = {
    "size1m": _published(512, 64, 4, 4),
    "size12m": _published(2048, 256, 16, 16),
    "size25m": _published(3072, 384, 24, 24),
    "size50m": _published(4096, 512, 32, 32),
    "size100m": _published(6144, 768, 48, 48),
    "size200m": _published(8192, 1024, 64, 64),
    "size400m": _published(12288, 1536, 96, 96),
    "planet": _PLANET,
    "dreamer_v1": _DREAMER_V1,
    "dreamer_v2": _DREAMER_V2,
    "debug": Sizes(32, 16, 4, 4, 4, 2, 16, conv="strided"),
    # Ships with the package: all exported float32 weights <= 16 MB and two CPU cores train it in hours.
    "manipulator": Sizes(512, 192, 32, 16, 8, 8, 192, conv="strided"),
    # Three halvings leave 4 x 4 of 32 x 32 pixels: 2 x 2 would throw away what sub-pixel motion needs.
    "dot": Sizes(256, 128, 16, 16, 8, 8, 128, conv="strided", multipliers=(2, 3, 4)),
    # The dot with a latent that is its place and velocity, beside a recurrent state of 32.
    "dot_grounded": Sizes(
        42,
        64,
        10,
        1,
        0,
        16,
        64,
        conv="map",
        multipliers=(3, 3, 3, 3),
        latent="gaussian",
        posterior="product",
        grounded=True,
    ),
}


def preset(
    name: str, *, conv: str | None = None, latent: str | None = None, posterior: str | None = None
) -> Sizes:
    """The sizes called `name`, optionally with another convolution, latent or posterior.

    A categorical preset made Gaussian has one number per group. WorldModelError if unknown.
    """
    if name not in PRESETS:
        raise WorldModelError(f"preset {name!r} is unknown, expected one of {', '.join(PRESETS)}")
    sizes = PRESETS[name]
    if latent == "gaussian" and sizes.latent != "gaussian":
        sizes = replace(sizes, latent=latent, classes=1)
    elif latent is not None and latent != sizes.latent:
        raise WorldModelError(f"preset {name!r} is {sizes.latent} by definition")
    chosen = {"conv": conv, "posterior": posterior}
    return replace(sizes, **{key: value for key, value in chosen.items() if value is not None})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Signals:
    """What goes in and out of a model: names and shapes only, vectors before images as in DreamerV3."""

    vectors: tuple[tuple[str, int], ...]  # (name, length)
    images: tuple[tuple[str, tuple[int, int, int]], ...]  # (name, (height, width, channels))
    action_dim: int
    targets: tuple[tuple[str, int], ...]  # (name, length)

    @property
    def modalities(self) -> tuple[str, ...]:
        """All observation names in the order the posterior concatenates their tokens."""
        return tuple(name for name, _ in self.vectors) + tuple(name for name, _ in self.images)

    @staticmethod
    def from_contract(contract: Contract) -> Signals:
        """Read names and shapes off a contract."""
        images = [spec for spec in contract.observations if spec.kind == "image"]
        return Signals(
            vectors=tuple((spec.name, spec.dim) for spec in contract.observations if spec.kind != "image"),
            images=tuple((spec.name, (spec.shape[0], spec.shape[1], spec.shape[2])) for spec in images),
            action_dim=contract.action_dim,
            targets=tuple((spec.name, spec.dim) for spec in contract.targets),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Signals:
        """Inverse of `to_dict`."""
        return Signals(
            vectors=tuple((str(name), int(size)) for name, size in data["vectors"]),
            images=tuple((str(n), (int(s[0]), int(s[1]), int(s[2]))) for n, s in data["images"]),
            action_dim=int(data["action_dim"]),
            targets=tuple((str(name), int(size)) for name, size in data["targets"]),
        )
