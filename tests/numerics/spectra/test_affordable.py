"""What is said where whole spectra are not measured by default."""

from gradscope.numerics.products import DENSE_NUMBERS, FULL_WORK, too_much


def test_too_much_work_is_told_beside_its_limit():
    length, size = 200, 512
    assert length * size**2 < DENSE_NUMBERS
    assert length * size**3 > FULL_WORK
    text = too_much(length, size)
    assert "a state of 512 over 200 steps would cost T N^3 = 2.7e+10 (the limit is 4e+09)" in text


def test_jacobians_that_do_not_fit_are_told_in_memory():
    length, size = 100_000, 32
    assert length * size**2 > DENSE_NUMBERS
    assert length * size**3 < FULL_WORK
    text = too_much(length, size)
    assert "would keep 0.8 GiB of Jacobians (the limit is 0.5)" in text
