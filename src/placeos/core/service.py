"""Composing a core: what it is made of, in which order it starts, and how it ends."""

from __future__ import annotations

import asyncio
import functools
import logging
import os

from redis.asyncio import Redis

from placeos import __version__
from placeos.cluster.etcd import Etcd
from placeos.cluster.handover import Timing
from placeos.cluster.leader import Election
from placeos.cluster.registry import Registration, Registry
from placeos.cluster.routing import Router
from placeos.cluster.view import View
from placeos.config import Config
from placeos.core.calls import Switch
from placeos.core.configuration import Configuration
from placeos.core.data_folder import DataFolder
from placeos.core.desired import Change, lookup_table
from placeos.core.drivers import Drivers
from placeos.core.eligibility import Preparation
from placeos.core.executor import Executor
from placeos.core.files.catalogue import Catalogue
from placeos.core.files.git import Git
from placeos.core.files.inspection import Inspection
from placeos.core.files.repositories import Host, Repositories
from placeos.core.housekeeping import DUTY, Housekeeping
from placeos.core.jobs import Jobs
from placeos.core.leadership import Leadership
from placeos.core.listener import DebugLog, Listener
from placeos.core.lookups import LookupWriter
from placeos.core.node import Node, Parts
from placeos.core.participation import Participation
from placeos.core.process.environments import Environments
from placeos.core.process.fence import Fence
from placeos.core.process.isolation import Isolation
from placeos.core.process.meter import Meter
from placeos.core.process.output import Output
from placeos.core.process.processes import Processes
from placeos.core.process.watchdog import Watchdog
from placeos.core.reports import Reports
from placeos.core.settings_store import SettingsStore
from placeos.core.state_writer import StateWriter
from placeos.core.supervision import Supervision
from placeos.core.view_hint import ViewHint
from placeos.driver.environment_build import Packages
from placeos.model.repository import Repository
from placeos.state.bindings import Bindings
from placeos.state.client import on_other_server
from placeos.state.lookups import Lookups
from placeos.store import Database
from placeos.wire.frame import Command

log = logging.getLogger("placeos.core")

LAST_WRITE = 0.3  # seconds for the last state when stopping
LEAVE = 2.0  # seconds to tell the others that this core leaves


class Core:
    """All parts of one core, built but not running."""

    def __init__(
        self,
        config: Config,
        *,
        incarnation: str,
        folder: DataFolder,
        fence: Fence,
        output: Output,
        isolation: Isolation,
        database: Database,
        redis: Redis,
        etcd: Etcd,
    ) -> None:
        secret = config.secret("cluster_secret")
        self._certificates = config.cluster_certificates()
        self._config = config
        self._incarnation = incarnation
        self._folder = folder
        self.fence = fence
        self._secret = secret
        self._etcd = etcd
        self.jobs = Jobs()
        self.node = Node(config.identity, lambda view: self.participation.settle(view))
        self.supervision = Supervision(self.node, config.identity)
        self.registry = Registry(etcd)
        self.view_hint = ViewHint(redis, self.registry)
        self.router = Router(
            config.etcd,
            secret=secret,
            service="core",
            identity=config.identity,
            registry=self.registry,
            tls=self._certificates,
        )
        self.bindings = Bindings(
            redis, lookups := Lookups(redis), on_reconnect=self._redis_reconnected
        )
        on_other_server(redis, self._redis_reconnected)
        self.parts = self._build(config, folder, output, isolation, database, redis, lookups)
        self.participation = Participation(
            database,
            self.router,
            fence,
            access=config.etcd,
            timing=Timing(ttl=config.cluster_ttl, limit=config.fail_safe),
            identity=config.identity,
            on_change=self.node.take,
        )
        self.election = Election(
            etcd, DUTY, config.identity, lease=lambda: self.participation.lease
        )
        self.housekeeping = Housekeeping(
            redis,
            database,
            Leadership(redis, self.election),
            view=self._completed_view,
            live=lambda: (one.incarnation for one in self.registry.nodes("core").values()),
        )
        self.node.connect(self.parts)
        self._preparation = Preparation(self.node, self.parts, self._environments)
        self.registry.listeners.append(self.housekeeping.members_changed)
        self.supervision.connect(self.parts)
        self.supervision.membership = self.participation.standing
        self.watchdog = Watchdog(
            self.parts.processes,
            on_blocked=self.supervision.process_blocked,
            on_free=self.supervision.process_free,
        )
        self.meter = Meter(
            self.parts.processes,
            isolation.limits,
            on_problem=self.supervision.process_troubles,
            on_well=self.supervision.process_well,
        )

    def _build(
        self,
        config: Config,
        folder: DataFolder,
        output: Output,
        isolation: Isolation,
        database: Database,
        redis: Redis,
        lookups: Lookups,
    ) -> Parts:
        node = self.node
        switch = Switch(self.supervision.absence)
        configuration = Configuration(
            database,
            config.database_url,
            secret=config.secret("server_secret"),
            on_change=self._configuration_changed,
            on_confirmed=switch.look_again,
        )
        reports = Reports(database)
        state = StateWriter(redis, self._incarnation)
        state.on_rewrite = lambda: self.parts.lookups.rewrite()
        state.on_fenced = node.touch
        debug = DebugLog(switch)
        packages = Packages(
            index=config.packages_index,
            folder=config.packages_folder,
            offline=config.packages_offline,
            from_source=config.packages_from_source,
        )
        environments = self._environments = Environments(folder.environments, packages, self.jobs)
        processes = Processes(
            output,
            self.supervision,
            environments,
            isolation=isolation,
            inherit=(folder.descriptor,),
            fence=self.fence,
        )
        return Parts(
            configuration=configuration,
            processes=processes,
            repositories=self._repositories(folder, database, configuration, reports, processes),
            switch=switch,
            executor=Executor(
                processes,
                switch,
                state,
                reports,
                on_started=node.module_started,
                on_stopped=node.module_stopped,
            ),
            state=state,
            lookups=LookupWriter(
                redis,
                table=lambda system: lookup_table(configuration, system),
                owns=lambda system: configuration.loaded.is_set() and node.owns(system),
                view_number=lambda: state.view_number,
            ),
            reports=reports,
            drivers=Drivers(
                switch=switch,
                remote=self.router,
                state=state,
                bindings=self.bindings,
                lookups=lookups,
                redis=redis,
                records=configuration,
                reports=reports,
                debug=debug,
                owns=node.owns,
                store_setting=SettingsStore(database),
            ),
            debug=debug,
        )

    def _repositories(
        self,
        folder: DataFolder,
        database: Database,
        configuration: Configuration,
        reports: Reports,
        processes: Processes,
    ) -> Repositories:
        config, node = self._config, self.node
        git = Git(folder.git, config.git_protocols)
        repositories = Repositories(
            Host(
                drivers=configuration.drivers,
                repositories=configuration.repositories,
                read=functools.partial(database.get, Repository),
                reports=reports,
                jobs=self.jobs,
                git=git,
                folder=folder.drivers,
                secret=config.secret("server_secret"),
                poll=config.git_poll,
                owns=node.owns,
                on_version=node.version_found,
                on_problem=node.driver_changed,
                in_use=node.paths_in_use,
                fault=processes.problem,
            )
        )
        inspection = Inspection(processes.make, folder.drivers / "details")
        self.catalogue = Catalogue(repositories, git, inspection)
        return repositories

    def _completed_view(self) -> View | None:
        view = self.registry.view
        return view if view is not None and view.completed else None

    def _configuration_changed(self, changes: set[Change]) -> None:
        self.node.configuration_changed(changes)
        self.housekeeping.look(record for _, record in changes)

    def _redis_reconnected(self) -> None:
        self.parts.state.rewrite()
        self.parts.lookups.rewrite()

    async def run(self) -> None:
        """Listen, register and work until cancelled; then stop modules and processes."""
        parts = self.parts
        listener = Listener(
            self._config.listen,
            secret=self._secret,
            identity=self._config.identity,
            switch=parts.switch,
            debug=parts.debug,
            counts=self.supervision.links,
            tls=self._certificates,
            asks={
                Command.LOAD: self.supervision.load,
                Command.STATS: self.supervision.stats,
                Command.TERMINATE: self.supervision.terminate,
                Command.JOBS: self.jobs.answer_list,
                Command.CANCEL_JOB: self.jobs.answer_cancel,
                Command.REPOSITORY: self.catalogue.answer,
                Command.GO_ON: self.participation.answer,
            },
        )
        async with listener, asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(job, name=f"core: {name}")
                for name, job in (
                    ("registry", self.registry.run()),
                    ("router", self.router.run()),
                    ("bindings", self.bindings.run()),
                    ("configuration", parts.configuration.run()),
                    ("processes", parts.processes.run()),
                    ("repositories", parts.repositories.run()),
                    ("switch", parts.switch.run()),
                    ("executor", parts.executor.run()),
                    ("state", parts.state.run()),
                    ("lookups", parts.lookups.run()),
                    ("reports", parts.reports.run()),
                    ("watchdog", self.watchdog.run()),
                    ("meter", self.meter.run()),
                    ("node", self.node.run()),
                    ("election", self.election.run()),
                    ("housekeeping", self.housekeeping.run()),
                    ("view hint", self.view_hint.run()),
                    ("participation", self._take_part(listener.port)),
                    ("preparation", self._preparation.run()),
                    ("eligibility", self._become_eligible()),
                )
            ]
            log.info("core started", extra={"port": listener.port})
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await self._stop()
                for task in running:
                    task.cancel()

    async def _take_part(self, port: int) -> None:
        """Register once the configuration is known: until then nothing can be served."""
        await self.parts.configuration.loaded.wait()
        self.parts.lookups.touch(self.parts.configuration.systems)
        config = self._config
        await self.participation.run(
            Registration(
                incarnation=self._folder.life.incarnation,
                address=f"{_advertised(config.listen[0])}:{port}",
                version=__version__,
                zone=config.zone,
                wish="preparing",
                standalone=config.standalone,
                dead=self._folder.dead,
            )
        )

    async def _become_eligible(self) -> None:
        """Take modules when what they need is here; after a bad end only if nobody else can."""
        await self._preparation.done(self.participation.unserved)
        if seconds := self._folder.hold:
            log.info("held back after an unclean end", extra={"seconds": seconds})
            self.participation.ready(held=True)
            await asyncio.sleep(seconds)
        self.participation.ready(held=False)

    async def _stop(self) -> None:
        """In order: hand over, no new work, modules and processes, the last state, leave."""
        log.info("stopping")
        lost = self.participation.lost
        if not lost:
            await self.participation.drain()
        await self.parts.executor.close()
        await self.parts.state.flush(LAST_WRITE)
        self.fence.close()
        if lost:  # whatever it is that others do by now, nobody asks this core any more
            return
        self._folder.ended()
        if not await self.participation.leave(LEAVE):
            log.info("left without saying so")


def _advertised(host: str) -> str:
    """The host under which others reach a listener on `host`."""
    return os.uname().nodename if host in ("0.0.0.0", "::", "") else host  # noqa: S104
