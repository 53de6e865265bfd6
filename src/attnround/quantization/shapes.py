"""Types of tensors by element type and shape, for annotations: `Float[Tensor, " O *rest"]` is a float weight.

They are jaxtyping's, and tests/quantization checks every call of this room against them. Outside the tests nothing is
checked, and where jaxtyping is not installed they are plain tensors.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a type checker sees plain tensors too
    from typing import Annotated as Float
    from typing import Annotated as Float32
    from typing import Annotated as Float64
    from typing import Annotated as Int
    from typing import Annotated as Real
    from typing import Annotated as UInt8
else:
    try:
        from jaxtyping import Float, Float32, Float64, Int, Real, UInt8
    except ImportError:

        class Float:
            def __class_getitem__(cls, annotation: tuple[type, str]) -> type:
                return annotation[0]

        Float32 = Float64 = Int = Real = UInt8 = Float

__all__ = ["Float", "Float32", "Float64", "Int", "Real", "UInt8"]
