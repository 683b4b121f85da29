"""The order of prompts as its definition says it, over all prompts at each step: what the quick one must do."""

import random

import torch

from mmrl.seeds import seed_of
from mmrl.training.rollouts.buckets import picked, shares


def ranks(values, buckets):
    if buckets is None:
        rungs = sorted(set(values))
        return [rungs.index(value) for value in values]
    return [buckets * sum(other < value for other in values) // len(values) for value in values]


def permutation(size, *key):
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed_of(*key))).tolist()


class Nobody(Exception):
    pass


class PlainCurriculum:
    def __init__(self, values, *, order, first, buckets, advance, window, advance_every, reestimate, retire_at, steps):
        self.kind, self.sign, self.buckets, self.window = order, -1 if first == "high" else 1, buckets, window
        self.evenly, self.every, self.steps = advance == "evenly", advance_every, steps
        self.reestimate, self.retire_at = reestimate, retire_at
        self.values, self.now = list(values), list(values)
        self.everyone = range(len(values))
        self.top = len(values)
        self.draw_levels()
        self.top = max(self.rank) if buckets is None else buckets - 1
        self.level = self.position = 0
        self.places, self.recent, self.retired = [0] * (self.top + 1), [], set()

    def draw_levels(self):
        self.rank = [min(one, self.top) for one in ranks([self.sign * value for value in self.now], self.buckets)]

    def order(self, step, count, seed):
        if self.kind != "sorted":
            self.draw_levels()
        alive = [i for i in self.everyone if i not in self.retired]
        if not alive:
            raise Nobody
        if self.kind == "shifting":
            return self.shifted(alive, step, count, seed)
        if self.evenly:
            self.rise(step * (self.top + 1) // self.steps)
        elif self.every:
            self.rise(step // self.every)
        level, pool = self.pool(alive)
        if self.kind == "staged":
            return [self.next_of(level, pool, seed) for _ in range(count)]
        found = []
        while len(found) < count:
            epoch, place = divmod(self.position, len(self.values))
            if place == 0 and self.kind == "sorted":
                self.draw_levels()
            sequence = permutation(len(self.values), seed, "order", epoch)
            if self.kind == "sorted":
                sequence = sorted(sequence, key=lambda i: self.rank[i])
            found += [sequence[place]] if sequence[place] in pool else []
            self.position += 1
        return found

    def pool(self, alive):
        if self.kind not in ("staged", "mixed"):
            return 0, alive
        while True:
            lowest = 0 if self.kind == "mixed" else self.level
            if pool := [i for i in alive if lowest <= self.rank[i] <= self.level]:
                return self.level, pool
            other = None
            if self.evenly and self.level not in self.rank:
                other = max((self.rank[i] for i in alive if self.rank[i] < self.level), default=None)
            if other is None and self.level == self.top:
                other = max(self.rank[i] for i in alive)
            if other is not None:
                return other, [i for i in alive if self.rank[i] == other]
            self.rise(self.level + 1)

    def shifted(self, alive, step, count, seed):
        there = {self.rank[i] for i in alive}
        likely = shares(self.top + 1, min(1.0, step / max(1, self.steps - 1)))
        weights = [share if level in there else 0.0 for level, share in enumerate(likely)]
        found = []
        for _ in range(count):
            level = picked(weights, random.Random(seed_of(seed, "level", self.position)).random())
            self.position += 1
            found.append(self.next_of(level, [i for i in alive if self.rank[i] == level], seed))
        return found

    def next_of(self, level, pool, seed):
        while True:
            epoch, place = divmod(self.places[level], len(self.values))
            self.places[level] += 1
            prompt = permutation(len(self.values), seed, "order", level, epoch)[place]
            if prompt in pool:
                return prompt

    def record(self, prompt, rate):
        if self.retire_at is not None and rate >= self.retire_at:
            self.retired.add(prompt)
        level = self.rank[prompt]
        if self.reestimate is not None:
            self.now[prompt] = (1 - self.reestimate) * self.now[prompt] + self.reestimate * rate
        if not self.evenly and self.kind in ("staged", "mixed") and level == self.level:
            self.recent = [*self.recent, rate][-self.window :]
            if len(self.recent) == self.window and sum(self.recent) / self.window > 0.75:
                self.rise(self.level + 1)

    def rise(self, level):
        if self.level < min(level, self.top):
            self.level, self.recent = min(level, self.top), []
