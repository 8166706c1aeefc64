# SPDX-License-Identifier: Apache-2.0
"""Operators that change or report sizes."""

from __future__ import annotations

from tests.cases.operators.sample import Sample, conv

SAMPLES: dict[str, list[Sample]] = {
    "Resize": [
        Sample(conv("b = Resize(a, , s)", "", "float[4] s = {1.0,1.0,2.0,2.0}"), 8),
        Sample(
            conv(
                'b = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (a, , , s)',
                "",
                "int64[4] s = {2,8,16,12}",
            ),
            8,
        ),
        Sample(
            conv(
                'b = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (a, r, e, s)',
                "",
                "float[8] r = {0,0,0,0,1,1,1,1}, float[0] e = {}, int64[4] s = {2,8,5,12}",
            ),
            8,
            opset=11,
        ),
        Sample(conv("b = Resize(a, r, s)", "", "float[8] r = {0,0,0,0,1,1,1,1}, float[4] s = {1.0,1.0,0.5,0.5}"), 8, opset=11),
        Sample(conv("b = Resize <axes = [2,3]> (a, , , s)", "", "int64[2] s = {16,12}"), 8, opset=18),
        Sample(conv("b = Resize <axes = [3,1]> (a, , , s)", "", "int64[2] s = {16,8}"), 8, opset=18),
        Sample(conv("b = Resize(a, s)", "", "float[4] s = {1.0,1.0,2.0,2.0}"), 8, opset=10),
        Sample(
            conv(
                "d = Shape(a)  e = Slice(d, z, t)  f = Concat <axis = 0> (e, k)  b = Resize(a, , , f)",
                "",
                "int64[1] z = {0}, int64[1] t = {2}, int64[2] k = {16,16}",
            ).replace("float[2,3", "float[N,3"),
            8,
        ),
        Sample(
            conv('b = Resize <mode = "nearest"> (a, , s)', "", "float[4] s = {1.0,2.0,1.0,1.0}", w2="4,16,1,1"),
            0,
            "resizes this axis",
            most=0,
        ),
        # as many channels as before, but not the same ones
        Sample(
            conv('b = Resize <mode = "linear"> (a, , s)', "", "float[4] s = {1.0,1.1,1.0,1.0}"), 0, "resizes this axis", most=0
        ),
        Sample(
            conv(
                'b = Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (a, r, , s)',
                "",
                "float[8] r = {0,0.1,0.1,0.1,1,0.9,0.9,0.9}, int64[4] s = {2,8,8,8}",
            ),
            0,
            "crops and resizes at once",
            most=0,
        ),
    ],
    "Upsample": [
        Sample(conv("b = Upsample(a, s)", "", "float[4] s = {1.0,1.0,2.0,2.0}"), 8, opset=9),
        Sample(conv('b = Upsample <mode = "linear"> (a, s)', "", "float[4] s = {1.0,1.0,2.0,2.0}"), 8, opset=9),
    ],
    "Shape": [
        Sample(conv("d = Shape(a)  b = Reshape(a, d)"), 8),
        Sample(conv("d = Shape <start = 1, end = 2> (a)  e = Cast <to = 1> (d)  b = Div(a, e)"), 8, opset=17),
        Sample(
            conv(
                "s = Shape(a)  c = Gather(s, one)  h = Div(c, two)  u = Unsqueeze(h, z)"
                "  d = Slice(a, z, u, o)  b = Slice(a, u, f, o)",
                "",
                "int64 one = {1}, int64 two = {2}, int64[1] z = {0}, int64[1] o = {1}, int64[1] f = {100}",
                "e = Mul(b, d)  y = Conv(e, w2)",
                "4,4,1,1",
            ),
            4,
        ),
    ],
    "Size": [
        Sample(conv("d = Size(a)  e = Cast <to = 1> (d)  b = Div(a, e)"), 8),
        Sample(
            conv("d = Size(a)  e = Cast <to = 1> (d)  b = Div(a, e)").replace("float[2,3", "float[N,3"), 0, refused="dynamic"
        ),
    ],
}
