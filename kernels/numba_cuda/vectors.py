"""Accesses of 16 bytes, which Numba does not make of its own: each an intrinsic, and a plain form for the simulator."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from typing import Any

from .toolkit import IS_SIMULATED

VECTOR_BYTES = 16

if IS_SIMULATED:

    def load_vector(array, index):
        """Return the 16 bytes of an array that begin at an element: its elements, as a tuple."""
        return tuple(array[index + i] for i in range(VECTOR_BYTES // array.dtype.itemsize))

    def store_vector(array, index, source, at):
        """Write 16 bytes to an array, from an element on: those of a thread's own array from ``at`` on."""
        for i in range(VECTOR_BYTES // array.dtype.itemsize):
            array[index + i] = source[at + i]

else:
    from llvmlite import ir
    from numba import types
    from numba.cuda.extending import intrinsic

    def _vector_pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> tuple[Any, int]:
        """Return a pointer to the vector at an element, and how many elements that is."""
        data = context.make_array(array_type)(context, builder, array).data
        count = VECTOR_BYTES * 8 // array_type.dtype.bitwidth
        vector = ir.VectorType(context.get_value_type(array_type.dtype), count)
        pointer = vector.as_pointer(getattr(data.type, "addrspace", 0))
        return builder.bitcast(builder.gep(data, [index]), pointer), count

    def _int32(number: int) -> Any:
        return ir.Constant(ir.IntType(32), number)

    @intrinsic
    def load_vector(typing_context, array, index):
        """Return the 16 bytes of an array that begin at an element: its elements, as a tuple."""
        count = VECTOR_BYTES * 8 // array.dtype.bitwidth
        signature = types.UniTuple(array.dtype, count)(array, types.int64)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer, count = _vector_pointer(context, builder, signature.args[0], *args)
            vector = builder.load(pointer)
            vector.align = VECTOR_BYTES
            elements = [builder.extract_element(vector, _int32(i)) for i in range(count)]
            return context.make_tuple(builder, signature.return_type, elements)

        return signature, codegen

    @intrinsic
    def store_vector(typing_context, array, index, source, at):
        """Write 16 bytes to an array, from an element on: those of a thread's own array from ``at`` on."""
        signature = types.void(array, types.int64, source, types.int64)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array_type, _, source_type, _ = signature.args
            pointer, count = _vector_pointer(context, builder, array_type, args[0], args[1])
            own = context.make_array(source_type)(context, builder, args[2]).data
            vector = ir.Constant(pointer.type.pointee, ir.Undefined)
            for i in range(count):
                place = builder.gep(own, [builder.add(args[3], ir.Constant(args[3].type, i))])
                vector = builder.insert_element(vector, builder.load(place), _int32(i))
            builder.store(vector, pointer).align = VECTOR_BYTES
            return context.get_dummy_value()

        return signature, codegen
