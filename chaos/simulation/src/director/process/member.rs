//! A process as a member of the cluster: it is heard, judges who is silent if it leads, and announces.

use std::sync::Arc;

use holdfast_node::announce::machine::Stage;
use holdfast_node::peers::SUMMARY_LIFETIME_MS;
use holdfast_schema::cluster::{ClusterState, ControlCommand, DirectorId};
use holdfast_state_store::liveness::{Committed, Verdict};

use super::{Effects, Process};
use crate::director::announcer;
use crate::director::flush;
use crate::director::message::Message;

const HEARTBEAT_US: u64 = 100_000;
const SUMMARY_US: u64 = 500_000;
const PLANNED_US: u64 = 1_000_000;
const ANNOUNCE_US: u64 = 20_000;

impl Process {
    /// The members are these now.
    pub(super) fn join_members(&mut self, now_ms: u64) -> bool {
        let members = self.cluster.members.values().map(|m| Committed {
            director: m.id,
            incarnation: m.incarnation,
            down: m.down,
        });
        self.liveness.set_members(now_ms, members);
        self.young.membership(now_ms, &self.cluster)
    }

    pub(super) fn beat(&mut self, now_us: u64, out: &mut Effects) {
        let now_ms = now_us / 1_000;
        let others = || self.cluster.members.keys().copied().filter(|id| *id != self.me);
        if now_us >= self.due.heartbeat_us && self.share.announced() {
            self.due.heartbeat_us = now_us + HEARTBEAT_US;
            self.liveness.advance(now_ms);
            self.sequence += 1;
            let (incarnation, sequence) = (self.incarnation, self.sequence);
            let views = self.liveness.views(now_ms);
            let beat = Message::Heartbeat { incarnation, sequence, views };
            out.messages.extend(others().map(|to| (to, beat.clone())));
        }
        if now_us >= self.due.summary_us {
            self.due.summary_us = now_us + SUMMARY_US;
            let (revision, hash) = (self.tables.revision, self.tables.hash);
            let summary = Arc::new(self.announcer.summary(self.incarnation, revision, hash));
            out.messages.extend(others().map(|to| (to, Message::Summary(summary.clone()))));
        }
    }

    /// What the control leader does.
    pub(super) fn judge(&mut self, now_us: u64) {
        let now_ms = now_us / 1_000;
        if now_us >= self.due.planned_us {
            self.due.planned_us = now_us + PLANNED_US;
            let overdue = self.planned.overdue(&self.cluster, now_ms);
            if self.share.leads_control() {
                for id in overdue {
                    self.share.control(now_us, ControlCommand::EndPlanned { id });
                }
            }
        }
        if !self.share.leads_control() {
            return;
        }
        for judged in self.liveness.judge(now_ms) {
            let command = ControlCommand::SetDown {
                director: judged.director,
                incarnation: judged.incarnation,
                down: judged.verdict == Verdict::Down,
            };
            self.share.control(now_us, command);
        }
    }

    pub(super) fn announce(&mut self, now_us: u64, out: &mut Effects) {
        let now_ms = now_us / 1_000;
        if now_us < self.due.announce_us {
            return;
        }
        self.due.announce_us = now_us + ANNOUNCE_US;
        let behind = self.tables.revision != self.cluster.revision;
        let counters = self.packets.counters();
        let summaries = |id: DirectorId| {
            let (at_ms, summary) = self.summaries.get(&id)?;
            (now_ms < at_ms + SUMMARY_LIFETIME_MS).then(|| summary.clone())
        };
        let before = self.announcer.wish();
        let outputs = self.announcer.turn(announcer::Around {
            now_ms,
            me: self.me,
            cluster: &self.cluster,
            quorum: self.share.has_quorum(),
            caught_up: self.share.caught_up(),
            local: if behind { vec!["configuration".to_owned()] } else { Vec::new() },
            flushed: self.flush.done(),
            votes: self.share.votes(),
            counters: &counters,
            unreplicated: self.table.unreplicated(),
            summaries: &summaries,
        });
        self.flush.want(outputs.flush);
        let around = flush::Around {
            now_us,
            others: &others(self.me, &self.cluster),
            flushed_here: outputs.flush.is_some_and(|id| self.has_flushed(id)),
            applied: &self.share.applied(),
            barrier: self.share.barrier(),
        };
        if self.flush.turn(&around, &mut out.messages) == flush::Wish::Barrier {
            self.share.begin_barrier();
        }
        for ask in outputs.asks {
            self.share.control(now_us, announcer::command(self.me, ask));
        }
        if outputs.wish != before {
            self.changed_ms = now_ms;
            out.wish = Some(outputs.wish);
        }
        let stage = self.announcer.stage().word();
        if stage != self.stage {
            self.stage = stage;
            out.stage = Some(stage);
        }
    }

    /// The guard has let go of the routes: it comes back like a joiner.
    pub fn fall(&mut self, now_us: u64) {
        self.announcer.fell(now_us / 1_000, "the guard let go of the routes");
    }

    /// Whether it is in service.
    pub fn serves(&self) -> bool {
        *self.announcer.stage() == Stage::Serving
    }
}

/// The other members that are not down.
fn others(me: DirectorId, cluster: &ClusterState) -> Vec<DirectorId> {
    cluster.members.values().filter(|m| !m.down && m.id != me).map(|m| m.id).collect()
}
