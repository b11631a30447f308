"""Options of the shallow CNN."""

import pytest

from bigearth_tf.errors import ConfigError
from bigearth_tf.models.flops import model_flops
from bigearth_tf.models.registry import create_model


def test_a_stride_shrinks_every_map_and_the_cost():
    plain, strided = (create_model("shallow_cnn_s2_12", stride=stride) for stride in (1, 4))
    assert plain.get_layer("conv1").output.shape[1:3] == (120, 120)
    assert strided.get_layer("conv1").output.shape[1:3] == (30, 30)
    assert strided.get_layer("conv3").output.shape[1:3] == (7, 7)
    assert strided.get_layer("conv1").kernel.shape == plain.get_layer("conv1").kernel.shape
    assert model_flops(plain) > 10 * model_flops(strided)
    assert strided.get_config()["options"] == {"stride": 4}


def test_a_stride_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="shallow_cnn_s2_12 cannot be built with stride=0"):
        create_model("shallow_cnn_s2_12", stride=0)
    with pytest.raises(ConfigError, match="stride=2.5"):
        create_model("shallow_cnn_s2_12", stride=2.5)
