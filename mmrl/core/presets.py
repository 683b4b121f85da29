"""The published algorithms: what each changes in the defaults of mmrl.core.algorithm.Algorithm. Data only.

KL coefficients stay 0: their size depends on the modality; the estimator and the place are the published ones,
so setting kl_coef is enough. Options whose published value is not known keep their documented default, and the
certainty of each hook (A to D, in docs/configuration.md) says how far it can be trusted.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # DeepSeekMath, arXiv 2402.03300.
    "grpo": {},
    # arXiv 2503.20783; constant_length, the generation budget, has to be given with it.
    "dr_grpo": {"advantage": "group_mean", "aggregate": "constant"},
    # arXiv 2503.14476, as released (the formula averages per prompt: prompt_mean); its penalty of long answers is
    # shape: [soft_overlong], which wants the length budget.
    "dapo": {"clip_low": 0.2, "clip_high": 0.28, "aggregate": "token_mean"},
    # arXiv 2507.18071.
    "gspo": {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    # The same paper, for advantages that differ inside a sequence.
    "gspo_token": {"ratio": "sequence_token", "clip_low": 3e-4, "clip_high": 4e-4},
    # MiniMax-M1, arXiv 2506.13585; the cap is ScaleRL's.
    "cispo": {"gate": {"name": "cispo", "cap": 5.0}, "aggregate": "token_mean"},
    # arXiv 2402.14740.
    "rloo": {"advantage": "leave_one_out", "aggregate": "token_mean", "kl_estimator": "k1", "kl_place": "reward"},
    # arXiv 2501.03262, one value per sample; advantage: whiten_tokens is the published form per token.
    "reinforce_pp": {"advantage": "whiten", "aggregate": "token_mean", "kl_estimator": "k1", "kl_place": "reward"},
    # The same paper, with the group's mean as baseline.
    "reinforce_pp_baseline": {"advantage": "whiten_baseline", "aggregate": "token_mean", "kl_estimator": "k2"},
    # arXiv 2511.20347.
    "sapo": {"gate": {"name": "sapo", "tau_pos": 1.0, "tau_neg": 1.05}},
    # arXiv 2510.13786.
    "scalerl": {"advantage": "batch_std", "gate": {"name": "cispo", "cap": 5.0}, "aggregate": "prompt_mean"},
    # arXiv 2505.05470.
    "flow_grpo": {
        "advantage": "global_std",
        "ddof": 0,
        "std_eps": 1e-4,
        "clamp": 5.0,
        "kl_estimator": "exact",
        "combine": "reward_sum",
    },
    # TOPR: rewards of +1 and -1 as they are, sum over the actions of a sequence, mean over sequences.
    "topr": {"advantage": "none", "ratio": "product", "gate": {"name": "topr", "cap": 1.0}},
    # TOPR in ROLL's form, per token.
    "topr_token": {"advantage": "none", "gate": {"name": "topr_token", "cap": 1.0}, "aggregate": "token_mean"},
    # BAPO: bounds searched anew for every update; ranges and target of its README.
    "bapo": {"gate": "bapo", "aggregate": "token_mean"},
    # R1-Reward: log-ratios limited before the exponential, outliers of the whitened rewards dropped.
    "stable_reinforce": {"advantage": "outlier_filter", "gate": "preclip", "clip_low": 0.2, "clip_high": 0.2},
    # Lp-Reg: wide bounds on the ratio itself, and a KL to the filtered policy at unlikely tokens.
    "lp_reg": {
        "gate": {"name": "absolute", "low": 0.0, "high": 10.0},
        "terms": ["proxy_kl"],
        "aggregate": "token_mean",
    },
    # SPINE: only forking tokens are trained, and their entropy is held in a band (our reading of the idea).
    "spine": {"action_masks": ["top_entropy"], "terms": ["entropy_band"]},
    # CAPO: actions whose predicted step is unstable are left out (our reading of the idea).
    "capo": {"action_masks": ["capo"]},
    # CAD-RL: wider upper clip, weight on dimension tokens, truncated answers masked (the numbers are ours).
    "cad_rl": {
        "clip_low": 0.2,
        "clip_high": 0.4,
        "action_weights": ["precision_tokens"],
        "action_masks": ["overlong"],
    },
    # TRPA: no policy gradient, a loss over pairs of answers of different levels.
    "trpa": {"advantage": "zero", "skip_zero_variance": False, "terms": ["pairwise"]},
    # Stratified GRPO: alpha is recalled, inside the 0.6 to 0.8 of the paper.
    "san": {"advantage": {"name": "stratified", "alpha": 0.7}},
    # UI-S1, each step a sample: the release's discount and weights, and its filter of groups by spread (the release
    # looks at the returns of the first steps alone: name that reward as the filter's `score`).
    "ui_s1": {
        "advantage": {"name": "step_rows", "gamma": 0.5, "episode_weight": 1.0, "step_weight": 1.0},
        "filters": [{"name": "spread", "above": 0.3}],
    },
    # MA-RLHF without its critic: one advantage for each macro action.
    "macro": {"advantage": "macro", "aggregate": "token_mean"},
    # GRPO-lambda: length penalty in the groups that are answered best.
    "grpo_lambda": {"shape": ["length_lambda"]},
    # G-RA: step rewards count where the outcome is good enough.
    "g_ra": {"shape": ["gated_sum"]},
    # EAPO (IterResearch): the outcome discounted by the rounds that were left.
    "eapo": {"shape": ["round_discount"], "ratio": "sequence"},
    # Co-Reward: the majority answer to a paraphrase is the label.
    "co_reward": {"shape": ["co_reward"]},
    # PROF: answers kept by the agreement of outcome and process rewards.
    "prof": {"filters": ["prof"]},
    # Forking tokens alone are trained (arXiv 2506.01939).
    "top_entropy": {"action_masks": ["top_entropy"]},
    # CHORD's weight p (1 - p) of expert tokens.
    "chord_phi": {"action_weights": ["chord_phi"]},
    # AdaCoT's selective loss masking: the token that decides whether to think is left out.
    "adacot": {"action_masks": ["selective_loss"]},
    # Truncated importance sampling between the engine that sampled and the policy that trains.
    "tis": {"correction": "truncate"},
    # IcePop: tokens on which the two disagree too much are left out.
    "icepop": {"correction": "icepop"},
}
