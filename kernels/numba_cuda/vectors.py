"""What Numba does not make of its own: accesses and copies of 16 bytes, and products by tensor cores.

Each is an intrinsic, and has a plain form that the simulator runs.

A warp's product of tensor cores is PTX's ``mma.m16n8k8`` for TF32: C (16, 8) += A (16, 8) B (8, 8). Thread l of the
warp, with g = l div 4 and t = l mod 4, has of A (g, t), (g + 8, t), (g, t + 4) and (g + 8, t + 4), of B (t, g) and
(t + 4, g), and of C (g, 2 t), (g, 2 t + 1), (g + 8, 2 t) and (g + 8, 2 t + 1).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32

from .toolkit import IS_SIMULATED, cuda, device

VECTOR_BYTES = 16
WARP = 32
GLOBAL_SPACE, SHARED_SPACE = 1, 3
A_PARTS, B_PARTS, C_PARTS = 4, 2, 4
"""Numbers of each operand that a thread has."""

if IS_SIMULATED:

    def copy_vector_later(shared, at, source, index, inside):
        """Begin to copy 16 bytes from global to shared memory, or zeros where they are not ``inside``."""
        for i in range(VECTOR_BYTES // source.dtype.itemsize):
            shared[at + i] = source[index + i] if inside else 0

    def wait_for_copies():
        """Wait until this thread's copies are there."""

    def round_tf32(x):
        """Return the nearest number of TF32, which has 10 bits behind the point; of two as near the larger one."""
        bits = np.float32(x).view(np.uint32)
        if bits & 0x7F800000 == 0x7F800000:  # infinity and NaN
            return np.float32(x)
        return np.uint32((int(bits) + 0x1000) & 0xFFFFE000).view(np.float32)

    @device
    def add_by_tensor_cores(sums, at, a, a_at, b, b_at):
        """Add a warp's product to each thread's four sums from ``at`` on, of its parts of A and B."""
        shared = cuda.shared.array(WARP * (A_PARTS + B_PARTS), float32)
        thread = cuda.threadIdx.x
        for i in range(A_PARTS):
            shared[thread * A_PARTS + i] = a[a_at + i]
        for i in range(B_PARTS):
            shared[WARP * A_PARTS + thread * B_PARTS + i] = b[b_at + i]
        cuda.syncthreads()
        for i in range(C_PARTS):
            row, column = thread // 4 + i // 2 * 8, thread % 4 * 2 + i % 2
            for k in range(8):
                owner = row % 8 * 4 + k % 4
                x = shared[owner * A_PARTS + row // 8 + k // 4 * 2]
                y = shared[WARP * A_PARTS + (column * 4 + k % 4) * B_PARTS + k // 4]
                sums[at + i] += x * y
        cuda.syncthreads()

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

    @intrinsic
    def copy_vector_later(typing_context, shared, at, source, index, inside):
        """Begin to copy 16 bytes from global to shared memory, or zeros where they are not ``inside``."""
        signature = types.void(shared, types.int64, source, types.int64, types.boolean)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            shared_type, _, source_type, _, _ = signature.args
            target, _ = _vector_pointer(context, builder, shared_type, args[0], args[1])
            origin, _ = _vector_pointer(context, builder, source_type, args[2], args[3])
            in_shared = builder.addrspacecast(target, ir.PointerType(target.type.pointee, SHARED_SPACE))
            in_global = builder.addrspacecast(origin, ir.PointerType(origin.type.pointee, GLOBAL_SPACE))
            places = builder.ptrtoint(in_shared, ir.IntType(32)), builder.ptrtoint(in_global, ir.IntType(64))
            count = builder.select(args[4], _int32(VECTOR_BYTES), _int32(0))
            copying = ir.FunctionType(ir.VoidType(), [ir.IntType(32), ir.IntType(64), ir.IntType(32)])
            text = f"cp.async.cg.shared.global [$0], [$1], {VECTOR_BYTES}, $2;"
            builder.asm(copying, text, "r,l,r,~{memory}", [*places, count], True)
            return context.get_dummy_value()

        return signature, codegen

    @intrinsic
    def wait_for_copies(typing_context):
        """Wait until this thread's copies are there."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.asm(ir.FunctionType(ir.VoidType(), []), "cp.async.wait_all;", "~{memory}", [], True)
            return context.get_dummy_value()

        return types.void(), codegen

    @intrinsic
    def round_tf32(typing_context, x):
        """Return the nearest number of TF32, which has 10 bits behind the point; of two as near the larger one."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            rounding = ir.FunctionType(ir.IntType(32), [ir.FloatType()])
            bits = builder.asm(rounding, "cvt.rna.tf32.f32 $0, $1;", "=r,f", args, False)
            return builder.bitcast(bits, ir.FloatType())

        return types.float32(types.float32), codegen

    @intrinsic
    def add_by_tensor_cores(typing_context, sums, at, a, a_at, b, b_at):
        """Add a warp's product to each thread's four sums from ``at`` on, of its parts of A and B."""
        signature = types.void(sums, types.int64, a, types.int64, b, types.int64)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def places(number: int, count: int) -> list[Any]:
                data = context.make_array(signature.args[number])(context, builder, args[number]).data
                first = args[number + 1]
                return [builder.gep(data, [builder.add(first, ir.Constant(first.type, i))]) for i in range(count)]

            real, whole = ir.FloatType(), ir.IntType(32)
            own = places(0, C_PARTS)
            parts = [builder.load(place) for place in (*places(2, A_PARTS), *places(4, B_PARTS))]
            operands = [builder.bitcast(part, whole) for part in parts]
            result = ir.LiteralStructType([real] * C_PARTS)
            product = ir.FunctionType(result, [whole] * len(operands) + [real] * C_PARTS)
            text = (
                "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};"
            )
            constraints = ",".join(["=f"] * C_PARTS + ["r"] * len(operands) + ["f"] * C_PARTS)
            added = builder.asm(product, text, constraints, [*operands, *map(builder.load, own)], True)
            for i, place in enumerate(own):
                builder.store(builder.extract_value(added, i), place)
            return context.get_dummy_value()

        return signature, codegen
