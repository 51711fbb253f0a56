"""Writes repacked.txt: blocks of types without kernels of their own, and their values by the `gguf` package.

pip install gguf==0.19.0; python3 repacked.py > repacked.txt
"""

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

TYPES = {"Q2K": ("Q2_K", [80, 82]), "Q3K": ("Q3_K", [108]), "IQ4NL": ("IQ4_NL", [0]), "IQ4XS": ("IQ4_XS", [0])}
N_VALUES = 256

random = np.random.default_rng(7)
for name, (theirs, places_of_f16) in TYPES.items():
    dtype = GGMLQuantizationType[theirs]
    block_len, block_bytes = GGML_QUANT_SIZES[dtype]
    blocks = random.integers(0, 256, (N_VALUES // block_len, block_bytes), dtype=np.uint8)
    for block in blocks:
        for at in places_of_f16:
            block[at : at + 2] = np.frombuffer(np.float16(random.uniform(0.0005, 0.02)).tobytes(), np.uint8)
    values = quants.dequantize(blocks.reshape(1, -1), dtype).astype("<f4")
    print(name, blocks.tobytes().hex(), values.tobytes().hex())
