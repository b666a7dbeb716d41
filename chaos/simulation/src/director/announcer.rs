//! What a director announces: the real announcement machine, fed with what its daemon would see.

use std::sync::Arc;

use holdfast_director::core::{Count, Counters};
use holdfast_node::announce::machine::{Ask, Inputs, Machine, Outputs, Stage};
use holdfast_node::announce::others::{self, Other};
use holdfast_node::announce::shell::votes_movable;
use holdfast_node::announce::wish::Wish;
use holdfast_node::peers::Summary;
use holdfast_schema::cluster::{
    ClusterState, ControlCommand, DirectorId, MemberState, PlannedKind,
};

/// When packets last passed, by sampling counters.
#[derive(Default)]
struct Traffic {
    last: (u64, u64, u64),
    at_ms: (u64, u64, u64),
}

impl Traffic {
    fn sample(&mut self, counters: &Counters, now_ms: u64) {
        let now = (
            counters.count(Count::ToBackendPackets),
            counters.forwarded_packets(),
            counters.count(Count::SessionsOpenedTcp) + counters.count(Count::SessionsOpenedUdp),
        );
        for (at_ms, changed) in [
            (&mut self.at_ms.0, now.0 != self.last.0),
            (&mut self.at_ms.1, now.1 != self.last.1),
            (&mut self.at_ms.2, now.2 != self.last.2),
        ] {
            if changed || *at_ms == 0 {
                *at_ms = now_ms;
            }
        }
        self.last = now;
    }
}

/// What the daemon around the machine knows.
pub struct Around<'a> {
    /// Now (ms on this director's clock).
    pub now_ms: u64,
    /// This director.
    pub me: DirectorId,
    /// The cluster as applied here.
    pub cluster: &'a Arc<ClusterState>,
    /// Whether every group has a leader that this director hears.
    pub quorum: bool,
    /// Whether the replicas have caught up.
    pub caught_up: Result<(), String>,
    /// Local reasons against announcing.
    pub local: Vec<String>,
    /// The planned change for which all have flushed.
    pub flushed: Option<u64>,
    /// Groups this director votes in.
    pub votes: u32,
    /// What the packet path has counted.
    pub counters: &'a Counters,
    /// Sessions that only this director knows.
    pub unreplicated: u64,
    /// What the others last said of themselves, if it is fresh.
    pub summaries: &'a dyn Fn(DirectorId) -> Option<Arc<Summary>>,
}

/// The announcer of one process.
pub struct Announcer {
    machine: Machine,
    traffic: Traffic,
    /// What BIRD shows.
    shown: Wish,
    wish: Wish,
}

impl Announcer {
    /// Of a director that has just started.
    pub fn new(now_ms: u64) -> Announcer {
        let wish = Wish::default();
        Announcer { machine: Machine::new(now_ms), traffic: Traffic::default(), shown: wish, wish }
    }

    /// Where it is.
    pub fn stage(&self) -> &Stage {
        self.machine.stage()
    }

    /// What it announces.
    pub fn wish(&self) -> Wish {
        self.wish
    }

    /// BIRD shows something else.
    pub fn show(&mut self, shown: Wish) {
        self.shown = shown;
    }

    /// The routes are gone: it comes back like a joiner.
    pub fn fell(&mut self, now_ms: u64, why: &str) {
        self.machine.fell(now_ms, why);
        self.shown = Wish::default();
        self.wish = Wish::default();
    }

    /// Looks around.
    pub fn turn(&mut self, around: Around<'_>) -> Outputs {
        let Around { now_ms, me, cluster, .. } = around;
        self.traffic.sample(around.counters, now_ms);
        let member = cluster.members.get(&me);
        let planned: Vec<_> =
            cluster.planned.iter().filter(|p| p.director == me).cloned().collect();
        let my_drain = planned.iter().filter(|p| p.kind == PlannedKind::Drain).map(|p| p.id).max();
        let drains = |id: DirectorId| {
            let member = cluster.members.get(&id);
            member.is_some_and(|m| m.state == MemberState::Draining && !m.down)
        };
        let others_drain_first = cluster.planned.iter().any(|p| {
            p.kind == PlannedKind::Drain
                && p.director != me
                && drains(p.director)
                && my_drain.is_some_and(|id| p.id < id)
        });
        let others_serve = match member {
            Some(member) if member.state == MemberState::Draining => {
                let others = cluster.members.values().filter(|m| m.id != me).map(|m| Other {
                    name: m.name.clone(),
                    state: m.state,
                    up: !m.down,
                    summary: (around.summaries)(m.id),
                });
                others::serve(&others.collect::<Vec<_>>())
            }
            _ => Ok(()),
        };
        let since = |at_ms: u64| now_ms.saturating_sub(at_ms);
        let inputs = Inputs {
            now_ms,
            state: member.map(|m| m.state),
            planned,
            others_drain_first,
            quorum: around.quorum,
            caught_up: around.caught_up,
            local: around.local,
            guard: true,
            flushed: around.flushed,
            shown: Some(self.shown),
            votes: around.votes,
            votes_movable: votes_movable(cluster, Some(me)),
            quiet_clients_ms: since(self.traffic.at_ms.0),
            quiet_all_ms: since(self.traffic.at_ms.1),
            quiet_new_ms: since(self.traffic.at_ms.2),
            unreplicated: around.unreplicated,
            others_serve,
        };
        let out = self.machine.step(&inputs);
        self.wish = out.wish;
        out
    }

    /// How this director is, in its own words.
    pub fn summary(&self, incarnation: u64, revision: u64, table_hash: u64) -> Summary {
        Summary {
            incarnation,
            ready: self.machine.ready(),
            not_ready: self.machine.not_ready().to_vec(),
            announcement: Some(self.shown.vips.word().to_owned()),
            announces: true,
            revision,
            table_hash,
            caught_up: true,
            ..Summary::default()
        }
    }
}

/// What an ask says to the cluster.
pub fn command(me: DirectorId, ask: Ask) -> ControlCommand {
    let proceed = |from, to| ControlCommand::Proceed { director: me, from, to };
    match ask {
        Ask::Begin(kind) => ControlCommand::BeginPlanned { director: me, kind },
        Ask::End(id) => ControlCommand::EndPlanned { id },
        Ask::Active => proceed(MemberState::Joining, MemberState::Active),
        Ask::Drained => proceed(MemberState::Draining, MemberState::Drained),
    }
}
