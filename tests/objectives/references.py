"""The published losses again, in float64 torch: one response or group at a time, no masks.

A row is a list of responses; a response has 1-D tensors `logp` (with gradient), `old`, `ref`, lists
`token` and `entropy`, and a number `adv`. Responses without tokens are not in the list.
"""

import dataclasses
import math

import torch


@dataclasses.dataclass
class Response:
    logp: torch.Tensor
    old: torch.Tensor
    ref: torch.Tensor
    token: list
    entropy: torch.Tensor
    adv: float

    @property
    def d(self):
        return self.logp - self.old

    @property
    def r(self):
        return torch.exp(self.d)


def rows(tokens):
    """(leaf tensor of all log-probs, list of rows)."""
    double = lambda x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    logp = double(tokens.logp_PGT).requires_grad_(True)
    found = []
    for p, mask_GT in enumerate(tokens.mask_PGT):
        row = []
        for g, mask_T in enumerate(mask_GT):
            n = int(mask_T.sum())
            if n:
                row.append(
                    Response(
                        logp[p, g, :n],
                        double(tokens.old_logp_PGT[p, g, :n]),
                        double(tokens.ref_logp_PGT[p, g, :n]),
                        tokens.token_PGT[p, g, :n].tolist(),
                        double(tokens.entropy_PGT[p, g, :n]),
                        float(tokens.adv_PG[p, g]),
                    )
                )
        found.append(row)
    return logp, found


def ppo(ratio, adv, low, high, dual):
    """verl's dual-clip PPO loss, written with torch.where as there."""
    first = torch.maximum(-adv * ratio, -adv * ratio.clamp(low, high))
    if adv < 0 and dual:
        first = torch.minimum(first, torch.tensor(-adv * dual, dtype=torch.float64))
    return first


def clip(c, row, x):
    return ppo(x.r, x.adv, 1 - c.clip_low, 1 + c.clip_high, c.dual_clip)


def gpg(c, row, x):
    return -x.adv * x.logp


def spo(c, row, x):
    return -(x.adv * x.r - abs(x.adv) * (x.r - 1) ** 2 / (2 * 0.2))


def dcpo(c, row, x):
    q = torch.exp(x.old)
    low = 0.5 + 0.5 * torch.sqrt((1 - 4 * 0.16 / q).clamp(min=0))
    high = (0.5 + 0.5 * torch.sqrt(1 + 4 * 0.2 / q)).clamp(max=10)
    return ppo(x.r, x.adv, low, high, 3.0)


def cispo(c, row, x):
    return -x.r.clamp(1 - c.cispo_low, 1 + c.cispo_high).detach() * x.adv * x.logp


def sapo(c, row, x):
    tau = 1.0 if x.adv > 0 else 1.05
    return -x.adv * 4 / tau * torch.sigmoid(tau * (x.r - 1))


def gspo(c, row, x):
    s = torch.exp(x.d.mean())
    return ppo(s, x.adv, 1 - c.gspo_low, 1 + c.gspo_high, 0.0)


def gspo_token(c, row, x):
    s = torch.exp(x.d.mean()).detach() * torch.exp(x.logp - x.logp.detach())
    return ppo(s, x.adv, 1 - c.gspo_low, 1 + c.gspo_high, 0.0)


def gmpo(c, row, x):
    near = x.d.clamp(-0.4, 0.4)
    kept = torch.minimum(x.d, near) if x.adv > 0 else torch.maximum(x.d, near)
    return -x.adv * torch.exp(kept.mean())


def topr(c, row, x):
    weight = 1.0 if x.adv > 0 else min(math.exp(x.d.sum().item()), 1.0)
    return -weight * x.adv * x.logp


def lambda_grpo(c, row, x):
    sharing = [sum(y.token[: t + 1] == x.token[: t + 1] for y in row) for t in range(len(x.token))]
    return clip(c, row, x) / torch.tensor(sharing, dtype=torch.float64)


def gtpo(c, row, x):
    others = [y for y in row if y.adv * x.adv < 0]

    def run(side):
        """How many places from that side are shared with the other sign, one after another."""
        n = 0
        while n < len(x.token) and any(
            n < len(y.token) and side(y.token)[n] == side(x.token)[n] for y in others
        ):
            n += 1
        return n

    n, ahead, back = len(x.token), run(lambda ids: ids), run(lambda ids: ids[::-1])
    shared = 2.0 if x.adv > 0 else 0.0
    weight = [(shared if t < ahead else 1.0) * (shared if t >= n - back else 1.0) for t in range(n)]
    conflicts = sum(t < ahead or t >= n - back for t in range(n))
    H = x.entropy.mean().item()
    x = dataclasses.replace(x, adv=x.adv - 0.1 * H if H <= 0.7 else 0.0)
    return clip(c, row, x) * torch.tensor(weight, dtype=torch.float64) / max(conflicts, 1)


def opmd(c, row, x):
    return -x.adv * x.logp / (1 + 1.0)


def opmd_squared(c, row, x):
    return -x.adv * x.logp.sum() + 0.5 * x.d.sum() ** 2


def rec(c, row, x):
    r, A = x.r.detach(), x.adv
    one_side = ((A >= 0) & (r <= 1.2)) | ((A <= 0) & (r >= 0.8))
    ring = ((r >= 0.8) & (r <= 1.2)) | ((A >= 0) & (r <= 0.4)) | ((A <= 0) & (r >= 3.0))
    keep = {"all": r > 0, "one_side": one_side, "ring": ring}[c.rec_mask]
    weight = {
        "one": 1.0,
        "ratio": r,
        "clipped_ratio": r.clamp(0.8, 1.2),
        "advantage": math.exp(A / c.rec_temperature),
    }[c.rec_weight]
    return -weight * keep * A * x.logp + c.rec_squared * x.d**2 - c.rec_forward * x.logp


def gvpo(c, row, x):
    moved = [0.1 * y.d.sum() for y in row]
    mean = (sum(moved) / len(moved)).detach()
    n = len(row)
    return 0.5 * n / (n - 1) * ((0.1 * x.d.sum() - mean) - x.adv) ** 2


def reg_grpo(c, row, x):
    moved = torch.stack([y.d.sum() for y in row])
    z = (x.d.sum() - moved.mean()) / (moved.std() + c.reg_grpo_floor)
    return (x.adv - z) ** 2


PER_RESPONSE = {
    f.__name__: f
    for f in (clip, gpg, spo, dcpo, cispo, sapo, gspo, gspo_token, gmpo, topr)
    + (lambda_grpo, gtpo, opmd, opmd_squared, rec, gvpo, reg_grpo)
}


def sequence_mean(c, tokens):
    """(leaf, mean over responses of the mean of what PER_RESPONSE gives)."""
    leaf, found = rows(tokens)
    losses = [PER_RESPONSE[c.name](c, row, x).mean() for row in found for x in row]
    return leaf, torch.stack(losses).mean()


def disco(c, tokens, score, tau, weight=lambda x: 1.0):
    """(leaf, loss) of DisCO, penalty as in the paper; prompts of one kind count, with 0."""
    leaf, found = rows(tokens)
    total = 0.0
    for row in found:
        right, wrong = [x for x in row if x.adv > 0], [x for x in row if x.adv < 0]
        if right and wrong:
            w = torch.tensor([weight(x) for x in right], dtype=torch.float64)
            soft = torch.stack([torch.exp(score(x) / tau) for x in wrong]).mean().log()
            best = (w * torch.stack([score(x) for x in right])).sum() / w.sum()
            total = total - (best - tau * soft)
    k = torch.cat([x.r - 1 - x.d for row in found for x in row]).mean()
    penalty = c.disco_beta / 2 * (k - c.disco_delta).clamp(min=0) ** 2
    return leaf, total / len(found) + penalty


def trpa(c, tokens):
    """(leaf, loss): all pairs of the minibatch weigh the same."""
    leaf, found = rows(tokens)
    losses = []
    for row in found:
        for a in row:
            for b in row:
                if a.adv > b.adv:
                    scale = 0.1 * (2.5 if a.adv > 0 else 1.0)
                    margin = (a.logp - a.ref).mean() - (b.logp - b.ref).mean()
                    losses.append(-torch.nn.functional.logsigmoid(scale * margin))
    return leaf, torch.stack(losses).mean()
