"""A reward that servers give: what is known already, what is asked, and servers that fail."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mmrl.near import near, short
from mmrl.rewarding import StopRun
from mmrl.rewarding.known import known
from mmrl.rewarding.remote import Asked, Remote
from mmrl.rewarding.remote_samples import Sending
from mmrl.rewarding.replies import fingerprint
from mmrl.rewarding.servers import Servers, Unanswered
from mmrl.types import Sample, Score

_CONNECTION = MappingProxyType(
    {
        "key_env": "",
        "timeout": 180.0,
        "attempts": 3,
        "patience": 600.0,
        "when_down": "invalid",
        "rest": 30.0,
        "groups_at_once": 16,
        "cache": None,
        "version": "",
    }
)


class RemoteReward:
    """The base of rewards that a server gives, over the protocol `remote`.

    key_env: the variable with the bearer token, unless `connection` names another. connection: the options of
    rewards/remote.py. all_or_none: whether a score may depend on the other samples of the group. tells_version: whether
    the server tells it, always and before it scores; elsewhere a file needs the option `version`. Raises ValueError for
    an option that there is not, or a value that it cannot have.
    """

    tells_version = False
    all_or_none = False

    def __init__(self, remote: Remote, url: str | list[str], key_env: str, connection: Mapping[str, Any]) -> None:
        if unknown := sorted(set(connection) - set(_CONNECTION)):
            raise ValueError(f"no option {unknown[0]!r}; {near(unknown[0], _CONNECTION)}")
        options = {**_CONNECTION, "key_env": key_env, **connection}
        if options["when_down"] not in ("invalid", "stop"):
            raise ValueError(f"when_down={short(options['when_down'])}: expected invalid or stop")
        if options["groups_at_once"] < 1:
            raise ValueError(f"groups_at_once={options['groups_at_once']} must be 1 or more")
        of_servers = {name: options[name] for name in ("timeout", "attempts", "patience", "rest")}
        self.remote, self.servers = remote, Servers(url, options["key_env"], **of_servers)
        self.when_down, self.groups_at_once = options["when_down"], options["groups_at_once"]
        if options["cache"] and not (options["version"] or self.tells_version):
            raise ValueError(
                "cache: this server tells no version, and a file would give the scores of a model that was replaced; "
                "set `version`, a word of your own that is another for another model"
            )
        self._version, self._filed = str(options["version"]), bool(options["cache"])
        self._known = known(options["cache"] or None)
        self._sending = Sending(remote.talks)

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: it keeps nobody waiting, and stops nothing."""
        self.when_down = "invalid"
        self.servers.as_monitor()

    def ask(self, samples: Sequence[Sample]) -> list[Score]:
        """The scores of a group's samples; invalid where there is none. Raises StopRun, as `when_down` says."""
        made = self._sending.asked(samples)
        asked = [one for one in made if isinstance(one, Asked)]
        try:
            scores = iter(self._scores(asked) if asked else ())
        except Unanswered as error:
            if self.when_down == "stop" and not error.lasting:
                raise StopRun(str(error)) from None
            scores = iter([Score.invalid(str(error))] * len(asked))
        return [next(scores) if isinstance(one, Asked) else one for one in made]

    def _scores(self, asked: Sequence[Asked]) -> list[Score]:
        """What is known, and what the server says of the others."""
        keys = self._keys(asked)
        before = [self._known.get(key) for key in keys]
        wanted = [place for place, told in enumerate(before) if told is None]
        if self.all_or_none and wanted:
            wanted = list(range(len(asked)))
        fresh = self.remote.scores(self.servers, [asked[place] for place in wanted]) if wanted else []
        keys = self._keys(asked) if wanted else keys  # some servers tell their version with the first answer only
        if self._filed and not (self._version or self.remote.version) and any(score.ok for score in fresh):
            raise StopRun(
                "cache: the server tells no version, and a file would give the scores of a model that was replaced; "
                "leave `cache` out"
            )
        for place, score in zip(wanted, fresh, strict=True):
            if score.ok:
                self._known.put(keys[place], json.dumps(score.value))
        found = dict(zip(wanted, fresh))
        return [
            found[place] if place in found else Score.of(json.loads(told or "null"), known=True)
            for place, told in enumerate(before)
        ]

    def _keys(self, asked: Sequence[Asked]) -> list[str]:
        """What the samples' scores are kept under."""
        identity = self.remote.identity(self.servers)
        company = [one.fingerprint for one in asked] if self.all_or_none else []
        return [fingerprint(identity, self._version, one.fingerprint, company) for one in asked]
