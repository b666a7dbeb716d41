//! The life of a director as its routers see it: pure.
//!
//! [`Machine::step`] is called many times a second with everything that matters ([`Inputs`]) and
//! answers with what shall be announced and what shall be said to the cluster ([`Outputs`]). It
//! keeps no clock; times are monotonic milliseconds.

use holdfast_schema::cluster::{MemberState, PlannedChange, PlannedKind};

use super::steps::{Drain, DrainStep};
use super::wish::{Level, Wish};

/// How long after the last change of an announcement a planned change ends (PROTOCOLS).
pub const SETTLE_MS: u64 = 10_000;

/// How long a director waits for a leader before it announces *worse* with what it has.
const LEADERLESS_MS: u64 = 10_000;

/// How long the cluster must be out of sight before this director counts as cut off. An election
/// takes 1.5 s; it must not move traffic.
const CUT_OFF_MS: u64 = 4_000;

/// How long the cluster must be back in sight.
const BACK_MS: u64 = 1_000;

/// How long a command to the cluster may stay without effect before it is repeated.
const REPEAT_MS: u64 = 1_000;

/// Everything that matters.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Now.
    pub now_ms: u64,
    /// What operators want of this director; none: no member (yet, or any more).
    pub state: Option<MemberState>,
    /// The planned changes under way that concern this director.
    pub planned: Vec<PlannedChange>,
    /// Whether an earlier planned drain of another director is under way.
    pub others_drain_first: bool,
    /// Whether every group has a leader that this director hears.
    pub quorum: bool,
    /// Whether the replicas have caught up; why not, if not.
    pub caught_up: Result<(), String>,
    /// Local reasons against announcing (except the guard); empty: none.
    pub local: Vec<String>,
    /// Whether the guard holds the device (or none is needed).
    pub guard: bool,
    /// The planned change for which all directors have flushed and applied.
    pub flushed: Option<u64>,
    /// What BIRD shows of the VIPs and of the LIPs; none: unknown.
    pub shown: Option<Wish>,
    /// Groups this director votes in.
    pub votes: u32,
    /// Whether there are others to take its votes.
    pub votes_movable: bool,
    /// Milliseconds since the last packet of a client.
    pub quiet_clients_ms: u64,
    /// Milliseconds since any packet of a session.
    pub quiet_all_ms: u64,
    /// Milliseconds since the last new session.
    pub quiet_new_ms: u64,
    /// Sessions that only this director knows.
    pub unreplicated: u64,
    /// Whether another director could take all traffic; why none can, if none can.
    pub others_serve: Result<(), String>,
}

/// What is to be said to the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Begin a planned change of this director.
    Begin(PlannedKind),
    /// End a planned change.
    End(u64),
    /// This director serves.
    Active,
    /// This director is drained.
    Drained,
}

/// What shall be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outputs {
    /// What is announced.
    pub wish: Wish,
    /// Whether the guard is needed.
    pub guard: bool,
    /// The planned change for which everybody must flush.
    pub flush: Option<u64>,
    /// What to say to the cluster.
    pub asks: Vec<Ask>,
    /// Whether BIRD should be watched closely.
    pub awaiting_bird: bool,
}

/// Where a director is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Not announced: something is missing.
    Down,
    /// Waiting for the cluster to commit the planned change.
    Planning,
    /// Waiting until every director has flushed for this planned change.
    Flushing(u64),
    /// Announcing LIPs.
    Lips(u64),
    /// Announcing VIPs.
    Vips(u64),
    /// In service.
    Serving,
    /// Giving its traffic away.
    Draining(Drain),
    /// Withdrawn, still a member.
    Drained,
}

impl Stage {
    /// The stage in a word, for logs and `status`.
    pub fn word(&self) -> &'static str {
        match self {
            Stage::Down => "down",
            Stage::Planning => "planning",
            Stage::Flushing(_) => "flushing",
            Stage::Lips(_) => "announcing-lips",
            Stage::Vips(_) => "announcing-vips",
            Stage::Serving => "serving",
            Stage::Draining(_) => "draining",
            Stage::Drained => "drained",
        }
    }
}

/// The decision maker.
#[derive(Debug)]
pub struct Machine {
    stage: Stage,
    since_ms: u64,
    /// What is announced while a new approach is prepared.
    base: Wish,
    kind: PlannedKind,
    /// When an announcement last changed.
    changed_ms: u64,
    quorum_since_ms: Option<u64>,
    quorum_lost_ms: Option<u64>,
    cut_off: bool,
    last_wish: Wish,
    last_ask: Vec<(Ask, u64)>,
    /// The latest planned change that was there before this approach began. What was flushed for it
    /// was flushed then.
    stale: Option<u64>,
    waits: Vec<String>,
}

impl Machine {
    /// A director that has just started.
    pub fn new(now_ms: u64) -> Machine {
        Machine {
            stage: Stage::Down,
            since_ms: now_ms,
            base: Wish::default(),
            kind: PlannedKind::Join,
            changed_ms: now_ms,
            quorum_since_ms: None,
            quorum_lost_ms: Some(now_ms),
            cut_off: false,
            last_wish: Wish::default(),
            last_ask: Vec::new(),
            stale: None,
            waits: vec!["just started".to_owned()],
        }
    }

    /// Where it is.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Whether it attracts traffic by right: everything was in order when it announced.
    pub fn ready(&self) -> bool {
        matches!(self.stage, Stage::Serving | Stage::Vips(_) | Stage::Draining(_))
            && self.waits.is_empty()
    }

    /// What keeps it from being ready; empty: nothing.
    pub fn not_ready(&self) -> &[String] {
        &self.waits
    }

    /// Whether an announcement changed within the last `ms`.
    pub fn changed_within(&self, now_ms: u64, ms: u64) -> bool {
        now_ms < self.changed_ms + ms
    }

    /// The routes are gone (guard released, stall): it comes back like a joiner.
    pub fn fell(&mut self, now_ms: u64, why: &str) {
        if matches!(self.stage, Stage::Drained) {
            return;
        }
        self.base = Wish::default();
        self.last_wish = Wish::default();
        self.changed_ms = now_ms;
        self.kind = PlannedKind::Join;
        self.waits = vec![why.to_owned()];
        self.enter(Stage::Down, now_ms);
        // A leader is needed to come back; the wait for one begins now.
        if self.quorum_lost_ms.is_some() {
            self.quorum_lost_ms = Some(now_ms);
        }
    }

    fn enter(&mut self, stage: Stage, now_ms: u64) {
        if self.stage != stage {
            tracing::info!(from = self.stage.word(), to = stage.word(), "announcement stage");
        }
        self.stage = stage;
        self.since_ms = now_ms;
    }

    /// One step.
    pub fn step(&mut self, inputs: &Inputs) -> Outputs {
        self.note_quorum(inputs);
        let mut out = Outputs::default();
        let Some(state) = inputs.state else {
            self.base = Wish::default();
            self.waits = vec!["not a member of a cluster".to_owned()];
            if self.stage != Stage::Down {
                self.enter(Stage::Down, inputs.now_ms);
            }
            return self.finish(inputs, out, Wish::default());
        };
        self.follow_state(inputs, state);
        let wish = match self.stage.clone() {
            Stage::Down => self.down(inputs),
            Stage::Planning => self.planning(inputs, &mut out),
            Stage::Flushing(id) => self.flushing(inputs, id, &mut out),
            Stage::Lips(id) => self.lips(inputs, id, state, &mut out),
            Stage::Vips(id) => self.vips(inputs, id, &mut out),
            Stage::Serving => self.serving(inputs, &mut out),
            Stage::Draining(drain) => self.draining(inputs, drain, &mut out),
            Stage::Drained => {
                self.waits = vec!["drained".to_owned()];
                Wish::default()
            }
        };
        self.finish(inputs, out, wish)
    }

    fn note_quorum(&mut self, inputs: &Inputs) {
        let now = inputs.now_ms;
        if inputs.quorum {
            self.quorum_lost_ms = None;
            let since = *self.quorum_since_ms.get_or_insert(now);
            self.cut_off &= now < since + BACK_MS;
        } else {
            self.quorum_since_ms = None;
            let lost = *self.quorum_lost_ms.get_or_insert(now);
            self.cut_off |= now >= lost + CUT_OFF_MS;
        }
    }

    /// The operator's wish against the stage.
    fn follow_state(&mut self, inputs: &Inputs, state: MemberState) {
        let now = inputs.now_ms;
        match (state, &self.stage) {
            (MemberState::Drained, Stage::Drained) => {}
            (MemberState::Drained, _) => {
                self.base = Wish::default();
                self.enter(Stage::Drained, now);
            }
            (MemberState::Draining, Stage::Draining(_)) => {}
            // It gives away what it has, which may be nothing (it was restarted in the middle of
            // the drain), or the little of a director that has not caught up.
            (MemberState::Draining, _) => {
                let drain = Drain::new(self.last_wish, now);
                self.enter(Stage::Draining(drain), now);
            }
            (_, Stage::Drained | Stage::Draining(_)) => {
                self.base = self.last_wish;
                self.kind = PlannedKind::Undrain;
                self.waits = vec!["coming back from a drain".to_owned()];
                self.enter(Stage::Down, now);
            }
            _ => {}
        }
    }

    fn down(&mut self, inputs: &Inputs) -> Wish {
        self.waits = inputs.local.clone();
        if !inputs.quorum {
            self.waits.push("no leader in sight".to_owned());
        } else if self.cut_off {
            self.waits.push("the cluster has only just come back in sight".to_owned());
        } else if let Err(why) = &inputs.caught_up {
            self.waits.push(why.clone());
        }
        if self.waits.is_empty() {
            self.stale = inputs.planned.iter().map(|p| p.id).max();
            self.enter(Stage::Planning, inputs.now_ms);
        } else if let Some(lost) = self.quorum_lost_ms
            && inputs.local.is_empty()
            && inputs.now_ms >= lost.max(self.since_ms) + LEADERLESS_MS
        {
            // Everybody may be waiting for everybody: then the last configuration serves.
            self.base = Wish { vips: Level::Worse, lips: Level::Worse };
        }
        self.base
    }

    /// Back to waiting when the ground is lost on the way.
    fn lost_ground(&mut self, inputs: &Inputs) -> bool {
        let lost = !inputs.local.is_empty() || self.cut_off;
        if lost {
            self.waits = inputs.local.clone();
            self.enter(Stage::Down, inputs.now_ms);
        }
        lost
    }

    fn planned(&self, inputs: &Inputs, kind: PlannedKind) -> Option<u64> {
        inputs.planned.iter().filter(|p| p.kind == kind).map(|p| p.id).max()
    }

    fn planning(&mut self, inputs: &Inputs, out: &mut Outputs) -> Wish {
        if self.lost_ground(inputs) {
            return self.base;
        }
        self.waits = vec!["waiting for the cluster to begin the planned change".to_owned()];
        match self.planned(inputs, self.kind) {
            Some(id) if self.stale.is_some_and(|stale| id <= stale) => out.asks.push(Ask::End(id)),
            Some(id) => self.enter(Stage::Flushing(id), inputs.now_ms),
            None => out.asks.push(Ask::Begin(self.kind)),
        }
        self.base
    }

    fn flushing(&mut self, inputs: &Inputs, id: u64, out: &mut Outputs) -> Wish {
        if self.lost_ground(inputs) {
            return self.base;
        }
        if self.planned(inputs, self.kind) != Some(id) {
            // Somebody ended it (it took too long): begin anew.
            self.enter(Stage::Planning, inputs.now_ms);
            return self.base;
        }
        self.waits =
            vec!["waiting until all directors have replicated what only they know".to_owned()];
        out.flush = Some(id);
        out.guard = true;
        if inputs.flushed == Some(id) && inputs.caught_up.is_ok() {
            if inputs.guard {
                self.enter(Stage::Lips(id), inputs.now_ms);
            } else {
                self.waits = vec!["the guard does not hold the TUN device yet".to_owned()];
            }
        }
        self.base
    }

    fn lips(&mut self, inputs: &Inputs, id: u64, state: MemberState, out: &mut Outputs) -> Wish {
        if self.lost_ground(inputs) {
            return self.base;
        }
        let wish = Wish { vips: self.base.vips, lips: Level::Normal };
        self.waits = vec!["waiting for BIRD to announce the LIPs".to_owned()];
        if state == MemberState::Joining {
            out.asks.push(Ask::Active);
        } else if inputs.shown.is_some_and(|s| s.lips == Level::Normal) {
            self.base = wish;
            self.enter(Stage::Vips(id), inputs.now_ms);
        }
        out.awaiting_bird = true;
        wish
    }

    fn vips(&mut self, inputs: &Inputs, _id: u64, out: &mut Outputs) -> Wish {
        if self.lost_ground(inputs) {
            return self.base;
        }
        let wish = Wish { vips: Level::Normal, lips: Level::Normal };
        self.waits = vec!["waiting for BIRD to announce the VIPs".to_owned()];
        if inputs.shown == Some(wish) {
            self.waits.clear();
            self.base = wish;
            self.enter(Stage::Serving, inputs.now_ms);
        }
        out.awaiting_bird = true;
        wish
    }

    fn serving(&mut self, inputs: &Inputs, out: &mut Outputs) -> Wish {
        self.waits.clear();
        for change in &inputs.planned {
            if !self.changed_within(inputs.now_ms, SETTLE_MS) {
                out.asks.push(Ask::End(change.id));
            }
        }
        // Cut off from its peers it still forwards; the others, if there are any, are preferred.
        let vips = if self.cut_off { Level::Worse } else { Level::Normal };
        Wish { vips, lips: Level::Normal }
    }

    fn draining(&mut self, inputs: &Inputs, mut drain: Drain, out: &mut Outputs) -> Wish {
        self.waits.clear();
        let planned = self.planned(inputs, PlannedKind::Drain);
        let wish = drain.step(inputs, planned, out);
        if drain.step_now() == DrainStep::Drained {
            out.asks.push(Ask::Drained);
        }
        self.stage = Stage::Draining(drain);
        wish
    }

    fn finish(&mut self, inputs: &Inputs, mut out: Outputs, wish: Wish) -> Outputs {
        let now = inputs.now_ms;
        if wish != self.last_wish {
            self.changed_ms = now;
            self.last_wish = wish;
        }
        if self.stage == Stage::Drained {
            let over = !self.changed_within(now, SETTLE_MS);
            out.asks.extend(inputs.planned.iter().filter(|_| over).map(|p| Ask::End(p.id)));
        }
        out.wish = wish;
        out.guard |= wish.any();
        // Each thing is said once and then repeated now and then until it shows effect.
        self.last_ask.retain(|(_, at)| now < at + REPEAT_MS);
        out.asks.retain(|ask| !self.last_ask.iter().any(|(said, _)| said == ask));
        self.last_ask.extend(out.asks.iter().map(|ask| (*ask, now)));
        out
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
