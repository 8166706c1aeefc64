# SPDX-License-Identifier: Apache-2.0
"""Operators that keep all channels they are given, and what each does with them; a reason completes "<node> ..."."""

from __future__ import annotations

from collections.abc import Mapping

_REASONS: Mapping[str, str] = {
    "works on them inside a body, whose border is kept as it is": (
        "If Loop Scan SequenceMap BeamSearch* GreedySearch* Sampling* WhisperBeamSearch*"
    ),
    "puts them into a sequence, or takes them out of one": (
        "ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength "
        "SplitToSequence"
    ),
    "wraps them up as optional, or unwraps them": "Optional OptionalGetElement OptionalHasElement",
    "draws numbers at random": (
        "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike SampleOp*"
    ),
    "selects boxes by them": "NonMaxSuppression CropAndResize*",
    "finds out which of them differ, or where they are not zero": "NonZero Unique Unique*",
    "makes numbers from sizes and bounds": (
        "BlackmanWindow Constant EyeLike HammingWindow HannWindow MelWeightMatrix Range Range*"
    ),
    "makes coordinates of them": "AffineGrid",
    "makes a single number of a matrix": "Det",
    "inverts a matrix": "Inverse*",
    "compares every vector with every other": "CDist* DynamicTimeWarping*",
    "cuts a signal into windows and transforms them": "STFT UnfoldTensor*",
    "is a loss over classes": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    "decodes, splits or hashes what is no number": (
        "ImageDecoder RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer MurmurHash3* NGramHashMapping* "
        "NGramRepeatBlock* Tokenizer* VarlenNGramHashMapping* BifurcationDetector*"
    ),
    "sends each token to experts of its own": "MoE* QMoE* MoEGroupRouter*",
    "keeps keys and values of the past in a form that no rule describes": (
        "Attention* DecoderMaskedMultiHeadAttention* GroupQueryAttention* MultiHeadAttention* QAttention* SparseAttention*"
    ),
    "packs weights in a form that no rule describes": (
        "GatherBlockQuantized* GatherPacked* MatMulBnb4* MatMulFpQ4* QEmbedLayerNormalization* SparseToDenseMatMul*"
    ),
    "is a layer of several operators that no rule describes": (
        "AttnLSTM* DynamicQuantizeLSTM* BranchwiseRMSNorm* EngramGate* GatedDeltaNet* GatedRMSNorm* HyperConnectionPostMix* "
        "HyperConnectionPreMix* MRotaryEmbedding* VarlenCausalConvWithState* WordConvEmbedding* CausalConvWithState* GatedAdd*"
    ),
    "is an older form of an ONNX operator; export again with ONNX's": (
        "ConvTransposeWithDynamicPads* ExpandDims* MatMulInteger16* MaxpoolWithMask* Pad*"
    ),
    "normalises over several axes at once, as before opset 13": "QLinearSoftmax*",
    "multiplies by scales of more than one axis": "QLinearMatMul",
    "moves each of several groups of channels by offsets of its own": "DeformConv",
    "holds channels in blocks of the processor's width; save the model at onnxruntime's extended level instead": (
        "nchwc.AveragePool* nchwc.Conv* nchwc.GlobalAveragePool* nchwc.GlobalMaxPool* nchwc.MaxPool* nchwc.ReorderInput* "
        "nchwc.ReorderOutput* nchwc.Upsample*"
    ),
}


def _named(op: str) -> str:
    """A star stands for onnxruntime's own domain."""
    return f"com.microsoft.{op[:-1]}" if op.endswith("*") else op


DECLINED: Mapping[str, str] = {_named(op): why for why, ops in _REASONS.items() for op in ops.split()}
"""Operator -> what it does with channels, such that they stay. Fused operators are named for the cases that have no parts."""
