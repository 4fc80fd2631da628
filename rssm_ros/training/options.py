"""Everything a run can be told, and what each preset chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from rssm_ros.training.augment import Augmentation
from rssm_ros.training.errors import TrainingError
from rssm_ros.world_model.representation import KINDS
from rssm_ros.world_model.sizes import Sizes, preset


@dataclass(frozen=True)
class Scales:
    """Weights of the loss terms; every term is logged unweighted under the same name."""

    image: float = 1.0
    vector: float = 1.0
    reward: float = 1.0
    continue_: float = 1.0
    dyn: float = 1.0
    rep: float = 0.1
    target: float = 1.0  # target likelihood from posterior samples
    target_prior: float = 0.5  # ... from prior samples: what prediction alone must know
    overshoot: float = 0.0  # ... after several ticks of prediction alone, from many beliefs at once
    perception: float = 0.0  # ... straight from image tokens, wherever a part is in sight; never exported
    imitation: float = 1.0
    imitation_gradient: float = 0.0  # share of the imitation gradient that reaches the world model
    policy: float = 1.0  # REINFORCE in imagination
    critic: float = 1.0
    replay_value: float = 0.3  # the critic on replayed ticks; where imagination starts from all of them
    entropy: float = 3e-4  # of the actor, within `policy`
    representation: float = 0.05  # barlow or infonce, instead of reconstruction
    motion: float = 1.0  # of a grounded latent: how targets move, from sequences of labels alone
    ensemble: float = 0.0  # 0: no ensemble of one-step predictors


GONE = ("weight",)  # scales that checkpoints may still hold; what they weighed is no more
_MOST = 1e9  # of what has no bound of its own; infinity is no number of minutes
_TINY = 1e-12  # more than 0
RANGES: dict[str, tuple[float, float]] = {
    "batch": (1, _MOST),
    "length": (2, _MOST),
    "chunks": (1, _MOST),
    "seed": (0, 2**31 - 1),  # it shares 63 bits with the number of the update
    "minutes": (_TINY, _MOST),
    "steps": (1, _MOST),
    "rate": (_TINY, 1.0),
    "warmup": (0, _MOST),
    "free_nats": (0.0, _MOST),
    "particles": (1, _MOST),
    "target_beta": (0.0, 1.0),
    "overshoot_starts": (1, _MOST),
    "motion_rows": (1, _MOST),
    "motion_length": (2, _MOST),
    "decode_stride": (1, _MOST),
    "imagination_fraction": (0.0, 1.0),
    "horizon": (1, _MOST),
    "starts": (1, _MOST),
    "checkpoint_minutes": (_TINY, _MOST),
    "validate_minutes": (_TINY, _MOST),
    "checkpoint_steps": (1, _MOST),
    "validate_steps": (1, _MOST),
    "log_every": (1, _MOST),
    "threads": (1, _MOST),
}


@dataclass(frozen=True)
class Options:
    """One training run."""

    preset: str = "size12m"
    conv: str | None = None  # where not None: instead of the preset's
    latent: str | None = None
    posterior: str | None = None
    representation: str = "reconstruction"  # or "barlow", "infonce": without a decoder
    batch: int = 16  # sequences per update, of all processes together
    length: int = 64  # ticks per sequence
    chunks: int = 4  # slices a stream goes on for before it jumps
    seed: int = 0
    minutes: float = 60.0  # of wall time
    steps: int | None = None  # stop after so many updates instead of after `minutes`
    rate: float = 4e-5  # at its peak
    warmup: int = 1000  # updates
    decay: bool = False  # a cosine down to 2 % over the budget, instead of constant
    free_nats: float = 1.0  # of KL, below which nothing is gained
    free_nats_of: str = "tick"  # DreamerV3 and PlaNet: of every tick's KL; "batch": of the mean (DreamerV1)
    particles: int = 2  # samples of the latent in a target's likelihood, of the posterior as of the prior
    # 0: a target's plain likelihood, whose gradient sure ticks rule; 1: as far as the mean goes, the squared
    # error's, which unsure ones do.
    target_beta: float = 0.5
    overshoot_horizon: int = 12  # ticks
    overshoot_starts: int = 64  # beliefs per update that predict so far ahead, each row as many
    motion_rows: int = 64  # sequences of labels alone per update, where the latent is grounded
    motion_length: int = 16  # ticks of each
    decode_stride: int = 1  # reconstruct every n-th tick; which ones goes round with the update's number
    imagination_fraction: float = 0.2  # last share of the budget that also learns in imagination
    horizon: int = 10  # ticks of imagination
    starts: int = 256  # beliefs per update that it starts from: each row as many, rounded up
    autocast: bool = True  # bfloat16 for all but the recurrence
    checkpoint_minutes: float = 5.0
    validate_minutes: float = 5.0
    checkpoint_steps: int | None = None  # also save after so many updates
    validate_steps: int | None = None  # also validate after so many updates
    freeze_encoders: bool = False  # what was learnt to be seen stays; updates cost less
    replay_latents: bool = False  # streams that jump start from the latents last computed there
    compile: bool = False  # torch.compile; not bit for bit the same from one start to the next
    wandb: bool = False  # log to Weights & Biases as well
    log_every: int = 20  # updates
    threads: int = 2
    scales: Scales = field(default_factory=Scales)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        """Refuse what no run could mean."""
        for name, known in (("representation", KINDS), ("free_nats_of", ("tick", "batch"))):
            if getattr(self, name) not in known:
                raise TrainingError(f"options: {name} is {getattr(self, name)!r}, expected one of {known}")
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise TrainingError(f"options: {name} is {value}, expected {least:g} to {most:g}")
        if self.length < self.decode_stride:
            raise TrainingError(
                f"options: length is {self.length}, expected at least decode_stride, {self.decode_stride}"
            )
        grounded = self.sizes().grounded  # says itself what is wrong with sizes
        if grounded and (self.scales.overshoot or self.scales.ensemble):
            raise TrainingError("options: a grounded latent has neither overshoot nor an ensemble")
        if self.scales.overshoot and not 0 < self.overshoot_horizon < self.length:
            raise TrainingError(
                f"options: overshoot_horizon is {self.overshoot_horizon}, but sequences of {self.length} "
                f"ticks let a belief be followed 1 to {self.length - 1} ticks ahead; choose a longer --length"
            )

    def sizes(self) -> Sizes:
        """The network's sizes: the preset's, with what these options say otherwise."""
        return preset(self.preset, conv=self.conv, latent=self.latent, posterior=self.posterior)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Options:
        """Inverse of `to_dict`; unknown keys are a TrainingError."""
        unknown = sorted(set(data) - {f.name for f in fields(Options)})
        if unknown:
            raise TrainingError(f"options: unknown keys {unknown}")
        values = dict(data)
        for name, kind in (("scales", Scales), ("augmentation", Augmentation)):
            told = {key: value for key, value in values.get(name, {}).items() if key not in GONE}
            try:
                values[name] = kind(**told)
            except TypeError as error:
                raise TrainingError(f"options: {name} of another version ({error})") from error
        return Options(**values)


# A few thousand updates is all that two CPU cores have time for: a higher rate that decays over the budget,
# labels that teach perception directly, and half of the frames reconstructed per update.
_SHORT = Options(
    preset="manipulator",
    batch=16,
    length=48,
    chunks=5,
    rate=6e-4,
    warmup=200,
    decay=True,
    decode_stride=2,
    # An image's squared error sums over 12,288 values: at weight 1 its gradient drowns a 6-pixel package.
    scales=Scales(
        image=0.1,
        target=5.0,
        target_prior=2.0,
        perception=10.0,
        imitation=1.0,
        imitation_gradient=0.5,
    ),
)
_DEBUG = replace(
    _SHORT, preset="debug", batch=4, length=12, chunks=2, starts=16, horizon=3, warmup=20, rate=1e-3
)


# The short run's, without what only a robot has. New masks are unpredictable: at full weight the latent would
# spend itself on pixels; and they are occlusion enough, so no patches of other greys.
_DOT = replace(
    _SHORT,
    preset="dot",
    latent="gaussian",
    length=32,
    chunks=8,
    rate=1e-3,
    decode_stride=8,
    scales=replace(_SHORT.scales, image=0.02, imitation=0.0, reward=0.0, continue_=0.0),
    augmentation=Augmentation(gap=0.1, blackout=0.0, sparse=0.0, silent=0.0, patch=0.0),
    imagination_fraction=0.0,
)

# Seeing learns from single pictures, motion from labels alone: nothing is weighed against anything. The
# picture's decoder is for people's eyes. bfloat16 would round a place to a fifth of a pixel.
_DOT_GROUNDED = replace(
    _DOT,
    preset="dot_grounded",
    latent=None,
    autocast=False,
    batch=24,
    length=8,
    rate=2e-3,
    scales=replace(_DOT.scales, image=0.01, dyn=0.0, rep=0.0, target=1.0, target_prior=0.0, perception=0.0),
)

# Each generation's KL: balanced as dyn and rep weights, with its own free nats.
_PLANET = Options(preset="planet", batch=50, length=50, rate=1e-3, free_nats=3.0, scales=Scales(rep=1.0))
_DREAMER_V1 = replace(_PLANET, preset="dreamer_v1", rate=6e-4, free_nats_of="batch")
_DREAMER_V2 = Options(
    preset="dreamer_v2", batch=16, length=50, rate=3e-4, free_nats=0.0, scales=Scales(dyn=0.8, rep=0.2)
)
_KNOWN = {o.preset: o for o in (_SHORT, _DEBUG, _DOT, _DOT_GROUNDED, _PLANET, _DREAMER_V1, _DREAMER_V2)}


def options(preset: str) -> Options:
    """The options that go with a preset: made for a short CPU run, or those of another generation.

    The others train the world model as DreamerV3 does. What it leaves to a benchmark is chosen for robots:
    imitation of the recorded expert, and imagination late, shorter (10 ticks) and from fewer starts (256),
    where the critic does not learn on replay.
    """
    return _KNOWN.get(preset, Options(preset=preset))
