"""Every estimator again, in float64 NumPy, one group at a time: what the tests compare with."""

import numpy as np
from scipy.stats import beta, norm

from tests.advantages.loops import MORE

P, G, K = 4, 6, 4


def ot(values):
    """Rank quantiles with ties averaged, by definition."""
    values = np.asarray(values, np.float64)
    n = len(values)
    if n <= 1:
        return np.zeros(n)
    q = norm.ppf((np.arange(1, n + 1) - 0.5) / n)
    low, high = np.sort(values).searchsorted(values), np.sort(values).searchsorted(values, "right")
    return np.array([q[a:b].mean() for a, b in zip(low, high, strict=True)])


def z_score(values, ddof=1):
    sd = np.std(values, ddof=ddof) if len(values) > ddof else 0.0
    return (values - np.mean(values)) / (sd + 1e-6)


def center(values):
    return values - np.mean(values)


def per_group(function, reward, valid):
    out = np.zeros(reward.shape)
    for p in range(len(reward)):
        if valid[p].any():
            out[p, valid[p]] = function(reward[p, valid[p]])
    return out


def second_stage(value, valid, task):
    out = np.zeros(value.shape)
    for k in range(K):
        here = valid & (task == k)[:, None]
        out[here] = ot(np.round(value[here], 9))  # float64 noise must not break ties
    return out


def reference_ema(reward, valid, task, **_):
    out, sd = np.zeros(reward.shape), {}
    for p in range(P):
        if valid[p].sum() >= 2:
            sd.setdefault(task[p], []).append(np.std(reward[p, valid[p]], ddof=1))
    for p in range(P):
        if valid[p].sum() >= 2:
            out[p, valid[p]] = center(reward[p, valid[p]]) / (np.mean(sd[task[p]]) + 1e-6)
    return out


def reference_onethinker(reward, valid, task, **_):
    out = np.zeros(reward.shape)
    for p in range(P):
        if valid[p].any():
            everyone = reward[(task == task[p])[:, None] & valid]
            scale = np.sqrt(max(np.mean(everyone**2) - np.mean(everyone) ** 2, 1e-6))
            adv = center(reward[p, valid[p]]) / (scale + 1e-6)
            if np.any(np.abs(adv) > 5):
                adv = z_score(reward[p, valid[p]], ddof=0)
            out[p, valid[p]] = adv
    return out


def reference_gdpo(reward, valid, components, length, **_):
    return over_tokens(
        sum(per_group(z_score, c, valid) for c in components.values()), valid, length
    )


def reference_gpg(reward, valid, **_):
    groups = [reward[p, valid[p]] for p in range(P) if valid[p].any()]
    dead = sum(len(set(g)) == 1 for g in groups)
    alpha = len(groups) / max(len(groups) - dead, 1)
    return alpha * per_group(center, reward, valid)


def on_valid(value, valid):
    return np.where(valid, value, 0.0)


def reference_rloo(reward):
    others = [np.delete(reward, i) for i in range(len(reward))]
    return np.array([r - o.mean() if len(o) else 0.0 for r, o in zip(reward, others, strict=True)])


def reference_opo(reward, valid, length, **_):
    out = np.zeros(reward.shape)
    for p in range(P):
        here = valid[p] & (length[p] > 0)
        if here.any():
            r, tokens = reward[p, here], length[p, here]
            out[p, here] = r - (tokens * r).sum() / tokens.sum()
    return out


def reference_passk(reward):
    out = np.zeros(len(reward))
    if len(reward) >= 2:
        second, best = np.sort(reward)[-2:]
        out[np.argmax(reward)] = (best - second) / (np.std(reward, ddof=1) + 1e-6)
    return out


def reference_lite_ppo(reward, valid, **_):
    sd = np.std(reward[valid], ddof=1) if valid.sum() > 1 else 0.0
    return per_group(center, reward, valid) / (sd + 1e-6)


def over_tokens(value, valid, length):
    tokens = np.repeat(value[valid], length[valid].astype(int))
    white = (value - tokens.mean()) / (tokens.std() + 1e-6) if len(tokens) else 0 * value
    return on_valid(white, valid & (length > 0))


def reference_win_rate(reward):
    n = len(reward)
    rate = [
        sum((a > b) + 0.5 * (a == b) for j, b in enumerate(reward) if j != i) / max(n - 1, 1)
        for i, a in enumerate(reward)
    ]
    return z_score(np.array(rate))


def reference_bnpo(reward, valid, **_):
    rows = [p for p in range(P) if valid[p].any()]
    p_b = np.array([reward[p, valid[p]].mean() for p in rows])
    out = per_group(center, reward, valid)
    if len(rows) < 2 or np.var(p_b) == 0:
        return out
    m, v = p_b.mean(), np.var(p_b, ddof=1)
    a, b = (m * (1 - m) / v - 1) * m, (m * (1 - m) / v - 1) * (1 - m)
    density = beta.pdf(p_b, max(1 + a / 3, 1), max(1 + b / 3, 1))
    for p, d in zip(rows, density, strict=True):
        out[p] *= min(1 / max(d, 1e-300), 1e6)
    return out


def with_share(function):
    """function(rewards, which of them are right) of each group; right is an accuracy of a half."""

    def reference(reward, valid, components, **_):
        out = np.zeros(reward.shape)
        for p in range(P):
            here = valid[p]
            if here.any():
                out[p, here] = function(reward[p, here], components["accuracy"][p, here] >= 0.5)
        return out

    return reference


def maxrl(r):
    return center(r) / (r.mean() + 1e-6)


def mapo(r, right):
    w = 4 * right.mean() * (1 - right.mean())
    return w * z_score(r) + (1 - w) * maxrl(r)


def grpo_lead(r, right):
    def w(x):
        return 0.4 + 1.1 / (1 + np.exp(10 * (x - 0.75)))

    z = z_score(r)
    return np.where(z > 0, z * w(right.mean()), z * w(1 - right.mean()))


def noise_aware(r, right, flip=0.1):
    q, e = right.mean(), 1e-8
    t = np.clip((q - flip) / (1 - 2 * flip), 0, 1)
    w = (1 - 2 * flip) * t * (1 - t) / (np.sqrt(q * (1 - q) + e) * np.sqrt(t * (1 - t) + e))
    return w * z_score(r)


def reinforce_rej(r, right):
    signed = np.where(right, 1.0, -1.0)
    return signed if signed.std() > 0 else 0 * signed


REFERENCES = {
    "g2rpo": lambda reward, valid, **_: per_group(ot, reward, valid),
    "g2rpo_task": lambda reward, valid, task, **_: second_stage(reward, valid, task),
    "g2rpo_release": lambda reward, valid, task, **_: second_stage(
        per_group(ot, reward, valid), valid, task
    ),
    "gaussian_gdpo": lambda reward, valid, task, components, **_: second_stage(
        sum(np.trunc(per_group(ot, c, valid) * 2**18) for c in components.values()), valid, task
    ),
    "grpo": lambda reward, valid, **_: per_group(z_score, reward, valid),
    "dr_grpo": lambda reward, valid, **_: per_group(center, reward, valid),
    "ema_grpo": reference_ema,
    "ema_grpo_onethinker": reference_onethinker,
    "gdpo": reference_gdpo,
    "rloo": lambda reward, valid, **_: per_group(reference_rloo, reward, valid),
    "gpg": reference_gpg,
    "opo": reference_opo,
    "asymre": lambda reward, valid, **_: on_valid(per_group(center, reward, valid) + 0.1, valid),
    "grpo_passk": lambda reward, valid, **_: per_group(reference_passk, reward, valid),
    "lite_ppo": reference_lite_ppo,
    "reinforce_pp_baseline": lambda reward, valid, length, **_: over_tokens(
        per_group(center, reward, valid), valid, length
    ),
    "win_rate": lambda reward, valid, **_: per_group(reference_win_rate, reward, valid),
    "ngrpo": lambda reward, valid, **_: per_group(
        lambda r: z_score(np.append(r, 1.0))[:-1], reward, valid
    ),
    "mapo": with_share(mapo),
    "maxrl": lambda reward, valid, **_: per_group(maxrl, reward, valid),
    "bnpo": reference_bnpo,
    "grpo_lead": with_share(grpo_lead),
    "noise_aware": with_share(noise_aware),
    "raft": with_share(lambda r, right: np.maximum(np.where(right, 1, -1), 0)),
    "reinforce_rej": with_share(reinforce_rej),
    "verifier_backward": lambda reward, valid, **_: per_group(
        lambda r: center((r - 0.1) / (1 - 0.1 - 0.1)), reward, valid
    ),
    "verifier_forward": with_share(lambda r, right: np.where(right, 0.1, 0.1 - 1)),
    **MORE,
}
