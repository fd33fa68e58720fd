"""References by loops: estimators that look at behaviour, remember rows or bundle prompts."""

import numpy as np


def std(values):
    return np.std(values, ddof=1) if len(values) > 1 else 0.0


def z_score(values):
    return (values - np.mean(values)) / (std(values) + 1e-6)


def edge(reward, right, surprise, logp):
    entropy = np.maximum(surprise, 0.01)
    return z_score(reward) * entropy.mean() / entropy


def unlikely(reward, right, surprise, logp):
    ranks = [np.sum(logp < x) + (np.sum(logp == x) - 1) / 2 for x in logp]
    return z_score(reward * (1 - 0.25 * np.array(ranks) / len(reward)))


def shaped(right, surprise):
    """GRPO-S's rewards, term by term as in the formula."""
    entropy = np.maximum(surprise, 0.01)
    d, h = right.sum(), (~right).sum()
    return np.array(
        [
            1 + 0.1 * d * entropy[i] / entropy[right].sum()
            if right[i]
            else -1 - 0.1 * h * (1 / entropy[i]) / (1 / entropy[~right]).sum()
            for i in range(len(right))
        ]
    )


def of_behaviour(function):
    """function(rewards, which are right, surprises, log-likelihoods) of each group."""

    def reference(reward, valid, components, surprise, logp, **_):
        right, out = components["accuracy"] >= 0.5, np.zeros(reward.shape)
        for p, here in enumerate(valid):
            if here.any():
                out[p, here] = function(*(x[p, here] for x in (reward, right, surprise, logp)))
        return out

    return reference


class SingleStream:
    """The tracker as a dictionary, one visit after the other."""

    def __init__(self, rho=0.875):
        self.rho, self.counts = rho, {}

    def __call__(self, reward, valid, row):
        value = [a / (a + b) for a, b in (self.counts.get(r, (0.5, 0.5)) for r in row)]
        raw = reward - np.array(value)[:, None]
        out = np.zeros(reward.shape)
        if valid.any():
            out[valid] = (raw[valid] - raw[valid].mean()) / (std(raw[valid]) + 1e-6)
        for r in set(row[valid.any(1)]) - {-1}:
            a, b = self.counts.get(r, (0.5, 0.5))
            of_row = reward[row == r][valid[row == r]]
            self.counts[r] = self.rho * a + of_row.sum(), self.rho * b + (1 - of_row).sum()
        return out


class DcpoSmooth:
    """Cumulative mean and deviation by the paper's recurrence, row by row."""

    def __init__(self):
        self.past = {}

    def __call__(self, reward, valid, row):
        out, new = np.zeros(reward.shape), {}
        for p in range(len(row)):
            peers = (row == row[p]) if row[p] >= 0 else np.arange(len(row)) == p
            visit = reward[peers][valid[peers]]
            if not valid[p].any():
                continue
            i, mu_old, sd_old = self.past.get(row[p], (0, 0.0, 0.0)) if row[p] >= 0 else (0, 0, 0)
            i += 1
            mu_n, sd_n = visit.mean(), std(visit)
            mu_t = ((i - 1) * mu_old + mu_n) / i
            var = (i - 1) * sd_old**2 + sd_n**2 + (i - 1) / i * (mu_n - mu_old) ** 2
            sd_t = np.sqrt(var / i)
            now = (reward[p] - mu_n) / sd_n if sd_n > 0 else 0 * reward[p]
            ever = (reward[p] - mu_t) / sd_t if sd_t > 0 else 0 * reward[p]
            one = (i - 1) / i * now + ever / i
            two = now / i + (i - 1) / i * ever
            out[p] = np.where(valid[p], np.where(abs(one) < abs(two), one, two), 0)
            new[row[p]] = i, mu_t, sd_t
        self.past |= {r: numbers for r, numbers in new.items() if r >= 0}
        return out


class RiskPo:
    """The formula by loops; q is None before the first batch."""

    def __init__(self, bundle=5, low=0.2, high=0.8, mix=1.5, rate=0.1, baseline=True, credit=None):
        self.bundle, self.levels, self.mix = bundle, (low, high), mix
        self.rate, self.baseline, self.credit, self.q = rate, baseline, credit, None

    def __call__(self, reward, valid):
        out, papers = np.zeros(reward.shape), {}
        for start in range(0, len(reward), self.bundle):
            here = slice(start, start + self.bundle)
            for j in range(reward.shape[1]):
                got = reward[here, j][valid[here, j]]
                if len(got):
                    papers[start, j] = self.bundle * got.mean()
        scores = np.array(list(papers.values()))
        first = self.q is None
        if not papers:
            return out
        down, up = self.q = np.quantile(scores, self.levels) if first else self.q
        for (start, j), score in papers.items():
            here = np.arange(start, min(start + self.bundle, len(reward)))
            rvar = max(score - down, 0) - max(score - up, 0) - self.baseline * (up - down)
            rvar /= self.levels[1] - self.levels[0]
            cvar = -max(down - score, 0) / self.levels[0]
            mine = [papers[key] for key in papers if key[0] == start]
            sd = std(mine)
            value = (self.mix * cvar + rvar) / (self.mix + 1) / (sd + 1e-6 if sd > 1e-3 else 1)
            here = here[valid[here, j]]
            for p in here:
                rewards = reward[p, valid[p]]
                sd_p = std(rewards)
                deviations = [reward[q, j] - reward[q, valid[q]].mean() for q in here]
                total = sum(deviations)
                out[p, j] = (
                    value
                    * {
                        None: 1.0,
                        "score": 0.5 if reward[p, j] > 0 else 1.5,
                        "std": 1 / ((sd_p if sd_p > 1e-3 else 1.0) + 1e-6),
                        "sum_mean": deviations[list(here).index(p)] / total
                        if abs(total) > 1e-6
                        else 1 / len(here),
                    }[self.credit]
                )
        if not first:
            shares = [np.mean(scores < q) for q in self.q]
            self.q = self.q + self.rate * (np.array(self.levels) - shares)
        return out


MORE = {
    "edge_grpo": of_behaviour(edge),
    "unlikeliness": of_behaviour(unlikely),
    "grpo_s": of_behaviour(lambda reward, right, surprise, logp: z_score(shaped(right, surprise))),
    "single_stream": lambda reward, valid, row, **_: SingleStream()(reward, valid, row),
    "dcpo_smooth": lambda reward, valid, row, **_: DcpoSmooth()(reward, valid, row),
    "risk_po": lambda reward, valid, **_: RiskPo()(reward, valid),
}
