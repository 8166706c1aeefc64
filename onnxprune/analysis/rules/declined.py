# SPDX-License-Identifier: Apache-2.0
"""Operators that keep all channels of their inputs, and what each does with them; a reason completes "<node> ..."."""

from __future__ import annotations

from collections.abc import Mapping

_REASONS: Mapping[str, str] = {
    "uses them inside its body, whose inputs and outputs are kept": (
        "If Loop Scan SequenceMap BeamSearch* GreedySearch* Sampling* WhisperBeamSearch*"
    ),
    "puts them into a sequence, or takes them out of one": (
        "ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength "
        "SplitToSequence"
    ),
    "wraps or unwraps optional values": "Optional OptionalGetElement OptionalHasElement",
    "draws random numbers": ("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike SampleOp*"),
    "selects boxes by them": "NonMaxSuppression CropAndResize*",
    "finds which of them differ or are not zero": "NonZero Unique Unique*",
    "generates values from sizes and bounds": (
        "BlackmanWindow Constant EyeLike HammingWindow HannWindow MelWeightMatrix Range Range*"
    ),
    "turns them into coordinates": "AffineGrid",
    "reduces a matrix to a single number": "Det",
    "inverts a matrix": "Inverse*",
    "compares every vector with every other": "CDist* DynamicTimeWarping*",
    "cuts a signal into windows and transforms them": "STFT UnfoldTensor*",
    "is a loss over classes": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    "decodes, splits or hashes data that are not numbers": (
        "ImageDecoder RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer MurmurHash3* NGramHashMapping* "
        "NGramRepeatBlock* Tokenizer* VarlenNGramHashMapping* BifurcationDetector*"
    ),
    "sends each token to its own experts": "MoE* QMoE* MoEGroupRouter*",
    "stores past keys and values in a form that no rule describes": (
        "Attention* DecoderMaskedMultiHeadAttention* GroupQueryAttention* MultiHeadAttention* QAttention* SparseAttention*"
    ),
    "packs weights in a form that no rule describes": (
        "GatherBlockQuantized* GatherPacked* MatMulBnb4* MatMulFpQ4* QEmbedLayerNormalization* SparseToDenseMatMul*"
    ),
    "is a fused layer that no rule describes": (
        "AttnLSTM* DynamicQuantizeLSTM* BranchwiseRMSNorm* EngramGate* GatedDeltaNet* GatedRMSNorm* HyperConnectionPostMix* "
        "HyperConnectionPreMix* MRotaryEmbedding* VarlenCausalConvWithState* WordConvEmbedding* CausalConvWithState* GatedAdd*"
    ),
    "is an older form of an ONNX operator; export again with the ONNX operator": (
        "ConvTransposeWithDynamicPads* ExpandDims* MatMulInteger16* MaxpoolWithMask* Pad*"
    ),
    "normalises over several axes at once, as before opset 13": "QLinearSoftmax*",
    "multiplies by scales of more than one axis": "QLinearMatMul",
    "stores channels in blocks of the processor's width; save the model at onnxruntime's extended level instead": (
        "nchwc.AveragePool* nchwc.Conv* nchwc.GlobalAveragePool* nchwc.GlobalMaxPool* nchwc.MaxPool* nchwc.ReorderInput* "
        "nchwc.ReorderOutput* nchwc.Upsample*"
    ),
}


def _named(op: str) -> str:
    """A trailing star stands for onnxruntime's own domain."""
    return f"com.microsoft.{op[:-1]}" if op.endswith("*") else op


DECLINED: Mapping[str, str] = {_named(op): why for why, ops in _REASONS.items() for op in ops.split()}
"""Operator -> why its channels are kept. Fused operators are listed for the cases that have no parts."""

UNREAD: Mapping[str, str] = {"DeformConv": "takes its offsets or its mask from them"}
"""Fused operator -> what it does with operands that its parts do not read."""
