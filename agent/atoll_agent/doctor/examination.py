"""All checks, in the order in which one needs the other."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atoll_agent.adapters.store import Identity
from atoll_agent.doctor.accelerators import look_at_edgetpu, look_at_runtimes
from atoll_agent.doctor.device import look_at_device
from atoll_agent.doctor.finding import Finding, Level, fault, ok
from atoll_agent.doctor.line import log_in, login_fault, login_finding, look_at_line
from atoll_agent.doctor.rights import Wishes, try_rights, uses_of
from atoll_agent.doctor.state import look_at_models, look_at_state
from atoll_agent.ports import Accelerator
from atoll_agent.settings import AgentSettings
from atoll_contract.errors import BrokerUnavailableError, ConfigError
from atoll_contract.topics import MetadataTopic
from atoll_ingest.picture import PictureDialect
from atoll_ingest.stream import Stream

_TIMESTAMP: Final = MetadataTopic("timestamp.json").file


@dataclass(frozen=True, slots=True)
class Examination:
    """What to examine.

    Attributes:
        settings_path: The settings file.
        sysfs: Where sysfs is mounted, if not where the settings say.
        listen_s: How long to wait for messages that only others can publish.
        is_offline: Leave the broker out.
    """

    settings_path: Path
    sysfs: Path | None
    listen_s: float
    is_offline: bool = False

    def run(self) -> Iterator[Finding]:
        """Yield all findings, each as soon as it is there."""
        try:
            settings = AgentSettings.read(self.settings_path)
        except ConfigError as error:
            todo = "mend it; docs/references/settings.md has every key"
            yield from (fault("settings", line, todo) for line in error.faults)
            return
        yield _settings_finding(self.settings_path, settings)
        agent = settings.agent
        sysfs = self.sysfs or settings.edgetpu.sysfs_root
        yield from look_at_device(agent.state_dir, agent.clock, agent.max_bundle_bytes, sysfs)
        streams = [stream.build(agent.site) for stream in settings.stream]
        needs_pictures = any(isinstance(stream.dialect, PictureDialect) for stream in streams)
        findings, runtimes = look_at_runtimes(needs_pictures=needs_pictures)
        yield from findings
        yield from look_at_edgetpu(
            sysfs,
            settings.edgetpu.library,
            runtimes,
            is_demanded=any(model.accelerator is Accelerator.EDGETPU for model in settings.model),
            wanted=_devices(settings),
        )
        findings, identity = look_at_state(agent.state_dir, self.settings_path)
        yield from findings
        yield from look_at_models(settings.model, streams, agent.state_dir)
        if not self.is_offline:
            yield from self._broker(settings, streams, identity)

    def _broker(
        self, settings: AgentSettings, streams: list[Stream], identity: Identity | None
    ) -> Iterator[Finding]:
        agent = settings.agent
        broker = settings.broker.build(agent.id)
        findings = look_at_line(broker, agent.id)
        yield from findings
        if any(finding.level is Level.FAULT for finding in findings):
            return
        token = secrets.token_hex(8) if identity is None else identity.token
        client_id = f"{agent.id}-doctor-{token}"
        try:
            with closing(log_in(broker, client_id)) as session:
                yield login_finding(broker, session)
        except BrokerUnavailableError as error:
            yield login_fault(broker, error.detail)
            return
        used = {model.stream for model in settings.model}
        uses = uses_of(
            agent.site,
            agent.id,
            [stream for stream in streams if stream.name in used],
            [model.name for model in settings.model],
            _wishes(settings),
            has_releases=(agent.state_dir / "metadata" / _TIMESTAMP).exists(),
        )
        try:
            yield from try_rights(lambda: log_in(broker, client_id), uses, listen_s=self.listen_s)
        except BrokerUnavailableError as error:
            yield fault("connection", error.detail, "look into the broker's log: it has gone")


def _devices(settings: AgentSettings) -> list[str]:
    """Return the paths of the Edge TPUs that models are to run on, where the settings name any."""
    models = [model for model in settings.model if model.accelerator is not Accelerator.CPU]
    named = [model.device or settings.edgetpu.device for model in models]
    return list(dict.fromkeys(path for path in named if path is not None))


def _wishes(settings: AgentSettings) -> Wishes:
    commands = [command for rule in settings.rule for command in rule.command]
    return Wishes(
        rules=[rule.name for rule in settings.rule],
        commands=list(dict.fromkeys(command.name for command in commands if command.name is not None)),
        foreign=list(dict.fromkeys(command.topic for command in commands if command.topic is not None)),
        homeassistant=settings.homeassistant.prefix if settings.homeassistant.enabled else None,
    )


def _settings_finding(path: Path, settings: AgentSettings) -> Finding:
    names = [model.name for model in settings.model]
    if not names:
        return fault(
            "settings", f"{path}: there is no model: the agent would answer nothing", "add [[model]]"
        )
    return ok("settings", f"{path}: {settings.agent.id} at {settings.agent.site} answers {', '.join(names)}")
