//! Carries out what the [`machine`](super::machine) decides: guard, routes, commands.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_schema::cluster::{
    ClusterState, ControlCommand, ControlOutcome, DirectorId, MemberState, PlannedKind,
};
use tokio::time::Instant;

use super::flush::FlushJob;
use super::machine::{Ask, Inputs, Machine, Outputs, Stage};
use super::others;
use super::wish::{Level, METRIC_BEST, METRIC_DRAINING, METRIC_OTHERS, METRIC_WORSE, Wish};
use crate::admin::settled::voters_wanted;
use crate::bird::Exported;
use crate::clock::mono_ms;
use crate::guard::child::GuardError;
use crate::netlink::Netlink;
use crate::netlink::routes::{Announcements, Wanted};
use crate::node::{Announced, Node};
use crate::readiness;

/// How often it looks while something is under way, and while nothing is.
const BUSY: Duration = Duration::from_millis(20);
const CALM: Duration = Duration::from_millis(50);

/// How often routes are compared with the kernel although nothing changed here.
const RECONCILE: Duration = Duration::from_secs(1);

/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(5);

/// A guard that has not looked for this long is no guard.
const GUARD_FROZEN: Duration = Duration::from_secs(2);

/// A guard that could not be started is tried again after this time (ms).
const GUARD_RETRY_MS: u64 = 1_000;

/// When packets last passed, by sampling counters.
#[derive(Default)]
struct Traffic {
    last: (u64, u64, u64),
    clients_ms: u64,
    all_ms: u64,
    new_ms: u64,
}

impl Traffic {
    fn sample(&mut self, node: &Node, now_ms: u64) {
        let Some(forwarder) = node.forwarder.get() else { return };
        let (clients, all, new) = forwarder.activity();
        let changed = [
            (&mut self.clients_ms, clients != self.last.0),
            (&mut self.all_ms, all != self.last.1),
            (&mut self.new_ms, new != self.last.2),
        ];
        for (at_ms, changed) in changed {
            if changed || *at_ms == 0 {
                *at_ms = now_ms;
            }
        }
        self.last = (clients, all, new);
    }
}

/// The announcer of one director.
pub struct Announcer {
    node: Arc<Node>,
    machine: Machine,
    flush: FlushJob,
    traffic: Traffic,
    announcements: Option<Announcements>,
    applied: Option<(u32, Wanted)>,
    next_reconcile: Instant,
    last_wish: Wish,
    guard_error: Option<String>,
    guard_retry_ms: u64,
}

/// What BIRD shows, in terms of a wish. Addresses that are wanted nowhere do not matter.
fn shown(
    exported: &Exported,
    cluster: &ClusterState,
    me: DirectorId,
    wish: Wish,
    withheld: &BTreeSet<IpAddr>,
) -> Wish {
    let vips: Vec<IpAddr> = cluster.vips().into_iter().filter(|v| !withheld.contains(v)).collect();
    let (own, others): (Vec<_>, Vec<_>) =
        cluster.lips.iter().partition(|(_, a)| a.owner == Some(me));
    let ips = |list: &[(&IpAddr, _)]| list.iter().map(|(ip, _)| **ip).collect::<Vec<_>>();
    let (own, others) = (ips(&own), ips(&others));
    let all: Vec<IpAddr> = own.iter().chain(&others).copied().collect();
    let level = |set: &[IpAddr], normal: bool, wished: Level| {
        if set.is_empty() {
            return wished;
        }
        let announced = set.iter().any(|a| exported.routes.contains_key(a));
        match () {
            () if !announced => Level::Nothing,
            () if exported.none_better(set.iter().copied(), METRIC_DRAINING) => Level::Draining,
            () if normal => Level::Normal,
            () => Level::Worse,
        }
    };
    let vips_normal = exported.has_all(vips.iter().copied(), METRIC_WORSE - 1);
    let lips_normal = exported.has_all(own, METRIC_BEST) && exported.has_all(others, METRIC_OTHERS);
    Wish { vips: level(&vips, vips_normal, wish.vips), lips: level(&all, lips_normal, wish.lips) }
}

/// Whether enough others serve to make up the voters without this director.
pub fn votes_movable(cluster: &ClusterState, me: Option<DirectorId>) -> bool {
    let live = cluster.members.values().filter(|m| !m.down);
    let wanted =
        voters_wanted(live.clone().count()).max(voters_wanted(cluster.members.len()).min(3));
    live.filter(|m| Some(m.id) != me && m.state == MemberState::Active).count() >= wanted
}

impl Announcer {
    /// For this node.
    pub fn new(node: Arc<Node>) -> Announcer {
        // A socket of its own: a change of routes must not wait behind somebody's dump.
        let own = || Netlink::open().unwrap_or_else(|_| node.netlink.clone());
        let announcements = node.spec.announce.as_ref().map(|a| Announcements::new(own(), a.table));
        Announcer {
            node,
            machine: Machine::new(mono_ms()),
            flush: FlushJob::default(),
            traffic: Traffic::default(),
            announcements,
            applied: None,
            next_reconcile: Instant::now(),
            last_wish: Wish::default(),
            guard_error: None,
            guard_retry_ms: 0,
        }
    }

    /// Runs until the daemon stops, then withdraws.
    pub async fn run(mut self) {
        while !self.node.withdrawing.load(Ordering::Relaxed) {
            let busy = self.turn().await;
            tokio::time::sleep(if busy { BUSY } else { CALM }).await;
        }
        let empty = Wish::default();
        self.put_routes(empty, &BTreeSet::new()).await;
    }

    /// One turn; tells whether something is under way.
    async fn turn(&mut self) -> bool {
        let now_ms = mono_ms();
        self.notice_falls(now_ms);
        self.traffic.sample(&self.node, now_ms);
        let cluster = self.node.cluster();
        let withheld = match &cluster {
            Some(cluster) => self.node.health.withheld(&self.node, cluster),
            None => BTreeSet::new(),
        };
        let inputs = self.inputs(now_ms, cluster.as_deref(), &withheld);
        let out = self.machine.step(&inputs);
        if out.guard {
            self.ensure_guard(now_ms).await;
        }
        self.flush.want(&self.node, out.flush);
        if out.wish != self.last_wish {
            tracing::info!(vips = ?out.wish.vips, lips = ?out.wish.lips, "announcing");
            self.node.note_change();
        }
        self.last_wish = out.wish;
        self.put_routes(out.wish, &withheld).await;
        for ask in &out.asks {
            self.say(*ask);
        }
        if let Some(bird) = &self.node.bird {
            bird.expect_change(out.awaiting_bird);
        }
        self.publish(&inputs);
        self.busy(&out)
    }

    fn busy(&self, out: &Outputs) -> bool {
        out.awaiting_bird || !matches!(self.machine.stage(), Stage::Serving | Stage::Drained)
    }

    /// The guard let go, or the control loop found a stall.
    fn notice_falls(&mut self, now_ms: u64) {
        if let Some(guard) = &self.node.guard
            && guard.end_if_frozen(GUARD_FROZEN)
        {
            tracing::warn!("the guard was frozen and has been ended: a new one takes its place");
        }
        if let Some(guard) = &self.node.guard
            && let Some(reason) = guard.poll()
        {
            self.applied = None;
            if reason.wanted() {
                tracing::info!("the guard let go of the routes as it was told to");
            } else {
                tracing::warn!(reason = reason.label(), "the guard let go of the routes");
            }
            self.machine.fell(now_ms, "the guard let go of the routes");
        }
        if self.node.stalled.swap(false, Ordering::AcqRel) {
            self.machine.fell(now_ms, "this director was stalled and comes back like a joiner");
        }
    }

    fn inputs(
        &self,
        now_ms: u64,
        cluster: Option<&ClusterState>,
        withheld: &BTreeSet<IpAddr>,
    ) -> Inputs {
        let node = &self.node;
        let me = node.me();
        // A machine that was started later with the same identity is the member, not this one.
        let member = cluster
            .and_then(|c| c.members.get(&me?))
            .filter(|m| m.incarnation <= node.store.incarnation())
            .filter(|_| node.store.disowned().is_none());
        let planned = cluster.map(|c| c.planned.as_slice()).unwrap_or_default();
        let mine: Vec<_> = planned.iter().filter(|p| Some(p.director) == me).cloned().collect();
        let my_drain = mine.iter().filter(|p| p.kind == PlannedKind::Drain).map(|p| p.id).max();
        // A drain that is over but for its ten quiet seconds holds nobody up.
        let draining = |id: DirectorId| {
            cluster.is_some_and(|c| {
                c.members.get(&id).is_some_and(|m| m.state == MemberState::Draining && !m.down)
            })
        };
        let others_drain_first = planned.iter().any(|p| {
            p.kind == PlannedKind::Drain
                && Some(p.director) != me
                && draining(p.director)
                && my_drain.is_some_and(|id| p.id < id)
        });
        let mut local = readiness::local_problems(node);
        local.extend(self.guard_error.clone());
        let shown = match (&node.bird, cluster, me) {
            (Some(bird), Some(cluster), Some(me)) => match &*bird.latest() {
                Ok(exported) => Some(shown(exported, cluster, me, self.last_wish, withheld)),
                Err(_) => None,
            },
            // Nothing is announced by this director: every wish is fulfilled at once.
            (None, ..) => Some(self.last_wish),
            _ => None,
        };
        // It matters to a director that gives something away only.
        let others_serve = match (cluster, member) {
            (Some(cluster), Some(member))
                if member.state == MemberState::Draining && node.spec.announce.is_some() =>
            {
                others::serve(&others::all_but(node, cluster, member.id))
            }
            _ => Ok(()),
        };
        let since = |at_ms: u64| now_ms.saturating_sub(at_ms);
        Inputs {
            now_ms,
            state: member.map(|m| m.state),
            planned: mine,
            others_drain_first,
            quorum: node.store.has_quorum(),
            caught_up: node.store.caught_up(),
            local,
            guard: node.guard.as_ref().is_none_or(|g| g.holding()),
            flushed: self.flush.done(),
            shown,
            votes: node.votes(me),
            votes_movable: cluster.is_some_and(|c| votes_movable(c, me)),
            quiet_clients_ms: since(self.traffic.clients_ms),
            quiet_all_ms: since(self.traffic.all_ms),
            quiet_new_ms: since(self.traffic.new_ms),
            unreplicated: node.forwarder.get().map_or(0, |f| f.sessions().unreplicated()),
            others_serve,
        }
    }

    async fn ensure_guard(&mut self, now_ms: u64) {
        let Some(guard) = self.node.guard.clone() else { return };
        if guard.holding() || now_ms < self.guard_retry_ms {
            return;
        }
        self.applied = None;
        let started = tokio::task::spawn_blocking(move || guard.start()).await;
        match started {
            Ok(Ok(ifindex)) => {
                tracing::info!(ifindex, "the guard holds the TUN device");
                self.guard_error = None;
            }
            // It let go after this turn looked: the next turn falls before it stands up again.
            Ok(Err(GuardError::Unnoticed)) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "no guard, so nothing is announced");
                self.guard_error = Some(error.to_string());
                self.guard_retry_ms = now_ms + GUARD_RETRY_MS;
            }
            Err(error) => self.guard_error = Some(error.to_string()),
        }
    }

    async fn put_routes(&mut self, wish: Wish, withheld: &BTreeSet<IpAddr>) {
        let (Some(announcements), Some(guard)) = (&self.announcements, &self.node.guard) else {
            return;
        };
        if !guard.holding() {
            return;
        }
        let ifindex = guard.page().ifindex.load(Ordering::Relaxed) as u32;
        let wanted = match (self.node.cluster(), self.node.me()) {
            (Some(cluster), Some(me)) => wish.routes(&cluster, me, withheld),
            _ => Wanted::new(),
        };
        let due = Instant::now() >= self.next_reconcile;
        let target = (ifindex, wanted);
        if self.applied.as_ref() == Some(&target) && !due {
            return;
        }
        self.next_reconcile = Instant::now() + RECONCILE;
        match announcements.apply(ifindex, &target.1).await {
            Ok(changed) => {
                if changed > 0 {
                    tracing::info!(changed, routes = target.1.len(), "routes changed");
                    self.node.counters.route_changes.fetch_add(changed as u64, Ordering::Relaxed);
                    self.node.note_change();
                }
                self.applied = Some(target);
            }
            Err(error) => {
                self.applied = None;
                // The device may just have gone with its guard; the next look will tell.
                if guard.holding() {
                    tracing::error!(%error, "routes cannot be changed");
                }
            }
        }
    }

    fn say(&self, ask: Ask) {
        let Some(me) = self.node.me() else { return };
        let command = match ask {
            Ask::Begin(kind) => ControlCommand::BeginPlanned { director: me, kind },
            Ask::End(id) => ControlCommand::EndPlanned { id },
            Ask::Active => ControlCommand::Proceed {
                director: me,
                from: MemberState::Joining,
                to: MemberState::Active,
            },
            Ask::Drained => ControlCommand::Proceed {
                director: me,
                from: MemberState::Draining,
                to: MemberState::Drained,
            },
        };
        let store = self.node.store.clone();
        tokio::spawn(async move {
            match store.control(command, COMMAND).await {
                Ok(ControlOutcome::Done { .. }) => tracing::debug!(?ask, "committed"),
                Ok(ControlOutcome::Refused(refusal)) => {
                    tracing::warn!(?ask, message = refusal.message, "the cluster refused");
                }
                Err(error) => {
                    tracing::warn!(?ask, %error, "the cluster was not reached; it is tried again")
                }
            }
        });
    }

    fn publish(&self, inputs: &Inputs) {
        let stage = self.machine.stage();
        let drain = match stage {
            Stage::Draining(drain) => Some((drain.step_now().word(), drain.notes())),
            _ => None,
        };
        let announcement =
            self.node.bird.as_ref().and(inputs.shown).map(|s| s.vips.word().to_owned());
        let announced = Announced {
            ready: self.machine.ready(),
            not_ready: self.machine.not_ready().to_vec(),
            local: inputs.local.clone(),
            stage: stage.word().to_owned(),
            announcement,
            drain,
            quiet_ms: inputs.quiet_clients_ms,
            routes: self.applied.as_ref().map_or(0, |(_, wanted)| wanted.len()),
        };
        *self.node.announced.lock() = Arc::new(announced);
    }
}
