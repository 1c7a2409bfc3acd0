"""Gradient flow as an assertion, for a test of your own model.

from gradscope.testing import assert_gradient_flow

def test_the_encoder_hears_fifty_steps():
    assert_gradient_flow(Encoder(), torch.randn(8, 200, 40), needs_lag=50)
"""

from gradscope.testing.flow import assert_gradient_flow as assert_gradient_flow
