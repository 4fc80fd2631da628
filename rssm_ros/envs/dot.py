"""The moving dot: the smallest world in which only a memory knows where something hidden is.

A blurred dot drifts over a small grey picture, bounces off its walls, and vanishes behind rectangles that
come and go. Its exact generative model, from which a Bayes filter can be written (`evaluation.dot.bayes` is
one):

Units are pixels and ticks; pixel (row i, column j) has its centre at y = i, x = j. The state at tick t is
s_t = (x, y, vx, vy), each axis on its own and alike:

    start       x_0 ~ U(margin, size - 1 - margin),  v_0 ~ U(-max_speed, max_speed)
    velocity    u_t = clip(v_{t-1} + push * a_t + walk * n_t, -max_speed, max_speed),  n_t ~ N(0, 1)
    position    p_t = x_{t-1} + u_t
    wall        reflect: p < 0 -> (-p, -u);  p > size - 1 -> (2 (size - 1) - p, -u);  else (p, u)
                clip:    p outside [0, size - 1] -> (the wall, 0);                    else (p, u)

a_t in [-1, 1] is the action over [t-1, t); row t of an episode holds it. The picture, with levels in 0..1:

    dot         g_ij = exp(-((j - x)^2 + (i - y)^2) / (2 blur^2))
    sensor      c_ij = background + (peak - background) g_ij,  plus pixel_noise * m_ij,  m_ij ~ N(0, 1)
    camera      round(255 * clip(sensor, 0, 1)) as uint8, ties to even; under a rectangle it is exactly
                round(255 * mask_level), without noise

so that outside the mask a level k has the probability F(k + 1/2) - F(k - 1/2), with F the distribution of a
normal of mean 255 c and deviation 255 pixel_noise, and levels 0 and 255 also hold the tails. All noises are
independent.

Rectangles: `masks` slots, each on its own. An empty slot begins, at every tick (the first included), with
`mask_probability` a rectangle of U{mask_side} height and width at a uniform place inside the picture, that
stays U{mask_ticks} ticks. They know nothing of the dot: a mask that followed it would tell where it is, and
no filter that takes the mask as given would be exact.

Settings. `PUBLISHED` has the defaults of the moving-dot data of ashu1069/latent-dynamics-lab ("recurrent
state space models", the code beside the article "RSSM: deterministic backbone + stochastic belief"):
32 x 32, 64 ticks, radius 1.5, white on black, speed up to 2, actions of up to 0.5, one rectangle at a time in
the background's colour, begun with probability 0.3, of 3 to 10 ticks and 4 to 12 pixels. It differs at the
walls only: there the right and lower wall throw x >= 32 back to 63 - x (a jump of up to one pixel), here all
four reflect at the outermost pixel centres; and `clip` stops the axis that hit, not both. The dot is hidden
(less than 5 % of it visible) in 0.8 % of ticks.

`HARD` hides it in 36.7 % (measured over 130,000 ticks): larger rectangles, noise, and a velocity that walks
on its own. One rectangle of 10 to 20 px at a time hides it in 8 % only, so there are up to six.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt

from rssm_ros.envs.errors import SimError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Observation = dict[str, npt.NDArray[np.uint8]]
WALLS = ("reflect", "clip")
MASK_DRAWS = 6  # uniforms per slot and tick: whether one begins, its ticks, height, width, top and left
# Streams of random numbers per seed, so that masks and noise are the same whatever the dot is told to do.
_MOTION, _MASKS, _PIXELS, _ACTIONS = 41, 43, 47, 53


@dataclass(frozen=True)
class DotSetting:
    """Numbers of the generative model above. The defaults are the published ones."""

    size: int = 32  # px, height and width
    ticks: int = 64  # per episode
    blur: float = 1.5  # px, standard deviation of the dot
    peak: float = 1.0  # level in the middle of the dot
    background: float = 0.0
    pixel_noise: float = 0.0  # standard deviation of a level
    margin: float = 2.0  # px from the walls where an episode may start
    max_speed: float = 2.0  # px/tick per axis
    push: float = 0.5  # px/tick^2 at action 1; 0: the dot cannot be controlled
    walk: float = 0.0  # px/tick, standard deviation of the velocity's own change in a tick
    wall: str = "reflect"
    masks: int = 1  # slots for rectangles
    mask_probability: float = 0.3  # per tick, that an empty slot begins one
    mask_ticks: tuple[int, int] = (3, 10)
    mask_side: tuple[int, int] = (4, 12)  # px
    mask_level: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn or would leave the picture. Raises SimError."""
        levels = (self.peak, self.background, self.mask_level, self.mask_probability)
        checks = {
            f"wall is {self.wall!r}, expected one of {', '.join(WALLS)}": self.wall in WALLS,
            "size and ticks: expected 4 or more": min(self.size, self.ticks) >= 4,
            "blur: expected more than 0 px": self.blur > 0,
            "levels and probabilities: expected 0..1": all(0 <= level <= 1 for level in levels),
            "pixel_noise, walk, push, masks: expected 0 or more": min(
                self.pixel_noise, self.walk, self.push, self.masks
            )
            >= 0,
            "margin: expected 0 to half of the picture": 0 <= 2 * self.margin < self.size - 1,
            "max_speed: expected 0 < max_speed < size - 1": 0 < self.max_speed < self.size - 1,
            "mask_ticks: expected 1 <= fewest <= most": 1 <= self.mask_ticks[0] <= self.mask_ticks[1],
            "mask_side: expected 1 <= least <= most <= size": 1
            <= self.mask_side[0]
            <= self.mask_side[1]
            <= self.size,
        }
        for told, fine in checks.items():
            if not fine:
                raise SimError(f"dot setting: {told}")


PUBLISHED = DotSetting()
HARD = DotSetting(
    background=0.2,
    pixel_noise=0.05,
    push=0.0,
    walk=0.1,
    masks=6,
    mask_side=(10, 20),
    mask_level=0.5,
)
SETTINGS = {"published": PUBLISHED, "hard": HARD}


def find_setting(setting: DotSetting | str) -> DotSetting:
    """A setting by name (`published`, `hard`), or the one given. Raises SimError for an unknown name."""
    if isinstance(setting, DotSetting):
        return setting
    if setting not in SETTINGS:
        raise SimError(f"dot setting {setting!r} is unknown, expected one of {', '.join(SETTINGS)}")
    return SETTINGS[setting]


# -- the model in parts, over any number of dots at once --------------------------------------------------


def start_states(setting: DotSetting, draws: Floats) -> Floats:
    """Uniforms [..., 4] -> states at the first tick [..., 4]."""
    low = np.repeat([setting.margin, -setting.max_speed], 2)
    high = np.repeat([setting.size - 1 - setting.margin, setting.max_speed], 2)
    states: Floats = low + (high - low) * draws
    return states


def move(setting: DotSetting, state: Floats, action: npt.ArrayLike, shock: npt.ArrayLike) -> Floats:
    """States [..., 4], normalised actions [..., 2], standard normals [..., 2] -> the next states [..., 4]."""
    change = setting.push * np.clip(action, -1.0, 1.0) + setting.walk * np.asarray(shock)
    velocity = np.clip(state[..., 2:] + change, -setting.max_speed, setting.max_speed)
    position = state[..., :2] + velocity
    last = setting.size - 1.0
    below, above = position < 0.0, position > last
    if setting.wall == "reflect":
        position = np.where(below, -position, np.where(above, 2.0 * last - position, position))
        velocity = np.where(below | above, -velocity, velocity)
    else:
        position = np.clip(position, 0.0, last)
        velocity = np.where(below | above, 0.0, velocity)
    return np.concatenate([position, velocity], -1)


class Slots(NamedTuple):
    """Rectangles now: ticks each stays from here on (0: empty) [..., M], and top, bottom, left, right (the
    second of each pair excluded) [..., M, 4]."""

    left: npt.NDArray[np.int64]
    box: npt.NDArray[np.int64]


def no_masks(setting: DotSetting, shape: tuple[int, ...] = ()) -> Slots:
    """Empty slots, before the first tick."""
    return Slots(np.zeros((*shape, setting.masks), np.int64), np.zeros((*shape, setting.masks, 4), np.int64))


def next_masks(setting: DotSetting, slots: Slots, draws: Floats) -> Slots:
    """The rectangles one tick later; draws: uniforms [..., M, 6]."""
    left = np.maximum(slots.left - 1, 0)
    begins = (left == 0) & (draws[..., 0] < setting.mask_probability)
    (fewest, most), (least, widest) = setting.mask_ticks, setting.mask_side
    ticks = fewest + (draws[..., 1] * (most - fewest + 1)).astype(np.int64)
    side = least + (draws[..., 2:4] * (widest - least + 1)).astype(np.int64)  # [..., M, 2] height, width
    corner = (draws[..., 4:6] * (setting.size - side + 1)).astype(np.int64)  # top, left
    box = np.stack(
        [corner[..., 0], corner[..., 0] + side[..., 0], corner[..., 1], corner[..., 1] + side[..., 1]], -1
    )
    return Slots(np.where(begins, ticks, left), np.where(begins[..., None], box, slots.box))


def draw_masks(setting: DotSetting, slots: Slots) -> npt.NDArray[np.bool_]:
    """Slots [..., M] -> whether a pixel is covered [..., H, W]."""
    pixels, here = np.arange(setting.size), slots.left > 0
    rows = (pixels >= slots.box[..., 0:1]) & (pixels < slots.box[..., 1:2]) & here[..., None]  # [..., M, H]
    columns = (pixels >= slots.box[..., 2:3]) & (pixels < slots.box[..., 3:4])  # [..., M, W]
    covered = np.zeros((*here.shape[:-1], setting.size, setting.size), bool)
    for slot in range(setting.masks):
        covered |= rows[..., slot, :, None] & columns[..., slot, None, :]
    return covered


def weights(setting: DotSetting, position: npt.ArrayLike) -> tuple[Array, Array]:
    """The dot's blob as a product g = g_y g_x^T: per column g_x [..., W], per row g_y [..., H], float32."""
    pixels = np.arange(setting.size)
    distance = pixels - np.asarray(position, np.float64)[..., None]  # [..., 2, size]
    factors = np.exp(-0.5 * np.square(distance / setting.blur)).astype(np.float32)
    return factors[..., 0, :], factors[..., 1, :]


def picture(
    setting: DotSetting,
    position: npt.ArrayLike,
    covered: npt.NDArray[np.bool_],
    noise: Array | None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """What the camera sees of dots at `position` [..., 2], uint8 [..., H, W], and how visible each is.

    The latter is the share of the blob's weight inside the picture that no rectangle covers, float32 [...].
    noise: standard normals [..., H, W], None where there is none.
    """
    g_x, g_y = weights(setting, position)
    blob = g_y[..., :, None] * g_x[..., None, :]  # [..., H, W]
    hidden = (blob * covered).sum((-2, -1)) / blob.sum((-2, -1))
    level = np.float32(setting.background) + np.float32(setting.peak - setting.background) * blob
    if noise is not None:
        level = level + np.float32(setting.pixel_noise) * noise
    grey = np.rint(255.0 * np.clip(level, 0.0, 1.0)).astype(np.uint8)
    grey[covered] = round(255.0 * setting.mask_level)
    return grey, np.clip(1.0 - hidden, 0.0, 1.0).astype(np.float32)


# -- many episodes at once ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Episodes:
    """B episodes of T ticks; row t holds what is so at tick t, and the action over [t-1, t)."""

    seeds: tuple[int, ...]
    images: npt.NDArray[np.uint8]  # [B, T, H, W]
    states: Floats  # [B, T, 4] x, y in px, vx, vy in px/tick
    covered: npt.NDArray[np.bool_]  # [B, T, H, W]
    visibility: npt.NDArray[np.float32]  # [B, T] visible share of the dot, 0..1
    actions: npt.NDArray[np.float32]  # [B, T, 2] in [-1, 1]


def random_actions(setting: DotSetting, seed: int) -> Floats:
    """Uniform actions of an episode [T, 2] in [-1, 1] (row 0: none yet); zero where there is no control."""
    actions = _stream(seed, _ACTIONS).uniform(-1.0, 1.0, (setting.ticks, 2)) * float(setting.push > 0)
    actions[0] = 0.0
    return actions


def simulate(setting: DotSetting, seeds: Sequence[int]) -> Episodes:
    """The episodes of some seeds under random actions: what `DotEnv` gives under the same ones."""
    size, ticks, masks = setting.size, setting.ticks, setting.masks
    motion = [_stream(seed, _MOTION) for seed in seeds]
    start = np.stack([stream.random(4) for stream in motion])  # [B, 4]
    shock = np.stack([stream.standard_normal((ticks - 1, 2)) for stream in motion])  # [B, T - 1, 2]
    draws = np.stack([_stream(seed, _MASKS).random((ticks, masks, MASK_DRAWS)) for seed in seeds])
    actions = np.stack([random_actions(setting, seed) for seed in seeds]).astype(np.float32)
    states = [start_states(setting, start)]
    slots = [next_masks(setting, no_masks(setting, (len(seeds),)), draws[:, 0])]
    for tick in range(1, ticks):
        states.append(move(setting, states[-1], actions[:, tick], shock[:, tick - 1]))
        slots.append(next_masks(setting, slots[-1], draws[:, tick]))
    path = np.stack(states, 1)  # [B, T, 4]
    left, box = (np.stack(part, 1) for part in zip(*slots))
    covered = draw_masks(setting, Slots(left, box))
    images = np.empty(covered.shape, np.uint8)
    visibility = np.empty(covered.shape[:2], np.float32)
    for row, seed in enumerate(seeds):  # one by one: an episode's pictures fit into the processor's cache
        noise = _pixel_noise(setting, _stream(seed, _PIXELS), (ticks, size, size))
        images[row], visibility[row] = picture(setting, path[row, :, :2], covered[row], noise)
    return Episodes(tuple(seeds), images, path, covered, visibility, actions)


def _stream(seed: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose])


def _pixel_noise(setting: DotSetting, stream: np.random.Generator, shape: tuple[int, ...]) -> Array | None:
    return stream.standard_normal(shape, dtype=np.float32) if setting.pixel_noise > 0 else None


# -- one episode, step by step ------------------------------------------------------------------------------


class DotEnv(gymnasium.Env[Observation, npt.NDArray[np.float32]]):
    """The moving dot as an environment; see the module for its model.

    Observation: `camera` uint8 [H, W, 1]. Action: float32 [2] in [-1, 1], the acceleration along x and y as a
    share of `push`; it acts in the tick it is given for (no delay), and not at all where push is 0. There is
    no task: the reward is 0. `info` holds `state` [4], `dot` [2] (px), `mask` bool [H, W], `visibility`
    (0..1) and `applied` [2], the action that really acted. An episode ends (truncated) with observation
    number `setting.ticks`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, setting: DotSetting | str = "hard", *, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise SimError(f"render_mode {render_mode!r} is not offered; use 'rgb_array' or None")
        self.setting, self.render_mode = find_setting(setting), render_mode
        size, box = self.setting.size, gymnasium.spaces.Box
        self.observation_space = gymnasium.spaces.Dict({"camera": box(0, 255, (size, size, 1), np.uint8)})
        self.action_space = box(-1.0, 1.0, (2,), np.float32)
        self._image = np.zeros((size, size), np.uint8)
        self._state: Floats = np.zeros(4)
        self._tick = 0
        self._begin(0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; the seed decides everything but the actions."""
        super().reset(seed=seed)
        self._begin(seed if seed is not None else int(self.np_random.integers(2**31)))
        return self._observe(np.zeros(2, np.float32))

    def step(self, action: npt.ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One tick under `action` [2]. Raises SimError for one that is not two finite numbers."""
        values = np.asarray(action, np.float32)
        if values.shape != (2,) or not np.isfinite(values).all():
            raise SimError(f"an action is 2 finite numbers in [-1, 1]; got {values}")
        applied = np.clip(values, -1.0, 1.0) * np.float32(self.setting.push > 0)
        self._state = move(self.setting, self._state, applied, self._motion.standard_normal(2))
        self._tick += 1
        observation, info = self._observe(applied)
        return observation, 0.0, False, self._tick >= self.setting.ticks - 1, info

    def render(self) -> npt.NDArray[np.uint8] | None:
        """The last observation, eight times as large, uint8 [8 H, 8 W, 3], when render_mode is rgb_array."""
        if self.render_mode is None:
            return None
        return np.repeat(self._image.repeat(8, 0).repeat(8, 1)[..., None], 3, -1)

    def _begin(self, seed: int) -> None:
        self._motion, self._mask_draws, self._pixels = (_stream(seed, n) for n in (_MOTION, _MASKS, _PIXELS))
        self._state = start_states(self.setting, self._motion.random(4))
        self._slots = no_masks(self.setting)
        self._tick = 0

    def _observe(self, applied: npt.NDArray[np.float32]) -> tuple[Observation, dict[str, Any]]:
        setting = self.setting
        draws = self._mask_draws.random((setting.masks, MASK_DRAWS))
        self._slots = next_masks(setting, self._slots, draws)
        covered = draw_masks(setting, self._slots)
        noise = _pixel_noise(setting, self._pixels, covered.shape)
        self._image, visibility = picture(setting, self._state[:2], covered, noise)
        info = {
            "state": self._state.copy(),
            "dot": self._state[:2].astype(np.float32),
            "mask": covered,
            "visibility": float(visibility),
            "applied": applied,
        }
        return {"camera": self._image[..., None].copy()}, info
