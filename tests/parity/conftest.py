import mlx.core as mx
import pytest


@pytest.fixture(scope="module")
def quick_mlx():
    """Tiny graphs: compiling a kernel takes longer than all its runs."""
    mx.set_default_device(mx.cpu)
    mx.disable_compile()
    yield
    mx.enable_compile()
