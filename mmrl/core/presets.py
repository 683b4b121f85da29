"""The published algorithms: what each changes in the defaults of mmrl.core.algorithm.Algorithm. Data only.

KL coefficients stay 0: their size depends on the modality; the estimator and the place are the published ones,
so setting kl_coef is enough. Options whose published value is not known keep their documented default, and the
certainty of each hook (A to D, in docs/configuration.md) says how far it can be trusted. What a preset does not do as
released code does it is said beside it, and in docs/algorithms.md.

drop_zero_variance is on where the published form drops groups without signal: DAPO's dynamic sampling, what is built
on it, ScaleRL, and Flow-GRPO's release. TRL, verl and the releases behind the others keep such groups in the
denominators.
"""

from __future__ import annotations

from typing import Any

# arXiv 2505.05470. The release trains on the samples whose advantage is not 0 (train_sd3.py), and puts some of the
# others back at random so that its batches come out even, which is not done here.
FLOW_GRPO: dict[str, Any] = {
    "advantage": "global_std",
    "ddof": 0,
    "std_eps": 1e-4,
    "clamp": 5.0,
    "kl_estimator": "exact",
    "combine": "reward_sum",
    "drop_zero_variance": True,
}

PRESETS: dict[str, dict[str, Any]] = {
    # DeepSeekMath, arXiv 2402.03300. std_eps 1e-6 is verl's, TRL and ms-swift have 1e-4.
    "grpo": {},
    # arXiv 2503.20783; constant_length, the generation budget, has to be given with it.
    "dr_grpo": {"advantage": "group_mean", "aggregate": "constant"},
    # arXiv 2503.14476, as released (the formula averages per prompt: prompt_mean). Its dynamic sampling also refills
    # dropped groups, which is the stage's `refill`; its penalty of long answers is shape: [soft_overlong], which wants
    # the length budget.
    "dapo": {"clip_low": 0.2, "clip_high": 0.28, "aggregate": "token_mean", "drop_zero_variance": True},
    # arXiv 2507.18071.
    "gspo": {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    # The same paper, for advantages that differ inside a sequence.
    "gspo_token": {"ratio": "sequence_token", "clip_low": 3e-4, "clip_high": 4e-4},
    # MiniMax-M1, arXiv 2506.13585, which does not tell its cap: 5 is ScaleRL's, and what TRL's page of papers names. It
    # bounds the ratio itself; verl's default is 1.2, and TRL's, an epsilon_high of 0.2, caps every ratio at 0.2.
    "cispo": {"gate": {"name": "cispo", "cap": 5.0}, "aggregate": "token_mean"},
    # arXiv 2402.14740: a sequence is one action, so its ratio is clipped as one and counts once, as in TRL. verl takes
    # the advantages alone from it, and clips tokens.
    "rloo": {
        "advantage": "leave_one_out",
        "ratio": "product",
        "kl_estimator": "k1",
        "kl_place": "reward",
    },
    # arXiv 2501.03262, whitened over all tokens. With kl_coef the KL of the whole sample comes off its reward; that of
    # each token and those after it, as published, is advantage: {name: whiten_tokens, beta: ...}.
    "reinforce_pp": {"advantage": "whiten", "aggregate": "token_mean", "kl_estimator": "k1", "kl_place": "reward"},
    # The same paper, with the group's mean as baseline. verl leaves the reward of a single sample as it is; here its
    # centred reward is 0.
    "reinforce_pp_baseline": {"advantage": "whiten_baseline", "aggregate": "token_mean", "kl_estimator": "k2"},
    # arXiv 2511.20347.
    "sapo": {"gate": {"name": "sapo", "tau_pos": 1.0, "tau_neg": 1.05}},
    # arXiv 2510.13786; its zero-variance filter does not refill.
    "scalerl": {
        "advantage": "batch_std",
        "gate": {"name": "cispo", "cap": 5.0},
        "aggregate": "prompt_mean",
        "drop_zero_variance": True,
    },
    "flow_grpo": FLOW_GRPO,
    # Flow-DPPO, arXiv 2606.11025: the same with a bound on the divergence of each step in the place of the clip.
    "flow_dppo": {**FLOW_GRPO, "gate": {"name": "dppo", "limit": 1e-5}},
    # TempFlow-GRPO, arXiv 2508.04324: Flow-GRPO whose steps weigh by their noise. Its scale of 2.25 belongs to SD 3.5;
    # the other half of it, samples that part at each step, is the stage's `branches` (docs/image.md).
    "temp_flow": {**FLOW_GRPO, "action_weights": ["noise_level"]},
    # PaCo-GRPO, arXiv 2512.04784: rewards that vary much are tamed, then centred as Flow-GRPO's. The release leaves no
    # sample out.
    "paco_grpo": {**FLOW_GRPO, "tame": "log", "std_eps": 1e-6, "drop_zero_variance": False},
    # The same as its released function does it, whose sum is the advantage without centring: where rewards are above 0
    # every sample is pushed up. For comparison.
    "paco_grpo_uncentred": {
        "tame": "log",
        "advantage": "none",
        "clamp": 5.0,
        "kl_estimator": "exact",
    },
    # TOPR, arXiv 2503.14286: rewards of +1 and -1 as they are, sum over the actions of a sequence, mean over sequences.
    "topr": {"advantage": "none", "ratio": "product", "gate": {"name": "topr", "cap": 1.0}},
    # TOPR in ROLL's form, per token: mean over a sequence's tokens, then over sequences, its default. It takes its
    # advantages from the pipeline (rewards as they are, here) and the sign from the score.
    "topr_token": {"advantage": "none", "gate": {"name": "topr_token", "cap": 1.0}},
    # BAPO, arXiv 2510.18927: bounds searched anew for every update, by shares of the loss; ranges and target of its
    # README, steps of its example script. The released loop is the gate's option `released`, and has other ranges.
    "bapo": {"gate": {"name": "bapo", "by": "size", "low_step": 0.05, "high_step": 0.1}, "aggregate": "token_mean"},
    # R1-Reward, arXiv 2505.02835: log-ratios limited before the exponential, outliers of the rewards whitened over
    # tokens dropped, the KL (k1) of the sample in its reward.
    "stable_reinforce": {
        "advantage": "outlier_filter",
        "ddof": 0,
        "gate": "preclip",
        "clip_low": 0.2,
        "clip_high": 0.2,
        "kl_estimator": "k1",
        "kl_place": "reward",
    },
    # The same with the KL of each token and those after it, as released, by the coefficient of its script. The
    # release's filter compares with the wrong mean: the estimator's option `released`.
    "stable_reinforce_tokens": {
        "advantage": {"name": "outlier_filter_tokens", "beta": 1e-3},
        "ddof": 0,
        "gate": "preclip",
        "clip_low": 0.2,
        "clip_high": 0.2,
    },
    # Lp-Reg: wide bounds on the ratio itself, and a KL to the filtered policy at unlikely tokens.
    "lp_reg": {
        "gate": {"name": "absolute", "low": 0.0, "high": 10.0},
        "terms": ["proxy_kl"],
        "aggregate": "token_mean",
    },
    # SPINE, arXiv 2511.17938: only the forking tokens of each answer are trained (Otsu's threshold on its entropies),
    # and their entropy is held in a band of median and MAD. Coefficient and width of the band are ours; the vote is
    # shape: [majority_vote].
    "spine": {"action_masks": ["forking"], "terms": ["entropy_band"]},
    # CAPO, arXiv 2510.00819: actions whose predicted step is unstable are left out. The release predicts Adam's step,
    # here it is plain gradient ascent with a scale of ours.
    "capo": {"action_masks": [{"name": "capo", "policy_limit": 1e-4, "objective_limit": 0.01}]},
    # CAD-RL, arXiv 2508.10118, by a summary of its equations: trust region stretch, bounds on the ratio itself (0.6 and
    # 1.8 are its example); precision token loss, whose weight is not public (2 is ours); overlong filtering, which is
    # told of the loss, and here is before the group's statistics too, so that a budget decides no baseline.
    "cad_rl": {
        "gate": {"name": "absolute", "low": 0.6, "high": 1.8},
        "action_weights": [{"name": "precision_tokens", "weight": 2.0}],
        "filters": ["truncated"],
    },
    # TRPA: no policy gradient, a loss over pairs of answers of different levels, and a k3 to the policy that sampled,
    # averaged over all tokens. Pairs are those of the whole update (released: of each micro-batch).
    "trpa": {"advantage": "zero", "terms": ["pairwise"], "aggregate": "token_mean"},
    # Stratified GRPO: alpha is recalled, inside the 0.6 to 0.8 of the paper.
    "san": {"advantage": {"name": "stratified", "alpha": 0.7}},
    # UI-S1, each step a sample, averaged over tokens: the release's discount and weights, and its filter of groups by
    # the population's spread (the release looks at the returns of the first steps alone: name that reward as the
    # filter's `score`). An episode counts once for its part; the release compares each step's own reward with the
    # group's (the option `released`).
    "ui_s1": {
        "advantage": {"name": "step_rows", "gamma": 0.5, "episode_weight": 1.0, "step_weight": 1.0},
        "filters": [{"name": "spread", "above": 0.3, "ddof": 0}],
        "aggregate": "token_mean",
    },
    # MA-RLHF without its critic: one advantage for each macro action.
    "macro": {"advantage": "macro", "aggregate": "token_mean"},
    # GRPO-lambda: length penalty in the groups that are answered best.
    "grpo_lambda": {"shape": ["length_lambda"]},
    # G-RA: step rewards count where the outcome is good enough.
    "g_ra": {"shape": ["gated_sum"]},
    # EAPO (IterResearch): the outcome discounted by the rounds that were left, with GSPO's loss and GSPO's clip range,
    # its own not being public.
    "eapo": {"shape": ["round_discount"], "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    # Co-Reward: the majority answer to a paraphrase is the label.
    "co_reward": {"shape": ["co_reward"]},
    # PROF, arXiv 2509.03403: answers kept by the agreement of outcome and process rewards. A group that is all right or
    # all wrong has no signal left, and stays in the denominators.
    "prof": {"filters": ["prof"]},
    # Forking tokens alone are trained (arXiv 2506.01939), on DAPO as published. A token that is left out leaves the
    # denominators; TRL and ms-swift keep it there (action_weights: [top_entropy]).
    "top_entropy": {
        "action_masks": ["top_entropy"],
        "clip_low": 0.2,
        "clip_high": 0.28,
        "aggregate": "token_mean",
        "drop_zero_variance": True,
    },
    # CHORD's weight p (1 - p) of expert tokens.
    "chord_phi": {"action_weights": ["chord_phi"]},
    # AdaCoT's selective loss masking: the token that decides whether to think is left out.
    "adacot": {"action_masks": ["selective_loss"]},
    # Truncated importance sampling between the engine that sampled and the policy that trains.
    "tis": {"correction": "truncate"},
    # IcePop: tokens on which the two disagree too much are left out.
    "icepop": {"correction": "icepop"},
}
