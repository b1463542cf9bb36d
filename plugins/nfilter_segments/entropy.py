"""The entropy of the prediction of each token, from a local model."""

from __future__ import annotations

from typing import Any

import numpy as np

from nfilter import FloatArray, TokenSample

_LOGITS = 2**22


def entropies(module: Any, sample: TokenSample) -> FloatArray:
    """Return float32 [T], NaN for tokens without a prediction: the entropy of the prediction of each token, in nats."""
    import torch

    out = np.full(len(sample.ids), np.nan, dtype=np.float32)
    where = np.flatnonzero(sample.predicted)
    if not len(where):
        return out
    device = next(module.parameters()).device
    ids = torch.from_numpy(np.array(sample.ids, dtype=np.int64)).to(device)
    with torch.no_grad():
        logits = module(input_ids=ids[None, : int(where[-1])], use_cache=False).logits[0]
        size = max(1, _LOGITS // logits.shape[-1])
        for start in range(0, len(where), size):
            at = where[start : start + size]
            logs = logits[torch.from_numpy(at - 1).to(logits.device)].float().log_softmax(-1)
            p = logs.exp()
            out[at] = -p.xlogy(p).sum(-1).cpu().numpy()
    return out
