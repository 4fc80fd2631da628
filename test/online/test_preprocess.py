import numpy as np
import pytest

from rssm_ros.contract import ObservationSpec
from rssm_ros.online.errors import FilterError
from rssm_ros.online.preprocess import prepare


def camera(resize="stretch", channels=3):
    return ObservationSpec("camera", "sensor_msgs/msg/Image", "image", (8, 4), channels, resize)


VECTOR = ObservationSpec("odom", "nav_msgs/msg/Odometry", "odom", fields=("v", "w"))


def test_an_image_of_the_right_size_is_left_alone():
    image = np.arange(96, dtype=np.uint8).reshape(4, 8, 3)
    np.testing.assert_array_equal(prepare(camera(), image), image)


def test_area_resize_averages():
    image = np.zeros((8, 16, 3), np.uint8)
    image[::2] = 100
    np.testing.assert_array_equal(prepare(camera(), image), np.full((4, 8, 3), 50))


@pytest.mark.parametrize("shape", [(480, 640), (7, 13), (12, 20), (3, 5), (64, 64)])
def test_every_pixel_is_the_mean_over_its_area(shape):
    """Against the definition, in float64: at most a rounding away."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    rows, columns = (np.linspace(0, size, count + 1) for size, count in zip(shape, (4, 8), strict=True))
    expected = image.astype(np.float64)
    for axis, edges in ((0, rows), (1, columns)):
        total = np.insert(np.cumsum(expected, axis), 0, 0.0, axis)  # the integral, linear between pixels
        size = expected.shape[axis]
        at = np.apply_along_axis(
            lambda line, e=edges, n=size: np.interp(e, np.arange(n + 1), line), axis, total
        )
        width = np.diff(edges).reshape([-1 if a == axis else 1 for a in range(3)])
        expected = np.diff(at, axis=axis) / width
    assert np.abs(prepare(camera(), image) - expected).max() <= 0.5 + 1e-3


def test_mono_images_come_with_or_without_a_channel_axis():
    image = np.full((8, 16), 7, np.uint8)
    for form in (image, image[:, :, None]):
        assert prepare(camera(channels=1), form).shape == (4, 8, 1)


@pytest.mark.parametrize("shape", [(4, 8), (16, 16), (5, 33), (40, 7), (4, 9)])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_every_way_of_fitting_gives_the_contract_s_size(shape, resize):
    fitted = prepare(camera(resize), np.full((*shape, 3), 9, np.uint8))
    assert fitted.shape == (4, 8, 3) and fitted.flags.c_contiguous
    if resize != "pad":
        assert (fitted == 9).all()


def test_pad_keeps_the_shape_and_adds_bars():
    fitted = prepare(camera("pad"), np.full((8, 8, 3), 9, np.uint8))
    assert (fitted[:, 2:6] == 9).all() and (fitted[:, :2] == 0).all() and (fitted[:, 6:] == 0).all()


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (np.zeros((4, 8, 4), np.uint8), "shape"),
        (np.zeros((0, 8, 3), np.uint8), "shape"),
        (np.zeros(96, np.uint8), "shape"),
        (np.zeros((4, 8, 3), np.float32), "encoding"),
        (np.zeros((4, 8, 3), np.uint16), "encoding"),
    ],
)
def test_images_that_cannot_be_used_are_refused_with_a_cause(value, cause):
    with pytest.raises(FilterError, match="camera") as caught:
        prepare(camera(), value)
    assert caught.value.cause == cause


@pytest.mark.parametrize(
    ("value", "cause"),
    [([1.0], "shape"), ([[1.0, 2.0]], "shape"), ([1.0, np.nan], "non_finite"), ([np.inf, 0], "non_finite")],
)
def test_vectors_that_cannot_be_used_are_refused_with_a_cause(value, cause):
    with pytest.raises(FilterError, match="odom") as caught:
        prepare(VECTOR, value)
    assert caught.value.cause == cause


def test_vectors_become_float32():
    assert prepare(VECTOR, [1, 2]).dtype == np.float32


@pytest.mark.parametrize("shape", [(480, 640), (100, 130), (65, 64)])
def test_shrinking_is_the_mean_over_the_area(shape):
    """The same as OpenCV's INTER_AREA, which the training's own tools use, within rounding."""
    cv2 = pytest.importorskip("cv2")
    spec = ObservationSpec("camera", "sensor_msgs/msg/Image", "image", (64, 64), 3, "stretch")
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(prepare(spec, image).astype(int) - expected).max() <= 1
