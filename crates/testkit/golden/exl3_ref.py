"""Independent numpy reference for the EXL3 trellis format (written from the format notes in
docs/formats.md; contains no third-party code).

Conventions
  W is [in_features (k), out_features (n)], row-major; y = x @ W + bias.
  stream position t in 0..255 indexes a 16x16 tile in tensor-core order.
"""
import numpy as np

U32 = np.uint64(0xFFFFFFFF)
MCG_MULT, MUL1_MULT = 0xCBAC1FED, 0x83DCD12D
INST3_MULT, INST3_ADD = 89226354, 64248484
K_INV = np.array(0x1EEE, np.uint16).view(np.float16)     # 0.0067672729...
K_BIAS = np.array(0xC931, np.uint16).view(np.float16)    # -10.3828125
CB_NAMES = {0: "3inst", 1: "mcg", 2: "mul1"}


# ------------------------------------------------------------------ tile geometry
def tile_pos():
    """row[t], col[t] inside the 16x16 tile for stream position t."""
    t = np.arange(256)
    lane, j = t >> 3, t & 7
    row = 2 * (lane & 3) + (j & 1) + 8 * ((j >> 1) & 1)
    col = (lane >> 2) + 8 * (j >> 2)
    return row, col


# ------------------------------------------------------------------ bit packing
def states_from_packed(packed, K):
    """packed: int16/uint16 [..., 16*K]  ->  uint16 states [..., 256]."""
    p = np.ascontiguousarray(packed).view(np.uint16)
    h = np.ascontiguousarray(p[..., np.arange(16 * K) ^ 1])   # halfwords in stream order
    bits = np.unpackbits(h.astype(">u2").view(np.uint8).reshape(*h.shape[:-1], -1), axis=-1)
    n = 256 * K
    idx = ((np.arange(256)[:, None] + 1) * K - 16 + np.arange(16)[None, :]) % n
    b = bits[..., idx].astype(np.uint32)
    return (b << np.arange(15, -1, -1, dtype=np.uint32)).sum(-1).astype(np.uint16)


def pack_states(states, K):
    """states: uint16 [..., 256] (only the low K bits of each are stored) -> int16 [..., 16*K]."""
    s = states.astype(np.uint16)
    sh = np.arange(K - 1, -1, -1, dtype=np.uint16)
    bits = ((s[..., None] >> sh) & 1).astype(np.uint8).reshape(*s.shape[:-1], 256 * K)
    h = np.packbits(bits, axis=-1).view(">u2").astype(np.uint16)
    return np.ascontiguousarray(h[..., np.arange(16 * K) ^ 1]).view(np.int16)


# ------------------------------------------------------------------ codebooks
def _product(states, cb):
    s = states.astype(np.uint64)
    if cb == 0:
        return (s * np.uint64(INST3_MULT) + np.uint64(INST3_ADD)) & U32
    return (s * np.uint64(MCG_MULT if cb == 1 else MUL1_MULT)) & U32


def decode(states, cb):
    """16-bit states -> fp16 codebook values (bit-exact reference semantics)."""
    x = _product(states, cb).astype(np.uint32)
    if cb == 2:
        S = (x & 255) + ((x >> 8) & 255) + ((x >> 16) & 255) + (x >> 24)
        # fp16 FMA with one rounding: the exact sum of products fits float64
        v = (1024.0 + S.astype(np.float64)) * float(K_INV) + float(K_BIAS)
        return v.astype(np.float16)
    x = (x & np.uint32(0x8FFF8FFF)) ^ np.uint32(0x3B603B60)
    lo = (x & np.uint32(0xFFFF)).astype(np.uint16).view(np.float16)
    hi = (x >> np.uint32(16)).astype(np.uint16).view(np.float16)
    return (lo.astype(np.float64) + hi.astype(np.float64)).astype(np.float16)


def decode_mul1_affine(states):
    """Real-arithmetic mul1 variant used by integer kernels: (S - 510) * k_inv (float64)."""
    x = _product(states, 2).astype(np.uint32)
    S = (x & 255) + ((x >> 8) & 255) + ((x >> 16) & 255) + (x >> 24)
    return (S.astype(np.float64) - 510.0) * float(K_INV)


# ------------------------------------------------------------------ tensors
def tiles_to_matrix(vals):
    """vals [kt, nt, 256] in stream order -> [16*kt, 16*nt]."""
    kt, nt, _ = vals.shape
    row, col = tile_pos()
    out = np.empty((kt, 16, nt, 16), vals.dtype)
    for t in range(256):
        out[:, row[t], :, col[t]] = vals[:, :, t]
    return out.reshape(kt * 16, nt * 16)


def matrix_to_tiles(m):
    k, n = m.shape
    row, col = tile_pos()
    t4 = m.reshape(k // 16, 16, n // 16, 16)
    return np.stack([t4[:, row[t], :, col[t]] for t in range(256)], -1)


def inner_weight(trellis, cb, affine=False):
    """trellis int16 [k/16, n/16, 16K] -> W_hat [k, n] (fp16; float64 when affine)."""
    K = trellis.shape[-1] // 16
    s = states_from_packed(trellis, K)
    return tiles_to_matrix(decode_mul1_affine(s) if affine else decode(s, cb))


def hadamard128():
    i = np.arange(128)
    par = np.array([bin(v).count("1") & 1 for v in range(128)])
    return np.where(par[i[:, None] & i[None, :]], -1.0, 1.0) / np.sqrt(128.0)


H128 = hadamard128()


def had_cols(x):     # x [..., n] -> blocks of 128 along the last axis
    s = x.shape
    return (x.reshape(*s[:-1], s[-1] // 128, 128) @ H128).reshape(s)


def full_weight(trellis, suh, svh, cb, affine=False):
    """W = diag(suh) (I (x) H) W_hat (I (x) H) diag(svh), float64."""
    w = inner_weight(trellis, cb, affine).astype(np.float64)
    w = had_cols(w.T).T                      # left (input) side
    w = had_cols(w)                          # right (output) side
    return suh.astype(np.float64)[:, None] * w * svh.astype(np.float64)[None, :]


def linear(x, t, affine=False):
    """y = x W + bias in float64 through the transformed route (input scale, H, W_hat, H, output scale)."""
    cb = t["cb"]
    xh = had_cols(x.astype(np.float64) * t["suh"].astype(np.float64))
    y = had_cols(xh @ inner_weight(t["trellis"], cb, affine).astype(np.float64))
    y = y * t["svh"].astype(np.float64)
    return y if t.get("bias") is None else y + t["bias"].astype(np.float64)


def linear_fp16_staged(x, t):
    """Same, with the roundings a typical fp16 GPU path makes (scaled input fp16, transformed input
    fp16, fp32-accumulated GEMM, transformed output fp16). Used only to size tolerances."""
    f16 = lambda a: a.astype(np.float16).astype(np.float64)
    xh = f16(had_cols(f16(x.astype(np.float64) * t["suh"].astype(np.float64))))
    y = f16(xh @ inner_weight(t["trellis"], t["cb"]).astype(np.float64))
    return f16(f16(had_cols(y)) * t["svh"].astype(np.float64))


def silu(v):
    return v / (1.0 + np.exp(-v))


def expert(x, g, u, d, lin=linear, **kw):
    a, b = lin(x, g, **kw), lin(x, u, **kw)
    h = silu(a) * b
    return a, b, h, lin(h, d, **kw)


# ------------------------------------------------------------------ routers (logits fp16 -> ids, weights)
def _top(keys, k):
    # descending; ties -> lowest expert index
    return np.argsort(-keys, axis=-1, kind="stable")[..., :k]


def route_softmax_topk_norm(logits, k):
    """Qwen3-MoE / Mixtral: softmax over all, top-k, renormalise == softmax over the selected logits."""
    l = logits.astype(np.float64)
    ids = _top(l, k)
    sel = np.take_along_axis(l, ids, -1)
    e = np.exp(sel - sel.max(-1, keepdims=True))
    return ids, e / e.sum(-1, keepdims=True)


def route_sigmoid_bias(logits, bias, k, scale):
    """GLM-4.x-MoE / DeepSeek-V3 with one group: sigmoid scores; bias only for selection."""
    s = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    ids = _top(s + bias.astype(np.float64), k)
    w = np.take_along_axis(s, ids, -1)
    return ids, w / (w.sum(-1, keepdims=True) + 1e-20) * scale


# ------------------------------------------------------------------ tail-biting Viterbi (fp16 costs)
def _argmin_tree(cost):
    """Index of the minimum; among equal minima order by (bit-reversed warp, bit-reversed lane, stripe)
    where node e belongs to stripe e // 1024, warp (e % 1024) // 32, lane e % 32."""
    e = np.flatnonzero(cost == cost.min())
    rev = np.array([int(f"{i:05b}"[::-1], 2) for i in range(32)])
    v = e % 1024
    return int(e[np.lexsort((e // 1024, rev[v % 32], rev[v // 32]))[0]])


def viterbi_tile(w, K, cb, compat=True):
    """Two-pass tail-biting Viterbi over one 256-value tile (stream order), fp16 costs.
    Returns (states uint16[256], decoded fp16[256]). Ties: the smallest high-bits branch wins; the
    final argmin of pass 1 follows a 1024-lane tree reduction (see _argmin_tree). compat=True picks the
    pass-1 end node from the costs of step 254 instead of 255, as the existing quantizer does."""
    E, B = 65536 >> K, 1 << K
    cbv = decode(np.arange(65536, dtype=np.uint16), cb)
    w = w.astype(np.float16)
    out = np.arange(E)
    st = (np.arange(B)[:, None] << (16 - K)) | out[None, :]      # candidate states per outgoing node
    src = st >> K                                                # their incoming node
    cand = cbv[st]

    def forward(roll, pre):
        edges = np.empty((256, E), np.uint16)
        cost = prev_cost = None
        for i in range(256):
            ri = (i + roll) & 255
            d = (cand - w[ri]).astype(np.float16)
            if i == 0:
                err = (d * d).astype(np.float16)
                if pre is not None:
                    err = np.where(src == pre, err, np.float16(np.inf))
            else:   # fp16 FMA, one rounding (exact in float64)
                err = (d.astype(np.float64) ** 2 + cost[src].astype(np.float64)).astype(np.float16)
            b = np.argmin(err, axis=0)
            prev_cost, cost = cost, err[b, out]
            edges[ri] = src[b, out]
        return (prev_cost if compat else cost), edges

    with np.errstate(over="ignore"):
        cost, edges = forward(128, None)
        node = _argmin_tree(cost)
        for i in range(255, -1, -1):
            ri = (i + 128) & 255
            node = int(edges[ri, node])
            if ri == 0:
                break
        end = node
        cost, edges = forward(0, end)
        states = np.empty(256, np.uint16)
        node = end
        for i in range(255, -1, -1):
            prev = int(edges[i, node])
            states[i] = ((prev << K) | node) & 0xFFFF
            node = prev
    return states, cbv[states]
